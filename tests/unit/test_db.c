/* Opening, refusing and migrating results databases. */
#include "tests/unit/dbkit.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- refusing ------------------------------------------------------------------------------- */

/* Neither mode opens the file, the message is one line with these words, no byte changes and no
 * file appears beside it. */
static void refuse_untouched(const dbkit *kit, const char *words)
{
    size_t n0, n1;
    char log[480];
    uint8_t *before = kvtest_read(kit->file, &n0);
    for (int mode = DT_DB_READ; mode <= DT_DB_WRITE; mode++) {
        dt_db *db = (dt_db *)kit;
        assert_refused(dt_db_open(kit->file, mode, &db), KV_ERR_DB, words);
        assert_null(db);
    }
    uint8_t *after = kvtest_read(kit->file, &n1);
    assert_int_equal(n0, n1);
    assert_memory_equal(before, after, n0);
    free(before);
    free(after);
    static const char *const beside[] = {"-wal", "-journal"};
    for (int i = 0; i < 2; i++) {
        snprintf(log, sizeof log, "%s%s", kit->file, beside[i]);
        assert_false(dbkit_exists(log));
    }
}

static void a_file_that_is_no_database_is_left_alone(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    char text[4096];
    memset(text, 'x', sizeof text);
    kvtest_write(kit->file, text, sizeof text);
    refuse_untouched(kit, "no SQLite file");
    kvtest_write(kit->file, "SQLite format 3", 10);
    refuse_untouched(kit, "no SQLite file");
}

static void another_applications_database_is_left_alone(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dbkit_raw(kit->file, "PRAGMA application_id = 252006674; CREATE TABLE theirs(x)");
    refuse_untouched(kit, "another program's database");
}

static void a_database_without_application_id_is_left_alone(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dbkit_raw(kit->file, "CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1)");
    refuse_untouched(kit, "another program's database");
}

static void a_foreign_id_without_tables_is_left_alone(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dbkit_raw(kit->file, "PRAGMA application_id = 1; PRAGMA user_version = 1");
    refuse_untouched(kit, "another program's database");
}

static void a_newer_schema_is_left_alone(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    char sql[64];
    dt_db_close(dbkit_open(kit, DT_DB_WRITE));
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", dt_db_schema_version() + 1);
    dbkit_raw(kit->file, sql);
    refuse_untouched(kit, "newer than this program");
}

static void our_id_with_an_impossible_schema_is_damage(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db_close(dbkit_open(kit, DT_DB_WRITE));
    dbkit_raw(kit->file, "PRAGMA user_version = 0");
    refuse_untouched(kit, "does not exist");
}

static void what_is_no_file_is_refused(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db;
    char missing[480];
    for (int mode = DT_DB_READ; mode <= DT_DB_WRITE; mode++) {
        assert_refused(dt_db_open(kit->dir, mode, &db), KV_ERR_DB, "is a folder");
        assert_refused(dt_db_open("/dev/null", mode, &db), KV_ERR_DB, "not a regular file");
        assert_refused(dt_db_open("", mode, &db), KV_ERR_DB, "no name");
        assert_refused(dt_db_open(NULL, mode, &db), KV_ERR_DB, "no name");
    }
    snprintf(missing, sizeof missing, "%s/none/results.db", kit->dir);
    assert_refused(dt_db_open(missing, DT_DB_WRITE, &db), KV_ERR_DB, "No such file");
    assert_refused(dt_db_open(missing, DT_DB_READ, &db), KV_ERR_DB, "does not exist");
    assert_refused(dt_db_open("/proc/kvdiff.db", DT_DB_WRITE, &db), KV_ERR_DB, "/proc");
    assert_refused(dt_db_open(kit->file, DT_DB_READ, &db), KV_ERR_DB, "does not exist");
    assert_false(dbkit_exists(kit->file));
}

/* Permissions bind everybody but root: a child gives root's capabilities away first. Returns what
 * `body` gives. */
