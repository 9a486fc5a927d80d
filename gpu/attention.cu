/* attention.cu - causal attention of a step's queries over the cache view (docs/numerics.md, section 4).
 *
 * Chunks of GPU_CH view entries are independent of each other, so a block takes one chunk, one KV head and a
 * tile of query rows (row = token and query head of the group: grouped heads read the same keys). It goes
 * through three stages that share its 256 scores per row in shared memory:
 *
 *   scores   like a matrix product: slices of DT dims of queries and keys pass through shared memory, a
 *            thread keeps MR rows x 4 entries; slices ascend, so each score is one chain over d
 *   softmax  one warp per row: exact maximum, probabilities in place; then one thread per row adds them up
 *   values   a thread keeps two rows x 4 dims, one chain over the entries
 *
 * and leaves maximum, sum and weighted values of the chunk in the workspace. A second kernel combines the
 * chunks in ascending order. Entries that a row may not see are scored along with the others where that is
 * cheaper, but nothing ever reads those scores. */
#include "gpu/ops.cuh"

enum {
    DT = 32,        /* dims per slice */
    GROUP = 64,     /* threads that cover a chunk: four entries each */
    KS = GPU_CH + 4 /* row length of the key slice: keeps 16-byte alignment */
};

/* A row's place: token, query head, and how many entries of chunk c it sees. */
struct row_place {
    int32_t token, head, n_seen;
};

GPU_DEVICE row_place place_of(const gpu_attention_args &a, int32_t row, int32_t kv_head, int32_t chunk)
{
    const int32_t group = a.heads / a.kv_heads;
    row_place p;
    p.token = row / group;
    p.head = kv_head * group + row % group;
    const int64_t n = a.first + p.token + 1 - (int64_t)chunk * GPU_CH;
    p.n_seen = p.token >= a.m || n < 0 ? 0 : n < GPU_CH ? (int32_t)n : GPU_CH;
    return p;
}

/* Workspace: for each (token, head, chunk) a record of maximum, sum, two floats of padding and head_dim
 * weighted values. */
enum { RECORD_HEAD = 4 };
GPU_DEVICE float *record_of(const gpu_attention_args &a, float *workspace, int32_t n_chunks, int32_t token,
                            int32_t head, int32_t chunk)
{
    const int64_t i = ((int64_t)token * a.heads + head) * n_chunks + chunk;
    return workspace + i * (RECORD_HEAD + a.head_dim);
}

/* Puts dims d0 .. d0 + DT - 1 of the chunk's keys and of the tile's queries into shared memory, dims as
 * rows. Queries are multiplied by the softmax scale here. */
template <int ROWS, int THREADS>
GPU_DEVICE void load_slice(const gpu_attention_args &a, int32_t row0, int32_t kv_head, int32_t chunk,
                           int32_t n_entries, int32_t d0, float *ks, float *qs)
{
    const int32_t tid = (int32_t)threadIdx.x, dn = a.head_dim - d0 < DT ? a.head_dim - d0 : DT;
    for (int32_t e = tid; e < DT / 4 * n_entries; e += THREADS) {
        const int32_t d = e % (DT / 4) * 4, i = e / (DT / 4), v = chunk * GPU_CH + i;
        if (d >= dn) continue;
        const int64_t r = a.k_slot ? a.k_slot[kv_head * a.slot_stride + v] : v;
        const float4 k = gpu_load4(a.k + (r * a.kv_heads + kv_head) * a.head_dim + d0 + d);
        ks[d * KS + i] = k.x;
        ks[(d + 1) * KS + i] = k.y;
        ks[(d + 2) * KS + i] = k.z;
        ks[(d + 3) * KS + i] = k.w;
    }
    for (int32_t e = tid; e < DT * ROWS; e += THREADS) {
        const int32_t d = e % DT, r = e / DT;
        const row_place p = place_of(a, row0 + r, kv_head, chunk);
        const bool inside = p.n_seen > 0 && d < dn;
        qs[d * ROWS + r] =
            inside ? kv_mul(a.q[p.token * a.q_stride + p.head * a.head_dim + d0 + d], a.scale) : 0.0f;
    }
}

