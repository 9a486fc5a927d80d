/* follow.c - replays the decisions of another side, event by event, after checking that they can be
 * obeyed. Slots are checked against the numbering of docs/policy/: a wrong one shows that the two
 * sides do not mean the same entry. */
#include "gpu/blas/blas.h"

#include <math.h>

static int is_prompt_policy(const kv_policy *p)
{
    return p->selection == KV_SEL_SNAPKV || p->selection == KV_SEL_PYRAMID;
}

/* Longest step that a window takes whole. */
static int64_t whole_step(const kv_policy *p)
{
    const int64_t cap = p->sliding.cap;
    if (p->storage == KV_STORE_KVARN) return cap - p->kvarn.tile + 1;
    return p->storage == KV_STORE_KIVI ? cap - p->kivi.residual + 1 : cap;
}

int64_t blas_piece(const kv_policy *p, int64_t seen, int64_t n, int64_t at)
{
    const int64_t left = n - at;
    if (is_prompt_policy(p) && seen + at == 0) return left < p->snapkv.prompt ? left : p->snapkv.prompt;
    if (p->selection != KV_SEL_SLIDING || n <= whole_step(p)) return left;
    return left < p->sliding.cap / 2 ? left : p->sliding.cap / 2;
}

int64_t blas_base(const kv_policy *p, const blas_index *ix, int64_t first)
{
    const int counts = blas_counts_view(p) ||
                       (p->selection == KV_SEL_SLIDING && p->sliding.pos == KV_SLIDING_SATURATE);
    return counts ? ix->n : first;
}

/* ---- the list ------------------------------------------------------------------------------- */

kv_status blas_list_bad(const kv_event *e, const char *what)
{
    return kv_fail(KV_ERR_USAGE,
                   "the list of decisions cannot be obeyed: layer %d, KV head %d, token %lld, slot %d: %s",
                   e->layer, e->head, (long long)e->og, e->slot, what);
}

static kv_status check_kind(const blas_cache *c, const kv_event *e)
{
    if (e->kind == KV_EVENT_ADMIT || e->kind == KV_EVENT_EVICT) return KV_OK;
    if (e->kind == KV_EVENT_MOVE && c->policy.selection == KV_SEL_CASCADE) return KV_OK;
    if (e->kind == KV_EVENT_SEAL && c->kinds[0].encode) return KV_OK;
    return blas_list_bad(e, "a kind of decision that this policy does not have");
}

kv_status blas_lists_cut(const blas_cache *c, const kv_events *follow, blas_list *lists)
{
    size_t i = 0;
    for (int32_t l = 0; l < c->n_layers; l++)
        for (int32_t g = 0; g < c->n_sets; g++) {
            const int32_t head = kv_policy_heads_agree(&c->policy) ? -1 : g;
            blas_list *list = &lists[l * c->n_sets + g];
            *list = (blas_list){follow->v + i, 0, 0};
            for (; i < follow->n && follow->v[i].layer == l && follow->v[i].head == head; i++, list->n++)
                KV_TRY(check_kind(c, &follow->v[i]));
        }
    if (i == follow->n) return KV_OK;
    return blas_list_bad(&follow->v[i], kv_policy_heads_agree(&c->policy)
                                            ? "layers must ascend, and all heads decide alike (head -1)"
                                            : "layers, and heads inside them, must ascend from 0");
}

const kv_event *blas_list_next(const blas_list *list, int32_t kind, int64_t token)
{
    const kv_event *e = list->v + list->done;
    return list->done < list->n && e->kind == kind && e->token == token ? e : NULL;
}

/* The admission of token og, which must come next. */
static kv_status next_admission(const blas_list *list, int64_t og, int64_t token, const kv_event **out)
{
    *out = blas_list_next(list, KV_EVENT_ADMIT, token);
    if (*out && (*out)->og == og) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "the list of decisions cannot be obeyed: it does not admit token %lld next",
                   (long long)og);
}

/* Obeys the evictions that `token` causes: entries by view index, ascending. */
static kv_status evict(blas_index *ix, blas_list *list, int64_t token, int64_t *n)
{
    int64_t least = 0;
    *n = 0;
    for (const kv_event *e; (e = blas_list_next(list, KV_EVENT_EVICT, token)); list->done++) {
        if (e->slot < 0 || e->slot >= ix->n || ix->og[e->slot] != e->og)
            return blas_list_bad(e, "an eviction of a token that is not in the cache, or not at this view index");
        if (e->slot < least) return blas_list_bad(e, "evictions must ascend, each token once");
        least = e->slot + 1;
        ix->dead[e->slot] = 1;
        ++*n;
    }
    return KV_OK;
}

/* Of coded rows whole records leave, the oldest first. */
static kv_status check_records_leave(const blas_cache *c, const blas_list *list, int64_t n)
{
    if (!c->kinds[0].encode || n == 0) return KV_OK;
    const kv_event *last = &list->v[list->done - 1];
    if (n % c->kinds[0].rows == 0 && last->slot == n - 1) return KV_OK;
    return blas_list_bad(last, "coded tokens leave in whole tiles, the oldest first");
}

