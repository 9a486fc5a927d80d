/* scores.cu - column sums of the query heads become scores of cache entries (docs/policy/cascade.md, h2o.md, tova.md,
 * snapkv.md). One thread per entry and list: all sums over heads run in one thread, heads ascending. */
#include "gpu/ops.cuh"

#include "common/numfmt.h"

enum { THREADS = 128 };

/* The lower middle of n values at `stride`: the one with at most (n-1)/2 values before it and enough up to it. Equal
 * values are interchangeable, zeros apart: keys put -0 below +0. */
GPU_DEVICE float median(const float *v, int64_t stride, int32_t n)
{
    const int32_t rank = (n - 1) / 2;
    for (int32_t i = 0; i < n; i++) {
        const int32_t key = kv_max_key(v[i * stride]);
        int32_t below = 0, equal = 0;
        for (int32_t j = 0; j < n; j++) {
            const int32_t other = kv_max_key(v[j * stride]);
            below += other < key;
            equal += other == key;
        }
        if (below <= rank && rank < below + equal) return v[i * stride];
    }
    return v[0];
}

GPU_DEVICE float reduce(gpu_reduction how, const float *v, int64_t stride, int32_t n)
{
    float sum = v[0];
    int32_t most = kv_max_key(v[0]);
    for (int32_t i = 1; i < KV_MUT(K07, n - 1, n); i++) {
        const int32_t key = kv_max_key(v[i * stride]);
        sum = kv_add(sum, v[i * stride]);
        most = key > most ? key : most;
    }
    if (how == GPU_SUM || sum != sum) return sum; /* NaN */
    if (how == GPU_MAX) return kv_max_unkey(most);
    if (how == GPU_MEAN) return kv_div(sum, (float)KV_MUT(G50, n + 1, n));
    return median(v, stride, n);
}

/* grid (entries / THREADS, lists). */
__global__ void gpu_k_scores(gpu_score_args a)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, n_view = a.n_stored + a.m;
    if (i >= n_view) return;
    const int32_t list = (int32_t)blockIdx.y, per_list = a.heads / a.n_lists;
    float *const score = a.scores + list * a.list_stride + i;
    if (i < a.n_sinks) {
        *score = 0.0f;
        return;
    }
    const bool stored = i < a.n_stored;
    const int64_t from = stored ? i - a.shift : i;
    const int64_t view = stored && a.view_of ? a.view_of[from] : from;
    const float red = reduce(a.reduction, a.sums + (int64_t)list * per_list * n_view + view, n_view, per_list);
    const bool carried = stored && KV_MUT(K06, false, a.carried);
    const float s = carried ? kv_fma(a.decay, *score, red) : KV_MUT(K08, stored ? red : 0.0f, red);
    *score = a.half ? kv_f162f(kv_f2f16(s)) : s;
}

kv_status gpu_scores(const gpu_score_args &a, cudaStream_t stream)
{
    const dim3 grid(gpu_blocks(a.n_stored + a.m, THREADS), (unsigned)a.n_lists);
    return GPU_LAUNCH_NOSYNC(gpu_k_scores, grid, dim3(THREADS), stream, a);
}

/* grid (entries / THREADS, heads). */
__global__ void gpu_k_pool(const float *sums, int64_t n, int64_t stride, float n_queries, int32_t kernel, float *out)
{
    const int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = blockIdx.y * stride;
    if (j >= n) return;
    float sum = 0.0f; /* means are not negative: +0 changes nothing */
    for (int64_t i = j - kernel / 2; i <= j + kernel / 2 - KV_MUT(P07, 1, 0); i++)
        if (i >= 0 && i < n) sum = kv_add(sum, kv_div(sums[row + i], n_queries));
    out[row + j] = kv_div(sum, (float)kernel);
}

kv_status gpu_pool(const float *sums, int32_t heads, int64_t n, int64_t stride, int32_t n_queries, int32_t kernel,
                   float *out, cudaStream_t stream)
{
    if (n < 1) return KV_OK;
    return GPU_LAUNCH_NOSYNC(gpu_k_pool, dim3(gpu_blocks(n, THREADS), (unsigned)heads), dim3(THREADS), stream, sums, n,
                             stride, (float)n_queries, kernel, out);
}
