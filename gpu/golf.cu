/* golf.cu - operations that the golf family has beyond the Llama block (docs/golf.md), and what it remembers of
 * earlier tokens.
 *
 * Elementwise operations take a thread per value. Those that look back one or two tokens read the rows before their
 * own, and for the first rows of a piece the slot of the token before; they do not work in place, so that no row is
 * overwritten while another one still needs it. Reductions over a head take a warp per head and row, as norm.cu does
 * per row. */
#include "gpu/ops.cuh"

enum { THREADS = 128, WARPS = 4 };

/* The value that this thread works on; values are counted over all rows. */
GPU_DEVICE int64_t value_of_thread() { return (int64_t)blockIdx.x * THREADS + threadIdx.x; }

#define LAUNCH_VALUES(kernel, n, stream, ...)                                                                          \
    GPU_LAUNCH_NOSYNC(kernel, dim3(gpu_blocks((n), THREADS)), dim3(THREADS), (stream), __VA_ARGS__)

/* ---- what is remembered ---- */

/* Slot of a row that is kept. */
GPU_DEVICE float *slot_of(const gpu_carry_rows &c, int32_t row)
{
    return c.slots + (int64_t)((c.first_slot + row - c.from) % c.n_slots) * c.slot_floats;
}

/* Number of the token, counted from 1, and its id; a slot begins with them. */
struct token_head {
    int32_t count, id;
};

GPU_DEVICE token_head *head_of(float *slot) { return reinterpret_cast<token_head *>(slot); }
GPU_DEVICE const token_head *head_of(const float *slot) { return reinterpret_cast<const token_head *>(slot); }

/* One thread per row that is kept. */
__global__ void gpu_k_carry_ids(const int32_t *ids, int32_t m, int64_t first, gpu_carry_rows carry)
{
    const int64_t row = carry.from + value_of_thread();
    if (row >= m) return;
    token_head *const head = head_of(slot_of(carry, (int32_t)row));
    head->count = first + row < INT32_MAX ? (int32_t)(first + row + 1) : INT32_MAX;
    head->id = ids[row];
}

kv_status gpu_carry_ids(const int32_t *ids, int32_t m, int64_t first, const gpu_carry_rows &carry, cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_carry_ids, m - carry.from, stream, ids, m, first, carry);
}

/* ---- before the first layer ---- */

/* One thread per row. */
__global__ void gpu_k_bigram_hash(const int32_t *ids, int32_t m, gpu_bigram b, gpu_carry_rows carry, int32_t *hashes)
{
    const int64_t row = value_of_thread();
    if (row >= m) return;
    const token_head *const before = head_of(carry.before);
    const bool is_first = row == 0 && before->count == 0;
    const int32_t previous = row > 0 ? ids[row - 1] : before->id;
    const int32_t mul_cur = KV_MUT(C03, b.mul_prev, b.mul_cur), mul_prev = KV_MUT(C03, b.mul_cur, b.mul_prev);
    hashes[row] = is_first ? b.rows - 1 : (mul_cur * ids[row] ^ mul_prev * previous) % (b.rows - 1);
}

kv_status gpu_bigram_hash(const int32_t *ids, int32_t m, const gpu_bigram &b, const gpu_carry_rows &carry, int32_t *hashes,
                          cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_bigram_hash, m, stream, ids, m, b, carry, hashes);
}

__global__ void gpu_k_smear(const float *n, const float *gate, int32_t m, int32_t d, gpu_carry_rows carry, float *x)
{
    const int64_t e = value_of_thread();
    if (e >= (int64_t)m * d) return;
    const int32_t row = (int32_t)(e / d), i = (int32_t)(e % d);
    const float previous = row > 0 ? n[e - d] : KV_MUT(C02, 0.0f, carry.before[carry.norm + i]);
    const float g = kv_div(1.0f, kv_add(1.0f, kv_exp(KV_MUT(C01, gate[i], -gate[i]))));
    x[e] = kv_add(kv_mul(kv_sub(1.0f, g), n[e]), kv_mul(g, previous));
    if (row >= carry.from) slot_of(carry, row)[carry.norm + i] = n[e];
}

