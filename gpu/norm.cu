/* norm.cu - RMSNorm (docs/numerics.md, section 3): one warp per row, four rows per block.
 *
 * A thread keeps two of the 64 lanes of R64, so the tree's first stage needs no exchange and the other
 * five are shuffles. */
#include "gpu/ops.cuh"

enum { WARPS = 4 };

__global__ void gpu_k_rmsnorm(const float *x, const float *w, int32_t m, int32_t n, float eps, float scale,
                              float *y)
{
    const int32_t row = (int32_t)(blockIdx.x * WARPS + threadIdx.y), lane = (int32_t)threadIdx.x;
    if (row >= m) return; /* the whole warp */
    const float *const in = x + (int64_t)row * n;
    float *const out = y + (int64_t)row * n;
    float low = 0.0f, high = 0.0f;
    for (int32_t i = lane; i < n; i += GPU_L) low = kv_fma(in[i], in[i], low);
    for (int32_t i = lane + 32; i < KV_MUT(N02, n - 32, n); i += GPU_L) high = kv_fma(in[i], in[i], high);
    const float sum = __shfl_sync(0xffffffffu, gpu_r64_tree(low, high), 0);
    const float r = kv_rsqrt(kv_add(kv_div(sum, (float)n), KV_MUT(N01, 0.0f, eps)));
    for (int32_t i = lane; i < n; i += 32) {
        const float v = kv_mul(in[i], r);
        out[i] = kv_mul(w ? kv_mul(v, w[i]) : v, scale); /* a product by 1 changes no bit */
    }
}

kv_status gpu_rmsnorm(const float *x, const float *w, int32_t m, int32_t n, float eps, float scale, float *y,
                      cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_rmsnorm, dim3(gpu_blocks(m, WARPS)), dim3(32, WARPS), 0, stream, x, w, m, n,
                      eps, scale, y);
}
