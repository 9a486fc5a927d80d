/* attention.cuh - causal attention of a step's queries over the cache view (docs/numerics.md, section 4), for any
 * way of keeping K and V.
 *
 * Chunks of GPU_CH view entries are independent of each other, so a block takes one chunk, one KV head and a
 * tile of query rows (row = token and query head of the group: grouped heads read the same keys). It goes
 * through three stages that share its 256 scores per row in shared memory:
 *
 *   scores   like a matrix product: slices of dims of queries and keys pass through shared memory, a
 *            thread keeps MR rows x 4 entries; slices ascend, so each score is one chain over d
 *   softmax  one warp per row: exact maximum, probabilities in place; then one thread per row adds them up
 *   values   a thread keeps two rows x 4 dims, one chain over the entries
 *
 * and leaves maximum, sum and weighted values of the chunk in the workspace. A second kernel combines the
 * chunks in ascending order. Entries that a row may not see are scored along with the others where that is
 * cheaper, but nothing ever reads those scores.
 *
 * Where keys and values come from is a Source, plain data that travels as an argument of the kernel:
 *
 *   Scratch                      what its blocks keep in shared memory
 *   prepare<THREADS>(q, at, s)   fills it; a barrier follows before anybody reads it
 *   load_keys<THREADS>(q, at, d0, dn, ks)
 *                                puts dims d0 .. d0 + dn - 1 of the chunk's entries into rows of ks
 *   finish(acc, i, s)            what is left to do to the products of entries i .. i + 3 of the chunk
 *   weigh(q, at, d, s, p, n, o)  weighted values of two neighbouring rows, dims d .. d + 3 */
#ifndef GPU_ATTENTION_CUH
#define GPU_ATTENTION_CUH

#include "gpu/ops.cuh"

enum {
    GPU_DT = 32,        /* dims per slice */
    GPU_GROUP = 64,     /* threads that cover a chunk: four entries each */
    GPU_KS = GPU_CH + 4 /* row length of the key slice: keeps 16-byte alignment */
};

/* What a block works on. */
struct gpu_chunk {
    int32_t kv_head, chunk;
    int32_t n_entries; /* of the chunk that any of its rows sees */
};

/* A row's place: token, query head, and how many entries of chunk c it sees. */
struct gpu_row_place {
    int32_t token, head, n_seen;
};

GPU_DEVICE gpu_row_place gpu_place_of(const gpu_queries &q, int32_t row, int32_t kv_head, int32_t chunk)
{
    const int32_t group = q.heads / q.kv_heads;
    gpu_row_place p;
    p.token = row / group;
    p.head = KV_MUT(M12, kv_head + row % group * q.kv_heads, kv_head * group + row % group);
    const int64_t view = q.first + p.token + 1; /* entries that the row sees, of all chunks */
    const int64_t n = KV_MUT(M04, view - 1, KV_MUT(M06, view - (view > 32), KV_MUT(M07,
        kv_mut_min((view + 3) / 4 * 4, q.first + q.m), KV_MUT(M14, kv_mut_min(view + 1, q.first + q.m), view)))) -
        (int64_t)chunk * GPU_CH;
    p.n_seen = p.token >= q.m || n < 0 ? 0 : n < GPU_CH ? (int32_t)n : GPU_CH;
    return p;
}

/* Workspace: for each (token, head, chunk) a record of maximum, sum, two floats of padding and head_dim
 * weighted values. */
enum { GPU_RECORD_HEAD = 4 };
GPU_DEVICE float *gpu_record_of(const gpu_queries &q, float *workspace, int32_t n_chunks, int32_t token,
                                int32_t head, int32_t chunk)
{
    const int64_t i = ((int64_t)token * q.heads + head) * n_chunks + chunk;
    return workspace + i * (GPU_RECORD_HEAD + q.head_dim);
}

