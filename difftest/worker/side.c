#include "difftest/worker/side.h"

#include "common/fpenv.h"
#include "difftest/side_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *done(kv_status st, const char *why)
{
    return st == KV_OK ? json_pack("{s:i}", "status", KV_OK) : json_pack("{s:i, s:s}", "status", (int)st, "why", why);
}

static json_t *failed(kv_status st)
{
    return done(st, kv_message());
}

/* A call of the side's has returned: its reason, and what it did to the processor. */
static json_t *returned(const worker_side *s, kv_status st)
{
    if (st != KV_OK) return done(st, s->backend->last_error(s->session));
    return failed(kv_fpenv_check("after the call"));
}

static const char *text(const json_t *m, const char *key)
{
    const char *v = json_string_value(json_object_get(m, key));
    return v ? v : "";
}

static int64_t number(const json_t *m, const char *key)
{
    return json_integer_value(json_object_get(m, key));
}

/* An array in the block; NULL with *ok = 0 where it does not fit, NULL for offset -1. */
static void *array(const worker_memory *memory, int64_t at, size_t bytes, int *ok)
{
    if (at < 0) return NULL;
    if ((uint64_t)at <= memory->bytes && bytes <= memory->bytes - (uint64_t)at) return memory->p + at;
    *ok = 0;
    return NULL;
}

static json_t *misfit(void)
{
    kv_set_message("an array does not fit into the block");
    return failed(KV_ERR_INTERNAL);
}

/* ---- loading and opening
 * ----------------------------------------------------------------------------------------------- */

static kv_status map(worker_side *s, const json_t *m)
{
    if (s->backend) return KV_OK;
    const char *path = text(m, "path"), *spec = text(m, "spec");
    return dt_side_map(*spec ? spec : path, path, &s->handle, &s->backend);
}

static json_t *load(worker_side *s, const json_t *m)
{
    const kv_status st = map(s, m);
    if (st != KV_OK) return failed(st);
    return json_pack("{s:i, s:I, s:i, s:s, s:b}", "status", KV_OK, "caps", (json_int_t)s->backend->caps, "contract",
                     s->backend->contract, "name", s->backend->name, "digest", s->backend->digest != NULL);
}

static json_t *available(worker_side *s, const json_t *m)
{
    char why[KV_MESSAGE_MAX] = "";
    kv_status st = map(s, m);
    if (st != KV_OK) return failed(st);
    st = s->backend->available(text(m, "options"), why, sizeof why);
    why[sizeof why - 1] = '\0';
    return done(st, why);
}

static json_t *open_session(worker_side *s, const json_t *m)
{
    kv_policy policy;
    kv_status st = map(s, m);
    if (st == KV_OK) st = kv_model_open(text(m, "model"), NULL, &s->model, NULL);
    if (st == KV_OK) st = kv_policy_parse(text(m, "policy"), &policy);
    if (st != KV_OK) return failed(st);
    const kv_open_args args = {.model = s->model,
                               .policy = &policy,
                               .options = text(m, "options"),
                               .threads = (int32_t)number(m, "threads"),
                               .max_step = (int32_t)number(m, "max_step")};
    st = s->backend->open(&args, &s->session);
    return returned(s, st);
}

/* ---- a step
 * ---------------------------------------------------------------------------------------------------------------- */

static kv_tap *read_taps(const json_t *list, const worker_memory *memory, int *ok)
{
    const size_t n = json_array_size(list);
    kv_tap *taps = calloc(n + 1, sizeof *taps);
    for (size_t i = 0; taps && i < n; i++) {
        const json_t *t = json_array_get(list, i);
        const int64_t width = json_integer_value(json_array_get(t, 3));
        taps[i] = (kv_tap){.point = (int32_t)json_integer_value(json_array_get(t, 0)),
                           .layer = (int32_t)json_integer_value(json_array_get(t, 1)),
                           .row = (int32_t)json_integer_value(json_array_get(t, 2)),
                           .width = (int32_t)width,
                           .dst = array(memory, json_integer_value(json_array_get(t, 4)),
                                        (size_t)(width < 0 ? 0 : width) * sizeof(float), ok)};
    }
    return taps;
}

/* Decisions from .. from+n-1 to place `at`. */
static void put_events(const worker_side *s, const worker_memory *memory, int64_t from, int64_t n, int64_t at)
{
    int ok = 1;
    if (from < 0 || n < 0 || from + n > (int64_t)s->events.n) return;
    void *dst = array(memory, at, (size_t)n * sizeof(kv_event), &ok);
    if (dst && n) memcpy(dst, s->events.v + from, (size_t)n * sizeof(kv_event));
}

static json_t *run_step(worker_side *s, const json_t *m, const worker_memory *memory, const kv_step *step)
{
    const int64_t room = number(m, "events_room");
    const kv_status st = s->backend->step(s->session, step);
    if (st != KV_OK) return returned(s, st);
    put_events(s, memory, 0, (int64_t)s->events.n < room ? (int64_t)s->events.n : room, number(m, "events"));
    json_t *answer = returned(s, KV_OK);
    json_object_set_new(answer, "n_events", json_integer((json_int_t)s->events.n));
    return answer;
}

