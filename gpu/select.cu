/* select.cu - which entries of a list stay: the highest scores, and a stable partition of the list.
 *
 * One block per list. The lowest kept score is found by its bits: four passes count, digit by digit from the top, how
 * many keys begin alike. Equal scores are settled by position, so that the result does not depend on the order of the
 * threads; then every thread moves a segment of the list, behind what the threads before it move. */
#include "gpu/lists.cuh"

enum { THREADS = 256 };

static const uint32_t NO_KEY = 0xffffffffu; /* above every key: nothing is kept by score */

/* Keys order scores as numbers: zeros are equal, NaN (key 0) is below every number. */
GPU_DEVICE uint32_t key_of(float score)
{
    if (score != score) return 0;
    return (uint32_t)kv_max_key(score == 0.0f ? 0.0f : score) ^ 0x80000000u;
}

GPU_DEVICE float score_of(uint32_t key) { return key ? kv_max_unkey((int32_t)(key ^ 0x80000000u)) : kv_nan(); }

/* Sum of v over the threads before this one; scratch: THREADS values. */
GPU_DEVICE int32_t sum_before(int32_t v, int32_t *scratch)
{
    const int32_t tid = (int32_t)threadIdx.x;
    scratch[tid] = v;
    __syncthreads(); /* all values are there */
    for (int32_t s = 1; s < THREADS; s *= 2) {
        const int32_t other = tid >= s ? scratch[tid - s] : 0;
        __syncthreads(); /* all have read */
        scratch[tid] += other;
        __syncthreads(); /* all have written */
    }
    const int32_t before = scratch[tid] - v;
    __syncthreads(); /* scratch is free again */
    return before;
}

/* The key of which `keep` of the first n are not lower; *ties receives how many of those that equal it stay. */
GPU_DEVICE uint32_t find_key(const float *scores, int32_t n, int32_t keep, int32_t *counts, int32_t *ties)
{
    const int32_t tid = (int32_t)threadIdx.x;
    uint32_t prefix = 0;
    int32_t left = keep;
    for (int32_t shift = 24; shift >= 0; shift -= 8) {
        counts[tid] = 0;
        KV_MUT(R01, (void)0, __syncthreads()); /* counts are zero */
        for (int32_t i = tid; i < n; i += THREADS) {
            const uint32_t key = key_of(scores[i]);
            if (shift == 24 || key >> (shift + 8) == prefix) atomicAdd(counts + (key >> shift & 255), 1);
        }
        __syncthreads(); /* counts are complete */
        int32_t digit = 255;
        for (; digit > 0 && left > counts[digit]; digit--) left -= counts[digit];
        prefix = prefix << 8 | (uint32_t)digit;
        __syncthreads(); /* all have read the counts */
    }
    *ties = left;
    return prefix;
}

struct select_args {
    gpu_list_view from, to;
    const gpu_selection *selections;
    const uint8_t *given;
    float *lowest;
};

GPU_DEVICE void move(const select_args &a, int64_t from, int64_t to)
{
    a.to.rows[to] = a.from.rows[from];
    a.to.ogs[to] = a.from.ogs[from];
    a.to.scores[to] = a.from.scores[from];
}

/* How the entries of a thread's segment are told apart, in order. */
struct choice {
    const uint8_t *given; /* decided already, or NULL */
    uint32_t least;       /* lowest key that stays */
    int32_t ties;         /* how many with that key may still stay */
};

GPU_DEVICE bool stays(choice *c, const float *scores, int32_t i)
{
    if (c->given) return c->given[i] != 0;
    const uint32_t key = key_of(scores[i]);
    return key > c->least || (key == c->least && c->ties-- > 0);
}

/* grid (lists). */
__global__ void gpu_k_select(select_args a)
{
    GPU_SHARED(int32_t, scratch, THREADS);
    const gpu_selection s = a.selections[blockIdx.x];
    const int64_t base = blockIdx.x * a.from.stride;
    const float *const scores = a.from.scores + base;
    const int32_t tid = (int32_t)threadIdx.x, per_thread = (s.n_open + THREADS - 1) / THREADS;
    const int32_t lo = gpu_min(tid * per_thread, s.n_open), hi = gpu_min(lo + per_thread, s.n_open);
    choice c = {a.given ? a.given + base : nullptr, NO_KEY, 0};
    if (!a.given && s.keep > 0) c.least = find_key(scores, s.n_open, s.keep, scratch, &c.ties);
    if (tid == 0) a.lowest[blockIdx.x] = score_of(c.least);

    int32_t equal = 0, staying = 0;
    for (int32_t i = lo; i < hi; i++) equal += key_of(scores[i]) == c.least;
    c.ties -= sum_before(equal, scratch); /* those of earlier threads come first */
    choice count = c;
    for (int32_t i = lo; i < hi; i++) staying += stays(&count, scores, i);
    int32_t stay = sum_before(staying, scratch), leave = s.keep + s.n - s.n_open + lo - stay;
    for (int32_t i = lo; i < hi; i++) move(a, base + i, base + (stays(&c, scores, i) ? stay++ : leave++));
    for (int32_t i = s.n_open + tid; i < s.n; i += THREADS) move(a, base + i, base + i - s.n_open + s.keep);
    for (int64_t i = s.n + tid; i < a.from.stride; i += THREADS) move(a, base + i, base + i);
}

kv_status gpu_select(const gpu_list_view &from, const gpu_list_view &to, int32_t n_lists,
                     const gpu_selection *selections, const uint8_t *given, float *lowest, cudaStream_t stream)
{
    const select_args a = {from, to, selections, given, lowest};
    return GPU_LAUNCH(gpu_k_select, dim3((unsigned)n_lists), dim3(THREADS), 0, stream, a);
}
