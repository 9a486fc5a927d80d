/* ops.cuh - the operations of the forward pass: one host function each, which launches its kernels.
 *
 * All pointers are device memory, all matrices row-major, fp32 unless they are gpu_values. Every operation follows docs/numerics.md to the
 * bit; work is split by output element only. The functions check nothing: shapes come from a config that
 * kv_config_check has accepted. They return the status of the launch; errors inside a kernel may surface
 * later, at gpu_stream_finish. Each lives in gpu/<name>.cu with the reasons for its grid. */
#ifndef GPU_OPS_CUH
#define GPU_OPS_CUH

#include "gpu/values.cuh"

enum {
    GPU_KB = 256,  /* block of the inner dimension of a matrix product */
    GPU_CH = 256,  /* entries in one attention chunk */
    GPU_L = 64,    /* lanes of a reduction */
    GPU_VB = 4096, /* block of the vocabulary in a log-softmax */
    GPU_LD = 64,   /* columns of a weight matrix are padded to a multiple of this */
    GPU_GRID_ROWS = 65535 /* largest y of a grid: launches with one row per y take that many at once */
};

/* ---- embed.cu ---- */

/* x[m][d] = table[ids[m] * row_stride + i * col_stride]: the strides serve an embedding stored by rows as
 * well as a tied head stored by columns. */
kv_status gpu_embed(const int32_t *ids, int32_t m, int32_t d, const float *table, int64_t row_stride,
                    int64_t col_stride, float *x, cudaStream_t stream);

/* ---- norm.cu ---- */

/* y[m][n] = RMSNorm of each row of x[m][n]; gains w[n], or NULL for none; then one product by scale. y may be x. */
kv_status gpu_rmsnorm(const float *x, const float *w, int32_t m, int32_t n, float eps, float scale, float *y,
                      cudaStream_t stream);

/* ---- matmul.cu, gemm.cu, gemv.cu ---- */

/* A weight matrix of n outputs and k inputs, stored as w[k][ld] so that neighbouring threads read
 * neighbouring outputs; ld is n rounded up to GPU_LD, the padding is zero. */
struct gpu_weights {
    const float *w;
    int32_t n, k, ld;
    const float *scale = nullptr; /* [n] each product is multiplied by its own; NULL: none */
};

/* What happens to a finished product. */
enum gpu_epilogue {
    GPU_STORE, /* y = product */
    GPU_ADD    /* y = y + product: the residual */
};

/* Puts a finished product into output c of a row. */
GPU_DEVICE void gpu_finish(float *row, float product, const gpu_weights &w, int32_t c, gpu_epilogue epilogue)
{
    if (w.scale) product = kv_mul(w.scale[c], product);
    row[c] = epilogue == GPU_ADD ? kv_add(row[c], product) : product;
}

/* y[m][n] = x[m][k] times w. partials: gpu_matmul_partials(w, m) floats of workspace. */
kv_status gpu_matmul(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                     float *partials, cudaStream_t stream);
size_t gpu_matmul_partials(const gpu_weights &w, int32_t m);

/* The two ways of doing it; gpu_matmul chooses by m. */
kv_status gpu_gemm(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                   cudaStream_t stream);
kv_status gpu_gemv(const float *x, int32_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y,
                   float *partials, cudaStream_t stream);
enum { GPU_GEMV_ROWS = 8 }; /* most rows of gpu_gemv */

/* dst[i][row0 + r] = src[r][i], r < n_rows, i < k: puts n_rows outputs of a stored matrix into w[k][ld]. */
kv_status gpu_transpose(const float *src, int32_t n_rows, int32_t k, float *dst, int64_t ld,
                        int64_t row0, cudaStream_t stream);

/* ---- rope.cu ---- */

struct gpu_rope {
    const float *cos, *sin; /* [positions][dims / 2] */
    int32_t dims;           /* rotated dims of a head */
    int32_t half;           /* pair i is (i, i + dims/2), else (2i, 2i+1) */
    const float *q_gain = nullptr; /* [heads], [kv_heads]: one product after the rotation, in all dims of a head; NULL: none */
    const float *k_gain = nullptr;
};

