/* forward.c - the Llama block for one piece of a step. Work is cut into tasks of a size that does
 * not depend on the number of threads, and every task calls a single-threaded OpenBLAS, so the bits
 * do not depend on it either. */
#include "gpu/blas/blas.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum { LOOP_ROWS = 16, HEAD_ROWS = 64, MIN_TILES = 4, TILE_COLS = 384 };

static int64_t blocks(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}
static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void blas_tap(const blas_piece_info *p, int point, int32_t layer, const float *rows, int64_t width,
              int64_t stride)
{
    for (int32_t i = 0; i < p->step->n_taps; i++) {
        const kv_tap *t = &p->step->taps[i];
        const int64_t x = t->row - p->row0;
        if (t->point == point && (layer < 0 || t->layer == layer) && x >= 0 && x < p->m)
            memcpy(t->dst, rows + x * stride, (size_t)width * sizeof *rows);
    }
}

/* ---- matrix products ------------------------------------------------------------------------ */

/* y[m][w->n] = x[m][w->k] * transpose of w */
typedef struct product {
    const float *x;
    const blas_matrix *w;
    float *y;
    int64_t m, cols; /* columns of a task */
} product;

static void product_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const product *p = arg;
    const int64_t K = p->w->k, first = task * p->cols, n = least(p->cols, p->w->n - first);
    const float *w = p->w->w + first * K;
    if (p->m == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)K, 1, w, (int)K, p->x, 1, 0,
                    p->y + first, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->m, (int)n, (int)K, 1, p->x,
                    (int)K, w, (int)K, 0, p->y + first, (int)p->w->n);
}

void blas_multiply(const blas_session *s, const float *x, int64_t m, const blas_matrix *w, float *y)
{
    const int64_t wide = blocks(w->n, TILE_COLS), tiles = wide > MIN_TILES ? wide : MIN_TILES;
    product p = {x, w, y, m, blocks(blocks(w->n, tiles), 8) * 8};
    kv_pool_run(s->pool, blocks(w->n, p.cols), product_task, &p);
}

/* ---- loops over rows ------------------------------------------------------------------------ */

typedef struct row_job {
    const blas_session *s;
    const float *x, *gain;
    float *y;
    int64_t m, width;
    float scale; /* of a norm's output */
} row_job;

static void norm_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    for (int64_t r = task * LOOP_ROWS; r < least((task + 1) * LOOP_ROWS, j->m); r++) {
        float *y = j->y + r * j->width;
        j->s->vec->rmsnorm(j->x + r * j->width, j->gain, j->width, j->s->model->cfg.norm_eps, y);
        for (int64_t i = 0; j->scale != 1.0f && i < j->width; i++)
            y[i] *= j->scale;
    }
}

static void add_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    const int64_t r = task * LOOP_ROWS, end = least(r + LOOP_ROWS, j->m);
    for (int64_t i = r * j->width; j->gain && i < end * j->width; i++)
        j->y[i] += j->gain[i % j->width] * j->x[i];
    if (j->gain) return;
    j->s->vec->add(j->y + r * j->width, j->x + r * j->width, least(LOOP_ROWS, j->m - r) * j->width);
}

static void swiglu_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    for (int64_t r = task * LOOP_ROWS; r < least((task + 1) * LOOP_ROWS, j->m); r++) {
        const float *gate = j->x + 2 * r * j->width;
        j->s->vec->swiglu(gate, gate + j->width, j->width, j->y + r * j->width);
    }
}

static void over_rows(const blas_session *s, kv_pool_fn *fn, row_job *j)
{
    kv_pool_run(s->pool, blocks(j->m, LOOP_ROWS), fn, j);
}

static void norm(const blas_session *s, const float *gain, float scale, int64_t m)
{
    row_job j = {s, s->work.x, gain, s->work.xn, m, s->model->cfg.d_model, scale};
    over_rows(s, norm_task, &j);
}

/* A block's output, in work.xn, comes to the stream; branch: scales of its channels, or NULL. */
static void add_residual(const blas_session *s, const float *branch, int64_t m)
{
    row_job j = {s, s->work.xn, branch, s->work.x, m, s->model->cfg.d_model, 1.0f};
    over_rows(s, add_task, &j);
}

static float norm_scale(const blas_session *s, int32_t layer)
{
    return s->model->cfg.ln_scale_inv_sqrt ? (float)(1.0 / sqrt(layer + 1.0)) : 1.0f;
}

/* ---- the block ------------------------------------------------------------------------------ */

