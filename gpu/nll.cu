/* nll.cu - canonical -log p(target) of a row of logits (docs/numerics.md, section 3): one block per row.
 *
 * Each warp forms the R64 sums of whole blocks of the vocabulary; the block sums meet in shared memory and
 * one thread adds them in ascending order. */
#include "gpu/ops.cuh"

enum { WARPS = 4, MAX_BLOCKS = 1024 }; /* kv_config_check allows a vocabulary of 2^22 */

GPU_DEVICE int32_t highest_key(const float *x, int32_t vocab, int32_t warp, int32_t lane)
{
    GPU_SHARED(int32_t, of_warp, WARPS);
    int32_t key = INT32_MIN;
    for (int32_t i = warp * 32 + lane; i < vocab; i += WARPS * 32) {
        const int32_t k = kv_max_key(x[i]);
        key = k > key ? k : key;
    }
    key = __reduce_max_sync(0xffffffffu, key);
    if (lane == 0) of_warp[warp] = key;
    KV_MUT(R04, (void)0, __syncthreads()); /* all warps have left their maximum */
    for (int32_t i = 0; i < WARPS; i++) key = of_warp[i] > key ? of_warp[i] : key;
    return key;
}

__global__ void gpu_k_nll(const float *logits, const int32_t *target, int32_t vocab, float *nll, float *stats)
{
    GPU_SHARED(float, block_sum, MAX_BLOCKS);
    const int32_t lane = (int32_t)threadIdx.x, warp = (int32_t)threadIdx.y;
    const int32_t n_blocks = (vocab + GPU_VB - 1) / GPU_VB;
    const float *const x = logits + (int64_t)blockIdx.x * vocab;
    const float m = kv_max_unkey(highest_key(x, vocab, warp, lane));
    for (int32_t b = warp; b < n_blocks; b += WARPS) {
        const int32_t end = (b + 1) * GPU_VB < vocab ? (b + 1) * GPU_VB : vocab;
        float low = 0.0f, high = 0.0f;
        for (int32_t i = b * GPU_VB + lane; i < end; i += GPU_L) low = kv_add(low, kv_exp(kv_sub(x[i], m)));
        for (int32_t i = b * GPU_VB + lane + 32; i < end; i += GPU_L)
            high = kv_add(high, kv_exp(kv_sub(x[i], m)));
        const float sum = gpu_r64_tree(low, high);
        if (lane == 0) block_sum[b] = sum;
    }
    __syncthreads(); /* all block sums are there */
    if (lane != 0 || warp != 0) return;
    float total = 0.0f;
    for (int32_t b = 0; b < n_blocks; b++) total = kv_add(total, block_sum[b]);
    if (stats) {
        stats[2 * (int64_t)blockIdx.x] = m;
        stats[2 * (int64_t)blockIdx.x + 1] = total;
    }
    nll[blockIdx.x] = kv_sub(kv_log(KV_MUT(N12, kv_add(total, 1e-6f), total)), kv_sub(x[target[blockIdx.x]], m));
}

kv_status gpu_nll(const float *logits, const int32_t *target, int32_t m, int32_t vocab, float *nll,
                  float *stats, cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_nll, dim3((unsigned)m), dim3(32, WARPS), 0, stream, logits, target, vocab,
                      nll, stats);
}
