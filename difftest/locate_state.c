#include "difftest/locate_state.h"

#include "difftest/locate_calc.h"

#include "common/numfmt.h"
#include "common/tile.h"

#include <math.h>
#include <string.h>

/* ---- comparing exports ------------------------------------------------------------------------------------ */

static kv_state_head head_of(const void *blob)
{
    kv_state_head h;
    memcpy(&h, blob, sizeof h);
    return h;
}

static int64_t first_byte(const uint8_t *a, const uint8_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (a[i] != b[i]) return i;
    return -1;
}

static void note(dt_state_diff *d, dt_part part, const kv_state_view *r, int64_t entry)
{
    *d = (dt_state_diff){.part = part,
                         .layer = r->run->layer,
                         .head = r->run->head,
                         .entry = entry,
                         .og = entry < r->run->n ? r->og[entry] : -1,
                         .byte = -1,
                         .elem = -1};
}

static int is_plain(int32_t storage)
{
    return storage == KV_STORE_F32 || storage == KV_STORE_F16 || storage == KV_STORE_BF16;
}

static void read_values(const kv_state_head *h, const uint8_t *ref, const uint8_t *got, dt_state_diff *d)
{
    if (!is_plain(h->storage)) return;
    const int64_t at = d->byte / kv_storage_value_bytes(h->storage), D = h->head_dim;
    d->value = at >= D;
    d->elem = at % D;
    d->ref = (float)dt_record_value(h->storage, ref, D, d->value, d->elem);
    d->got = (float)dt_record_value(h->storage, got, D, d->value, d->elem);
    d->has_values = 1;
}

/* Tokens that differ end the comparison of a run: behind them nothing can be paired. */
static int compare_tokens(const kv_state_view *r, const kv_state_view *g, dt_state_diff *d)
{
    for (int32_t i = 0; i < r->run->n || i < g->run->n; i++) {
        if (i < r->run->n && i < g->run->n && r->og[i] == g->og[i]) continue;
        if (d->part != DT_PART_TOKEN) note(d, DT_PART_TOKEN, r, i);
        return 1;
    }
    return 0;
}

static void compare_records(const kv_state_head *h, const kv_state_view *r, const kv_state_view *g, dt_state_diff *d)
{
    const uint8_t *a = r->records, *b = g->records;
    for (int32_t i = 0; a && b && i < r->run->n; i++) {
        const int32_t na = kv_state_record_bytes(h, r, i), nb = kv_state_record_bytes(h, g, i);
        const int64_t at = na == nb ? first_byte(a, b, na) : 0;
        if (at >= 0 && (d->part != DT_PART_RECORD || r->og[i] < d->og)) {
            note(d, DT_PART_RECORD, r, i);
            d->byte = at;
            read_values(h, a, b, d);
        }
        a += kv_state_record_stride(h, r, i);
        b += kv_state_record_stride(h, g, i);
    }
}

static void compare_numbers(const kv_state_view *r, const kv_state_view *g, dt_part part, dt_state_diff *d)
{
    for (int32_t i = 0; d->part == DT_PART_NONE && i < r->run->n; i++) {
        if (part == DT_PART_POS && r->pos[i] != g->pos[i]) {
            note(d, part, r, i);
            d->ref = (float)r->pos[i];
            d->got = (float)g->pos[i];
        }
        if (part == DT_PART_SCORE && r->score && g->score &&
            memcmp(&r->score[i], &g->score[i], sizeof *r->score) != 0) {
            note(d, part, r, i);
            d->ref = r->score[i];
            d->got = g->score[i];
            d->has_values = 1;
        }
    }
}

static size_t carry_at(const void *blob, const kv_state_head *h)
{
    size_t offset = sizeof *h;
    for (int64_t i = 0; i < (int64_t)h->n_layers * h->n_kv_heads; i++)
        (void)kv_state_place(h, (void *)(uintptr_t)blob, &offset, -1, 0); /* only read */
    return offset;
}