static int as_ordinary_user(const dbkit *kit, int (*body)(const dbkit *))
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        const struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
        _exit(syscall(SYS_capset, &header, none) == 0 ? body(kit) : 99);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int write_is_refused(const dbkit *kit)
{
    dt_db *db;
    const kv_status st = dt_db_open(kit->file, DT_DB_WRITE, &db);
    return st == KV_ERR_DB && strstr(kv_message(), "Permission denied") &&
                   !strchr(kv_message(), '\n')
               ? 0
               : 1;
}

static int read_works(const dbkit *kit)
{
    dt_db *db;
    int64_t n = 0;
    if (dt_db_open(kit->file, DT_DB_READ, &db) != KV_OK) return 1;
    if (dt_sql_run(db, "SELECT count(*) FROM case_status", NULL, 0, &n) != KV_OK) return 2;
    dt_db_close(db);
    return n == DT_CASE_STATUS_COUNT ? 0 : 3;
}

static void an_unwritable_folder_is_refused_for_writing(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    assert_int_equal(chmod(kit->dir, 0555), 0);
    const int rc = as_ordinary_user(kit, write_is_refused);
    assert_int_equal(chmod(kit->dir, 0755), 0);
    assert_false(dbkit_exists(kit->file));
    assert_int_equal(rc, 0);
}

static void a_read_only_database_can_be_read_and_not_written(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db_close(dbkit_open(kit, DT_DB_WRITE));
    assert_int_equal(chmod(kit->file, 0444), 0);
    assert_int_equal(chmod(kit->dir, 0555), 0);
    const int w = as_ordinary_user(kit, write_is_refused), r = as_ordinary_user(kit, read_works);
    assert_int_equal(chmod(kit->dir, 0755), 0);
    assert_int_equal(w, 0);
    assert_int_equal(r, 0);
    assert_int_equal(as_ordinary_user(kit, write_is_refused), 0); /* the folder may, the file not */
}

/* ---- damage --------------------------------------------------------------------------------- */

static void make_filled(const dbkit *kit)
{
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run = dbkit_run(db, "run", 1, NULL);
    dt_case c = dbkit_case(run, dbkit_device(db, "emu"), "a case", 4096);
    assert_ok(dbkit_write(db, &c));
    assert_ok(dt_db_run_end(db, run, "pass", 0));
    dt_db_close(db);
}

/* Overwrites the page that holds the middle of the token rows. */
static void spoil_a_page(const dbkit *kit)
{
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    const int64_t size = dbkit_int(db, "PRAGMA page_size"),
                  pages = dbkit_int(db, "PRAGMA page_count");
    assert_int_equal(size, 8192);
    dt_db_close(db);
    uint8_t junk[8192];
    memset(junk, 0xA5, sizeof junk);
    const int fd = open(kit->file, O_WRONLY);
    assert_int_equal(pwrite(fd, junk, sizeof junk, (pages - 8) * size), (ssize_t)sizeof junk);
    close(fd);
}

static void a_damaged_page_stops_writers_at_once_and_readers_when_met(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db;
    size_t n0, n1;
    make_filled(kit);
    spoil_a_page(kit);
    uint8_t *before = kvtest_read(kit->file, &n0);
    assert_refused(dt_db_open(kit->file, DT_DB_WRITE, &db), KV_ERR_DB, "damaged");
    db = dbkit_open(kit, DT_DB_READ);
    int64_t n;
    assert_refused(dt_sql_run(db, "SELECT sum(length(nll_ref)) FROM tok", NULL, 0, &n), KV_ERR_DB,
                   "damaged");
    dt_db_close(db);
    uint8_t *after = kvtest_read(kit->file, &n1);
    assert_int_equal(n0, n1);
    assert_memory_equal(before, after, n0);
    free(before);
    free(after);
}

static void a_truncated_database_is_refused(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    make_filled(kit);
    struct stat s;
    assert_int_equal(stat(kit->file, &s), 0);
    assert_int_equal(truncate(kit->file, s.st_size / 2), 0);
    dt_db *db;
    assert_refused(dt_db_open(kit->file, DT_DB_WRITE, &db), KV_ERR_DB, "damaged");
}

/* ---- opening -------------------------------------------------------------------------------- */

