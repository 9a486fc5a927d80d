/* refnaive.h - docs/numerics.md as plain loops: what the kernels of the reference must equal in every bit.
 *
 * Written from that page and not from ref/: one element at a time, in the order that it prescribes, with its
 * block sizes as literals. REF_BITS (32 unless the includer says 64) is the width, as in ref/real.h. */
#ifndef KV_TESTS_REFNAIVE_H
#define KV_TESTS_REFNAIVE_H

#ifndef REF_BITS
#    define REF_BITS 32
#endif

#include "tests/unit/kvtest.h"

#include "common/rng.h"
#include "ref/kernels.h"

#if REF_BITS == 32
typedef int32_t naive_bits;
#    define NAIVE_FMA kv_fma
#    define NAIVE_EXP kv_exp
#    define NAIVE_LOG kv_log
#    define NAIVE_SQRT kv_sqrt
#else
typedef int64_t naive_bits;
#    define NAIVE_FMA kv_dfma
#    define NAIVE_EXP kv_dexp
#    define NAIVE_LOG kv_log_core
#    define NAIVE_SQRT kv_dsqrt
#endif

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- numbers ------------------------------------------------------------------------------------ */

/* Element i of stream `seed`: full mantissas over fourteen binades, so that every order of additions gives
 * other bits. */
KV_UNUSED_TEST_HELPER real naive_random(uint64_t seed, int64_t i)
{
    const uint64_t u = kv_splitmix64(seed << 32 ^ (uint64_t)i);
    const int bits = REF_BITS == 32 ? 24 : 53;
    const double fraction = (double)(u >> (64 - bits)) / (double)(UINT64_C(1) << bits) - 0.5;
    return (real)(fraction * kv_dpow2((int64_t)(kv_splitmix64(u) % 14) - 9));
}

/* n of them; the caller frees them. Exactly as long as needed, so that a sanitizer sees every overrun. */
KV_UNUSED_TEST_HELPER real *naive_randoms(uint64_t seed, int64_t n)
{
    real *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = naive_random(seed, i);
    return x;
}

/* The same for weights, which are fp32 in both widths. */
KV_UNUSED_TEST_HELPER float *naive_weights(uint64_t seed, int64_t n)
{
    float *w = malloc((size_t)n * sizeof *w);
    assert_non_null(w);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)naive_random(seed, i);
    return w;
}

KV_UNUSED_TEST_HELPER naive_bits naive_bits_of(real x)
{
    naive_bits b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* First index at which the bits differ, or -1. */
KV_UNUSED_TEST_HELPER int64_t naive_differs(const real *a, const real *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (naive_bits_of(a[i]) != naive_bits_of(b[i])) return i;
    return -1;
}

/* The same bits, or the test fails with the first difference and the given description. */
#define assert_bits(got, want, n, ...)                                                             \
    do {                                                                                           \
        const int64_t at_ = naive_differs((got), (want), (n));                                     \
        if (at_ >= 0) {                                                                            \
            print_error(__VA_ARGS__);                                                              \
            fail_msg(": element %lld is %a, not %a", (long long)at_, (double)(got)[at_],           \
                     (double)(want)[at_]);                                                         \
        }                                                                                          \
    } while (0)

/* ---- section 3 ----------------------------------------------------------------------------------- */

/* One output of y = W x: x[K], w[K]; `block` is 256 unless a test wants to see the bits change. */
KV_UNUSED_TEST_HELPER real naive_dot(const real *x, const float *w, int64_t K, int64_t block)
{
    real total = 0;
    for (int64_t k0 = 0; k0 < K; k0 += block) {
        real acc = 0;
        for (int64_t k = k0; k < K && k < k0 + block; k++)
            acc = NAIVE_FMA(x[k], (real)w[k], acc);
        total = k0 == 0 ? acc : total + acc;
    }
    return total;
}

/* c[M][N] = a[M][K] times W[N][K] transposed. */
KV_UNUSED_TEST_HELPER void naive_gemm(const real *a, int64_t M, int64_t K, const float *w, int64_t N,
                                      real *c)
{
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++)
            c[m * N + n] = naive_dot(a + m * K, w + n * K, K, 256);
}

