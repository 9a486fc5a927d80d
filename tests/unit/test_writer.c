/* The writer thread: whole cases or none, in order, whatever happens to the process or the disk. */
#include "tests/unit/dbkit.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

typedef struct session {
    dt_db *db;
    int64_t run, device;
    dt_writer *w;
} session;

static session begin(const dbkit *kit)
{
    session s = {.db = dbkit_open(kit, DT_DB_WRITE)};
    s.run = dbkit_run(s.db, "run", 1, NULL);
    s.device = dbkit_device(s.db, "emu");
    assert_ok(dt_writer_start(kit->file, &s.w));
    return s;
}

static void pause_ms(int ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static kv_status push(const session *s, const char *key, int64_t n)
{
    dt_case c = dbkit_case(s->run, s->device, key, n);
    const kv_status st = dt_writer_push(s->w, &c);
    assert_true(!c.rows && !c.hashes && !c.events);
    return st;
}

static void cases_arrive_whole_and_in_order(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    char key[16];
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "case %02d", i);
        assert_ok(push(&s, key, 16 * i));
        memset(key, '?', sizeof key - 1); /* the writer has a copy */
    }
    assert_ok(dt_writer_flush(s.w));
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM kase k WHERE"
                                     " key = printf('case %02d', case_id - 1) AND"
                                     " n_tok = 16 * (case_id - 1) AND n_tok ="
                                     " (SELECT count(*) FROM tok t WHERE t.case_id = k.case_id)"),
                     20);
    int64_t rows;
    double seconds;
    dt_writer_stats(s.w, &rows, &seconds);
    assert_int_equal(rows, 16 * 190);
    assert_true(seconds > 0 && seconds < 600);
    assert_ok(dt_writer_stop(s.w));
    assert_ok(dt_writer_stop(NULL));
    dt_db_close(s.db);
}

/* The rate depends on the machine and is only shown. */
static void bulk_rows_arrive_at_the_rate_shown(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    char key[16];
    for (int i = 0; i < 32; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_ok(push(&s, key, 4096));
    }
    assert_ok(dt_writer_flush(s.w));
    int64_t rows;
    double seconds;
    dt_writer_stats(s.w, &rows, &seconds);
    assert_int_equal(rows, 32 * 4096);
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM tok"), rows);
    printf("# %.0f token rows/s\n", (double)rows / seconds);
    assert_ok(dt_writer_stop(s.w));
    dt_db_close(s.db);
}

static void stopping_writes_what_waits(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    assert_ok(push(&s, "a", 2048));
    assert_ok(push(&s, "b", 2048));
    assert_ok(dt_writer_stop(s.w));
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM tok"), 4096);
    dt_db_close(s.db);
}

static void a_retrieval_and_its_texts_are_copied(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    char answer[] = "12045";
    dt_retrieval r = {.ctx_len = 512, .depth_ppm = 500000, .insert_pos = 250, .digits = 5};
    r.expected = "12345", r.ans_ref = "12345", r.ans_got = answer;
    r.ok_ref = 1, r.digits_ref = 5, r.digits_got = 4, r.nll_ref = 0.5, r.nll_got = 0.75;
    r.needle_resident_ref = 7, r.needle_resident_got = 6;
    dt_case c = dbkit_case(s.run, s.device, "passkey", 16);
    c.retrieval = &r;
    c.reason = answer;
    assert_ok(dt_writer_push(s.w, &c));
    memset(answer, 'x', 5);
    memset(&r, 0, sizeof r);
    assert_ok(dt_writer_stop(s.w));
    assert_int_equal(
        dbkit_int(s.db,
                  "SELECT (ctx_len, depth_ppm, insert_pos, digits, expected, ans_ref, ans_got,"
                  " ok_ref, ok_got, digits_ref, digits_got, nll_ref, nll_got,"
                  " needle_resident_ref, needle_resident_got) = (512, 500000, 250, 5, '12345',"
                  " '12345', '12045', 1, 0, 5, 4, 0.5, 0.75, 7, 6) AND k.reason = '12045'"
                  " FROM retrieval JOIN kase k USING(case_id)"),
        1);
    dt_db_close(s.db);
}

