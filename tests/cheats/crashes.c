/* crashes.c - candidates that end badly, -DCRASH=name: whatever they do, the tester must live and go on to the next. */
#define _GNU_SOURCE
#include "include/kvdiff_kernel.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
KVDK_CANDIDATE("crash-" TEXT(CRASH), KVDK_BOUNDED)

static volatile int *volatile nowhere;

static inline void segv(void) { *nowhere = 1; }
static inline void fpe(void) { raise(SIGFPE); }
static inline void aborted(void) { abort(); }
static inline void exited(void) { exit(0); }
static inline void killed(void) { kill(getpid(), SIGKILL); }
static inline void stopped(void) { kill(getpid(), SIGSTOP); }
static inline void loop(void)
{
    for (;;)
        pause();
}
static inline void closed(void)
{
    close(3);
    loop();
}
static inline void flood(void)
{
    static char line[4096];
    memset(line, 'x', sizeof line - 1);
    for (;;) {
        puts(line);
        fflush(stdout);
    }
}
static inline void memory(void)
{
    for (;;) {
        char *p = malloc(64 << 20);
        if (!p) abort();
        memset(p, 1, 64 << 20);
    }
}
static inline int deeper(volatile char *above)
{
    volatile char here[65536];
    here[0] = *above;
    return deeper(here) + here[1];
}
static inline void stack(void)
{
    volatile char here[2] = {0};
    deeper(here);
}
static inline void forked(void)
{
    if (fork() == 0) loop();
    _exit(3);
}
static inline void babble(void)
{
    if (write(3, "{\"status\":0}\n", 13) != 13) abort();
}
static inline void refuses(void) {}
static inline void fails(void) {}
#ifdef AT_INIT
int kvdk_init(const kvdk_host *host)
{
    (void)host;
    CRASH();
    return 0;
}
#endif

int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream stream)
{
    (void)stream;
    (void)a;
#ifndef AT_INIT
    CRASH();
#endif
    return strcmp(TEXT(CRASH), "fails") == 0 ? 7 : strcmp(TEXT(CRASH), "refuses") == 0 ? -1 : 0;
}