/* s[row][entry] for the whole tile; entries >= n_entries are left undefined. s takes the place of ks, which
 * nobody needs any more by then. */
template <int ROWS, int MR, int THREADS>
GPU_DEVICE void compute_scores(const gpu_attention_args &a, int32_t row0, int32_t kv_head, int32_t chunk,
                               int32_t n_entries, float *ks, float *qs, float *s)
{
    const int32_t i0 = (int32_t)threadIdx.x % GROUP * 4, r0 = (int32_t)threadIdx.x / GROUP * MR;
    float acc[MR][4];
    GPU_UNROLL
    for (int r = 0; r < MR; r++) acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = 0.0f;
    for (int32_t d0 = 0; d0 < a.head_dim; d0 += DT) {
        const int32_t dn = a.head_dim - d0 < DT ? a.head_dim - d0 : DT;
        load_slice<ROWS, THREADS>(a, row0, kv_head, chunk, n_entries, d0, ks, qs);
        __syncthreads(); /* the slice is complete */
        for (int32_t d = 0; d < dn && i0 < n_entries; d++) {
            const float4 k = gpu_load4(ks + d * KS + i0);
            GPU_UNROLL
            for (int r = 0; r < MR; r++) {
                const float q = qs[d * ROWS + r0 + r];
                acc[r][0] = kv_fma(q, k.x, acc[r][0]);
                acc[r][1] = kv_fma(q, k.y, acc[r][1]);
                acc[r][2] = kv_fma(q, k.z, acc[r][2]);
                acc[r][3] = kv_fma(q, k.w, acc[r][3]);
            }
        }
        __syncthreads(); /* nobody reads the slice any more */
    }
    GPU_UNROLL
    for (int r = 0; r < MR; r++) {
        const float4 four = {acc[r][0], acc[r][1], acc[r][2], acc[r][3]};
        gpu_store4(s + (r0 + r) * GPU_CH + i0, four);
    }
}

/* s = exp(s - maximum) in the entries that each row sees, a warp per row. */
template <int ROWS, int THREADS>
GPU_DEVICE void exponentiate(const gpu_attention_args &a, int32_t row0, int32_t kv_head, int32_t chunk,
                             float *s, float *row_max)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    for (int32_t r = (int32_t)threadIdx.x / 32; r < ROWS; r += THREADS / 32) {
        const int32_t n = place_of(a, row0 + r, kv_head, chunk).n_seen;
        if (n == 0) continue; /* the whole warp */
        int32_t key = INT32_MIN;
        for (int32_t i = lane; i < n; i += 32) {
            const int32_t k = kv_max_key(s[r * GPU_CH + i]);
            key = k > key ? k : key;
        }
        const float m = kv_max_unkey(__reduce_max_sync(0xffffffffu, key));
        for (int32_t i = lane; i < n; i += 32)
            s[r * GPU_CH + i] = kv_exp(kv_sub(s[r * GPU_CH + i], m));
        if (lane == 0) row_max[r] = m;
    }
}

