/* liar.h - a side that does what an honest one does, except for one lie: what the tester must catch, where
 * it was told and for that reason. Options choose it:
 *
 *     lie=WORD   see LIAR_LIES
 *     at=N       token, counted from the last reset, at which it is told [0]
 *     noise=F    from token `at` on (in steps of all rows) every finite logit is multiplied by 1 + F or 1 - F in turn: honest rounding, made coarse
 *     codes=F    the same, but only where the storage has codes
 *     margin=F   what the side says of the eviction that `victim` changes [as the honest side]
 *
 * The file that includes this defines
 *     static const kv_backend *liar_honest(void);   NULL: there is none
 * and fills its own table by liar_fill. A token's lie is told in the step that feeds it. */
#ifndef KV_TESTS_SIDES_LIAR_H
#define KV_TESTS_SIDES_LIAR_H

#include "common/backend.h"
#include "common/state.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* X(word, what) */
#define LIAR_LIES(X)                                                         \
    X(none, "no lie")                                                        \
    X(logit, "the last bit of one logit")                                    \
    X(nan, "NaN in the row of logits")                                       \
    X(inf, "infinity in the row of logits")                                  \
    X(nll, "the last bit of the canonical NLL")                              \
    X(mute, "success, but neither logits nor NLL are written")               \
    X(slot, "another slot in one decision of layer 1")                       \
    X(victim, "one eviction of layer 1 takes the next token instead")         \
    X(margin, "another margin in one decision of layer 1")                   \
    X(lost, "one decision of layer 1 is missing")                            \
    X(extra, "one decision more than there were")                            \
    X(k, "one bit of the first K row, in exports only")                      \
    X(pos, "the first entry's position, in exports only")                    \
    X(blank, "success, but an export writes nothing")                        \
    X(cache, "one bit of the first K row, in the cache itself, once")        \
    X(table, "the last bit of the first sine of position `at` in the RoPE table")                   \
    X(step, "the step fails")                                                \
    X(unsupported, "open refuses: not supported")                            \
    X(open, "open fails")                                                    \
    X(reset, "reset fails")                                                  \
    X(snapshot, "snapshot fails")                                            \
    X(restore, "restore fails")                                              \
    X(export, "every export fails")                                          \
    X(layer, "an export of a single layer fails, and the others lie as `k`") \
    X(import, "import fails")                                                \
    X(answer, "the byte 7 (nano: token 59) wins every single row from `at` on") \
    X(slow, "every step takes 5 ms longer")

enum {
#define X(word, what) LIAR_##word,
    LIAR_LIES(X)
#undef X
    LIAR_COUNT
};

struct kv_session {
    kv_session *honest;
    int lie;
    int64_t at, seen;
    double noise, codes, margin;
    int32_t vocab, pairs; /* pairs: of RoPE */
    int told; /* once is enough for `cache` */
    char message[KV_MESSAGE_MAX];
};

typedef struct liar_snapshot {
    void *honest;
    int64_t seen;
    int told;
} liar_snapshot;

static const kv_backend *liar_honest(void);
static _Thread_local char liar_open_message[KV_MESSAGE_MAX];

/* ---- opening ------------------------------------------------------------------------------------------- */

static int liar_option(kv_session *s, const char *key, const char *value)
{
    static const char *const words[] = {
#define X(word, what) #word,
        LIAR_LIES(X)
#undef X
    };
    if (strcmp(key, "at") == 0) s->at = strtoll(value, NULL, 10);
    else if (strcmp(key, "noise") == 0) s->noise = strtod(value, NULL);
    else if (strcmp(key, "codes") == 0) s->codes = strtod(value, NULL);
    else if (strcmp(key, "margin") == 0) s->margin = strtod(value, NULL);
    else if (strcmp(key, "lie") != 0) return 0;
    else {
        while (s->lie < LIAR_COUNT && strcmp(words[s->lie], value) != 0)
            s->lie++;
        return s->lie < LIAR_COUNT;
    }
    return 1;
}