static json_t *step(worker_side *s, const json_t *m, const worker_memory *memory)
{
    int ok = 1;
    const int64_t n = number(m, "n"), n_follow = number(m, "n_follow"), V = s->model->cfg.vocab_size;
    const int32_t rows = (int32_t)number(m, "rows");
    if (n < 0 || n > INT32_MAX || n_follow < 0) return misfit();
    const size_t out = (size_t)(rows == KV_ROWS_ALL ? n : rows == KV_ROWS_LAST ? 1 : 0);
    kv_events follow = {.v = array(memory, number(m, "follow"), (size_t)n_follow * sizeof(kv_event), &ok),
                        .n = (size_t)n_follow};
    kv_tap *taps = read_taps(json_object_get(m, "taps"), memory, &ok);
    kv_step step = {.n = (int32_t)n,
                    .rows = rows,
                    .flags = (uint32_t)number(m, "flags"),
                    .pos0 = number(m, "pos0"),
                    .taps = taps,
                    .n_taps = (int32_t)json_array_size(json_object_get(m, "taps")),
                    .follow = number(m, "follow") >= 0 ? &follow : NULL,
                    .tokens = array(memory, number(m, "tokens"), (size_t)n * sizeof(int32_t), &ok),
                    .targets = array(memory, number(m, "targets"), out * sizeof(int32_t), &ok),
                    .logits = array(memory, number(m, "logits"), out * (size_t)V * sizeof(float), &ok),
                    .nll = array(memory, number(m, "nll"), out * sizeof(float), &ok),
                    .events = json_is_true(json_object_get(m, "want_events")) ? &s->events : NULL};
    s->events.n = 0;
    json_t *answer = ok && taps ? run_step(s, m, memory, &step) : misfit();
    free(taps);
    return answer;
}

/* ---- state
 * ----------------------------------------------------------------------------------------------------------------- */

static json_t *export_state(worker_side *s, const json_t *m, const worker_memory *memory)
{
    int ok = 1;
    size_t need = 0;
    const int64_t cap = number(m, "cap");
    void *dst = cap > 0 ? array(memory, 0, (size_t)cap, &ok) : NULL;
    if (!ok || cap < 0) return misfit();
    const kv_status st = s->backend->export_state(s->session, (int32_t)number(m, "layer"), (uint32_t)number(m, "what"),
                                                  dst, (size_t)cap, &need);
    json_t *answer = returned(s, st);
    json_object_set_new(answer, "need", json_integer((json_int_t)need));
    return answer;
}

static json_t *import_state(worker_side *s, const json_t *m, const worker_memory *memory)
{
    int ok = 1;
    const int64_t size = number(m, "size");
    const void *src = array(memory, 0, (size_t)size, &ok);
    if (!ok || size < 0) return misfit();
    return returned(s, s->backend->import_state(s->session, src, (size_t)size));
}

static json_t *snapshot(worker_side *s)
{
    int i = 0;
    while (i < WORKER_SNAPSHOTS && s->snapshots[i])
        i++;
    if (i == WORKER_SNAPSHOTS) {
        kv_set_message("more than %d snapshots at once", WORKER_SNAPSHOTS);
        return failed(KV_ERR_INTERNAL);
    }
    json_t *answer = returned(s, s->backend->snapshot(s->session, &s->snapshots[i]));
    json_object_set_new(answer, "snapshot", json_integer(i));
    return answer;
}

static json_t *with_snapshot(worker_side *s, const json_t *m, int is_restore)
{
    const int64_t i = number(m, "snapshot");
    if (i < 0 || i >= WORKER_SNAPSHOTS || !s->snapshots[i]) return misfit();
    if (is_restore) return returned(s, s->backend->restore(s->session, s->snapshots[i]));
    s->backend->snapshot_free(s->session, s->snapshots[i]);
    s->snapshots[i] = NULL;
    return failed(KV_OK);
}

static json_t *digest(worker_side *s, const json_t *m, const worker_memory *memory)
{
    int ok = 1;
    kv_digest *out = array(memory, 0, sizeof *out, &ok);
    if (!ok || !s->backend->digest) return misfit();
    return returned(s, s->backend->digest(s->session, (int32_t)number(m, "layer"), out));
}

static json_t *table(worker_side *s, const json_t *m, const worker_memory *memory)
{
    int ok = 1;
    const int64_t n = number(m, "n");
    float *dst = array(memory, 0, (size_t)(n < 0 ? 0 : n) * (size_t)(s->model->cfg.rope_dims / 2) * sizeof(float), &ok);
    if (!ok || n < 0) return misfit();
    return returned(s, s->backend->table(s->session, (kv_table)number(m, "which"), number(m, "first"), n, dst));
}

static json_t *in_session(worker_side *s, const char *what, const json_t *m, const worker_memory *memory)
{
    if (strcmp(what, "side_reset") == 0) return returned(s, s->backend->reset(s->session));
    if (strcmp(what, "side_step") == 0) return step(s, m, memory);
    if (strcmp(what, "side_export") == 0) return export_state(s, m, memory);
    if (strcmp(what, "side_import") == 0) return import_state(s, m, memory);
    if (strcmp(what, "side_snapshot") == 0) return snapshot(s);
    if (strcmp(what, "side_restore") == 0) return with_snapshot(s, m, 1);
    if (strcmp(what, "side_drop") == 0) return with_snapshot(s, m, 0);
    if (strcmp(what, "side_digest") == 0) return digest(s, m, memory);
    if (strcmp(what, "side_table") == 0) return table(s, m, memory);
    if (strcmp(what, "side_events") == 0) {
        put_events(s, memory, number(m, "from"), number(m, "n"), number(m, "at"));
        return failed(KV_OK);
    }
    kv_set_message("it is asked for '%s', which it does not know", what);
    return failed(KV_ERR_INTERNAL);
}

json_t *worker_side_answer(worker_side *s, const char *what, const json_t *message, const worker_memory *memory)
{
    if (strcmp(what, "side_load") == 0) return load(s, message);
    if (strcmp(what, "side_available") == 0) return available(s, message);
    if (strcmp(what, "side_open") == 0) return open_session(s, message);
    if (s->session) return in_session(s, what, message, memory);
    kv_set_message("no session is open");
    return failed(KV_ERR_STATE);
}
