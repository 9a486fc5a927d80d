/* session.h - one stream of tokens through the reference: weights, cache and working memory. */
#ifndef KV_REF_SESSION_H
#define KV_REF_SESSION_H

#include "common/backend.h"
#include "common/mem.h"
#include "common/pool.h"
#include "ref/backend.h"
#include "ref/cache.h"
#include "ref/carry.h"
#include "ref/multiply.h"
#include "ref/rope.h"
#include "ref/weights.h"

/* Working memory of one piece of m tokens. Rows are tokens. */
typedef struct ref_work {
    kv_buffer memory;
    int64_t m;      /* tokens that it has room for */
    real *x;        /* [m][d_model] residual stream */
    real *xn;       /* [m][d_model] normalised; later the output of a projection */
    real *q;        /* [m][Hq * D] */
    real *k, *v;    /* [m][H * D] as projected */
    real *att;      /* [m][Hq * D] */
    real *gate, *up; /* [m][ffn_dim] */
    real *own_raw;  /* [H][m/16][D][16] keys of the piece in panels, before RoPE */
    real *own_k;    /* the same after RoPE */
    real *own_v;    /* [H][m][dv] */

    /* The golf family's; no memory where the config leaves them off. */
    real *x0;            /* [m][d_model] the stream before layer 0 */
    real *bigram;        /* [m][bigram_dim] */
    real *skips;         /* [skips][m][d_model] what layers of the first half leave behind */
    real *k_raw, *v_raw; /* [m][H * D] as projected, where k, v are shifted */
    real *side_gate, *side_value, *side_conv; /* [m][sidecar_hidden] */
} ref_work;

/* Parameters of the golf family that are no matrices; NULL: the model has none. */
typedef struct ref_golf_layer {
    const real *resid_mix;              /* [2][d_model] */
    const real *attn_scale, *ffn_scale; /* [d_model] */
    const real *q_gain, *k_gain;        /* [Hq], [H] */
    const real *k_shift, *v_shift;      /* [H] */
    const real *local_v;                /* [Hq] */
} ref_golf_layer;

typedef struct ref_golf {
    kv_buffer memory;
    const real *bigram_scale; /* [1] */
    const real *smear;        /* [d_model] before the sigmoid */
    real *gate, *rest;        /* [d_model] behind it, and 1 - gate */
    const real *skips;        /* [skips][d_model] */
    const real *conv, *site_gate, *side_scale; /* [hidden][3], [sites][hidden], [sites][d_model] */
    ref_golf_layer *layers;   /* [n_layers] */
} ref_golf;

typedef struct ref_session {
    const kv_model *model;
    const ref_weights *weights;
    const ref_kernels *kernels;
    kv_pool *pool;
    ref_golf golf;
    ref_carries carries;
    ref_cache cache;
    ref_rope rope;
    ref_rope_table own_table;  /* positions of the piece's tokens */
    ref_rope_table view_table; /* positions 0, 1, ... of stored keys kept un-rotated */
    real scale;          /* of the softmax */
    ref_work work;
    kv_buffer *scratch;  /* [threads] of attention */
    kv_buffer rotated;   /* [H][cap/16][D][16] stored keys as the current layer reads them */
    kv_buffer rows;      /* [2][Hq][m] what the softmax of each row ended with */
    kv_buffer columns;   /* sums of probabilities, and the queries they come from */
    kv_buffer embed_row;   /* [d_model] floats */
    kv_buffer head_out;  /* [rows][vocab] where the caller wants no float logits */
    struct ref_hooked *hooked; /* NULL: all operations are the reference's own */
    int64_t seen;
    int broken;          /* a step failed half-way */
    double seconds[REF_OP_COUNT];
    char error[KV_MESSAGE_MAX];
} ref_session;

/* What one piece of a step is to deliver. */
typedef struct ref_piece {
    const int32_t *tokens; /* [m] */
    int64_t m;
    int64_t row0;          /* index of its first token in the step */
    const kv_step *step;
} ref_piece;

/* The forward pass of one piece, insertion into the cache included. */
kv_status REF(forward)(ref_session *s, const ref_piece *p);

/* ---- forward.c's parts in other files ---- */

/* One layer's attention for the piece whose q, k, v are projected: rotates, attends, inserts. base:
 * position of the piece's first token; w.att receives the result. attention.c */
kv_status REF(attend)(ref_session *s, int32_t layer, const ref_piece *p, int64_t base);

/* Copies from the piece's rows [m][width] what the step's taps want of a point. */
void REF(tap_rows)(const ref_piece *p, int point, int32_t layer, const real *rows, int64_t width);

/* x [m][k] times up to three of the session's matrices; those that the model does not have are left out. */
void REF(multiply_all)(const ref_session *s, const real *x, int64_t m, const ref_product p[3]);

/* A loop over rows x .. end-1 of the piece's working memory; rows are split among threads. */
typedef void ref_rows_fn(const ref_session *s, int32_t layer, int64_t x, int64_t end);
void REF(over_rows)(const ref_session *s, int64_t m, int32_t layer, ref_rows_fn *fn);

/* Monotonic seconds; ref/ uses them for ref_session_seconds only. */
double REF(now)(void);

/* ---- state.c: the calls of the door that move state ---- */
kv_status REF(export_state)(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap,
                            size_t *need);
kv_status REF(import_state)(kv_session *s, const void *src, size_t size);
kv_status REF(snapshot)(kv_session *s, void **out);
kv_status REF(restore)(kv_session *s, const void *snap);
void REF(snapshot_free)(kv_session *s, void *snap);
kv_status REF(digest)(kv_session *s, int32_t layer, kv_digest *out);

#endif
