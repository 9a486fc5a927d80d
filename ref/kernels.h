/* kernels.h - the inner loops of the reference, one table per instruction set. All tables compute the
 * same bits: they differ in how many independent outputs they carry at a time.
 *
 * Packed matrices: a weight W[N][K] is stored as panels of 16 outputs, [ceil(N/16)][K][16] floats, zero
 * padded, so that 16 outputs are one vector and every output's chain over k is one lane. Keys are
 * packed alike, 16 tokens by head_dim. */
#ifndef KV_REF_KERNELS_H
#define KV_REF_KERNELS_H

#include "common/status.h"
#include "common/tile.h"
#include "ref/real.h"
#include "ref/weights.h"

/* c[i][j] = sum over k of a[i][k] * W[j][k]: m rows, n outputs. */
typedef struct ref_gemm_job {
    const real *a; /* [m][lda] */
    int64_t lda, m, k;
    const float *panels;         /* W, packed */
    const real *reals;           /* or NULL: W packed in the width of the results, instead of panels (training) */
    const ref_code_block *codes; /* the same W, or NULL; fp32 only: in double a weight has been rounded before */
    int has_min;
    int64_t n;
    real *c; /* [m][ldc] */
    int64_t ldc;
    int cold; /* the weights come from memory, not from a cache: decides the speed of few rows, no bit */
} ref_gemm_job;

/* Consecutive entries of one KV head in view order. Key of slot s: lane s % 16 of panel s / 16;
 * value of slot s: row s. */
typedef struct ref_span {
    const real *k; /* [..][D][16] panels */
    const real *v; /* [..][Dv] rows, Dv = D rounded up to 16 */
    int64_t slot0; /* slot of the first entry */
    int64_t n;     /* entries */
} ref_span;

/* Coded tiles of one KV head (docs/policy/kvarn.md): slots s .. s + T - 1, s a multiple of T, have the record s / T. */
typedef struct ref_tiles {
    const uint8_t *records; /* REF_CODE_SLACK more bytes can be read behind the last */
    kv_kvarn_layout layout;
    int32_t kbits, vbits;
} ref_tiles;

/* Attention of a block of query rows of one KV head. */
typedef struct ref_attn_job {
    const real *q;        /* [rows][D], multiplied by the softmax scale */
    int64_t rows;         /* at most REF_ATTN_ROWS */
    int64_t head_dim;     /* D */
    const ref_span *spans; /* one with k == NULL: slots of tiles */
    int64_t n_spans;
    const ref_tiles *tiles; /* NULL: none */
    real *decoded;          /* REF(attn_decoded) reals, with tiles */
    const int64_t *hi;    /* [rows] the row sees view indices 0 .. hi-1; not decreasing */
    real *scratch;        /* REF(attn_scratch) reals */
    real **out;           /* [rows] where each row's D outputs go */
    real *lse;            /* [rows], or NULL */
    real *max, *sum;      /* [rows] maximum and sum that the row's softmax ended with; both or neither */
} ref_attn_job;

/* For every key of some panels: the sum over queries of exp(score - max) / sum, plain or weighted. Queries ascend in
 * blocks; a block's sum starts at +0, blocks are added in order. */
typedef struct ref_column_job {
    const real *q;         /* [rows][D], multiplied by the softmax scale */
    int64_t rows, head_dim;
    int64_t row0;          /* index of the first query in its piece */
    const real *max, *sum; /* [rows] from attention */
    const real *weights;   /* [rows], acc = fma(w, p, acc); NULL: acc = acc + p */
    int64_t block;         /* queries of a block, counted from the first */
    int reversed;          /* own keys: query r weighs key x with weights[rows - 1 - (r - x)] */
    const real *k;         /* [panels][D][16] */
    int64_t panels;
    int64_t key0;          /* own keys: index of the first in the piece, seen by queries from there on; else -1 */
    real *scratch;         /* REF_COLUMN_SCRATCH reals */
    real *acc;             /* [panels][16] */
} ref_column_job;

/* Balances a matrix: scales of columns and rows that bring all standard deviations nearer to each other (docs/policy/
 * kvarn.md, "Coding a tile"). Rows are `stride` = cols rounded up to 16 apart, zero behind the last column. */
typedef struct ref_balance_job {
    const real *x; /* [rows][stride] */
    int64_t rows, cols;
    int32_t iters;
    real slack;       /* a round wins while its imbalance is at most this times the best */
    real *scratch;    /* REF(balance_scratch) reals */
    real *col, *row;  /* [cols], [rows] the scales that won; room for whole vectors of 16 */
    real *out;        /* [rows][stride] (x / col) / row */
    real *imbalance;  /* [iters + 1] of every round, or NULL */
} ref_balance_job;

enum {
    REF_CODE_SLACK = 16,
    REF_ATTN_ROWS = 48, /* rows that share one walk over the keys */
    REF_COLUMN_SCRATCH = 4096,
    REF_MAX_SPANS = 32, /* consecutive runs of slots in a view */
    REF_CACHED_BYTES = 32 << 20 /* weights up to here may stay in a cache from one token to the next */
};

struct ref_train_kernels;

typedef struct ref_kernels {
    const char *name;

    void (*gemm)(const ref_gemm_job *job);

    void (*attn)(const ref_attn_job *job);

    /* y = RMSNorm(x) * w over one row of n; w == NULL: without gains. */
    void (*rmsnorm)(const real *x, const float *w, int64_t n, real eps, real *y);

    /* R64 of a[i] * b[i], lane update fma(a[i], b[i], lane) */
    real (*dot)(const real *a, const real *b, int64_t n);

    /* h[i] = silu(g[i]) * u[i] */
    void (*swiglu)(const real *g, const real *u, int64_t n, real *h);

    /* x[i] = x[i] + y[i] */
    void (*add)(real *x, const real *y, int64_t n);

    /* -log softmax(z)[target] over n logits */
    real (*nll)(const real *z, int64_t n, int64_t target);

    /* Rotates a whole panel of 16 keys: src, dst [D][16]; cos, sin [rd/2][stride], lane t of the panel
     * uses column t. half: pairs (i, i + rd/2), else (2i, 2i+1). Dims from rd on are copied. */
    void (*rotate_panel)(const real *src, int64_t head_dim, int64_t rd, int half, const real *cos,
                         const real *sin, int64_t stride, real *dst);

    void (*columns)(const ref_column_job *job);

    void (*balance)(const ref_balance_job *job);

    /* Hadamard rotation of a row of n values, and of the 16 columns of a panel [n][16], in place; n a power of two. */
    void (*hadamard)(real *row, int64_t n);
    void (*hadamard_panel)(real *panel, int64_t n);

    const struct ref_train_kernels *train; /* ref/train/kernels.h */
} ref_kernels;

/* Reals of scratch that attn needs for a view of n entries. */
int64_t REF(attn_scratch)(int64_t n, int64_t head_dim);

/* Reals that attn needs for the tiles of a chunk, and balance for a matrix. */
int64_t REF(attn_decoded)(const kv_kvarn_layout *l);
int64_t REF(balance_scratch)(int64_t rows, int64_t cols);

/* The table of an instruction set ("scalar", "avx2", "avx512"), the best one of this CPU for NULL.
 * ERR_UNSUPPORTED when the CPU lacks it. */
kv_status REF(kernels_find)(const char *isa, const ref_kernels **out);

#endif
