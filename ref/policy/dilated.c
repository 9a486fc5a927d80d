/* dilated.c - sinks, every so-manieth of the others, and the newest; docs/policy/dilated.md. */
#include "ref/policy/scores.h"

static int64_t slots(const kv_policy *p)
{
    (void)p;
    return 0;
}

static int64_t piece(const kv_policy *p, int64_t seen, int64_t left)
{
    (void)p;
    (void)seen;
    return left;
}

/* Token t, when n tokens have been fed. */
static int stays(const kv_dilated_params *p, int64_t t, int64_t n)
{
    return t < p->sinks || (t - p->sinks) % p->every == 0 || t >= n - p->window;
}

static kv_status settle(ref_cache *c, int32_t layer, const ref_sums *s)
{
    ref_layer *l = &c->layers[layer];
    const int64_t n = s->stored + s->m, fed = l->seen + s->m;
    KV_TRY(kv_buffer_reserve(&c->work, (size_t)n));
    uint8_t *keep = c->work.p;
    ref_survivors k = {.keep = keep, .event_head = -1};
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = i < s->stored ? ref_layer_og(l, 0)[i] : l->seen + i - s->stored;
        keep[i] = (uint8_t)stays(&c->policy.dilated, t, fed);
        kept += keep[i];
    }
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        k.silent = h > 0;
        REF(keep_survivors)(c, layer, h, s, &k);
    }
    l->n = kept;
    l->seen = fed;
    return KV_OK;
}

/* The rule leaves no choice: the entries are exactly those of the first `seen` tokens that stay. */
static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    int64_t i = 0;
    for (int64_t t = 0; t < a->seen; t++) {
        if (!stays(&c->policy.dilated, t, a->seen)) continue;
        if (i >= a->n || a->og[i] != t)
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld is not token %lld, which dilated keeps after %lld tokens",
                           (long long)i, (long long)t, (long long)a->seen);
        i++;
    }
    if (i != a->n)
        return kv_fail(KV_ERR_FORMAT, "cache state: %lld entries; dilated keeps %lld after %lld tokens", (long long)a->n,
                       (long long)i, (long long)a->seen);
    return REF(time_order_adopt)(l, head, a, i, 0);
}

const ref_policy REF(policy_dilated) = {.needs_og = 1, .key_form = REF(time_order_key_form), .slots = slots,
                                        .piece = piece, .begin = REF(time_order_begin), .view = REF(time_order_view),
                                        .settle = settle, .entry = REF(time_order_entry), .adopt = adopt};
