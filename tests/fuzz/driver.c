/* driver.c - runs a fuzz target without libFuzzer: its seeds, every prefix of them, then mutations
 * drawn from Philox. The same program always runs the same inputs.
 *
 *     fuzz_x                 TAP, FUZZ_RUNS mutations (default 20000)
 *     fuzz_x --only N        mutation N alone, to repeat a failure
 *     fuzz_x --seeds DIR     writes the seeds as files: the start corpus of libFuzzer
 *     fuzz_x FILE            one input from a file
 *
 * Inputs are copied to buffers of their exact size, so AddressSanitizer sees one byte too many. */
#include "tests/fuzz/fuzz.h"

#include "common/rng.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SEEDS = 64, MAX_INPUT = 1 << 16, MAX_PREFIXES = 3000, RNG_SEED = 0x66757a7a };

typedef struct input {
    uint8_t *p;
    size_t n;
} input;

static input seeds[MAX_SEEDS];
static unsigned n_seeds;
static long long current = -1; /* mutation in progress, for the crash line */

static void crashed(int sig)
{
    char line[96];
    const int n = snprintf(line, sizeof line, "\n# in mutation %lld; repeat it with --only %lld\n",
                           current, current);
    if (write(STDOUT_FILENO, line, (size_t)n) < 0) _exit(1);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void add_seed(uint8_t *p, size_t n)
{
    if (p && n_seeds < MAX_SEEDS) seeds[n_seeds++] = (input){p, n < MAX_INPUT ? n : MAX_INPUT};
}

static void collect_seeds(void)
{
    static const char plain[] = "{\"a\": [1, 2.5, \"text\"]}\nname\t1\n\xc3\xa9\xe2\x82\xac<|x|>";
    size_t n;
    if (fuzz_seed)
        for (unsigned i = 0; i < MAX_SEEDS; i++) {
            uint8_t *p = fuzz_seed(i, &n);
            if (!p) break;
            add_seed(p, n);
        }
    if (n_seeds) return;
    uint8_t *copy = malloc(sizeof plain);
    if (!copy) abort();
    memcpy(copy, plain, sizeof plain);
    add_seed(copy, sizeof plain - 1);
}

static void run_exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) abort();
    if (n) memcpy(copy, p, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

/* ---- mutation -------------------------------------------------------------------------------- */

typedef struct dice {
    uint64_t stream, i;
} dice;

static uint32_t roll(dice *d, size_t n)
{
    return kv_philox_below(RNG_SEED, d->stream, d->i++,
                           (uint32_t)(n < 0x7fffffff ? n : 0x7fffffff));
}

/* Numbers that lengths and counts go wrong at. */
static uint64_t awkward(dice *d)
{
    static const uint64_t list[] = {0,           1,
                                    2,           7,
                                    8,           255,
                                    256,         65535,
                                    0x7fffffff,  0x80000000u,
                                    0xffffffffu, UINT64_C(1) << 32,
                                    INT64_MAX,   UINT64_C(1) << 63,
                                    UINT64_MAX};
    return list[roll(d, sizeof list / sizeof *list)];
}

static void overwrite(input *in, dice *d, size_t width)
{
    if (in->n < width) return;
    const uint64_t v = awkward(d);
    memcpy(in->p + roll(d, in->n - width + 1), &v, width);
}

static void remove_range(input *in, dice *d)
{
    const size_t at = roll(d, in->n), n = 1 + roll(d, in->n - at);
    memmove(in->p + at, in->p + at + n, in->n - at - n);
    in->n -= n;
}

/* Copies a piece of a seed over or into the input. */
static void splice(input *in, dice *d)
{
    const input *other = &seeds[roll(d, n_seeds)];
    if (!other->n) return;
    const size_t from = roll(d, other->n),
                 n = 1 + roll(d, (other->n - from < 64 ? other->n - from : 64));
    const size_t at = roll(d, in->n + 1);
    if (in->n + n > MAX_INPUT) return;
    memmove(in->p + at + n, in->p + at, in->n - at);
    memcpy(in->p + at, other->p + from, n);
    in->n += n;
}

static void mutate_once(input *in, dice *d)
{
    const uint32_t kind = roll(d, 8);
    if (in->n == 0 || kind == 7) {
        splice(in, d);
    } else if (kind <= 1) {
        in->p[roll(d, in->n)] ^= (uint8_t)(1u << roll(d, 8));
    } else if (kind == 2) {
        in->p[roll(d, in->n)] = (uint8_t)roll(d, 256);
    } else if (kind == 3) {
        overwrite(in, d, 4);
    } else if (kind == 4) {
        overwrite(in, d, 8);
    } else if (kind == 5) {
        remove_range(in, d);
    } else {
        in->n = roll(d, in->n + 1);
    }
}

static void run_mutation(long long number, uint8_t *room)
{
    dice d = {(uint64_t)number, 0};
    const input *seed = &seeds[roll(&d, n_seeds)];
    input in = {room, seed->n};
    memcpy(room, seed->p, seed->n);
    for (uint32_t k = 1 + roll(&d, 4); k > 0; k--)
        mutate_once(&in, &d);
    current = number;
    run_exact(in.p, in.n);
}

/* ---- programs -------------------------------------------------------------------------------- */

static int write_seeds(const char *folder)
{
    char path[4096];
    for (unsigned i = 0; i < n_seeds; i++) {
        snprintf(path, sizeof path, "%s/seed-%02u", folder, i);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(seeds[i].p, 1, seeds[i].n, f) != seeds[i].n || fclose(f) != 0) return 1;
    }
    return 0;
}

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return 1;
    uint8_t *p = malloc(MAX_INPUT);
    if (!p) abort();
    run_exact(p, fread(p, 1, MAX_INPUT, f));
    fclose(f);
    free(p);
    return 0;
}

/* Prefixes of long seeds are taken at a stride. */
static unsigned long run_prefixes(void)
{
    unsigned long count = 0;
    for (unsigned i = 0; i < n_seeds; i++)
        for (size_t n = 0; n <= seeds[i].n; n += 1 + seeds[i].n / MAX_PREFIXES, count++)
            run_exact(seeds[i].p, n);
    return count;
}

static void run_all(uint8_t *room)
{
    const char *text = getenv("FUZZ_RUNS");
    const long long runs = text ? atoll(text) : 20000;
    printf("1..2\n");
    printf("ok 1 - %lu prefixes of %u seeds are survived\n", run_prefixes(), n_seeds);
    fflush(stdout);
    for (long long i = 0; i < runs; i++)
        run_mutation(i, room);
    printf("ok 2 - %lld mutations are survived\n", runs);
}

int main(int argc, char **argv)
{
    uint8_t *room = malloc(MAX_INPUT + 1);
    int status = 0;
    if (!room) abort();
    signal(SIGABRT, crashed);
#if !defined(__SANITIZE_ADDRESS__)
    signal(SIGSEGV, crashed); /* AddressSanitizer has a better report of its own */
#endif
    collect_seeds();
    if (argc == 3 && strcmp(argv[1], "--only") == 0)
        run_mutation(atoll(argv[2]), room);
    else if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
        status = write_seeds(argv[2]);
    else if (argc == 2)
        status = run_file(argv[1]);
    else
        run_all(room);
    for (unsigned i = 0; i < n_seeds; i++)
        free(seeds[i].p);
    free(room);
    return status;
}