/* cos_table[i][j], sin_table[i][j] of fp32(first + i) * inv_freq[j], i < n, j < half; sines negated when
 * sign is -1. */
kv_status gpu_rope_table(int32_t first, int32_t n, const float *inv_freq, int32_t half, int32_t sign,
                         float *cos_table, float *sin_table, cudaStream_t stream);

/* The rows q | k | v of a projection: [m][(heads + 2 kv_heads) * head_dim]. */
struct gpu_qkv_shape {
    int32_t heads, kv_heads, head_dim;
};

/* Rows of a store by index, of each KV head: row i of head h is at[h * head_stride + i]. */
struct gpu_slots {
    const int32_t *at;
    int64_t head_stride; /* 0: the heads share their rows */
};

/* How new rows are kept. */
struct gpu_arrival {
    bool keep_raw; /* keys are stored before RoPE */
    bool exact;    /* the step reads its own rows as computed; else as a reader of the stores gets them */
};

/* Rotates q and k of every row in place, row x by table row x, multiplies them by their gains, and puts k and v into row x of `slots` of the stores,
 * [..][kv_heads * head_dim]. Where the stores round, the step's rows receive the rounded k (raw ones rotated after
 * rounding) and v, unless they are to stay exact. Stores without memory (p = NULL) receive nothing, slots are not
 * read then. */
kv_status gpu_rope_store(float *qkv, int32_t m, const gpu_qkv_shape &shape, const gpu_rope &rope,
                         const gpu_arrival &how, const gpu_slots &slots, const gpu_values &k_store,
                         const gpu_values &v_store, cudaStream_t stream);

/* out[i] = row i of `slots` of a store of un-rotated keys, rotated by table row i, times its gain; rows are
 * [kv_heads * head_dim]. With rope.dims = 0 and no gain rows are only gathered and widened. */
kv_status gpu_rope_view(const gpu_values &k_store, const gpu_slots &slots, int32_t n, int32_t kv_heads,
                        int32_t head_dim, const gpu_rope &rope, float *out, cudaStream_t stream);

/* ---- attention.cu ---- */

struct gpu_queries {
    const float *q;         /* rotated queries of token x at q + x * q_stride: [heads * head_dim] */
    int64_t q_stride;
    int64_t first;          /* view index of token 0: it sees entries 0 .. first */
    int32_t m;              /* tokens; token x sees entries 0 .. first + x */
    int32_t heads, kv_heads, head_dim; /* head_dim a multiple of 4 */
    int32_t at_once;        /* tokens worked on together; 0: as many as 64 MiB of workspace allow */
    float scale;
    float *out;             /* [m][heads * head_dim] */
    float *stats;           /* NULL, or [m][heads][2]: M and L of each row's combine, for probabilities */
};

struct gpu_attention_args : gpu_queries {
    gpu_values k, v;        /* rows of kv_heads * head_dim */
    const int32_t *k_slot;  /* row of view entry i for KV head h: k_slot[h * slot_stride + i]; NULL: i itself */
    const int32_t *v_slot;
    int64_t slot_stride;    /* 0: the heads share their rows */
};

/* Floats of workspace for these tokens and this view. */
size_t gpu_attention_workspace(const gpu_queries &q);
kv_status gpu_attention(const gpu_attention_args &a, float *workspace, cudaStream_t stream);

/* ---- column_sums.cu ---- */

/* What every view entry received from the queries of a step: the sum over queries r that see it, ascending, of
 * probability p = exp(s - M) / L. */
struct gpu_column_args {
    gpu_attention_args a; /* of the attention that has run, with stats; out is not used */
    int32_t row0;         /* first query that counts */
    int32_t block;        /* queries that are summed in one chain from +0; the chains are added, ascending */
    const float *weights; /* query r counts weights[r] times: acc = fma(w, p, acc); NULL: acc = acc + p */
    bool reversed;        /* for the step's own token x query r has weights[m - 1 - (r - x)] instead */
    float *sums;          /* [heads][first + m] */
};
kv_status gpu_column_sums(const gpu_column_args &c, cudaStream_t stream);

