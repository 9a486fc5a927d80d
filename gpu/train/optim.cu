/* optim.cu - a step tensor by tensor; constants are made in double on the host and rounded once. */
#include "gpu/train/optim.cuh"

#include <algorithm>

double gpu_optimiser::multiplier(int64_t step) const
{
    const int64_t n = config_.iterations, down = config_.warmdown;
    if (step < std::max<int64_t>(n - down, 0) || step >= n) return 1.0;
    return kv_ddiv((double)(n - step), (double)down);
}

double gpu_optimiser::momentum(int64_t step) const
{
    if (step >= config_.momentum_steps) return config_.momentum_to;
    const double f = kv_ddiv((double)step, (double)config_.momentum_steps);
    return kv_dadd(kv_dmul(kv_dsub(1.0, f), config_.momentum_from), kv_dmul(f, config_.momentum_to));
}

/* The norm is one chain over all gradients: it has no parallel part, so it is taken on the host, together with the search for
 * what is not finite. */
kv_status gpu_optimiser::measure(const gpu_train_arrays &a, gpu_step_info *info)
{
    host_.resize((size_t)params_.total());
    KV_TRY(params_.down(host_.data(), a.g, stream_));
    double sum = 0.0;
    for (const gpu_param &p : params_.all())
        for (int64_t i = 0; i < p.n(); i++) {
            const float g = host_[(size_t)(p.host_at + i)];
            if (!kv_is_finite(g)) {
                char name[KV_TENSOR_NAME_MAX];
                kv_model_tensor_name(&config_.model, p.role, p.layer, name);
                return kv_fail(KV_ERR_NONFINITE, "the gradient of %s is not finite", name);
            }
            sum = kv_dfma((double)g, (double)g, sum);
        }
    info->norm = kv_d2f(kv_dsqrt(sum));
    const float ratio = kv_div(kv_d2f(config_.clip), kv_add(info->norm, 1e-6f));
    info->clip = config_.clip == 0.0 || ratio > 1.0f ? 1.0f : ratio;
    return KV_OK;
}

static double power(double base, int64_t n)
{
    double p = 1.0;
    for (int64_t i = 0; i < n; i++) p = kv_dmul(p, base);
    return p;
}

kv_status gpu_optimiser::adamw(const gpu_train_arrays &a, const gpu_param &p, const gpu_step_info &info)
{
    const double b1 = config_.beta1, b2 = config_.beta2;
    gpu_adamw c = {};
    c.b1 = kv_d2f(b1);
    c.b2 = kv_d2f(b2);
    c.rest1 = kv_d2f(kv_dsub(1.0, b1));
    c.rest2 = kv_d2f(kv_dsub(1.0, b2));
    c.step = kv_d2f(kv_ddiv(rate(p, info), kv_dsub(1.0, power(b1, info.step + 1))));
    c.root = kv_d2f(kv_dsqrt(kv_dsub(1.0, power(b2, info.step + 1))));
    c.eps = kv_d2f(config_.eps);
    c.keep = keep(p, info);
    return gpu_adamw_update(c, a.g + p.at, a.m + p.at, a.v + p.at, a.w + p.at, p.n(), stream_);
}

/* b and u of everything that has momentum; Muon's norms. */
kv_status gpu_optimiser::momenta(const gpu_train_arrays &a, const gpu_step_info &info)
{
    std::vector<int64_t> where;
    KV_TRY(u_.reserve((size_t)params_.padded()));
    for (const gpu_param &p : params_.all()) {
        if (!is_muon(p) && config_.optimizer != KV_TRAIN_SGD) continue;
        KV_TRY(gpu_momentum(a.g + p.at, kv_d2f(info.momentum), a.m + p.at, p.n(), u_.p + p.at, stream_));
        if (is_muon(p)) where.insert(where.end(), {p.at, p.n()});
    }
    if (where.empty()) return KV_OK;
    KV_TRY(where_.reserve(where.size()));
    KV_TRY(gpu_copy_up(where_.p, where.data(), where.size() * sizeof(int64_t), stream_));
    KV_TRY(ns_.norms(u_.p, where_.p, (int32_t)where.size() / 2, config_.ns5_bf16 != 0));
    return gpu_stream_finish(stream_); /* `where` ends here */
}

kv_status gpu_optimiser::muon(const gpu_train_arrays &a, const gpu_step_info &info)
{
    int32_t number = 0;
    for (const gpu_param &p : params_.all()) {
        if (!is_muon(p)) continue;
        const double ratio = kv_ddiv((double)p.rows, (double)p.cols);
        const float factor = kv_d2f(kv_dsqrt(ratio > 1.0 ? ratio : 1.0));
        KV_TRY(ns_.run(number++, u_.p + p.at, (int32_t)p.rows, (int32_t)p.cols, config_.ns5_bf16 != 0, factor));
        KV_TRY(gpu_descend(u_.p + p.at, kv_d2f(rate(p, info)), keep(p, info), a.w + p.at, p.n(), stream_));
    }
    return KV_OK;
}

kv_status gpu_optimiser::update(const gpu_train_arrays &a, const gpu_step_info &info)
{
    KV_TRY(momenta(a, info));
    KV_TRY(muon(a, info));
    for (const gpu_param &p : params_.all()) {
        if (is_muon(p)) continue;
        KV_TRY(config_.optimizer == KV_TRAIN_SGD
                   ? gpu_descend(a.m + p.at, kv_d2f(rate(p, info)), keep(p, info), a.w + p.at, p.n(), stream_)
                   : adamw(a, p, info));
    }
    return KV_OK;
}

kv_status gpu_optimiser::step(const gpu_train_arrays &a, gpu_step_info *info)
{
    KV_TRY(measure(a, info));
    if (info->clip != 1.0f) KV_TRY(gpu_clip_gradients(a.g, params_.padded(), info->clip, stream_));
    KV_TRY(update(a, *info));
    KV_TRY(gpu_average(a.w, kv_d2f(config_.ema), kv_d2f(kv_dsub(1.0, config_.ema)), a.ema, params_.padded(), stream_));
    return gpu_stream_finish(stream_);
}
