/* weights.h - a model's weights, widened to fp32 and packed for the kernels. Shared by every session of
 * the reference (float and double) on the same model, because widening is exact and packing costs time
 * and half a gigabyte. Not thread-safe against itself: sessions are opened by one thread. */
#ifndef KV_REF_WEIGHTS_H
#define KV_REF_WEIGHTS_H

#include "common/model.h"
#include "common/pool.h"

/* 32 weights each of 16 outputs as their file keeps them: w[k][j] = d[j] * q[k][j] + m[j]. A third of the bytes
 * of fp32 for the same values, which is what a product of few rows waits for. */
typedef struct ref_code_block {
    float d[16], m[16];
    int8_t q[32][16];
} ref_code_block;

/* W[N][K] as panels [ceil(N/16)][K][16], zero padded, and, where the file's format has them, as codes. */
typedef struct ref_packed {
    const float *panels;
    const ref_code_block *codes; /* [ceil(N/16)][K/32], or NULL */
    int has_min;                 /* m counts; where it does not, not even a zero is added */
    int64_t n, k;
} ref_packed;

typedef struct ref_layer_weights {
    const float *attn_norm, *ffn_norm; /* [d_model]; NULL: norms without gains */
    ref_packed q, k, v, o, gate, up, down; /* gate: SwiGLU only */
} ref_layer_weights;

typedef struct ref_weights {
    const kv_model *model;
    int users;
    struct ref_weights *next;
    void *arena, *codes; /* panels and vectors; codes */
    size_t arena_bytes, codes_bytes;
    const float *output_norm;
    ref_packed head;
    ref_packed bigram_proj, side_gate, side_value, side_proj; /* golf; empty where the model has none */
    ref_layer_weights *layers; /* [n_layers] */
} ref_weights;

/* The packed weights of a model: made on first use, counted. */
kv_status ref_weights_acquire(const kv_model *m, kv_pool *pool, const ref_weights **out);
void ref_weights_release(const ref_weights *w); /* accepts NULL */

/* Floats that a packed N x K matrix occupies. */
int64_t ref_packed_size(int64_t n, int64_t k);

/* The same rows as blocks[cols / 32]; t's format has codes. */
void ref_pack_codes(const kv_tensor *t, int64_t row0, ref_code_block *blocks);

/* Packs rows [row0, row0 + 16) of t into one panel; rows behind the last are zero. scratch: 16 * cols
 * floats. */
void ref_pack_panel(const kv_tensor *t, int64_t row0, float *scratch, float *panel);

#endif
