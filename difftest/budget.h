/* budget.h - how far from the reference's logits a side may be that promises a bound and no bits (docs/results.md,
 * "Verdicts"): as far as the reference itself gets when each of its operations uses the whole of its derived bound.
 *
 * Measured for a document on its first DT_BUDGET_TOKENS tokens under policy full, where no score decides, in steps of
 * DT_BUDGET_STEP so that the cache is read: once with all errors of random sign, once with all away from zero, which adds
 * up. The largest root mean square of a row's difference is what every row of the document is granted. To storages of 16
 * bits is granted, on top of that, twice what their rounding changes in any of the first DT_BUDGET_STORED rows: a value
 * that two right programs round to different sides is off by a unit, and rounding is off by half a one. No tolerance in
 * it is chosen: bounds are those of docs/ops.md. */
#ifndef KV_DIFFTEST_BUDGET_H
#define KV_DIFFTEST_BUDGET_H

#include "common/mem.h"
#include "difftest/full_rows.h"
#include "difftest/model_calls.h"

enum { DT_BUDGET_TOKENS = 16, DT_BUDGET_STORED = 256, DT_BUDGET_STEP = 4 };

typedef enum dt_budget_sign { DT_SIGN_RANDOM, DT_SIGN_OUTWARD, DT_SIGN_COUNT } dt_budget_sign;

typedef struct dt_budget {
    const kv_model *model;
    int32_t threads;
    double *operations; /* [n_docs] what operations make of a row; NaN: not measured yet */
    double *rounding;   /* [n_docs][KV_STORE_COUNT] what the storage does */
    dt_full_side plain;  /* the reference */
    dt_full_side stored[KV_STORE_COUNT]; /* the same with a storage of 16 bits */
    dt_full_side truth;  /* ref64 */
    dt_model_calls legal;
    dt_budget_sign sign;
    uint64_t calls;
    kv_buffer right, other; /* [tokens][vocab] */
} dt_budget;

kv_status dt_budget_init(dt_budget *b, const kv_model *m, int32_t n_docs, int32_t threads);
void dt_budget_free(dt_budget *b); /* accepts a zeroed one */

/* *allowed: root mean square over a row of logits of document doc, which begins with tokens[n], in that storage; coded
 * ones as fp32. Measured once. ERR_UNSUPPORTED: the reference does not run this model under policy full.
 * ERR_NONFINITE: no figure comes out. */
kv_status dt_budget_rows(dt_budget *b, int32_t doc, kv_storage storage, const int32_t *tokens, int64_t n, double *allowed);

/* How many times the reference's own error against ref64 operations may make of a row: for values inside the model, whose
 * allowance nobody measures. */
kv_status dt_budget_factor(dt_budget *b, int32_t doc, const int32_t *tokens, int64_t n, double *factor);

/* The rows of one segment of a document on their way past a bound. */
typedef struct dt_bound {
    double allowed;     /* NaN: rows are held to bits, or to nothing */
    int64_t coded_from; /* step (its first token) since which codes may have flipped */
} dt_bound;

/* At the beginning of every segment. */
dt_bound dt_bound_begin(double allowed);

/* Whether the rows of the step at token `at` are held to it. Codes that flip change a row by more than rounding does, and so
 * does a legal tie. locked: the next step starts from the reference's codes. */
int dt_bound_holds(dt_bound *b, int64_t at, const kv_events *decisions, int tie, int locked);

/* Storages of few bits: a value that rounding takes across the edge between two codes changes by a whole step, and every
 * layer behind codes what it makes of that, so that tokens differ without anybody being wrong. Means tell: the largest mean
 * KL and the largest difference of mean NLL, in nats, that rounding explains; NaN: the storage has no codes. The mean NLL
 * of fp32 twins of double-precision runs moves by up to 0.06 for kvarn where ties are settled by rounding (tie=literal),
 * else 0.02, and 0.005 for kivi. The mean KL of two correct fp32 programs on SmolLM2 was 0.11 for kvarn; for kivi with 2
 * bits 1e-7 over 510 tokens and 0.025 over 8,192 (with 8 bits 3e-7 over the same), since flipped codes breed others. */
typedef struct dt_code_allowance {
    double kl, nll;
} dt_code_allowance;
dt_code_allowance dt_budget_codes(const kv_policy *p);

#endif
