/* op_attention.c - attn_prefill and attn_decode.
 *
 * Bound of an output (docs/ops.md): a score is off by at most delta = (hd + 4) u sum |q k| scale, plus the unit of the
 * type that it is kept in times |score|. Weights are off by expm1(2 delta) relatively, sums over n entries by 2 n u,
 * rescaling of blocks of 8 or more by 3 n / 8 u, the exponential by (8 + |score - max|) u; all of that times sum p |v|.
 */
#include "difftest/ops/view.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const dt_attn_shape shapes[] = {
    {1, 1, 1, 4, {0, 0, 1}, 0, KVDK_F32},      {1, 2, 1, 16, {0, 1, 1}, 0, KVDK_F32},
    {1, 4, 2, 32, {4, 60, 1}, 0, KVDK_F32},    {1, 8, 2, 64, {4, 250, 1}, 0, KVDK_F16},
    {2, 3, 3, 32, {0, 254, 2}, 0, KVDK_F32},   {3, 4, 4, 8, {1, 253, 3}, 0, KVDK_F32},
    {1, 4, 1, 32, {0, 256, 1}, 0, KVDK_BF16},  {4, 4, 2, 32, {4, 508, 4}, 2, KVDK_F32},
    {2, 2, 2, 128, {0, 17, 0}, 0, KVDK_F32},   {1, 6, 2, 20, {0, 15, 1}, 0, KVDK_F32},
    {1, 4, 2, 32, {3, 61, 1}, 3, KVDK_F16},    {1, 4, 2, 256, {0, 33, 1}, 0, KVDK_F32},
    {33, 4, 2, 32, {0, 0, 33}, 0, KVDK_F32},   {17, 4, 2, 32, {4, 250, 17}, 1, KVDK_F32},
    {64, 2, 1, 16, {0, 200, 64}, 0, KVDK_F32}, {5, 8, 8, 32, {0, 600, 5}, 0, KVDK_F16},
    {50, 3, 1, 12, {2, 3, 50}, 0, KVDK_BF16},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_DECODE = 12 };

static dt_attn_shape choose_shape(const dt_opcase *c, int64_t listed, int64_t most)
{
    dt_attn_shape s = c->shape < listed ? shapes[c->shape] : dt_attn_shape_random(c, most);
    if (c->dist == DT_DIST_exact) { /* one token, a power of two of entries: equal weights, and sums without rounding */
        s.T = 1;
        s.n[KVDK_SELF] = s.n[KVDK_SELF] > 0;
    }
    return s;
}

static kv_status draw_attention(dt_opcase *c, int64_t listed, int64_t most)
{
    kvdk_attn_args *a = &c->args.attn_prefill;
    const dt_attn_shape s = choose_shape(c, listed, most);
    a->T = s.T;
    a->Hq = s.Hq;
    a->Hk = s.Hk;
    a->hd = s.hd;
    KV_TRY(dt_view_draw(c, &s, &a->scale, &a->n_segments, 1));
    KV_TRY(dt_opcase_tensor(c, "o", KVDK_F32, s.T, s.Hq, s.hd));
    if (c->shape % 3 == 2) return KV_OK; /* statistics are not always wanted */
    KV_TRY(dt_opcase_tensor(c, "row_max", KVDK_F32, s.Hq, s.T, 1));
    return dt_opcase_tensor(c, "row_sum", KVDK_F32, s.Hq, s.T, 1);
}

static kv_status draw_prefill(dt_opcase *c)
{
    return draw_attention(c, N_SHAPES, 70);
}
static kv_status draw_decode(dt_opcase *c)
{
    return draw_attention(c, N_DECODE, 4);
}

/* ---- truth
 * ----------------------------------------------------------------------------------------------------------- */

/* One row of one head. */
typedef struct row {
    const kvdk_attn_args *a;
    const dt_view *view;
    const kvdk_precision *precision;
    int64_t t, head, seen; /* entries that it sees */
    double *score;         /* [n] */
    double *weight, *off;  /* [n] exp(score - max) / sum, and how far it may be off */
    double max, sum, delta;
} row;

