/* forward.c - the layers of a training batch, forward: the order of the family's block, everything kept that the
 * backward pass needs. */
#include "ref/golf.h"
#include "ref/train/graph.h"

#include <string.h>

/* Skip and resid_mix, then the norm of attention. work.x becomes the mixed stream. */
static void enter_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t d = gr->cfg->d_model, skip = ref_skip_of(gr->cfg, layer);
    const real *mix = ref_weight(gr, KV_ROLE_RESID_MIX, layer), *weights = ref_weight(gr, KV_ROLE_SKIP_WEIGHTS, 0);
    const real s = ref_ln_scale(gr->cfg, layer);
    for (; x < end; x++) {
        real *row = gr->work.x + x * d, *xin = L->xin + x * d;
        if (skip >= 0)
            REF(add_weighted)(row, weights + skip * d, gr->layers[ref_skip_source(gr->cfg, skip)].xo + x * d, d, xin);
        else
            memcpy(xin, row, (size_t)d * sizeof *row);
        if (mix)
            REF(mix)(mix, xin, mix + d, gr->x0 + x * d, d, row);
        else
            memcpy(row, xin, (size_t)d * sizeof *row);
        L->r1[x] = REF(norm_row)(gr, row, d, L->n1 + x * d);
        REF(scale)(L->n1 + x * d, s, d, gr->work.h + x * d);
    }
}

/* A branch's output comes to the stream; the norm of the feed-forward block. */
static void middle_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t d = gr->cfg->d_model;
    const real *scale = ref_weight(gr, KV_ROLE_ATTN_SCALE, layer), s = ref_ln_scale(gr->cfg, layer);
    for (; x < end; x++) {
        real *row = gr->work.x + x * d;
        if (scale)
            REF(add_weighted)(row, scale, L->ao + x * d, d, row);
        else
            gr->kernels->add(row, gr->work.out + x * d, d);
        L->r2[x] = REF(norm_row)(gr, row, d, L->n2 + x * d);
        REF(scale)(L->n2 + x * d, s, d, gr->work.h + x * d);
    }
}

static void activation_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t F = gr->cfg->ffn_dim;
    REF(square_relu)(gr->cfg, gr->layers[layer].f + x * F, (end - x) * F, gr->work.act + x * F);
}

static void leave_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t d = gr->cfg->d_model;
    const real *scale = ref_weight(gr, KV_ROLE_FFN_SCALE, layer);
    for (; x < end; x++) {
        real *row = gr->work.x + x * d;
        if (scale)
            REF(add_weighted)(row, scale, L->mo + x * d, d, row);
        else
            gr->kernels->add(row, gr->work.out + x * d, d);
    }
}

static void layer_forward(ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const ref_graph_work *w = &gr->work;
    REF(graph_rows)(gr, layer, enter_rows);
    REF(graph_attend)(gr, layer);
    REF(product)(gr, L->att, KV_ROLE_ATTN_OUTPUT, layer, L->ao ? L->ao : w->out);
    REF(graph_rows)(gr, layer, middle_rows);
    REF(product)(gr, w->h, KV_ROLE_FFN_UP, layer, L->f);
    REF(graph_rows)(gr, layer, activation_rows);
    REF(product)(gr, w->act, KV_ROLE_FFN_DOWN, layer, L->mo ? L->mo : w->out);
    REF(graph_rows)(gr, layer, leave_rows);
    if (L->n3) REF(graph_sidecar)(gr, layer);
    if (L->xo) memcpy(L->xo, w->x, (size_t)(gr->T * gr->cfg->d_model) * sizeof(real));
}

static void final_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++)
        gr->rf[x] = REF(norm_row)(gr, gr->work.x + x * d, d, gr->fx + x * d);
}

void REF(graph_forward)(ref_graph *gr)
{
    for (int32_t l = 0; l < gr->cfg->n_layers; l++)
        layer_forward(gr, l);
    REF(graph_rows)(gr, 0, final_rows);
}
