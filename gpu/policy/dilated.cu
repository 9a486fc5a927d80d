/* dilated.cu - docs/policy/dilated.md: the first tokens, one in `every` of those behind them, and a window of the newest. */
#include "gpu/policy.cuh"

namespace
{
class dilated : public gpu_shared_policy
{
public:
    dilated(const kv_dilated_params &params, int32_t n_layers) : gpu_shared_policy(n_layers), params_(params) {}

    bool raw_keys() const override { return false; }

    kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *) override
    {
        if (seen + m > INT32_MAX)
            return kv_fail(KV_ERR_UNSUPPORTED, "dilated: token %lld is beyond the last position, 2^31 - 1",
                           (long long)(seen + m - 1));
        view->layers = {{(int64_t)entries_.size(), 0}};
        view->pos = (int32_t)seen;
        for (int64_t og = seen; og < seen + m; og++) entries_.push_back({og, (int32_t)og, rows_.take()});
        for (const gpu_entry &e : entries_) view->rows.push_back(e.row);
        return KV_OK;
    }

    kv_status finish(int64_t seen, int32_t m, kv_events *events) override
    {
        const int64_t newest = seen + m - 1, dense = seen + m - params_.window;
        std::vector<gpu_entry> kept;
        for (size_t i = 0; i < entries_.size(); i++) {
            const gpu_entry &e = entries_[i];
            if (e.og >= dense || is_permanent(e.og)) {
                kept.push_back(e);
                continue;
            }
            KV_TRY(gpu_decide(events, KV_EVENT_EVICT, e.og, newest, (int64_t)i));
            rows_.give_back(e.row);
        }
        size_t at = kept.size();
        while (at > 0 && kept[at - 1].og >= seen) at--;
        for (int64_t og = seen; og <= newest; og++) {
            const bool there = at < kept.size() && kept[at].og == og;
            KV_TRY(gpu_decide(events, KV_EVENT_ADMIT, og, og, there ? (int64_t)at : -1));
            at += there;
        }
        entries_.swap(kept);
        return KV_OK;
    }

    int64_t rows() const override { return rows_.count(); }

    void clear() override
    {
        entries_.clear();
        rows_.reset();
    }

    void list_all(std::vector<gpu_entry> *entries) const override { *entries = entries_; }

    kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) override
    {
        int64_t og = -1;
        for (size_t i = 0; i <= entries->size(); i++) {
            do og++;
            while (og < seen && og < seen - params_.window && !is_permanent(og));
            const bool ends = i == entries->size();
            if (ends ? og < seen : (*entries)[i].og != og || (*entries)[i].pos != og || og >= seen)
                return kv_fail(KV_ERR_MISMATCH, "dilated: entry %zu of the state is not token %lld at its own position, which "
                               "belongs there after %lld tokens", i, (long long)og, (long long)seen);
        }
        clear();
        for (gpu_entry &e : *entries) e.row = rows_.take();
        entries_ = *entries;
        return KV_OK;
    }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        *out = std::make_unique<dilated>(*this);
        return KV_OK;
    }

private:
    bool is_permanent(int64_t og) const
    {
        return og < params_.sinks || (og - params_.sinks) % params_.every == KV_MUT(P12, 1, 0);
    }

    kv_dilated_params params_;
    std::vector<gpu_entry> entries_; /* oldest first; during a piece its tokens are there already */
    gpu_rows rows_;
};
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_dilated(const kv_dilated_params &params, int32_t n_layers)
{
    return std::make_unique<dilated>(params, n_layers);
}
