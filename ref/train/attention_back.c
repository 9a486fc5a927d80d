/* attention_back.c - attention of a training batch, backward: from the gradient of what the output projection read to
 * those of the projections of queries, keys and values. */
#include "ref/golf.h"
#include "ref/train/graph.h"

#include <string.h>

/* ---- one query head over one sequence ---------------------------------------------------------------------------- */

typedef struct head_job {
    const ref_graph *gr;
    int32_t layer;
} head_job;

/* Arrays of a task in a thread's scratch. up: S rounded up to the queries of a group. */
typedef struct head_arrays {
    real *q_panels, *dy_panels; /* [up/16][D][16] */
    real *q_rows, *dy_rows, *k, *v; /* [S][dv] */
    real *k_cols;               /* [D][S] */
    real *rotated;              /* [S][D] queries before the gain */
    real *dq;                   /* [S][D] */
    real *max, *sum;            /* [up] */
    real *scratch;
} head_arrays;

static int64_t set_arrays(const ref_graph *gr, real *p, head_arrays *a)
{
    const int64_t S = gr->S, D = gr->cfg->head_dim, dv = ref_round_up(D, 16), up = ref_round_up(S, REF_BACK_QUERIES);
    const int64_t sizes[] = {up * D, up * D, S * dv, S * dv, S * dv, S * dv, D * S, S * D, S * D, up, up, REF(attn_back_scratch)(S, D)};
    real **to[] = {&a->q_panels, &a->dy_panels, &a->q_rows, &a->dy_rows, &a->k,   &a->v,
                   &a->k_cols,   &a->rotated,   &a->dq,     &a->max,     &a->sum, &a->scratch};
    int64_t n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; n += ref_round_up(sizes[i], 16), i++)
        if (p) *to[i] = p + n;
    return n;
}

int64_t REF(attend_scratch)(const ref_graph *gr)
{
    head_arrays a;
    const int64_t D = gr->cfg->head_dim;
    return ref_max(set_arrays(gr, NULL, &a), REF_ATTN_ROWS * D + REF(attn_scratch)(gr->S, D));
}

static void to_panel(const real *row, int64_t D, int64_t t, real *panels)
{
    for (int64_t d = 0; d < D; d++)
        panels[(t / REF_PANEL * D + d) * REF_PANEL + t % REF_PANEL] = row[d];
}

static void clear_padding(const ref_graph *gr, const head_arrays *a)
{
    const int64_t S = gr->S, D = gr->cfg->head_dim, dv = ref_round_up(D, 16), up = ref_round_up(S, REF_BACK_QUERIES);
    const int64_t first = S / REF_PANEL * REF_PANEL * D;
    memset(a->q_panels + first, 0, (size_t)(up * D - first) * sizeof(real));
    memset(a->dy_panels + first, 0, (size_t)(up * D - first) * sizeof(real));
    for (int64_t t = S; t < up; t++) {
        a->max[t] = 0;
        a->sum[t] = 1;
    }
    real *const rows[] = {a->q_rows, a->dy_rows, a->k, a->v};
    for (int64_t t = 0; dv > D && t < S; t++)
        for (int i = 0; i < 4; i++)
            memset(rows[i] + t * dv + D, 0, (size_t)(dv - D) * sizeof(real));
}

