#include "difftest/coverage.h"

#include "common/tile.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name, *about;
} cells[] = {
#define X(symbol, name, about) {name, about},
#include "difftest/coverage.def"
#undef X
};

const char *dt_cell_name(int cell) { return cells[cell].name; }
const char *dt_cell_about(int cell) { return cells[cell].about; }

void dt_coverage_begin(dt_coverage *c, const kv_policy *policy, int32_t n_layers)
{
    *c = (dt_coverage){.policy = policy};
    if (policy->selection == KV_SEL_XWINDOW && policy->xwindow.layers) c->layer = n_layers - policy->xwindow.layers;
}

void dt_coverage_reset(dt_coverage *c)
{
    c->seen = 0;
    c->resident = 0;
    c->evicted = 0;
}

/* ---- what a step was like ---------------------------------------------------------------------------- */

typedef struct look {
    int32_t n;                /* tokens of the step */
    int64_t before, after;    /* residents */
    int64_t evicts, admits;   /* in the layer that is counted, KV head 0 or all */
    int64_t key_seals, value_seals;
    int64_t fewest, most;     /* evictions of one (layer, head) list */
    int own, newest, tie, blind; /* blind: an eviction that no score decided */
} look;

/* One list: decisions of one layer and head. */
static void look_at_list(const dt_coverage *c, const kv_event *v, size_t n, look *l)
{
    const int counted = v->layer == c->layer && v->head <= 0;
    int64_t evicts = 0;
    for (size_t i = 0; i < n; i++) {
        const int evict = v[i].kind == KV_EVENT_EVICT;
        evicts += evict;
        l->own |= evict && v[i].og >= c->seen;
        l->newest |= evict && v[i].og == v[i].token && v[i].og == c->seen + l->n - 1;
        l->tie |= evict && v[i].margin == 0;
        l->blind |= evict && isinf(v[i].margin);
        if (!counted) continue;
        l->evicts += evict;
        l->admits += v[i].kind == KV_EVENT_ADMIT;
        l->key_seals += v[i].kind == KV_EVENT_SEAL && v[i].og < KV_KIVI_V;
        l->value_seals += v[i].kind == KV_EVENT_SEAL && v[i].og >= KV_KIVI_V;
    }
    if (l->fewest < 0 || evicts < l->fewest) l->fewest = evicts;
    if (evicts > l->most) l->most = evicts;
}

static size_t list_end(const kv_events *e, size_t i)
{
    size_t end = i;
    while (end < e->n && e->v[end].layer == e->v[i].layer && e->v[end].head == e->v[i].head)
        end++;
    return end;
}

static look look_at(const dt_coverage *c, const kv_step *step, const kv_events *e)
{
    look l = {.n = step->n, .before = c->resident, .fewest = -1};
    for (size_t i = 0, end; i < e->n; i = end) {
        end = list_end(e, i);
        look_at_list(c, e->v + i, end - i, &l);
    }
    l.after = l.before + l.admits - l.evicts;
    return l;
}

static void count(dt_coverage *c, int cell, int visited) { c->n[cell] += visited != 0; }

/* ---- selections -------------------------------------------------------------------------------------- */

enum { CHUNK = 256 }; /* docs/numerics.md, section 4 */

static void count_full(dt_coverage *c, const look *l)
{
    const int64_t end = c->seen + l->n;
    const int edge = end % CHUNK == 0, across = c->seen / CHUNK != (end - 1) / CHUNK;
    count(c, DT_CELL_FULL_EDGE, edge);
    count(c, DT_CELL_FULL_ACROSS, across);
    count(c, DT_CELL_FULL_WITHIN, !across && !edge);
}

static void count_sliding(dt_coverage *c, const look *l)
{
    static const int filling[] = {[KV_SLIDING_REROTATE] = DT_CELL_REROTATE_FILLING,
                                  [KV_SLIDING_ABSOLUTE] = DT_CELL_ABSOLUTE_FILLING,
                                  [KV_SLIDING_SATURATE] = DT_CELL_SATURATE_FILLING};
    const int base = filling[c->policy->sliding.pos] - DT_CELL_REROTATE_FILLING;
    count(c, base + DT_CELL_REROTATE_FILLING, !c->evicted && !l->evicts);
    count(c, base + DT_CELL_REROTATE_FIRST, !c->evicted && l->evicts);
    count(c, base + DT_CELL_REROTATE_SLIDING, c->evicted && l->evicts);
    count(c, base + DT_CELL_REROTATE_WHOLE, l->before && l->evicts == l->before && l->n == c->policy->sliding.cap);
    count(c, base + DT_CELL_REROTATE_PIECES, l->n > c->policy->sliding.cap);
}

