/* kvarn.cuh - storage kvarn on the device (docs/policy/kvarn.md): rotation, coding of tiles, attention on codes. */
#ifndef GPU_KVARN_CUH
#define GPU_KVARN_CUH

#include "gpu/coded.cuh"

/* The tiles of one layer. */
struct gpu_kvarn_tiles {
    unsigned char *records; /* [slots][kv_heads][layout.bytes] */
    kv_kvarn_layout layout;
    kv_kvarn_params params;
    int32_t kv_heads;
    int32_t slots; /* tile number i (tokens i * T ..) stands in slot i % slots */
};

GPU_DEVICE unsigned char *gpu_kvarn_record(const gpu_kvarn_tiles &tiles, int64_t tile, int32_t kv_head)
{
    return tiles.records + (tile % tiles.slots * tiles.kv_heads + kv_head) * tiles.layout.bytes;
}

/* Number i of an fp16 array inside a record. */
GPU_DEVICE float gpu_kvarn_half(const unsigned char *array, int32_t i)
{
    return kv_f162f(reinterpret_cast<const uint16_t *>(array)[i]);
}

/* Value of a code: w * S + Z, one product and one addition. */
GPU_DEVICE float gpu_kvarn_value(uint32_t w, float scale, float zero)
{
    return kv_add(kv_mul((float)w, scale), KV_MUT(M24, -zero, zero));
}

/* ---- hadamard.cu ---- */

/* Every head of head_dim values (a power of two up to 256) in the first `width` values of each row is rotated in
 * place: butterflies, then one product by the fp32 nearest to 1 / sqrt(head_dim). */
kv_status gpu_hadamard(float *rows, int32_t m, int64_t stride, int32_t width, int32_t head_dim, cudaStream_t stream);

/* ---- kvarn_code.cu ---- */

/* Codes the n tiles `tile`, tile + 1, ... of every KV head from rotated rows; a tile that is not finite is reported (its
 * first token, counted from that of `tile`) and left as it was. T and D at most 256, T * D at most 2^15. */
kv_status gpu_kvarn_code(const gpu_kvarn_tiles &tiles, const gpu_raw_rows &k, const gpu_raw_rows &v, int64_t tile,
                         int32_t n, int32_t *bad, cudaStream_t stream);

/* ---- kvarn_attention.cu ---- */

/* Attention of rotated queries over tiles first_tile .. first_tile + n_tiles - 1 and then the rows of the rings. */
kv_status gpu_kvarn_attention(const gpu_queries &q, const gpu_kvarn_tiles &tiles, int64_t first_tile, int32_t n_tiles,
                              const float *k_ring, const float *v_ring, float *workspace, cudaStream_t stream);

#endif
