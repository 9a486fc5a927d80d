/* locate_repeat.c - whether the device gives the same bits again: from the same snapshot, and under other orders of its
 * threads where it can be told to vary them. */
#include "difftest/locate_study.h"

#include "common/hash.h"
#include "difftest/digest.h"

#include <stdio.h>
#include <string.h>

/* Long steps are repeated fewer times: as often as REPEAT_TOKENS tokens allow, at least LEAST times. */
enum { REPEATS = 20, REPEAT_TOKENS = 2048, LEAST = 4, SEEDS = 3 };

/* Everything that a step has left: logits, NLL, decisions, the cache. */
static kv_status fingerprint(dt_flow *f, kv_session *session, uint64_t *out)
{
    const size_t rows = (size_t)f->turn.n;
    size_t bytes = 0;
    *out = kv_xxh64(f->logits[DT_GOT].p, rows * (size_t)f->s->model->cfg.vocab_size * sizeof(float), 0);
    *out = kv_xxh64(f->nll[DT_GOT].p, rows * sizeof(float), *out);
    *out = kv_xxh64(f->events[DT_GOT].v, f->events[DT_GOT].n * sizeof(kv_event), *out);
    if (dt_export(f->side[DT_GOT], session, -1, KV_STATE_KV | KV_STATE_SCORE, &f->state[DT_GOT], &bytes) != KV_OK)
        return KV_OK;
    *out = kv_xxh64(f->state[DT_GOT].p, bytes, *out);
    return KV_OK;
}

static kv_status repeat_here(dt_study *s, int *race)
{
    dt_flow *f = s->flow;
    uint64_t first = 0, again;
    const int allowed = REPEAT_TOKENS / f->turn.n, most = allowed < LEAST ? LEAST : allowed;
    for (int i = 0; i < REPEATS && i < most; i++) {
        KV_TRY(dt_flow_before(f, DT_GOT));
        KV_TRY(dt_flow_step(f, DT_GOT, NULL, 0));
        if (f->device_failed) return KV_OK;
        KV_TRY(fingerprint(f, f->session[DT_GOT], &again));
        if (i == 0) first = again;
        s->out->replays++;
        s->out->same += again == first;
    }
    *race = s->out->same < s->out->replays;
    return KV_OK;
}

/* One step from the reference's state in a session with another seed; *ok = 0: the device knows no seeds. */
static kv_status step_seeded(dt_study *s, int seed, uint64_t *print, int *ok)
{
    dt_flow *f = s->flow;
    char options[5120]; /* of a side in another process they hold its file, too */
    snprintf(options, sizeof options, "%s%sseed=%d", f->s->options ? f->s->options : "",
             f->s->options && *f->s->options ? "," : "", seed);
    const kv_open_args a = {.model = f->s->model,
                            .policy = f->s->policy,
                            .options = options,
                            .threads = f->s->threads,
                            .max_step = f->turn.n};
    kv_session *plain = f->session[DT_GOT], *seeded = NULL;
    *ok = f->side[DT_GOT]->open(&a, &seeded) == KV_OK;
    if (!*ok) return KV_OK;
    kv_status st = KV_OK;
    *ok = f->side[DT_GOT]->import_state(seeded, s->out->state.p, s->out->state_bytes) == KV_OK;
    f->session[DT_GOT] = seeded;
    if (*ok) st = dt_flow_step(f, DT_GOT, NULL, 0);
    *ok &= !f->device_failed;
    f->device_failed = 0;
    if (st == KV_OK && *ok) st = fingerprint(f, seeded, print);
    f->session[DT_GOT] = plain;
    f->side[DT_GOT]->close(seeded);
    return st;
}

kv_status dt_study_repeat(dt_study *s, int *race)
{
    uint64_t first = 0, again;
    int ok = 1;
    *race = 0;
    KV_TRY(repeat_here(s, race));
    if (*race || s->flow->device_failed) return KV_OK;
    const char *options = s->flow->s->options;
    if (options && strstr(options, "seed=")) return KV_OK;
    for (int seed = 0; seed <= SEEDS && ok && !*race; seed++) {
        KV_TRY(step_seeded(s, seed, &again, &ok));
        if (seed == 0) first = again;
        *race = ok && again != first;
    }
    return KV_OK;
}
