/* kivi.cuh - storage kivi on the device (docs/policy/kivi.md): coding of K blocks and V rows, attention on codes. */
#ifndef GPU_KIVI_CUH
#define GPU_KIVI_CUH

#include "gpu/coded.cuh"

/* The codes of one layer. */
struct gpu_kivi_codes {
    unsigned char *k_blocks; /* [k_slots][kv_heads][layout.k_bytes] */
    unsigned char *v_rows;   /* [v_slots][kv_heads][layout.v_bytes] */
    kv_kivi_layout layout;
    int32_t bits, kv_heads;
    int32_t k_slots, v_slots; /* block number i (tokens i * R ..) stands in slot i % k_slots; row og in og % v_slots */
};

GPU_DEVICE unsigned char *gpu_kivi_block(const gpu_kivi_codes &codes, int64_t block, int32_t kv_head)
{
    return codes.k_blocks + (block % codes.k_slots * codes.kv_heads + kv_head) * codes.layout.k_bytes;
}

GPU_DEVICE unsigned char *gpu_kivi_row(const gpu_kivi_codes &codes, int64_t og, int32_t kv_head)
{
    return codes.v_rows + (og % (codes.v_slots - KV_MUT(G46, 1, 0)) * codes.kv_heads + kv_head) * codes.layout.v_bytes;
}

/* Value of a code in a group with this scale and minimum. */
GPU_DEVICE float gpu_kivi_value(uint32_t code, float scale, float least)
{
    return scale == 0.0f ? least : kv_add(kv_mul((float)code, scale), least);
}

/* ---- kivi_code.cu ---- */

/* Tokens of one kind that are to be coded: from .. from + n - 1. Items of `bad` are tokens counted from bad_base. */
struct gpu_kivi_span {
    int64_t from;
    int32_t n;
    int64_t bad_base;
};

/* K blocks of R tokens each (n a multiple of R), and V rows, of every KV head. */
kv_status gpu_kivi_code_k(const gpu_kivi_codes &codes, const gpu_raw_rows &k, const gpu_kivi_span &span, int32_t *bad,
                          cudaStream_t stream);
kv_status gpu_kivi_code_v(const gpu_kivi_codes &codes, const gpu_raw_rows &v, const gpu_kivi_span &span, int32_t *bad,
                          cudaStream_t stream);

/* ---- kivi_attention.cu ---- */

/* Attention over tokens `first` and the following: the first k_coded (v_coded) entries of the view are codes, the rest
 * rows of the ring, then of the piece. */
kv_status gpu_kivi_attention(const gpu_queries &q, const gpu_kivi_codes &codes, const gpu_raw_rows &k,
                             const gpu_raw_rows &v, int64_t first, int32_t k_coded, int32_t v_coded, float *workspace,
                             cudaStream_t stream);

#endif
