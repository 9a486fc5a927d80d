/* rows.cu - backward pass of what works on rows of the stream: a warp per row where a row is reduced, else a thread per value. */
#include "gpu/train/each.cuh"
#include "gpu/train/ops.cuh"

enum { WARPS = 4 };

/* The forward pass is repeated instead of read: one reduction, no array of factors. */
__global__ void gpu_k_norm_back(gpu_norm_rows r, float *dx)
{
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (row >= r.rows) return; /* the whole warp */
    const float *const x = r.x + row * r.n, *const dy = r.dy + row * r.n;
    const auto x_at = [&](int32_t i) { return x[i]; };
    const float factor = kv_rsqrt(kv_add(kv_div(gpu_r64_dot(r.n, x_at, x_at), (float)r.n), r.eps));
    const auto y_at = [&](int32_t i) { return kv_mul(x[i], factor); };
    const auto dy_at = [&](int32_t i) { return kv_mul(dy[i], r.scale); }; /* a product by 1 changes no bit */
    const float c = kv_div(gpu_r64_dot(r.n, dy_at, y_at), (float)r.n);
    for (int32_t i = (int32_t)threadIdx.x; i < r.n; i += 32) {
        const float d = kv_mul(factor, kv_sub(dy_at(i), kv_mul(y_at(i), c)));
        dx[row * r.n + i] = r.add ? kv_add(r.add[row * r.n + i], d) : d;
    }
}

kv_status gpu_norm_back(const gpu_norm_rows &r, float *dx, cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_norm_back, dim3(gpu_blocks(r.rows, WARPS)), dim3(32, WARPS), 0, stream, r, dx);
}

namespace
{
struct scaled {
    const float *x, *w;
    float *y;
    int32_t d;

    __device__ void operator()(int64_t e) const { y[e] = kv_mul(w[e % d], x[e]); }
};

struct add_scaled {
    const float *x, *w, *z;
    float *y;
    int32_t d;

    __device__ void operator()(int64_t e) const { y[e] = kv_add(x[e], w ? kv_mul(w[e % d], z[e]) : z[e]); }
};

struct activation_back {
    const float *f, *dh;
    float *df;
    bool leaky;
    float slope;

    __device__ void operator()(int64_t e) const
    {
        const bool above = f[e] > 0.0f;
        const float r = above ? f[e] : kv_mul(slope, f[e]), s = above ? 1.0f : slope;
        df[e] = above || leaky ? kv_mul(kv_mul(dh[e], kv_mul(2.0f, r)), s) : 0.0f;
    }
};

GPU_DEVICE float sigmoid(float x) { return kv_div(1.0f, kv_add(1.0f, kv_exp(-x))); }

struct smear_back {
    const float *du, *gate;
    float *dn;
    int32_t d, seq;

    __device__ void operator()(int64_t e) const
    {
        const float g = sigmoid(gate[e % d]), own = kv_mul(kv_sub(1.0f, g), du[e]);
        const bool last = e / d % seq == seq - 1;
        dn[e] = last ? own : kv_add(own, kv_mul(g, du[e + d]));
    }
};

struct smear_gate_back {
    const float *gate;
    float *sums;

    __device__ void operator()(int64_t e) const
    {
        const float g = sigmoid(gate[e]);
        sums[e] = kv_mul(kv_mul(g, kv_sub(1.0f, g)), sums[e]);
    }
};

/* What is in front of the filter: dz and dc of every token. */
struct sidecar_gate_back {
    gpu_sidecar_rows s;
    const float *d;
    float *dz, *dc;

    __device__ void operator()(int64_t e) const
    {
        const int32_t i = (int32_t)(e % s.hidden), position = (int32_t)(e / s.hidden % s.seq);
        const float *const gate = s.rows + e / s.hidden * 2 * s.hidden + i, *const value = gate + s.hidden;
        const float *const w = s.conv + (int64_t)i * 3;
        const int64_t back = 2 * (int64_t)s.hidden;
        const float one = position > 0 ? value[-back] : 0.0f, two = position > 1 ? value[-2 * back] : 0.0f;
        const float c = kv_add(kv_add(kv_mul(w[0], two), kv_mul(w[1], one)), kv_mul(w[2], value[0]));
        const float z = kv_add(gate[0], s.site_gate[i]), sig = sigmoid(z);
        dc[e] = kv_mul(d[e], kv_silu(z));
        dz[e] = kv_mul(kv_mul(kv_mul(d[e], c), sig), kv_add(1.0f, kv_mul(z, kv_sub(1.0f, sig))));
    }
};

struct sidecar_filter_back {
    gpu_sidecar_rows s;
    const float *dc;
    float *dvalue;

    __device__ void operator()(int64_t e) const
    {
        const int32_t behind = s.seq - 1 - (int32_t)(e / s.hidden % s.seq); /* later positions */
        const float *const w = s.conv + e % s.hidden * 3;
        float v = kv_mul(w[2], dc[e]);
        if (behind > 0) v = kv_add(v, kv_mul(w[1], dc[e + s.hidden]));
        if (behind > 1) v = kv_add(v, kv_mul(w[0], dc[e + 2 * (int64_t)s.hidden]));
        dvalue[e] = v;
    }
};
} // namespace

kv_status gpu_scaled(const float *x, const float *w, int64_t n, int32_t d, float *y, cudaStream_t stream)
{
    return gpu_each(n, scaled{x, w, y, d}, stream);
}

kv_status gpu_add_scaled(const float *x, const float *w, const float *z, int64_t n, int32_t d, float *y, cudaStream_t stream)
{
    return gpu_each(n, add_scaled{x, w, z, y, d}, stream);
}

kv_status gpu_add_to(float *x, const float *y, int64_t n, cudaStream_t stream)
{
    return gpu_each(n, add_scaled{x, nullptr, y, x, 1}, stream);
}

kv_status gpu_activation_back(const float *f, const float *dh, int64_t n, bool leaky, float slope, float *df, cudaStream_t stream)
{
    return gpu_each(n, activation_back{f, dh, df, leaky, slope}, stream);
}

kv_status gpu_smear_back(const float *du, const float *gate, int64_t tokens, int32_t d, int32_t seq, float *dn, cudaStream_t stream)
{
    return gpu_each(tokens * d, smear_back{du, gate, dn, d, seq}, stream);
}

kv_status gpu_smear_gate_back(const float *gate, int32_t d, float *sums, cudaStream_t stream)
{
    return gpu_each(d, smear_gate_back{gate, sums}, stream);
}

kv_status gpu_sidecar_back(const gpu_sidecar_rows &s, const float *d, float *dz, float *dc, float *dvalue, cudaStream_t stream)
{
    KV_TRY(gpu_each(s.tokens * s.hidden, sidecar_gate_back{s, d, dz, dc}, stream));
    return gpu_each(s.tokens * s.hidden, sidecar_filter_back{s, dc, dvalue}, stream);
}