/* Weighted values of two neighbouring rows, four dims: o = chain over the entries of p * v. */
GPU_DEVICE void weigh_values(const gpu_attention_args &a, const float *v, const int32_t *v_row,
                             const float *p0, const float *p1, int32_t n0, int32_t n1, float *o0, float *o1)
{
    const int64_t width = (int64_t)a.kv_heads * a.head_dim;
    const int32_t both = n0 < n1 ? n0 : n1;
    float x[4] = {0.0f, 0.0f, 0.0f, 0.0f}, y[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int32_t i = 0;
    for (; i < both; i++) {
        const float4 f = gpu_load4(v + v_row[i] * width);
        x[0] = kv_fma(p0[i], f.x, x[0]), y[0] = kv_fma(p1[i], f.x, y[0]);
        x[1] = kv_fma(p0[i], f.y, x[1]), y[1] = kv_fma(p1[i], f.y, y[1]);
        x[2] = kv_fma(p0[i], f.z, x[2]), y[2] = kv_fma(p1[i], f.z, y[2]);
        x[3] = kv_fma(p0[i], f.w, x[3]), y[3] = kv_fma(p1[i], f.w, y[3]);
    }
    float *const longer = n0 < n1 ? y : x;
    const float *const p = n0 < n1 ? p1 : p0;
    for (const int32_t n = n0 < n1 ? n1 : n0; i < n; i++) {
        const float4 f = gpu_load4(v + v_row[i] * width);
        longer[0] = kv_fma(p[i], f.x, longer[0]);
        longer[1] = kv_fma(p[i], f.y, longer[1]);
        longer[2] = kv_fma(p[i], f.z, longer[2]);
        longer[3] = kv_fma(p[i], f.w, longer[3]);
    }
    const float4 first = {x[0], x[1], x[2], x[3]}, second = {y[0], y[1], y[2], y[3]};
    if (n0 > 0) gpu_store4(o0, first);
    if (n1 > 0) gpu_store4(o1, second);
}

/* grid (chunks, row tiles, kv_heads). */
template <int MR, int GROUPS>
__global__ void __launch_bounds__(GROUP *GROUPS)
    gpu_k_attention_chunk(gpu_attention_args a, float *workspace)
{
    const int ROWS = MR * GROUPS, THREADS = GROUP * GROUPS;
    static_assert(MR * GROUPS * GPU_CH <= DT * KS, "the scores take the place of the key slice");
    GPU_SHARED(float, ks, DT * KS); /* slice of keys, then the scores [ROWS][GPU_CH] */
    GPU_SHARED(float, qs, DT * MR * GROUPS);
    GPU_SHARED(float, row_max, MR *GROUPS);
    GPU_SHARED(int32_t, v_row, GPU_CH);
    const int32_t tid = (int32_t)threadIdx.x, chunk = (int32_t)blockIdx.x, kv_head = (int32_t)blockIdx.z;
    const int32_t row0 = (int32_t)blockIdx.y * ROWS, n_chunks = (int32_t)gridDim.x;
    const int32_t last = gpu_min(row0 + ROWS, a.m * (a.heads / a.kv_heads)) - 1;
    const int32_t n_entries = place_of(a, last, kv_head, chunk).n_seen; /* later rows see no less */
    if (n_entries == 0) return;

    for (int32_t i = tid; i < n_entries; i += THREADS) {
        const int32_t v = chunk * GPU_CH + i;
        v_row[i] = a.v_slot ? a.v_slot[kv_head * a.slot_stride + v] : v;
    }
    float *const s = ks;
    compute_scores<ROWS, MR, THREADS>(a, row0, kv_head, chunk, n_entries, ks, qs, s);
    __syncthreads(); /* scores and v_row are complete */
    exponentiate<ROWS, THREADS>(a, row0, kv_head, chunk, s, row_max);
    __syncthreads(); /* probabilities and maxima are complete */

    for (int32_t r = tid; r < ROWS; r += THREADS) {
        const row_place p = place_of(a, row0 + r, kv_head, chunk);
        if (p.n_seen == 0) continue;
        float sum = 0.0f;
        for (int32_t i = 0; i < p.n_seen; i++) sum = kv_add(sum, s[r * GPU_CH + i]);
        float *const record = record_of(a, workspace, n_chunks, p.token, p.head, chunk);
        record[0] = row_max[r];
        record[1] = sum;
    }
    const int32_t quads = a.head_dim / 4;
    for (int32_t e = tid; e < quads * (ROWS / 2); e += THREADS) {
        const int32_t r = e / quads * 2, d = e % quads * 4;
        const row_place p = place_of(a, row0 + r, kv_head, chunk);
        const row_place q = place_of(a, row0 + r + 1, kv_head, chunk);
        weigh_values(a, a.v + kv_head * a.head_dim + d, v_row, s + r * GPU_CH, s + (r + 1) * GPU_CH,
                     p.n_seen, q.n_seen,
                     record_of(a, workspace, n_chunks, p.token, p.head, chunk) + RECORD_HEAD + d,
                     record_of(a, workspace, n_chunks, q.token, q.head, chunk) + RECORD_HEAD + d);
    }
}

/* One thread per token, head and four dims. */
__global__ void gpu_k_attention_combine(gpu_attention_args a, float *workspace, int32_t n_chunks)
{
    const int32_t quads = a.head_dim / 4;
    const int64_t e = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= (int64_t)a.m * a.heads * quads) return;
    const int32_t d = (int32_t)(e % quads) * 4, head = (int32_t)(e / quads % a.heads);
    const int32_t token = (int32_t)(e / quads / a.heads);
    const int32_t n = (int32_t)((a.first + token) / GPU_CH) + 1; /* chunks that the row sees */
    int32_t key = INT32_MIN;
    for (int32_t c = 0; c < n; c++) {
        const int32_t k = kv_max_key(record_of(a, workspace, n_chunks, token, head, c)[0]);
        key = k > key ? k : key;
    }
    const float m = kv_max_unkey(key);
    float sum = 0.0f, o[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int32_t c = 0; c < n; c++) {
        const float *const record = record_of(a, workspace, n_chunks, token, head, c);
        const float w = kv_exp(kv_sub(record[0], m));
        sum = kv_fma(record[1], w, sum);
        GPU_UNROLL
        for (int j = 0; j < 4; j++) o[j] = kv_fma(record[RECORD_HEAD + d + j], w, o[j]);
    }
    float *const out = a.out + ((int64_t)token * a.heads + head) * a.head_dim + d;
    GPU_UNROLL
    for (int j = 0; j < 4; j++) out[j] = kv_add(kv_div(o[j], sum), 0.0f); /* -0 becomes +0 */
}