/* Dims d0 .. d0 + dn - 1 of the tile's queries, times the softmax scale, dims as rows. */
template <int ROWS, int THREADS>
GPU_DEVICE void gpu_load_queries(const gpu_queries &q, int32_t row0, const gpu_chunk &at, int32_t d0,
                                 int32_t dn, float *qs)
{
    for (int32_t e = (int32_t)threadIdx.x; e < GPU_DT * ROWS; e += THREADS) {
        const int32_t d = e % GPU_DT, r = e / GPU_DT;
        const gpu_row_place p = gpu_place_of(q, row0 + r, at.kv_head, at.chunk);
        const bool inside = p.n_seen > 0 && d < dn;
        const int32_t head = KV_MUT(M13, p.head - (p.head == q.heads - 1), p.head);
        qs[d * ROWS + r] =
            inside ? kv_mul(q.q[p.token * q.q_stride + head * q.head_dim + d0 + d],
                            KV_MUT(N18, p.head == 1 ? kv_mul(q.scale, 1.0009765625f) : q.scale, q.scale))
                   : 0.0f;
    }
}

/* s[row][entry] for the whole tile; entries >= n_entries are left undefined. s takes the place of ks, which
 * nobody needs any more by then. */
template <int ROWS, int MR, int THREADS, class Source>
GPU_DEVICE void gpu_compute_scores(const gpu_queries &q, const Source &source, int32_t row0,
                                   const gpu_chunk &at, const typename Source::Scratch *scratch, float *ks,
                                   float *qs, float *s)
{
    const int32_t i0 = (int32_t)threadIdx.x % GPU_GROUP * 4, r0 = (int32_t)threadIdx.x / GPU_GROUP * MR;
    float acc[MR][4];
    GPU_UNROLL
    for (int r = 0; r < MR; r++) acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = 0.0f;
    for (int32_t d0 = 0; d0 < q.head_dim; d0 += GPU_DT) {
        const int32_t dn = gpu_min(q.head_dim - d0, GPU_DT);
        source.template load_keys<THREADS>(q, at, d0, dn, ks);
        gpu_load_queries<ROWS, THREADS>(q, row0, at, d0, dn, qs);
        KV_MUT(G40, (void)0, __syncthreads()); /* the slice is complete */
        for (int32_t d = 0; d < KV_MUT(M33, dn - 1, dn) && i0 < at.n_entries; d++) {
            const float4 k = gpu_load4(ks + d * GPU_KS + i0);
            GPU_UNROLL
            for (int r = 0; r < MR; r++) {
                const float x = qs[d * ROWS + r0 + r];
                acc[r][0] = kv_fma(x, k.x, acc[r][0]);
                acc[r][1] = kv_fma(x, k.y, acc[r][1]);
                acc[r][2] = kv_fma(x, k.z, acc[r][2]);
                acc[r][3] = kv_fma(x, k.w, acc[r][3]);
            }
        }
        KV_MUT(M28, (void)0, __syncthreads()); /* nobody reads the slice any more */
    }
    GPU_UNROLL
    for (int r = 0; r < MR; r++) {
        const float4 four = {acc[r][0], acc[r][1], acc[r][2], acc[r][3]};
        gpu_store4(s + (r0 + r) * GPU_CH + i0, source.finish(four, i0, *scratch));
    }
}

/* s = exp(s - maximum) in the entries that each row sees, a warp per row. */
template <int ROWS, int THREADS>
GPU_DEVICE void gpu_exponentiate(const gpu_queries &q, int32_t row0, const gpu_chunk &at, float *s,
                                 float *row_max)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    for (int32_t r = (int32_t)threadIdx.x / 32; r < ROWS; r += THREADS / 32) {
        const int32_t n = gpu_place_of(q, row0 + r, at.kv_head, at.chunk).n_seen;
        if (KV_MUT(G39, n == 0 || lane >= n, n == 0)) continue; /* the whole warp */
        int32_t key = KV_MUT(M18, 0, INT32_MIN);
        for (int32_t i = lane; i < n; i += 32) {
            const int32_t k = kv_max_key(s[r * GPU_CH + i]);
            key = k > key ? k : key;
        }
        const int32_t most = __reduce_max_sync(0xffffffffu, key);
        const float m = kv_max_unkey(KV_MUT(N14, key, most));
        for (int32_t i = lane; i < n; i += 32) {
            const float x = kv_sub(KV_MUT(M22, kv_mut_f16(s[r * GPU_CH + i]), s[r * GPU_CH + i]), m);
            const float p = KV_MUT(G49, kv_d2f(kv_exp_core((double)x)), kv_exp(KV_MUT(M20, kv_mul(x, 0x1.62e43p-1f), x)));
            s[r * GPU_CH + i] = KV_MUT(M23, kv_mut_bf16(p), p);
        }
        if (lane == 0) row_max[r] = m;
    }
}