static void count_sink(dt_coverage *c, const look *l)
{
    const kv_sink_params *p = &c->policy->sink;
    count(c, DT_CELL_SINK_SINKS, c->seen < p->sinks);
    count(c, DT_CELL_SINK_FILLING, !c->evicted && !l->evicts);
    count(c, DT_CELL_SINK_FIRST, !c->evicted && l->evicts);
    count(c, DT_CELL_SINK_WRAPPED, c->seen + l->n > (int64_t)p->sinks + 2 * (int64_t)p->cap);
    count(c, DT_CELL_SINK_OWN, l->own);
}

static void count_top(dt_coverage *c, const look *l, int filling, int64_t cap)
{
    enum { FILLING, AT, FIRST, LATER };
    count(c, filling + FILLING, !c->evicted && l->after < cap);
    count(c, filling + AT, !c->evicted && !l->most && l->after == cap);
    count(c, filling + FIRST, !c->evicted && l->most);
    count(c, filling + LATER, c->evicted && l->most);
}

static void count_h2o(dt_coverage *c, const look *l)
{
    count_top(c, l, DT_CELL_H2O_FILLING, c->policy->h2o.cap);
    count(c, DT_CELL_H2O_OWN, l->own);
    count(c, DT_CELL_H2O_TIE, l->tie);
    count(c, DT_CELL_H2O_ONE, l->most && l->n == 1);
    count(c, DT_CELL_H2O_MANY, l->most && l->n > 1);
}

static void count_tova(dt_coverage *c, const look *l)
{
    count_top(c, l, DT_CELL_TOVA_FILLING, c->policy->tova.cap);
    count(c, DT_CELL_TOVA_OWN, l->own);
    count(c, DT_CELL_TOVA_NEWEST, l->newest);
    count(c, DT_CELL_TOVA_TIE, l->tie);
    count(c, DT_CELL_TOVA_ONE, l->most && l->n == 1);
    count(c, DT_CELL_TOVA_MANY, l->most && l->n > 1);
}

static void count_dilated(dt_coverage *c, const look *l)
{
    count(c, DT_CELL_DILATED_FILLING, !c->evicted && !l->evicts);
    count(c, DT_CELL_DILATED_FIRST, !c->evicted && l->evicts);
    count(c, DT_CELL_DILATED_LATER, c->evicted && l->evicts);
    count(c, DT_CELL_DILATED_OWN, l->own);
    count(c, DT_CELL_DILATED_KEPT, c->evicted && !l->evicts && l->n == 1);
}

static void count_prompt(dt_coverage *c, const look *l)
{
    const kv_snapkv_params *p = &c->policy->snapkv;
    const int compresses = p->prompt >= p->cap;
    if (c->policy->selection == KV_SEL_SNAPKV) {
        count(c, DT_CELL_SNAPKV_SHORT, c->seen == 0 && !compresses);
        count(c, DT_CELL_SNAPKV_COMPRESS, l->most > 0);
        count(c, DT_CELL_SNAPKV_TIE, l->tie);
        count(c, DT_CELL_SNAPKV_LATER, c->evicted);
        return;
    }
    count(c, DT_CELL_PYRAMID_SHORT, c->seen == 0 && !compresses);
    count(c, DT_CELL_PYRAMID_FLAT, l->most > 0 && l->fewest == l->most);
    count(c, DT_CELL_PYRAMID_SHRINK, l->most > 0 && l->fewest < l->most);
    count(c, DT_CELL_PYRAMID_NONE, l->blind);
    count(c, DT_CELL_PYRAMID_TIE, l->tie);
    count(c, DT_CELL_PYRAMID_LATER, c->evicted);
}

