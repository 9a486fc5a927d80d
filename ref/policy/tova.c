/* tova.c - per layer what the newest token looks at; docs/policy/tova.md. */
#include "ref/policy/scores.h"

static int64_t slots(const kv_policy *p) { return p->tova.cap; }

static int64_t piece(const kv_policy *p, int64_t seen, int64_t left)
{
    (void)p;
    (void)seen;
    return left;
}

/* Before the cache is full nothing is decided. */
static kv_status demand(ref_cache *c, const ref_layer *l, int64_t m, ref_demand *out)
{
    const int64_t last = m - KV_MUT(F09, m > 1 ? 2 : 1, 1);
    if (l->n + m > c->policy.tova.cap) *out = (ref_demand){.first = last, .rows = 1, .block = 1};
    return KV_OK;
}

static real mean_of_heads(const ref_sums *s, int64_t i)
{
    real sum = s->acc[i];
    for (int64_t h = 1; h < s->n_heads; h++)
        sum = sum + s->acc[h * s->stride + i];
    return sum / (real)s->n_heads;
}

static kv_status settle(ref_cache *c, int32_t layer, const ref_sums *s)
{
    ref_layer *l = &c->layers[layer];
    const int64_t n = s->stored + s->m;
    const int full = n > c->policy.tova.cap;
    KV_TRY(kv_buffer_reserve(&c->work, (size_t)n * (sizeof(ref_ranked) + sizeof(real) + 1)));
    ref_ranked *ranked = c->work.p;
    real *scores = (real *)(void *)(ranked + n);
    uint8_t *keep = (uint8_t *)(scores + n);
    ref_survivors k = {.keep = keep, .scores = full ? scores : NULL, .event_head = -1};
    for (int64_t i = 0; i < n; i++) {
        keep[i] = 1;
        if (full) scores[i] = mean_of_heads(s, i);
        ranked[i] = (ref_ranked){full ? scores[i] : 0, i};
    }
    if (full) k.lowest = REF(keep_best)(ranked, n, c->policy.tova.cap, keep);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        k.silent = h > 0;
        REF(keep_survivors)(c, layer, h, s, &k);
    }
    l->n = full ? c->policy.tova.cap : n;
    l->seen += s->m;
    return KV_OK;
}

/* No token is safe, the newest neither. */
static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const ref_adopt *a)
{
    const int decided = a->seen > c->policy.tova.cap;
    return REF(time_order_adopt)(l, head, a, decided ? c->policy.tova.cap : a->seen, decided ? 0 : a->seen);
}

const ref_policy REF(policy_tova) = {.needs_og = 1, .key_form = REF(time_order_key_form), .slots = slots,
                                     .piece = piece, .begin = REF(time_order_begin), .view = REF(time_order_view),
                                     .demand = demand, .settle = settle, .entry = REF(time_order_entry),
                                     .adopt = adopt};
