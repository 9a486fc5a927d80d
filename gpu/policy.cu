#include "gpu/policy.cuh"

#include "common/math.h"

kv_status gpu_decide(kv_events *events, kv_event_kind kind, int64_t og, int64_t token, int64_t slot)
{
    if (!events) return KV_OK;
    kv_event e = {};
    e.og = og;
    e.token = token;
    e.head = -1;
    e.kind = kind;
    e.slot = (int32_t)slot;
    e.margin = kv_inf();
    if (kv_events_push(events, e) != KV_OK) return kv_fail(KV_ERR_NOMEM, "no memory for events");
    return KV_OK;
}

/* All runs must hold the same tokens at the same positions. */
kv_status gpu_shared_policy::adopt(int64_t seen, gpu_runs *runs)
{
    std::vector<gpu_entry> &first = (*runs)[0];
    for (size_t i = 1; i < runs->size(); i++) {
        const std::vector<gpu_entry> &run = (*runs)[i];
        bool same = run.size() == first.size();
        for (size_t e = 0; e < run.size() && same; e++) same = run[e].og == first[e].og && run[e].pos == first[e].pos;
        if (!same)
            return kv_fail(KV_ERR_MISMATCH, "the state holds other tokens in run %zu than in the first; with this "
                           "policy all layers and heads agree", i);
    }
    KV_TRY(adopt_all(seen, &first));
    for (size_t i = 1; i < runs->size(); i++) (*runs)[i] = first;
    return KV_OK;
}

int32_t gpu_rows::take()
{
    if (free_.empty()) return n_++;
    const int32_t row = free_.back();
    free_.pop_back();
    return row;
}

void gpu_rows::reset()
{
    free_.clear();
    n_ = 0;
}
