/* blas.h - what the files of the blas side share (docs/blas.md).
 *
 * The side is a witness for arithmetic: the same forward pass as the reference, with matrix
 * products and attention by OpenBLAS in its own order, its own exponential and libm. It decides
 * nothing about the cache; it replays the decisions of another side. */
#ifndef KV_BLAS_BLAS_H
#define KV_BLAS_BLAS_H

#include "common/backend.h"
#include "common/mem.h"
#include "common/pool.h"
#include "common/state.h"

/* ---- weights.c ------------------------------------------------------------------------------ */

/* W[n][k], row by row, in fp32. */
typedef struct blas_matrix {
    const float *w;
    int64_t n, k;
} blas_matrix;

typedef struct blas_layer_weights {
    const float *attn_norm, *ffn_norm; /* [d_model]; NULL: norms without gains */
    blas_matrix qkv;                   /* query, key and value rows, one below the other */
    blas_matrix o;
    blas_matrix gate_up; /* gate rows, then up rows */
    blas_matrix down;
} blas_layer_weights;

typedef struct blas_weights blas_weights;
struct blas_weights {
    const kv_model *model;
    int users;
    blas_weights *next;
    float *arena;
    size_t arena_bytes;
    const float *output_norm;
    blas_matrix head;
    blas_layer_weights *layers; /* [n_layers] */
};

/* A model's weights, widened on first use and shared by all sessions on it. */
kv_status blas_weights_acquire(const kv_model *m, kv_pool *pool, const blas_weights **out);
void blas_weights_release(const blas_weights *w); /* accepts NULL */

/* ---- cache.c: entries in view order, which is ascending original index ---------------------- */

typedef struct blas_index {
    int64_t n, room;
    int64_t *og;
    int32_t *slot; /* canonical slot; meaningless under sliding, where slots are view indices */
    int32_t *pos;  /* position at which a rotated key was written */
    uint8_t *dead; /* evicted, not yet removed */
} blas_index;

typedef struct blas_layer {
    blas_index index;
    int64_t start, cap; /* rows start .. start + n - 1 of every head are entries */
    float *k, *v;       /* [H][cap][D] */
} blas_layer;

typedef struct blas_cache {
    kv_policy policy;
    int32_t n_layers, n_kv_heads, head_dim;
    blas_layer *layers; /* [n_layers] */
} blas_cache;

kv_status blas_cache_init(blas_cache *c, const kv_config *cfg, const kv_policy *p);
void blas_cache_free(blas_cache *c);
void blas_cache_reset(blas_cache *c);

/* KV_KEY_RAW: keys are stored un-rotated and rotated in every step at their view index. */
int32_t blas_key_form(const kv_policy *p);

/* Room for m rows behind the entries of one layer, and for m more entries in its index. */
kv_status blas_layer_reserve(const blas_cache *c, blas_layer *l, int64_t m);

/* Row 0 of the entries of a KV head; rows are head_dim apart. */
static inline float *blas_keys(const blas_cache *c, const blas_layer *l, int64_t head)
{
    return l->k + (head * l->cap + l->start) * c->head_dim;
}
static inline float *blas_values(const blas_cache *c, const blas_layer *l, int64_t head)
{
    return l->v + (head * l->cap + l->start) * c->head_dim;
}

/* Takes dead entries out of the index and, unless l is NULL, their rows out of the store. */
void blas_remove_dead(const blas_cache *c, blas_index *ix, blas_layer *l);

kv_status blas_index_reserve(blas_index *ix, int64_t room);
void blas_index_free(blas_index *ix);
void blas_index_copy(blas_index *to, const blas_index *from); /* to has room */

/* ---- follow.c: decisions of another side ---------------------------------------------------- */

/* One layer's decisions in a step, and how many of them are done. */
typedef struct blas_list {
    const kv_event *v;
    size_t n, done;
} blas_list;

/* Tokens of the next piece of a step of which `left` remain (docs/policy/sliding.md, rule 1). */
int64_t blas_piece(const kv_policy *p, int64_t left);

/* Cuts a step's list into layers. ERR_USAGE when it is not in the order of docs/backend.md. lists:
 * [n_layers]. */
kv_status blas_lists_cut(const blas_cache *c, const kv_events *follow, blas_list *lists);

/* Decisions before and after the forward pass of tokens first .. first + m - 1; evicted entries
 * become dead. base: position of the first token. ERR_USAGE when the list cannot be obeyed. */
kv_status blas_list_before(const blas_cache *c, blas_index *ix, blas_list *list, int64_t first);
kv_status blas_list_after(const blas_cache *c, blas_index *ix, blas_list *list, int64_t first,
                          int64_t m, int64_t base);

