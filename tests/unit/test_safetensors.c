/* Files of weights: a model survives them to the bit, all three types of numbers are widened, and whatever does not add up is
 * refused in one line. */
#include "tests/unit/kvmkit.h"
#include "tests/unit/kvtest.h"

#include "common/numfmt.h"
#include "common/safetensors.h"

#include <unistd.h>

typedef struct file {
    uint8_t *p;
    size_t n;
} file;

/* A file with this header and data_bytes bytes 0, 1, 2, ... behind it. */
static file made(const char *header, size_t data_bytes)
{
    const size_t h = strlen(header);
    file f = {malloc(8 + h + data_bytes), 8 + h + data_bytes};
    assert_non_null(f.p);
    kv_put_le(f.p, 8, h);
    memcpy(f.p + 8, header, h);
    for (size_t i = 0; i < data_bytes; i++)
        f.p[8 + h + i] = (uint8_t)i;
    return f;
}

static kv_status parse(const char *header, size_t data_bytes)
{
    file f = made(header, data_bytes);
    kv_safetensors *s;
    const kv_status st = kv_safetensors_parse(f.p, f.n, "x", &s);
    if (st != KV_OK) assert_null(s);
    kv_safetensors_close(s);
    free(f.p);
    return st;
}

static void a_model_survives(void **state)
{
    (void)state;
    static const char *const names[] = {"nano-a", "nano-b", "nano-u"};
    const char *path = kvtest_path("weights.safetensors");
    for (int i = 0; i < 3; i++) {
        kv_model *m, *back;
        kv_safetensors *s;
        file f;
        uint8_t sha[32];
        assert_ok(kv_model_open(names[i], NULL, &m, NULL));
        assert_ok(kv_safetensors_pack(m, "seed=7\nwhy=a=b\n", &f.p, &f.n));
        kvtest_write(path, f.p, f.n);
        assert_ok(kv_safetensors_open(path, &s));
        assert_int_equal(s->n, kv_golf_order(&m->cfg, NULL));
        assert_int_equal((s->data - (const uint8_t *)s->owned) % 8, 0);
        assert_ok(kv_safetensors_model(s, &m->cfg, "back", &back));
        assert_memory_equal(((kv_model_owner *)m->owner)->weights, ((kv_model_owner *)back->owner)->weights,
                            (size_t)kv_model_weights(m) * sizeof(float));
        kv_sha256(f.p, f.n, sha);
        assert_memory_equal(back->sha256, sha, sizeof sha);
        assert_non_null(strstr((char *)f.p + 8, "\"__metadata__\":{\"format\":\"pt\",\"seed\":\"7\",\"why\":\"a=b\"}"));
        kv_safetensors_close(s);
        kv_model_close(back);
        kv_model_close(m);
        free(f.p);
    }
    unlink(path);
}

/* Dimensions as PyTorch has them: a number, a vector, a matrix, the filter of a convolution. */
static void dimensions_are_those_of_the_family(void **state)
{
    (void)state;
    const kv_config cfg = kvmkit_config();
    kv_model *m = kvmkit_model(&cfg);
    file f;
    assert_ok(kv_safetensors_pack(m, NULL, &f.p, &f.n));
    static const char *const wanted[] = {
        "\"bigram.scale\":{\"dtype\":\"F32\",\"shape\":[],", "\"smear.gate\":{\"dtype\":\"F32\",\"shape\":[8],",
        "\"blocks.1.resid_mix\":{\"dtype\":\"F32\",\"shape\":[2,8],", "\"shared_sparse.local.weight\":{\"dtype\":\"F32\",\"shape\":[2,1,3],"};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        assert_non_null(memmem(f.p, f.n, wanted[i], strlen(wanted[i])));
    free(f.p);
    kv_model_close(m);
}

