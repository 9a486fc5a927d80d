#include "difftest/ops/run.h"

#include "common/hash.h"
#include "difftest/cli.h"
#include "difftest/ops/build.h"
#include "difftest/side.h"

#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct running {
    dt_ops_run *r;
    dt_db *db;
    dt_table *table;
    int64_t run_id;
    int64_t tally[DT_CASE_STATUS_COUNT];
    FILE *said; /* failures in words, printed behind the table */
    char *text;
    size_t n_text;
} running;

/* ---- printing
 * ---------------------------------------------------------------------------------------------------------- */

static void start_table(dt_table *t)
{
    dt_table_column(t, "candidate", DT_LEFT);
    dt_table_column(t, "operation", DT_LEFT);
    dt_table_column(t, "status", DT_LEFT);
    dt_table_column(t, "calls", DT_RIGHT);
    dt_table_column(t, "max ulp", DT_RIGHT);
    dt_table_column(t, "of bound", DT_RIGHT);
    dt_table_column(t, "ref of bound", DT_RIGHT);
    dt_table_column(t, "refused", DT_RIGHT);
    dt_table_column(t, "seconds", DT_RIGHT);
}

static void add_row(dt_table *t, const char *candidate, const dt_op_report *r)
{
    const int compared = r->n_records > 0;
    dt_table_text(t, candidate);
    dt_table_text(t, r->op < 0 ? NULL : dt_op_schemas[r->op].name);
    dt_table_text(t, dt_case_status_name(r->status));
    dt_table_int(t, r->n_calls);
    if (compared) {
        dt_table_int(t, r->max_ulp);
        dt_table_number(t, r->worst_ratio < 1e300 ? "%.3g" : "9e999", r->worst_ratio);
        dt_table_number(t, "%.3g", r->ref_ratio);
    } else
        for (int i = 0; i < 3; i++)
            dt_table_text(t, NULL);
    dt_table_int(t, r->n_refused);
    dt_table_number(t, "%.2f", r->wall);
}

/* Every check that is not passed, with the command that shows it again; what a candidate that passes would not do. */
static void say_failures(FILE *out, const char *candidate, const dt_op_report *r)
{
    const char *const op = r->op < 0 ? "-" : dt_op_schemas[r->op].name;
    if (r->status == DT_CASE_PASS && !r->n_refused) return;
    int failed = 0;
    for (int i = 0; i < DT_CHECK_COUNT; i++) {
        const dt_check_row *c = &r->checks[i];
        if (c->status == DT_CASE_PASS || c->status == DT_CASE_SKIP) continue;
        failed = 1;
        fprintf(out, "%s  %s  %s  %s (%lld of %lld): %s\n      repro: %s\n", dt_case_status_name(c->status), candidate,
                op, dt_check_name(i), (long long)c->n_bad, (long long)c->n, c->detail, c->repro);
    }
    if (!failed) fprintf(out, "%s  %s  %s: %s\n", dt_case_status_name(r->status), candidate, op, r->reason);
    if (r->has_first_bad && r->first_bad_case[0])
        fprintf(out, "      where: %s: %s\n", r->first_bad_case, r->first_bad.text);
    else if (r->has_first_bad)
        fprintf(out, "      where: %s\n", r->first_bad.text);
}

/* ---- one candidate
 * ------------------------------------------------------------------------------------------------------- */

static kv_status take_report(running *g, const dt_candidate_info *info, const dt_op_report *report)
{
    KV_TRY(dt_op_store(g->db, g->run_id, info, &g->r->ops, report));
    g->tally[report->status]++;
    add_row(g->table, info->name, report);
    say_failures(g->said, info->name, report);
    return KV_OK;
}

/* It could not be loaded: one row that says so. */
static kv_status take_refusal(running *g, const char *kernel, kv_status why)
{
    const char *slash = strrchr(kernel, '/');
    dt_candidate_info info = {.contract = KVDK_BOUNDED};
    dt_op_report *report = calloc(1, sizeof *report);
    if (!report) return kv_fail(KV_ERR_NOMEM, "out of memory");
    snprintf(info.name, sizeof info.name, "%s", slash ? slash + 1 : kernel);
    report->op = -1;
    report->status = why == KV_ERR_UNSUPPORTED ? DT_CASE_UNSUPPORTED : DT_CASE_ERROR;
    snprintf(report->reason, sizeof report->reason, "%s", kv_message());
    const kv_status st = take_report(g, &info, report);
    free(report);
    return st;
}

static int wanted(const dt_ops_run *r, const dt_candidate_info *info, int op)
{
    return r->op ? fnmatch(r->op, dt_op_schemas[op].name, 0) == 0 : info->has[op];
}

static kv_status check_candidate(running *g, dt_candidate *c)
{
    const dt_candidate_info *info = dt_candidate_describe(c);
    dt_op_report *report = malloc(sizeof *report);
    kv_status st = report ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int op = 0; op < KVDK_OP_COUNT && st == KV_OK; op++) {
        if (!wanted(g->r, info, op)) continue;
        st = dt_ops_check(c, op, &g->r->ops, report);
        if (st == KV_OK) st = take_report(g, info, report);
        dt_op_report_free(report);
    }
    free(report);
    return st;
}

/* emu and blas are files of ours. */
static kv_status find_kernel(const char *kernel, char *path, size_t size)
{
    if (strchr(kernel, '/') || strchr(kernel, '.')) {
        char absolute[PATH_MAX];
        if (!realpath(kernel, absolute))
            return kv_fail(KV_ERR_IO, "candidate '%s': %s; check the path", kernel, strerror(errno));
        if ((size_t)snprintf(path, size, "%s", absolute) < size) return KV_OK;
        return kv_fail(KV_ERR_USAGE, "candidate '%.40s...': the path is too long", kernel);
    }
    char folder[3000];
    KV_TRY(dt_side_folder(folder, sizeof folder));
    if ((size_t)snprintf(path, size, "%s/%s.so", folder, kernel) < size && access(path, R_OK) == 0) return KV_OK;
    return kv_fail(KV_ERR_IO, "candidate '%s': '%s' is not there; run `make`, or give the path of a file", kernel,
                   path);
}

