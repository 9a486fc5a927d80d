#include "difftest/locate_calc.h"

#include "common/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KB = 256 }; /* docs/numerics.md, section 1 */

kv_status dt_calc_product(const kv_model *m, kv_role role, int32_t layer, const float *x, float *y)
{
    const kv_tensor *t = kv_model_tensor(m, role, layer);
    float *w = malloc((size_t)t->cols * sizeof *w);
    if (!w) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int64_t r = 0; r < t->rows; r++) {
        float total = 0;
        kv_tensor_rows_f32(t, r, 1, w);
        for (int64_t k0 = 0; k0 < t->cols; k0 += KB) {
            float acc = 0;
            for (int64_t k = k0; k < t->cols && k < k0 + KB; k++)
                acc = kv_fma(x[k], w[k], acc);
            total = k0 ? kv_add(total, acc) : acc;
        }
        y[r] = total;
    }
    free(w);
    return KV_OK;
}

double dt_row_error(const float *ref, const float *got, int64_t n)
{
    double size = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(ref[i]) && !isfinite(got[i])) return (double)INFINITY;
        size += (double)ref[i] * (double)ref[i];
        most = fmax(most, fabs((double)ref[i] - (double)got[i]));
    }
    return size > 0 ? most / sqrt(size / (double)n) : most > 0 ? (double)INFINITY : 0;
}

/* Numbers in their order: -0 and +0 are one apart from their neighbours, not from each other. */
static int64_t rank(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? -(int64_t)(bits & 0x7fffffff) : bits;
}

int64_t dt_ulps(float a, float b)
{
    const int64_t d = rank(a) - rank(b);
    return d < 0 ? -d : d;
}

int64_t dt_row_differing(const float *ref, const float *got, int64_t n)
{
    int64_t differ = 0;
    for (int64_t i = 0; i < n; i++)
        differ += memcmp(&ref[i], &got[i], sizeof *ref) != 0;
    return differ;
}

static double length(float x, float y)
{
    return sqrt((double)x * (double)x + (double)y * (double)y);
}

double dt_turned(const float *ref, const float *got, int64_t pairs, int half)
{
    double across = 0, all = 0;
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t a = half ? i : 2 * i, b = half ? i + pairs : 2 * i + 1;
        const double before = length(ref[a], ref[b]), after = length(got[a], got[b]);
        const double da = (double)got[a] - (double)ref[a], db = (double)got[b] - (double)ref[b];
        all += da * da + db * db;
        across += (after - before) * (after - before);
    }
    return all > 0 ? 1 - across / all : 0;
}