static void compare_carry(const void *ref, const void *got, const kv_state_head *h, const kv_state_head *g,
                          dt_state_diff *d)
{
    const uint8_t *a = (const uint8_t *)ref + carry_at(ref, h), *b = (const uint8_t *)got + carry_at(got, g);
    const int64_t n = (int64_t)(h->carry_bytes < g->carry_bytes ? h->carry_bytes : g->carry_bytes);
    const int64_t at = first_byte(a, b, n);
    if (at < 0 && h->carry_bytes == g->carry_bytes) return;
    *d = (dt_state_diff){
        .part = DT_PART_CARRY, .layer = -1, .head = -1, .entry = -1, .og = -1, .byte = at < 0 ? n : at, .elem = -1};
    if (at >= 8) {
        d->elem = at / 4;
        memcpy(&d->ref, a + at / 4 * 4, sizeof d->ref);
        memcpy(&d->got, b + at / 4 * 4, sizeof d->got);
        d->has_values = 1;
    }
}

void dt_state_compare(const void *ref, const void *got, dt_state_diff *out)
{
    const kv_state_head h = head_of(ref), g = head_of(got);
    const int shaped = h.n_layers == g.n_layers && h.n_kv_heads == g.n_kv_heads && h.head_dim == g.head_dim &&
                       h.storage == g.storage && h.record_bytes == g.record_bytes && h.key_form == g.key_form &&
                       h.seen == g.seen;
    *out = (dt_state_diff){.layer = -1, .head = -1, .entry = -1, .og = -1, .byte = -1, .elem = -1};
    if (!shaped) {
        out->part = DT_PART_SHAPE;
        return;
    }
    for (int what = DT_PART_TOKEN; what <= DT_PART_RECORD && out->part != DT_PART_TOKEN; what++)
        for (int32_t l = 0; l < h.n_layers; l++)
            for (int32_t k = 0; k < h.n_kv_heads; k++) {
                static const dt_part order[] = {DT_PART_TOKEN, DT_PART_RECORD, DT_PART_POS, DT_PART_SCORE};
                const dt_part part = order[what - DT_PART_TOKEN];
                const kv_state_view r = dt_state_run(ref, l, k), s = dt_state_run(got, l, k);
                if (part == DT_PART_TOKEN)
                    (void)compare_tokens(&r, &s, out);
                else if (part == DT_PART_RECORD)
                    compare_records(&h, &r, &s, out);
                else
                    compare_numbers(&r, &s, part, out);
            }
    if (out->part == DT_PART_NONE) compare_carry(ref, got, &h, &g, out);
}

int32_t dt_positions_differ(const void *ref, const void *got)
{
    const kv_state_head h = head_of(ref);
    int32_t most = 0;
    for (int32_t l = 0; l < h.n_layers; l++)
        for (int32_t k = 0; k < h.n_kv_heads; k++) {
            const kv_state_view r = dt_state_run(ref, l, k), g = dt_state_run(got, l, k);
            int32_t n = 0;
            for (int32_t i = 0; i < r.run->n && i < g.run->n; i++)
                n += r.og[i] == g.og[i] && r.pos[i] != g.pos[i];
            if (n > most) most = n;
        }
    return most;
}

int dt_same_carry(const void *a, const void *b)
{
    const kv_state_head h = head_of(a), g = head_of(b);
    const uint8_t *x = (const uint8_t *)a + carry_at(a, &h), *y = (const uint8_t *)b + carry_at(b, &g);
    return h.carry_bytes == g.carry_bytes && h.carry_bytes > 8 && memcmp(x + 8, y + 8, h.carry_bytes - 8) == 0;
}

/* ---- records ---------------------------------------------------------------------------------------------- */

static const uint8_t *record_of(const kv_state_head *h, const kv_state_view *v, int64_t entry)
{
    const uint8_t *p = v->records;
    for (int64_t i = 0; i < entry; i++)
        p += kv_state_record_stride(h, v, i);
    return p;
}

/* Whose row the bytes are, in an export: the entry, or -1. */
static int64_t owner(const kv_state_head *h, const kv_state_view *v, const uint8_t *row, int64_t offset, int64_t bytes,
                     int64_t but)
{
    for (int32_t i = 0; i < v->run->n; i++)
        if (v->og[i] != but && kv_state_record_bytes(h, v, i) >= offset + bytes &&
            memcmp(record_of(h, v, i) + offset, row, (size_t)bytes) == 0)
            return i;
    return -1;
}

static int is_resident(const kv_state_view *v, int64_t og)
{
    for (int32_t i = 0; i < v->run->n; i++)
        if (v->og[i] == og) return 1;
    return 0;
}

int dt_same_tokens(const void *ref, const void *got, int32_t layer, int32_t head)
{
    const kv_state_view r = dt_state_run(ref, layer, head), g = dt_state_run(got, layer, head);
    for (int32_t i = 0; i < r.run->n; i++)
        if (!is_resident(&g, r.og[i])) return 0;
    return r.run->n == g.run->n;
}

