#include "ref/train/graph.h"

#include "ref/train/optim.h"

#include <stdlib.h>

enum { TASK_ROWS = 16 };

/* ---- memory: laid out twice, first to count, then to point ------------------------------------------------- */

typedef struct arena {
    real *base; /* NULL: only counts */
    int64_t n;
} arena;

static real *take(arena *a, int64_t n)
{
    if (n == 0) return NULL;
    real *p = a->base ? a->base + a->n : NULL;
    a->n += ref_round_up(n, 16);
    return p;
}

static void lay_out_layer(ref_graph *gr, arena *a, int32_t l)
{
    const kv_config *c = gr->cfg;
    const int64_t T = gr->T, d = c->d_model, D = c->head_dim, q = c->n_heads * D, kv = c->n_kv_heads * D;
    const int64_t n = ref_layer_in(c->sidecar_layer_mask, l) ? c->sidecar_hidden : 0, side = n ? d : 0;
    const int64_t scales = c->branch_scales ? d : 0;
    gr->layers[l] = (ref_graph_layer){
        .xin = take(a, T * d), .n1 = take(a, T * d), .r1 = take(a, T),
        .k_raw = take(a, c->k_shift ? T * kv : 0), .v_raw = take(a, c->v_shift ? T * kv : 0),
        .qn = take(a, T * q), .rq = take(a, T * c->n_heads), .kn = take(a, T * kv), .rk = take(a, T * c->n_kv_heads),
        .v = take(a, T * kv), .max = take(a, T * c->n_heads), .sum = take(a, T * c->n_heads),
        .y = take(a, ref_layer_in(c->xsa_layer_mask, l) ? T * q : 0), .att = take(a, T * q), .ao = take(a, T * scales),
        .n2 = take(a, T * d), .r2 = take(a, T), .f = take(a, T * c->ffn_dim), .mo = take(a, T * scales),
        .n3 = take(a, T * side), .r3 = take(a, n ? T : 0), .z = take(a, T * n), .val = take(a, T * n),
        .conv = take(a, T * n), .so = take(a, T * side), .xo = take(a, l < kv_config_skips(c) ? T * d : 0),
    };
}

static int is_matrix(const ref_graph *gr, const ref_param *p)
{
    if (p->role == ref_head_role(gr->cfg)) return 1;
    return p->group == KV_GOLF_MUON && p->role != KV_ROLE_SIDECAR_SITE_GATE;
}

/* The largest number of rows and of columns among matrices, and the largest matrix of the sidecar. */
static void extents(const ref_graph *gr, int64_t *rows, int64_t *cols, int64_t *side)
{
    *rows = *cols = *side = 0;
    for (int32_t i = 0; i < gr->params->n; i++) {
        const ref_param *p = &gr->params->p[i];
        if (!is_matrix(gr, p)) continue;
        *rows = ref_max(*rows, p->rows);
        *cols = ref_max(*cols, p->cols);
        if (p->role == KV_ROLE_SIDECAR_GATE || p->role == KV_ROLE_SIDECAR_VALUE || p->role == KV_ROLE_SIDECAR_PROJ)
            *side = ref_max(*side, p->n);
    }
    if (*side) *side = ref_max(*side, 4 * gr->cfg->sidecar_hidden); /* the taps, and one of them */
}

