/* forward.c - the Llama block in the order of docs/numerics.md, for one piece of a step. Where the golf family differs
 * it says so by what the config leaves on; golf_forward.c has its parts. */
#include "ref/golf.h"
#include "ref/golf_forward.h"
#include "ref/hooked.h"

#include <string.h>
#include <time.h>

enum { HEAD_ROWS = 64, TASK_ROWS = 16 };

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

/* ---- products and loops over rows ------------------------------------------------------------------- */

void REF(multiply_all)(const ref_session *s, const real *x, int64_t m, const ref_product p[3])
{
    ref_products g = {.kernels = s->kernels, .pool = s->pool, .cold = s->weights->arena_bytes > REF_CACHED_BYTES,
                      .x = x, .m = m};
    for (int i = 0; i < 3; i++)
        if (p[i].w && p[i].w->n && !REF(hooked_multiply)(s, x, m, p[i].w, p[i].c)) g.p[g.n++] = p[i];
    if (g.n) REF(multiply)(&g);
}

static void multiply_one(const ref_session *s, const real *x, int64_t m, const ref_packed *w, real *c)
{
    const ref_product p[3] = {{.w = w, .c = c}};
    REF(multiply_all)(s, x, m, p);
}

typedef struct row_job {
    const ref_session *s;
    int64_t m;
    int32_t layer;
    ref_rows_fn *fn;
} row_job;

static void row_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    j->fn(j->s, j->layer, task * TASK_ROWS, ref_min((task + 1) * TASK_ROWS, j->m));
}

void REF(over_rows)(const ref_session *s, int64_t m, int32_t layer, ref_rows_fn *fn)
{
    row_job j = {s, m, layer, fn};
    kv_pool_run(s->pool, (m + TASK_ROWS - 1) / TASK_ROWS, row_task, &j);
}

static void norm_rows(const ref_session *s, const float *gain, real scale, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const int64_t d = s->model->cfg.d_model;
    for (; x < end; x++) {
        real *y = w->xn + x * d;
        s->kernels->rmsnorm(w->x + x * d, gain, d, (real)s->model->cfg.norm_eps, y);
        if (scale != 1) REF(scale)(y, scale, d, y);
    }
}

/* The norm of a whole piece: fn's rows, unless somebody else computes them. */
static void norm_piece(const ref_session *s, int64_t m, int32_t layer, ref_rows_fn *fn, const float *gain, real scale)
{
    if (!REF(hooked_norm)(s, m, gain, scale)) REF(over_rows)(s, m, layer, fn);
}

static void attn_norm_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    norm_rows(s, s->weights->layers[layer].attn_norm, ref_ln_scale(&s->model->cfg, layer), x, end);
}

static void ffn_norm_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    norm_rows(s, s->weights->layers[layer].ffn_norm, ref_ln_scale(&s->model->cfg, layer), x, end);
}

static void output_norm_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    norm_rows(s, s->weights->output_norm, 1, x, end);
}

static void activation_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const int64_t at = x * cfg->ffn_dim, n = (end - x) * cfg->ffn_dim;
    if (cfg->ffn_kind == KV_FFN_SWIGLU)
        s->kernels->swiglu(w->gate + at, w->up + at, n, w->gate + at);
    else
        REF(square_relu)(cfg, w->up + at, n, w->gate + at);
}

/* A block's output comes to the stream. */
static void residual_rows(const ref_session *s, const real *branch_scale, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const int64_t d = s->model->cfg.d_model;
    if (!branch_scale) s->kernels->add(w->x + x * d, w->xn + x * d, (end - x) * d);
    for (; branch_scale && x < end; x++)
        REF(add_weighted)(w->x + x * d, branch_scale, w->xn + x * d, d, w->x + x * d);
}

static void attn_residual_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    residual_rows(s, s->golf.layers[layer].attn_scale, x, end);
}

static void ffn_residual_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    residual_rows(s, s->golf.layers[layer].ffn_scale, x, end);
}

/* ---- the block ------------------------------------------------------------------------------------- */

