/* cascade.c - the insertion rule of cascade (and of sink, which is one ring) without a model, against tables and
 * digests that another program made: every slot, action and position after every token, ties, and long runs.
 *
 *     cascade SIDE        data: tests/golden/cascade/cases.json
 *
 * A row of a table is [position of the token as a query, actions, rings]. Actions: A i@k appended to ring i at offset
 * k; R i@k>x takes the place of x, the oldest; W i@k:x/y duel won by x, y is dropped; L i@k:x/y lost, x is dropped; D x
 * fell out behind the last ring. Rings: tokens in physical order, - for an empty slot, then the offset of the oldest.
 */
#include "tests/golden/golden.h"

#include "difftest/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SLOTS = 64, TEXT = 1024 };

/* One run of a policy; the state before the token that is being inserted. */
typedef struct run {
    const json_t *json;
    kv_policy policy;
    dt_rings rings;
    int64_t law[3]; /* score(t) = (law[0] t + law[1]) mod law[2] */
    kv_events events;
    size_t told; /* events of earlier tokens */
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX], n_sink;
    int64_t og[MAX_SLOTS];
    int32_t pos[MAX_SLOTS];
    char now[TEXT]; /* rings */
    int32_t bad;    /* rows that differ */
    char first[2 * TEXT];
} run;

static float law(void *arg, int64_t t)
{
    const run *r = arg;
    return (float)((r->law[0] * t + r->law[1]) % r->law[2]);
}

/* ---- text -------------------------------------------------------------------------------------------- */

static void add(char *dst, const char *fmt, ...) KV_PRINTF(2, 3);
static void add(char *dst, const char *fmt, ...)
{
    const size_t at = strlen(dst);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(dst + at, TEXT - at, fmt, ap);
    va_end(ap);
}

static void print_rings(const run *r, const kv_trace_state *s, char *dst)
{
    dst[0] = '\0';
    for (int32_t i = 0; i < s->n_rings; i++) {
        for (int32_t k = 0; k < r->rings.window; k++) {
            const int64_t og = s->og[i * r->rings.window + k];
            add(dst, k ? " " : i ? " [" : "[");
            if (og < 0)
                add(dst, "-");
            else
                add(dst, "%lld", (long long)og);
        }
        add(dst, "]%d", s->start[i]);
    }
}

/* Offset and token of the newest entry of a ring before this token. */
static int32_t newest(const run *r, int32_t ring)
{
    return (r->start[ring] + r->count[ring] - 1) % r->rings.window;
}

/* What an event says, given what its slot held; *pushed: the token that it pushed out, -1. */
static void print_placed(const run *r, const kv_event *e, const kv_event *next, char *dst, int64_t *pushed)
{
    const int32_t at = e->slot - r->rings.sinks, ring = at / r->rings.window, k = at % r->rings.window;
    *pushed = r->og[at];
    if (*pushed < 0)
        add(dst, " A%d@%d", ring, k);
    else if (ring > 0 && next && next->kind == KV_EVENT_EVICT && next->og == *pushed && k == newest(r, ring) &&
             k != r->start[ring])
        add(dst, " W%d@%d:%lld/%lld", ring, k, (long long)e->og, (long long)*pushed);
    else
        add(dst, " R%d@%d>%lld", ring, k, (long long)*pushed);
}

/* An eviction that no duel won explains: the token lost in the ring behind `ring`, or fell out of the last one. */
static void print_evicted(const run *r, const kv_event *e, int32_t ring, char *dst)
{
    if (ring + 1 == r->rings.n) {
        add(dst, " D%lld", (long long)e->og);
        return;
    }
    const int32_t k = newest(r, ring + 1);
    add(dst, " L%d@%d:%lld/%lld", ring + 1, k, (long long)e->og, (long long)r->og[(ring + 1) * r->rings.window + k]);
}

static void print_actions(const run *r, char *dst)
{
    int64_t pushed;
    int32_t ring = 0;
    int won = 0;
    dst[0] = '\0';
    for (size_t i = r->told; i < r->events.n; i++) {
        const kv_event *e = &r->events.v[i];
        if (e->slot < r->rings.sinks) {
            add(dst, " sink");
        } else if (e->kind != KV_EVENT_EVICT) {
            char before[TEXT];
            snprintf(before, sizeof before, "%s", dst);
            print_placed(r, e, i + 1 < r->events.n ? e + 1 : NULL, dst, &pushed);
            won = dst[strlen(before) + 1] == 'W';
            ring = (e->slot - r->rings.sinks) / r->rings.window;
        } else if (!won) {
            print_evicted(r, e, ring, dst);
        }
    }
    memmove(dst, dst + 1, strlen(dst)); /* the leading blank */
}

/* ---- states ------------------------------------------------------------------------------------------ */

static void compare_row(run *r, const kv_trace_state *s)
{
    const json_t *row = json_array_get(json_object_get(r->json, "rows"), (size_t)s->seen - 1);
    char actions[TEXT];
    int32_t stored = r->n_sink;
    if (!row) return;
    for (int32_t i = 0; i < r->rings.n; i++)
        stored += r->count[i];
    print_actions(r, actions);
    if (json_integer_value(json_array_get(row, 0)) == stored &&
        strcmp(json_string_value(json_array_get(row, 1)), actions) == 0 &&
        strcmp(json_string_value(json_array_get(row, 2)), r->now) == 0)
        return;
    if (!r->bad++)
        snprintf(r->first, sizeof r->first, ": token %lld is %d, %s, %s", (long long)s->seen - 1, stored, actions,
                 r->now);
}

