/* db_query.c - the named queries and any other statement that only reads. */
#include "difftest/db_private.h"

#include "difftest/table.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const dt_query queries[] = {
#include "sql_queries.h"
};

const dt_query *dt_queries(size_t *n)
{
    *n = sizeof queries / sizeof *queries;
    return queries;
}

const dt_query *dt_query_find(const char *name)
{
    for (int i = 0; i < DT_COUNT(queries); i++)
        if (strcmp(queries[i].name, name) == 0 || (*name && strcmp(queries[i].alias, name) == 0))
            return &queries[i];
    return NULL;
}

/* ---- preparing ------------------------------------------------------------------------------ */

/* What SQLite says about a statement is the user's fault, what it says about the file is not. */
static kv_status refuse(const dt_db *db)
{
    char text[256];
    const int code = sqlite3_errcode(db->h) & 0xff;
    if (code != SQLITE_ERROR && code != SQLITE_AUTH && code != SQLITE_RANGE &&
        code != SQLITE_MISMATCH && code != SQLITE_TOOBIG)
        return dt_db_fail(db, "reading");
    dt_one_line(sqlite3_errmsg(db->h), text, sizeof text);
    return kv_fail(KV_ERR_USAGE, "SQL: %s", text);
}

static int only_blank(const char *tail)
{
    for (; *tail; tail++)
        if (!isspace((unsigned char)*tail) && *tail != ';') return 0;
    return 1;
}

static kv_status prepare(const dt_db *db, const char *sql, sqlite3_stmt **out)
{
    const char *tail = "";
    *out = NULL;
    if (sqlite3_prepare_v2(db->h, sql, -1, out, &tail) != SQLITE_OK) return refuse(db);
    if (!*out) return kv_fail(KV_ERR_USAGE, "SQL: the statement is empty");
    if (!only_blank(tail)) {
        sqlite3_stmt *next = NULL; /* a comment behind the statement is no second one */
        const int rc = sqlite3_prepare_v2(db->h, tail, -1, &next, NULL);
        sqlite3_finalize(next);
        if (rc != SQLITE_OK || next)
            return kv_fail(KV_ERR_USAGE, "SQL: more than one statement; give one at a time");
    }
    if (!sqlite3_stmt_readonly(*out) || !sqlite3_column_count(*out))
        return kv_fail(KV_ERR_USAGE,
                       "SQL: results are only read here, and this statement is no query; to change "
                       "a database use sqlite3 '%s'",
                       db->file);
    return KV_OK;
}

/* ---- parameters ----------------------------------------------------------------------------- */

static int bind_text(sqlite3_stmt *stmt, int at, const char *value)
{
    char *end;
    errno = 0;
    const long long i = strtoll(value, &end, 10);
    if (end != value && !*end && !errno) return sqlite3_bind_int64(stmt, at, i);
    const double r = strtod(value, &end);
    const int decimal = !value[strspn(value, "+-.0123456789eE")];
    if (end != value && !*end && decimal) return sqlite3_bind_double(stmt, at, r);
    return sqlite3_bind_text(stmt, at, value, -1, SQLITE_TRANSIENT);
}

/* ":run", "@run" and "$run" are called run, "?1" is called 1. */
static const char *parameter_name(sqlite3_stmt *stmt, int at)
{
    const char *name = sqlite3_bind_parameter_name(stmt, at);
    return name ? name + 1 : "?";
}

static void list_parameters(sqlite3_stmt *stmt, char *dst, size_t size)
{
    size_t used = 0;
    dst[0] = '\0';
    for (int at = 1; at <= sqlite3_bind_parameter_count(stmt) && used < size; at++)
        used += (size_t)snprintf(dst + used, size - used, "%s%s", at > 1 ? ", " : "",
                                 parameter_name(stmt, at));
}

static kv_status bind_one(const dt_db *db, sqlite3_stmt *stmt, const dt_binding *b)
{
    char known[256];
    for (int at = 1; at <= sqlite3_bind_parameter_count(stmt); at++) {
        if (strcmp(parameter_name(stmt, at), b->name) != 0) continue;
        return bind_text(stmt, at, b->value) == SQLITE_OK ? KV_OK : refuse(db);
    }
    list_parameters(stmt, known, sizeof known);
    if (!known[0]) return kv_fail(KV_ERR_USAGE, "the query has no parameters, so no '%s'", b->name);
    return kv_fail(KV_ERR_USAGE, "the query has no parameter '%s', only: %s", b->name, known);
}

static int is_given(const char *name, const dt_binding *values, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(values[i].name, name) == 0) return 1;
    return 0;
}

static kv_status bind_all(const dt_db *db, sqlite3_stmt *stmt, const dt_binding *values, int n,
                          int defaults)
{
    for (int i = 0; i < n; i++)
        KV_TRY(bind_one(db, stmt, &values[i]));
    for (int at = 1; at <= sqlite3_bind_parameter_count(stmt) && !defaults; at++) {
        const char *name = parameter_name(stmt, at);
        if (strcmp(name, "?") == 0)
            return kv_fail(KV_ERR_USAGE, "SQL: give parameters names, as in :run, not a bare ?");
        if (!is_given(name, values, n))
            return kv_fail(KV_ERR_USAGE, "parameter '%s' has no value; add %s=VALUE", name, name);
    }
    return KV_OK;
}

/* ---- rows ----------------------------------------------------------------------------------- */

static kv_status put_blob(sqlite3_stmt *stmt, int column, dt_table *out)
{
    const uint8_t *b = (const uint8_t *)sqlite3_column_blob(stmt, column);
    const int n = sqlite3_column_bytes(stmt, column);
    char *hex = (char *)malloc(2 * (size_t)n + 1);
    if (!hex) return kv_fail(KV_ERR_NOMEM, "out of memory for a value of %d bytes", n);
    hex[0] = '\0';
    for (int i = 0; i < n; i++)
        sprintf(hex + 2 * i, "%02x", b[i]);
    dt_table_text(out, hex);
    free(hex);
    return KV_OK;
}

static kv_status put_cell(sqlite3_stmt *stmt, int column, dt_table *out)
{
    switch (sqlite3_column_type(stmt, column)) {
    case SQLITE_INTEGER:
        dt_table_int(out, sqlite3_column_int64(stmt, column));
        return KV_OK;
    case SQLITE_FLOAT:
        dt_table_real(out, sqlite3_column_double(stmt, column));
        return KV_OK;
    case SQLITE_BLOB:
        return put_blob(stmt, column, out);
    default: /* NULL gives NULL */
        dt_table_text(out, (const char *)sqlite3_column_text(stmt, column));
        return KV_OK;
    }
}

static kv_status put_rows(const dt_db *db, sqlite3_stmt *stmt, dt_table *out)
{
    const int n = sqlite3_column_count(stmt);
    for (int c = 0; c < n; c++)
        dt_table_column(out, sqlite3_column_name(stmt, c), DT_AUTO);
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        for (int c = 0; c < n; c++)
            KV_TRY(put_cell(stmt, c, out));
    return rc == SQLITE_DONE ? KV_OK : refuse(db);
}

kv_status dt_query_run(dt_db *db, const char *sql, const dt_binding *values, int n, int defaults,
                       dt_table *out)
{
    sqlite3_stmt *stmt = NULL;
    kv_status st = prepare(db, sql, &stmt);
    if (st == KV_OK) st = bind_all(db, stmt, values, n, defaults);
    if (st == KV_OK) st = put_rows(db, stmt, out);
    sqlite3_finalize(stmt);
    return st;
}
