/* policy.cu - what policies share: events, replayed lists, the frame of those that decide once for all heads. */
#include "gpu/policy.cuh"

#include "common/math.h"
#include "gpu/coded.cuh"

#include <stdio.h>
#include <stdlib.h>

kv_status gpu_note(kv_events *events, const kv_event &e)
{
    if (!events || kv_events_push(events, e) == KV_OK) return KV_OK;
    return kv_fail(KV_ERR_NOMEM, "no memory for events");
}

kv_status gpu_decide(kv_events *events, kv_event_kind kind, int64_t og, int64_t token, int64_t slot)
{
    return gpu_note(events, {og, token, 0, -1, kind, (int32_t)slot, kv_inf(), 0});
}

/* ---- lists that are followed ---- */

kv_status gpu_follower::refuse(const char *why) const
{
    if (at_end()) return kv_fail(KV_ERR_USAGE, "the list of decisions cannot be obeyed: it ends too early: %s", why);
    const kv_event &e = given_.v[at_];
    return kv_fail(KV_ERR_USAGE, "the list of decisions cannot be obeyed: event %zu (layer %d, head %d, token %lld, slot "
                   "%d): %s", at_, e.layer, e.head, (long long)e.og, e.slot, why);
}

kv_status gpu_follower::expect(const kv_event &wanted)
{
    static const char *const verb[] = {"admission", "eviction", "move", "seal"};
    const kv_event *const e = next();
    if (e && e->og == wanted.og && e->token == wanted.token && e->layer == wanted.layer && e->head == wanted.head &&
        e->kind == wanted.kind && e->slot == wanted.slot) {
        at_++;
        return KV_OK;
    }
    char why[160];
    snprintf(why, sizeof why, "the %s of token %lld, caused by %lld, at slot %d of layer %d, head %d belongs here",
             verb[wanted.kind & 3], (long long)wanted.og, (long long)wanted.token, wanted.slot, wanted.layer, wanted.head);
    return refuse(why);
}

kv_status gpu_follower::finish() const { return at_end() ? KV_OK : refuse("the step ends before it"); }

/* ---- steps ---- */

kv_status gpu_policy::check(int64_t, const kv_step &step) const
{
    if (step.flags & KV_STEP_RECOMPUTE)
        return kv_fail(KV_ERR_UNSUPPORTED, "step: only the policy xwindow computes rows again (KV_STEP_RECOMPUTE)");
    return KV_OK;
}

/* ---- policies that decide once ---- */

namespace
{
struct noted {
    kv_events list = {};

    noted() = default;
    noted(const noted &) = delete;
    noted &operator=(const noted &) = delete;
    ~noted() { free(list.v); }
};
} // namespace

/* Nothing is chosen by score, so that only one list can be obeyed: the one that a copy decides on. */
kv_status gpu_shared_policy::follow(int64_t seen, int32_t m, const kv_events &given)
{
    std::unique_ptr<gpu_policy> copy;
    noted made, own;
    KV_TRY(clone(&copy));
    for (int32_t first = 0, n; first < m; first += n) {
        n = copy->piece(seen, m, first);
        gpu_view view;
        KV_TRY(copy->begin(seen + first, n, &view, &made.list));
        KV_TRY(copy->finish(seen + first, n, &made.list));
    }
    KV_TRY(copy->publish(made.list, &own.list));
    gpu_follower f(given);
    for (size_t i = 0; i < own.list.n; i++) KV_TRY(f.expect(own.list.v[i]));
    return f.finish();
}

kv_status gpu_shared_policy::publish(const kv_events &noted, kv_events *out) const
{
    for (int32_t l = first_layer(); l < n_layers_; l++)
        for (size_t i = 0; i < noted.n; i++) {
            kv_event e = noted.v[i];
            e.layer = l;
            KV_TRY(gpu_note(out, e));
        }
    return KV_OK;
}

int32_t gpu_shared_policy::granule() const { return coded_ ? coded_->granule() : 1; }

kv_status gpu_shared_policy::seal(int64_t first, int64_t seen, int32_t m, kv_events *events) const
{
    return coded_ ? coded_->seal({first, seen, m}, events) : KV_OK;
}

/* All runs must hold the same tokens at the same positions, or none before the first layer. */
kv_status gpu_shared_policy::adopt(int64_t seen, gpu_runs *runs)
{
    const size_t without = runs->size() / (size_t)n_layers_ * (size_t)first_layer();
    std::vector<gpu_entry> none, &first = without < runs->size() ? (*runs)[without] : none;
    for (size_t i = 0; i < runs->size(); i++) {
        const std::vector<gpu_entry> &run = (*runs)[i];
        const std::vector<gpu_entry> &wanted = i < without ? none : first;
        bool same = run.size() == wanted.size();
        for (size_t e = 0; e < run.size() && same; e++) same = run[e].og == wanted[e].og && run[e].pos == wanted[e].pos;
        if (!same)
            return kv_fail(KV_ERR_MISMATCH, "the state's run %zu does not hold the tokens that it should; with this "
                           "policy all layers and heads agree", i);
    }
    KV_TRY(adopt_all(seen, &first));
    for (size_t i = without; i < runs->size(); i++) (*runs)[i] = first;
    return KV_OK;
}

/* ---- rows ---- */

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
