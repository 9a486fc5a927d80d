/* remote.c - the tester's end: every call of the door becomes a line to the worker, its arrays go through shared
 * memory. */
#include "difftest/remote.h"

#include "common/mem.h"
#include "difftest/ops/process.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct remote {
    dt_process process;
    int memory_fd;
    uint8_t *memory;
    size_t bytes, used;
    json_int_t n_asked;
    const kv_config *cfg;
    double limit;
    char error[KV_MESSAGE_MAX];
} remote;

typedef struct snap {
    json_int_t id;
} snap;

int dt_remote_is_off(void)
{
    const char *v = getenv("KVDIFF_IN_PROCESS");
    return v && strcmp(v, "1") == 0;
}

/* ---- the process ----------------------------------------------------------------------------------------------------
 */

static double call_limit(void)
{
    const char *text = getenv("KVDIFF_SIDE_LIMIT");
    const double v = text ? strtod(text, NULL) : 0;
    return v > 0 ? v : 600;
}

static void stop(remote *r)
{
    if (!r) return;
    dt_process_stop(&r->process);
    if (r->memory) munmap(r->memory, r->bytes);
    if (r->memory_fd >= 0) close(r->memory_fd);
    free(r);
}

static kv_status start(remote **out)
{
    char worker[4096];
    remote *r = calloc(1, sizeof *r);
    *out = r;
    if (!r) return kv_fail(KV_ERR_NOMEM, "out of memory");
    dt_process_none(&r->process);
    r->limit = call_limit();
    r->memory_fd = memfd_create("kvdiff-side", MFD_CLOEXEC);
    if (r->memory_fd < 0 || ftruncate(r->memory_fd, 4096) != 0)
        return kv_fail(KV_ERR_NOMEM, "shared memory for a side: %s", strerror(errno));
    KV_TRY(dt_process_beside("kvdiff-worker", worker, sizeof worker));
    char *argv[] = {worker, NULL};
    return dt_process_start(&r->process, argv, r->memory_fd, 0, 0);
}

/* Room in the block for one message; offsets from 0. What was there is lost. */
static kv_status room(remote *r, size_t bytes)
{
    r->used = 0;
    if (bytes <= r->bytes && r->memory) return KV_OK;
    if (r->memory) munmap(r->memory, r->bytes);
    r->memory = NULL;
    bytes = (bytes + bytes / 2 + 0xffff) / 0x10000 * 0x10000;
    if (ftruncate(r->memory_fd, (off_t)bytes) != 0)
        return kv_fail(KV_ERR_NOMEM, "%zu bytes of memory shared with a side: %s", bytes, strerror(errno));
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->memory_fd, 0);
    if (p == MAP_FAILED)
        return kv_fail(KV_ERR_NOMEM, "%zu bytes of memory shared with a side: %s", bytes, strerror(errno));
    r->memory = p;
    r->bytes = bytes;
    return KV_OK;
}

static size_t padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* The next place; -1 for an array that is not there. */
static json_int_t place(remote *r, const void *from, size_t bytes, int is_there)
{
    if (!is_there) return -1;
    const size_t at = r->used;
    r->used += padded(bytes);
    if (from) memcpy(r->memory + at, from, bytes);
    return (json_int_t)at;
}

/* Sends message (stolen); the answer, or NULL with the failure recorded. */
static kv_status ask(remote *r, json_t *message, const char *doing, json_t **answer)
{
    char *got = NULL, why[512];
    double wall;
    *answer = NULL;
    if (message) {
        json_object_set_new(message, "id", json_integer(++r->n_asked));
        json_object_set_new(message, "block", json_integer((json_int_t)r->bytes));
    }
    char *line = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    if (!line) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const dt_ending end = dt_process_ask(&r->process, line, r->limit, &got, &wall);
    free(line);
    if (end != DT_ANSWERED) {
        dt_process_reap(&r->process, end, doing, r->limit, why, sizeof why);
        return kv_fail(KV_ERR_DEVICE, "its process: %s", why);
    }
    *answer = json_loads(got, 0, NULL);
    free(got);
    if (json_is_integer(json_object_get(*answer, "status")) &&
        json_integer_value(json_object_get(*answer, "id")) == r->n_asked)
        return KV_OK;
    json_decref(*answer);
    *answer = NULL;
    dt_process_stop(&r->process);
    return kv_fail(KV_ERR_DEVICE, "its process: what came over its connection %s is no answer to the question; killed",
                   doing);
}