/* Keys and values as attention reads them; under kvarn as they were before they were turned and coded. */
static void tap_own(const blas_session *s, const kv_tap *t, int64_t x)
{
    const blas_cache *c = &s->cache;
    const int64_t D = c->head_dim, H = c->n_kv_heads, Hq = s->model->cfg.n_heads;
    const float *k = s->work.qkv + x * s->weights->layers[0].qkv.n + Hq * D, *v = k + H * D;
    for (int64_t h = 0; h < H; h++) {
        const blas_view *view = &s->views[h / c->set_heads];
        const int64_t inner = h % c->set_heads, row = (view->n + x) * D;
        const int is_k = t->point == KV_TAP_K, turned = c->policy.storage == KV_STORE_KVARN;
        const float *read = is_k ? view->keys + inner * view->key_stride + row
                                 : view->values + inner * view->value_stride + row;
        if (!turned)
            memcpy(t->dst + h * D, read, (size_t)D * sizeof(float));
        else if (is_k)
            blas_turn_key(s, t->layer, h, view->base + x, k + h * D, t->dst + h * D);
        else
            memcpy(t->dst + h * D, v + h * D, (size_t)D * sizeof(float));
    }
}

static void tap_projections(const blas_session *s, const blas_piece_info *p, int32_t layer)
{
    const int64_t qw = s->model->cfg.n_heads * s->cache.head_dim;
    blas_tap(p, KV_TAP_Q, layer, s->work.qkv, qw, s->weights->layers[layer].qkv.n);
    for (int32_t i = 0; i < p->step->n_taps; i++) {
        const kv_tap *t = &p->step->taps[i];
        const int64_t x = t->row - p->row0;
        if ((t->point == KV_TAP_K || t->point == KV_TAP_V) && t->layer == layer && x >= 0 && x < p->m)
            tap_own(s, t, x);
    }
}

/* What leaves before the pass. */
static kv_status decide_before(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const blas_cache *c = &s->cache;
    for (int32_t g = 0; g < c->n_sets; g++) {
        blas_set *set = blas_set_at(c, layer, g);
        KV_TRY(blas_list_before(c, &set->index, &s->lists[layer * c->n_sets + g], p->first));
        blas_remove_dead(c, &set->index, set);
    }
    return KV_OK;
}

/* What enters and leaves after it. */
static kv_status decide_after(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const blas_cache *c = &s->cache;
    for (int32_t g = 0; g < c->n_sets; g++) {
        blas_set *set = blas_set_at(c, layer, g);
        blas_arrival a = {p->first, p->m, s->views[g].base, p->first + p->m - 1};
        if (c->policy.selection == KV_SEL_XWINDOW) {
            a = blas_window_arrival(s, layer, p->first, p->m);
            blas_window_record(s, layer, p, &a);
        }
        KV_TRY(blas_list_after(c, &set->index, &s->lists[layer * c->n_sets + g], &a));
        blas_remove_dead(c, &set->index, set);
    }
    if (c->policy.storage != KV_STORE_KIVI) return KV_OK;
    return blas_seal(s, layer, blas_set_at(c, layer, 0)->index.n, p->first + p->m);
}

static kv_status attention_block(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const blas_layer_weights *lw = &s->weights->layers[layer];
    const blas_work *w = &s->work;
    const int64_t d = s->model->cfg.d_model;
    KV_TRY(decide_before(s, layer, p));
    blas_golf_enter(s, layer, p);
    norm(s, lw->attn_norm, norm_scale(s, layer), p->m);
    blas_tap(p, KV_TAP_ATTN_NORM, layer, w->xn, d, d);
    blas_multiply(s, w->xn, p->m, &lw->qkv, w->qkv);
    blas_golf_projected(s, layer, p);
    KV_TRY(blas_place(s, layer, p));
    tap_projections(s, p, layer);
    KV_TRY(blas_attend(s, p->m));
    blas_golf_attended(s, layer, p);
    blas_tap(p, KV_TAP_ATTN, layer, w->att, lw->o.k, lw->o.k);
    blas_multiply(s, w->att, p->m, &lw->o, w->xn);
    add_residual(s, lw->attn_scale, p->m);
    blas_tap(p, KV_TAP_ATTN_RESID, layer, w->x, d, d);
    return decide_after(s, layer, p);
}

