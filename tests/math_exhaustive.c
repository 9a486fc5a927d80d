/* math_exhaustive.c - every float through common/math.h and common/numfmt.h (`make exhaustive`;
 * minutes).
 *
 * Three questions for each function: how many results are not correctly rounded and how far off is
 * the worst (against libm in double, and in long double where double cannot decide); are the bits
 * those that were recorded; do loops that the compiler vectorises for AVX2 and AVX-512 give the
 * same bits. The recorded figures are part of the contract: a change that moves one is a new
 * version of it. */
#include "common/hash.h"
#include "common/numfmt.h"
#include "common/pool.h"
#include "common/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK = 1 << 20, BLOCKS = 1 << 12 }; /* all 2^32 patterns */

typedef void fill_fn(uint32_t first, float *y);
typedef double exact_d(double);
typedef long double exact_l(long double);

/* ---- the functions, in each form ------------------------------------------------------------- */

/* Inputs outside [-limit, limit] and NaN give 0. */
#define FILL(name, form, target, expr, limit)                                  \
    target static void fill_##name##_##form(uint32_t first, float *restrict y) \
    {                                                                          \
        for (uint32_t i = 0; i < BLOCK; i++) {                                 \
            const float x = kv_bits2f((int32_t)(first + i));                   \
            const float r = (expr);                                            \
            y[i] = x >= -(limit) && x <= (limit) ? r : 0.0f;                   \
        }                                                                      \
    }

KV_HD float only_sin(float x)
{
    float s, c;
    kv_sincos(x, &s, &c);
    return s;
}

KV_HD float only_cos(float x)
{
    float s, c;
    kv_sincos(x, &s, &c);
    return c;
}

#define FUNCTIONS(form, target)                      \
    FILL(exp, form, target, kv_exp(x), kv_inf())     \
    FILL(exp_d, form, target, kv_exp_d(x), kv_inf()) \
    FILL(log, form, target, kv_log(x), kv_inf())     \
    FILL(sin, form, target, only_sin(x), 0x1p28f)    \
    FILL(cos, form, target, only_cos(x), 0x1p28f)    \
    FILL(tanh, form, target, kv_tanh(x), kv_inf())

#if defined(__x86_64__)
FUNCTIONS(scalar, __attribute__((target("fma"))))
FUNCTIONS(avx2, __attribute__((target("avx2,fma"))))
FUNCTIONS(avx512, __attribute__((target("avx512f,avx512dq,avx512vl,fma"))))
#else
FUNCTIONS(scalar, )
#endif

typedef struct function {
    const char *name;
    fill_fn *form[3]; /* scalar, AVX2, AVX-512 */
    exact_d *exact;
    exact_l *exact_long;
    uint64_t misrounded; /* recorded: results that are not correctly rounded */
    double worst;        /* recorded: largest error of those, in ulp */
    uint64_t hash;       /* recorded: XXH64 over the XXH64 of the blocks */
} function;

#if defined(__x86_64__)
#    define FORMS(name)                                                    \
        {                                                                  \
            fill_##name##_scalar, fill_##name##_avx2, fill_##name##_avx512 \
        }
#else
#    define FORMS(name)                      \
        {                                    \
            fill_##name##_scalar, NULL, NULL \
        }
#endif

/* sin: one float of each sign, and -0, which gives +0; tanh: one of each sign. */
static const function functions[] = {
    {"exp", FORMS(exp), exp, expl, 17209327, 0.982, UINT64_C(0xa85367e74994d79f)},
    {"exp_d", FORMS(exp_d), exp, expl, 0, 0.5001, UINT64_C(0xf3340136cb823b1e)},
    {"log", FORMS(log), log, logl, 5, 0.5001, UINT64_C(0x9acfcc0873327d23)},
    {"sin", FORMS(sin), sin, sinl, 3, 0.5001, UINT64_C(0x6a4bdf00a24bd906)},
    {"cos", FORMS(cos), cos, cosl, 0, 0.5001, UINT64_C(0x138e122ccd01789a)},
    {"tanh", FORMS(tanh), tanh, tanhl, 2, 0.5001, UINT64_C(0xdbe4ec57beea355f)},
};

/* ---- comparing with correct rounding --------------------------------------------------------- */

/* Whether a double this close to the middle between two floats, or to the subnormals, may round
 * wrongly. */
static int undecided(double r)
{
    int64_t u;
    memcpy(&u, &r, sizeof u);
    const int64_t off = (u & 0x1fffffff) - 0x10000000;
    return (off > -64 && off < 64) || fabs(r) < 0x1.1p-126;
}

static float rounded(const function *f, float x)
{
    if (f->exact == exp && x < -104.0f)
        return 0.0f; /* below half of the smallest float; spares a slow expl */
    const double r = f->exact((double)x);
    return undecided(r) ? (float)f->exact_long((long double)x) : (float)r;
}

static double ulp_error(float y, long double exact)
{
    if (isinf(y)) return fabsl(exact) >= 0x1.ffffffp127L ? 0.0 : (double)INFINITY;
    int e;
    frexpl(exact, &e);
    e = e - 24 < -149 ? -149 : e - 24;
    return (double)fabsl(ldexpl((long double)y - exact, -e));
}

typedef struct job {
    const function *f;
    int form;
    int compare;
    uint64_t *hashes; /* [BLOCKS] */
    struct {
        float *y;
        uint64_t misrounded;
        double worst;
    } worker[64];
} job;

static int in_domain(const function *f, float x)
{
    if (x != x) return 0;
    return (f->exact != sin && f->exact != cos) || fabsf(x) <= 0x1p28f;
}