static void count_xwindow(dt_coverage *c, const kv_step *step, const look *l)
{
    const kv_xwindow_params *p = &c->policy->xwindow;
    const int later = step->pos0 > 0;
    count(c, DT_CELL_XWINDOW_FIRST, !later);
    count(c, DT_CELL_XWINDOW_REGULAR, later && l->n == p->window);
    count(c, DT_CELL_XWINDOW_CLIPPED, later && l->n < p->window);
    count(c, DT_CELL_XWINDOW_PLAIN, later && p->cache == 0);
    count(c, DT_CELL_XWINDOW_EMPTY, p->cache && l->before == 0);
    count(c, DT_CELL_XWINDOW_FILLING, p->cache && l->before && !c->evicted && !l->evicts);
    count(c, DT_CELL_XWINDOW_FULL, p->cache && l->before && l->evicts);
    count(c, DT_CELL_XWINDOW_SOME, later && p->cache && p->layers > 0);
    count(c, DT_CELL_XWINDOW_PUBLISHED, later && p->cache && p->ver == KV_XW_PUBLISHED);
}

/* ---- cascade ------------------------------------------------------------------------------------------- */

static int at_most(int i, int most) { return i < most ? i : most; }

/* What an eviction says by itself: a duel shows by its margin. */
static void count_eviction(dt_coverage *c, const kv_event *v, int32_t n)
{
    const int by_score = !isinf(v->margin);
    count(c, DT_CELL_CASCADE_TIE, by_score && v->margin == 0);
    count(c, DT_CELL_CASCADE_ONE, by_score && n == 1);
    count(c, DT_CELL_CASCADE_MANY, by_score && n > 1);
    count(c, DT_CELL_CASCADE_OWN, v->og >= c->seen);
}

/* v[0] puts a token into a ring, whose newest it now is. When more follows, it is in the place of another token: of the
 * ring's newest, which lost a duel, or of its oldest, which goes on. The first is returned as 1. */
static int count_place(dt_coverage *c, const kv_event *v, size_t left)
{
    const kv_cascade_params *p = &c->policy->cascade;
    if (v->slot < p->sinks) {
        count(c, DT_CELL_CASCADE_SINKS, 1);
        return 0;
    }
    const int ring = (v->slot - p->sinks) / p->window;
    const int64_t newest = c->newest[ring];
    const int goes_on = left > 1 && v[1].token == v->token;
    const int won = goes_on && ring > 0 && v[1].kind == KV_EVENT_EVICT && v[1].slot == v->slot && v[1].og == newest;
    c->newest[ring] = v->og;
    if (v->kind == KV_EVENT_MOVE) count(c, DT_CELL_CASCADE_ENTER1 + at_most(ring - 1, 2), 1);
    count(c, DT_CELL_CASCADE_ROTATE0 + at_most(ring, 2), goes_on && !won);
    count(c, DT_CELL_CASCADE_LAP, ring == 0 && v->token - p->sinks >= 2 * (int64_t)p->window);
    return won;
}

/* The walks of the tokens through the rings, which are followed in one list only. */
static void count_walks(dt_coverage *c, const kv_event *v, size_t n)
{
    const int ema = c->policy->cascade.select == KV_SELECT_EMA;
    int won = 0;
    for (size_t k = 0; k < n; k++) {
        if (v[k].kind != KV_EVENT_EVICT) {
            won = count_place(c, v + k, n - k);
            continue;
        }
        const int by_score = !isinf(v[k].margin);
        count(c, DT_CELL_CASCADE_WON, by_score && won);
        count(c, DT_CELL_CASCADE_LOST, by_score && !won);
        count(c, DT_CELL_CASCADE_DROP, !by_score && ema);
    }
}

static void count_cascade(dt_coverage *c, const look *l, const kv_events *e)
{
    const int32_t select = c->policy->cascade.select;
    int moved = 0;
    for (size_t i = 0, end; i < e->n; i = end) {
        const kv_event *v = e->v + i;
        end = list_end(e, i);
        count(c, v->head >= 0 ? DT_CELL_CASCADE_APART : DT_CELL_CASCADE_TOGETHER, 1);
        for (size_t k = 0; k < end - i; k++) {
            moved |= v[k].kind != KV_EVENT_ADMIT;
            if (v[k].kind == KV_EVENT_EVICT) count_eviction(c, v + k, l->n);
        }
        if (v->layer == 0 && v->head <= 0) count_walks(c, v, end - i);
    }
    count(c, DT_CELL_CASCADE_FILLING, !c->evicted && !moved);
    count(c, DT_CELL_CASCADE_NEWEST, moved && select == KV_SELECT_NEWEST);
    count(c, DT_CELL_CASCADE_OLDEST, moved && select == KV_SELECT_OLDEST);
}

