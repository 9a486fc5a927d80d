/* math.h - the elementary functions of the numeric contract (docs/numerics.md, section 2).
 *
 * Every function is a fixed sequence of IEEE-754 operations, each rounded once to nearest even:
 * + - * / sqrt fma, conversions, comparisons and integer operations. No libm function is called
 * (a host without an FMA instruction reaches libm's fmaf and fma, which are exact by definition).
 * The same text compiles as C11, as C++ and as CUDA and gives the same bits everywhere, provided
 * that hosts compile with -ffp-contract=off and nvcc with --fmad=false.
 *
 * The header may be shared by the reference and the GPU because it is checked exhaustively against
 * correctly rounded results (tests/exhaustive): the few inputs that miss correct rounding are part of
 * the contract. NaN is never a value of the contract; the functions only promise not to trap on it.
 *
 * Coefficients: our own Sollya fpminimax fits, written as hex literals so that no decimal
 * conversion is involved. */
#ifndef KV_COMMON_MATH_H
#define KV_COMMON_MATH_H

#define KV_NUMERIC_CONTRACT_VERSION 2 /* of docs/numerics.md; stored with every result */

#include "common/hd.h"

#include <stdint.h>
#include <string.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#    error "kvdiff needs FLT_EVAL_METHOD 0 (no x87 excess precision)"
#endif

/* ---- single IEEE operations -------------------------------------------------------------- */

#ifdef __CUDA_ARCH__
KV_HD float kv_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
KV_HD float kv_mul(float a, float b) { return __fmul_rn(a, b); }
KV_HD float kv_add(float a, float b) { return __fadd_rn(a, b); }
KV_HD float kv_sub(float a, float b) { return __fsub_rn(a, b); }
KV_HD float kv_div(float a, float b) { return __fdiv_rn(a, b); }
KV_HD float kv_sqrt(float a) { return __fsqrt_rn(a); }
KV_HD double kv_dfma(double a, double b, double c) { return __fma_rn(a, b, c); }
KV_HD double kv_dmul(double a, double b) { return __dmul_rn(a, b); }
KV_HD double kv_dadd(double a, double b) { return __dadd_rn(a, b); }
KV_HD double kv_dsub(double a, double b) { return __dsub_rn(a, b); }
KV_HD double kv_ddiv(double a, double b) { return __ddiv_rn(a, b); }
KV_HD double kv_dsqrt(double a) { return __dsqrt_rn(a); }
KV_HD float kv_d2f(double a) { return __double2float_rn(a); }
KV_HD int32_t kv_f2bits(float f) { return __float_as_int(f); }
KV_HD float kv_bits2f(int32_t i) { return __int_as_float(i); }
KV_HD int64_t kv_d2bits(double d) { return __double_as_longlong(d); }
KV_HD double kv_bits2d(int64_t l) { return __longlong_as_double(l); }
#else
KV_HD float kv_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
KV_HD float kv_mul(float a, float b) { return a * b; }
KV_HD float kv_add(float a, float b) { return a + b; }
KV_HD float kv_sub(float a, float b) { return a - b; }
KV_HD float kv_div(float a, float b) { return a / b; }
KV_HD float kv_sqrt(float a) { return __builtin_sqrtf(a); }
KV_HD double kv_dfma(double a, double b, double c) { return __builtin_fma(a, b, c); }
KV_HD double kv_dmul(double a, double b) { return a * b; }
KV_HD double kv_dadd(double a, double b) { return a + b; }
KV_HD double kv_dsub(double a, double b) { return a - b; }
KV_HD double kv_ddiv(double a, double b) { return a / b; }
KV_HD double kv_dsqrt(double a) { return __builtin_sqrt(a); }
KV_HD float kv_d2f(double a) { return (float)a; }
KV_HD int32_t kv_f2bits(float f)
{
    int32_t i;
    memcpy(&i, &f, sizeof i);
    return i;
}
KV_HD float kv_bits2f(int32_t i)
{
    float f;
    memcpy(&f, &i, sizeof f);
    return f;
}
KV_HD int64_t kv_d2bits(double d)
{
    int64_t i;
    memcpy(&i, &d, sizeof i);
    return i;
}
KV_HD double kv_bits2d(int64_t i)
{
    double d;
    memcpy(&d, &i, sizeof d);
    return d;
}
#endif

/* 2^k as an exact power of two; k in [-126, 127] (float) and [-1022, 1023] (double). */
KV_HD float kv_pow2(int32_t k) { return kv_bits2f((int32_t)((uint32_t)(k + 127) << 23)); }
KV_HD double kv_dpow2(int64_t k) { return kv_bits2d((int64_t)((uint64_t)(k + 1023) << 52)); }

KV_HD float kv_inf(void) { return kv_bits2f(0x7f800000); }
KV_HD float kv_nan(void) { return kv_bits2f(0x7fffffff); }
KV_HD int kv_is_finite(float x) { return (kv_f2bits(x) & 0x7f800000) != 0x7f800000; }

