/* blassim.c - decisions of every policy, from docs/policy/. */
#include "tests/unit/blaskit.h"

#include "common/rng.h"

#include <math.h>

void bk_sim_open(bk_sim *s, const char *policy, const kv_config *cfg)
{
    assert_ok(kv_policy_parse(policy, &s->p));
    s->n_layers = cfg->n_layers;
    s->n_sets = kv_policy_heads_agree(&s->p) ? 1 : cfg->n_kv_heads;
    s->views = calloc((size_t)(s->n_layers * s->n_sets), sizeof *s->views);
    assert_non_null(s->views);
}

void bk_sim_close(bk_sim *s)
{
    for (int i = 0; i < s->n_layers * s->n_sets; i++)
        free(s->views[i].events.v);
    free(s->views);
}

static void decide(bk_view *v, int kind, int64_t og, int64_t token, int64_t slot)
{
    kv_events_push(&v->events, (kv_event){.og = og,
                                          .token = token,
                                          .kind = kind,
                                          .slot = (int32_t)slot,
                                          .margin = INFINITY});
}

/* Takes entries i .. j - 1 out. */
static void drop(bk_view *v, int64_t i, int64_t j)
{
    memmove(v->e + i, v->e + j, (size_t)(v->n - j) * sizeof *v->e);
    v->n -= j - i;
}

/* A coin that the same question always finds on the same side. */
static int coin(int64_t a, int64_t b)
{
    return (int)kv_philox_below(5, (uint32_t)a, (uint64_t)b, 2);
}

/* ---- before a piece ------------------------------------------------------------------------------------ */

static int64_t tile(const kv_policy *p)
{
    return p->storage == KV_STORE_KVARN ? p->kvarn.tile : p->storage == KV_STORE_KIVI ? p->kivi.residual : 1;
}

static void slide(const bk_sim *s, bk_view *v, int64_t first, int64_t m)
{
    const int64_t g = tile(&s->p), over = v->n + m - s->p.sliding.cap;
    const int64_t gone = over > 0 ? (over + g - 1) / g * g : 0;
    for (int64_t i = 0; i < gone; i++)
        decide(v, KV_EVENT_EVICT, v->e[i].og, first, i);
    drop(v, 0, gone);
}

static int window_layer(const bk_sim *s, int32_t layer)
{
    const kv_xwindow_params *x = &s->p.xwindow;
    return x->cache > 0 && (x->layers == 0 || layer >= s->n_layers - x->layers);
}

static void look_at_window(const bk_sim *s, bk_view *v, int64_t ws)
{
    const int64_t cache = s->p.xwindow.cache;
    if (s->p.xwindow.ver == KV_XW_PUBLISHED) return; /* the whole list; the base is set when it was written */
    const int64_t p_min = ws > cache ? ws - cache : 0;
    v->base = ws - p_min;
    for (v->from = 0; v->from < v->n && v->e[v->from].og < p_min;)
        v->from++;
    for (v->to = v->from; v->to < v->n && v->e[v->to].og < ws;)
        v->to++;
    for (int64_t i = v->from; i < v->to; i++)
        v->e[i].pos = v->e[i].og - p_min;
}

void bk_before(bk_sim *s, int64_t first, int64_t m)
{
    const kv_policy *p = &s->p;
    const int ringed = p->selection == KV_SEL_SINK || p->selection == KV_SEL_CASCADE;
    const int sliding = p->selection == KV_SEL_SLIDING;
    for (int i = 0; i < s->n_layers * s->n_sets; i++) {
        bk_view *v = &s->views[i];
        if (sliding) slide(s, v, first, m);
        v->from = 0;
        v->to = v->n;
        if (p->selection == KV_SEL_XWINDOW) {
            look_at_window(s, v, first);
            continue;
        }
        v->base = ringed || (sliding && p->sliding.pos != KV_SLIDING_ABSOLUTE) ? v->n : first;
        if (ringed || (sliding && p->sliding.pos == KV_SLIDING_REROTATE))
            for (int64_t e = 0; e < v->n; e++)
                v->e[e].pos = e;
    }
}

