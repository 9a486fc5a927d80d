/* Sums and attention of the backward pass: every bit against plain loops written from docs/training.md, for every
 * instruction set of this CPU. test_train_kernels64.c runs the same cases in double. */
#include "tests/unit/trainkit.h"

static real naive_r64(const real *a, const real *b, int64_t n)
{
    real lane[64] = {0};
    for (int64_t i = 0; i < n; i++)
        lane[i % 64] = NAIVE_FMA(a[i], b[i], lane[i % 64]);
    return naive_tree64(lane);
}

static void dots_and_norms_back(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 7, 16, 31, 64, 65, 96, 128, 200};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int i = 0; i < COUNT(sizes); i++) {
        const int64_t n = sizes[i];
        real *dy = naive_randoms(1, n), *y = naive_randoms(2, n), *want = naive_randoms(3, n), *got = naive_randoms(4, n);
        const real r = (real)1.25, dot = naive_r64(dy, y, n), c = dot / (real)n;
        double squares = 0.5;
        for (int64_t j = 0; j < n; j++) {
            const real yc = y[j] * c, d = dy[j] - yc;
            want[j] = r * d;
            squares = kv_dfma((double)y[j], (double)y[j], squares);
        }
        for (int k = 0; k < tables; k++) {
            const ref_train_kernels *tk = t[k]->train;
            const real d = t[k]->dot(dy, y, n);
            assert_bits(&d, &dot, 1, "%s: dot of %lld", t[k]->name, (long long)n);
            assert_true(tk->squares(y, n, 0.5) == squares);
            tk->rms_back(dy, y, r, n, got);
            assert_bits(got, want, n, "%s: rms_back of %lld", t[k]->name, (long long)n);
            memcpy(got, dy, (size_t)n * sizeof *got);
            tk->rms_back(got, y, r, n, got);
            assert_bits(got, want, n, "%s: rms_back in place", t[k]->name);
        }
        free(dy);
        free(y);
        free(want);
        free(got);
    }
}

static void channel_sums_in_blocks_of_256_tokens(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {3, 16}, {255, 5}, {256, 17}, {257, 33}, {600, 40}};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int i = 0; i < COUNT(shapes); i++)
        for (int products = 0; products < 2; products++) {
            const int64_t rows = shapes[i][0], width = shapes[i][1], lda = width + 3, ldb = width;
            real *a = naive_randoms(1, rows * lda), *b = naive_randoms(2, rows * ldb), want[40], got[40];
            for (int64_t c = 0; c < width; c++) {
                real total = 0;
                for (int64_t t0 = 0; t0 < rows; t0 += 256) {
                    real acc = 0;
                    for (int64_t r = t0; r < rows && r < t0 + 256; r++)
                        acc = products ? NAIVE_FMA(a[r * lda + c], b[r * ldb + c], acc) : acc + a[r * lda + c];
                    total = t0 == 0 ? acc : total + acc;
                }
                want[c] = total;
            }
            for (int k = 0; k < tables; k++) {
                t[k]->train->channel_sums(a, lda, products ? b : NULL, ldb, rows, width, got);
                assert_bits(got, want, width, "%s: %lld x %lld", t[k]->name, (long long)rows, (long long)width);
            }
            free(a);
            free(b);
        }
}

/* ---- attention --------------------------------------------------------------------------------------------- */

typedef struct shape {
    int64_t n, D;
} shape;

/* Rows of n, padded to 16 columns. */
static real *padded_rows(uint64_t seed, int64_t n, int64_t D, int64_t dv)
{
    real *x = calloc((size_t)(n * dv), sizeof *x);
    assert_non_null(x);
    for (int64_t t = 0; t < n; t++)
        for (int64_t d = 0; d < D; d++)
            x[t * dv + d] = naive_random(seed, t * D + d) * 4;
    return x;
}

static real *panels_of(const real *rows, int64_t n, int64_t D, int64_t dv)
{
    const int64_t up = (n + 31) / 32 * 32;
    real *p = calloc((size_t)(up * D), sizeof *p);
    assert_non_null(p);
    for (int64_t t = 0; t < n; t++)
        for (int64_t d = 0; d < D; d++)
            p[(t / 16 * D + d) * 16 + t % 16] = rows[t * dv + d];
    return p;
}

static real chain(const real *a, const real *b, int64_t D)
{
    real acc = 0;
    for (int64_t d = 0; d < D; d++)
        acc = NAIVE_FMA(a[d], b[d], acc);
    return acc;
}

/* Softmax of row r over keys 0 .. r, as the forward pass combines it. */
static void naive_row(const real *q, const real *k, int64_t r, int64_t D, int64_t dv, real *s, real *max, real *sum)
{
    real m[8], M, L = 0;
    for (int64_t t = 0; t <= r; t++)
        s[t] = chain(q + r * dv, k + t * dv, D);
    M = naive_max(s, r + 1);
    for (int64_t c = 0; c <= r / 256; c++) {
        const int64_t end = r + 1 < 256 * (c + 1) ? r + 1 : 256 * (c + 1);
        real l = 0;
        m[c] = naive_max(s + 256 * c, end - 256 * c);
        for (int64_t t = 256 * c; t < end; t++)
            l = l + NAIVE_EXP(s[t] - m[c]);
        L = NAIVE_FMA(l, NAIVE_EXP(m[c] - M), L);
    }
    *max = M;
    *sum = L;
}

