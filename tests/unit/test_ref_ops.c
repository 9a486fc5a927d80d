/* RMSNorm, SwiGLU, residual addition, log-softmax and the rotation of key panels: every bit against plain
 * loops, for every instruction set of this CPU. test_ref_double.c runs the same cases in double. */
#include "tests/unit/refnaive.h"

/* ---- RMSNorm ------------------------------------------------------------------------------------- */

static void check_rmsnorm(const real *x, const float *w, int64_t n, real eps, const char *what)
{
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    real *want = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *got);
    assert_true(want && got);
    naive_rmsnorm(x, w, n, eps, want);
    for (int k = 0; k < tables; k++) {
        memset(got, 0xff, (size_t)n * sizeof *got);
        t[k]->rmsnorm(x, w, n, eps, got);
        assert_bits(got, want, n, "%s: %s, n %lld", t[k]->name, what, (long long)n);
    }
    free(want);
    free(got);
}

static void rmsnorm_sums_in_64_lanes(void **state)
{
    (void)state;
    static const int64_t n[] = {1, 2, 3, 15, 16, 17, 31, 63, 64, 65, 96, 127, 128, 129, 191, 200, 576, 1000};
    for (int i = 0; i < COUNT(n); i++) {
        real *x = naive_randoms(100 + (uint64_t)i, n[i]);
        float *w = naive_weights(200, n[i]);
        check_rmsnorm(x, w, n[i], (real)1e-5f, "with gains");
        check_rmsnorm(x, NULL, n[i], (real)1e-5f, "without gains");
        check_rmsnorm(x, w, n[i], (real)0.5f, "eps 0.5");
        free(x);
        free(w);
    }
}

/* Rows in which eps decides, and one whose squares are subnormal in fp32. */
static void rmsnorm_of_zeros_and_of_tiny_rows(void **state)
{
    (void)state;
    enum { N = 130 };
    real x[N];
    for (int i = 0; i < N; i++)
        x[i] = i % 2 ? (real)-0.0 : 0;
    check_rmsnorm(x, NULL, N, (real)1e-5f, "zeros");
    for (int i = 0; i < N; i++)
        x[i] = (real)0x1p-70f * naive_random(5, i);
    check_rmsnorm(x, NULL, N, (real)1e-30f, "tiny");
}

/* ---- SwiGLU and addition --------------------------------------------------------------------------- */

/* Ordinary values, and every one at which exp saturates, vanishes or changes its branch. */
static real gate_value(int64_t i)
{
    static const float edge[] = {0.0f, -0.0f, 88.7f, 89.0f, 89.5f, -88.7f, -89.0f, -103.9f, -104.5f,
                                 200.0f, -200.0f, 0x1p-149f, -0x1p-126f, 17.0f, -17.0f, 1.0f};
    return i % 3 == 2 ? (real)edge[i / 3 % COUNT(edge)] : naive_random(31, i) * 64;
}

static void swiglu_has_the_bits_of_the_contract(void **state)
{
    (void)state;
    static const int64_t n[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 96, 101, 257};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int i = 0; i < COUNT(n); i++) {
        real *g = naive_randoms(1, n[i]), *u = naive_randoms(2, n[i]), *want = naive_randoms(3, n[i]);
        real *got = naive_randoms(4, n[i]);
        for (int64_t j = 0; j < n[i]; j++) {
            g[j] = gate_value(j + i);
            want[j] = naive_swiglu(g[j], u[j]);
        }
        for (int k = 0; k < tables; k++) {
            t[k]->swiglu(g, u, n[i], got);
            assert_bits(got, want, n[i], "%s: n %lld", t[k]->name, (long long)n[i]);
            memcpy(got, g, (size_t)n[i] * sizeof *g);
            t[k]->swiglu(got, u, n[i], got); /* the forward pass overwrites the gate */
            assert_bits(got, want, n[i], "%s: n %lld in place", t[k]->name, (long long)n[i]);
        }
        free(g);
        free(u);
        free(want);
        free(got);
    }
}

static void add_is_one_rounded_addition(void **state)
{
    (void)state;
    static const int64_t n[] = {1, 7, 15, 16, 17, 32, 63, 64, 100};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int i = 0; i < COUNT(n); i++) {
        real *x = naive_randoms(5, n[i]), *y = naive_randoms(6, n[i]), *want = naive_randoms(7, n[i]);
        real *got = naive_randoms(8, n[i]);
        x[0] = (real)-0.0; /* -0 + -0 stays -0 */
        y[0] = (real)-0.0;
        for (int64_t j = 0; j < n[i]; j++)
            want[j] = x[j] + y[j];
        assert_true(naive_bits_of(want[0]) < 0);
        for (int k = 0; k < tables; k++) {
            memcpy(got, x, (size_t)n[i] * sizeof *x);
            t[k]->add(got, y, n[i]);
            assert_bits(got, want, n[i], "%s: n %lld", t[k]->name, (long long)n[i]);
        }
        free(x);
        free(y);
        free(want);
        free(got);
    }
}

/* ---- log-softmax ------------------------------------------------------------------------------------ */

static void check_nll(const real *z, int64_t n, const char *what)
{
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    const int64_t targets[] = {0, n - 1, n / 2, n / 3, 7 % n};
    for (int i = 0; i < COUNT(targets); i++) {
        const real want = naive_nll(z, n, targets[i]);
        for (int k = 0; k < tables; k++) {
            const real got = t[k]->nll(z, n, targets[i]);
            assert_bits(&got, &want, 1, "%s: %s, %lld logits, target %lld", t[k]->name, what, (long long)n,
                        (long long)targets[i]);
        }
    }
}

