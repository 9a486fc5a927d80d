/* bits.c - one hash over everything that the reference computes for a fixed set of streams: logits, canonical
 * NLL, decisions, and the exported cache; for a model of the golf family also over what training makes of it. `make bits`
 * demands the same hash from every compiler, optimisation level, instruction set and number of threads.
 *
 *     bits MODEL TOKENS STEP ISA THREADS     prints "HASH  MODEL ISA THREADS", or "unsupported ..." */
#include "common/hash.h"
#include "common/mem.h"
#include "common/state.h"
#include "ref/backend.h"
#include "ref/train/door.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every policy and mode; caps small enough to wrap several times. */
static const char *const long_policies[] = {"full", "sliding:cap=100,pos=rerotate", "sliding:cap=100,pos=absolute",
                                       "sliding:cap=100,pos=saturate", "sink:cap=61,sinks=4", "sink:cap=61,sinks=4+bf16",
                                       "full+kvarn:tile=64", "sliding:cap=256,pos=absolute+kvarn:tile=32,kbits=5,vbits=3,dialect=B",
                                       "sliding:cap=256,pos=absolute+kivi:residual=64", "cascade:cap=96",
                                       "cascade:cap=90,n=3,reduce=mean,score=f16", "h2o:cap=96", "tova:cap=96",
                                       "snapkv:cap=48,prompt=64,window=16"};
/* For a handful of tokens. */
static const char *const short_policies[] = {"full", "sliding:cap=4,pos=rerotate", "sliding:cap=4,pos=absolute",
                                             "sliding:cap=4,pos=saturate", "sink:cap=3,sinks=1", "sink:cap=3,sinks=1+f16",
                                             "full+kvarn", "full+kivi:residual=4,group=2",
                                             "sliding:cap=8,pos=absolute+kivi:residual=4,group=4"};

/* For the golf family: every way in which the model's memory goes on, and rows of 16-bit storages. */
static const char *const golf_policies[] = {"full", "full+f16", "sliding:cap=40", "sliding:cap=40,pos=absolute+bf16",
                                            "sink:cap=37,sinks=4", "cascade:cap=36,n=3", "h2o:cap=40", "tova:cap=40",
                                            "snapkv:cap=12,prompt=16,window=4", "xwindow:window=32,stride=8,cache=0",
                                            "xwindow:window=32,stride=8,cache=24,layers=2+f16",
                                            "xwindow:window=32,stride=8,cache=24,pred=carry",
                                            "xwindow:window=32,stride=8,cache=24,ver=published"};

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum { MOST_TOKENS = 64 }; /* of a window */

static int fail(const char *what)
{
    fprintf(stderr, "bits: %s\n", what);
    return 2;
}

/* In steps of `step` tokens, or in windows. */
static kv_status feed(const kv_backend *side, kv_session *s, const kv_policy *p, const int32_t *tokens, int32_t n, int32_t step,
                      int32_t vocab, kv_sha256_ctx *h)
{
    const int windows = p->selection == KV_SEL_XWINDOW;
    const int32_t most = windows ? p->xwindow.window : step, stride = windows ? p->xwindow.stride : step;
    float *logits = malloc((size_t)most * (size_t)vocab * sizeof *logits), *nll = malloc((size_t)most * sizeof *nll);
    kv_events events = {0};
    kv_status st = logits && nll ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int32_t at = 0, end = 0; end < n && st == KV_OK; at += stride) {
        const int32_t m = n - at < most ? n - at : most;
        const kv_step args = {.tokens = tokens + at, .n = m, .rows = KV_ROWS_ALL, .logits = logits,
                              .targets = tokens + at + 1, .nll = nll, .events = &events,
                              .flags = windows ? KV_STEP_RECOMPUTE : 0, .pos0 = windows ? at : 0};
        st = side->step(s, &args);
        end = at + m;
        kv_sha256_add(h, logits, (size_t)m * (size_t)vocab * sizeof *logits);
        kv_sha256_add(h, nll, (size_t)m * sizeof *nll);
    }
    kv_sha256_add(h, events.v, events.n * sizeof *events.v);
    free(logits);
    free(nll);
    free(events.v);
    return st;
}

static kv_status add_state(const kv_backend *side, kv_session *s, kv_sha256_ctx *h)
{
    size_t size;
    kv_buffer b = {0};
    KV_TRY(side->export_state(s, -1, KV_STATE_KV | KV_STATE_SCORE, NULL, 0, &size));
    KV_TRY(kv_buffer_reserve(&b, size));
    const kv_status st = side->export_state(s, -1, KV_STATE_KV | KV_STATE_SCORE, b.p, b.bytes, &size);
    kv_sha256_add(h, b.p, size);
    kv_buffer_free(&b);
    return st;
}

static kv_status open_session(const kv_model *m, const char *spec, const char *options, int threads, int32_t step,
                              kv_session **out)
{
    kv_policy p;
    KV_TRY(kv_policy_parse(spec, &p));
    const kv_open_args a = {.model = m, .policy = &p, .options = options, .threads = threads,
                            .max_step = step < MOST_TOKENS ? MOST_TOKENS : step};
    return ref_backend()->open(&a, out);
}

