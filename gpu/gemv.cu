/* gemv.cu - matrix product for up to eight rows: decode.
 *
 * One thread forms the chains of four neighbouring outputs over one block of GPU_KB inputs, for all rows; it
 * reads 16 bytes of weights per input and 512 bytes per warp, so every weight is fetched once, coalesced. The
 * blocks of the inner dimension go to different thread blocks: a long row gives k/256 times as many chains,
 * which is what keeps a large device busy when there is one token. A second kernel adds the partial sums in
 * ascending order. With a single block of inputs the first kernel finishes the job. */
#include "gpu/ops.cuh"

enum { THREADS = 64, COLUMNS = 4 };

/* grid (outputs / 4 / THREADS, blocks of inputs). partials[block][m][ld]. */
template <int ROWS>
__global__ void __launch_bounds__(THREADS)
    gpu_k_gemv(const float *x, int32_t m, gpu_weights w, gpu_epilogue epilogue, float *y, float *partials)
{
    const int32_t c0 = (int32_t)(blockIdx.x * THREADS + threadIdx.x) * COLUMNS;
    if (c0 >= w.n) return;
    const int32_t k0 = (int32_t)blockIdx.y * GPU_KB, k1 = k0 + GPU_KB < w.k ? k0 + GPU_KB : KV_MUT(N11, w.k - 1, w.k);
    const float *row[ROWS];
    float acc[ROWS][COLUMNS];
    GPU_UNROLL
    for (int r = 0; r < ROWS; r++) {
        row[r] = x + (int64_t)(r < m ? r : m - 1) * w.k; /* surplus rows repeat the last */
        GPU_UNROLL
        for (int c = 0; c < COLUMNS; c++) acc[r][c] = 0.0f;
    }
    const float *column = w.w + (int64_t)k0 * w.ld + c0;
    for (int32_t k = k0; k < k1; k++, column += w.ld) {
        const float4 four = gpu_load4(column);
        const float b[COLUMNS] = {four.x, four.y, four.z, four.w};
        GPU_UNROLL
        for (int r = 0; r < ROWS; r++) {
            const float a = row[r][k];
            GPU_UNROLL
            for (int c = 0; c < COLUMNS; c++) acc[r][c] = kv_fma(a, b[c], acc[r][c]);
        }
    }
    GPU_UNROLL
    for (int r = 0; r < ROWS; r++) {
        if (r >= m) break;
        GPU_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            if (gridDim.y > 1)
                partials[((int64_t)blockIdx.y * m + r) * w.ld + c0 + c] = acc[r][c];
            else if (c0 + c < w.n)
                gpu_finish(y + (int64_t)r * w.n, acc[r][c], w, c0 + c, epilogue);
        }
    }
}

/* One thread per output. */
__global__ void gpu_k_gemv_sum(const float *partials, int32_t n_blocks, int32_t m, gpu_weights w,
                               gpu_epilogue epilogue, float *y)
{
    const int32_t c = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), r = (int32_t)blockIdx.y;
    if (c >= w.n) return;
    const int64_t step = (int64_t)m * w.ld;
    const float *p = partials + (int64_t)r * w.ld + c;
    float total = *p;
    for (int32_t b = 1; b < n_blocks; b++) total = kv_add(total, p[b * step]);
    gpu_finish(y + (int64_t)r * w.n, total, w, c, epilogue);
}

kv_status gpu_gemv(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                   float *partials, cudaStream_t stream)
{
    const unsigned n_blocks = gpu_blocks(w.k, GPU_KB);
    const dim3 grid(gpu_blocks(w.n, THREADS * COLUMNS), n_blocks), block(THREADS);
    if (m <= 1)
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_gemv<1>, grid, block, stream, x, m, w, epilogue, y, partials));
    else if (m <= 2)
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_gemv<2>, grid, block, stream, x, m, w, epilogue, y, partials));
    else if (m <= 4)
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_gemv<4>, grid, block, stream, x, m, w, epilogue, y, partials));
    else
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_gemv<8>, grid, block, stream, x, m, w, epilogue, y, partials));
    if (n_blocks == 1) return KV_OK;
    return GPU_LAUNCH_NOSYNC(gpu_k_gemv_sum, dim3(gpu_blocks(w.n, 128), (unsigned)m), dim3(128), stream,
                             partials, (int32_t)n_blocks, m, w, epilogue, y);
}
