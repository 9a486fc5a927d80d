/* op_kv_quant_tile.c - one tile of rotated K and V into a record (docs/policy/kvarn.md). Who promises bits gives the
 * reference's bytes. Who is bounded gives numbers: tile_bounds.c says how far an honest balancing may be off, and
 * tile_judge.c what a record may then hold. */
#include "difftest/ops/tile_judge.h"

#include "common/tile.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    int32_t tile, hd, kbits, vbits, iters, group; /* group: of kivi; 0: kvarn */
} shapes[] = {
    {32, 32, 4, 2, 8, 0},    {32, 64, 2, 4, 8, 0},    {64, 32, 8, 8, 3, 0},  {64, 64, 3, 5, 8, 0},
    {128, 32, 4, 2, 8, 0},   {32, 128, 6, 3, 1, 0},   {32, 256, 4, 2, 2, 0}, {32, 32, 2, 2, 0, 32},
    {64, 64, 4, 4, 0, 32},   {128, 128, 8, 8, 0, 64}, {32, 64, 3, 3, 0, 16}, {64, 32, 5, 5, 0, 16},
    {128, 256, 6, 6, 0, 32}, {6, 6, 4, 4, 0, 3}, /* records with gaps in front of their scales */
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
        a->group = shapes[c->shape].group;
        a->format = a->group ? KVDK_KIVI : KVDK_KVARN;
        return;
    }
    a->format = dt_opcase_below(c, 90, 5, 3) == 0 ? KVDK_KIVI : KVDK_KVARN;
    a->tile = 32 << dt_opcase_below(c, 90, 0, 3);
    a->hd = 32 << dt_opcase_below(c, 90, 1, 3);
    a->kbits = widths[dt_opcase_below(c, 90, 2, 6)];
    a->vbits = a->format == KVDK_KIVI ? a->kbits : widths[dt_opcase_below(c, 90, 3, 6)];
    a->iters = a->format == KVDK_KIVI ? 0 : 1 + dt_opcase_below(c, 90, 4, 8);
    a->group = a->format == KVDK_KIVI ? 8 << dt_opcase_below(c, 90, 6, 3) : 0;
}

/* Numbers whose record no order of work can change: whole steps of a power of two, with both ends in every group, and
 * one column of zeros. Divided by scales of at most 1 (deviations are below a half), the rest of the matrix only gets
 * farther away from that column, so that no round of the balancing is as good as none, and nothing is ever rounded. */
static void fill_exactly(dt_opcase *c, int of_values)
{
    const dt_tile_half h = dt_tile_half_of(&c->args.kv_quant_tile, of_values);
    const int64_t n = (1 << h.bits) - 1, stream = of_values ? 2 : 1;
    const int64_t empty = dt_opcase_below(c, 91, (uint64_t)of_values, h.cols), least = (empty + 1) % h.group;
    float *x = of_values ? c->args.kv_quant_tile.v.data : c->args.kv_quant_tile.k.data;
    for (int64_t i = 0; i < h.rows * h.cols; i++) {
        const int64_t row = i / h.cols, col = i % h.cols, at = col % h.group;
        const int64_t zero = 1 + dt_opcase_below(c, 92 + of_values, (uint64_t)(row * h.cols + col - at), n - 1);
        const int64_t drawn = dt_opcase_below(c, (uint64_t)stream, (uint64_t)i, n + 1);
        const int64_t code = col == empty ? zero : at == least ? 0 : at == (least + 1) % h.group ? n : drawn;
        x[row * h.row_step + col * h.col_step] = (float)(code - zero) / (float)(2 << h.bits);
    }
}

static kv_status draw(dt_opcase *c)
{
    kvdk_tile_args *a = &c->args.kv_quant_tile;
    choose(c, a);
    KV_TRY(dt_opcase_tensor(c, "k", KVDK_F32, a->tile, a->hd, 1));
    KV_TRY(dt_opcase_tensor(c, "v", KVDK_F32, a->tile, a->hd, 1));
    KV_TRY(dt_opcase_tensor(c, "record", KVDK_U8, dt_tile_bytes(a), 1, 1));
    dt_opcase_fill(c, "k", 1, 1, a->hd);
    dt_opcase_fill(c, "v", 2, 1, a->hd);
    for (int half = 0; half < 2 && c->dist == DT_DIST_exact; half++)
        fill_exactly(c, half);
    const int is_kivi = a->format == KVDK_KIVI;
    snprintf(c->title, sizeof c->title, "%stile=%lld hd=%lld K%lld V%lld %s=%lld", is_kivi ? "kivi " : "",
             (long long)a->tile, (long long)a->hd, (long long)a->kbits, (long long)a->vbits,
             is_kivi ? "group" : "iters", (long long)(is_kivi ? a->group : a->iters));
    return KV_OK;
}