static kv_status liar_options(kv_session *s, const char *text)
{
    char copy[256], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", text ? text : "");
    for (char *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(word, '=');
        if (equals) *equals = '\0';
        if (equals && liar_option(s, word, equals + 1)) continue;
        snprintf(liar_open_message, sizeof liar_open_message, "option '%s' is unknown", word);
        return KV_ERR_USAGE;
    }
    return KV_OK;
}

static kv_status liar_available(const char *options, char *why, size_t size)
{
    kv_session probe = {0};
    if (!liar_honest()) {
        snprintf(why, size, "there is no honest side to lie with");
        return KV_ERR_DEVICE;
    }
    const kv_status st = liar_options(&probe, options);
    if (st != KV_OK) snprintf(why, size, "%s", liar_open_message);
    return st;
}

static kv_status liar_refuse(char *message, kv_status st)
{
    snprintf(message, KV_MESSAGE_MAX, "as told");
    return st;
}

static kv_status liar_open(const kv_open_args *args, kv_session **out)
{
    kv_session *s = calloc(1, sizeof *s);
    if (!s) return KV_ERR_NOMEM;
    kv_open_args honest_args = *args;
    honest_args.options = NULL;
    s->margin = -1;
    kv_status st = liar_options(s, args->options);
    if (args->policy->storage == KV_STORE_KVARN || args->policy->storage == KV_STORE_KIVI) s->noise += s->codes;
    if (st == KV_OK && s->lie == LIAR_unsupported) st = liar_refuse(liar_open_message, KV_ERR_UNSUPPORTED);
    if (st == KV_OK && s->lie == LIAR_open) st = liar_refuse(liar_open_message, KV_ERR_DEVICE);
    if (st == KV_OK && (st = liar_honest()->open(&honest_args, &s->honest)) != KV_OK)
        snprintf(liar_open_message, sizeof liar_open_message, "%s", liar_honest()->last_error(NULL));
    s->vocab = args->model->cfg.vocab_size;
    s->pairs = args->model->cfg.rope_dims / 2;
    if (st != KV_OK) {
        free(s);
        return st;
    }
    *out = s;
    return KV_OK;
}

static void liar_close(kv_session *s)
{
    if (!s) return;
    liar_honest()->close(s->honest);
    free(s);
}

static const char *liar_last_error(const kv_session *s)
{
    return s ? s->message : liar_open_message;
}

/* What an honest call gave, with its text kept. */
static kv_status liar_keep(kv_session *s, kv_status st)
{
    if (st != KV_OK) snprintf(s->message, sizeof s->message, "%s", liar_honest()->last_error(s->honest));
    return st;
}

static kv_status liar_reset(kv_session *s)
{
    if (s->lie == LIAR_reset) return liar_refuse(s->message, KV_ERR_INTERNAL);
    s->seen = 0;
    s->told = 0;
    return liar_keep(s, liar_honest()->reset(s->honest));
}

/* ---- logits -------------------------------------------------------------------------------------------- */

static void liar_flip(float *x)
{
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    bits ^= 1;
    memcpy(x, &bits, sizeof bits);
}

/* The row in which token `at` of the session ends up, -1: none. */
static int64_t liar_row(const kv_session *s, const kv_step *step)
{
    const int64_t token = s->at - s->seen;
    if (token < 0 || token >= step->n || step->rows == KV_ROWS_NONE) return -1;
    if (step->rows == KV_ROWS_LAST) return token == step->n - 1 ? 0 : -1;
    return token;
}

