/* op_kv_quant_tile.c - one tile of rotated K and V into a record (docs/policy/kvarn.md). The record is bytes and must
 * be equal: a code rounded the other way, or another round of the balancing that wins, is another record. There is no
 * bound that would let one pass and not the other, so candidates of every contract follow that page operation by
 * operation. */
#include "difftest/ops/oracle.h"

#include "common/tile.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    int32_t tile, hd, kbits, vbits, iters;
} shapes[] = {
    {32, 32, 4, 2, 8},  {32, 64, 2, 4, 8},  {64, 32, 8, 8, 3},  {64, 64, 3, 5, 8},
    {128, 32, 4, 2, 8}, {32, 128, 6, 3, 1}, {32, 256, 4, 2, 2},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void choose(const dt_opcase *c, kvdk_tile_args *a)
{
    static const int64_t widths[] = {2, 3, 4, 5, 6, 8};
    if (c->shape < N_SHAPES) {
        a->tile = shapes[c->shape].tile;
        a->hd = shapes[c->shape].hd;
        a->kbits = shapes[c->shape].kbits;
        a->vbits = shapes[c->shape].vbits;
        a->iters = shapes[c->shape].iters;
        return;
    }
    a->tile = 32 << dt_opcase_below(c, 90, 0, 3);
    a->hd = 32 << dt_opcase_below(c, 90, 1, 3);
    a->kbits = widths[dt_opcase_below(c, 90, 2, 6)];
    a->vbits = widths[dt_opcase_below(c, 90, 3, 6)];
    a->iters = 1 + dt_opcase_below(c, 90, 4, 8);
}

static kv_kvarn_params params_of(const kvdk_tile_args *a)
{
    return (kv_kvarn_params){.tile = (int32_t)a->tile,
                             .kbits = (int32_t)a->kbits,
                             .vbits = (int32_t)a->vbits,
                             .iters = (int32_t)a->iters,
                             .dialect = KV_KVARN_A,
                             .tie = KV_TIE_LITERAL};
}

static kv_status draw(dt_opcase *c)
{
    kvdk_tile_args *a = &c->args.kv_quant_tile;
    choose(c, a);
    const kv_kvarn_params p = params_of(a);
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p, (int32_t)a->hd);
    KV_TRY(dt_opcase_tensor(c, "k", KVDK_F32, a->tile, a->hd, 1));
    KV_TRY(dt_opcase_tensor(c, "v", KVDK_F32, a->tile, a->hd, 1));
    KV_TRY(dt_opcase_tensor(c, "record", KVDK_U8, l.bytes, 1, 1));
    dt_opcase_fill(c, "k", 1, 1, a->hd);
    dt_opcase_fill(c, "v", 2, 1, a->hd);
    snprintf(c->title, sizeof c->title, "tile=%lld hd=%lld K%lld V%lld iters=%lld", (long long)a->tile,
             (long long)a->hd, (long long)a->kbits, (long long)a->vbits, (long long)a->iters);
    return KV_OK;
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_tile_args *a = &c->args.kv_quant_tile;
    const kv_kvarn_params p = params_of(a);
    int record;
    (void)precision;
    KV_TRY(dt_answer_tensor(c, "record", out, &record));
    return ref_op_kvarn_tile(&p, a->k.data, a->v.data, a->hd, out->bits[record]);
}

/* A part of the record: rows of `row` bytes from `at` on. */
typedef struct part {
    const char *what, *of;
    int32_t at, end, row;
} part;

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kv_kvarn_params p = params_of(&c->args.kv_quant_tile);
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p, (int32_t)c->args.kv_quant_tile.hd);
    const part parts[] = {
        {"K codes", "channel", l.k_codes, l.k_scale, l.k_row},
        {"K S", "channel", l.k_scale, l.k_zero, 2},
        {"K Z", "channel", l.k_zero, l.k_col, 2},
        {"K c", "token", l.k_col, l.v_codes, 2},
        {"V codes", "token", l.v_codes, l.v_col, l.v_row},
        {"V c", "channel", l.v_col, l.v_scale, 2},
        {"V S", "token", l.v_scale, l.v_zero, 2 * l.v_groups},
        {"V Z", "token", l.v_zero, l.bytes, 2 * l.v_groups},
    };
    int n = 0;
    (void)slot;
    *out = (dt_element_name){.token = -1, .head = -1, .slot = -1, .dim = -1};
    while (n < 7 && i >= parts[n].end)
        n++;
    const int64_t row = (i - parts[n].at) / parts[n].row;
    if (parts[n].of[0] == 't')
        out->token = row;
    else
        out->dim = row;
    snprintf(out->text, sizeof out->text, "%s of %s %lld, byte %lld (%lld of the record)", parts[n].what, parts[n].of,
             (long long)row, (long long)((i - parts[n].at) % parts[n].row), (long long)i);
}

const dt_op_impl dt_op_kv_quant_tile = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(small) | DT_DIST(large) | DT_DIST(subnormal) |
             DT_DIST(constant) | DT_DIST(exact),
    .draw = draw,
    .answer = answer,
    .name = name,
};
