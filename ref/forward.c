/* forward.c - the Llama block in the order of docs/numerics.md, for one piece of a step. */
#include "ref/session.h"

#include <string.h>
#include <time.h>

enum { GEMM_ROWS = 96, GEMM_PANELS = 16, HEAD_ROWS = 64, NORM_ROWS = 16 };

double REF(now)(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void REF(tap_rows)(const ref_piece *p, int point, int32_t layer, const real *rows, int64_t width)
{
    for (int32_t i = 0; i < p->step->n_taps; i++) {
        const kv_tap *t = &p->step->taps[i];
        const int64_t x = t->row - p->row0;
        if (t->point != point || (layer >= 0 && t->layer != layer) || x < 0 || x >= p->m) continue;
        for (int64_t d = 0; d < width; d++)
            t->dst[d] = (float)rows[x * width + d];
    }
}

/* ---- matrix products --------------------------------------------------------------------------- */

/* c[m][n] = x[m][k] times one packed matrix. */
typedef struct product {
    const ref_packed *w;
    real *c;
    int64_t strips, first; /* tasks of this product per row block, and before it */
} product;

/* Products that share their input: one run of the pool. */
typedef struct products {
    const ref_session *s;
    const real *x;
    int64_t m, strip_panels, n_strips; /* panels of a task; strips of all products */
    product p[3];
    int n;
} products;

static void product_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const products *g = arg;
    const int64_t row = task / g->n_strips * GEMM_ROWS, strip = task % g->n_strips;
    const product *p = g->p;
    while (strip >= p->first + p->strips)
        p++;
    const int64_t K = p->w->k, col = (strip - p->first) * g->strip_panels * REF_PANEL;
    const ref_gemm_job job = {.a = g->x + row * K, .lda = K, .m = ref_min(GEMM_ROWS, g->m - row), .k = K,
                              .panels = p->w->panels + col * K, .has_min = p->w->has_min,
                              .codes = p->w->codes ? p->w->codes + col / REF_PANEL * (K / 32) : NULL,
                              .n = ref_min(g->strip_panels * REF_PANEL, p->w->n - col),
                              .c = p->c + row * p->w->n + col, .ldc = p->w->n,
                              .cold = g->s->weights->arena_bytes > REF_CACHED_BYTES};
    g->s->kernels->gemm(&job);
}

/* Few rows: strips as wide as an even share of the threads allows, since every weight is read once.
 * Many rows: strips whose weights stay in the second-level cache. */
static int64_t strip_panels(const products *g)
{
    const int threads = kv_pool_threads(g->s->pool);
    if (g->m > GEMM_ROWS / 2) return GEMM_PANELS;
    const int64_t panels = (g->p[0].w->n + REF_PANEL - 1) / REF_PANEL;
    return threads == 1 ? panels : ref_round_up((panels + 4 * threads - 1) / (4 * threads), 4);
}

static void multiply(products *g)
{
    g->strip_panels = strip_panels(g);
    for (int i = 0; i < g->n; i++) {
        const int64_t panels = (g->p[i].w->n + REF_PANEL - 1) / REF_PANEL;
        g->p[i].first = g->n_strips;
        g->p[i].strips = (panels + g->strip_panels - 1) / g->strip_panels;
        g->n_strips += g->p[i].strips;
    }
    kv_pool_run(g->s->pool, (g->m + GEMM_ROWS - 1) / GEMM_ROWS * g->n_strips, product_task, g);
}

static void multiply_one(const ref_session *s, const real *x, int64_t m, const ref_packed *w, real *c)
{
    products g = {.s = s, .x = x, .m = m, .p = {{.w = w, .c = c}}, .n = 1};
    multiply(&g);
}

/* ---- loops over rows ------------------------------------------------------------------------------ */

typedef struct row_job {
    const ref_session *s;
    const float *gain;
    const real *a;
    real *b, *c;
    int64_t m, width;
} row_job;

