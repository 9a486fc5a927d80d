/* cascade_plan.cu - the insertion of docs/policy/cascade.md as far as it does not depend on scores. */
#include "gpu/policy/cascade.cuh"

namespace
{
int64_t power(int64_t base, int32_t exponent)
{
    int64_t p = 1;
    while (exponent-- > 0) p *= base;
    return p;
}

/* Acceptance period of ring i of n. */
int64_t period_of(int32_t accept, int32_t i, int32_t n)
{
    switch (accept) {
    case KV_ACCEPT_POW3:
        return power(3, i);
    case KV_ACCEPT_POW4:
        return power(4, i);
    case KV_ACCEPT_IPLUS1:
        return i + 1;
    case KV_ACCEPT_1_THEN_2:
        return i == 0 ? 1 : 2;
    case KV_ACCEPT_POW2_1:
        return i == n - 1 ? power(2, i) : 1;
    case KV_ACCEPT_POW2_3_4:
        return i < n / 4 ? 1 : power(2, i);
    case KV_ACCEPT_POW2_2_4:
        return i < 2 * n / 4 ? 1 : power(2, i);
    case KV_ACCEPT_POW2_1_4:
        return i < 3 * n / 4 ? 1 : power(2, i);
    default:
        return power(2, i);
    }
}
} // namespace

gpu_cascade_plan::gpu_cascade_plan(const kv_cascade_params &params) : params_(params)
{
    rings_ = {};
    rings_.sinks = params.sinks;
    rings_.window = params.window;
    rings_.n = params.n;
    for (int32_t i = 0; i < params.n; i++) period_[i] = period_of(params.accept, i, params.n);
}

gpu_cascade_plan::gpu_cascade_plan(const kv_cascade_params &params, const gpu_rings &rings) : gpu_cascade_plan(params)
{
    rings_ = rings;
}

void gpu_cascade_plan::insert(int64_t t, std::vector<gpu_ring_move> *moves)
{
    gpu_rings &r = rings_;
    if (r.n_sinks < r.sinks) {
        moves->push_back({GPU_RING_PUT, r.n_sinks++});
        return;
    }
    const int64_t n = t - r.sinks;
    const bool filling = KV_MUT(P04, false, params_.eager) && t <= (int64_t)r.sinks + params_.cap - KV_MUT(P03, 1, 0);
    for (int32_t i = 0; i < r.n; i++) {
        const int32_t first = r.sinks + i * r.window; /* slot of offset 0 */
        int32_t &count = r.count[i], &start = r.start[i];
        const bool accepts = filling || (n + KV_MUT(G45, 1, 0)) % period_[i] == 0;
        if ((accepts && count < r.window) || count == 0) {
            moves->push_back({GPU_RING_PUT, first + start + count++});
            return;
        }
        if (!accepts) {
            moves->push_back({GPU_RING_DUEL, first + (start + KV_MUT(P02, 0, count - 1)) % r.window});
            return;
        }
        moves->push_back({GPU_RING_SWAP, first + start});
        start = (start + 1) % r.window;
    }
    moves->push_back({GPU_RING_DROP, -1});
}
