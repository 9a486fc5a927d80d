/* ops.cuh - the operations of the backward pass (docs/training.md): one host function each, which launches its kernels.
 *
 * All pointers are device memory, all matrices row-major fp32. A batch has T tokens, sequences of `seq` one behind the other.
 * No sum is split but into the blocks of the page, no kernel adds to what another one wrote unless it says so. */
#ifndef GPU_TRAIN_OPS_CUH
#define GPU_TRAIN_OPS_CUH

#include "gpu/ops.cuh"

/* ---- rows.cu: rows of the stream ---- */

/* dx = the gradient of y = RMS(x) * scale, of rows of n; add: another gradient of x, to which it is added (NULL: none).
 * dx may be dy or add. */
struct gpu_norm_rows {
    const float *x, *dy, *add;
    int64_t rows;
    int32_t n;
    float eps, scale;
};
kv_status gpu_norm_back(const gpu_norm_rows &r, float *dx, cudaStream_t stream);

/* Element by element, rows of d: y = w * x;  y = x + w * z (w NULL: no factor);  x += y. */
kv_status gpu_scaled(const float *x, const float *w, int64_t n, int32_t d, float *y, cudaStream_t stream);
kv_status gpu_add_scaled(const float *x, const float *w, const float *z, int64_t n, int32_t d, float *y, cudaStream_t stream);
kv_status gpu_add_to(float *x, const float *y, int64_t n, cudaStream_t stream);

/* df of h = a * a, a = f where f >= 0, else slope * f; leaky: f <= 0 has the slope, else +0. */
kv_status gpu_activation_back(const float *f, const float *dh, int64_t n, bool leaky, float slope, float *df, cudaStream_t stream);

/* Smear: dn of rows, from du, gradient of (1 - g) * n + g * n of the token before. */
kv_status gpu_smear_back(const float *du, const float *gate, int64_t tokens, int32_t d, int32_t seq, float *dn, cudaStream_t stream);
kv_status gpu_smear_gate_back(const float *gate, int32_t d, float *sums, cudaStream_t stream); /* sums *= g * (1 - g) */

/* Sidecar: rows gate | value of width 2 hidden. dz and dvalue, [T][hidden], from d, the gradient of the product's input. dc:
 * workspace [T][hidden]; it is the gradient of the filter's output afterwards. */
struct gpu_sidecar_rows {
    const float *rows, *site_gate, *conv; /* site_gate: [hidden], of the site */
    int32_t hidden, seq;
    int64_t tokens;
};
kv_status gpu_sidecar_back(const gpu_sidecar_rows &s, const float *d, float *dz, float *dc, float *dvalue, cudaStream_t stream);

/* ---- loss.cu ---- */

/* z before the softcap becomes its gradient, rows of vocab; l behind it (l = z without); stats: [m][2] maximum and sum. */
struct gpu_logit_rows {
    float *z;
    const float *l, *stats;
    const int32_t *targets;
    int64_t rows;
    int32_t vocab;
    float cap, share; /* fp32(1 / T) */
};
kv_status gpu_logits_back(const gpu_logit_rows &r, cudaStream_t stream);

/* ---- sums.cu: gradients of parameters ---- */

/* Per column c < n: chain over tokens of fma(a, b, .), or plain additions of a where b is NULL, in blocks of 256 tokens. b is
 * the row `back` positions before the token's, +0 where the sequence has none, minus_own: less the token's own. */
struct gpu_token_sum {
    const float *a, *b;
    int64_t a_stride, b_stride, tokens;
    int32_t n, seq, back;
    bool minus_own;
};

/* out[c * out_stride] = sum of column c, or += with add. partials: gpu_token_partials floats. */
struct gpu_sum_target {
    float *out;
    int64_t out_stride;
    bool add;
};
size_t gpu_token_partials(int64_t tokens, int32_t n);
kv_status gpu_token_sums(const gpu_token_sum &s, const gpu_sum_target &to, float *partials, cudaStream_t stream);

/* dots[t] = R64 of a[t] * b[t], rows of n. */
kv_status gpu_row_dots(const float *a, const float *b, int64_t rows, int32_t n, float *dots, cudaStream_t stream);

/* Row r of out = additions from +0 of the rows list[start[r]] .. list[start[r + 1] - 1] of d, to what is there with add. */
kv_status gpu_table_back(const float *d, const int32_t *start, const int32_t *list, int32_t rows, int32_t width, bool add, float *out,
                         cudaStream_t stream);

/* ---- heads.cu ---- */

/* From the gradient d behind the gain to that of the (shifted) projection: gain, RoPE, norm. */
struct gpu_head_rows {
    const float *d;   /* [T][heads * dim] */
    const float *raw; /* projections of token t at raw + t * raw_stride */
    int64_t raw_stride, tokens;
    int32_t heads, dim, seq;
    const float *shift; /* [heads]; NULL: none */
    const float *gain;  /* [heads]; NULL: none */
    gpu_rope rope;      /* of the positions of a sequence; its gains are not used */
    float eps;
    float *gain_rows;   /* [T][heads]: R64 of d and the rotated head */
};
kv_status gpu_heads_back(const gpu_head_rows &h, float *dx, cudaStream_t stream); /* dx is not d */

/* dx[t] = ds[t] + mix * ds[t + 1]; mix_rows[t][head] = R64 of ds[t] and the projection of the token before. */
struct gpu_shift_rows {
    const float *ds, *raw;
    int64_t raw_stride, tokens;
    int32_t heads, dim, seq;
    const float *mix;
    float *mix_rows;
};
kv_status gpu_shift_back(const gpu_shift_rows &s, float *dx, cudaStream_t stream);

/* y = y - (y . u) u, u = v / |v|: dy [T][heads * dim] changes in place; dv [T][kv_heads * dim] is the share of v. */
kv_status gpu_exclude_own_back(const float *y, const float *v, int64_t tokens, const gpu_qkv_shape &s, float *dy, float *dv,
                               cudaStream_t stream);

/* y = y + mix[head] * v: dv, and mix_rows[t][head] = R64 of dy and v. */
kv_status gpu_local_v_back(const float *dy, const float *v, const float *mix, int64_t tokens, const gpu_qkv_shape &s, float *mix_rows,
                           float *dv, cudaStream_t stream);

/* ---- attention.cu ---- */

struct gpu_attention_grad {
    const float *q;     /* rotated queries behind their gain: token t at q + t * q_stride */
    int64_t q_stride;
    const float *k, *v; /* [T][kv_heads * dim] */
    const float *d_out; /* [T][heads * dim] */
    const float *stats; /* [T][heads][2]: M and L */
    gpu_qkv_shape shape;
    int32_t seq, sequences;
    float scale;
    float *dq;          /* [T][heads * dim] */
    float *dk, *dv;     /* [T][kv_heads * dim] */
};

/* Sequences at once, and floats of workspace. */
int32_t gpu_attention_grad_at_once(const gpu_attention_grad &a);
size_t gpu_attention_grad_workspace(const gpu_attention_grad &a);
kv_status gpu_attention_back(const gpu_attention_grad &a, float *workspace, cudaStream_t stream);

#endif
