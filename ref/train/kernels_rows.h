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

static real dot64(const real *a, const real *b, int64_t n)
{
    real lanes[REF_L];
    v16 acc[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i = 0;
    for (; i + REF_L <= n; i += REF_L)
        for (int j = 0; j < 4; j++)
            acc[j] = v_fma(v_load(a + i + 16 * j), v_load(b + i + 16 * j), acc[j]);
    for (int j = 0; j < 4; j++)
        v_store(lanes + 16 * j, acc[j]);
    for (int j = 0; i < n; i++, j++)
        lanes[j] = r_fma(a[i], b[i], lanes[j]);
    return tree64(lanes);
}

static void rms_back(const real *dy, const real *y, real r, int64_t n, real *dx)
{
    const real c = dot64(dy, y, n) / (real)n;
    const v16 vr = v_set1(r), vc = v_set1(c);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(dx + i, v_mul(vr, v_sub(v_load(dy + i), v_mul(v_load(y + i), vc))));
    for (; i < n; i++)
        dx[i] = r * (dy[i] - y[i] * c);
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
