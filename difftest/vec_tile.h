/* vec_tile.h - sixteen doubles in whatever registers the instruction set offers: four values of
 * four vocabulary blocks, or sixteen values in a row. Every operation is lane by lane and rounded
 * once, so the tables of vec_metrics.c agree to the bit. Included by vec_metrics.c only, once per
 * instruction set (VM_ISA_scalar, VM_ISA_avx2), which also names the TABLE. */
#ifndef KV_DIFFTEST_VEC_TILE_H
#define KV_DIFFTEST_VEC_TILE_H

#include "common/math.h"
#include "difftest/vec_metrics.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

enum { LANES = 4 };

#if defined(VM_ISA_avx2) /* one ymm per value of the tile */
#    include <immintrin.h>
#    define TABLE      dt_vec_metrics_avx2
#    define TABLE_NAME "avx2"
typedef __m256d lanes;
typedef struct tile {
    __m256d a, b, c, d; /* value i, i + 1, i + 2, i + 3 of each block */
} tile;
#    define EACH(f, x, y)  ((tile){f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)})
#    define EACH1(f, x, y) ((tile){f(x.a, y), f(x.b, y), f(x.c, y), f(x.d, y)})

INLINE lanes lanes_zero(void)
{
    return _mm256_setzero_pd();
}
INLINE void lanes_store(double *p, lanes v)
{
    _mm256_storeu_pd(p, v);
}
INLINE tile tile_sub(tile x, tile y)
{
    return EACH(_mm256_sub_pd, x, y);
}
INLINE tile tile_mul(tile x, tile y)
{
    return EACH(_mm256_mul_pd, x, y);
}
INLINE tile tile_sub1(tile x, double y)
{
    const __m256d v = _mm256_set1_pd(y);
    return EACH1(_mm256_sub_pd, x, v);
}
INLINE tile tile_abs(tile x)
{
    const __m256d v = _mm256_set1_pd(-0.0);
    return (tile){_mm256_andnot_pd(v, x.a), _mm256_andnot_pd(v, x.b), _mm256_andnot_pd(v, x.c),
                  _mm256_andnot_pd(v, x.d)};
}

/* (((acc + value i) + value i + 1) + ...) in every lane */
INLINE lanes lanes_add(lanes acc, tile x)
{
    acc = _mm256_add_pd(_mm256_add_pd(acc, x.a), x.b);
    return _mm256_add_pd(_mm256_add_pd(acc, x.c), x.d);
}
INLINE lanes lanes_max(lanes acc, tile x)
{
    acc = _mm256_max_pd(acc, _mm256_max_pd(x.a, x.b));
    return _mm256_max_pd(acc, _mm256_max_pd(x.c, x.d));
}

/* x * y + c with a constant c, and c * x + y with a constant c */
INLINE tile fma_c(tile x, tile y, double c)
{
    const __m256d v = _mm256_set1_pd(c);
    return (tile){_mm256_fmadd_pd(x.a, y.a, v), _mm256_fmadd_pd(x.b, y.b, v),
                  _mm256_fmadd_pd(x.c, y.c, v), _mm256_fmadd_pd(x.d, y.d, v)};
}
INLINE tile fma_by(tile x, double c, tile y)
{
    const __m256d v = _mm256_set1_pd(c);
    return (tile){_mm256_fmadd_pd(x.a, v, y.a), _mm256_fmadd_pd(x.b, v, y.b),
                  _mm256_fmadd_pd(x.c, v, y.c), _mm256_fmadd_pd(x.d, v, y.d)};
}

/* 2^k from t = 1.5 * 2^52 + k, or 0 where x < -708. Only the low 12 bits of k survive the shift to
 * the exponent, so the bits of t serve as they are. */
INLINE __m256d scale_of(__m256d t, __m256d x)
{
    const __m256i k = _mm256_slli_epi64(_mm256_castpd_si256(t), 52);
    const __m256i bits = _mm256_add_epi64(k, _mm256_set1_epi64x(INT64_C(1023) << 52));
    const __m256d underflow = _mm256_cmp_pd(x, _mm256_set1_pd(-708.0), _CMP_LT_OQ);
    return _mm256_andnot_pd(underflow, _mm256_castsi256_pd(bits));
}

/* kv_dexp, operation by operation. Arguments below -708 are lifted to it, so that 0 is multiplied
 * by something finite. */
