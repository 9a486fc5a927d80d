#include "ref/cache.h"

#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

extern const ref_policy REF(policy_full), REF(policy_sliding), REF(policy_sink);

const ref_policy *REF(policy_find)(int32_t selection)
{
    static const ref_policy *const table[KV_SEL_COUNT] = {
        [KV_SEL_FULL] = &REF(policy_full),
        [KV_SEL_SLIDING] = &REF(policy_sliding),
        [KV_SEL_SINK] = &REF(policy_sink),
    };
    return table[selection];
}

static kv_status allocate(const ref_cache *c, ref_layer *l, int64_t slots)
{
    l->cap = ref_round_up(ref_max(slots, 16), 16);
    l->k_bytes = (size_t)(c->n_kv_heads * l->cap * c->head_dim) * sizeof(real);
    l->v_bytes = (size_t)(c->n_kv_heads * l->cap * c->dv) * sizeof(real);
    l->k = kv_big_alloc(l->k_bytes);
    l->v = kv_big_alloc(l->v_bytes);
    l->pos = c->ops->needs_pos ? calloc((size_t)l->cap, sizeof *l->pos) : NULL;
    if (l->k && l->v && (l->pos || !c->ops->needs_pos)) return KV_OK;
    return kv_fail(KV_ERR_NOMEM, "out of memory: %zu MiB for one layer's cache of %lld entries",
                   (l->k_bytes + l->v_bytes) >> 20, (long long)l->cap);
}

static void release(ref_layer *l)
{
    kv_big_free(l->k, l->k_bytes);
    kv_big_free(l->v, l->v_bytes);
    free(l->pos);
}

enum { FIRST_SLOTS = 1024 }; /* of a store that grows */

kv_status REF(cache_init)(ref_cache *c, const kv_config *cfg, const kv_policy *p)
{
    memset(c, 0, sizeof *c);
    c->policy = *p;
    c->ops = REF(policy_find)(p->selection);
    c->n_layers = cfg->n_layers;
    c->n_kv_heads = cfg->n_kv_heads;
    c->head_dim = cfg->head_dim;
    c->dv = ref_round_up(cfg->head_dim, 16);
    c->layers = calloc((size_t)cfg->n_layers, sizeof *c->layers);
    if (!c->layers) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const int64_t limit = c->ops->slots(p);
    for (int32_t i = 0; i < c->n_layers; i++)
        KV_TRY(allocate(c, &c->layers[i], limit ? ref_min(limit, FIRST_SLOTS) : FIRST_SLOTS));
    return KV_OK;
}

void REF(cache_free)(ref_cache *c)
{
    for (int32_t i = 0; c->layers && i < c->n_layers; i++) {
        release(&c->layers[i]);
        free(c->layers[i].events.v);
    }
    free(c->layers);
    c->layers = NULL;
}

void REF(cache_reset)(ref_cache *c)
{
    for (int32_t i = 0; i < c->n_layers; i++) {
        ref_layer *l = &c->layers[i];
        l->n = l->seen = l->n_sink = l->head = 0;
        l->events.n = 0;
    }
    c->event_status = KV_OK;
}

kv_status REF(cache_reserve)(ref_cache *c, ref_layer *l, int64_t m)
{
    /* Slots fill upwards; a ring that has wrapped (head > 0) already has its full size. */
    const int64_t limit = c->ops->slots(&c->policy);
    int64_t n = l->n + l->head + m + REF_PANEL;
    if (limit) n = ref_min(n, limit);
    if (n <= l->cap) return KV_OK;
    n = ref_max(n, 2 * l->cap);
    if (limit) n = ref_min(n, limit);
    ref_layer bigger = *l;
    bigger.k = bigger.v = NULL;
    bigger.pos = NULL;
    const kv_status st = allocate(c, &bigger, n);
    if (st != KV_OK) {
        release(&bigger);
        return st;
    }
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        memcpy(ref_layer_k(c, &bigger, h), ref_layer_k(c, l, h),
               (size_t)(l->cap * c->head_dim) * sizeof(real));
        memcpy(ref_layer_v(c, &bigger, h), ref_layer_v(c, l, h), (size_t)(l->cap * c->dv) * sizeof(real));
    }
    if (l->pos) memcpy(bigger.pos, l->pos, (size_t)l->cap * sizeof *l->pos);
    release(l);
    *l = bigger;
    return KV_OK;
}

void REF(cache_event)(ref_cache *c, int32_t layer, int32_t kind, int64_t og, int64_t token,
                      int64_t slot)
{
    if (!c->record_events) return;
    const kv_event e = {.og = og, .token = token, .layer = layer, .head = -1, .kind = kind,
                        .slot = (int32_t)slot, .margin = kv_inf()};
    const kv_status st = kv_events_push(&c->layers[layer].events, e);
    if (st != KV_OK) c->event_status = st;
}