static void all_three_types_are_widened(void **state)
{
    (void)state;
    file f = made("{\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[4,8]},\"a\":{\"dtype\":\"F16\",\"shape\":[1,2],"
                  "\"data_offsets\":[0,4]},\"c\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]}}  ",
                  12);
    kv_safetensors *s;
    float w[2];
    assert_ok(kv_safetensors_parse(f.p, f.n, "x", &s));
    assert_int_equal(s->n, 3);
    assert_string_equal(s->tensors[0].name, "a"); /* by place */
    assert_int_equal(s->tensors[0].n_dims, 2);
    kv_dequant(s->tensors[0].dtype, s->data + s->tensors[0].begin, 2, w);
    assert_true(w[0] == kv_f162f(0x0100) && w[1] == kv_f162f(0x0302));
    kv_dequant(s->tensors[1].dtype, s->data + s->tensors[1].begin, 2, w);
    assert_true(w[0] == kv_bf162f(0x0504) && w[1] == kv_bf162f(0x0706));
    kv_dequant(s->tensors[2].dtype, s->data + s->tensors[2].begin, 1, w);
    assert_true(w[0] == kv_bits2f(0x0b0a0908));
    assert_int_equal(s->tensors[2].n_dims, 0);
    kv_safetensors_close(s);
    free(f.p);
}

static void dimensions_of_one_do_not_count(void **state)
{
    (void)state;
    const kv_config cfg = kvmkit_config();
    kv_model *m = kvmkit_model(&cfg), *back;
    file f;
    kv_safetensors *s;
    assert_ok(kv_safetensors_pack(m, NULL, &f.p, &f.n));
    static const char old[] = "\"shape\":[2,1,3]", squeezed[] = "\"shape\":[2,3]  ", other[] = "\"shape\":[3,2]  ";
    uint8_t *at = memmem(f.p, f.n, old, sizeof old - 1);
    assert_non_null(at);
    memcpy(at, squeezed, sizeof old - 1);
    assert_ok(kv_safetensors_parse(f.p, f.n, "x", &s));
    assert_ok(kv_safetensors_model(s, &cfg, "back", &back));
    kv_model_close(back);
    kv_safetensors_close(s);
    memcpy(at, other, sizeof old - 1);
    assert_ok(kv_safetensors_parse(f.p, f.n, "x", &s));
    assert_refused(kv_safetensors_model(s, &cfg, "back", &back), KV_ERR_MISMATCH, "'shared_sparse.local.weight' has another shape than the 2 x 3");
    assert_null(back);
    kv_safetensors_close(s);
    free(f.p);
    kv_model_close(m);
}

static void a_file_must_have_exactly_the_tensors_of_the_config(void **state)
{
    (void)state;
    kv_config cfg = kvmkit_config();
    kv_model *m = kvmkit_model(&cfg), *back;
    file f;
    kv_safetensors *s;
    assert_ok(kv_safetensors_pack(m, NULL, &f.p, &f.n));
    assert_ok(kv_safetensors_parse(f.p, f.n, "x", &s));
    cfg.k_shift = 0;
    assert_refused(kv_safetensors_model(s, &cfg, "back", &back), KV_ERR_MISMATCH, "'blocks.0.attn.k_shift_mix' has no place");
    cfg.k_shift = 1;
    cfg.ffn_dim++;
    assert_refused(kv_safetensors_model(s, &cfg, "back", &back), KV_ERR_MISMATCH, "'blocks.0.mlp.fc.weight' has another shape");
    cfg.ffn_dim--;
    cfg.n_layers = 3;
    assert_refused(kv_safetensors_model(s, &cfg, "back", &back), KV_ERR_FORMAT, "'blocks.2.resid_mix' is missing");
    kv_safetensors_close(s);
    free(f.p);
    kv_model_close(m);
}

