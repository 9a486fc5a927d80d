/* The quantiser of artifacts: the examples of docs/artifact.md, its edges, and, where KVDIFF_SHARED names them, values that
 * another program computed (golf/5_quantisation.json): codes, scales and dequantised floats to the bit. */
#include "tests/unit/kvtest.h"

#include "common/golf.h"
#include "common/numfmt.h"
#include "common/quant.h"

#include <jansson.h>

enum { ROOM = 9 * 2048 }; /* of the largest golden tensor */

static int8_t codes[ROOM];
static uint8_t scales[2 * 260 + 4];
static float back[ROOM];

static kv_status encode(kv_quant_config c, int cls, int64_t rows, int64_t cols, const float *w)
{
    KV_TRY(kv_quant_encode(&c, cls, rows, cols, w, (uint8_t *)codes, scales));
    KV_TRY(kv_quant_check(cls, rows, cols, (const uint8_t *)codes, scales));
    kv_quant_decode(cls, rows, cols, (const uint8_t *)codes, scales, back);
    return KV_OK;
}

static uint16_t scale16(int64_t row) { return (uint16_t)(scales[2 * row] | scales[2 * row + 1] << 8); }

static void assert_codes(const int *wanted, int n)
{
    for (int i = 0; i < n; i++)
        if (codes[i] != wanted[i]) fail_msg("code %d is %d, wanted %d", i, codes[i], wanted[i]);
}

/* ---- examples --------------------------------------------------------------------------------------------------- */

static void the_examples_of_the_page_come_out(void **state)
{
    (void)state;
    const float large[] = {0.5f, -1.0f, 2.0f, 0.016f}, small[] = {0.01f, -0.02f, 0.03f, 0.015f};
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT6, 1, 4, large));
    assert_true(kv_f162f(scale16(0)) == 0.06451416015625f);
    assert_codes((const int[]){8, -16, 31, 0}, 4);
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT6, 1, 4, small));
    assert_true(kv_f162f(scale16(0)) == 0.032257080078125f);
    assert_codes((const int[]){0, -1, 1, 0}, 4);
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT8, 1, 4, large));
    assert_true(kv_f162f(scale16(0)) == 0.0157470703125f);
    assert_codes((const int[]){32, -64, 127, 1}, 4);
    assert_true(back[2] == 127 * 0.0157470703125f);
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT8, 1, 4, small));
    assert_true(kv_f162f(scale16(0)) == 0.00787353515625f);
    assert_codes((const int[]){1, -3, 4, 2}, 4);
    float sorted[] = {0.5f, 1.0f, 2.0f, 0.016f};
    assert_int_equal(kv_f2bits(kv_quantile(0.9999984f, sorted, 4)), kv_f2bits(1.999995231628418f));
}

static void halves_go_to_the_even_code(void **state)
{
    (void)state;
    const float w[] = {15.5f, 0.25f, 0.75f, -0.25f, -0.75f, 1.25f, -1.25f, 15.25f, -15.25f};
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT6, 1, 9, w)); /* step 1/2 */
    assert_int_equal(scale16(0), 0x3800);
    assert_codes((const int[]){31, 0, 2, 0, -2, 2, -2, 30, -30}, 9);
}

static void without_floors_small_rows_use_all_codes(void **state)
{
    (void)state;
    kv_quant_config c = kv_quant_default();
    const float w[] = {0.01f, -0.02f, 0.03f, 0.015f, 0, 0, 0, 0};
    c.floors = 0;
    assert_ok(encode(c, KV_QUANT_INT6, 2, 4, w));
    assert_codes((const int[]){10, -21, 31, 15, 0, 0, 0, 0}, 8);
    assert_int_equal(scale16(0), kv_f2f16(0.03f / 31.0f));
    assert_int_equal(scale16(1), 0x3c00); /* a row of zeros */
    assert_ok(encode(c, KV_QUANT_INT8, 2, 4, w));
    assert_codes((const int[]){42, -85, 127, 64, 0, 0, 0, 0}, 8);
    assert_int_equal(scale16(1), 0x3c00);
}

