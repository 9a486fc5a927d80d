/* Model configs: every field that cannot describe a model is named; every feature beyond Llama as
 * well. */
#include "tests/unit/kvtest.h"

#include "common/config.h"

#include <math.h>

static kv_config good(void)
{
    kv_config c;
    memset(&c, 0, sizeof c);
    c.vocab_size = 64;
    c.n_layers = 2;
    c.d_model = 64;
    c.n_heads = 4;
    c.n_kv_heads = 2;
    c.head_dim = c.rope_dims = 32;
    c.ffn_dim = 96;
    c.norm_eps = 1e-5f;
    c.embed_scale = 1.0f;
    c.norm_weight = 1;
    c.rope_sign = 1;
    c.rope_theta = 10000.0;
    c.bos_id = c.eos_id = c.pad_id = -1;
    return c;
}

static void a_plain_llama_passes(void **state)
{
    (void)state;
    const kv_config c = good();
    assert_ok(kv_config_check(&c));
    assert_null(kv_config_beyond_llama(&c));
}

#define BAD(field, value)                         \
    {                                             \
#        field, offsetof(kv_config, field), value \
    }

static void every_integer_out_of_range_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t offset;
        int32_t value;
    } bad[] = {
        BAD(vocab_size, 0),   BAD(vocab_size, 1 << 23), BAD(n_layers, 0),   BAD(n_layers, 2000),
        BAD(d_model, 0),      BAD(d_model, 1 << 18),    BAD(n_heads, 0),    BAD(n_heads, 5000),
        BAD(n_kv_heads, 0),   BAD(n_kv_heads, 5),       BAD(head_dim, 1),   BAD(head_dim, 257),
        BAD(ffn_dim, 0),      BAD(ffn_dim, 1 << 21),    BAD(ffn_kind, -1),  BAD(ffn_kind, 4),
        BAD(qk_norm, 3),      BAD(rope_dims, 0),        BAD(rope_dims, 34), BAD(rope_dims, 31),
        BAD(rope_pairing, 2), BAD(rope_scaling, 5),     BAD(rope_sign, 0),  BAD(rope_sign, 2),
        BAD(attn_window, -1), BAD(max_pos, -1),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_config c = good();
        memcpy((char *)&c + bad[i].offset, &bad[i].value, sizeof bad[i].value);
        assert_refused(kv_config_check(&c), KV_ERR_FORMAT, bad[i].name);
    }
}

/* Refused because of this field. */
static int blames(const kv_config *c, const char *field)
{
    char words[64];
    snprintf(words, sizeof words, "model config: %s is", field);
    return kv_config_check(c) != KV_OK && strstr(kv_message(), words) != NULL;
}

/* The ends of every range: the first and last value are legal, their neighbours outside are not. */
static void ranges_end_where_they_should(void **state)
{
    (void)state;
    kv_config wide = good(), golf = good();
    wide.n_heads = 4096; /* most ranges do not depend on each other */
    golf.vocab_size = 1000;
    golf.rope_scaling = KV_ROPE_SCALING_NTK_BY_LENGTH;
    golf.rope_train_len = 1024;
    golf.bigram_rows = 2048;
    golf.bigram_dim = 128;
    golf.sidecar_layer_mask = 1;
    golf.sidecar_hidden = 8;
    golf.sidecar_taps = 3;
    assert_ok(kv_config_check(&golf));
    const struct {
        const kv_config *base;
        const char *name;
        size_t offset;
        int32_t lo, hi;
    } range[] = {
#define ENDS(base, field, lo, hi) {&base, #field, offsetof(kv_config, field), lo, hi}
        ENDS(wide, vocab_size, 1, 1 << 22),
        ENDS(wide, n_layers, 1, 1024),
        ENDS(wide, d_model, 1, 1 << 17),
        ENDS(wide, n_heads, 1, 4096),
        ENDS(wide, n_kv_heads, 1, 4096),
        ENDS(wide, head_dim, 2, 256),
        ENDS(wide, ffn_dim, 1, 1 << 20),
        ENDS(wide, ffn_kind, KV_FFN_SWIGLU, KV_FFN_GELU),
        ENDS(wide, qk_norm, KV_QK_NORM_NONE, KV_QK_NORM_RMS_WEIGHT),
        ENDS(wide, rope_dims, 2, 32),
        ENDS(wide, rope_pairing, KV_ROPE_INTERLEAVED, KV_ROPE_HALF),
        ENDS(wide, rope_scaling, KV_ROPE_SCALING_NONE, KV_ROPE_SCALING_YARN),
        ENDS(wide, attn_window, 0, 1 << 30),
        ENDS(wide, max_pos, 0, 1 << 30),
        ENDS(golf, rope_dims, 4, 32),
        ENDS(golf, rope_train_len, 1, 1 << 30),
        ENDS(golf, rope_base_len, 0, 1 << 30),
        ENDS(golf, bigram_rows, 2, 1 << 24),
        ENDS(golf, bigram_dim, 1, 1 << 16),
        ENDS(golf, bigram_mul_cur, 0, INT32_MAX / 1000),
        ENDS(golf, bigram_mul_prev, 0, INT32_MAX / 1000),
        ENDS(golf, sidecar_hidden, 1, 1 << 16),
        ENDS(golf, sidecar_taps, 3, 3),
#undef ENDS
    };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        for (int32_t v = 0; v < 4; v++) {
            const int32_t lo = range[i].lo, hi = range[i].hi, value = v == 0 ? lo - 1 : v == 1 ? lo : v == 2 ? hi : hi + 1;
            kv_config c = *range[i].base;
            memcpy((char *)&c + range[i].offset, &value, sizeof value);
            if (value == 0 && strcmp(range[i].name, "bigram_rows") == 0) continue; /* no bigrams */
            if (blames(&c, range[i].name) != (value < lo || value > hi))
                fail_msg("%s = %d: %s", range[i].name, value, kv_config_check(&c) == KV_OK ? "accepted" : kv_message());
        }
}

