/* full.c - keeps everything; docs/policy/full.md. Slot = original index. */
#include "ref/cache.h"

static int32_t key_form(const kv_policy *p)
{
    (void)p;
    return KV_KEY_ROTATED;
}

static int64_t slots(const kv_policy *p)
{
    (void)p;
    return 0;
}

static int64_t piece(const kv_policy *p, int64_t seen, int64_t n)
{
    (void)seen;
    (void)p;
    return n;
}

static int64_t begin(ref_cache *c, int32_t layer, int64_t m)
{
    (void)m;
    return c->layers[layer].seen;
}

static int64_t view(const ref_cache *c, const ref_layer *l, ref_range *out)
{
    (void)c;
    if (l->n == 0) return 0;
    out[0] = (ref_range){0, l->n};
    return 1;
}

static int64_t place(ref_cache *c, int32_t layer, int64_t pos)
{
    (void)pos;
    ref_layer *l = &c->layers[layer];
    const int64_t og = l->seen++;
    l->n++;
    REF(cache_event)(c, layer, KV_EVENT_ADMIT, og, og, og);
    return og;
}

static ref_entry entry(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    (void)head;
    (void)c;
    (void)l;
    return (ref_entry){i, i, (int32_t)i};
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const int64_t n = a->n, seen = a->seen, *og = a->og;
    const int32_t *pos = a->pos;
    if (head > 0) return KV_OK;
    (void)c;
    for (int64_t i = 0; i < n; i++)
        if (og[i] != i || pos[i] != i)
            return kv_fail(KV_ERR_FORMAT, "cache state: policy full holds every token at its own place");
    if (n != seen) return kv_fail(KV_ERR_FORMAT, "cache state: policy full never drops a token");
    l->n = l->seen = seen;
    return KV_OK;
}

const ref_policy REF(policy_full) = {.needs_pos = 0, .key_form = key_form, .slots = slots, .piece = piece, .begin = begin,
                                    .view = view, .place = place, .entry = entry, .adopt = adopt};
