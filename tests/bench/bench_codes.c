/* bench_codes.c - attention on kvarn's codes against attention on fp32 rows, one core: as many KV heads as it takes to come
 * from memory on both ways, as a model's layers do from one token to the next. */
#define REF_BITS 32
#include "ref/kernels.h"
#include "ref/storage/kvarn.h"

#include "common/mem.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <string.h>

enum { ENTRIES = 4096, HEADS = 48, DIM = 64, TILE = 128 };

/* The same heads in both forms. */
typedef struct heads {
    const ref_kernels *kernels;
    ref_kvarn_coder coder;
    float *k, *v; /* [HEADS][ENTRIES][DIM], as panels and rows */
    uint8_t *records;
    size_t rows_bytes, record_bytes;
    float *scratch, *decoded, *q, *out;
} heads;

static const int64_t REALS = (int64_t)1 << 20; /* of each work area */

/* Every tile from rows of its own; returns seconds. The numbers, not their meaning, decide the speed. */
static double code_all(const heads *w)
{
    const int64_t tiles = (int64_t)HEADS * ENTRIES / TILE;
    const double t = kv_now();
    for (int64_t i = 0; i < tiles; i++) {
        uint8_t *record = w->records + i * w->coder.layout.bytes;
        memcpy(w->scratch, w->k + i * TILE * DIM, TILE * DIM * sizeof(float));
        ref_kvarn_code_keys(&w->coder, w->scratch, record, NULL);
        memcpy(w->scratch, w->v + i * TILE * DIM, TILE * DIM * sizeof(float));
        ref_kvarn_code_values(&w->coder, w->scratch, record, NULL);
    }
    return kv_now() - t;
}

static double attend_all(const heads *w, int64_t rows, int coded)
{
    int64_t hi[REF_ATTN_ROWS];
    float *out[REF_ATTN_ROWS];
    for (int64_t r = 0; r < rows; r++) {
        hi[r] = ENTRIES;
        out[r] = w->out + r * DIM;
    }
    const double t = kv_now();
    for (int64_t h = 0; h < HEADS; h++) {
        const int64_t at = h * ENTRIES * DIM;
        const ref_span span = coded ? (ref_span){.slot0 = h * ENTRIES, .n = ENTRIES}
                                    : (ref_span){.k = w->k + at, .v = w->v + at, .n = ENTRIES};
        const ref_tiles tiles = {w->records, w->coder.layout, w->coder.params.kbits, w->coder.params.vbits};
        const ref_attn_job job = {.q = w->q, .rows = rows, .head_dim = DIM, .spans = &span, .n_spans = 1,
                                  .tiles = coded ? &tiles : NULL, .decoded = w->decoded, .hi = hi,
                                  .scratch = w->scratch, .out = out};
        w->kernels->attn(&job);
    }
    return kv_now() - t;
}

static void compare(const heads *w, int64_t rows, const char *what)
{
    double plain[BENCH_RUNS], coded[BENCH_RUNS];
    char name[64];
    for (int r = -1; r < BENCH_RUNS; r++) { /* the first pair warms up */
        const double a = attend_all(w, rows, 0), b = attend_all(w, rows, 1);
        if (r < 0) continue;
        plain[r] = a;
        coded[r] = b;
    }
    const double us = 1e6 / HEADS / (double)rows;
    printf("  %-28s %8.1f us a row on f32, %8.1f on codes\n", what, us * bench_median(plain, BENCH_RUNS),
           us * bench_median(coded, BENCH_RUNS));
    snprintf(name, sizeof name, "attention on f32 / on kvarn codes, %s (1.5x)", what);
    bench_goal(name, bench_median(plain, BENCH_RUNS) / bench_median(coded, BENCH_RUNS), 1 / 1.5);
}

void bench_codes(void)
{
    const kv_kvarn_params p = {.tile = TILE, .kbits = 4, .vbits = 2, .iters = 8};
    heads w = {.coder = {.params = p, .layout = kv_kvarn_layout_of(&p, DIM)}};
    if (ref_kernels_find(NULL, &w.kernels) != KV_OK) return;
    w.coder.kernels = w.kernels;
    w.rows_bytes = (size_t)HEADS * ENTRIES * DIM * sizeof(float);
    w.record_bytes = (size_t)(HEADS * (ENTRIES / TILE) * w.coder.layout.bytes) + REF_CODE_SLACK;
    w.k = kv_big_alloc(w.rows_bytes);
    w.v = kv_big_alloc(w.rows_bytes);
    w.records = kv_big_alloc(w.record_bytes);
    w.scratch = kv_big_alloc(4 * (size_t)REALS * sizeof(float));
    if (w.k && w.v && w.records && w.scratch) {
        w.decoded = w.scratch + REALS;
        w.q = w.decoded + REALS;
        w.out = w.q + REALS;
        bench_fill(w.k, (size_t)HEADS * ENTRIES * DIM, 3);
        bench_fill(w.v, (size_t)HEADS * ENTRIES * DIM, 4);
        bench_fill(w.q, REF_ATTN_ROWS * DIM, 5);
        printf("\nattention over %d entries of %d KV heads, head_dim %d, %s\n", ENTRIES, HEADS, DIM, w.kernels->name);
        printf("  coding takes %.1f us a token and KV head\n", 1e6 * code_all(&w) / HEADS / ENTRIES);
        compare(&w, 3, "a token's 3 queries");
        compare(&w, REF_ATTN_ROWS, "blocks of 48 queries");
    }
    kv_big_free(w.k, w.rows_bytes);
    kv_big_free(w.v, w.rows_bytes);
    kv_big_free(w.records, w.record_bytes);
    kv_big_free(w.scratch, 4 * (size_t)REALS * sizeof(float));
}
