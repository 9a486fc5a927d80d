/* attention.h - what the parts of one layer's attention share: attention.c rotates and attends, columns.c sums
 * probabilities by entry, insert.c takes the piece's rows into the cache. */
#ifndef KV_REF_ATTENTION_H
#define KV_REF_ATTENTION_H

#include "ref/session.h"

/* One layer and one piece. */
typedef struct ref_attn_layer {
    ref_session *s;
    ref_layer *layer;
    int32_t index;         /* of the layer */
    int64_t m, panels;     /* tokens of the piece; panels of 16 of them */
    int64_t group;         /* query heads per KV head */
    int64_t stored;        /* entries of the cache in view */
    ref_range ranges[REF_MAX_SPANS];
    int64_t n_ranges;
    const real *stored_k;  /* [H][cap/16][D][16] keys as attention reads them */
    const ref_rope_table *own, *view;
    real *row_max, *row_sum; /* [Hq][m] maximum and sum of each row's softmax; NULL when nobody asks */
} ref_attn_layer;

static inline int64_t ref_q_width(const ref_session *s)
{
    return (int64_t)s->model->cfg.n_heads * s->model->cfg.head_dim;
}

static inline int64_t ref_kv_width(const ref_session *s)
{
    return (int64_t)s->cache.n_kv_heads * s->cache.head_dim;
}

/* What the rows of KV head h may see; tiles may be NULL where the storage has none. attention.c */
int64_t REF(attn_spans)(const ref_attn_layer *a, int64_t h, ref_span *spans, ref_tiles *tiles);

/* Sums of probabilities as the policy demands them; out->acc lives until the next call. */
kv_status REF(columns)(ref_attn_layer *a, const ref_demand *d, ref_sums *out);

/* Lets the policy take the piece in and moves the rows. */
kv_status REF(insert)(ref_attn_layer *a, int32_t layer, int64_t base, const ref_sums *sums);

#endif
