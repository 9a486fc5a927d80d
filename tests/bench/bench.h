/* bench.h - what the parts of the bench share. Every figure is the median of BENCH_RUNS runs; runs of what is
 * compared are interleaved, so that a machine whose clock drifts treats both alike. */
#ifndef KV_TESTS_BENCH_H
#define KV_TESTS_BENCH_H

#include "common/progress.h"

#include <stddef.h>
#include <stdint.h>

enum { BENCH_RUNS = 5 };

double bench_median(const double *x, int n);

/* Prints "ok" or "SLOW" for a ratio against its goal and remembers the misses. */
void bench_goal(const char *what, double ratio, double goal);

void bench_gemm(void);                       /* matrix products against OpenBLAS, one core */
void bench_codes(void);                      /* attention on kvarn's codes against attention on fp32 rows */
void bench_model(const char *model);         /* prefill, decode, threads, memory, share by operation */
void bench_golf(const char *model);          /* a window of a full-size model, all threads */
void bench_tester(const char *program, const char *model); /* overhead of the run, rows into the database */

/* Seconds of one sgemm of m x n x k on `threads` threads of OpenBLAS; buffers are the caller's. */
double bench_sgemm(int threads, int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c);

/* n floats in [-1, 1), always the same. */
void bench_fill(float *x, size_t n, uint64_t seed);

#endif