/* A scale that fp16 cannot hold becomes 1, and the row zero. */
static void rows_below_fp16_vanish(void **state)
{
    (void)state;
    kv_quant_config c = kv_quant_default();
    const float w[] = {1e-9f, -2e-9f, 0.0f, 3e-9f};
    c.floors = 0;
    const int matrix[] = {KV_QUANT_INT6, KV_QUANT_INT8, KV_QUANT_INT6_WHOLE};
    for (int i = 0; i < 3; i++) {
        assert_ok(encode(c, matrix[i], 1, 4, w));
        assert_int_equal(scale16(0), 0x3c00);
        assert_codes((const int[]){0, 0, 0, 0}, 4);
    }
    assert_ok(encode(c, KV_QUANT_INT8_WHOLE, 1, 4, w)); /* its scale is fp32 */
    assert_codes((const int[]){42, -85, 0, 127}, 4);
}

static void one_scale_serves_a_tensor_that_is_no_matrix(void **state)
{
    (void)state;
    const float w[] = {0.5f, -0.2f, 0.125f, 1e-3f, 0.0f, -0.5f};
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT6_WHOLE, 2, 3, w));
    assert_int_equal(scale16(0), kv_f2f16(0.5f / 31.0f)); /* no floor */
    assert_codes((const int[]){31, -12, 8, 0, 0, -31}, 6);
    assert_true(back[5] == -31 * kv_f162f(scale16(0)));
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT8_WHOLE, 2, 3, w));
    float s;
    memcpy(&s, scales, sizeof s);
    assert_true(s > 0.4999f / 127.0f && s <= 0.5f / 127.0f);
    assert_codes((const int[]){127, -51, 32, 0, 0, -127}, 6);
    assert_int_equal(kv_quant_scale_bytes(KV_QUANT_INT8_WHOLE, 2), 4);
    assert_int_equal(kv_quant_scale_bytes(KV_QUANT_INT6_WHOLE, 2), 2);
    const float zero[3] = {0};
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT8_WHOLE, 1, 3, zero));
    memcpy(&s, scales, sizeof s);
    assert_true(s == 1.0f);
}

static void numbers_pass_through(void **state)
{
    (void)state;
    const float w[] = {0.1f, -65504.0f, 0x1p-24f, -0.0f};
    assert_ok(encode(kv_quant_default(), KV_QUANT_F32, 2, 2, w));
    assert_memory_equal(back, w, sizeof w);
    assert_ok(encode(kv_quant_default(), KV_QUANT_F16, 2, 2, w));
    for (int i = 0; i < 4; i++)
        assert_int_equal(kv_f2bits(back[i]), kv_f2bits(kv_f162f(kv_f2f16(w[i]))));
    assert_int_equal(kv_quant_scale_bytes(KV_QUANT_F16, 2), 0);
    assert_int_equal(kv_quant_value_bytes(KV_QUANT_F16, 2, 2), 8);
    assert_int_equal(kv_quant_value_bytes(KV_QUANT_INT6, 2, 2), 4);
}