static void a_new_database_has_its_identity_and_settings(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_int(db, "PRAGMA application_id"), 0x4B564446);
    assert_int_equal(dbkit_int(db, "PRAGMA user_version"), dt_db_schema_version());
    assert_int_equal(dbkit_int(db, "PRAGMA page_size"), 8192);
    assert_int_equal(dbkit_int(db, "PRAGMA auto_vacuum"), 2);
    assert_int_equal(dbkit_int(db, "PRAGMA foreign_keys"), 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_string_equal(dt_db_file(db), kit->file);
    assert_non_null(dt_db_handle(db));
    dt_db_close(db);
    dt_db_close(NULL);
}

static void an_empty_file_is_filled_by_writing_and_refused_by_reading(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db;
    kvtest_write(kit->file, "", 0);
    assert_refused(dt_db_open(kit->file, DT_DB_READ, &db), KV_ERR_DB, "is empty");
    db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM run"), 0);
    dt_db_close(db);
}

static void a_database_without_tables_is_filled_by_writing(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db;
    dbkit_raw(kit->file, "CREATE TABLE x(y); DROP TABLE x");
    assert_refused(dt_db_open(kit->file, DT_DB_READ, &db), KV_ERR_DB, "no tables");
    db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM run"), 0);
    dt_db_close(db);
}

static void reading_writes_nothing(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    size_t n0, n1;
    make_filled(kit);
    uint8_t *before = kvtest_read(kit->file, &n0);
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok"), 4096);
    assert_true(dt_sql_run(db, "DELETE FROM tok", NULL, 0, NULL) != KV_OK);
    dt_db_close(db);
    uint8_t *after = kvtest_read(kit->file, &n1);
    assert_int_equal(n0, n1);
    assert_memory_equal(before, after, n0);
    free(before);
    free(after);
}

static void names_mean_files_and_nothing_else(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    static const char *const names[] = {":memory:", "file:x.db?mode=memory", "a b%23c#d?.db"};
    char old[512];
    assert_non_null(getcwd(old, sizeof old));
    assert_int_equal(chdir(kit->dir), 0);
    for (int i = 0; i < 3; i++) {
        dt_db *db = NULL;
        assert_ok(dt_db_open(names[i], DT_DB_WRITE, &db));
        dt_db_close(db);
        assert_true(dbkit_exists(names[i]));
        assert_ok(dt_db_open(names[i], DT_DB_READ, &db));
        dt_db_close(db);
    }
    assert_int_equal(chdir(old), 0);
}

static void many_processes_may_create_it_at_once(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    pid_t pid[6];
    for (int i = 0; i < 6; i++) {
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i] == 0) {
            dt_db *db;
            const kv_status st = dt_db_open(kit->file, DT_DB_WRITE, &db);
            if (st != KV_OK) fprintf(stderr, "%s\n", kv_message());
            _exit(st == KV_OK ? 0 : 1);
        }
    }
    for (int i = 0; i < 6; i++) {
        int status;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM case_status"), DT_CASE_STATUS_COUNT);
    dt_db_close(db);
}

static void a_lock_that_stays_is_reported(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *one = dbkit_open(kit, DT_DB_WRITE), *two = dbkit_open(kit, DT_DB_WRITE);
    sqlite3_busy_timeout(dt_db_handle(two), 20);
    assert_ok(dt_sql_begin(one));
    assert_refused(dt_sql_begin(two), KV_ERR_DB, "was locked by another process");
    assert_ok(dt_sql_end(one, KV_OK));
    assert_ok(dt_sql_begin(two));
    assert_ok(dt_sql_end(two, KV_OK));
    dt_db_close(one);
    dt_db_close(two);
}

static void network_file_systems_get_a_rollback_journal(void **state)
{
    (void)state;
    static const unsigned long network[] = {0x6969, 0xFF534D42, 0x01021997, 0x65735546, 0x0BD00BD0};
    for (int i = 0; i < 5; i++)
        assert_string_equal(dt_journal_for(network[i]), "delete");
    assert_string_equal(dt_journal_for(0xEF53), "wal");     /* ext4 */
    assert_string_equal(dt_journal_for(0x01021994), "wal"); /* tmpfs */
    /* f_type is signed on some machines: the upper half must not matter. */
    assert_string_equal(dt_journal_for(0xFFFFFFFFFF534D42ul), "delete");
}

