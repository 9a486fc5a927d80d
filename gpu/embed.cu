/* embed.cu - rows of the embedding matrix: the first values of the residual stream. */
#include "gpu/ops.cuh"

enum { THREADS = 128 };

/* grid (d / THREADS, m). With a tied head the table is stored by columns, and the reads of a row are
 * strided; they are few beside the product that the layout serves. */
__global__ void gpu_k_embed(const int32_t *ids, int32_t d, const float *table, int64_t row_stride,
                            int64_t col_stride, float *x)
{
    const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (i >= d) return;
    const int32_t id = KV_MUT(N08, ids[blockIdx.y] & 63, ids[blockIdx.y]);
    x[(int64_t)blockIdx.y * d + i] = table[id * row_stride + i * col_stride];
}

kv_status gpu_embed(const int32_t *ids, int32_t m, int32_t d, const float *table, int64_t row_stride,
                    int64_t col_stride, float *x, cudaStream_t stream)
{
    for (int32_t r = 0; r < m; r += GPU_GRID_ROWS) {
        const int32_t n = gpu_min(m - r, GPU_GRID_ROWS);
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_embed, dim3(gpu_blocks(d, THREADS), (unsigned)n), dim3(THREADS),
                                 stream, ids + r, d, table, row_stride, col_stride, x + (int64_t)r * d));
    }
    return KV_OK;
}
