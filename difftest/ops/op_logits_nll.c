/* op_logits_nll.c - head, softcap and negative log-likelihood of one target a row.
 *
 * Bound: a logit is off by e = (D + 2) u sum |h w|; a softcap has a derivative below 1 and costs 10 u |z| of its own.
 * delta, the largest of a row, is how far row_max may be off. Every term of the sum is off by expm1(2 delta) + (8 + |z
 * - max|) u, V terms in any order by V u. nll = log(sum) - (z_t - max): 2 delta, the relative error of the sum, and 4 u
 * of each of the three numbers. */
#include "difftest/ops/oracle.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t T, D, V;
    float softcap;
} shapes[] = {
    {1, 1, 1, 0},    {3, 16, 2, 0},   {2, 31, 63, 30},   {5, 32, 64, 0},  {4, 255, 65, 15}, {1, 257, 255, 0},
    {17, 8, 257, 0}, {2, 4, 4095, 0}, {1, 16, 4096, 30}, {3, 8, 4097, 0}, {1, 5, 8193, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void choose(const dt_opcase *c, kvdk_nll_args *a)
{
    if (c->shape < N_SHAPES) {
        a->T = shapes[c->shape].T;
        a->D = shapes[c->shape].D;
        a->V = shapes[c->shape].V;
        a->softcap = (double)shapes[c->shape].softcap;
        return;
    }
    a->T = 1 + dt_opcase_below(c, 90, 0, 8);
    a->D = 1 + dt_opcase_below(c, 90, 1, 64);
    a->V = 1 + dt_opcase_below(c, 90, 2, 6000);
    a->softcap = dt_opcase_below(c, 90, 3, 3) ? 0 : 20;
}

/* Component 0 says how large a logit is; the others matter little. */
static void shape_logits(dt_opcase *c, kvdk_nll_args *a)
{
    float *h = a->h.data, *w = a->w.data;
    if (c->dist != DT_DIST_ascending && c->dist != DT_DIST_low && c->dist != DT_DIST_peak) return;
    for (int64_t t = 0; t < a->T; t++)
        h[t * a->D] = 1;
    for (int64_t v = 0; v < a->V; v++) {
        for (int64_t d = 1; d < a->D; d++)
            w[v * a->D + d] *= 0.1f;
        w[v * a->D] = c->dist == DT_DIST_low         ? -150
                      : c->dist == DT_DIST_ascending ? 0.02f * (float)v
                      : v == a->V / 2                ? 40
                                                     : 0;
    }
}

static kv_status draw(dt_opcase *c)
{
    kvdk_nll_args *a = &c->args.logits_nll;
    choose(c, a);
    KV_TRY(dt_opcase_tensor(c, "h", KVDK_F32, a->T, a->D, 1));
    KV_TRY(dt_opcase_tensor(c, "w", KVDK_F32, a->V, a->D, 1));
    KV_TRY(dt_opcase_tensor(c, "target", KVDK_I32, a->T, 1, 1));
    KV_TRY(dt_opcase_tensor(c, "nll", KVDK_F32, a->T, 1, 1));
    KV_TRY(dt_opcase_tensor(c, "row_max", KVDK_F32, a->T, 1, 1));
    KV_TRY(dt_opcase_tensor(c, "row_sum", KVDK_F32, a->T, 1, 1));
    dt_opcase_fill(c, "h", 1, 1, a->D);
    dt_opcase_fill(c, "w", 2, c->dist == DT_DIST_uniform ? 1e-3 : 1, a->D);
    shape_logits(c, a);
    for (int64_t t = 0; t < a->T; t++) /* the last one, the first one, then any */
        ((int32_t *)a->target.data)[t] = (int32_t)(t == 0   ? a->V - 1
                                                   : t == 1 ? 0
                                                            : dt_opcase_below(c, 3, (uint64_t)t, a->V));
    snprintf(c->title, sizeof c->title, "T=%lld D=%lld V=%lld softcap=%g", (long long)a->T, (long long)a->D,
             (long long)a->V, a->softcap);
    return KV_OK;
}

/* ---- truth
 * ---------------------------------------------------------------------------------------------------------------- */

static double absolute(double x)
{
    return x < 0 ? -x : x;
}

static double tanh_of(double x)
{
    const double y = absolute(x), e = kv_dexp(-2 * y);
    const double t = y < 1e-3 ? y - y * y * y / 3 + 2 * y * y * y * y * y / 15 : (1 - e) / (1 + e);
    return x < 0 ? -t : t;
}

typedef struct logits {
    double *z;                     /* [V] */
    double max, delta, sum, error; /* error of the sum */
} logits;

static void make_logits(const kvdk_nll_args *a, int64_t t, logits *l)
{
    const float *h = (const float *)a->h.data + t * a->D;
    l->delta = 0;
    for (int64_t v = 0; v < a->V; v++) {
        const float *w = (const float *)a->w.data + v * a->D;
        double z = 0, magnitude = 0, inputs = 0;
        for (int64_t d = 0; d < a->D; d++) {
            const double term = (double)h[d] * (double)w[d];
            z += term;
            magnitude += absolute(term);
            inputs += absolute((double)h[d]) + absolute((double)w[d]) + 1;
        }
        double off = ((double)a->D + 2) * DT_U * magnitude + inputs * DT_UNDERFLOW;
        if (a->softcap != 0) {
            z = a->softcap * tanh_of(z / a->softcap);
            off += 10 * DT_U * absolute(z) + (2 + a->softcap) * DT_UNDERFLOW;
        }
        l->z[v] = z;
        l->max = v == 0 || z > l->max ? z : l->max;
        l->delta = off > l->delta ? off : l->delta;
    }
}

static void add_up(const kvdk_nll_args *a, logits *l)
{
    const double x = 2 * l->delta, grown = x < 1e-3 ? x * (1 + x) : kv_dexp(x < 700 ? x : 700) - 1;
    l->sum = l->error = 0;
    for (int64_t v = 0; v < a->V; v++) {
        const double below = l->max - l->z[v], e = kv_dexp(-below);
        l->sum += e;
        l->error += e * (grown + (8 + below) * DT_U) + DT_UNDERFLOW;
    }
    l->error += (double)a->V * DT_U * l->sum;
}

static void truth(const kvdk_nll_args *a, const int slot[3], logits *l, dt_answer *out)
{
    for (int64_t t = 0; t < a->T; t++) {
        make_logits(a, t, l);
        add_up(a, l);
        const double z = l->z[((const int32_t *)a->target.data)[t]], log_sum = kv_log_core(l->sum),
                     nll = log_sum - (z - l->max);
        out->value[slot[0]][t] = nll;
        out->bound[slot[0]][t] = 2 * l->delta + l->error / l->sum * (1 + l->error / l->sum) +
                                 4 * DT_U * (absolute(log_sum) + absolute(z - l->max) + absolute(nll)) + DT_UNDERFLOW;
        out->value[slot[1]][t] = l->max;
        out->bound[slot[1]][t] = l->delta;
        out->value[slot[2]][t] = l->sum;
        out->bound[slot[2]][t] = l->error;
    }
}

static kv_status bits_of(const kvdk_nll_args *a, const int slot[3], dt_answer *out)
{
    float *nll = out->bits[slot[0]], *max = out->bits[slot[1]], *sum = out->bits[slot[2]];
    float *z = malloc((size_t)(a->T * a->V) * sizeof *z);
    if (!z) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_status st = ref_op_gemm(a->h.data, a->w.data, a->T, a->V, a->D, z);
    for (int64_t t = 0; st == KV_OK && t < a->T; t++)
        st = ref_op_nll(z + t * a->V, a->V, (float)a->softcap, ((const int32_t *)a->target.data)[t], &nll[t], &max[t],
                        &sum[t]);
    free(z);
    return st;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_nll_args *a = &c->args.logits_nll;
    int slot[3];
    logits l = {0};
    (void)precision; /* it speaks of attention */
    KV_TRY(dt_answer_tensor(c, "nll", out, &slot[0]));
    KV_TRY(dt_answer_tensor(c, "row_max", out, &slot[1]));
    KV_TRY(dt_answer_tensor(c, "row_sum", out, &slot[2]));
    l.z = malloc((size_t)a->V * sizeof *l.z);
    if (!l.z) return kv_fail(KV_ERR_NOMEM, "out of memory");
    truth(a, slot, &l, out);
    free(l.z);
    return bits_of(a, slot, out);
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    (void)slot;
    *out = (dt_element_name){.token = i, .head = -1, .slot = -1, .dim = -1};
    snprintf(out->text, sizeof out->text, "token %lld (target %d)", (long long)i,
             ((const int32_t *)c->args.logits_nll.target.data)[i]);
}

const dt_op_impl dt_op_logits_nll = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(uniform) | DT_DIST(peak) | DT_DIST(small) | DT_DIST(large) |
             DT_DIST(subnormal) | DT_DIST(constant) | DT_DIST(ascending) | DT_DIST(low),
    .draw = draw,
    .answer = answer,
    .name = name,
};