/* ---- host side ---- */

enum { WORKSPACE_FLOATS = 1 << 24 };

static int32_t chunks_of(const gpu_attention_args &a, int32_t m)
{
    return (int32_t)gpu_blocks(a.first + m, GPU_CH);
}

static int32_t tokens_at_once(const gpu_attention_args &a)
{
    if (a.at_once) return gpu_min(a.at_once, a.m);
    const int64_t per_token = (int64_t)a.heads * chunks_of(a, a.m) * (RECORD_HEAD + a.head_dim);
    const int64_t n = WORKSPACE_FLOATS / per_token;
    return n < 1 ? 1 : n < a.m ? (int32_t)n : a.m;
}

size_t gpu_attention_workspace(const gpu_attention_args &a)
{
    return (size_t)tokens_at_once(a) * (size_t)a.heads * (size_t)chunks_of(a, a.m) *
           (size_t)(RECORD_HEAD + a.head_dim);
}

template <int MR, int GROUPS>
static kv_status launch_chunks(const gpu_attention_args &a, int32_t n_chunks, float *workspace,
                               cudaStream_t stream)
{
    const int32_t rows = MR * GROUPS;
    const dim3 grid((unsigned)n_chunks, gpu_blocks((int64_t)a.m * (a.heads / a.kv_heads), rows),
                    (unsigned)a.kv_heads);
    return GPU_LAUNCH((gpu_k_attention_chunk<MR, GROUPS>), grid, dim3(GROUP * GROUPS), 0, stream, a,
                      workspace);
}

static kv_status attend(const gpu_attention_args &a, float *workspace, cudaStream_t stream)
{
    const int32_t n_chunks = chunks_of(a, a.m), rows = a.m * (a.heads / a.kv_heads);
    if (rows <= 2)
        KV_TRY((launch_chunks<2, 1>(a, n_chunks, workspace, stream)));
    else if (rows <= 8)
        KV_TRY((launch_chunks<8, 1>(a, n_chunks, workspace, stream)));
    else
        KV_TRY((launch_chunks<8, 2>(a, n_chunks, workspace, stream)));
    const int64_t threads = (int64_t)a.m * a.heads * (a.head_dim / 4);
    return GPU_LAUNCH_NOSYNC(gpu_k_attention_combine, dim3(gpu_blocks(threads, 64)), dim3(64), stream, a,
                             workspace, n_chunks);
}

kv_status gpu_attention(const gpu_attention_args &a, float *workspace, cudaStream_t stream)
{
    const int32_t at_once = tokens_at_once(a);
    for (int32_t t = 0; t < a.m; t += at_once) {
        gpu_attention_args part = a;
        part.q += t * a.q_stride;
        part.out += (int64_t)t * a.heads * a.head_dim;
        part.first += t;
        part.m = gpu_min(a.m - t, at_once);
        part.at_once = at_once;
        KV_TRY(attend(part, workspace, stream));
    }
    return KV_OK;
}