kv_status blas_list_before(const blas_cache *c, blas_index *ix, blas_list *list, int64_t first)
{
    int64_t n;
    if (c->policy.selection != KV_SEL_SLIDING) return KV_OK;
    KV_TRY(evict(ix, list, first, &n));
    return check_records_leave(c, list, n);
}

/* ---- after the forward pass ------------------------------------------------------------------------ */

/* What a record's coding looks like in a list; first: view index of its first token. */
static kv_event seal_of(const blas_kind *kind, int64_t og, int64_t first)
{
    return (kv_event){.og = og + kind->og_offset,
                      .token = og + kind->rows - 1,
                      .head = -1,
                      .kind = KV_EVENT_SEAL,
                      .slot = (int32_t)first,
                      .margin = INFINITY};
}

static kv_status follow_seals(const blas_cache *c, const blas_index *ix, blas_list *list, int64_t before)
{
    for (int j = 0; j < c->n_kinds; j++)
        for (int64_t i = blas_sealed(c, j, before); i < blas_sealed(c, j, ix->n); i += c->kinds[j].rows) {
            const kv_event want = seal_of(&c->kinds[j], ix->og[i], i), *e = list->v + list->done;
            if (list->done == list->n || e->kind != KV_EVENT_SEAL)
                return kv_fail(KV_ERR_USAGE, "the list of decisions cannot be obeyed: it does not seal what begins "
                                             "with token %lld", (long long)ix->og[i]);
            if (e->og != want.og || e->token != want.token || e->slot != want.slot)
                return blas_list_bad(e, "not what becomes coded next");
            list->done++;
        }
    return KV_OK;
}

/* full and sliding: every token, behind the last entry. */
static kv_status append_all(const blas_cache *c, blas_index *ix, blas_list *list, const blas_arrival *a)
{
    const int64_t before = ix->n;
    for (int64_t x = 0; x < a->m; x++) {
        const kv_event *e;
        KV_TRY(next_admission(list, a->first + x, a->first + x, &e));
        if (e->slot != (c->policy.selection == KV_SEL_FULL ? e->og : ix->n))
            return blas_list_bad(e, "an admission to a slot that is not the token's");
        list->done++;
        blas_index_append(ix, e->og, a->pos + x);
    }
    return follow_seals(c, ix, list, before);
}

/* h2o, tova, snapkv, pyramid, xwindow: first what leaves, of the stored and the new, then what came. */
static kv_status leave_then_come(const blas_cache *c, blas_index *ix, blas_list *list, const blas_arrival *a)
{
    const int64_t stored = ix->n;
    int64_t n, slot = 0;
    for (int64_t x = 0; x < a->m; x++)
        blas_index_append(ix, a->first + x, a->pos + x);
    KV_TRY(evict(ix, list, a->last, &n));
    for (int64_t i = 0; i < stored; i++)
        slot += !ix->dead[i];
    for (int64_t x = 0; x < a->m; x++) {
        const kv_event *e;
        const int64_t og = a->first + x, token = c->policy.selection == KV_SEL_XWINDOW ? a->last : og;
        const int stays = !ix->dead[stored + x];
        KV_TRY(next_admission(list, og, token, &e));
        if (e->slot != (stays ? slot : -1))
            return blas_list_bad(e, "an admission to a slot that is neither the token's view index after the evictions "
                                    "nor, for one that left, -1");
        slot += stays;
        list->done++;
    }
    return KV_OK;
}

kv_status blas_list_after(const blas_cache *c, blas_index *ix, blas_list *list, const blas_arrival *a)
{
    switch (c->policy.selection) {
    case KV_SEL_FULL:
    case KV_SEL_SLIDING:
        return append_all(c, ix, list, a);
    case KV_SEL_SINK:
    case KV_SEL_CASCADE:
        for (int64_t x = 0; x < a->m; x++) {
            const kv_event *e;
            KV_TRY(next_admission(list, a->first + x, a->first + x, &e));
            KV_TRY(blas_rings_follow(ix, list, a->first + x, a->pos + x));
        }
        return KV_OK;
    default:
        return leave_then_come(c, ix, list, a);
    }
}

/* ---- the list that full does not need ---------------------------------------------------------------- */

static kv_status push(kv_events *out, int32_t layer, kv_event e)
{
    e.layer = layer;
    if (kv_events_push(out, e) == KV_OK) return KV_OK;
    return kv_fail(KV_ERR_NOMEM, "out of memory for the decisions of a step");
}

kv_status blas_full_events(const blas_cache *c, int64_t seen, int64_t n, kv_events *out)
{
    for (int32_t l = 0; l < c->n_layers; l++) {
        for (int64_t t = seen; t < seen + n; t++)
            KV_TRY(push(out, l, (kv_event){.og = t, .token = t, .head = -1, .kind = KV_EVENT_ADMIT,
                                           .slot = (int32_t)t, .margin = INFINITY}));
        for (int j = 0; j < c->n_kinds; j++)
            for (int64_t t = blas_sealed(c, j, seen); t < blas_sealed(c, j, seen + n); t += c->kinds[j].rows)
                KV_TRY(push(out, l, seal_of(&c->kinds[j], t, t)));
    }
    return KV_OK;
}