static void block_task(void *arg, int64_t task, int worker)
{
    job *j = arg;
    float *y = j->worker[worker].y;
    const uint32_t first = (uint32_t)task * BLOCK;
    j->f->form[j->form](first, y);
    for (uint32_t i = 0; i < BLOCK; i++)
        if (y[i] != y[i])
            y[i] = kv_nan(); /* only log makes NaN; its sign is no part of the contract */
    j->hashes[task] = kv_xxh64(y, BLOCK * sizeof *y, 0);
    if (!j->compare) return;
    for (uint32_t i = 0; i < BLOCK; i++) {
        const float x = kv_bits2f((int32_t)(first + i));
        if (!in_domain(j->f, x)) continue;
        const float r = rounded(j->f, x);
        if (r != r || kv_f2bits(r) == kv_f2bits(y[i])) continue;
        const double e = ulp_error(y[i], j->f->exact_long((long double)x));
        j->worker[worker].misrounded++;
        if (!(e <= j->worker[worker].worst)) j->worker[worker].worst = e;
    }
}

static uint64_t run_form(kv_pool *pool, job *j, const function *f, int form, int compare)
{
    j->f = f;
    j->form = form;
    j->compare = compare;
    for (int w = 0; w < kv_pool_threads(pool); w++) {
        j->worker[w].misrounded = 0;
        j->worker[w].worst = 0;
    }
    kv_pool_run(pool, BLOCKS, block_task, j);
    return kv_xxh64(j->hashes, BLOCKS * sizeof *j->hashes, 0);
}

static int form_runs(int form)
{
#if defined(__x86_64__)
    if (form == 0) return __builtin_cpu_supports("fma");
    if (form == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#else
    return form == 0;
#endif
}

/* Number of deviations from the record. */
static int check_function(kv_pool *pool, job *j, const function *f)
{
    static const char *const names[] = {"scalar", "AVX2", "AVX-512"};
    int bad = 0;
    const double start = kv_now();
    for (int form = 0; form < 3; form++) {
        if (!form_runs(form)) {
            printf("%-6s %-8s SKIP: this processor lacks it\n", f->name, names[form]);
            continue;
        }
        const uint64_t h = run_form(pool, j, f, form, form == 0);
        const int same = h == f->hash;
        bad += !same;
        printf("%-6s %-8s hash %016llx %s", f->name, names[form], (unsigned long long)h,
               same ? "as recorded" : "NOT AS RECORDED");
        if (form == 0) {
            uint64_t misrounded = 0;
            double worst = 0;
            for (int w = 0; w < kv_pool_threads(pool); w++) {
                misrounded += j->worker[w].misrounded;
                worst = fmax(worst, j->worker[w].worst);
            }
            const int good = misrounded == f->misrounded && worst <= f->worst;
            bad += !good;
            printf("; not correctly rounded: %llu, worst %.4f ulp %s",
                   (unsigned long long)misrounded, worst, good ? "as recorded" : "NOT AS RECORDED");
        }
        printf("  (%.0f s)\n", kv_now() - start);
        fflush(stdout);
    }
    return bad;
}

/* ---- 16-bit formats -------------------------------------------------------------------------- */

/* bf16 by its definition: of the two neighbours the nearer, the even one in the middle. */
static uint16_t bf16_defined(uint32_t u)
{
    const uint32_t down = u >> 16, rest = u & 0xffff;
    return (uint16_t)(down + (rest > 0x8000 || (rest == 0x8000 && (down & 1))));
}

static void formats_task(void *arg, int64_t task, int worker)
{
    job *j = arg;
    for (uint32_t i = 0; i < BLOCK; i++) {
        const uint32_t u = (uint32_t)task * BLOCK + i;
        const float x = kv_bits2f((int32_t)u);
        if (x != x) {
            j->worker[worker].misrounded += kv_f2bf16(x) != 0x7fff || kv_f2f16(x) != 0x7fff;
            continue;
        }
        j->worker[worker].misrounded += kv_f2bf16(x) != bf16_defined(u);
#if defined(__FLT16_MAX__)
        const _Float16 h = (_Float16)x;
        uint16_t bits;
        memcpy(&bits, &h, sizeof bits);
        j->worker[worker].misrounded += kv_f2f16(x) != bits;
#endif
    }
}

static int check_formats(kv_pool *pool, job *j)
{
    uint64_t wrong = 0;
    for (int w = 0; w < kv_pool_threads(pool); w++)
        j->worker[w].misrounded = 0;
    kv_pool_run(pool, BLOCKS, formats_task, j);
    for (int w = 0; w < kv_pool_threads(pool); w++)
        wrong += j->worker[w].misrounded;
    printf("bf16, fp16 encodings of every float: %llu wrong\n", (unsigned long long)wrong);
    return wrong != 0;
}

int main(void)
{
    const int cpus = kv_cpu_count(), threads = cpus < 64 ? cpus : 64;
    kv_pool *pool;
    job j = {.hashes = malloc(BLOCKS * sizeof *j.hashes)};
    int bad = 0;
    if (!j.hashes || kv_pool_create(threads, &pool) != KV_OK) return 3;
    for (int w = 0; w < threads; w++)
        if (!(j.worker[w].y = malloc(BLOCK * sizeof(float)))) return 3;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        bad += check_function(pool, &j, &functions[i]);
    bad += check_formats(pool, &j);
    for (int w = 0; w < threads; w++)
        free(j.worker[w].y);
    free(j.hashes);
    kv_pool_destroy(pool);
    printf("%s\n", bad ? "FAILED" : "ok");
    return bad != 0;
}
