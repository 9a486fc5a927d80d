/* The reference's matrix product against one chain per block of 256: every bit, for every instruction set
 * of this CPU. test_ref_double.c runs the same cases in double. */
#include "tests/unit/refnaive.h"

#include "common/numfmt.h"
#include "common/rng.h"

enum { MAX_ROWS = 30 };

/* W[N][K] as panels [ceil(N/16)][K][16], padded with zeros (ref/kernels.h). */
static float *pack(const float *w, int64_t N, int64_t K)
{
    const int64_t panels = (N + 15) / 16;
    float *p = calloc((size_t)(panels * K * 16), sizeof *p);
    assert_non_null(p);
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++)
            p[(n / 16 * K + k) * 16 + n % 16] = w[n * K + k];
    return p;
}

/* One shape. The rows of a and c lie further apart than they need to; what lies between them is NaN and must
 * stay as it is. */
typedef struct gemm_case {
    int64_t N, K, lda, ldc;
    real *a;       /* [rows][lda] */
    float *panels;
    real *want;    /* [rows][N] */
} gemm_case;

static gemm_case make_case(int64_t rows, int64_t N, int64_t K, int64_t lda)
{
    gemm_case g = {.N = N, .K = K, .lda = lda, .ldc = N + 5};
    const uint64_t seed = (uint64_t)(N * 1000 + K);
    real *a = naive_randoms(seed, rows * K);
    float *w = naive_weights(seed + 1, N * K);
    g.want = malloc((size_t)(rows * N) * sizeof *g.want);
    g.a = malloc((size_t)(rows * g.lda) * sizeof *g.a);
    assert_true(g.want && g.a);
    naive_gemm(a, rows, K, w, N, g.want);
    for (int64_t i = 0; i < rows * g.lda; i++)
        g.a[i] = i % g.lda < K ? a[i / g.lda * K + i % g.lda] : (real)kv_nan();
    g.panels = pack(w, N, K);
    free(a);
    free(w);
    return g;
}

static void free_case(gemm_case *g)
{
    free(g->a);
    free(g->panels);
    free(g->want);
}

static void check_product(const ref_kernels *t, const gemm_case *g, int64_t M, int cold)
{
    const real guard = (real)-12345.5;
    real *c = malloc((size_t)(M * g->ldc) * sizeof *c);
    assert_non_null(c);
    for (int64_t i = 0; i < M * g->ldc; i++)
        c[i] = guard;
    const ref_gemm_job job = {.a = g->a, .lda = g->lda, .m = M, .k = g->K, .panels = g->panels, .n = g->N,
                              .c = c, .ldc = g->ldc, .cold = cold};
    t->gemm(&job);
    for (int64_t m = 0; m < M; m++) {
        assert_bits(c + m * g->ldc, g->want + m * g->N, g->N, "%s: M %lld, N %lld, K %lld, row %lld",
                    t->name, (long long)M, (long long)g->N, (long long)g->K, (long long)m);
        for (int64_t n = g->N; n < g->ldc; n++)
            if (c[m * g->ldc + n] != guard)
                fail_msg("%s: M %lld, N %lld, K %lld: column %lld behind the last was written", t->name,
                         (long long)M, (long long)g->N, (long long)g->K, (long long)n);
    }
    free(c);
}

static void check_shapes(int64_t rows_from, int64_t rows_to, const int64_t *Ns, int n_N, const int64_t *Ks,
                         int n_K)
{
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int i = 0; i < n_N; i++)
        for (int j = 0; j < n_K; j++) {
            gemm_case g = make_case(rows_to, Ns[i], Ks[j], Ks[j] + 3);
            for (int k = 0; k < tables; k++)
                for (int64_t M = rows_from; M <= rows_to; M++)
                    for (int cold = 0; cold < 2; cold++)
                        check_product(t[k], &g, M, cold);
            free_case(&g);
        }
}

