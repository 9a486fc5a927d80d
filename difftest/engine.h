/* engine.h - streams documents through the reference and any number of devices, step by step with the
 * same schedule, and turns what it sees into cases for the database.
 *
 * The reference steps once; every device of the same document and policy steps along and is compared at
 * once, so nothing has to be kept but two blocks of logits. */
#ifndef KV_DIFFTEST_ENGINE_H
#define KV_DIFFTEST_ENGINE_H

#include "common/pool.h"
#include "common/progress.h"
#include "difftest/budget.h"
#include "difftest/db.h"
#include "difftest/own_error.h"
#include "difftest/plan.h"

#include <signal.h>

/* Rows of a step that were scored. Valid during the call that passes it. */
typedef struct dt_observed {
    const float *ref, *got; /* [rows][vocab] */
    int32_t rows;
    int64_t vocab;
    const int32_t *targets; /* [rows] */
} dt_observed;

/* Somebody who takes the engine's cases instead of a writer, and looks at what it compares. */
typedef struct dt_observer {
    void (*rows)(void *arg, const dt_observed *o);
    void (*finished)(void *arg, const dt_case *c);
    void *arg;
} dt_observer;

/* A device's session under the current policy. */
typedef struct dt_opened {
    kv_session *session;
    dt_case_status status; /* when session is NULL: what every case of it becomes */
    char reason[512];
} dt_opened;

typedef struct dt_engine {
    /* set by the caller */
    const dt_plan *plan;
    dt_writer *writer;             /* NULL: cases go to the observer */
    const dt_observer *observer;   /* NULL: nobody looks */
    int64_t run_id, model_id;
    const int64_t *doc_ids;        /* [n_docs]; the three are needed by a writer only */
    const int64_t *policy_ids;     /* [n_policies] */
    const int64_t *kernel_set_ids; /* [n_sides] */
    volatile sig_atomic_t *stop;   /* set by a signal: begin nothing more */
    kv_progress *progress;

    /* private */
    kv_pool *pool;
    int policy;            /* the sessions' policy; -1 = none open */
    const kv_backend *ref_backend;
    kv_session *ref;
    dt_opened *devices;    /* [n_sides] */
    dt_budget budget;
    dt_own_error own;
    kv_buffer ref_logits, got_logits, ref_nll, got_nll, targets, metrics, blob, state;
    kv_events ref_events;
    dt_coverage coverage;  /* of the document and policy on their way */
    int64_t rows_kept;     /* token rows handed to the writer so far */
    double ref_seconds, got_seconds, wall_seconds;
} dt_engine;

kv_status dt_engine_open(dt_engine *e);
void dt_engine_close(dt_engine *e);

/* Measures what needs a pass of its own on document `doc`: call it for every document before the first dt_engine_run, then
 * dt_own_error_done(&e->own), so that no session is open in vain. */
kv_status dt_engine_measure(dt_engine *e, int doc);

/* Runs one document under one policy on the devices with todo[i] != 0 (n_sides = 0: the recording) and
 * hands their cases to the writer. Fast when the policy is that of the call before. A device's failure is
 * part of its case; a failure that is returned (of the reference, the database, or KV_ERR_INTERRUPTED)
 * leaves no case behind. */
kv_status dt_engine_run(dt_engine *e, int doc, int policy, const int *todo);

#endif