/* The operands of sequence s and head h, as the forward pass made them. */
static void gather_head(const ref_graph *gr, int32_t layer, int64_t s, int64_t h, const head_arrays *a)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t S = gr->S, D = gr->cfg->head_dim, dv = ref_round_up(D, 16), Hq = gr->cfg->n_heads, H = gr->cfg->n_kv_heads;
    const int64_t j = h / (Hq / H);
    const real *q_gain = ref_weight(gr, KV_ROLE_Q_GAIN, layer), *k_gain = ref_weight(gr, KV_ROLE_K_GAIN, layer);
    clear_padding(gr, a);
    for (int64_t t = 0; t < S; t++) {
        const int64_t x = s * S + t;
        real *q = a->q_rows + t * dv, *dy = a->dy_rows + t * dv, *k = a->k + t * dv, *rotated = a->rotated + t * D;
        memcpy(rotated, L->qn + (x * Hq + h) * D, (size_t)D * sizeof *q);
        memcpy(k, L->kn + (x * H + j) * D, (size_t)D * sizeof *k);
        memcpy(dy, gr->work.dy + (x * Hq + h) * D, (size_t)D * sizeof *dy);
        memcpy(a->v + t * dv, L->v + (x * H + j) * D, (size_t)D * sizeof *k);
        REF(rope_row)(&gr->rope, &gr->table, t, rotated);
        REF(rope_row)(&gr->rope, &gr->table, t, k);
        if (k_gain) REF(scale)(k, k_gain[j], D, k);
        REF(scale)(rotated, q_gain ? q_gain[h] : 1, D, q);
        REF(scale)(q, gr->scale, D, q);
        to_panel(q, D, t, a->q_panels);
        to_panel(dy, D, t, a->dy_panels);
        for (int64_t d = 0; d < D; d++)
            a->k_cols[d * S + t] = k[d];
        a->max[t] = L->max[h * gr->T + x];
        a->sum[t] = L->sum[h * gr->T + x];
    }
}

/* Rotation by the opposite angle: the transpose of rope_row. */
static void rotate_back(const ref_graph *gr, int64_t t, real *row)
{
    const ref_rope *r = &gr->rope;
    for (int64_t i = 0; i < r->pairs; i++) {
        const int64_t ia = r->half ? i : 2 * i, ib = r->half ? i + r->pairs : 2 * i + 1;
        const real a = row[ia], b = row[ib], c = gr->table.cos[i * gr->table.stride + t], s = -gr->table.sin[i * gr->table.stride + t];
        row[ia] = r_fma(a, c, -(b * s));
        row[ib] = r_fma(b, c, a * s);
    }
}

/* From queries as attention read them back to the projection's output: gain, RoPE, norm. */
static void queries_back(const ref_graph *gr, int32_t layer, int64_t s, int64_t h, const head_arrays *a)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t S = gr->S, D = gr->cfg->head_dim, Hq = gr->cfg->n_heads;
    const real *gain = ref_weight(gr, KV_ROLE_Q_GAIN, layer);
    for (int64_t t = 0; t < S; t++) {
        const int64_t x = (s * S + t) * Hq + h;
        real *dq = a->dq + t * D;
        if (gain) {
            gr->work.rows_q[x] = gr->kernels->dot(dq, a->rotated + t * D, D);
            REF(scale)(dq, gain[h], D, dq);
        }
        rotate_back(gr, t, dq);
        gr->kernels->train->rms_back(dq, L->qn + x * D, L->rq[x], D, gr->work.dq + x * D);
    }
}

static void head_task(void *arg, int64_t task, int worker)
{
    const head_job *j = arg;
    const ref_graph *gr = j->gr;
    const int64_t Hq = gr->cfg->n_heads, s = task / Hq, h = task % Hq, dv = ref_round_up(gr->cfg->head_dim, 16);
    const int64_t at = (h * gr->T + s * gr->S) * dv;
    head_arrays a;
    set_arrays(gr, gr->scratch[worker].p, &a);
    gather_head(gr, j->layer, s, h, &a);
    const ref_attn_back_job job = {.n = gr->S, .head_dim = gr->cfg->head_dim, .q = a.q_panels, .dout = a.dy_panels,
                                   .q_rows = a.q_rows, .dout_rows = a.dy_rows, .k = a.k, .v = a.v, .k_cols = a.k_cols,
                                   .max = a.max, .sum = a.sum, .scale = gr->scale, .dq = a.dq,
                                   .dk = gr->work.dk_heads + at, .dv = gr->work.dv_heads + at, .scratch = a.scratch};
    gr->kernels->train->attn_back(&job);
    queries_back(gr, j->layer, s, h, &a);
}

/* ---- before the walk: what comes behind attention in the forward pass ------------------------------------------------ */

