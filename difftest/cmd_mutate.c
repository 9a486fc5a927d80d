/* cmd_mutate.c - `kvdiff mutate`: plants one bug after another and sees whether the tester finds it. */
#include "difftest/cli_output.h"
#include "difftest/mutants.h"
#include "difftest/options.h"
#include "difftest/side.h"
#include "difftest/table.h"

#include "common/hash.h"
#include "common/pool.h"
#include "common/progress.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_TIER = 256,
    OPT_ONLY,
    OPT_DB,
    OPT_LIST,
    OPT_CONTROL,
    OPT_TOKENS,
    OPT_JOBS,
    OPT_LIMIT,
    OPT_LIBS,
    OPT_JUDGES,
    OPT_LIBRARY,
    OPT_ONCE,
    OPT_CONTRACT,
    OPT_CASES,
    N_SIDES = 2
};

static const struct argp_option options[] = {
    {"tier", OPT_TIER, "TIER", 0, "how many cases a bug has to get past: quick, stream or nightly [quick]", 0},
    {"only", OPT_ONLY, "GLOB", 0, "bugs whose name or family matches, such as 'M2*' or race", 0},
    {"cases", OPT_CASES, "GLOB", 0, "only cases whose policy matches, such as 'sink*' [all]", 0},
    {"list", OPT_LIST, NULL, 0, "show the bugs and plant none", 0},
    {"control", OPT_CONTROL, NULL, 0, "stream texts through the unmutated libraries instead: no alarm may be raised",
     0},
    {"tokens", OPT_TOKENS, "N", 0, "tokens of --control, of each library [50000]", 0},
    {"library", OPT_LIBRARY, "FILE.so", 0, "put this library through the cases instead: found, survived or unreached",
     0},
    {"once", OPT_ONCE, NULL, 0, "with --library: if no case raises an alarm, do not go on to look for any bit that differs", 0},
    {"judges", OPT_JUDGES, "same|all", 0,
     "ask other judges about the cases up to the alarm, or about every case of the suite [same]", 0},
    {"contract", OPT_CONTRACT, "bitexact|bounded", 0, "judge the libraries as sides that promise bits, or only a bound [bitexact]", 0},
    {"jobs", OPT_JOBS, "N", 0, "bugs at a time [all processors]", 0},
    {"limit", OPT_LIMIT, "SECONDS", 0, "a bug that takes longer for one case has hung [60]", 0},
    {"libs", OPT_LIBS, "DIR", 0, "where emu.so and ref.so with the bugs are [mutants/ beside the program]", 0},
    {"db", OPT_DB, "FILE", 0, "results database [$KVDIFF_DB, else results.db]", 0},
    {0},
};

typedef struct request {
    const char *only, *cases, *db, *libs, *library;
    int32_t tier;
    int list, control, judge_all, once, bounded;
    int64_t tokens, jobs, limit;
} request;

static error_t parse_tier(const char *text, int32_t *tier)
{
    for (*tier = 0; *tier < DT_TIER_COUNT; ++*tier)
        if (strcmp(dt_tier_name(*tier), text) == 0) return 0;
    return dt_usage("--tier=%s is unknown; use quick, stream or nightly", text);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_TIER:
        return parse_tier(arg, &r->tier);
    case OPT_ONLY:
        r->only = arg;
        return 0;
    case OPT_CASES:
        r->cases = arg;
        return 0;
    case OPT_LIST:
        r->list = 1;
        return 0;
    case OPT_CONTROL:
        r->control = 1;
        return 0;
    case OPT_TOKENS:
        return dt_parse_number("tokens", arg, 2, INT64_C(1) << 40, &r->tokens);
    case OPT_JUDGES:
        r->judge_all = strcmp(arg, "all") == 0;
        return r->judge_all || strcmp(arg, "same") == 0 ? 0 : dt_usage("--judges=%s: use same or all", arg);
    case OPT_CONTRACT:
        r->bounded = strcmp(arg, "bounded") == 0;
        return r->bounded || strcmp(arg, "bitexact") == 0 ? 0 : dt_usage("--contract=%s: use bitexact or bounded", arg);
    case OPT_JOBS:
        return dt_parse_number("jobs", arg, 1, 64, &r->jobs);
    case OPT_LIMIT:
        return dt_parse_number("limit", arg, 1, 1000000, &r->limit);
    case OPT_LIBRARY:
        r->library = arg;
        return 0;
    case OPT_ONCE:
        r->once = 1;
        return 0;
    case OPT_LIBS:
        r->libs = arg;
        return 0;
    case OPT_DB:
        r->db = arg;
        return 0;
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name bugs with --only=GLOB", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
    stop = 1;
    signal(sig, SIG_DFL);
}

