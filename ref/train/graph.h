/* graph.h - one batch through a model of the golf family and back: loss and gradients.
 *
 * All sequences of a batch go through together. Rows are tokens: row t is token t % S of sequence t / S. Shapes: T rows,
 * d = d_model, Hq query heads and H KV heads of D values, F = ffn_dim, n = sidecar_hidden, dv = D rounded up to 16.
 * Orders of all sums: docs/training.md. The forward pass has the bits of a session under `full`. */
#ifndef KV_REF_TRAIN_GRAPH_H
#define KV_REF_TRAIN_GRAPH_H

#include "common/mem.h"
#include "common/pool.h"
#include "ref/kernels.h"
#include "ref/rope.h"
#include "ref/train/kernels.h"
#include "ref/train/pack.h"
#include "ref/train/params.h"

/* What the backward pass needs of a layer. NULL where the config leaves a feature off. */
typedef struct ref_graph_layer {
    real *xin;            /* [T][d] the stream behind the skip, before resid_mix */
    real *n1, *r1;        /* [T][d], [T] normalised input of attention, and its factor: n1 = x * r1 */
    real *k_raw, *v_raw;  /* [T][H D] before the shift */
    real *qn, *rq;        /* [T][Hq D], [T][Hq] normalised queries */
    real *kn, *rk;        /* [T][H D], [T][H] */
    real *v;              /* [T][H D] as attention reads it */
    real *max, *sum;      /* [Hq][T] of every row's softmax */
    real *y;              /* [T][Hq D] XSA: before what lies along the own value is taken out */
    real *att;            /* [T][Hq D] what the output projection reads */
    real *ao;             /* [T][d] attention's output before its scale */
    real *n2, *r2;        /* of the feed-forward block */
    real *f;              /* [T][F] before the activation */
    real *mo;             /* [T][d] the block's output before its scale */
    real *n3, *r3;        /* of the sidecar */
    real *z, *val, *conv; /* [T][n] gate before silu; values; values behind the convolution */
    real *so;             /* [T][d] the sidecar's output before its scale */
    real *xo;             /* [T][d] the layer's output, where a later layer takes it as a skip */
} ref_graph_layer;

/* Arrays that every layer overwrites. */
typedef struct ref_graph_work {
    real *x;        /* [T][d] stream */
    real *h;        /* [T][d] a norm's output times ln_scale */
    real *out;      /* [T][d] of a branch without a scale */
    real *qs;       /* [T][Hq D] queries as attention reads them: rotated, gain, softmax scale */
    real *k_panels; /* [sequences][H][S/16][D][16] keys as attention reads them */
    real *v_rows;   /* [sequences][H][S][dv] */
    real *act;      /* [T][F] */
    real *side;     /* [T][n] */
    real *dx, *dx0; /* [T][d] gradients: of the stream, of its state before layer 0 */
    real *dskip;    /* [skips][T][d] */
    real *db, *dh;  /* [T][d] of a branch: its output, its input */
    real *dact;     /* [T][F] */
    real *dy;       /* [T][Hq D] of attention's output */
    real *dq, *dk, *dv; /* [T][..] of the projections' outputs */
    real *dk_heads, *dv_heads; /* [Hq][T][dv] shares of the query heads */
    real *dvs;      /* [T][H D] what the value gets besides attention; before the shift's backward */
    real *dks;
    real *rows_q, *rows_k; /* [T][Hq], [T][H] sums along the rows, for gradients of gains and mixes */
    real *rows_a, *rows_b; /* [T][d] and [T][d]: anything */
    real *dside, *dconv, *dval; /* [T][n] */
    real *transposed; /* [widest][T and a little]: gradients with tokens inside */
    real *panels;     /* inputs of a product as panels, tokens inside */
    real *table;      /* [V][d] gradients that rows of the embedding get from their tokens */
    real *gradient;   /* [largest matrix] of a sidecar matrix at one site */
} ref_graph_work;

typedef struct ref_graph {
    const ref_params *params;
    const kv_config *cfg;
    const ref_kernels *kernels;
    kv_pool *pool;
    int64_t S, T;
    const real *w;      /* the parameters, of the caller */
    real *g;            /* gradients, of the caller */
    int round_matrices; /* matrices are rounded to int6 (late quantisation-aware training) */
    ref_rope rope;
    ref_rope_table table;
    real scale;         /* of the softmax */
    void *memory;       /* everything below */
    size_t memory_bytes;
    real **forward, **back; /* [params->n] panels of matrices: for y = x W', for dx = dy W */
    ref_graph_layer *layers;
    ref_graph_work work;
    const int32_t *tokens, *targets; /* [T] of the batch under way */
    real *pair_rows;    /* [T][bigram_dim] rows of the bigram table */
    real *pair_out;     /* [T][d] their projection */
    real *n0, *r0, *x0; /* embedding: normalised, factor; behind the smear gate */
    real *gate, *rest;  /* [d] of the smear gate */
    real *fx, *rf;      /* final norm */
    real *dz;           /* [T][V] logits, then gradients of what the head makes */
    real *nll;          /* [T] */
    const real *zeros;  /* a row as wide as any: what stands before the first token of a sequence */
    kv_buffer *scratch; /* [threads] */
} ref_graph;

