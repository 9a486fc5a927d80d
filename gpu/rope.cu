/* rope.cu - rotary positions (docs/numerics.md, section 3): tables, rotation of a step's queries and keys,
 * rotation of stored keys.
 *
 * The tables are made here, from positions, so that a table error of one side shows: sine and cosine run
 * in double (kv_sincos) and are rounded once. */
#include "gpu/ops.cuh"

enum { THREADS = 128 };

/* grid (half / THREADS, rows). Table row i is position first + i. */
__global__ void gpu_k_rope_table(int32_t first, const float *inv_freq, int32_t half, int32_t sign,
                                 float *cos_table, float *sin_table)
{
    const int32_t j = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (j >= half) return;
    float s, c;
    kv_sincos(kv_mul((float)(first + (int32_t)blockIdx.y + KV_MUT(N05, 1, 0)), inv_freq[j]), &s, &c);
    const int64_t at = (int64_t)blockIdx.y * half + j;
    cos_table[at] = c;
    sin_table[at] = sign < 0 ? -s : s;
}

kv_status gpu_rope_table(int32_t first, int32_t n, const float *inv_freq, int32_t half, int32_t sign,
                         float *cos_table, float *sin_table, cudaStream_t stream)
{
    for (int32_t r = 0; r < n; r += GPU_GRID_ROWS) {
        const dim3 grid(gpu_blocks(half, THREADS), (unsigned)gpu_min(n - r, GPU_GRID_ROWS));
        const int64_t at = (int64_t)r * half;
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_rope_table, grid, dim3(THREADS), stream, first + r, inv_freq, half,
                                 sign, cos_table + at, sin_table + at));
    }
    return KV_OK;
}

/* Where the two members of pair i of a head stand. */
GPU_DEVICE void pair_at(const gpu_rope &rope, int32_t i, int32_t *a, int32_t *b)
{
    const bool half = KV_MUT(N03, !rope.half, rope.half);
    *a = half ? i : 2 * i;
    *b = half ? i + rope.dims / 2 : 2 * i + 1;
}

GPU_DEVICE void rotate(float *a, float *b, float c, float s)
{
    const float x = *a, y = *b;
    *a = kv_fma(x, c, KV_MUT(N04, kv_mul(y, s), -kv_mul(y, s)));
    *b = kv_fma(y, c, kv_mul(x, s));
}

/* One product after the rotation, where a head has a gain. */
GPU_DEVICE void amplify(float *a, float *b, const float *gains, int32_t head)
{
    if (!gains) return;
    *a = kv_mul(*a, gains[head]);
    *b = kv_mul(*b, gains[head]);
}

/* One thread per row and pair of a head; dims that are not rotated count as pairs of neighbours.
 * Which values thread `unit` of a head takes: */
GPU_DEVICE bool unit_at(const gpu_rope &rope, int32_t unit, int32_t *a, int32_t *b)
{
    if (unit < rope.dims / 2) {
        pair_at(rope, unit, a, b);
        return true;
    }
    *a = rope.dims + 2 * (unit - rope.dims / 2);
    *b = *a + 1;
    return false;
}

/* Stores two values; unless exact, they become what a reader of the store gets. */
GPU_DEVICE void put_pair(const gpu_values &store, int64_t at_a, int64_t at_b, bool exact, float *a, float *b)
{
    const float stored_a = gpu_put(store, at_a, *a), stored_b = gpu_put(store, at_b, *b);
    if (exact) return;
    *a = stored_a;
    *b = stored_b;
}

#ifdef KV_MUTANTS
/* Whether these values of a store's row 4 were written before. */
GPU_DEVICE bool holds_number(const gpu_values &store, const gpu_slots &slots, int32_t kv_head, int32_t row,
                             const gpu_qkv_shape &shape, int32_t dim)
{
    if (!store.p) return false;
    const int64_t slot = slots.at[kv_head * slots.head_stride + row];
    return slot == 4 && kv_is_finite(gpu_value(store, (slot * shape.kv_heads + kv_head) * shape.head_dim + dim));
}
#endif