/* ---- exp --------------------------------------------------------------------------------- */

/* exp with single precision inside: the hot function of softmax, NLL, SiLU and sigmoid.
 * Branch-free, so that it vectorises. At most 0.982 ulp; exp(0) = 1, exp(-inf) = +0. */
KV_HD float kv_exp(float x)
{
    float c = x > 89.0f ? 89.0f : x; /* NaN fails both comparisons and passes through */
    c = c < -104.0f ? -104.0f : c;
    const float t = kv_fma(c, 0x1.715476p0f, 12582912.0f); /* 1.5 * 2^23: round to integer */
    const float n = kv_sub(t, 12582912.0f);
    const int32_t k = kv_f2bits(t) - 0x4B400000;
    float r = kv_fma(n, -0x1.62e4p-1f, c);
    r = kv_fma(n, -0x1.7f7d1cp-20f, r);
    float q = 0x1.a2d432p-13f;
    q = kv_fma(q, r, 0x1.6d30dap-10f);
    q = kv_fma(q, r, 0x1.110fc4p-7f);
    q = kv_fma(q, r, 0x1.5555p-5f);
    q = kv_fma(q, r, 0x1.555556p-3f);
    q = kv_fma(q, r, 0.5f);
    float p = kv_fma(kv_mul(r, r), q, r);
    p = kv_add(p, 1.0f);
    /* Two exact powers of two: one rounding in all, right subnormals and right overflow. */
    const int32_t k1 = k >> 1;
    return kv_mul(kv_mul(p, kv_pow2(k1)), kv_pow2(k - k1));
}

/* exp in double, for |x| < 700; about 1e-16 relative. The metrics and ref64 use it as it is. */
KV_HD double kv_exp_core(double x)
{
    const double t = kv_dfma(x, 0x1.71547652b82fep0, 6755399441055744.0); /* 1.5 * 2^52 */
    const double n = kv_dsub(t, 6755399441055744.0);
    const int64_t k = (int64_t)(int32_t)kv_d2bits(t);
    double r = kv_dfma(n, -0x1.62e42fefap-1, x);
    r = kv_dfma(n, -0x1.cf79abc9e3b3ap-40, r);
    double q = 0x1.adfaef07246ffp-26;
    q = kv_dfma(q, r, 0x1.28b151c0efe3cp-22);
    q = kv_dfma(q, r, 0x1.71ded7a603ad9p-19);
    q = kv_dfma(q, r, 0x1.a019956e9b276p-16);
    q = kv_dfma(q, r, 0x1.a01a014d18fa9p-13);
    q = kv_dfma(q, r, 0x1.6c16c1861a06p-10);
    q = kv_dfma(q, r, 0x1.111111112149fp-7);
    q = kv_dfma(q, r, 0x1.555555554fddcp-5);
    q = kv_dfma(q, r, 0x1.5555555555514p-3);
    q = kv_dfma(q, r, 0x1.000000000000cp-1);
    q = kv_dfma(q, r, 1.0);
    q = kv_dfma(q, r, 1.0);
    return kv_dmul(q, kv_dpow2(k));
}

/* exp in double for any argument: 0 below -708, the core elsewhere (never above 708 in kvdiff). */
KV_HD double kv_dexp(double x) { return x < -708.0 ? 0.0 : kv_exp_core(x); }

/* exp with double inside, rounded once: correctly rounded for every float. */
KV_HD float kv_exp_d(float x)
{
    float c = x > 89.0f ? 89.0f : x;
    c = c < -104.0f ? -104.0f : c;
    return kv_d2f(kv_exp_core((double)c));
}

/* ---- log --------------------------------------------------------------------------------- */

/* log of a positive normal double. */
KV_HD double kv_log_core(double x)
{
    const int64_t u = kv_d2bits(x);
    const int64_t e = (u - INT64_C(0x3FE6A09E667F3BCD)) >> 52; /* mantissa in [sqrt(1/2), sqrt(2)) */
    const double m = kv_bits2d((int64_t)((uint64_t)u - ((uint64_t)e << 52)));
    const double f = kv_dsub(m, 1.0);
    const double s = kv_ddiv(f, kv_dadd(2.0, f));
    const double z = kv_dmul(s, s);
    double q = 0x1.2b5f5b2f7190cp-3;
    q = kv_dfma(q, z, 0x1.39fdcbbcee0e7p-3);
    q = kv_dfma(q, z, 0x1.7462b925f9f72p-3);
    q = kv_dfma(q, z, 0x1.c71c62d649d8dp-3);
    q = kv_dfma(q, z, 0x1.2492492dfb9b8p-2);
    q = kv_dfma(q, z, 0x1.99999999952b9p-2);
    q = kv_dfma(q, z, 0x1.5555555555558p-1);
    const double de = (double)e;
    const double lo = kv_dfma(kv_dmul(s, z), q, kv_dmul(de, 0x1.cf79abc9e3b3ap-40));
    return kv_dfma(de, 0x1.62e42fefap-1, kv_dadd(kv_dadd(s, s), lo));
}

