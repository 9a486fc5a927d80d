/* checks.h - everything that an operation of a candidate is put through, as named checks. docs/ops.md explains each. */
#ifndef KV_DIFFTEST_OPS_CHECKS_H
#define KV_DIFFTEST_OPS_CHECKS_H

#include "difftest/db.h"
#include "difftest/ops/compare.h"
#include "difftest/ops/probe.h"

/* X(name, about) */
#define DT_CHECK_LIST(X)                                                                              \
    X(call, "every call comes back with an answer")                                                   \
    X(numeric, "random inputs: the bits of the reference, or within the derived bound")               \
    X(special, "ascending and very low scores, numbers below the normal range: the same")             \
    X(exact, "whole numbers whose sums are exact in any order: the bits, whatever is promised")       \
    X(dye, "coloured values: which token, head and slot was read")                                    \
    X(guard, "nothing is written outside of the outputs")                                             \
    X(inputs, "inputs are not changed")                                                               \
    X(unwritten, "every element of every output is written")                                          \
    X(poison, "other rubbish in outputs, gaps and workspace: the same result")                        \
    X(rerun, "twenty times the same call: the same bits")                                             \
    X(rows, "a row alone gives the bits that it gives among others, where that is promised")          \
    X(fresh, "a new process gives the same result")                                                   \
    X(hidden, "other contents at the same addresses, and back: nothing is remembered")                \
    X(late, "nothing is written after the call has returned")                                         \
    X(revalidate, "after everything else the first call once more: the same result, and a right one") \
    X(fpenv, "rounding mode and flush-to-zero are left alone")                                        \
    X(borrowed, "no library of kvdiff is loaded into its process")                                    \
    X(timing, "results of timed calls are right, and what is measured is what passes")                \
    X(too_good, "not faster than the memory of any machine")                                          \
    X(sanitizer, "compute-sanitizer finds nothing")                                                   \
    X(resources, "registers, spills and shared memory of its kernels")

typedef enum dt_check {
#define X(name, about) DT_CHECK_##name,
    DT_CHECK_LIST(X)
#undef X
        DT_CHECK_COUNT
} dt_check;
const char *dt_check_name(int check);
const char *dt_check_about(int check);

/* What one check came to, over all cases. */
typedef struct dt_check_row {
    dt_case_status status; /* SKIP until it was applied */
    int64_t n, n_bad;      /* times applied, times that it failed */
    char detail[400];      /* the first failure, or why it was skipped */
    char repro[600];       /* the command that shows it again */
} dt_check_row;

/* One drawn case, for table op_check. */
typedef struct dt_op_record {
    char title[160], dist[16];
    uint64_t seed;
    int64_t shape;
    dt_op_difference difference;
    int has_difference, rerun_same, guard_ok, inputs_ok; /* -1: not looked at */
    double seconds;
} dt_op_record;

typedef struct dt_op_report {
    int op;
    dt_case_status status; /* the worst of the rows; UNSUPPORTED when nothing was computed, UNTRUSTED when nothing could
                              have failed */
    char reason[400];
    dt_check_row checks[DT_CHECK_COUNT];
    dt_op_record *records;
    int64_t n_records, cap_records;
    int64_t n_calls, n_refused, n_informative;
    double worst_ratio, ref_ratio; /* share of the bound that the candidate, and the reference, used */
    int64_t max_ulp;
    dt_element_name first_bad; /* of the first wrong element */
    int has_first_bad;
    char first_bad_case[180]; /* the call in which it was found */
    double wall;
} dt_op_report;

typedef struct dt_ops_request {
    const char *kernel; /* as on the command line, for repros */
    const char *file;   /* its absolute path */
    uint64_t seed;
    int level;           /* 0 .. 3: how many random shapes */
    int64_t only_shape;  /* -1: all */
    uint32_t only_dists; /* mask; 0: all */
    int verbose;         /* repro before every call, on stderr */
} dt_ops_request;

/* Puts one operation of a candidate through everything. The status is that of the tester: ERR_NOMEM, ERR_INTERNAL (the
 * reference leaves its bound); whatever the candidate does is in the report. */
kv_status dt_ops_check(dt_candidate *c, int op, const dt_ops_request *r, dt_op_report *out);
void dt_op_report_free(dt_op_report *r);

#endif
