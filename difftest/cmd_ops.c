/* cmd_ops.c - `kvdiff ops`: single operations of a candidate. docs/ops.md, docs/cli.md. */
#include "difftest/cli_output.h"
#include "difftest/ops/record.h"
#include "difftest/options.h"
#include "difftest/side.h"
#include "difftest/table.h"

#include "common/hash.h"
#include "common/rng.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OPT_KERNEL = 256, OPT_OP, OPT_ALL, OPT_DIST, OPT_SHAPE, OPT_SEED, OPT_LEVEL, OPT_DB, OPT_LIST, OPT_FORMAT, OPT_LIMIT };

typedef struct request {
    const char *kernel, *op, *db;
    dt_ops_request ops;
    int list, seed_given;
    int64_t limit;
    dt_format format;
} request;

static const struct argp_option options[] = {
    {"kernel", OPT_KERNEL, "FILE", 0, "the candidate: FILE.so, FILE.cu, FILE.py, a program, or emu, blas: our own", 0},
    {"op", OPT_OP, "GLOB", 0, "only operations with such a name [all that the candidate has]", 0},
    {"all", OPT_ALL, NULL, 0, "our own kernels, every operation: the same as --kernel=emu", 0},
    {"dist", OPT_DIST, "NAME", 0, "only inputs of this distribution (--list shows them)", 0},
    {"shape", OPT_SHAPE, "N", 0, "only shape number N", 0},
    {"level", OPT_LEVEL, "0..3", 0, "how many random shapes beside the awkward ones: 2, 8, 40, 200 [1]", 0},
    {"seed", OPT_SEED, "N", 0, "of shapes, inputs and rubbish; printed, so that a run can be repeated [from the clock]", 0},
    {"limit", OPT_LIMIT, "SECONDS", 0, "for one call [10]", 0},
    {"db", OPT_DB, "FILE", 0, "results database [$KVDIFF_DB, else results.db]", 0},
    {"list", OPT_LIST, NULL, 0, "operations, distributions and checks", 0},
    {"format", OPT_FORMAT, "FORMAT", 0, "table (default), csv or json", 0},
    {"verbose", 'v', NULL, 0, "print the command that repeats a call before it is made", 0},
    {0},
};

static error_t parse_seed(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return *text && !*end && errno == 0 && *text != '-' ? 0 : dt_usage("--seed=%s: a whole number is needed, 0x.. for hexadecimal", text);
}

