/* cmd_locate.c - `kvdiff locate`: finds the first wrong value of a failing case. docs/locate.md describes the
 * procedure. */
#include "difftest/case_options.h"
#include "difftest/cli_output.h"
#include "difftest/locate_report.h"
#include "difftest/locate_shrink.h"
#include "difftest/plan.h"

#include "difftest/db_private.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_FORMAT = 512, OPT_ALL, OPT_RUN, OPT_NO_SHRINK, OPT_NO_STORE, OPT_WARM };

typedef struct request {
    dt_options o;
    const char *which; /* case: id, key, glob, "latest"; NULL with options that name one */
    int64_t run;       /* 0: the last */
    int json, all, no_shrink, no_store, warm, named; /* named: by options */
} request;

static const struct argp_option options[] = {
    DT_CASE_OPTIONS,
    DT_FORMAT_OPTION(OPT_FORMAT),
    {"all", OPT_ALL, NULL, 0, "every failing case of a run; one line per cause", 0},
    {"run", OPT_RUN, "N", 0, "cases of this run [the last]", 0},
    {"no-shrink", OPT_NO_SHRINK, NULL, 0, "do not look for a smaller case that fails alike", 0},
    {"warm", OPT_WARM, NULL, 0, "feed the document once before and reset: what a reset leaves behind", 0},
    {"no-store", OPT_NO_STORE, NULL, 0, "do not write to the database", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = state->input;
    switch (key) {
    case OPT_FORMAT:
        return dt_output_parse(arg, &r->json);
    case OPT_ALL:
        r->all = 1;
        return 0;
    case OPT_RUN:
        return dt_parse_number("run", arg, 1, INT64_MAX, &r->run);
    case OPT_NO_SHRINK:
        r->no_shrink = 1;
        return 0;
    case OPT_WARM:
        r->warm = 1;
        return 0;
    case OPT_NO_STORE:
        r->no_store = 1;
        return 0;
    case ARGP_KEY_ARG:
        if (r->which)
            return dt_usage("'%s' is one case too many; a glob names several, and the first that fails is taken", arg);
        r->which = arg;
        return 0;
    default:
        r->named |= key == 'm' || key == 'q' ||
                    (key >= DT_OPT_POLICY && key <= DT_OPT_CACHE && key != DT_OPT_DB && key != DT_OPT_THREADS);
        return dt_case_option(&r->o, key, arg);
    }
}

/* ---- the search of one cell of a plan --------------------------------------------------------------------- */

typedef struct cell {
    const dt_plan *plan;
    int doc, policy, side;
} cell;

/* The command line of a case that differs from the plan's in what was shrunk: `kvdiff locate ...`. */
static void repro_of(const cell *c, const dt_shrunk *small, char *dst, size_t size)
{
    char text[DT_REPRO_MAX];
    dt_options o = *c->plan->options;
    dt_plan p = *c->plan;
    kv_policy policy = small->policy;
    if (small->n < dt_plan_tokens(c->plan, c->doc)) o.tokens = small->n;
    o.q = small->q;
    p.options = &o;
    p.policies = &policy;
    dt_plan_repro(&p, c->doc, 0, o.devices.v[c->side], text, sizeof text);
    snprintf(dst, size, "kvdiff locate%s", text + strlen("kvdiff run"));
}

/* What shows behind another document only. */
static void blame_reset(dt_finding *f)
{
    char was[sizeof f->hypothesis];
    snprintf(was, sizeof was, "%s", f->hypothesis);
    if (strcmp(f->op, "state") != 0) f->klass = "stale-read";
    f->op = "state";
    snprintf(f->hypothesis, sizeof f->hypothesis, "only behind another document; %.300s", was);
}

/* Searches, shrinks, and leaves a command line that fails. again: a case that does not differ by itself is tried behind
 * another document. */
static kv_status search(const request *r, const cell *c, int again, dt_finding *f, char *repro, size_t size)
{
    dt_subject s = dt_subject_of(c->plan, c->doc, c->policy, c->side);
    if (c->plan->device_model != c->plan->model)
        return kv_fail(KV_ERR_USAGE,
                       "two different models (--device-model) are measured, not judged: there is no first wrong value");
    s.warm = r->warm;
    KV_TRY(dt_locate(&s, f));
    if (f->found == DT_FOUND_NOTHING && again && !s.warm) {
        s.warm = 1;
        KV_TRY(dt_locate(&s, f));
        if (f->found != DT_FOUND_NOTHING && f->op) blame_reset(f);
    }
    dt_shrunk small = {.n = s.n, .q = s.q, .policy = *s.policy};
    const int cut = !c->plan->docs[c->doc].stream.is_passkey;
    if (!r->no_shrink && (f->found == DT_FOUND_VALUE || f->found == DT_FOUND_ERROR))
        KV_TRY(dt_shrink(&s, f, cut, &small));
    repro_of(c, &small, repro, size);
    if (s.warm) snprintf(repro + strlen(repro), size - strlen(repro), " --warm");
    return KV_OK;
}

/* ---- stored cases ----------------------------------------------------------------------------------------- */

typedef struct stored {
    int64_t id, run;
    char key[DT_KEY_MAX], status[24], repro[DT_REPRO_MAX];
} stored;

#define FAILS "k.status IN('FAIL', 'ERROR', 'FLAKY', 'UNTRUSTED', 'XFAIL')"

static void read_row(sqlite3_stmt *q, stored *s)
{
    s->id = sqlite3_column_int64(q, 0);
    s->run = sqlite3_column_int64(q, 1);
    snprintf(s->key, sizeof s->key, "%s", (const char *)sqlite3_column_text(q, 2));
    snprintf(s->status, sizeof s->status, "%s", (const char *)sqlite3_column_text(q, 3));
    snprintf(s->repro, sizeof s->repro, "%s", (const char *)sqlite3_column_text(q, 4));
}

/* Cases that the request names, in order; *n of them. The caller frees *out. */
static kv_status select_cases(dt_db *db, const request *r, stored **out, int *n)
{
    static const char sql[] =
        "SELECT k.case_id, k.run_id, k.key, k.status, k.repro FROM kase k WHERE k.kernel_set_id IS NOT NULL AND "
        "CASE WHEN ?1 IS NOT NULL THEN k.run_id = ?1 WHEN ?2 IS NULL THEN k.run_id = (SELECT max(run_id) FROM kase) "
        "ELSE 1 END AND "
        "CASE WHEN ?2 IS NULL THEN " FAILS
        " WHEN ?3 THEN k.case_id = CAST(?2 AS INTEGER) ELSE k.key = ?2 OR k.key GLOB ?2 END "
        "ORDER BY k.run_id DESC, (" FAILS ") DESC, k.case_id";
    const int latest = !r->which || strcmp(r->which, "latest") == 0;
    const int number = !latest && r->which[strspn(r->which, "0123456789")] == 0;
    const dt_value v[] = {DT_IF(r->run, DT_INT(r->run)), DT_IF(!latest, DT_TEXT(r->which)), DT_INT(number)};
    sqlite3_stmt *q = NULL;
    *out = NULL;
    *n = 0;
    kv_status st = dt_sql_prepare(db, sql, &q);
    if (st == KV_OK) st = dt_sql_bind(db, q, v, DT_COUNT(v));
    int rc = SQLITE_DONE;
    while (st == KV_OK && (rc = sqlite3_step(q)) == SQLITE_ROW && (r->all || *n == 0)) {
        stored *more = realloc(*out, (size_t)(*n + 1) * sizeof *more);
        if (!more)
            st = kv_fail(KV_ERR_NOMEM, "out of memory");
        else
            read_row(q, &(*out = more)[(*n)++]);
    }
    if (st == KV_OK && rc != SQLITE_DONE && rc != SQLITE_ROW) st = dt_db_fail(db, "reading cases");
    sqlite3_finalize(q);
    return st;
}

/* The words of a command line that dt_plan_repro has written; the line is changed. */
static int split(char *line, char **argv, int most)
{
    int n = 0;
    char *to = line;
    for (char *p = line; *p && n < most;) {
        while (*p == ' ')
            p++;
        if (!*p) break;
        argv[n++] = to;
        for (int quoted = 0; *p && (quoted || *p != ' '); p++) {
            if (*p == '\'')
                quoted = !quoted;
            else
                *to++ = *p;
        }
        if (*p) p++;
        *to++ = 0;
    }
    return n;
}

static error_t parse_stored(int key, char *arg, struct argp_state *state)
{
    return dt_case_option(state->input, key, arg);
}

/* Options of the case as it was run; strings point into line. */
static kv_status options_of(char *line, const request *r, dt_options *o)
{
    static const struct argp_option list[] = {DT_CASE_OPTIONS, {0}};
    static const struct argp argp = {list, parse_stored, NULL, NULL, NULL, NULL, NULL};
    char *argv[64] = {NULL};
    const int n = split(line, argv, 63);
    dt_options_init(o);
    o->threads = r->o.threads;
    if (n < 2 || argp_parse(&argp, (unsigned)(n - 1), argv + 1, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, o))
        return kv_fail(KV_ERR_DB, "the command line of the case cannot be read: %s", line);
    return dt_case_defaults(o);
}

static kv_status locate_stored(const request *r, const stored *s, dt_finding *f, char *repro, size_t size)
{
    char line[DT_REPRO_MAX];
    dt_options o;
    dt_plan plan;
    snprintf(line, sizeof line, "%s", s->repro);
    kv_status st = options_of(line, r, &o);
    if (st == KV_OK) st = dt_plan_make(&o, &plan);
    if (st == KV_OK) {
        const cell c = {&plan, 0, 0, 0};
        if (plan.n_sides) st = search(r, &c, strcmp(s->status, "PASS") != 0, f, repro, size);
        dt_plan_free(&plan);
    }
    dt_options_free(&o);
    return st;
}

/* ---- one case --------------------------------------------------------------------------------------------- */

static int exit_code_of(const dt_finding *f)
{
    return f->found == DT_FOUND_NOTHING ? DT_EXIT_PASS : f->found == DT_FOUND_REFUSED ? DT_EXIT_VACUOUS : DT_EXIT_FAIL;
}

static int show(const request *r, const dt_report *report)
{
    if (!r->json) dt_report_print(report, stdout);
    const int written = r->json ? dt_print_json(dt_report_json(report)) : dt_close_output();
    return written ? written : exit_code_of(report->found);
}

static int nothing_to_compare(const request *r)
{
    if (r->which)
        fprintf(stderr, "kvdiff: no case with a device matches '%s'; `kvdiff query failures` lists those that fail\n",
                r->which);
    else
        fprintf(stderr, "kvdiff: the run has no failing case; there is nothing to locate\n");
    return DT_EXIT_VACUOUS;
}

static kv_status store(const request *r, dt_db *db, const dt_report *report)
{
    return r->no_store ? KV_OK : dt_report_store(db, report);
}

static kv_status one_stored(const request *r, dt_db *db, const stored *s, int *code)
{
    char repro[DT_REPRO_MAX] = "";
    dt_finding f = {0};
    kv_status st = locate_stored(r, s, &f, repro, sizeof repro);
    const dt_report report = {s->id, s->key, repro, &f};
    if (st == KV_OK) st = store(r, db, &report);
    if (st == KV_OK) *code = show(r, &report);
    dt_finding_free(&f);
    return st;
}

/* ---- all failing cases of a run --------------------------------------------------------------------------- */

typedef struct cause {
    char text[512];
    const char *op, *klass;
    int32_t layer;
    int n;
    int64_t pos;
    char key[DT_KEY_MAX], repro[DT_REPRO_MAX];
} cause;

typedef struct causes {
    cause *v;
    int n, same;
} causes;

static kv_status add_to(causes *l, const dt_report *r)
{
    char text[512];
    const dt_finding *f = r->found;
    if (f->found == DT_FOUND_NOTHING || f->found == DT_FOUND_REFUSED) {
        l->same++;
        return KV_OK;
    }
    dt_report_cause(f, text, sizeof text);
    for (int i = 0; i < l->n; i++)
        if (l->v[i].op == f->op && l->v[i].klass == f->klass && l->v[i].layer == f->layer &&
            strcmp(l->v[i].text, text) == 0) {
            l->v[i].n++;
            return KV_OK;
        }
    cause *more = realloc(l->v, (size_t)(l->n + 1) * sizeof *more);
    if (!more) return kv_fail(KV_ERR_NOMEM, "out of memory");
    l->v = more;
    cause *c = &more[l->n++];
    *c = (cause){.op = f->op, .klass = f->klass, .layer = f->layer, .n = 1, .pos = f->pos};
    snprintf(c->text, sizeof c->text, "%s", text);
    snprintf(c->key, sizeof c->key, "%s", r->key);
    snprintf(c->repro, sizeof c->repro, "%s", r->repro);
    return KV_OK;
}

static int print_causes(const request *r, const causes *l, int cases)
{
    json_t *list = r->json ? json_array() : NULL;
    for (int i = 0; i < l->n; i++) {
        const cause *c = &l->v[i];
        if (r->json)
            json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:i, s:s, s:I, s:s, s:s}", "cases", c->n, "op",
                                                  c->op ? c->op : "unknown", "klass", c->klass, "layer", c->layer,
                                                  "hypothesis", c->text, "pos", (json_int_t)c->pos, "key", c->key,
                                                  "repro", c->repro));
        else
            printf("%4d  %s  %s  layer %d  %s\n      first: %s\n      repro: %s\n", c->n, c->op ? c->op : "unknown",
                   c->klass, c->layer, c->text, c->key, c->repro);
    }
    if (!r->json) printf("%d cases, %d causes, %d without a difference\n", cases, l->n, l->same);
    const int written = r->json ? dt_print_json(list) : dt_close_output();
    return written ? written : l->n ? DT_EXIT_FAIL : DT_EXIT_PASS;
}

