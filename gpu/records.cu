/* records.cu - cache rows of one KV head as contiguous records, for export and import. */
#include "gpu/ops.cuh"

enum { THREADS = 128 };

/* grid (2 * head_dim / THREADS, n): one thread per value of a record, K row then V row. */
__global__ void gpu_k_records_gather(const float *k_store, const float *v_store, const int32_t *slot,
                                     int32_t head, int32_t kv_heads, int32_t head_dim, float *records)
{
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= 2 * head_dim) return;
    const int64_t row = ((int64_t)slot[blockIdx.y] * kv_heads + head) * head_dim;
    records[(int64_t)blockIdx.y * 2 * head_dim + e] =
        e < head_dim ? k_store[row + e] : v_store[row + e - head_dim];
}

__global__ void gpu_k_records_scatter(const float *records, const int32_t *slot, int32_t head,
                                      int32_t kv_heads, int32_t head_dim, float *k_store, float *v_store)
{
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= 2 * head_dim) return;
    const int64_t row = ((int64_t)slot[blockIdx.y] * kv_heads + head) * head_dim;
    float *const to = e < head_dim ? k_store + row + e : v_store + row + e - head_dim;
    *to = records[(int64_t)blockIdx.y * 2 * head_dim + e];
}

kv_status gpu_records_gather(const float *k_store, const float *v_store, const int32_t *slot, int32_t n,
                             int32_t head, int32_t kv_heads, int32_t head_dim, float *records,
                             cudaStream_t stream)
{
    return GPU_LAUNCH_NOSYNC(gpu_k_records_gather, dim3(gpu_blocks(2 * head_dim, THREADS), (unsigned)n),
                             dim3(THREADS), stream, k_store, v_store, slot, head, kv_heads, head_dim,
                             records);
}

kv_status gpu_records_scatter(const float *records, const int32_t *slot, int32_t n, int32_t head,
                              int32_t kv_heads, int32_t head_dim, float *k_store, float *v_store,
                              cudaStream_t stream)
{
    return GPU_LAUNCH_NOSYNC(gpu_k_records_scatter, dim3(gpu_blocks(2 * head_dim, THREADS), (unsigned)n),
                             dim3(THREADS), stream, records, slot, head, kv_heads, head_dim, k_store,
                             v_store);
}