/* Sends and takes the status that the side's call returned. answer may be NULL. */
static kv_status call(remote *r, json_t *message, const char *doing, json_t **answer)
{
    json_t *a;
    KV_TRY(ask(r, message, doing, &a));
    const json_int_t status = json_integer_value(json_object_get(a, "status"));
    const char *why = json_string_value(json_object_get(a, "why"));
    kv_status st = KV_OK;
    if (status < 0 || status >= KV_STATUS_COUNT)
        st = kv_fail(KV_ERR_DEVICE, "%s it returned %lld, which is no status", doing, (long long)status);
    else if (status != KV_OK)
        st = kv_fail((kv_status)status, "%s", why ? why : "it gives no reason");
    if (st == KV_OK && answer)
        *answer = a;
    else
        json_decref(a);
    return st;
}

/* ---- the door
 * ---------------------------------------------------------------------------------------------------------- */

static kv_status keep(remote *r, kv_status st)
{
    if (st != KV_OK) snprintf(r->error, sizeof r->error, "%s", kv_message());
    return st;
}

/* "PATH\nOPTIONS" */
static json_t *side_message(const char *what, const char *both)
{
    const char *end = strchr(both, '\n');
    const size_t n = end ? (size_t)(end - both) : strlen(both);
    const char *options = end ? end + 1 : "";
    options += *options == ','; /* somebody has added to no options */
    return json_pack("{s:s, s:s%, s:s}", "do", what, "path", both, n, "options", options);
}

static kv_status available(const char *options, char *why, size_t size)
{
    remote *r;
    kv_status st = start(&r);
    if (st == KV_OK) st = call(r, side_message("side_available", options), "being asked whether it can run", NULL);
    if (st != KV_OK) snprintf(why, size, "%s", kv_message());
    stop(r);
    return st;
}

static kv_status open_session(const kv_open_args *a, kv_session **out)
{
    remote *r = NULL;
    char policy[KV_POLICY_TEXT_MAX];
    *out = NULL;
    if (!a->model->source[0])
        return kv_fail(KV_ERR_UNSUPPORTED,
                       "model '%s' has no name by which another process could open it; set KVDIFF_IN_PROCESS=1",
                       a->model->name);
    kv_policy_format(a->policy, policy);
    json_t *message = side_message("side_open", a->options);
    if (!message || json_object_set_new(message, "model", json_string(a->model->source)) != 0 ||
        json_object_set_new(message, "policy", json_string(policy)) != 0 ||
        json_object_set_new(message, "threads", json_integer(a->threads)) != 0 ||
        json_object_set_new(message, "max_step", json_integer(a->max_step)) != 0) {
        json_decref(message);
        return kv_fail(KV_ERR_NOMEM, "out of memory");
    }
    kv_status st = start(&r);
    if (st == KV_OK)
        st = call(r, message, "while it opened a session", NULL);
    else
        json_decref(message);
    if (st == KV_OK) r->cfg = &a->model->cfg;
    if (st == KV_OK)
        *out = (kv_session *)r;
    else
        stop(r);
    return st;
}

static void close_session(kv_session *s)
{
    stop((remote *)s);
}
static const char *last_error(const kv_session *s)
{
    return s ? ((const remote *)s)->error : kv_message();
}

static kv_status reset(kv_session *s)
{
    remote *r = (remote *)s;
    return keep(r, call(r, json_pack("{s:s}", "do", "side_reset"), "in reset", NULL));
}

/* ---- a step
 * -------------------------------------------------------------------------------------------------------------- */

static int64_t out_rows(const kv_step *p)
{
    return p->rows == KV_ROWS_ALL ? p->n : p->rows == KV_ROWS_LAST ? 1 : 0;
}

/* Where the arrays of a step lie. */
typedef struct places {
    json_int_t tokens, targets, follow, logits, nll, taps, events;
    size_t n_logits, n_nll, n_taps, events_room; /* bytes; events: of them */
} places;

static size_t tap_bytes(const kv_step *p)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < p->n_taps; i++)
        bytes += padded((size_t)p->taps[i].width * sizeof(float));
    return bytes;
}

static kv_status lay_out(remote *r, const kv_step *p, int32_t vocab, places *l)
{
    const size_t n = (size_t)p->n, rows = (size_t)out_rows(p), follow = p->follow ? p->follow->n * sizeof(kv_event) : 0;
    *l = (places){.n_logits = p->logits ? rows * (size_t)vocab * sizeof(float) : 0,
                  .n_nll = p->nll ? rows * sizeof(float) : 0,
                  .n_taps = tap_bytes(p)};
    const size_t fixed =
        2 * padded(n * sizeof(int32_t)) + padded(follow) + padded(l->n_logits) + padded(l->n_nll) + l->n_taps;
    KV_TRY(room(r, fixed + 65536 * sizeof(kv_event)));
    l->tokens = place(r, p->tokens, n * sizeof(int32_t), 1);
    l->targets = place(r, p->targets, rows * sizeof(int32_t), p->targets != NULL && p->nll != NULL);
    l->follow = place(r, p->follow ? p->follow->v : NULL, follow, p->follow != NULL);
    const size_t poisoned = r->used;
    l->logits = place(r, NULL, l->n_logits, p->logits != NULL);
    l->nll = place(r, NULL, l->n_nll, p->nll != NULL);
    l->taps = place(r, NULL, l->n_taps, 1);
    memset(r->memory + poisoned, 0xff, r->used - poisoned); /* what stays unwritten is NaN */
    l->events_room = (r->bytes - r->used) / sizeof(kv_event);
    l->events = (json_int_t)r->used;
    return KV_OK;
}

