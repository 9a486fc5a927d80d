/* attention.cu - backward pass of causal attention, whole sequences.
 *
 * Probabilities p and dp are kept, [sequence and head][key][query]: neighbouring threads are neighbouring queries, so that the
 * chains over keys, over queries and over dims all read memory in rows. Then each result is one thread's chain. As many
 * sequences at once as fit into the workspace. */
#include "gpu/train/each.cuh"
#include "gpu/train/ops.cuh"

enum { WORKSPACE_FLOATS = 1 << 26 };

namespace
{
/* What the kernels share: the sequences under way begin with token `first`. */
struct site {
    gpu_attention_grad a;
    int64_t first;
    float *p, *ds;       /* [sequences * heads][seq key][seq query] */
    float *dk_of, *dv_of; /* [sequences * seq][heads * dim]: of single query heads */

    __device__ int32_t kv_head(int32_t head) const { return head / (a.shape.heads / a.shape.kv_heads); }
    __device__ int64_t token(int64_t pair, int32_t position) const { return first + pair / a.shape.heads * a.seq + position; }
    __device__ int64_t at(int64_t pair, int32_t key, int32_t query) const { return (pair * a.seq + key) * a.seq + query; }
    __device__ const float *query(int64_t t, int32_t head) const { return a.q + t * a.q_stride + head * a.shape.head_dim; }
    __device__ const float *grad(int64_t t, int32_t head) const { return a.d_out + (t * a.shape.heads + head) * a.shape.head_dim; }
    __device__ int64_t kv_row(int64_t t, int32_t head) const { return (t * a.shape.kv_heads + kv_head(head)) * a.shape.head_dim; }
};

/* p and dp of a pair of query and key. */
struct pair_scores {
    site s;

    __device__ void operator()(int64_t e) const
    {
        const int32_t seq = s.a.seq, i = (int32_t)(e % seq), j = (int32_t)(e / seq % seq), dim = s.a.shape.head_dim;
        const int64_t pair = e / seq / seq;
        const int32_t head = (int32_t)(pair % s.a.shape.heads);
        if (j > i) return;
        const int64_t t = s.token(pair, i), row = s.kv_row(s.token(pair, j), head);
        const float *const q = s.query(t, head), *const g = s.grad(t, head), *const k = s.a.k + row, *const v = s.a.v + row;
        float score = 0.0f, dp = 0.0f;
        for (int32_t d = 0; d < dim; d++) {
            score = kv_fma(kv_mul(q[d], s.a.scale), k[d], score);
            dp = kv_fma(g[d], v[d], dp);
        }
        const float *const stats = s.a.stats + (t * s.a.shape.heads + head) * 2;
        s.p[e] = kv_div(kv_exp(kv_sub(score, stats[0])), stats[1]);
        s.ds[e] = dp;
    }
};

/* dS of a query, in place of its dp. */
struct row_scores {
    site s;

    __device__ void operator()(int64_t e) const
    {
        const int32_t i = (int32_t)(e % s.a.seq);
        const int64_t pair = e / s.a.seq;
        float rho = -0.0f; /* -0 + x is x */
        for (int32_t j = 0; j <= i;) {
            const int32_t end = gpu_min(j + GPU_CH, i + 1);
            float sum = 0.0f;
            for (; j < end; j++) sum = kv_fma(s.ds[s.at(pair, j, i)], s.p[s.at(pair, j, i)], sum);
            rho = kv_add(rho, sum);
        }
        for (int32_t j = 0; j <= i; j++) {
            float *const ds = s.ds + s.at(pair, j, i);
            *ds = kv_mul(s.p[s.at(pair, j, i)], kv_sub(*ds, rho));
        }
    }
};

struct query_grads {
    site s;

    __device__ void operator()(int64_t e) const
    {
        const int32_t dim = s.a.shape.head_dim, d = (int32_t)(e % dim), i = (int32_t)(e / dim % s.a.seq);
        const int64_t pair = e / dim / s.a.seq, t = s.token(pair, i);
        const int32_t head = (int32_t)(pair % s.a.shape.heads);
        float total = -0.0f;
        for (int32_t j = 0; j <= i;) {
            const int32_t end = gpu_min(j + GPU_CH, i + 1);
            float sum = 0.0f;
            for (; j < end; j++) sum = kv_fma(s.ds[s.at(pair, j, i)], s.a.k[s.kv_row(s.token(pair, j), head) + d], sum);
            total = kv_add(total, sum);
        }
        s.a.dq[(t * s.a.shape.heads + head) * dim + d] = kv_mul(total, s.a.scale);
    }
};

/* Of a key and one query head; the blocks of queries are those of the sequence. */
struct key_grads {
    site s;

