/* sink.c - keeps the first `sinks` tokens and a ring of the newest cap; docs/policy/sink.md.
 *
 * Slots: sink i in slot i; ring offset k in slot base + k, where base is `sinks` rounded up to a whole
 * panel of 16, so that the ring's panels are not shared with sinks. Canonical slots have no such gap.
 * l->head is the ring offset of the oldest entry, 0 until the ring is full; l->n counts all entries. */
#include "ref/cache.h"

static int64_t ring_base(const kv_policy *p) { return ref_round_up(p->sink.sinks, REF_PANEL); }

static int32_t key_form(const kv_policy *p)
{
    (void)p;
    return KV_KEY_RAW;
}

static int64_t slots(const kv_policy *p) { return ring_base(p) + p->sink.cap; }

static int64_t piece(const kv_policy *p, int64_t seen, int64_t n)
{
    (void)seen;
    (void)p;
    return n;
}

static int64_t begin(ref_cache *c, int32_t layer, int64_t m)
{
    (void)m;
    return c->layers[layer].n;
}

static int64_t view(const ref_cache *c, const ref_layer *l, ref_range *out)
{
    const int64_t base = ring_base(&c->policy), ring = l->n - l->n_sink, older = ring - l->head;
    int64_t n = 0;
    if (l->n_sink) out[n++] = (ref_range){0, l->n_sink};
    if (older > 0) out[n++] = (ref_range){base + l->head, older};
    if (l->head) out[n++] = (ref_range){base, l->head};
    return n;
}

/* Ring tokens enter in order and leave in order: the k-th token behind the sinks has offset k mod cap. */
static int64_t place(ref_cache *c, int32_t layer, int64_t pos)
{
    (void)pos;
    ref_layer *l = &c->layers[layer];
    const int64_t sinks = c->policy.sink.sinks, cap = c->policy.sink.cap, og = l->seen++;
    if (l->n_sink < sinks) {
        const int64_t i = l->n_sink++;
        l->n++;
        REF(cache_event)(c, layer, KV_EVENT_ADMIT, og, og, i);
        return i;
    }
    const int64_t ring = l->n - l->n_sink;
    if (ring < cap) {
        l->n++;
        REF(cache_event)(c, layer, KV_EVENT_ADMIT, og, og, sinks + ring);
        return ring_base(&c->policy) + ring;
    }
    const int64_t at = l->head;
    REF(cache_event)(c, layer, KV_EVENT_ADMIT, og, og, sinks + at);
    REF(cache_event)(c, layer, KV_EVENT_EVICT, og - cap - KV_MUT(F17, 1, 0), og, sinks + at);
    l->head = (at + 1) % cap;
    return ring_base(&c->policy) + at;
}

static ref_entry entry(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    (void)head;
    if (i < l->n_sink) return (ref_entry){i, i, (int32_t)i};
    const int64_t ring = l->n - l->n_sink, k = i - l->n_sink;
    return (ref_entry){ring_base(&c->policy) + (l->head + k) % c->policy.sink.cap, l->seen - ring + k,
                       (int32_t)i};
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const int64_t n = a->n, seen = a->seen, *og = a->og;
    const int32_t *pos = a->pos;
    if (head > 0) return KV_OK;
    const int64_t sinks = c->policy.sink.sinks, cap = c->policy.sink.cap;
    const int64_t n_sink = ref_min(seen, sinks), ring = ref_min(seen - n_sink, cap);
    if (n != n_sink + ring)
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld entries after %lld tokens; sinks=%lld,cap=%lld "
                                      "hold %lld", (long long)n, (long long)seen, (long long)sinks,
                       (long long)cap, (long long)(n_sink + ring));
    for (int64_t i = 0; i < n; i++)
        if (pos[i] != i || og[i] != (i < n_sink ? i : seen - ring + (i - n_sink)))
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld is token %lld at position %d; a sink "
                                          "cache has no gaps", (long long)i, (long long)og[i], pos[i]);
    l->n = n;
    l->n_sink = n_sink;
    l->seen = seen;
    l->head = ring == cap ? KV_MUT(F18, seen, (seen - n_sink)) % cap : 0;
    return KV_OK;
}

const ref_policy REF(policy_sink) = {.needs_pos = 0, .key_form = key_form, .slots = slots, .piece = piece, .begin = begin,
                                    .view = view, .place = place, .entry = entry, .adopt = adopt};
