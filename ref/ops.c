#include "ref/ops.h"

#include "common/mem.h"
#include "ref/golf.h"
#include "ref/kernels.h"
#include "ref/rope.h"

#include <stdlib.h>
#include <string.h>

#if REF_BITS == 32

static kv_status kernels(const ref_kernels **k)
{
    return REF(kernels_find)(NULL, k);
}

/* Aligned as the kernels want it, zeroed. */
static real *room(int64_t n)
{
    return kv_big_alloc((size_t)n * sizeof(real));
}
static void give_back(real *p, int64_t n)
{
    kv_big_free(p, (size_t)n * sizeof(real));
}

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory");
}

kv_status ref_op_rmsnorm(const float *x, const float *w, int64_t m, int64_t n, float eps, float *y)
{
    const ref_kernels *k;
    KV_TRY(kernels(&k));
    for (int64_t i = 0; i < m; i++)
        k->rmsnorm(x + i * n, w, n, eps, y + i * n);
    return KV_OK;
}

/* Rows [n][width] as panels of 16. */
static void pack(const float *rows, int64_t stride, int64_t n, int64_t width, real *panels)
{
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < width; i++)
            panels[(j / REF_PANEL * width + i) * REF_PANEL + j % REF_PANEL] = rows[j * stride + i];
}

kv_status ref_op_gemm(const float *a, const float *w, int64_t m, int64_t n, int64_t k, float *c)
{
    const ref_kernels *table;
    const int64_t size = ref_packed_size(n, k);
    KV_TRY(kernels(&table));
    real *panels = room(size);
    if (!panels) return no_memory();
    pack(w, k, n, k, panels);
    const ref_gemm_job job = {.a = a, .lda = k, .m = m, .k = k, .panels = panels, .n = n, .c = c, .ldc = n};
    table->gemm(&job);
    give_back(panels, size);
    return KV_OK;
}

static void finish_row(const ref_op_gemm_args *g, const ref_kernels *table, float *row, int64_t i)
{
    const kv_config relu2 = {.ffn_kind = KV_FFN_RELU2};
    for (int64_t j = 0; g->bias && j < g->n; j++)
        row[j] = row[j] + g->bias[j];
    switch (g->epilogue) {
    case REF_OP_ADD:
        table->add(g->c + i * g->n, row, g->n);
        break;
    case REF_OP_SILU_MUL:
        table->swiglu(row, row + g->n / 2, g->n / 2, g->c + i * (g->n / 2));
        break;
    case REF_OP_RELU2:
        REF(square_relu)(&relu2, row, g->n, g->c + i * g->n);
        break;
    default:
        memcpy(g->c + i * g->n, row, (size_t)g->n * sizeof *row);
    }
}

kv_status ref_op_gemm_epilogue(const ref_op_gemm_args *g)
{
    const ref_kernels *table;
    KV_TRY(kernels(&table));
    float *product = room(g->m * g->n);
    if (!product) return no_memory();
    const kv_status st = ref_op_gemm(g->a, g->w, g->m, g->n, g->k, product);
    for (int64_t i = 0; st == KV_OK && i < g->m; i++)
        finish_row(g, table, product + i * g->n, i);
    give_back(product, g->m * g->n);
    return st;
}

kv_status ref_op_swiglu(const float *g, const float *u, int64_t n, float *h)
{
    const ref_kernels *k;
    KV_TRY(kernels(&k));
    k->swiglu(g, u, n, h);
    return KV_OK;
}