/* ---- which bugs, which libraries ------------------------------------------------------------------------ */

static int is_wanted(const request *r, const dt_mutant *m)
{
    if (m->tier > r->tier) return 0;
    return !r->only || fnmatch(r->only, m->id, 0) == 0 || fnmatch(r->only, m->family, 0) == 0;
}

static kv_status print_list(const request *r)
{
    int n;
    const dt_mutant *table = dt_mutants(&n);
    dt_table *t = dt_table_new(DT_FORMAT_TABLE, stdout);
    static const char *const titles[] = {"bug", "side", "family", "op", "kind", "tier", "about", "activated by"};
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++)
        dt_table_column(t, titles[i], DT_LEFT);
    for (int i = 0; i < n; i++) {
        const dt_mutant *m = &table[i];
        if (!is_wanted(r, m)) continue;
        dt_table_text(t, m->id);
        dt_table_text(t, m->side == DT_MUTANT_EMU ? "emu" : "ref");
        dt_table_text(t, m->family);
        dt_table_text(t, m->op);
        dt_table_text(t, m->equivalent ? "equivalent" : m->klass);
        dt_table_text(t, dt_tier_name(m->tier));
        dt_table_text(t, m->about);
        dt_table_text(t, m->when);
    }
    return dt_table_finish(t);
}

typedef struct bench {
    const request *r;
    char library[N_SIDES][PATH_MAX];
    int needed[N_SIDES];
    uint8_t sha[N_SIDES][32];
    dt_db *db;
    int64_t run_id;
    int resumed;
    kv_progress progress;
    const dt_mutant *table;
    int n_mutants;
    dt_mutant_result *results;
    dt_suite_job *jobs;
    int *of;            /* job -> bug; -1 - side: the control of that library */
    int n_jobs, second; /* second: the jobs are those that tell survivors from bugs that no case reaches */
    int alarms;         /* of the control */
} bench;

static kv_status name_libraries(bench *b)
{
    char folder[PATH_MAX];
    if (b->r->libs) {
        snprintf(folder, sizeof folder, "%s", b->r->libs);
    } else {
        const ssize_t n = readlink("/proc/self/exe", folder, sizeof folder - 1);
        folder[n > 0 ? n : 0] = '\0';
        char *slash = strrchr(folder, '/');
        if (slash) snprintf(slash, sizeof folder - (size_t)(slash - folder), "/mutants");
    }
    static const char *const names[N_SIDES] = {"emu.so", "ref.so"};
    for (int i = 0; i < N_SIDES; i++)
        if (snprintf(b->library[i], PATH_MAX, "%.*s/%s", PATH_MAX - 16, folder, names[i]) >= PATH_MAX)
            return kv_fail(KV_ERR_USAGE, "--libs: the path is too long");
    return KV_OK;
}

/* A library without a door for bugs would pass every case of every bug: the question comes before the first of them. */
static kv_status check_library(bench *b, int side)
{
    dt_side s;
    char option[32], why[64];
    kv_status st = dt_side_open_here(b->library[side], &s);
    if (st != KV_OK) {
        kv_prefix_message("planted bugs need %s (make mutants-build)", b->library[side]);
        return st == KV_ERR_USAGE ? KV_ERR_IO : st;
    }
    memcpy(b->sha[side], s.so_sha, sizeof s.so_sha);
    for (int i = 0; i < b->n_mutants && st == KV_OK; i++) {
        snprintf(option, sizeof option, "mutant=%s", b->table[i].id);
        if (b->table[i].side == side) st = s.backend->available(option, why, sizeof why);
    }
    dt_side_close(&s);
    if (st == KV_OK) return KV_OK;
    return kv_fail(KV_ERR_MISMATCH, "'%s' has no planted bugs; make mutants-build makes those that do",
                   b->library[side]);
}