INLINE tile tile_exp(tile x)
{
    const __m256d least = _mm256_set1_pd(-708.0), magic = _mm256_set1_pd(6755399441055744.0);
    const tile y = EACH1(_mm256_max_pd, x, least);
    const tile m = {magic, magic, magic, magic};
    const tile t = fma_by(y, 0x1.71547652b82fep0, m);
    const tile n = EACH1(_mm256_sub_pd, t, magic);
    const tile scale = EACH(scale_of, t, x);
    tile r = fma_by(n, -0x1.62e42fefap-1, y);
    r = fma_by(n, -0x1.cf79abc9e3b3ap-40, r);
    const __m256d top = _mm256_set1_pd(0x1.adfaef07246ffp-26);
    tile q = {top, top, top, top};
    q = fma_c(q, r, 0x1.28b151c0efe3cp-22);
    q = fma_c(q, r, 0x1.71ded7a603ad9p-19);
    q = fma_c(q, r, 0x1.a019956e9b276p-16);
    q = fma_c(q, r, 0x1.a01a014d18fa9p-13);
    q = fma_c(q, r, 0x1.6c16c1861a06p-10);
    q = fma_c(q, r, 0x1.111111112149fp-7);
    q = fma_c(q, r, 0x1.555555554fddcp-5);
    q = fma_c(q, r, 0x1.5555555555514p-3);
    q = fma_c(q, r, 0x1.000000000000cp-1);
    q = fma_c(q, r, 1.0);
    q = fma_c(q, r, 1.0);
    return tile_mul(q, scale);
}

INLINE tile tile_load(const float *p)
{
    __m128 r0 = _mm_loadu_ps(p), r1 = _mm_loadu_ps(p + DT_VOCAB_BLOCK),
           r2 = _mm_loadu_ps(p + 2 * DT_VOCAB_BLOCK), r3 = _mm_loadu_ps(p + 3 * DT_VOCAB_BLOCK);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    return (tile){_mm256_cvtps_pd(r0), _mm256_cvtps_pd(r1), _mm256_cvtps_pd(r2),
                  _mm256_cvtps_pd(r3)};
}

/* sixteen consecutive values */
INLINE tile tile_load_run(const float *p)
{
    return (tile){_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4)),
                  _mm256_cvtps_pd(_mm_loadu_ps(p + 8)), _mm256_cvtps_pd(_mm_loadu_ps(p + 12))};
}
INLINE void tile_store(double *p, tile x)
{
    _mm256_storeu_pd(p, x.a);
    _mm256_storeu_pd(p + 4, x.b);
    _mm256_storeu_pd(p + 8, x.c);
    _mm256_storeu_pd(p + 12, x.d);
}

INLINE tile tile_from(double v[4][LANES])
{
    return (tile){_mm256_loadu_pd(v[0]), _mm256_loadu_pd(v[1]), _mm256_loadu_pd(v[2]),
                  _mm256_loadu_pd(v[3])};
}
#else /* plain C: the written definition */
#    define TABLE      dt_vec_metrics_scalar
#    define TABLE_NAME "scalar"
typedef struct lanes {
    double v[LANES];
} lanes;
typedef struct tile {
    double v[4][LANES]; /* value i, i + 1, i + 2, i + 3 of each block */
} tile;
#    define EACH(expr)                      \
        tile o;                             \
        for (int j = 0; j < 4; j++)         \
            for (int b = 0; b < LANES; b++) \
                o.v[j][b] = (expr);         \
        return o
INLINE lanes lanes_zero(void)
{
    return (lanes){{0}};
}
INLINE void lanes_store(double *p, lanes a)
{
    memcpy(p, a.v, sizeof a.v);
}
INLINE tile tile_sub(tile x, tile y)
{
    EACH(x.v[j][b] - y.v[j][b]);
}
INLINE tile tile_mul(tile x, tile y)
{
    EACH(x.v[j][b] * y.v[j][b]);
}
INLINE tile tile_sub1(tile x, double y)
{
    EACH(x.v[j][b] - y);
}
INLINE tile tile_abs(tile x)
{
    EACH(__builtin_fabs(x.v[j][b]));
}
INLINE tile tile_exp(tile x)
{
    EACH(kv_dexp(x.v[j][b]));
}
INLINE tile tile_load(const float *p)
{
    EACH((double)p[b * DT_VOCAB_BLOCK + j]);
}
INLINE tile tile_from(double v[4][LANES])
{
    EACH(v[j][b]);
}
INLINE tile tile_load_run(const float *p)
{
    EACH((double)p[LANES * j + b]);
}
INLINE void tile_store(double *p, tile x)
{
    memcpy(p, x.v, sizeof x.v);
}
INLINE lanes lanes_add(lanes acc, tile x)
{
    for (int j = 0; j < 4; j++)
        for (int b = 0; b < LANES; b++)
            acc.v[b] += x.v[j][b];
    return acc;
}
INLINE lanes lanes_max(lanes acc, tile x)
{
    for (int j = 0; j < 4; j++)
        for (int b = 0; b < LANES; b++)
            if (x.v[j][b] > acc.v[b]) acc.v[b] = x.v[j][b];
    return acc;
}
#    undef EACH
#endif

#endif
