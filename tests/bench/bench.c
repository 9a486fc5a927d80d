/* bench.c - `make bench`: how fast the reference and the tester are, as ratios within one run.
 *
 *     bench [gemm] [codes] [model] [golf] [tester]     default: all of them. Exit status 1 when a goal is missed. */
#include "tests/bench/bench.h"

#include "common/rng.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void openblas_set_num_threads(int n);

static int n_goals, n_missed;

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const double *x, int n)
{
    double v[64];
    memcpy(v, x, (size_t)n * sizeof *v);
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

void bench_goal(const char *what, double ratio, double goal)
{
    n_goals++;
    n_missed += ratio < goal;
    printf("  %-4s  %-58s %8.3f  goal %.2f\n", ratio < goal ? "SLOW" : "ok", what, ratio, goal);
}

double bench_sgemm(int threads, int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c)
{
    openblas_set_num_threads(threads);
    const double t = kv_now();
    if (m == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)k, 1, b, (int)k, a, 1, 0, c, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1, a, (int)k, b, (int)k, 0, c,
                    (int)n);
    return kv_now() - t;
}

void bench_fill(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)(kv_splitmix64(seed + i) >> 40) * 0x1p-23f - 1;
}

static int asked(int argc, char **argv, const char *part)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], part) == 0) return 1;
    return argc < 2;
}

int main(int argc, char **argv)
{
    char program[4096];
    const char *folder = strstr(argv[0], "/tests/bench/");
    snprintf(program, sizeof program, "%.*s/kvdiff", folder ? (int)(folder - argv[0]) : 1, folder ? argv[0] : ".");
    if (asked(argc, argv, "gemm")) bench_gemm();
    if (asked(argc, argv, "codes")) bench_codes();
    if (asked(argc, argv, "model")) bench_model("smollm2");
    if (asked(argc, argv, "golf")) bench_golf("golf-b");
    if (asked(argc, argv, "tester")) bench_tester(program, "smollm2");
    printf("\n%d goals, %d missed\n", n_goals, n_missed);
    return n_missed != 0;
}
