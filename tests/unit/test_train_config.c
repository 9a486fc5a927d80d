/* Training configs as text: defaults, assignments, refusals, and the canonical text. */
#include "tests/unit/kvtest.h"

#include "common/train.h"

static void a_preset_has_the_defaults_of_the_family(void **state)
{
    (void)state;
    kv_train_config c;
    assert_ok(kv_train_preset("golf-a", &c));
    assert_int_equal(c.batch_tokens, 786432);
    assert_int_equal(c.iterations, 9000);
    assert_true(c.lr[KV_GOLF_TOKEN] == 0.035 && c.lr[KV_GOLF_MUON] == 0.025 && c.weight_decay[KV_GOLF_HEAD] == 0);
    assert_true(c.clip == 0.3 && c.ema == 0.997 && c.ns5_bf16 == 0 && c.qat_below == 0);
    assert_ok(kv_train_check(&c));
    assert_refused(kv_train_preset("nano-z", &c), KV_ERR_USAGE, "mini, nano-a");
    const char *const names[] = {"mini", "nano-a", "nano-b", "nano-u", "golf-b"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_ok(kv_train_preset(names[i], &c));
        assert_ok(kv_train_check(&c));
    }
}

static void the_text_is_read_and_printed(void **state)
{
    (void)state;
    kv_train_config c, again;
    char text[KV_TRAIN_TEXT_MAX], second[KV_TRAIN_TEXT_MAX];
    assert_ok(kv_train_parse("# a comment\nn_layers = 3 # three\nxsa_layers=1,2\n\n lr_muon = 0.02\r\nseed=18446744073709551615\n"
                             "model = nano-a\nffn_kind = leaky_relu2\nname = my-1.0_x\nsidecar_layers = none",
                             "text", &c));
    assert_int_equal(c.model.n_layers, 3);
    assert_int_equal(c.model.d_model, 64); /* of nano-a, although `model` comes late */
    assert_true(c.model.xsa_layer_mask == 6 && c.lr[KV_GOLF_MUON] == 0.02 && c.seed == UINT64_MAX);
    assert_int_equal(c.model.ffn_kind, KV_FFN_LEAKY_RELU2);
    assert_string_equal(c.name, "my-1.0_x");
    kv_train_print(&c, text);
    assert_ok(kv_train_parse(text, "printed", &again)); /* no `model` line: every key is there */
    kv_train_print(&again, second);
    assert_string_equal(text, second);
    assert_true(strlen(text) < KV_TRAIN_TEXT_MAX - 64);
}

static void bad_texts_are_refused_with_their_line(void **state)
{
    (void)state;
    kv_train_config c;
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"n_layers 3", "t:1: not of the form"},
        {"\n\nlr = 3", "t:3: training key 'lr' is unknown"},
        {"n_layers = 3.5", "'3.5' is not a number"},
        {"n_layers = 0", "from 1 to 64"},
        {"ema = nan", "'nan'"},
        {"seed = -1", "whole number"},
        {"seed = 99999999999999999999", "whole number"},
        {"xsa_layers = 1,,2", "neither 'none'"},
        {"xsa_layers = 64", "neither 'none'"},
        {"ffn_kind = gelu", "not one of: relu2, leaky_relu2"},
        {"optimizer = adam", "not one of: golf, adamw, sgd"},
        {"name = a/b", "letters"},
        {"model = llama", "unknown"},
        {"= 3", "not of the form"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_refused(kv_train_parse(bad[i].text, "t", &c), KV_ERR_USAGE, bad[i].words);
    char longline[700];
    memset(longline, 'x', sizeof longline - 1);
    longline[sizeof longline - 1] = 0;
    assert_refused(kv_train_parse(longline, "t", &c), KV_ERR_USAGE, "longer than");
    assert_ok(kv_train_parse("model=nano-b\nbatch_tokens=100\nseq=64", "t", &c));
    assert_refused(kv_train_check(&c), KV_ERR_USAGE, "multiple of seq");
    assert_ok(kv_train_parse("model=nano-b\nsidecar_layers=9", "t", &c));
    assert_refused(kv_train_check(&c), KV_ERR_FORMAT, "sidecar_layer_mask");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_preset_has_the_defaults_of_the_family),
        cmocka_unit_test(the_text_is_read_and_printed),
        cmocka_unit_test(bad_texts_are_refused_with_their_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
