/* own_error.h - how much larger than the reference's own the error of a side is that promises a bound: against the
 * double-precision reference, under policy full. Derived bounds grant a row far more than a right program needs
 * (budget.h); a side that computes in less than fp32 can hide there. It is not trusted when its error is more than
 * DT_OWN_FACTOR times the reference's own, a limit of experience (docs/results.md): OpenBLAS is at 1 to 2.
 *
 * Measured once per document and device, on the rows of one step of at most DT_OWN_ROWS tokens from an empty cache: root
 * mean square of (logit - ref64's logit). */
#ifndef KV_DIFFTEST_OWN_ERROR_H
#define KV_DIFFTEST_OWN_ERROR_H

#include "common/mem.h"
#include "difftest/full_rows.h"

enum { DT_OWN_ROWS = 64, DT_OWN_FACTOR = 16 };

typedef struct dt_own_device {
    dt_full_side side; /* no backend: is not measured */
    kv_status failed;  /* why there are no figures */
    char why[256];
} dt_own_device;

typedef struct dt_own_error {
    const kv_model *model;
    int32_t threads, n_devices;
    dt_full_side ref, ref64;
    dt_own_device *devices; /* [n_devices] */
    double *ratio;          /* [n_docs][n_devices]; NaN = none */
    kv_buffer truth, mine;  /* [rows][vocab] */
    kv_events follow;       /* what policy full decides */
} dt_own_error;

kv_status dt_own_error_init(dt_own_error *b, const kv_model *m, int n_docs, int n_devices, int32_t threads);

/* A device that is to be measured; options outlive it. */
void dt_own_error_device(dt_own_error *b, int device, const kv_backend *backend, const char *options);
void dt_own_error_free(dt_own_error *b);

/* Measures all devices on document `doc`, whose tokens begin with tokens[n]. Fails only when the
 * reference does. */
kv_status dt_own_error_measure(dt_own_error *b, int doc, const int32_t *tokens, int64_t n);

/* Closes all sessions: everything has been measured. */
void dt_own_error_done(dt_own_error *b);

/* e_device / (DT_OWN_FACTOR * e_ref); NaN when it could not be measured, *why then says why. */
double dt_own_error_ratio(const dt_own_error *b, int doc, int device, const char **why);

#endif
