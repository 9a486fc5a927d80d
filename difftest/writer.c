/* writer.c - the thread that writes finished cases.
 *
 * push() puts a case into a ring of a few entries and waits while it is full; the thread takes the
 * oldest, writes it in one transaction and only then gives its place free. The first failure stays:
 * the thread then only empties the ring, and every later call reports it. */
#include "difftest/db_private.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RING = 4 };

/* A case with its strings, in one block. */
typedef struct job {
    dt_case c;
    dt_retrieval retrieval;
    char text[];
} job;

struct dt_writer {
    dt_db *db;
    dt_case_sql sql;
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows, up to message */
    pthread_cond_t changed;
    job *ring[RING];
    int first, n; /* the entry being written stays in the ring until it is committed */
    int stopping;
    kv_status failure;
    char message[KV_MESSAGE_MAX];

    _Atomic int64_t tok_rows, busy_ns;
};

/* ---- jobs ----------------------------------------------------------------------------------- */

static size_t room(const char *s)
{
    return s ? strlen(s) + 1 : 0;
}

static const char *keep(char **to, const char *s)
{
    if (!s) return NULL;
    char *copy = *to;
    *to = stpcpy(copy, s) + 1;
    return copy;
}

static void free_arrays(dt_case *c)
{
    free(c->rows);
    free(c->hashes);
    free(c->events);
    c->rows = NULL;
    c->hashes = NULL;
    c->events = NULL;
}

static void job_free(job *j)
{
    if (j) free_arrays(&j->c);
    free(j);
}

/* Copies the strings and takes the arrays of c. */
static job *job_make(dt_case *c)
{
    static const dt_retrieval none;
    const dt_retrieval *r = c->retrieval ? c->retrieval : &none;
    job *j =
        (job *)malloc(sizeof *j + room(c->key) + room(c->device) + room(c->mode) + room(c->reason) +
                      room(c->repro) + room(r->expected) + room(r->ans_ref) + room(r->ans_got));
    if (!j) return NULL;
    char *to = j->text;
    j->c = *c;
    j->c.key = keep(&to, c->key);
    j->c.device = keep(&to, c->device);
    j->c.mode = keep(&to, c->mode);
    j->c.reason = keep(&to, c->reason);
    j->c.repro = keep(&to, c->repro);
    j->retrieval = *r;
    j->retrieval.expected = keep(&to, r->expected);
    j->retrieval.ans_ref = keep(&to, r->ans_ref);
    j->retrieval.ans_got = keep(&to, r->ans_got);
    j->c.retrieval = c->retrieval ? &j->retrieval : NULL;
    c->rows = NULL;
    c->hashes = NULL;
    c->events = NULL;
    return j;
}

static kv_status check_case(const dt_case *c)
{
    if (!c->key || !c->device || !c->mode || !c->repro)
        return kv_fail(KV_ERR_INTERNAL, "a case without key, device, mode or command line");
    if (!dt_case_status_name(c->status) || !dt_contract_name(c->contract))
        return kv_fail(KV_ERR_INTERNAL, "case '%s': status %d or contract %d does not exist",
                       c->key, (int)c->status, (int)c->contract);
    if (c->n_events_got < 0 || c->n_events_got > c->n_events)
        return kv_fail(KV_ERR_INTERNAL, "case '%s': %lld of %lld events are the device's", c->key,
                       (long long)c->n_events_got, (long long)c->n_events);
    return KV_OK;
}

/* ---- the thread ----------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static kv_status write_job(dt_writer *w, const job *j)
{
    const int64_t start = now_ns();
    const kv_status st = dt_case_sql_write(&w->sql, &j->c);
    atomic_fetch_add(&w->busy_ns, now_ns() - start);
    if (st == KV_OK) atomic_fetch_add(&w->tok_rows, j->c.n_rows);
    return st;
}

/* Called with the lock held, which is given up while the case is written. */
static void write_first(dt_writer *w)
{
    job *j = w->ring[w->first];
    if (w->failure == KV_OK) {
        pthread_mutex_unlock(&w->lock);
        const kv_status st = write_job(w, j);
        pthread_mutex_lock(&w->lock);
        w->failure = st;
        if (st != KV_OK) strcpy(w->message, kv_message());
    }
    job_free(j);
    w->first = (w->first + 1) % RING;
    w->n--;
    pthread_cond_broadcast(&w->changed);
}

static void *work(void *arg)
{
    dt_writer *w = (dt_writer *)arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->n && !w->stopping)
            pthread_cond_wait(&w->changed, &w->lock);
        if (!w->n) break;
        write_first(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals belong to the thread that knows how to stop a run. */
static int start_thread(dt_writer *w)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int rc = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

/* ---- the caller's side ---------------------------------------------------------------------- */

static void writer_free(dt_writer *w)
{
    dt_case_sql_close(&w->sql);
    dt_db_close(w->db);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

kv_status dt_writer_start(const char *path, dt_writer **out)
{
    *out = NULL;
    dt_writer *w = (dt_writer *)calloc(1, sizeof *w);
    if (!w) return kv_fail(KV_ERR_NOMEM, "out of memory for the writer of '%s'", path);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    kv_status st = dt_db_open_unchecked(path, DT_DB_WRITE, &w->db);
    if (st == KV_OK) st = dt_case_sql_open(w->db, &w->sql);
    const int rc = st == KV_OK ? start_thread(w) : 0;
    if (rc) st = kv_fail(KV_ERR_IO, "cannot start the writer thread: %s", strerror(rc));
    if (st != KV_OK) {
        writer_free(w);
        return st;
    }
    *out = w;
    return KV_OK;
}

/* With the lock held. */
static kv_status outcome(const dt_writer *w)
{
    return w->failure == KV_OK ? KV_OK : kv_fail(w->failure, "%s", w->message);
}

kv_status dt_writer_push(dt_writer *w, dt_case *c)
{
    kv_status st = check_case(c);
    job *j = st == KV_OK ? job_make(c) : NULL;
    if (!j) free_arrays(c);
    if (st != KV_OK) return st;
    if (!j) return kv_fail(KV_ERR_NOMEM, "out of memory for case '%s'", c->key);
    pthread_mutex_lock(&w->lock);
    while (w->n == RING && w->failure == KV_OK)
        pthread_cond_wait(&w->changed, &w->lock);
    st = outcome(w);
    if (st == KV_OK) {
        w->ring[(w->first + w->n++) % RING] = j;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    if (st != KV_OK) job_free(j);
    return st;
}

kv_status dt_writer_flush(dt_writer *w)
{
    pthread_mutex_lock(&w->lock);
    while (w->n)
        pthread_cond_wait(&w->changed, &w->lock);
    const kv_status st = outcome(w);
    pthread_mutex_unlock(&w->lock);
    return st;
}

kv_status dt_writer_stop(dt_writer *w)
{
    if (!w) return KV_OK;
    pthread_mutex_lock(&w->lock);
    w->stopping = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    const kv_status st = outcome(w);
    writer_free(w);
    return st;
}

void dt_writer_stats(const dt_writer *w, int64_t *tok_rows, double *seconds)
{
    *tok_rows = atomic_load(&w->tok_rows);
    *seconds = 1e-9 * (double)atomic_load(&w->busy_ns);
}

dt_db *dt_writer_db(dt_writer *w)
{
    return w->db;
}
