/* heads.cu - backward pass between attention and the projections: a warp per token and head. */
#include "gpu/train/ops.cuh"

enum { WARPS = 4, PER_LANE = KV_MAX_HEAD_DIM / 32 };

#define LAUNCH_WARPS(kernel, n, stream, ...)                                                                           \
    GPU_LAUNCH(kernel, dim3(gpu_blocks((n), WARPS)), dim3(32, WARPS), 0, (stream), __VA_ARGS__)

GPU_DEVICE int64_t warp_of_thread() { return (int64_t)blockIdx.x * WARPS + threadIdx.y; }

/* Element i of a rotated head; turn -1: by the opposite angle. at(i) are the elements. */
template <class At> GPU_DEVICE float rotated(const gpu_rope &r, int32_t position, int32_t i, float turn, const At &at)
{
    if (i >= r.dims) return at(i);
    const int32_t half = r.dims / 2, pair = r.half ? i % half : i / 2;
    const bool is_first = r.half ? i < half : i % 2 == 0;
    const int32_t other = r.half ? (is_first ? i + half : i - half) : i ^ 1;
    const int64_t angle = (int64_t)position * half + pair;
    const float c = r.cos[angle], s = turn < 0.0f ? -r.sin[angle] : r.sin[angle];
    return is_first ? kv_fma(at(i), c, -kv_mul(at(other), s)) : kv_fma(at(i), c, kv_mul(at(other), s));
}

__global__ void gpu_k_heads_back(gpu_head_rows h, float *dx)
{
    const int64_t warp = warp_of_thread();
    if (warp >= h.tokens * h.heads) return; /* the whole warp */
    const int64_t t = warp / h.heads;
    const int32_t head = (int32_t)(warp % h.heads), position = (int32_t)(t % h.seq);
    const float *const raw = h.raw + t * h.raw_stride + (int64_t)head * h.dim, *const d = h.d + warp * h.dim;
    const auto x_at = [&](int32_t i) {
        return h.shift ? kv_add(raw[i], kv_mul(h.shift[head], position > 0 ? raw[i - h.raw_stride] : 0.0f)) : raw[i];
    };
    const float factor = kv_rsqrt(kv_add(kv_div(gpu_r64_dot(h.dim, x_at, x_at), (float)h.dim), h.eps));
    const auto y_at = [&](int32_t i) { return kv_mul(x_at(i), factor); };
    const auto d_at = [&](int32_t i) { return d[i]; };
    if (h.gain) {
        const float sum = gpu_r64_dot(h.dim, d_at, [&](int32_t i) { return rotated(h.rope, position, i, 1.0f, y_at); });
        if (threadIdx.x == 0) h.gain_rows[warp] = sum;
    }
    const auto gained = [&](int32_t i) { return h.gain ? kv_mul(d[i], h.gain[head]) : d[i]; };
    const auto dy_at = [&](int32_t i) { return rotated(h.rope, position, i, -1.0f, gained); };
    const float c = kv_div(gpu_r64_dot(h.dim, dy_at, y_at), (float)h.dim);
    for (int32_t i = (int32_t)threadIdx.x; i < h.dim; i += 32)
        dx[warp * h.dim + i] = kv_mul(factor, kv_sub(dy_at(i), kv_mul(y_at(i), c)));
}

kv_status gpu_heads_back(const gpu_head_rows &h, float *dx, cudaStream_t stream)
{
    return LAUNCH_WARPS(gpu_k_heads_back, h.tokens * h.heads, stream, h, dx);
}

__global__ void gpu_k_shift_back(gpu_shift_rows s, float *dx)
{
    const int64_t warp = warp_of_thread(), row = (int64_t)s.heads * s.dim;
    if (warp >= s.tokens * s.heads) return; /* the whole warp */
    const int64_t t = warp / s.heads;
    const int32_t head = (int32_t)(warp % s.heads), position = (int32_t)(t % s.seq);
    const float *const raw = s.raw + t * s.raw_stride + (int64_t)head * s.dim, *const ds = s.ds + warp * s.dim;
    const float sum = gpu_r64_dot(
        s.dim, [&](int32_t i) { return ds[i]; }, [&](int32_t i) { return position > 0 ? raw[i - s.raw_stride] : 0.0f; });
    if (threadIdx.x == 0) s.mix_rows[warp] = sum;
    const bool last = position == s.seq - 1;
    for (int32_t i = (int32_t)threadIdx.x; i < s.dim; i += 32)
        dx[warp * s.dim + i] = last ? ds[i] : kv_add(ds[i], kv_mul(s.mix[head], ds[row + i]));
}

