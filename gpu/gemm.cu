/* gemm.cu - matrix product for many rows: a tile of BM x BN outputs per block, 8 x 8 per thread.
 *
 * Slices of KT = 32 inputs pass through shared memory. A thread keeps two sets of 64 accumulators: the chain
 * of the current block of GPU_KB inputs and the total of the finished ones (KT divides GPU_KB, so a block ends
 * at the end of a slice). Its eight rows and columns lie in two groups of four, half a tile apart: all shared
 * reads are 16 bytes wide and free of bank conflicts. 64 x 64 tiles keep the device busy when there are few
 * outputs; 128 x 128 halve the traffic from L2. The tile width has no influence on any bit. */
#include "gpu/ops.cuh"

enum { KT = 32, MICRO = 8, PAD = 4 };

template <int BM, int BN>
__global__ void __launch_bounds__(BM *BN / 64)
    gpu_k_gemm(const float *x, int32_t m, gpu_weights w, gpu_epilogue epilogue, float *y)
{
    const int THREADS = BM * BN / (MICRO * MICRO), XS = BM + PAD;
    GPU_SHARED(float, xs, KT * (BM + PAD)); /* xs[k][row] */
    GPU_SHARED(float, ws, KT * BN);         /* ws[k][column] */
    const int tid = (int)threadIdx.x, tx = tid % (BN / MICRO), ty = tid / (BN / MICRO);
    const int32_t row0 = (int32_t)blockIdx.y * BM, col0 = (int32_t)blockIdx.x * BN;
    float acc[MICRO][MICRO], total[MICRO][MICRO];
    GPU_UNROLL
    for (int i = 0; i < MICRO; i++) {
        GPU_UNROLL
        for (int j = 0; j < MICRO; j++) {
            acc[i][j] = 0.0f;
            total[i][j] = -0.0f; /* -0 + x is x, for a first block of -0 too */
        }
    }

    for (int32_t k0 = 0; k0 < w.k; k0 += KT) {
        const int kn = w.k - k0 < KT ? w.k - k0 : KT;
        for (int e = tid; e < BM * KT; e += THREADS) {
            const int k = e % KT, r = e / KT;
            const bool inside = row0 + r < m && k < kn;
            xs[k * XS + r] = inside ? x[(int64_t)(row0 + r) * w.k + k0 + k] : 0.0f;
        }
        for (int e = tid; e < KT * BN / 4; e += THREADS) {
            const int c = e % (BN / 4) * 4, k = e / (BN / 4);
            if (col0 + c < w.ld && k < kn)
                gpu_store4(ws + k * BN + c, gpu_load4(w.w + (int64_t)(k0 + k) * w.ld + col0 + c));
        }
        __syncthreads(); /* the slice is complete */
        for (int k = 0; k < kn; k++) {
            float a[MICRO], b[MICRO];
            GPU_UNROLL
            for (int i = 0; i < MICRO; i++) a[i] = xs[k * XS + ty * 4 + i / 4 * (BM / 2) + i % 4];
            GPU_UNROLL
            for (int j = 0; j < MICRO; j++) b[j] = ws[k * BN + tx * 4 + j / 4 * (BN / 2) + j % 4];
            GPU_UNROLL
            for (int i = 0; i < MICRO; i++) {
                GPU_UNROLL
                for (int j = 0; j < MICRO; j++) acc[i][j] = kv_fma(a[i], b[j], acc[i][j]);
            }
        }
        if ((k0 + KT) % GPU_KB == 0 || k0 + KT >= w.k) {
            GPU_UNROLL
            for (int i = 0; i < MICRO; i++) {
                GPU_UNROLL
                for (int j = 0; j < MICRO; j++) {
                    total[i][j] = kv_add(total[i][j], acc[i][j]);
                    acc[i][j] = 0.0f;
                }
            }
        }
        KV_MUT(R07, (void)0, __syncthreads()); /* nobody reads the slice any more */
    }

    GPU_UNROLL
    for (int i = 0; i < MICRO; i++) {
        const int32_t r = row0 + ty * 4 + i / 4 * (BM / 2) + i % 4;
        GPU_UNROLL
        for (int j = 0; j < MICRO; j++) {
            const int32_t c = col0 + tx * 4 + j / 4 * (BN / 2) + j % 4;
            if (r < m && c < KV_MUT(N10, w.n - 1, w.n)) gpu_finish(y + (int64_t)r * w.n, total[i][j], w, c, epilogue);
        }
    }
}

kv_status gpu_gemm(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                   cudaStream_t stream)
{
    /* Large tiles once they give every multiprocessor of a large device (132) a block of its own. */
    if ((int64_t)gpu_blocks(m, 128) * gpu_blocks(w.n, 128) >= 132) {
        const dim3 grid(gpu_blocks(w.n, 128), gpu_blocks(m, 128));
        return GPU_LAUNCH((gpu_k_gemm<128, 128>), grid, dim3(256), 0, stream, x, m, w, epilogue, y);
    }
    const dim3 grid(gpu_blocks(w.n, 64), gpu_blocks(m, 64));
    return GPU_LAUNCH((gpu_k_gemm<64, 64>), grid, dim3(64), 0, stream, x, m, w, epilogue, y);
}