    __device__ void operator()(int64_t e) const
    {
        const int32_t dim = s.a.shape.head_dim, d = (int32_t)(e % dim), j = (int32_t)(e / dim % s.a.seq);
        const int64_t pair = e / dim / s.a.seq;
        const int32_t head = (int32_t)(pair % s.a.shape.heads);
        float dk = -0.0f, dv = -0.0f;
        for (int32_t i = j; i < s.a.seq;) {
            const int32_t end = gpu_min((i / GPU_CH + 1) * GPU_CH, s.a.seq);
            float k_sum = 0.0f, v_sum = 0.0f;
            for (; i < end; i++) {
                const int64_t t = s.token(pair, i);
                k_sum = kv_fma(s.ds[s.at(pair, j, i)], kv_mul(s.query(t, head)[d], s.a.scale), k_sum);
                v_sum = kv_fma(s.p[s.at(pair, j, i)], s.grad(t, head)[d], v_sum);
            }
            dk = kv_add(dk, k_sum);
            dv = kv_add(dv, v_sum);
        }
        const int64_t to = ((s.token(pair, j) - s.first) * s.a.shape.heads + head) * dim + d;
        s.dk_of[to] = dk;
        s.dv_of[to] = dv;
    }
};

/* The query heads of a group, ascending. */
struct group_sums {
    site s;

    __device__ void operator()(int64_t e) const
    {
        const gpu_qkv_shape &shape = s.a.shape;
        const int32_t dim = shape.head_dim, d = (int32_t)(e % dim), kv = (int32_t)(e / dim % shape.kv_heads);
        const int32_t group = shape.heads / shape.kv_heads;
        const int64_t t = e / dim / shape.kv_heads, from = (t * shape.heads + (int64_t)kv * group) * dim + d;
        float dk = s.dk_of[from], dv = s.dv_of[from];
        for (int32_t h = 1; h < group; h++) {
            dk = kv_add(dk, s.dk_of[from + (int64_t)h * dim]);
            dv = kv_add(dv, s.dv_of[from + (int64_t)h * dim]);
        }
        const int64_t to = s.first * shape.kv_heads * dim + e;
        s.a.dk[to] = dk;
        s.a.dv[to] = dv;
    }
};

int64_t floats_per_sequence(const gpu_attention_grad &a)
{
    return 2 * (int64_t)a.seq * a.shape.heads * ((int64_t)a.seq + a.shape.head_dim);
}
} // namespace

int32_t gpu_attention_grad_at_once(const gpu_attention_grad &a)
{
    const int64_t n = WORKSPACE_FLOATS / floats_per_sequence(a);
    return n < 1 ? 1 : n < a.sequences ? (int32_t)n : a.sequences;
}

size_t gpu_attention_grad_workspace(const gpu_attention_grad &a)
{
    return (size_t)(gpu_attention_grad_at_once(a) * floats_per_sequence(a));
}

kv_status gpu_attention_back(const gpu_attention_grad &a, float *workspace, cudaStream_t stream)
{
    const int32_t at_once = gpu_attention_grad_at_once(a), dim = a.shape.head_dim;
    for (int32_t w = 0; w < a.sequences; w += at_once) {
        const int64_t n = gpu_min(at_once, a.sequences - w), pairs = n * a.shape.heads, square = pairs * a.seq * a.seq;
        site s = {a, (int64_t)w * a.seq, workspace, workspace + square, workspace + 2 * square, nullptr};
        s.dv_of = s.dk_of + pairs * a.seq * dim;
        KV_TRY(gpu_each(square, pair_scores{s}, stream));
        KV_TRY(gpu_each(pairs * a.seq, row_scores{s}, stream));
        KV_TRY(gpu_each(pairs * a.seq * dim, query_grads{s}, stream));
        KV_TRY(gpu_each(pairs * a.seq * dim, key_grads{s}, stream));
        KV_TRY(gpu_each(n * a.seq * a.shape.kv_heads * dim, group_sums{s}, stream));
    }
    return KV_OK;
}