/* ---- scores.cu ---- */

enum gpu_reduction { GPU_SUM, GPU_MAX, GPU_MEAN, GPU_MEDIAN }; /* of an even number the lower middle */

/* Column sums become scores of the entries of n_lists lists; list g is served by heads / n_lists query heads in a row:
 *     red = reduction over these heads, ascending, of sums[head][view]; NaN when one of them is
 *     token of the step, or scores are not carried: score = red
 *     stored entry: score = fma(decay, score, red)
 * Entry i of a list stands at view index view_of[i] (NULL: i); those of a step stand behind the stored ones in both. */
struct gpu_score_args {
    const float *sums;      /* [heads][n_stored + m] */
    int32_t heads, n_lists;
    int64_t n_stored;
    int32_t m;
    gpu_reduction reduction;
    bool carried;
    float decay;            /* 1: scores only add up */
    bool half;              /* scores are rounded to half precision */
    const int32_t *view_of; /* [n_stored] */
    int32_t n_sinks;        /* the first n_sinks entries have the score +0 */
    int32_t shift;          /* a stored entry behind the sinks is credited with the sums of the one `shift` before it */
    float *scores;          /* of list g at scores + g * list_stride */
    int64_t list_stride;
};
kv_status gpu_scores(const gpu_score_args &a, cudaStream_t stream);

/* out[h][j] = average of the means sums[h][.] / n_queries over j - kernel/2 .. j + kernel/2, keys outside 0 .. n - 1 left
 * out, always divided by kernel; rows of both are `stride` floats long. */
kv_status gpu_pool(const float *sums, int32_t heads, int64_t n, int64_t stride, int32_t n_queries, int32_t kernel,
                   float *out, cudaStream_t stream);

/* ---- swiglu.cu ---- */

/* h[m][n] = (g / (1 + exp(-g))) * u with rows g | u of gate_up[m][2n]. */
kv_status gpu_swiglu(const float *gate_up, int32_t m, int32_t n, float *h, cudaStream_t stream);

/* h[m][n] = a * a, a = f where f >= 0, else slope * f; of f[m][n]. slope 0: relu. */
kv_status gpu_squared_relu(const float *f, int32_t m, int32_t n, float slope, float *h, cudaStream_t stream);

/* ---- golf.cu: what the golf family has beyond the Llama block (docs/golf.md) ---- */

/* What a model remembers of earlier tokens: slots in the layout of common/state.h (kv_carry_layout), whose offsets are in
 * floats here. A piece finds what the token before it left in `before`, and leaves the rows `from` .. m - 1 to slots of
 * their own. A slot of zeros stands for no token. */
struct gpu_carry_rows {
    const float *before; /* slot of the token before the piece */
    const float *newest; /* slot of the newest token whose rows are kept already; row `known` - 1 of the piece */
    float *slots;        /* [n_slots][slot_floats]; row `from` goes to slot first_slot, the others follow, round */
    int64_t slot_floats;
    int32_t n_slots, first_slot, from, known;
    int64_t norm, k, v, conv;
};

/* hashes[x] = (mul_cur * ids[x] xor mul_prev * the token before) mod (rows - 1); rows - 1 where there is none. */
struct gpu_bigram {
    int32_t rows, mul_cur, mul_prev;
};
kv_status gpu_bigram_hash(const int32_t *ids, int32_t m, const gpu_bigram &b, const gpu_carry_rows &carry, int32_t *hashes,
                          cudaStream_t stream);

/* Slots of the rows that are kept: number and id of the token; row 0 is token first. */
kv_status gpu_carry_ids(const int32_t *ids, int32_t m, int64_t first, const gpu_carry_rows &carry, cudaStream_t stream);