static kv_status add_policy(const kv_model *m, const char *spec, const char *options, int threads,
                            const int32_t *tokens, int32_t n, int32_t step, kv_sha256_ctx *h)
{
    const kv_backend *side = ref_backend();
    kv_session *s;
    kv_policy p;
    KV_TRY(kv_policy_parse(spec, &p));
    KV_TRY(open_session(m, spec, options, threads, step, &s));
    kv_status st = feed(side, s, &p, tokens, n, step, m->cfg.vocab_size, h);
    if (st == KV_OK) st = add_state(side, s, h);
    side->close(s);
    return st;
}

enum { STEPS = 3, SEQUENCES = 3, SEQUENCE = 21 };

/* Steps of training from the seed: losses, norms, and at the end weights and averages. */
static kv_status train_steps(const kv_trainer_api *door, kv_trainer *t, const int32_t *tokens, kv_sha256_ctx *h)
{
    uint16_t windows[SEQUENCES * (SEQUENCE + 1)];
    uint8_t sha[32];
    for (int i = 0; i < SEQUENCES * (SEQUENCE + 1); i++)
        windows[i] = (uint16_t)tokens[i];
    for (int i = 0; i < STEPS; i++) {
        kv_train_step s = {.windows = windows, .n = SEQUENCES, .multiplier = -1};
        KV_TRY(door->step(t, &s));
        kv_sha256_add(h, &s.loss, sizeof s.loss);
        kv_sha256_add(h, &s.norm, sizeof s.norm);
    }
    KV_TRY(door->hash(t, sha));
    kv_sha256_add(h, sha, sizeof sha);
    return KV_OK;
}

static kv_status add_training(const char *preset, const char *options, int threads, const int32_t *tokens, int32_t n,
                              kv_sha256_ctx *h)
{
    const kv_trainer_api *door = ref_trainer_door();
    kv_train_config c;
    kv_trainer *t;
    if (n < SEQUENCES * (SEQUENCE + 1)) return kv_fail(KV_ERR_USAGE, "training needs %d tokens", SEQUENCES * (SEQUENCE + 1));
    KV_TRY(kv_train_preset(preset, &c));
    c.seq = SEQUENCE;
    c.batch_tokens = SEQUENCES * SEQUENCE;
    c.iterations = STEPS + 1;
    c.warmdown = STEPS;
    const kv_trainer_args a = {.config = &c, .threads = threads, .options = options};
    KV_TRY(door->open(&a, &t));
    const kv_status st = train_steps(door, t, tokens, h);
    door->close(t);
    return st;
}

typedef struct policies {
    const char *const *v;
    size_t n;
} policies;

static policies policies_for(const kv_model *m, int32_t n)
{
    if (kv_config_is_golf(&m->cfg)) return (policies){golf_policies, COUNT(golf_policies)};
    return n < 200 ? (policies){short_policies, COUNT(short_policies)} : (policies){long_policies, COUNT(long_policies)};
}

int main(int argc, char **argv)
{
    if (argc != 6) return fail("usage: bits MODEL TOKENS STEP ISA THREADS");
    const int32_t n = atoi(argv[2]), step = atoi(argv[3]), threads = atoi(argv[5]);
    char options[64], why[256], hex[65];
    snprintf(options, sizeof options, "isa=%s", argv[4]);
    if (ref_backend()->available(options, why, sizeof why) != KV_OK) {
        printf("unsupported  %s\n", why);
        return 0;
    }
    kv_model *m;
    if (kv_model_open(argv[1], NULL, &m, NULL) != KV_OK) return fail(kv_message());
    int32_t *tokens = malloc(((size_t)n + 1) * sizeof *tokens);
    if (!tokens) return fail("out of memory");
    for (int32_t i = 0; i <= n; i++) /* any fixed sequence will do */
        tokens[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)m->cfg.vocab_size);
    kv_sha256_ctx h;
    uint8_t sha[32];
    kv_sha256_begin(&h);
    const policies all = policies_for(m, n);
    kv_session *keeper = NULL; /* of the weights, which are prepared once for all sessions of a model */
    kv_status st = open_session(m, "full", options, threads, step, &keeper);
    for (size_t i = 0; i < all.n && st == KV_OK; i++)
        st = add_policy(m, all.v[i], options, threads, tokens, n, step, &h);
    if (st == KV_OK && kv_config_is_golf(&m->cfg)) st = add_training(argv[1], options, threads, tokens, n, &h);
    ref_backend()->close(keeper);
    kv_sha256_end(&h, sha);
    kv_hex32(sha, hex);
    free(tokens);
    kv_model_close(m);
    if (st != KV_OK) return fail(kv_message());
    printf("%.32s  %s %s %d\n", hex, argv[1], argv[4], threads);
    return 0;
}
