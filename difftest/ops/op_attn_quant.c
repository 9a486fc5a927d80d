/* op_attn_quant.c - attention of one token over coded tiles and a tail of rotated rows (docs/policy/kvarn.md,
 * "Attention").
 *
 * Bound. A rotation of D numbers is log2(D) additions and a product per element: off by R = (log2 D + 3) u of the sum
 * of magnitudes over sqrt(D). A coded key is (w S + Z) c, of magnitude kmag = (|w S| + |Z|) |c|, whatever order its
 * factors are used in; a score is off by delta = scale sum (|k| R_q + kmag (D + 10) u |q'|), plus the unit of the type
 * that it is kept in. Weights are off as in op_attention.c, which moves the result along the rotated values: by the sum
 * of p (weight's error) |H v|. A coded value has the magnitude vmag = (|w S| + |Z|) |c|: before the last rotation a sum
 * over n of them is off by (n + 8) u sum p vmag; the rotation spreads that over the row and adds R of its own. */
#include "difftest/ops/oracle.h"

#include "common/math.h"
#include "common/numfmt.h"
#include "common/tile.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t Hq, Hk, hd, tiles, tail, tile, kbits, vbits;
} shapes[] = {
    {1, 1, 32, 1, 0, 32, 4, 2},  {2, 1, 32, 0, 5, 32, 4, 2}, {4, 2, 64, 3, 31, 32, 3, 5},
    {2, 2, 64, 2, 1, 128, 4, 2}, {4, 1, 32, 9, 7, 32, 8, 8}, {2, 1, 128, 1, 17, 64, 6, 3},
    {2, 2, 256, 9, 3, 32, 4, 2}, {4, 2, 32, 8, 0, 32, 2, 4}, {6, 2, 32, 5, 63, 64, 5, 6},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, SHAPE = 90 };

static void choose(const dt_opcase *c, kvdk_attn_quant_args *a)
{
    static const int64_t widths[] = {2, 3, 4, 5, 6, 8};
    if (c->shape < N_SHAPES) {
        a->Hq = shapes[c->shape].Hq;
        a->Hk = shapes[c->shape].Hk;
        a->hd = shapes[c->shape].hd;
        a->tiles = shapes[c->shape].tiles;
        a->tail = shapes[c->shape].tail;
        a->tile = shapes[c->shape].tile;
        a->kbits = shapes[c->shape].kbits;
        a->vbits = shapes[c->shape].vbits;
        return;
    }
    a->Hk = 1 + dt_opcase_below(c, SHAPE, 0, 3);
    a->Hq = a->Hk * (1 + dt_opcase_below(c, SHAPE, 1, 3));
    a->hd = 32 << dt_opcase_below(c, SHAPE, 2, 3);
    a->tile = 32 << dt_opcase_below(c, SHAPE, 3, 3);
    a->tiles = dt_opcase_below(c, SHAPE, 4, 512 / a->tile);
    a->tail = a->tiles ? dt_opcase_below(c, SHAPE, 5, a->tile) : 1 + dt_opcase_below(c, SHAPE, 5, a->tile - 1);
    a->kbits = widths[dt_opcase_below(c, SHAPE, 6, 6)];
    a->vbits = widths[dt_opcase_below(c, SHAPE, 7, 6)];
}

static kv_kvarn_params params_of(const kvdk_attn_quant_args *a)
{
    return (kv_kvarn_params){.tile = (int32_t)a->tile,
                             .kbits = (int32_t)a->kbits,
                             .vbits = (int32_t)a->vbits,
                             .iters = 3,
                             .dialect = KV_KVARN_A,
                             .tie = KV_TIE_LITERAL};
}

/* Records are what coding of normal numbers gives; of small ones when the distribution is. */
static kv_status draw_records(dt_opcase *c, kvdk_attn_quant_args *a)
{
    const kv_kvarn_params p = params_of(a);
    const int64_t bytes = a->records.dim[2], n = a->tile * a->hd;
    float *k = malloc((size_t)(2 * n) * sizeof *k), *v = k + n;
    kv_status st = k ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int64_t i = 0; st == KV_OK && i < a->tiles * a->Hk; i++) {
        const double factor = c->dist == DT_DIST_small ? 1e-3 : 1;
        for (int64_t j = 0; j < n; j++) {
            const double outlier = c->dist == DT_DIST_outlier && j % a->hd == 5 ? 50 : 1;
            k[j] = (float)(factor * outlier * dt_opcase_normal(c, 4, (uint64_t)(i * n + j)));
            v[j] = (float)(factor * dt_opcase_normal(c, 5, (uint64_t)(i * n + j)));
        }
        st = ref_op_kvarn_tile(&p, k, v, a->hd, (uint8_t *)a->records.data + i * bytes);
    }
    free(k);
    return st;
}