/* Quantising what was dequantised gives the same bytes: int6 always, int8 where the two largest weights of a row are near. */
static void a_second_time_changes_nothing(void **state)
{
    (void)state;
    static float w[64 * 96], again[64 * 96];
    static int8_t first[64 * 96];
    uint8_t first_scales[128];
    for (int64_t i = 0; i < 64 * 96; i++)
        w[i] = (float)kv_golf_bell("quant.again", 7, (uint64_t)i) * (float)(1 + i / 96) * 0x1p-19f;
    const int matrix[] = {KV_QUANT_INT6, KV_QUANT_INT8};
    for (int k = 0; k < 2; k++)
        for (int floors = 0; floors < 2; floors++) {
            kv_quant_config c = kv_quant_default();
            c.floors = floors;
            assert_ok(encode(c, matrix[k], 64, 96, w));
            memcpy(first, codes, sizeof first);
            memcpy(first_scales, scales, sizeof first_scales);
            memcpy(again, back, sizeof again);
            assert_ok(encode(c, matrix[k], 64, 96, again));
            assert_memory_equal(first, codes, sizeof first);
            assert_memory_equal(first_scales, scales, sizeof first_scales);
            assert_memory_equal(again, back, sizeof again);
        }
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void weights_that_cannot_be_stored_are_refused_with_their_place(void **state)
{
    (void)state;
    for (int cls = 0; cls < KV_QUANT_CLASS_COUNT; cls++) {
        float w[6] = {0, 1, 2, 3, kv_nan(), 5};
        assert_refused(encode(kv_quant_default(), cls, 2, 3, w), KV_ERR_FORMAT, "row 1, column 1: nan is not a finite number");
        w[4] = -kv_inf();
        assert_refused(encode(kv_quant_default(), cls, 2, 3, w), KV_ERR_FORMAT, "-inf is not a finite number");
        w[4] = 1e9f;
        if (cls == KV_QUANT_F32 || cls == KV_QUANT_INT8_WHOLE)
            assert_ok(encode(kv_quant_default(), cls, 2, 3, w));
        else
            assert_refused(encode(kv_quant_default(), cls, 2, 3, w), KV_ERR_FORMAT, "row 1, column 1: 1e+09 is too large");
        w[4] = 0x1p127f;
        if (cls != KV_QUANT_F32) assert_refused(encode(kv_quant_default(), cls, 2, 3, w), KV_ERR_FORMAT, "too large");
        w[4] = cls == KV_QUANT_F16 ? 65504.0f : 65504.0f * 31.0f;
        assert_ok(encode(kv_quant_default(), cls, 2, 3, w));
    }
}

static void damaged_codes_and_scales_are_refused(void **state)
{
    (void)state;
    const float w[] = {1, 2, 3, 4};
    assert_ok(encode(kv_quant_default(), KV_QUANT_INT6, 2, 2, w));
    codes[3] = -32;
    assert_refused(kv_quant_check(KV_QUANT_INT6, 2, 2, (uint8_t *)codes, scales), KV_ERR_FORMAT, "row 1, column 1: code -32; int6");
    codes[3] = 32;
    assert_refused(kv_quant_check(KV_QUANT_INT6, 2, 2, (uint8_t *)codes, scales), KV_ERR_FORMAT, "code 32");
    assert_ok(kv_quant_check(KV_QUANT_INT8, 2, 2, (uint8_t *)codes, scales));
    codes[0] = -128;
    assert_refused(kv_quant_check(KV_QUANT_INT8, 2, 2, (uint8_t *)codes, scales), KV_ERR_FORMAT, "code -128");
    codes[0] = codes[3] = 1;
    const uint16_t bad[] = {0, 0x8000, 0xbc00, 0x7c00, 0xfc00, 0x7e00};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scales[2] = (uint8_t)bad[i];
        scales[3] = (uint8_t)(bad[i] >> 8);
        assert_refused(kv_quant_check(KV_QUANT_INT6, 2, 2, (uint8_t *)codes, scales), KV_ERR_FORMAT, "scale 1 is ");
        assert_ok(kv_quant_check(KV_QUANT_INT6_WHOLE, 2, 2, (uint8_t *)codes, scales)); /* reads the first one only */
    }
    const uint8_t huge[4] = {0, 0, 0, 0x7f}; /* 2^127: finite, but not 127 times as much */
    assert_refused(kv_quant_check(KV_QUANT_INT8_WHOLE, 2, 2, (uint8_t *)codes, huge), KV_ERR_FORMAT, "keep weights finite");
    const uint8_t inf16[2] = {0, 0x7c}, nan32[4] = {0, 0, 0xc0, 0x7f};
    assert_refused(kv_quant_check(KV_QUANT_F16, 1, 1, inf16, NULL), KV_ERR_FORMAT, "not a finite number");
    assert_refused(kv_quant_check(KV_QUANT_F32, 1, 1, nan32, NULL), KV_ERR_FORMAT, "not a finite number");
}