static int all_bytes(const uint8_t *p, int64_t n, uint8_t low, uint8_t high)
{
    for (int64_t i = 0; i < n; i++)
        if (p[i] != low && p[i] != high) return 0;
    return 1;
}

typedef struct record_case {
    const kv_state_head *h;
    kv_state_view ref, before; /* the run in both exports; before.run NULL: none */
    const uint8_t *want, *have;
    int64_t offset, bytes; /* of the K or V row in a record */
    const dt_state_diff *d;
    const char *what;
} record_case;

static int somebody_elses(const record_case *c, dt_verdict *v)
{
    if (c->before.run) {
        const int64_t i = owner(c->h, &c->before, c->have + c->offset, c->offset, c->bytes, c->d->og);
        if (i >= 0) {
            const int left = !is_resident(&c->ref, c->before.og[i]);
            dt_verdict_set(v, "store", left ? "stale-read" : "bug-index", "%s of token %lld is that of token %lld%s",
                           c->what, (long long)c->d->og, (long long)c->before.og[i],
                           left ? ", which has left: it was not overwritten" : "");
            return 1;
        }
    }
    const int64_t i = owner(c->h, &c->ref, c->have + c->offset, c->offset, c->bytes, c->d->og);
    if (i < 0) return 0;
    dt_verdict_set(v, "store", "bug-index", "%s of token %lld is that of token %lld", c->what, (long long)c->d->og,
                   (long long)c->ref.og[i]);
    return 1;
}

/* Every differing 16-bit value is the neighbour towards zero. */
static int cut_off(const record_case *c)
{
    int wrong = 0;
    for (int64_t at = c->offset; at + 1 < c->offset + c->bytes; at += 2) {
        uint16_t a, b;
        memcpy(&a, c->want + at, sizeof a);
        memcpy(&b, c->have + at, sizeof b);
        if (a == b) continue;
        if ((uint16_t)(b + 1) != a) return 0;
        wrong++;
    }
    return wrong > 0;
}

static void blame_row(const record_case *c, const kv_policy *p, dt_verdict *v)
{
    const int64_t D = c->h->head_dim;
    const uint8_t *row = c->have + c->offset;
    float ref[KV_MAX_HEAD_DIM], got[KV_MAX_HEAD_DIM];
    for (int64_t i = 0; i < D; i++) {
        ref[i] = (float)dt_record_value(c->h->storage, c->want, D, c->d->value, i);
        got[i] = (float)dt_record_value(c->h->storage, c->have, D, c->d->value, i);
    }
    const int shorts = p->storage == KV_STORE_F16 || p->storage == KV_STORE_BF16;
    if (somebody_elses(c, v)) return;
    if (all_bytes(row, c->bytes, 0, 0))
        dt_verdict_set(v, "store", "stale-read", "%s of token %lld was not written: it is zero", c->what,
                       (long long)c->d->og);
    else if (shorts && cut_off(c))
        dt_verdict_set(v, "store", "bug-numeric", "%s is cut to 16 bits, not rounded to nearest", c->what);
    else {
        /* a row that is wrong in every value, in a cache from which tokens leave: an older one, most likely */
        const double e = dt_row_error(ref, got, D);
        const int older = dt_row_differing(ref, got, D) == D && p->selection != KV_SEL_FULL;
        dt_verdict_set(v, "store",
                       !isfinite(e) ? "nonfinite"
                       : e < 0.05   ? "bug-numeric"
                       : older      ? "stale-read"
                                    : "bug-index",
                       "%s of token %lld: %lld of %lld values differ from what was computed", c->what,
                       (long long)c->d->og, (long long)dt_row_differing(ref, got, D), (long long)D);
    }
}

/* ---- coded records ---------------------------------------------------------------------------------------- */

static const char *kvarn_part(const kv_policy *p, int32_t D, int64_t at)
{
    const kv_kvarn_layout y = kv_kvarn_layout_of(&p->kvarn, D);
    const struct {
        int32_t from;
        const char *name;
    } parts[] = {{y.k_codes, "codes of K"},      {y.k_scale, "scales of K"}, {y.k_zero, "zeros of K"},
                 {y.k_col, "token scales of K"}, {y.v_codes, "codes of V"},  {y.v_col, "channel scales of V"},
                 {y.v_scale, "scales of V"},     {y.v_zero, "zeros of V"}};
    const char *name = parts[0].name;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].from <= at) name = parts[i].name;
    return name;
}