/* Four weighted values of each of two rows; row j has probabilities p[j] and sees the first n[j] entries of
 * the chunk, none when n[j] = 0. */
struct gpu_row_pair {
    const float *p[2];
    int32_t n[2];
};
struct gpu_pair_values {
    float v[2][4];
};

/* o = chain over entries first .. end - 1 of the chunk, in each row as far as it sees: fma(p, value, o).
 * value(i) gives four dims of entry i. */
template <class Value>
GPU_DEVICE void gpu_chain_pair(const gpu_row_pair &rows, int32_t first, int32_t end, gpu_pair_values *o,
                               const Value &value)
{
    const int32_t n0 = gpu_min(KV_MUT(M15, rows.n[0] & ~3, rows.n[0]), end);
    const int32_t n1 = gpu_min(KV_MUT(M15, rows.n[1] & ~3, rows.n[1]), end), both = gpu_min(n0, n1);
    const float *const p0 = rows.p[0], *const p1 = rows.p[1];
    float *const x = o->v[0], *const y = o->v[1];
    int32_t i = first;
    for (; i < both; i++) {
        const float4 f = value(i);
        x[0] = kv_fma(p0[i], f.x, x[0]), y[0] = kv_fma(p1[i], f.x, y[0]);
        x[1] = kv_fma(p0[i], f.y, x[1]), y[1] = kv_fma(p1[i], f.y, y[1]);
        x[2] = kv_fma(p0[i], f.z, x[2]), y[2] = kv_fma(p1[i], f.z, y[2]);
        x[3] = kv_fma(p0[i], f.w, x[3]), y[3] = kv_fma(p1[i], f.w, y[3]);
    }
    float *const longer = n0 < n1 ? y : x;
    const float *const p = n0 < n1 ? p1 : p0;
    for (const int32_t n = n0 < n1 ? n1 : n0; i < n; i++) {
        const float4 f = value(i);
        longer[0] = kv_fma(p[i], f.x, longer[0]);
        longer[1] = kv_fma(p[i], f.y, longer[1]);
        longer[2] = kv_fma(p[i], f.z, longer[2]);
        longer[3] = kv_fma(p[i], f.w, longer[3]);
    }
}