/* One KV head of a token: takes out of dy what lies along the value, and dvs gets the value's share. */
static void exclude_back(const ref_graph *gr, const real *y, const real *v, int64_t heads, real *dy, real *dvs)
{
    const int64_t D = gr->cfg->head_dim;
    real u[KV_MAX_HEAD_DIM], du[KV_MAX_HEAD_DIM];
    const real length = REF(unit)(gr->kernels, v, D, u), clamp = (real)1e-12;
    for (int64_t h = 0; h < heads; h++) {
        const real alpha = gr->kernels->dot(y + h * D, u, D), beta = gr->kernels->dot(dy + h * D, u, D);
        for (int64_t d = 0; d < D; d++) {
            const real share = alpha * dy[h * D + d] + beta * y[h * D + d];
            du[d] = h ? du[d] + share : share;
            dy[h * D + d] = dy[h * D + d] - beta * u[d];
        }
    }
    for (int64_t d = 0; d < D; d++)
        du[d] = -du[d];
    const real along = gr->kernels->dot(du, u, D);
    for (int64_t d = 0; d < D; d++)
        dvs[d] = (length > clamp ? du[d] - along * u[d] : du[d]) / length;
}

/* One KV head of a token: the value's share of local_v, and the sums along the rows for its mixes. */
static void local_back(const ref_graph *gr, const real *mix, const real *v, int64_t heads, const real *dy, real *dvs, real *sums)
{
    const int64_t D = gr->cfg->head_dim;
    for (int64_t h = 0; h < heads; h++) {
        sums[h] = gr->kernels->dot(dy + h * D, v, D);
        for (int64_t d = 0; d < D; d++) {
            const real share = mix[h] * dy[h * D + d];
            dvs[d] = h ? dvs[d] + share : share;
        }
    }
}

static void attended_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t D = gr->cfg->head_dim, Hq = gr->cfg->n_heads, H = gr->cfg->n_kv_heads, G = Hq / H;
    const real *mix = ref_weight(gr, KV_ROLE_LOCAL_V, layer);
    for (; x < end; x++)
        for (int64_t j = 0; j < H; j++) {
            real *dy = gr->work.dy + (x * Hq + j * G) * D, *dvs = gr->work.dvs + (x * H + j) * D;
            const real *v = L->v + (x * H + j) * D;
            if (L->y)
                exclude_back(gr, L->y + (x * Hq + j * G) * D, v, G, dy, dvs);
            else if (mix)
                local_back(gr, mix + j * G, v, G, dy, dvs, gr->work.rows_q + x * Hq + j * G);
        }
}

/* ---- behind the walk: keys and values --------------------------------------------------------------------------------- */

/* The heads of a group, ascending. */
static void sum_heads(const ref_graph *gr, const real *heads, int64_t x, int64_t j, real *out)
{
    const int64_t D = gr->cfg->head_dim, dv = ref_round_up(D, 16), G = gr->cfg->n_heads / gr->cfg->n_kv_heads;
    for (int64_t h = 0; h < G; h++) {
        const real *from = heads + ((j * G + h) * gr->T + x) * dv;
        for (int64_t d = 0; d < D; d++)
            out[d] = h ? out[d] + from[d] : from[d];
    }
}

/* dks, dvs: gradients behind the shift; rows_k: sums along the rows for the gains of keys. */
static void keys_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t D = gr->cfg->head_dim, H = gr->cfg->n_kv_heads;
    const real *gain = ref_weight(gr, KV_ROLE_K_GAIN, layer);
    const int has_own = L->y || ref_weight(gr, KV_ROLE_LOCAL_V, layer);
    real sum[KV_MAX_HEAD_DIM], rotated[KV_MAX_HEAD_DIM];
    for (; x < end; x++)
        for (int64_t j = 0; j < H; j++) {
            const int64_t at = x * H + j;
            real *dvs = gr->work.dvs + at * D;
            sum_heads(gr, gr->work.dv_heads, x, j, sum);
            for (int64_t d = 0; d < D; d++)
                dvs[d] = has_own ? dvs[d] + sum[d] : sum[d];
            sum_heads(gr, gr->work.dk_heads, x, j, sum);
            if (gain) {
                memcpy(rotated, L->kn + at * D, (size_t)D * sizeof *rotated);
                REF(rope_row)(&gr->rope, &gr->table, x % gr->S, rotated);
                gr->work.rows_k[at] = gr->kernels->dot(sum, rotated, D);
                REF(scale)(sum, gain[j], D, sum);
            }
            rotate_back(gr, x % gr->S, sum);
            gr->kernels->train->rms_back(sum, L->kn + at * D, L->rk[at], D, gr->work.dks + at * D);
        }
}