static void configs_are_checked(void **state)
{
    (void)state;
    kv_quant_config c = kv_quant_default();
    assert_ok(kv_quant_config_check(&c));
    c.passthrough_max = -1;
    assert_refused(kv_quant_config_check(&c), KV_ERR_FORMAT, "passthrough_max");
    c = kv_quant_default();
    c.floors = 2;
    assert_refused(kv_quant_config_check(&c), KV_ERR_FORMAT, "floors");
    const float bad[] = {0.0f, 1.5f, kv_nan()};
    for (int i = 0; i < 3; i++) {
        c = kv_quant_default();
        c.clip_quantile = bad[i];
        assert_refused(kv_quant_config_check(&c), KV_ERR_FORMAT, "clip_quantile");
    }
}

/* ---- classes ------------------------------------------------------------------------------------------------------ */

static kv_quant_class class_of(const kv_config *cfg, kv_quant_config c, kv_role role)
{
    int64_t rows, cols, dims[3];
    char name[KV_TENSOR_NAME_MAX];
    kv_model_shape(cfg, role, &rows, &cols);
    kv_model_tensor_name(cfg, role, 0, name);
    return kv_quant_class_of(&c, name, rows * cols, kv_golf_dims(cfg, role, dims) == 2);
}

static void full_size_models_have_these_classes(void **state)
{
    (void)state;
    const kv_config *b = kv_golf_preset("golf-b");
    const kv_quant_config c = kv_quant_default();
    for (int role = 0; role < KV_ROLE_COUNT; role++) {
        int64_t rows, cols;
        kv_model_shape(b, (kv_role)role, &rows, &cols);
        if (rows == 0) continue;
        const int wanted = role == KV_ROLE_TOKEN_EMBD || role == KV_ROLE_BIGRAM_EMBED                           ? KV_QUANT_INT8
                           : (role >= KV_ROLE_ATTN_Q && role <= KV_ROLE_ATTN_OUTPUT) || role == KV_ROLE_FFN_UP ||
                                   role == KV_ROLE_FFN_DOWN
                               ? KV_QUANT_INT6
                               : KV_QUANT_F16;
        if ((int)class_of(b, c, (kv_role)role) != wanted) fail_msg("role %d", role);
    }
}

