/* coded.cu - what storages in codes have in common: the rings of their newest rows. */
#include "gpu/coded.cuh"

enum { THREADS = 128 };

/* grid (2 * width / THREADS, rows): K row, then V row of token `from` and the following. */
__global__ void gpu_k_keep_rows(gpu_raw_rows k, gpu_raw_rows v, int64_t from)
{
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= 2 * k.width) return;
    const gpu_raw_rows &rows = e < k.width ? k : v;
    const int64_t og = from + blockIdx.y;
    rows.ring[og % rows.R * rows.width + e % k.width] = gpu_raw_row(rows, og)[e % k.width];
}

kv_status gpu_keep_rows(const gpu_raw_rows &k, const gpu_raw_rows &v, int32_t m, cudaStream_t stream)
{
    const int32_t n = gpu_min(m, k.R);
    for (int32_t i = 0; i < n; i += GPU_GRID_ROWS) {
        const dim3 grid(gpu_blocks(2 * k.width, THREADS), (unsigned)gpu_min(n - i, GPU_GRID_ROWS));
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_keep_rows, grid, dim3(THREADS), stream, k, v, k.seen + KV_MUT(Q14, 0, m - n) + i));
    }
    return KV_OK;
}

gpu_raw_rows gpu_coded::raw_rows(const gpu_coded_step &step, const gpu_buffer<unsigned char> &ring, bool values) const
{
    gpu_raw_rows rows;
    rows.ring = reinterpret_cast<float *>(ring.p);
    rows.fresh = step.qkv + step.q.heads * D_ + (values ? width() : 0);
    rows.fresh_stride = step.q.q_stride;
    rows.seen = step.span.seen;
    rows.R = R_;
    rows.width = width();
    return rows;
}

gpu_stretch gpu_coded::ring_row(int32_t part, int64_t og) const
{
    const int64_t row = (int64_t)sizeof(float) * D_;
    return {part, (int32_t)row, og % R_ * row * kv_heads_, row};
}