static void a_case_that_makes_no_sense_is_refused_before_it_is_queued(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    dt_case c = dbkit_case(s.run, s.device, NULL, 16);
    assert_refused(dt_writer_push(s.w, &c), KV_ERR_INTERNAL, "without key");
    assert_null(c.rows);
    c = dbkit_case(s.run, s.device, "k", 16);
    c.status = DT_CASE_STATUS_COUNT;
    assert_refused(dt_writer_push(s.w, &c), KV_ERR_INTERNAL, "does not exist");
    c = dbkit_case(s.run, s.device, "k", 16);
    c.contract = -1;
    assert_refused(dt_writer_push(s.w, &c), KV_ERR_INTERNAL, "does not exist");
    c = dbkit_case(s.run, s.device, "k", 16);
    c.n_events_got = c.n_events + 1;
    assert_refused(dt_writer_push(s.w, &c), KV_ERR_INTERNAL, "events are the device's");
    assert_ok(push(&s, "k", 16)); /* none of them was a failure of the writer */
    assert_ok(dt_writer_stop(s.w));
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM kase"), 1);
    dt_db_close(s.db);
}

static void the_first_failure_stays_and_nothing_more_is_written(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    assert_ok(push(&s, "twice", 16));
    assert_ok(push(&s, "twice", 16));
    assert_refused(dt_writer_flush(s.w), KV_ERR_INTERNAL, "case 'twice'");
    for (int i = 0; i < 10; i++) { /* more than the ring holds: no push waits for ever */
        kv_message_clear();
        assert_refused(push(&s, "later", 16), KV_ERR_INTERNAL, "case 'twice'");
    }
    assert_refused(dt_writer_flush(s.w), KV_ERR_INTERNAL, "case 'twice'");
    assert_refused(dt_writer_stop(s.w), KV_ERR_INTERNAL, "case 'twice'");
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM kase"), 1);
    dt_db_close(s.db);
}

static void a_full_disk_is_reported_and_leaves_whole_cases(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    assert_ok(push(&s, "fits", 64));
    assert_ok(dt_writer_flush(s.w));
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA max_page_count = %d",
             (int)dbkit_int(s.db, "PRAGMA page_count") + 2);
    assert_ok(dt_sql_exec(dt_writer_db(s.w), sql));
    assert_ok(push(&s, "too large", 4096));
    assert_refused(dt_writer_flush(s.w), KV_ERR_DB, "no space left");
    assert_refused(dt_writer_stop(s.w), KV_ERR_DB, "it resumes");
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM kase"), 1);
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM tok"), 64);
    dt_db_close(s.db);
}

static void a_writer_needs_a_writable_database(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_writer *w;
    assert_refused(dt_writer_start(kit->dir, &w), KV_ERR_DB, "is a folder");
    assert_null(w);
}

/* ---- threads -------------------------------------------------------------------------------- */

typedef struct pusher {
    const session *s;
    int number, n;
    _Atomic int pushed;
    pthread_t thread;
} pusher;

static void *push_many(void *arg)
{
    pusher *p = (pusher *)arg;
    char key[24];
    for (int i = 0; i < p->n; i++) {
        snprintf(key, sizeof key, "%d.%d", p->number, i);
        dt_case c = dbkit_case(p->s->run, p->s->device, key, 64);
        if (dt_writer_push(p->s->w, &c) != KV_OK) break;
        atomic_fetch_add(&p->pushed, 1);
    }
    return NULL;
}

static void many_threads_may_push(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    pusher p[4];
    for (int i = 0; i < 4; i++) {
        p[i] = (pusher){.s = &s, .number = i, .n = 12};
        assert_int_equal(pthread_create(&p[i].thread, NULL, push_many, &p[i]), 0);
    }
    for (int i = 0; i < 30; i++) { /* a look from outside while they work */
        int64_t rows;
        double seconds;
        dt_writer_stats(s.w, &rows, &seconds);
        assert_int_equal(rows % 64, 0);
        sched_yield();
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(p[i].thread, NULL), 0);
    assert_ok(dt_writer_stop(s.w));
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM kase"), 48);
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM tok"), 48 * 64);
    dt_db_close(s.db);
}

/* While the database is locked at most the ring's places fill; the next push waits. */
static void a_slow_disk_holds_the_pushers_back(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    session s = begin(kit);
    assert_ok(dt_sql_begin(s.db));
    pusher p = {.s = &s, .n = 12};
    assert_int_equal(pthread_create(&p.thread, NULL, push_many, &p), 0);
    while (atomic_load(&p.pushed) < 4)
        sched_yield();
    pause_ms(100);
    assert_int_equal(atomic_load(&p.pushed), 4);
    assert_ok(dt_sql_end(s.db, KV_OK));
    assert_int_equal(pthread_join(p.thread, NULL), 0);
    assert_int_equal(atomic_load(&p.pushed), 12);
    assert_ok(dt_writer_stop(s.w));
    assert_int_equal(dbkit_int(s.db, "SELECT count(*) FROM kase"), 12);
    dt_db_close(s.db);
}

