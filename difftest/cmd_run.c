/* cmd_run.c - `kvdiff run`: streams documents through the reference and devices, stores what it sees, prints
 * the summary. docs/cli.md describes the options. */
#include "difftest/cli.h"
#include "difftest/case_options.h"
#include "difftest/engine.h"
#include "difftest/summary.h"

#include "common/fpenv.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------------------- */

enum { OPT_ROWS = 512, OPT_DIGEST, OPT_EVENTS, OPT_LABEL };

static const struct argp_option options[] = {
    DT_CASE_OPTIONS,
    {"rows", OPT_ROWS, "all|diff|none", 0, "token rows to keep; all turns into diff after 2,000,000 [all]", 0},
    {"digest-every", OPT_DIGEST, "N", 0, "tokens between comparisons of cache state; 0: only at the end [64]", 0},
    {"all-events", OPT_EVENTS, NULL, 0, "keep every decision of the policy, not only those that differ", 0},
    {"label", OPT_LABEL, "TEXT", 0, "a name for this run", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    static const char *const rows[] = {"all", "diff", "none", NULL};
    dt_options *o = state->input;
    int64_t n;
    switch (key) {
    case OPT_ROWS:
        return dt_parse_word("rows", arg, rows, &o->keep);
    case OPT_DIGEST:
        if (dt_parse_number("digest-every", arg, 0, INT32_MAX, &n)) return EINVAL;
        o->digest_every = (int32_t)n;
        return 0;
    case OPT_EVENTS:
        o->all_events = 1;
        return 0;
    case OPT_LABEL:
        o->label = arg;
        return 0;
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name documents with --corpus and --doc", arg);
    default:
        return dt_case_option(o, key, arg);
    }
}

/* ---- interruption ------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t stop;

/* The second signal ends the process at once. */
static void on_signal(int sig)
{
    stop = 1;
    signal(sig, SIG_DFL);
}

/* ---- the run ------------------------------------------------------------------------------------------------ */

typedef struct run {
    const dt_options *o;
    dt_plan plan;
    dt_db *db;
    dt_writer *writer;
    dt_engine engine;
    kv_progress progress;
    int64_t run_id, model_id;
    int64_t *doc_ids, *policy_ids, *kernel_set_ids;
    int resumed;
} run;

static kv_status store_dimensions(run *r)
{
    const dt_plan *p = &r->plan;
    KV_TRY(dt_db_model(r->db, p->model, &r->model_id));
    r->doc_ids = calloc((size_t)p->n_docs + 1, sizeof *r->doc_ids);
    r->policy_ids = calloc((size_t)p->n_policies + 1, sizeof *r->policy_ids);
    r->kernel_set_ids = calloc((size_t)p->n_sides + 1, sizeof *r->kernel_set_ids);
    if (!r->doc_ids || !r->policy_ids || !r->kernel_set_ids) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int i = 0; i < p->n_docs; i++) {
        const dt_document *d = &p->docs[i];
        int64_t corpus_id;
        KV_TRY(dt_db_corpus(r->db, d->info->name, d->info->generator, d->info->seed, d->info->manifest_sha,
                            &corpus_id));
        KV_TRY(dt_db_document(r->db, corpus_id, d->index, d->doc->title, d->doc->n_bytes, d->stream.tokens.n,
                              d->stream.token_sha, &r->doc_ids[i]));
    }
    for (int i = 0; i < p->n_policies; i++)
        KV_TRY(dt_db_policy(r->db, &p->policies[i], &r->policy_ids[i]));
    for (int i = 0; i < p->n_sides; i++)
        KV_TRY(dt_db_kernel_set(r->db, p->sides[i].name, p->sides[i].backend->contract,
                                p->sides[i].has_sha ? p->sides[i].so_sha : NULL, &r->kernel_set_ids[i]));
    return KV_OK;
}

static kv_status begin(run *r, int argc, char **argv)
{
    char *line = dt_command_line(argc, argv), *json = dt_plan_options_json(&r->plan);
    dt_run_start start = {.kind = "run", .argv = line, .seed = -1, .label = r->o->label, .options_json = json};
    memcpy(start.plan_fp, r->plan.fingerprint, sizeof start.plan_fp);
    const kv_status st = line && json ? dt_db_run_begin(r->db, &start, &r->run_id, &r->resumed)
                                      : kv_fail(KV_ERR_NOMEM, "out of memory");
    free(line);
    free(json);
    return st;
}

/* todo[doc][policy][side]: what an earlier attempt has not finished. */
static kv_status find_todo(run *r, int *todo, int64_t *tokens, int *any_of_doc)
{
    const dt_plan *p = &r->plan;
    const int sides = p->n_sides ? p->n_sides : 1;
    char key[DT_KEY_MAX];
    *tokens = 0;
    for (int d = 0; d < p->n_docs; d++)
        for (int i = 0; i < p->n_policies; i++) {
            int any = 0;
            for (int s = 0; s < sides; s++) {
                int done = 0;
                dt_plan_key(p, d, i, p->n_sides ? p->sides[s].name : NULL, key, sizeof key);
                if (r->resumed) KV_TRY(dt_db_case_done(r->db, r->run_id, key, &done));
                todo[(d * p->n_policies + i) * sides + s] = !done;
                any |= !done;
            }
            *tokens += any ? dt_plan_tokens(p, d) : 0;
            any_of_doc[d] |= any;
        }
    return KV_OK;
}

