/* mutant_pool.c - suites in processes of their own: a planted bug may crash, hang or write where it should not, and the tester
 * goes on. The parent has no other threads while it forks. */
#include "difftest/mutants.h"

#include "common/progress.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct worker {
    pid_t pid; /* 0: free */
    int fd, index;
    double start, heard; /* when it began, when it last said something */
    int late;            /* its time was up */
    dt_suite_report last; /* as received */
    int any;
} worker;

/* ---- the child ---------------------------------------------------------------------------------------- */

/* What a dying library prints is no result. */
static void become_quiet(void)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* the parent ends its workers */
    signal(SIGPIPE, SIG_IGN);
    if (!freopen("/dev/null", "w", stderr) || !freopen("/dev/null", "w", stdout)) _exit(1);
}

static void serve(const dt_suite_job *job, int fd)
{
    become_quiet();
    if (dt_suite_run(job, fd) != KV_OK) {
        dt_suite_report fault = {.begins = -1};
        snprintf(fault.reason, sizeof fault.reason, "%.*s", DT_SUITE_TEXT - 1, kv_message());
        if (write(fd, &fault, sizeof fault) < 0) _exit(1);
    }
    _exit(0);
}

static kv_status start(worker *w, const dt_suite_job *jobs, int index)
{
    int ends[2];
    if (pipe(ends) != 0) return kv_fail(KV_ERR_IO, "cannot make a pipe: %s", strerror(errno));
    fflush(stdout);
    fflush(stderr);
    const pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        serve(&jobs[index], ends[1]);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return kv_fail(KV_ERR_IO, "cannot start a process: %s", strerror(errno));
    }
    *w = (worker){.pid = pid, .fd = ends[0], .index = index, .start = kv_now()};
    w->heard = w->start;
    return KV_OK;
}

/* ---- the parent --------------------------------------------------------------------------------------- */

/* Whether the worker still has something to say. */
static int receive(worker *w)
{
    dt_suite_report r;
    const ssize_t n = read(w->fd, &r, sizeof r);
    if (n < 0 && errno == EINTR) return 1;
    if (n != (ssize_t)sizeof r) return 0;
    w->last = r;
    w->heard = kv_now();
    w->any = 1;
    return 1;
}

/* What the check that raised the alarm looked at. */
static const char *name_check(const dt_suite_report *r)
{
    static const struct {
        const char *words, *name;
    } checks[] = {{"decision", "decisions"}, {"RoPE tables", "tables"}, {"NaN or infinity", "nonfinite"},
                  {"logits of", "logits"}, {"canonical NLL", "nll"}, {"cache after", "state"}, {"the cache is the same", "carry"},
                  {"cache export", "export"}, {"import of", "import"}, {"reset", "reset"}, {"step of", "refused"}};
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (strstr(r->reason, checks[i].words)) return checks[i].name;
    return r->status == DT_CASE_ERROR ? "refused" : "other";
}

static void conclude(const worker *w, int status, double limit, dt_suite_end *end)
{
    *end = (dt_suite_end){.report = w->last};
    dt_suite_report *r = &end->report;
    if (w->any && r->begins < 0) {
        end->fault = 1;
    } else if (w->any && r->begins == 0) {
        if (r->status != DT_CASE_PASS) snprintf(end->killed_by, sizeof end->killed_by, "%s", name_check(r));
    } else if (w->late) {
        r->status = DT_CASE_TIMEOUT;
        snprintf(end->killed_by, sizeof end->killed_by, "timeout");
        snprintf(r->reason, sizeof r->reason, "no end of the case within %g s", limit);
    } else {
        r->status = DT_CASE_ERROR;
        snprintf(end->killed_by, sizeof end->killed_by, "crash");
        snprintf(r->reason, sizeof r->reason, WIFSIGNALED(status) ? "the process was ended by signal %d"
                                                                  : "the process left with status %d",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    if (r->begins) { /* it did not come to its end */
        r->first_pos = -1;
        r->seconds = kv_now() - w->start;
    }
    r->begins = 0;
}

static kv_status finish(worker *w, const dt_suite_pool *pool)
{
    int status = 0;
    dt_suite_end end;
    close(w->fd);
    while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR) {
    }
    w->pid = 0;
    conclude(w, status, pool->limit, &end);
    return pool->done(pool->arg, w->index, &end);
}

static void end_all(worker *w, int n)
{
    for (int i = 0; i < n; i++)
        if (w[i].pid) {
            kill(w[i].pid, SIGKILL);
            close(w[i].fd);
            waitpid(w[i].pid, NULL, 0);
        }
}

static kv_status look_at(worker *w, int jobs, const dt_suite_pool *pool)
{
    struct pollfd fds[64];
    int n = 0, of[64];
    for (int i = 0; i < jobs; i++)
        if (w[i].pid) {
            of[n] = i;
            fds[n++] = (struct pollfd){.fd = w[i].fd, .events = POLLIN};
        }
    if (poll(fds, (nfds_t)n, 200) < 0 && errno != EINTR)
        return kv_fail(KV_ERR_IO, "cannot wait for a process: %s", strerror(errno));
    for (int k = 0; k < n; k++) {
        worker *one = &w[of[k]];
        if (fds[k].revents & (POLLIN | POLLHUP)) {
            if (!receive(one)) KV_TRY(finish(one, pool));
        } else if (kv_now() - one->heard > pool->limit && !one->late) {
            one->late = 1;
            kill(one->pid, SIGKILL);
        }
    }
    return KV_OK;
}

kv_status dt_suite_pool_run(const dt_suite_pool *pool, const dt_suite_job *jobs, int n)
{
    worker w[64] = {{0}};
    const int most = pool->jobs < 64 ? pool->jobs : 64;
    kv_status st = KV_OK;
    for (int next = 0, busy = 1; st == KV_OK && busy;) {
        busy = 0;
        for (int i = 0; i < most && st == KV_OK; i++) {
            if (!w[i].pid && next < n) st = start(&w[i], jobs, next++);
            busy |= w[i].pid != 0;
        }
        if (*pool->stop) st = kv_fail(KV_ERR_INTERRUPTED, "interrupted; what is known is kept, the same command goes on from there");
        if (busy && st == KV_OK) st = look_at(w, most, pool);
    }
    end_all(w, most);
    return st;
}
