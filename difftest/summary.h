/* summary.h - what `kvdiff run` prints at the end. Everything is read from the database, so the table
 * shows what was stored, cases of an interrupted and resumed run included. */
#ifndef KV_DIFFTEST_SUMMARY_H
#define KV_DIFFTEST_SUMMARY_H

#include "difftest/db.h"

#include <stdio.h>

typedef struct dt_outcome {
    int64_t n[DT_CASE_STATUS_COUNT]; /* cases by status */
    int64_t total;
} dt_outcome;

/* Prints the table of document x policy x device, retrieval by policy and device, and up to ten cases that
 * did not pass with their reasons and the command that repeats them. */
kv_status dt_summary_print(dt_db *db, int64_t run_id, FILE *out, dt_outcome *outcome);

/* Exit code (docs/cli.md: 6 > 3 > 1 > 4 > 5 > 0) and run_status of an outcome. */
int dt_outcome_exit_code(const dt_outcome *o);
const char *dt_outcome_status(const dt_outcome *o);

#endif
