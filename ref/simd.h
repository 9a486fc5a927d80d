/* simd.h - sixteen lanes of `real` in whatever registers the instruction set offers. A lane is always an
 * independent output element, so the width never changes a bit. Included by kernels.c only, once per
 * instruction set (REF_ISA_scalar, REF_ISA_avx2, REF_ISA_avx512). */
#ifndef KV_REF_SIMD_H
#define KV_REF_SIMD_H

#include "common/numfmt.h"
#include "common/tile.h"
#include "ref/real.h"

#define INLINE static inline __attribute__((always_inline, unused))

/* clang unrolls small constant loops by itself; gcc needs to be told at -O2. */
#if defined(__clang__)
#    define UNROLL
#else
#    define UNROLL _Pragma("GCC unroll 16")
#endif

/* Where 16 codes of b bits stand in the 2 * b bytes of their stream (common/tile.h): codes 4i .. 4i + 3 lie in the four
 * bytes from `gather` on, each `shift` bits up. */
typedef struct code_places {
    uint8_t gather[16];
    uint32_t shift[16];
} code_places;
#define FOUR_BYTES(b, i)  4 * (i) * (b) / 8, 4 * (i) * (b) / 8 + 1, 4 * (i) * (b) / 8 + 2, 4 * (i) * (b) / 8 + 3
#define FOUR_SHIFTS(b, i) 4 * (i) * (b) % 8, 4 * (i) * (b) % 8 + (b), 4 * (i) * (b) % 8 + 2 * (b), 4 * (i) * (b) % 8 + 3 * (b)
#define PLACES(b)                                                                                                  \
    [b] = {{FOUR_BYTES(b, 0), FOUR_BYTES(b, 1), FOUR_BYTES(b, 2), FOUR_BYTES(b, 3)},                               \
           {FOUR_SHIFTS(b, 0), FOUR_SHIFTS(b, 1), FOUR_SHIFTS(b, 2), FOUR_SHIFTS(b, 3)}}
__attribute__((unused)) static const code_places code_table[9] = {PLACES(2), PLACES(3), PLACES(4), PLACES(5), PLACES(6), PLACES(8)};