static void lay_out_work(ref_graph *gr, arena *a)
{
    const kv_config *c = gr->cfg;
    const int64_t T = gr->T, S = gr->S, d = c->d_model, D = c->head_dim, q = c->n_heads * D, kv = c->n_kv_heads * D;
    const int64_t dv = ref_round_up(D, 16), n = kv_config_sites(c) ? c->sidecar_hidden : 0;
    int64_t rows, cols, side;
    extents(gr, &rows, &cols, &side);
    gr->work = (ref_graph_work){
        .x = take(a, T * d), .h = take(a, T * d), .out = take(a, T * d), .qs = take(a, T * q),
        .k_panels = take(a, T / S * kv * ref_round_up(S, REF_PANEL)), .v_rows = take(a, T * c->n_kv_heads * dv),
        .act = take(a, T * c->ffn_dim), .side = take(a, T * n), .dx = take(a, T * d), .dx0 = take(a, T * d),
        .dskip = take(a, kv_config_skips(c) * T * d), .db = take(a, T * d), .dh = take(a, T * d),
        .dact = take(a, T * c->ffn_dim), .dy = take(a, T * q), .dq = take(a, T * q), .dk = take(a, T * kv), .dv = take(a, T * kv),
        .dk_heads = take(a, c->n_heads * T * dv), .dv_heads = take(a, c->n_heads * T * dv), .dvs = take(a, T * kv),
        .dks = take(a, T * kv), .rows_q = take(a, T * c->n_heads), .rows_k = take(a, T * c->n_heads),
        .rows_a = take(a, T * d), .rows_b = take(a, T * d), .dside = take(a, T * n), .dconv = take(a, T * n),
        .dval = take(a, T * n), .transposed = take(a, ref_round_up(rows, 16) * (T + 16)), .panels = take(a, ref_pack_size(cols, T)),
        .table = take(a, (int64_t)c->vocab_size * d), .gradient = take(a, side),
    };
}

static void lay_out(ref_graph *gr, arena *a)
{
    const kv_config *c = gr->cfg;
    const int64_t T = gr->T, d = c->d_model;
    for (int32_t i = 0; i < gr->params->n; i++) {
        const ref_param *p = &gr->params->p[i];
        const int m = is_matrix(gr, p);
        gr->forward[i] = take(a, m ? ref_pack_size(p->rows, p->cols) : 0);
        gr->back[i] = take(a, m ? ref_pack_size(p->cols, p->rows) : 0);
    }
    for (int32_t l = 0; l < c->n_layers; l++)
        lay_out_layer(gr, a, l);
    lay_out_work(gr, a);
    gr->pair_rows = take(a, c->bigram_rows ? T * c->bigram_dim : 0);
    gr->pair_out = take(a, c->bigram_rows ? T * d : 0);
    gr->n0 = take(a, T * d);
    gr->r0 = take(a, T);
    gr->x0 = take(a, T * d);
    gr->gate = take(a, c->smear ? d : 0);
    gr->rest = take(a, c->smear ? d : 0);
    gr->fx = take(a, T * d);
    gr->rf = take(a, T);
    gr->dz = take(a, T * c->vocab_size);
    gr->nll = take(a, T);
    gr->zeros = take(a, ref_max(d, ref_max((int64_t)c->n_kv_heads * c->head_dim, c->sidecar_hidden)));
}

static int64_t scratch_reals(const ref_graph *gr)
{
    int64_t need = ref_max(REF(attend_scratch)(gr), 2 * ref_round_up(gr->cfg->vocab_size, 16));
    for (int32_t i = 0; i < gr->params->n; i++)
        need = ref_max(need, gr->params->p[i].n); /* a matrix rounded to int6 */
    return need;
}

static kv_status allocate(ref_graph *gr)
{
    arena a = {0};
    lay_out(gr, &a);
    gr->memory_bytes = (size_t)a.n * sizeof(real);
    gr->memory = kv_big_alloc(gr->memory_bytes);
    if (!gr->memory)
        return kv_fail(KV_ERR_NOMEM, "training: out of memory, %zu MiB for a batch of %lld tokens; lower batch_tokens",
                       gr->memory_bytes >> 20, (long long)gr->T);
    a = (arena){.base = gr->memory};
    lay_out(gr, &a);
    for (int i = 0; i < kv_pool_threads(gr->pool); i++)
        KV_TRY(kv_buffer_reserve(&gr->scratch[i], (size_t)scratch_reals(gr) * sizeof(real)));
    return REF(rope_table_fill)(&gr->rope, &gr->table, 0, gr->S);
}