static error_t parse_dist(const char *text, uint32_t *mask)
{
    const int dist = dt_dist_find(text);
    if (dist < 0) return dt_usage("--dist=%s is unknown; `kvdiff ops --list` shows them", text);
    *mask |= 1u << dist;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    int64_t n = 0;
    switch (key) {
    case OPT_KERNEL:
        r->kernel = arg;
        return 0;
    case OPT_ALL:
        r->kernel = "emu";
        return 0;
    case OPT_OP:
        r->op = arg;
        return 0;
    case OPT_DIST:
        return parse_dist(arg, &r->ops.only_dists);
    case OPT_SHAPE:
        return dt_parse_number("shape", arg, 0, 100000, &r->ops.only_shape);
    case OPT_LEVEL:
        if (dt_parse_number("level", arg, 0, 3, &n) != 0) return EINVAL;
        r->ops.level = (int)n;
        return 0;
    case OPT_LIMIT:
        return dt_parse_number("limit", arg, 1, 86400, &r->limit);
    case OPT_SEED:
        r->seed_given = 1;
        return parse_seed(arg, &r->ops.seed);
    case OPT_DB:
        r->db = arg;
        return 0;
    case OPT_LIST:
        r->list = 1;
        return 0;
    case OPT_FORMAT:
        return dt_format_parse(arg, &r->format) == KV_OK ? 0 : dt_usage("--format: %s", kv_message());
    case 'v':
        r->ops.verbose = 1;
        return 0;
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name the candidate with --kernel=FILE", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    options, parse, NULL,
    "Puts the operations of a candidate, written against kvdiff_kernel.h, through every check: bits or error bounds on many "
    "distributions, red zones, rubbish in outputs, repeats, hidden state. The candidate runs in a process of its own.\v"
    "Examples:\n"
    "  kvdiff ops --kernel=./my_attention.so\n"
    "  kvdiff ops --kernel=./my_attention.so --op='attn_*' --level=2 --seed=0x2a\n"
    "  kvdiff ops --all\n\n"
    "Exit codes: 0 every operation passed, 1 one did not, 3 the candidate cannot be used, 4 nothing was checked.",
    NULL, NULL, NULL};

static kv_status list_all(const request *r)
{
    static const char *const dist_about[] = {
#define X(name, about) about,
        DT_DIST_LIST(X)
#undef X
    };
    dt_table *t = dt_table_new(r->format, stdout);
    dt_table_column(t, "what", DT_LEFT);
    dt_table_column(t, "name", DT_LEFT);
    dt_table_column(t, "about", DT_LEFT);
    for (int i = 0; i < KVDK_OP_COUNT; i++) {
        dt_table_text(t, "operation");
        dt_table_text(t, dt_op_schemas[i].name);
        dt_table_text(t, "kvdiff_kernel.h has its meaning");
    }
    for (int i = 0; i < DT_DIST_COUNT; i++) {
        dt_table_text(t, "distribution");
        dt_table_text(t, dt_dist_name(i));
        dt_table_text(t, dist_about[i]);
    }
    for (int i = 0; i < DT_CHECK_COUNT; i++) {
        dt_table_text(t, "check");
        dt_table_text(t, dt_check_name(i));
        dt_table_text(t, dt_check_about(i));
    }
    return dt_table_finish(t);
}

/* ---- the run ------------------------------------------------------------------------------------------------------------ */

typedef struct tally {
    int64_t n[DT_CASE_STATUS_COUNT];
} tally;

static void start_table(dt_table *t)
{
    dt_table_column(t, "operation", DT_LEFT);
    dt_table_column(t, "status", DT_LEFT);
    dt_table_column(t, "calls", DT_RIGHT);
    dt_table_column(t, "max ulp", DT_RIGHT);
    dt_table_column(t, "of bound", DT_RIGHT);
    dt_table_column(t, "ref of bound", DT_RIGHT);
    dt_table_column(t, "seconds", DT_RIGHT);
}

static void add_row(dt_table *t, const dt_op_report *r)
{
    dt_table_text(t, dt_op_schemas[r->op].name);
    dt_table_text(t, dt_case_status_name(r->status));
    dt_table_int(t, r->n_calls);
    dt_table_int(t, r->max_ulp);
    dt_table_real(t, r->worst_ratio);
    dt_table_real(t, r->ref_ratio);
    dt_table_number(t, "%.2f", r->wall);
}

/* Every check that is not passed, with the command that shows it again. */
static void print_failures(const dt_op_report *r, FILE *out)
{
    const int bad = r->status != DT_CASE_PASS;
    if (r->status == DT_CASE_UNSUPPORTED || r->status == DT_CASE_UNTRUSTED)
        fprintf(out, "%s  %s: %s\n", dt_case_status_name(r->status), dt_op_schemas[r->op].name, r->reason);
    for (int i = 0; bad && i < DT_CHECK_COUNT; i++) {
        const dt_check_row *c = &r->checks[i];
        if (c->status == DT_CASE_PASS || c->status == DT_CASE_SKIP) continue;
        fprintf(out, "%s  %s  %s (%lld of %lld): %s\n      repro: %s\n", dt_case_status_name(c->status), dt_op_schemas[r->op].name,
                dt_check_name(i), (long long)c->n_bad, (long long)c->n, c->detail, c->repro);
    }
    if (bad && r->has_first_bad)
        fprintf(out, "      most wrong: %s\n", r->first_bad.text);
}

static int wanted(const request *r, const dt_candidate_info *info, int op)
{
    if (r->op) return fnmatch(r->op, dt_op_schemas[op].name, 0) == 0;
    return info->has[op];
}

static int exit_code(const tally *t)
{
    if (t->n[DT_CASE_FAIL] || t->n[DT_CASE_ERROR] || t->n[DT_CASE_TIMEOUT]) return DT_EXIT_FAIL;
    if (!t->n[DT_CASE_PASS] || t->n[DT_CASE_UNTRUSTED]) return DT_EXIT_VACUOUS;
    return DT_EXIT_PASS;
}

static kv_status check_all(const request *r, dt_candidate *c, dt_db *db, int64_t run_id, tally *t)
{
    const dt_candidate_info *info = dt_candidate_describe(c);
    dt_op_report *reports = calloc(KVDK_OP_COUNT, sizeof *reports);
    int n = 0;
    if (!reports) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_status st = KV_OK;
    dt_table *table = dt_table_new(r->format, stdout);
    start_table(table);
    for (int op = 0; op < KVDK_OP_COUNT && st == KV_OK; op++) {
        if (!wanted(r, info, op)) continue;
        st = dt_ops_check(c, op, &r->ops, &reports[n]);
        if (st == KV_OK) st = dt_op_store(db, run_id, info, &r->ops, &reports[n]);
        if (st == KV_OK) {
            t->n[reports[n].status]++;
            add_row(table, &reports[n]);
        }
        n++;
    }
    const kv_status printed = dt_table_finish(table);
    for (int i = 0; i < n && st == KV_OK; i++)
        print_failures(&reports[i], r->format == DT_FORMAT_TABLE ? stdout : stderr);
    for (int i = 0; i < n; i++)
        dt_op_report_free(&reports[i]);
    free(reports);
    return st == KV_OK ? printed : st;
}

static void fingerprint(const request *r, const dt_candidate_info *info, uint8_t fp[32])
{
    kv_sha256_ctx c;
    const time_t now = time(NULL); /* operations take seconds: a run that was cut short is simply repeated */
    kv_sha256_begin(&c);
    kv_sha256_add(&c, info->sha, 32);
    kv_sha256_add(&c, &r->ops.seed, sizeof r->ops.seed);
    kv_sha256_add(&c, &now, sizeof now);
    kv_sha256_end(&c, fp);
}

static const char *run_status(int code)
{
    return code == DT_EXIT_PASS ? "pass" : code == DT_EXIT_FAIL ? "fail" : code == DT_EXIT_VACUOUS ? "vacuous" : "error";
}

static kv_status check_candidate(const request *r, dt_candidate *c, const char *line, int *code)
{
    const dt_candidate_info *info = dt_candidate_describe(c);
    dt_run_start start = {.kind = "ops", .argv = line, .seed = (int64_t)r->ops.seed};
    tally t = {{0}};
    dt_db *db;
    int64_t run_id;
    int resumed;
    fingerprint(r, info, start.plan_fp);
    KV_TRY(dt_db_open(dt_db_path(r->db), DT_DB_WRITE, &db));
    kv_status st = dt_db_run_begin(db, &start, &run_id, &resumed);
    if (st == KV_OK) {
        st = check_all(r, c, db, run_id, &t);
        *code = st == KV_OK ? exit_code(&t) : kv_status_exit_code(st);
        const kv_status ended = dt_db_run_end(db, run_id, run_status(*code), *code);
        st = st == KV_OK ? ended : st;
    }
    dt_db_close(db);
    if (st == KV_OK)
        fprintf(stderr, "%s: PASS %lld  FAIL %lld  ERROR %lld  TIMEOUT %lld  UNSUPPORTED %lld  UNTRUSTED %lld  (seed 0x%llx)\n", info->name,
                (long long)t.n[DT_CASE_PASS], (long long)t.n[DT_CASE_FAIL], (long long)t.n[DT_CASE_ERROR],
                (long long)t.n[DT_CASE_TIMEOUT], (long long)t.n[DT_CASE_UNSUPPORTED], (long long)t.n[DT_CASE_UNTRUSTED],
                (unsigned long long)r->ops.seed);
    return st;
}

/* emu and blas are files of ours. */
static kv_status find_kernel(request *r, char *path, size_t size)
{
    if (strchr(r->kernel, '/') || strchr(r->kernel, '.')) {
        if (realpath(r->kernel, path)) return KV_OK;
        return kv_fail(KV_ERR_IO, "candidate '%s': %s; check the path", r->kernel, strerror(errno));
    }
    char folder[3000];
    KV_TRY(dt_side_folder(folder, sizeof folder));
    if ((size_t)snprintf(path, size, "%s/%s.so", folder, r->kernel) < size && access(path, R_OK) == 0) return KV_OK;
    return kv_fail(KV_ERR_IO, "candidate '%s': '%s' is not there; run `make`, or give the path of a file", r->kernel, path);
}

static kv_status ops(request *r, int argc, char **argv, int *code)
{
    char path[4096];
    dt_candidate *c;
    dt_limits limits = dt_default_limits;
    if (r->list) return list_all(r);
    if (!r->kernel) return kv_fail(KV_ERR_USAGE, "no candidate; name one with --kernel=FILE, or take our own kernels with --all");
    if (!r->seed_given) r->ops.seed = kv_splitmix64((uint64_t)time(NULL) ^ (uint64_t)getpid() << 32);
    r->ops.kernel = r->kernel;
    if (r->limit) limits.call_seconds = (double)r->limit;
    KV_TRY(find_kernel(r, path, sizeof path));
    KV_TRY(dt_candidate_open(path, &limits, &c));
    char *line = dt_command_line(argc, argv);
    const kv_status st = line ? check_candidate(r, c, line, code) : kv_fail(KV_ERR_NOMEM, "out of memory");
    free(line);
    dt_candidate_close(c);
    return st;
}

int dt_cmd_ops(int argc, char **argv)
{
    request r = {.format = DT_FORMAT_TABLE, .ops = {.level = 1, .only_shape = -1}};
    int done = 0, code = DT_EXIT_PASS;
    const int rc = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return rc;
    const kv_status st = ops(&r, argc, argv, &code);
    return st == KV_OK ? code : dt_report_failure(st);
}