static kv_status draw(dt_opcase *c)
{
    kvdk_attn_quant_args *a = &c->args.attn_quant;
    choose(c, a);
    const kv_kvarn_params p = params_of(a);
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p, (int32_t)a->hd);
    a->scale = (double)(float)(1.0 / kv_dsqrt((double)a->hd));
    KV_TRY(dt_opcase_tensor(c, "q", KVDK_F32, a->Hq, a->hd, 1));
    KV_TRY(dt_opcase_tensor(c, "records", KVDK_U8, a->tiles, a->Hk, l.bytes));
    KV_TRY(dt_opcase_tensor(c, "tail_k", KVDK_F32, a->tail, a->Hk, a->hd));
    KV_TRY(dt_opcase_tensor(c, "tail_v", KVDK_F32, a->tail, a->Hk, a->hd));
    KV_TRY(dt_opcase_tensor(c, "o", KVDK_F32, a->Hq, a->hd, 1));
    dt_opcase_fill(c, "q", 1, c->dist == DT_DIST_peak ? 12 : c->dist == DT_DIST_uniform ? 1e-3 : 1, a->hd);
    dt_opcase_fill(c, "tail_k", 2, 1, a->hd);
    dt_opcase_fill(c, "tail_v", 3, 1, a->hd);
    snprintf(c->title, sizeof c->title, "Hq=%lld Hk=%lld hd=%lld tiles=%lld tail=%lld tile=%lld K%lld V%lld",
             (long long)a->Hq, (long long)a->Hk, (long long)a->hd, (long long)a->tiles, (long long)a->tail,
             (long long)a->tile, (long long)a->kbits, (long long)a->vbits);
    return draw_records(c, a);
}

/* ---- truth
 * ---------------------------------------------------------------------------------------------------------------- */

static double absolute(double x)
{
    return x < 0 ? -x : x;
}

typedef struct row {
    const kvdk_attn_quant_args *a;
    const kvdk_precision *precision;
    kv_kvarn_layout l;
    int64_t n, head;
    double *score;  /* [n] */
    double *weight; /* [n] exp(score - max) / sum */
    double q[256], q_off, delta, max;
} row;

/* How far every element of a rotated row is off, in units of its own rounding. */
static double rotation_error(const double *x, int64_t D)
{
    double sum = 0, log2 = 0;
    for (int64_t i = 0; i < D; i++)
        sum += absolute(x[i]);
    for (int64_t d = D; d > 1; d /= 2)
        log2++;
    return (log2 + 3) * DT_U * sum / kv_dsqrt((double)D) + (double)D * DT_UNDERFLOW;
}

/* Element i is the sum of all x[j] with the sign of the parity of i & j: all pairs that differ in one bit, bit by bit.
 */
static void rotate(const double *x, int64_t D, double *out)
{
    for (int64_t i = 0; i < D; i++)
        out[i] = x[i] / kv_dsqrt((double)D);
    for (int64_t bit = D / 2; bit > 0; bit /= 2)
        for (int64_t i = 0; i < D; i++) {
            const double a = out[i], b = out[i | bit];
            if (i & bit) continue;
            out[i] = a + b;
            out[i | bit] = a - b;
        }
}

static double half_at(const uint8_t *p, int64_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof h);
    return (double)kv_f162f(h);
}

typedef struct coded {
    double value, magnitude;
} coded;

static coded decode(uint32_t code, double scale, double zero, double outer)
{
    const double ws = (double)code * scale;
    return (coded){(ws + zero) * outer, (absolute(ws) + absolute(zero)) * absolute(outer)};
}

static coded plain(const kvdk_tensor *t, int64_t i)
{
    const double x = (double)((const float *)t->data)[i];
    return (coded){x, absolute(x)};
}

static const uint8_t *record_of(const row *r, int64_t i, int64_t kv)
{
    return (const uint8_t *)r->a->records.data + (i / r->a->tile * r->a->Hk + kv) * r->l.bytes;
}

/* Key and value of entry i for the row's head, channel d. */
static coded key_at(const row *r, int64_t i, int64_t d)
{
    const kvdk_attn_quant_args *a = r->a;
    const int64_t kv = r->head / (a->Hq / a->Hk), j = i % a->tile, t = i - a->tiles * a->tile;
    if (t >= 0) return plain(&a->tail_k, (t * a->Hk + kv) * a->hd + d);
    const uint8_t *p = record_of(r, i, kv);
    return decode(kv_code_get(p + r->l.k_codes + d * r->l.k_row, (int32_t)j, (int32_t)a->kbits),
                  half_at(p + r->l.k_scale, d), half_at(p + r->l.k_zero, d), half_at(p + r->l.k_col, j));
}

static coded value_at(const row *r, int64_t i, int64_t d)
{
    const kvdk_attn_quant_args *a = r->a;
    const int64_t kv = r->head / (a->Hq / a->Hk), j = i % a->tile, t = i - a->tiles * a->tile;
    if (t >= 0) return plain(&a->tail_v, (t * a->Hk + kv) * a->hd + d);
    const uint8_t *p = record_of(r, i, kv);
    const int64_t group = j * r->l.v_groups + d / r->l.v_group;
    return decode(kv_code_get(p + r->l.v_codes + j * r->l.v_row, (int32_t)d, (int32_t)a->vbits),
                  half_at(p + r->l.v_scale, group), half_at(p + r->l.v_zero, group), half_at(p + r->l.v_col, d));
}

