#include "difftest/ops/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CHILD_SOCKET = 3,
    CHILD_MEMORY = 4,
    LOG_BYTES = 16 << 20,  /* most that a child may print or write to one file */
    ANSWER_BYTES = 1 << 20 /* longest answer */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void dt_process_none(dt_process *p)
{
    *p = (dt_process){.socket = -1, .log = -1};
}

kv_status dt_process_beside(const char *name, char *path, size_t size)
{
    char program[4096];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
    if ((size_t)snprintf(path, size, "%s/%s", slash ? program : ".", name) < size && access(path, X_OK) == 0)
        return KV_OK;
    /* A test program stands in a folder below. */
    for (int up = 0; slash && up < 3; up++) {
        if ((slash = strrchr(program, '/')) == NULL) break;
        *slash = '\0';
        if ((size_t)snprintf(path, size, "%s/%s", program, name) < size && access(path, X_OK) == 0) return KV_OK;
    }
    return kv_fail(KV_ERR_IO, "the program '%s' is not beside this one; run `make`", name);
}

/* ---- in the child, between fork and exec: system calls only ---------------------------------------------------------
 */

static void limit(int what, rlim_t most, int is_soft)
{
    struct rlimit r = {most, most};
    if (is_soft && getrlimit(what, &r) == 0) r.rlim_cur = most < r.rlim_max ? most : r.rlim_max;
    (void)setrlimit(what, &r);
}

static void become(char *const argv[], int socket, int memory, int log, int64_t address, pid_t parent)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* Above the numbers that they are to have, so that none is overwritten. */
    const int s = fcntl(socket, F_DUPFD, 64), m = fcntl(memory, F_DUPFD, 64), l = fcntl(log, F_DUPFD, 64);
    const int null = open("/dev/null", O_RDONLY);
    if (s < 0 || m < 0 || l < 0 || null < 0) _exit(127);
    dup2(null, 0);
    dup2(l, 1);
    dup2(l, 2);
    dup2(s, CHILD_SOCKET);
    dup2(m, CHILD_MEMORY);
    for (int fd = CHILD_MEMORY + 1; fd < 1024; fd++)
        close(fd);
    limit(RLIMIT_CORE, 0, 0);
    limit(RLIMIT_FSIZE, LOG_BYTES, 0);
    if (address) limit(RLIMIT_AS, (rlim_t)address, 1); /* soft: a driver of a GPU needs more, and the worker knows */
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[0], argv);
    _exit(127);
}

/* ---- in the tester
 * --------------------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const int is_sanitized = 1; /* its shadow needs the address space */
#else
static const int is_sanitized = 0;
#endif

