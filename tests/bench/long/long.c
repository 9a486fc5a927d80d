/* long.c - `make bench-long`: a million tokens of nano through the reference under every kind of bounded cache, in steps
 * of 256: it finishes, memory stays flat, and the last tokens take no longer than the first after filling.
 *
 *     long [--tokens=N] [WORD...]     policies whose spelling has one of the words
 *
 * Finished policies are noted in $BUILD/bench-long.tsv and not repeated by the same program; an interruption loses the
 * policy in flight. Time is processor time of all threads, the median step of a window: other programs on the machine
 * count little. Exit status 1 when a goal is missed, 130 when interrupted. */
#include "common/hash.h"
#include "common/model.h"
#include "common/pool.h"
#include "common/progress.h"
#include "corpus/corpus.h"
#include "ref/backend.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    Q = 256,
    FILL = 8192,         /* every cache is full by then, with room for a first round of tiles */
    WINDOW = 65536,      /* tokens that are timed behind FILL and at the end */
    PROBE = 2048,        /* tokens behind FILL that the estimate is made from */
    GROWTH_KIB = 4096    /* that memory may grow by: what an allocator may need to settle */
};
#define SLOWER 1.10 /* that the last window may be */

static const char *const policies[] = {"sink:cap=4092", "cascade:cap=4096,n=8", "sliding:cap=4096",
                                       "sliding:cap=4096,pos=absolute+kvarn"};
enum { N_POLICIES = sizeof policies / sizeof *policies };

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
    stop = 1;
    signal(sig, SIG_DFL);
}

static void die(const char *what)
{
    fprintf(stderr, "bench-long: %s\n", what);
    exit(3);
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long resident_kib(void)
{
    long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &size, &resident) != 2) die("cannot read /proc/self/statm");
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

typedef struct stream {
    const kv_backend *side;
    kv_session *session;
    const int32_t *tokens; /* one more than are fed */
    int64_t fed;
    float *nll;            /* [Q] */
    double sum;            /* of all NLLs */
} stream;

static kv_session *open_session(const kv_model *m, const char *spec)
{
    kv_policy p;
    kv_session *s = NULL;
    if (kv_policy_parse(spec, &p) != KV_OK) die(kv_message());
    const kv_open_args a = {.model = m, .policy = &p, .threads = kv_cpu_count(), .max_step = Q};
    if (ref_backend()->open(&a, &s) != KV_OK) die(ref_backend()->last_error(NULL));
    return s;
}

/* One step; returns its seconds of processor time. */
static double feed(stream *s)
{
    const kv_step step = {.tokens = s->tokens + s->fed, .n = Q, .rows = KV_ROWS_ALL, .targets = s->tokens + s->fed + 1,
                          .nll = s->nll};
    const double t = cpu_seconds();
    if (s->side->step(s->session, &step) != KV_OK) die(s->side->last_error(s->session));
    const double seconds = cpu_seconds() - t;
    s->fed += Q;
    for (int i = 0; i < Q; i++)
        s->sum += (double)s->nll[i];
    return seconds;
}

/* ---- one policy ------------------------------------------------------------------------------------------------------- */

typedef struct outcome {
    long kib_full, kib_end;
    double first, last; /* microseconds of processor time per token */
    double nll;
    int ok;
} outcome;

/* Returns 0 when interrupted. */
static int run(const kv_model *m, const char *spec, const int32_t *tokens, int64_t n, outcome *o)
{
    float nll[Q];
    const int64_t window = WINDOW < (n - FILL) / 2 ? WINDOW : (n - FILL) / 2 / Q * Q;
    double *first = calloc((size_t)(window / Q), sizeof *first), *last = calloc((size_t)(window / Q), sizeof *last);
    stream s = {.side = ref_backend(), .session = open_session(m, spec), .tokens = tokens, .nll = nll};
    kv_progress progress;
    if (!first || !last) die("out of memory");
    kv_progress_begin(&progress, "tok", n, 1);
    while (s.fed < n && !stop) {
        const int64_t at = s.fed;
        const double t = feed(&s);
        if (at >= FILL && at < FILL + window) first[(at - FILL) / Q] = t;
        if (at >= n - window) last[(at - (n - window)) / Q] = t;
        if (s.fed == FILL) o->kib_full = resident_kib();
        kv_progress_add(&progress, Q, spec);
    }
    kv_progress_end(&progress);
    o->kib_end = resident_kib();
    o->first = 1e6 * median(first, window / Q) / Q;
    o->last = 1e6 * median(last, window / Q) / Q;
    o->nll = s.sum / (double)s.fed;
    o->ok = o->kib_end - o->kib_full <= GROWTH_KIB && o->last <= SLOWER * o->first && isfinite(o->nll);
    s.side->close(s.session);
    free(first);
    free(last);
    return s.fed >= n;
}

static void show(const char *spec, int64_t n, const outcome *o)
{
    printf("  %-4s  %-38s %lld tokens, %.4f nats; memory %ld KiB full, %+ld at the end (limit +%d); "
           "%.1f us a token after filling, %.1f at the end: %.3f (limit %.2f)\n",
           o->ok ? "ok" : "BAD", spec, (long long)n, o->nll, o->kib_full, o->kib_end - o->kib_full, GROWTH_KIB, o->first,
           o->last, o->last / o->first, SLOWER);
    fflush(stdout);
}

