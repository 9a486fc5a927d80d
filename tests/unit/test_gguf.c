/* The GGUF reader: both versions, every value type, and files that are wrong in every way. Buffers
 * have exactly the size that is announced, so the sanitizer build sees every read behind the end.
 */
#include "tests/unit/gguf_build.h"
#include "tests/unit/kvtest.h"

#include "common/gguf.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_TYPES };

/* A copy of exactly n bytes. */
static uint8_t *exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, p, n);
    return copy;
}

static void build_all_types(gguf_build *b, uint32_t version)
{
    static const uint64_t dims[] = {8, 2};
    static const float weights[16] = {1.5f, -2.0f};
    b->version = version;
    gb_raw(b, "u8", U8, "\xff", 1);
    gb_raw(b, "i8", I8, "\xff", 1);
    gb_raw(b, "u16", U16, "\xff\xff", 2);
    gb_raw(b, "i16", I16, "\xff\xff", 2);
    gb_u32(b, "u32", 4000000000u);
    gb_raw(b, "i32", I32, "\xfe\xff\xff\xff", 4);
    gb_f32(b, "f32", 0.1f);
    gb_bool(b, "yes", 1);
    gb_bool(b, "no", 0);
    gb_string(b, "text", "hello");
    gb_raw(b, "u64", U64, "\x01\0\0\0\0\0\0\0", 8);
    gb_raw(b, "huge", U64, "\0\0\0\0\0\0\0\x80", 8);
    gb_raw(b, "i64", I64, "\x07\0\0\0\0\0\0\0", 8);
    gb_raw(b, "f64", F64, "\0\0\0\0\0\0\xf8\x3f", 8);
    gb_strings(b, "words", (const char *const[]){"one", "", "three"}, 3);
    gb_array(b, "numbers", I32, 2, "\1\0\0\0\2\0\0\0", 8);
    gb_tensor(b, "w", 2, dims, 0, weights, sizeof weights);
    gb_finish(b);
}

static void both_versions_give_every_value_back(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        gguf_build b = {0};
        kv_gguf *g;
        build_all_types(&b, version);
        assert_ok(kv_gguf_parse(b.p, b.n, "here", &g));
        assert_int_equal(kv_gguf_version(g), version);
        assert_string_equal(kv_gguf_where(g), "here");
        size_t size;
        assert_ptr_equal(kv_gguf_bytes(g, &size), b.p);
        assert_int_equal(size, b.n);
        uint32_t u;
        assert_ok(kv_gguf_u32(g, "u8", &u));
        assert_int_equal(u, 255);
        assert_ok(kv_gguf_u32(g, "u16", &u));
        assert_int_equal(u, 65535);
        assert_ok(kv_gguf_u32(g, "u32", &u));
        assert_int_equal(u, 4000000000u);
        assert_ok(kv_gguf_u32(g, "u64", &u));
        assert_int_equal(u, 1);
        assert_ok(kv_gguf_u32(g, "i64", &u));
        assert_int_equal(u, 7);
        float f;
        assert_ok(kv_gguf_f32(g, "f32", &f));
        assert_true(f == 0.1f);
        int flag;
        assert_ok(kv_gguf_bool_or(g, "yes", 0, &flag));
        assert_int_equal(flag, 1);
        assert_ok(kv_gguf_bool_or(g, "no", 1, &flag));
        assert_int_equal(flag, 0);
        kv_span s;
        assert_ok(kv_gguf_string(g, "text", &s));
        assert_int_equal(s.n, 5);
        assert_memory_equal(s.p, "hello", 5);
        kv_gguf_close(g);
        gb_free(&b);
    }
    kv_gguf_close(NULL);
}