static kv_status run_all(run *r, const int *todo, const int *any_of_doc)
{
    const dt_plan *p = &r->plan;
    const int sides = p->n_sides ? p->n_sides : 1;
    for (int d = 0; d < p->n_docs; d++) {
        if (stop) return kv_fail(KV_ERR_INTERRUPTED, "interrupted before the first case");
        if (any_of_doc[d]) KV_TRY(dt_engine_measure(&r->engine, d));
    }
    dt_own_error_done(&r->engine.own);
    for (int i = 0; i < p->n_policies; i++)
        for (int d = 0; d < p->n_docs; d++) {
            const int *mine = todo + (d * p->n_policies + i) * sides;
            int any = 0;
            for (int s = 0; s < sides; s++)
                any |= mine[s];
            if (any) KV_TRY(dt_engine_run(&r->engine, d, i, mine));
        }
    return KV_OK;
}

static kv_status stream(run *r)
{
    const dt_plan *p = &r->plan;
    const size_t cells = (size_t)p->n_docs * (size_t)p->n_policies * (size_t)(p->n_sides ? p->n_sides : 1);
    int *todo = calloc(cells, sizeof *todo), *any_of_doc = calloc((size_t)p->n_docs, sizeof *any_of_doc);
    int64_t tokens;
    kv_status st = todo && any_of_doc ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    if (st == KV_OK) st = find_todo(r, todo, &tokens, any_of_doc);
    if (st == KV_OK) {
        kv_progress_begin(&r->progress, "tok", tokens, 1);
        r->engine = (dt_engine){.plan = p, .writer = r->writer, .run_id = r->run_id, .model_id = r->model_id,
                                .doc_ids = r->doc_ids, .policy_ids = r->policy_ids,
                                .kernel_set_ids = r->kernel_set_ids, .stop = &stop, .progress = &r->progress};
        st = dt_engine_open(&r->engine);
        if (st == KV_OK) st = run_all(r, todo, any_of_doc);
        dt_engine_close(&r->engine);
        kv_progress_end(&r->progress);
    }
    free(todo);
    free(any_of_doc);
    return st;
}

static void print_times(const run *r, double write_seconds, int64_t rows)
{
    const double own = r->engine.ref_seconds + r->engine.got_seconds;
    if (own <= 0) return;
    fprintf(stderr, "reference %.2f s, devices %.2f s, streaming %.2f s (%.3f of the two)", r->engine.ref_seconds,
            r->engine.got_seconds, r->engine.wall_seconds, r->engine.wall_seconds / own);
    if (rows && write_seconds > 0)
        fprintf(stderr, "; %lld token rows at %.0f rows/s", (long long)rows, (double)rows / write_seconds);
    fputc('\n', stderr);
}

/* Ends the run in the database whatever happened; returns the exit code. */
static int conclude(run *r, kv_status st)
{
    int64_t rows;
    double seconds;
    char message[KV_MESSAGE_MAX];
    snprintf(message, sizeof message, "%s", kv_message());
    (void)dt_writer_flush(r->writer); /* a failure comes back from the stop */
    dt_writer_stats(r->writer, &rows, &seconds);
    const kv_status stopped = dt_writer_stop(r->writer);
    r->writer = NULL;
    if (st == KV_OK && stopped != KV_OK) {
        st = stopped;
        snprintf(message, sizeof message, "%s", kv_message());
    }
    if (st != KV_OK) {
        const int interrupted = st == KV_ERR_INTERRUPTED;
        (void)dt_db_run_end(r->db, r->run_id, interrupted ? "interrupted" : "error", kv_status_exit_code(st));
        kv_set_message("%s", message);
        return dt_report_failure(st);
    }
    dt_outcome outcome;
    st = dt_summary_print(r->db, r->run_id, stdout, &outcome);
    if (st == KV_OK)
        st = dt_db_run_end(r->db, r->run_id, dt_outcome_status(&outcome), dt_outcome_exit_code(&outcome));
    if (st != KV_OK) return dt_report_failure(st);
    fflush(stdout);
    print_times(r, seconds, rows);
    return dt_outcome_exit_code(&outcome);
}

static int execute(run *r, int argc, char **argv)
{
    kv_status st = kv_fpenv_check("at start");
    if (st == KV_OK) st = dt_plan_make(r->o, &r->plan);
    if (st == KV_OK) st = dt_db_open(dt_db_path(r->o->db), DT_DB_WRITE, &r->db);
    if (st == KV_OK) st = store_dimensions(r);
    if (st == KV_OK) st = begin(r, argc, argv);
    if (st != KV_OK) return dt_report_failure(st);
    printf("run %lld%s  %s  db %s\n\n", (long long)r->run_id, r->resumed ? " (resumed)" : "", r->plan.model->name,
           dt_db_file(r->db));
    fflush(stdout);
    const struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    st = dt_writer_start(dt_db_file(r->db), &r->writer);
    if (st == KV_OK) st = stream(r);
    if (!r->writer) {
        (void)dt_db_run_end(r->db, r->run_id, "error", kv_status_exit_code(st));
        return dt_report_failure(st);
    }
    return conclude(r, st);
}

int dt_cmd_run(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse, NULL,
        "Streams documents through the reference and through devices, token by token with the same schedule, "
        "compares, and stores every token in the results database.\v"
        "Exit codes: 0 every device kept its contract, 1 one did not, 2 usage, 3 something is missing or "
        "damaged, 4 nothing was checked or could be trusted, 5 inconclusive, 130 interrupted.",
        NULL, NULL, NULL};
    dt_options o;
    int done;
    dt_options_init(&o);
    int code = dt_argp(&argp, argc, argv, &o, &done);
    if (!done) {
        const kv_status st = dt_case_defaults(&o);
        run r = {.o = &o};
        code = st == KV_OK ? execute(&r, argc, argv) : dt_report_failure(st);
        dt_db_close(r.db);
        free(r.doc_ids);
        free(r.policy_ids);
        free(r.kernel_set_ids);
        dt_plan_free(&r.plan);
    }
    dt_options_free(&o);
    return code;
}