static void project(ref_session *s, int32_t layer, const ref_piece *p)
{
    const ref_layer_weights *lw = &s->weights->layers[layer];
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const double t = REF(now)();
    const ref_product qkv[3] = {{.w = &lw->q, .c = w->q},
                                {.w = &lw->k, .c = cfg->k_shift ? w->k_raw : w->k},
                                {.w = &lw->v, .c = cfg->v_shift ? w->v_raw : w->v}};
    REF(multiply_all)(s, w->xn, p->m, qkv);
    s->seconds[REF_OP_MATMUL] += REF(now)() - t;
}

static kv_status attention_block(ref_session *s, int32_t layer, const ref_piece *p)
{
    const ref_layer_weights *lw = &s->weights->layers[layer];
    const ref_work *w = &s->work;
    const int64_t base = s->cache.ops->begin(&s->cache, layer, p->m);
    double t = REF(now)();
    REF(golf_enter)(s, layer, p);
    norm_piece(s, p->m, layer, attn_norm_rows, lw->attn_norm, ref_ln_scale(&s->model->cfg, layer));
    REF(tap_rows)(p, KV_TAP_ATTN_NORM, layer, w->xn, s->model->cfg.d_model);
    s->seconds[REF_OP_OTHER] += REF(now)() - t;
    project(s, layer, p);
    REF(golf_projected)(s, layer, p);
    KV_TRY(REF(attend)(s, layer, p, base));
    REF(golf_attended)(s, layer, p);
    REF(tap_rows)(p, KV_TAP_ATTN, layer, w->att, lw->o.k);
    t = REF(now)();
    multiply_one(s, w->att, p->m, &lw->o, w->xn);
    s->seconds[REF_OP_MATMUL] += REF(now)() - t;
    REF(over_rows)(s, p->m, layer, attn_residual_rows);
    REF(tap_rows)(p, KV_TAP_ATTN_RESID, layer, w->x, s->model->cfg.d_model);
    return KV_OK;
}

static void ffn_block(ref_session *s, int32_t layer, const ref_piece *p)
{
    const ref_layer_weights *lw = &s->weights->layers[layer];
    const ref_work *w = &s->work;
    const double t0 = REF(now)();
    norm_piece(s, p->m, layer, ffn_norm_rows, lw->ffn_norm, ref_ln_scale(&s->model->cfg, layer));
    REF(tap_rows)(p, KV_TAP_FFN_NORM, layer, w->xn, s->model->cfg.d_model);
    const double t1 = REF(now)();
    const ref_product up[3] = {{.w = &lw->gate, .c = w->gate}, {.w = &lw->up, .c = w->up}};
    REF(multiply_all)(s, w->xn, p->m, up);
    const double t2 = REF(now)();
    REF(over_rows)(s, p->m, layer, activation_rows);
    REF(tap_rows)(p, KV_TAP_FFN_ACT, layer, w->gate, s->model->cfg.ffn_dim);
    const double t3 = REF(now)();
    multiply_one(s, w->gate, p->m, &lw->down, w->xn);
    const double t4 = REF(now)();
    REF(over_rows)(s, p->m, layer, ffn_residual_rows);
    REF(golf_leave)(s, layer, p);
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
    REF(golf_embed)(s, p);
    REF(tap_rows)(p, KV_TAP_EMBED, -1, s->work.x, d);
}

/* ---- logits ------------------------------------------------------------------------------------------- */

/* Rows of logits and where they go: out row r of the step. */
typedef struct nll_job {
    const ref_session *s;
    real *logits;
    const int32_t *targets;
    float *nll;
} nll_job;

static void cap_task(void *arg, int64_t r, int worker)
{
    (void)worker;
    const nll_job *j = arg;
    const kv_config *cfg = &j->s->model->cfg;
    REF(softcap)(j->logits + r * cfg->vocab_size, (real)cfg->logit_softcap, cfg->vocab_size);
}

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
    nll_job j = {s, logits, step->nll ? step->targets + out : NULL, step->nll ? step->nll + out : NULL};
    if (s->model->cfg.logit_softcap != 0) kv_pool_run(s->pool, n, cap_task, &j);
    if (step->nll) kv_pool_run(s->pool, n, nll_task, &j);
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
    norm_piece(s, p->m, 0, output_norm_rows, s->weights->output_norm, 1);
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
        REF(hooked_at)(s, l);
        KV_TRY(attention_block(s, l, p));
        ffn_block(s, l, p);
    }
    REF(hooked_at)(s, -1);
    KV_TRY(head(s, p));
    return REF(hooked_status)(s);
}
