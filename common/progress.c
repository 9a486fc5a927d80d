#include "common/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

double kv_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void kv_progress_begin(kv_progress *p, const char *what, int64_t total, int mode)
{
    *p = (kv_progress){.what = what, .total = total, .start = kv_now()};
    p->enabled = mode && isatty(STDERR_FILENO);
}

static void draw(kv_progress *p, double now, const char *label)
{
    const double rate = (double)p->done / (now - p->start + 1e-9);
    fprintf(stderr, "\r\033[K%s", label);
    if (p->total > 0) {
        const double left = (double)(p->total - p->done) / (rate + 1e-9);
        const int64_t eta = left < 360000.0 ? (int64_t)left : 360000;
        fprintf(stderr, "  %3d %%  %lld/%lld %s  %.4g %s/s  eta %lld:%02lld",
                (int)(100 * p->done / p->total), (long long)p->done, (long long)p->total, p->what, rate,
                p->what, (long long)(eta / 60), (long long)(eta % 60));
    } else {
        fprintf(stderr, "  %lld %s  %.4g %s/s", (long long)p->done, p->what, rate, p->what);
    }
    fflush(stderr);
    p->shown = 1;
}

void kv_progress_add(kv_progress *p, int64_t n, const char *label)
{
    p->done += n;
    if (!p->enabled) return;
    const double now = kv_now();
    if (now - p->last < 0.1) return;
    p->last = now;
    draw(p, now, label);
}

void kv_progress_end(kv_progress *p)
{
    if (p->shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->shown = 0;
}