static kv_status all_stored(const request *r, dt_db *db, const stored *v, int n, int *code)
{
    causes list = {0};
    kv_status st = KV_OK;
    for (int i = 0; st == KV_OK && i < n; i++) {
        char repro[DT_REPRO_MAX] = "";
        dt_finding f = {0};
        st = locate_stored(r, &v[i], &f, repro, sizeof repro);
        const dt_report report = {v[i].id, v[i].key, repro, &f};
        if (st == KV_OK) st = store(r, db, &report);
        if (st == KV_OK) st = add_to(&list, &report);
        dt_finding_free(&f);
    }
    if (st == KV_OK) *code = print_causes(r, &list, n);
    free(list.v);
    return st;
}

static kv_status from_database(const request *r, int *code)
{
    dt_db *db = NULL;
    stored *v = NULL;
    int n = 0;
    KV_TRY(dt_db_open(dt_db_path(r->o.db), r->no_store ? DT_DB_READ : DT_DB_WRITE, &db));
    kv_status st = select_cases(db, r, &v, &n);
    if (st == KV_OK && n == 0)
        *code = nothing_to_compare(r);
    else if (st == KV_OK)
        st = r->all ? all_stored(r, db, v, n, code) : one_stored(r, db, v, code);
    free(v);
    dt_db_close(db);
    return st;
}