void ref_op_rope(float *row, int64_t rd, int half, const float *cos, const float *sin)
{
    /* A table of one position: its columns are one apart. */
    const ref_rope r = {.pairs = rd / 2, .half = half, .sign = 1};
    const ref_rope_table t = {.n = 1, .stride = 1, .cos = (float *)(uintptr_t)cos, .sin = (float *)(uintptr_t)sin};
    REF(rope_row)(&r, &t, 0, row);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* One KV head's share of the work. */
typedef struct head_room {
    real *memory, *k, *v, *q, *scratch;
    int64_t size, panels, dv;
} head_room;

static kv_status make_room(const ref_op_attn *a, head_room *r)
{
    r->dv = ref_round_up(a->D, REF_PANEL);
    r->panels = (a->n + REF_PANEL - 1) / REF_PANEL;
    const int64_t keys = r->panels * REF_PANEL * a->D, values = ref_max(a->n, 1) * r->dv, q = REF_ATTN_ROWS * r->dv;
    r->size = keys + values + q + REF(attn_scratch)(ref_max(a->n, 1), a->D);
    r->memory = room(r->size);
    if (!r->memory) return no_memory();
    r->k = r->memory;
    r->v = r->k + keys;
    r->q = r->v + values;
    r->scratch = r->q + q;
    return KV_OK;
}

static void pack_head(const ref_op_attn *a, int64_t h, head_room *r)
{
    pack(a->k + h * a->D, a->Hk * a->D, a->n, a->D, r->k);
    for (int64_t i = 0; i < a->n; i++)
        memcpy(r->v + i * r->dv, a->v + (i * a->Hk + h) * a->D, (size_t)a->D * sizeof(real));
}

static void attend_rows(const ref_op_attn *a, const ref_kernels *table, int64_t h, int64_t row0, const head_room *r)
{
    const int64_t group = a->Hq / a->Hk;
    int64_t hi[REF_ATTN_ROWS];
    real *out[REF_ATTN_ROWS], max[REF_ATTN_ROWS], sum[REF_ATTN_ROWS];
    const ref_span span = {r->k, r->v, 0, a->n};
    ref_attn_job job = {.q = r->q,
                        .head_dim = a->D,
                        .spans = &span,
                        .n_spans = 1,
                        .hi = hi,
                        .out = out,
                        .scratch = r->scratch,
                        .max = max,
                        .sum = sum,
                        .rows = ref_min(REF_ATTN_ROWS, a->T * group - row0)};
    for (int64_t i = 0; i < job.rows; i++) {
        const int64_t x = (row0 + i) / group, head = h * group + (row0 + i) % group;
        for (int64_t d = 0; d < a->D; d++)
            r->q[i * a->D + d] = a->q[(x * a->Hq + head) * a->D + d] * a->scale;
        hi[i] = ref_min(a->n, a->stored + x + 1);
        out[i] = a->o + (x * a->Hq + head) * a->D;
    }
    table->attn(&job);
    for (int64_t i = 0; i < job.rows; i++) {
        const int64_t at = (h * group + (row0 + i) % group) * a->T + (row0 + i) / group;
        a->max[at] = max[i];
        a->sum[at] = sum[i];
    }
}

static void see_nothing(const ref_op_attn *a)
{
    memset(a->o, 0, (size_t)(a->T * a->Hq * a->D) * sizeof(float));
    for (int64_t i = 0; i < a->Hq * a->T; i++) {
        a->max[i] = -kv_inf();
        a->sum[i] = 0;
    }
}

kv_status ref_op_attention(const ref_op_attn *a)
{
    const ref_kernels *table;
    head_room r;
    KV_TRY(kernels(&table));
    if (a->n == 0) {
        see_nothing(a);
        return KV_OK;
    }
    KV_TRY(make_room(a, &r));
    for (int64_t h = 0; h < a->Hk; h++) {
        pack_head(a, h, &r);
        for (int64_t row0 = 0; row0 < a->T * (a->Hq / a->Hk); row0 += REF_ATTN_ROWS)
            attend_rows(a, table, h, row0, &r);
    }
    give_back(r.memory, r.size);
    return KV_OK;
}

/* ---- column sums ---------------------------------------------------------------------------------------------------
 */

/* Entries from..from+n-1 for one query head; the step's own when own is set. */
static kv_status sum_columns(const ref_op_attn *a, const ref_kernels *table, const float *weights, int64_t head,
                             int64_t from, int64_t n, int own, float *out)
{
    const int64_t panels = (n + REF_PANEL - 1) / REF_PANEL, keys = panels * REF_PANEL * a->D;
    const int64_t size = keys + a->T * a->D + panels * REF_PANEL + REF_COLUMN_SCRATCH;
    if (n == 0) return KV_OK;
    real *k = room(size);
    if (!k) return no_memory();
    real *q = k + keys + panels * REF_PANEL, *acc = k + keys, *scratch = q + a->T * a->D;
    pack(a->k + (from * a->Hk + head / (a->Hq / a->Hk)) * a->D, a->Hk * a->D, n, a->D, k);
    for (int64_t x = 0; x < a->T; x++)
        for (int64_t d = 0; d < a->D; d++)
            q[x * a->D + d] = a->q[(x * a->Hq + head) * a->D + d] * a->scale;
    const ref_column_job job = {.q = q,
                                .rows = a->T,
                                .head_dim = a->D,
                                .max = a->max + head * a->T,
                                .sum = a->sum + head * a->T,
                                .weights = weights,
                                .block = 256,
                                .k = k,
                                .panels = panels,
                                .key0 = own ? 0 : -1,
                                .scratch = scratch,
                                .acc = acc};
    table->columns(&job);
    memcpy(out, acc, (size_t)n * sizeof *out);
    give_back(k, size);
    return KV_OK;
}

kv_status ref_op_colsum(const ref_op_attn *a, const float *weights, float *colsum)
{
    const ref_kernels *table;
    KV_TRY(kernels(&table));
    for (int64_t head = 0; head < a->Hq; head++) {
        float *out = colsum + head * a->n;
        KV_TRY(sum_columns(a, table, weights, head, 0, a->stored, 0, out));
        KV_TRY(sum_columns(a, table, weights, head, a->stored, a->n - a->stored, 1, out + a->stored));
    }
    return KV_OK;
}

/* ---- negative log-likelihood
 * ------------------------------------------------------------------------------------------ */

/* R64 of exp(z - max) over one block, lane by lane. */
static real block_sum(const real *z, int64_t n, real max)
{
    real lane[REF_L] = {0};
    for (int64_t i = 0; i < n; i++)
        lane[i % REF_L] = lane[i % REF_L] + r_exp(z[i] - max);
    for (int64_t s = REF_L / 2; s > 0; s /= 2)
        for (int64_t i = 0; i < s; i++)
            lane[i] = lane[i] + lane[i + s];
    return lane[0];
}

kv_status ref_op_nll(float *z, int64_t n, float cap, int64_t target, float *nll, float *max, float *sum)
{
    const ref_kernels *table;
    KV_TRY(kernels(&table));
    if (cap != 0) REF(softcap)(z, cap, n);
    *max = z[0];
    for (int64_t i = 1; i < n; i++)
        if (kv_max_key(z[i]) > kv_max_key(*max)) *max = z[i];
    *sum = 0;
    for (int64_t b = 0; b < n; b += REF_VB)
        *sum = *sum + block_sum(z + b, ref_min(REF_VB, n - b), *max);
    *nll = table->nll(z, n, target);
    return KV_OK;
}

#endif