static kv_status run_kernel(running *g, const char *kernel)
{
    char path[PATH_MAX], built[PATH_MAX];
    dt_candidate *c = NULL;
    dt_limits limits = dt_default_limits;
    if (g->r->limit) limits.call_seconds = (double)g->r->limit;
    KV_TRY(find_kernel(kernel, path, sizeof path));
    g->r->ops.kernel = kernel;
    g->r->ops.file = path;
    kv_status st = dt_candidate_build(path, g->r->ops.verbose, built, sizeof built);
    if (st == KV_OK) st = dt_candidate_open(built, &limits, &c);
    if (st == KV_ERR_NOMEM) return st;
    if (st != KV_OK) return take_refusal(g, kernel, st);
    st = check_candidate(g, c);
    dt_candidate_close(c);
    return st;
}

/* ---- the run
 * --------------------------------------------------------------------------------------------------------------- */

static kv_status check_request(const dt_ops_run *r)
{
    char path[PATH_MAX];
    int n = !r->op;
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        n += r->op && fnmatch(r->op, dt_op_schemas[op].name, 0) == 0;
    if (!n) return kv_fail(KV_ERR_USAGE, "no operation matches --op=%s; `kvdiff ops --list` shows them", r->op);
    for (int i = 0; i < r->n_kernels; i++)
        KV_TRY(find_kernel(r->kernels[i], path, sizeof path));
    return KV_OK;
}

static int exit_code(const running *g)
{
    const int64_t *t = g->tally;
    if (t[DT_CASE_FAIL] || t[DT_CASE_ERROR] || t[DT_CASE_TIMEOUT]) return DT_EXIT_FAIL;
    return t[DT_CASE_PASS] && !t[DT_CASE_UNTRUSTED] ? DT_EXIT_PASS : DT_EXIT_VACUOUS;
}

static const char *run_status(int code)
{
    return code == DT_EXIT_PASS      ? "pass"
           : code == DT_EXIT_FAIL    ? "fail"
           : code == DT_EXIT_VACUOUS ? "vacuous"
                                     : "error";
}

/* A run of its own every time: it takes seconds, and one that was cut short is simply repeated. */
static void fingerprint(const dt_ops_run *r, uint8_t fp[32])
{
    kv_sha256_ctx c;
    const time_t now = time(NULL);
    const pid_t pid = getpid();
    kv_sha256_begin(&c);
    kv_sha256_add(&c, r->command, strlen(r->command));
    kv_sha256_add(&c, &r->ops.seed, sizeof r->ops.seed);
    kv_sha256_add(&c, &now, sizeof now);
    kv_sha256_add(&c, &pid, sizeof pid);
    kv_sha256_end(&c, fp);
}

static kv_status run_kernels(running *g)
{
    kv_status st = KV_OK;
    g->table = dt_table_new(g->r->format, stdout);
    g->said = open_memstream(&g->text, &g->n_text);
    if (!g->said) return kv_fail(KV_ERR_NOMEM, "out of memory");
    start_table(g->table);
    for (int i = 0; i < g->r->n_kernels && st == KV_OK; i++)
        st = run_kernel(g, g->r->kernels[i]);
    const kv_status printed = dt_table_finish(g->table);
    fclose(g->said);
    fputs(g->text, g->r->format == DT_FORMAT_TABLE ? stdout : stderr);
    free(g->text);
    return st == KV_OK ? printed : st;
}

static void print_total(const running *g)
{
    static const dt_case_status shown[] = {DT_CASE_PASS,    DT_CASE_FAIL,        DT_CASE_ERROR,
                                           DT_CASE_TIMEOUT, DT_CASE_UNSUPPORTED, DT_CASE_UNTRUSTED};
    FILE *out = g->r->format == DT_FORMAT_TABLE ? stdout : stderr;
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        fprintf(out, "%s %lld  ", dt_case_status_name(shown[i]), (long long)g->tally[shown[i]]);
    fprintf(out, "seed 0x%llx\n", (unsigned long long)g->r->ops.seed);
}

/* Candidates in the host SIMT layer draw the order of their threads from it, unless somebody has set one. */
static void pass_seed_on(uint64_t seed)
{
    char text[32];
    snprintf(text, sizeof text, "0x%llx", (unsigned long long)(seed | 1));
    (void)setenv("KVDK_SIMT_SEED", text, 0);
}

kv_status dt_ops_run_all(dt_ops_run *r, int *code)
{
    running g = {.r = r};
    dt_run_start start = {.kind = "ops", .argv = r->command, .seed = (int64_t)r->ops.seed};
    int resumed;
    KV_TRY(check_request(r));
    fingerprint(r, start.plan_fp);
    pass_seed_on(r->ops.seed);
    KV_TRY(dt_db_open(dt_db_path(r->db), DT_DB_WRITE, &g.db));
    kv_status st = dt_db_run_begin(g.db, &start, &g.run_id, &resumed);
    if (st == KV_OK) {
        st = run_kernels(&g);
        *code = st == KV_OK ? exit_code(&g) : kv_status_exit_code(st);
        const kv_status ended = dt_db_run_end(g.db, g.run_id, run_status(*code), *code);
        st = st == KV_OK ? ended : st;
    }
    dt_db_close(g.db);
    if (st == KV_OK) print_total(&g);
    return st;
}