/* ---- without a stored case -------------------------------------------------------------------------------- */

/* The first cell that differs, else the last one. */
static kv_status from_options(request *r, int *code)
{
    dt_plan plan;
    char key[DT_KEY_MAX], repro[DT_REPRO_MAX];
    KV_TRY(dt_case_defaults(&r->o));
    KV_TRY(dt_plan_make(&r->o, &plan));
    const int cells = plan.n_docs * plan.n_policies * plan.n_sides;
    dt_finding f = {0};
    kv_status st =
        cells ? KV_OK : kv_fail(KV_ERR_USAGE, "--device=none: there is nothing to compare the reference with");
    for (int i = 0; st == KV_OK && i < cells; i++) {
        const cell c = {&plan, i / (plan.n_policies * plan.n_sides), i / plan.n_sides % plan.n_policies,
                        i % plan.n_sides};
        st = search(r, &c, 0, &f, repro, sizeof repro);
        dt_plan_key(&plan, c.doc, c.policy, plan.sides[c.side].name, key, sizeof key);
        if (f.found == DT_FOUND_VALUE || f.found == DT_FOUND_ERROR) break;
    }
    const dt_report report = {0, key, repro, &f};
    if (st == KV_OK) *code = show(r, &report);
    dt_finding_free(&f);
    dt_plan_free(&plan);
    return st;
}