#define ONE(dtype, shape, offsets) "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void what_does_not_add_up_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        kv_status status;
        const char *words;
    } cases[] = {
        {ONE("\"F32\"", "[2]", "[0,8]"), 8, KV_OK, ""},
        {"{}", 0, KV_OK, ""},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, KV_OK, ""},
        {"[]", 0, KV_ERR_FORMAT, "not a safetensors file"},
        {"{", 0, KV_ERR_FORMAT, "x: header: byte"},
        {"{}{}", 0, KV_ERR_FORMAT, "x: header: byte"},
        {"{\"a\":1,\"a\":2}", 0, KV_ERR_FORMAT, "duplicate"},
        {"{\"t\":1}", 0, KV_ERR_FORMAT, "'t' is not described by"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}", 4, KV_ERR_FORMAT, "not described by"},
        {ONE("\"I64\"", "[1]", "[0,8]"), 8, KV_ERR_UNSUPPORTED, "'t' has dtype 'I64'"},
        {ONE("5", "[1]", "[0,8]"), 8, KV_ERR_FORMAT, "has no dtype"},
        {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, KV_ERR_FORMAT, "at most 8"},
        {ONE("\"F32\"", "{}", "[0,4]"), 4, KV_ERR_FORMAT, "at most 8"},
        {ONE("\"F32\"", "[0]", "[0,0]"), 0, KV_ERR_FORMAT, "impossible dimension"},
        {ONE("\"F32\"", "[-1]", "[0,4]"), 4, KV_ERR_FORMAT, "impossible dimension"},
        {ONE("\"F32\"", "[1.0]", "[0,4]"), 4, KV_ERR_FORMAT, "impossible dimension"},
        {ONE("\"F32\"", "[1099511627776,1099511627776]", "[0,4]"), 4, KV_ERR_FORMAT, "impossibly many"},
        {ONE("\"F32\"", "[4294967296,4294967296,4294967296,4294967296]", "[0,4]"), 4, KV_ERR_FORMAT, "impossibly many"},
        {ONE("\"F32\"", "[1]", "[0]"), 4, KV_ERR_FORMAT, "no two data_offsets"},
        {ONE("\"F32\"", "[1]", "[0,\"4\"]"), 4, KV_ERR_FORMAT, "no two data_offsets"},
        {ONE("\"F32\"", "[1]", "[-4,0]"), 4, KV_ERR_FORMAT, "outside of the file"},
        {ONE("\"F32\"", "[1]", "[4,0]"), 4, KV_ERR_FORMAT, "outside of the file"},
        {ONE("\"F32\"", "[1]", "[0,4]"), 3, KV_ERR_FORMAT, "outside of the file"},
        {ONE("\"F32\"", "[1]", "[0,9223372036854775807]"), 4, KV_ERR_FORMAT, "outside of the file"},
        {ONE("\"F32\"", "[2]", "[0,4]"), 4, KV_ERR_FORMAT, "more or fewer bytes"},
        {ONE("\"F16\"", "[1]", "[0,4]"), 4, KV_ERR_FORMAT, "more or fewer bytes"},
        {ONE("\"F32\"", "[1]", "[4,8]"), 8, KV_ERR_FORMAT, "leaves a gap before it"},
        {ONE("\"F32\"", "[1]", "[0,4]"), 8, KV_ERR_FORMAT, "8 bytes of data, but its tensors have 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         KV_ERR_FORMAT, "'b' overlaps another"},
        {"{\"a\\n\\u0007\":1}", 0, KV_ERR_FORMAT, "is not described by"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].status == KV_OK)
            assert_ok(parse(cases[i].header, cases[i].data));
        else
            assert_refused(parse(cases[i].header, cases[i].data), cases[i].status, cases[i].words);
}

static void headers_that_only_claim_to_be_there_are_refused(void **state)
{
    (void)state;
    const uint64_t claims[] = {UINT64_MAX, 100, 3, 0};
    kv_safetensors *s;
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        uint8_t p[10] = {0};
        kv_put_le(p, 8, claims[i]);
        assert_refused(kv_safetensors_parse(p, sizeof p, "x", &s), KV_ERR_FORMAT, "x: ");
        for (size_t n = 0; n < sizeof p; n++)
            assert_refused(kv_safetensors_parse(p, n, "x", &s), KV_ERR_FORMAT, "not a safetensors file");
    }
    uint8_t *large = calloc(1, 9 + KV_SAFETENSORS_MAX_HEADER);
    assert_non_null(large);
    kv_put_le(large, 8, KV_SAFETENSORS_MAX_HEADER + 1);
    large[8] = '{';
    assert_refused(kv_safetensors_parse(large, 9 + KV_SAFETENSORS_MAX_HEADER, "x", &s), KV_ERR_UNSUPPORTED, "at most 4194304");
    free(large);
    assert_refused(kv_safetensors_open("no/such.safetensors", &s), KV_ERR_IO, "no/such.safetensors");
    kv_safetensors_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_survives),
        cmocka_unit_test(dimensions_are_those_of_the_family),
        cmocka_unit_test(all_three_types_are_widened),
        cmocka_unit_test(dimensions_of_one_do_not_count),
        cmocka_unit_test(a_file_must_have_exactly_the_tensors_of_the_config),
        cmocka_unit_test(what_does_not_add_up_is_refused),
        cmocka_unit_test(headers_that_only_claim_to_be_there_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