/* ---- storages -------------------------------------------------------------------------------------------- */

static int keeps_raw_keys(const kv_policy *p)
{
    return p->selection == KV_SEL_SINK || p->selection == KV_SEL_CASCADE ||
           (p->selection == KV_SEL_SLIDING && p->sliding.pos == KV_SLIDING_REROTATE) ||
           (p->selection == KV_SEL_XWINDOW && p->xwindow.ver == KV_XW_FIXED);
}

/* Tiles of T tokens, whose edges are multiples of T of the original index. */
static void count_tiles(dt_coverage *c, const look *l, int tail, int32_t T)
{
    enum { TAIL, TILE, TILES };
    const int64_t left = (c->seen + l->n) % T;
    const int kvarn = tail == DT_CELL_KVARN_TAIL, sliding = c->policy->selection == KV_SEL_SLIDING;
    count(c, tail + TAIL, l->key_seals == 0);
    count(c, tail + TILE, l->key_seals == 1);
    count(c, tail + TILES, l->key_seals > 1);
    count(c, kvarn ? DT_CELL_KVARN_BEFORE : DT_CELL_KIVI_BEFORE, left == T - 1);
    count(c, kvarn ? DT_CELL_KVARN_EDGE : DT_CELL_KIVI_EDGE, left == 0);
    count(c, kvarn ? DT_CELL_KVARN_AFTER : DT_CELL_KIVI_AFTER, left == 1 && c->seen + l->n > T);
    count(c, kvarn ? DT_CELL_KVARN_DROP : DT_CELL_KIVI_DROP, l->evicts > 0);
    count(c, kvarn ? DT_CELL_KVARN_PIECES : DT_CELL_KIVI_PIECES, sliding && l->n > c->policy->sliding.cap - T + 1);
}

static void count_storage(dt_coverage *c, const look *l)
{
    const int raw = keeps_raw_keys(c->policy);
    switch (c->policy->storage) {
    case KV_STORE_F16:
        count(c, raw ? DT_CELL_F16_RAW : DT_CELL_F16_ROTATED, 1);
        break;
    case KV_STORE_BF16:
        count(c, raw ? DT_CELL_BF16_RAW : DT_CELL_BF16_ROTATED, 1);
        break;
    case KV_STORE_KVARN:
        count_tiles(c, l, DT_CELL_KVARN_TAIL, c->policy->kvarn.tile);
        break;
    case KV_STORE_KIVI:
        count_tiles(c, l, DT_CELL_KIVI_TAIL, c->policy->kivi.residual);
        count(c, DT_CELL_KIVI_VALUES, l->value_seals && !l->key_seals);
        break;
    }
}

/* ---- a step ------------------------------------------------------------------------------------------------ */

static void count_selection(dt_coverage *c, const kv_step *step, const kv_events *events, const look *l)
{
    switch (c->policy->selection) {
    case KV_SEL_FULL:
        count_full(c, l);
        break;
    case KV_SEL_SLIDING:
        count_sliding(c, l);
        break;
    case KV_SEL_SINK:
        count_sink(c, l);
        break;
    case KV_SEL_CASCADE:
        count_cascade(c, l, events);
        break;
    case KV_SEL_H2O:
        count_h2o(c, l);
        break;
    case KV_SEL_TOVA:
        count_tova(c, l);
        break;
    case KV_SEL_DILATED:
        count_dilated(c, l);
        break;
    case KV_SEL_SNAPKV:
    case KV_SEL_PYRAMID:
        count_prompt(c, l);
        break;
    case KV_SEL_XWINDOW:
        count_xwindow(c, step, l);
        break;
    }
}

void dt_coverage_step(dt_coverage *c, const kv_step *step, const kv_events *events)
{
    const look l = look_at(c, step, events);
    count_selection(c, step, events, &l);
    count_storage(c, &l);
    c->seen = step->flags & KV_STEP_RECOMPUTE ? step->pos0 + step->n : c->seen + step->n;
    c->resident = l.after;
    for (size_t i = 0; i < events->n; i++)
        c->evicted |= events->v[i].kind == KV_EVENT_EVICT || events->v[i].kind == KV_EVENT_MOVE;
}
