/* cache.h - the reference's K/V cache: stores by slot, and the private table that a policy fills.
 *
 * A policy decides with slots; the cache moves the bytes. Keys are kept in panels of 16 slots,
 * [H][cap/16][D][16], values in rows, [H][cap][Dv] (Dv = D rounded up to 16), so that attention runs on
 * them where they lie. Slots are private to the reference: events and exports speak of canonical slots,
 * original indices and view order. */
#ifndef KV_REF_CACHE_H
#define KV_REF_CACHE_H

#include "common/backend.h"
#include "common/mem.h"
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

/* Coded records of a layer, two kinds at most: kvarn's tiles, or kivi's K blocks and V rows. The record of slot s of a KV
 * head is number s / (tokens of a record). */
typedef struct ref_coded {
    uint8_t *p[2];   /* [H][n][bytes of a record] */
    size_t bytes[2]; /* of p */
    int64_t n[2];    /* records that a head has room for */
} ref_coded;

/* One layer. The policy owns everything but the stores. Arrays by slot exist only where the policy asks. */
typedef struct ref_layer {
    int64_t n;      /* resident entries of a KV head; the same for all heads */
    int64_t seen;   /* tokens inserted so far */
    int64_t n_sink; /* sink, cascade: sinks stored */
    int64_t head;   /* sliding: slot of the oldest entry; sink: ring offset of the oldest entry; xwindow: as sliding */
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX]; /* cascade: entries of a ring, offset of its oldest */
    int32_t *pos;   /* [cap] position */
    int64_t *og;    /* [H][cap] original index */
    real *score;    /* [H][cap] */
    real *k, *v;
    int64_t cap; /* slots, a multiple of 16; kvarn: rows of the incomplete tile */
    ref_coded coded;
    size_t k_bytes, v_bytes;
    kv_events events; /* of the current step */
} ref_layer;

/* Which probabilities of a piece a policy wants summed by entry: queries first .. first + rows - 1. */
typedef struct ref_demand {
    int64_t first, rows;
    const real *weights; /* [rows] of an exponential average; NULL: plain sums */
    int64_t block;       /* queries of a block; blocks are added in order */
    int own_reversed;    /* the weights of the piece's own tokens run backwards (a known-bad variant) */
} ref_demand;

/* The sums, per query head: acc[head * stride + view index], own tokens behind the stored entries. */
typedef struct ref_sums {
    const real *acc;
    int64_t stride, stored, m; /* entries in view before the piece; tokens of the piece */
    int64_t base;              /* position of the piece's first token */
    int64_t n_heads, group;    /* query heads; per KV head */
} ref_sums;

/* A row that changes its place: to a slot, from another slot or, when negative, from own token ~from. */
typedef struct ref_move {
    int64_t to, from;
} ref_move;

typedef struct ref_moves {
    ref_move *v;
    int64_t n, cap;
} ref_moves;

typedef struct ref_cache ref_cache;
typedef struct ref_storage ref_storage; /* ref/storage.h */

/* n entries in view order after `seen` tokens. */
typedef struct ref_adopt {
    int64_t n, seen;
    const int64_t *og;
    const int32_t *pos;
    const float *score; /* NULL where the policy has none */
} ref_adopt;

/* What a policy is. All functions act on one layer; layers decide alike but keep their own state. */
typedef struct ref_policy {
    int needs_pos, needs_og, needs_score; /* arrays of ref_layer; scores are exported */

    /* KV_KEY_ROTATED: keys are stored as attention reads them; KV_KEY_RAW: they are rotated in every step,
     * at positions 0, 1, ... in view order. */
    int32_t (*key_form)(const kv_policy *p);

    /* Most slots that can ever be in use; 0: no limit. The store grows towards it. */
    int64_t (*slots)(const kv_policy *p);

    /* Most tokens of the next piece of a step of n tokens when `seen` were fed. */
    int64_t (*piece)(const kv_policy *p, int64_t seen, int64_t n);

    /* Before the forward pass of m tokens: evicts, returns the position of the piece's first token. */
    int64_t (*begin)(ref_cache *c, int32_t layer, int64_t m);

    /* The resident entries as ranges of slots in view order; at most REF_MAX_SPANS - 1. */
    int64_t (*view)(const ref_cache *c, const ref_layer *l, ref_range *out);

    /* Inserts the token with original index l->seen, whose position was pos, into the same slot of all heads;
     * returns the slot. NULL where settle decides. */
    int64_t (*place)(ref_cache *c, int32_t layer, int64_t pos);

    /* What settle needs to know; optional. */
    kv_status (*demand)(ref_cache *c, const ref_layer *l, int64_t m, ref_demand *out);

    /* After the forward pass: evicts and inserts a whole piece, head by head, by REF(cache_move). */
    kv_status (*settle)(ref_cache *c, int32_t layer, const ref_sums *sums);

    /* The i-th entry of a KV head in view order. */
    ref_entry (*entry)(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i);

    /* Takes over a KV head of a foreign state, heads ascending. Afterwards entry(i).slot says where the bytes belong. */
    kv_status (*adopt)(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a);
} ref_policy;

