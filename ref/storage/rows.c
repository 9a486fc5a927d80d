/* rows.c - storages that keep every row of K and V by itself: f32 as computed, f16 and bf16 rounded once to 16 bits
 * (docs/policy/storage.md). The rows in the store are `real` numbers of that format. In double, f32 writes its
 * records rounded, so that a state has the one layout that all sides share. */
#include "ref/storage.h"

#include "common/numfmt.h"
#include "common/tile.h"

static real round_f16(real x) { return (real)kv_f162f(kv_f2f16(r_narrow(x))); }
static real round_bf16(real x) { return (real)kv_bf162f(kv_f2bf16(r_narrow(x))); }

static int32_t record_bytes(const ref_cache *c)
{
    return 2 * c->head_dim * kv_storage_value_bytes(c->policy.storage);
}

static int64_t records(const ref_cache *c, const ref_layer *l)
{
    (void)c;
    return l->n;
}

static ref_record record(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    const ref_entry e = c->ops->entry(c, l, head, i);
    return (ref_record){e.slot, e.og, e.pos, record_bytes(c)};
}

/* Value d of a record: K, then V. */
static real *value_at(const ref_cache *c, const ref_layer *l, int64_t head, int64_t slot, int64_t d)
{
    const int64_t D = c->head_dim;
    return d < D ? ref_slot_k(c, l, head, slot) + d * REF_PANEL : ref_slot_v(c, l, head, slot) + d - D;
}

static const void *read(const ref_cache *c, const ref_layer *l, int64_t head, const ref_record *r, void *row)
{
    float *wide = row;
    uint16_t *narrow = row;
    for (int64_t d = 0; d < 2 * c->head_dim; d++) {
        const float x = (float)*value_at(c, l, head, r->slot, d);
        if (c->policy.storage == KV_STORE_F32)
            wide[d] = x;
        else
            narrow[d] = c->policy.storage == KV_STORE_F16 ? kv_f2f16(x) : kv_f2bf16(x);
    }
    return row;
}

static void write(const ref_cache *c, ref_layer *l, int64_t head, const ref_record *r, const void *bytes)
{
    const float *wide = bytes;
    const uint16_t *narrow = bytes;
    for (int64_t d = 0; d < 2 * c->head_dim; d++)
        *value_at(c, l, head, r->slot, d) =
            (real)(c->policy.storage == KV_STORE_F32   ? wide[d]
                   : c->policy.storage == KV_STORE_F16 ? kv_f162f(narrow[d])
                                                       : kv_bf162f(narrow[d]));
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const kv_state_view *v, int64_t seen)
{
    const ref_adopt a = {v->run->n, seen, v->og, v->pos, v->score};
    if (head == 0) KV_TRY(REF(cache_reserve)(c, l, a.n));
    return c->ops->adopt(c, l, head, &a);
}

#define ROWS .record_bytes = record_bytes, .records = records, .record = record, .read = read, .write = write, .adopt = adopt
const ref_storage REF(storage_f32) = {ROWS};
const ref_storage REF(storage_f16) = {.round = round_f16, ROWS};
const ref_storage REF(storage_bf16) = {.round = round_bf16, ROWS};
