/* ops.h - single operations of the reference on plain rows: what an operation's bits are (docs/numerics.md 3, 4), for
 * whoever verifies one kernel instead of a whole side. fp32 only. Every function runs on the calling thread with the
 * kernels of this CPU. All arrays are contiguous and belong to the caller. Failures: ERR_NOMEM. */
#ifndef KV_REF_OPS_H
#define KV_REF_OPS_H

#include "common/policy.h"
#include "common/status.h"

#include <stdint.h>

KV_EXTERN_C_BEGIN

/* y[m][n] = RMSNorm of rows x[m][n] with gains w[n]. */
kv_status ref_op_rmsnorm(const float *x, const float *w, int64_t m, int64_t n, float eps, float *y);

/* c[m][n] = sum over k of a[m][k] * w[n][k], in blocks of 256. */
kv_status ref_op_gemm(const float *a, const float *w, int64_t m, int64_t n, int64_t k, float *c);

/* The same with a bias[n] (or NULL), added once, and then: STORE; ADD: c = c + product; SILU_MUL: c[m][n/2] = silu of
 * the first n/2 columns times the others; RELU2: positive part, squared. */
typedef enum ref_op_epilogue { REF_OP_STORE, REF_OP_ADD, REF_OP_SILU_MUL, REF_OP_RELU2 } ref_op_epilogue;
typedef struct ref_op_gemm_args {
    const float *a, *w, *bias;
    int64_t m, n, k;
    ref_op_epilogue epilogue;
    float *c;
} ref_op_gemm_args;
kv_status ref_op_gemm_epilogue(const ref_op_gemm_args *g);

/* h[i] = silu(g[i]) * u[i] */
kv_status ref_op_swiglu(const float *g, const float *u, int64_t n, float *h);

/* One row of hd values in place, by rd/2 cosines and sines; half: pairs (i, i + rd/2), else (2i, 2i+1). */
void ref_op_rope(float *row, int64_t rd, int half, const float *cos, const float *sin);

/* Attention of T tokens over n entries. Entry i < stored is seen by all of them, entry stored + x by tokens x and
 * later. */
typedef struct ref_op_attn {
    const float *q;     /* [T][Hq][D] */
    const float *k, *v; /* [n][Hk][D]; v is not read by ref_op_colsum */
    int64_t T, Hq, Hk, D, n, stored;
    float scale;
    float *o;         /* [T][Hq][D] */
    float *max, *sum; /* [Hq][T] what each row's softmax ended with; a row that sees nothing: -inf, 0 */
} ref_op_attn;
kv_status ref_op_attention(const ref_op_attn *a);

/* colsum[Hq][n]: a->max and a->sum are read. weights [T], or NULL. */
kv_status ref_op_colsum(const ref_op_attn *a, const float *weights, float *colsum);

/* nll, maximum and sum of one row of logits z[n], softcapped in place first when cap is not 0. */
kv_status ref_op_nll(float *z, int64_t n, float cap, int64_t target, float *nll, float *max, float *sum);

/* ---- policies and coded storage (ops_cache.c)
 * ---------------------------------------------------------------------------- */

/* Inserts the T tokens of a step into G lists of a cascade with accept=pow2 and select=ema (docs/policy/cascade.md).
 * Slots are canonical: S = sinks + levels * W of them. The limits are those of the policy; others are ERR_USAGE. */
typedef struct ref_op_cascade {
    int64_t G, T, sinks, W, levels, eager, seen; /* seen: original index of the first token */
    const float *score, *new_score;              /* [G][S], [G][T] */
    const int64_t *og;                           /* [G][S] original indices; -1: empty */
    int32_t *rings;   /* [1 + 2 levels] in/out: sinks stored; count and start of every ring */
    int32_t *src;     /* [G][S] out: slot that it came from, -1 - t: token t */
    int64_t *dropped; /* [G][T] out: who left when token t came; -1: nobody */
} ref_op_cascade;
kv_status ref_op_cascade_plan(const ref_op_cascade *a);

/* Codes K and V rows [T][D], rotated already, finite, as one record (common/tile.h). */
kv_status ref_op_kvarn_tile(const kv_kvarn_params *p, const float *k, const float *v, int64_t D, uint8_t *record);

/* Codes K and V rows [R][D], finite, as the record of a kivi block and behind it those of R V rows. */
kv_status ref_op_kivi_tile(const kv_kivi_params *p, const float *k, const float *v, int64_t D, uint8_t *record);

/* Attention of one token over coded tiles and a tail of rotated rows; q and o are not rotated. */
typedef struct ref_op_kvarn_attn {
    kv_kvarn_params params;
    const float *q;               /* [Hq][D] */
    const uint8_t *records;       /* [tiles][Hk][bytes] */
    const float *tail_k, *tail_v; /* [tail][Hk][D] */
    int64_t Hq, Hk, D, tiles, tail;
    float scale;
    float *o; /* [Hq][D] */
} ref_op_kvarn_attn;
kv_status ref_op_kvarn_attention(const ref_op_kvarn_attn *a);

KV_EXTERN_C_END

#endif
