/* backward.c - from the gradients of the head down to the embedding: the block's order, reversed. */
#include "ref/golf.h"
#include "ref/train/graph.h"

#include <string.h>

/* ---- the head ---------------------------------------------------------------------------------------------------- */

static void final_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++)
        gr->kernels->train->rms_back(gr->work.dh + x * d, gr->fx + x * d, gr->rf[x], d, gr->work.dx + x * d);
}

static void head_back(const ref_graph *gr)
{
    const kv_config *c = gr->cfg;
    REF(take_inputs)(gr, gr->fx, c->d_model);
    REF(weight_gradient)(gr, gr->dz, c->vocab_size, c->d_model, ref_gradient(gr, ref_head_role(c), 0));
    REF(product_back)(gr, gr->dz, ref_head_role(c), 0, gr->work.dh);
    REF(graph_rows)(gr, 0, final_back_rows);
}

/* ---- feed-forward ---------------------------------------------------------------------------------------------------- */

static void times_rows(const ref_graph *gr, const real *scale, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++) {
        const real *dx = gr->work.dx + x * d;
        real *db = gr->work.db + x * d;
        for (int64_t i = 0; i < d; i++)
            db[i] = scale ? dx[i] * scale[i] : dx[i];
    }
}

static void ffn_scale_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    times_rows(gr, ref_weight(gr, KV_ROLE_FFN_SCALE, layer), x, end);
}

static void attn_scale_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    times_rows(gr, ref_weight(gr, KV_ROLE_ATTN_SCALE, layer), x, end);
}

/* What the products read in the forward pass: the activation, and the normed row times ln_scale. */
static void ffn_inputs_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t F = gr->cfg->ffn_dim, d = gr->cfg->d_model;
    REF(square_relu)(gr->cfg, L->f + x * F, (end - x) * F, gr->work.act + x * F);
    REF(scale)(L->n2 + x * d, ref_ln_scale(gr->cfg, layer), (end - x) * d, gr->work.h + x * d);
}

/* d * 2r times the slope of r = relu(f), which is 0 at and below 0, or the leaky slope. */
static void activation_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t F = gr->cfg->ffn_dim;
    gr->kernels->train->square_relu_back(gr->layers[layer].f + x * F, (end - x) * F,
                                         gr->cfg->ffn_kind == KV_FFN_LEAKY_RELU2 ? (real)gr->cfg->leaky_slope : 0,
                                         gr->work.dact + x * F);
}

/* The branch's gradient, dh behind the norm and ln_scale, joins the stream's. */
static void join_rows(const ref_graph *gr, int32_t layer, const real *n, const real *r, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model;
    const real s = ref_ln_scale(gr->cfg, layer);
    for (; x < end; x++) {
        real *dh = gr->work.dh + x * d;
        REF(scale)(dh, s, d, dh);
        gr->kernels->train->rms_back(dh, n + x * d, r[x], d, dh);
        gr->kernels->add(gr->work.dx + x * d, dh, d);
    }
}

static void ffn_join_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    join_rows(gr, layer, gr->layers[layer].n2, gr->layers[layer].r2, x, end);
}

static void ffn_back(const ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const ref_graph_work *w = &gr->work;
    const int64_t F = gr->cfg->ffn_dim, d = gr->cfg->d_model;
    if (L->mo) REF(channel_gradient)(gr, w->dx, L->mo, d, ref_gradient(gr, KV_ROLE_FFN_SCALE, layer));
    REF(graph_rows)(gr, layer, ffn_scale_rows);
    REF(graph_rows)(gr, layer, ffn_inputs_rows);
    REF(take_inputs)(gr, w->act, F);
    REF(weight_gradient)(gr, w->db, d, F, ref_gradient(gr, KV_ROLE_FFN_DOWN, layer));
    REF(product_back)(gr, w->db, KV_ROLE_FFN_DOWN, layer, w->dact);
    REF(graph_rows)(gr, layer, activation_back_rows);
    REF(take_inputs)(gr, w->h, d);
    REF(weight_gradient)(gr, w->dact, F, d, ref_gradient(gr, KV_ROLE_FFN_UP, layer));
    REF(product_back)(gr, w->dact, KV_ROLE_FFN_UP, layer, w->dh);
    REF(graph_rows)(gr, layer, ffn_join_rows);
}

/* ---- attention --------------------------------------------------------------------------------------------------------- */

static void attn_inputs_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model;
    REF(scale)(gr->layers[layer].n1 + x * d, ref_ln_scale(gr->cfg, layer), (end - x) * d, gr->work.h + x * d);
}

/* Values, keys, queries: the later use first. */
static void attn_join_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model, at = x * d, n = (end - x) * d;
    gr->kernels->add(gr->work.dh + at, gr->work.rows_a + at, n);
    gr->kernels->add(gr->work.dh + at, gr->work.rows_b + at, n);
    join_rows(gr, layer, gr->layers[layer].n1, gr->layers[layer].r1, x, end);
}

