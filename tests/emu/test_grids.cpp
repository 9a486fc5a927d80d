/* More rows than a grid has: operations with a row per y of a grid are launched several times then. What they give is what two calls
 * of fewer rows give, which the other tests compare with the definitions. */
#include "tests/emu/emutest.h"

#include "gpu/kivi.cuh"
#include "gpu/kvarn.cuh"

using namespace emutest;

namespace
{
/* Rows in all, and in the first of the two calls. */
enum { ALL = GPU_GRID_ROWS + 7, FIRST = 40000, REST = ALL - FIRST };

/* run(first row, rows, out) writes `width` values a row. */
template <class run> void check(const stream &on, int32_t width, const char *what, const run &of)
{
    const size_t n = (size_t)ALL * (size_t)width;
    const floats once(n), twice(n);
    assert_ok(of(0, ALL, once.p()));
    assert_ok(of(0, FIRST, twice.p()));
    assert_ok(of(FIRST, REST, twice.p() + (int64_t)FIRST * width));
    const std::vector<float> got = once.get(on);
    assert_bits(got, twice.get(on), what, 0);
    assert_true(memcmp(got.data(), &got[got.size() - (size_t)width], (size_t)width * sizeof(float)) != 0); /* no row is like another */
}

void test_rows_of_the_residual_stream(void **)
{
    const stream on;
    const int32_t d = 3;
    const floats table(noise((size_t)ALL * 2 * d, 1), on);
    std::vector<int32_t> reversed;
    for (int32_t r = 0; r < ALL; r++) reversed.push_back(ALL - 1 - r);
    const ints ids(reversed, on);
    check(on, d, "embed", [&](int32_t r, int32_t n, float *out) { return gpu_embed(ids.p() + r, n, d, table.p(), d, 1, out, on.s); });
    check(on, d, "swiglu", [&](int32_t r, int32_t n, float *out) { return gpu_swiglu(table.p() + (int64_t)r * 2 * d, n, d, out, on.s); });
}

void test_rotations(void **)
{
    const stream on;
    const gpu_qkv_shape shape = {1, 1, 4};
    const int32_t half = 2, width = 4;
    const floats inv_freq({1.0f, 0.01f}, on), keys(noise((size_t)ALL * width, 2), on), cosines((size_t)ALL * half), sines(cosines.b.n);
    check(on, half, "cosines", [&](int32_t r, int32_t n, float *out) {
        return gpu_rope_table(5 + r, n, inv_freq.p(), half, 1, out, sines.p() + (int64_t)r * half, on.s);
    });
    check(on, half, "sines", [&](int32_t r, int32_t n, float *out) {
        return gpu_rope_table(5 + r, n, inv_freq.p(), half, -1, cosines.p() + (int64_t)r * half, out, on.s);
    });
    std::vector<int32_t> in_order;
    for (int32_t r = 0; r < ALL; r++) in_order.push_back(r);
    const ints slots(in_order, on);
    const gpu_rope rope = {cosines.p(), sines.p(), 4, 1};
    check(on, width, "keys of a view", [&](int32_t r, int32_t n, float *out) {
        gpu_rope part = rope;
        part.cos += (int64_t)r * half;
        part.sin += (int64_t)r * half;
        return gpu_rope_view({keys.p(), KV_STORE_F32}, {slots.p() + r, 0}, n, 1, width, part, out, on.s);
    });
    const std::vector<float> rows = noise((size_t)ALL * 3 * width, 3);
    const floats qkv(rows.size());
    check(on, width, "keys in the store", [&](int32_t r, int32_t n, float *out) {
        gpu_rope part = rope;
        part.cos += (int64_t)r * half;
        part.sin += (int64_t)r * half;
        const kv_status st = gpu_copy_up(qkv.p(), &rows[(size_t)r * 3 * width], (size_t)n * 3 * width * sizeof(float), on.s);
        return st == KV_OK ? gpu_rope_store(qkv.p(), n, shape, part, {}, {slots.p(), 0}, {out, KV_STORE_F32}, {nullptr, KV_STORE_F32}, on.s)
                           : st;
    });
}

void test_rotation_of_heads(void **)
{
    const stream on;
    const std::vector<float> rows = noise((size_t)ALL * 2, 4);
    check(on, 2, "hadamard", [&](int32_t r, int32_t n, float *out) {
        const kv_status st = gpu_copy_up(out, &rows[(size_t)r * 2], (size_t)n * 2 * sizeof(float), on.s);
        return st == KV_OK ? gpu_hadamard(out, n, 2, 2, 2, on.s) : st;
    });
}

void test_rows_of_a_ring(void **)
{
    const stream on;
    const std::vector<float> rows = noise((size_t)ALL * 2, 5);
    const floats fresh(rows, on), other(rows.size()), ring(rows.size());
    check(on, 2, "ring", [&](int32_t r, int32_t n, float *out) {
        const float *const from = fresh.p() + (int64_t)r * 2;
        return gpu_keep_rows({out, from, 2, 0, n, 2}, {other.p(), from, 2, 0, n, 2}, n, on.s);
    });
    /* A ring that is smaller keeps the newest rows, wherever a launch ends. */
    const int32_t R = GPU_GRID_ROWS + 2;
    assert_ok(gpu_keep_rows({ring.p(), fresh.p(), 2, 0, R, 2}, {other.p(), fresh.p(), 2, 0, R, 2}, ALL, on.s));
    const std::vector<float> kept = ring.get(on);
    for (int32_t og = ALL - R; og < ALL; og++)
        assert_int_equal(kv_f2bits(kept[(size_t)(og % R) * 2]), kv_f2bits(rows[(size_t)og * 2]));
}

void test_blocks_of_codes(void **)
{
    const stream on;
    const kv_kivi_params params = {2, 2, 2};
    const int32_t R = 2, D = 4;
    const kv_kivi_layout l = kv_kivi_layout_of(&params, D);
    const std::vector<float> rows = noise((size_t)ALL * R * D, 6);
    const floats fresh(rows, on);
    const ints bad(std::vector<int32_t>(1, 0), on);
    assert_int_equal(l.k_bytes % 4, 0);
    check(on, l.k_bytes / 4, "blocks", [&](int32_t r, int32_t n, float *out) {
        const gpu_raw_rows k = {nullptr, fresh.p() + (int64_t)r * R * D, D, 0, R, D};
        return gpu_kivi_code_k({reinterpret_cast<unsigned char *>(out), nullptr, l, 2, 1, INT32_MAX, INT32_MAX}, k, {0, n * R, 0}, bad.p(), on.s);
    });
    assert_int_equal(bad.get(on)[0], 0);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_the_residual_stream), cmocka_unit_test(test_rotations), cmocka_unit_test(test_rotation_of_heads),
        cmocka_unit_test(test_rows_of_a_ring),              cmocka_unit_test(test_blocks_of_codes),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
