/* real.h - the number type of the reference and the names that follow from it.
 *
 * Every source of ref/ is compiled twice: with REF_BITS 32 it is the oracle, with REF_BITS 64 the same
 * text computes in double and measures how much of a difference is rounding (docs/numerics.md 5).
 * REF(name) gives ref_name or ref64_name, so that both live in one program. */
#ifndef KV_REF_REAL_H
#define KV_REF_REAL_H

#include "common/math.h"
#include "common/mutant.h"

#define REF_CAT_(a, b) a##b
#define REF_CAT(a, b)  REF_CAT_(a, b)

#if REF_BITS == 32
typedef float real;
#    define REF(name) REF_CAT(ref_, name)
KV_HD real r_fma(real a, real b, real c) { return kv_fma(a, b, c); }
KV_HD real r_exp(real x) { return kv_exp(x); }
KV_HD real r_log(real x) { return kv_log(x); }
KV_HD real r_tanh(real x) { return kv_tanh(x); }
KV_HD real r_sqrt(real x) { return kv_sqrt(x); }
#elif REF_BITS == 64
typedef double real;
#    define REF(name) REF_CAT(ref64_, name)
KV_HD real r_fma(real a, real b, real c) { return kv_dfma(a, b, c); }
KV_HD real r_exp(real x) { return kv_dexp(x); }
KV_HD real r_log(real x) { return kv_log_core(x); }
KV_HD real r_tanh(real x)
{
    const real a = x < 0 ? -x : x, z = x * x;
    if (a < 0x1p-5) /* series: the other form loses what 1 - 2 / (e + 1) cancels */
        return x + x * z * (-1.0 / 3 + z * (2.0 / 15 + z * (-17.0 / 315 + z * (62.0 / 2835 - z * 1382.0 / 155925))));
    const real t = 1 - 2 / (kv_exp_core(a > 20 ? 40.0 : 2 * a) + 1);
    return x < 0 ? -t : t;
}
KV_HD real r_sqrt(real x) { return kv_dsqrt(x); }
#else
#    error "compile ref/ with -DREF_BITS=32 or 64"
#endif

enum {
    REF_KB = 256,   /* block of the inner dimension of a matrix product */
    REF_CH = 256,   /* entries in an attention chunk */
    REF_VB = 4096,  /* block of the vocabulary in a log-softmax */
    REF_L = 64,     /* lanes of a reduction */
    REF_PANEL = 16  /* columns of a packed panel: layout only, no influence on bits */
};

/* The float that rounds to 16 bits as x itself does: in double, the last bit remembers that something was cut off. */
static inline float r_narrow(real x)
{
    const float f = (float)x;
#if REF_BITS == 64
    if ((real)f != x && x == x) {
        const int32_t towards_zero = kv_f2bits(f) - ((f < 0 ? -(real)f : (real)f) > (x < 0 ? -x : x));
        return kv_bits2f(towards_zero | 1);
    }
#endif
    return f;
}

static inline int64_t ref_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ref_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ref_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

#endif