static json_t *describe_taps(const kv_step *p, json_int_t at)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < p->n_taps; i++) {
        const kv_tap *t = &p->taps[i];
        json_array_append_new(list, json_pack("[i,i,i,i,I]", t->point, t->layer, t->row, t->width, at));
        at += (json_int_t)padded((size_t)t->width * sizeof(float));
    }
    return list;
}

static void take_taps(const remote *r, const kv_step *p, json_int_t at)
{
    for (int32_t i = 0; i < p->n_taps; i++) {
        const size_t bytes = (size_t)p->taps[i].width * sizeof(float);
        memcpy(p->taps[i].dst, r->memory + at, bytes);
        at += (json_int_t)padded(bytes);
    }
}

/* Decisions, in pieces when there are more than fit. */
static kv_status take_events(remote *r, const json_t *answer, const places *l, kv_events *out)
{
    const json_int_t total = json_integer_value(json_object_get(answer, "n_events"));
    for (json_int_t got = 0; got < total;) {
        const json_int_t left = total - got, n = left < (json_int_t)l->events_room ? left : (json_int_t)l->events_room;
        if (got) /* the first piece came with the answer */
            KV_TRY(call(r, json_pack("{s:s, s:I, s:I, s:I}", "do", "side_events", "from", got, "n", n, "at", l->events),
                        "handing over decisions", NULL));
        for (json_int_t i = 0; i < n; i++) {
            kv_event e;
            memcpy(&e, r->memory + l->events + (size_t)i * sizeof e, sizeof e);
            if (kv_events_push(out, e) != KV_OK)
                return kv_fail(KV_ERR_NOMEM, "out of memory for the decisions of a step");
        }
        got += n;
    }
    return KV_OK;
}

static kv_status run_step(remote *r, const kv_step *p)
{
    places l;
    json_t *answer;
    KV_TRY(lay_out(r, p, r->cfg->vocab_size, &l));
    json_t *message =
        json_pack("{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:o}", "do", "side_step", "n",
                  p->n, "rows", p->rows, "flags", (json_int_t)p->flags, "pos0", (json_int_t)p->pos0, "tokens", l.tokens,
                  "targets", l.targets, "follow", l.follow, "n_follow", (json_int_t)(p->follow ? p->follow->n : 0),
                  "logits", l.logits, "nll", l.nll, "want_events", p->events != NULL, "events", l.events, "events_room",
                  (json_int_t)l.events_room, "taps", describe_taps(p, l.taps));
    KV_TRY(call(r, message, "in step", &answer));
    if (p->logits) memcpy(p->logits, r->memory + l.logits, l.n_logits);
    if (p->nll) memcpy(p->nll, r->memory + l.nll, l.n_nll);
    take_taps(r, p, l.taps);
    const kv_status st = p->events ? take_events(r, answer, &l, p->events) : KV_OK;
    json_decref(answer);
    return st;
}

static kv_status step(kv_session *s, const kv_step *p)
{
    return keep((remote *)s, run_step((remote *)s, p));
}

/* ---- state
 * ---------------------------------------------------------------------------------------------------------------- */

static kv_status export_into(remote *r, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    json_t *answer;
    if (dst) KV_TRY(room(r, cap));
    KV_TRY(call(r,
                json_pack("{s:s, s:i, s:I, s:I}", "do", "side_export", "layer", layer, "what", (json_int_t)what, "cap",
                          (json_int_t)(dst ? cap : 0)),
                "in export_state", &answer));
    const json_int_t n = json_integer_value(json_object_get(answer, "need"));
    json_decref(answer);
    if (n < 0 || (dst && (size_t)n > cap))
        return kv_fail(KV_ERR_DEVICE, "its export has %lld bytes where %zu were offered", (long long)n, cap);
    *need = (size_t)n;
    if (dst) memcpy(dst, r->memory, (size_t)n);
    return KV_OK;
}

static kv_status export_state(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    return keep((remote *)s, export_into((remote *)s, layer, what, dst, cap, need));
}

static kv_status import_from(remote *r, const void *src, size_t size)
{
    KV_TRY(room(r, size));
    memcpy(r->memory, src, size);
    return call(r, json_pack("{s:s, s:I}", "do", "side_import", "size", (json_int_t)size), "in import_state", NULL);
}