static void gemm_has_the_bits_of_the_contract_for_1_to_30_rows(void **state)
{
    (void)state;
    static const int64_t N[] = {1, 15, 16, 17, 40, 100}, K[] = {1, 7, 64, 255, 256, 257};
    check_shapes(1, MAX_ROWS, N, COUNT(N), K, COUNT(K));
}

static void gemm_adds_blocks_of_256_in_order(void **state)
{
    (void)state;
    static const int64_t N[] = {3, 33, 64}, K[] = {511, 512, 513, 769, 1536};
    check_shapes(1, 7, N, COUNT(N), K, COUNT(K));
}

/* Rows that lie a multiple of 256 apart go through a copy, 96 of them at a time. */
static void gemm_copies_rows_that_compete_for_the_cache(void **state)
{
    (void)state;
    static const int64_t K[] = {200, 256, 600}, lda[] = {256, 512, 768}, M[] = {4, 13, 96, 97};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (size_t i = 0; i < COUNT(K); i++) {
        gemm_case g = make_case(M[COUNT(M) - 1], 40, K[i], lda[i]);
        for (int k = 0; k < tables; k++)
            for (size_t m = 0; m < COUNT(M); m++)
                check_product(t[k], &g, M[m], 0);
        free_case(&g);
    }
}

#if REF_BITS == 32
/* N x K weights in a format with codes; every fifth block of scales is negative, every seventh minimum zero. */
static kv_tensor make_codes(int32_t dtype, int64_t N, int64_t K)
{
    const int64_t blocks = N * K / 32, bytes = kv_dtype_block_bytes(dtype);
    uint8_t *b = malloc((size_t)(blocks * bytes));
    assert_non_null(b);
    for (int64_t i = 0; i < blocks * bytes; i++)
        b[i] = (uint8_t)kv_splitmix64((uint64_t)i);
    for (int64_t i = 0; i < blocks; i++) {
        const uint16_t d = kv_f2f16((float)naive_random(3, i) * (i % 5 ? 0.01f : -0.01f));
        const uint16_t m = kv_f2f16(i % 7 ? (float)naive_random(4, i) * -0.1f : 0.0f);
        memcpy(b + i * bytes, &d, sizeof d);
        if (kv_dtype_has_min(dtype)) memcpy(b + i * bytes + 2, &m, sizeof m);
    }
    return (kv_tensor){.data = b, .n_bytes = (uint64_t)(blocks * bytes), .rows = N, .cols = K, .dtype = dtype};
}

static void check_codes(int32_t dtype, int64_t N, int64_t K)
{
    enum { M = 3 };
    const kv_tensor w = make_codes(dtype, N, K);
    const int64_t panels = (N + 15) / 16;
    ref_code_block *codes = malloc((size_t)(panels * (K / 32)) * sizeof *codes);
    float *wide = malloc((size_t)(N * K) * sizeof *wide);
    real *a = naive_randoms(9, M * K), want[M * 100], got[M * 100];
    assert_true(codes && wide && N <= 100);
    kv_tensor_rows_f32(&w, 0, N, wide);
    naive_gemm(a, M, K, wide, N, want);
    float *packed = pack(wide, N, K);
    for (int64_t p = 0; p < panels; p++)
        ref_pack_codes(&w, 16 * p, codes + p * (K / 32));
    memset(packed, 0xff, (size_t)(N / 16 * 16 * K) * sizeof *packed); /* full panels come from the codes */
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int k = 0; k < tables; k++)
        for (int m = 1; m <= M; m++) {
            const ref_gemm_job job = {.a = a, .lda = K, .m = m, .k = K, .panels = packed, .codes = codes,
                                      .has_min = kv_dtype_has_min(dtype), .n = N, .c = got, .ldc = N};
            t[k]->gemm(&job);
            assert_bits(got, want, m * N, "%s: %s, %d rows, N %lld, K %lld", t[k]->name, kv_dtype_name(dtype), m,
                        (long long)N, (long long)K);
        }
    free((void *)(uintptr_t)w.data);
    free(codes);
    free(wide);
    free(a);
    free(packed);
}