static kv_status choose(bench *b)
{
    int any = 0;
    for (int i = 0; i < b->n_mutants; i++)
        if (is_wanted(b->r, &b->table[i])) {
            any = 1;
            b->needed[b->table[i].side] = 1;
        }
    if (b->r->control) b->needed[0] = b->needed[1] = any = 1;
    if (!any) return kv_fail(KV_ERR_USAGE, "no bug matches --only=%s; `kvdiff mutate --list` shows them", b->r->only);
    KV_TRY(name_libraries(b));
    for (int i = 0; i < N_SIDES; i++)
        if (b->needed[i]) KV_TRY(check_library(b, i));
    return KV_OK;
}

/* ---- jobs ------------------------------------------------------------------------------------------------- */

/* Whatever differs without a bug, or with one that is equivalent, is wrong: they go through the thorough suite at once. */
static void add_job(bench *b, int side, int bug)
{
    const request *r = b->r;
    b->of[b->n_jobs] = bug < 0 ? -1 - side : bug;
    b->jobs[b->n_jobs++] = (dt_suite_job){.library = b->library[side],
                                          .side = side,
                                          .bug = bug < 0 ? NULL : b->table[bug].id,
                                          .tier = r->tier,
                                          .thorough = bug < 0 || b->table[bug].equivalent || b->second,
                                          .judges = r->judge_all && bug >= 0 && !b->second,
                                          .locate = bug >= 0 && !b->second,
                                          .bounded = r->bounded && !b->second,
                                          .cases = r->cases,
                                          .tokens = r->control ? r->tokens : 0};
}

/* The bugs, equivalent ones or the others, that an earlier attempt has not come to. */
static void add_bugs(bench *b, int equivalent)
{
    for (int i = 0; i < b->n_mutants; i++)
        if (is_wanted(b->r, &b->table[i]) && b->table[i].equivalent == equivalent && !b->results[i].done)
            add_job(b, b->table[i].side, i);
}

/* Those that take longest first, so that no processor waits for one of them at the end. */
static void list_jobs(bench *b)
{
    b->n_jobs = 0;
    for (int side = 0; side < N_SIDES; side++)
        if (b->needed[side]) add_job(b, side, -1);
    if (b->r->control) return;
    add_bugs(b, 1);
    add_bugs(b, 0);
}

/* Those that the suite did not find: does any bit differ anywhere? */
static void list_second_jobs(bench *b)
{
    b->n_jobs = 0;
    b->second = 1;
    add_bugs(b, 0);
}

static kv_status take_control(bench *b, int side, const dt_suite_end *end)
{
    if (!end->killed_by[0]) return KV_OK;
    b->alarms++;
    kv_progress_end(&b->progress);
    printf("ALARM without a bug, %s: %s\n  %s\n", b->library[side], end->report.key, end->report.reason);
    return KV_OK;
}

static kv_status take(void *arg, int index, const dt_suite_end *end)
{
    bench *b = arg;
    const int bug = b->of[index];
    if (end->fault)
        return kv_fail(KV_ERR_INTERNAL, "%s: %s", bug < 0 ? "control" : b->table[bug].id, end->report.reason);
    kv_progress_add(&b->progress, 1, bug < 0 ? "control" : b->table[bug].id);
    if (bug < 0) return take_control(b, -1 - bug, end);
    dt_mutant_result *r = &b->results[bug];
    const int alarm = end->killed_by[0] != '\0';
    if (b->second) {
        r->outcome = alarm ? DT_MUTANT_SURVIVED : DT_MUTANT_UNREACHED;
        r->done = 1;
        return dt_mutant_store(b->db, b->run_id, b->r->tier, &b->table[bug], r);
    }
    const int thorough = b->jobs[index].thorough; /* nothing more is to be asked */
    *r = (dt_mutant_result){.outcome = alarm ? DT_MUTANT_FOUND : DT_MUTANT_UNREACHED,
                            .done = alarm || thorough,
                            .judged = 1,
                            .report = end->report};
    snprintf(r->killed_by, sizeof r->killed_by, "%s", end->killed_by);
    return r->done ? dt_mutant_store(b->db, b->run_id, b->r->tier, &b->table[bug], r) : KV_OK;
}

