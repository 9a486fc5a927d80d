/* column_sums.cu - how much attention each view entry received: second pass over the scores of a step.
 *
 * The first pass (attention.cu) leaves M and L of every row; here each score is computed again by the same chain,
 * turned into p = exp(s - M) / L and added in the order of the queries. A block takes one chunk of GPU_CH entries and
 * one query head; a thread keeps the sums of four entries in registers and walks over all queries in tiles of ROWS, so
 * that no sum is ever split. */
#include "gpu/ops.cuh"

enum {
    ROWS = 8,               /* queries per tile */
    THREADS = GPU_CH / 4,   /* four entries each */
    DT = 32,                /* dims per slice */
    KS = GPU_CH + 4         /* row length of the key slice: keeps 16-byte alignment */
};

/* Dims d0 .. of the chunk's keys and of a tile's queries, times the softmax scale, dims as rows. NARROW = false promises
 * that keys are fp32. */
template <bool NARROW>
GPU_DEVICE void load_slice(const gpu_attention_args &a, int32_t head, int32_t chunk, int32_t n_entries, int32_t row0,
                           int32_t d0, float *ks, float *qs)
{
    const int32_t tid = (int32_t)threadIdx.x, dn = gpu_min(a.head_dim - d0, DT);
    const int32_t kv_head = KV_MUT(K02, head % a.kv_heads, head / (a.heads / a.kv_heads));
    for (int32_t e = tid; e < DT / 4 * n_entries; e += THREADS) {
        const int32_t d = e % (DT / 4) * 4, i = e / (DT / 4), v = chunk * GPU_CH + i;
        if (d >= dn) continue;
        const int64_t r = a.k_slot ? a.k_slot[kv_head * a.slot_stride + v] : v;
        const float4 k = gpu_value4<NARROW>(a.k, (r * a.kv_heads + kv_head) * a.head_dim + d0 + d);
        ks[d * KS + i] = k.x;
        ks[(d + 1) * KS + i] = k.y;
        ks[(d + 2) * KS + i] = k.z;
        ks[(d + 3) * KS + i] = k.w;
    }
    for (int32_t e = tid; e < DT * ROWS; e += THREADS) {
        const int32_t d = e % DT, r = row0 + e / DT;
        const bool inside = r < a.m && d < dn;
        qs[d * ROWS + e / DT] = inside ? kv_mul(a.q[r * a.q_stride + head * a.head_dim + d0 + d], a.scale) : 0.0f;
    }
}

/* s[r][j] of a tile's queries and this thread's four entries: one chain over d each. */
template <bool NARROW>
GPU_DEVICE void tile_scores(const gpu_attention_args &a, int32_t head, int32_t chunk, int32_t n_entries, int32_t row0,
                            float *ks, float *qs, float (*s)[4])
{
    const int32_t i0 = (int32_t)threadIdx.x * 4;
    GPU_UNROLL
    for (int r = 0; r < ROWS; r++) s[r][0] = s[r][1] = s[r][2] = s[r][3] = 0.0f;
    for (int32_t d0 = 0; d0 < a.head_dim; d0 += DT) {
        load_slice<NARROW>(a, head, chunk, n_entries, row0, d0, ks, qs);
        __syncthreads(); /* the slice is complete */
        for (int32_t d = 0; d < gpu_min(a.head_dim - d0, DT) && i0 < n_entries; d++) {
            const float4 k = gpu_load4(ks + d * KS + i0);
            GPU_UNROLL
            for (int r = 0; r < ROWS; r++) {
                const float q = qs[d * ROWS + r];
                s[r][0] = kv_fma(q, k.x, s[r][0]);
                s[r][1] = kv_fma(q, k.y, s[r][1]);
                s[r][2] = kv_fma(q, k.z, s[r][2]);
                s[r][3] = kv_fma(q, k.w, s[r][3]);
            }
        }
        KV_MUT(R06, (void)0, __syncthreads()); /* nobody reads the slice any more */
    }
}

/* Weight of query r for view entry v. */
GPU_DEVICE float weight_of(const gpu_column_args &c, int32_t r, int64_t v)
{
    const int64_t x = v - c.a.first; /* token of the step, or a stored entry */
    return c.weights[KV_MUT(K05, true, c.reversed) && x >= 0 ? c.a.m - 1 - (r - x) : r];
}

/* grid (chunks, heads). */
template <bool NARROW>
__global__ void __launch_bounds__(THREADS) gpu_k_column_sums(gpu_column_args c)
{
    GPU_SHARED(float, ks, DT *KS);
    GPU_SHARED(float, qs, DT *ROWS);
    const gpu_attention_args &a = c.a;
    const int32_t chunk = (int32_t)blockIdx.x, head = (int32_t)blockIdx.y, i0 = (int32_t)threadIdx.x * 4;
    const int64_t n_view = a.first + a.m, v0 = (int64_t)chunk * GPU_CH;
    const int32_t n_entries = n_view - v0 < GPU_CH ? (int32_t)(n_view - v0) : GPU_CH;
    float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f}, total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int32_t row0 = c.row0; row0 < a.m; row0 += ROWS) {
        if ((row0 - c.row0) % c.block == 0) /* a block of queries is complete */
            GPU_UNROLL
            for (int j = 0; j < 4; j++) {
                total[j] = kv_add(total[j], acc[j]);
                acc[j] = 0.0f;
            }
        if (a.first + row0 + ROWS - 1 < v0) continue; /* none of these queries sees the chunk */
        float s[ROWS][4];
        tile_scores<NARROW>(a, head, chunk, n_entries, row0, ks, qs, s);
        GPU_UNROLL
        for (int i = 0; i < ROWS; i++) {
            const int32_t r = row0 + i;
            if (r >= a.m) continue;
            const float *const stats = a.stats + ((int64_t)KV_MUT(K03, r - (r > 0), r) * a.heads + head) * 2;
            GPU_UNROLL
            for (int j = 0; j < 4; j++) {
                const int64_t v = v0 + i0 + j;
                if (v > a.first + r) continue; /* also beyond the last entry */
                const float p = kv_div(kv_exp(kv_sub(s[i][j], stats[0])), KV_MUT(K04, 1.0f, stats[1]));
                const float counts = KV_MUT(G48, p < 0x1p-126f ? 0.0f : p, p);
                acc[j] = c.weights ? kv_fma(weight_of(c, r, v), counts, acc[j]) : kv_add(acc[j], counts);
            }
        }
    }
    GPU_UNROLL
    for (int j = 0; j < 4; j++)
        if (i0 + j < n_entries) c.sums[head * n_view + v0 + i0 + j] = kv_add(total[j], acc[j]);
}

kv_status gpu_column_sums(const gpu_column_args &c, cudaStream_t stream)
{
    const dim3 grid(gpu_blocks(c.a.first + c.a.m, GPU_CH), (unsigned)c.a.heads);
    if (c.a.k.storage == KV_STORE_F32) return GPU_LAUNCH((gpu_k_column_sums<false>), grid, dim3(THREADS), 0, stream, c);
    return GPU_LAUNCH((gpu_k_column_sums<true>), grid, dim3(THREADS), 0, stream, c);
}
