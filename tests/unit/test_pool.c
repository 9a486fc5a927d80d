/* The thread pool: every task runs once, on a legal worker, whatever the number of threads. Also
 * built with ThreadSanitizer. */
#include "tests/unit/kvtest.h"

#include "common/pool.h"

#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

enum { TASKS = 1000 };

typedef struct job {
    int threads;
    int times[TASKS];   /* plain on purpose: TSan sees a task that runs twice */
    double scratch[16]; /* one per worker, plain as well */
    _Atomic int bad_worker;
} job;

static void count_task(void *arg, int64_t task, int worker)
{
    job *j = arg;
    if (worker < 0 || worker >= j->threads) atomic_store(&j->bad_worker, 1);
    j->times[task]++;
    j->scratch[worker] += 1.0;
}

static void run_once_each(kv_pool *p, int threads, int64_t n)
{
    job j;
    memset(&j, 0, sizeof j);
    j.threads = threads;
    kv_pool_run(p, n, count_task, &j);
    double total = 0;
    for (int64_t i = 0; i < TASKS; i++)
        assert_int_equal(j.times[i], i < n);
    for (int i = 0; i < threads; i++)
        total += j.scratch[i];
    assert_true(total == (double)n);
    assert_int_equal(j.bad_worker, 0);
}

static void every_task_runs_exactly_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        kv_pool *p;
        assert_ok(kv_pool_create(threads, &p));
        assert_int_equal(kv_pool_threads(p), threads);
        const int64_t sizes[] = {0, 1, 2, 3, 7, TASKS};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            run_once_each(p, threads, sizes[i]);
        kv_pool_destroy(p);
    }
}

static void no_pool_runs_the_tasks_here_in_order(void **state)
{
    (void)state;
    assert_int_equal(kv_pool_threads(NULL), 1);
    run_once_each(NULL, 1, TASKS);
    kv_pool_destroy(NULL);
}

static void many_short_jobs_in_a_row_lose_nothing(void **state)
{
    (void)state;
    kv_pool *p;
    assert_ok(kv_pool_create(3, &p));
    for (int round = 0; round < 2000; round++) {
        job j;
        memset(&j, 0, sizeof j);
        j.threads = 3;
        kv_pool_run(p, 4, count_task, &j);
        assert_int_equal(j.times[0] + j.times[1] + j.times[2] + j.times[3], 4);
    }
    kv_pool_destroy(p);
}

/* Workers that have gone to sleep on the condition variable wake for the next job. */
static void sleeping_workers_wake_up(void **state)
{
    (void)state;
    kv_pool *p;
    assert_ok(kv_pool_create(4, &p));
    for (int i = 0; i < 3; i++) {
        usleep(20000);
        run_once_each(p, 4, TASKS);
    }
    usleep(20000);
    kv_pool_destroy(p); /* and for the end */
}

static void sum_squares(void *arg, int64_t task, int worker)
{
    (void)worker;
    double s = 0;
    for (int i = 0; i < 200; i++)
        s += 1.0 / (double)(task * 200 + i + 1);
    ((double *)arg)[task] = s;
}

static void results_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    double one[64], many[64];
    kv_pool_run(NULL, 64, sum_squares, one);
    for (int threads = 2; threads <= 4; threads++) {
        kv_pool *p;
        assert_ok(kv_pool_create(threads, &p));
        kv_pool_run(p, 64, sum_squares, many);
        assert_memory_equal(one, many, sizeof one);
        kv_pool_destroy(p);
    }
}

static void fewer_than_one_thread_is_refused(void **state)
{
    (void)state;
    kv_pool *p = (kv_pool *)1;
    assert_refused(kv_pool_create(0, &p), KV_ERR_USAGE, "at least 1");
    assert_null(p);
    assert_refused(kv_pool_create(-3, &p), KV_ERR_USAGE, "-3 threads");
}

static void the_processor_count_follows_the_affinity_mask(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(kv_cpu_count(), CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(kv_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_exactly_once),
        cmocka_unit_test(no_pool_runs_the_tasks_here_in_order),
        cmocka_unit_test(many_short_jobs_in_a_row_lose_nothing),
        cmocka_unit_test(sleeping_workers_wake_up),
        cmocka_unit_test(results_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(fewer_than_one_thread_is_refused),
        cmocka_unit_test(the_processor_count_follows_the_affinity_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