/* ---- migrations ----------------------------------------------------------------------------- */

static void an_older_schema_is_brought_up_to_date_and_keeps_its_rows(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    size_t n;
    const dt_migration *ours = dt_migrations(&n);
    make_filled(kit);
    dt_migration list[8];
    assert_true(n < 8);
    memcpy(list, ours, n * sizeof *list);
    list[n] = (dt_migration){(int)n + 1, "more", "ALTER TABLE run ADD COLUMN more TEXT;"};
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    assert_ok(dt_schema_migrate(db, list, n + 1));
    assert_int_equal(dbkit_int(db, "PRAGMA user_version"), n + 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM run WHERE more IS NULL"), 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok"), 4096);
    assert_ok(dt_schema_migrate(db, list, n + 1)); /* nothing left to do */
    assert_int_equal(dbkit_int(db, "PRAGMA foreign_keys"), 1);
    dt_db_close(db);
}

/* A database of the first schema keeps its cases; what they could not know is NULL. */
static void cases_of_the_first_schema_survive(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    size_t n;
    const dt_migration *ours = dt_migrations(&n);
    char sql[200];
    dbkit_raw(kit->file, ours[0].sql);
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = 1", DT_APPLICATION_ID);
    dbkit_raw(kit->file, sql);
    dbkit_raw(kit->file,
              "PRAGMA foreign_keys = OFF; INSERT INTO env(fp, json) VALUES(x'01', '{}');"
              "INSERT INTO build(fp, git_commit, git_dirty) VALUES(x'01', 'unknown', 0);"
              "INSERT INTO run(uuid, kind, started_at, updated_at, argv, seed, plan_fp, host, boot_id, pid_ns, pid,"
              " pid_start, env_id, build_id) VALUES('u', 'run', 1, 1, 'a', 0, x'01', 'h', 'b', 1, 1, 1, 1, 1);"
              "INSERT INTO kase(run_id, key, device, mode, q, contract, contract_version, status, repro)"
              " VALUES(1, 'k', 'emu', 'free', 16, 'bitexact', 1, 'PASS', 'kvdiff')");
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_int(db, "PRAGMA user_version"), dt_db_schema_version());
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM v_case WHERE key = 'k' AND n_ties IS NULL AND bytes_ref IS NULL"
                                   " AND peak_bytes_got IS NULL"), 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM coverage"), 0);
    dt_db_close(db);
}

static void a_migration_that_fails_changes_nothing(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    const int now = dt_db_schema_version();
    make_filled(kit);
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const dt_migration bad_sql[] = {
        {now + 1, "half", "ALTER TABLE run ADD COLUMN more TEXT; INSERT INTO nowhere VALUES(1);"}};
    assert_refused(dt_schema_migrate(db, bad_sql, 1), KV_ERR_DB, "half");
    const dt_migration orphans[] = {{now + 1, "orphans", "DELETE FROM run;"}};
    assert_refused(dt_schema_migrate(db, orphans, 1), KV_ERR_DB, "refer to missing");
    assert_int_equal(dbkit_int(db, "PRAGMA user_version"), now);
    assert_int_equal(
        dbkit_int(db, "SELECT count(*) FROM pragma_table_info('run') WHERE name='more'"), 0);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM run"), 1);
    assert_int_equal(dbkit_int(db, "PRAGMA foreign_keys"), 1);
    dt_db_close(db);
}

static void versions_are_judged_by_mode(void **state)
{
    (void)state;
    assert_ok(dt_schema_judge("f", 3, 3, DT_DB_READ));
    assert_ok(dt_schema_judge("f", 3, 3, DT_DB_WRITE));
    assert_ok(dt_schema_judge("f", 2, 3, DT_DB_WRITE));
    assert_refused(dt_schema_judge("f", 2, 3, DT_DB_READ), KV_ERR_DB, "older schema 2");
    assert_refused(dt_schema_judge("f", 4, 3, DT_DB_WRITE), KV_ERR_DB, "newer");
    assert_refused(dt_schema_judge("f", 0, 3, DT_DB_WRITE), KV_ERR_DB, "damaged");
    assert_refused(dt_schema_judge("f", -1, 3, DT_DB_READ), KV_ERR_DB, "damaged");
}