struct ref_cache {
    kv_policy policy;
    const ref_policy *ops;
    const ref_storage *store;
    int32_t n_layers, n_kv_heads, head_dim;
    int64_t dv; /* value row stride */
    int64_t tail;         /* kvarn: rows of the store, the tokens of a tile; else 0: every slot has a row */
    kv_kvarn_layout tile; /* kvarn */
    kv_kivi_layout block; /* kivi */
    int64_t coded_tokens[2], coded_bytes[2]; /* of a record of ref_coded; 0: no such kind */
    ref_layer *layers;
    int64_t window; /* xwindow: first token of the window under way, or of the last one; -1: an import, nobody knows */
    int record_events;
    kv_status event_status; /* first failure to record an event or a move */
    ref_moves *moves;       /* [H] of the piece under way */
    kv_buffer weights;      /* of an exponential average over weights_m queries; cascade */
    int64_t weights_m;
    kv_buffer work, fresh;  /* of settle */
};

kv_status REF(cache_init)(ref_cache *c, const kv_config *cfg, const kv_policy *p);
void REF(cache_free)(ref_cache *c);
void REF(cache_reset)(ref_cache *c);

/* Copies stores and arrays, but no coded records, into a layer with at least as many slots. */
void REF(layer_copy)(const ref_cache *c, const ref_layer *from, ref_layer *to);

/* *to becomes a copy with stores of its own, without events. layer_free also takes one that failed half-way. */
kv_status REF(layer_clone)(const ref_cache *c, const ref_layer *from, ref_layer *to);
void REF(layer_free)(ref_layer *l);

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

static inline real *ref_layer_score(const ref_layer *l, int64_t head) { return l->score + head * l->cap; }
static inline int64_t *ref_layer_og(const ref_layer *l, int64_t head) { return l->og + head * l->cap; }

/* The record of a slot of a KV head, and room for records of slots 0 .. slots - 1 (coded.c). */
static inline uint8_t *ref_coded_at(const ref_cache *c, const ref_layer *l, int kind, int64_t head, int64_t slot)
{
    return l->coded.p[kind] + (head * l->coded.n[kind] + slot / c->coded_tokens[kind]) * c->coded_bytes[kind];
}
kv_status REF(coded_reserve)(const ref_cache *c, ref_layer *l, int64_t slots);
/* As many records as another layer has room for, with its bytes; bytes alone, into a layer with at least that room. */
kv_status REF(coded_clone)(const ref_cache *c, const ref_layer *from, ref_layer *to);
void REF(coded_copy)(const ref_cache *c, const ref_layer *from, ref_layer *to);
void REF(coded_free)(ref_layer *l);

/* For policies: appends an event to a layer's list, when somebody wants events. */
void REF(cache_decide)(ref_cache *c, int32_t layer, kv_event e);

/* The same for a decision that all heads share and no score settled. */
void REF(cache_event)(ref_cache *c, int32_t layer, int32_t kind, int64_t og, int64_t token,
                      int64_t slot);

/* For settle: a row of a KV head changes its place. */
void REF(cache_move)(ref_cache *c, int64_t head, int64_t to, int64_t from);

/* The table of a selection, by kv_selection. */
const ref_policy *REF(policy_find)(int32_t selection);

#endif