/* The tree of R64 over 64 lanes. */
KV_UNUSED_TEST_HELPER real naive_tree64(real *lane)
{
    static const int halves[] = {32, 16, 8, 4, 2, 1};
    for (int h = 0; h < 6; h++)
        for (int j = 0; j < halves[h]; j++)
            lane[j] = lane[j] + lane[j + halves[h]];
    return lane[0];
}

/* y[n] = RMSNorm(x[n]) * w[n]; w may be NULL. */
KV_UNUSED_TEST_HELPER void naive_rmsnorm(const real *x, const float *w, int64_t n, real eps, real *y)
{
    real lane[64] = {0};
    for (int64_t i = 0; i < n; i++)
        lane[i % 64] = NAIVE_FMA(x[i], x[i], lane[i % 64]);
    const real mean = naive_tree64(lane) / (real)n;
    const real root = NAIVE_SQRT(mean + eps);
    const real r = 1 / root;
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * r;
        if (w) y[i] = y[i] * (real)w[i];
    }
}

KV_UNUSED_TEST_HELPER real naive_swiglu(real g, real u)
{
    const real below = 1 + NAIVE_EXP(-g);
    const real silu = g / below;
    return silu * u;
}

/* Order-preserving integers: the exact maximum is a maximum of these. */
KV_UNUSED_TEST_HELPER naive_bits naive_key(real x)
{
    const naive_bits b = naive_bits_of(x);
    return b < 0 ? (naive_bits)(b ^ (REF_BITS == 32 ? INT32_MAX : INT64_MAX)) : b;
}

KV_UNUSED_TEST_HELPER real naive_max(const real *x, int64_t n)
{
    real m = -(real)kv_inf();
    for (int64_t i = 0; i < n; i++)
        if (naive_key(x[i]) > naive_key(m)) m = x[i];
    return m;
}

/* -log softmax(z[n])[target] */
KV_UNUSED_TEST_HELPER real naive_nll(const real *z, int64_t n, int64_t target)
{
    const real m = naive_max(z, n);
    real sum = 0;
    for (int64_t b = 0; b < n; b += 4096) {
        real lane[64] = {0};
        for (int64_t i = 0; i < 4096 && b + i < n; i++)
            lane[i % 64] = lane[i % 64] + NAIVE_EXP(z[b + i] - m);
        sum = sum + naive_tree64(lane);
    }
    return NAIVE_LOG(sum) - (z[target] - m);
}

/* cos and sin of pair i at a position: rd rotated dims, base theta, sign of the sine. */
KV_UNUSED_TEST_HELPER void naive_angle(int64_t pos, int64_t i, int64_t rd, double theta, int sign,
                                       real *c, real *s)
{
    const real inv_freq = (real)1 / (real)kv_exp_core(((double)(2 * i) / (double)rd) * kv_log_core(theta));
    const real angle = (real)pos * inv_freq;
#if REF_BITS == 32
    kv_sincos(angle, s, c);
#else
    kv_sincos_core(angle, s, c);
#endif
    if (sign < 0) *s = -*s;
}

/* Rotates one pair. */
KV_UNUSED_TEST_HELPER void naive_turn(real *a, real *b, real c, real s)
{
    const real b_s = *b * s, a_s = *a * s;
    const real a_new = NAIVE_FMA(*a, c, -b_s), b_new = NAIVE_FMA(*b, c, a_s);
    *a = a_new;
    *b = b_new;
}

/* Rotates a row in place: dims 0 .. rd-1 of it; half: pairs (i, i + rd/2), else (2i, 2i+1). */
KV_UNUSED_TEST_HELPER void naive_rope(real *row, int64_t pos, int64_t rd, int half, double theta, int sign)
{
    for (int64_t i = 0; i < rd / 2; i++) {
        real c, s;
        naive_angle(pos, i, rd, theta, sign, &c, &s);
        if (half)
            naive_turn(&row[i], &row[i + rd / 2], c, s);
        else
            naive_turn(&row[2 * i], &row[2 * i + 1], c, s);
    }
}

