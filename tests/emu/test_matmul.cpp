/* Matrix products, both kernels, and the weight layout: gpu/gemm.cu, gpu/gemv.cu, gpu/matmul.cu. */
#include "tests/emu/emutest.h"

using namespace emutest;

namespace
{
struct problem {
    int32_t m, n, k;
};

typedef kv_status kernel(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                         float *partials, cudaStream_t stream);

kv_status gemm(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y, float *,
               cudaStream_t stream)
{
    return gpu_gemm(x, m, w, epilogue, y, stream);
}

size_t partials_of(const problem &p) { return (size_t)((p.k + 255) / 256 * p.m * ((p.n + 63) / 64 * 64)); }

/* y = product or y0 + product, against the definition; weights go through gpu_transpose. */
void check(const problem &p, kernel *run, gpu_epilogue epilogue, const char *what)
{
    const std::vector<float> x = noise((size_t)(p.m * p.k), 1), w = noise((size_t)(p.n * p.k), 2),
                             y0 = noise((size_t)(p.m * p.n), 3);
    std::vector<float> wanted;
    for (int32_t r = 0; r < p.m; r++)
        for (int32_t c = 0; c < p.n; c++) {
            const float v = product(&x[(size_t)(r * p.k)], &w[(size_t)(c * p.k)], p.k);
            wanted.push_back(epilogue == GPU_ADD ? y0[(size_t)(r * p.n + c)] + v : v);
        }
    const int32_t ld = (p.n + 63) / 64 * 64;
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), dw_rows(w, on), dw((size_t)(p.k * ld)), dy(y0, on), partials(partials_of(p));
        assert_int_equal(cudaMemsetAsync(dw.p(), 0, (size_t)(p.k * ld) * 4, on.s), cudaSuccess);
        assert_ok(gpu_transpose(dw_rows.p(), p.n, p.k, dw.p(), ld, 0, on.s));
        assert_ok(run(dx.p(), p.m, {dw.p(), p.n, p.k, ld}, epilogue, dy.p(), partials.p(), on.s));
        assert_bits(dy.get(on), wanted, what, seed);
    }
}

void test_gemv_has_the_bits_of_the_definition(void **)
{
    for (const problem p : {problem{1, 1, 1}, {1, 5, 255}, {2, 70, 256}, {3, 64, 257}, {5, 130, 600},
                            {8, 33, 1030}}) {
        check(p, gpu_gemv, GPU_STORE, "gemv");
        check(p, gpu_gemv, GPU_ADD, "gemv with residual");
    }
}

void test_gemm_has_the_bits_of_the_definition(void **)
{
    for (const problem p : {problem{1, 1, 1}, {9, 65, 31}, {64, 64, 256}, {65, 130, 257}, {70, 40, 515}}) {
        check(p, gemm, GPU_STORE, "gemm");
        check(p, gemm, GPU_ADD, "gemm with residual");
    }
}

/* 132 tiles of 128 x 128 are what makes gpu_gemm choose them. */
void test_gemm_with_large_tiles_has_the_bits_of_the_definition(void **)
{
    check({1300, 1500, 33}, gemm, GPU_STORE, "gemm, large tiles");
}

void test_matmul_is_the_same_on_both_sides_of_its_choice(void **)
{
    check({8, 66, 300}, gpu_matmul, GPU_STORE, "matmul of 8 rows");
    check({9, 66, 300}, gpu_matmul, GPU_STORE, "matmul of 9 rows");
}

void test_partials_are_needed_only_for_few_rows_and_long_ones(void **)
{
    const gpu_weights w = {nullptr, 100, 600, 128};
    assert_int_equal(gpu_matmul_partials(w, 2), 3 * 2 * 128);
    assert_int_equal(gpu_matmul_partials(w, 9), 0);
    const gpu_weights narrow = {nullptr, 100, 256, 128};
    assert_int_equal(gpu_matmul_partials(narrow, 1), 0);
}

/* A chain whose last product underflows ends in -0, which must arrive as -0. */
void test_a_negative_zero_survives(void **)
{
    for (const int32_t k : {1, 256}) {
        std::vector<float> x((size_t)k, 0.0f), w((size_t)(64 * k), 0x1p-100f);
        x[(size_t)k - 1] = -0x1p-100f;
        const stream on;
        const floats dx(x, on), dw(w, on), y(1), partials(64);
        assert_ok(gpu_gemm(dx.p(), 1, {dw.p(), 1, k, 64}, GPU_STORE, y.p(), on.s));
        assert_bits(y.get(on), {-0.0f}, "gemm", 0);
        assert_ok(gpu_gemv(dx.p(), 1, {dw.p(), 1, k, 64}, GPU_STORE, y.p(), partials.p(), on.s));
        assert_bits(y.get(on), {-0.0f}, "gemv", 0);
    }
}

/* The blocks of 256 are part of the definition: with one chain some outputs differ. */
void test_the_data_can_tell_blocks_from_one_chain(void **)
{
    const std::vector<float> x = noise(600, 1), w = noise(600, 2);
    float chain = 0.0f;
    for (size_t i = 0; i < 600; i++) chain = kv_fma(x[i], w[i], chain);
    assert_int_not_equal(kv_f2bits(chain), kv_f2bits(product(x.data(), w.data(), 600)));
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemv_has_the_bits_of_the_definition),
        cmocka_unit_test(test_gemm_has_the_bits_of_the_definition),
        cmocka_unit_test(test_gemm_with_large_tiles_has_the_bits_of_the_definition),
        cmocka_unit_test(test_matmul_is_the_same_on_both_sides_of_its_choice),
        cmocka_unit_test(test_partials_are_needed_only_for_few_rows_and_long_ones),
        cmocka_unit_test(test_a_negative_zero_survives),
        cmocka_unit_test(test_the_data_can_tell_blocks_from_one_chain),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