static void heads_must_divide(void **state)
{
    (void)state;
    kv_config c = good();
    c.n_kv_heads = 3;
    assert_refused(kv_config_check(&c), KV_ERR_FORMAT, "not a multiple of 3");
}

static void reals_out_of_range_and_nan_are_named(void **state)
{
    (void)state;
    const double bad_theta[] = {1.0, 0.0, -5.0, 1e13, (double)NAN};
    const float bad_eps[] = {0.0f, 1.0f, -1e-5f, NAN};
    for (size_t i = 0; i < sizeof bad_theta / sizeof *bad_theta; i++) {
        kv_config c = good();
        c.rope_theta = bad_theta[i];
        assert_refused(kv_config_check(&c), KV_ERR_FORMAT, "rope_theta");
    }
    for (size_t i = 0; i < sizeof bad_eps / sizeof *bad_eps; i++) {
        kv_config c = good();
        c.norm_eps = bad_eps[i];
        assert_refused(kv_config_check(&c), KV_ERR_FORMAT, "norm_eps");
    }
}

#define FEATURE(field, value)                                    \
    do {                                                         \
        kv_config c = good();                                    \
        c.field = (value);                                       \
        assert_non_null(kv_config_beyond_llama(&c));             \
        assert_string_equal(kv_config_beyond_llama(&c), #field); \
    } while (0)

static void every_feature_beyond_llama_is_named(void **state)
{
    (void)state;
    FEATURE(ffn_kind, KV_FFN_RELU2);
    FEATURE(ln_scale_inv_sqrt, 1);
    FEATURE(embed_norm, 1);
    FEATURE(embed_scale, 2.0f);
    FEATURE(logit_softcap, 30.0f);
    FEATURE(qkv_bias, 1);
    FEATURE(o_bias, 1);
    FEATURE(qk_norm, KV_QK_NORM_RMS);
    FEATURE(use_q_gain, 1);
    FEATURE(use_k_gain, 1);
    FEATURE(rope_scaling, KV_ROPE_SCALING_YARN);
    FEATURE(k_shift, 1);
    FEATURE(v_shift, 1);
    FEATURE(local_v, 1);
    FEATURE(xsa_layer_mask, UINT64_C(1) << 63);
    FEATURE(resid_mix_x0, 1);
    FEATURE(unet_skips, 1);
    FEATURE(branch_scales, 1);
    FEATURE(smear, 1);
    FEATURE(attn_window, 128);
    FEATURE(bigram_rows, 8);
    FEATURE(attn_sinks, 4);
    FEATURE(sidecar_layer_mask, 1);
    FEATURE(ve_layer_mask, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_llama_passes),
        cmocka_unit_test(every_integer_out_of_range_is_named),
        cmocka_unit_test(ranges_end_where_they_should),
        cmocka_unit_test(heads_must_divide),
        cmocka_unit_test(reals_out_of_range_and_nan_are_named),
        cmocka_unit_test(every_feature_beyond_llama_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