kv_status dt_process_start(dt_process *p, char *const argv[], int memory_fd, int64_t address_bytes, int64_t block)
{
    int pair[2];
    dt_process_stop(p);
    p->log = memfd_create("kvdiff-log", MFD_CLOEXEC);
    if (p->log < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return kv_fail(KV_ERR_DEVICE, "'%s' cannot be started: %s", argv[0], strerror(errno));
    const int64_t address = address_bytes && !is_sanitized ? address_bytes + block : 0;
    const pid_t parent = getpid();
    fflush(NULL);
    p->pid = fork();
    if (p->pid == 0) become(argv, pair[1], memory_fd, p->log, address, parent);
    close(pair[1]);
    p->socket = pair[0];
    if (p->pid < 0) {
        p->pid = 0;
        return kv_fail(KV_ERR_DEVICE, "'%s' cannot be started: %s", argv[0], strerror(errno));
    }
    setpgid(p->pid, p->pid);
    return KV_OK;
}

static int send_all(const dt_process *p, const char *bytes, size_t n)
{
    while (n) {
        const ssize_t k = send(p->socket, bytes, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return 0;
        bytes += k;
        n -= (size_t)k;
    }
    return 1;
}

/* A whole line from the buffer; NULL: there is none yet. */
static char *take_line(dt_process *p)
{
    char *end = p->n ? memchr(p->buffer, '\n', p->n) : NULL;
    if (!end) return NULL;
    const size_t n = (size_t)(end - p->buffer);
    char *line = malloc(n + 1);
    if (!line) return NULL;
    memcpy(line, p->buffer, n);
    line[n] = '\0';
    p->n -= n + 1;
    memmove(p->buffer, end + 1, p->n);
    return line;
}

/* 1: more bytes; 0: the end, or more than an answer can have. */
static int receive(dt_process *p)
{
    if (p->n == p->cap) {
        const size_t cap = p->cap ? 2 * p->cap : 4096;
        char *b = cap <= ANSWER_BYTES ? realloc(p->buffer, cap) : NULL;
        if (!b) return 0;
        p->buffer = b;
        p->cap = cap;
    }
    const ssize_t k = recv(p->socket, p->buffer + p->n, p->cap - p->n, 0);
    if (k < 0 && errno == EINTR) return 1;
    if (k <= 0) return 0;
    p->n += (size_t)k;
    return 1;
}

dt_ending dt_process_ask(dt_process *p, const char *line, double seconds, char **answer, double *wall)
{
    const double t0 = now();
    *answer = NULL;
    if (p->socket < 0 || !send_all(p, line, strlen(line)) || !send_all(p, "\n", 1)) return DT_ENDED;
    while (!(*answer = take_line(p))) {
        const double left = t0 + seconds - now();
        struct pollfd f = {.fd = p->socket, .events = POLLIN};
        if (left <= 0) return DT_SILENT;
        const int n = poll(&f, 1, (int)(left * 1000) + 1);
        if (n < 0 && errno != EINTR) return DT_ENDED;
        if (n > 0 && !receive(p)) return DT_ENDED;
    }
    *wall = now() - t0;
    return DT_ANSWERED;
}

/* The last line that the child printed, without control characters. */
static void last_words(const dt_process *p, char *dst, size_t size)
{
    char tail[400];
    const off_t end = p->log >= 0 ? lseek(p->log, 0, SEEK_END) : 0;
    const off_t from = end > (off_t)sizeof tail ? end - (off_t)sizeof tail : 0;
    ssize_t n = end > 0 ? pread(p->log, tail, sizeof tail, from) : 0;
    while (n > 0 && (unsigned char)tail[n - 1] <= ' ')
        n--;
    ssize_t at = n;
    while (at > 0 && tail[at - 1] != '\n')
        at--;
    size_t used = 0;
    for (; at < n && used + 1 < size; at++)
        dst[used++] = (unsigned char)tail[at] < 0x20 ? ' ' : tail[at];
    dst[used] = '\0';
}

/* A process that has closed its socket is about to end; a moment for it. */
static int await(pid_t pid, double seconds)
{
    int status = 0;
    for (double end = now() + seconds; now() < end;) {
        const pid_t k = waitpid(pid, &status, WNOHANG);
        if (k == pid) return status;
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return -1;
}

void dt_process_reap(dt_process *p, dt_ending end, const char *doing, double seconds, char *why, size_t size)
{
    char words[300];
    int n;
    const int status = p->pid > 0 ? await(p->pid, end == DT_SILENT ? 0 : 2) : -1;
    if (end == DT_SILENT)
        n = snprintf(why, size, "no answer within %g s %s; killed", seconds, doing);
    else if (status == -1)
        n = snprintf(why, size, "it closed its connection %s; killed", doing);
    else if (WIFSIGNALED(status))
        n = snprintf(why, size, "killed by signal %d (%s) %s", WTERMSIG(status), strsignal(WTERMSIG(status)), doing);
    else if (WEXITSTATUS(status) == 127)
        n = snprintf(why, size, "its program could not be started, or ended with code 127, %s", doing);
    else
        n = snprintf(why, size, "it ended with exit code %d %s", WEXITSTATUS(status), doing);
    last_words(p, words, sizeof words);
    if (*words && n > 0 && (size_t)n < size) snprintf(why + n, size - (size_t)n, "; it said: %s", words);
    if (p->pid > 0) kill(-p->pid, SIGKILL); /* what it may have started */
    p->pid = 0;
    dt_process_stop(p);
}

int dt_process_lives(const dt_process *p)
{
    return p->pid > 0;
}

/* The end of its socket is the end of its work; what it leaves behind ends with it. */
void dt_process_stop(dt_process *p)
{
    if (p->socket >= 0) close(p->socket);
    if (p->pid > 0) {
        await(p->pid, 1);
        kill(-p->pid, SIGKILL);
    }
    if (p->log >= 0) close(p->log);
    free(p->buffer);
    dt_process_none(p);
}