/* ---- section 4 ----------------------------------------------------------------------------------- */

/* One chunk of at most 256 visible entries: its maximum, its sum, o[D]. */
KV_UNUSED_TEST_HELPER void naive_chunk(const real *q, const real *const *k, const real *const *v, int64_t n,
                                       int64_t D, real *max, real *sum, real *o)
{
    real s[256];
    if (n < 1 || n > 256) fail_msg("a chunk of %lld entries", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        s[i] = 0;
        for (int64_t d = 0; d < D; d++)
            s[i] = NAIVE_FMA(q[d], k[i][d], s[i]);
    }
    *max = naive_max(s, n);
    *sum = 0;
    for (int64_t i = 0; i < n; i++) {
        s[i] = NAIVE_EXP(s[i] - *max);
        *sum = *sum + s[i];
    }
    for (int64_t d = 0; d < D; d++) {
        o[d] = 0;
        for (int64_t i = 0; i < n; i++)
            o[d] = NAIVE_FMA(s[i], v[i][d], o[d]);
    }
}

enum { NAIVE_MAX_CHUNKS = 8, NAIVE_MAX_DIM = 256 };

/* out[D] of one scaled query over n entries in view order; k[i], v[i]: rows of D. Returns the log-sum-exp. */
KV_UNUSED_TEST_HELPER real naive_attention(const real *q, const real *const *k, const real *const *v,
                                           int64_t n, int64_t D, real *out)
{
    static real o[NAIVE_MAX_CHUNKS][NAIVE_MAX_DIM];
    real max[NAIVE_MAX_CHUNKS], sum[NAIVE_MAX_CHUNKS], total = 0;
    const int64_t chunks = (n + 255) / 256;
    if (chunks < 1 || chunks > NAIVE_MAX_CHUNKS) fail_msg("a view of %lld entries", (long long)n);
    for (int64_t c = 0; c < chunks; c++)
        naive_chunk(q, k + 256 * c, v + 256 * c, c + 1 < chunks ? 256 : n - 256 * c, D, &max[c], &sum[c],
                    o[c]);
    const real M = naive_max(max, chunks);
    for (int64_t d = 0; d < D; d++)
        out[d] = 0;
    for (int64_t c = 0; c < chunks; c++) {
        const real w = NAIVE_EXP(max[c] - M);
        total = NAIVE_FMA(sum[c], w, total);
        for (int64_t d = 0; d < D; d++)
            out[d] = NAIVE_FMA(o[c][d], w, out[d]);
    }
    for (int64_t d = 0; d < D; d++) {
        out[d] = out[d] / total;
        out[d] = out[d] + 0;
    }
    return M + NAIVE_LOG(total);
}

/* ---- the tables under test ------------------------------------------------------------------------ */

static const char *const naive_isa[] = {"scalar", "avx2", "avx512"};
enum { NAIVE_TABLES = 3 };

/* Tables that this build and CPU have; returns their number. missing (may be NULL): the names of the others. */
KV_UNUSED_TEST_HELPER int naive_tables(const ref_kernels *t[NAIVE_TABLES], char missing[32])
{
    int n = 0;
    if (missing) *missing = 0;
    for (int i = 0; i < NAIVE_TABLES; i++) {
        if (i == 2 && REF_BITS == 64) break; /* the double twin has none */
        if (REF(kernels_find)(naive_isa[i], &t[n]) == KV_OK) {
            n++;
        } else if (missing) {
            if (*missing) strcat(missing, ", ");
            strcat(missing, naive_isa[i]);
        }
    }
    return n;
}

/* A test of every program that uses the tables: shows, as a skip, which of them the others did not see. */
KV_UNUSED_TEST_HELPER void every_instruction_set_was_checked(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    char missing[32];
    assert_true(naive_tables(t, missing) >= 1);
    if (*missing) kvtest_skip("this CPU lacks %s: its kernels were not checked", missing);
}

#endif
