/* db_private.h - what the files of the database share: the handle, bound values, failures. */
#ifndef KV_DIFFTEST_DB_PRIVATE_H
#define KV_DIFFTEST_DB_PRIVATE_H

#include "difftest/db.h"

#include <jansson.h>

struct dt_db {
    sqlite3 *h;
    char *file; /* as the user spelled it */
    int mode;   /* DT_DB_READ, DT_DB_WRITE */
};

enum {
    DT_APPLICATION_ID = 0x4B564446, /* "KVDF" */
    DT_BUSY_MS = 10000              /* how long a locked database is waited for */
};

/* dt_db_open without the check of a small file's pages: for the writer's own connection. */
kv_status dt_db_open_unchecked(const char *path, int mode, dt_db **out);

/* ---- statements (db_stmt.c) ----------------------------------------------------------------- */

typedef struct dt_value {
    int type; /* SQLITE_NULL, SQLITE_INTEGER, SQLITE_FLOAT, SQLITE_TEXT, SQLITE_BLOB */
    int n;    /* bytes of a blob */
    int64_t i;
    double r;
    const void *p; /* NULL binds as NULL; must live until the statement is done */
} dt_value;

#define DT_NULL       ((dt_value){.type = SQLITE_NULL})
#define DT_INT(x)     ((dt_value){.type = SQLITE_INTEGER, .i = (int64_t)(x)})
#define DT_REAL(x)    ((dt_value){.type = SQLITE_FLOAT, .r = (x)}) /* NaN is stored as NULL */
#define DT_TEXT(s)    ((dt_value){.type = SQLITE_TEXT, .p = (s)})
#define DT_BLOB(b, k) ((dt_value){.type = SQLITE_BLOB, .p = (b), .n = (k)})
#define DT_IF(c, v)   ((c) ? (v) : DT_NULL)
#define DT_COUNT(a)   ((int)(sizeof(a) / sizeof *(a)))

/* A copy without line breaks and other control characters: SQLite's messages quote statements. */
void dt_one_line(const char *text, char *dst, size_t size);

/* The failure of db's last call as one line: what, where, how to mend. `doing` is a gerund. */
kv_status dt_db_fail(const dt_db *db, const char *doing);

/* Runs statements without parameters and results. */
kv_status dt_sql_exec(const dt_db *db, const char *sql);

kv_status dt_sql_prepare(const dt_db *db, const char *sql, sqlite3_stmt **out);
kv_status dt_sql_bind(const dt_db *db, sqlite3_stmt *stmt, const dt_value *v, int n);

/* Runs one statement to its end. *first (may be NULL) receives the first column of the first row
 * and stays as it is when there is no row. */
kv_status dt_sql_run(const dt_db *db, const char *sql, const dt_value *v, int n, int64_t *first);

/* The id that `find` selects for key; when there is none, `insert` makes the row first. */
kv_status dt_sql_intern(const dt_db *db, const char *find, const dt_value *key, int n_key,
                        const char *insert, const dt_value *v, int n, int64_t *id);

/* Transactions. dt_sql_end commits when st is KV_OK and rolls back otherwise. */
kv_status dt_sql_begin(const dt_db *db);
kv_status dt_sql_end(const dt_db *db, kv_status st);

/* ---- canonical JSON (db_stmt.c) ------------------------------------------------------------- */

/* Steals json (NULL = out of memory): sorted keys, no blanks, reals with 17 digits. sha (may be
 * NULL) receives the fingerprint. The caller frees *text. */
kv_status dt_json_canonical(json_t *json, char **text, uint8_t sha[32]);

/* ---- schema (migrate.c) --------------------------------------------------------------------- */

typedef struct dt_migration {
    int number;
    const char *name, *sql;
} dt_migration;
const dt_migration *dt_migrations(size_t *n); /* ascending numbers */

/* KV_OK when a database of this schema version can be opened in this mode by a program that knows
 * versions up to `newest`. */
kv_status dt_schema_judge(const char *file, int64_t version, int newest, int mode);

/* Brings the schema to the last entry of the list, in one transaction. */
kv_status dt_schema_migrate(const dt_db *db, const dt_migration *list, size_t n);

/* "wal", or "delete" on file systems where write-ahead logs do not work (f_type of statfs). */
const char *dt_journal_for(unsigned long f_type);

/* Name of a kv_contract as the database spells it; NULL for a number that is none. */
const char *dt_contract_name(int32_t contract);

/* ---- cases (db_write.c) --------------------------------------------------------------------- */

typedef struct dt_rows_sql {
    sqlite3_stmt *one, *many;
    int columns; /* of a row, without case_id */
} dt_rows_sql;

typedef struct dt_case_sql {
    dt_db *db;
    dt_rows_sql tok, hash, event;
    sqlite3_stmt *kase, *retrieval, *coverage, *touch;
} dt_case_sql;

kv_status dt_case_sql_open(dt_db *db, dt_case_sql *out);
void dt_case_sql_close(dt_case_sql *s);
kv_status dt_case_sql_write(const dt_case_sql *s, const dt_case *c); /* one transaction */

/* The writer's own connection, for tests that make it fail. */
dt_db *dt_writer_db(dt_writer *w);

#endif
