/* kernels_rows.h - sums of the backward pass along rows and along tokens. A part of ref/kernels.c. */
#ifndef KV_REF_TRAIN_KERNELS_ROWS_H
#define KV_REF_TRAIN_KERNELS_ROWS_H

#include "ref/train/kernels.h"

static double squares(const real *x, int64_t n, double acc)
{
    for (int64_t i = 0; i < n; i++)
        acc = kv_dfma((double)x[i], (double)x[i], acc);
    return acc;
}

static void rms_back(const real *dy, const real *y, real r, int64_t n, real *dx)
{
    const real c = dot(dy, y, n) / (real)n;
    const v16 vr = v_set1(r), vc = v_set1(c);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(dx + i, v_mul(vr, v_sub(v_load(dy + i), v_mul(v_load(y + i), vc))));
    for (; i < n; i++)
        dx[i] = r * (dy[i] - y[i] * c);
}

static void square_relu_back(const real *f, int64_t n, real slope, real *d)
{
    int64_t i = 0;
    const v16 one = v_set1(1), vs = v_set1(slope), two = v_set1(2);
    for (; i + 16 <= n; i += 16) {
        const v16 x = v_load(f + i), s = v_above(x, one, vs), g = v_mul(v_load(d + i), v_mul(two, v_mul(s, x)));
        v_store(d + i, slope == 0 ? v_above(x, g, v_zero()) : v_mul(g, s));
    }
    for (; i < n; i++) {
        const real s = f[i] > 0 ? 1 : slope, g = d[i] * (2 * (s * f[i]));
        d[i] = slope == 0 && !(f[i] > 0) ? 0 : g * s;
    }
}

/* p = exp(x - max) / sum, then the rest of the gradient of a row without its target. */
static void loss_back(const ref_loss_job *j, const real *logits, real max, real sum)
{
    int64_t i = 0;
    const v16 vmax = v_set1(max), vsum = v_set1(sum), share = v_set1(j->share), one = v_set1(1);
    for (; i + 16 <= j->n; i += 16) {
        v16 g = v_mul(v_div(v_exp(v_sub(v_load(logits + i), vmax)), vsum), share);
        if (j->cap != 0) {
            const v16 t = v_load(j->bent + i);
            g = v_mul(g, v_sub(one, v_mul(t, t)));
        }
        v_store(j->z + i, g);
    }
    for (; i < j->n; i++) {
        const real g = r_exp(logits[i] - max) / sum * j->share;
        j->z[i] = j->cap != 0 ? g * (1 - j->bent[i] * j->bent[i]) : g;
    }
}

static real loss_row(const ref_loss_job *j)
{
    const real *logits = j->z;
    for (int64_t i = 0; j->cap != 0 && i < j->n; i++) {
        j->bent[i] = r_tanh(j->z[i] / j->cap);
        j->logits[i] = j->cap * j->bent[i];
    }
    if (j->cap != 0) logits = j->logits;
    const real max = exact_max(logits, j->n), at = logits[j->target];
    real sum = 0;
    for (int64_t b = 0; b < j->n; b += REF_VB)
        sum = sum + exp_sum(logits + b, ref_min(REF_VB, j->n - b), max);
    const real loss = r_log(sum) - (at - max);
    if (!j->gradients) return loss;
    const real g = (r_exp(at - max) / sum - 1) * j->share;
    loss_back(j, logits, max, sum);
    j->z[j->target] = j->cap != 0 ? g * (1 - j->bent[j->target] * j->bent[j->target]) : g;
    return loss;
}

/* Columns c .. c+15 in registers, block by block. */
INLINE void channel_sums_16(const real *a, int64_t lda, const real *b, int64_t ldb, int64_t rows, real *out)
{
    v16 total = v_zero();
    for (int64_t t0 = 0; t0 < rows; t0 += REF_TB) {
        v16 acc = v_zero();
        const int64_t end = ref_min(t0 + REF_TB, rows);
        for (int64_t t = t0; t < end; t++)
            acc = b ? v_fma(v_load(a + t * lda), v_load(b + t * ldb), acc) : v_add(acc, v_load(a + t * lda));
        total = t0 ? v_add(total, acc) : acc;
    }
    v_store(out, total);
}

static void channel_sums(const real *a, int64_t lda, const real *b, int64_t ldb, int64_t rows, int64_t width, real *out)
{
    int64_t c = 0;
    for (; c + 16 <= width; c += 16)
        channel_sums_16(a + c, lda, b ? b + c : NULL, ldb, rows, out + c);
    for (; c < width; c++) {
        real total = 0;
        for (int64_t t0 = 0; t0 < rows; t0 += REF_TB) {
            real acc = 0;
            const int64_t end = ref_min(t0 + REF_TB, rows);
            for (int64_t t = t0; t < end; t++)
                acc = b ? r_fma(a[t * lda + c], b[t * ldb + c], acc) : acc + a[t * lda + c];
            total = t0 ? total + acc : acc;
        }
        out[c] = total;
    }
}

#endif
