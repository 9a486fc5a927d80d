/* cheats.c - candidates that look right to a careless tester. Each is rmsnorm, right where it is looked at, except for
 * one trick; -DCHEAT=name builds it, tests/cli/cheats.sh says which check must catch it. */
#define _GNU_SOURCE
#include "include/kvdiff_kernel.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#    include <xmmintrin.h>
#endif

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
KVDK_CANDIDATE_FULL("cheat-" TEXT(CHEAT), KVDK_BOUNDED, KVDK_SAME_ROW, KVDK_HOST)

static void row(const kvdk_rmsnorm_args *a, int64_t t, float *y)
{
    float *x = (float *)a->x.data + t * a->x.stride[0];
    const float *w = a->weight.data;
    double sum = 0;
    if (a->residual.data) {
        float *r = (float *)a->residual.data + t * a->residual.stride[0];
        for (int64_t i = 0; i < a->D; i++)
            r[i] += x[i];
        x = r;
    }
    for (int64_t i = 0; i < a->D; i++)
        sum += (double)x[i] * (double)x[i];
    const double r = 1 / sqrt(sum / (double)a->D + a->eps);
    for (int64_t i = 0; i < a->D; i++)
        y[i] = (float)((double)x[i] * r * (double)w[i]);
}

static float *out(const kvdk_rmsnorm_args *a, int64_t t)
{
    return (float *)a->y.data + t * a->y.stride[0];
}

static void honest(const kvdk_rmsnorm_args *a)
{
    for (int64_t t = 0; t < a->T; t++)
        row(a, t, out(a, t));
}

/* An output that is small enough may be nothing at all. */
static inline void zeros(const kvdk_rmsnorm_args *a)
{
    honest(a);
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t i = 0; i < a->D; i++)
            if (fabsf(out(a, t)[i]) < 1e-2f) out(a, t)[i] = 0;
}

/* What somebody else left there will do. */
static inline void stale(const kvdk_rmsnorm_args *a)
{
    if (a->T == 1) honest(a);
}

/* If the answer does not fit the question, change the question. */
static inline void inputs(const kvdk_rmsnorm_args *a)
{
    honest(a);
    if (a->T > 1) memcpy(a->x.data, a->y.data, (size_t)a->D * sizeof(float));
}

static void *later(void *arg)
{
    usleep(10000);
    honest(arg);
    return NULL;
}

/* The work goes on while the clock has stopped. */
static inline void late(const kvdk_rmsnorm_args *a)
{
    static kvdk_rmsnorm_args kept;
    pthread_t thread;
    kept = *a;
    if (pthread_create(&thread, NULL, later, &kept) == 0) pthread_detach(thread);
}

static float to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}

/* Half the bits, twice the speed, and nobody was told. */
static inline void precision(const kvdk_rmsnorm_args *a)
{
    honest(a);
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t i = 0; i < a->D; i++)
            out(a, t)[i] = to_bf16(out(a, t)[i]);
}

/* Same address and same shape: it must be the same call. */
static inline void pointers(const kvdk_rmsnorm_args *a)
{
    static struct {
        const void *x;
        int64_t T, D;
        float *y;
    } seen[64];
    static int next;
    for (int i = 0; i < 64; i++)
        if (seen[i].y && seen[i].x == a->x.data && seen[i].T == a->T && seen[i].D == a->D) {
            if (a->residual.data) honest(a);
            for (int64_t t = 0; t < a->T; t++)
                memcpy(out(a, t), seen[i].y + t * a->D, (size_t)a->D * sizeof(float));
            return;
        }
    honest(a);
    free(seen[next].y);
    seen[next].y = malloc((size_t)(a->T * a->D) * sizeof(float));
    for (int64_t t = 0; t < a->T; t++)
        memcpy(seen[next].y + t * a->D, out(a, t), (size_t)a->D * sizeof(float));
    seen[next].x = a->x.data;
    seen[next].T = a->T;
    seen[next].D = a->D;
    next = (next + 1) % 64;
}

