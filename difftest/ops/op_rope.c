/* op_rope.c - rotation by rows of a table. (a, b) becomes (a c - b s, b c + a s): two products and one addition each,
 * in any order 3 u of the magnitudes; what is not rotated keeps its bits. */
#include "difftest/ops/oracle.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t T, H, hd, rd, P;
    int pairing;
} shapes[] = {
    {1, 1, 2, 2, 1, KVDK_ADJACENT},     {3, 2, 8, 8, 16, KVDK_HALF},       {5, 4, 32, 32, 300, KVDK_ADJACENT},
    {17, 3, 64, 32, 257, KVDK_HALF},    {2, 8, 64, 64, 1000, KVDK_HALF},   {65, 2, 20, 10, 64, KVDK_ADJACENT},
    {4, 1, 256, 256, 17, KVDK_HALF},    {16, 2, 16, 2, 40, KVDK_ADJACENT}, {7, 1, 128, 126, 20, KVDK_HALF},
    {257, 1, 8, 6, 257, KVDK_ADJACENT},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void choose(const dt_opcase *c, kvdk_rope_args *a)
{
    if (c->shape < N_SHAPES) {
        a->T = shapes[c->shape].T;
        a->H = shapes[c->shape].H;
        a->hd = shapes[c->shape].hd;
        a->rd = shapes[c->shape].rd;
        a->P = shapes[c->shape].P;
        a->pairing = shapes[c->shape].pairing;
        return;
    }
    a->T = 1 + dt_opcase_below(c, 90, 0, 40);
    a->H = 1 + dt_opcase_below(c, 90, 1, 8);
    a->hd = 4 * (1 + dt_opcase_below(c, 90, 2, 32));
    a->rd = 2 * (1 + dt_opcase_below(c, 90, 3, a->hd / 2));
    a->P = 1 + dt_opcase_below(c, 90, 4, 500);
    a->pairing = dt_opcase_below(c, 90, 5, 2);
}

/* Rows of whole numbers without a zero, whose signs would depend on the order; or those of real positions. */
static void fill_table(dt_opcase *c, kvdk_rope_args *a)
{
    float *cosine = a->cos.data, *sine = a->sin.data;
    const int64_t pairs = a->rd / 2;
    for (int64_t i = 0; i < a->P * pairs; i++) {
        double s, k;
        const double turn = kv_exp_core(-(double)(i % pairs) / (double)pairs * 9.2103403719761836);
        kv_sincos_core((double)(i / pairs) * turn, &s, &k);
        if (c->dist == DT_DIST_exact) {
            s = (double)(1 + dt_opcase_below(c, 3, (uint64_t)i, 4));
            k = (double)(-1 - dt_opcase_below(c, 4, (uint64_t)i, 4));
        }
        cosine[i] = (float)k;
        sine[i] = (float)s;
    }
}

/* Parts: which cosine, which sine, which partner was read. */
static void colour(dt_opcase *c, kvdk_rope_args *a)
{
    float *cosine = a->cos.data, *sine = a->sin.data, *x = a->x.data;
    c->n_parts = 3;
    for (int64_t i = 0; i < a->P * a->rd / 2; i++) {
        cosine[i] = c->part == 0 ? (float)(i + 1) : 0;
        sine[i] = c->part == 1 ? (float)(i + 1) : c->part == 2 ? 1 : 0;
    }
    for (int64_t i = 0; i < a->T * a->H * a->hd; i++)
        x[i] = c->part == 2 ? (float)(i + 1) : 1;
}

static kv_status draw(dt_opcase *c)
{
    kvdk_rope_args *a = &c->args.rope;
    choose(c, a);
    KV_TRY(dt_opcase_tensor(c, "x", KVDK_F32, a->T, a->H, a->hd));
    KV_TRY(dt_opcase_tensor(c, "pos", KVDK_I32, a->T, 1, 1));
    KV_TRY(dt_opcase_tensor(c, "cos", KVDK_F32, a->P, a->rd / 2, 1));
    KV_TRY(dt_opcase_tensor(c, "sin", KVDK_F32, a->P, a->rd / 2, 1));
    dt_opcase_fill(c, "x", 1, 1, a->hd);
    for (int64_t i = 0; c->dist == DT_DIST_exact && i < a->T * a->H * a->hd; i++)
        if (((float *)a->x.data)[i] == 0) ((float *)a->x.data)[i] = 1;
    for (int64_t t = 0; t < a->T; t++) /* the last row, the first, then any, in no order */
        ((int32_t *)a->pos.data)[t] = (int32_t)(t == 0   ? a->P - 1
                                                : t == 1 ? 0
                                                         : dt_opcase_below(c, 2, (uint64_t)t, a->P));
    fill_table(c, a);
    if (c->dist == DT_DIST_dye) colour(c, a);
    snprintf(c->title, sizeof c->title, "T=%lld H=%lld hd=%lld rd=%lld P=%lld %s", (long long)a->T, (long long)a->H,
             (long long)a->hd, (long long)a->rd, (long long)a->P, a->pairing == KVDK_HALF ? "half" : "adjacent");
    return KV_OK;
}

static double absolute(double x)
{
    return x < 0 ? -x : x;
}

/* Dimensions of pair i. */
static void pair_of(const kvdk_rope_args *a, int64_t i, int64_t *first, int64_t *second)
{
    *first = a->pairing == KVDK_HALF ? i : 2 * i;
    *second = a->pairing == KVDK_HALF ? i + a->rd / 2 : 2 * i + 1;
}

static void rotate(double x, double k, double y, double s, double *value, double *bound)
{
    *value = x * k + y * s;
    *bound = 3 * DT_U * (absolute(x * k) + absolute(y * s)) +
             DT_UNDERFLOW * (4 + absolute(x) + absolute(y) + absolute(k) + absolute(s));
}

static void truth(const kvdk_rope_args *a, int64_t t, int64_t h, double *value, double *bound)
{
    const float *x = (const float *)a->x.data + (t * a->H + h) * a->hd;
    const int64_t row = ((const int32_t *)a->pos.data)[t] * (a->rd / 2);
    for (int64_t d = a->rd; d < a->hd; d++)
        value[d] = (double)x[d];
    for (int64_t i = 0; i < a->rd / 2; i++) {
        int64_t p, q;
        const double k = (double)((const float *)a->cos.data)[row + i],
                     s = (double)((const float *)a->sin.data)[row + i];
        pair_of(a, i, &p, &q);
        rotate((double)x[p], k, -(double)x[q], s, &value[p], &bound[p]);
        rotate((double)x[q], k, (double)x[p], s, &value[q], &bound[q]);
    }
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_rope_args *a = &c->args.rope;
    int slot;
    (void)precision;
    KV_TRY(dt_answer_tensor(c, "x", out, &slot));
    float *bits = out->bits[slot];
    memcpy(bits, a->x.data, (size_t)(a->T * a->H * a->hd) * sizeof *bits);
    for (int64_t i = 0; i < a->T * a->H; i++) {
        const int64_t row = ((const int32_t *)a->pos.data)[i / a->H] * (a->rd / 2);
        truth(a, i / a->H, i % a->H, out->value[slot] + i * a->hd, out->bound[slot] + i * a->hd);
        ref_op_rope(bits + i * a->hd, a->rd, a->pairing == KVDK_HALF, (const float *)a->cos.data + row,
                    (const float *)a->sin.data + row);
    }
    return KV_OK;
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    static const char *const parts[] = {", cosine read", ", sine read", ", partner read"};
    const kvdk_rope_args *a = &c->args.rope;
    (void)slot;
    *out = (dt_element_name){.token = i / (a->H * a->hd), .head = i / a->hd % a->H, .slot = -1, .dim = i % a->hd};
    snprintf(out->text, sizeof out->text, "token %lld (position %d) head %lld dim %lld%s", (long long)out->token,
             ((const int32_t *)a->pos.data)[out->token], (long long)out->head, (long long)out->dim,
             c->dist != DT_DIST_dye ? ""
             : out->dim < a->rd     ? parts[c->part]
                                    : ", not to be rotated");
}

const dt_op_impl dt_op_rope = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(small) | DT_DIST(large) | DT_DIST(subnormal) |
             DT_DIST(constant) | DT_DIST(exact) | DT_DIST(dye),
    .draw = draw,
    .answer = answer,
    .name = name,
};
