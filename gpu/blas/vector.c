/* vector.c - loops that are not matrix products, written so that compilers vectorise them, once for
 * the baseline instruction set and once for AVX2. The one file of the project where the compiler
 * may contract a product and a sum: the side promises a bound, not bits. */
#include "gpu/blas/blas.h"

#include "common/math.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 }; /* partial results of a reduction */

/* exp by 2^k * e^r with |r| <= ln(2)/2 and the first eight terms of the series of e^r, which leave
 * r^8/8! < 6e-9 of the value. Below e^-87 the result is 0. */
INLINE float exp_series(float x)
{
    const float c = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float t = c * 1.44269504f + 12582912.0f; /* 1.5 * 2^23 rounds to an integer */
    const float n = t - 12582912.0f;
    const float r = (c - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
    float y = 1.0f / 5040;
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    const uint32_t k = (uint32_t)kv_f2bits(t) - 0x4B400000u;
    const float e = y * kv_bits2f((int32_t)((k + 127) << 23));
    return x < -87.0f ? 0.0f : e;
}

INLINE float fold_sum(const float *lane)
{
    float sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

INLINE float exp_sum_body(float *x, int64_t n, float max)
{
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            x[i + j] = exp_series(x[i + j] - max);
            lane[j] += x[i + j];
        }
    for (; i < n; i++) {
        x[i] = exp_series(x[i] - max);
        lane[0] += x[i];
    }
    return fold_sum(lane);
}

INLINE float max_body(const float *x, int64_t n)
{
    float lane[LANES], most = x[0];
    int64_t i = 0;
    for (int j = 0; j < LANES; j++)
        lane[j] = most;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (int j = 0; j < LANES; j++)
        most = lane[j] > most ? lane[j] : most;
    return most;
}

INLINE void swiglu_body(const float *g, const float *u, int64_t n, float *h)
{
    for (int64_t i = 0; i < n; i++)
        h[i] = g[i] * u[i] / (1.0f + exp_series(-g[i]));
}

INLINE void rmsnorm_body(const float *x, const float *gain, int64_t n, float eps, float *y)
{
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    const float r = (float)(1.0 / sqrt(sum / (double)n + (double)eps));
    for (i = 0; i < n; i++)
        y[i] = gain ? x[i] * r * gain[i] : x[i] * r;
}

INLINE void add_body(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

#define TABLE(isa, attribute)                                                                      \
    attribute static float exp_sum_##isa(float *x, int64_t n, float max)                           \
    {                                                                                              \
        return exp_sum_body(x, n, max);                                                            \
    }                                                                                              \
    attribute static float max_##isa(const float *x, int64_t n)                                    \
    {                                                                                              \
        return max_body(x, n);                                                                     \
    }                                                                                              \
    attribute static void swiglu_##isa(const float *g, const float *u, int64_t n, float *h)        \
    {                                                                                              \
        swiglu_body(g, u, n, h);                                                                   \
    }                                                                                              \
    attribute static void rmsnorm_##isa(const float *x, const float *gain, int64_t n, float eps,   \
                                        float *y)                                                  \
    {                                                                                              \
        rmsnorm_body(x, gain, n, eps, y);                                                          \
    }                                                                                              \
    attribute static void add_##isa(float *x, const float *y, int64_t n)                           \
    {                                                                                              \
        add_body(x, y, n);                                                                         \
    }                                                                                              \
    static const blas_vector table_##isa = {exp_sum_##isa, max_##isa, swiglu_##isa, rmsnorm_##isa, \
                                            add_##isa};

TABLE(base, )
#if defined(__x86_64__)
TABLE(avx2, __attribute__((target("avx2,fma"))))
#endif

const blas_vector *blas_vector_find(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &table_avx2;
#endif
    return &table_base;
}
