/* vec_metrics.h - the three passes over a logit row, one table per instruction set.
 *
 * Every table gives the same bits: lanes are vocabulary blocks of docs/numerics.md, section 6, so
 * each sum is still taken in ascending order. All functions need finite rows except `scan`. */
#ifndef KV_DIFFTEST_VEC_METRICS_H
#define KV_DIFFTEST_VEC_METRICS_H

#include <stdint.h>

enum { DT_TOP = 5, DT_VOCAB_BLOCK = 4096 };

/* The largest values of a row, descending; of equal values the one with the lower index comes
 * first. */
typedef struct dt_top {
    int32_t n; /* min(DT_TOP, vocab) */
    int32_t index[DT_TOP];
    float value[DT_TOP];
} dt_top;

typedef struct dt_scan {
    dt_top top_a, top_b;
    uint32_t max_ulp; /* of finite rows */
    int differs;      /* any bit */
    int a_finite, b_finite;
} dt_scan;

/* A row with its softmax: lp_v = (x[v] - max) - log_sum. */
typedef struct dt_softmax {
    const float *x;
    double max, log_sum;
} dt_softmax;

typedef struct dt_divergence {
    double kl, sum_sq, max_abs;
} dt_divergence;

typedef struct dt_vec_metrics {
    const char *name;

    /* Compares a[n] with b[n] and finds the largest of both. When a row is not finite, its top is
     * meaningless and max_ulp is 0. */
    void (*scan)(const float *a, const float *b, int64_t n, dt_scan *out);

    /* Sum of exp(x[v] - max). */
    double (*sum_exp)(const float *x, int64_t n, double max);

    void (*diverge)(const dt_softmax *p, const dt_softmax *q, int64_t n, dt_divergence *out);
} dt_vec_metrics;

extern const dt_vec_metrics dt_vec_metrics_scalar;
#if defined(__x86_64__)
extern const dt_vec_metrics dt_vec_metrics_avx2;
#endif

/* "scalar", "avx2", or NULL for the best of this CPU. NULL when there is none. */
const dt_vec_metrics *dt_vec_metrics_find(const char *name);

#endif