static double fabs_of(double x)
{
    return x < 0 ? -x : x;
}

static void score_row(row *r)
{
    const kvdk_attn_args *a = r->a;
    const float *q = (const float *)a->q.data + (r->t * a->Hq + r->head) * a->hd;
    const int64_t kv = r->head / (a->Hq / a->Hk);
    r->max = -(double)kv_inf();
    r->delta = r->sum = 0;
    for (int64_t i = 0; i < r->seen; i++) {
        const float *k = r->view->k + (i * a->Hk + kv) * a->hd;
        double s = 0, magnitude = 0;
        for (int64_t d = 0; d < a->hd; d++) {
            const double term = (double)q[d] * (double)k[d] * a->scale;
            s += term;
            magnitude += fabs_of(term);
        }
        const double off = ((double)a->hd + 4) * DT_U * magnitude + dt_unit_of(r->precision->scores) * fabs_of(s) +
                           (double)a->hd * DT_UNDERFLOW;
        r->score[i] = s;
        r->max = s > r->max ? s : r->max;
        r->delta = off > r->delta ? off : r->delta;
    }
    for (int64_t i = 0; i < r->seen; i++)
        r->sum += r->weight[i] = kv_dexp(r->score[i] - r->max);
}

/* Relative error of a weight with such a score, and of sums of weights. */
static double weight_error(const row *r, double score)
{
    const double n = (double)r->seen;
    const double x = 2 * r->delta;
    const double grown = x < 1e-3 ? x * (1 + x) : kv_dexp(x < 700 ? x : 700) - 1;
    return grown + (2 * n + 3 * n / 8 + 16 + 8 + fabs_of(score - r->max)) * DT_U +
           dt_unit_of(r->precision->probabilities) + n * dt_unit_of(r->precision->accumulators);
}

static void weigh_row(row *r)
{
    for (int64_t i = 0; i < r->seen; i++) {
        r->weight[i] = r->weight[i] / r->sum;
        r->off[i] = r->weight[i] * weight_error(r, r->score[i]);
    }
}

static void output_row(const row *r, double *value, double *bound)
{
    const kvdk_attn_args *a = r->a;
    const int64_t kv = r->head / (a->Hq / a->Hk);
    for (int64_t d = 0; d < a->hd; d++) {
        double o = 0, off = 0, magnitude = 0;
        for (int64_t i = 0; i < r->seen; i++) {
            const double v = (double)r->view->v[(i * a->Hk + kv) * a->hd + d];
            o += r->weight[i] * v;
            off += r->off[i] * fabs_of(v);
            magnitude += fabs_of(v);
        }
        value[d] = o;
        bound[d] = off + DT_UNDERFLOW * (magnitude + 2 * (double)r->seen + 2);
    }
}

typedef struct statistics {
    double *max, *max_bound, *sum, *sum_bound; /* [Hq][T], or NULL */
} statistics;

static void note_statistics(const row *r, const statistics *s)
{
    const int64_t at = r->head * r->a->T + r->t;
    if (s->max) {
        s->max[at] = r->max;
        s->max_bound[at] = r->seen ? r->delta : 0;
    }
    if (s->sum) {
        s->sum[at] = r->sum;
        for (int64_t i = 0; i < r->seen; i++)
            s->sum_bound[at] += r->sum * r->off[i];
        s->sum_bound[at] += DT_UNDERFLOW * (double)r->seen;
    }
}

static kv_status truth(const kvdk_attn_args *a, const dt_view *view, const kvdk_precision *precision, double *o,
                       double *bound, const statistics *s)
{
    row r = {.a = a, .view = view, .precision = precision};
    r.score = malloc((size_t)(3 * view->n + 3) * sizeof *r.score);
    r.weight = r.score + view->n + 1;
    r.off = r.weight + view->n + 1;
    if (!r.score) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (r.t = 0; r.t < a->T; r.t++)
        for (r.head = 0; r.head < a->Hq; r.head++) {
            const int64_t at = (r.t * a->Hq + r.head) * a->hd, limit = view->stored + r.t + 1;
            r.seen = view->n < limit ? view->n : limit;
            score_row(&r);
            weigh_row(&r);
            if (r.seen) output_row(&r, o + at, bound + at);
            note_statistics(&r, s);
        }
    free(r.score);
    return KV_OK;
}

