/* code.h - what storages that code share: rounding to whole numbers, least and greatest value of a group. */
#ifndef KV_REF_STORAGE_CODE_H
#define KV_REF_STORAGE_CODE_H

#include "ref/real.h"

/* rint of docs/policy/kvarn.md, with the power of two from which every number of this width is whole. */
static inline real ref_whole(real y)
{
    const real big = REF_BITS == 32 ? (real)0x1p23 : (real)0x1p52, a = y < 0 ? -y : y;
    if (!(a < big)) return y;
    const real r = (a + big) - big;
    return y < 0 ? -r : r;
}

/* A whole number inside [0, n] as a code; 0 for NaN. */
static inline uint32_t ref_code(real q, real n) { return (uint32_t)(q > 0 ? q < n ? q : n : 0); }

/* -0 is below +0, whatever the order. */
static inline int ref_below(real a, real b)
{
    return a < b || (a == b && __builtin_signbit(a) && !__builtin_signbit(b));
}

/* Exact minimum and maximum of n values, `step` apart. */
static inline void ref_range_of(const real *x, int64_t n, int64_t step, real *lo, real *hi)
{
    *lo = *hi = x[0];
    for (int64_t i = 1; i < n; i++) {
        const real v = x[i * step];
        if (ref_below(v, *lo)) *lo = v;
        if (ref_below(*hi, v)) *hi = v;
    }
}

/* Whether n values, `step` apart, are finite: a number that is not is not zero after a product with zero. */
static inline int ref_all_finite(const real *x, int64_t n, int64_t step)
{
    real zero = 0;
    for (int64_t i = 0; i < n; i++)
        zero += x[i * step] * 0;
    return zero == 0;
}

#endif