static void attention_back(ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const ref_graph_work *w = &gr->work;
    const int64_t d = gr->cfg->d_model, q = gr->cfg->n_heads * gr->cfg->head_dim, kv = gr->cfg->n_kv_heads * gr->cfg->head_dim;
    if (L->ao) REF(channel_gradient)(gr, w->dx, L->ao, d, ref_gradient(gr, KV_ROLE_ATTN_SCALE, layer));
    REF(graph_rows)(gr, layer, attn_scale_rows);
    REF(take_inputs)(gr, L->att, q);
    REF(weight_gradient)(gr, w->db, d, q, ref_gradient(gr, KV_ROLE_ATTN_OUTPUT, layer));
    REF(product_back)(gr, w->db, KV_ROLE_ATTN_OUTPUT, layer, w->dy);
    REF(graph_attend_back)(gr, layer);
    REF(graph_rows)(gr, layer, attn_inputs_rows);
    REF(take_inputs)(gr, w->h, d);
    REF(weight_gradient)(gr, w->dq, q, d, ref_gradient(gr, KV_ROLE_ATTN_Q, layer));
    REF(weight_gradient)(gr, w->dk, kv, d, ref_gradient(gr, KV_ROLE_ATTN_K, layer));
    REF(weight_gradient)(gr, w->dv, kv, d, ref_gradient(gr, KV_ROLE_ATTN_V, layer));
    REF(product_back)(gr, w->dv, KV_ROLE_ATTN_V, layer, w->dh);
    REF(product_back)(gr, w->dk, KV_ROLE_ATTN_K, layer, w->rows_a);
    REF(product_back)(gr, w->dq, KV_ROLE_ATTN_Q, layer, w->rows_b);
    REF(graph_rows)(gr, layer, attn_join_rows);
}

/* ---- the way into a layer ------------------------------------------------------------------------------------------------ */

/* Through resid_mix: the stream's share stays in dx, that of its state before layer 0 collects in dx0. */
static void mix_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model;
    const real *mix = ref_weight(gr, KV_ROLE_RESID_MIX, layer);
    const int last = layer == gr->cfg->n_layers - 1;
    for (; x < end; x++) {
        real *dx = gr->work.dx + x * d, *dx0 = gr->work.dx0 + x * d;
        for (int64_t i = 0; i < d; i++) {
            const real share = dx[i] * mix[d + i];
            dx0[i] = last ? share : dx0[i] + share;
            dx[i] = dx[i] * mix[i];
        }
    }
}

static void skip_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model, skip = ref_skip_of(gr->cfg, layer);
    const real *w = ref_weight(gr, KV_ROLE_SKIP_WEIGHTS, 0) + skip * d;
    real *out = gr->work.dskip + ref_skip_source(gr->cfg, skip) * gr->T * d;
    for (; x < end; x++)
        for (int64_t i = 0; i < d; i++)
            out[x * d + i] = gr->work.dx[x * d + i] * w[i];
}

static void enter_back(const ref_graph *gr, int32_t layer)
{
    const ref_graph_work *w = &gr->work;
    const int64_t d = gr->cfg->d_model, skip = ref_skip_of(gr->cfg, layer);
    real *mix = ref_gradient(gr, KV_ROLE_RESID_MIX, layer);
    if (mix) {
        REF(channel_gradient)(gr, w->dx, gr->layers[layer].xin, d, mix);
        REF(channel_gradient)(gr, w->dx, gr->x0, d, mix + d);
        REF(graph_rows)(gr, layer, mix_back_rows);
    }
    if (skip < 0) return;
    const real *given = gr->layers[ref_skip_source(gr->cfg, skip)].xo;
    REF(channel_gradient)(gr, w->dx, given, d, ref_gradient(gr, KV_ROLE_SKIP_WEIGHTS, 0) + skip * d);
    REF(graph_rows)(gr, layer, skip_back_rows);
}

/* ---- all ------------------------------------------------------------------------------------------------------------------- */

/* A layer's output was taken as a skip by a later layer, too. */
static void taken_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model;
    gr->kernels->add(gr->work.dx + x * d, gr->work.dskip + (layer * gr->T + x) * d, (end - x) * d);
}

static void bottom_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    gr->kernels->add(gr->work.dx + x * d, gr->work.dx0 + x * d, (end - x) * d);
}

void REF(graph_backward)(ref_graph *gr)
{
    const kv_config *c = gr->cfg;
    head_back(gr);
    for (int32_t l = c->n_layers - 1; l >= 0; l--) {
        if (l < kv_config_skips(c)) REF(graph_rows)(gr, l, taken_rows);
        if (gr->layers[l].n3) REF(graph_sidecar_back)(gr, l);
        ffn_back(gr, l);
        attention_back(gr, l);
        enter_back(gr, l);
    }
    if (c->resid_mix_x0) REF(graph_rows)(gr, 0, bottom_rows);
    REF(graph_embed_back)(gr);
}
