/* liar.c - a side that is emu.so except for one lie: what the tester must catch, at the token where
 * it was told. Built and driven by tests/cli/liar.sh.
 *
 *     LIAR_SIDE   path of the honest side
 *     LIAR_LIE    logit | nan | event | lost-event | state | error, or how it ends: segv | abort | exit | hang | babble
 *     LIAR_TOKEN  index of the token at which the lie is told */
#include "common/backend.h"
#include "common/state.h"

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static const kv_backend *honest;
static kv_backend liar;
static const char *lie;
static int64_t target, seen;
static int32_t vocab;

static int is(const char *word)
{
    return strcmp(lie, word) == 0;
}

static kv_status liar_open(const kv_open_args *args, kv_session **out)
{
    seen = 0;
    vocab = args->model->cfg.vocab_size;
    return honest->open(args, out);
}

static kv_status liar_reset(kv_session *s)
{
    seen = 0;
    return honest->reset(s);
}

static void bend_logits(const kv_step *step, int64_t token)
{
    if (!step->logits || step->rows == KV_ROWS_NONE) return;
    const int64_t row = step->rows == KV_ROWS_LAST ? 0 : token;
    uint32_t bits = 0x7fffffff; /* NaN */
    float *x = step->logits + row * vocab + vocab / 2;
    if (is("logit")) {
        memcpy(&bits, x, sizeof bits);
        bits ^= 1; /* the last bit of one logit of one row */
    }
    memcpy(x, &bits, sizeof bits);
}

static void bend_events(const kv_step *step)
{
    for (size_t i = 0; step->events && i < step->events->n; i++) {
        kv_event *e = &step->events->v[i];
        if (e->token != target || e->layer != 1) continue;
        if (is("event")) {
            e->slot++;
        } else {
            memmove(e, e + 1, (step->events->n - i - 1) * sizeof *e);
            step->events->n--;
        }
        return;
    }
}

static volatile int *volatile nowhere;

/* Ends that a tester must survive. */
static void end_badly(void)
{
    if (is("segv")) *nowhere = 1;
    if (is("abort")) abort();
    if (is("exit")) exit(0);
    while (is("hang"))
        pause();
    if (is("babble") && write(3, "{\"status\":0}\n", 13) != 13) abort();
}

static kv_status liar_step(kv_session *s, const kv_step *step)
{
    const int64_t first = seen;
    if (first + step->n > target) end_badly();
    if (is("error") && first + step->n > target) return kv_fail(KV_ERR_INTERNAL, "as told");
    const kv_status st = honest->step(s, step);
    if (st != KV_OK) return st;
    seen += step->n;
    if (target < first || target >= seen) return st;
    if (is("logit") || is("nan")) bend_logits(step, target - first);
    if (is("event") || is("lost-event")) bend_events(step);
    return st;
}

/* One bit of the last value of the last record, once the token is in the cache. */
static kv_status liar_export(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap,
                             size_t *need)
{
    const kv_status st = honest->export_state(s, layer, what, dst, cap, need);
    if (st == KV_OK && dst && is("state") && (what & KV_STATE_KV) && seen > target)
        ((uint8_t *)dst)[*need - 4] ^= 1;
    return st;
}

static const char *liar_last_error(const kv_session *s)
{
    return is("error") ? "as told" : honest->last_error(s);
}

const kv_backend *kv_side_entry(uint32_t abi);
__attribute__((visibility("default"))) const kv_backend *kv_side_entry(uint32_t abi)
{
    const char *path = getenv("LIAR_SIDE"), *token = getenv("LIAR_TOKEN");
    lie = getenv("LIAR_LIE");
    void *so = path && token && lie ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!so) return NULL;
    kv_side_entry_fn *entry;
    *(void **)(void *)&entry = dlsym(so, KV_SIDE_ENTRY);
    honest = entry(abi);
    target = strtoll(token, NULL, 10);
    liar = *honest;
    liar.name = "liar";
    liar.open = liar_open;
    liar.reset = liar_reset;
    liar.step = liar_step;
    liar.export_state = liar_export;
    liar.last_error = liar_last_error;
    liar.digest = NULL; /* the tester computes digests from exports */
    liar.caps &= ~(uint32_t)KV_CAP_DIGEST;
    return &liar;
}
