/* dbkit.h - what the tests of the results database share: a folder of their own, a database in it,
 * a case whose every number is known. */
#ifndef KV_TESTS_DBKIT_H
#define KV_TESTS_DBKIT_H

#include "tests/unit/kvtest.h"

#include "difftest/db_private.h"

#include <dirent.h>
#include <unistd.h>

typedef struct dbkit {
    char dir[400], file[440]; /* file: dir/results.db, not made yet */
} dbkit;

KV_UNUSED_TEST_HELPER int dbkit_setup(void **state)
{
    dbkit *kit = (dbkit *)calloc(1, sizeof *kit);
    assert_non_null(kit);
    snprintf(kit->dir, sizeof kit->dir, "%s", kvtest_path("kvdiff-db-XXXXXX"));
    assert_non_null(mkdtemp(kit->dir));
    snprintf(kit->file, sizeof kit->file, "%s/results.db", kit->dir);
    *state = kit;
    return 0;
}

KV_UNUSED_TEST_HELPER int dbkit_teardown(void **state)
{
    dbkit *kit = (dbkit *)*state;
    char path[900];
    DIR *d = opendir(kit->dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", kit->dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove(path);
    }
    if (d) closedir(d);
    rmdir(kit->dir);
    free(kit);
    return 0;
}

#define dbkit_test(f) cmocka_unit_test_setup_teardown(f, dbkit_setup, dbkit_teardown)

KV_UNUSED_TEST_HELPER dt_db *dbkit_open(const dbkit *kit, int mode)
{
    dt_db *db = NULL;
    assert_ok(dt_db_open(kit->file, mode, &db));
    return db;
}

/* The one integer that a statement gives. */
KV_UNUSED_TEST_HELPER int64_t dbkit_int(const dt_db *db, const char *sql)
{
    int64_t v = INT64_MIN;
    assert_ok(dt_sql_run(db, sql, NULL, 0, &v));
    assert_true(v != INT64_MIN);
    return v;
}

/* Runs statements on a file as another program would. */
KV_UNUSED_TEST_HELPER void dbkit_raw(const char *file, const char *sql)
{
    sqlite3 *h = NULL;
    char *why = NULL;
    assert_int_equal(sqlite3_open(file, &h), SQLITE_OK);
    if (sqlite3_exec(h, sql, NULL, NULL, &why) != SQLITE_OK) fail_msg("%s: %s", sql, why);
    assert_int_equal(sqlite3_close(h), SQLITE_OK);
}

KV_UNUSED_TEST_HELPER int dbkit_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

KV_UNUSED_TEST_HELPER int64_t dbkit_run(dt_db *db, const char *kind, uint8_t plan, int *resumed)
{
    dt_run_start start = {.kind = kind, .argv = "kvdiff run --model nano", .seed = 7};
    memset(start.plan_fp, plan, sizeof start.plan_fp);
    int64_t run_id = 0;
    int again = 0;
    assert_ok(dt_db_run_begin(db, &start, &run_id, &again));
    if (resumed) *resumed = again;
    return run_id;
}

KV_UNUSED_TEST_HELPER int64_t dbkit_device(dt_db *db, const char *name)
{
    int64_t id = 0;
    assert_ok(dt_db_kernel_set(db, name, KV_CONTRACT_BITEXACT, NULL, &id));
    return id;
}

/* A case with n token rows, one digest row and two events per 16 of them; the strings are literals
 * or the caller's. Row i: pos i, tok 100 + i, nll 1 + i/8 and 1 + i/4, kl i/1024. */
KV_UNUSED_TEST_HELPER dt_case dbkit_case(int64_t run_id, int64_t device, const char *key, int64_t n)
{
    dt_case c = {
        .run_id = run_id,
        .kernel_set_id = device,
        .key = key,
        .device = "emu",
        .mode = "free",
        .q = 64,
        .contract = KV_CONTRACT_BITEXACT,
        .contract_version = 1,
        .status = DT_CASE_PASS,
        .repro = "kvdiff run --model nano",
        .n_tok = n,
        .first_bad_pos = -1,
        .first_diff_pos = -1,
        .n_words = -1,
        .n_text_bytes = -1,
        .n_rows = n,
        .n_hashes = n / 16,
        .n_events = n / 16 * 2,
        .n_events_got = n / 16,
    };
    c.rows = (dt_tok_row *)calloc((size_t)n + 1, sizeof *c.rows);
    c.hashes = (dt_hash_row *)calloc((size_t)n / 16 + 1, sizeof *c.hashes);
    c.events = (kv_event *)calloc((size_t)n / 16 * 2 + 1, sizeof *c.events);
    assert_true(c.rows && c.hashes && c.events);
    for (int64_t i = 0; i < n; i++) {
        const double x = (double)i;
        c.rows[i] = (dt_tok_row){.pos = i, .tok = (int32_t)(100 + i), .nll_ref = 1 + x / 8};
        c.rows[i].nll_got = 1 + x / 4;
        c.rows[i].kl = x / 1024;
        c.rows[i].n_resident = (int32_t)i + 1;
        c.sum_nll_ref += c.rows[i].nll_ref;
        c.sum_nll_got += c.rows[i].nll_got;
        c.sum_kl += c.rows[i].kl;
    }
    for (int64_t i = 0; i < c.n_hashes; i++)
        c.hashes[i] = (dt_hash_row){.pos = 16 * i + 15, .layer = -1, .h_ref = 1, .h_got = 1};
    for (int64_t i = 0; i < c.n_events; i++)
        c.events[i] = (kv_event){.og = i, .token = i, .head = -1};
    return c;
}

/* Writes a case as the writer does, without its thread, and frees its arrays. */
KV_UNUSED_TEST_HELPER kv_status dbkit_write(dt_db *db, dt_case *c)
{
    dt_case_sql sql;
    kv_status st = dt_case_sql_open(db, &sql);
    if (st == KV_OK) st = dt_case_sql_write(&sql, c);
    dt_case_sql_close(&sql);
    free(c->rows);
    free(c->hashes);
    free(c->events);
    c->rows = NULL;
    c->hashes = NULL;
    c->events = NULL;
    return st;
}

#endif