/* v_reader: how codes of one width are read; v_affine: the values w * scale + zero of such codes, one product and one
 * addition; v_decode: 16 of them from 2 * bits bytes (16 are read); v_half: 16 halves. few: a code has at most 4 bits, so
 * that the widest registers hold the values of all codes; a constant at every call. */

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
/* Lane by lane: a where x > 0, else b. */
INLINE v16 v_above(v16 x, v16 a, v16 b) { return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, v_zero(), _CMP_GT_OQ), a); }
/* The lanes from `first` (1 .. 15, or 16 and more: none) on of b, the lower ones of a. */
INLINE v16 v_from(v16 a, v16 b, int64_t first)
{
    return _mm512_mask_mov_ps(a, (__mmask16)(first < 16 ? 0xffffu << first : 0u), b);
}
INLINE v16 v_half(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
typedef struct v_reader {
    __m128i gather;
    __m512i spread, shift, mask;
    int few;
} v_reader;
INLINE v_reader v_reader_of(int bits, const int few)
{
    const code_places *c = &code_table[bits];
    return (v_reader){_mm_loadu_si128((const __m128i *)(const void *)c->gather),
                      _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), _mm512_loadu_si512(c->shift),
                      _mm512_set1_epi32((1 << bits) - 1), few};
}
typedef struct v_affine {
    v16 scale, zero; /* or, in scale, the value of every code */
} v_affine;
INLINE v_affine v_affine_of(const v_reader *r, real scale, real zero)
{
    const v16 s = v_set1(scale), z = v_set1(zero);
    if (!r->few) return (v_affine){s, z};
    const __m512i n = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return (v_affine){v_add(v_mul(_mm512_cvtepi32_ps(_mm512_and_si512(n, r->mask)), s), z), z};
}
INLINE v16 v_decode(const v_reader *r, const v_affine *a, const uint8_t *p)
{
    const __m128i x = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)p), r->gather);
    const __m512i q = _mm512_srlv_epi32(_mm512_permutexvar_epi32(r->spread, _mm512_castsi128_si512(x)), r->shift);
    if (r->few) return _mm512_permutexvar_ps(q, a->scale); /* looks at four bits only */
    return v_add(v_mul(_mm512_cvtepi32_ps(_mm512_and_si512(q, r->mask)), a->scale), a->zero);
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
INLINE __m256 v8_above(__m256 x, __m256 a, __m256 b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}
INLINE v16 v_above(v16 x, v16 a, v16 b) { return (v16){v8_above(x.l, a.l, b.l), v8_above(x.h, a.h, b.h)}; }
INLINE __m256 v8_from(__m256 a, __m256 b, int32_t first)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane)));
}
INLINE v16 v_from(v16 a, v16 b, int64_t first)
{
    const int32_t f = first < 16 ? (int32_t)first : 16;
    return (v16){v8_from(a.l, b.l, f), v8_from(a.h, b.h, f - 8)};
}
INLINE __m256 v8_half(const uint8_t *p)
{
    const __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i a = _mm256_and_si256(h, _mm256_set1_epi32(0x7fff)), sign = _mm256_slli_epi32(_mm256_xor_si256(h, a), 16);
    const __m256 x = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 13)), _mm256_set1_ps(0x1p112f)); /* exact */
    const __m256i inf = _mm256_and_si256(_mm256_cmpgt_epi32(a, _mm256_set1_epi32(0x7bff)), _mm256_set1_epi32(0x7f800000));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(x), _mm256_or_si256(sign, inf)));
}
INLINE v16 v_half(const uint8_t *p) { return (v16){v8_half(p), v8_half(p + 16)}; }
typedef struct v_reader {
    __m256i gather_l, gather_h, shift_l, shift_h, mask;
} v_reader;
INLINE v_reader v_reader_of(int bits, const int few)
{
    (void)few;
    const code_places *c = &code_table[bits];
    const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)c->gather));
    return (v_reader){_mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)),
                      _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3)),
                      _mm256_loadu_si256((const __m256i *)(const void *)c->shift),
                      _mm256_loadu_si256((const __m256i *)(const void *)(c->shift + 8)),
                      _mm256_set1_epi32((1 << bits) - 1)};
}
typedef struct v_affine {
    __m256 scale, zero;
} v_affine;
INLINE v_affine v_affine_of(const v_reader *r, real scale, real zero)
{
    (void)r;
    return (v_affine){_mm256_set1_ps(scale), _mm256_set1_ps(zero)};
}
INLINE __m256 v8_decode(const v_affine *a, __m256i q)
{
    return _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(q), a->scale), a->zero);
}
INLINE v16 v_decode(const v_reader *r, const v_affine *a, const uint8_t *p)
{
    const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i l = _mm256_srlv_epi32(_mm256_shuffle_epi8(x, r->gather_l), r->shift_l);
    const __m256i h = _mm256_srlv_epi32(_mm256_shuffle_epi8(x, r->gather_h), r->shift_h);
    return (v16){v8_decode(a, _mm256_and_si256(l, r->mask)), v8_decode(a, _mm256_and_si256(h, r->mask))};
}

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
INLINE v16 v_above(v16 x, v16 a, v16 b) { LANES(x.v[i] > 0 ? a.v[i] : b.v[i]); }
INLINE v16 v_from(v16 a, v16 b, int64_t first) { LANES(i >= first ? b.v[i] : a.v[i]); }
INLINE v16 v_half(const uint8_t *p) { LANES((real)kv_f162f((uint16_t)(p[2 * i] | p[2 * i + 1] << 8))); }
typedef struct v_reader {
    int bits;
} v_reader;
INLINE v_reader v_reader_of(int bits, const int few)
{
    (void)few;
    return (v_reader){bits};
}
typedef struct v_affine {
    real scale, zero;
} v_affine;
INLINE v_affine v_affine_of(const v_reader *r, real scale, real zero)
{
    (void)r;
    return (v_affine){scale, zero};
}
INLINE v16 v_decode(const v_reader *r, const v_affine *a, const uint8_t *p)
{
    LANES((real)kv_code_get(p, i, r->bits) * a->scale + a->zero);
}
#endif

INLINE v16 v_neg(v16 a) { return v_mul(a, v_set1(-1)); } /* exact, signs of zeros included */

#endif
