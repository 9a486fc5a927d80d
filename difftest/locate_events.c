/* locate_events.c - what two lists of decisions say when they differ. */
#include "difftest/locate_state.h"

#include "common/tile.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int same(const kv_event *a, const kv_event *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static int same_but_margin(const kv_event *a, const kv_event *b)
{
    kv_event c = *b;
    c.margin = a->margin;
    return same(a, &c);
}

static int same_but_slot(const kv_event *a, const kv_event *b)
{
    kv_event c = *b;
    c.slot = a->slot;
    return same(a, &c);
}

static int contains(const kv_events *l, const kv_event *e)
{
    for (size_t i = 0; i < l->n; i++)
        if (same(&l->v[i], e)) return 1;
    return 0;
}

static int same_set(const kv_events *a, const kv_events *b)
{
    int all = a->n == b->n;
    for (size_t i = 0; all && i < a->n; i++)
        all = contains(b, &a->v[i]) && contains(a, &b->v[i]);
    return all;
}

void dt_events_compare(const kv_events *ref, const kv_events *got, dt_event_diff *d)
{
    *d = (dt_event_diff){0};
    while (d->at < ref->n && d->at < got->n && same(&ref->v[d->at], &got->v[d->at]))
        d->at++;
    if (d->at < ref->n) d->ref = &ref->v[d->at];
    if (d->at < got->n) d->got = &got->v[d->at];
    d->only_order = (d->ref || d->got) && same_set(ref, got);
    d->only_margin = d->only_slot = ref->n == got->n;
    for (size_t i = d->at; i < ref->n && ref->n == got->n; i++) {
        d->only_margin &= same_but_margin(&ref->v[i], &got->v[i]);
        d->only_slot &= same_but_slot(&ref->v[i], &got->v[i]);
    }
}

/* ---- scores ----------------------------------------------------------------------------------------------- */

/* A token that both caches hold after the step with other scores; -1: none. Only where scores are exported. */
static int64_t other_score(const void *ref, const void *got, int32_t layer, int32_t head, float *a, float *b)
{
    const kv_state_view r = dt_state_run(ref, layer, head < 0 ? 0 : head),
                        g = dt_state_run(got, layer, head < 0 ? 0 : head);
    for (int32_t i = 0; r.score && g.score && i < r.run->n; i++)
        for (int32_t j = 0; j < g.run->n; j++)
            if (r.og[i] == g.og[j] && memcmp(&r.score[i], &g.score[j], sizeof *a) != 0) {
                *a = r.score[i];
                *b = g.score[j];
                return r.og[i];
            }
    return -1;
}

static const kv_event *eviction_of(const kv_events *l, const kv_event *like)
{
    for (size_t i = 0; i < l->n; i++) {
        const kv_event *e = &l->v[i];
        if (e->kind == KV_EVENT_EVICT && e->og == like->og && e->layer == like->layer && e->head == like->head)
            return e;
    }
    return NULL;
}

/* Policies whose scores are not carried: the margins of tokens that leave on both sides are their scores, up to one
 * number for all. That number differs when another token is the lowest that stays; the scores differ when it is not one
 * number. */
static int margins_disagree(const kv_events *ref, const kv_events *got, const kv_event *where)
{
    double first = (double)NAN;
    int64_t n = 0;
    for (size_t i = 0; i < ref->n; i++) {
        const kv_event *r = &ref->v[i];
        if (r->kind != KV_EVENT_EVICT || r->layer != where->layer || r->head != where->head) continue;
        const kv_event *g = eviction_of(got, r);
        if (!g || !isfinite(r->margin) || !isfinite(g->margin)) continue;
        const double by = (double)g->margin - (double)r->margin;
        if (n++ == 0) first = by;
        if (fabs(by - first) > 1e-6 * fmax(fabs((double)r->margin), fabs((double)g->margin)) + 1e-9) return 1;
    }
    return n == 1 && first != 0 ? 1 : 0;
}

static int same_state(const void *ref, const void *got)
{
    dt_state_diff d;
    if (!ref || !got) return 0;
    dt_state_compare(ref, got, &d);
    return d.part == DT_PART_NONE;
}

/* ---- the verdict ------------------------------------------------------------------------------------------ */

static void describe(const kv_event *e, char *dst, size_t size)
{
    static const char *const kinds[] = {"admits", "evicts", "moves", "seals"};
    if (!e) {
        snprintf(dst, size, "decides nothing more");
        return;
    }
    const int value_row = e->og >= KV_KIVI_V;
    snprintf(dst, size, "%s %s%lld in slot %d", kinds[e->kind & 3], value_row ? "the value row of " : "",
             (long long)(value_row ? e->og - KV_KIVI_V : e->og), e->slot);
}

static int by_scores(const kv_policy *p)
{
    return p->selection == KV_SEL_H2O || p->selection == KV_SEL_TOVA || p->selection == KV_SEL_SNAPKV ||
           p->selection == KV_SEL_PYRAMID || (p->selection == KV_SEL_CASCADE && p->cascade.select == KV_SELECT_EMA);
}