static void nll_sums_in_blocks_of_4096(void **state)
{
    (void)state;
    static const int64_t n[] = {1,    2,    15,   16,   17,   63,   64,   65,    127,   260,
                                4095, 4096, 4097, 4160, 8191, 8192, 8193, 12345, 49152};
    for (int i = 0; i < COUNT(n); i++) {
        real *z = naive_randoms(300 + (uint64_t)i, n[i]);
        for (int64_t j = 0; j < n[i]; j++)
            z[j] = z[j] * 16;
        check_nll(z, n[i], "random");
        free(z);
    }
}

/* Several logits share the maximum; zeros of both signs are the maximum; the maximum comes last. */
static void nll_of_ties_zeros_and_a_late_maximum(void **state)
{
    (void)state;
    enum { N = 5000 };
    real *z = naive_randoms(9, N);
    for (int i = 0; i < N; i++)
        z[i] = i % 1000 == 7 ? 2 : -(z[i] < 0 ? -z[i] : z[i]);
    check_nll(z, N, "ties");
    check_nll(z, 16, "one block with ties");
    for (int i = 0; i < N; i++)
        z[i] = i % 3 ? (real)-0.0 : 0;
    check_nll(z, N, "zeros of both signs");
    check_nll(z + 1, 2, "negative zeros");
    for (int i = 0; i < N; i++)
        z[i] = -3;
    check_nll(z, N, "all equal");
    z[N - 1] = 60;
    check_nll(z, N, "late maximum");
    z[3] = -1000; /* exp(x - m) is exactly zero */
    check_nll(z, N, "vanishing term");
    free(z);
}

/* An outside opinion on the formula: equal logits give log n, a certain target 0. */
static void nll_agrees_with_arithmetic_on_paper(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    real equal[1024], certain[20];
    for (int i = 0; i < 1024; i++)
        equal[i] = (real)0.25;
    for (int i = 0; i < 20; i++)
        certain[i] = i == 13 ? 0 : -800;
    for (int k = 0; k < tables; k++) {
        const double ten_bits = (double)t[k]->nll(equal, 1024, 55) - 6.931471805599453;
        assert_true(ten_bits > -1e-6 && ten_bits < 1e-6);
        assert_true(t[k]->nll(certain, 20, 13) == 0);
        assert_true(t[k]->nll(certain, 20, 0) == 800);
    }
}

/* ---- rotation of a panel ------------------------------------------------------------------------------ */

/* Rotates with tables of `stride` columns from column col0 on; lanes from `live` on are NaN in keys and
 * tables and must not reach the others. */
static void check_panel(int64_t D, int64_t rd, int half, int64_t stride, int64_t live)
{
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    real *src = naive_randoms(1, D * 16), *c = naive_randoms(2, rd / 2 * stride);
    real *s = naive_randoms(3, rd / 2 * stride), *dst = naive_randoms(4, D * 16);
    for (int64_t lane = live; lane < 16; lane++) {
        for (int64_t d = 0; d < D; d++)
            src[d * 16 + lane] = (real)kv_nan();
        for (int64_t i = 0; i < rd / 2; i++)
            c[i * stride + lane] = s[i * stride + lane] = (real)kv_nan();
    }
    for (int k = 0; k < tables; k++) {
        t[k]->rotate_panel(src, D, rd, half, c, s, stride, dst);
        for (int64_t lane = 0; lane < live; lane++) {
            real want[NAIVE_MAX_DIM], got[NAIVE_MAX_DIM];
            for (int64_t d = 0; d < D; d++) {
                want[d] = src[d * 16 + lane];
                got[d] = dst[d * 16 + lane];
            }
            for (int64_t i = 0; i < rd / 2; i++)
                naive_turn(&want[half ? i : 2 * i], &want[half ? i + rd / 2 : 2 * i + 1],
                           c[i * stride + lane], s[i * stride + lane]);
            assert_bits(got, want, D, "%s: D %lld, %lld rotated, half %d, lane %lld", t[k]->name,
                        (long long)D, (long long)rd, half, (long long)lane);
        }
    }
    free(src);
    free(c);
    free(s);
    free(dst);
}

static void rotate_panel_turns_both_pairings(void **state)
{
    (void)state;
    static const int64_t dims[][2] = {{2, 2}, {32, 32}, {64, 64}, {64, 16}, {80, 20}, {128, 128}, {256, 64}};
    for (int i = 0; i < COUNT(dims); i++)
        for (int half = 0; half < 2; half++) {
            check_panel(dims[i][0], dims[i][1], half, 16, 16);
            check_panel(dims[i][0], dims[i][1], half, 48, 16);
        }
}

static void rotate_panel_keeps_nan_in_its_lane(void **state)
{
    (void)state;
    for (int half = 0; half < 2; half++) {
        check_panel(32, 32, half, 16, 1);
        check_panel(32, 32, half, 32, 9);
        check_panel(64, 32, half, 16, 15);
    }
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_sums_in_64_lanes),
        cmocka_unit_test(rmsnorm_of_zeros_and_of_tiny_rows),
        cmocka_unit_test(swiglu_has_the_bits_of_the_contract),
        cmocka_unit_test(add_is_one_rounded_addition),
        cmocka_unit_test(nll_sums_in_blocks_of_4096),
        cmocka_unit_test(nll_of_ties_zeros_and_a_late_maximum),
        cmocka_unit_test(nll_agrees_with_arithmetic_on_paper),
        cmocka_unit_test(rotate_panel_turns_both_pairings),
        cmocka_unit_test(rotate_panel_keeps_nan_in_its_lane),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
