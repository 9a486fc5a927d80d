/* view.h - the segments of an attention call as one list of rows. */
#ifndef KV_DIFFTEST_OPS_VIEW_H
#define KV_DIFFTEST_OPS_VIEW_H

#include "difftest/ops/oracle.h"

typedef struct dt_view {
    int64_t n, stored; /* valid entries; those that every token sees */
    int64_t n_all;     /* entries, dead ones included */
    float *k, *v;      /* [n][Hk][hd], widened; v is NULL where the call has none */
    int64_t *entry;    /* [n] number through all segments, dead ones counted */
} dt_view;

/* segments: three of them, n_segments in use. */
kv_status dt_view_make(const kvdk_segment *segments, int64_t n_segments, int64_t Hk, int64_t hd, dt_view *out);
void dt_view_free(dt_view *v);

/* "entry 3 of the cache" for a number through all segments. */
void dt_view_name_entry(const kvdk_segment *segments, int64_t n_segments, int64_t entry, char *dst, size_t size);

/* What is right, computed from the flattened view: answer of an attention operation is dt_view_answer of its own
 * function. */
typedef kv_status dt_view_answer_fn(const dt_opcase *c, const dt_view *view, const kvdk_precision *precision,
                                    dt_answer *out);
kv_status dt_view_answer(const dt_opcase *c, const kvdk_segment *segments, int64_t n_segments, int64_t Hk, int64_t hd,
                         const kvdk_precision *precision, dt_view_answer_fn *fn, dt_answer *out);

/* Draws heads, tokens and segments of an attention call, with `scale`; most: tokens. The tensors q and segment* exist
 * afterwards and are filled by the case's distribution; with_v = 0: no values. */
typedef struct dt_attn_shape {
    int64_t T, Hq, Hk, hd;
    int64_t n[3];  /* entries of sink, cache and self; self is 0 or T */
    int64_t dead;  /* of 8 cache entries so many are dead */
    int32_t dtype; /* of K and V */
} dt_attn_shape;
kv_status dt_view_draw(dt_opcase *c, const dt_attn_shape *s, double *scale, int64_t *n_segments, int with_v);

/* A random shape with at most `most` tokens. */
dt_attn_shape dt_attn_shape_random(const dt_opcase *c, int64_t most);

#endif