static void ffn_block(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const blas_layer_weights *lw = &s->weights->layers[layer];
    const blas_work *w = &s->work;
    const int64_t d = s->model->cfg.d_model, ffn = s->model->cfg.ffn_dim;
    norm(s, lw->ffn_norm, norm_scale(s, layer), p->m);
    blas_tap(p, KV_TAP_FFN_NORM, layer, w->xn, d, d);
    blas_multiply(s, w->xn, p->m, &lw->gate_up, w->gate_up);
    row_job j = {s, w->gate_up, NULL, w->act, p->m, ffn, 1.0f};
    if (s->model->cfg.ffn_kind == KV_FFN_SWIGLU)
        over_rows(s, swiglu_task, &j);
    else
        blas_golf_activate(s, p->m);
    blas_tap(p, KV_TAP_FFN_ACT, layer, w->act, ffn, ffn);
    blas_multiply(s, w->act, p->m, &lw->down, w->xn);
    add_residual(s, lw->ffn_scale, p->m);
    blas_golf_leave(s, layer, p);
    blas_tap(p, KV_TAP_RESID, layer, w->x, d, d);
}

/* ---- logits --------------------------------------------------------------------------------- */

typedef struct nll_job {
    const float *logits;
    const int32_t *targets;
    float *nll;
    int64_t vocab;
} nll_job;

float blas_nll(const float *x, int64_t vocab, int32_t target, float *max, double *sum)
{
    *max = x[0];
    for (int64_t v = 1; v < vocab; v++)
        *max = x[v] > *max ? x[v] : *max;
    *sum = 0;
    for (int64_t v = 0; v < vocab; v++)
        *sum += (double)expf(x[v] - *max);
    return (float)(log(*sum) - ((double)x[target] - (double)*max));
}

void blas_softcap(float *z, int64_t n, float cap)
{
    for (int64_t i = 0; i < n; i++)
        z[i] = cap * tanhf(z[i] / cap);
}

static void nll_task(void *arg, int64_t r, int worker)
{
    (void)worker;
    const nll_job *j = arg;
    float max;
    double sum;
    j->nll[r] = blas_nll(j->logits + r * j->vocab, j->vocab, j->targets[r], &max, &sum);
}

/* Rows from .. from + n - 1 of the normalised stream become results out .. of the step. */
static kv_status head_rows(blas_session *s, const kv_step *step, int64_t from, int64_t n,
                           int64_t out)
{
    const int64_t V = s->model->cfg.vocab_size;
    float *logits = step->logits ? step->logits + out * V : NULL;
    if (!logits) {
        KV_TRY(kv_buffer_reserve(&s->logits, (size_t)(n * V) * sizeof(float)));
        logits = s->logits.p;
    }
    blas_multiply(s, s->work.xn + from * s->model->cfg.d_model, n, &s->weights->head, logits);
    if (s->model->cfg.logit_softcap != 0.0f) blas_softcap(logits, n * V, s->model->cfg.logit_softcap);
    if (step->nll) {
        nll_job j = {logits, step->targets + out, step->nll + out, V};
        kv_pool_run(s->pool, n, nll_task, &j);
    }
    return KV_OK;
}

static kv_status head(blas_session *s, const blas_piece_info *p)
{
    const kv_step *step = p->step;
    const int64_t d = s->model->cfg.d_model;
    norm(s, s->weights->output_norm, 1.0f, p->m);
    blas_tap(p, KV_TAP_FINAL_NORM, -1, s->work.xn, d, d);
    if (step->rows == KV_ROWS_NONE || (!step->logits && !step->nll)) return KV_OK;
    if (step->rows == KV_ROWS_LAST)
        return p->row0 + p->m == step->n ? head_rows(s, step, p->m - 1, 1, 0) : KV_OK;
    for (int64_t x = 0; x < p->m; x += HEAD_ROWS)
        KV_TRY(head_rows(s, step, x, least(HEAD_ROWS, p->m - x), p->row0 + x));
    return KV_OK;
}

kv_status blas_forward(blas_session *s, const blas_piece_info *p)
{
    const kv_tensor *embedding = kv_model_tensor(s->model, KV_ROLE_TOKEN_EMBD, 0);
    const int64_t d = s->model->cfg.d_model;
    for (int64_t x = 0; x < p->m; x++)
        kv_tensor_rows_f32(embedding, p->step->tokens[p->row0 + x], 1, s->work.x + x * d);
    blas_golf_embed(s, p);
    blas_tap(p, KV_TAP_EMBED, -1, s->work.x, d, d);
    for (int32_t l = 0; l < s->model->cfg.n_layers; l++) {
        KV_TRY(attention_block(s, l, p));
        ffn_block(s, l, p);
    }
    return head(s, p);
}
