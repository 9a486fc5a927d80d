/* op_cascade_move.c - rows change their slots, all at once. Nothing is computed. The listed shapes are those that break
 * moves in place: both directions of a shift, exchanges, one row into many slots, and new tokens between them. */
#include "difftest/ops/oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum pattern { STAY, UP, DOWN, REVERSE, SCATTER, NEW, N_PATTERNS } pattern;
static const char *const pattern_names[] = {"stay", "up", "down", "reverse", "scatter", "new"};

static const struct {
    int64_t G, S, T, hd;
    pattern pattern;
} shapes[] = {
    {1, 1, 1, 4, NEW},       {1, 4, 1, 4, STAY},   {2, 17, 1, 8, UP},  {2, 17, 3, 8, DOWN},   {3, 16, 2, 5, REVERSE},
    {4, 64, 7, 32, SCATTER}, {2, 65, 65, 16, NEW}, {1, 257, 1, 4, UP}, {1, 257, 20, 4, DOWN}, {2, 100, 4, 33, SCATTER},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, OLD = 1 << 20 };

static pattern choose(const dt_opcase *c, kvdk_move_args *a)
{
    if (c->shape < N_SHAPES) {
        a->G = shapes[c->shape].G;
        a->S = shapes[c->shape].S;
        a->T = shapes[c->shape].T;
        a->hd = shapes[c->shape].hd;
        return shapes[c->shape].pattern;
    }
    a->G = 1 + dt_opcase_below(c, 90, 0, 4);
    a->S = 1 + dt_opcase_below(c, 90, 1, 200);
    a->T = 1 + dt_opcase_below(c, 90, 2, 40);
    a->hd = 1 + dt_opcase_below(c, 90, 3, 40);
    return (pattern)dt_opcase_below(c, 90, 4, N_PATTERNS);
}

/* Where slot s of list g comes from. The lists differ: every second one stays as it is in every third slot. */
static int64_t source(const dt_opcase *c, const kvdk_move_args *a, pattern p, int64_t g, int64_t s)
{
    const uint64_t i = (uint64_t)(g * a->S + s);
    if (g % 2 && s % 3 == 0) return s;
    switch (p) {
    case UP:
        return s ? s - 1 : -1;
    case DOWN:
        return s < a->S - 1 ? s + 1 : -a->T;
    case REVERSE:
        return a->S - 1 - s;
    case SCATTER:
        return dt_opcase_below(c, 5, i, a->S + a->T) - a->T;
    case NEW:
        return -1 - dt_opcase_below(c, 5, i, a->T);
    default:
        return s;
    }
}

/* V differs from K in its sign, what was stored from what is new by OLD. */
static void colour(kvdk_move_args *a)
{
    kvdk_tensor *const all[] = {&a->k, &a->v, &a->k_cache, &a->v_cache};
    for (int i = 0; i < 4; i++)
        for (int64_t j = 0; j < dt_tensor_count(all[i]); j++)
            ((float *)all[i]->data)[j] = (float)((i / 2 ? OLD : 0) + j + 1) * (i % 2 ? -1 : 1);
}

static kv_status draw(dt_opcase *c)
{
    kvdk_move_args *a = &c->args.cascade_move;
    const pattern p = choose(c, a);
    KV_TRY(dt_opcase_tensor(c, "src", KVDK_I32, a->G, a->S, 1));
    KV_TRY(dt_opcase_tensor(c, "k", KVDK_F32, a->T, a->G, a->hd));
    KV_TRY(dt_opcase_tensor(c, "v", KVDK_F32, a->T, a->G, a->hd));
    KV_TRY(dt_opcase_tensor(c, "k_cache", KVDK_F32, a->S, a->G, a->hd));
    KV_TRY(dt_opcase_tensor(c, "v_cache", KVDK_F32, a->S, a->G, a->hd));
    dt_opcase_fill(c, "k", 1, 1, a->hd);
    dt_opcase_fill(c, "v", 2, 1, a->hd);
    dt_opcase_fill(c, "k_cache", 3, 1, a->hd);
    dt_opcase_fill(c, "v_cache", 4, 1, a->hd);
    for (int64_t i = 0; i < a->G * a->S; i++)
        ((int32_t *)a->src.data)[i] = (int32_t)source(c, a, p, i / a->S, i % a->S);
    if (c->dist == DT_DIST_dye) {
        c->n_parts = 1;
        colour(a);
    }
    snprintf(c->title, sizeof c->title, "G=%lld S=%lld T=%lld hd=%lld %s", (long long)a->G, (long long)a->S,
             (long long)a->T, (long long)a->hd, pattern_names[p]);
    return KV_OK;
}

static void move(const kvdk_move_args *a, const float *stored, const float *fresh, float *out)
{
    for (int64_t s = 0; s < a->S; s++)
        for (int64_t g = 0; g < a->G; g++) {
            const int64_t from = ((const int32_t *)a->src.data)[g * a->S + s];
            const float *row =
                from >= 0 ? stored + (from * a->G + g) * a->hd : fresh + ((-1 - from) * a->G + g) * a->hd;
            memcpy(out + (s * a->G + g) * a->hd, row, (size_t)a->hd * sizeof *out);
        }
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_move_args *a = &c->args.cascade_move;
    int k, v;
    (void)precision;
    KV_TRY(dt_answer_tensor(c, "k_cache", out, &k));
    KV_TRY(dt_answer_tensor(c, "v_cache", out, &v));
    move(a, a->k_cache.data, a->k.data, out->bits[k]);
    move(a, a->v_cache.data, a->v.data, out->bits[v]);
    dt_answer_exact(c, out, k);
    dt_answer_exact(c, out, v);
    return KV_OK;
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kvdk_move_args *a = &c->args.cascade_move;
    (void)slot;
    *out = (dt_element_name){.token = -1, .head = i / a->hd % a->G, .slot = i / (a->G * a->hd), .dim = i % a->hd};
    const int64_t from = ((const int32_t *)a->src.data)[out->head * a->S + out->slot];
    if (from < 0) out->token = -1 - from;
    snprintf(out->text, sizeof out->text, "slot %lld head %lld dim %lld, place of %s %lld", (long long)out->slot,
             (long long)out->head, (long long)out->dim, from < 0 ? "new token" : "slot",
             (long long)(from < 0 ? -1 - from : from));
}

const dt_op_impl dt_op_cascade_move = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(subnormal) | DT_DIST(dye),
    .draw = draw,
    .answer = answer,
    .name = name,
};
