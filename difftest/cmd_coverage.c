/* cmd_coverage.c - `kvdiff coverage`: which states of the caches a database's cases went through; exit code 1 when
 * one is missing. */
#include "difftest/cli_output.h"
#include "difftest/db.h"
#include "difftest/table.h"

#include <fnmatch.h>
#include <string.h>

enum { OPT_DB = 256, OPT_CELLS, OPT_DEVICE, OPT_RUN, OPT_FORMAT, OPT_LIST };

typedef struct request {
    const char *db, *cells, *device, *run;
    dt_format format;
    int list;
} request;

typedef struct visits {
    int64_t n[DT_CELL_COUNT], cases[DT_CELL_COUNT];
} visits;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    request *r = (request *)state->input;
    switch (key) {
    case OPT_DB:
        r->db = arg;
        return 0;
    case OPT_CELLS:
        r->cells = arg;
        return 0;
    case OPT_DEVICE:
        r->device = arg;
        return 0;
    case OPT_RUN:
        r->run = arg;
        return *arg && !arg[strspn(arg, "0123456789")] && strlen(arg) < 19
                   ? 0
                   : dt_usage("--run=%s: the number of a run is needed; `kvdiff query runs` shows them", arg);
    case OPT_FORMAT:
        return dt_format_parse(arg, &r->format) == KV_OK ? 0 : dt_usage("--format: %s", kv_message());
    case OPT_LIST:
        r->list = 1;
        return 0;
    case ARGP_KEY_ARG:
        return dt_usage("'%s' is no option; name cells with --cells=GLOB", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"db", OPT_DB, "FILE", 0, "results database (default: $KVDIFF_DB, else results.db)", 0},
    {"cells", OPT_CELLS, "GLOB", 0, "only cells with such a name, as in 'cascade.*'", 0},
    {"device", OPT_DEVICE, "NAME", 0, "cases of this device (default: of all devices that promise bits)", 0},
    {"run", OPT_RUN, "N", 0, "cases of this run (default: of all)", 0},
    {"format", OPT_FORMAT, "FORMAT", 0, "table (default), csv or json", 0},
    {"list", OPT_LIST, NULL, 0, "show the cells without a database", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};
static const struct argp parser = {options,
                                   parse,
                                   NULL,
                                   "Shows which states of policies and storages (phases, wraps, ties, edges of tiles) "
                                   "the passed cases of a database went through.\v"
                                   "Exit codes: 0 all were visited, 1 one was not, 4 there is no passed case.",
                                   NULL,
                                   NULL,
                                   NULL};

static int is_wanted(const request *r, int cell)
{
    return !r->cells || fnmatch(r->cells, dt_cell_name(cell), 0) == 0;
}

static kv_status check_glob(const request *r)
{
    for (int i = 0; i < DT_CELL_COUNT; i++)
        if (is_wanted(r, i)) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "no cell matches --cells=%s; `kvdiff coverage --list` shows them", r->cells);
}

/* Passed cases only: a state in which something failed has not been checked. */
static kv_status read_visits(dt_db *db, const request *r, visits *v, int64_t *cases)
{
    static const char from[] = " FROM kase k LEFT JOIN coverage c USING(case_id) WHERE k.status = 'PASS'"
                               " AND coalesce(k.device = ?1, k.contract = 'bitexact')"
                               " AND k.run_id = coalesce(CAST(?2 AS INTEGER), k.run_id)";
    sqlite3 *h = dt_db_handle(db);
    char sql[512];
    sqlite3_stmt *s = NULL;
    snprintf(sql, sizeof sql, "SELECT c.cell, sum(c.n), count(*), (SELECT count(*)%s)%s GROUP BY c.cell", from, from);
    int rc = sqlite3_prepare_v2(h, sql, -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(s, 1, r->device, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(s, 2, r->run, -1, SQLITE_STATIC);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW) break;
        *cases = sqlite3_column_int64(s, 3);
        const char *name = (const char *)sqlite3_column_text(s, 0);
        for (int i = 0; name && i < DT_CELL_COUNT; i++)
            if (strcmp(dt_cell_name(i), name) == 0) {
                v->n[i] = sqlite3_column_int64(s, 1);
                v->cases[i] = sqlite3_column_int64(s, 2);
            }
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? KV_OK : kv_fail(KV_ERR_DB, "%s: %s", dt_db_file(db), sqlite3_errmsg(h));
}

static kv_status print_cells(const request *r, const visits *v)
{
    dt_table *t = dt_table_new(r->format, stdout);
    dt_table_column(t, "cell", DT_LEFT);
    if (v) dt_table_column(t, "times", DT_RIGHT);
    if (v) dt_table_column(t, "cases", DT_RIGHT);
    dt_table_column(t, "about", DT_LEFT);
    for (int i = 0; i < DT_CELL_COUNT; i++) {
        if (!is_wanted(r, i)) continue;
        dt_table_text(t, dt_cell_name(i));
        if (v) dt_table_int(t, v->n[i]);
        if (v) dt_table_int(t, v->cases[i]);
        dt_table_text(t, dt_cell_about(i));
    }
    return dt_table_finish(t);
}

/* The cells that nobody visited, in one line on stderr. */
static int judge(const request *r, const visits *v)
{
    int wanted = 0, missing = 0;
    for (int i = 0; i < DT_CELL_COUNT; i++) {
        wanted += is_wanted(r, i);
        missing += is_wanted(r, i) && v->n[i] == 0;
    }
    if (r->format == DT_FORMAT_TABLE) printf("\n%d of %d cells visited\n", wanted - missing, wanted);
    fflush(stdout);
    if (!missing) return DT_EXIT_PASS;
    fprintf(stderr, "kvdiff: %d cells were not visited:", missing);
    for (int i = 0; i < DT_CELL_COUNT; i++)
        if (is_wanted(r, i) && v->n[i] == 0) fprintf(stderr, " %s", dt_cell_name(i));
    fputc('\n', stderr);
    return DT_EXIT_FAIL;
}

static kv_status show(const request *r, int *code)
{
    visits v = {0};
    int64_t cases = 0;
    dt_db *db = NULL;
    KV_TRY(check_glob(r));
    if (r->list) return print_cells(r, NULL);
    KV_TRY(dt_db_open(dt_db_path(r->db), DT_DB_READ, &db));
    kv_status st = read_visits(db, r, &v, &cases);
    if (st == KV_OK && cases == 0) {
        fprintf(stderr, "kvdiff: %s: no passed case of %s%s, so nothing was visited\n", dt_db_file(db),
                r->device ? "device " : "a device that promises bits", r->device ? r->device : "");
        *code = DT_EXIT_VACUOUS;
    } else if (st == KV_OK && (st = print_cells(r, &v)) == KV_OK)
        *code = judge(r, &v);
    dt_db_close(db);
    return st;
}

int dt_cmd_coverage(int argc, char **argv)
{
    request r = {.format = DT_FORMAT_TABLE};
    int done = 0, code = DT_EXIT_PASS;
    const int rc = dt_argp(&parser, argc, argv, &r, &done);
    if (done) return rc;
    const kv_status st = show(&r, &code);
    return st == KV_OK ? code : dt_report_failure(st);
}