static void string_arrays_are_walked_to_their_end(void **state)
{
    (void)state;
    gguf_build b = {0};
    kv_gguf *g;
    build_all_types(&b, 3);
    assert_ok(kv_gguf_parse(b.p, b.n, "here", &g));
    kv_gguf_array words, numbers;
    assert_ok(kv_gguf_array_of(g, "words", KV_GGUF_STRING, &words));
    assert_int_equal(words.n, 3);
    static const char *const wanted[] = {"one", "", "three"};
    kv_span s;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kv_gguf_next_string(&words, &s), 1);
        assert_int_equal(s.n, strlen(wanted[i]));
        assert_memory_equal(s.p, wanted[i], strlen(wanted[i]));
    }
    assert_int_equal(kv_gguf_next_string(&words, &s), 0);
    assert_ok(kv_gguf_array_of(g, "numbers", KV_GGUF_I32, &numbers));
    assert_int_equal(numbers.n, 2);
    int32_t second;
    memcpy(&second, numbers.p + 4, 4);
    assert_int_equal(second, 2);
    assert_refused(kv_gguf_array_of(g, "numbers", KV_GGUF_STRING, &words), KV_ERR_FORMAT,
                   "'numbers' is not an array of string");
    assert_refused(kv_gguf_array_of(g, "text", KV_GGUF_STRING, &words), KV_ERR_FORMAT, "'text'");
    assert_refused(kv_gguf_array_of(g, "nothing", KV_GGUF_STRING, &words), KV_ERR_FORMAT,
                   "missing");
    kv_gguf_close(g);
    gb_free(&b);
}

static void missing_and_mistyped_keys_are_named(void **state)
{
    (void)state;
    gguf_build b = {0};
    kv_gguf *g;
    build_all_types(&b, 3);
    assert_ok(kv_gguf_parse(b.p, b.n, "here", &g));
    uint32_t u;
    float f;
    int flag;
    kv_span s;
    assert_true(kv_gguf_has(g, "u32"));
    assert_false(kv_gguf_has(g, "u3"));
    assert_refused(kv_gguf_u32(g, "gone", &u), KV_ERR_FORMAT, "key 'gone' is missing");
    assert_refused(kv_gguf_u32(g, "f32", &u), KV_ERR_FORMAT, "key 'f32' is a f32");
    assert_refused(kv_gguf_u32(g, "i8", &u), KV_ERR_FORMAT, "out of range");
    assert_refused(kv_gguf_u32(g, "i16", &u), KV_ERR_FORMAT, "out of range");
    assert_refused(kv_gguf_u32(g, "i32", &u), KV_ERR_FORMAT, "out of range");
    assert_refused(kv_gguf_u32(g, "huge", &u), KV_ERR_FORMAT, "out of range");
    assert_refused(kv_gguf_f32(g, "f64", &f), KV_ERR_FORMAT, "'f64'");
    assert_refused(kv_gguf_f32(g, "gone", &f), KV_ERR_FORMAT, "missing");
    assert_refused(kv_gguf_string(g, "u8", &s), KV_ERR_FORMAT, "a string is needed");
    assert_refused(kv_gguf_string(g, "gone", &s), KV_ERR_FORMAT, "missing");
    assert_refused(kv_gguf_bool_or(g, "u8", 0, &flag), KV_ERR_FORMAT, "a bool is needed");
    assert_ok(kv_gguf_u32_or(g, "gone", 17, &u));
    assert_int_equal(u, 17);
    assert_refused(kv_gguf_u32_or(g, "text", 17, &u), KV_ERR_FORMAT, "'text'");
    assert_ok(kv_gguf_f32_or(g, "gone", 2.5f, &f));
    assert_true(f == 2.5f);
    assert_refused(kv_gguf_f32_or(g, "text", 2.5f, &f), KV_ERR_FORMAT, "'text'");
    assert_ok(kv_gguf_bool_or(g, "gone", 1, &flag));
    assert_int_equal(flag, 1);
    kv_gguf_close(g);
    gb_free(&b);
}

static void describe_renders_every_pair(void **state)
{
    (void)state;
    static const char *const wanted[] = {
        "255",         "-1",   "65535",      "-1",     "4000000000", "-2",
        "0.100000001", "true", "false",      "hello",  "1",          "9223372036854775807",
        "7",           "1.5",  "[3] string", "[2] i32"};
    gguf_build b = {0};
    kv_gguf *g;
    build_all_types(&b, 3);
    assert_ok(kv_gguf_parse(b.p, b.n, "here", &g));
    kv_span key;
    char text[64];
    for (uint64_t i = 0; i < 16; i++) {
        assert_int_equal(kv_gguf_describe(g, i, &key, text, sizeof text), 1);
        assert_string_equal(text, wanted[i]);
        assert_true(key.n > 0);
    }
    assert_int_equal(kv_gguf_describe(g, 16, &key, text, sizeof text), 0);
    kv_gguf_close(g);
    gb_free(&b);
}

