/* mutants.h - planted bugs as the tester knows them: the table of common/mutants.def, the cases that every one of them is
 * put through, and what came of it (docs/mutants.md). */
#ifndef KV_DIFFTEST_MUTANTS_H
#define KV_DIFFTEST_MUTANTS_H

#include "difftest/db.h"
#include "difftest/judges.h"

#include <signal.h>
#include <stdio.h>

typedef enum dt_tier { DT_TIER_QUICK, DT_TIER_STREAM, DT_TIER_NIGHTLY, DT_TIER_COUNT } dt_tier;
const char *dt_tier_name(int tier);

enum { DT_MUTANT_EMU, DT_MUTANT_REF }; /* the library that carries a bug */

typedef struct dt_mutant {
    const char *id;
    int32_t side;             /* DT_MUTANT_EMU or _REF */
    const char *family, *op;  /* op: a name of op_names.def */
    int32_t head;             /* the only query head that is wrong; -1: no such one */
    const char *klass;
    int32_t tier;             /* from which one on it has to be found */
    int32_t equivalent;       /* cannot be told from the original */
    const char *when, *about; /* what activates it; what it is */
} dt_mutant;
const dt_mutant *dt_mutants(int *n);

/* ---- the suite: cases that do not depend on the bug -------------------------------------------------- */

enum { DT_SUITE_TEXT = 512 };

/* What became of one library, sent through a pipe: smaller than PIPE_BUF. */
typedef struct dt_suite_report {
    int32_t begins;       /* 1: case `at` begins now, the rest is not set */
    int32_t at;           /* number of the case */
    int32_t status;       /* dt_case_status; PASS: no case raised an alarm */
    int32_t cases;        /* that were run */
    int64_t first_pos;    /* token that shows it; -1 */
    double seconds;       /* until the alarm, or all */
    int32_t judge[DT_JUDGE_COUNT];
    int32_t head;         /* what locate says of the alarm; -1 */
    char op[24], klass[24]; /* "" = it was not asked, or found nothing */
    char key[DT_SUITE_TEXT], reason[DT_SUITE_TEXT], repro[2 * DT_SUITE_TEXT];
} dt_suite_report;

typedef struct dt_suite_job {
    const char *library;      /* path of the shared object */
    int32_t side;             /* DT_MUTANT_EMU or _REF */
    const char *bug;          /* NULL: the unmutated library */
    int32_t tier;
    int32_t thorough;         /* compare the cache's state after every step, and go on under other schedules */
    int32_t judges;           /* go on behind the first alarm, for the sake of the other judges */
    int32_t lenient;          /* a library that cannot be opened is the bug's doing, too */
    int32_t locate;           /* ask what is to blame for the alarm */
    int32_t bounded;          /* judge the library as one that promises a bound instead of bits */
    const char *cases;        /* only cases whose policy matches this pattern; NULL: all */
    int64_t tokens;           /* 0, or: instead of the suite long texts of so many tokens in all */
} dt_suite_job;

/* Cases of a tier whose policy matches the pattern; NULL: all. */
int dt_suite_size(int32_t tier, const char *pattern);

/* Runs the suite in this process, which the bug may end at any time, and writes reports to fd: one before each case, one
 * at the end. Returns only when the pipe is gone or something outside the library failed (kv_message says what). */
kv_status dt_suite_run(const dt_suite_job *job, int fd);

/* ---- several at a time, each in a process of its own --------------------------------------------------- */

typedef enum dt_outcome_kind {
    DT_MUTANT_FOUND,
    DT_MUTANT_SURVIVED,  /* some bit differs, and no case of the suite said so */
    DT_MUTANT_UNREACHED, /* no case makes any bit differ */
    DT_MUTANT_FAULT      /* the tester could not be run */
} dt_outcome_kind;
const char *dt_mutant_outcome_name(int outcome);

typedef struct dt_mutant_result {
    int32_t outcome;
    int32_t done;   /* 1: it is there */
    int32_t judged; /* 1: the other judges were asked */
    dt_suite_report report;
    char killed_by[32]; /* "decisions", "logits", "state", ...; "" when nothing did */
} dt_mutant_result;

/* What one process gave: the last report, however the process ended. */
typedef struct dt_suite_end {
    dt_suite_report report;
    char killed_by[32];
    int fault; /* the tester's own: report.reason */
} dt_suite_end;

typedef struct dt_suite_pool {
    int jobs;              /* processes at a time */
    double limit;          /* seconds for one case; a busy machine makes a suite slow, not a case endless */
    volatile sig_atomic_t *stop;
    /* after each job, in any order */
    kv_status (*done)(void *arg, int index, const dt_suite_end *end);
    void *arg;
} dt_suite_pool;

/* Runs n jobs. ERR_INTERRUPTED when *stop was set; processes under way are ended then. */
kv_status dt_suite_pool_run(const dt_suite_pool *pool, const dt_suite_job *jobs, int n);

/* ---- storing and reporting ------------------------------------------------------------------------------ */

kv_status dt_mutant_store(dt_db *db, int64_t run_id, int32_t tier, const dt_mutant *m, const dt_mutant_result *r);

/* What the run has already: result[i].done. */
kv_status dt_mutant_load(dt_db *db, int64_t run_id, int32_t tier, dt_mutant_result *results);

/* Table by family with the other judges, and what was not found; *missing receives how many of those that can be. */
kv_status dt_mutant_report(const dt_mutant_result *results, FILE *out, int *missing);

#endif
