/* trace.cu - a policy's insertion rule alone, without a model (docs/backend.md). What is in which slot is taken from the
 * policy's events, positions from its list of entries: both as a session gets them. */
#include "gpu/session.cuh"
#include "gpu/policy/cascade.cuh"

#include <stdlib.h>
#include <unordered_map>

namespace
{
/* Slots as events fill them. */
class ring_book
{
public:
    ring_book(int32_t sinks, int32_t window, int32_t n_rings)
        : sinks_(sinks), window_(window), count_((size_t)n_rings), start_((size_t)n_rings),
          og_((size_t)(window * n_rings), -1), pos_(og_.size())
    {
    }

    void take(const kv_event &e)
    {
        if (e.kind == KV_EVENT_EVICT) {
            if (place_.count(e.og)) place_.erase(e.og);
            return;
        }
        if (e.slot < sinks_) {
            n_sinks_++;
            return;
        }
        og_[(size_t)(e.slot - sinks_)] = e.og;
        place_[e.og] = e.slot - sinks_;
    }

    kv_trace_state state(int64_t seen, const std::vector<gpu_entry> &entries)
    {
        std::fill(pos_.begin(), pos_.end(), -1);
        for (const gpu_entry &e : entries)
            if (place_.count(e.og)) pos_[(size_t)place_[e.og]] = e.pos;
        for (size_t ring = 0; ring < count_.size(); ring++) look_at(ring);
        return {seen, n_sinks_, (int32_t)count_.size(), (int32_t)og_.size(), count_.data(), start_.data(), og_.data(),
                pos_.data()};
    }

private:
    /* Entries of a ring, and the offset of the one with the lowest position. */
    void look_at(size_t ring)
    {
        int32_t oldest = INT32_MAX;
        count_[ring] = start_[ring] = 0;
        for (int32_t k = 0; k < window_; k++) {
            const size_t slot = ring * (size_t)window_ + (size_t)k;
            count_[ring] += og_[slot] >= 0;
            if (pos_[slot] < 0 || pos_[slot] >= oldest) continue;
            oldest = pos_[slot];
            start_[ring] = k;
        }
    }

    int32_t sinks_, window_, n_sinks_ = 0;
    std::vector<int32_t> count_, start_;
    std::vector<int64_t> og_;
    std::vector<int32_t> pos_;
    std::unordered_map<int64_t, int32_t> place_; /* slot of a token */
};

/* One token; its decisions go to *noted. */
kv_status feed(gpu_policy *policy, gpu_cascade *cascade, const kv_trace &t, int64_t token, kv_events *noted)
{
    gpu_view view;
    const float score = t.score(t.arg, token);
    KV_TRY(policy->begin(token, 1, &view, noted));
    if (cascade && t.policy->cascade.select == KV_SELECT_EMA)
        KV_TRY(cascade->impose(0, (int32_t)view.layer(0).n_stored, {score}));
    return policy->finish(token, 1, noted);
}

kv_status run(const kv_trace &t, gpu_policy *policy, gpu_cascade *cascade, ring_book *book, kv_events *noted)
{
    std::vector<gpu_entry> entries;
    for (int64_t token = 0; token < t.n_tokens; token++) {
        noted->n = 0;
        KV_TRY(feed(policy, cascade, t, token, noted));
        for (size_t i = 0; i < noted->n; i++) book->take(noted->v[i]);
        if (t.events) KV_TRY(policy->publish(*noted, t.events));
        KV_TRY(policy->list(0, 0, &entries));
        const kv_trace_state state = book->state(token + 1, entries);
        if (t.look && t.look(t.arg, &state)) break;
    }
    return KV_OK;
}
} // namespace

kv_status gpu_trace(const kv_trace &t)
{
    KV_TRY(kv_policy_check(t.policy));
    const bool is_sink = t.policy->selection == KV_SEL_SINK;
    if (!is_sink && t.policy->selection != KV_SEL_CASCADE)
        return kv_fail(KV_ERR_UNSUPPORTED, "trace: only sink and cascade can be run without a model");
    if (t.n_tokens < 0 || !t.score) return kv_fail(KV_ERR_USAGE, "trace: it needs a number of tokens and a score");
    gpu_stream stream;
    KV_TRY(gpu_stream_open(&stream.s, 0, 1));
    const kv_cascade_params &c = t.policy->cascade;
    ring_book book(is_sink ? t.policy->sink.sinks : c.sinks, is_sink ? t.policy->sink.cap : c.window, is_sink ? 1 : c.n);
    kv_events noted = {};
    kv_status st;
    if (is_sink) {
        st = run(t, gpu_policy_sink(t.policy->sink, 1).get(), nullptr, &book, &noted);
    } else {
        gpu_cascade cascade(c, {1, 1, 1, stream.s});
        st = run(t, &cascade, &cascade, &book, &noted);
    }
    free(noted.v);
    return st;
}
