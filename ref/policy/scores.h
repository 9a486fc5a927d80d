/* scores.h - what policies share that decide by attention: reductions over heads, ranking, compaction. */
#ifndef KV_REF_POLICY_SCORES_H
#define KV_REF_POLICY_SCORES_H

#include "ref/cache.h"

/* Sum or exact maximum over the query heads of KV head h, ascending, of entry i's column sum. */
real REF(group_sum)(const ref_sums *s, int64_t h, int64_t i);
real REF(group_max)(const ref_sums *s, int64_t h, int64_t i);

/* The entry stays before others: higher score, then lower index; NaN ranks below every number. */
typedef struct ref_ranked {
    real score;
    int64_t i;
} ref_ranked;

/* Marks keep[i] = 1 for the `want` best of v[0 .. n-1] and 0 for the rest (reorders v); returns the lowest score
 * that stays, +inf when none does. */
real REF(keep_best)(ref_ranked *v, int64_t n, int64_t want, uint8_t *keep);

/* One KV head of a piece: which entries of [stored | own] stay. Emits the events of docs/policy/h2o.md and the moves
 * that leave the kept entries in slots 0, 1, ...; updates original indices. Scores, where the policy has them, are
 * taken from scores[i]. lowest: as returned by keep_best; event_head: head or -1; silent: no events. */
typedef struct ref_survivors {
    const uint8_t *keep;   /* [stored + m] */
    const real *scores;    /* [stored + m] what decided; NULL: nothing did */
    real lowest;
    int32_t event_head;
    int silent;
} ref_survivors;
void REF(keep_survivors)(ref_cache *c, int32_t layer, int64_t head, const ref_sums *s, const ref_survivors *k);

/* Parts that h2o, tova, snapkv and pyramid have in common: slots 0 .. n-1 oldest to newest, keys stored rotated,
 * positions = original indices. */
int32_t REF(time_order_key_form)(const kv_policy *p);
int64_t REF(time_order_begin)(ref_cache *c, int32_t layer, int64_t m);
int64_t REF(time_order_view)(const ref_cache *c, const ref_layer *l, ref_range *out);
ref_entry REF(time_order_entry)(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i);

/* For adopt: after a->seen tokens there are `n` entries, and the newest `tail` tokens are all among them. */
kv_status REF(time_order_adopt)(ref_layer *l, int64_t head, const ref_adopt *a, int64_t n, int64_t tail);

#endif