static kv_status code(const kvdk_tile_args *a, uint8_t *record)
{
    const kv_kvarn_params kvarn = {.tile = (int32_t)a->tile,
                                   .kbits = (int32_t)a->kbits,
                                   .vbits = (int32_t)a->vbits,
                                   .iters = (int32_t)a->iters,
                                   .dialect = KV_KVARN_A,
                                   .tie = KV_TIE_LITERAL};
    const kv_kivi_params kivi = {.bits = (int32_t)a->kbits, .group = (int32_t)a->group, .residual = (int32_t)a->tile};
    if (a->format == KVDK_KIVI) return ref_op_kivi_tile(&kivi, a->k.data, a->v.data, a->hd, record);
    return ref_op_kvarn_tile(&kvarn, a->k.data, a->v.data, a->hd, record);
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_tile_args *a = &c->args.kv_quant_tile;
    const double sums = DT_U + dt_unit_of(precision->accumulators);
    int record;
    KV_TRY(dt_answer_tensor(c, "record", out, &record));
    dt_tile_round *rounds = out->detail = malloc((size_t)(2 * (a->iters + 1)) * sizeof *rounds);
    if (!rounds) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int half = 0; half < 2; half++) {
        const dt_tile_half h = dt_tile_half_of(a, half);
        dt_tile_balance(&h, a->iters, sums, rounds + half * (a->iters + 1));
    }
    return code(a, out->bits[record]);
}

static void judge_record(const dt_opcase *c, const dt_answer *right, void *const got[DT_OP_TENSORS],
                         dt_op_difference *d)
{
    int slot = 0;
    while (!right->bits[slot])
        slot++;
    dt_tile_judge(&c->args.kv_quant_tile, right->detail, right->bits[slot], got[slot], slot, d);
}

/* A part of the record: rows of `row` bytes from `at` on. */
typedef struct part {
    const char *what, *of;
    int32_t at, end, row;
} part;

static void name_part(const part *p, int64_t i, dt_element_name *out)
{
    const int64_t row = (i - p->at) / p->row;
    if (p->of[0] == 't')
        out->token = row;
    else
        out->dim = row;
    snprintf(out->text, sizeof out->text, "%s of %s %lld, byte %lld (%lld of the record)", p->what, p->of,
             (long long)row, (long long)((i - p->at) % p->row), (long long)i);
}

static void name_byte(const kvdk_tile_args *a, int64_t i, dt_element_name *out)
{
    const kv_kvarn_layout l = dt_tile_kvarn(a);
    const kv_kivi_layout b = a->format == KVDK_KIVI ? dt_tile_kivi(a) : (kv_kivi_layout){.G = 1};
    const int32_t bytes = (int32_t)a->record.dim[0], scales = 4 * (b.R / b.G);
    const part kvarn[] = {
        {"K codes", "channel", l.k_codes, l.k_scale, l.k_row},
        {"K S", "channel", l.k_scale, l.k_zero, 2},
        {"K Z", "channel", l.k_zero, l.k_col, 2},
        {"K c", "token", l.k_col, l.v_codes, 2},
        {"V codes", "token", l.v_codes, l.v_col, l.v_row},
        {"V c", "channel", l.v_col, l.v_scale, 2},
        {"V S", "token", l.v_scale, l.v_zero, 2 * l.v_groups},
        {"V Z", "token", l.v_zero, bytes, 2 * l.v_groups},
    };
    const part kivi[] = {
        {"K codes", "channel", 0, b.k_scale, b.k_row},
        {"K scales", "channel", b.k_scale, b.k_min, scales},
        {"K minima", "channel", b.k_min, b.k_bytes, scales},
        {"V row", "token", b.k_bytes, bytes, b.v_bytes},
    };
    const part *p = a->format == KVDK_KIVI ? kivi : kvarn;
    while (p->end < bytes && i >= p->end)
        p++;
    name_part(p, i, out);
}

/* Behind the bytes of the record come its numbers (tile_judge.h). Rows of K are channels, those of V tokens. */
static void name_number(const kvdk_tile_args *a, int64_t i, dt_element_name *out)
{
    static const char *const words[] = {"code", "S", "Z", "c", "decoded value"};
    const dt_tile_number n = dt_tile_number_of(a, i);
    const int is_scale = n.kind == DT_TILE_SCALE || n.kind == DT_TILE_ZERO, has_row = n.kind != DT_TILE_COL;
    const int64_t row = has_row ? n.row : -1, col = is_scale ? -1 : n.col;
    char first[40] = "", second[40] = "", group[40] = "";
    out->token = n.is_value ? row : col;
    out->dim = n.is_value ? col : row;
    if (out->token >= 0) snprintf(first, sizeof first, " token %lld", (long long)out->token);
    if (out->dim >= 0) snprintf(second, sizeof second, " channel %lld", (long long)out->dim);
    if (is_scale && (n.is_value || a->format == KVDK_KIVI))
        snprintf(group, sizeof group, " group %lld", (long long)n.col);
    snprintf(out->text, sizeof out->text, "%s %s of%s%s%s", n.is_value ? "V" : "K", words[n.kind], first, second,
             group);
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const kvdk_tile_args *a = &c->args.kv_quant_tile;
    const int64_t bytes = a->record.dim[0];
    (void)slot;
    *out = (dt_element_name){.token = -1, .head = -1, .slot = -1, .dim = -1};
    if (i < bytes)
        name_byte(a, i, out);
    else
        name_number(a, i - bytes, out);
}

const dt_op_impl dt_op_kv_quant_tile = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(small) | DT_DIST(large) | DT_DIST(subnormal) |
             DT_DIST(constant) | DT_DIST(exact),
    .draw = draw,
    .answer = answer,
    .name = name,
    .judge = judge_record,
};
