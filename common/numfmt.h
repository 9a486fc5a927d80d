/* numfmt.h - bf16 and fp16 conversions by integer arithmetic, the same on every machine.
 *
 * Rounding is to nearest even; NaN becomes 0x7fff in both 16-bit formats and 0x7fffffff on the way
 * back. Checked against the compiler's _Float16 on all 2^16 decodings and, in the exhaustive
 * tests, on all 2^32 encodings. */
#ifndef KV_COMMON_NUMFMT_H
#define KV_COMMON_NUMFMT_H

#include "common/math.h"

KV_HD uint16_t kv_f2bf16(float f)
{
    const uint32_t u = (uint32_t)kv_f2bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

KV_HD float kv_bf162f(uint16_t h) { return kv_bits2f((int32_t)((uint32_t)h << 16)); }

KV_HD uint16_t kv_f2f16(float f)
{
    const uint32_t u = (uint32_t)kv_f2bits(f), sign = (u >> 16) & 0x8000;
    uint32_t a = u & 0x7fffffff;
    if (a > 0x7f800000) return 0x7fff;
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (a < 0x38800000) { /* subnormal: adding 0.5 makes the FPU round at 2^-24 */
        const float r = kv_add(kv_bits2f((int32_t)a), 0.5f);
        return (uint16_t)(sign | ((uint32_t)kv_f2bits(r) - 0x3f000000u));
    }
    a += 0xfff + ((a >> 13) & 1);
    return (uint16_t)(sign | ((a - 0x38000000) >> 13));
}

KV_HD float kv_f162f(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = h & 0x7fff;
    if (a > 0x7c00) return kv_nan();
    if (a == 0x7c00) return kv_bits2f((int32_t)(sign | 0x7f800000));
    if (a >= 0x400) return kv_bits2f((int32_t)(sign | ((a << 13) + 0x38000000)));
    const float s = kv_sub(kv_bits2f((int32_t)(0x3f000000 + a)), 0.5f);
    return kv_bits2f((int32_t)(sign | (uint32_t)kv_f2bits(s)));
}

#endif
