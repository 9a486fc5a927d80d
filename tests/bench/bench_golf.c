/* bench_golf.c - one window of a full-size model of the golf family on the reference with all threads, beside what
 * OpenBLAS makes of the same cores. */
#include "tests/bench/bench.h"

#include "common/mem.h"
#include "common/model.h"
#include "ref/backend.h"
#include "tests/bench/golf_flop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { WINDOW = 2048, SQUARE = 1024, RUNS = 3 }; /* a window takes seconds */

static kv_session *open_window(const kv_model *m, int threads)
{
    kv_policy p;
    kv_session *s = NULL;
    if (kv_policy_parse("xwindow:window=2048,stride=64,cache=0", &p) != KV_OK) return NULL;
    const kv_open_args a = {.model = m, .policy = &p, .threads = threads, .max_step = WINDOW};
    return ref_backend()->open(&a, &s) == KV_OK ? s : NULL;
}

/* Seconds for the first window of a stream, every token scored. */
static double window(kv_session *s, const int32_t *tokens, float *nll)
{
    const kv_step step = {.tokens = tokens, .n = WINDOW, .rows = KV_ROWS_NONE, .flags = KV_STEP_RECOMPUTE,
                          .targets = tokens + 1, .nll = nll};
    ref_backend()->reset(s);
    const double t = kv_now();
    if (ref_backend()->step(s, &step) != KV_OK) {
        printf("\n%s\n", ref_backend()->last_error(s));
        exit(2);
    }
    return kv_now() - t;
}

static void measure(const kv_model *m, int threads, double windows[RUNS], double squares[RUNS])
{
    const size_t n = (size_t)SQUARE * SQUARE;
    float *a = kv_big_alloc(n * 4), *b = kv_big_alloc(n * 4), *c = kv_big_alloc(n * 4);
    static float nll[WINDOW];
    static int32_t tokens[WINDOW + 1];
    kv_session *s = open_window(m, threads);
    if (!a || !b || !c || !s) exit(2);
    bench_fill(a, n, 1);
    bench_fill(b, n, 2);
    for (int i = 0; i <= WINDOW; i++)
        tokens[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)m->cfg.vocab_size);
    bench_sgemm(threads, SQUARE, SQUARE, SQUARE, a, b, c); /* warms up */
    for (int r = 0; r < RUNS; r++) {
        windows[r] = window(s, tokens, nll);
        squares[r] = bench_sgemm(threads, SQUARE, SQUARE, SQUARE, a, b, c);
    }
    ref_backend()->close(s);
    kv_big_free(a, n * 4);
    kv_big_free(b, n * 4);
    kv_big_free(c, n * 4);
}

void bench_golf(const char *model)
{
    kv_model *m;
    double windows[RUNS], squares[RUNS];
    struct rusage u;
    const int threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (kv_model_open(model, NULL, &m, NULL) != KV_OK) {
        printf("\n%s\n", kv_message());
        exit(2);
    }
    measure(m, threads, windows, squares);
    const double flop = golf_window_flop(&m->cfg, WINDOW), seconds = bench_median(windows, RUNS), speed = flop / seconds / 1e9;
    const double sgemm = 2.0 * SQUARE * SQUARE * SQUARE / bench_median(squares, RUNS) / 1e9;
    getrusage(RUSAGE_SELF, &u);
    printf("\n%s, a window of %d tokens, all of them scored, on %d threads (median of %d)\n", model, WINDOW, threads, RUNS);
    printf("  %.2f s for %.1f GFLOP: %.1f GFLOP/s; sgemm %d^3 %.1f GFLOP/s; memory peak of this process %.0f MiB\n", seconds,
           flop / 1e9, speed, SQUARE, sgemm, (double)u.ru_maxrss / 1024);
    bench_goal("window / sgemm, all threads", speed / sgemm, 0.50);
    kv_model_close(m);
}
