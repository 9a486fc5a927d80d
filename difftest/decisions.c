#include "difftest/decisions.h"

#include "common/state.h"

#include <math.h>
#include <string.h>

int dt_decides_by_score(const kv_policy *p)
{
    switch (p->selection) {
    case KV_SEL_CASCADE:
        return p->cascade.select == KV_SELECT_EMA;
    case KV_SEL_H2O:
    case KV_SEL_TOVA:
    case KV_SEL_SNAPKV:
    case KV_SEL_PYRAMID:
        return 1;
    default:
        return 0;
    }
}

static int same_event(const kv_event *a, const kv_event *b, int exact)
{
    if (exact || !isfinite(a->margin) || !isfinite(b->margin)) return memcmp(a, b, sizeof *a) == 0;
    kv_event c = *b;
    c.margin = a->margin;
    return memcmp(a, &c, sizeof c) == 0;
}

int dt_decisions_same(const kv_events *ref, const kv_events *got, int exact)
{
    if (ref->n != got->n) return 0;
    for (size_t i = 0; i < ref->n; i++)
        if (!same_event(&ref->v[i], &got->v[i], exact)) return 0;
    return 1;
}

/* ---- how close a decision was ---------------------------------------------------------------------------- */

/* Decisions of one layer and head. */
typedef struct list {
    const kv_event *v;
    size_t n;
} list;

typedef struct judge {
    const kv_policy *policy;
    void *state;
} judge;

static kv_state_view run_of(void *state, int32_t layer, int32_t head)
{
    kv_state_head h;
    memcpy(&h, state, sizeof h);
    size_t offset = sizeof h;
    kv_state_view v = {0};
    for (int64_t i = 0; i <= (int64_t)layer * h.n_kv_heads + (head < 0 ? 0 : head); i++)
        v = kv_state_place(&h, state, &offset, -1, 0);
    return v;
}

/* The reference's score of a token that the device let go. Where it has left the reference's cache as well, later in the
 * step, the highest score there stands in for it. */
static double score_of(const kv_state_view *v, int64_t og)
{
    double highest = 0;
    for (int32_t i = 0; i < v->run->n; i++) {
        if (v->og[i] == og) return fabs((double)v->score[i]);
        if (fabs((double)v->score[i]) > highest) highest = fabs((double)v->score[i]);
    }
    return highest;
}

/* Policies that export no scores: theirs are shares of 1, so the lowest of k kept ones is at most 1/k. */
static double largest_lowest(const kv_policy *p, const list *ref)
{
    int64_t evicts = 0;
    for (size_t i = 0; i < ref->n; i++)
        evicts += ref->v[i].kind == KV_EVENT_EVICT;
    const int64_t kept = p->selection == KV_SEL_TOVA ? p->tova.cap : p->snapkv.prompt - evicts - p->snapkv.window;
    return kept > 0 ? 1.0 / (double)kept : 1.0;
}

/* The largest margin at which the eviction of `og` instead of the reference's choice is a tie. */
static double allowed(const judge *j, const list *ref, int64_t og)
{
    const kv_state_view v = run_of(j->state, ref->v->layer, ref->v->head);
    const double scale = v.score ? score_of(&v, og) : largest_lowest(j->policy, ref);
    return DT_TIE_ULPS * 0x1p-24 * scale;
}

static int close_call(const kv_event *e, double limit)
{
    return e->margin >= 0 && (double)e->margin <= limit; /* false for NaN and infinity */
}

/* ---- ties of one list ---------------------------------------------------------------------------------------- */

static size_t first_difference(const list *ref, const list *got, int exact)
{
    size_t i = 0;
    while (i < ref->n && i < got->n && same_event(&ref->v[i], &got->v[i], exact))
        i++;
    return i;
}

/* The eviction that ends the insertion of the token of v[i], NULL when there is none. */
static const kv_event *eviction_from(const list *l, size_t i)
{
    const int64_t token = l->v[i].token;
    for (; i < l->n && l->v[i].token == token; i++)
        if (l->v[i].kind == KV_EVENT_EVICT) return &l->v[i];
    return NULL;
}

/* Cascade: the sides part at a duel, where each lets the other's winner go. What the list says afterwards follows from
 * it. */
