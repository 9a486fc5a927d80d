/* cmd_query.c - `kvdiff query`: named queries and SQL over the results, for reading only. */
#include "difftest/cli_output.h"
#include "difftest/db.h"
#include "difftest/table.h"

#include <ctype.h>
#include <string.h>

enum { MAX_BINDINGS = 32, MAX_NAME = 64 };
enum { OPT_DB = 256, OPT_FORMAT, OPT_LIST };

typedef struct request {
    const char *db, *text; /* text: name of a query, or SQL */
    dt_format format;
    int list, n;
    dt_binding values[MAX_BINDINGS];
    char names[MAX_BINDINGS][MAX_NAME];
} request;

/* ---- the command line ----------------------------------------------------------------------- */

static error_t add_binding(request *r, const char *arg)
{
    const char *equals = strchr(arg, '=');
    const size_t n = equals ? (size_t)(equals - arg) : 0;
    if (!n || n >= MAX_NAME)
        return dt_usage("'%s' is no parameter; write name=value behind the query (quote SQL as one "
                        "argument)",
                        arg);
    if (r->n == MAX_BINDINGS) return dt_usage("more than %d parameters", MAX_BINDINGS);
    memcpy(r->names[r->n], arg, n);
    r->values[r->n] = (dt_binding){.name = r->names[r->n], .value = equals + 1};
    r->n++;
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = (request *)state->input;
    switch (key) {
    case OPT_DB:
        r->db = arg;
        return 0;
    case OPT_FORMAT:
        return dt_format_parse(arg, &r->format) == KV_OK ? 0
                                                         : dt_usage("--format: %s", kv_message());
    case OPT_LIST:
        r->list = 1;
        return 0;
    case ARGP_KEY_ARG:
        if (r->text) return add_binding(r, arg);
        r->text = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        if (r->list) return 0;
        return dt_usage("which query? `kvdiff query --list` shows those with a name");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"db", OPT_DB, "FILE", 0, "results database (default: $KVDIFF_DB, else results.db)", 0},
    {"format", OPT_FORMAT, "FORMAT", 0, "table (default), csv or json", 0},
    {"list", OPT_LIST, NULL, 0, "show the named queries and their parameters", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};
static const struct argp parser = {options,
                                   parse,
                                   "NAME|SQL [PARAMETER=VALUE...]",
                                   "Answers a question about the results: a named query such as "
                                   "`latest`, or one SQL statement that "
                                   "reads.",
                                   NULL,
                                   NULL,
                                   NULL};

/* ---- names ---------------------------------------------------------------------------------- */

static int is_name(const char *text)
{
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && *text != '_' && *text != '-') return 0;
    return 1;
}

/* Near in spelling, or the names that the text is a part of. */
static kv_status unknown_name(const char *wanted)
{
    char close[256] = "";
    size_t n, used = 0;
    const dt_query *q = dt_queries(&n);
    dt_nearest best = {NULL, 0};
    for (size_t i = 0; i < n; i++)
        dt_nearest_offer(&best, wanted, strlen(wanted), q[i].name);
    for (size_t i = 0; i < n && used < sizeof close; i++)
        if (q[i].name == best.name || (strlen(wanted) > 1 && strstr(q[i].name, wanted)))
            used += (size_t)snprintf(close + used, sizeof close - used, "%s%s",
                                     used ? ", " : "; close to it: ", q[i].name);
    return kv_fail(KV_ERR_USAGE, "no query is called '%s'%s; `kvdiff query --list` shows them all",
                   wanted, close);
}

/* ---- doing it ------------------------------------------------------------------------------- */

static kv_status list_queries(dt_format format)
{
    size_t n;
    const dt_query *q = dt_queries(&n);
    dt_table *t = dt_table_new(format, stdout);
    static const char *const names[] = {"name", "alias", "answers", "parameters"};
    for (int i = 0; i < 4; i++)
        dt_table_column(t, names[i], DT_LEFT);
    for (size_t i = 0; i < n; i++) {
        dt_table_text(t, q[i].name);
        dt_table_text(t, *q[i].alias ? q[i].alias : NULL);
        dt_table_text(t, q[i].about);
        dt_table_text(t, *q[i].params ? q[i].params : NULL);
    }
    return dt_table_finish(t);
}

static kv_status answer(const request *r)
{
    dt_db *db = NULL;
    const dt_query *q = is_name(r->text) ? dt_query_find(r->text) : NULL;
    if (is_name(r->text) && !q) return unknown_name(r->text);
    KV_TRY(dt_db_open(dt_db_path(r->db), DT_DB_READ, &db));
    dt_table *t = dt_table_new(r->format, stdout);
    const kv_status st = dt_query_run(db, q ? q->sql : r->text, r->values, r->n, q != NULL, t);
    char why[KV_MESSAGE_MAX] = "";
    if (st != KV_OK) strcpy(why, kv_message());
    const kv_status written = dt_table_finish(t);
    dt_db_close(db);
    return st == KV_OK ? written : kv_fail(st, "%s", why);
}

int dt_cmd_query(int argc, char **argv)
{
    request r = {.format = DT_FORMAT_TABLE};
    int done = 0;
    const int rc = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return rc;
    const kv_status st = r.list ? list_queries(r.format) : answer(&r);
    return st == KV_OK ? DT_EXIT_PASS : dt_report_failure(st);
}
