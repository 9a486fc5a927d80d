/* xwindow.cu - docs/policy/xwindow.md: overlapping windows, each computed anew beside rows that earlier ones recorded.
 *
 * A window's tokens get rows of their own for every layer; those that are recorded keep them, the others are handed back
 * when the window is done. */
#include "gpu/policy.cuh"

#include <algorithm>
#include <deque>

namespace
{
class xwindow : public gpu_shared_policy
{
public:
    xwindow(const kv_xwindow_params &params, int32_t n_layers) : gpu_shared_policy(n_layers), params_(params) {}

    bool raw_keys() const override { return fixed(); }

    gpu_memory memory() const override
    {
        return {params_.pred == KV_PRED_CARRY ? params_.window : 0, params_.stride};
    }

    kv_status check(int64_t seen, const kv_step &step) const override;

    kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *) override
    {
        const std::vector<int32_t> rows = rows_in_view(seen);
        const int64_t n = (int64_t)rows.size();
        view->rows = rows;
        fresh_.clear();
        for (int32_t x = 0; x < m; x++) fresh_.push_back(rows_.take());
        view->rows.insert(view->rows.end(), fresh_.begin(), fresh_.end());
        view->pos = fixed() ? (int32_t)n : offset_;
        view->own_exact = true;
        for (int32_t l = 0; l < n_layers_; l++)
            view->layers.push_back(l < first_layer() ? gpu_layer_view{0, n} : gpu_layer_view{n, 0});
        return KV_OK;
    }

    kv_status finish(int64_t seen, int32_t m, kv_events *events) override;

    int64_t rows() const override { return rows_.count(); }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        *out = std::make_unique<xwindow>(*this);
        return KV_OK;
    }

protected:
    void clear() override
    {
        recorded_.clear();
        fresh_.clear();
        rows_.reset();
        done_ = next_ = 0;
        offset_ = 0;
    }

    void list_all(std::vector<gpu_entry> *entries) const override
    {
        entries->assign(recorded_.begin(), recorded_.end());
    }

    kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) override;

    /* With cache=0 nothing is recorded. */
    int32_t first_layer() const override
    {
        return params_.cache == 0 ? n_layers_ : params_.layers ? n_layers_ - params_.layers : 0;
    }

private:
    bool fixed() const { return params_.ver == KV_XW_FIXED; }

    /* Rows of the recorded entries that a window from ws on reads, oldest first. */
    std::vector<int32_t> rows_in_view(int64_t ws) const
    {
        std::vector<int32_t> rows;
        for (const gpu_entry &e : recorded_)
            if (!fixed() || (e.og >= ws - params_.cache && e.og < ws - KV_MUT(P14, 1, 0))) rows.push_back(e.row);
        return rows;
    }

    int64_t count_leaving(int64_t ws, bool had_rows) const;
    kv_status drop(int64_t n, int64_t token, kv_events *events);
    bool fits(int64_t seen, const std::vector<gpu_entry> &entries) const;

    kv_xwindow_params params_;
    std::deque<gpu_entry> recorded_;
    std::vector<int32_t> fresh_; /* rows of the window under way */
    gpu_rows rows_;
    int64_t done_ = 0;   /* end of the window before */
    int64_t next_ = 0;   /* first token of the next window; -1: not known, after an import */
    int32_t offset_ = 0; /* published: position of the next window's first token */
};

kv_status xwindow::check(int64_t seen, const kv_step &step) const
{
    if (!(step.flags & KV_STEP_RECOMPUTE))
        return kv_fail(KV_ERR_USAGE, "xwindow: a step is a window; set KV_STEP_RECOMPUTE and pos0");
    const int64_t wanted = seen == 0 ? 0 : next_, end = step.pos0 + step.n;
    if (wanted >= 0 ? step.pos0 != wanted : step.pos0 < 0 || step.pos0 > seen)
        return kv_fail(KV_ERR_USAGE, "xwindow: the window begins at token %lld; this one begins at %lld", (long long)step.pos0,
                       (long long)(wanted >= 0 ? wanted : seen));
    if (step.n > params_.window || end <= seen)
        return kv_fail(KV_ERR_USAGE, "xwindow: tokens %lld to %lld; a window has at most %d and ends behind the %lld that were "
                       "seen", (long long)step.pos0, (long long)(end - 1), params_.window, (long long)seen);
    return KV_OK;
}

