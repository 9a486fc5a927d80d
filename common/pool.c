/* pool.c - workers sleep on a condition variable between jobs, after a short spin: a forward pass is a
 * chain of many small jobs, and a futex round trip costs more than most gaps between them. The spin is
 * short enough not to hurt a machine that is shared. */
#include "common/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPIN = 2000 }; /* iterations of a pause: about 20-60 microseconds */

typedef struct worker {
    kv_pool *pool;
    pthread_t thread;
    int index;
} worker;

struct kv_pool {
    int threads;
    worker *workers; /* threads - 1 */

    /* The current job. Written by the caller before `generation` is raised, read after it is seen. */
    kv_pool_fn *fn;
    void *arg;
    int64_t n;
    _Atomic int64_t next; /* first task that nobody has taken */

    _Atomic uint64_t generation; /* raised for every job */
    _Atomic int busy;            /* workers that have not finished the current job */
    _Atomic int stop;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
};

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void work(kv_pool *p, int index)
{
    for (;;) {
        const int64_t task = atomic_fetch_add(&p->next, 1);
        if (task >= p->n) return;
        p->fn(p->arg, task, index);
    }
}

/* Waits until the generation differs from seen; returns 0 when the pool stops. */
static int wait_for_job(kv_pool *p, uint64_t seen)
{
    for (int i = 0; i < SPIN; i++) {
        if (atomic_load(&p->generation) != seen || atomic_load(&p->stop)) break;
        cpu_pause();
    }
    if (atomic_load(&p->generation) == seen && !atomic_load(&p->stop)) {
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->generation) == seen && !atomic_load(&p->stop))
            pthread_cond_wait(&p->wake, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    return !atomic_load(&p->stop);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    kv_pool *p = w->pool;
    uint64_t seen = 0;
    while (wait_for_job(p, seen)) {
        seen++;
        work(p, w->index);
        if (atomic_fetch_sub(&p->busy, 1) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
    return NULL;
}

void kv_pool_run(kv_pool *p, int64_t n, kv_pool_fn *fn, void *arg)
{
    if (!p || p->threads == 1 || n <= 1) {
        for (int64_t i = 0; i < n; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n = n;
    atomic_store(&p->next, 0);
    atomic_store(&p->busy, p->threads - 1);
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->generation, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    work(p, 0);
    for (int i = 0; i < SPIN && atomic_load(&p->busy) != 0; i++)
        cpu_pause();
    if (atomic_load(&p->busy) != 0) {
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->busy) != 0)
            pthread_cond_wait(&p->done, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
}

kv_status kv_pool_create(int threads, kv_pool **out)
{
    *out = NULL;
    if (threads < 1) return kv_fail(KV_ERR_USAGE, "%d threads; at least 1 is needed", threads);
    kv_pool *p = calloc(1, sizeof *p);
    if (!p) return kv_fail(KV_ERR_NOMEM, "thread pool: out of memory");
    p->threads = 1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    if (!p->workers) {
        kv_pool_destroy(p);
        return kv_fail(KV_ERR_NOMEM, "thread pool: out of memory");
    }
    for (int i = 1; i < threads; i++) {
        worker *w = &p->workers[i - 1];
        w->pool = p;
        w->index = i;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            kv_pool_destroy(p);
            return kv_fail(KV_ERR_NOMEM, "cannot start %d threads; use --threads with a smaller number",
                           threads);
        }
        p->threads = i + 1;
    }
    *out = p;
    return KV_OK;
}

void kv_pool_destroy(kv_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->threads; i++)
        pthread_join(p->workers[i - 1].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int kv_pool_threads(const kv_pool *p) { return p ? p->threads : 1; }

int kv_cpu_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}