int dt_cmd_locate(int argc, char **argv)
{
    static const struct argp argp = {
        options,
        parse,
        "[CASE]",
        "Finds the first wrong value of a device in a failing case: token, layer, operation, head, slot, element; says "
        "what kind of "
        "mistake it is, and prints a smaller case that fails alike. CASE is the id or the key of a stored case, a glob "
        "on keys, or "
        "`latest`, the default: the first failing case of the last run. With options that name a case no database is "
        "needed.\v"
        "Examples:\n"
        "  kvdiff locate\n"
        "  kvdiff locate '*|nano|sink:*|emu|*' --db=nightly.db\n"
        "  kvdiff locate --all --run=7\n"
        "  kvdiff locate --model=nano --policy=sink:cap=60 --device=./my.so --tokens=256 -q 16\n"
        "Exit codes: 0 the case does not differ any more, 1 found and printed, 2 usage, 3 something is missing or "
        "damaged, 4 nothing to "
        "compare.",
        NULL,
        NULL,
        NULL};
    request r = {0};
    int done, code = DT_EXIT_TESTER;
    dt_options_init(&r.o);
    const int rc = dt_argp(&argp, argc, argv, &r, &done);
    kv_status st = KV_OK;
    if (!done && r.named && (r.which || r.all || r.run))
        st = kv_fail(
            KV_ERR_USAGE,
            "a stored case is what it was: leave out CASE, --all and --run, or the options that name another case");
    else if (!done)
        st = r.named ? from_options(&r, &code) : from_database(&r, &code);
    dt_options_free(&r.o);
    return done ? rc : st == KV_OK ? code : dt_report_failure(st);
}
