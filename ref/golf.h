/* golf.h - the operations of the golf family that the Llama block does not have (docs/golf.md), each in the order of
 * docs/numerics.md: products and sums are rounded one by one, left to right.
 *
 * Every function works on one row (one token), touches nothing else and keeps no state: callers split rows among
 * threads as they like. Parameters (gates, scales, gains) are `real`, so that the same operations serve the forward
 * pass and training. Heads lie one behind the other, D values each. Unless it says otherwise, y may be x.
 *
 * The predecessor of a stream's first token is a row of +0, and the operation is carried out with it. */
#ifndef KV_REF_GOLF_H
#define KV_REF_GOLF_H

#include "common/config.h"
#include "ref/kernels.h"

/* Row of the bigram table for a token behind prev; the last row for the first token of a stream, prev < 0. */
static inline int64_t ref_bigram_row(const kv_config *cfg, int64_t prev, int64_t token)
{
    const int64_t rows = (int64_t)cfg->bigram_rows - 1; /* of pairs; products stay below 2^31: kv_config_check */
    return prev < 0 ? rows : ((cfg->bigram_mul_cur * token) ^ (cfg->bigram_mul_prev * prev)) % rows;
}

/* What a norm's output of a layer is multiplied by: 1 / sqrt(layer + 1), in double, rounded once; 1 when it is off. */
static inline real ref_ln_scale(const kv_config *cfg, int64_t layer)
{
    return cfg->ln_scale_inv_sqrt ? (real)(1.0 / kv_dsqrt((double)(layer + 1))) : 1;
}

/* g = 1 / (1 + exp(-x)), rest = 1 - g */
void REF(gate)(const real *x, int64_t n, real *g, real *rest);

/* y = x * s */
void REF(scale)(const real *x, real s, int64_t n, real *y);

/* y = x + s * z: the bigram */
void REF(add_times)(const real *x, real s, const real *z, int64_t n, real *y);

/* y = x + w * z, channel by channel: branch scales, skips, the sidecar's output */
void REF(add_weighted)(const real *x, const real *w, const real *z, int64_t n, real *y);

/* y = a * x + b * z, channel by channel: the smear gate (rest, g; z = the predecessor's row), resid_mix (z = x0) */
void REF(mix)(const real *a, const real *x, const real *b, const real *z, int64_t n, real *y);

/* Head h of y = head h of x + m[h] * head h / group of z: the shift (group 1, z = the predecessor's raw row), local_v */
void REF(add_heads)(const real *x, const real *m, const real *z, int64_t heads, int64_t group, int64_t D, real *y);

/* Head h of x times gain[h] */
void REF(gain_heads)(real *x, const real *gain, int64_t heads, int64_t D);

/* RMSNorm without gains of every head */
void REF(norm_heads)(const ref_kernels *k, const real *x, int64_t heads, int64_t D, real eps, real *y);

/* u = v / |v|, |v| = max(sqrt(k->dot(v, v)), 1e-12), which is returned */
real REF(unit)(const ref_kernels *k, const real *v, int64_t n, real *u);

/* Takes out of every head of y what lies along its own value: y - k->dot(y, u) * u, u = unit of head h / group of v */
void REF(exclude_own)(const ref_kernels *k, const real *v, int64_t heads, int64_t group, int64_t D, real *y);

/* a = r * r, r = f where f is not negative, else 0 (RELU2) or slope * f (LEAKY_RELU2) */
void REF(square_relu)(const kv_config *cfg, const real *f, int64_t n, real *a);

/* c = (w[0] * before2 + w[1] * before1) + w[2] * now, channel by channel; w: [n][3] taps, the oldest first */
void REF(conv3)(const real *w, const real *before2, const real *before1, const real *now, int64_t n, real *c);

/* z = cap * tanh(z / cap) */
void REF(softcap)(real *z, real cap, int64_t n);

#endif