/* grid (chunks, row tiles, kv_heads). */
template <int MR, int GROUPS, class Source>
__global__ void __launch_bounds__(GPU_GROUP *GROUPS)
    gpu_k_attention_chunk(gpu_queries q, Source source, float *workspace)
{
    const int ROWS = MR * GROUPS, THREADS = GPU_GROUP * GROUPS;
    typedef typename Source::Scratch Scratch;
    static_assert(MR * GROUPS * GPU_CH <= GPU_DT * GPU_KS, "the scores take the place of the key slice");
    GPU_SHARED(float, ks, GPU_DT * GPU_KS); /* slice of keys, then the scores [ROWS][GPU_CH] */
    GPU_SHARED(float, qs, GPU_DT * MR * GROUPS);
    GPU_SHARED(float, row_max, MR *GROUPS);
    GPU_SHARED(Scratch, scratch, 1);
    const int32_t tid = (int32_t)threadIdx.x, n_chunks = (int32_t)gridDim.x;
    const int32_t row0 = (int32_t)blockIdx.y * ROWS;
    const int32_t last = gpu_min(row0 + ROWS, q.m * (q.heads / q.kv_heads)) - 1;
    gpu_chunk at;
    at.kv_head = (int32_t)blockIdx.z;
    at.chunk = (int32_t)blockIdx.x;
    at.n_entries = gpu_place_of(q, last, at.kv_head, at.chunk).n_seen; /* later rows see no less */
    if (at.n_entries == 0) return;

    source.template prepare<THREADS>(q, at, scratch);
    float *const s = ks;
    gpu_compute_scores<ROWS, MR, THREADS>(q, source, row0, at, scratch, ks, qs, s);
    __syncthreads(); /* the scores are complete */
    gpu_exponentiate<ROWS, THREADS>(q, row0, at, s, row_max);
    KV_MUT(R08, (void)0, __syncthreads()); /* probabilities and maxima are complete */

    for (int32_t r = tid; r < ROWS; r += THREADS) {
        const gpu_row_place p = gpu_place_of(q, row0 + r, at.kv_head, at.chunk);
        if (p.n_seen == 0) continue;
        float sum = 0.0f;
        for (int32_t i = 0; i < p.n_seen; i++) sum = kv_add(sum, s[r * GPU_CH + i]);
        float *const record = gpu_record_of(q, workspace, n_chunks, p.token, p.head, at.chunk);
        record[0] = row_max[r];
        record[1] = sum;
    }
    const int32_t quads = q.head_dim / 4;
    for (int32_t e = tid; e < quads * (ROWS / 2); e += THREADS) {
        const int32_t r = e / quads * 2, d = e % quads * 4;
        gpu_row_pair rows;
        gpu_row_place place[2];
        gpu_pair_values o = {};
        GPU_UNROLL
        for (int j = 0; j < 2; j++) {
            place[j] = gpu_place_of(q, row0 + r + j, at.kv_head, at.chunk);
            rows.p[j] = s + (r + j) * GPU_CH;
            rows.n[j] = place[j].n_seen;
        }
        source.weigh(q, at, d, *scratch, rows, &o);
        GPU_UNROLL
        for (int j = 0; j < 2; j++) {
            if (rows.n[j] == 0) continue;
            const float4 four = {KV_MUT(M21, kv_mut_f16(o.v[j][0]), o.v[j][0]), o.v[j][1], o.v[j][2], o.v[j][3]};
            float *const record =
                gpu_record_of(q, workspace, n_chunks, place[j].token, place[j].head, at.chunk);
            gpu_store4(record + GPU_RECORD_HEAD + d, four);
        }
    }
}

/* ---- host side ---- */

/* Combines the chunks of all rows; attention.cu. */
kv_status gpu_attention_combine(const gpu_queries &q, float *workspace, int32_t n_chunks, cudaStream_t stream);

static inline int32_t gpu_attention_chunks(const gpu_queries &q)
{
    return (int32_t)gpu_blocks(q.first + q.m, GPU_CH);
}

/* Tokens that the workspace is made for. */
int32_t gpu_attention_at_once(const gpu_queries &q);

template <int MR, int GROUPS, class Source>
static kv_status gpu_launch_chunks(const gpu_queries &q, const Source &source, float *workspace,
                                   cudaStream_t stream)
{
    const int32_t rows = MR * GROUPS;
    const dim3 grid((unsigned)gpu_attention_chunks(q), gpu_blocks((int64_t)q.m * (q.heads / q.kv_heads), rows),
                    (unsigned)q.kv_heads);
    return GPU_LAUNCH((gpu_k_attention_chunk<MR, GROUPS, Source>), grid, dim3(GPU_GROUP * GROUPS), 0, stream,
                      q, source, workspace);
}

/* Attention of all tokens, as many at once as the workspace holds. */
template <class Source>
static kv_status gpu_attend(const gpu_queries &all, const Source &source, float *workspace, cudaStream_t stream)
{
    const int32_t at_once = gpu_attention_at_once(all);
    for (int32_t t = 0; t < all.m; t += at_once) {
        gpu_queries q = all;
        q.q += t * q.q_stride;
        q.out += (int64_t)t * q.heads * q.head_dim;
        if (q.stats) q.stats += (int64_t)t * q.heads * 2;
        q.first += t;
        q.m = gpu_min(all.m - t, at_once);
        const int32_t rows = q.m * (q.heads / q.kv_heads);
        if (rows <= 2)
            KV_TRY((gpu_launch_chunks<2, 1>(q, source, workspace, stream)));
        else if (rows <= 8)
            KV_TRY((gpu_launch_chunks<8, 1>(q, source, workspace, stream)));
        else
            KV_TRY((gpu_launch_chunks<8, 2>(q, source, workspace, stream)));
        KV_TRY(gpu_attention_combine(q, workspace, gpu_attention_chunks(q), stream));
    }
    return KV_OK;
}

#endif
