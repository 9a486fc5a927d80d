/* sliding.cu - docs/policy/sliding.md: keeps the newest cap tokens; the oldest leave before the forward
 * pass, as many as the piece needs room for. */
#include "gpu/policy.cuh"

#include <algorithm>
#include <deque>

namespace
{
class sliding : public gpu_shared_policy
{
public:
    sliding(const kv_sliding_params &params, int32_t n_layers, const gpu_coded *coded)
        : gpu_shared_policy(n_layers, coded), params_(params)
    {
    }

    bool raw_keys() const override { return params_.pos == KV_SLIDING_REROTATE; }

    int32_t piece(int64_t, int32_t m, int32_t first) const override
    {
        return std::min(m - first, m > params_.cap - granule() + 1 ? params_.cap / 2 : m);
    }

    kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *events) override
    {
        const int64_t g = granule(), room = params_.cap - KV_MUT(P10, 1, 0);
        const int64_t over = std::max<int64_t>(0, (int64_t)entries_.size() + m - room);
        for (int64_t i = 0; i < (over + g - 1) / g * g; i++) {
            KV_TRY(gpu_decide(events, KV_EVENT_EVICT, entries_.front().og, seen, i));
            rows_.give_back(entries_.front().row);
            entries_.pop_front();
        }
        const int64_t first = KV_MUT(P11, false, params_.pos == KV_SLIDING_ABSOLUTE) ? seen : (int64_t)entries_.size();
        if (first + m > INT32_MAX)
            return kv_fail(KV_ERR_UNSUPPORTED, "sliding: token %lld is beyond the last absolute position, "
                           "2^31 - 1; use pos=rerotate", (long long)(seen + m - 1));
        view->layers = {{(int64_t)entries_.size(), 0}};
        view->pos = (int32_t)first;
        for (int32_t x = 0; x < m; x++)
            entries_.push_back({seen + x, (int32_t)(first + x), rows_.take()});
        if (KV_MUT(G36, raw_keys() && entries_.front().og < 8, raw_keys())) /* positions are those of this read */
            for (size_t i = 0; i < entries_.size(); i++) entries_[i].pos = (int32_t)i;
        for (const gpu_entry &e : entries_) view->rows.push_back(e.row);
        return KV_OK;
    }

    kv_status finish(int64_t seen, int32_t m, kv_events *events) override
    {
        const int64_t slot = (int64_t)entries_.size() - m;
        for (int32_t x = 0; x < m; x++)
            KV_TRY(gpu_decide(events, KV_EVENT_ADMIT, seen + x, seen + x, slot + x));
        return seal(entries_.front().og, seen, m, events);
    }

    int64_t rows() const override { return rows_.count(); }

    void clear() override
    {
        entries_.clear();
        rows_.reset();
    }

    void list_all(std::vector<gpu_entry> *entries) const override
    {
        entries->assign(entries_.begin(), entries_.end());
    }

    kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) override
    {
        const int64_t n = (int64_t)entries->size();
        if (n > params_.cap || n > seen || (seen > 0 && n == 0))
            return kv_fail(KV_ERR_MISMATCH, "sliding: the state holds %lld entries after %lld tokens; "
                           "cap=%d", (long long)n, (long long)seen, params_.cap);
        for (int64_t i = 0; i < n; i++) {
            const gpu_entry &e = (*entries)[(size_t)i];
            const bool in_place = params_.pos == KV_SLIDING_REROTATE   ? e.pos == i
                                  : params_.pos == KV_SLIDING_ABSOLUTE ? e.pos == e.og
                                                                       : e.pos >= 0 && e.pos < params_.cap;
            if (e.og != seen - n + i || !in_place)
                return kv_fail(KV_ERR_MISMATCH, "sliding: entry %lld of the state is token %lld at "
                               "position %d; the newest %lld tokens belong there in order",
                               (long long)i, (long long)e.og, e.pos, (long long)n);
        }
        clear();
        for (gpu_entry &e : *entries) e.row = rows_.take();
        entries_.assign(entries->begin(), entries->end());
        return KV_OK;
    }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        *out = std::make_unique<sliding>(*this);
        return KV_OK;
    }

private:
    kv_sliding_params params_;
    std::deque<gpu_entry> entries_; /* oldest first; during a piece its tokens are there already */
    gpu_rows rows_;
};
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_sliding(const kv_sliding_params &params, int32_t n_layers, const gpu_coded *coded)
{
    return std::make_unique<sliding>(params, n_layers, coded);
}
