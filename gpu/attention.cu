/* attention.cu - attention over K and V that are kept as rows of numbers; the combination of chunks. The
 * kernel that all storages share stands in attention.cuh. */
#include "gpu/attention.cuh"

/* Rows of fp32 (NARROW = false), or of any of the formats. */
template <bool NARROW> struct gpu_rows_source {
    gpu_values k, v;
    const int32_t *k_slot, *v_slot;
    int64_t slot_stride;

    struct Scratch {
        int32_t v_row[GPU_CH];
    };

    template <int THREADS>
    __device__ __forceinline__ void prepare(const gpu_queries &, const gpu_chunk &at, Scratch *scratch) const
    {
        for (int32_t i = (int32_t)threadIdx.x; i < at.n_entries; i += THREADS) {
            const int32_t e = at.chunk * GPU_CH + i;
            scratch->v_row[i] = v_slot ? v_slot[at.kv_head * slot_stride + e] : e;
        }
    }

    template <int THREADS>
    __device__ __forceinline__ void load_keys(const gpu_queries &q, const gpu_chunk &at, int32_t d0, int32_t dn,
                                              float *ks) const
    {
        for (int32_t e = (int32_t)threadIdx.x; e < GPU_DT / 4 * at.n_entries; e += THREADS) {
            const int32_t d = e % (GPU_DT / 4) * 4, i = e / (GPU_DT / 4), entry = at.chunk * GPU_CH + i;
            if (KV_MUT(G42, 0, d >= dn)) continue;
            const int64_t row = k_slot ? k_slot[at.kv_head * slot_stride + entry] : entry;
            const int32_t head = KV_MUT(N19, 0, at.kv_head);
            const float4 f = gpu_value4<NARROW>(k, (row * q.kv_heads + head) * q.head_dim + d0 + d);
            ks[d * GPU_KS + i] = f.x;
            ks[(d + 1) * GPU_KS + i] = f.y;
            ks[(d + 2) * GPU_KS + i] = f.z;
            ks[(d + 3) * GPU_KS + i] = f.w;
        }
    }

    __device__ __forceinline__ float4 finish(float4 acc, int32_t, const Scratch &) const { return acc; }

    __device__ __forceinline__ void weigh(const gpu_queries &q, const gpu_chunk &at, int32_t d,
                                          const Scratch &scratch, const gpu_row_pair &rows,
                                          gpu_pair_values *o) const
    {
        const int64_t width = KV_MUT(G38, q.head_dim, (int64_t)q.kv_heads * q.head_dim);
        const int64_t first = KV_MUT(N16, 0, at.kv_head) * q.head_dim + d;
        gpu_chain_pair(rows, 0, GPU_CH, o,
                       [&](int32_t i) { return gpu_value4<NARROW>(v, scratch.v_row[i] * width + first); });
    }
};

/* One thread per token, head and four dims. */
__global__ void gpu_k_attention_combine(gpu_queries q, float *workspace, int32_t n_chunks)
{
    const int32_t quads = q.head_dim / 4;
    const int64_t e = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= (int64_t)q.m * q.heads * quads) return;
    const int32_t d = (int32_t)(e % quads) * 4, head = (int32_t)(e / quads % q.heads);
    const int32_t token = (int32_t)(e / quads / q.heads);
    const int32_t n = KV_MUT(G37, n_chunks, (int32_t)((q.first + token) / GPU_CH) + 1); /* chunks that the row sees */
    int32_t key = INT32_MIN;
    for (int32_t c = 0; c < n; c++) {
        const int32_t k = kv_max_key(gpu_record_of(q, workspace, n_chunks, token, head, c)[0]);
        key = k > key ? k : key;
    }
    const float m = kv_max_unkey(key);
    float sum = 0.0f, o[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int32_t c = 0; c < n; c++) {
        const float *const record = gpu_record_of(q, workspace, n_chunks, token, head, KV_MUT(M29, n - 1 - c, c));
        const float w = kv_exp(kv_sub(record[0], m));
        sum = kv_fma(record[1], KV_MUT(M17, 1.0f, w), sum);
        GPU_UNROLL
        for (int j = 0; j < 4; j++) o[j] = kv_fma(record[GPU_RECORD_HEAD + d + j], KV_MUT(M16, 1.0f, w), o[j]);
    }
    if (q.stats && d == 0) {
        float *const stats = q.stats + ((int64_t)token * q.heads + head) * 2;
        stats[0] = m;
        stats[1] = sum;
    }
    float *const out = q.out + ((int64_t)token * q.heads + head) * q.head_dim + d;
    GPU_UNROLL
    for (int j = 0; j < 4; j++)
        out[j] = kv_add(kv_div(o[j], KV_MUT(M32, kv_add(sum, 1e-3f), sum)), 0.0f); /* -0 becomes +0 */
}

kv_status gpu_attention_combine(const gpu_queries &q, float *workspace, int32_t n_chunks, cudaStream_t stream)
{
    const int64_t threads = (int64_t)q.m * q.heads * (q.head_dim / 4);
    return GPU_LAUNCH_NOSYNC(gpu_k_attention_combine, dim3(gpu_blocks(threads, 64)), dim3(64), stream, q,
                             workspace, n_chunks);
}

/* ---- host side ---- */

enum { WORKSPACE_FLOATS = 1 << 24 };

int32_t gpu_attention_at_once(const gpu_queries &q)
{
    if (q.at_once) return gpu_min(q.at_once, q.m);
    const int64_t per_token = (int64_t)q.heads * gpu_attention_chunks(q) * (GPU_RECORD_HEAD + q.head_dim);
    const int64_t n = WORKSPACE_FLOATS / per_token;
    return n < 1 ? 1 : n < q.m ? (int32_t)n : q.m;
}

size_t gpu_attention_workspace(const gpu_queries &q)
{
    return (size_t)gpu_attention_at_once(q) * (size_t)q.heads * (size_t)gpu_attention_chunks(q) *
           (size_t)(GPU_RECORD_HEAD + q.head_dim);
}

template <bool NARROW>
static kv_status attend_rows(const gpu_attention_args &a, float *workspace, cudaStream_t stream)
{
    const gpu_rows_source<NARROW> source = {a.k, a.v, a.k_slot, a.v_slot, a.slot_stride};
    return gpu_attend(static_cast<const gpu_queries &>(a), source, workspace, stream);
}

kv_status gpu_attention(const gpu_attention_args &a, float *workspace, cudaStream_t stream)
{
    const bool narrow = a.k.storage != KV_STORE_F32 || a.v.storage != KV_STORE_F32;
    return narrow ? attend_rows<true>(a, workspace, stream) : attend_rows<false>(a, workspace, stream);
}
