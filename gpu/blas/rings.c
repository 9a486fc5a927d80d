/* rings.c - sink and cascade: what the insertion of a token does, slot by slot (docs/policy/cascade.md). Who wins
 * a duel and what a ring accepts is decided elsewhere; here every decision has to lead to a slot that the
 * page allows. */
#include "gpu/blas/blas.h"

#include <string.h>

/* Which ring a slot belongs to; -1: a sink, or no slot at all. */
static int32_t ring_of(const blas_rings *r, int32_t slot)
{
    const int32_t i = slot < r->sinks ? -1 : (slot - r->sinks) / r->window;
    return i < r->n ? i : -1;
}

/* A token on its way: whose slot was taken, or the new token itself. */
typedef struct walk {
    blas_index *ix;
    blas_list *list;
    int64_t token;   /* that is being inserted */
    int64_t carried; /* token without a slot, -1: none */
    int32_t left;    /* slot that it held */
    int32_t ring;    /* that it left; -1 before the first */
} walk;

/* Puts the token into `slot` of the next ring; whoever held it is carried from then on. */
static kv_status enter(walk *w, const kv_event *e)
{
    blas_rings *r = &w->ix->rings;
    const int32_t i = ring_of(r, e->slot), W = r->window;
    if (i != w->ring + 1) return blas_list_bad(e, "a slot that is not in the ring that the token comes to");
    const int32_t k = e->slot - r->sinks - i * W, n = r->count[i];
    const int full = n == W, append = !full && k == n, oldest = full && k == r->start[i];
    const int newest = i > 0 && n > 0 && k == (r->start[i] + n - 1) % W;
    if (!append && !oldest && !newest)
        return blas_list_bad(e, "neither the ring's next free slot nor that of its oldest or newest token");
    w->carried = r->og[e->slot];
    w->left = e->slot;
    w->ring = i;
    r->og[e->slot] = e->og;
    r->count[i] += append;
    if (oldest) r->start[i] = (r->start[i] + 1) % W;
    w->list->done++;
    return KV_OK;
}

/* The decision about the carried token: on to the next ring, or out. */
static kv_status carry_on(walk *w)
{
    const kv_event *e = blas_list_next(w->list, KV_EVENT_EVICT, w->token);
    if (e && e->og == w->carried) {
        const int64_t i = blas_index_find(w->ix, e->og);
        if (e->slot != w->left || i < 0)
            return blas_list_bad(e, "an eviction from a slot that the token does not hold");
        w->ix->dead[i] = 1;
        w->carried = -1;
        w->list->done++;
        return KV_OK;
    }
    e = blas_list_next(w->list, KV_EVENT_MOVE, w->token);
    if (e && e->og == w->carried) return enter(w, e);
    return kv_fail(KV_ERR_USAGE, "the list of decisions cannot be obeyed: token %lld takes slot %d of token %lld, "
                                 "which neither leaves nor moves on: the slot is taken", (long long)w->token, w->left,
                   (long long)w->carried);
}

kv_status blas_rings_follow(blas_index *ix, blas_list *list, int64_t token, int64_t pos)
{
    blas_rings *r = &ix->rings;
    const kv_event *e = list->v + list->done; /* the token's admission */
    walk w = {ix, list, token, -1, -1, -1};
    if (token < r->sinks) {
        if (e->slot != token) return blas_list_bad(e, "a sink is not admitted to its slot");
        r->og[token] = token;
        list->done++;
    } else {
        KV_TRY(enter(&w, e));
    }
    blas_index_append(ix, token, pos);
    while (w.carried >= 0)
        KV_TRY(carry_on(&w));
    return KV_OK;
}

/* ---- a state from elsewhere ------------------------------------------------------------------------------ */

static int64_t power(int64_t base, int32_t exponent)
{
    int64_t p = 1;
    while (exponent-- > 0)
        p *= base;
    return p;
}

/* Ring i accepts every a-th token. */
static int64_t period(const kv_cascade_params *c, int32_t i)
{
    switch (c->accept) {
    case KV_ACCEPT_POW3:
        return power(3, i);
    case KV_ACCEPT_POW4:
        return power(4, i);
    case KV_ACCEPT_IPLUS1:
        return i + 1;
    case KV_ACCEPT_1_THEN_2:
        return i == 0 ? 1 : 2;
    case KV_ACCEPT_POW2_1:
        return i == c->n - 1 ? power(2, i) : 1;
    case KV_ACCEPT_POW2_1_4:
        return i < 3 * c->n / 4 ? 1 : power(2, i);
    case KV_ACCEPT_POW2_2_4:
        return i < 2 * c->n / 4 ? 1 : power(2, i);
    case KV_ACCEPT_POW2_3_4:
        return i < c->n / 4 ? 1 : power(2, i);
    default:
        return power(2, i);
    }
}

/* One insertion, of which only counts and starts are of interest: a duel changes neither. */
static void count_token(const kv_policy *p, int64_t token, const int64_t *periods, blas_rings *r)
{
    const int eager = p->selection == KV_SEL_CASCADE && p->cascade.eager &&
                      token <= r->sinks + (int64_t)r->n * r->window;
    for (int32_t i = 0; i < r->n; i++) {
        const int accepts = eager || (token - r->sinks) % periods[i] == 0;
        if (r->count[i] < r->window && (accepts || r->count[i] == 0)) {
            r->count[i]++;
            return;
        }
        if (!accepts) return;
        r->start[i] = (r->start[i] + 1) % r->window;
    }
}

kv_status blas_rings_at(const kv_policy *p, int64_t seen, int64_t n, blas_rings *out)
{
    int64_t periods[KV_CASCADE_MAX], held = seen < out->sinks ? seen : out->sinks;
    for (int32_t i = 0; i < out->n; i++)
        periods[i] = p->selection == KV_SEL_CASCADE ? period(&p->cascade, i) : 1;
    memset(out->count, 0, sizeof out->count);
    memset(out->start, 0, sizeof out->start);
    for (int64_t t = out->sinks; t < seen; t++)
        count_token(p, t, periods, out);
    for (int32_t i = 0; i < out->n; i++)
        held += out->count[i];
    if (held == n) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "cache state: %lld entries after %lld tokens, where the policy holds %lld",
                   (long long)n, (long long)seen, (long long)held);
}

/* View order: sinks, the last ring from its oldest on, ..., ring 0. */
void blas_rings_fill(blas_index *ix)
{
    blas_rings *r = &ix->rings;
    int64_t at = 0;
    for (; at < r->sinks && at < ix->n; at++)
        r->og[at] = ix->og[at];
    for (int32_t i = r->n - 1; i >= 0; i--)
        for (int32_t k = 0; k < r->count[i]; k++)
            r->og[r->sinks + i * r->window + (r->start[i] + k) % r->window] = ix->og[at++];
}