static int scores_are_wrong(const kv_policy *p, const kv_events *ref, const kv_events *got, const void *ref_after,
                            const void *got_after, const dt_event_diff *d, dt_verdict *v)
{
    const kv_event *at = d->ref ? d->ref : d->got;
    float a, b;
    if (!by_scores(p)) return 0;
    if (ref_after && got_after) {
        const int64_t og = other_score(ref_after, got_after, at->layer, at->head, &a, &b);
        if (og >= 0) {
            dt_verdict_set(v, "colsum", "bug-numeric",
                           "the score of token %lld is %.9g, expected %.9g; decisions follow from it", (long long)og,
                           (double)b, (double)a);
            return 1;
        }
    }
    const int exported = p->selection == KV_SEL_H2O || p->selection == KV_SEL_CASCADE;
    if (exported || !margins_disagree(ref, got, at)) return 0;
    dt_verdict_set(v, "colsum", "bug-numeric",
                   "margins of tokens that leave on both sides differ: the scores are other ones");
    return 1;
}

void dt_blame_events(const kv_policy *p, const kv_events *ref, const kv_events *got, const void *ref_after,
                     const void *got_after, dt_event_diff *d, dt_verdict *v)
{
    char own[96], theirs[96];
    dt_events_compare(ref, got, d);
    if (scores_are_wrong(p, ref, got, ref_after, got_after, d, v)) return;
    describe(d->ref, own, sizeof own);
    describe(d->got, theirs, sizeof theirs);
    const int coding = (d->ref && d->ref->kind == KV_EVENT_SEAL) || (d->got && d->got->kind == KV_EVENT_SEAL);
    if (d->only_order)
        dt_verdict_set(v, "policy", "bug-policy",
                       "the decisions are right, but in another order: reference %s, device %s", own, theirs);
    else if (d->only_margin)
        dt_verdict_set(v, "policy", "bug-policy", "same decision, margin %.9g instead of %.9g", (double)d->got->margin,
                       (double)d->ref->margin);
    else if (d->only_slot)
        dt_verdict_set(v, "policy", "bug-policy", "same tokens, other slots: reference %s, device %s", own, theirs);
    else if (coding && same_state(ref_after, got_after))
        dt_verdict_set(v, "quant", "bug-policy", "coded alike, but reported otherwise: reference %s, device %s", own,
                       theirs);
    else
        dt_verdict_set(v, coding ? "quant" : "policy", coding ? "bug-index" : "bug-policy", "reference %s, device %s",
                       own, theirs);
}

/* ---- evictions for the database --------------------------------------------------------------------------- */

static double score_before(const void *before, int32_t layer, int32_t head, int64_t og)
{
    if (!before || og < 0) return (double)NAN;
    const kv_state_view v = dt_state_run(before, layer, head < 0 ? 0 : head);
    for (int32_t i = 0; v.score && i < v.run->n; i++)
        if (v.og[i] == og) return (double)v.score[i];
    return (double)NAN;
}

/* The first eviction that the other list does not have for the same cause; cause: only of that token, -1: any. */
static const kv_event *first_unmatched(const kv_events *of, const kv_events *in, int32_t layer, int32_t head,
                                       int64_t cause)
{
    for (size_t i = 0; i < of->n; i++) {
        const kv_event *e = &of->v[i];
        if (e->kind != KV_EVENT_EVICT || e->layer != layer || e->head != head || (cause >= 0 && e->token != cause))
            continue;
        const kv_event *g = eviction_of(in, e);
        if (!g || g->token != e->token) return e;
    }
    return NULL;
}

static int is_new_place(const dt_evict_diff *dst, int32_t n, const kv_event *e)
{
    for (int32_t i = 0; i < n; i++)
        if (dst[i].layer == e->layer && dst[i].head == e->head) return 0;
    return 1;
}

int32_t dt_evict_diffs(const kv_events *ref, const kv_events *got, const void *before, int64_t base, int ties,
                       dt_evict_diff *dst, int32_t most)
{
    int32_t n = 0;
    for (size_t i = 0; i < ref->n + got->n && n < most; i++) {
        const kv_event *e = i < ref->n ? &ref->v[i] : &got->v[i - ref->n];
        if (e->kind != KV_EVENT_EVICT || !is_new_place(dst, n, e)) continue;
        const kv_event *r = first_unmatched(ref, got, e->layer, e->head, -1);
        const kv_event *g = first_unmatched(got, ref, e->layer, e->head, r ? r->token : -1);
        if (!r && !g) continue;
        const int64_t victim = r ? r->og : -1, theirs = g ? g->og : -1;
        dst[n++] = (dt_evict_diff){.pos = base + (r ? r->token : g->token),
                                   .layer = e->layer,
                                   .head = e->head,
                                   .ref_victim = r ? base + victim : -1,
                                   .got_victim = g ? base + theirs : -1,
                                   .ref_score = score_before(before, e->layer, e->head, victim),
                                   .got_score = score_before(before, e->layer, e->head, theirs),
                                   .tie = ties};
    }
    return n;
}