kv_status REF(graph_open)(ref_graph *gr, const ref_params *params, const ref_kernels *kernels, kv_pool *pool, int64_t S,
                          int64_t sequences, const real *w, real *g)
{
    const kv_config *c = &params->cfg;
    *gr = (ref_graph){.params = params, .cfg = c, .kernels = kernels, .pool = pool, .S = S, .T = S * sequences, .w = w, .g = g,
                      .scale = c->softmax_scale != 0 ? (real)c->softmax_scale : (real)(1.0 / kv_dsqrt((double)c->head_dim))};
    const double base = REF(rope_base)(c, c->rope_base_len ? c->rope_base_len : S);
    REF(rope_init)(&gr->rope, c, base);
    gr->forward = calloc((size_t)params->n, sizeof *gr->forward);
    gr->back = calloc((size_t)params->n, sizeof *gr->back);
    gr->layers = calloc((size_t)c->n_layers, sizeof *gr->layers);
    gr->scratch = calloc((size_t)kv_pool_threads(pool), sizeof *gr->scratch);
    kv_status st = KV_OK;
    if (!gr->forward || !gr->back || !gr->layers || !gr->scratch) st = kv_fail(KV_ERR_NOMEM, "training: out of memory");
    if (st == KV_OK) st = allocate(gr);
    if (st != KV_OK) REF(graph_close)(gr);
    return st;
}

void REF(graph_close)(ref_graph *gr)
{
    for (int i = 0; gr->scratch && i < kv_pool_threads(gr->pool); i++)
        kv_buffer_free(&gr->scratch[i]);
    REF(rope_table_free)(&gr->table);
    kv_big_free(gr->memory, gr->memory_bytes);
    free(gr->forward);
    free(gr->back);
    free(gr->layers);
    free(gr->scratch);
    *gr = (ref_graph){0};
}

/* ---- rows --------------------------------------------------------------------------------------------------------- */

typedef struct rows_job {
    const ref_graph *gr;
    int32_t layer;
    ref_graph_rows_fn *fn;
} rows_job;

static void rows_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const rows_job *j = arg;
    j->fn(j->gr, j->layer, task * TASK_ROWS, ref_min((task + 1) * TASK_ROWS, j->gr->T));
}

void REF(graph_rows)(const ref_graph *gr, int32_t layer, ref_graph_rows_fn *fn)
{
    rows_job j = {gr, layer, fn};
    kv_pool_run(gr->pool, (gr->T + TASK_ROWS - 1) / TASK_ROWS, rows_task, &j);
}

real REF(norm_row)(const ref_graph *gr, const real *x, int64_t n, real *y)
{
    const real r = 1 / r_sqrt(gr->kernels->dot(x, x, n) / (real)n + (real)gr->cfg->norm_eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * r;
    return r;
}

/* ---- weights -------------------------------------------------------------------------------------------------------- */

static void pack_task(void *arg, int64_t i, int worker)
{
    const ref_graph *gr = arg;
    const ref_param *p = &gr->params->p[i];
    const real *w = gr->w + p->at;
    if (!gr->forward[i]) return;
    if (gr->round_matrices && p->group == KV_GOLF_MUON) {
        REF(fake_int6)(w, p->rows, p->cols, gr->scratch[worker].p);
        w = gr->scratch[worker].p;
    }
    REF(pack_rows)(w, p->cols, p->rows, p->cols, 0, (p->rows + REF_PANEL - 1) / REF_PANEL, gr->forward[i]);
    REF(pack_cols)(w, p->cols, p->cols, p->rows, 0, (p->cols + REF_PANEL - 1) / REF_PANEL, gr->back[i]);
}

static void run_forward(ref_graph *gr, const int32_t *tokens, const int32_t *targets)
{
    gr->tokens = tokens;
    gr->targets = targets;
    kv_pool_run(gr->pool, gr->params->n, pack_task, gr);
    REF(graph_embed)(gr);
    REF(graph_forward)(gr);
}

kv_status REF(graph_loss)(ref_graph *gr, const int32_t *tokens, const int32_t *targets, double *loss)
{
    run_forward(gr, tokens, targets);
    return REF(graph_head)(gr, 0, loss);
}

kv_status REF(graph_gradients)(ref_graph *gr, const int32_t *tokens, const int32_t *targets, double *loss)
{
    run_forward(gr, tokens, targets);
    KV_TRY(REF(graph_head)(gr, 1, loss));
    REF(graph_backward)(gr);
    return KV_OK;
}