static void tensors_are_found_where_their_data_lies(void **state)
{
    (void)state;
    gguf_build b = {0};
    kv_gguf *g;
    build_all_types(&b, 3);
    assert_ok(kv_gguf_parse(b.p, b.n, "here", &g));
    assert_int_equal(kv_gguf_n_tensors(g), 1);
    const kv_gguf_tensor *t = kv_gguf_find_tensor(g, "w");
    assert_ptr_equal(t, kv_gguf_tensor_at(g, 0));
    assert_null(kv_gguf_tensor_at(g, 1));
    assert_null(kv_gguf_find_tensor(g, "v"));
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 8);
    assert_int_equal(t->dims[1], 2);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->gguf_type, 0);
    assert_int_equal(t->offset % 32, 0);
    assert_ptr_equal(t->data, b.p + t->offset);
    float w[2];
    memcpy(w, t->data, sizeof w);
    assert_true(w[0] == 1.5f && w[1] == -2.0f);
    kv_gguf_close(g);
    gb_free(&b);
}

static void every_truncation_is_refused_in_one_line(void **state)
{
    (void)state;
    gguf_build b = {0};
    build_all_types(&b, 3);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *cut = exact(b.p, n);
        kv_gguf *g;
        assert_refused(kv_gguf_parse(cut, n, "cut.gguf", &g), KV_ERR_FORMAT, "cut.gguf: ");
        assert_null(g);
        free(cut);
    }
    gb_free(&b);
}

/* A flipped bit may leave a legal file (another value); whatever is accepted must be safe to walk.
 */
static void walk(const kv_gguf *g)
{
    kv_span key;
    char text[64];
    for (uint64_t i = 0; kv_gguf_describe(g, i, &key, text, sizeof text); i++)
        ;
    kv_gguf_array a;
    if (kv_gguf_array_of(g, "words", KV_GGUF_STRING, &a) == KV_OK)
        while (kv_gguf_next_string(&a, &key))
            ;
    for (uint64_t i = 0; i < kv_gguf_n_tensors(g); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(g, i);
        const int dtype = kv_dtype_from_gguf(t->gguf_type);
        if (dtype < 0) continue;
        float w[256];
        kv_dequant(dtype, t->data, kv_dtype_block_weights(dtype), w);
    }
}

static void every_flipped_bit_is_refused_in_one_line_or_harmless(void **state)
{
    (void)state;
    gguf_build b = {0};
    build_all_types(&b, 3);
    int refused = 0;
    for (size_t bit = 0; bit < 8 * b.n; bit++) {
        uint8_t *bad = exact(b.p, b.n);
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        kv_gguf *g;
        const kv_status st = kv_gguf_parse(bad, b.n, "bad.gguf", &g);
        if (st == KV_OK) {
            walk(g);
        } else {
            refused++;
            assert_true(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED);
            if (strchr(kv_message(), '\n')) fail_msg("bit %zu: more than one line", bit);
            assert_null(g);
        }
        kv_gguf_close(g);
        free(bad);
    }
    assert_true(refused > 500); /* lengths, counts, types, dimensions */
    gb_free(&b);
}

static void wrong_magic_and_versions_are_refused(void **state)
{
    (void)state;
    kv_gguf *g;
    assert_refused(kv_gguf_parse("GGML....................", 24, "x", &g), KV_ERR_FORMAT,
                   "not a GGUF file");
    assert_refused(kv_gguf_parse("", 0, "x", &g), KV_ERR_FORMAT, "x: ");
    const uint32_t versions[] = {0, 1, 4, 0x03000000};
    for (size_t i = 0; i < 4; i++) {
        gguf_build b = {0};
        build_all_types(&b, 3);
        memcpy(b.p + 4, &versions[i], 4);
        assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_UNSUPPORTED, "versions 2 and 3");
        gb_free(&b);
    }
}

