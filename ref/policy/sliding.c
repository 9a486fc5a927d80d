/* sliding.c - keeps the newest cap tokens; docs/policy/sliding.md. The store is a ring of cap slots with
 * the oldest entry at l->head, so entry i of the view lies in slot (head + i) mod cap. Original indices
 * are consecutive: the oldest is seen - n. */
#include "ref/cache.h"

static int32_t key_form(const kv_policy *p)
{
    return p->sliding.pos == KV_SLIDING_REROTATE ? KV_KEY_RAW : KV_KEY_ROTATED;
}

static int64_t slots(const kv_policy *p) { return p->sliding.cap; }

/* Storages that code tokens in tiles let go of whole ones. */
static int64_t unit(const kv_policy *p)
{
    return p->storage == KV_STORE_KVARN ? p->kvarn.tile : p->storage == KV_STORE_KIVI ? p->kivi.residual : 1;
}

static int64_t piece(const kv_policy *p, int64_t seen, int64_t n)
{
    (void)seen;
    return n <= p->sliding.cap - unit(p) + 1 ? n : p->sliding.cap / 2;
}

static int64_t begin(ref_cache *c, int32_t layer, int64_t m)
{
    ref_layer *l = &c->layers[layer];
    const int64_t cap = c->policy.sliding.cap, drop = ref_round_up(ref_max(0, l->n + m - cap), unit(&c->policy));
    for (int64_t i = 0; i < drop; i++)
        REF(cache_event)(c, layer, KV_EVENT_EVICT, l->seen - l->n + i, l->seen, i);
    l->head = (l->head + KV_MUT(F14, ref_min(drop, 1), drop)) % cap;
    l->n -= drop;
    const int32_t pos = c->policy.sliding.pos;
    return KV_MUT(F13, pos != KV_SLIDING_REROTATE, pos == KV_SLIDING_ABSOLUTE) ? l->seen : l->n;
}

static int64_t view(const ref_cache *c, const ref_layer *l, ref_range *out)
{
    const int64_t first = ref_min(l->n, c->policy.sliding.cap - l->head);
    int64_t n = 0;
    if (first > 0) out[n++] = (ref_range){l->head, first};
    if (l->n > first) out[n++] = (ref_range){0, l->n - first};
    return n;
}

static int64_t place(ref_cache *c, int32_t layer, int64_t pos)
{
    ref_layer *l = &c->layers[layer];
    const int64_t og = l->seen++, at = l->n++, slot = (l->head + at) % c->policy.sliding.cap;
    if (l->pos) l->pos[slot] = (int32_t)pos;
    REF(cache_event)(c, layer, KV_EVENT_ADMIT, og, og, at);
    return slot;
}

static ref_entry entry(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    (void)head;
    const int64_t slot = (l->head + i) % c->policy.sliding.cap, og = l->seen - l->n + i;
    switch (c->policy.sliding.pos) {
    case KV_SLIDING_ABSOLUTE:
        return (ref_entry){slot, og, (int32_t)og};
    case KV_SLIDING_SATURATE:
        return (ref_entry){slot, og, l->pos[slot]};
    default:
        return (ref_entry){slot, og, (int32_t)i};
    }
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const int64_t n = a->n, seen = a->seen, *og = a->og;
    const int32_t *pos = a->pos;
    if (head > 0) return KV_OK;
    if (n > c->policy.sliding.cap || n > seen || (n == 0 && seen > 0))
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld entries after %lld tokens; a window holds the newest, up to cap=%d",
                       (long long)n, (long long)seen, c->policy.sliding.cap);
    l->n = n;
    l->seen = seen;
    l->head = 0;
    for (int64_t i = 0; i < n; i++) {
        if (og[i] != seen - n + i)
            return kv_fail(KV_ERR_FORMAT, "cache state: a window has no gaps, yet entry %lld is token %lld",
                           (long long)i, (long long)og[i]);
        if (l->pos) l->pos[i] = pos[i];
    }
    return KV_OK;
}

const ref_policy REF(policy_sliding) = {.needs_pos = 1, .key_form = key_form, .slots = slots, .piece = piece, .begin = begin,
                                    .view = view, .place = place, .entry = entry, .adopt = adopt};
