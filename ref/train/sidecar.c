/* sidecar.c - the sidecar of a layer, there and back. Its matrices and taps serve every site, so their gradients are sums
 * over sites, the last site first. */
#include "ref/golf.h"
#include "ref/train/graph.h"

#include <string.h>

static int32_t site_of(const kv_config *cfg, int32_t layer)
{
    int32_t site = 0;
    for (int32_t l = 0; l < layer; l++)
        site += ref_layer_in(cfg->sidecar_layer_mask, l);
    return site;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

static void norm_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++)
        L->r3[x] = REF(norm_row)(gr, gr->work.x + x * d, d, L->n3 + x * d);
}

static void gate_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t n = gr->cfg->sidecar_hidden;
    const real *taps = ref_weight(gr, KV_ROLE_SIDECAR_CONV, 0);
    const real *gate = ref_weight(gr, KV_ROLE_SIDECAR_SITE_GATE, 0) + site_of(gr->cfg, layer) * n;
    for (; x < end; x++) {
        real *z = L->z + x * n, *c = L->conv + x * n;
        REF(conv3)(taps, ref_earlier(gr, L->val, n, x, 2), ref_earlier(gr, L->val, n, x, 1), L->val + x * n, n, c);
        gr->kernels->add(z, gate, n);
        gr->kernels->swiglu(z, c, n, gr->work.side + x * n);
    }
}

static void add_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t d = gr->cfg->d_model;
    const real *scale = ref_weight(gr, KV_ROLE_SIDECAR_SCALE, 0) + site_of(gr->cfg, layer) * d;
    for (; x < end; x++)
        REF(add_weighted)(gr->work.x + x * d, scale, L->so + x * d, d, gr->work.x + x * d);
}

void REF(graph_sidecar)(ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    REF(graph_rows)(gr, layer, norm_rows);
    REF(product)(gr, L->n3, KV_ROLE_SIDECAR_GATE, 0, L->z);
    REF(product)(gr, L->n3, KV_ROLE_SIDECAR_VALUE, 0, L->val);
    REF(graph_rows)(gr, layer, gate_rows);
    REF(product)(gr, gr->work.side, KV_ROLE_SIDECAR_PROJ, 0, L->so);
    REF(graph_rows)(gr, layer, add_rows);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* A gradient of this site joins those of later sites. */
static void join(const ref_graph *gr, kv_role role, int last_site, const real *from)
{
    const ref_param *p = ref_param_of(gr->params, role, 0);
    real *to = gr->g + p->at;
    if (last_site)
        memcpy(to, from, (size_t)p->n * sizeof *to);
    else
        gr->kernels->add(to, from, p->n);
}

static void matrix_back(const ref_graph *gr, const real *dy, kv_role role, int last_site)
{
    const ref_param *p = ref_param_of(gr->params, role, 0);
    REF(weight_gradient)(gr, dy, p->rows, p->cols, gr->work.gradient);
    join(gr, role, last_site, gr->work.gradient);
}

static void scale_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const int64_t d = gr->cfg->d_model;
    const real *scale = ref_weight(gr, KV_ROLE_SIDECAR_SCALE, 0) + site_of(gr->cfg, layer) * d;
    for (; x < end; x++)
        for (int64_t i = 0; i < d; i++)
            gr->work.db[x * d + i] = gr->work.dx[x * d + i] * scale[i];
}

/* side: gated values; dside: their gradient, then that of the gate before silu; dconv: of the convolution's output. */
static void gate_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const int64_t n = gr->cfg->sidecar_hidden;
    for (int64_t i = x * n; i < end * n; i++) {
        const real z = L->z[i], s = 1 / (1 + r_exp(-z)), silu = z / (1 + r_exp(-z)), d = gr->work.dside[i];
        gr->work.dconv[i] = d * silu;
        gr->work.dside[i] = d * L->conv[i] * s * (1 + z * (1 - s));
    }
}