static void score_row(row *r)
{
    const kvdk_attn_quant_args *a = r->a;
    r->delta = 0;
    for (int64_t i = 0; i < r->n; i++) {
        double s = 0, off = 0;
        for (int64_t d = 0; d < a->hd; d++) {
            const coded k = key_at(r, i, d);
            s += r->q[d] * k.value * a->scale;
            off += a->scale *
                       (absolute(k.value) * r->q_off + k.magnitude * ((double)a->hd + 10) * DT_U * absolute(r->q[d])) +
                   (1 + k.magnitude) * DT_UNDERFLOW;
        }
        off += dt_unit_of(r->precision->scores) * absolute(s);
        r->score[i] = s;
        r->max = i == 0 || s > r->max ? s : r->max;
        r->delta = off > r->delta ? off : r->delta;
    }
}

/* Relative error of a weight, the sums over n included: op_attention.c has the same terms. */
static double weight_error(const row *r, double score)
{
    const double n = (double)r->n, x = 2 * r->delta, grown = x < 1e-3 ? x * (1 + x) : kv_dexp(x < 700 ? x : 700) - 1;
    return grown + (2 * n + 3 * n / 8 + 24 + absolute(score - r->max)) * DT_U +
           dt_unit_of(r->precision->probabilities) + n * dt_unit_of(r->precision->accumulators);
}

/* Adds entry i: its value before the rotation, how far that may be off, and what the error of its weight does behind
 * it. */
static void add_entry(const row *r, int64_t i, double p, double *o, double *off, double *bound)
{
    const int64_t D = r->a->hd;
    const double error = p * weight_error(r, r->score[i]);
    double v[256], turned[256];
    for (int64_t d = 0; d < D; d++) {
        const coded x = value_at(r, i, d);
        v[d] = x.value;
        o[d] += p * x.value;
        *off += p * x.magnitude * ((double)r->n + 8) * DT_U + (2 + x.magnitude) * DT_UNDERFLOW;
    }
    rotate(v, D, turned);
    for (int64_t d = 0; d < D; d++)
        bound[d] += error * absolute(turned[d]);
}

static void attend(row *r, double *value, double *bound)
{
    const int64_t D = r->a->hd;
    double o[256] = {0}, off = 0, sum = 0;
    for (int64_t i = 0; i < r->n; i++)
        sum += r->weight[i] = kv_dexp(r->score[i] - r->max);
    for (int64_t i = 0; i < r->n; i++)
        add_entry(r, i, r->weight[i] / sum, o, &off, bound);
    rotate(o, D, value);
    const double last = rotation_error(o, D);
    for (int64_t d = 0; d < D; d++)
        bound[d] += off / kv_dsqrt((double)D) + last;
}

static kv_status truth(const kvdk_attn_quant_args *a, const kvdk_precision *precision, double *value, double *bound)
{
    const kv_kvarn_params p = params_of(a);
    row r = {
        .a = a, .precision = precision, .l = kv_kvarn_layout_of(&p, (int32_t)a->hd), .n = a->tiles * a->tile + a->tail};
    r.score = malloc((size_t)(2 * r.n) * sizeof *r.score);
    r.weight = r.score + r.n;
    if (!r.score) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (r.head = 0; r.head < a->Hq; r.head++) {
        double q[256];
        for (int64_t d = 0; d < a->hd; d++)
            q[d] = (double)((const float *)a->q.data)[r.head * a->hd + d];
        rotate(q, a->hd, r.q);
        r.q_off = rotation_error(q, a->hd);
        score_row(&r);
        attend(&r, value + r.head * a->hd, bound + r.head * a->hd);
    }
    free(r.score);
    return KV_OK;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_attn_quant_args *a = &c->args.attn_quant;
    const kv_kvarn_params p = params_of(a);
    int slot;
    KV_TRY(dt_answer_tensor(c, "o", out, &slot));
    KV_TRY(truth(a, precision, out->value[slot], out->bound[slot]));
    const ref_op_kvarn_attn r = {.params = p,
                                 .q = a->q.data,
                                 .records = a->records.data,
                                 .tail_k = a->tail_k.data,
                                 .tail_v = a->tail_v.data,
                                 .Hq = a->Hq,
                                 .Hk = a->Hk,
                                 .D = a->hd,
                                 .tiles = a->tiles,
                                 .tail = a->tail,
                                 .scale = (float)a->scale,
                                 .o = out->bits[slot]};
    return ref_op_kvarn_attention(&r);
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const int64_t hd = c->args.attn_quant.hd;
    (void)slot;
    *out = (dt_element_name){.token = 0, .head = i / hd, .slot = -1, .dim = i % hd};
    snprintf(out->text, sizeof out->text, "head %lld dim %lld", (long long)(i / hd), (long long)(i % hd));
}

const dt_op_impl dt_op_attn_quant = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(uniform) | DT_DIST(peak) | DT_DIST(small) | DT_DIST(constant),
    .draw = draw,
    .answer = answer,
    .name = name,
};