/* ---- after it --------------------------------------------------------------------------------------------- */

static void append(bk_view *v, int64_t og, int64_t pos, int64_t row)
{
    v->e[v->n++] = (bk_entry){og, pos, row};
}

static void append_all(const bk_sim *s, bk_view *v, int64_t first, int64_t m)
{
    const int64_t before = v->n, R = tile(&s->p), lag = s->p.storage == KV_STORE_KIVI ? R : INT64_MAX;
    for (int64_t x = 0; x < m; x++) {
        decide(v, KV_EVENT_ADMIT, first + x, first + x, s->p.selection == KV_SEL_FULL ? first + x : v->n);
        append(v, first + x, v->base + x, first + x);
    }
    for (int64_t i = before / R * R; R > 1 && i + R <= v->n; i += R)
        decide(v, KV_EVENT_SEAL, v->e[i].og, v->e[i].og + R - 1, i);
    for (int64_t i = before > lag ? before - lag : 0; lag < INT64_MAX && i < v->n - lag; i++)
        decide(v, KV_EVENT_SEAL, v->e[i].og + (INT64_C(1) << 62), v->e[i].og, i);
}

/* The ring walk of docs/policy/cascade.md; sink is the case of one ring. */
static void insert_token(const bk_sim *s, bk_view *v, int64_t t)
{
    const int cascade = s->p.selection == KV_SEL_CASCADE;
    const int64_t S = cascade ? s->p.cascade.sinks : s->p.sink.sinks, N = cascade ? s->p.cascade.n : 1;
    const int64_t W = cascade ? s->p.cascade.window : s->p.sink.cap;
    bk_entry cur = {t, 0, t};
    int64_t held = -1; /* slot of cur before this insertion */
    if (t < S) {
        decide(v, KV_EVENT_ADMIT, t, t, t);
        append(v, t, 0, t); /* sinks stay in front: nothing else is there yet */
        return;
    }
    for (int64_t i = 0, a = 1; i < N; i++, a *= 2) { /* accept=pow2 */
        const int accepts = (cascade && s->p.cascade.eager && t <= S + N * W) || (t - S) % a == 0;
        const int64_t cnt = v->count[i], k = cnt < W && (accepts || cnt == 0) ? v->start[i] + cnt : v->start[i];
        const int64_t newest = (v->start[i] + cnt + W - 1) % W, slot = S + i * W;
        const bk_entry old = v->ring[i][accepts ? k : newest];
        const int wins = accepts || cnt == 0 || coin(old.og, cur.og + i);
        const int64_t at = accepts || cnt == 0 ? k : newest;
        if (wins) decide(v, i ? KV_EVENT_MOVE : KV_EVENT_ADMIT, cur.og, t, slot + at);
        if (wins) v->ring[i][at] = cur;
        if (cnt < W && (accepts || cnt == 0)) {
            v->count[i]++;
            return;
        }
        if (!accepts) {
            decide(v, KV_EVENT_EVICT, wins ? old.og : cur.og, t, wins ? slot + at : held);
            return;
        }
        v->start[i] = (int32_t)((v->start[i] + 1) % W);
        cur = old;
        held = slot + at;
    }
    decide(v, KV_EVENT_EVICT, cur.og, t, held);
}

/* Sinks, the last ring from its oldest on, ..., ring 0. */
static void line_up(const bk_sim *s, bk_view *v)
{
    const int cascade = s->p.selection == KV_SEL_CASCADE;
    const int64_t S = cascade ? s->p.cascade.sinks : s->p.sink.sinks, N = cascade ? s->p.cascade.n : 1;
    const int64_t W = cascade ? s->p.cascade.window : s->p.sink.cap;
    v->n = v->n < S ? v->n : S;
    for (int64_t i = N - 1; i >= 0; i--)
        for (int64_t k = 0; k < v->count[i]; k++)
            v->e[v->n++] = v->ring[i][(v->start[i] + k) % W];
}

