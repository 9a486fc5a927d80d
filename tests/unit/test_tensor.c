/* Weight formats: sizes, GGUF numbers, and widening against the values of the `gguf` package, bit
 * for bit (tests/golden/formats, made by tools/gen_format_witness.py). */
#include "tests/unit/kvtest.h"

#include "common/hash.h"
#include "common/tensor.h"

#include <jansson.h>

#define FORMATS "tests/golden/formats/"

/* Reads one witness file and checks its sum against the manifest's. */
static uint8_t *witness(const json_t *entry, const char *type, const char *suffix, size_t *size)
{
    char path[128], hex[65];
    uint8_t sha[32];
    snprintf(path, sizeof path, FORMATS "%s.%s", type, suffix);
    uint8_t *p = kvtest_read(path, size);
    kv_sha256(p, *size, sha);
    kv_hex32(sha, hex);
    assert_string_equal(hex, json_string_value(json_object_get(entry, suffix)));
    return p;
}

static json_t *manifest(void)
{
    json_error_t error;
    json_t *j = json_load_file(FORMATS "manifest.json", 0, &error);
    if (!j) fail_msg("%s", error.text);
    return j;
}

static void every_format_widens_to_the_witness_bits(void **state)
{
    (void)state;
    json_t *j = manifest();
    const json_t *all = json_object_get(j, "types");
    assert_int_equal(json_object_size(all), KV_DTYPE_COUNT);
    for (int t = 0; t < KV_DTYPE_COUNT; t++) {
        const json_t *entry = json_object_get(all, kv_dtype_name(t));
        assert_non_null(entry);
        size_t n_bytes, wanted_bytes;
        uint8_t *blocks = witness(entry, kv_dtype_name(t), "blocks", &n_bytes);
        uint8_t *wanted = witness(entry, kv_dtype_name(t), "f32", &wanted_bytes);
        const int64_t n = (int64_t)(wanted_bytes / sizeof(float));
        assert_int_equal(n, json_integer_value(json_object_get(entry, "weights")));
        assert_int_equal(kv_dtype_row_bytes(t, n), n_bytes);
        float *got = malloc(wanted_bytes);
        assert_non_null(got);
        kv_dequant(t, blocks, n, got);
        for (int64_t i = 0; i < n; i++)
            if (memcmp(&got[i], wanted + 4 * i, 4) != 0)
                fail_msg("%s: weight %lld is %a", kv_dtype_name(t), (long long)i, (double)got[i]);
        free(got);
        free(wanted);
        free(blocks);
    }
    json_decref(j);
}

/* A witness of zeros would prove nothing: many values, both signs, and no two blocks alike. */
static void the_witness_is_not_trivial(void **state)
{
    (void)state;
    json_t *j = manifest();
    for (int t = 0; t < KV_DTYPE_COUNT; t++) {
        const json_t *entry = json_object_get(json_object_get(j, "types"), kv_dtype_name(t));
        size_t bytes;
        uint8_t *p = witness(entry, kv_dtype_name(t), "f32", &bytes);
        int negative = 0, positive = 0;
        for (size_t i = 0; i < bytes; i += 4) {
            float v;
            memcpy(&v, p + i, 4);
            negative += v < 0;
            positive += v > 0;
        }
        assert_true(negative > 8 && positive > 8);
        free(p);
    }
    json_decref(j);
}

static void formats_have_the_sizes_and_numbers_of_gguf(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t gguf;
        int64_t weights, bytes;
    } known[] = {
        {"F32", 0, 1, 4},       {"F16", 1, 1, 2},       {"Q4_0", 2, 32, 18},
        {"Q4_1", 3, 32, 20},    {"Q8_0", 8, 32, 34},    {"Q4_K", 12, 256, 144},
        {"Q5_K", 13, 256, 176}, {"Q6_K", 14, 256, 210}, {"BF16", 30, 1, 2},
    };
    assert_int_equal(sizeof known / sizeof *known, KV_DTYPE_COUNT);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const int t = kv_dtype_from_gguf(known[i].gguf);
        assert_string_equal(kv_dtype_name(t), known[i].name);
        assert_int_equal(kv_dtype_block_weights(t), known[i].weights);
        assert_int_equal(kv_dtype_block_bytes(t), known[i].bytes);
        assert_int_equal(kv_dtype_row_bytes(t, 3 * known[i].weights), 3 * known[i].bytes);
        assert_int_equal(kv_dtype_row_bytes(t, 0), 0);
        if (known[i].weights > 1) assert_int_equal(kv_dtype_row_bytes(t, known[i].weights + 1), -1);
    }
}

static void unknown_types_are_not_guessed(void **state)
{
    (void)state;
    const uint32_t unsupported[] = {4, 6, 7, 9, 10, 11, 15, 16, 24, 31, 39, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        assert_int_equal(kv_dtype_from_gguf(unsupported[i]), -1);
    assert_string_equal(kv_dtype_name(-1), "?");
    assert_string_equal(kv_dtype_name(KV_DTYPE_COUNT), "?");
}

static void rows_of_a_tensor_are_its_blocks_in_order(void **state)
{
    (void)state;
    size_t bytes;
    uint8_t *blocks = kvtest_read(FORMATS "Q8_0.blocks", &bytes);
    float all[6 * 32], some[2 * 64];
    kv_dequant(KV_DTYPE_Q8_0, blocks, 6 * 32, all);
    const kv_tensor t = {
        .data = blocks, .n_bytes = bytes, .rows = 3, .cols = 64, .dtype = KV_DTYPE_Q8_0};
    kv_tensor_rows_f32(&t, 1, 2, some);
    assert_memory_equal(some, all + 64, sizeof some);
    kv_tensor_rows_f32(&t, 0, 1, some);
    assert_memory_equal(some, all, 64 * sizeof(float));
    free(blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_widens_to_the_witness_bits),
        cmocka_unit_test(the_witness_is_not_trivial),
        cmocka_unit_test(formats_have_the_sizes_and_numbers_of_gguf),
        cmocka_unit_test(unknown_types_are_not_guessed),
        cmocka_unit_test(rows_of_a_tensor_are_its_blocks_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
