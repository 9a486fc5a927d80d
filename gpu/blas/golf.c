/* golf.c - where the golf family leaves the Llama block (docs/golf.md). Loops of a row each, in plain C. */
#include "gpu/blas/blas.h"

#include <math.h>
#include <string.h>

typedef void rows_fn(const blas_session *s, int32_t layer, int64_t x);

enum { LOOP_ROWS = 16 };

typedef struct rows_job {
    const blas_session *s;
    rows_fn *fn;
    int64_t m;
    int32_t layer;
} rows_job;

static void rows_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const rows_job *j = arg;
    for (int64_t x = task * LOOP_ROWS; x < (task + 1) * LOOP_ROWS && x < j->m; x++)
        j->fn(j->s, j->layer, x);
}

static void each_row(const blas_session *s, int64_t m, int32_t layer, rows_fn *fn)
{
    rows_job j = {s, fn, m, layer};
    kv_pool_run(s->pool, (m + LOOP_ROWS - 1) / LOOP_ROWS, rows_task, &j);
}

static const float *before(const blas_session *s, size_t part, int64_t at)
{
    return (const float *)(const void *)s->carry.before + part / sizeof(float) + at;
}

static int in_mask(uint64_t mask, int32_t layer) { return layer < 64 && (mask >> layer & 1); }

/* ---- before layer 0 ------------------------------------------------------------------------------------------ */

/* Row of the table for a pair of tokens; prev < 0: there is none before. */
static int64_t pair_row(const kv_config *cfg, int64_t prev, int64_t token)
{
    const int64_t last = (int64_t)cfg->bigram_rows - 1;
    return prev < 0 ? last : ((cfg->bigram_mul_cur * token) ^ (cfg->bigram_mul_prev * prev)) % last;
}

static void embed_row(const blas_session *s, int32_t layer, int64_t x)
{
    (void)layer;
    const kv_config *cfg = &s->model->cfg;
    const int64_t d = cfg->d_model;
    float *e = s->work.x + x * d, *n = s->work.xn + x * d;
    for (int64_t i = 0; cfg->bigram_rows && i < d; i++)
        e[i] += s->weights->bigram_scale[0] * n[i];
    if (cfg->embed_norm)
        s->vec->rmsnorm(e, NULL, d, cfg->norm_eps, n);
    else
        memcpy(n, e, (size_t)d * sizeof *n);
}

static void smear_row(const blas_session *s, int32_t layer, int64_t x)
{
    (void)layer;
    const kv_config *cfg = &s->model->cfg;
    const int64_t d = cfg->d_model;
    const float *n = s->work.xn + x * d, *prev = x ? n - d : before(s, s->carry.layout.norm, 0), *gate = s->weights->smear;
    float *out = s->work.x + x * d;
    for (int64_t i = 0; i < d; i++) {
        const float g = cfg->smear ? 1.0f / (1.0f + expf(-gate[i])) : 0.0f;
        out[i] = cfg->smear ? n[i] + g * (prev[i] - n[i]) : n[i];
    }
    if (cfg->resid_mix_x0) memcpy(s->work.x0 + x * d, out, (size_t)d * sizeof *out);
}

void blas_golf_embed(blas_session *s, const blas_piece_info *p)
{
    const kv_config *cfg = &s->model->cfg;
    const int32_t *tokens = p->step->tokens + p->row0;
    if (!cfg->bigram_rows && !cfg->embed_norm && !cfg->smear && !cfg->resid_mix_x0) return;
    int32_t ids[2] = {0, 0};
    if (s->carry.layout.bytes) memcpy(ids, s->carry.before, sizeof ids);
    for (int64_t x = 0; cfg->bigram_rows && x < p->m; x++) {
        const int64_t prev = x ? tokens[x - 1] : ids[0] ? ids[1] : -1;
        kv_tensor_rows_f32(kv_model_tensor(s->model, KV_ROLE_BIGRAM_EMBED, 0), pair_row(cfg, prev, tokens[x]), 1,
                           s->work.pairs + x * cfg->bigram_dim);
    }
    if (cfg->bigram_rows) blas_multiply(s, s->work.pairs, p->m, &s->weights->bigram_proj, s->work.xn);
    each_row(s, p->m, 0, embed_row);
    blas_carry_keep(&s->carry, s->carry.layout.norm, 0, cfg->d_model, s->work.xn, cfg->d_model);
    each_row(s, p->m, 0, smear_row);
}