/* log(+-0) = -inf, log(negative) = NaN, log(+inf) = +inf. */
KV_HD float kv_log(float x)
{
    const int32_t i = kv_f2bits(x);
    if (i <= 0) return (i & 0x7fffffff) == 0 ? kv_bits2f((int32_t)0xff800000) : kv_nan();
    if (i >= 0x7f800000) return i == 0x7f800000 ? x : kv_nan();
    return kv_d2f(kv_log_core((double)x));
}

/* ---- sin, cos, tanh ---------------------------------------------------------------------- */

/* sin and cos of x in double, |x| <= 2^28. */
KV_HD void kv_sincos_core(double x, double *sin_x, double *cos_x)
{
    const double t = kv_dfma(x, 0x1.45f306dc9c883p-1, 6755399441055744.0);
    const double n = kv_dsub(t, 6755399441055744.0);
    const int32_t k = (int32_t)kv_d2bits(t);
    double r = kv_dfma(n, -0x1.921fb544p0, x);
    r = kv_dfma(n, -0x1.0b4611a6p-34, r);
    r = kv_dfma(n, -0x1.3198a2e037073p-69, r);
    const double z = kv_dmul(r, r);
    double s = 0x1.5e11b8cb5fb3ap-33;
    s = kv_dfma(s, z, -0x1.ae6021744cb5dp-26);
    s = kv_dfma(s, z, 0x1.71de37b232dbep-19);
    s = kv_dfma(s, z, -0x1.a01a019ea17bp-13);
    s = kv_dfma(s, z, 0x1.1111111110c84p-7);
    s = kv_dfma(s, z, -0x1.5555555555555p-3);
    s = kv_dfma(kv_dmul(r, z), s, r);
    double c = -0x1.90022d9b163aap-37;
    c = kv_dfma(c, z, 0x1.1eea9006337a1p-29);
    c = kv_dfma(c, z, -0x1.27e4f8fef486fp-22);
    c = kv_dfma(c, z, 0x1.a01a019e08c81p-16);
    c = kv_dfma(c, z, -0x1.6c16c16c15f4cp-10);
    c = kv_dfma(c, z, 0x1.5555555555552p-5);
    c = kv_dfma(c, z, -0.5);
    c = kv_dfma(c, z, 1.0);
    const double ss = (k & 1) ? c : s, cc = (k & 1) ? s : c; /* an odd quadrant swaps them */
    *sin_x = (k & 2) ? -ss : ss;
    *cos_x = ((k + 1) & 2) ? -cc : cc;
}

KV_HD void kv_sincos(float x, float *sin_x, float *cos_x)
{
    double s, c;
    kv_sincos_core((double)x, &s, &c);
    *sin_x = kv_d2f(s);
    *cos_x = kv_d2f(c);
}

KV_HD float kv_tanh(float x)
{
    const float a = kv_bits2f(kv_f2bits(x) & 0x7fffffff);
    double y;
    if (a != a) return x;
    if (a < 0x1p-6f) { /* series: d + d*z*(-1/3 + z*(2/15 - z*17/315)) */
        const double d = (double)a, z = kv_dmul(d, d);
        double q = kv_dfma(z, -0x1.ba1ba1ba1ba1cp-5, 0x1.1111111111111p-3);
        q = kv_dfma(q, z, -0x1.5555555555555p-2);
        y = kv_dfma(kv_dmul(d, z), q, d);
    } else { /* 1 - 2 / (exp(2a) + 1) */
        const double d = a > 10.0f ? 20.0 : kv_dadd((double)a, (double)a);
        y = kv_dsub(1.0, kv_ddiv(2.0, kv_dadd(kv_exp_core(d), 1.0)));
    }
    const float r = kv_d2f(y);
    return kv_f2bits(x) < 0 ? -r : r;
}

/* ---- compositions that both sides spell alike ---------------------------------------------- */

KV_HD float kv_rsqrt(float x) { return kv_div(1.0f, kv_sqrt(x)); }
KV_HD float kv_silu(float x) { return kv_div(x, kv_add(1.0f, kv_exp(-x))); }

/* Order-preserving integer key of a float and its inverse: an exact maximum of keys does not depend
 * on the order in which it is taken and settles +0 > -0. NaN is excluded by contract. */
KV_HD int32_t kv_max_key(float x)
{
    const int32_t i = kv_f2bits(x);
    return i ^ ((i >> 31) & 0x7fffffff);
}
KV_HD float kv_max_unkey(int32_t k) { return kv_bits2f(k ^ ((k >> 31) & 0x7fffffff)); }

#endif
