#include "tests/golden/duels.h"

#include <stdlib.h>

/* The rings as the events move tokens through them. */
typedef struct board {
    const kv_cascade_params *p;
    int64_t *at; /* [sinks + cap] token of a canonical slot, -1 */
    const json_t *rows;
    size_t n; /* duels seen */
    size_t bad;
    size_t first_bad;
} board;

static int32_t ring_of(const board *b, int32_t slot)
{
    return slot < b->p->sinks ? -1 : (slot - b->p->sinks) / b->p->window;
}

static int accepts(const board *b, int32_t ring, int64_t t)
{
    return (b->p->eager && t <= b->p->sinks + b->p->cap) || (t - b->p->sinks) % (INT64_C(1) << ring) == 0;
}

/* Tokens of a ring are in time order, so the newest has the highest index. */
static int64_t newest(const board *b, int32_t ring)
{
    int64_t og = -1;
    for (int32_t k = 0; k < b->p->window; k++) {
        const int64_t x = b->at[b->p->sinks + ring * b->p->window + k];
        if (x > og) og = x;
    }
    return og;
}

static void duel(board *b, int64_t token, int32_t ring, int64_t incoming, int64_t resident, int won)
{
    const int64_t got[5] = {token, ring, incoming, resident, won};
    const json_t *row = json_array_get(b->rows, b->n++);
    for (size_t i = 0; i < 5; i++)
        if (!row || json_integer_value(json_array_get(row, i)) != got[i]) {
            if (!b->bad++) b->first_bad = b->n - 1;
            return;
        }
}

/* An EVICT behind `placed`, the event that took the slot which the loser held: the newcomer of a ring that does
 * not accept won there; else what it pushed out lost in the next ring, or fell out behind the last. */
static void settle(board *b, const kv_event *placed, int64_t pushed, const kv_event *evict)
{
    const int32_t ring = ring_of(b, placed->slot);
    if (ring > 0 && !accepts(b, ring, evict->token))
        duel(b, evict->token, ring, placed->og, evict->og, 1);
    else if (ring + 1 < b->p->n)
        duel(b, evict->token, ring + 1, pushed, newest(b, ring + 1), 0);
}

void golden_duels(const kv_events *events, const kv_cascade_params *p, const json_t *rows, const char *name)
{
    board b = {.p = p, .rows = rows};
    const kv_event *placed = NULL;
    int64_t pushed = -1;
    b.at = malloc((size_t)(p->sinks + p->cap) * sizeof *b.at);
    if (!b.at) golden_die("out of memory");
    for (int32_t i = 0; i < p->sinks + p->cap; i++)
        b.at[i] = -1;
    for (size_t i = 0; i < events->n; i++) {
        const kv_event *e = &events->v[i];
        if (e->layer != 0 || e->head > 0) continue;
        if (e->slot < 0 || e->slot >= p->sinks + p->cap) golden_die("%s: event at slot %d", name, e->slot);
        if (e->kind == KV_EVENT_EVICT) {
            if (placed) settle(&b, placed, pushed, e);
            continue;
        }
        placed = e;
        pushed = b.at[e->slot];
        b.at[e->slot] = e->og;
    }
    golden_ok(!b.bad && b.n == json_array_size(rows), "%s: %zu duels of %zu (%zu wrong, the first is number %zu)", name,
              b.n, json_array_size(rows), b.bad, b.first_bad);
    free(b.at);
}