/* With nothing passed through, the other branches of the rule. */
static void without_pass_through_the_name_decides(void **state)
{
    (void)state;
    const kv_config *u = kv_golf_preset("nano-u");
    kv_quant_config c = kv_quant_default();
    c.passthrough_max = 0;
    const struct {
        kv_role role;
        kv_quant_class wanted;
    } rules[] = {
        {KV_ROLE_RESID_MIX, KV_QUANT_F32},     {KV_ROLE_ATTN_SCALE, KV_QUANT_F32},   {KV_ROLE_FFN_SCALE, KV_QUANT_F32},
        {KV_ROLE_Q_GAIN, KV_QUANT_F32},        {KV_ROLE_K_GAIN, KV_QUANT_F32},       {KV_ROLE_K_SHIFT, KV_QUANT_F32},
        {KV_ROLE_V_SHIFT, KV_QUANT_F32},       {KV_ROLE_LOCAL_V, KV_QUANT_F32},      {KV_ROLE_SKIP_WEIGHTS, KV_QUANT_F32},
        {KV_ROLE_SMEAR_GATE, KV_QUANT_F32},    {KV_ROLE_BIGRAM_PROJ, KV_QUANT_INT6}, {KV_ROLE_SIDECAR_PROJ, KV_QUANT_INT6},
        {KV_ROLE_FFN_DOWN, KV_QUANT_INT6},     {KV_ROLE_ATTN_Q, KV_QUANT_INT6},      {KV_ROLE_TOKEN_EMBD, KV_QUANT_INT8},
        {KV_ROLE_BIGRAM_EMBED, KV_QUANT_INT8}, {KV_ROLE_SIDECAR_GATE, KV_QUANT_INT8}, {KV_ROLE_SIDECAR_SCALE, KV_QUANT_INT8},
        {KV_ROLE_SIDECAR_CONV, KV_QUANT_INT8_WHOLE}, {KV_ROLE_BIGRAM_SCALE, KV_QUANT_INT8_WHOLE},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (class_of(u, c, rules[i].role) != rules[i].wanted) fail_msg("rule %zu", i);
}

/* ---- golden ------------------------------------------------------------------------------------------------------- */

static json_t *golden(void)
{
    char path[1024];
    json_error_t e;
    const char *dir = getenv("KVDIFF_SHARED");
    if (!dir || !*dir) kvtest_skip("KVDIFF_SHARED does not name the folder of golden values");
    snprintf(path, sizeof path, "%s/golden/golf/5_quantisation.json", dir);
    json_t *root = json_load_file(path, 0, &e);
    if (!root) fail_msg("%s:%d: %s", path, e.line, e.text);
    return root;
}

static void same_fnv(const json_t *record, const char *key, const void *bytes, size_t n)
{
    const char *wanted = json_string_value(json_object_get(record, key));
    char got[17];
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
    snprintf(got, sizeof got, "%016llx", (unsigned long long)h);
    if (!wanted || strcmp(got, wanted) != 0) fail_msg("%s: %s, golden %s", key, got, wanted ? wanted : "missing");
}

static void same_record(const json_t *record, int cls, int64_t rows, int64_t cols, const float *w)
{
    const size_t n = (size_t)(rows * cols);
    const json_t *hex = json_object_get(record, "scale_f16_hex");
    assert_non_null(record);
    same_fnv(record, "input_f32_fnv", w, n * sizeof *w);
    assert_ok(encode(kv_quant_default(), cls, rows, cols, w));
    same_fnv(record, "codes_fnv", codes, n);
    same_fnv(record, "scale_fnv", scales, kv_quant_scale_bytes(cls, rows));
    same_fnv(record, "dequant_f32_fnv", back, n * sizeof *back);
    assert_true(json_array_size(hex) > 0);
    for (size_t r = 0; r < json_array_size(hex); r++)
        assert_int_equal(scale16((int64_t)r), strtoul(json_string_value(json_array_get(hex, r)), NULL, 16));
    const int top = kv_quant_top(cls);
    for (size_t i = 0; i < n; i++)
        assert_true(codes[i] <= top && codes[i] >= -top);
}

/* The clip of every row. */
static void same_clips(const json_t *record, int64_t rows, int64_t cols, const float *w)
{
    static float clip[260], row[2048];
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++)
            row[c] = kv_bits2f(kv_f2bits(w[r * cols + c]) & 0x7fffffff);
        clip[r] = kv_quantile(kv_quant_default().clip_quantile, row, cols);
    }
    same_fnv(record, "clip_fnv", clip, (size_t)rows * sizeof *clip);
}

static void stream(const char *name, int64_t n, float factor, float *w)
{
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)(kv_golf_bell(name, 0, (uint64_t)i) * (double)factor / 65536.0);
}

static void golden_streams_come_out_to_the_bit(void **state)
{
    (void)state;
    static float w[6 * 2048];
    static const float row5[] = {15.5f,   .25f,  .75f,  -.25f,  -.75f, 1.25f,
                                 -1.25f, 15.25f, -15.25f, 15.5f, -15.5f, -15.0f};
    json_t *g = golden();
    const json_t *int6 = json_object_get(g, "int6"), *int8 = json_object_get(g, "int8");
    stream("quant.Q6", 8 * 96, 6.0f, w);
    for (int i = 0; i < 96; i++) {
        w[3 * 96 + i] = 0.0f;
        w[4 * 96 + i] *= 1.0f / 64.0f;
        w[5 * 96 + i] = i < 12 ? row5[i] : 0.0f;
    }
    same_record(json_object_get(int6, "Q6"), KV_QUANT_INT6, 8, 96, w);
    stream("quant.V1", 40, 1.0f, w);
    same_record(json_object_get(int6, "V1_one_scale"), KV_QUANT_INT6_WHOLE, 1, 40, w);
    stream("quant.Q8", 6 * 2048, 4.0f, w);
    for (int i = 0; i < 2048; i++)
        w[2 * 2048 + i] = 0.0f;
    w[3 * 2048 + 100] = 64.0f;
    same_record(json_object_get(int8, "Q8"), KV_QUANT_INT8, 6, 2048, w);
    same_clips(json_object_get(int8, "Q8"), 6, 2048, w);
    json_decref(g);
}

