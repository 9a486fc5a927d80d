/* op_attn_colsum.c - what every entry of the view received: the sum over the tokens of w p, p = exp(score - row_max) /
 * row_sum.
 *
 * Bound: row_max and row_sum are inputs and exact. A score is off by delta = (hd + 4) u sum |q k| scale, plus the unit
 * of the type that it is kept in times |score|; so p is off by expm1(delta) + (12 + |score - max|) u relatively:
 * subtraction, exponential, division, product. T terms are added in any order: T u of the magnitudes. */
#include "difftest/ops/view.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const dt_attn_shape shapes[] = {
    {1, 1, 1, 4, {0, 0, 1}, 0, KVDK_F32},       {1, 4, 2, 32, {4, 60, 1}, 0, KVDK_F32},
    {4, 4, 2, 32, {4, 250, 4}, 2, KVDK_F32},    {17, 4, 2, 32, {1, 15, 17}, 0, KVDK_F16},
    {3, 3, 3, 20, {0, 64, 0}, 0, KVDK_F32},     {16, 2, 1, 64, {4, 16, 16}, 3, KVDK_BF16},
    {33, 2, 2, 8, {0, 0, 33}, 0, KVDK_F32},     {257, 2, 1, 8, {2, 40, 257}, 0, KVDK_F32},
    {256, 1, 1, 16, {0, 17, 256}, 1, KVDK_F32}, {64, 6, 2, 12, {4, 300, 64}, 0, KVDK_F32},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, MOST_DYED = 20, WEIGHTS = 40 };

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static dt_attn_shape choose_shape(const dt_opcase *c)
{
    dt_attn_shape s = c->shape < N_SHAPES ? shapes[c->shape] : dt_attn_shape_random(c, 70);
    if (c->dist == DT_DIST_exact) s.T = 1; /* one token, a power of two of entries: shares without rounding */
    if (c->dist == DT_DIST_dye) s.T = lesser(s.T, MOST_DYED);
    if (s.n[KVDK_SELF]) s.n[KVDK_SELF] = s.T;
    return s;
}

/* Weights of a decaying average; dye: of one token after the other. */
static kv_status draw_weights(dt_opcase *c, int64_t T)
{
    const int is_dye = c->dist == DT_DIST_dye;
    if (is_dye) c->n_parts = T;
    if (!is_dye && c->shape % 3 == 1) return KV_OK;
    KV_TRY(dt_opcase_tensor(c, "weights", KVDK_F32, T, 1, 1));
    float *w = c->args.attn_colsum.weights.data;
    for (int64_t t = 0; t < T; t++) {
        const double normal = dt_opcase_normal(c, WEIGHTS, (uint64_t)t);
        w[t] = is_dye                     ? (float)(t == c->part)
               : c->dist == DT_DIST_exact ? (float)(2 + t % 3)
                                          : (float)(0.01 + 0.02 * normal * normal);
    }
    return KV_OK;
}

static ref_op_attn for_reference(const kvdk_colsum_args *a, const dt_view *view)
{
    return (ref_op_attn){.q = a->q.data,
                         .k = view->k,
                         .v = view->k,
                         .T = a->T,
                         .Hq = a->Hq,
                         .Hk = a->Hk,
                         .D = a->hd,
                         .n = view->n,
                         .stored = view->stored,
                         .scale = (float)a->scale,
                         .max = a->row_max.data,
                         .sum = a->row_sum.data};
}

/* Maximum and sum of the attention that goes before; its outputs are not wanted. */
static kv_status draw_statistics(kvdk_colsum_args *a)
{
    dt_view view;
    KV_TRY(dt_view_make(a->segment, a->n_segments, a->Hk, a->hd, &view));
    ref_op_attn r = for_reference(a, &view);
    r.o = malloc((size_t)(a->T * a->Hq * a->hd) * sizeof(float));
    const kv_status st = r.o ? ref_op_attention(&r) : kv_fail(KV_ERR_NOMEM, "out of memory");
    free(r.o);
    dt_view_free(&view);
    return st;
}

static kv_status draw(dt_opcase *c)
{
    kvdk_colsum_args *a = &c->args.attn_colsum;
    const dt_attn_shape s = choose_shape(c);
    a->T = s.T;
    a->Hq = s.Hq;
    a->Hk = s.Hk;
    a->hd = s.hd;
    KV_TRY(dt_view_draw(c, &s, &a->scale, &a->n_segments, 0));
    KV_TRY(draw_weights(c, s.T));
    KV_TRY(dt_opcase_tensor(c, "row_max", KVDK_F32, s.Hq, s.T, 1));
    KV_TRY(dt_opcase_tensor(c, "row_sum", KVDK_F32, s.Hq, s.T, 1));
    KV_TRY(dt_opcase_tensor(c, "colsum", KVDK_F32, s.Hq, s.n[0] + s.n[1] + s.n[2], 1));
    const size_t used = strlen(c->title);
    if (a->weights.data) snprintf(c->title + used, sizeof c->title - used, " weights");
    return draw_statistics(a);
}

