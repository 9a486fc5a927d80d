/* kernels.h - the inner loops of training, one table per instruction set, all with the same bits (ref/kernels.h holds
 * the tables). Orders: docs/training.md. */
#ifndef KV_REF_TRAIN_KERNELS_H
#define KV_REF_TRAIN_KERNELS_H

#include "ref/real.h"

enum {
    REF_TB = 256,       /* tokens in a block of a sum over tokens */
    REF_BACK_QUERIES = 32 /* queries that share a walk over the keys in the backward pass of attention */
};

/* Backward pass of causal attention of one query head over one sequence. dv: head_dim rounded up to 16. Panels and
 * rows are zero behind the last token and behind head_dim. */
typedef struct ref_attn_back_job {
    int64_t n, head_dim;
    const real *q, *dout;           /* [n rounded up to 32 / 16][D][16] panels: scaled queries, gradients of the outputs */
    const real *q_rows, *dout_rows; /* [n][dv] the same as rows */
    const real *k, *v;              /* [n][dv] */
    const real *k_cols;             /* [D][n] */
    const real *max, *sum;          /* [n rounded up to 32] of the softmax of each row */
    real scale;                     /* of the softmax */
    real *dq;                       /* [n][D] of the queries before the scale */
    real *dk, *dv;                  /* [n][dv] this head's share */
    real *scratch;                  /* REF(attn_back_scratch) reals */
} ref_attn_back_job;

/* The loss of one row of logits before the softcap, and its gradient in place. */
typedef struct ref_loss_job {
    real *z; /* [n] in: logits; out, with gradients: gradients */
    int64_t n, target;
    real cap;   /* 0: none */
    real share; /* of this token in the mean */
    int gradients;
    real *bent, *logits; /* [n] scratch: tanh(z / cap); logits behind the cap */
} ref_loss_job;

typedef struct ref_train_kernels {
    /* Continues a chain of fused squares in double: fma(x, x, acc) for n elements. */
    double (*squares)(const real *x, int64_t n, double acc);

    /* dx = r * (dy - y * c), c = R64 of dy * y / n: y = x * r was normalised. dx may be dy. */
    void (*rms_back)(const real *dy, const real *y, real r, int64_t n, real *dx);

    /* out[c] = sum over rows of a[row][c] * b[row][c]: rows ascending in blocks of REF_TB, chain fma. b == NULL: of
     * a[row][c], additions. lda, ldb: between rows. */
    void (*channel_sums)(const real *a, int64_t lda, const real *b, int64_t ldb, int64_t rows, int64_t width, real *out);

    /* d = (d * (2 * r)) * s: r = f, s = 1 where f > 0; r = slope * f, s = slope elsewhere. Behind a relu (slope 0): +0
     * there. */
    void (*square_relu_back)(const real *f, int64_t n, real slope, real *d);

    /* nll of the target. Gradient: ((exp(l - max) / sum - onehot) * share) * (1 - t * t), t = tanh(z / cap), l = cap * t. */
    real (*loss_row)(const ref_loss_job *job);

    void (*attn_back)(const ref_attn_back_job *job);
} ref_train_kernels;

/* Reals of scratch for sequences of n tokens. */
int64_t REF(attn_back_scratch)(int64_t n, int64_t head_dim);

#endif
