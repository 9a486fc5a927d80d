/* xwindow.c - windows read together with rows of earlier windows; docs/policy/xwindow.md.
 *
 * The recorded rows of a layer lie in a ring with the oldest in slot l->head. In `fixed` they are consecutive
 * positions, the newest is l->seen - 1; in `published` a position may occur more than once. */
#include "ref/cache.h"

static int published(const kv_policy *p) { return p->xwindow.ver == KV_XW_PUBLISHED; }

static int uses_cache(const ref_cache *c, int32_t layer)
{
    const kv_xwindow_params *p = &c->policy.xwindow;
    return p->cache > 0 && (p->layers == 0 || layer >= c->n_layers - p->layers);
}

static int64_t ring_slots(const kv_policy *p)
{
    return published(p) ? ref_max(p->xwindow.cache, 1) : (int64_t)p->xwindow.cache + p->xwindow.window;
}

static int64_t slot_of(const ref_cache *c, const ref_layer *l, int64_t i)
{
    return (l->head + i) % ring_slots(&c->policy);
}

static int32_t key_form(const kv_policy *p) { return published(p) ? KV_KEY_ROTATED : KV_KEY_RAW; }

static int64_t piece(const kv_policy *p, int64_t seen, int64_t left)
{
    (void)p;
    (void)seen;
    return left;
}

/* fixed: the window's first token stands behind the rows in view, those of the last layer, in layers without a cache too.
 * published: behind as many positions as a cache would hold. */
static int64_t begin(ref_cache *c, int32_t layer, int64_t m)
{
    (void)m;
    const int64_t cache = c->policy.xwindow.cache;
    const ref_layer *l = &c->layers[c->n_layers - 1];
    if (published(&c->policy)) return KV_MUT(F16, c->layers[layer].n, ref_min(c->layers[layer].seen, cache));
    return ref_min(ref_max(0, c->window - (l->seen - l->n)), cache);
}

static int64_t view(const ref_cache *c, const ref_layer *l, ref_range *out)
{
    int64_t first = 0, last = l->n, n = 0;
    if (l->n == 0) return 0;
    if (!published(&c->policy)) {
        const int64_t oldest = l->seen - l->n;
        first = ref_max(0, c->window - c->policy.xwindow.cache - oldest);
        last = c->window - oldest;
    }
    const int64_t slots = ring_slots(&c->policy), slot0 = slot_of(c, l, first);
    const int64_t before_end = ref_min(last - first, slots - slot0);
    if (before_end > 0) out[n++] = (ref_range){slot0, before_end};
    if (last - first > before_end) out[n++] = (ref_range){0, last - first - before_end};
    return n;
}

/* The `drop` oldest rows leave. */
static void drop_oldest(ref_cache *c, int32_t layer, int64_t drop, int64_t token)
{
    ref_layer *l = &c->layers[layer];
    for (int64_t i = 0; i < drop; i++)
        REF(cache_event)(c, layer, KV_EVENT_EVICT, ref_layer_og(l, 0)[slot_of(c, l, i)], token, i);
    l->head = slot_of(c, l, drop);
    l->n -= drop;
}

/* Own token x is recorded behind the newest row. */
static void record(ref_cache *c, int32_t layer, int64_t x, int64_t base)
{
    ref_layer *l = &c->layers[layer];
    const int64_t slot = slot_of(c, l, l->n), og = c->window + x;
    l->n++;
    l->pos[slot] = (int32_t)(published(&c->policy) ? base + x : og);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        ref_layer_og(l, h)[slot] = og;
        REF(cache_move)(c, h, slot, ~x);
    }
}

static kv_status settle(ref_cache *c, int32_t layer, const ref_sums *s)
{
    ref_layer *l = &c->layers[layer];
    const kv_xwindow_params *p = &c->policy.xwindow;
    const int64_t end = c->window + s->m, done = l->seen;
    if (uses_cache(c, layer)) {
        const int64_t fresh = published(&c->policy) ? ref_min(p->stride, s->m) : end - done;
        const int64_t keep_from = c->window + KV_MUT(F15, 0, p->stride) - p->cache, oldest = done - l->n;
        const int64_t drop = published(&c->policy) ? l->n + fresh - p->cache : keep_from - oldest;
        drop_oldest(c, layer, ref_min(l->n, ref_max(0, drop)), end - 1);
        for (int64_t x = s->m - fresh; x < s->m; x++) {
            REF(cache_event)(c, layer, KV_EVENT_ADMIT, c->window + x, end - 1, l->n);
            record(c, layer, x, s->base);
        }
    }
    l->seen = end;
    return KV_OK;
}

static ref_entry entry(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    const int64_t slot = slot_of(c, l, i);
    return (ref_entry){slot, ref_layer_og(l, head)[slot], l->pos[slot]};
}

static kv_status check_row(const ref_cache *c, const ref_adopt *a, int64_t i)
{
    const int64_t want = a->seen - a->n + i, view = (int64_t)c->policy.xwindow.cache + c->policy.xwindow.window;
    const int good = published(&c->policy) ? a->og[i] >= 0 && a->og[i] < a->seen && a->pos[i] >= 0 && a->pos[i] < view
                                           : a->og[i] == want && a->pos[i] == want;
    return good ? KV_OK : kv_fail(KV_ERR_FORMAT, "cache state: row %lld is token %lld at position %d, which xwindow cannot "
                                                 "have recorded after %lld tokens", (long long)i, (long long)a->og[i],
                                  a->pos[i], (long long)a->seen);
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const kv_xwindow_params *p = &c->policy.xwindow;
    if (a->n > ring_slots(&c->policy) || (a->n > 0 && !uses_cache(c, (int32_t)(l - c->layers))))
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld rows in layer %d; cache=%d and layers=%d do not allow that",
                       (long long)a->n, (int)(l - c->layers), p->cache, p->layers);
    l->n = a->n;
    l->seen = a->seen;
    l->head = 0;
    c->window = -1;
    for (int64_t i = 0; i < a->n; i++) {
        KV_TRY(check_row(c, a, i));
        if (head > 0 && (ref_layer_og(l, 0)[i] != a->og[i] || l->pos[i] != a->pos[i]))
            return kv_fail(KV_ERR_FORMAT, "cache state: row %lld differs between heads, which record the same tokens", (long long)i);
        ref_layer_og(l, head)[i] = a->og[i];
        l->pos[i] = a->pos[i];
    }
    return KV_OK;
}

const ref_policy REF(policy_xwindow) = {.needs_pos = 1, .needs_og = 1, .key_form = key_form, .slots = ring_slots,
                                        .piece = piece, .begin = begin, .view = view, .settle = settle,
                                        .entry = entry, .adopt = adopt};
