/* bench_gemm.c - y = x W^T of the reference against OpenBLAS on one core. The reference's weights are packed
 * once when a model is opened, so packing is not counted. */
#define REF_BITS 32
#include "ref/kernels.h"

#include "common/mem.h"
#include "tests/bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct shape {
    int64_t m, n, k;
} shape;

static const shape shapes[] = {
    {512, 512, 512}, {1024, 1024, 1024}, {2048, 2048, 2048},
    {1, 576, 576},   {1, 1536, 576},     {1, 1536, 1536},    {1, 4096, 4096},
    {8, 576, 576},   {8, 1536, 576},     {8, 1536, 1536},    {8, 4096, 4096},
    {64, 576, 576},  {64, 1536, 576},    {64, 1536, 1536},   {64, 4096, 4096},
};

static void pack(const float *w, int64_t n, int64_t k, float *panels)
{
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < k; i++)
            panels[(j / 16 * k + i) * 16 + j % 16] = w[j * k + i];
}

/* One ratio, OpenBLAS seconds / ours; *gflops receives OpenBLAS's speed. */
static double compare(const ref_kernels *kern, const shape *s, double *mine, double *theirs)
{
    const size_t na = (size_t)(s->m * s->k), nw = (size_t)(s->n * s->k), nc = (size_t)(s->m * s->n);
    float *a = kv_big_alloc(na * 4), *w = kv_big_alloc(nw * 4), *p = kv_big_alloc(nw * 4), *c = kv_big_alloc(nc * 4);
    double tr[BENCH_RUNS], tb[BENCH_RUNS];
    const double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k;
    const int repeat = flops < 2e9 ? (int)(2e9 / flops) : 1; /* long enough for the clock */
    bench_fill(a, na, 1);
    bench_fill(w, nw, 2);
    pack(w, s->n, s->k, p);
    const ref_gemm_job job = {.a = a, .lda = s->k, .m = s->m, .k = s->k, .panels = p, .n = s->n, .c = c,
                              .ldc = s->n, .cold = nw * 4 > REF_CACHED_BYTES};
    for (int r = -1; r < BENCH_RUNS; r++) { /* the first pair warms up */
        double t = kv_now(), ours, blas = 0;
        for (int i = 0; i < repeat; i++)
            kern->gemm(&job);
        ours = kv_now() - t;
        for (int i = 0; i < repeat; i++)
            blas += bench_sgemm(1, s->m, s->n, s->k, a, w, c);
        if (r < 0) continue;
        tr[r] = ours;
        tb[r] = blas;
    }
    *mine = flops * repeat / bench_median(tr, BENCH_RUNS) / 1e9;
    *theirs = flops * repeat / bench_median(tb, BENCH_RUNS) / 1e9;
    kv_big_free(a, na * 4);
    kv_big_free(w, nw * 4);
    kv_big_free(p, nw * 4);
    kv_big_free(c, nc * 4);
    return *mine / *theirs;
}

void bench_gemm(void)
{
    const ref_kernels *kern;
    double sum = 0, worst = 1e9;
    if (ref_kernels_find(NULL, &kern) != KV_OK) return;
    printf("matrix products on one core, %s, GFLOP/s (median of %d)\n", kern->name, BENCH_RUNS);
    printf("  %16s %10s %10s %8s\n", "M x N x K", "ref", "OpenBLAS", "ratio");
    const int n = sizeof shapes / sizeof *shapes;
    for (int i = 0; i < n; i++) {
        double mine, theirs;
        char name[48];
        const double ratio = compare(kern, &shapes[i], &mine, &theirs);
        snprintf(name, sizeof name, "%lldx%lldx%lld", (long long)shapes[i].m, (long long)shapes[i].n,
                 (long long)shapes[i].k);
        printf("  %16s %10.1f %10.1f %8.3f\n", name, mine, theirs, ratio);
        fflush(stdout);
        sum += log(ratio);
        worst = fmin(worst, ratio);
    }
    bench_goal("geometric mean of ref / OpenBLAS", exp(sum / n), 1.0);
    bench_goal("worst shape", worst, 0.85);
}
