#include "ref/golf_forward.h"

#include "ref/golf.h"

#include <stdlib.h>
#include <string.h>

/* ---- parameters --------------------------------------------------------------------------------------- */

typedef struct loader {
    const kv_model *m;
    real *next; /* NULL: only counts */
    int64_t n;
    kv_buffer row;
} loader;

/* A tensor's rows one behind the other; NULL when the model has none. */
static const real *load(loader *l, kv_role role, int32_t layer)
{
    const kv_tensor *t = kv_model_tensor(l->m, role, layer);
    if (!t->data) return NULL;
    l->n += t->rows * t->cols;
    if (!l->next) return NULL;
    real *to = l->next;
    for (int64_t r = 0; r < t->rows; r++) {
        float *row = l->row.p;
        kv_tensor_rows_f32(t, r, 1, row);
        for (int64_t i = 0; i < t->cols; i++)
            *l->next++ = (real)row[i];
    }
    return to;
}

static void load_all(loader *l, ref_golf *g)
{
    g->bigram_scale = load(l, KV_ROLE_BIGRAM_SCALE, 0);
    g->smear = load(l, KV_ROLE_SMEAR_GATE, 0);
    g->skips = load(l, KV_ROLE_SKIP_WEIGHTS, 0);
    g->conv = load(l, KV_ROLE_SIDECAR_CONV, 0);
    g->site_gate = load(l, KV_ROLE_SIDECAR_SITE_GATE, 0);
    g->side_scale = load(l, KV_ROLE_SIDECAR_SCALE, 0);
    for (int32_t i = 0; i < l->m->cfg.n_layers; i++)
        g->layers[i] = (ref_golf_layer){load(l, KV_ROLE_RESID_MIX, i), load(l, KV_ROLE_ATTN_SCALE, i),
                                        load(l, KV_ROLE_FFN_SCALE, i), load(l, KV_ROLE_Q_GAIN, i),
                                        load(l, KV_ROLE_K_GAIN, i),    load(l, KV_ROLE_K_SHIFT, i),
                                        load(l, KV_ROLE_V_SHIFT, i),   load(l, KV_ROLE_LOCAL_V, i)};
}

kv_status REF(golf_init)(ref_golf *g, const kv_model *m)
{
    const int64_t d = m->cfg.d_model;
    loader l = {.m = m};
    int64_t cols = d;
    for (int role = 0; role < KV_ROLE_COUNT; role++)
        cols = ref_max(cols, kv_model_tensor(m, (kv_role)role, 0)->cols);
    g->layers = calloc((size_t)m->cfg.n_layers, sizeof *g->layers);
    if (!g->layers) return kv_fail(KV_ERR_NOMEM, "out of memory");
    load_all(&l, g);
    KV_TRY(kv_buffer_reserve(&g->memory, (size_t)(l.n + 2 * d) * sizeof(real)));
    KV_TRY(kv_buffer_reserve(&l.row, (size_t)cols * sizeof(float)));
    l.next = g->memory.p;
    load_all(&l, g);
    kv_buffer_free(&l.row);
    g->gate = l.next;
    g->rest = l.next + d;
    if (g->smear) REF(gate)(g->smear, d, g->gate, g->rest);
    return KV_OK;
}

void REF(golf_free)(ref_golf *g)
{
    kv_buffer_free(&g->memory);
    free(g->layers);
}

/* ---- before layer 0 ---------------------------------------------------------------------------------------- */

static void embed_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const int64_t d = cfg->d_model;
    for (; x < end; x++) {
        real *e = w->x + x * d, *n = w->xn + x * d;
        if (cfg->bigram_rows) REF(add_times)(e, s->golf.bigram_scale[0], n, d, e);
        if (cfg->embed_norm)
            s->kernels->rmsnorm(e, NULL, d, (real)cfg->norm_eps, n);
        else
            memcpy(n, e, (size_t)d * sizeof *n);
    }
}

static void smear_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const int64_t d = cfg->d_model;
    for (; x < end; x++) {
        const real *n = w->xn + x * d, *before = x ? n - d : REF(before_norm)(&s->carries);
        if (cfg->smear)
            REF(mix)(s->golf.rest, n, s->golf.gate, before, d, w->x + x * d);
        else
            memcpy(w->x + x * d, n, (size_t)d * sizeof *n);
        if (cfg->resid_mix_x0) memcpy(w->x0 + x * d, w->x + x * d, (size_t)d * sizeof *n);
    }
}