static void norm_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    const int64_t end = ref_min((task + 1) * NORM_ROWS, j->m);
    for (int64_t x = task * NORM_ROWS; x < end; x++)
        j->s->kernels->rmsnorm(j->a + x * j->width, j->gain, j->width, (real)j->s->model->cfg.norm_eps,
                               j->b + x * j->width);
}

static void swiglu_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    const int64_t x = task * NORM_ROWS, n = ref_min(NORM_ROWS, j->m - x);
    j->s->kernels->swiglu(j->a + x * j->width, j->c + x * j->width, n * j->width, j->b + x * j->width);
}

static void add_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    const int64_t x = task * NORM_ROWS, n = ref_min(NORM_ROWS, j->m - x);
    j->s->kernels->add(j->b + x * j->width, j->a + x * j->width, n * j->width);
}

static void over_rows(row_job *j, kv_pool_fn *fn)
{
    kv_pool_run(j->s->pool, (j->m + NORM_ROWS - 1) / NORM_ROWS, fn, j);
}

static void norm(const ref_session *s, const real *x, const float *gain, int64_t m, real *y)
{
    row_job j = {.s = s, .gain = gain, .a = x, .b = y, .m = m, .width = s->model->cfg.d_model};
    over_rows(&j, norm_task);
}

static void add_residual(const ref_session *s, const real *y, int64_t m, real *x)
{
    row_job j = {.s = s, .a = y, .b = x, .m = m, .width = s->model->cfg.d_model};
    over_rows(&j, add_task);
}

/* ---- the block ------------------------------------------------------------------------------------- */

static kv_status attention_block(ref_session *s, int32_t layer, const ref_piece *p)
{
    const ref_layer_weights *lw = &s->weights->layers[layer];
    const ref_work *w = &s->work;
    const int64_t base = s->cache.ops->begin(&s->cache, layer, p->m);
    double t = REF(now)();
    norm(s, w->x, lw->attn_norm, p->m, w->xn);
    REF(tap_rows)(p, KV_TAP_ATTN_NORM, layer, w->xn, s->model->cfg.d_model);
    s->seconds[REF_OP_OTHER] += REF(now)() - t;
    t = REF(now)();
    products qkv = {.s = s, .x = w->xn, .m = p->m, .n = 3,
                    .p = {{.w = &lw->q, .c = w->q}, {.w = &lw->k, .c = w->k}, {.w = &lw->v, .c = w->v}}};
    multiply(&qkv);
    s->seconds[REF_OP_MATMUL] += REF(now)() - t;
    KV_TRY(REF(attend)(s, layer, p, base));
    REF(tap_rows)(p, KV_TAP_ATTN, layer, w->att, lw->o.k);
    t = REF(now)();
    multiply_one(s, w->att, p->m, &lw->o, w->xn);
    s->seconds[REF_OP_MATMUL] += REF(now)() - t;
    add_residual(s, w->xn, p->m, w->x);
    REF(tap_rows)(p, KV_TAP_ATTN_RESID, layer, w->x, s->model->cfg.d_model);
    return KV_OK;
}

static void ffn_block(ref_session *s, int32_t layer, const ref_piece *p)
{
    const ref_layer_weights *lw = &s->weights->layers[layer];
    const ref_work *w = &s->work;
    const double t0 = REF(now)();
    norm(s, w->x, lw->ffn_norm, p->m, w->xn);
    REF(tap_rows)(p, KV_TAP_FFN_NORM, layer, w->xn, s->model->cfg.d_model);
    const double t1 = REF(now)();
    products up = {.s = s, .x = w->xn, .m = p->m, .n = 2,
                   .p = {{.w = &lw->gate, .c = w->gate}, {.w = &lw->up, .c = w->up}}};
    multiply(&up);
    const double t2 = REF(now)();
    row_job act = {.s = s, .a = w->gate, .c = w->up, .b = w->gate, .m = p->m,
                   .width = s->model->cfg.ffn_dim};
    over_rows(&act, swiglu_task);
    REF(tap_rows)(p, KV_TAP_FFN_ACT, layer, w->gate, act.width);
    const double t3 = REF(now)();
    multiply_one(s, w->gate, p->m, &lw->down, w->xn);
    const double t4 = REF(now)();
    add_residual(s, w->xn, p->m, w->x);
    REF(tap_rows)(p, KV_TAP_RESID, layer, w->x, s->model->cfg.d_model);
    s->seconds[REF_OP_MATMUL] += (t2 - t1) + (t4 - t3);
    s->seconds[REF_OP_OTHER] += (t1 - t0) + (t3 - t2) + (REF(now)() - t4);
}

