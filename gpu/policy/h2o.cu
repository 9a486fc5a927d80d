/* h2o.cu - docs/policy/h2o.md: the newest entries and those that collected most attention, per KV head. */
#include "gpu/policy/ranked.cuh"

#include <algorithm>

namespace
{
class h2o : public gpu_ranked
{
public:
    h2o(const kv_h2o_params &params, const gpu_site &site) : gpu_ranked("h2o", site, site.kv_heads), params_(params) {}

    bool has_scores() const override { return true; }

    kv_status count(int32_t layer, const float *sums) override
    {
        gpu_score_args a = score_args(layer, sums);
        a.reduction = params_.gqa == KV_GQA_MAX ? GPU_MAX : GPU_SUM;
        a.carried = true;
        a.decay = 1.0f;
        return gpu_scores(a, site_.stream);
    }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        std::unique_ptr<h2o> copy = std::make_unique<h2o>(params_, site_);
        KV_TRY(copy_to(copy.get()));
        *out = std::move(copy);
        return KV_OK;
    }

protected:
    budget budget_of(int32_t, int64_t n, int64_t, int32_t) const override
    {
        if (n <= params_.cap) return {n, n};
        return {n - params_.recent + KV_MUT(P05, 1, 0), params_.heavy + KV_MUT(P05, 1, 0)};
    }

    void choose_queries(int64_t, int32_t, gpu_counting *counting) const override { counting->wanted = true; }

    int64_t entries_after(int32_t, int64_t seen, int64_t *tail) const override
    {
        *tail = std::min<int64_t>(seen, params_.recent);
        return std::min<int64_t>(seen, params_.cap);
    }

private:
    kv_h2o_params params_;
};
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_h2o(const kv_h2o_params &params, const gpu_site &site)
{
    return std::make_unique<h2o>(params, site);
}
