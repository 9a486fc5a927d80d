/* attention.c - attention of a training batch, forward: projections, shift, norms, RoPE, gains, the walk over the keys,
 * and what follows it per head. attention_back.c goes the way back. */
#include "ref/golf.h"
#include "ref/train/graph.h"

#include <string.h>

static void shift_rows(const ref_graph *gr, int32_t layer, int64_t x)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t D = gr->cfg->head_dim, H = gr->cfg->n_kv_heads, kv = H * D;
    if (L->k_raw)
        REF(add_heads)(L->k_raw + x * kv, ref_weight(gr, KV_ROLE_K_SHIFT, layer), ref_earlier(gr, L->k_raw, kv, x, 1), H, 1, D,
                       L->kn + x * kv);
    if (L->v_raw)
        REF(add_heads)(L->v_raw + x * kv, ref_weight(gr, KV_ROLE_V_SHIFT, layer), ref_earlier(gr, L->v_raw, kv, x, 1), H, 1, D,
                       L->v + x * kv);
}

/* Key of one token and head into its lane, value into its row. */
static void place_key(const ref_graph *gr, int64_t x, int64_t h, const real *key, const real *value)
{
    const int64_t D = gr->cfg->head_dim, H = gr->cfg->n_kv_heads, dv = ref_round_up(D, 16), t = x % gr->S, s = x / gr->S * H + h;
    real *panel = gr->work.k_panels + (s * ref_round_up(gr->S, REF_PANEL) + t / REF_PANEL * REF_PANEL) * D;
    for (int64_t d = 0; d < D; d++)
        panel[d * REF_PANEL + t % REF_PANEL] = key[d];
    memcpy(gr->work.v_rows + (s * gr->S + t) * dv, value, (size_t)D * sizeof *value);
}

static void query_rows(const ref_graph *gr, int32_t layer, int64_t x)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t D = gr->cfg->head_dim, Hq = gr->cfg->n_heads;
    const real *gain = ref_weight(gr, KV_ROLE_Q_GAIN, layer);
    for (int64_t h = 0; h < Hq; h++) {
        real *q = L->qn + (x * Hq + h) * D, *qs = gr->work.qs + (x * Hq + h) * D;
        L->rq[x * Hq + h] = REF(norm_row)(gr, q, D, q);
        memcpy(qs, q, (size_t)D * sizeof *q);
        REF(rope_row)(&gr->rope, &gr->table, x % gr->S, qs);
        if (gain) REF(scale)(qs, gain[h], D, qs);
        REF(scale)(qs, gr->scale, D, qs);
    }
}

static void projected_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t D = gr->cfg->head_dim, H = gr->cfg->n_kv_heads;
    const real *gain = ref_weight(gr, KV_ROLE_K_GAIN, layer);
    real key[KV_MAX_HEAD_DIM];
    for (; x < end; x++) {
        shift_rows(gr, layer, x);
        query_rows(gr, layer, x);
        for (int64_t h = 0; h < H; h++) {
            real *k = L->kn + (x * H + h) * D;
            L->rk[x * H + h] = REF(norm_row)(gr, k, D, k);
            memcpy(key, k, (size_t)D * sizeof *k);
            REF(rope_row)(&gr->rope, &gr->table, x % gr->S, key);
            if (gain) REF(scale)(key, gain[h], D, key);
            place_key(gr, x, h, key, L->v + (x * H + h) * D);
        }
    }
}

/* ---- the walk over the keys ---------------------------------------------------------------------------------- */

typedef struct walk {
    const ref_graph *gr;
    int32_t layer;
    real *out; /* [T][Hq D] */
} walk;

static int64_t row_blocks(const ref_graph *gr)
{
    return (gr->S * (gr->cfg->n_heads / gr->cfg->n_kv_heads) + REF_ATTN_ROWS - 1) / REF_ATTN_ROWS;
}

/* Rows are (token, query head of the group) of one sequence and KV head. */
static void walk_task(void *arg, int64_t task, int worker)
{
    const walk *w = arg;
    const ref_graph *gr = w->gr;
    const ref_graph_layer *L = &gr->layers[w->layer];
    const int64_t D = gr->cfg->head_dim, dv = ref_round_up(D, 16), Hq = gr->cfg->n_heads, H = gr->cfg->n_kv_heads, G = Hq / H;
    const int64_t s = task / row_blocks(gr), row0 = task % row_blocks(gr) * REF_ATTN_ROWS, t0 = s / H * gr->S;
    real *q = gr->scratch[worker].p, *out[REF_ATTN_ROWS], max[REF_ATTN_ROWS], sum[REF_ATTN_ROWS];
    int64_t hi[REF_ATTN_ROWS];
    const ref_span span = {gr->work.k_panels + s * ref_round_up(gr->S, REF_PANEL) * D, gr->work.v_rows + s * gr->S * dv, 0, gr->S};
    ref_attn_job job = {.q = q, .head_dim = D, .spans = &span, .n_spans = 1, .hi = hi, .out = out, .max = max, .sum = sum,
                        .scratch = q + REF_ATTN_ROWS * D, .rows = ref_min(REF_ATTN_ROWS, gr->S * G - row0)};
    for (int64_t r = 0; r < job.rows; r++) {
        const int64_t t = (row0 + r) / G, at = ((t0 + t) * Hq + s % H * G + (row0 + r) % G) * D;
        memcpy(q + r * D, gr->work.qs + at, (size_t)D * sizeof *q);
        hi[r] = t + 1;
        out[r] = w->out + at;
    }
    gr->kernels->attn(&job);
    for (int64_t r = 0; r < job.rows; r++) {
        const int64_t at = (s % H * G + (row0 + r) % G) * gr->T + t0 + (row0 + r) / G;
        L->max[at] = max[r];
        L->sum[at] = sum[r];
    }
}

/* XSA takes out whatever local_v would add: such layers do without. */
static void attended_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t D = gr->cfg->head_dim, Hq = gr->cfg->n_heads, H = gr->cfg->n_kv_heads;
    const real *mix = ref_weight(gr, KV_ROLE_LOCAL_V, layer);
    for (; x < end; x++) {
        real *y = L->att + x * Hq * D;
        const real *v = L->v + x * H * D;
        if (L->y) {
            memcpy(y, L->y + x * Hq * D, (size_t)(Hq * D) * sizeof *y);
            REF(exclude_own)(gr->kernels, v, Hq, Hq / H, D, y);
        } else if (mix) {
            REF(add_heads)(y, mix, v, Hq, Hq / H, D, y);
        }
    }
}

void REF(graph_attend)(ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    walk w = {gr, layer, L->y ? L->y : L->att};
    REF(product)(gr, gr->work.h, KV_ROLE_ATTN_Q, layer, L->qn);
    REF(product)(gr, gr->work.h, KV_ROLE_ATTN_K, layer, L->k_raw ? L->k_raw : L->kn);
    REF(product)(gr, gr->work.h, KV_ROLE_ATTN_V, layer, L->v_raw ? L->v_raw : L->v);
    REF(graph_rows)(gr, layer, projected_rows);
    kv_pool_run(gr->pool, gr->T / gr->S * gr->cfg->n_kv_heads * row_blocks(gr), walk_task, &w);
    REF(graph_rows)(gr, layer, attended_rows);
}
