/* db_stmt.c - statements, transactions and failures of the results database. */
#include "difftest/db_private.h"

#include "common/hash.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dt_one_line(const char *text, char *dst, size_t size)
{
    size_t n = 0;
    for (; *text && n + 1 < size; text++)
        dst[n++] = iscntrl((unsigned char)*text) ? ' ' : *text;
    dst[n] = '\0';
}

kv_status dt_db_fail(const dt_db *db, const char *doing)
{
    const int code = db->h ? sqlite3_extended_errcode(db->h) : SQLITE_NOMEM;
    const int os = db->h ? sqlite3_system_errno(db->h) : 0;
    char text[256];
    dt_one_line(db->h ? sqlite3_errmsg(db->h) : "", text, sizeof text);
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return kv_fail(
            KV_ERR_DB,
            "results database '%s' was locked by another process for %d s while %s; wait "
            "for it or choose another file with --db",
            db->file, DT_BUSY_MS / 1000, doing);
    case SQLITE_FULL:
        return kv_fail(KV_ERR_DB,
                       "no space left for results database '%s' while %s; free some and repeat the "
                       "command: it resumes",
                       db->file, doing);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return kv_fail(KV_ERR_DB,
                       "results database '%s' is damaged (%s, while %s); restore a copy, or save "
                       "what is readable: sqlite3 '%s' .recover | sqlite3 rescued.db",
                       db->file, text, doing, db->file);
    case SQLITE_NOMEM:
        return kv_fail(KV_ERR_NOMEM, "out of memory while %s in results database '%s'", doing,
                       db->file);
    case SQLITE_CONSTRAINT:
        return kv_fail(KV_ERR_INTERNAL, "results database '%s' refused a row while %s: %s",
                       db->file, doing, text);
    default:
        return kv_fail(KV_ERR_DB, "results database '%s', while %s: %s%s%s", db->file, doing, text,
                       os ? ": " : "", os ? strerror(os) : "");
    }
}

kv_status dt_sql_exec(const dt_db *db, const char *sql)
{
    if (sqlite3_exec(db->h, sql, NULL, NULL, NULL) != SQLITE_OK)
        return dt_db_fail(db, "setting it up");
    return KV_OK;
}

kv_status dt_sql_prepare(const dt_db *db, const char *sql, sqlite3_stmt **out)
{
    if (sqlite3_prepare_v3(db->h, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) != SQLITE_OK)
        return dt_db_fail(db, "preparing a statement");
    return KV_OK;
}

static int bind_value(sqlite3_stmt *stmt, int at, const dt_value *v)
{
    switch (v->type) {
    case SQLITE_INTEGER:
        return sqlite3_bind_int64(stmt, at, v->i);
    case SQLITE_FLOAT:
        return sqlite3_bind_double(stmt, at, v->r);
    case SQLITE_TEXT:
        return sqlite3_bind_text(stmt, at, (const char *)v->p, -1, SQLITE_STATIC);
    case SQLITE_BLOB:
        return sqlite3_bind_blob(stmt, at, v->p, v->n, SQLITE_STATIC);
    default:
        return sqlite3_bind_null(stmt, at);
    }
}

kv_status dt_sql_bind(const dt_db *db, sqlite3_stmt *stmt, const dt_value *v, int n)
{
    for (int i = 0; i < n; i++)
        if (bind_value(stmt, i + 1, &v[i]) != SQLITE_OK) return dt_db_fail(db, "binding a value");
    return KV_OK;
}

kv_status dt_sql_run(const dt_db *db, const char *sql, const dt_value *v, int n, int64_t *first)
{
    sqlite3_stmt *stmt = NULL;
    kv_status st;
    KV_TRY_GOTO(st, dt_sql_prepare(db, sql, &stmt), done);
    KV_TRY_GOTO(st, dt_sql_bind(db, stmt, v, n), done);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW && first) *first = sqlite3_column_int64(stmt, 0);
    while (rc == SQLITE_ROW)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_DONE) st = dt_db_fail(db, sqlite3_stmt_readonly(stmt) ? "reading" : "writing");
done:
    sqlite3_finalize(stmt);
    return st;
}

kv_status dt_sql_intern(const dt_db *db, const char *find, const dt_value *key, int n_key,
                        const char *insert, const dt_value *v, int n, int64_t *id)
{
    *id = 0;
    KV_TRY(dt_sql_run(db, find, key, n_key, id));
    if (*id) return KV_OK;
    KV_TRY(dt_sql_run(db, insert, v, n, NULL));
    KV_TRY(dt_sql_run(db, find, key, n_key, id));
    if (*id) return KV_OK;
    return kv_fail(KV_ERR_INTERNAL, "results database '%s' lost a row just written", db->file);
}

kv_status dt_sql_begin(const dt_db *db)
{
    if (sqlite3_exec(db->h, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return dt_db_fail(db, "starting to write");
    return KV_OK;
}

kv_status dt_sql_end(const dt_db *db, kv_status st)
{
    if (st == KV_OK && sqlite3_exec(db->h, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        st = dt_db_fail(db, "committing");
    /* Some failures have rolled back by themselves. */
    if (st != KV_OK && !sqlite3_get_autocommit(db->h))
        sqlite3_exec(db->h, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

kv_status dt_json_canonical(json_t *json, char **text, uint8_t sha[32])
{
    *text = json ? json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(json);
    if (!*text) return kv_fail(KV_ERR_NOMEM, "out of memory for a description in JSON");
    if (sha) kv_sha256(*text, strlen(*text), sha);
    return KV_OK;
}