/* Counts that the file merely claims: refused at once, without memory or time in proportion. */
static void huge_counts_are_refused_at_once(void **state)
{
    (void)state;
    const uint64_t huge[] = {UINT64_MAX, UINT64_C(1) << 62, UINT64_C(1) << 32};
    for (size_t i = 0; i < 3; i++)
        for (size_t at = 8; at <= 16; at += 8) { /* number of tensors, number of pairs */
            gguf_build b = {0};
            kv_gguf *g;
            build_all_types(&b, 3);
            memcpy(b.p + at, &huge[i], 8);
            assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_FORMAT, "x: ");
            gb_free(&b);
        }
    for (size_t i = 0; i < 3; i++)
        for (uint32_t type = 0; type < N_TYPES; type++) {
            gguf_build b = {0};
            kv_gguf *g;
            gb_array(&b, "claims", type, huge[i], "12345678", 8);
            gb_finish(&b);
            assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_FORMAT, "x: ");
            gb_free(&b);
        }
}

static void a_key_that_appears_twice_is_refused(void **state)
{
    (void)state;
    gguf_build b = {0};
    kv_gguf *g;
    gb_u32(&b, "once", 1);
    gb_u32(&b, "again", 1);
    gb_u32(&b, "again", 2);
    gb_finish(&b);
    assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_FORMAT, "key 'again' appears twice");
    gb_free(&b);
}

static void arrays_of_arrays_and_unknown_types_are_refused(void **state)
{
    (void)state;
    gguf_build b = {0};
    kv_gguf *g;
    gb_array(&b, "nested", ARRAY, 0, "", 0);
    gb_finish(&b);
    assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_FORMAT, "key 'nested'");
    gb_free(&b);
    gb_raw(&b, "odd", N_TYPES, "1234", 4);
    gb_finish(&b);
    assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_FORMAT, "value type 13");
    gb_free(&b);
}

static void alignment_must_be_a_sane_multiple_of_8(void **state)
{
    (void)state;
    const uint32_t bad[] = {0, 1, 12, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        gguf_build b = {0};
        kv_gguf *g;
        gb_u32(&b, "general.alignment", bad[i]);
        gb_finish(&b);
        assert_refused(kv_gguf_parse(b.p, b.n, "x", &g), KV_ERR_FORMAT, "general.alignment");
        gb_free(&b);
    }
    const uint32_t good[] = {8, 64, 4096};
    for (size_t i = 0; i < 3; i++) {
        gguf_build b = {.alignment = good[i]};
        kv_gguf *g;
        const uint64_t dims[] = {4};
        gb_u32(&b, "general.alignment", good[i]);
        gb_tensor(&b, "a", 1, dims, 0, "0123456789abcdef", 16);
        gb_tensor(&b, "b", 1, dims, 0, "0123456789ABCDEF", 16);
        gb_finish(&b);
        assert_ok(kv_gguf_parse(b.p, b.n, "x", &g));
        assert_memory_equal(kv_gguf_find_tensor(g, "b")->data, "0123456789ABCDEF", 16);
        assert_int_equal(kv_gguf_find_tensor(g, "b")->offset % good[i], 0);
        kv_gguf_close(g);
        gb_free(&b);
    }
}

/* One tensor info with free fields: name "t", data of 64 bytes. */
static kv_status parse_tensor(uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset)
{
    static const uint8_t data[64];
    gguf_build b = {0};
    kv_gguf *g;
    gb_tensor(&b, "t", n_dims, dims, type, data, sizeof data);
    memcpy(b.infos.p + b.infos.n - 8, &offset, 8);
    gb_finish(&b);
    uint8_t *copy = exact(b.p, b.n);
    const kv_status st = kv_gguf_parse(copy, b.n, "x", &g);
    kv_gguf_close(g);
    free(copy);
    gb_free(&b);
    return st;
}