/* Seconds of a whole run, from a short one. */
static double estimate(const kv_model *m, const char *spec, const int32_t *tokens, int64_t n)
{
    float nll[Q];
    stream s = {.side = ref_backend(), .session = open_session(m, spec), .tokens = tokens, .nll = nll};
    while (s.fed < FILL && !stop)
        feed(&s);
    const double t = kv_now();
    while (s.fed < FILL + PROBE && !stop)
        feed(&s);
    s.side->close(s.session);
    return (kv_now() - t) / PROBE * (double)n;
}

/* ---- what earlier runs have finished ---------------------------------------------------------------------------------- */

static char notes[4096], stamp[17];

static void find_notes(const char *program)
{
    const char *folder = strstr(program, "/tests/bench/");
    snprintf(notes, sizeof notes, "%.*s/bench-long.tsv", folder ? (int)(folder - program) : 1, folder ? program : ".");
    FILE *f = fopen("/proc/self/exe", "rb");
    char hex[65];
    uint8_t bytes[65536], sha[32];
    kv_sha256_ctx c;
    if (!f) die("cannot read its own program");
    kv_sha256_begin(&c);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, f)) > 0;)
        kv_sha256_add(&c, bytes, n);
    kv_sha256_end(&c, sha);
    fclose(f);
    kv_hex32(sha, hex);
    snprintf(stamp, sizeof stamp, "%.16s", hex);
}

/* A policy's line: stamp, policy, tokens, KiB full, KiB at the end, first, last, nll, ok. */
static int recall(const char *spec, int64_t n, outcome *o)
{
    char line[512], who[17], policy[256];
    long long tokens;
    int found = 0;
    FILE *f = fopen(notes, "r");
    while (f && fgets(line, sizeof line, f)) {
        outcome x;
        if (sscanf(line, "%16s %255s %lld %ld %ld %lf %lf %lf %d", who, policy, &tokens, &x.kib_full, &x.kib_end, &x.first,
                   &x.last, &x.nll, &x.ok) == 9 &&
            strcmp(who, stamp) == 0 && strcmp(policy, spec) == 0 && tokens == n && x.ok) {
            *o = x;
            found = 1;
        }
    }
    if (f) fclose(f);
    return found;
}

static void note(const char *spec, int64_t n, const outcome *o)
{
    FILE *f = fopen(notes, "a");
    if (!f || fprintf(f, "%s\t%s\t%lld\t%ld\t%ld\t%.3f\t%.3f\t%.6f\t%d\n", stamp, spec, (long long)n, o->kib_full, o->kib_end,
                      o->first, o->last, o->nll, o->ok) < 0 || fclose(f) != 0)
        die("cannot write bench-long.tsv");
}

/* ---- all of them ------------------------------------------------------------------------------------------------------------ */

static int wanted(const char *spec, int argc, char **argv)
{
    int words = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) continue;
        words = 1;
        if (strstr(spec, argv[i])) return 1;
    }
    return !words;
}

static void load(int64_t n, kv_model **m, corpus_stream *text)
{
    char spec[64];
    kv_tokenizer *tok = NULL;
    corpus *c = NULL;
    snprintf(spec, sizeof spec, "synth:bytes=%lld", (long long)n + 1); /* one byte is one token of nano */
    if (kv_model_open("nano", NULL, m, &tok) != KV_OK || corpus_open(spec, &c) != KV_OK ||
        corpus_tokens(c, 0, tok, NULL, 0, text) != KV_OK)
        die(kv_message());
    if (text->tokens.n < n + 1) die("the text has too few tokens");
    corpus_close(c);
    kv_tokenizer_free(tok);
}

/* Returns 1 when a goal was missed, 130 when interrupted. */
static int run_all(const kv_model *m, const int32_t *tokens, int64_t n, const int todo[N_POLICIES])
{
    int bad = 0;
    for (int i = 0; i < N_POLICIES && !stop; i++) {
        outcome o = {0};
        if (!todo[i]) continue;
        if (!recall(policies[i], n, &o)) {
            if (!run(m, policies[i], tokens, n, &o)) break;
            note(policies[i], n, &o);
        }
        show(policies[i], n, &o);
        bad |= !o.ok;
    }
    if (stop) fprintf(stderr, "bench-long: interrupted; finished policies are kept, the same command goes on from there\n");
    return stop ? 130 : bad;
}

int main(int argc, char **argv)
{
    int64_t n = 1 << 20;
    int todo[N_POLICIES];
    double seconds = 0;
    outcome o;
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--tokens=", 9) == 0) n = strtoll(argv[i] + 9, NULL, 10) / Q * Q;
    if (n < 2 * FILL) die("--tokens=N: at least 16384");
    const struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    kv_model *m = NULL;
    corpus_stream text;
    find_notes(argv[0]);
    load(n, &m, &text);
    for (int i = 0; i < N_POLICIES; i++) {
        todo[i] = wanted(policies[i], argc, argv);
        if (todo[i] && !recall(policies[i], n, &o)) seconds += estimate(m, policies[i], text.tokens.v, n);
    }
    if (!stop) printf("bench-long: about %.0f minutes on this machine\n", seconds / 60);
    fflush(stdout);
    const int status = run_all(m, text.tokens.v, n, todo);
    corpus_stream_free(&text);
    kv_model_close(m);
    return status;
}
