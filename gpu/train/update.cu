/* update.cu - what the optimisers do value by value, and rounding of matrices row by row. */
#include "gpu/train/each.cuh"
#include "gpu/train/optim.cuh"

enum { WARPS = 4 };

namespace
{
struct clip_gradients {
    float *g;
    float factor;

    __device__ void operator()(int64_t e) const { g[e] = kv_mul(g[e], factor); }
};

struct adamw_update {
    gpu_adamw c;
    const float *g;
    float *m, *v, *w;

    __device__ void operator()(int64_t e) const
    {
        m[e] = kv_add(kv_mul(c.b1, m[e]), kv_mul(c.rest1, g[e]));
        v[e] = kv_add(kv_mul(c.b2, v[e]), kv_mul(kv_mul(c.rest2, g[e]), g[e]));
        const float under = kv_add(kv_div(kv_sqrt(v[e]), c.root), c.eps);
        w[e] = kv_sub(kv_mul(w[e], c.keep), kv_div(kv_mul(c.step, m[e]), under));
    }
};

struct momentum_update {
    const float *g;
    float mu;
    float *b, *u;

    __device__ void operator()(int64_t e) const
    {
        b[e] = kv_add(kv_mul(mu, b[e]), g[e]);
        u[e] = kv_add(g[e], kv_mul(mu, b[e]));
    }
};

struct descend {
    const float *u;
    float rate, keep;
    float *w;

    __device__ void operator()(int64_t e) const { w[e] = kv_sub(kv_mul(w[e], keep), kv_mul(rate, u[e])); }
};

struct average {
    const float *w;
    float keep, rest;
    float *ema;

    __device__ void operator()(int64_t e) const { ema[e] = kv_add(kv_mul(keep, ema[e]), kv_mul(rest, w[e])); }
};
} // namespace

kv_status gpu_clip_gradients(float *g, int64_t n, float factor, cudaStream_t stream)
{
    return gpu_each(n, clip_gradients{g, factor}, stream);
}

kv_status gpu_adamw_update(const gpu_adamw &c, const float *g, float *m, float *v, float *w, int64_t n, cudaStream_t stream)
{
    return gpu_each(n, adamw_update{c, g, m, v, w}, stream);
}

kv_status gpu_momentum(const float *g, float mu, float *b, int64_t n, float *u, cudaStream_t stream)
{
    return gpu_each(n, momentum_update{g, mu, b, u}, stream);
}

kv_status gpu_descend(const float *u, float rate, float keep, float *w, int64_t n, cudaStream_t stream)
{
    return gpu_each(n, descend{u, rate, keep, w}, stream);
}

kv_status gpu_average(const float *w, float keep, float rest, float *ema, int64_t n, cudaStream_t stream)
{
    return gpu_each(n, average{w, keep, rest, ema}, stream);
}

/* A warp per row. */
__global__ void gpu_k_round_rows(float *w, int64_t rows, int32_t cols)
{
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return; /* the whole warp */
    float *const x = w + row * cols;
    int32_t key = 0; /* of +0: bits of numbers without sign ascend as they do */
    for (int32_t i = (int32_t)threadIdx.x; i < cols; i += 32) {
        const int32_t bits = kv_f2bits(x[i]) & 0x7fffffff;
        key = bits > key ? bits : key;
    }
    const float largest = kv_div(kv_bits2f(__reduce_max_sync(0xffffffffu, key)), 31.0f), least = kv_div(1.0f, 31.0f);
    const float scale = largest > least ? largest : least;
    for (int32_t i = (int32_t)threadIdx.x; i < cols; i += 32) {
        const float code = kv_sub(kv_add(kv_div(x[i], scale), 0x1.8p23f), 0x1.8p23f); /* rint: the quotient is near 31 at most */
        x[i] = kv_mul(code < -32.0f ? -32.0f : code > 31.0f ? 31.0f : code, scale);
    }
}

kv_status gpu_round_rows(float *w, int64_t rows, int32_t cols, cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_round_rows, dim3(gpu_blocks(rows, WARPS)), dim3(32, WARPS), 0, stream, w, rows, cols);
}