kv_status gpu_smear(const float *n, const float *gate, int32_t m, int32_t d, const gpu_carry_rows &carry, float *x,
                    cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_smear, (int64_t)m * d, stream, n, gate, m, d, carry, x);
}

/* ---- the residual stream ---- */

__global__ void gpu_k_mix_streams(float *x, int32_t m, int32_t d, gpu_mix mix)
{
    const int64_t e = value_of_thread();
    if (e >= (int64_t)m * d) return;
    const int32_t i = (int32_t)(e % d);
    float v = x[e];
    if (mix.skip) v = kv_add(v, kv_mul(mix.skip_weight[i], mix.skip[e]));
    if (mix.mix) v = kv_add(kv_mul(mix.mix[KV_MUT(C13, d, 0) + i], v), kv_mul(mix.mix[KV_MUT(C13, 0, d) + i], mix.x0[e]));
    x[e] = v;
}

kv_status gpu_mix_streams(float *x, int32_t m, int32_t d, const gpu_mix &mix, cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_mix_streams, (int64_t)m * d, stream, x, m, d, mix);
}

/* ---- heads ---- */

/* block (32, WARPS): a warp per row and head of q | k | v. */
__global__ void gpu_k_prepare_heads(gpu_heads h, int32_t m, gpu_carry_rows carry)
{
    const gpu_qkv_shape &s = h.shape;
    const int32_t heads = s.heads + 2 * s.kv_heads, dim = s.head_dim, lane = (int32_t)threadIdx.x;
    const int64_t warp = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (warp >= (int64_t)m * heads) return; /* the whole warp */
    const int32_t row = (int32_t)(warp / heads), head = (int32_t)(warp % heads);
    const bool is_query = head < s.heads, is_value = head >= s.heads + s.kv_heads;
    const int32_t kv_head = is_query ? 0 : (head - s.heads) % s.kv_heads;
    const float *const mix = is_query ? nullptr : is_value ? KV_MUT(C05, h.k_shift, h.v_shift) : h.k_shift;
    const int64_t in_slot = (is_value ? carry.v : carry.k) + ((int64_t)h.layer * s.kv_heads + kv_head) * dim;
    const float *const raw = h.raw + warp * dim;
    const float *const previous = row > 0 ? raw - (int64_t)heads * dim : mix ? carry.before + in_slot : nullptr;
    const auto in = [&](int32_t i) { return mix ? kv_add(raw[i], kv_mul(mix[kv_head], previous[i])) : raw[i]; };
    const bool normalises = h.norm && !is_value;
    const float r = normalises ? kv_rsqrt(kv_add(kv_div(gpu_r64_dot(dim, in, in), (float)dim), h.eps)) : 1.0f;
    for (int32_t i = lane; i < dim; i += 32) {
        const float v = in(i);
        h.qkv[warp * dim + i] = normalises ? kv_mul(v, r) : v;
        if (is_value && h.own_v) h.own_v[((int64_t)row * s.kv_heads + kv_head) * dim + i] = v;
        if (mix && row >= carry.from) slot_of(carry, row)[in_slot + i] = raw[i];
    }
}

kv_status gpu_prepare_heads(const gpu_heads &h, int32_t m, const gpu_carry_rows &carry, cudaStream_t stream)
{
    const int64_t warps = (int64_t)m * (h.shape.heads + 2 * h.shape.kv_heads);
    return GPU_LAUNCH(gpu_k_prepare_heads, dim3(gpu_blocks(warps, WARPS)), dim3(32, WARPS), 0, stream, h, m, carry);
}

__global__ void gpu_k_local_v(float *y, const float *v, const float *mix, int32_t m, gpu_qkv_shape s)
{
    const int64_t e = value_of_thread();
    if (e >= (int64_t)m * s.heads * s.head_dim) return;
    const int32_t i = (int32_t)(e % s.head_dim), head = (int32_t)(e / s.head_dim % s.heads);
    const int64_t row = e / s.head_dim / s.heads;
    const int32_t kv_head = KV_MUT(C08, head % s.kv_heads, head / (s.heads / s.kv_heads));
    const float own = v[(row * s.kv_heads + kv_head) * s.head_dim + i];
    y[e] = kv_add(y[e], kv_mul(mix[head], own));
}

