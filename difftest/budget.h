/* budget.h - how far a device without the bitexact contract may be from the reference, until a derived
 * bound exists: its error against the double-precision reference must stay within DT_BUDGET_FACTOR times
 * the reference's own (docs/results.md, "provisional verdicts").
 *
 * Measured once per document and device, under policy full, on the rows of one step of at most
 * DT_BUDGET_ROWS tokens from an empty cache: e = root mean square of (logit - ref64's logit). */
#ifndef KV_DIFFTEST_BUDGET_H
#define KV_DIFFTEST_BUDGET_H

#include "common/backend.h"
#include "common/mem.h"

enum { DT_BUDGET_ROWS = 64, DT_BUDGET_FACTOR = 16 };

typedef struct dt_budget_device {
    const kv_backend *backend; /* NULL: needs no budget */
    const char *options;
    kv_session *session;
    kv_status failed; /* why there are no figures */
    char why[256];
} dt_budget_device;

typedef struct dt_budget {
    const kv_model *model;
    int32_t threads, n_docs, n_devices;
    kv_session *ref, *ref64;
    dt_budget_device *devices; /* [n_devices] */
    double *ratio;             /* [n_docs][n_devices]; NaN = none */
    kv_buffer truth, mine;     /* [rows][vocab] */
    kv_events follow;          /* what policy full decides */
} dt_budget;

/* The caller sets backend and options of each device that needs a budget. */
kv_status dt_budget_init(dt_budget *b, const kv_model *m, int n_docs, int n_devices, int32_t threads);
void dt_budget_free(dt_budget *b);

/* Measures all devices on document `doc`, whose tokens begin with tokens[n]. Fails only when the
 * reference does. */
kv_status dt_budget_measure(dt_budget *b, int doc, const int32_t *tokens, int64_t n);

/* Closes all sessions: everything has been measured. */
void dt_budget_done(dt_budget *b);

/* e_device / (DT_BUDGET_FACTOR * e_ref); NaN when it could not be measured, *why then says why. */
double dt_budget_ratio(const dt_budget *b, int doc, int device, const char **why);

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