kv_status gpu_shift_back(const gpu_shift_rows &s, float *dx, cudaStream_t stream)
{
    return LAUNCH_WARPS(gpu_k_shift_back, s.tokens * s.heads, stream, s, dx);
}

/* A warp per token and KV head: its query heads one after the other. */
__global__ void gpu_k_exclude_own_back(const float *y, const float *v, int64_t tokens, gpu_qkv_shape s, float *dy, float *dv)
{
    const int64_t warp = warp_of_thread();
    if (warp >= tokens * s.kv_heads) return; /* the whole warp */
    const int32_t dim = s.head_dim, group = s.heads / s.kv_heads, lane = (int32_t)threadIdx.x;
    const float *const own = v + warp * dim;
    const auto v_at = [&](int32_t i) { return own[i]; };
    const float length = kv_sqrt(gpu_r64_dot(dim, v_at, v_at));
    const bool clamped = length < 1e-12f;
    const float norm = clamped ? 1e-12f : length;
    const auto u_at = [&](int32_t i) { return kv_div(own[i], norm); };
    float sum[PER_LANE] = {};
    for (int32_t h = 0; h < group; h++) {
        const int64_t at = (warp / s.kv_heads * s.heads + warp % s.kv_heads * group + h) * dim;
        const auto y_at = [&](int32_t i) { return y[at + i]; };
        const auto dy_at = [&](int32_t i) { return dy[at + i]; };
        const float alpha = gpu_r64_dot(dim, y_at, u_at), beta = gpu_r64_dot(dim, dy_at, u_at);
        GPU_UNROLL
        for (int32_t k = 0; k < PER_LANE; k++) {
            const int32_t i = lane + 32 * k;
            if (i >= dim) continue;
            const float share = kv_add(kv_mul(alpha, dy_at(i)), kv_mul(beta, y_at(i)));
            sum[k] = h == 0 ? share : kv_add(sum[k], share);
            dy[at + i] = kv_sub(dy_at(i), kv_mul(beta, u_at(i)));
        }
    }
    GPU_UNROLL
    for (int32_t k = 0; k < PER_LANE; k++)
        if (lane + 32 * k < dim) dv[warp * dim + lane + 32 * k] = -sum[k];
    const auto du_at = [&](int32_t i) { return dv[warp * dim + i]; };
    const float along = gpu_r64_dot(dim, du_at, u_at);
    for (int32_t i = lane; i < dim; i += 32) {
        const float rest = clamped ? du_at(i) : kv_sub(du_at(i), kv_mul(along, u_at(i)));
        dv[warp * dim + i] = kv_div(rest, norm);
    }
}

kv_status gpu_exclude_own_back(const float *y, const float *v, int64_t tokens, const gpu_qkv_shape &s, float *dy, float *dv,
                               cudaStream_t stream)
{
    return LAUNCH_WARPS(gpu_k_exclude_own_back, tokens * s.kv_heads, stream, y, v, tokens, s, dy, dv);
}

__global__ void gpu_k_local_v_back(const float *dy, const float *v, const float *mix, int64_t tokens, gpu_qkv_shape s, float *mix_rows,
                                   float *dv)
{
    const int64_t warp = warp_of_thread();
    if (warp >= tokens * s.kv_heads) return; /* the whole warp */
    const int32_t dim = s.head_dim, group = s.heads / s.kv_heads, first = (int32_t)(warp % s.kv_heads) * group;
    const int64_t at = warp / s.kv_heads * s.heads + first;
    const float *const own = v + warp * dim, *const d = dy + at * dim;
    for (int32_t h = 0; h < group; h++) {
        const float sum = gpu_r64_dot(dim, [&](int32_t i) { return d[h * dim + i]; }, [&](int32_t i) { return own[i]; });
        if (threadIdx.x == 0) mix_rows[at + h] = sum;
    }
    for (int32_t i = (int32_t)threadIdx.x; i < dim; i += 32) {
        float sum = kv_mul(mix[first], d[i]);
        for (int32_t h = 1; h < group; h++) sum = kv_add(sum, kv_mul(mix[first + h], d[h * dim + i]));
        dv[warp * dim + i] = sum;
    }
}

kv_status gpu_local_v_back(const float *dy, const float *v, const float *mix, int64_t tokens, const gpu_qkv_shape &s, float *mix_rows,
                           float *dv, cudaStream_t stream)
{
    return LAUNCH_WARPS(gpu_k_local_v_back, tokens * s.kv_heads, stream, dy, v, mix, tokens, s, mix_rows, dv);
}