static const char *kivi_part(const kv_policy *p, int32_t D, int64_t og, int64_t at)
{
    const kv_kivi_layout y = kv_kivi_layout_of(&p->kivi, D);
    if (og >= KV_KIVI_V) return at >= y.v_min ? "minima of V" : at >= y.v_scale ? "scales of V" : "codes of V";
    return at >= y.k_min ? "minima of K" : at >= y.k_scale ? "scales of K" : "codes of K";
}

/* Uncoded rows of tile storages: kvarn's tail holds K and V in fp32, kivi's rows one of them. */
static int is_tail(const kv_policy *p, int32_t D, int64_t bytes)
{
    return bytes == (p->storage == KV_STORE_KVARN ? 8 : 4) * (int64_t)D;
}

static int nibbles_swapped(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        if (a[i] == b[i]) continue;
        if ((uint8_t)(a[i] << 4 | a[i] >> 4) != b[i]) return 0;
        wrong++;
    }
    return wrong > 0;
}

static double length_of(const uint8_t *row, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, row + 4 * i, sizeof x);
        sum += (double)x * (double)x;
    }
    return sqrt(sum);
}

/* Rows of tile storages that wait to be coded. Rotations keep their length, or change it by one factor; another token's
 * row has another length. */
static void blame_tail(const record_case *c, int64_t bytes, dt_verdict *v)
{
    const int64_t og = c->d->og & (KV_KIVI_V - 1), half = bytes / 2, n = half / 4;
    const double k = length_of(c->have, n) / length_of(c->want, n),
                 w = length_of(c->have + half, n) / length_of(c->want + half, n);
    if (fabs(k / w - 1) < 1e-3)
        dt_verdict_set(v, "quant", "bug-numeric",
                       "an uncoded row of token %lld differs, by one factor in length: its rotation is wrong",
                       (long long)og);
    else
        dt_verdict_set(v, "quant", "bug-index", "an uncoded row of token %lld is that of another token", (long long)og);
}

static int nobody_but(const record_case *c, int64_t bytes, dt_verdict *v)
{
    record_case whole = *c;
    dt_verdict other;
    whole.offset = 0;
    whole.bytes = bytes;
    whole.what = "the record";
    if (!somebody_elses(&whole, &other)) return 0;
    *v = other;
    v->op = "quant";
    return 1;
}

static void blame_coded(const record_case *c, const kv_policy *p, int64_t bytes, dt_verdict *v)
{
    const int32_t D = c->h->head_dim;
    const char *part =
        p->storage == KV_STORE_KVARN ? kvarn_part(p, D, c->d->byte) : kivi_part(p, D, c->d->og, c->d->byte);
    if (nobody_but(c, bytes, v)) return;
    if (is_tail(p, D, bytes))
        blame_tail(c, bytes, v);
    else if (nibbles_swapped(c->want, c->have, bytes))
        dt_verdict_set(v, "quant", "bug-index", "%s: the two codes of a byte are exchanged", part);
    else
        dt_verdict_set(v, "quant", "bug-numeric", "%s differ first, at byte %lld of the record", part,
                       (long long)c->d->byte);
}

void dt_blame_record(const kv_policy *p, const void *before, const void *ref, const void *got, const dt_state_diff *d,
                     dt_verdict *v)
{
    const kv_state_head h = head_of(ref);
    const kv_state_view r = dt_state_run(ref, d->layer, d->head), g = dt_state_run(got, d->layer, d->head);
    record_case c = {
        .h = &h, .ref = r, .want = record_of(&h, &r, d->entry), .have = record_of(&h, &g, d->entry), .d = d};
    const int64_t bytes = kv_state_record_bytes(&h, &r, d->entry);
    if (before) c.before = dt_state_run(before, d->layer, d->head);
    if (bytes != kv_state_record_bytes(&h, &g, d->entry)) {
        dt_verdict_set(v, "quant", "bug-index",
                       "the record of token %lld has another size: coded too early or too late",
                       (long long)(d->og & (KV_KIVI_V - 1)));
        return;
    }
    if (!is_plain(p->storage)) {
        blame_coded(&c, p, bytes, v);
        return;
    }
    c.bytes = bytes / 2;
    c.offset = d->value ? c.bytes : 0;
    c.what = d->value ? "V" : "K";
    blame_row(&c, p, v);
}