/* ---- a layer ----------------------------------------------------------------------------------------------------- */

/* What a layer of the first half left for this one, or NULL. */
static const float *skip_for(const blas_session *s, int32_t layer, const float **weights)
{
    const kv_config *cfg = &s->model->cfg;
    const int64_t half = kv_config_skips(cfg), i = layer - half, d = cfg->d_model;
    if (i < 0 || i >= half) return NULL;
    *weights = s->weights->skips + i * d;
    return s->work.skips + (half - 1 - i) * s->work.m * d;
}

static void enter_row(const blas_session *s, int32_t layer, int64_t x)
{
    const int64_t d = s->model->cfg.d_model;
    const float *w = NULL, *skip = skip_for(s, layer, &w), *mix = s->weights->layers[layer].resid_mix;
    float *row = s->work.x + x * d;
    const float *x0 = s->work.x0 + x * d;
    for (int64_t i = 0; skip && i < d; i++)
        row[i] += w[i] * skip[x * d + i];
    for (int64_t i = 0; mix && i < d; i++)
        row[i] = mix[i] * row[i] + mix[d + i] * x0[i];
}

void blas_golf_enter(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    if (s->model->cfg.resid_mix_x0 || s->model->cfg.unet_skips) each_row(s, p->m, layer, enter_row);
}

static void keep_raw_row(const blas_session *s, int32_t layer, int64_t x)
{
    (void)layer;
    const int64_t n = 2 * (int64_t)s->cache.n_kv_heads * s->cache.head_dim, width = s->weights->layers[0].qkv.n;
    memcpy(s->work.raw + x * n, s->work.qkv + (x + 1) * width - n, (size_t)n * sizeof(float));
}

/* A row of K or V takes its share of the row before. */
static void shift(float *row, const float *raw, const float *mix, int64_t heads, int64_t D)
{
    for (int64_t i = 0; mix && i < heads * D; i++)
        row[i] += mix[i / D] * raw[i];
}

static void projected_row(const blas_session *s, int32_t layer, int64_t x)
{
    const kv_config *cfg = &s->model->cfg;
    const blas_layer_weights *lw = &s->weights->layers[layer];
    const int64_t D = cfg->head_dim, H = cfg->n_kv_heads, Hq = cfg->n_heads, n = H * D;
    float *q = s->work.qkv + x * lw->qkv.n, *k = q + Hq * D, *v = k + n;
    const float *raw = s->work.raw + (x - 1) * 2 * n;
    shift(k, x ? raw : before(s, s->carry.layout.k, layer * n), lw->k_shift, H, D);
    shift(v, x ? raw + n : before(s, s->carry.layout.v, layer * n), lw->v_shift, H, D);
    for (int64_t h = 0; cfg->qk_norm == KV_QK_NORM_RMS && h < Hq + H; h++)
        s->vec->rmsnorm(q + h * D, NULL, D, cfg->norm_eps, q + h * D);
}

void blas_golf_projected(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const kv_config *cfg = &s->model->cfg;
    const int64_t n = (int64_t)cfg->n_kv_heads * cfg->head_dim;
    if (!cfg->k_shift && !cfg->v_shift && cfg->qk_norm == KV_QK_NORM_NONE) return;
    each_row(s, p->m, layer, keep_raw_row);
    each_row(s, p->m, layer, projected_row);
    blas_carry_keep(&s->carry, s->carry.layout.k, layer, n, s->work.raw, 2 * n);
    blas_carry_keep(&s->carry, s->carry.layout.v, layer, n, s->work.raw + n, 2 * n);
}

static void attended_row(const blas_session *s, int32_t layer, int64_t x)
{
    const kv_config *cfg = &s->model->cfg;
    const blas_layer_weights *lw = &s->weights->layers[layer];
    const int64_t D = cfg->head_dim, Hq = cfg->n_heads, group = Hq / cfg->n_kv_heads;
    const int exclude = in_mask(cfg->xsa_layer_mask, layer);
    for (int64_t h = 0; h < Hq; h++) {
        float *y = s->work.att + (x * Hq + h) * D;
        const float *v = s->work.qkv + (x + 1) * lw->qkv.n - (cfg->n_kv_heads - h / group) * D;
        double along = 0, square = 0;
        for (int64_t d = 0; d < D; d++) {
            along += (double)y[d] * (double)v[d];
            square += (double)v[d] * (double)v[d];
        }
        const float share = exclude ? (float)(-along / fmax(square, 1e-24)) : lw->local_v[h];
        for (int64_t d = 0; d < D; d++)
            y[d] += share * v[d];
    }
}