typedef struct naive_back {
    real *p, *ds; /* [n][n] by row and key */
    real *max, *sum, *dq, *dk, *dv;
} naive_back;

static void naive_rows_back(const real *q, const real *k, const real *v, const real *dout, shape s, int64_t dv, real scale,
                            naive_back *b)
{
    for (int64_t r = 0; r < s.n; r++) {
        real *p = b->p + r * s.n, *ds = b->ds + r * s.n, rho = 0;
        naive_row(q, k, r, s.D, dv, p, &b->max[r], &b->sum[r]);
        for (int64_t t0 = 0; t0 <= r; t0 += 256) {
            real acc = 0;
            for (int64_t t = t0; t <= r && t < t0 + 256; t++) {
                p[t] = NAIVE_EXP(p[t] - b->max[r]) / b->sum[r];
                ds[t] = chain(dout + r * dv, v + t * dv, s.D);
                acc = NAIVE_FMA(ds[t], p[t], acc);
            }
            rho = t0 == 0 ? acc : rho + acc;
        }
        for (int64_t t = 0; t <= r; t++) {
            const real d = ds[t] - rho;
            ds[t] = p[t] * d;
        }
        for (int64_t d = 0; d < s.D; d++) {
            real total = 0;
            for (int64_t t0 = 0; t0 <= r; t0 += 256) {
                real acc = 0;
                for (int64_t t = t0; t <= r && t < t0 + 256; t++)
                    acc = NAIVE_FMA(ds[t], k[t * dv + d], acc);
                total = t0 == 0 ? acc : total + acc;
            }
            b->dq[r * s.D + d] = total * scale;
        }
    }
}

/* Queries from t on, in blocks of 256 positions of the sequence. */
static real key_chain(const real *weight, const real *rows, shape s, int64_t t, int64_t ld)
{
    real total = 0;
    for (int64_t b = t / 256; b * 256 < s.n; b++) {
        real acc = 0;
        for (int64_t r = b * 256 > t ? b * 256 : t; r < s.n && r < (b + 1) * 256; r++)
            acc = NAIVE_FMA(weight[r * s.n + t], rows[r * ld], acc);
        total = b == t / 256 ? acc : total + acc;
    }
    return total;
}

static real *zeros(int64_t n)
{
    real *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

static void check_attention(shape s, int flat)
{
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    const int64_t n = s.n, D = s.D, dv = (D + 15) / 16 * 16, up = (n + 31) / 32 * 32;
    real *q = padded_rows(11, n, D, dv), *k = padded_rows(12, n, D, dv), *v = padded_rows(13, n, D, dv);
    real *dout = flat ? zeros(n * dv) : padded_rows(14, n, D, dv);
    real *qp = panels_of(q, n, D, dv), *dp = panels_of(dout, n, D, dv), *kc = zeros(D * n);
    naive_back b = {zeros(n * n), zeros(n * n), zeros(up), zeros(up), zeros(n * D), zeros(n * dv), zeros(n * dv)};
    real *dq = zeros(n * D), *dk = zeros(n * dv), *dvs = zeros(n * dv), *scratch = zeros(REF(attn_back_scratch)(n, D));
    const real scale = (real)0.25;
    naive_rows_back(q, k, v, dout, s, dv, scale, &b);
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < D; d++) {
            kc[d * n + i] = k[i * dv + d];
            b.dk[i * dv + d] = key_chain(b.ds, q + d, s, i, dv);
            b.dv[i * dv + d] = key_chain(b.p, dout + d, s, i, dv);
        }
    for (int64_t i = n; i < up; i++)
        b.sum[i] = 1;
    for (int i = 0; i < tables; i++) {
        const ref_attn_back_job job = {.n = n, .head_dim = D, .q = qp, .dout = dp, .q_rows = q, .dout_rows = dout, .k = k,
                                       .v = v, .k_cols = kc, .max = b.max, .sum = b.sum, .scale = scale, .dq = dq, .dk = dk,
                                       .dv = dvs, .scratch = scratch};
        t[i]->train->attn_back(&job);
        assert_bits(dq, b.dq, n * D, "%s: dq, %lld tokens of %lld", t[i]->name, (long long)n, (long long)D);
        for (int64_t x = 0; x < n; x++) {
            assert_bits(dk + x * dv, b.dk + x * dv, D, "%s: dk of key %lld of %lld", t[i]->name, (long long)x, (long long)n);
            assert_bits(dvs + x * dv, b.dv + x * dv, D, "%s: dv of key %lld of %lld", t[i]->name, (long long)x, (long long)n);
        }
    }
    real *all[] = {q, k, v, dout, qp, dp, kc, b.p, b.ds, b.max, b.sum, b.dq, b.dk, b.dv, dq, dk, dvs, scratch};
    for (int i = 0; i < COUNT(all); i++)
        free(all[i]);
}

static void attention_back_has_the_bits_of_the_contract(void **state)
{
    (void)state;
    static const shape shapes[] = {{1, 16}, {2, 16}, {31, 16}, {32, 32}, {33, 24}, {95, 16}, {100, 64}, {257, 16}, {530, 32}, {300, 40}};
    for (int i = 0; i < COUNT(shapes); i++)
        check_attention(shapes[i], 0);
    check_attention((shape){70, 32}, 1);
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dots_and_norms_back),
        cmocka_unit_test(channel_sums_in_blocks_of_256_tokens),
        cmocka_unit_test(attention_back_has_the_bits_of_the_contract),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
