/* storage.h - how rows of K and V are kept: the private table that a storage fills (docs/policy/storage.md).
 *
 * A selection says which tokens stay, a storage what stays of them. Attention runs on `real` rows by slot (ref/cache.h);
 * a storage rounds them on arrival and knows its entries as the bytes of common/state.h. */
#ifndef KV_REF_STORAGE_H
#define KV_REF_STORAGE_H

#include "ref/attention.h"

/* One entry of an exported KV head. */
typedef struct ref_record {
    int64_t slot, og; /* slot: the storage's own business */
    int32_t pos, bytes;
} ref_record;

struct ref_storage {
    /* Sizes in ref_cache; optional. */
    void (*init)(ref_cache *c);

    /* A value as it is kept; NULL: as computed. */
    real (*round)(real x);

    /* Bytes of every record; 0: each says its own. */
    int32_t (*record_bytes)(const ref_cache *c);

    /* Number of entries of each KV head of a layer, and the i-th of them. */
    int64_t (*records)(const ref_cache *c, const ref_layer *l);
    ref_record (*record)(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i);

    /* The bytes of a record: where they lie, or in `row`, which holds 2 * KV_MAX_HEAD_DIM floats. */
    const void *(*read)(const ref_cache *c, const ref_layer *l, int64_t head, const ref_record *r, void *row);
    void (*write)(const ref_cache *c, ref_layer *l, int64_t head, const ref_record *r, const void *bytes);

    /* Lets the policy take over a KV head of a foreign state, heads ascending, and makes room. */
    kv_status (*adopt)(ref_cache *c, ref_layer *l, int64_t head, const kv_state_view *v, int64_t seen);

    /* Codes first (kvarn): takes the piece's rows in before anybody attends; nothing is inserted afterwards. a->ranges
     * becomes the view with the piece. spans: all that the queries of a KV head see; returns their number. */
    kv_status (*take)(ref_attn_layer *a, int32_t layer, int64_t base);
    int64_t (*spans)(const ref_attn_layer *a, int64_t head, ref_span *out, ref_tiles *tiles);

    /* Codes last (kivi): behind attention and insertion. */
    kv_status (*code)(ref_attn_layer *a, int32_t layer);
};

/* The table of a storage, by kv_storage. */
const ref_storage *REF(storage_find)(int32_t storage);

/* Rounds n values to what the storage keeps of them: as they arrive, or, where a window is computed again and its own
 * rows stay as computed (xwindow), as they are recorded. Exactly one of the two does something. */
void REF(storage_arrive)(const ref_cache *c, real *x, int64_t n);
void REF(storage_record)(const ref_cache *c, real *x, int64_t stride, int64_t n);

/* For adopt of storages that code: `n` consecutive tokens from og on, the first a multiple of `unit`. */
kv_status REF(adopt_tokens)(ref_cache *c, ref_layer *l, int64_t head, int64_t og, int64_t n, int64_t seen, int64_t unit);

/* Entry `slot` of the store: key d is k[d * REF_PANEL], value d is v[d]. */
static inline real *ref_slot_k(const ref_cache *c, const ref_layer *l, int64_t head, int64_t slot)
{
    return ref_layer_k(c, l, head) + slot / REF_PANEL * c->head_dim * REF_PANEL + slot % REF_PANEL;
}
static inline real *ref_slot_v(const ref_cache *c, const ref_layer *l, int64_t head, int64_t slot)
{
    return ref_layer_v(c, l, head) + slot * c->dv;
}

#endif