static kv_status import_state(kv_session *s, const void *src, size_t size)
{
    return keep((remote *)s, import_from((remote *)s, src, size));
}

static kv_status snapshot(kv_session *s, void **out)
{
    remote *r = (remote *)s;
    json_t *answer;
    *out = NULL;
    KV_TRY(keep(r, call(r, json_pack("{s:s}", "do", "side_snapshot"), "in snapshot", &answer)));
    snap *p = malloc(sizeof *p);
    if (p) p->id = json_integer_value(json_object_get(answer, "snapshot"));
    json_decref(answer);
    *out = p;
    return p ? KV_OK : keep(r, kv_fail(KV_ERR_NOMEM, "out of memory"));
}

static kv_status restore(kv_session *s, const void *p)
{
    remote *r = (remote *)s;
    return keep(r, call(r, json_pack("{s:s, s:I}", "do", "side_restore", "snapshot", ((const snap *)p)->id),
                        "in restore", NULL));
}

static void snapshot_free(kv_session *s, void *p)
{
    remote *r = (remote *)s;
    if (p && dt_process_lives(&r->process))
        (void)call(r, json_pack("{s:s, s:I}", "do", "side_drop", "snapshot", ((snap *)p)->id), "in snapshot_free",
                   NULL);
    free(p);
}

static kv_status digest(kv_session *s, int32_t layer, kv_digest *out)
{
    remote *r = (remote *)s;
    KV_TRY(keep(r, room(r, sizeof *out)));
    KV_TRY(keep(r, call(r, json_pack("{s:s, s:i}", "do", "side_digest", "layer", layer), "in digest", NULL)));
    memcpy(out, r->memory, sizeof *out);
    return KV_OK;
}

static kv_status table(kv_session *s, kv_table which, int64_t first, int64_t n, float *dst)
{
    remote *r = (remote *)s;
    const size_t bytes = (size_t)n * (size_t)(r->cfg->rope_dims / 2) * sizeof(float);
    KV_TRY(keep(r, room(r, bytes)));
    KV_TRY(keep(r, call(r,
                        json_pack("{s:s, s:i, s:I, s:I}", "do", "side_table", "which", (int)which, "first",
                                  (json_int_t)first, "n", (json_int_t)n),
                        "in table", NULL)));
    memcpy(dst, r->memory, bytes);
    return KV_OK;
}

/* ---- loading
 * ----------------------------------------------------------------------------------------------------------------- */

/* A table for every side that was loaded: they live as long as the program. */
typedef struct kept {
    struct kept *next;
    kv_backend table;
    char name[256];
} kept;
static kept *all_kept;

static kv_status make_backend(const json_t *a, const kv_backend **out)
{
    kept *k = calloc(1, sizeof *k);
    const char *name = json_string_value(json_object_get(a, "name"));
    if (!k) return kv_fail(KV_ERR_NOMEM, "out of memory");
    snprintf(k->name, sizeof k->name, "%s", name ? name : "");
    k->next = all_kept;
    all_kept = k;
    k->table = (kv_backend){.abi = KV_BACKEND_ABI,
                            .caps = (uint32_t)json_integer_value(json_object_get(a, "caps")),
                            .contract = (int32_t)json_integer_value(json_object_get(a, "contract")),
                            .name = k->name,
                            .available = available,
                            .open = open_session,
                            .close = close_session,
                            .last_error = last_error,
                            .reset = reset,
                            .step = step,
                            .export_state = export_state,
                            .import_state = import_state,
                            .snapshot = snapshot,
                            .restore = restore,
                            .snapshot_free = snapshot_free,
                            .digest = json_is_true(json_object_get(a, "digest")) ? digest : NULL,
                            .table = table};
    *out = &k->table;
    return KV_OK;
}

kv_status dt_remote_side(const char *spec, const char *path, const char *options, const kv_backend **backend,
                         char **session_options)
{
    remote *r;
    json_t *answer = NULL;
    const size_t n = strlen(path) + strlen(options) + 2;
    *session_options = malloc(n);
    if (!*session_options) return kv_fail(KV_ERR_NOMEM, "out of memory");
    snprintf(*session_options, n, "%s\n%s", path, options);
    kv_status st = start(&r);
    if (st == KV_OK) {
        st = call(r, json_pack("{s:s, s:s, s:s}", "do", "side_load", "path", path, "spec", spec), "while it was loaded",
                  &answer);
        if (st == KV_ERR_DEVICE) kv_prefix_message("device '%s'", spec);
    }
    if (st == KV_OK) st = make_backend(answer, backend);
    json_decref(answer);
    stop(r);
    if (st != KV_OK) {
        free(*session_options);
        *session_options = NULL;
    }
    return st;
}
