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