/* ---- truth
 * ---------------------------------------------------------------------------------------------------------------- */

static double absolute(double x)
{
    return x < 0 ? -x : x;
}

typedef struct sum {
    double value, bound;
} sum;

/* What token t gives entry i of the view under one head. */
static sum share(const kvdk_colsum_args *a, const dt_view *view, const kvdk_precision *precision, int64_t head,
                 int64_t t, int64_t i)
{
    const float *q = (const float *)a->q.data + (t * a->Hq + head) * a->hd;
    const float *k = view->k + (i * a->Hk + head / (a->Hq / a->Hk)) * a->hd;
    const double max = (double)((const float *)a->row_max.data)[head * a->T + t],
                 w = a->weights.data ? (double)((const float *)a->weights.data)[t] : 1;
    double s = 0, magnitude = 0;
    for (int64_t d = 0; d < a->hd; d++) {
        const double term = (double)q[d] * (double)k[d] * a->scale;
        s += term;
        magnitude += absolute(term);
    }
    const double delta = ((double)a->hd + 4) * DT_U * magnitude + dt_unit_of(precision->scores) * absolute(s) +
                         (double)a->hd * DT_UNDERFLOW;
    const double grown = delta < 1e-3 ? delta * (1 + delta) : kv_dexp(delta < 700 ? delta : 700) - 1;
    const double p = kv_dexp(s - max) / (double)((const float *)a->row_sum.data)[head * a->T + t];
    const double relative = grown + (12 + absolute(s - max) + (double)a->T) * DT_U +
                            dt_unit_of(precision->probabilities) + (double)a->T * dt_unit_of(precision->accumulators);
    return (sum){w * p, absolute(w) * p * relative + (2 + absolute(w)) * DT_UNDERFLOW};
}

static sum column(const kvdk_colsum_args *a, const dt_view *view, const kvdk_precision *precision, int64_t head,
                  int64_t i)
{
    sum total = {0, 0};
    for (int64_t t = i < view->stored ? 0 : i - view->stored; t < a->T; t++) {
        const sum x = share(a, view, precision, head, t, i);
        total.value += x.value;
        total.bound += x.bound;
    }
    return total;
}

static kv_status answer_view(const dt_opcase *c, const dt_view *view, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_colsum_args *a = &c->args.attn_colsum;
    const ref_op_attn r = for_reference(a, view);
    int slot;
    KV_TRY(dt_answer_tensor(c, "colsum", out, &slot));
    float *dense = malloc((size_t)(a->Hq * view->n + 1) * sizeof *dense), *bits = out->bits[slot];
    if (!dense) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const kv_status st = ref_op_colsum(&r, a->weights.data, dense);
    for (int64_t head = 0; st == KV_OK && head < a->Hq; head++)
        for (int64_t i = 0; i < view->n; i++) {
            const int64_t at = head * view->n_all + view->entry[i];
            const sum x = column(a, view, precision, head, i);
            bits[at] = dense[head * view->n + i];
            out->value[slot][at] = x.value;
            out->bound[slot][at] = x.bound;
        }
    free(dense);
    return st;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_colsum_args *a = &c->args.attn_colsum;
    return dt_view_answer(c, a->segment, a->n_segments, a->Hk, a->hd, precision, answer_view, out);
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kvdk_colsum_args *a = &c->args.attn_colsum;
    char entry[64];
    (void)slot;
    *out = (dt_element_name){.token = c->dist == DT_DIST_dye ? c->part : -1,
                             .head = i / a->colsum.dim[1],
                             .slot = i % a->colsum.dim[1],
                             .dim = -1};
    dt_view_name_entry(a->segment, a->n_segments, out->slot, entry, sizeof entry);
    if (out->token < 0)
        snprintf(out->text, sizeof out->text, "head %lld, %s", (long long)out->head, entry);
    else
        snprintf(out->text, sizeof out->text, "head %lld, %s, share of token %lld", (long long)out->head, entry,
                 (long long)out->token);
}

const dt_op_impl dt_op_attn_colsum = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(uniform) | DT_DIST(peak) | DT_DIST(small) |
             DT_DIST(subnormal) | DT_DIST(constant) | DT_DIST(ascending) | DT_DIST(low) | DT_DIST(exact) | DT_DIST(dye),
    .draw = draw,
    .answer = answer,
    .name = name,
};
