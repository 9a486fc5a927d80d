/* bench_model.c - prefill and decode of a model on the reference, against what the machine can do: OpenBLAS's
 * sgemm for prefill, the memory's read bandwidth for decode. */
#include "tests/bench/bench.h"

#include "common/mem.h"
#include "common/model.h"
#include "common/pool.h"
#include "common/tokenizer.h"
#include "ref/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { PREFILL = 512, DECODE = 32, SQUARE = 1024 };

/* Multiply-adds counted twice: SmolLM2-135M's layers without its head, and attention over n entries. */
static double prefill_flops(void)
{
    double mflop = 0;
    for (int n = 1; n <= PREFILL; n++)
        mflop += 212.34 + 0.06912 * n;
    return 1e6 * mflop;
}

static kv_session *open_ref(const kv_model *m, int threads)
{
    kv_policy full;
    kv_session *s = NULL;
    if (kv_policy_parse("full", &full) != KV_OK) return NULL;
    const kv_open_args a = {.model = m, .policy = &full, .threads = threads, .max_step = PREFILL};
    return ref_backend()->open(&a, &s) == KV_OK ? s : NULL;
}

/* Seconds for a prefill from an empty cache. */
static double prefill(kv_session *s, const int32_t *tokens, float *logits)
{
    const kv_step step = {.tokens = tokens, .n = PREFILL, .rows = KV_ROWS_LAST, .logits = logits};
    ref_backend()->reset(s);
    const double t = kv_now();
    if (ref_backend()->step(s, &step) != KV_OK) exit(2);
    return kv_now() - t;
}

/* Seconds per token of DECODE single steps behind the prefill. */
static double decode(kv_session *s, const int32_t *tokens, float *logits)
{
    const double t = kv_now();
    for (int i = 0; i < DECODE; i++) {
        const kv_step step = {.tokens = tokens + i, .n = 1, .rows = KV_ROWS_LAST, .logits = logits};
        if (ref_backend()->step(s, &step) != KV_OK) exit(2);
    }
    return (kv_now() - t) / DECODE;
}

/* Seconds to read every byte of x once, as `streams` sequential walks side by side in wide loads: the best
 * that this thread can ask of the memory is found by trying several. */
typedef uint64_t wide __attribute__((vector_size(32)));

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static double read_streams(const wide *x, size_t n, int streams, uint64_t *sum)
{
    const size_t part = n / (size_t)streams / 8 * 8;
    wide s[8] = {{0}};
    const double t = kv_now();
    for (size_t i = 0; i < part; i += 8)
        for (int k = 0; k < streams; k++) {
            const wide *p = x + (size_t)k * part + i;
            for (int j = 0; j < 8; j++)
                s[j] += p[j];
        }
    const double seconds = kv_now() - t;
    for (int j = 0; j < 8; j++)
        *sum += s[j][0] + s[j][1] + s[j][2] + s[j][3];
    return seconds;
}

static double read_all(const void *x, size_t bytes, uint64_t *sum)
{
    double best = 1e9;
    for (int streams = 1; streams <= 4; streams *= 2) {
        const double t = read_streams(x, bytes / sizeof(wide), streams, sum);
        best = t < best ? t : best;
    }
    return best;
}

typedef struct figures {
    double sgemm1[BENCH_RUNS], sgemm2[BENCH_RUNS], prefill1[BENCH_RUNS], prefill2[BENCH_RUNS];
    double decode1[BENCH_RUNS], read[BENCH_RUNS];
} figures;

