/* cli.h - the commands of the program and what they share.
 *
 * Every command is a function `int dt_cmd_<name>(int argc, char **argv)` with argv[0] = "kvdiff NAME",
 * parses its own options with argp and returns the exit code of the process (docs/cli.md). Results go
 * to stdout, progress and messages to stderr. */
#ifndef KV_DIFFTEST_CLI_H
#define KV_DIFFTEST_CLI_H

#include "common/status.h"

#include <argp.h>
#include <stdint.h>
#include <stdio.h>

enum {
    DT_EXIT_PASS = 0,
    DT_EXIT_FAIL = 1,         /* a device broke its contract */
    DT_EXIT_USAGE = 2,        /* the command line is wrong */
    DT_EXIT_ENVIRONMENT = 3,  /* what the command line points at is missing or damaged */
    DT_EXIT_VACUOUS = 4,      /* nothing was checked, or nothing that was could be trusted */
    DT_EXIT_INCONCLUSIVE = 5, /* statistics did not settle it */
    DT_EXIT_TESTER = 6,       /* the tester itself is at fault */
    DT_EXIT_SKIPPED = 77,
    DT_EXIT_INTERRUPTED = 130
};

int dt_cmd_run(int argc, char **argv);
int dt_cmd_query(int argc, char **argv);
int dt_cmd_locate(int argc, char **argv);
int dt_cmd_coverage(int argc, char **argv);
int dt_cmd_info(int argc, char **argv);
int dt_cmd_model(int argc, char **argv);
int dt_cmd_pack(int argc, char **argv);
int dt_cmd_inspect(int argc, char **argv);
int dt_cmd_corpus(int argc, char **argv);
int dt_cmd_policy(int argc, char **argv);
int dt_cmd_tokenizer(int argc, char **argv);
int dt_cmd_train(int argc, char **argv);
int dt_cmd_ttt(int argc, char **argv);
int dt_cmd_ops(int argc, char **argv);
int dt_cmd_mutate(int argc, char **argv);

/* Prints "kvdiff: <message>" on stderr and returns the exit code of st. */
int dt_report_failure(kv_status st);

/* For argp parsers: records a usage failure and makes argp_parse return EINVAL. Parsers run with
 * ARGP_NO_EXIT | ARGP_NO_ERRS through dt_argp, which turns every outcome into an exit code:
 * *done is set when the command must return the result at once (an error, or --help shown). */
int dt_argp(const struct argp *argp, int argc, char **argv, void *input, int *done);
error_t dt_usage(const char *fmt, ...) KV_PRINTF(1, 2);

/* "--name=text" as a whole number from min to max, or a usage failure. */
error_t dt_parse_number(const char *name, const char *text, int64_t min, int64_t max, int64_t *out);

/* Path of the results database: --db, else $KVDIFF_DB, else "results.db". */
const char *dt_db_path(const char *option);

#endif