static void tensors_that_do_not_fit_the_file_are_refused(void **state)
{
    (void)state;
    const uint64_t ok[] = {16, 1, 1, 1}, zero[] = {0}, one_more[] = {17}, odd_block[] = {33},
                   overflow[] = {UINT64_C(1) << 32, UINT64_C(1) << 31, 1, 2},
                   many[] = {1, 1, 1, 1, 1};
    assert_ok(parse_tensor(1, ok, 0, 0));
    assert_ok(parse_tensor(4, ok, 0, 0));
    assert_refused(parse_tensor(1, zero, 0, 0), KV_ERR_FORMAT,
                   "tensor 't' has impossible dimensions");
    assert_refused(parse_tensor(1, one_more, 0, 0), KV_ERR_FORMAT, "ends behind the end");
    assert_refused(parse_tensor(1, ok, 0, 32), KV_ERR_FORMAT, "ends behind the end");
    assert_refused(parse_tensor(1, ok, 0, 96), KV_ERR_FORMAT, "begins behind the end");
    assert_refused(parse_tensor(1, ok, 0, UINT64_MAX - 31), KV_ERR_FORMAT, "begins behind the end");
    assert_refused(parse_tensor(1, ok, 0, 4), KV_ERR_FORMAT, "is not aligned");
    assert_refused(parse_tensor(1, odd_block, 8, 0), KV_ERR_FORMAT, "whole number of blocks");
    assert_refused(parse_tensor(4, overflow, 0, 0), KV_ERR_FORMAT, "impossible dimensions");
    assert_refused(parse_tensor(0, ok, 0, 0), KV_ERR_FORMAT, "0 dimensions");
    assert_refused(parse_tensor(5, many, 0, 0), KV_ERR_FORMAT, "5 dimensions");
}

static void a_tensor_of_unknown_type_stays_without_data(void **state)
{
    (void)state;
    const uint64_t dims[] = {16};
    gguf_build b = {0};
    kv_gguf *g;
    gb_tensor(&b, "t", 1, dims, 99, "", 0);
    gb_finish(&b);
    assert_ok(kv_gguf_parse(b.p, b.n, "x", &g));
    assert_null(kv_gguf_tensor_at(g, 0)->data);
    kv_gguf_close(g);
    gb_free(&b);
}

static void files_that_cannot_be_read_are_refused(void **state)
{
    (void)state;
    kv_gguf *g;
    assert_refused(kv_gguf_open("no/such/file.gguf", &g), KV_ERR_IO, "no/such/file.gguf");
    assert_refused(kv_gguf_open("tests", &g), KV_ERR_IO, "not a regular file");
    const char *path = kvtest_path("empty.gguf");
    kvtest_write(path, "", 0);
    assert_refused(kv_gguf_open(path, &g), KV_ERR_FORMAT, "empty");
    gguf_build b = {0};
    build_all_types(&b, 2);
    kvtest_write(path, b.p, b.n);
    assert_ok(kv_gguf_open(path, &g));
    assert_string_equal(kv_gguf_where(g), path);
    assert_true(kv_gguf_has(g, "text"));
    kv_gguf_close(g);
    kvtest_write(path, b.p, b.n - 1);
    assert_refused(kv_gguf_open(path, &g), KV_ERR_FORMAT, "empty.gguf");
    gb_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_versions_give_every_value_back),
        cmocka_unit_test(string_arrays_are_walked_to_their_end),
        cmocka_unit_test(missing_and_mistyped_keys_are_named),
        cmocka_unit_test(describe_renders_every_pair),
        cmocka_unit_test(tensors_are_found_where_their_data_lies),
        cmocka_unit_test(every_truncation_is_refused_in_one_line),
        cmocka_unit_test(every_flipped_bit_is_refused_in_one_line_or_harmless),
        cmocka_unit_test(wrong_magic_and_versions_are_refused),
        cmocka_unit_test(huge_counts_are_refused_at_once),
        cmocka_unit_test(a_key_that_appears_twice_is_refused),
        cmocka_unit_test(arrays_of_arrays_and_unknown_types_are_refused),
        cmocka_unit_test(alignment_must_be_a_sane_multiple_of_8),
        cmocka_unit_test(tensors_that_do_not_fit_the_file_are_refused),
        cmocka_unit_test(a_tensor_of_unknown_type_stays_without_data),
        cmocka_unit_test(files_that_cannot_be_read_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