static void golden_tensors_come_out_to_the_bit(void **state)
{
    (void)state;
    json_t *g = golden();
    kv_model *m;
    assert_ok(kv_model_open("nano-b", NULL, &m, NULL));
    const struct {
        const char *kind, *name;
        kv_role role;
        int32_t layer;
        int cls;
    } cases[] = {{"int6", "blocks.0.attn.c_q.weight", KV_ROLE_ATTN_Q, 0, KV_QUANT_INT6},
                 {"int6", "blocks.1.mlp.proj.weight", KV_ROLE_FFN_DOWN, 1, KV_QUANT_INT6},
                 {"int8", "tok_emb.weight", KV_ROLE_TOKEN_EMBD, 0, KV_QUANT_INT8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const json_t *record = json_object_get(json_object_get(g, cases[i].kind), cases[i].name);
        const kv_tensor *t = kv_model_tensor(m, cases[i].role, cases[i].layer);
        assert_true(t->rows * t->cols <= ROOM && t->rows <= 260);
        same_record(record, cases[i].cls, t->rows, t->cols, t->data);
        if (cases[i].cls == KV_QUANT_INT8) same_clips(record, t->rows, t->cols, t->data);
    }
    const struct {
        const char *name;
        kv_role role;
    } halves[] = {{"blocks.0.resid_mix", KV_ROLE_RESID_MIX}, {"smear.gate", KV_ROLE_SMEAR_GATE}, {"blocks.0.attn.q_gain", KV_ROLE_Q_GAIN}};
    for (size_t i = 0; i < 3; i++) {
        const kv_tensor *t = kv_model_tensor(m, halves[i].role, 0);
        assert_ok(encode(kv_quant_default(), KV_QUANT_F16, t->rows, t->cols, t->data));
        same_fnv(json_object_get(json_object_get(g, "fp16"), halves[i].name), "fnv", codes, 2 * (size_t)(t->rows * t->cols));
    }
    kv_model_close(m);
    json_decref(g);
}

static void golden_classes_come_out(void **state)
{
    (void)state;
    json_t *g = golden();
    const json_t *wanted = json_object_get(g, "classes_limit_1024");
    const kv_config *cfg = kv_golf_preset("nano-b");
    kv_golf_place places[128];
    kv_quant_config c = kv_quant_default();
    c.passthrough_max = 1024;
    const int32_t n = kv_golf_order(cfg, NULL);
    assert_true(n <= 128);
    kv_golf_order(cfg, places);
    assert_int_equal(json_object_size(wanted), n);
    for (int32_t i = 0; i < n; i++) {
        int64_t rows, cols, dims[3];
        char name[KV_TENSOR_NAME_MAX];
        kv_model_shape(cfg, places[i].role, &rows, &cols);
        kv_model_tensor_name(cfg, places[i].role, places[i].layer, name);
        const int is_matrix = kv_golf_dims(cfg, places[i].role, dims) == 2;
        const char *golden_name = json_string_value(json_object_get(wanted, name));
        assert_non_null(golden_name);
        assert_string_equal(kv_quant_class_name(kv_quant_class_of(&c, name, rows * cols, is_matrix)), golden_name);
    }
    json_decref(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_examples_of_the_page_come_out),
        cmocka_unit_test(halves_go_to_the_even_code),
        cmocka_unit_test(without_floors_small_rows_use_all_codes),
        cmocka_unit_test(rows_below_fp16_vanish),
        cmocka_unit_test(one_scale_serves_a_tensor_that_is_no_matrix),
        cmocka_unit_test(numbers_pass_through),
        cmocka_unit_test(a_second_time_changes_nothing),
        cmocka_unit_test(weights_that_cannot_be_stored_are_refused_with_their_place),
        cmocka_unit_test(damaged_codes_and_scales_are_refused),
        cmocka_unit_test(configs_are_checked),
        cmocka_unit_test(full_size_models_have_these_classes),
        cmocka_unit_test(without_pass_through_the_name_decides),
        cmocka_unit_test(golden_streams_come_out_to_the_bit),
        cmocka_unit_test(golden_tensors_come_out_to_the_bit),
        cmocka_unit_test(golden_classes_come_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