kv_status gpu_local_v(float *y, const float *v, const float *mix, int32_t m, const gpu_qkv_shape &shape,
                      cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_local_v, (int64_t)m * shape.heads * shape.head_dim, stream, y, v, mix, m, shape);
}

/* block (32, WARPS): a warp per row and query head. */
__global__ void gpu_k_exclude_own(float *y, const float *v, int32_t m, gpu_qkv_shape s)
{
    const int64_t warp = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (warp >= (int64_t)m * s.heads) return; /* the whole warp */
    const int32_t head = (int32_t)(warp % s.heads), dim = s.head_dim, lane = (int32_t)threadIdx.x;
    float *const out = y + warp * dim;
    const float *const own = v + (warp / s.heads * s.kv_heads + head / (s.heads / s.kv_heads)) * dim;
    const auto y_at = [&](int32_t i) { return out[i]; };
    const auto v_at = [&](int32_t i) { return own[i]; };
    const float length = kv_sqrt(gpu_r64_dot(dim, v_at, v_at)), norm = length < 1e-12f ? 1e-12f : length;
    const auto unit = [&](int32_t i) { return kv_div(own[i], norm); };
    const float along = KV_MUT(C09, gpu_r64_dot(dim, y_at, v_at), gpu_r64_dot(dim, y_at, unit));
    for (int32_t i = lane; i < dim; i += 32) out[i] = kv_sub(out[i], kv_mul(along, unit(i)));
}

kv_status gpu_exclude_own(float *y, const float *v, int32_t m, const gpu_qkv_shape &shape, cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_exclude_own, dim3(gpu_blocks((int64_t)m * shape.heads, WARPS)), dim3(32, WARPS), 0, stream, y,
                      v, m, shape);
}

/* ---- behind the block, and behind the head ---- */

__global__ void gpu_k_sidecar_gate(gpu_sidecar s, int32_t m, gpu_carry_rows carry, float *out)
{
    const int64_t e = value_of_thread();
    if (e >= (int64_t)m * s.hidden) return;
    const int32_t row = (int32_t)(e / s.hidden), i = (int32_t)(e % s.hidden);
    const float *const gate = s.rows + (int64_t)row * 2 * s.hidden + i, *const value = gate + s.hidden;
    const int64_t in_slot = carry.conv + (int64_t)s.site * 2 * s.hidden + i, back = 2 * (int64_t)s.hidden;
    const float *const before = carry.before + in_slot; /* two rows, oldest first */
    const float one_back = row > 0 ? value[-back] : before[s.hidden];
    const float two_back = row > 1 ? value[-2 * back] : before[KV_MUT(C07, 0, row > 0 ? s.hidden : 0)];
    const float *const w = s.conv + (int64_t)i * 3;
    const float c = kv_add(kv_add(kv_mul(w[KV_MUT(C06, 2, 0)], two_back), kv_mul(w[1], one_back)),
                           kv_mul(w[KV_MUT(C06, 0, 2)], value[0]));
    out[e] = kv_mul(kv_silu(kv_add(gate[0], s.site_gate[(int64_t)s.site * s.hidden + i])), c);
    if (row < carry.from) return;
    float *const kept = slot_of(carry, row) + in_slot;
    kept[0] = row > carry.known ? one_back : carry.newest[in_slot + s.hidden];
    kept[s.hidden] = value[0];
}

kv_status gpu_sidecar_gate(const gpu_sidecar &s, int32_t m, const gpu_carry_rows &carry, float *out, cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_sidecar_gate, (int64_t)m * s.hidden, stream, s, m, carry, out);
}

__global__ void gpu_k_softcap(float *z, int64_t n, float cap)
{
    const int64_t e = value_of_thread();
    if (e < n) z[e] = kv_mul(cap, KV_MUT(N09, kv_div(z[e], cap), kv_tanh(kv_div(z[e], cap))));
}

kv_status gpu_softcap(float *z, int64_t n, float cap, cudaStream_t stream)
{
    return LAUNCH_VALUES(gpu_k_softcap, n, stream, z, n, cap);
}
