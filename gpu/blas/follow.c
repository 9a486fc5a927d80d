/* follow.c - replays the decisions of another side, event by event, after checking that they can be
 * obeyed. Slots are checked against the numbering of docs/policy/: a wrong one shows that the two
 * sides do not mean the same entry. */
#include "gpu/blas/blas.h"

#include <math.h>

static int evicts_first(const kv_policy *p)
{
    return p->selection == KV_SEL_SLIDING;
}

int64_t blas_piece(const kv_policy *p, int64_t left)
{
    if (p->selection != KV_SEL_SLIDING || left <= p->sliding.cap) return left;
    return p->sliding.cap / 2;
}

int64_t blas_base(const blas_cache *c, const blas_index *ix, int64_t first)
{
    const kv_policy *p = &c->policy;
    const int original = p->selection == KV_SEL_FULL ||
                         (p->selection == KV_SEL_SLIDING && p->sliding.pos == KV_SLIDING_ABSOLUTE);
    return original ? first : ix->n;
}

/* ---- the list ------------------------------------------------------------------------------- */

static kv_status bad(const kv_event *e, const char *what)
{
    return kv_fail(KV_ERR_USAGE,
                   "the list of decisions cannot be obeyed: layer %d, token %lld, slot %d: %s",
                   e->layer, (long long)e->og, e->slot, what);
}

kv_status blas_lists_cut(const blas_cache *c, const kv_events *follow, blas_list *lists)
{
    size_t i = 0;
    for (int32_t l = 0; l < c->n_layers; l++) {
        lists[l] = (blas_list){follow->v + i, 0, 0};
        for (; i < follow->n && follow->v[i].layer == l; i++, lists[l].n++) {
            const kv_event *e = &follow->v[i];
            if (e->head != -1)
                return bad(e, "decisions of single heads are not known to the blas side");
            if (e->kind != KV_EVENT_ADMIT && e->kind != KV_EVENT_EVICT)
                return bad(e, "only admissions and evictions are known to the blas side");
        }
    }
    return i == follow->n ? KV_OK : bad(&follow->v[i], "layers are not in ascending order");
}

/* Index of a live entry, or -1. */
static int64_t find(const blas_index *ix, int64_t og)
{
    int64_t lo = 0, hi = ix->n;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (ix->og[mid] < og)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < ix->n && ix->og[lo] == og && !ix->dead[lo] ? lo : -1;
}

static int64_t find_slot(const blas_index *ix, int32_t slot)
{
    for (int64_t i = 0; i < ix->n; i++)
        if (ix->slot[i] == slot && !ix->dead[i]) return i;
    return -1;
}

/* Next decision of the list when it is of this kind and caused by this token, else NULL. */
static const kv_event *next(const blas_list *list, int32_t kind, int64_t token)
{
    const kv_event *e = list->v + list->done;
    return list->done < list->n && e->kind == kind && e->token == token ? e : NULL;
}

kv_status blas_list_before(const blas_cache *c, blas_index *ix, blas_list *list, int64_t first)
{
    if (!evicts_first(&c->policy)) return KV_OK;
    for (const kv_event *e; (e = next(list, KV_EVENT_EVICT, first)); list->done++) {
        const int64_t i = find(ix, e->og);
        if (i < 0) return bad(e, "an eviction of a token that is not in the cache");
        if (e->slot != i) return bad(e, "an eviction whose slot is not the token's view index");
        ix->dead[i] = 1;
    }
    return KV_OK;
}

/* Appends an entry. */
static void admit(blas_index *ix, const kv_event *e, int64_t pos)
{
    const int64_t i = ix->n++;
    ix->og[i] = e->og;
    ix->slot[i] = e->slot;
    ix->pos[i] = (int32_t)pos;
    ix->dead[i] = 0;
}

/* The one eviction that may follow the admission *a: of the entry that held its slot. */
static kv_status replace(blas_index *ix, blas_list *list, const kv_event *a, int64_t holder)
{
    const kv_event *e = next(list, KV_EVENT_EVICT, a->token);
    if (holder < 0) return e ? bad(e, "an eviction although the new token's slot was free") : KV_OK;
    if (!e || e->og != ix->og[holder]) return bad(a, "the slot is taken");
    if (e->slot != a->slot) return bad(e, "an eviction from a slot that the token does not hold");
    ix->dead[holder] = 1;
    list->done++;
    return KV_OK;
}

static kv_status check_slot(const blas_cache *c, const kv_event *e, int64_t view_index)
{
    const int64_t want = c->policy.selection == KV_SEL_FULL ? e->og : view_index;
    return e->slot == want ? KV_OK : bad(e, "an admission to a slot that is not the token's");
}

kv_status blas_list_after(const blas_cache *c, blas_index *ix, blas_list *list, int64_t first,
                          int64_t m, int64_t base)
{
    for (int64_t x = 0; x < m; x++) {
        const kv_event *e = next(list, KV_EVENT_ADMIT, first + x);
        if (!e || e->og != first + x)
            return kv_fail(KV_ERR_USAGE,
                           "the list of decisions cannot be obeyed: it does not admit token "
                           "%lld next",
                           (long long)(first + x));
        const int64_t holder = c->policy.selection == KV_SEL_SINK ? find_slot(ix, e->slot) : -1;
        if (c->policy.selection != KV_SEL_SINK) KV_TRY(check_slot(c, e, ix->n));
        list->done++;
        admit(ix, e, base + x);
        if (c->policy.selection == KV_SEL_SINK) KV_TRY(replace(ix, list, e, holder));
    }
    return KV_OK;
}

kv_status blas_full_events(const blas_cache *c, int64_t seen, int64_t n, kv_events *out)
{
    for (int32_t l = 0; l < c->n_layers; l++)
        for (int64_t t = seen; t < seen + n; t++) {
            const kv_event e = {.og = t,
                                .token = t,
                                .layer = l,
                                .head = -1,
                                .kind = KV_EVENT_ADMIT,
                                .slot = (int32_t)t,
                                .margin = INFINITY};
            if (kv_events_push(out, e) != KV_OK)
                return kv_fail(KV_ERR_NOMEM, "out of memory for the decisions of a step");
        }
    return KV_OK;
}
