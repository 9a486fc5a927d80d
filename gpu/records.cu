/* records.cu - cache rows of one KV head as contiguous records, for export and import. */
#include "gpu/ops.cuh"

enum { THREADS = 128 };

/* grid (2 * head_words / THREADS, n): one thread per word of a record, K row then V row. */
__global__ void gpu_k_records_gather(gpu_values k_store, gpu_values v_store, const int32_t *slot,
                                     int32_t head, int32_t kv_heads, int32_t head_words, uint32_t *records)
{
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= 2 * head_words) return;
    const int64_t row = ((int64_t)slot[blockIdx.y] * kv_heads + KV_MUT(S08, 0, head)) * head_words;
    records[(int64_t)blockIdx.y * 2 * head_words + e] =
        static_cast<const uint32_t *>(e < head_words ? k_store.p : v_store.p)[row + e % head_words];
}

__global__ void gpu_k_records_scatter(const uint32_t *records, const int32_t *slot, int32_t head,
                                      int32_t kv_heads, int32_t head_words, gpu_values k_store,
                                      gpu_values v_store)
{
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= 2 * head_words) return;
    const int64_t row = ((int64_t)slot[blockIdx.y] * kv_heads + head) * head_words;
    static_cast<uint32_t *>(e < head_words ? k_store.p : v_store.p)[row + e % head_words] =
        records[(int64_t)blockIdx.y * 2 * head_words + e];
}

kv_status gpu_records_gather(const gpu_values &k_store, const gpu_values &v_store, const int32_t *slot, int32_t n,
                             int32_t head, int32_t kv_heads, int32_t head_words, uint32_t *records,
                             cudaStream_t stream)
{
    return GPU_LAUNCH_NOSYNC(gpu_k_records_gather, dim3(gpu_blocks(2 * head_words, THREADS), (unsigned)n),
                             dim3(THREADS), stream, k_store, v_store, slot, head, kv_heads, head_words,
                             records);
}

kv_status gpu_records_scatter(const uint32_t *records, const int32_t *slot, int32_t n, int32_t head,
                              int32_t kv_heads, int32_t head_words, const gpu_values &k_store,
                              const gpu_values &v_store, cudaStream_t stream)
{
    return GPU_LAUNCH_NOSYNC(gpu_k_records_scatter, dim3(gpu_blocks(2 * head_words, THREADS), (unsigned)n),
                             dim3(THREADS), stream, records, slot, head, kv_heads, head_words, k_store,
                             v_store);
}