static void liar_bend_rows(const kv_session *s, const kv_step *step)
{
    const int64_t row = liar_row(s, step), V = s->vocab;
    const int64_t rows = step->rows == KV_ROWS_ALL ? step->n : step->rows == KV_ROWS_LAST;
    const int64_t quiet = step->rows == KV_ROWS_ALL && s->at > s->seen ? s->at - s->seen : 0;
    for (int64_t i = quiet * V; step->logits && s->noise != 0 && i < rows * V; i++)
        step->logits[i] *= (float)(i % 2 ? 1 + s->noise : 1 - s->noise);
    if (s->lie == LIAR_answer && step->logits && step->rows == KV_ROWS_LAST && s->seen >= s->at)
        step->logits[4 + '7'] = 1e4f;
    if (row < 0) return;
    float *x = step->logits ? &step->logits[row * V + V / 2] : NULL;
    if (s->lie == LIAR_logit && x) liar_flip(x);
    if (s->lie == LIAR_nan && x) *x = (float)NAN;
    if (s->lie == LIAR_inf && x) *x = (float)INFINITY;
    if (s->lie == LIAR_nll && step->nll) liar_flip(&step->nll[row]);
}

/* ---- decisions ----------------------------------------------------------------------------------------- */

static void liar_bend_events(const kv_session *s, kv_events *list, size_t from)
{
    for (size_t i = from; i < list->n; i++) {
        kv_event *e = &list->v[i];
        if (e->token != s->at || e->layer != 1 || (s->lie == LIAR_victim && e->kind != KV_EVENT_EVICT)) continue;
        if (s->lie == LIAR_slot) e->slot++;
        if (s->lie == LIAR_margin) e->margin = 0.5f;
        if (s->lie == LIAR_victim) {
            e->og++;
            e->slot++;
            if (s->margin >= 0) e->margin = (float)s->margin;
        }
        if (s->lie == LIAR_extra) (void)kv_events_push(list, *e);
        if (s->lie == LIAR_lost) {
            memmove(e, e + 1, (list->n - i - 1) * sizeof *e);
            list->n--;
        }
        return;
    }
}

/* ---- state --------------------------------------------------------------------------------------------- */

/* The first run's first position, or the top bit of the mantissa of its first K value; offsets by the layout
 * of common/state.h. Exports of other layers stay as they are. */
static void liar_bend_state(uint8_t *blob, int bend_position)
{
    kv_state_head h;
    kv_state_run run;
    memcpy(&h, blob, sizeof h);
    memcpy(&run, blob + sizeof h, sizeof run);
    if (run.n == 0 || h.layer0 != 0) return;
    const size_t places = (4 * (size_t)run.n + 7) / 8 * 8, positions = sizeof h + sizeof run + 8 * (size_t)run.n;
    const size_t records = positions + places + (h.what & KV_STATE_SCORE ? places : 0);
    if (bend_position) blob[positions] ^= 1;
    else if (h.what & KV_STATE_KV) blob[records + 2] ^= 0x40;
}

static kv_status liar_export(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    if (s->lie == LIAR_export || (s->lie == LIAR_layer && layer >= 0))
        return liar_refuse(s->message, KV_ERR_INTERNAL);
    void *target = s->lie == LIAR_blank ? NULL : dst;
    KV_TRY(liar_keep(s, liar_honest()->export_state(s->honest, layer, what, target, target ? cap : 0, need)));
    if (!target || s->seen <= s->at) return KV_OK;
    if (s->lie == LIAR_k || s->lie == LIAR_pos || s->lie == LIAR_layer)
        liar_bend_state(target, s->lie == LIAR_pos);
    return KV_OK;
}

static kv_status liar_import(kv_session *s, const void *src, size_t size)
{
    if (s->lie == LIAR_import) return liar_refuse(s->message, KV_ERR_INTERNAL);
    KV_TRY(liar_keep(s, liar_honest()->import_state(s->honest, src, size)));
    kv_state_head h;
    memcpy(&h, src, sizeof h);
    s->seen = h.seen;
    return KV_OK;
}

