/* kivi.c - records of docs/policy/kivi.md: groups of values as codes with a scale and a minimum. */
#include "gpu/blas/blas.h"

#include "common/math.h"
#include "common/tile.h"

#include <string.h>

float blas_rint(float y)
{
    const float a = kv_bits2f(kv_f2bits(y) & 0x7fffffff);
    if (!(a < 8388608.0f)) return y;
    const float r = (a + 8388608.0f) - 8388608.0f;
    return kv_f2bits(y) < 0 ? -r : r;
}

void blas_range(const float *x, int64_t stride, int64_t n, float *lo, float *hi)
{
    int32_t least = kv_max_key(x[0]), most = least;
    for (int64_t i = 1; i < n; i++) {
        const int32_t key = kv_max_key(x[i * stride]);
        least = key < least ? key : least;
        most = key > most ? key : most;
    }
    *lo = kv_max_unkey(least);
    *hi = kv_max_unkey(most);
}

/* One group: G values, `stride` apart, become codes first .. first + G - 1 of a row. */
static void encode_group(const float *x, int64_t stride, int32_t G, int32_t bits, uint8_t *codes, int32_t first,
                         float *scale, float *min)
{
    const float n = (float)((1 << bits) - 1);
    float lo, hi;
    blas_range(x, stride, G, &lo, &hi);
    *min = lo;
    *scale = (hi - lo) / n;
    for (int32_t i = 0; i < G; i++) {
        const float q = *scale == 0 ? 0.0f : (x[i * stride] - lo) / *scale;
        kv_code_put(codes, first + i, bits, (uint32_t)blas_rint(q > 0 ? q < n ? q : n : 0.0f));
    }
}

static float decode(uint32_t code, float scale, float min)
{
    const float x = (float)code * scale;
    return scale == 0 ? min : x + min;
}

void blas_kivi_encode_k(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record)
{
    (void)v;
    (void)scratch;
    const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, (int32_t)D);
    const int32_t groups = l.R / l.G;
    for (int32_t c = 0; c < l.D; c++)
        for (int32_t g = 0; g < groups; g++) {
            const size_t at = (size_t)(c * groups + g) * sizeof(float);
            float scale, min;
            encode_group(k + (int64_t)g * l.G * D + c, D, l.G, p->kivi.bits, record + c * l.k_row, g * l.G, &scale,
                         &min);
            memcpy(record + l.k_scale + at, &scale, sizeof scale);
            memcpy(record + l.k_min + at, &min, sizeof min);
        }
}

void blas_kivi_decode_k(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v)
{
    (void)v;
    const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, (int32_t)D);
    const int32_t groups = l.R / l.G;
    for (int32_t c = 0; c < l.D; c++)
        for (int32_t t = 0; t < l.R; t++) {
            const size_t at = (size_t)(c * groups + t / l.G) * sizeof(float);
            float scale, min;
            memcpy(&scale, record + l.k_scale + at, sizeof scale);
            memcpy(&min, record + l.k_min + at, sizeof min);
            k[t * D + c] = decode(kv_code_get(record + c * l.k_row, t, p->kivi.bits), scale, min);
        }
}

void blas_kivi_encode_v(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record)
{
    (void)k;
    (void)scratch;
    const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, (int32_t)D);
    for (int32_t g = 0; g < l.D / l.G; g++) {
        float scale, min;
        encode_group(v + g * l.G, 1, l.G, p->kivi.bits, record, g * l.G, &scale, &min);
        memcpy(record + l.v_scale + (size_t)g * sizeof scale, &scale, sizeof scale);
        memcpy(record + l.v_min + (size_t)g * sizeof min, &min, sizeof min);
    }
}

void blas_kivi_decode_v(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v)
{
    (void)k;
    const kv_kivi_layout l = kv_kivi_layout_of(&p->kivi, (int32_t)D);
    for (int32_t c = 0; c < l.D; c++) {
        float scale, min;
        memcpy(&scale, record + l.v_scale + (size_t)(c / l.G) * sizeof scale, sizeof scale);
        memcpy(&min, record + l.v_min + (size_t)(c / l.G) * sizeof min, sizeof min);
        v[c] = decode(kv_code_get(record, c, p->kivi.bits), scale, min);
    }
}
