/* values.cuh - numbers as a storage keeps them (docs/policy/storage.md): fp32, f16 or bf16. */
#ifndef GPU_VALUES_CUH
#define GPU_VALUES_CUH

#include "common/numfmt.h"
#include "common/policy.h"
#include "gpu/kvdev.cuh"

/* An array in device memory. Reading widens exactly; writing rounds to nearest, ties to even. */
struct gpu_values {
    void *p;         /* aligned to four numbers */
    int32_t storage; /* KV_STORE_F32, _F16 or _BF16 */
};

GPU_DEVICE float gpu_value(const gpu_values &a, int64_t i)
{
    if (a.storage == KV_STORE_F32) return static_cast<const float *>(a.p)[i];
    const uint16_t h = static_cast<const uint16_t *>(a.p)[i];
    return a.storage == KV_STORE_F16 ? kv_f162f(h) : kv_bf162f(h);
}

/* Numbers i .. i + 3, i a multiple of 4. NARROW = false promises that they are fp32. */
template <bool NARROW> GPU_DEVICE float4 gpu_value4(const gpu_values &a, int64_t i)
{
    if (!NARROW || a.storage == KV_STORE_F32) return gpu_load4(static_cast<const float *>(a.p) + i);
    const uint64_t w = *reinterpret_cast<const uint64_t *>(static_cast<const uint16_t *>(a.p) + i);
    const uint16_t h[4] = {(uint16_t)w, (uint16_t)(w >> 16), (uint16_t)(w >> 32), (uint16_t)(w >> 48)};
    float4 v;
    if (a.storage == KV_STORE_F16)
        v = {kv_f162f(h[0]), kv_f162f(h[1]), kv_f162f(h[2]), kv_f162f(h[3])};
    else
        v = {kv_bf162f(h[0]), kv_bf162f(h[1]), kv_bf162f(h[2]), kv_bf162f(h[3])};
    return v;
}

/* Stores x; returns it as a reader will see it. */
GPU_DEVICE float gpu_put(const gpu_values &a, int64_t i, float x)
{
    if (a.storage == KV_STORE_F32) {
        static_cast<float *>(a.p)[i] = x;
        return x;
    }
    const uint16_t h = a.storage == KV_STORE_F16 ? KV_MUT(M35, kv_mut_f16_cut(x), kv_f2f16(x))
                                                 : KV_MUT(Q12, (uint16_t)((uint32_t)kv_f2bits(x) >> 16), kv_f2bf16(x));
    static_cast<uint16_t *>(a.p)[i] = h;
    return a.storage == KV_STORE_F16 ? kv_f162f(h) : kv_bf162f(h);
}

#endif
