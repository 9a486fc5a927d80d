/* matmul.cu - y = W x (docs/numerics.md, section 3): chooses the kernel, and brings weights into the layout
 * that both kernels read.
 *
 * Up to GPU_GEMV_ROWS rows a product is bound by reading the weights once, so gemv.cu spreads the blocks of
 * the inner dimension over the device; with more rows it is bound by arithmetic, and gemm.cu tiles it. Both
 * give the same bits: per output, blocks of GPU_KB with one fma chain each, added in ascending order. */
#include "gpu/ops.cuh"

kv_status gpu_matmul(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                     float *partials, cudaStream_t stream)
{
    if (m <= GPU_GEMV_ROWS) return gpu_gemv(x, m, w, epilogue, y, partials, stream);
    return gpu_gemm(x, m, w, epilogue, y, stream);
}

size_t gpu_matmul_partials(const gpu_weights &w, int32_t m)
{
    if (m > GPU_GEMV_ROWS || w.k <= GPU_KB) return 0;
    return (size_t)gpu_blocks(w.k, GPU_KB) * (size_t)m * (size_t)w.ld;
}

/* Runs once per weight when a session opens: one thread per element, writes coalesced. */
__global__ void gpu_k_transpose(const float *src, int32_t n_rows, int32_t k, float *dst, int64_t ld,
                                int64_t row0)
{
    const int32_t r = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (r >= n_rows) return;
    for (int32_t i = (int32_t)blockIdx.y; i < k; i += (int32_t)gridDim.y)
        dst[i * ld + row0 + r] = src[(int64_t)r * k + i];
}

kv_status gpu_transpose(const float *src, int32_t n_rows, int32_t k, float *dst, int64_t ld,
                        int64_t row0, cudaStream_t stream)
{
    const dim3 grid(gpu_blocks(n_rows, 128), (unsigned)(k < 4096 ? k : 4096));
    return GPU_LAUNCH_NOSYNC(gpu_k_transpose, grid, dim3(128), stream, src, n_rows, k, dst, ld, row0);
}
