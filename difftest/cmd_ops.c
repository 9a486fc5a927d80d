/* cmd_ops.c - `kvdiff ops`: single operations of a candidate. docs/ops.md, docs/cli.md. */
#include "difftest/cli_output.h"
#include "difftest/ops/run.h"

#include "common/rng.h"
#include "difftest/options.h"
#include "difftest/table.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
    OPT_KERNEL = 256,
    OPT_OP,
    OPT_ALL,
    OPT_DIST,
    OPT_SHAPE,
    OPT_SEED,
    OPT_LEVEL,
    OPT_DB,
    OPT_LIST,
    OPT_FORMAT,
    OPT_LIMIT
};

typedef struct request {
    dt_ops_run run;
    int list, seed_given;
} request;

static const struct argp_option options[] = {
    {"kernel", OPT_KERNEL, "FILE", 0,
     "a candidate: FILE.so, FILE.cu, NAME.kernel.json (PTX and how it is launched), FILE.py, a program, or emu, blas: our "
     "own; repeatable", 0},
    {"op", OPT_OP, "GLOB", 0, "only operations with such a name [all that the candidate has]", 0},
    {"all", OPT_ALL, NULL, 0, "our own kernels, every operation: the same as --kernel=emu", 0},
    {"dist", OPT_DIST, "NAME", 0, "only inputs of this distribution (--list shows them)", 0},
    {"shape", OPT_SHAPE, "N", 0, "only shape number N", 0},
    {"level", OPT_LEVEL, "0..3", 0, "how many random shapes beside the awkward ones: 2, 8, 40, 200 [1]", 0},
    {"seed", OPT_SEED, "N", 0, "of shapes, inputs and rubbish; printed, so that a run can be repeated [from the clock]",
     0},
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
    return *text && !*end && errno == 0 && *text != '-'
               ? 0
               : dt_usage("--seed=%s: a whole number is needed, 0x.. for hexadecimal", text);
}

static error_t parse_dist(const char *text, uint32_t *mask)
{
    const int dist = dt_dist_find(text);
    if (dist < 0) return dt_usage("--dist=%s is unknown; `kvdiff ops --list` shows them", text);
    *mask |= 1u << dist;
    return 0;
}

static error_t add_kernel(dt_ops_run *r, const char *name)
{
    if (r->n_kernels == DT_OPS_KERNELS) return dt_usage("more than %d candidates", DT_OPS_KERNELS);
    r->kernels[r->n_kernels++] = name;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    int64_t n = 0;
    switch (key) {
    case OPT_KERNEL:
        return add_kernel(&r->run, arg);
    case OPT_ALL:
        return add_kernel(&r->run, "emu");
    case OPT_OP:
        r->run.op = arg;
        return 0;
    case OPT_DIST:
        return parse_dist(arg, &r->run.ops.only_dists);
    case OPT_SHAPE:
        return dt_parse_number("shape", arg, 0, 100000, &r->run.ops.only_shape);
    case OPT_LEVEL:
        if (dt_parse_number("level", arg, 0, 3, &n) != 0) return EINVAL;
        r->run.ops.level = (int)n;
        return 0;
    case OPT_LIMIT:
        return dt_parse_number("limit", arg, 1, 86400, &r->run.limit);
    case OPT_SEED:
        r->seed_given = 1;
        return parse_seed(arg, &r->run.ops.seed);
    case OPT_DB:
        r->run.db = arg;
        return 0;
    case OPT_LIST:
        r->list = 1;
        return 0;
    case OPT_FORMAT:
        return dt_format_parse(arg, &r->run.format) == KV_OK ? 0 : dt_usage("--format: %s", kv_message());
    case 'v':
        r->run.ops.verbose = 1;
        return 0;
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name the candidate with --kernel=FILE", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    options,
    parse,
    NULL,
    "Puts the operations of a candidate, written against kvdiff_kernel.h, through every check: bits or error bounds on "
    "many "
    "distributions, red zones, rubbish in outputs, repeats, hidden state. The candidate runs in a process of its own.\v"
    "Examples:\n"
    "  kvdiff ops --kernel=./my_attention.so\n"
    "  kvdiff ops --kernel=./my_attention.so --op='attn_*' --level=2 --seed=0x2a\n"
    "  kvdiff ops --all\n\n"
    "Exit codes: 0 every operation passed, 1 one did not, 3 a file is not there, 4 nothing was checked.",
    NULL,
    NULL,
    NULL};

static kv_status list_all(const request *r)
{
    static const char *const dist_about[] = {
#define X(name, about) about,
        DT_DIST_LIST(X)
#undef X
    };
    dt_table *t = dt_table_new(r->run.format, stdout);
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

static kv_status ops(request *r, int argc, char **argv, int *code)
{
    if (r->list) return list_all(r);
    if (!r->run.n_kernels)
        return kv_fail(KV_ERR_USAGE, "no candidate; name one with --kernel=FILE, or take our own kernels with --all");
    if (!r->seed_given) r->run.ops.seed = kv_splitmix64((uint64_t)time(NULL) ^ (uint64_t)getpid() << 32);
    char *line = dt_command_line(argc, argv);
    r->run.command = line;
    const kv_status st = line ? dt_ops_run_all(&r->run, code) : kv_fail(KV_ERR_NOMEM, "out of memory");
    free(line);
    return st;
}

int dt_cmd_ops(int argc, char **argv)
{
    request r = {.run = {.format = DT_FORMAT_TABLE, .ops = {.level = 1, .only_shape = -1}}};
    int done = 0, code = DT_EXIT_PASS;
    const int rc = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return rc;
    const kv_status st = ops(&r, argc, argv, &code);
    return st == KV_OK ? code : dt_report_failure(st);
}
