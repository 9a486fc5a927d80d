/* Operations on single rows: gpu/embed.cu, gpu/norm.cu, gpu/swiglu.cu, gpu/nll.cu. */
#include "tests/emu/emutest.h"

using namespace emutest;

namespace
{
void test_embed_reads_rows_and_columns(void **)
{
    const int32_t vocab = 11, d = 150;
    const std::vector<float> table = noise((size_t)(vocab * d), 1);
    const std::vector<int32_t> ids = {3, 0, 10, 3};
    std::vector<float> by_columns((size_t)(vocab * d)), wanted;
    for (int32_t v = 0; v < vocab; v++)
        for (int32_t i = 0; i < d; i++) by_columns[(size_t)(i * vocab + v)] = table[(size_t)(v * d + i)];
    for (const int32_t id : ids)
        wanted.insert(wanted.end(), table.begin() + id * d, table.begin() + (id + 1) * d);
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const ints di(ids, on);
        const floats rows(table, on), columns(by_columns, on), x(wanted.size());
        assert_ok(gpu_embed(di.p(), 4, d, rows.p(), d, 1, x.p(), on.s));
        assert_bits(x.get(on), wanted, "rows", seed);
        assert_ok(gpu_embed(di.p(), 4, d, columns.p(), 1, vocab, x.p(), on.s));
        assert_bits(x.get(on), wanted, "columns", seed);
    }
}

void check_norm(int32_t m, int32_t n, bool gains)
{
    const std::vector<float> x = noise((size_t)(m * n), 4, 3.0f), w = noise((size_t)n, 5);
    std::vector<float> wanted((size_t)(m * n));
    for (int32_t r = 0; r < m; r++)
        rmsnorm(&x[(size_t)(r * n)], gains ? w.data() : nullptr, n, 1e-5f, &wanted[(size_t)(r * n)]);
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), dw(w, on), dy(x.size());
        assert_ok(gpu_rmsnorm(dx.p(), gains ? dw.p() : nullptr, m, n, 1e-5f, 1.0f, dy.p(), on.s));
        assert_bits(dy.get(on), wanted, "rmsnorm", seed);
    }
}

void test_rmsnorm_has_the_bits_of_the_definition(void **)
{
    for (const int32_t n : {1, 31, 33, 63, 64, 65, 128, 576, 1000}) check_norm(3, n, true);
    check_norm(9, 130, false);
}

void test_rmsnorm_may_work_in_place(void **)
{
    const std::vector<float> x = noise(200, 6);
    std::vector<float> wanted(200);
    rmsnorm(x.data(), nullptr, 200, 1e-6f, wanted.data());
    const stream on;
    const floats dx(x, on);
    assert_ok(gpu_rmsnorm(dx.p(), nullptr, 1, 200, 1e-6f, 1.0f, dx.p(), on.s));
    assert_bits(dx.get(on), wanted, "in place", 0);
}

void test_swiglu_has_the_bits_of_the_definition(void **)
{
    const int32_t m = 3, n = 200;
    std::vector<float> x = noise((size_t)(m * 2 * n), 7, 20.0f), wanted;
    x[0] = -200.0f; /* the exponential overflows, the gate becomes -0 */
    x[1] = 200.0f;
    for (int32_t r = 0; r < m; r++)
        for (int32_t i = 0; i < n; i++)
            wanted.push_back(swiglu(x[(size_t)(r * 2 * n + i)], x[(size_t)(r * 2 * n + n + i)]));
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), dh(wanted.size());
        assert_ok(gpu_swiglu(dx.p(), m, n, dh.p(), on.s));
        assert_bits(dh.get(on), wanted, "swiglu", seed);
    }
}

void check_nll(int32_t vocab, float scale)
{
    const int32_t m = 2;
    const std::vector<float> x = noise((size_t)(m * vocab), 8, scale);
    const std::vector<int32_t> target = {0, vocab - 1};
    std::vector<float> wanted;
    for (int32_t r = 0; r < m; r++)
        wanted.push_back(nll(&x[(size_t)(r * vocab)], vocab, target[(size_t)r]));
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), dn((size_t)m);
        const ints dt(target, on);
        assert_ok(gpu_nll(dx.p(), dt.p(), m, vocab, dn.p(), nullptr, on.s));
        assert_bits(dn.get(on), wanted, "nll", seed);
    }
}

void test_nll_has_the_bits_of_the_definition(void **)
{
    for (const int32_t vocab : {1, 2, 63, 64, 260, 4095, 4096, 4097, 12000, 20500}) {
        check_nll(vocab, 1.0f);
        check_nll(vocab, 30.0f);
    }
}

void test_nll_of_all_zeros_takes_plus_zero_as_maximum(void **)
{
    const std::vector<float> x = {-0.0f, 0.0f, -0.0f};
    const stream on;
    const floats dx(x, on), dn(1);
    const ints dt({2}, on);
    assert_ok(gpu_nll(dx.p(), dt.p(), 1, 3, dn.p(), nullptr, on.s));
    assert_bits(dn.get(on), {kv_log(3.0f)}, "nll", 0);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed_reads_rows_and_columns),
        cmocka_unit_test(test_rmsnorm_has_the_bits_of_the_definition),
        cmocka_unit_test(test_rmsnorm_may_work_in_place),
        cmocka_unit_test(test_swiglu_has_the_bits_of_the_definition),
        cmocka_unit_test(test_nll_has_the_bits_of_the_definition),
        cmocka_unit_test(test_nll_of_all_zeros_takes_plus_zero_as_maximum),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
