/* snapkv.cu - docs/policy/snapkv.md and pyramid.md: the prompt is compressed once, per KV head, by what its last tokens
 * look at; what follows is appended. The two differ in how many entries a layer keeps. */
#include "gpu/policy/ranked.cuh"

#include <algorithm>

namespace
{
class snapkv : public gpu_ranked
{
public:
    snapkv(const kv_snapkv_params &params, bool pyramid, const gpu_site &site)
        : gpu_ranked(pyramid ? "pyramid" : "snapkv", site, site.kv_heads), params_(params), pyramid_(pyramid)
    {
    }

    kv_status check(int64_t seen, const kv_step &step) const override
    {
        KV_TRY(gpu_policy::check(seen, step));
        if (seen > 0 || step.n >= params_.prompt) return KV_OK;
        return kv_fail(KV_ERR_USAGE, "%s: the first step has %d tokens and the prompt %d; feed the whole prompt at once, or "
                       "open the policy with prompt=%d", name_, step.n, params_.prompt, step.n);
    }

    int32_t piece(int64_t seen, int32_t m, int32_t first) const override
    {
        return seen == 0 && first == 0 ? params_.prompt : m - first;
    }

    kv_status count(int32_t layer, const float *sums) override
    {
        const int64_t open = params_.prompt - params_.window;
        KV_TRY(pooled_.reserve((size_t)site_.heads * (size_t)params_.prompt));
        KV_TRY(gpu_pool(sums, site_.heads, open, params_.prompt, params_.window, params_.kernel, pooled_.p, site_.stream));
        gpu_score_args a = score_args(layer, pooled_.p);
        a.reduction = GPU_MEAN;
        return gpu_scores(a, site_.stream);
    }

    kv_status clone(std::unique_ptr<gpu_policy> *out) const override
    {
        std::unique_ptr<snapkv> copy = std::make_unique<snapkv>(params_, pyramid_, site_);
        KV_TRY(copy_to(copy.get()));
        *out = std::move(copy);
        return KV_OK;
    }

protected:
    budget budget_of(int32_t layer, int64_t n, int64_t seen, int32_t) const override
    {
        if (seen > 0 || params_.prompt < params_.cap) return {n, n};
        return {params_.prompt - params_.window, kept_by_score(layer)};
    }

    void choose_queries(int64_t seen, int32_t m, gpu_counting *counting) const override
    {
        counting->wanted = evicts(seen, m);
        counting->row0 = m - params_.window + KV_MUT(P09, 1, 0);
        counting->block = INT32_MAX;
    }

    int64_t entries_after(int32_t layer, int64_t seen, int64_t *tail) const override
    {
        *tail = 0;
        if (seen < params_.prompt || params_.prompt < params_.cap) return seen == 0 || seen >= params_.prompt ? seen : -1;
        *tail = params_.window + seen - params_.prompt;
        return kept_by_score(layer) + *tail;
    }

private:
    /* Entries of the prompt outside the window that a layer keeps (pyramid.md; integer divisions). */
    int64_t kept_by_score(int32_t layer) const
    {
        const int64_t c = params_.cap - params_.window, t = params_.prompt, layers = site_.n_layers;
        if (!pyramid_ || t < 2 * c || layers == 1) return c;
        int64_t lo = c / params_.beta, hi = 2 * c - lo;
        if (hi >= t - params_.window) {
            hi = t - params_.window;
            lo = 2 * c - hi;
        }
        return hi - layer * ((hi - lo) / (layers - KV_MUT(P08, 0, 1)));
    }

    kv_snapkv_params params_;
    bool pyramid_;
    gpu_buffer<float> pooled_; /* [heads][prompt] */
};
} // namespace

std::unique_ptr<gpu_policy> gpu_policy_snapkv(const kv_snapkv_params &params, const gpu_site &site)
{
    return std::make_unique<snapkv>(params, false, site);
}

std::unique_ptr<gpu_policy> gpu_policy_pyramid(const kv_snapkv_params &params, const gpu_site &site)
{
    return std::make_unique<snapkv>(params, true, site);
}
