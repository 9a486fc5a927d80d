/* embedding.c - what comes before layer 0 (token and bigram tables, norm, smear gate), there and back. */
#include "ref/golf.h"
#include "ref/train/graph.h"

#include <string.h>

/* ---- forward ------------------------------------------------------------------------------------------------- */

static int64_t pair_of(const ref_graph *gr, int64_t t)
{
    return ref_bigram_row(gr->cfg, t % gr->S ? gr->tokens[t - 1] : -1, gr->tokens[t]);
}

static void gather_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t n = gr->cfg->bigram_dim;
    const real *table = ref_weight(gr, KV_ROLE_BIGRAM_EMBED, 0);
    for (; x < end; x++)
        memcpy(gr->pair_rows + x * n, table + pair_of(gr, x) * n, (size_t)n * sizeof *table);
}

static void norm_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    const real *table = ref_weight(gr, KV_ROLE_TOKEN_EMBD, 0), *scale = ref_weight(gr, KV_ROLE_BIGRAM_SCALE, 0);
    for (; x < end; x++) {
        real *e = gr->work.rows_a + x * d;
        memcpy(e, table + gr->tokens[x] * d, (size_t)d * sizeof *e);
        if (scale) REF(add_times)(e, scale[0], gr->pair_out + x * d, d, e);
        gr->r0[x] = REF(norm_row)(gr, e, d, gr->n0 + x * d);
    }
}

static void smear_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++) {
        const real *n = gr->n0 + x * d;
        if (gr->gate)
            REF(mix)(gr->rest, n, gr->gate, ref_earlier(gr, gr->n0, d, x, 1), d, gr->x0 + x * d);
        else
            memcpy(gr->x0 + x * d, n, (size_t)d * sizeof *n);
        memcpy(gr->work.x + x * d, gr->x0 + x * d, (size_t)d * sizeof *n);
    }
}

void REF(graph_embed)(ref_graph *gr)
{
    if (gr->gate) REF(gate)(ref_weight(gr, KV_ROLE_SMEAR_GATE, 0), gr->cfg->d_model, gr->gate, gr->rest);
    if (gr->pair_rows) {
        REF(graph_rows)(gr, 0, gather_rows);
        REF(product)(gr, gr->pair_rows, KV_ROLE_BIGRAM_PROJ, 0, gr->pair_out);
    }
    REF(graph_rows)(gr, 0, norm_rows);
    REF(graph_rows)(gr, 0, smear_rows);
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

/* What the gate's gradient multiplies: the predecessor's row minus the token's own. */
static void difference_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++) {
        const real *n = gr->n0 + x * d;
        real *out = gr->work.rows_a + x * d;
        for (int64_t i = 0; i < d; i++)
            out[i] = (x % gr->S ? n[i - d] : 0) - n[i];
    }
}

/* dx of the smeared rows becomes the gradient of the embedding's sum, in rows_b. */
static void smear_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    for (; x < end; x++) {
        const real *du = gr->work.dx + x * d;
        real *dn = gr->work.rows_b + x * d;
        const int last = x % gr->S == gr->S - 1;
        for (int64_t i = 0; i < d; i++) {
            const real own = gr->gate ? gr->rest[i] * du[i] : du[i];
            dn[i] = gr->gate && !last ? own + gr->gate[i] * du[i + d] : own;
        }
        gr->kernels->train->rms_back(dn, gr->n0 + x * d, gr->r0[x], d, dn);
    }
}

/* Rows of a table collect what their tokens send: columns of a strip, tokens ascending. */
typedef struct scatter_job {
    const ref_graph *gr;
    const real *rows;
    int64_t width;
    int pairs;
    real *table;
} scatter_job;

static void scatter_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const scatter_job *j = arg;
    const int64_t c0 = task * REF_PANEL, n = ref_min(REF_PANEL, j->width - c0);
    for (int64_t t = 0; t < j->gr->T; t++) {
        const int64_t row = j->pairs ? pair_of(j->gr, t) : j->gr->tokens[t];
        real *to = j->table + row * j->width + c0;
        const real *from = j->rows + t * j->width + c0;
        for (int64_t i = 0; i < n; i++)
            to[i] = to[i] + from[i];
    }
}

static void scatter(const ref_graph *gr, const real *rows, int64_t width, int pairs, int64_t table_rows, real *table)
{
    scatter_job j = {gr, rows, width, pairs, table};
    memset(table, 0, (size_t)(table_rows * width) * sizeof *table);
    kv_pool_run(gr->pool, (width + REF_PANEL - 1) / REF_PANEL, scatter_task, &j);
}

/* rows_a: products of the scale with the gradient; rows_q: sums along the rows for the scale itself. */
static void pair_back_rows(const ref_graph *gr, int32_t layer, int64_t x, int64_t end)
{
    (void)layer;
    const int64_t d = gr->cfg->d_model;
    const real *scale = ref_weight(gr, KV_ROLE_BIGRAM_SCALE, 0);
    for (; x < end; x++) {
        const real *de = gr->work.rows_b + x * d;
        gr->work.rows_q[x] = gr->kernels->dot(de, gr->pair_out + x * d, d);
        REF(scale)(de, scale[0], d, gr->work.rows_a + x * d);
    }
}

static void pairs_back(const ref_graph *gr)
{
    const int64_t n = gr->cfg->bigram_dim, d = gr->cfg->d_model;
    REF(graph_rows)(gr, 0, pair_back_rows);
    REF(channel_gradient)(gr, gr->work.rows_q, NULL, 1, ref_gradient(gr, KV_ROLE_BIGRAM_SCALE, 0));
    REF(take_inputs)(gr, gr->pair_rows, n);
    REF(weight_gradient)(gr, gr->work.rows_a, d, n, ref_gradient(gr, KV_ROLE_BIGRAM_PROJ, 0));
    REF(product_back)(gr, gr->work.rows_a, KV_ROLE_BIGRAM_PROJ, 0, gr->pair_rows);
    scatter(gr, gr->pair_rows, n, 1, gr->cfg->bigram_rows, ref_gradient(gr, KV_ROLE_BIGRAM_EMBED, 0));
}

void REF(graph_embed_back)(ref_graph *gr)
{
    const kv_config *c = gr->cfg;
    const int64_t d = c->d_model, all = (int64_t)c->vocab_size * d;
    if (gr->gate) {
        real *dg = ref_gradient(gr, KV_ROLE_SMEAR_GATE, 0);
        REF(graph_rows)(gr, 0, difference_rows);
        REF(channel_gradient)(gr, gr->work.dx, gr->work.rows_a, d, dg);
        for (int64_t i = 0; i < d; i++)
            dg[i] = gr->gate[i] * gr->rest[i] * dg[i];
    }
    REF(graph_rows)(gr, 0, smear_back_rows);
    real *dE = ref_gradient(gr, KV_ROLE_TOKEN_EMBD, 0), *table = c->tied_head ? gr->work.table : dE;
    scatter(gr, gr->work.rows_b, d, 0, c->vocab_size, table);
    if (c->tied_head)
        gr->kernels->add(dE, table, all); /* the head's part is there already */
    if (gr->pair_rows) pairs_back(gr);
}
