/* cache.h - the reference's K/V cache: stores by slot, and the private table that a policy fills.
 *
 * A policy decides with slots; the cache moves the bytes. Keys are kept in panels of 16 slots,
 * [H][cap/16][D][16], values in rows, [H][cap][Dv] (Dv = D rounded up to 16), so that attention runs on
 * them where they lie. Slots are private to the reference: events and exports speak of canonical slots,
 * original indices and view order. */
#ifndef KV_REF_CACHE_H
#define KV_REF_CACHE_H

#include "common/backend.h"
#include "common/state.h"
#include "ref/kernels.h"

/* Consecutive slots that are consecutive in view order. */
typedef struct ref_range {
    int64_t slot0, n;
} ref_range;

/* One resident entry. */
typedef struct ref_entry {
    int64_t slot, og;
    int32_t pos; /* as exported */
} ref_entry;

/* One layer. The policy owns n, seen, n_sink, head and pos; the cache owns the stores. */
typedef struct ref_layer {
    int64_t n;      /* resident entries */
    int64_t seen;   /* tokens inserted so far */
    int64_t n_sink; /* sink: sinks stored */
    int64_t head;   /* sliding: slot of the oldest entry; sink: ring offset of the oldest entry */
    int32_t *pos;   /* [cap] position by slot; only where the policy asks for it */
    real *k, *v;
    int64_t cap; /* slots, a multiple of 16 */
    size_t k_bytes, v_bytes;
    kv_events events; /* of the current step */
} ref_layer;

typedef struct ref_cache ref_cache;

/* What a policy is. All functions act on one layer; layers decide alike but keep their own state. */
typedef struct ref_policy {
    int needs_pos; /* keeps ref_layer.pos */

    /* KV_KEY_ROTATED: keys are stored as attention reads them; KV_KEY_RAW: they are rotated in every step,
     * at positions 0, 1, ... in view order. */
    int32_t (*key_form)(const kv_policy *p);

    /* Most slots that can ever be in use; 0: no limit. The store grows towards it. */
    int64_t (*slots)(const kv_policy *p);

    /* Tokens of the next piece when `left` tokens of a step remain. */
    int64_t (*piece)(const kv_policy *p, int64_t left);

    /* Before the forward pass of m tokens: evicts, returns the position of the piece's first token. */
    int64_t (*begin)(ref_cache *c, int32_t layer, int64_t m);

    /* The resident entries as ranges of slots in view order; at most REF_MAX_SPANS - 1. */
    int64_t (*view)(const ref_cache *c, const ref_layer *l, ref_range *out);

    /* Inserts the token with original index l->seen, whose position was pos; returns its slot. */
    int64_t (*place)(ref_cache *c, int32_t layer, int64_t pos);

    /* The i-th entry in view order. */
    ref_entry (*entry)(const ref_cache *c, const ref_layer *l, int64_t i);

    /* Takes over a foreign state: n entries with these original indices and positions, in view order,
     * after `seen` tokens. Afterwards entry(i).slot says where their bytes belong. */
    kv_status (*adopt)(ref_cache *c, ref_layer *l, int64_t n, const int64_t *og, const int32_t *pos,
                       int64_t seen);
} ref_policy;

struct ref_cache {
    kv_policy policy;
    const ref_policy *ops;
    int32_t n_layers, n_kv_heads, head_dim;
    int64_t dv; /* value row stride */
    ref_layer *layers;
    int record_events;
    kv_status event_status; /* first failure to record an event */
};

kv_status REF(cache_init)(ref_cache *c, const kv_config *cfg, const kv_policy *p);
void REF(cache_free)(ref_cache *c);
void REF(cache_reset)(ref_cache *c);

/* Makes room for m more tokens. */
kv_status REF(cache_reserve)(ref_cache *c, ref_layer *l, int64_t m);

/* Where the panels and rows of a KV head begin. */
static inline real *ref_layer_k(const ref_cache *c, const ref_layer *l, int64_t head)
{
    return l->k + head * l->cap * c->head_dim;
}
static inline real *ref_layer_v(const ref_cache *c, const ref_layer *l, int64_t head)
{
    return l->v + head * l->cap * c->dv;
}

/* For policies: appends an event with margin +inf to a layer's list, when somebody wants events. */
void REF(cache_event)(ref_cache *c, int32_t layer, int32_t kind, int64_t og, int64_t token,
                      int64_t slot);

/* The table of a selection, by kv_selection. */
const ref_policy *REF(policy_find)(int32_t selection);

#endif
