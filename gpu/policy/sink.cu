/* sink.cu - docs/policy/sink.md: the first tokens for ever, the newest others in a ring.
 *
 * The ring holds rows, not K and V: a step's tokens get rows of their own before the forward pass, and
 * insertion afterwards only changes who owns which row. */
#include "gpu/policy.cuh"

#include <algorithm>

namespace
{
class sink : public gpu_shared_policy
{
public:
    sink(const kv_sink_params &params, int32_t n_layers) : gpu_shared_policy(n_layers), params_(params) {}

    bool raw_keys() const override { return true; }

    kv_status begin(int64_t, int32_t m, gpu_view *view, kv_events *) override
    {
        const int64_t n = (int64_t)(sinks_.size() + ring_.size());
        if (n + m > INT32_MAX)
            return kv_fail(KV_ERR_UNSUPPORTED, "sink: a step of %d tokens beside %lld entries is beyond the "
                           "last position, 2^31 - 1; use shorter steps", m, (long long)n);
        view->layers = {{n, 0}};
        view->pos = (int32_t)n;
        for (const held &e : sinks_) view->rows.push_back(e.row);
        for (size_t i = 0; i < ring_.size(); i++) view->rows.push_back(ring_[at(i)].row);
        fresh_.clear();
        for (int32_t x = 0; x < m; x++) fresh_.push_back(rows_.take());
        view->rows.insert(view->rows.end(), fresh_.begin(), fresh_.end());
        return KV_OK;
    }

    kv_status finish(int64_t seen, int32_t m, kv_events *events) override
    {
        for (int32_t x = 0; x < m; x++) KV_TRY(insert({seen + x, fresh_[(size_t)x]}, events));
        return KV_OK;
    }

    int64_t rows() const override { return rows_.count(); }

    void clear() override
    {
        sinks_.clear();
        KV_MUT(M30, (void)0, ring_.clear());
        start_ = 0;
        rows_.reset();
    }

    void list_all(std::vector<gpu_entry> *entries) const override
    {
        entries->clear();
        for (const held &e : sinks_) entries->push_back({e.og, (int32_t)entries->size(), e.row});
        for (size_t i = 0; i < ring_.size(); i++) {
            const held &e = ring_[at(i)];
            entries->push_back({e.og, (int32_t)entries->size(), e.row});
        }
    }

    kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) override;

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        *out = std::make_unique<sink>(*this);
        return KV_OK;
    }

private:
    struct held {
        int64_t og;
        int32_t row;
    };

    /* Ring offset of the i-th oldest entry. */
    size_t at(size_t i) const { return (start_ + i) % (size_t)params_.cap; }

    kv_status insert(held e, kv_events *events)
    {
        if ((int32_t)sinks_.size() < params_.sinks) {
            KV_TRY(gpu_decide(events, KV_EVENT_ADMIT, e.og, e.og, (int64_t)sinks_.size()));
            sinks_.push_back(e);
            return KV_OK;
        }
        if ((int32_t)ring_.size() < params_.cap) {
            KV_TRY(gpu_decide(events, KV_EVENT_ADMIT, e.og, e.og, params_.sinks + (int64_t)ring_.size()));
            ring_.push_back(e);
            return KV_OK;
        }
        held &oldest = KV_MUT(M05, start_ == 0 ? sinks_[0] : ring_[start_],
                              ring_[KV_MUT(M11, (start_ + 1) % (size_t)params_.cap, start_)]);
        const int64_t slot = params_.sinks + (int64_t)start_;
        KV_TRY(gpu_decide(events, KV_MUT(P17, KV_EVENT_EVICT, KV_EVENT_ADMIT), KV_MUT(P17, oldest.og, e.og), e.og, slot));
        KV_TRY(gpu_decide(events, KV_MUT(P17, KV_EVENT_ADMIT, KV_EVENT_EVICT), KV_MUT(P17, e.og, oldest.og), e.og, slot));
        rows_.give_back(oldest.row);
        oldest = e;
        start_ = (start_ + 1) % (size_t)(params_.cap - KV_MUT(M01, 1, 0));
        return KV_OK;
    }

    kv_sink_params params_;
    std::vector<held> sinks_, ring_; /* ring by offset */
    size_t start_ = 0;               /* offset of the oldest; 0 until the ring is full */
    std::vector<int32_t> fresh_;     /* rows of the piece under way */
    gpu_rows rows_;
};

/* What the cache holds follows from the number of tokens alone, the ring's start included. */
kv_status sink::adopt_all(int64_t seen, std::vector<gpu_entry> *entries)
{
    const int64_t n = (int64_t)entries->size(), n_sinks = std::min<int64_t>(seen, params_.sinks);
    const int64_t n_ring = std::min<int64_t>(seen - n_sinks, params_.cap);
    if (n != n_sinks + n_ring)
        return kv_fail(KV_ERR_MISMATCH, "sink: the state holds %lld entries; after %lld tokens there are "
                       "%lld", (long long)n, (long long)seen, (long long)(n_sinks + n_ring));
    for (int64_t i = 0; i < n; i++) {
        const gpu_entry &e = (*entries)[(size_t)i];
        const int64_t og = i < n_sinks ? i : seen - n + i;
        if (e.og != og || e.pos != i)
            return kv_fail(KV_ERR_MISMATCH, "sink: entry %lld of the state is token %lld at position %d; "
                           "token %lld belongs there", (long long)i, (long long)e.og, e.pos, (long long)og);
    }
    clear();
    if (KV_MUT(S04, false, n_ring == params_.cap)) start_ = (size_t)((seen - n_sinks) % params_.cap);
    ring_.resize((size_t)n_ring);
    for (int64_t i = 0; i < n; i++) {
        gpu_entry &e = (*entries)[(size_t)i];
        e.row = rows_.take();
        if (i < n_sinks)
            sinks_.push_back({e.og, e.row});
        else
            ring_[at((size_t)(i - n_sinks))] = {e.og, e.row};
    }
    return KV_OK;
}
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_sink(const kv_sink_params &params, int32_t n_layers)
{
    return std::make_unique<sink>(params, n_layers);
}