static void embed(ref_session *s, const ref_piece *p)
{
    const kv_tensor *t = kv_model_tensor(s->model, KV_ROLE_TOKEN_EMBD, 0);
    const int64_t d = s->model->cfg.d_model;
    float *row = s->embed_row.p;
    for (int64_t x = 0; x < p->m; x++) {
        kv_tensor_rows_f32(t, p->tokens[x], 1, row);
        for (int64_t i = 0; i < d; i++)
            s->work.x[x * d + i] = (real)row[i];
    }
    REF(tap_rows)(p, KV_TAP_EMBED, -1, s->work.x, d);
}

/* ---- logits ------------------------------------------------------------------------------------------- */

/* Rows of logits and where they go: out row r of the step. */
typedef struct nll_job {
    const ref_session *s;
    const real *logits;
    const int32_t *targets;
    float *nll;
} nll_job;

static void nll_task(void *arg, int64_t r, int worker)
{
    (void)worker;
    const nll_job *j = arg;
    const int64_t V = j->s->model->cfg.vocab_size;
    j->nll[r] = (float)j->s->kernels->nll(j->logits + r * V, V, j->targets[r]);
}

/* Rows from..from+n-1 of the normalised stream become rows out.. of the step's results. */
static kv_status head_rows(ref_session *s, const kv_step *step, int64_t from, int64_t n, int64_t out)
{
    const int64_t V = s->model->cfg.vocab_size, d = s->model->cfg.d_model;
    real *logits = REF_BITS == 32 && step->logits ? (real *)(void *)(step->logits + out * V) : NULL;
    if (!logits) {
        KV_TRY(kv_buffer_reserve(&s->head_out, (size_t)(HEAD_ROWS * V) * sizeof(real)));
        logits = s->head_out.p;
    }
    const double t = REF(now)();
    multiply_one(s, s->work.xn + from * d, n, &s->weights->head, logits);
    if (step->nll) {
        nll_job j = {s, logits, step->targets + out, step->nll + out};
        kv_pool_run(s->pool, n, nll_task, &j);
    }
    if (step->logits && (void *)logits == s->head_out.p)
        for (int64_t i = 0; i < n * V; i++)
            step->logits[out * V + i] = (float)logits[i];
    s->seconds[REF_OP_HEAD] += REF(now)() - t;
    return KV_OK;
}

static kv_status head(ref_session *s, const ref_piece *p)
{
    const kv_step *step = p->step;
    const int64_t d = s->model->cfg.d_model;
    norm(s, s->work.x, s->weights->output_norm, p->m, s->work.xn);
    REF(tap_rows)(p, KV_TAP_FINAL_NORM, -1, s->work.xn, d);
    if (step->rows == KV_ROWS_NONE || (!step->logits && !step->nll)) return KV_OK;
    if (step->rows == KV_ROWS_LAST)
        return p->row0 + p->m == step->n ? head_rows(s, step, p->m - 1, 1, 0) : KV_OK;
    for (int64_t x = 0; x < p->m; x += HEAD_ROWS)
        KV_TRY(head_rows(s, step, x, ref_min(HEAD_ROWS, p->m - x), p->row0 + x));
    return KV_OK;
}

kv_status REF(forward)(ref_session *s, const ref_piece *p)
{
    embed(s, p);
    for (int32_t l = 0; l < s->model->cfg.n_layers; l++) {
        KV_TRY(attention_block(s, l, p));
        ffn_block(s, l, p);
    }
    return head(s, p);
}
