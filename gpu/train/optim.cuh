/* optim.cuh - one step of the optimisers (docs/training.md, "Optimisers"). */
#ifndef GPU_TRAIN_OPTIM_CUH
#define GPU_TRAIN_OPTIM_CUH

#include "common/train.h"
#include "gpu/train/params.cuh"
#include "gpu/train/products.cuh"

/* Arrays of gpu_params in device memory. */
struct gpu_train_arrays {
    float *w, *g, *m, *v, *ema;
};

/* What a step is made with, and what comes out. */
struct gpu_step_info {
    int64_t step; /* from 0 */
    double multiplier, momentum;
    float norm, clip;
};

/* update.cu: single operations on n values. */
kv_status gpu_clip_gradients(float *g, int64_t n, float factor, cudaStream_t stream);
struct gpu_adamw {
    float b1, b2, rest1, rest2, step, root, eps, keep; /* keep = 1 - lr * wd */
};
kv_status gpu_adamw_update(const gpu_adamw &c, const float *g, float *m, float *v, float *w, int64_t n, cudaStream_t stream);
kv_status gpu_momentum(const float *g, float mu, float *b, int64_t n, float *u, cudaStream_t stream); /* b = mu b + g; u = g + mu b */
kv_status gpu_descend(const float *u, float rate, float keep, float *w, int64_t n, cudaStream_t stream); /* w = w keep - rate u */
kv_status gpu_average(const float *w, float keep, float rest, float *ema, int64_t n, cudaStream_t stream);
kv_status gpu_round_rows(float *w, int64_t rows, int32_t cols, cudaStream_t stream); /* to 6 bits a row */

/* muon.cu: matrices become nearly orthogonal. */
class gpu_newton_schulz
{
public:
    explicit gpu_newton_schulz(cudaStream_t stream) : stream_(stream), products_(stream) {}

    /* The norms of n matrices at once: matrix i is at[2 i + 1] values from u + at[2 i] on. */
    kv_status norms(const float *u, const int64_t *at, int32_t n, bool bf16);

    /* u[rows][cols], matrix `number` of them, times factor. */
    kv_status run(int32_t number, float *u, int32_t rows, int32_t cols, bool bf16, float factor);

private:
    kv_status iterate(int32_t r, int32_t c, bool bf16);

    cudaStream_t stream_;
    gpu_products products_;
    gpu_buffer<float> x_, turned_, a_, ca_, y_, bx_, norms_;
};

class gpu_optimiser
{
public:
    gpu_optimiser(const kv_train_config &config, const gpu_params &params, cudaStream_t stream)
        : config_(config), params_(params), stream_(stream), ns_(stream)
    {
    }

    /* Clip, update, average. ERR_NONFINITE names the tensor; nothing is changed then. */
    kv_status step(const gpu_train_arrays &a, gpu_step_info *info);

    /* The schedules. */
    double multiplier(int64_t step) const;
    double momentum(int64_t step) const;

private:
    kv_status measure(const gpu_train_arrays &a, gpu_step_info *info);
    kv_status update(const gpu_train_arrays &a, const gpu_step_info &info);
    kv_status adamw(const gpu_train_arrays &a, const gpu_param &p, const gpu_step_info &info);
    kv_status muon(const gpu_train_arrays &a, const gpu_step_info &info);
    kv_status momenta(const gpu_train_arrays &a, const gpu_step_info &info);

    bool is_muon(const gpu_param &p) const { return config_.optimizer == KV_TRAIN_GOLF && p.group == KV_GOLF_MUON; }
    double rate(const gpu_param &p, const gpu_step_info &info) const { return kv_dmul(config_.lr[p.group], info.multiplier); }
    float keep(const gpu_param &p, const gpu_step_info &info) const
    {
        return kv_sub(1.0f, kv_d2f(kv_dmul(rate(p, info), config_.weight_decay[p.group])));
    }

    const kv_train_config &config_;
    const gpu_params &params_;
    cudaStream_t stream_;
    gpu_newton_schulz ns_;
    gpu_buffer<float> u_;      /* Muon's updates, an array of gpu_params */
    gpu_buffer<int64_t> where_; /* begin and length of Muon's matrices in it */
    std::vector<float> host_;
};

#endif