static void gather_pairs(ref_session *s, const ref_piece *p)
{
    const kv_config *cfg = &s->model->cfg;
    const kv_tensor *t = kv_model_tensor(s->model, KV_ROLE_BIGRAM_EMBED, 0);
    const ref_carry *before = &s->carries.before;
    float *row = s->embed_row.p;
    for (int64_t x = 0; x < p->m; x++) {
        const int64_t prev = x ? p->tokens[x - 1] : before->fed ? before->token : -1;
        kv_tensor_rows_f32(t, ref_bigram_row(cfg, prev, p->tokens[x]), 1, row);
        for (int64_t i = 0; i < cfg->bigram_dim; i++)
            s->work.bigram[x * cfg->bigram_dim + i] = (real)row[i];
    }
}

void REF(golf_embed)(ref_session *s, const ref_piece *p)
{
    const kv_config *cfg = &s->model->cfg;
    if (!cfg->bigram_rows && !cfg->embed_norm && !cfg->smear && !cfg->resid_mix_x0) return;
    const double t = REF(now)();
    if (cfg->bigram_rows) {
        gather_pairs(s, p);
        const ref_product proj[3] = {{.w = &s->weights->bigram_proj, .c = s->work.xn}};
        REF(multiply_all)(s, s->work.bigram, p->m, proj);
    }
    REF(over_rows)(s, p->m, 0, embed_rows);
    REF(carry_norm)(&s->carries, s->work.xn);
    REF(over_rows)(s, p->m, 0, smear_rows);
    s->seconds[REF_OP_OTHER] += REF(now)() - t;
}

/* ---- a layer --------------------------------------------------------------------------------------------------- */

/* The skip that a layer of the second half takes, or -1. */
static int64_t skip_of(const kv_config *cfg, int64_t layer)
{
    const int64_t skips = kv_config_skips(cfg), i = layer - skips;
    return i >= 0 && i < skips ? i : -1;
}

static real *skip_rows(const ref_session *s, int64_t layer)
{
    return s->work.skips + layer * s->work.m * s->model->cfg.d_model;
}

static void enter_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const real *mix = s->golf.layers[layer].resid_mix;
    const int64_t d = cfg->d_model, skip = skip_of(cfg, layer);
    for (; x < end; x++) {
        real *row = w->x + x * d;
        if (skip >= 0)
            REF(add_weighted)(row, s->golf.skips + skip * d, skip_rows(s, kv_config_skips(cfg) - 1 - skip) + x * d, d, row);
        if (mix) REF(mix)(mix, row, mix + d, w->x0 + x * d, d, row);
    }
}

void REF(golf_enter)(ref_session *s, int32_t layer, const ref_piece *p)
{
    const kv_config *cfg = &s->model->cfg;
    if (cfg->resid_mix_x0 || skip_of(cfg, layer) >= 0) REF(over_rows)(s, p->m, layer, enter_rows);
}

static void projected_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const ref_golf_layer *g = &s->golf.layers[layer];
    const int64_t D = cfg->head_dim, H = cfg->n_kv_heads, Hq = cfg->n_heads;
    for (; x < end; x++) {
        real *k = w->k + x * H * D, *v = w->v + x * H * D, *q = w->q + x * Hq * D;
        const real *raw_k = w->k_raw + x * H * D, *raw_v = w->v_raw + x * H * D;
        if (cfg->k_shift)
            REF(add_heads)(raw_k, g->k_shift, x ? raw_k - H * D : REF(before_k)(&s->carries, layer), H, 1, D, k);
        if (cfg->v_shift)
            REF(add_heads)(raw_v, g->v_shift, x ? raw_v - H * D : REF(before_v)(&s->carries, layer), H, 1, D, v);
        if (cfg->qk_norm != KV_QK_NORM_RMS) continue;
        REF(norm_heads)(s->kernels, q, Hq, D, (real)cfg->norm_eps, q);
        REF(norm_heads)(s->kernels, k, H, D, (real)cfg->norm_eps, k);
    }
}

void REF(golf_projected)(ref_session *s, int32_t layer, const ref_piece *p)
{
    const kv_config *cfg = &s->model->cfg;
    if (!cfg->k_shift && !cfg->v_shift && cfg->qk_norm == KV_QK_NORM_NONE) return;
    REF(over_rows)(s, p->m, layer, projected_rows);
    REF(carry_kv)(&s->carries, layer, s->work.k_raw, s->work.v_raw);
}