/* grid ((heads + 2 kv_heads) * head_dim / 2 / THREADS, m). */
__global__ void gpu_k_rope_store(float *qkv, gpu_qkv_shape shape, gpu_rope rope, gpu_arrival how,
                                 gpu_slots slots, gpu_values k_store, gpu_values v_store)
{
    const int32_t half = shape.head_dim / 2, heads = shape.heads + 2 * shape.kv_heads;
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x), row = (int32_t)blockIdx.y;
    if (e >= heads * half) return;
    const int32_t head = e / half;
    int32_t ia, ib;
    const bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.kv_heads;
    const bool turns = unit_at(rope, e % half, &ia, &ib) && !is_value;
    float *const p = qkv + (int64_t)row * heads * shape.head_dim + head * shape.head_dim;
    float a = p[ia], b = p[ib];
    const gpu_values &store = is_value ? v_store : k_store;
    const int32_t kv_head = is_query ? 0 : (head - shape.heads) % shape.kv_heads;
    const bool keeps = KV_MUT(M03, !(is_value && holds_number(store, slots, kv_head, row, shape, ia)), true);
    const bool stores = !is_query && store.p && keeps;
    const int64_t slot = !stores ? 0 : slots.at[kv_head * slots.head_stride + row];
    const int64_t to = (slot * shape.kv_heads + kv_head) * shape.head_dim;
    if (stores && how.keep_raw) put_pair(store, to + ia, to + ib, how.exact, &a, &b);
    if (turns) {
        const int64_t at = (int64_t)row * (rope.dims / 2) + e % half;
        rotate(&a, &b, rope.cos[at], rope.sin[at]);
    }
    if (!is_value) amplify(&a, &b, is_query ? rope.q_gain : rope.k_gain, is_query ? head : kv_head);
    if (stores && !how.keep_raw) put_pair(store, to + ia, to + ib, how.exact, &a, &b);
    p[ia] = a;
    p[ib] = b;
}

kv_status gpu_rope_store(float *qkv, int32_t m, const gpu_qkv_shape &shape, const gpu_rope &rope,
                         const gpu_arrival &how, const gpu_slots &slots, const gpu_values &k_store,
                         const gpu_values &v_store, cudaStream_t stream)
{
    const int32_t width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    for (int32_t r = 0; r < m; r += GPU_GRID_ROWS) {
        const dim3 grid(gpu_blocks(width / 2, THREADS), (unsigned)gpu_min(m - r, GPU_GRID_ROWS));
        gpu_rope part = rope;
        part.cos += (int64_t)r * (rope.dims / 2);
        part.sin += (int64_t)r * (rope.dims / 2);
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_rope_store, grid, dim3(THREADS), stream, qkv + (int64_t)r * width,
                                 shape, part, how, gpu_slots{slots.at + r, slots.head_stride}, k_store,
                                 v_store));
    }
    return KV_OK;
}

/* grid (kv_heads * head_dim / 2 / THREADS, n). */
__global__ void gpu_k_rope_view(gpu_values k_store, gpu_slots slots, int32_t kv_heads,
                                int32_t head_dim, gpu_rope rope, float *out)
{
    const int32_t half = head_dim / 2, row = (int32_t)blockIdx.y;
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= kv_heads * half) return;
    int32_t ia, ib;
    const bool turns = unit_at(rope, e % half, &ia, &ib);
    const int64_t head = e / half * head_dim, width = (int64_t)kv_heads * head_dim;
    const int64_t from = slots.at[e / half * slots.head_stride + row] * width + head;
    float *const to = out + row * width + head;
    float a = gpu_value(k_store, from + ia), b = gpu_value(k_store, from + ib);
    if (turns) {
        const int32_t pos = KV_MUT(M09, slots.at[e / half * slots.head_stride + row], KV_MUT(M10, row + (row < 4), row));
        const int64_t at = (int64_t)pos * (rope.dims / 2) + e % half;
        rotate(&a, &b, rope.cos[at], rope.sin[at]);
    }
    amplify(&a, &b, KV_MUT(C10, nullptr, rope.k_gain), e / half);
    to[ia] = KV_MUT(M31, kv_mut_f16(a), a);
    to[ib] = b;
}

kv_status gpu_rope_view(const gpu_values &k_store, const gpu_slots &slots, int32_t n, int32_t kv_heads,
                        int32_t head_dim, const gpu_rope &rope, float *out, cudaStream_t stream)
{
    const int32_t width = kv_heads * head_dim;
    for (int32_t r = 0; r < n; r += GPU_GRID_ROWS) {
        const dim3 grid(gpu_blocks(width / 2, THREADS), (unsigned)gpu_min(n - r, GPU_GRID_ROWS));
        gpu_rope part = rope;
        part.cos += (int64_t)r * (rope.dims / 2);
        part.sin += (int64_t)r * (rope.dims / 2);
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_rope_view, grid, dim3(THREADS), stream, k_store,
                                 gpu_slots{slots.at + r, slots.head_stride}, kv_heads, head_dim, part, out + (int64_t)r * width));
    }
    return KV_OK;
}