static void measure(const kv_model *m, const int32_t *tokens, figures *f, double seconds[REF_OP_COUNT])
{
    const size_t bytes = (size_t)kv_model_weights(m) * 4, square = (size_t)SQUARE * SQUARE;
    float *logits = malloc((size_t)m->cfg.vocab_size * sizeof *logits);
    float *a = kv_big_alloc(square * 4), *b = kv_big_alloc(square * 4), *c = kv_big_alloc(square * 4);
    uint64_t *big = kv_big_alloc(bytes), sum = 0;
    kv_session *one = open_ref(m, 1), *two = open_ref(m, 2);
    if (!logits || !a || !b || !c || !big || !one || !two) exit(2);
    memset(big, 1, bytes);
    bench_fill(a, square, 1);
    bench_fill(b, square, 2);
    for (int r = -1; r < BENCH_RUNS; r++) { /* the first round warms up */
        const int i = r < 0 ? 0 : r;
        f->sgemm1[i] = bench_sgemm(1, SQUARE, SQUARE, SQUARE, a, b, c);
        f->prefill1[i] = prefill(one, tokens, logits);
        f->read[i] = read_all(big, bytes, &sum);
        f->decode1[i] = decode(one, tokens, logits);
        f->sgemm2[i] = bench_sgemm(2, SQUARE, SQUARE, SQUARE, a, b, c);
        f->prefill2[i] = prefill(two, tokens, logits);
    }
    if (sum == 1) puts(""); /* the sum is used, so the reads happen */
    ref_session_seconds(one, seconds);
    ref_backend()->close(one);
    ref_backend()->close(two);
    kv_big_free(a, square * 4);
    kv_big_free(b, square * 4);
    kv_big_free(c, square * 4);
    kv_big_free(big, bytes);
    free(logits);
}

static void print_shares(const double seconds[REF_OP_COUNT])
{
    static const char *const names[REF_OP_COUNT] = {"matrix products", "head", "attention", "rotation and packing",
                                                    "norms, SwiGLU, residual, insertion"};
    double total = 0;
    for (int i = 0; i < REF_OP_COUNT; i++)
        total += seconds[i];
    printf("  time of one thread by operation:");
    for (int i = 0; i < REF_OP_COUNT; i++)
        printf("%s %s %.1f %%", i ? "," : "", names[i], 100 * seconds[i] / total);
    putchar('\n');
}

static void report(const kv_model *m, const figures *f, const double seconds[REF_OP_COUNT])
{
    const double square = 2.0 * SQUARE * SQUARE * SQUARE, bytes = (double)kv_model_weights(m) * 4;
    const double g1 = square / bench_median(f->sgemm1, BENCH_RUNS) / 1e9;
    const double g2 = square / bench_median(f->sgemm2, BENCH_RUNS) / 1e9;
    const double p1 = bench_median(f->prefill1, BENCH_RUNS), p2 = bench_median(f->prefill2, BENCH_RUNS);
    const double d1 = bench_median(f->decode1, BENCH_RUNS), rd = bench_median(f->read, BENCH_RUNS);
    /* what a decoded token reads of the cache, on average */
    const double cache = 8.0 * m->cfg.n_layers * m->cfg.n_kv_heads * m->cfg.head_dim * (PREFILL + DECODE / 2.0);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("\n%s, %d tokens of prefill, %d of decode (median of %d)\n", m->name, PREFILL, DECODE, BENCH_RUNS);
    printf("  sgemm %d^3: %.1f GFLOP/s on 1 thread, %.1f on 2; read bandwidth of 1 thread %.2f GB/s\n", SQUARE, g1,
           g2, bytes / rd / 1e9);
    printf("  prefill %.1f tok/s (%.1f GFLOP/s) on 1 thread, %.1f on 2; decode %.1f tok/s "
           "(%.2f GB/s of weights and cache, had the weights been read in fp32)\n",
           PREFILL / p1, prefill_flops() / p1 / 1e9, PREFILL / p2, 1 / d1, (bytes + cache) / d1 / 1e9);
    bench_goal("prefill / sgemm, one thread", prefill_flops() / p1 / 1e9 / g1, 0.80);
    bench_goal("decode, weights counted as fp32, / read bandwidth", (bytes + cache) / d1 / (bytes / rd), 0.90);
    const double scale = g2 / g1;
    bench_goal(scale >= 1.8 ? "prefill on two threads / one" : "prefill on two threads / one, over sgemm's",
               scale >= 1.8 ? p1 / p2 : p1 / p2 / (scale / 1.8), 1.8);
    print_shares(seconds);
    printf("  memory peak of this process %.0f MiB\n", (double)u.ru_maxrss / 1024);
}

void bench_model(const char *model)
{
    kv_model *m;
    figures f;
    double seconds[REF_OP_COUNT];
    int32_t tokens[PREFILL];
    if (kv_model_open(model, NULL, &m, NULL) != KV_OK) {
        printf("\n%s\n", kv_message());
        bench_goal("SmolLM2 is missing (make models)", 0, 1);
        return;
    }
    for (int i = 0; i < PREFILL; i++)
        tokens[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)m->cfg.vocab_size);
    measure(m, tokens, &f, seconds);
    report(m, &f, seconds);
    kv_model_close(m);
}