static kv_status run_jobs(bench *b)
{
    const double limit = b->r->control ? 1e9 : (double)b->r->limit * (b->second ? 3 : 1);
    const dt_suite_pool pool = {.jobs = (int)b->r->jobs, .limit = limit, .stop = &stop, .done = take, .arg = b};
    kv_progress_begin(&b->progress, b->second ? "survivors" : "bugs", b->n_jobs, 1);
    const kv_status st = dt_suite_pool_run(&pool, b->jobs, b->n_jobs);
    kv_progress_end(&b->progress);
    return st;
}

/* ---- the run ---------------------------------------------------------------------------------------------- */

static kv_status begin(bench *b, int argc, char **argv)
{
    char *line = dt_command_line(argc, argv), json[256];
    kv_sha256_ctx h;
    snprintf(json, sizeof json, "{\"tier\":\"%s\",\"judge_all\":%d,\"cases\":%d,\"bounded\":%d}", dt_tier_name(b->r->tier),
             b->r->judge_all, dt_suite_size(b->r->tier, b->r->cases), b->r->bounded);
    dt_run_start start = {.kind = "mutate", .argv = line, .seed = -1, .options_json = json};
    kv_sha256_begin(&h);
    kv_sha256_add(&h, json, strlen(json));
    if (b->r->only) kv_sha256_add(&h, b->r->only, strlen(b->r->only));
    if (b->r->cases) kv_sha256_add(&h, b->r->cases, strlen(b->r->cases));
    kv_sha256_add(&h, b->sha, sizeof b->sha);
    kv_sha256_end(&h, start.plan_fp);
    const kv_status st =
        line ? dt_db_run_begin(b->db, &start, &b->run_id, &b->resumed) : kv_fail(KV_ERR_NOMEM, "out of memory");
    free(line);
    return st;
}

static kv_status run_all(bench *b)
{
    if (b->resumed) KV_TRY(dt_mutant_load(b->db, b->run_id, b->r->tier, b->results));
    list_jobs(b);
    KV_TRY(run_jobs(b));
    list_second_jobs(b);
    return run_jobs(b);
}

static kv_status benchmark(bench *b, int argc, char **argv, int *code)
{
    int missing = 0;
    KV_TRY(dt_db_open(dt_db_path(b->r->db), DT_DB_WRITE, &b->db));
    KV_TRY(begin(b, argc, argv));
    printf("run %lld%s  %d cases, tier %s  db %s\n\n", (long long)b->run_id, b->resumed ? " (resumed)" : "",
           dt_suite_size(b->r->tier, b->r->cases), dt_tier_name(b->r->tier), dt_db_file(b->db));
    kv_status st = run_all(b);
    if (st == KV_OK) st = dt_mutant_report(b->results, stdout, &missing);
    if (st != KV_OK) {
        char message[KV_MESSAGE_MAX];
        snprintf(message, sizeof message, "%s", kv_message());
        (void)dt_db_run_end(b->db, b->run_id, st == KV_ERR_INTERRUPTED ? "interrupted" : "error",
                            kv_status_exit_code(st));
        kv_set_message("%s", message);
        return st;
    }
    printf("control: %s\n", b->alarms ? "an alarm without a bug" : "no alarm without a bug");
    *code = missing || b->alarms ? DT_EXIT_FAIL : DT_EXIT_PASS;
    return dt_db_run_end(b->db, b->run_id, *code == DT_EXIT_PASS ? "pass" : "fail", *code);
}

/* Nothing is stored: that nothing happens is all there is to say. */
static kv_status control(bench *b, int *code)
{
    list_jobs(b);
    const double start = kv_now();
    KV_TRY(run_jobs(b));
    printf("%lld tokens through each of the unmutated libraries in %.0f s: %s\n", (long long)b->r->tokens,
           kv_now() - start, b->alarms ? "an alarm" : "no alarm");
    *code = b->alarms ? DT_EXIT_FAIL : DT_EXIT_PASS;
    return KV_OK;
}

/* ---- one library that somebody else has changed ------------------------------------------------------------ */

static kv_status take_library(void *arg, int index, const dt_suite_end *end)
{
    (void)index;
    *(dt_suite_end *)arg = *end;
    return KV_OK;
}

