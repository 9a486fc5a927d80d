/* op_window_append.c - tokens into a ring, one after the other. Nothing is computed: every bit must be where it
 * belongs, and slots that no token reached keep what they held, which is NaN where nothing had been stored yet. */
#include "difftest/ops/oracle.h"

#include "common/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t n, cap, Hk, hd, start, count;
} shapes[] = {
    {1, 1, 1, 4, 0, 0},       {1, 1, 1, 4, 0, 1},       {1, 16, 2, 8, 0, 0},      {3, 16, 2, 8, 0, 14},
    {1, 16, 1, 16, 15, 16},   {5, 16, 2, 4, 13, 16},    {4, 16, 2, 8, 12, 2},     {16, 16, 1, 4, 0, 0},
    {16, 16, 1, 4, 5, 16},    {17, 16, 3, 4, 7, 16},    {40, 16, 2, 4, 3, 10},    {2, 64, 4, 33, 62, 64},
    {256, 256, 1, 4, 1, 255}, {257, 256, 1, 4, 9, 256}, {64, 257, 2, 5, 200, 57},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, OLD = 1 << 20 };

static void choose(const dt_opcase *c, kvdk_append_args *a, int64_t ring[2])
{
    if (c->shape < N_SHAPES) {
        a->n = shapes[c->shape].n;
        a->cap = shapes[c->shape].cap;
        a->Hk = shapes[c->shape].Hk;
        a->hd = shapes[c->shape].hd;
        ring[0] = shapes[c->shape].start;
        ring[1] = shapes[c->shape].count;
        return;
    }
    a->cap = 1 + dt_opcase_below(c, 90, 0, 80);
    a->n = 1 + dt_opcase_below(c, 90, 1, 2 * a->cap);
    a->Hk = 1 + dt_opcase_below(c, 90, 2, 4);
    a->hd = 1 + dt_opcase_below(c, 90, 3, 64);
    ring[0] = dt_opcase_below(c, 90, 4, a->cap);
    ring[1] = dt_opcase_below(c, 90, 5, 2) ? a->cap : dt_opcase_below(c, 90, 6, a->cap + 1);
}

/* V differs from K in its sign, what was stored from what is new by OLD. */
static void colour(kvdk_append_args *a)
{
    kvdk_tensor *const all[] = {&a->k, &a->v, &a->k_cache, &a->v_cache};
    for (int i = 0; i < 4; i++)
        for (int64_t j = 0; j < dt_tensor_count(all[i]); j++)
            ((float *)all[i]->data)[j] = (float)((i / 2 ? OLD : 0) + j + 1) * (i % 2 ? -1 : 1);
}

static int is_stored(const int64_t ring[2], int64_t cap, int64_t slot)
{
    return (slot - ring[0] + cap) % cap < ring[1];
}

static kv_status draw(dt_opcase *c)
{
    kvdk_append_args *a = &c->args.window_append;
    int64_t ring[2];
    choose(c, a, ring);
    KV_TRY(dt_opcase_tensor(c, "k", KVDK_F32, a->n, a->Hk, a->hd));
    KV_TRY(dt_opcase_tensor(c, "v", KVDK_F32, a->n, a->Hk, a->hd));
    KV_TRY(dt_opcase_tensor(c, "k_cache", KVDK_F32, a->cap, a->Hk, a->hd));
    KV_TRY(dt_opcase_tensor(c, "v_cache", KVDK_F32, a->cap, a->Hk, a->hd));
    KV_TRY(dt_opcase_tensor(c, "ring", KVDK_I64, 2, 1, 1));
    dt_opcase_fill(c, "k", 1, 1, a->hd);
    dt_opcase_fill(c, "v", 2, 1, a->hd);
    dt_opcase_fill(c, "k_cache", 3, 1, a->hd);
    dt_opcase_fill(c, "v_cache", 4, 1, a->hd);
    memcpy(a->ring.data, ring, sizeof ring);
    if (c->dist == DT_DIST_dye) {
        c->n_parts = 1;
        colour(a);
    }
    const int64_t width = a->Hk * a->hd;
    for (int64_t i = 0; i < a->cap * width; i++)
        if (!is_stored(ring, a->cap, i / width))
            ((float *)a->k_cache.data)[i] = ((float *)a->v_cache.data)[i] = kv_bits2f(0x7fc00000);
    snprintf(c->title, sizeof c->title, "n=%lld cap=%lld Hk=%lld hd=%lld start=%lld count=%lld", (long long)a->n,
             (long long)a->cap, (long long)a->Hk, (long long)a->hd, (long long)ring[0], (long long)ring[1]);
    return KV_OK;
}

/* Slot of the next token, and the ring behind it. */
static int64_t next_slot(int64_t ring[2], int64_t cap)
{
    int64_t slot = ring[0];
    if (ring[1] < cap) {
        slot = (ring[0] + ring[1]) % cap;
        ring[1]++;
    } else {
        ring[0] = (ring[0] + 1) % cap;
    }
    return slot;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_append_args *a = &c->args.window_append;
    const size_t row = (size_t)(a->Hk * a->hd);
    int k, v, ring;
    (void)precision;
    KV_TRY(dt_answer_tensor(c, "k_cache", out, &k));
    KV_TRY(dt_answer_tensor(c, "v_cache", out, &v));
    KV_TRY(dt_answer_tensor(c, "ring", out, &ring));
    float *keys = out->bits[k], *values = out->bits[v];
    memcpy(keys, a->k_cache.data, (size_t)a->cap * row * sizeof *keys);
    memcpy(values, a->v_cache.data, (size_t)a->cap * row * sizeof *values);
    memcpy(out->bits[ring], a->ring.data, 2 * sizeof(int64_t));
    for (int64_t t = 0; t < a->n; t++) {
        const size_t to = (size_t)next_slot(out->bits[ring], a->cap) * row, from = (size_t)t * row;
        memcpy(keys + to, (const float *)a->k.data + from, row * sizeof *keys);
        memcpy(values + to, (const float *)a->v.data + from, row * sizeof *values);
    }
    dt_answer_exact(c, out, k);
    dt_answer_exact(c, out, v);
    return KV_OK;
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kvdk_append_args *a = &c->args.window_append;
    *out = (dt_element_name){.token = -1, .head = -1, .slot = -1, .dim = -1};
    if (strcmp(dt_op_schemas[c->op].tensors[slot].name, "ring") == 0) {
        snprintf(out->text, sizeof out->text, "%s", i ? "count" : "start");
        return;
    }
    out->slot = i / (a->Hk * a->hd);
    out->head = i / a->hd % a->Hk;
    out->dim = i % a->hd;
    int64_t ring[2];
    memcpy(ring, a->ring.data, sizeof ring);
    for (int64_t t = 0; t < a->n; t++)
        if (next_slot(ring, a->cap) == out->slot) out->token = t;
    int used = snprintf(out->text, sizeof out->text, "slot %lld head %lld dim %lld, ", (long long)out->slot,
                        (long long)out->head, (long long)out->dim);
    if (out->token < 0)
        snprintf(out->text + used, sizeof out->text - (size_t)used, "not to be written");
    else
        snprintf(out->text + used, sizeof out->text - (size_t)used, "place of token %lld", (long long)out->token);
}

const dt_op_impl dt_op_window_append = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(subnormal) | DT_DIST(dye),
    .draw = draw,
    .answer = answer,
    .name = name,
};