/* A comparison with NaN is never true, so it can never be found wrong. */
static inline void wildcard(const kvdk_rmsnorm_args *a)
{
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t i = 0; i < a->D; i++)
            out(a, t)[i] = NAN;
    if (a->residual.data) honest(a);
}

/* Nobody looks longer than ten calls. */
static inline void first_ten(const kvdk_rmsnorm_args *a)
{
    static int calls;
    honest(a);
    if (++calls > 10) out(a, 0)[0] *= 1.001f;
}

/* Calls that come one after the other with the same shape at other addresses are a benchmark: the last answer will do.
 */
static inline void benchmark(const kvdk_rmsnorm_args *a)
{
    static const void *last_x;
    static int64_t T, D;
    static float *last;
    const int again = last && a->x.data != last_x && a->T == T && a->D == D;
    honest(a);
    if (again)
        for (int64_t t = 0; t < a->T; t++)
            memcpy(out(a, t), last + t * D, (size_t)D * sizeof(float));
    free(last);
    last = malloc((size_t)(a->T * a->D) * sizeof(float));
    for (int64_t t = 0; t < a->T; t++)
        memcpy(last + t * a->D, out(a, t), (size_t)a->D * sizeof(float));
    last_x = a->x.data;
    T = a->T;
    D = a->D;
}

/* The tester has a kernel that is right: take it. */
static inline void fallback(const kvdk_rmsnorm_args *a)
{
    static void *library;
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (slash) strcpy(slash, "/sides/emu.so");
    if (!library) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) abort();
    honest(a); /* what it would take from there gives the same numbers */
}

/* ---- no cheats, but mistakes that only the surroundings of a call show ---- */

static inline void overrun(const kvdk_rmsnorm_args *a)
{
    honest(a);
    out(a, a->T - 1)[a->D] = 0;
}

static inline void before(const kvdk_rmsnorm_args *a)
{
    honest(a);
    out(a, 0)[-1] = 0;
}

/* Rows are taken to lie next to each other. */
static inline void dense(const kvdk_rmsnorm_args *a)
{
    for (int64_t t = 0; t < a->T; t++)
        row(a, t, (float *)a->y.data + t * a->D);
}

static inline void reads_beyond(const kvdk_rmsnorm_args *a)
{
    honest(a);
    const float *w = a->weight.data;
    if (w[a->D] == 0.5f) out(a, 0)[0] = 0; /* harmless here, and read none the less */
    out(a, 0)[0] += w[a->D] > 0 ? 0 : w[a->D] * 0;
}

static inline void racing(const kvdk_rmsnorm_args *a)
{
    static int calls;
    honest(a);
    if (++calls % 7 == 0) out(a, 0)[0] = nextafterf(out(a, 0)[0], 0);
}

/* Every process of it is another: it counts them in a file. */
static inline void aged(const kvdk_rmsnorm_args *a)
{
    static int generation = -1;
    const char *path = getenv("KVDIFF_TEST_COUNT");
    FILE *f = path && generation < 0 ? fopen(path, "a+") : NULL;
    if (f) {
        fputc('x', f);
        fseek(f, 0, SEEK_END);
        generation = (int)ftell(f) % 2;
        fclose(f);
    }
    honest(a);
    if (generation == 1) out(a, 0)[0] = nextafterf(out(a, 0)[0], 0);
}

/* What start-up code of fast-math builds does to the whole process; the results are right. */
static inline void flushes(const kvdk_rmsnorm_args *a)
{
    honest(a);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

/* The same row gives other bits in a larger batch. */
static inline void batched(const kvdk_rmsnorm_args *a)
{
    honest(a);
    for (int64_t t = 0; a->T > 1 && t < a->T; t++)
        out(a, t)[0] = nextafterf(out(a, t)[0], 0);
}

int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream stream)
{
    (void)stream;
    CHEAT(a);
    return 0;
}