/* x[t] = (1 - g) * n[t] + g * n[t - 1] with g = 1 / (1 + exp(-gate)), rows of d; keeps rows of n. */
kv_status gpu_smear(const float *n, const float *gate, int32_t m, int32_t d, const gpu_carry_rows &carry, float *x,
                    cudaStream_t stream);

/* The stream x[m][d] at the beginning of a layer: x = x + skip_weight * skip, then x = mix[0] * x + mix[1] * x0. What
 * is NULL is left out. */
struct gpu_mix {
    const float *skip, *skip_weight; /* [m][d], [d] */
    const float *mix, *x0;           /* [2][d], [m][d] */
};
kv_status gpu_mix_streams(float *x, int32_t m, int32_t d, const gpu_mix &mix, cudaStream_t stream);

/* Between projection and RoPE: raw rows q | k | v become qkv, with k and v of KV head j shifted (x[t] + k_shift[j] *
 * x[t - 1], of raw rows), then every head of q and k normalised without gains. Keeps raw rows of what is shifted. */
struct gpu_heads {
    const float *raw;                /* [m][(heads + 2 kv_heads) * head_dim] */
    gpu_qkv_shape shape;
    const float *k_shift, *v_shift;  /* [kv_heads]; NULL: none */
    bool norm;
    float eps;
    int32_t layer;
    float *qkv;                      /* as raw, but not the same memory */
    float *own_v;                    /* v once more, [m][kv_heads * head_dim]; NULL: not wanted */
};
kv_status gpu_prepare_heads(const gpu_heads &h, int32_t m, const gpu_carry_rows &carry, cudaStream_t stream);

/* Attention output y[m][heads * head_dim] and the tokens' own values v[m][kv_heads * head_dim]:
 * y = y + mix[head] * v;  y = y - (y . u) u with u = v / max(|v|, 1e-12). */
kv_status gpu_local_v(float *y, const float *v, const float *mix, int32_t m, const gpu_qkv_shape &shape,
                      cudaStream_t stream);
kv_status gpu_exclude_own(float *y, const float *v, int32_t m, const gpu_qkv_shape &shape, cudaStream_t stream);

/* Sidecar, of rows gate | value[m][2 hidden]: out = silu(gate + site_gate) * c with c = (conv[0] * value[t - 2] +
 * conv[1] * value[t - 1]) + conv[2] * value[t]; conv [hidden][3]. Keeps rows of value. */
struct gpu_sidecar {
    const float *rows, *site_gate, *conv;
    int32_t hidden, site;
};
kv_status gpu_sidecar_gate(const gpu_sidecar &s, int32_t m, const gpu_carry_rows &carry, float *out, cudaStream_t stream);

/* z = cap * tanh(z / cap), n values. */
kv_status gpu_softcap(float *z, int64_t n, float cap, cudaStream_t stream);

/* ---- nll.cu ---- */

/* nll[r] = canonical -log p(target[r]) under row r of logits[m][vocab]; stats: NULL, or [m][2]: each row's maximum and sum. */
kv_status gpu_nll(const float *logits, const int32_t *target, int32_t m, int32_t vocab, float *nll,
                  float *stats, cudaStream_t stream);

/* ---- records.cu ---- */

/* Records of one KV head, [n][2 * head_words], n <= GPU_GRID_ROWS, K row then V row as stored: between the stores' rows
 * slot[i] and a contiguous buffer, for export and import. Four bytes are a word. */
kv_status gpu_records_gather(const gpu_values &k_store, const gpu_values &v_store, const int32_t *slot, int32_t n,
                             int32_t head, int32_t kv_heads, int32_t head_words, uint32_t *records,
                             cudaStream_t stream);
kv_status gpu_records_scatter(const uint32_t *records, const int32_t *slot, int32_t n, int32_t head,
                              int32_t kv_heads, int32_t head_words, const gpu_values &k_store,
                              const gpu_values &v_store, cudaStream_t stream);

#endif