static ref_op_attn for_reference(const kvdk_attn_args *a, const dt_view *view)
{
    return (ref_op_attn){.q = a->q.data,
                         .k = view->k,
                         .v = view->v,
                         .T = a->T,
                         .Hq = a->Hq,
                         .Hk = a->Hk,
                         .D = a->hd,
                         .n = view->n,
                         .stored = view->stored,
                         .scale = (float)a->scale};
}

static kv_status answer_view(const dt_opcase *c, const dt_view *view, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_attn_args *a = &c->args.attn_prefill;
    int o, max = -1, sum = -1;
    KV_TRY(dt_answer_tensor(c, "o", out, &o));
    if (a->row_max.data) KV_TRY(dt_answer_tensor(c, "row_max", out, &max));
    if (a->row_sum.data) KV_TRY(dt_answer_tensor(c, "row_sum", out, &sum));
    const statistics s = {max < 0 ? NULL : out->value[max], max < 0 ? NULL : out->bound[max],
                          sum < 0 ? NULL : out->value[sum], sum < 0 ? NULL : out->bound[sum]};
    KV_TRY(truth(a, view, precision, out->value[o], out->bound[o], &s));
    float *rows = malloc((size_t)(2 * a->Hq * a->T) * sizeof *rows);
    if (!rows) return kv_fail(KV_ERR_NOMEM, "out of memory");
    ref_op_attn r = for_reference(a, view);
    r.o = out->bits[o];
    r.max = max < 0 ? rows : out->bits[max];
    r.sum = sum < 0 ? rows + a->Hq * a->T : out->bits[sum];
    const kv_status st = ref_op_attention(&r);
    free(rows);
    return st;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_attn_args *a = &c->args.attn_prefill;
    return dt_view_answer(c, a->segment, a->n_segments, a->Hk, a->hd, precision, answer_view, out);
}

/* ---- names
 * -------------------------------------------------------------------------------------------------------------- */

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kvdk_attn_args *a = &c->args.attn_prefill;
    char entry[64];
    *out = (dt_element_name){.slot = -1, .dim = -1};
    if (strncmp(dt_op_schemas[c->op].tensors[slot].name, "row_", 4) == 0) {
        out->head = i / a->T;
        out->token = i % a->T;
        snprintf(out->text, sizeof out->text, "token %lld head %lld", (long long)out->token, (long long)out->head);
        return;
    }
    out->token = i / (a->Hq * a->hd);
    out->head = i / a->hd % a->Hq;
    out->dim = i % a->hd;
    if (c->dist != DT_DIST_dye) {
        snprintf(out->text, sizeof out->text, "token %lld head %lld dim %lld", (long long)out->token,
                 (long long)out->head, (long long)out->dim);
        return;
    }
    out->slot = c->part * a->hd + out->dim;
    dt_view_name_entry(a->segment, a->n_segments, out->slot, entry, sizeof entry);
    snprintf(out->text, sizeof out->text, "token %lld head %lld, weight of %s", (long long)out->token,
             (long long)out->head, entry);
}

enum {
    DISTS = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(uniform) | DT_DIST(peak) | DT_DIST(small) |
            DT_DIST(subnormal) | DT_DIST(constant) | DT_DIST(ascending) | DT_DIST(low) | DT_DIST(exact) | DT_DIST(dye)
};

const dt_op_impl dt_op_attn_prefill = {N_SHAPES, DISTS, draw_prefill, answer, name, NULL};
const dt_op_impl dt_op_attn_decode = {N_DECODE, DISTS, draw_decode, answer, name, NULL};