/* Through k + m * before: the row itself, and its share in the next row of the sequence. */
static void unshift_row(const ref_graph *gr, const real *mix, const real *raw, const real *ds, int64_t x, real *out, real *sums)
{
    const int64_t D = gr->cfg->head_dim, H = gr->cfg->n_kv_heads, kv = H * D;
    const int first = x % gr->S == 0, last = x % gr->S == gr->S - 1;
    for (int64_t j = 0; j < H; j++) {
        const real *own = ds + x * kv + j * D;
        sums[j] = first ? 0 : gr->kernels->dot(own, raw + (x - 1) * kv + j * D, D);
        for (int64_t d = 0; d < D; d++)
            out[x * kv + j * D + d] = last ? own[d] : own[d] + mix[j] * own[kv + d];
    }
}

static void unshift_keys(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    for (; x < end; x++)
        unshift_row(gr, ref_weight(gr, KV_ROLE_K_SHIFT, layer), gr->layers[layer].k_raw, gr->work.dks, x, gr->work.dk,
                    gr->work.rows_k + x * gr->cfg->n_kv_heads);
}

static void unshift_values(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    for (; x < end; x++)
        unshift_row(gr, ref_weight(gr, KV_ROLE_V_SHIFT, layer), gr->layers[layer].v_raw, gr->work.dvs, x, gr->work.dv,
                    gr->work.rows_k + x * gr->cfg->n_kv_heads);
}

static void row_gradient(const ref_graph *gr, const real *rows, kv_role role, int32_t layer)
{
    const ref_param *p = ref_param_of(gr->params, role, layer);
    if (p) REF(channel_gradient)(gr, rows, NULL, p->n, gr->g + p->at);
}

static void shifts_back(const ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const size_t bytes = (size_t)(gr->T * gr->cfg->n_kv_heads * gr->cfg->head_dim) * sizeof(real);
    if (L->k_raw) {
        REF(graph_rows)(gr, layer, unshift_keys);
        row_gradient(gr, gr->work.rows_k, KV_ROLE_K_SHIFT, layer);
    } else {
        memcpy(gr->work.dk, gr->work.dks, bytes);
    }
    if (L->v_raw) {
        REF(graph_rows)(gr, layer, unshift_values);
        row_gradient(gr, gr->work.rows_k, KV_ROLE_V_SHIFT, layer);
    } else {
        memcpy(gr->work.dv, gr->work.dvs, bytes);
    }
}

void REF(graph_attend_back)(ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const ref_param *local = ref_param_of(gr->params, KV_ROLE_LOCAL_V, layer);
    head_job j = {gr, layer};
    if (L->y || local) REF(graph_rows)(gr, layer, attended_back_rows);
    if (local && L->y)
        memset(gr->g + local->at, 0, (size_t)local->n * sizeof(real)); /* not used by such a layer */
    else
        row_gradient(gr, gr->work.rows_q, KV_ROLE_LOCAL_V, layer);
    kv_pool_run(gr->pool, gr->T / gr->S * gr->cfg->n_heads, head_task, &j);
    row_gradient(gr, gr->work.rows_q, KV_ROLE_Q_GAIN, layer);
    REF(graph_rows)(gr, layer, keys_back_rows);
    row_gradient(gr, gr->work.rows_k, KV_ROLE_K_GAIN, layer);
    shifts_back(gr, layer);
}