static int look(void *arg, const kv_trace_state *s)
{
    run *r = arg;
    if (s->n_slots > MAX_SLOTS || s->n_rings != r->rings.n || s->n_slots != r->rings.n * r->rings.window)
        golden_die("a state of %d rings and %d slots", s->n_rings, s->n_slots);
    print_rings(r, s, r->now);
    compare_row(r, s);
    memcpy(r->count, s->count, sizeof *s->count * (size_t)s->n_rings);
    memcpy(r->start, s->start, sizeof *s->start * (size_t)s->n_rings);
    memcpy(r->og, s->og, sizeof *s->og * (size_t)s->n_slots);
    memcpy(r->pos, s->pos, sizeof *s->pos * (size_t)s->n_slots);
    r->n_sink = s->n_sink;
    r->told = r->events.n;
    return 0;
}

static void trace(const dt_side *side, const kv_trace *t)
{
    if (!side->backend->trace) golden_die("side %s has no trace", side->name);
    if (side->backend->trace(t) != KV_OK) golden_die("side %s: %s", side->name, side->backend->last_error(NULL));
}

/* Evictions in order; 1 when the case does not say. */
static int same_dropped(const run *r)
{
    const json_t *want = json_object_get(r->json, "dropped");
    size_t n = 0, wrong = 0;
    for (size_t i = 0; i < r->events.n; i++) {
        if (r->events.v[i].kind != KV_EVENT_EVICT) continue;
        wrong += json_integer_value(json_array_get(want, n++)) != r->events.v[i].og;
    }
    return !want || (!wrong && n == json_array_size(want));
}

static int same_positions(const run *r)
{
    const json_t *want = json_object_get(r->json, "positions");
    for (size_t i = 0; i < json_array_size(want); i++)
        if (json_integer_value(json_array_get(want, i)) != r->pos[i]) return 0;
    return !want || (int32_t)json_array_size(want) == r->rings.n * r->rings.window;
}

/* Tokens of all rings from the oldest to the newest: ascending positions. */
static int same_order(const run *r)
{
    const json_t *want = json_object_get(r->json, "order");
    for (int32_t k = 0; want && k < r->rings.n * r->rings.window; k++)
        if (json_integer_value(json_array_get(want, (size_t)(r->pos[k] - r->rings.sinks))) != r->og[k]) return 0;
    return 1;
}

static void check_states(const dt_side *side, const json_t *j)
{
    static run r;
    const char *spec = golden_text(j, "policy"), *rings = json_string_value(json_object_get(j, "rings"));
    r = (run){.json = j};
    if (kv_policy_parse(spec, &r.policy) != KV_OK) golden_die("%s", kv_message());
    r.rings = dt_rings_of(&r.policy);
    for (size_t i = 0; i < 3; i++)
        r.law[i] = json_integer_value(json_array_get(json_object_get(j, "score"), i));
    for (int32_t i = 0; i < MAX_SLOTS; i++)
        r.og[i] = -1;
    const int64_t n = (int64_t)golden_number(j, "tokens");
    const kv_trace t = {.policy = &r.policy, .n_tokens = n, .score = law, .look = look, .arg = &r, .events = &r.events};
    trace(side, &t);
    const size_t rows = json_array_size(json_object_get(j, "rows"));
    if (rows) golden_ok(!r.bad && (int64_t)rows == n, "%s: %zu tokens, action by action%s", spec, rows, r.first);
    if (rings) golden_ok(strcmp(r.now, rings) == 0, "%s after %lld tokens: %s", spec, (long long)n, r.now);
    golden_ok(same_dropped(&r) && same_positions(&r) && same_order(&r),
              "%s after %lld tokens: what left, positions, order", spec, (long long)n);
    free(r.events.v);
}

/* ---- digests ----------------------------------------------------------------------------------------- */

typedef struct long_run {
    const json_t *digests;
    size_t next, bad;
    uint64_t mul;
} long_run;

static float scattered(void *arg, int64_t t)
{
    return (float)((uint64_t)t * ((const long_run *)arg)->mul % (UINT64_C(1) << 32) >> 16);
}

static int look_at_digest(void *arg, const kv_trace_state *s)
{
    long_run *r = arg;
    char text[32];
    const json_t *d = json_array_get(r->digests, r->next);
    if (json_integer_value(json_array_get(d, 0)) != s->seen) return 0;
    snprintf(text, sizeof text, "%016llx", (unsigned long long)dt_trace_digest(s));
    r->bad += strcmp(text, json_string_value(json_array_get(d, 1))) != 0;
    return ++r->next == json_array_size(r->digests);
}

static void check_digests(const dt_side *side, const json_t *j)
{
    const char *spec = golden_text(j, "policy");
    kv_policy p;
    long_run r = {.digests = json_object_get(j, "digests"), .mul = (uint64_t)golden_number(j, "multiplier")};
    if (kv_policy_parse(spec, &p) != KV_OK) golden_die("%s", kv_message());
    const kv_trace t = {.policy = &p, .n_tokens = INT32_MAX, .score = scattered, .look = look_at_digest, .arg = &r};
    trace(side, &t);
    golden_ok(r.next && r.next == json_array_size(r.digests) && !r.bad, "%s: %zu digests of long runs, %zu differ",
              spec, r.next, r.bad);
}

int main(int argc, char **argv)
{
    size_t i;
    json_t *c;
    dt_side side;
    if (argc != 2) golden_die("usage: cascade SIDE");
    if (dt_side_open(argv[1], &side) != KV_OK) golden_die("%s", kv_message());
    json_t *j = golden_load("tests/golden/cascade", "cases.json");
    json_array_foreach(json_object_get(j, "states"), i, c) check_states(&side, c);
    json_array_foreach(json_object_get(j, "digests"), i, c) check_digests(&side, c);
    json_decref(j);
    dt_side_close(&side);
    return golden_done();
}
