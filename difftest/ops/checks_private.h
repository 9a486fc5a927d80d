/* checks_private.h - what the parts of the op checks share. */
#ifndef KV_DIFFTEST_OPS_CHECKS_PRIVATE_H
#define KV_DIFFTEST_OPS_CHECKS_PRIVATE_H

#include "difftest/ops/checks.h"

enum { MOST_CRASHES = 3 }; /* then the operation is given up */

typedef struct checking {
    const dt_ops_request *request;
    dt_op_report *report;
    const dt_candidate_info *info;
    const dt_op_impl *impl;
    dt_exec exec;
    int64_t placements; /* number of the next */
    int late_looks;     /* calls that were watched after they had returned */
    int crashes;
    char refusal[400];
    int is_probed; /* the entry to blame is known */
} checking;

double dt_checks_now(void);

void dt_checks_pass(checking *k, dt_check check);
void dt_checks_fail(checking *k, dt_check check, const dt_opcase *c, dt_case_status status, const char *fmt, ...)
    KV_PRINTF(5, 6);
void dt_checks_skip(checking *k, dt_check check, const char *why);

/* A place and rubbish of its own for every call. */
dt_placement dt_checks_place(checking *k);

kv_status dt_checks_draw(checking *k, int64_t shape, dt_dist dist, uint64_t seed, int64_t part, dt_opcase *c);

/* Row `call`; 1 when there is a result to look at. */
int dt_checks_note_call(checking *k, const dt_opcase *c, const dt_result *r);

/* Rows guard, inputs, unwritten, fpenv, late. */
void dt_checks_note_surroundings(checking *k, const dt_opcase *c, const dt_placement *p, const dt_result *r);

/* What is right; ERR_INTERNAL when the reference leaves its bound. */
kv_status dt_checks_answer(checking *k, const dt_opcase *c, dt_answer *right);

/* Compares and writes the row. */
kv_status dt_checks_judge(checking *k, const dt_opcase *c, const dt_answer *right, void *const got[DT_OP_TENSORS],
                          dt_check check, dt_op_difference *d);

/* Row rows (rows.c). */
kv_status dt_checks_rows(checking *k);

/* Rows rerun, fresh, hidden, revalidate, timing, too_good, borrowed, sanitizer, resources (behaviour.c). */
kv_status dt_checks_behaviour(checking *k, dt_candidate *c);

#endif
