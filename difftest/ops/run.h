/* run.h - candidates one after the other through their operations, into the database and onto stdout. */
#ifndef KV_DIFFTEST_OPS_RUN_H
#define KV_DIFFTEST_OPS_RUN_H

#include "difftest/ops/record.h"
#include "difftest/table.h"

enum { DT_OPS_KERNELS = 64 };

typedef struct dt_ops_run {
    const char *kernels[DT_OPS_KERNELS]; /* as on the command line */
    int n_kernels;
    const char *op;      /* glob; NULL: all that a candidate has */
    const char *db;      /* as dt_db_path takes it */
    const char *command; /* for the database */
    dt_ops_request ops;  /* kernel is set here */
    int64_t limit;       /* seconds of a call; 0: the default */
    dt_format format;
} dt_ops_run;

/* *code: exit code of the process. A candidate that cannot be used is a case with status ERROR, and the next one is
 * run; only a file that is not there is a failure at once, before anything is written. */
kv_status dt_ops_run_all(dt_ops_run *r, int *code);

#endif