static void few_rows_times_codes_are_the_same_bits(void **state)
{
    (void)state;
    static const int32_t formats[] = {KV_DTYPE_Q4_0, KV_DTYPE_Q4_1, KV_DTYPE_Q8_0};
    static const int64_t N[] = {5, 16, 48, 64, 100}, K[] = {32, 256, 288, 576};
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t n = 0; n < COUNT(N); n++)
            for (size_t k = 0; k < COUNT(K); k++)
                check_codes(formats[f], N[n], K[k]);
}
#endif

/* 16 panels and 96 rows are blocked for the cache: shapes on both sides of these limits. */
static void gemm_crosses_its_cache_blocks(void **state)
{
    (void)state;
    static const int64_t N[] = {255, 256, 257, 600}, K[] = {65, 300};
    check_shapes(1, 3, N, COUNT(N), K, COUNT(K));
    static const int64_t narrow[] = {17, 272}, short_K[] = {20, 258};
    check_shapes(95, 98, narrow, COUNT(narrow), short_K, COUNT(short_K));
}

/* If the inputs could not tell the orders apart, the tests above would prove nothing. */
static void gemm_inputs_tell_a_wrong_order_from_the_right_one(void **state)
{
    (void)state;
    real *x = naive_randoms(11, 600);
    float *w = naive_weights(12, 16 * 600);
    int others = 0;
    for (int n = 0; n < 16; n++) {
        const real right = naive_dot(x, w + n * 600, 600, 256);
        others += naive_bits_of(right) != naive_bits_of(naive_dot(x, w + n * 600, 600, 128));
        others += naive_bits_of(right) != naive_bits_of(naive_dot(x, w + n * 600, 600, 600));
    }
    assert_true(others > 16);
    free(x);
    free(w);
}

/* Signed zeros, subnormal products and results that overflow are ordinary numbers of the contract. */
static void gemm_keeps_zeros_subnormals_and_overflow(void **state)
{
    (void)state;
    enum { K = 260, N = 18, M = 3 };
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    real a[M * K], want[M * N], got[M * N];
    float w[N * K];
    for (int k = 0; k < K; k++) {
        a[k] = (real)-0.0;                              /* a row of -0: +0 results */
        a[K + k] = (real)0x1p-70f * naive_random(1, k); /* subnormal products in fp32 */
        a[2 * K + k] = (real)0x1p120f;                  /* overflows in fp32 */
    }
    for (int i = 0; i < N * K; i++)
        w[i] = (i / K % 2 ? 0x1p-66f : 0x1p20f) * (1 + (float)naive_random(2, i) * 0x1p-6f);
    naive_gemm(a, M, K, w, N, want);
    float *p = pack(w, N, K);
    for (int k = 0; k < tables; k++) {
        const ref_gemm_job job = {.a = a, .lda = K, .m = M, .k = K, .panels = p, .n = N, .c = got, .ldc = N};
        t[k]->gemm(&job);
        assert_bits(got, want, M * N, "%s", t[k]->name);
    }
    assert_true(naive_bits_of(want[0]) == 0);
#if REF_BITS == 32
    int subnormal = 0;
    for (int n = 0; n < N; n++)
        subnormal += want[N + n] != 0 && want[N + n] < 0x1p-126f && want[N + n] > -0x1p-126f;
    assert_true(subnormal > 0);
    assert_false(kv_is_finite(want[2 * N]));
#endif
    free(p);
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_has_the_bits_of_the_contract_for_1_to_30_rows),
        cmocka_unit_test(gemm_adds_blocks_of_256_in_order),
        cmocka_unit_test(gemm_crosses_its_cache_blocks),
        cmocka_unit_test(gemm_copies_rows_that_compete_for_the_cache),
        cmocka_unit_test(few_rows_times_codes_are_the_same_bits),
        cmocka_unit_test(gemm_inputs_tell_a_wrong_order_from_the_right_one),
        cmocka_unit_test(gemm_keeps_zeros_subnormals_and_overflow),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
