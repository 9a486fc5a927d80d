/* simd.h - sixteen lanes of `real` in whatever registers the instruction set offers. A lane is always an
 * independent output element, so the width never changes a bit. Included by kernels.c only, once per
 * instruction set (REF_ISA_scalar, REF_ISA_avx2, REF_ISA_avx512). */
#ifndef KV_REF_SIMD_H
#define KV_REF_SIMD_H

#include "ref/real.h"

#define INLINE static inline __attribute__((always_inline, unused))

/* clang unrolls small constant loops by itself; gcc needs to be told at -O2. */
#if defined(__clang__)
#    define UNROLL
#else
#    define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(REF_ISA_avx512) && REF_BITS == 32 && !defined(REF_AVX512_AS_AVX2) /* ---- one zmm ------------------------------------ */
#    include <immintrin.h>
typedef __m512 v16;
INLINE v16 v_zero(void) { return _mm512_setzero_ps(); }
INLINE v16 v_load(const real *p) { return _mm512_loadu_ps(p); }
INLINE v16 v_load_w(const float *p) { return _mm512_loadu_ps(p); }
INLINE v16 v_load_q(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
INLINE void v_store(real *p, v16 v) { _mm512_storeu_ps(p, v); }
INLINE v16 v_set1(real x) { return _mm512_set1_ps(x); }
INLINE v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v_exp(v16 x)
{
    v16 c = _mm512_min_ps(_mm512_set1_ps(89.0f), x); /* min and max return the second of NaN pairs */
    c = _mm512_max_ps(_mm512_set1_ps(-104.0f), c);
    const v16 magic = _mm512_set1_ps(12582912.0f);
    const v16 t = v_fma(c, v_set1(0x1.715476p0f), magic), n = v_sub(t, magic);
    const __m512i k = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(0x4B400000));
    v16 r = v_fma(n, v_set1(-0x1.62e4p-1f), c);
    r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);
    v16 q = v_set1(0x1.a2d432p-13f);
    q = v_fma(q, r, v_set1(0x1.6d30dap-10f));
    q = v_fma(q, r, v_set1(0x1.110fc4p-7f));
    q = v_fma(q, r, v_set1(0x1.5555p-5f));
    q = v_fma(q, r, v_set1(0x1.555556p-3f));
    q = v_fma(q, r, v_set1(0.5f));
    const v16 p = v_add(v_fma(v_mul(r, r), q, r), v_set1(1.0f));
    const __m512i bias = _mm512_set1_epi32(127), k1 = _mm512_srai_epi32(k, 1);
    const __m512i k2 = _mm512_sub_epi32(k, k1);
    const v16 s1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(k1, bias), 23));
    const v16 s2 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(k2, bias), 23));
    return v_mul(v_mul(p, s1), s2);
}

#elif (defined(REF_ISA_avx2) || defined(REF_ISA_avx512)) && REF_BITS == 32 /* ---- two ymm -------------------------------------- */
#    include <immintrin.h>
typedef struct v16 {
    __m256 l, h;
} v16;
INLINE v16 v_zero(void) { return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE v16 v_load(const real *p) { return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE v16 v_load_w(const float *p) { return v_load(p); }
INLINE __m256 v8_load_q(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
INLINE v16 v_load_q(const int8_t *p) { return (v16){v8_load_q(p), v8_load_q(p + 8)}; }
INLINE void v_store(real *p, v16 v)
{
    _mm256_storeu_ps(p, v.l);
    _mm256_storeu_ps(p + 8, v.h);
}
INLINE v16 v_set1(real x)
{
    const __m256 v = _mm256_set1_ps(x);
    return (v16){v, v};
}
INLINE v16 v_add(v16 a, v16 b) { return (v16){_mm256_add_ps(a.l, b.l), _mm256_add_ps(a.h, b.h)}; }
INLINE v16 v_sub(v16 a, v16 b) { return (v16){_mm256_sub_ps(a.l, b.l), _mm256_sub_ps(a.h, b.h)}; }
INLINE v16 v_mul(v16 a, v16 b) { return (v16){_mm256_mul_ps(a.l, b.l), _mm256_mul_ps(a.h, b.h)}; }
INLINE v16 v_div(v16 a, v16 b) { return (v16){_mm256_div_ps(a.l, b.l), _mm256_div_ps(a.h, b.h)}; }
INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h)};
}
INLINE v16 v_max(v16 a, v16 b) { return (v16){_mm256_max_ps(a.l, b.l), _mm256_max_ps(a.h, b.h)}; }
INLINE __m256 v8_exp(__m256 x)
{
    __m256 c = _mm256_min_ps(_mm256_set1_ps(89.0f), x); /* min and max return the second of NaN pairs */
    c = _mm256_max_ps(_mm256_set1_ps(-104.0f), c);
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    const __m256 t = _mm256_fmadd_ps(c, _mm256_set1_ps(0x1.715476p0f), magic);
    const __m256 n = _mm256_sub_ps(t, magic);
    const __m256i k = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4B400000));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.62e4p-1f), c);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.7f7d1cp-20f), r);
    __m256 q = _mm256_set1_ps(0x1.a2d432p-13f);
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.6d30dap-10f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.110fc4p-7f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.5555p-5f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.555556p-3f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.5f));
    __m256 p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
    const __m256i bias = _mm256_set1_epi32(127), k1 = _mm256_srai_epi32(k, 1);
    const __m256i k2 = _mm256_sub_epi32(k, k1);
    const __m256 s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k1, bias), 23));
    const __m256 s2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k2, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, s1), s2);
}
INLINE v16 v_exp(v16 x) { return (v16){v8_exp(x.l), v8_exp(x.h)}; }

#else /* ---- plain C: the written definition; compilers may vectorise it across lanes ------------- */
typedef struct v16 {
    real v[16];
} v16;
#    define LANES(expr)                                                                            \
        v16 o;                                                                                     \
        for (int i = 0; i < 16; i++)                                                               \
            o.v[i] = (expr);                                                                       \
        return o
INLINE v16 v_zero(void) { LANES(0); }
INLINE v16 v_load(const real *p) { LANES(p[i]); }
INLINE v16 v_load_w(const float *p) { LANES((real)p[i]); }
INLINE v16 v_load_q(const int8_t *p) { LANES((real)p[i]); }
INLINE void v_store(real *p, v16 v)
{
    for (int i = 0; i < 16; i++)
        p[i] = v.v[i];
}
INLINE v16 v_set1(real x) { LANES(x); }
INLINE v16 v_add(v16 a, v16 b) { LANES(a.v[i] + b.v[i]); }
INLINE v16 v_sub(v16 a, v16 b) { LANES(a.v[i] - b.v[i]); }
INLINE v16 v_mul(v16 a, v16 b) { LANES(a.v[i] * b.v[i]); }
INLINE v16 v_div(v16 a, v16 b) { LANES(a.v[i] / b.v[i]); }
INLINE v16 v_fma(v16 a, v16 b, v16 c) { LANES(r_fma(a.v[i], b.v[i], c.v[i])); }
INLINE v16 v_max(v16 a, v16 b) { LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
INLINE v16 v_exp(v16 x) { LANES(r_exp(x.v[i])); }
#endif

INLINE v16 v_neg(v16 a) { return v_mul(a, v_set1(-1)); } /* exact, signs of zeros included */

#endif