/* The cases, then, when none raises an alarm, the thorough ones. */
static kv_status judge_library(const request *r, int *code)
{
    const char *slash = strrchr(r->library, '/'), *name = slash ? slash + 1 : r->library;
    const int side = strncmp(name, "ref", 3) == 0 ? DT_MUTANT_REF : DT_MUTANT_EMU;
    dt_suite_end end = {0};
    if (access(r->library, R_OK) != 0) return kv_fail(KV_ERR_IO, "--library=%s: there is no such file", r->library);
    setenv("KVDIFF_IN_PROCESS", "1", 1);
    for (int thorough = 0; thorough < (r->once ? 1 : 2); thorough++) {
        const dt_suite_job job = {
            .library = r->library, .side = side, .tier = r->tier, .thorough = thorough, .lenient = 1,
            .bounded = r->bounded && !thorough, .cases = r->cases};
        const dt_suite_pool pool = {
            .jobs = 1, .limit = (double)r->limit, .stop = &stop, .done = take_library, .arg = &end};
        KV_TRY(dt_suite_pool_run(&pool, &job, 1));
        if (end.fault) return kv_fail(KV_ERR_INTERNAL, "%s", end.report.reason);
        if (!end.killed_by[0]) continue;
        printf("%s\t%s\t%.2f\t%s\t%s\n", thorough ? "survived" : "found", end.killed_by, end.report.seconds,
               end.report.key, end.report.reason);
        *code = thorough ? DT_EXIT_FAIL : DT_EXIT_PASS;
        return KV_OK;
    }
    printf("%s\t-\t%.2f\t-\t%s\n", r->once ? "alive" : "unreached", end.report.seconds,
           r->once ? "no case raises an alarm" : "no case makes any bit differ");
    *code = DT_EXIT_FAIL;
    return KV_OK;
}

static kv_status execute(const request *r, int argc, char **argv, int *code)
{
    bench b = {.r = r};
    const struct sigaction sa = {.sa_handler = on_signal};
    b.table = dt_mutants(&b.n_mutants);
    const size_t most = (size_t)b.n_mutants + N_SIDES;
    KV_TRY(choose(&b));
    b.results = calloc(most, sizeof *b.results);
    b.jobs = calloc(most, sizeof *b.jobs);
    b.of = calloc(most, sizeof *b.of);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    setenv("KVDIFF_IN_PROCESS", "1", 1); /* every bug has a process already */
    kv_status st = b.results && b.jobs && b.of ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    if (st == KV_OK) st = r->control ? control(&b, code) : benchmark(&b, argc, argv, code);
    dt_db_close(b.db);
    free(b.results);
    free(b.jobs);
    free(b.of);
    return st;
}

/* No case at all would be a clean control. */
static kv_status check_cases(const request *r)
{
    if (!r->cases) return KV_OK;
    if (r->control)
        return kv_fail(KV_ERR_USAGE, "--cases chooses among the cases of the list; --control streams texts instead");
    if (dt_suite_size(r->tier, r->cases) > 0) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "no case of tier %s has a policy that matches --cases=%s", dt_tier_name(r->tier),
                   r->cases);
}

int dt_cmd_mutate(int argc, char **argv)
{
    static const struct argp argp = {
        options,
        parse,
        NULL,
        "Plants one bug at a time in a library and puts it through a fixed list of cases; every one has to raise an "
        "alarm, and "
        "the library without a bug none.\v"
        "Examples:\n"
        "  kvdiff mutate                       the quick tier, all bugs\n"
        "  kvdiff mutate --only=race --judges=all\n"
        "  kvdiff mutate --control --tokens=1000000\n\n"
        "Exit codes: 0 all were found and the control is clean, 1 one was not found or the control raised an alarm, 2 "
        "usage, "
        "3 a library is missing, 6 a fault of the tester, 130 interrupted (the same command goes on).",
        NULL,
        NULL,
        NULL};
    request r = {.tokens = 50000, .jobs = kv_cpu_count(), .limit = 60};
    int done, code = DT_EXIT_PASS;
    const int rc = dt_argp(&argp, argc, argv, &r, &done);
    if (done) return rc;
    kv_status st = check_cases(&r);
    if (st == KV_OK) st = r.list ? print_list(&r) : r.library ? judge_library(&r, &code) : execute(&r, argc, argv, &code);
    if (st != KV_OK) return dt_report_failure(st);
    const int closed = dt_close_output();
    return closed ? closed : code;
}