void blas_golf_attended(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    if (s->model->cfg.local_v || in_mask(s->model->cfg.xsa_layer_mask, layer)) each_row(s, p->m, layer, attended_row);
}

void blas_squared_relu(const float *f, int64_t n, float slope, float *h)
{
    for (int64_t i = 0; i < n; i++) {
        const float r = f[i] < 0.0f ? slope * f[i] : f[i];
        h[i] = r * r;
    }
}

void blas_golf_activate(const blas_session *s, int64_t m)
{
    const kv_config *cfg = &s->model->cfg;
    const float slope = cfg->ffn_kind == KV_FFN_LEAKY_RELU2 ? cfg->leaky_slope : 0.0f;
    blas_squared_relu(s->work.gate_up, m * cfg->ffn_dim, slope, s->work.act);
}

/* ---- the sidecar --------------------------------------------------------------------------------------------------- */

static int32_t site_of(const kv_config *cfg, int32_t layer)
{
    return layer ? site_of(cfg, layer - 1) + in_mask(cfg->sidecar_layer_mask, layer - 1) : 0;
}

static void side_norm_row(const blas_session *s, int32_t layer, int64_t x)
{
    (void)layer;
    const int64_t d = s->model->cfg.d_model;
    s->vec->rmsnorm(s->work.x + x * d, NULL, d, s->model->cfg.norm_eps, s->work.xn + x * d);
}

/* The value row `back` tokens before row x. */
static const float *value_row(const blas_session *s, int32_t site, int64_t x, int64_t back)
{
    const int64_t n = s->model->cfg.sidecar_hidden;
    if (x >= back) return s->work.side_value + (x - back) * n;
    return blas_carry_conv(&s->carry, (const float *)(const void *)s->carry.before, site, back - x);
}

static void side_gate_row(const blas_session *s, int32_t layer, int64_t x)
{
    const int64_t n = s->model->cfg.sidecar_hidden;
    const int32_t site = site_of(&s->model->cfg, layer);
    const float *w0 = value_row(s, site, x, 0), *w1 = value_row(s, site, x, 1), *w2 = value_row(s, site, x, 2);
    const float *taps = s->weights->conv, *gate = s->weights->site_gate + site * n;
    float *z = s->work.side_gate + x * n;
    for (int64_t i = 0; i < n; i++) {
        const float c = taps[3 * i] * w2[i] + taps[3 * i + 1] * w1[i] + taps[3 * i + 2] * w0[i], g = z[i] + gate[i];
        z[i] = g * c / (1.0f + expf(-g));
    }
}

static void side_add_row(const blas_session *s, int32_t layer, int64_t x)
{
    const int64_t d = s->model->cfg.d_model;
    const float *scale = s->weights->side_scale + site_of(&s->model->cfg, layer) * d;
    for (int64_t i = 0; i < d; i++)
        s->work.x[x * d + i] += scale[i] * s->work.xn[x * d + i];
}

void blas_golf_leave(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const kv_config *cfg = &s->model->cfg;
    const blas_work *w = &s->work;
    if (in_mask(cfg->sidecar_layer_mask, layer)) {
        each_row(s, p->m, layer, side_norm_row);
        blas_multiply(s, w->xn, p->m, &s->weights->side_gate, w->side_gate);
        blas_multiply(s, w->xn, p->m, &s->weights->side_value, w->side_value);
        each_row(s, p->m, layer, side_gate_row);
        blas_carry_keep_conv(&s->carry, site_of(cfg, layer), w->side_value);
        blas_multiply(s, w->side_gate, p->m, &s->weights->side_proj, w->xn);
        each_row(s, p->m, layer, side_add_row);
    }
    if (layer < kv_config_skips(cfg))
        memcpy(w->skips + layer * w->m * cfg->d_model, w->x, (size_t)(p->m * cfg->d_model) * sizeof(float));
}
