/* op_cascade_plan.c - where the tokens of a step go in a cascade (docs/policy/cascade.md, "Insertion of one token").
 * All results are whole numbers. The state before the step is one that a cascade can be in: the reference has fed it
 * `seen` tokens with random scores; then the scores are drawn anew, so that ties, NaN and numbers below the normal
 * range meet. */
#include "difftest/ops/oracle.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t G, T, sinks, W, levels, eager, seen;
    int nan;
} shapes[] = {
    {1, 1, 0, 1, 1, 1, 0, 0},    {1, 16, 1, 2, 3, 1, 0, 0},  {2, 1, 1, 2, 3, 1, 7, 0},    {2, 5, 1, 2, 3, 1, 6, 0},
    {1, 1, 4, 16, 4, 1, 68, 0},  {2, 3, 4, 16, 4, 1, 67, 0}, {3, 7, 4, 16, 4, 1, 60, 0},  {2, 33, 4, 16, 4, 1, 100, 1},
    {2, 64, 4, 16, 4, 0, 0, 0},  {2, 2, 0, 3, 8, 1, 500, 0}, {2, 9, 2, 5, 3, 0, 40, 1},   {2, 257, 4, 16, 2, 1, 300, 0},
    {1, 1, 4, 64, 4, 1, 999, 0}, {3, 20, 3, 1, 5, 1, 50, 1}, {4, 16, 64, 7, 3, 1, 70, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static int choose(const dt_opcase *c, kvdk_plan_args *a)
{
    if (c->shape < N_SHAPES) {
        a->G = shapes[c->shape].G;
        a->T = shapes[c->shape].T;
        a->sinks = shapes[c->shape].sinks;
        a->W = shapes[c->shape].W;
        a->levels = shapes[c->shape].levels;
        a->eager = shapes[c->shape].eager;
        a->seen = shapes[c->shape].seen;
        return shapes[c->shape].nan;
    }
    a->G = 1 + dt_opcase_below(c, 90, 0, 4);
    a->T = 1 + dt_opcase_below(c, 90, 1, 50);
    a->sinks = dt_opcase_below(c, 90, 2, 8);
    a->W = 1 + dt_opcase_below(c, 90, 3, 20);
    a->levels = 1 + dt_opcase_below(c, 90, 4, 8);
    a->eager = dt_opcase_below(c, 90, 5, 4) > 0;
    a->seen = dt_opcase_below(c, 90, 6, 3 * (a->sinks + a->W * a->levels));
    return dt_opcase_below(c, 90, 7, 4) == 0;
}

static ref_op_cascade for_reference(const kvdk_plan_args *a)
{
    return (ref_op_cascade){.G = a->G,
                            .T = a->T,
                            .sinks = a->sinks,
                            .W = a->W,
                            .levels = a->levels,
                            .eager = a->eager,
                            .seen = a->seen,
                            .score = a->score.data,
                            .new_score = a->new_score.data,
                            .og = a->og.data};
}

/* Feeds the first `seen` tokens to an empty cascade: og and rings of c. */
static kv_status draw_history(dt_opcase *c, kvdk_plan_args *a)
{
    const int64_t S = a->sinks + a->W * a->levels, n = a->seen;
    int64_t *og = a->og.data, *dropped = malloc((size_t)(a->G * n + 1) * sizeof *dropped);
    int32_t *src = malloc((size_t)(a->G * S) * sizeof *src);
    float *fresh = malloc((size_t)(a->G * n + 1) * sizeof *fresh);
    kv_status st = dropped && src && fresh ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int64_t i = 0; st == KV_OK && i < a->G * n; i++)
        fresh[i] = (float)dt_opcase_normal(c, 6, (uint64_t)i);
    for (int64_t i = 0; i < a->G * S; i++)
        og[i] = -1;
    ref_op_cascade r = for_reference(a);
    r.T = n;
    r.seen = 0;
    r.new_score = fresh;
    r.rings = a->rings.data;
    r.src = src;
    r.dropped = dropped;
    if (st == KV_OK && n) st = ref_op_cascade_plan(&r);
    for (int64_t i = 0; st == KV_OK && n && i < a->G * S; i++)
        og[i] = src[i] < 0 ? -1 - src[i] : -1;
    free(fresh);
    free(src);
    free(dropped);
    return st;
}

/* New tokens win every duel, or NaN is on either side of it. */
static void shape_scores(dt_opcase *c, kvdk_plan_args *a, int nan)
{
    float *stored = a->score.data, *fresh = a->new_score.data;
    const int64_t S = a->sinks + a->W * a->levels;
    for (int64_t i = 0; i < a->G * S; i++) {
        if (c->dist == DT_DIST_ascending) stored[i] = (float)((const int64_t *)a->og.data)[i];
        if (nan && dt_opcase_below(c, 7, (uint64_t)i, 4) == 0) stored[i] = kv_bits2f(0x7fc00000);
        if (i % S < a->sinks) stored[i] = 0;
    }
    for (int64_t i = 0; i < a->G * a->T; i++) {
        if (c->dist == DT_DIST_ascending) fresh[i] = (float)(a->seen + i % a->T);
        if (nan && dt_opcase_below(c, 8, (uint64_t)i, 4) == 0) fresh[i] = kv_bits2f(0x7fc00000);
    }
}

static kv_status draw(dt_opcase *c)
{
    kvdk_plan_args *a = &c->args.cascade_plan;
    const int nan = choose(c, a);
    const int64_t S = a->sinks + a->W * a->levels;
    KV_TRY(dt_opcase_tensor(c, "score", KVDK_F32, a->G, S, 1));
    KV_TRY(dt_opcase_tensor(c, "new_score", KVDK_F32, a->G, a->T, 1));
    KV_TRY(dt_opcase_tensor(c, "og", KVDK_I64, a->G, S, 1));
    KV_TRY(dt_opcase_tensor(c, "rings", KVDK_I32, 1 + 2 * a->levels, 1, 1));
    KV_TRY(dt_opcase_tensor(c, "src", KVDK_I32, a->G, S, 1));
    KV_TRY(dt_opcase_tensor(c, "dropped", KVDK_I64, a->G, a->T, 1));
    KV_TRY(draw_history(c, a));
    dt_opcase_fill(c, "score", 1, 1, S * a->G);
    dt_opcase_fill(c, "new_score", 1, 1, a->T * a->G); /* the same stream: constant gives ties */
    shape_scores(c, a, nan);
    snprintf(c->title, sizeof c->title, "G=%lld T=%lld sinks=%lld W=%lld levels=%lld eager=%lld seen=%lld%s",
             (long long)a->G, (long long)a->T, (long long)a->sinks, (long long)a->W, (long long)a->levels,
             (long long)a->eager, (long long)a->seen, nan ? " NaN" : "");
    return KV_OK;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_plan_args *a = &c->args.cascade_plan;
    int rings, src, dropped;
    (void)precision;
    KV_TRY(dt_answer_tensor(c, "rings", out, &rings));
    KV_TRY(dt_answer_tensor(c, "src", out, &src));
    KV_TRY(dt_answer_tensor(c, "dropped", out, &dropped));
    memcpy(out->bits[rings], a->rings.data, (size_t)(1 + 2 * a->levels) * sizeof(int32_t));
    ref_op_cascade r = for_reference(a);
    r.rings = out->bits[rings];
    r.src = out->bits[src];
    r.dropped = out->bits[dropped];
    return ref_op_cascade_plan(&r);
}

static void name_slot(const kvdk_plan_args *a, int64_t slot, char *dst, size_t size)
{
    const int64_t j = slot - a->sinks;
    if (j < 0)
        snprintf(dst, size, "sink %lld", (long long)slot);
    else
        snprintf(dst, size, "ring %lld offset %lld", (long long)(j / a->W), (long long)(j % a->W));
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kvdk_plan_args *a = &c->args.cascade_plan;
    const char *const tensor = dt_op_schemas[c->op].tensors[slot].name;
    const int64_t S = a->sinks + a->W * a->levels;
    char where[60];
    *out = (dt_element_name){.token = -1, .head = -1, .slot = -1, .dim = -1};
    if (strcmp(tensor, "rings") == 0) {
        if (i == 0)
            snprintf(out->text, sizeof out->text, "sinks stored");
        else
            snprintf(out->text, sizeof out->text, "%s of ring %lld", i % 2 ? "count" : "start",
                     (long long)((i - 1) / 2));
    } else if (strcmp(tensor, "src") == 0) {
        out->head = i / S;
        out->slot = i % S;
        name_slot(a, out->slot, where, sizeof where);
        snprintf(out->text, sizeof out->text, "list %lld slot %lld (%s)", (long long)out->head, (long long)out->slot,
                 where);
    } else {
        out->head = i / a->T;
        out->token = i % a->T;
        snprintf(out->text, sizeof out->text, "list %lld, when token %lld (original index %lld) came",
                 (long long)out->head, (long long)out->token, (long long)(a->seen + out->token));
    }
}

const dt_op_impl dt_op_cascade_plan = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(subnormal) | DT_DIST(constant) | DT_DIST(ascending) | DT_DIST(exact),
    .draw = draw,
    .answer = answer,
    .name = name,
};
