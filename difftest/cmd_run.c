/* cmd_run.c - `kvdiff run`: streams documents through the reference and devices, stores what it sees, prints
 * the summary. docs/cli.md describes the options. */
#include "difftest/cli.h"
#include "difftest/engine.h"
#include "difftest/summary.h"

#include "common/fpenv.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------------------- */

enum { OPT_POLICY = 256, OPT_DEVICE, OPT_DEVICE_MODEL, OPT_CORPUS, OPT_DOC, OPT_TOKENS, OPT_MODE, OPT_ROWS,
       OPT_DB, OPT_THREADS, OPT_WINDOW, OPT_DIGEST, OPT_LONG, OPT_EVENTS, OPT_LABEL, OPT_CACHE };

static const struct argp_option options[] = {
    {"model", 'm', "NAME|FILE", 0, "novel, nano, smollm2 ..., a GGUF file or an artifact [novel]", 0},
    {"corpus", OPT_CORPUS, "SPEC", 0, "book, synth:..., passkey:..., a file or a folder; repeatable [book]", 0},
    {"doc", OPT_DOC, "GLOB", 0, "only documents with such a name; repeatable", 0},
    {"policy", OPT_POLICY, "SPEC", 0, "cache policy, such as sink:cap=1020; repeatable [full]", 0},
    {"device", OPT_DEVICE, "LIST", 0,
     "none, or sides separated by commas: blas, emu, cuda:exact, FILE.so [blas]", 0},
    {"tokens", OPT_TOKENS, "N", 0, "tokens of each text [all]", 0},
    {"q", 'q', "N", 0, "tokens per step [256]", 0},
    {"mode", OPT_MODE, "free|locked|follow", 0,
     "let errors grow, start every step from the reference's cache, or replay its decisions [free]", 0},
    {"window", OPT_WINDOW, "N", 0, "llama-perplexity's half-window mode: chunks of N tokens, second half scored",
     0},
    {"rows", OPT_ROWS, "all|diff|none", 0, "token rows to keep; all turns into diff after 2,000,000 [all]", 0},
    {"digest-every", OPT_DIGEST, "N", 0, "tokens between comparisons of cache state; 0: only at the end [64]", 0},
    {"all-events", OPT_EVENTS, NULL, 0, "keep every decision of the policy, not only those that differ", 0},
    {"device-model", OPT_DEVICE_MODEL, "NAME|FILE", 0, "another model with the same vocabulary for the devices",
     0},
    {"allow-long", OPT_LONG, NULL, 0, "go beyond the model's trained context; recorded with the run", 0},
    {"threads", OPT_THREADS, "N", 0, "worker threads of every side [all processors]", 0},
    {"db", OPT_DB, "FILE", 0, "results database [$KVDIFF_DB, else results.db]", 0},
    {"label", OPT_LABEL, "TEXT", 0, "a name for this run", 0},
    {"token-cache", OPT_CACHE, "DIR", 0, "keep tokenised documents here [$KVDIFF_CACHE]", 0},
    {0},
};

static kv_status parse_number(const char *name, const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max)
        return kv_fail(KV_ERR_USAGE, "--%s=%s: a whole number from %lld to %lld is needed", name, text,
                       (long long)min, (long long)max);
    *out = v;
    return KV_OK;
}

static kv_status parse_int(const char *name, const char *text, int64_t min, int64_t max, int32_t *out)
{
    int64_t v;
    KV_TRY(parse_number(name, text, min, max, &v));
    *out = (int32_t)v;
    return KV_OK;
}

/* The place of text in words, which a NULL ends. */
static kv_status parse_word(const char *name, const char *text, const char *const *words, int32_t *out)
{
    for (int32_t i = 0; words[i]; i++)
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return KV_OK;
        }
    return kv_fail(KV_ERR_USAGE, "--%s=%s is unknown; use %s, %s or %s", name, text, words[0], words[1], words[2]);
}

static kv_status set_option(dt_options *o, int key, const char *arg)
{
    static const char *const modes[] = {"free", "locked", "follow", NULL};
    static const char *const rows[] = {"all", "diff", "none", NULL};
    switch (key) {
    case 'm':
        o->model = arg;
        return KV_OK;
    case 'q':
        return parse_int("q", arg, 1, 1 << 20, &o->q);
    case OPT_CORPUS:
        return dt_list_add(&o->corpora, arg, strlen(arg));
    case OPT_DOC:
        return dt_list_add(&o->docs, arg, strlen(arg));
    case OPT_POLICY:
        return dt_list_add(&o->policies, arg, strlen(arg));
    case OPT_DEVICE:
        return dt_list_add_devices(&o->devices, arg);
    case OPT_TOKENS:
        return parse_number("tokens", arg, 1, INT32_MAX, &o->tokens);
    case OPT_MODE:
        return parse_word("mode", arg, modes, &o->mode);
    case OPT_WINDOW:
        return parse_int("window", arg, 4, 1 << 20, &o->window);
    case OPT_ROWS:
        return parse_word("rows", arg, rows, &o->keep);
    case OPT_DIGEST:
        return parse_int("digest-every", arg, 0, INT32_MAX, &o->digest_every);
    case OPT_THREADS:
        return parse_int("threads", arg, 1, 1024, &o->threads);
    case OPT_DEVICE_MODEL:
        o->device_model = arg;
        return KV_OK;
    case OPT_DB:
        o->db = arg;
        return KV_OK;
    case OPT_LABEL:
        o->label = arg;
        return KV_OK;
    case OPT_CACHE:
        o->cache_dir = arg;
        return KV_OK;
    case OPT_LONG:
        o->allow_long = 1;
        return KV_OK;
    case OPT_EVENTS:
        o->all_events = 1;
        return KV_OK;
    }
    return KV_ERR_USAGE;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_ARG)
        return dt_usage("'%s' is no option; name documents with --corpus and --doc", arg);
    if (key == 'm' || key == 'q' || key >= OPT_POLICY) {
        if (key > OPT_CACHE) return ARGP_ERR_UNKNOWN; /* argp's own keys */
        return set_option(state->input, key, arg) == KV_OK ? 0 : EINVAL;
    }
    return ARGP_ERR_UNKNOWN;
}

static kv_status fill_defaults(dt_options *o)
{
    if (!o->corpora.n) KV_TRY(dt_list_add(&o->corpora, "book", 4));
    if (!o->policies.n) KV_TRY(dt_list_add(&o->policies, "full", 4));
    if (!o->devices.n) KV_TRY(dt_list_add(&o->devices, "blas", 4));
    if (!o->cache_dir) o->cache_dir = getenv("KVDIFF_CACHE");
    if (o->devices.n > DT_MAX_LANES)
        return kv_fail(KV_ERR_USAGE, "--device names %d sides; at most %d fit in one run", o->devices.n,
                       DT_MAX_LANES);
    for (int i = 0; o->devices.n > 1 && i < o->devices.n; i++)
        if (strcmp(o->devices.v[i], "none") == 0)
            return kv_fail(KV_ERR_USAGE, "--device=none stands alone: it means the reference without a device");
    if (o->window && o->window % 2) return kv_fail(KV_ERR_USAGE, "--window=%d must be even", o->window);
    return KV_OK;
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
    dt_budget_done(&r->engine.budget);
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
        const kv_status st = fill_defaults(&o);
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