/* The lie that has consequences: the honest side goes on from a cache with one wrong bit. */
static kv_status liar_spoil_cache(kv_session *s)
{
    size_t size;
    s->told = 1;
    KV_TRY(liar_honest()->export_state(s->honest, -1, KV_STATE_KV | KV_STATE_SCORE, NULL, 0, &size));
    void *blob = malloc(size);
    if (!blob) return KV_ERR_NOMEM;
    kv_status st = liar_honest()->export_state(s->honest, -1, KV_STATE_KV | KV_STATE_SCORE, blob, size, &size);
    if (st == KV_OK) {
        liar_bend_state(blob, 0);
        st = liar_honest()->import_state(s->honest, blob, size);
    }
    free(blob);
    return st;
}

static kv_status liar_snapshot_take(kv_session *s, void **out)
{
    if (s->lie == LIAR_snapshot) return liar_refuse(s->message, KV_ERR_NOMEM);
    liar_snapshot *copy = calloc(1, sizeof *copy);
    if (!copy) return KV_ERR_NOMEM;
    copy->seen = s->seen;
    copy->told = s->told;
    const kv_status st = liar_keep(s, liar_honest()->snapshot(s->honest, &copy->honest));
    if (st == KV_OK) *out = copy;
    else free(copy);
    return st;
}

static kv_status liar_restore(kv_session *s, const void *snap)
{
    if (s->lie == LIAR_restore) return liar_refuse(s->message, KV_ERR_INTERNAL);
    const liar_snapshot *copy = snap;
    s->seen = copy->seen;
    s->told = copy->told;
    return liar_keep(s, liar_honest()->restore(s->honest, copy->honest));
}

static void liar_snapshot_free(kv_session *s, void *snap)
{
    liar_snapshot *copy = snap;
    if (!copy) return;
    liar_honest()->snapshot_free(s->honest, copy->honest);
    free(copy);
}

/* ---- the rest of the table --------------------------------------------------------------------------------- */

static kv_status liar_step(kv_session *s, const kv_step *step)
{
    const int now = s->at >= s->seen && s->at < s->seen + step->n;
    if (s->lie == LIAR_step && now) return liar_refuse(s->message, KV_ERR_INTERNAL);
    if (s->lie == LIAR_slow) usleep(5000);
    kv_step honest = *step;
    if (s->lie == LIAR_mute && s->seen + step->n > s->at) honest.logits = honest.nll = NULL;
    const size_t before = step->events ? step->events->n : 0;
    KV_TRY(liar_keep(s, liar_honest()->step(s->honest, &honest)));
    liar_bend_rows(s, &honest);
    if (step->events && now) liar_bend_events(s, step->events, before);
    if (s->lie == LIAR_cache && now && !s->told) KV_TRY(liar_keep(s, liar_spoil_cache(s)));
    s->seen += step->n;
    return KV_OK;
}

static kv_status liar_table(kv_session *s, kv_table which, int64_t first, int64_t n, float *dst)
{
    KV_TRY(liar_keep(s, liar_honest()->table(s->honest, which, first, n, dst)));
    if (s->lie == LIAR_table && which == KV_TABLE_ROPE_SIN && s->at >= first && s->at < first + n)
        liar_flip(&dst[(s->at - first) * s->pairs]);
    return KV_OK;
}

/* The tester computes this side's digests from its exports. */
static void liar_fill(kv_backend *b, int32_t contract)
{
    const uint32_t caps = liar_honest() ? liar_honest()->caps : 0;
    *b = (kv_backend){.abi = KV_BACKEND_ABI, .caps = caps & ~(uint32_t)KV_CAP_DIGEST, .contract = contract,
                      .name = "liar", .available = liar_available, .open = liar_open, .close = liar_close,
                      .last_error = liar_last_error, .reset = liar_reset, .step = liar_step,
                      .export_state = liar_export, .import_state = liar_import,
                      .snapshot = liar_snapshot_take, .restore = liar_restore,
                      .snapshot_free = liar_snapshot_free, .table = liar_table};
}

#endif
