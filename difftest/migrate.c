/* migrate.c - the schema inside the program, and how an older database is brought up to it.
 *
 * Migrations are the files difftest/migrations/NNNN_name.sql. They only go forward; a released one
 * is never changed. The number of the last one applied is the database's user_version. */
#include "difftest/db_private.h"

#include <stdio.h>

static const dt_migration migrations[] = {
#include "sql_migrations.h"
};

const dt_migration *dt_migrations(size_t *n)
{
    *n = sizeof migrations / sizeof *migrations;
    return migrations;
}

int dt_db_schema_version(void)
{
    return migrations[DT_COUNT(migrations) - 1].number;
}

kv_status dt_schema_judge(const char *file, int64_t version, int newest, int mode)
{
    if (version > newest)
        return kv_fail(KV_ERR_DB,
                       "results database '%s' has schema %lld, newer than this program's %d; use a "
                       "newer kvdiff or choose another file with --db",
                       file, (long long)version, newest);
    if (version < 1)
        return kv_fail(KV_ERR_DB,
                       "results database '%s' is damaged: schema version %lld does not exist; "
                       "restore a copy or choose another file with --db",
                       file, (long long)version);
    if (version < newest && mode == DT_DB_READ)
        return kv_fail(KV_ERR_DB,
                       "results database '%s' has the older schema %lld and is only read here; any "
                       "command that writes to it, such as `kvdiff run`, brings it to %d",
                       file, (long long)version, newest);
    return KV_OK;
}

static kv_status apply(const dt_db *db, const dt_migration *m)
{
    if (sqlite3_exec(db->h, m->sql, NULL, NULL, NULL) == SQLITE_OK) return KV_OK;
    const kv_status st = dt_db_fail(db, "bringing the schema up to date");
    kv_prefix_message("migration %04d_%s", m->number, m->name);
    return st;
}

static kv_status stamp(const dt_db *db, int version)
{
    char sql[96];
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
             DT_APPLICATION_ID, version);
    return dt_sql_exec(db, sql);
}

static kv_status check_references(const dt_db *db)
{
    int64_t broken = 0;
    KV_TRY(dt_sql_run(db, "SELECT count(*) FROM pragma_foreign_key_check", NULL, 0, &broken));
    if (!broken) return KV_OK;
    return kv_fail(KV_ERR_DB, "results database '%s' is damaged: %lld rows refer to missing ones",
                   db->file, (long long)broken);
}

static kv_status apply_missing(const dt_db *db, const dt_migration *list, size_t n)
{
    int64_t version = 0; /* asked again: another process may have been faster */
    KV_TRY(dt_sql_run(db, "PRAGMA user_version", NULL, 0, &version));
    for (size_t i = 0; i < n; i++)
        if (list[i].number > version) KV_TRY(apply(db, &list[i]));
    if (list[n - 1].number <= version) return KV_OK;
    KV_TRY(stamp(db, list[n - 1].number));
    return version ? check_references(db) : KV_OK;
}

/* Foreign keys are off, because a migration may have to rebuild a table; they are checked as a
 * whole before the commit. */
kv_status dt_schema_migrate(const dt_db *db, const dt_migration *list, size_t n)
{
    KV_TRY(dt_sql_exec(db, "PRAGMA foreign_keys = OFF"));
    kv_status st = dt_sql_begin(db);
    if (st == KV_OK) st = dt_sql_end(db, apply_missing(db, list, n));
    const kv_status on = dt_sql_exec(db, "PRAGMA foreign_keys = ON");
    return st != KV_OK ? st : on;
}
