/* swiglu.cu - what the feed-forward block does to its inner values, one thread per value: a gate, or a square. */
#include "gpu/ops.cuh"

enum { THREADS = 128 };

/* grid (n / THREADS, m). gate_up rows are g | u. */
__global__ void gpu_k_swiglu(const float *gate_up, int32_t n, float *h)
{
    const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (i >= n) return;
    const float *const g = gate_up + (int64_t)blockIdx.y * 2 * n;
    const float gate = KV_MUT(N06, kv_div(1.0f, kv_add(1.0f, kv_exp(-g[i]))), kv_silu(g[i]));
    h[(int64_t)blockIdx.y * n + i] = kv_mul(gate, g[n + i]);
}

kv_status gpu_swiglu(const float *gate_up, int32_t m, int32_t n, float *h, cudaStream_t stream)
{
    for (int32_t r = 0; r < m; r += GPU_GRID_ROWS) {
        const dim3 grid(gpu_blocks(n, THREADS), (unsigned)gpu_min(m - r, GPU_GRID_ROWS));
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_swiglu, grid, dim3(THREADS), stream, gate_up + (int64_t)r * 2 * n,
                                 n, h + (int64_t)r * n));
    }
    return KV_OK;
}

__global__ void gpu_k_squared_relu(const float *f, int64_t n, float slope, float *h)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const float negative = slope == 0.0f ? 0.0f : kv_mul(slope, f[i]), a = f[i] < 0.0f ? negative : f[i];
    h[i] = kv_mul(a, a);
}

kv_status gpu_squared_relu(const float *f, int32_t m, int32_t n, float slope, float *h, cudaStream_t stream)
{
    const int64_t count = (int64_t)m * n;
    return GPU_LAUNCH_NOSYNC(gpu_k_squared_relu, dim3(gpu_blocks(count, THREADS)), dim3(THREADS), stream, f, count, slope,
                             h);
}