/* Entries that a layer's head keeps: by chance under pyramid, the page's number elsewhere. */
static int64_t budget(const bk_sim *s, int32_t layer, int64_t first)
{
    switch (s->p.selection) {
    case KV_SEL_H2O:
        return s->p.h2o.cap;
    case KV_SEL_TOVA:
        return s->p.tova.cap;
    default:
        return first > 0 ? BK_ROWS : s->p.snapkv.cap - (s->p.selection == KV_SEL_PYRAMID ? layer : 0);
    }
}

static void rank(const bk_sim *s, bk_view *v, int32_t layer, int64_t first, int64_t m)
{
    const int64_t stored = v->n, keep = budget(s, layer, first);
    uint8_t dead[BK_ROWS] = {0};
    for (int64_t x = 0; x < m; x++)
        append(v, first + x, v->base + x, first + x);
    for (int64_t n = v->n, turn = 0; n > keep; turn++)
        if (!dead[turn % v->n] && coin(first * 1000 + (v - s->views), turn)) {
            dead[turn % v->n] = 1;
            n--;
        }
    for (int64_t i = 0; i < v->n; i++)
        if (dead[i]) decide(v, KV_EVENT_EVICT, v->e[i].og, first + m - 1, i);
    int64_t rank = 0;
    for (int64_t i = 0; i < v->n; i++) {
        if (i >= stored) decide(v, KV_EVENT_ADMIT, v->e[i].og, v->e[i].og, dead[i] ? -1 : rank);
        rank += !dead[i];
    }
    for (int64_t i = v->n - 1; i >= 0; i--)
        if (dead[i]) drop(v, i, i + 1);
}

static void record_window(const bk_sim *s, bk_view *v, int64_t ws, int64_t m, int64_t row0, int64_t seen)
{
    const kv_xwindow_params *x = &s->p.xwindow;
    const int published = x->ver == KV_XW_PUBLISHED;
    const int64_t end = ws + m, fresh = published ? (x->stride < m ? x->stride : m) : end - seen;
    int64_t gone = 0;
    for (int64_t og = end - fresh; og < end; og++)
        append(v, og, published ? v->base + og - ws : og, row0 + og - ws);
    if (published)
        gone = v->n > x->cache ? v->n - x->cache : 0;
    else
        while (gone < v->n && v->e[gone].og < ws + x->stride - x->cache)
            gone++;
    for (int64_t i = 0; i < gone; i++)
        decide(v, KV_EVENT_EVICT, v->e[i].og, end - 1, i);
    drop(v, 0, gone);
    for (int64_t i = v->n - fresh; i < v->n; i++)
        decide(v, KV_EVENT_ADMIT, v->e[i].og, end - 1, i);
}

void bk_after(bk_sim *s, int64_t first, int64_t m, int64_t row0, int64_t seen)
{
    for (int i = 0; i < s->n_layers * s->n_sets; i++) {
        bk_view *v = &s->views[i];
        const int32_t layer = i / s->n_sets;
        switch (s->p.selection) {
        case KV_SEL_FULL:
        case KV_SEL_SLIDING:
            append_all(s, v, first, m);
            break;
        case KV_SEL_SINK:
        case KV_SEL_CASCADE:
            for (int64_t t = first; t < first + m; t++)
                insert_token(s, v, t);
            line_up(s, v);
            break;
        case KV_SEL_XWINDOW:
            if (window_layer(s, layer)) record_window(s, v, first, m, row0, seen);
            if (s->p.xwindow.ver == KV_XW_PUBLISHED)
                v->base = first + m < s->p.xwindow.cache ? first + m : s->p.xwindow.cache;
            break;
        default:
            rank(s, v, layer, first, m);
        }
    }
}

int64_t bk_piece(const bk_sim *s, int64_t seen, int64_t n, int64_t at)
{
    const int64_t prompt = kv_policy_first_step(&s->p), g = tile(&s->p), cap = s->p.sliding.cap, left = n - at;
    if (prompt && seen + at == 0) return left < prompt ? left : prompt;
    if (s->p.selection != KV_SEL_SLIDING || n <= (g > 1 ? cap - g + 1 : cap)) return left;
    return left < cap / 2 ? left : cap / 2;
}
