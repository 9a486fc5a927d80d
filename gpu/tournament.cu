/* tournament.cu - one block per list: its first thread walks through the plan with the numbers of elements only, then all
 * threads move rows, indices and scores to where they belong, once. K and V stay where they are. */
#include "gpu/tournament.cuh"

enum { THREADS = 128 };

/* grid (slots and tokens / THREADS, lists). */
__global__ void gpu_k_rings_view(gpu_rings r, gpu_list_view lists, int32_t n, int32_t m, int32_t *out, int32_t *view_of)
{
    const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (i >= n + m) return;
    const int32_t view = i < n ? gpu_rings_view_of(r, i) : i;
    out[blockIdx.y * (int64_t)(n + m) + view] = lists.rows[blockIdx.y * lists.stride + i];
    if (blockIdx.y == 0 && i < n) view_of[i] = view;
}

kv_status gpu_rings_view(const gpu_rings &r, const gpu_list_view &lists, int32_t n_lists, int32_t m, int32_t *out,
                         int32_t *view_of, cudaStream_t stream)
{
    const int32_t n = gpu_rings_entries(r);
    return GPU_LAUNCH_NOSYNC(gpu_k_rings_view, dim3(gpu_blocks(n + m, THREADS), (unsigned)n_lists), dim3(THREADS), stream,
                             r, lists, n, m, out, view_of);
}

GPU_DEVICE bool comer_wins(const gpu_tournament &t, float comes, float stays, const uint8_t *won)
{
    switch (t.rule) {
    case GPU_DUEL_SCORE:
        return KV_MUT(P01, comes > stays, comes >= stays);
    case GPU_DUEL_STRICT:
        return comes > stays;
    case GPU_DUEL_GIVEN:
        return *won != 0;
    default:
        return t.rule == GPU_DUEL_COMES;
    }
}

/* source[slot] = the element that ends there; those that leave are put behind, from n_after on. */
GPU_DEVICE void walk(const gpu_tournament &t, int32_t list, int32_t *source)
{
    const float *const scores = t.from.scores + list * t.from.stride;
    uint8_t *const won = t.won + (int64_t)list * t.n_duels;
    float *const margin = t.margin + (int64_t)list * t.n_duels;
    int32_t token = t.n, comes = token, duel = 0, left = t.n_after;
    for (int32_t i = 0; i < t.n_moves; i++) {
        const gpu_ring_move move = t.moves[i];
        if (move.step == GPU_RING_SWAP) {
            const int32_t stays = source[move.slot];
            source[move.slot] = comes;
            comes = stays;
            continue;
        }
        if (move.step == GPU_RING_PUT) source[move.slot] = comes;
        if (move.step == GPU_RING_DROP) source[left++] = comes;
        if (move.step == GPU_RING_DUEL) {
            const int32_t stays = source[move.slot];
            const float a = scores[comes], b = scores[stays];
            const bool wins = comer_wins(t, a, b, won + duel);
            source[move.slot] = wins ? comes : stays;
            source[left++] = wins ? stays : comes;
            won[duel] = wins;
            margin[duel++] = KV_MUT(P15, true, wins) ? gpu_margin(a, b) : gpu_margin(b, a);
        }
        comes = ++token;
    }
}

/* grid (lists). */
__global__ void gpu_k_tournament(gpu_tournament t)
{
    const int32_t list = (int32_t)blockIdx.x, tid = (int32_t)threadIdx.x;
    const int64_t base = list * t.from.stride;
    int32_t *const source = t.source + base;
    for (int32_t i = tid; i < t.n; i += THREADS) source[i] = i;
    __syncthreads(); /* everybody stands in his slot */
    if (tid == 0) walk(t, list, source);
    KV_MUT(R02, (void)0, __syncthreads()); /* everybody has a new place */
    for (int64_t i = tid; i < t.from.stride; i += THREADS) {
        const int64_t from = base + (i < t.n + t.m ? source[i] : i);
        t.to.rows[base + i] = t.from.rows[from];
        t.to.ogs[base + i] = t.from.ogs[from];
        t.to.scores[base + i] = t.from.scores[from];
    }
}

kv_status gpu_tournament_run(const gpu_tournament &t, cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_tournament, dim3((unsigned)t.n_lists), dim3(THREADS), 0, stream, t);
}