static int excludes_own(const kv_config *cfg, int32_t layer) { return layer < 64 && (cfg->xsa_layer_mask >> layer & 1); }

/* XSA takes out whatever local_v would add: such layers do without. */
static void attended_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const kv_config *cfg = &s->model->cfg;
    const int64_t D = cfg->head_dim, Hq = cfg->n_heads, H = cfg->n_kv_heads;
    for (; x < end; x++) {
        real *y = w->att + x * Hq * D;
        const real *v = w->v + x * H * D;
        if (excludes_own(cfg, layer))
            REF(exclude_own)(s->kernels, v, Hq, Hq / H, D, y);
        else
            REF(add_heads)(y, s->golf.layers[layer].local_v, v, Hq, Hq / H, D, y);
    }
}

void REF(golf_attended)(ref_session *s, int32_t layer, const ref_piece *p)
{
    const kv_config *cfg = &s->model->cfg;
    if (cfg->local_v || excludes_own(cfg, layer)) REF(over_rows)(s, p->m, layer, attended_rows);
}

/* ---- the sidecar ----------------------------------------------------------------------------------------------- */

static int has_sidecar(const kv_config *cfg, int32_t layer) { return layer < 64 && (cfg->sidecar_layer_mask >> layer & 1); }

/* Sites count the layers that have one. */
static int32_t site_of(const kv_config *cfg, int32_t layer)
{
    int32_t site = 0;
    for (int32_t l = 0; l < layer; l++)
        site += has_sidecar(cfg, l);
    return site;
}

static void side_norm_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = s->model->cfg.d_model;
    for (; x < end; x++)
        s->kernels->rmsnorm(s->work.x + x * d, NULL, d, (real)s->model->cfg.norm_eps, s->work.xn + x * d);
}

static void side_gate_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const int64_t n = s->model->cfg.sidecar_hidden;
    const int32_t site = site_of(&s->model->cfg, layer);
    for (; x < end; x++) {
        real *z = w->side_gate + x * n, *c = w->side_conv + x * n;
        const real *now = w->side_value + x * n;
        const real *before1 = x > 0 ? now - n : REF(before_conv)(&s->carries, site, 1);
        const real *before2 = x > 1 ? now - 2 * n : REF(before_conv)(&s->carries, site, 2 - x);
        REF(conv3)(s->golf.conv, before2, before1, now, n, c);
        s->kernels->add(z, s->golf.site_gate + site * n, n);
        s->kernels->swiglu(z, c, n, z);
    }
}

static void side_add_rows(const ref_session *s, int32_t layer, int64_t x, int64_t end)
{
    const ref_work *w = &s->work;
    const int64_t d = s->model->cfg.d_model;
    const real *scale = s->golf.side_scale + site_of(&s->model->cfg, layer) * d;
    for (; x < end; x++)
        REF(add_weighted)(w->x + x * d, scale, w->xn + x * d, d, w->x + x * d);
}

static void sidecar(ref_session *s, int32_t layer, const ref_piece *p)
{
    const ref_work *w = &s->work;
    const ref_product in[3] = {{.w = &s->weights->side_gate, .c = w->side_gate},
                               {.w = &s->weights->side_value, .c = w->side_value}};
    const ref_product out[3] = {{.w = &s->weights->side_proj, .c = w->xn}};
    const double t = REF(now)();
    REF(over_rows)(s, p->m, layer, side_norm_rows);
    REF(multiply_all)(s, w->xn, p->m, in);
    REF(over_rows)(s, p->m, layer, side_gate_rows);
    REF(carry_conv)(&s->carries, site_of(&s->model->cfg, layer), w->side_value);
    REF(multiply_all)(s, w->side_gate, p->m, out);
    REF(over_rows)(s, p->m, layer, side_add_rows);
    s->seconds[REF_OP_OTHER] += REF(now)() - t;
}

void REF(golf_leave)(ref_session *s, int32_t layer, const ref_piece *p)
{
    const kv_config *cfg = &s->model->cfg;
    if (has_sidecar(cfg, layer)) sidecar(s, layer, p);
    if (layer < kv_config_skips(cfg))
        memcpy(skip_rows(s, layer), s->work.x, (size_t)(p->m * cfg->d_model) * sizeof(real));
}