/* Position of the first token of a piece when ix is what the piece sees. */
int64_t blas_base(const blas_cache *c, const blas_index *ix, int64_t first);

/* The decisions of `full`, the only policy that needs no list, for a step of n tokens. */
kv_status blas_full_events(const blas_cache *c, int64_t seen, int64_t n, kv_events *out);

/* ---- vector.c: loops that are not matrix products ------------------------------------------- */

typedef struct blas_vector {
    /* x[i] = exp(x[i] - max); returns their sum. */
    float (*exp_sum)(float *x, int64_t n, float max);
    float (*max)(const float *x, int64_t n);
    /* h[i] = silu(g[i]) * u[i] */
    void (*swiglu)(const float *g, const float *u, int64_t n, float *h);
    /* y = x / rms(x) * gain; gain may be NULL */
    void (*rmsnorm)(const float *x, const float *gain, int64_t n, float eps, float *y);
    void (*add)(float *x, const float *y, int64_t n);
} blas_vector;
const blas_vector *blas_vector_find(void);

/* ---- rope.c --------------------------------------------------------------------------------- */

typedef struct blas_rope {
    int64_t pairs; /* rotated dims / 2 */
    int half;      /* pair i is (i, i + pairs), else (2i, 2i + 1) */
    float sign;    /* of the sine */
    float inv_freq[KV_MAX_HEAD_DIM / 2];
    /* cos and sin of positions first .. first + n - 1: [n][pairs] each */
    kv_buffer memory;
    int64_t first, n;
    const float *cos, *sin;
} blas_rope;

void blas_rope_init(blas_rope *r, const kv_config *cfg);
void blas_rope_at(const blas_rope *r, int64_t pos, float *cos, float *sin); /* [pairs] each */
kv_status blas_rope_cover(blas_rope *r, int64_t first, int64_t n);

/* dst[head_dim] = src rotated to position pos, which the table covers; dst may be src. */
void blas_rotate(const blas_rope *r, int64_t pos, const float *src, int64_t head_dim, float *dst);

/* ---- the session ---------------------------------------------------------------------------- */

/* Working memory of one piece. Rows are tokens. */
typedef struct blas_work {
    kv_buffer memory;
    int64_t m;      /* tokens that it has room for */
    float *x, *xn;  /* [m][d_model] */
    float *qkv;     /* [m][Hq * D + 2 * H * D] */
    float *att;     /* [m][Hq * D] */
    float *gate_up; /* [m][2 * ffn_dim] */
    float *act;     /* [m][ffn_dim] */
} blas_work;

typedef struct blas_session {
    const kv_model *model;
    const blas_weights *weights;
    const blas_vector *vec;
    kv_pool *pool;
    blas_cache cache;
    blas_rope rope;
    float scale; /* of the softmax */
    blas_work work;
    kv_buffer *scores; /* [threads] of attention */
    kv_buffer
        rotated; /* [H][entries + m][D] keys as the current layer reads them, when stored raw */
    kv_buffer logits; /* rows that the caller wants scored but not returned */
    blas_list *lists; /* [n_layers] */
    blas_index rehearsal;
    int64_t seen;
    int broken; /* a step failed half-way */
    char error[KV_MESSAGE_MAX];
} blas_session;

/* One piece of a step. */
typedef struct blas_piece_info {
    const kv_step *step;
    int64_t row0, m; /* tokens row0 .. row0 + m - 1 of the step */
    int64_t first;   /* original index of the first one */
} blas_piece_info;

/* forward.c: the pass over one piece, admissions and evictions included. */
kv_status blas_forward(blas_session *s, const blas_piece_info *p);

/* Copies the row that a tap asks for: rows[m] of `width` floats, `stride` apart. */
void blas_tap(const blas_piece_info *p, int point, int32_t layer, const float *rows, int64_t width,
              int64_t stride);

/* attention.c: attention of one layer. keys: row 0 of KV head 0, heads head_stride apart; n
 * entries, then the piece's own tokens. Queries in work.qkv, result in work.att. */
typedef struct blas_attention {
    const blas_session *s;
    const float *keys, *values;
    int64_t key_stride, value_stride; /* floats between KV heads */
    int64_t n, m;
} blas_attention;
kv_status blas_attend(blas_session *s, const blas_attention *a);

/* state.c */
kv_status blas_export_state(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap,
                            size_t *need);
kv_status blas_import_state(kv_session *s, const void *src, size_t size);
kv_status blas_snapshot(kv_session *s, void **out);
kv_status blas_restore(kv_session *s, const void *snap);
void blas_snapshot_free(kv_session *s, void *snap);

/* Keeps the message of a failed call for last_error. */
kv_status blas_keep_error(blas_session *s, kv_status st);

#endif