/* Room for batches of `sequences` sequences of S tokens. w and g have params->total values and stay the caller's.
 * ERR_NOMEM. */
kv_status REF(graph_open)(ref_graph *gr, const ref_params *params, const ref_kernels *kernels, kv_pool *pool, int64_t S,
                          int64_t sequences, const real *w, real *g);
void REF(graph_close)(ref_graph *gr);

/* Mean nll of the batch, in double, tokens in order. ERR_NONFINITE names a token whose loss is not finite. */
kv_status REF(graph_loss)(ref_graph *gr, const int32_t *tokens, const int32_t *targets, double *loss);

/* The same, and all gradients of that mean. */
kv_status REF(graph_gradients)(ref_graph *gr, const int32_t *tokens, const int32_t *targets, double *loss);

/* ---- parts: graph.c ---------------------------------------------------------------------------------------- */

typedef void ref_graph_rows_fn(const ref_graph *gr, int32_t layer, int64_t x, int64_t end);
void REF(graph_rows)(const ref_graph *gr, int32_t layer, ref_graph_rows_fn *fn);

static inline const real *ref_weight(const ref_graph *gr, kv_role role, int32_t layer)
{
    const ref_param *p = ref_param_of(gr->params, role, layer);
    return p ? gr->w + p->at : NULL;
}
static inline real *ref_gradient(const ref_graph *gr, kv_role role, int32_t layer)
{
    const ref_param *p = ref_param_of(gr->params, role, layer);
    return p ? gr->g + p->at : NULL;
}
static inline kv_role ref_head_role(const kv_config *cfg) { return cfg->tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT; }
static inline int ref_layer_in(uint64_t mask, int32_t layer) { return layer < 64 && (mask >> layer & 1); }

/* The skip that a layer takes, or -1; the layer that gives it. */
static inline int64_t ref_skip_of(const kv_config *cfg, int32_t layer)
{
    const int64_t skips = kv_config_skips(cfg), i = layer - skips;
    return i >= 0 && i < skips ? i : -1;
}
/* Row t - back of the token's sequence. */
static inline const real *ref_earlier(const ref_graph *gr, const real *rows, int64_t width, int64_t t, int64_t back)
{
    return t % gr->S >= back ? rows + (t - back) * width : gr->zeros;
}

static inline int64_t ref_skip_source(const kv_config *cfg, int64_t skip) { return kv_config_skips(cfg) - 1 - skip; }

/* y = x * r with r = 1 / sqrt(mean square + eps), which is returned: the bits of kernels->rmsnorm without gains. */
real REF(norm_row)(const ref_graph *gr, const real *x, int64_t n, real *y);

/* ---- parts: products.c --------------------------------------------------------------------------------------- */

/* c[T][rows of W] = x[T][..] W' */
void REF(product)(const ref_graph *gr, const real *x, kv_role role, int32_t layer, real *c);

/* dx[T][columns of W] = dy[T][..] W */
void REF(product_back)(const ref_graph *gr, const real *dy, kv_role role, int32_t layer, real *dx);

/* The input x[T][k] of products whose weights get their gradients next. */
void REF(take_inputs)(const ref_graph *gr, const real *x, int64_t k);

/* out[n][k] = sum over tokens of dy[t][n] * x[t][k], x as taken in. */
void REF(weight_gradient)(const ref_graph *gr, const real *dy, int64_t n, int64_t k, real *out);

/* out[c] = sum over tokens of a * b (b == NULL: of a), [T][width]: in strips, on all threads. */
void REF(channel_gradient)(const ref_graph *gr, const real *a, const real *b, int64_t width, real *out);

/* ---- parts: forward.c, attention.c, sidecar.c, loss.c, backward.c, embedding.c -------------------------------- */

void REF(graph_forward)(ref_graph *gr);
void REF(graph_embed)(ref_graph *gr);
void REF(graph_embed_back)(ref_graph *gr);
void REF(graph_attend)(ref_graph *gr, int32_t layer);
void REF(graph_attend_back)(ref_graph *gr, int32_t layer);
void REF(graph_sidecar)(ref_graph *gr, int32_t layer);
void REF(graph_sidecar_back)(ref_graph *gr, int32_t layer);

/* Logits and losses; with gradients dz becomes the gradient of the products. share: 1 / number of targets. */
kv_status REF(graph_head)(ref_graph *gr, int gradients, double *loss);
void REF(graph_backward)(ref_graph *gr);

/* Reals of scratch that a thread needs. */
int64_t REF(attend_scratch)(const ref_graph *gr);

#endif
