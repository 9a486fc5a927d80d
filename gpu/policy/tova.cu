/* tova.cu - docs/policy/tova.md: per layer, the entries that the newest token looks at most. */
#include "gpu/policy/ranked.cuh"

#include <algorithm>

namespace
{
class tova : public gpu_ranked
{
public:
    tova(const kv_tova_params &params, const gpu_site &site) : gpu_ranked("tova", site, 1), params_(params) {}

    kv_status count(int32_t layer, const float *sums) override
    {
        gpu_score_args a = score_args(layer, sums);
        a.reduction = GPU_MEAN;
        return gpu_scores(a, site_.stream);
    }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        std::unique_ptr<tova> copy = std::make_unique<tova>(params_, site_);
        KV_TRY(copy_to(copy.get()));
        *out = std::move(copy);
        return KV_OK;
    }

protected:
    budget budget_of(int32_t, int64_t n, int64_t, int32_t) const override
    {
        const int64_t safe = KV_MUT(P06, n > params_.cap, 0);
        return {n - safe, std::min<int64_t>(n, params_.cap) - safe};
    }

    void choose_queries(int64_t seen, int32_t m, gpu_counting *counting) const override
    {
        counting->wanted = evicts(seen, m);
        counting->row0 = m - 1;
    }

    int64_t entries_after(int32_t, int64_t seen, int64_t *) const override
    {
        return std::min<int64_t>(seen, params_.cap);
    }

private:
    kv_tova_params params_;
};
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_tova(const kv_tova_params &params, const gpu_site &site)
{
    return std::make_unique<tova>(params, site);
}