/* ---- names shared by C and SQL -------------------------------------------------------------- */

static void names_in_c_are_the_rows_of_the_lookup_tables(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM case_status"), DT_CASE_STATUS_COUNT);
    for (int i = 0; i < DT_CASE_STATUS_COUNT; i++) {
        const dt_value v = DT_TEXT(dt_case_status_name((dt_case_status)i));
        int64_t n = 0;
        assert_ok(dt_sql_run(db, "SELECT count(*) FROM case_status WHERE name = ?", &v, 1, &n));
        assert_int_equal(n, 1);
    }
    assert_null(dt_case_status_name(DT_CASE_STATUS_COUNT));
    assert_null(dt_case_status_name((dt_case_status)-1));
    static const int32_t contracts[] = {KV_CONTRACT_BITEXACT, KV_CONTRACT_BOUNDED,
                                        KV_CONTRACT_STATISTICAL};
    for (int i = 0; i < 3; i++) {
        const dt_value v = DT_TEXT(dt_contract_name(contracts[i]));
        int64_t n = 0;
        assert_ok(dt_sql_run(db, "SELECT count(*) FROM contract WHERE name = ?", &v, 1, &n));
        assert_int_equal(n, 1);
    }
    assert_null(dt_contract_name(3));
    assert_null(dt_contract_name(-1));
    char sql[256];
    snprintf(sql, sizeof sql,
             "SELECT group_concat(kind || name, ' ') = '%dadmit %devict %dmove %dseal'"
             " FROM (SELECT * FROM event_kind ORDER BY kind)",
             KV_EVENT_ADMIT, KV_EVENT_EVICT, KV_EVENT_MOVE, KV_EVENT_SEAL);
    assert_int_equal(dbkit_int(db, sql), 1);
    snprintf(sql, sizeof sql,
             "SELECT group_concat(bit || name, ' ') ="
             " '%utop1 %utop5 %unonfinite %ustate %ubound %uevict %utie'"
             " FROM (SELECT * FROM tok_flag ORDER BY bit)",
             DT_TOK_TOP1, DT_TOK_TOP5, DT_TOK_NONFINITE, DT_TOK_STATE, DT_TOK_BOUND, DT_TOK_EVICT,
             DT_TOK_TIE);
    assert_int_equal(dbkit_int(db, sql), 1);
    dt_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        dbkit_test(a_file_that_is_no_database_is_left_alone),
        dbkit_test(another_applications_database_is_left_alone),
        dbkit_test(a_database_without_application_id_is_left_alone),
        dbkit_test(a_foreign_id_without_tables_is_left_alone),
        dbkit_test(a_newer_schema_is_left_alone),
        dbkit_test(our_id_with_an_impossible_schema_is_damage),
        dbkit_test(what_is_no_file_is_refused),
        dbkit_test(an_unwritable_folder_is_refused_for_writing),
        dbkit_test(a_read_only_database_can_be_read_and_not_written),
        dbkit_test(a_damaged_page_stops_writers_at_once_and_readers_when_met),
        dbkit_test(a_truncated_database_is_refused),
        dbkit_test(a_new_database_has_its_identity_and_settings),
        dbkit_test(an_empty_file_is_filled_by_writing_and_refused_by_reading),
        dbkit_test(a_database_without_tables_is_filled_by_writing),
        dbkit_test(reading_writes_nothing),
        dbkit_test(names_mean_files_and_nothing_else),
        dbkit_test(many_processes_may_create_it_at_once),
        dbkit_test(a_lock_that_stays_is_reported),
        dbkit_test(network_file_systems_get_a_rollback_journal),
        dbkit_test(an_older_schema_is_brought_up_to_date_and_keeps_its_rows),
        dbkit_test(cases_of_the_first_schema_survive),
        dbkit_test(a_migration_that_fails_changes_nothing),
        dbkit_test(versions_are_judged_by_mode),
        dbkit_test(names_in_c_are_the_rows_of_the_lookup_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