static int64_t tie_of_duel(const judge *j, const list *ref, const list *got, size_t at)
{
    if (at == ref->n || at == got->n || ref->v[at].token != got->v[at].token) return -1;
    const kv_event *lost = eviction_from(ref, at), *gone = eviction_from(got, at);
    if (!lost || !gone || lost->og == gone->og) return -1;
    /* the incoming token moves in on one side and leaves at once on the other */
    const int ref_moves = ref->v[at].kind == KV_EVENT_MOVE && ref->v[at].og == gone->og && &got->v[at] == gone;
    const int got_moves = got->v[at].kind == KV_EVENT_MOVE && got->v[at].og == lost->og && &ref->v[at] == lost;
    const double limit = allowed(j, ref, gone->og);
    return (ref_moves || got_moves) && close_call(lost, limit) && close_call(gone, limit) ? 1 : -1;
}

static const kv_event *find_eviction(const list *l, int64_t og)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].kind == KV_EVENT_EVICT && l->v[i].og == og) return &l->v[i];
    return NULL;
}

/* The same number of every kind, and the same tokens admitted. */
static int same_form(const list *ref, const list *got)
{
    if (ref->n != got->n) return 0;
    for (size_t i = 0; i < ref->n; i++) {
        const kv_event *r = &ref->v[i], *g = &got->v[i];
        if (r->kind != g->kind || r->token != g->token) return 0;
        if (r->kind != KV_EVENT_EVICT && r->og != g->og) return 0;
    }
    return 1;
}

/* The highest stay: tokens that only one side lets go are ties when all of them were close calls, by both sides' own
 * margins. */
static int64_t ties_of_top(const judge *j, const list *ref, const list *got)
{
    if (!same_form(ref, got)) return -1;
    double limit = (double)INFINITY;
    for (size_t i = 0; i < got->n; i++) {
        const kv_event *g = &got->v[i];
        if (g->kind != KV_EVENT_EVICT || find_eviction(ref, g->og)) continue;
        const double own = allowed(j, ref, g->og);
        if (own < limit) limit = own;
    }
    int64_t ties = 0;
    for (size_t i = 0; i < ref->n; i++) {
        const kv_event *r = &ref->v[i], *g = &got->v[i];
        if (r->kind != KV_EVENT_EVICT) continue;
        if (!find_eviction(got, r->og) && (ties++, !close_call(r, limit))) return -1;
        if (!find_eviction(ref, g->og) && !close_call(g, limit)) return -1;
    }
    return ties > 0 ? ties : -1;
}

/* Number of ties that explain the difference, -1: nothing does. */
static int64_t explain(const judge *j, const list *ref, const list *got, size_t at)
{
    if (!j->state || !dt_decides_by_score(j->policy)) return -1;
    return j->policy->selection == KV_SEL_CASCADE ? tie_of_duel(j, ref, got, at) : ties_of_top(j, ref, got);
}

/* ---- all lists of a step --------------------------------------------------------------------------------------- */

static list list_at(const kv_events *e, size_t i)
{
    list l = {e->v + i, 0};
    while (i + l.n < e->n && l.v[l.n].layer == l.v->layer && l.v[l.n].head == l.v->head)
        l.n++;
    return l;
}

dt_decisions dt_decisions_judge(const kv_policy *p, const kv_events *ref, const kv_events *got, void *state)
{
    const judge j = {p, state};
    const int exact = state == NULL;
    dt_decisions d = {0};
    size_t r = 0, g = 0;
    while (r < ref->n || g < got->n) {
        const list a = list_at(ref, r), b = list_at(got, g);
        size_t at = 0;
        int64_t ties = -1;
        if (a.n && b.n && a.v->layer == b.v->layer && a.v->head == b.v->head) {
            at = first_difference(&a, &b, exact);
            ties = at == a.n && at == b.n ? 0 : explain(&j, &a, &b, at);
        }
        if (ties < 0) {
            d.broken = 1;
            d.ref_at = r + at;
            d.got_at = g + at;
            return d;
        }
        d.ties += ties;
        r += a.n;
        g += b.n;
    }
    return d;
}
