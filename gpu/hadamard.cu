/* hadamard.cu - rotation of heads by the Walsh-Hadamard matrix in natural order (docs/policy/kvarn.md).
 *
 * A block takes 256 neighbouring values of a row: whole heads, because head_dim divides 256. Butterflies never leave
 * their head, so one index rule serves all of them. */
#include "gpu/kvarn.cuh"

enum { SPAN = 256, THREADS = SPAN / 2 };

/* grid (width / SPAN, rows): a thread per pair. */
__global__ void __launch_bounds__(THREADS)
    gpu_k_hadamard(float *rows, int64_t stride, int32_t width, int32_t head_dim, float scale)
{
    GPU_SHARED(float, x, SPAN);
    const int32_t tid = (int32_t)threadIdx.x, first = (int32_t)blockIdx.x * SPAN;
    float *const row = rows + blockIdx.y * stride + first;
    for (int32_t i = tid; i < SPAN; i += THREADS) x[i] = first + i < width ? row[i] : 0.0f;
    for (int32_t h = 1; h < KV_MUT(Q11, head_dim / 2, head_dim); h *= 2) {
        KV_MUT(R03, (void)0, __syncthreads()); /* the stage before is complete */
        const int32_t i = tid / h * 2 * h + tid % h;
        const float a = x[i], b = x[i + h];
        x[i] = kv_add(a, b);
        x[i + h] = kv_sub(a, b);
    }
    __syncthreads(); /* the last stage is complete */
    for (int32_t i = tid; i < SPAN && first + i < width; i += THREADS) row[i] = kv_mul(x[i], scale);
}

kv_status gpu_hadamard(float *rows, int32_t m, int64_t stride, int32_t width, int32_t head_dim, cudaStream_t stream)
{
    const float scale = kv_d2f(kv_ddiv(1.0, kv_dsqrt((double)head_dim)));
    for (int32_t r = 0; r < m; r += GPU_GRID_ROWS) {
        const dim3 grid(gpu_blocks(width, SPAN), (unsigned)gpu_min(m - r, GPU_GRID_ROWS));
        KV_TRY(GPU_LAUNCH(gpu_k_hadamard, grid, dim3(THREADS), 0, stream, rows + r * stride, stride, width, head_dim,
                          scale));
    }
    return KV_OK;
}