/* Recorded rows that nobody reads after the window from ws on. */
int64_t xwindow::count_leaving(int64_t ws, bool had_rows) const
{
    const int64_t n = (int64_t)recorded_.size();
    if (!fixed()) return had_rows ? std::max<int64_t>(0, n - params_.cache) : 0;
    int64_t leaving = 0;
    while (leaving < n && recorded_[(size_t)leaving].og < ws + KV_MUT(P13, 0, params_.stride) - params_.cache) leaving++;
    return leaving;
}

/* The n oldest rows leave. */
kv_status xwindow::drop(int64_t n, int64_t token, kv_events *events)
{
    for (int64_t i = 0; i < n; i++) {
        KV_TRY(gpu_decide(events, KV_EVENT_EVICT, recorded_.front().og, token, i));
        rows_.give_back(recorded_.front().row);
        recorded_.pop_front();
    }
    return KV_OK;
}

kv_status xwindow::finish(int64_t ws, int32_t m, kv_events *events)
{
    const int64_t end = ws + m, last = end - 1;
    const int64_t first = params_.cache == 0 ? end : fixed() ? done_ : end - std::min(params_.stride, m);
    const bool had_rows = !recorded_.empty();
    for (int64_t og = ws; og < end; og++) {
        const int32_t row = fresh_[(size_t)(og - ws)];
        if (og < first)
            rows_.give_back(row);
        else
            recorded_.push_back({og, (int32_t)(fixed() ? og : offset_ + og - ws), row});
    }
    const int64_t leaving = count_leaving(ws, had_rows), slot = (int64_t)recorded_.size() - leaving - (end - first);
    KV_TRY(drop(leaving, last, events));
    for (int64_t og = first; og < end; og++)
        KV_TRY(gpu_decide(events, KV_EVENT_ADMIT, og, last, std::max<int64_t>(slot + og - first, -1)));
    done_ = end;
    next_ = ws + params_.stride;
    offset_ = (int32_t)std::min<int64_t>(end, params_.cache);
    return KV_OK;
}

/* Whether these rows can have been recorded. */
bool xwindow::fits(int64_t seen, const std::vector<gpu_entry> &entries) const
{
    const int64_t n = (int64_t)entries.size(), most = (int64_t)params_.cache + params_.window;
    if (n > (fixed() ? std::min(most, seen) : params_.cache)) return false;
    for (int64_t i = 0; i < n; i++) {
        const gpu_entry &e = entries[(size_t)i];
        if (fixed() ? e.og != seen - n + i || e.pos != e.og : e.og < 0 || e.og >= seen || e.pos < 0 || e.pos >= most)
            return false;
    }
    return true;
}

kv_status xwindow::adopt_all(int64_t seen, std::vector<gpu_entry> *entries)
{
    if (seen + params_.window > INT32_MAX || !fits(seen, *entries))
        return kv_fail(KV_ERR_MISMATCH, "xwindow: the state's %zu rows cannot have been recorded in windows of %d after %lld "
                       "tokens", entries->size(), params_.window, (long long)seen);
    clear();
    for (gpu_entry &e : *entries) e.row = rows_.take();
    recorded_.assign(entries->begin(), entries->end());
    done_ = seen;
    offset_ = (int32_t)std::min<int64_t>(seen, params_.cache);
    next_ = -1;
    return KV_OK;
}
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_xwindow(const kv_xwindow_params &params, int32_t n_layers)
{
    return std::make_unique<xwindow>(params, n_layers);
}
