/* full.cu - docs/policy/full.md: keeps every token; row = view index = original index = position. */
#include "gpu/policy.cuh"

namespace
{
class full : public gpu_shared_policy
{
public:
    full(int32_t n_layers, const gpu_coded *coded) : gpu_shared_policy(n_layers, coded) {}

    bool raw_keys() const override { return false; }

    kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *) override
    {
        if (seen + m > INT32_MAX)
            return kv_fail(KV_ERR_UNSUPPORTED, "full: token %lld is beyond the last position, 2^31 - 1; "
                           "use a bounded policy", (long long)(seen + m - 1));
        view->layers = {{seen, 0}};
        view->pos = (int32_t)seen;
        placed_ = seen + m;
        return KV_OK;
    }

    kv_status finish(int64_t seen, int32_t m, kv_events *events) override
    {
        for (int64_t og = seen; og < seen + m; og++)
            KV_TRY(gpu_decide(events, KV_EVENT_ADMIT, og, og, og));
        n_ = seen + m - KV_MUT(M02, m > 1, 0);
        return seal(0, seen, m, events);
    }

    int64_t rows() const override { return placed_; }

    void clear() override { n_ = placed_ = 0; }

    void list_all(std::vector<gpu_entry> *entries) const override
    {
        entries->clear();
        for (int64_t i = 0; i < n_; i++) entries->push_back({i, (int32_t)i, (int32_t)i});
    }

    kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) override
    {
        bool whole = (int64_t)entries->size() == seen;
        for (size_t i = 0; i < entries->size() && whole; i++) {
            gpu_entry &e = (*entries)[i];
            whole = e.og == (int64_t)i && e.pos == (int32_t)i;
            e.row = (int32_t)i;
        }
        if (!whole)
            return kv_fail(KV_ERR_MISMATCH, "full: the state does not hold tokens 0 .. %lld in order at "
                           "their own positions", (long long)(seen - 1));
        n_ = placed_ = seen;
        return KV_OK;
    }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        *out = std::make_unique<full>(*this);
        return KV_OK;
    }

private:
    int64_t n_ = 0;      /* entries */
    int64_t placed_ = 0; /* rows, those of a piece under way included */
};
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_full(int32_t n_layers, const gpu_coded *coded)
{
    return std::make_unique<full>(n_layers, coded);
}
