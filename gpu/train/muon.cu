/* muon.cu - Newton and Schulz: five steps that bring the singular values of a matrix near 1. */
#include "common/numfmt.h"
#include "gpu/train/each.cuh"
#include "gpu/train/optim.cuh"

namespace
{
/* As it is, or rounded to bf16. */
GPU_DEVICE float kept(float x, bool bf16) { return bf16 ? kv_bf162f(kv_f2bf16(x)) : x; }

struct scale_by {
    const float *x;
    float factor;
    bool bf16;
    float *y;

    __device__ void operator()(int64_t e) const { y[e] = kept(kv_mul(factor, x[e]), bf16); }
};

struct divide_by_norm {
    const float *x, *norm;
    bool bf16;
    float *y;

    __device__ void operator()(int64_t e) const
    {
        y[e] = kept(kv_div(x[e], kept(kv_add(norm[0], 1e-7f), bf16)), bf16);
    }
};

/* y = factor * x + y */
struct combine {
    const float *x;
    float factor;
    bool bf16;
    float *y;

    __device__ void operator()(int64_t e) const
    {
        y[e] = kept(kv_add(kept(kv_mul(factor, x[e]), bf16), kept(y[e], bf16)), bf16);
    }
};
} // namespace

/* A warp per matrix: its lanes load together, then all of them walk through the one chain. */
__global__ void gpu_k_norms_of(const float *u, const int64_t *at, bool bf16, float *norms)
{
    const float *const x = u + at[2 * blockIdx.x];
    const int64_t n = at[2 * blockIdx.x + 1];
    const int32_t lane = (int32_t)threadIdx.x;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += 32) {
        const float own = i + lane < n ? kept(x[i + lane], bf16) : 0.0f; /* zeros behind the end change nothing */
        for (int32_t k = 0; k < 32; k++) {
            const double v = (double)__shfl_sync(0xffffffffu, own, k);
            sum = kv_dfma(v, v, sum);
        }
    }
    if (lane == 0) norms[blockIdx.x] = kept(kv_d2f(kv_dsqrt(sum)), bf16);
}

kv_status gpu_newton_schulz::norms(const float *u, const int64_t *at, int32_t n, bool bf16)
{
    KV_TRY(norms_.reserve((size_t)n));
    return GPU_LAUNCH(gpu_k_norms_of, dim3((unsigned)n), dim3(32), 0, stream_, u, at, bf16, norms_.p);
}

/* x_[r][c], r <= c, one step. */
kv_status gpu_newton_schulz::iterate(int32_t r, int32_t c, bool bf16)
{
    const int64_t square = (int64_t)r * r, all = (int64_t)r * c;
    KV_TRY(products_.transpose(x_.p, r, c, turned_.p));
    KV_TRY(products_.plain(x_.p, turned_.p, r, c, r, a_.p));
    if (bf16) KV_TRY(gpu_each(square, scale_by{a_.p, 1.0f, bf16, a_.p}, stream_));
    if (bf16) KV_TRY(gpu_each(square, scale_by{a_.p, 2.0315f, bf16, ca_.p}, stream_));
    KV_TRY(products_.plain(bf16 ? ca_.p : a_.p, a_.p, r, r, r, y_.p));
    if (!bf16) KV_TRY(gpu_each(square, scale_by{y_.p, 2.0315f, bf16, y_.p}, stream_));
    KV_TRY(gpu_each(square, combine{a_.p, -4.7750f, bf16, y_.p}, stream_));
    KV_TRY(products_.plain(y_.p, x_.p, r, r, c, bx_.p));
    KV_TRY(gpu_each(all, combine{x_.p, 3.4445f, bf16, bx_.p}, stream_));
    std::swap(x_, bx_);
    return KV_OK;
}

kv_status gpu_newton_schulz::run(int32_t number, float *u, int32_t rows, int32_t cols, bool bf16, float factor)
{
    const bool tall = rows > cols;
    const int32_t r = tall ? cols : rows, c = tall ? rows : cols;
    const size_t square = (size_t)r * (size_t)r, all = (size_t)r * (size_t)c;
    for (gpu_buffer<float> *b : {&x_, &turned_, &bx_}) KV_TRY(b->reserve(all));
    for (gpu_buffer<float> *b : {&a_, &ca_, &y_}) KV_TRY(b->reserve(square));
    if (bf16) KV_TRY(gpu_each((int64_t)all, scale_by{u, 1.0f, bf16, u}, stream_));
    KV_TRY(gpu_each((int64_t)all, divide_by_norm{u, norms_.p + number, bf16, u}, stream_));
    KV_TRY(tall ? products_.transpose(u, rows, cols, x_.p) : gpu_copy_across(x_.p, u, all * sizeof(float), stream_));
    for (int i = 0; i < 5; i++) KV_TRY(iterate(r, c, bf16));
    KV_TRY(tall ? products_.transpose(x_.p, r, c, u) : gpu_copy_across(u, x_.p, all * sizeof(float), stream_));
    return gpu_each((int64_t)all, scale_by{u, factor, bf16, u}, stream_);
}
