/* ops.h - single operations of the reference on plain rows: what an operation's bits are (docs/numerics.md 3, 4), for whoever
 * verifies one kernel instead of a whole side. fp32 only. Every function runs on the calling thread with the kernels of this CPU.
 * All arrays are contiguous and belong to the caller. Failures: ERR_NOMEM. */
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

/* h[i] = silu(g[i]) * u[i] */
kv_status ref_op_swiglu(const float *g, const float *u, int64_t n, float *h);

/* One row of hd values in place, by rd/2 cosines and sines; half: pairs (i, i + rd/2), else (2i, 2i+1). */
void ref_op_rope(float *row, int64_t rd, int half, const float *cos, const float *sin);

/* Attention of T tokens over n entries. Entry i < stored is seen by all of them, entry stored + x by tokens x and later. */
typedef struct ref_op_attn {
    const float *q;     /* [T][Hq][D] */
    const float *k, *v; /* [n][Hk][D]; v is not read by ref_op_colsum */
    int64_t T, Hq, Hk, D, n, stored;
    float scale;
    float *o;           /* [T][Hq][D] */
    float *max, *sum;   /* [Hq][T] what each row's softmax ended with; a row that sees nothing: -inf, 0 */
} ref_op_attn;
kv_status ref_op_attention(const ref_op_attn *a);

/* colsum[Hq][n]: a->max and a->sum are read. weights [T], or NULL. */
kv_status ref_op_colsum(const ref_op_attn *a, const float *weights, float *colsum);

/* nll, maximum and sum of one row of logits z[n], softcapped in place first when cap is not 0. */
kv_status ref_op_nll(float *z, int64_t n, float cap, int64_t target, float *nll, float *max, float *sum);

KV_EXTERN_C_END

#endif
