/* metrics.h - what the tester measures on a pair of logit rows, and the sums over a case.
 *
 * All figures are double and follow docs/numerics.md, section 6, operation by operation, so they do
 * not depend on the instruction set, the compiler or the number of threads. Nothing here decides
 * anything: verdicts are the engine's. */
#ifndef KV_DIFFTEST_METRICS_H
#define KV_DIFFTEST_METRICS_H

#include "common/pool.h"

#include <stdint.h>

enum {                             /* dt_row_metrics.flags */
       DT_ROW_DIFFERS = 1u << 0,   /* at least one bit of the rows differs */
       DT_ROW_TOP1 = 1u << 1,      /* arg-max differs */
       DT_ROW_TOP5 = 1u << 2,      /* set of the five largest differs */
       DT_ROW_NONFINITE = 1u << 3, /* NaN or infinity in either row */
       DT_ROW_ALONE = 1u << 4      /* there was no second row: "got" repeats the reference */
};

/* One row pair. In a row with NaN or infinity nll is NaN, and so is kl; its top1 is -1; max_ulp,
 * max_abs and sum_sq then cover the values that are finite in both rows. */
typedef struct dt_row_metrics {
    double nll_ref, nll_got; /* -log p(target), nats */
    double kl;               /* KL(ref || got), nats; exactly 0 for identical rows */
    double max_abs;          /* largest |got - ref| */
    double sum_sq;           /* sum of (got - ref)^2 over the row */
    int64_t max_ulp;  /* largest distance in units in the last place; +0 and -0 are one value */
    float margin_ref; /* reference: largest logit - second largest; +inf when vocab is 1 */
    int32_t top1_ref, top1_got; /* arg-max; the lowest index wins a tie */
    uint32_t flags;             /* DT_ROW_* */
} dt_row_metrics;

/* Compares ref[vocab] with got[vocab]; target is in [0, vocab). got == NULL: the reference alone.
 */
void dt_metrics_row(const float *ref, const float *got, int64_t vocab, int32_t target,
                    dt_row_metrics *out);

/* The same for n_rows consecutive rows with targets[n_rows], spread over the pool (may be NULL). */
void dt_metrics_rows(kv_pool *pool, const float *ref, const float *got, int64_t n_rows,
                     int64_t vocab, const int32_t *targets, dt_row_metrics *out);

/* Sums over a case, in token order. */
typedef struct dt_acc {
    int64_t n_tok; /* rows added */
    double sum_nll_ref, sum_nll_got;
    double sum_kl, max_kl;
    double max_abs;
    double sum_sq;    /* over all values of all rows */
    int64_t n_values; /* values that sum_sq covers: rows * vocab */
    int64_t n_top1_same, n_top5_same, n_bitexact, n_nonfinite;
    int64_t max_ulp;
    int64_t max_kl_pos,
        max_ulp_pos;             /* first position with the maximum; -1 = every row was identical */
    int64_t first_diff_pos;      /* first position with a differing bit; -1 = none */
    int64_t first_top1_pos;      /* first position whose arg-max differs; -1 = none */
    int64_t first_nonfinite_pos; /* -1 = none */
} dt_acc;

void dt_acc_init(dt_acc *a);

/* Adds the row of position pos; rows come in ascending order of pos. */
void dt_acc_add(dt_acc *a, int64_t pos, int64_t vocab, const dt_row_metrics *row);

/* exp of the mean NLL; NaN for an empty case. */
double dt_perplexity(double sum_nll, int64_t n);

/* Bits per byte of a text: sum / log(2) / bytes; NaN without bytes. */
double dt_bits_per_byte(double sum_nll, int64_t bytes);

/* Root mean square of got - ref over everything added; 0 for an empty case. */
double dt_acc_rms(const dt_acc *a);

/* Distance of two floats in units in the last place; +0 and -0 are one value; NaN is not allowed.
 */
int64_t dt_ulp_distance(float a, float b);

/* Name of the instruction set in use: "avx2" or "scalar". */
const char *dt_metrics_isa(void);

#endif
