/* door_attention.cu - attn_prefill, attn_decode, attn_colsum. */
#include "gpu/door/door.cuh"

#include <algorithm>

enum { QUERY_BLOCK = 256 }; /* of column sums: docs/policy/cascade.md, "Step" */

/* Largest score and sum of every row, as kernels keep them, and as the interface has them. */
static kvdk_tensor stats_of(const float *stats, int which, int64_t Hq, int64_t T)
{
    return door_tensor(stats + which, KVDK_F32, {Hq, T}, {2, 2 * Hq});
}

/* Tokens of a step stand in its view. Where they do not, all of them see the same entries: a step of one token each, who
 * takes the last of them for itself. */
static kv_status attend(door &d, const gpu_attention_args &step, const door_view &view)
{
    gpu_attention_args a = step;
    float *workspace;
    if (!view.own) {
        a.first = view.stored - 1;
        a.m = 1;
    }
    KV_TRY(d.memory(gpu_attention_workspace(a), &workspace));
    for (int32_t t = 0; t < step.m; t += a.m) {
        a.q = step.q + t * step.q_stride;
        a.out = step.out + (int64_t)t * a.heads * a.head_dim;
        if (step.stats) a.stats = step.stats + (int64_t)t * a.heads * 2;
        KV_TRY(gpu_attention(a, workspace, d.stream));
    }
    return KV_OK;
}

/* The call's numbers, and its keys; of attention and of column sums alike. */
template <class A> static void describe(const A &a, const door_view &view, gpu_attention_args *g)
{
    g->q_stride = a.Hq * a.hd;
    g->first = view.stored;
    g->m = (int32_t)a.T;
    g->heads = (int32_t)a.Hq;
    g->kv_heads = (int32_t)a.Hk;
    g->head_dim = (int32_t)a.hd;
    g->scale = (float)a.scale;
    g->k = view.k;
}

static kv_status attention(const kvdk_attn_args &a, door &d)
{
    door_view view;
    gpu_attention_args g = {};
    KV_TRY(door_extents({a.T}));
    KV_TRY(door_heads(a.Hq, a.Hk, a.hd));
    KV_TRY(door_view_open(d, a.segment, a.n_segments, a.T, a.Hk, a.hd, true, &view));
    KV_TRY(d.in(a.q, {a.T, a.Hq, a.hd}, &g.q));
    KV_TRY(d.out(a.o, {a.T, a.Hq, a.hd}, &g.out));
    if (a.row_max.data || a.row_sum.data) KV_TRY(d.memory((size_t)(a.T * a.Hq * 2), &g.stats));
    describe(a, view, &g);
    g.v = view.v;
    g.k_slot = g.v_slot = view.slots;
    KV_TRY(attend(d, g, view));
    if (a.row_max.data) {
        KV_TRY(door_expect(a.row_max, KVDK_F32, {a.Hq, a.T}));
        KV_TRY(d.copy(a.row_max, stats_of(g.stats, 0, a.Hq, a.T)));
    }
    if (!a.row_sum.data) return KV_OK;
    KV_TRY(door_expect(a.row_sum, KVDK_F32, {a.Hq, a.T}));
    return d.copy(a.row_sum, stats_of(g.stats, 1, a.Hq, a.T));
}

/* The statistics of the attention that has run, as its kernels keep them. */
static kv_status take_stats(door &d, const kvdk_colsum_args &a, float **stats)
{
    KV_TRY(door_expect(a.row_max, KVDK_F32, {a.Hq, a.T}));
    KV_TRY(door_expect(a.row_sum, KVDK_F32, {a.Hq, a.T}));
    KV_TRY(d.memory((size_t)(a.T * a.Hq * 2), stats));
    KV_TRY(d.copy(stats_of(*stats, 0, a.Hq, a.T), a.row_max));
    return d.copy(stats_of(*stats, 1, a.Hq, a.T), a.row_sum);
}

/* Sums of a view go to the entries that are in it. */
static kv_status give_sums(door &d, const kvdk_colsum_args &a, const door_view &view, const float *sums, int64_t stride)
{
    std::vector<float> by_view, by_entry((size_t)(a.Hq * view.entries), 0.0f);
    KV_TRY(d.down(sums, (size_t)(a.Hq * stride), &by_view));
    for (int64_t h = 0; h < a.Hq; h++)
        for (size_t i = 0; i < view.live.size(); i++)
            by_entry[(size_t)(h * view.entries + view.live[i])] = by_view[(size_t)(h * stride) + i];
    return d.write(a.colsum, {a.Hq, view.entries}, by_entry);
}

/* Where the tokens are not in the view, the last entry takes the place of the first; rows of the others are lent by
 * entry 0, and nobody looks at what they receive. */
static kv_status lend_rows(door &d, door_view *view, int64_t T)
{
    int32_t *slots;
    std::vector<int32_t> rows = view->live;
    rows.resize(rows.size() + (size_t)T - 1, rows[0]);
    view->stored--;
    KV_TRY(d.up(rows, &slots));
    view->slots = slots;
    return KV_OK;
}

static kv_status column_sums(const kvdk_colsum_args &a, door &d)
{
    door_view view;
    gpu_column_args c = {};
    gpu_attention_args &g = c.a;
    KV_TRY(door_extents({a.T}));
    KV_TRY(door_heads(a.Hq, a.Hk, a.hd));
    KV_TRY(door_view_open(d, a.segment, a.n_segments, a.T, a.Hk, a.hd, false, &view));
    if (!view.own) KV_TRY(lend_rows(d, &view, a.T));
    KV_TRY(d.in(a.q, {a.T, a.Hq, a.hd}, &g.q));
    KV_TRY(take_stats(d, a, &g.stats));
    if (a.weights.data) KV_TRY(d.in(a.weights, {a.T}, &c.weights));
    describe(a, view, &g);
    g.k_slot = view.slots;
    c.block = QUERY_BLOCK;
    KV_TRY(d.memory((size_t)(a.Hq * (g.first + g.m)), &c.sums));
    KV_TRY(gpu_column_sums(c, d.stream));
    return give_sums(d, a, view, c.sums, g.first + g.m);
}

int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream) { return door_run(a, stream, attention); }
int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream) { return door_run(a, stream, attention); }
int kvdk_attn_colsum(const kvdk_colsum_args *a, kvdk_stream stream) { return door_run(a, stream, column_sums); }
