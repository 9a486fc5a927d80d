/* op_topk.c - the k largest of every row. Nothing is rounded: indices and values must be equal. Equal are numbers that
 * compare equal
 * (+0 and -0 too); a NaN is below -inf, and among NaNs the lower index counts. */
#include "difftest/ops/oracle.h"

#include "common/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t R, V, k;
    int specials; /* NaN and infinities among the numbers */
} shapes[] = {
    {1, 1, 1, 0},     {2, 16, 16, 0},   {3, 17, 5, 1},    {4, 64, 1, 0},    {2, 65, 64, 0},   {4, 255, 10, 1},
    {1, 256, 100, 0}, {3, 257, 256, 0}, {2, 1000, 33, 0}, {1, 4096, 50, 0}, {2, 4097, 64, 1}, {5, 6, 4, 1},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static kv_status draw(dt_opcase *c)
{
    static const int32_t special[] = {0x7fc00000, (int32_t)0xff800000, 0x7f800000, (int32_t)0x80000000, 0};
    kvdk_topk_args *a = &c->args.topk;
    const int listed = c->shape < N_SHAPES;
    a->R = listed ? shapes[c->shape].R : 1 + dt_opcase_below(c, 90, 0, 8);
    a->V = listed ? shapes[c->shape].V : 1 + dt_opcase_below(c, 90, 1, 3000);
    a->k = listed ? shapes[c->shape].k : 1 + dt_opcase_below(c, 90, 2, a->V);
    const int specials = listed ? shapes[c->shape].specials : (int)dt_opcase_below(c, 90, 3, 2);
    KV_TRY(dt_opcase_tensor(c, "z", KVDK_F32, a->R, a->V, 1));
    KV_TRY(dt_opcase_tensor(c, "index", KVDK_I32, a->R, a->k, 1));
    KV_TRY(dt_opcase_tensor(c, "value", KVDK_F32, a->R, a->k, 1));
    dt_opcase_fill(c, "z", 1, 1, a->V);
    float *z = a->z.data;
    for (int64_t i = 0; i < a->R * a->V; i++) {
        if (c->dist == DT_DIST_ascending) z[i] = (float)(i % a->V) - 7;
        if (c->dist == DT_DIST_low) z[i] = z[i] - 150;
        if (specials && dt_opcase_below(c, 2, (uint64_t)i, 4) == 0)
            z[i] = kv_bits2f(special[dt_opcase_below(c, 3, (uint64_t)i, 5)]);
    }
    snprintf(c->title, sizeof c->title, "R=%lld V=%lld k=%lld%s", (long long)a->R, (long long)a->V, (long long)a->k,
             specials ? " NaN inf" : "");
    return KV_OK;
}

/* Whether y, which stands behind x, goes before it: only a greater one does, and every number before NaN. */
static int overtakes(float y, float x)
{
    return x != x ? y == y : y > x;
}

/* Marks the k first of a row. */
static void choose(const float *z, int64_t n, int64_t k, uint8_t *chosen)
{
    memset(chosen, 0, (size_t)n);
    for (int64_t left = k; left > 0; left--) {
        int64_t best = 0;
        while (chosen[best])
            best++;
        for (int64_t i = best + 1; i < n; i++)
            if (!chosen[i] && overtakes(z[i], z[best])) best = i;
        chosen[best] = 1;
    }
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_topk_args *a = &c->args.topk;
    int index, value;
    (void)precision;
    KV_TRY(dt_answer_tensor(c, "index", out, &index));
    KV_TRY(dt_answer_tensor(c, "value", out, &value));
    uint8_t *chosen = malloc((size_t)a->V);
    if (!chosen) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int64_t r = 0; r < a->R; r++) {
        const float *z = (const float *)a->z.data + r * a->V;
        choose(z, a->V, a->k, chosen);
        for (int64_t i = 0, at = r * a->k; i < a->V; i++) {
            if (!chosen[i]) continue;
            ((int32_t *)out->bits[index])[at] = (int32_t)i;
            ((float *)out->bits[value])[at++] = z[i];
        }
    }
    free(chosen);
    dt_answer_exact(c, out, value);
    return KV_OK;
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const int64_t k = c->args.topk.k;
    (void)slot;
    *out = (dt_element_name){.token = i / k, .head = -1, .slot = i % k, .dim = -1};
    snprintf(out->text, sizeof out->text, "row %lld, place %lld of %lld", (long long)(i / k), (long long)(i % k),
             (long long)k);
}

const dt_op_impl dt_op_topk = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(large) | DT_DIST(subnormal) | DT_DIST(constant) | DT_DIST(ascending) |
             DT_DIST(low) | DT_DIST(exact),
    .draw = draw,
    .answer = answer,
    .name = name,
};