/* ---- kill -9 -------------------------------------------------------------------------------- */

/* The child: resumes the run and writes cases of many sizes until it is killed. */
static void write_for_ever(const dbkit *kit)
{
    dt_db *db = NULL;
    dt_writer *w = NULL;
    dt_run_start start = {.kind = "run", .argv = "x"};
    int64_t run, device;
    int resumed, done;
    char key[16];
    memset(start.plan_fp, 1, sizeof start.plan_fp);
    if (dt_db_open(kit->file, DT_DB_WRITE, &db) != KV_OK ||
        dt_db_run_begin(db, &start, &run, &resumed) != KV_OK ||
        dt_db_kernel_set(db, "emu", KV_CONTRACT_BITEXACT, NULL, &device) != KV_OK ||
        dt_writer_start(kit->file, &w) != KV_OK)
        _exit(3);
    for (int i = 0;; i++) {
        snprintf(key, sizeof key, "%d", i);
        if (dt_db_case_done(db, run, key, &done) != KV_OK) _exit(4);
        if (done) continue;
        dt_case c = dbkit_case(run, device, key, 16 * (1 + i % 64));
        if (dt_writer_push(w, &c) != KV_OK) _exit(5);
    }
}

static int64_t count_cases(const dbkit *kit)
{
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    const int64_t n = dbkit_int(db, "SELECT count(*) FROM kase");
    dt_db_close(db);
    return n;
}

static void check_whole(const dbkit *kit)
{
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_int(db, "SELECT integrity_check = 'ok' FROM pragma_integrity_check"), 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_int_equal(
        dbkit_int(db,
                  "SELECT count(*) FROM kase k WHERE n_tok <> 16 * (1 + key % 64)"
                  " OR n_tok <> (SELECT count(*) FROM tok t WHERE t.case_id = k.case_id)"
                  " OR n_tok / 16 <> (SELECT count(*) FROM tok_hash t WHERE t.case_id = k.case_id)"
                  " OR n_tok / 8 <> (SELECT count(*) FROM event t WHERE t.case_id = k.case_id)"),
        0);
    assert_int_equal(dbkit_int(db, "SELECT count(DISTINCT run_id) FROM kase"), 1);
    assert_int_equal(dbkit_int(db, "SELECT max(CAST(key AS INTEGER)) = count(*) - 1 FROM kase"), 1);
    dt_db_close(db);
}

static void a_killed_writer_leaves_whole_cases_and_its_run_goes_on(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db_close(dbkit_open(kit, DT_DB_WRITE));
    int64_t cases = 0;
    for (int round = 0; round < 8; round++) {
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) write_for_ever(kit);
        for (int waited = 0; count_cases(kit) < cases + 3 && waited < 30000; waited += 5)
            pause_ms(5);
        pause_ms(3 * round); /* another moment every time */
        assert_int_equal(kill(pid, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        check_whole(kit);
        const int64_t now = count_cases(kit);
        assert_true(now >= cases + 3);
        cases = now;
    }
    int resumed;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    assert_int_equal(dbkit_run(db, "run", 1, &resumed), 1);
    assert_true(resumed);
    assert_int_equal(dbkit_int(db, "SELECT n_resumes FROM run"), 8);
    dt_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        dbkit_test(cases_arrive_whole_and_in_order),
        dbkit_test(bulk_rows_arrive_at_the_rate_shown),
        dbkit_test(stopping_writes_what_waits),
        dbkit_test(a_retrieval_and_its_texts_are_copied),
        dbkit_test(a_case_that_makes_no_sense_is_refused_before_it_is_queued),
        dbkit_test(the_first_failure_stays_and_nothing_more_is_written),
        dbkit_test(a_full_disk_is_reported_and_leaves_whole_cases),
        dbkit_test(a_writer_needs_a_writable_database),
        dbkit_test(many_threads_may_push),
        dbkit_test(a_slow_disk_holds_the_pushers_back),
        dbkit_test(a_killed_writer_leaves_whole_cases_and_its_run_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