static void conv_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t n = gr->cfg->sidecar_hidden;
    const real *w = ref_weight(gr, KV_ROLE_SIDECAR_CONV, 0);
    for (; x < end; x++) {
        const int64_t left = gr->S - 1 - x % gr->S;
        const real *dc = gr->work.dconv + x * n;
        for (int64_t i = 0; i < n; i++) {
            real sum = w[3 * i + 2] * dc[i];
            if (left > 0) sum = sum + w[3 * i + 1] * dc[i + n];
            if (left > 1) sum = sum + w[3 * i] * dc[i + 2 * n];
            gr->work.dval[x * n + i] = sum;
        }
    }
}

static void shift_values(const ref_graph *gr, const real *val, int64_t back, real *out)
{
    const int64_t n = gr->cfg->sidecar_hidden;
    for (int64_t t = 0; t < gr->T; t++) {
        if (t % gr->S >= back)
            memcpy(out + t * n, val + (t - back) * n, (size_t)n * sizeof *out);
        else
            memset(out + t * n, 0, (size_t)n * sizeof *out);
    }
}

/* Gradients of the taps: [n][3], the oldest first. */
static void taps_back(const ref_graph *gr, const ref_graph_layer *L, int last_site)
{
    const int64_t n = gr->cfg->sidecar_hidden;
    real *all = gr->work.gradient, *sums = all + 3 * n;
    for (int64_t tap = 0; tap < 3; tap++) {
        shift_values(gr, L->val, 2 - tap, gr->work.side);
        REF(channel_gradient)(gr, gr->work.dconv, gr->work.side, n, sums);
        for (int64_t i = 0; i < n; i++)
            all[3 * i + tap] = sums[i];
    }
    join(gr, KV_ROLE_SIDECAR_CONV, last_site, all);
}

static void norm_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const ref_graph_work *w = &gr->work;
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++) {
        real *dh = w->dh + x * d;
        gr->kernels->add(dh, w->rows_a + x * d, d); /* values first, then the gate: the later use first */
        gr->kernels->train->rms_back(dh, L->n3 + x * d, L->r3[x], d, dh);
        gr->kernels->add(w->dx + x * d, dh, d);
    }
}

void REF(graph_sidecar_back)(ref_graph *gr, int32_t layer)
{
    const ref_graph_layer *L = &gr->layers[layer];
    const ref_graph_work *w = &gr->work;
    const int64_t d = gr->cfg->d_model, n = gr->cfg->sidecar_hidden;
    const int32_t site = site_of(gr->cfg, layer);
    const int last = site == kv_config_sites(gr->cfg) - 1;
    REF(channel_gradient)(gr, w->dx, L->so, d, ref_gradient(gr, KV_ROLE_SIDECAR_SCALE, 0) + site * d);
    REF(graph_rows)(gr, layer, scale_rows);
    gr->kernels->swiglu(L->z, L->conv, gr->T * n, w->side);
    REF(take_inputs)(gr, w->side, n);
    matrix_back(gr, w->db, KV_ROLE_SIDECAR_PROJ, last);
    REF(product_back)(gr, w->db, KV_ROLE_SIDECAR_PROJ, 0, w->dside);
    REF(graph_rows)(gr, layer, gate_back_rows);
    REF(graph_rows)(gr, layer, conv_back_rows);
    REF(channel_gradient)(gr, w->dside, NULL, n, ref_gradient(gr, KV_ROLE_SIDECAR_SITE_GATE, 0) + site * n);
    taps_back(gr, L, last);
    REF(take_inputs)(gr, L->n3, d);
    matrix_back(gr, w->dside, KV_ROLE_SIDECAR_GATE, last);
    matrix_back(gr, w->dval, KV_ROLE_SIDECAR_VALUE, last);
    REF(product_back)(gr, w->dval, KV_ROLE_SIDECAR_VALUE, 0, w->dh);
    REF(product_back)(gr, w->dside, KV_ROLE_SIDECAR_GATE, 0, w->rows_a);
    REF(graph_rows)(gr, layer, norm_back_rows);
}
