#include "ref/cache.h"
#include "ref/storage.h"

#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

extern const ref_policy REF(policy_full), REF(policy_sliding), REF(policy_sink), REF(policy_h2o), REF(policy_tova),
    REF(policy_snapkv), REF(policy_pyramid), REF(policy_cascade), REF(policy_xwindow),
    REF(policy_dilated);

const ref_policy *REF(policy_find)(int32_t selection)
{
    static const ref_policy *const table[KV_SEL_COUNT] = {
        [KV_SEL_FULL] = &REF(policy_full),
        [KV_SEL_SLIDING] = &REF(policy_sliding),
        [KV_SEL_SINK] = &REF(policy_sink),
        [KV_SEL_CASCADE] = &REF(policy_cascade),
        [KV_SEL_XWINDOW] = &REF(policy_xwindow),
        [KV_SEL_H2O] = &REF(policy_h2o),
        [KV_SEL_SNAPKV] = &REF(policy_snapkv),
        [KV_SEL_TOVA] = &REF(policy_tova),
        [KV_SEL_PYRAMID] = &REF(policy_pyramid),
        [KV_SEL_DILATED] = &REF(policy_dilated),
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
    const size_t rows = (size_t)(c->n_kv_heads * l->cap);
    const ref_policy *o = c->ops;
    const int pos = o->needs_pos && !c->tail;
    l->pos = pos ? calloc((size_t)l->cap, sizeof *l->pos) : NULL;
    l->og = o->needs_og ? calloc(rows, sizeof *l->og) : NULL;
    l->score = o->needs_score ? calloc(rows, sizeof *l->score) : NULL;
    if (l->k && l->v && !l->pos == !pos && !l->og == !o->needs_og && !l->score == !o->needs_score) return KV_OK;
    return kv_fail(KV_ERR_NOMEM, "out of memory: %zu MiB for one layer's cache of %lld entries",
                   (l->k_bytes + l->v_bytes) >> 20, (long long)l->cap);
}

static void release(ref_layer *l)
{
    kv_big_free(l->k, l->k_bytes);
    kv_big_free(l->v, l->v_bytes);
    free(l->pos);
    free(l->og);
    free(l->score);
}

enum { FIRST_SLOTS = 1024 }; /* of a store that grows */

kv_status REF(cache_init)(ref_cache *c, const kv_config *cfg, const kv_policy *p)
{
    memset(c, 0, sizeof *c);
    c->policy = *p;
    c->ops = REF(policy_find)(p->selection);
    c->store = REF(storage_find)(p->storage);
    c->n_layers = cfg->n_layers;
    c->n_kv_heads = cfg->n_kv_heads;
    c->head_dim = cfg->head_dim;
    c->dv = ref_round_up(cfg->head_dim, 16);
    c->layers = calloc((size_t)cfg->n_layers, sizeof *c->layers);
    c->moves = calloc((size_t)c->n_kv_heads, sizeof *c->moves);
    if (!c->layers || !c->moves) return kv_fail(KV_ERR_NOMEM, "out of memory");
    if (c->store->init) c->store->init(c);
    const int64_t limit = c->tail ? c->tail : c->ops->slots(p);
    for (int32_t i = 0; i < c->n_layers; i++)
        KV_TRY(allocate(c, &c->layers[i], limit ? ref_min(limit, FIRST_SLOTS) : FIRST_SLOTS));
    return KV_OK;
}

void REF(cache_free)(ref_cache *c)
{
    for (int32_t i = 0; c->layers && i < c->n_layers; i++) {
        REF(layer_free)(&c->layers[i]);
    }
    for (int64_t h = 0; c->moves && h < c->n_kv_heads; h++)
        free(c->moves[h].v);
    free(c->layers);
    free(c->moves);
    kv_buffer_free(&c->weights);
    kv_buffer_free(&c->work);
    kv_buffer_free(&c->fresh);
    c->layers = NULL;
    c->moves = NULL;
}

void REF(cache_reset)(ref_cache *c)
{
    for (int32_t i = 0; i < c->n_layers; i++) {
        ref_layer *l = &c->layers[i];
        l->n = l->seen = l->n_sink = l->head = 0;
        memset(l->count, 0, sizeof l->count);
        memset(l->start, 0, sizeof l->start);
        l->events.n = 0;
    }
    c->window = 0;
    c->event_status = KV_OK;
}

void REF(layer_copy)(const ref_cache *c, const ref_layer *from, ref_layer *to)
{
    const size_t n = (size_t)from->cap;
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        memcpy(ref_layer_k(c, to, h), ref_layer_k(c, from, h), n * (size_t)c->head_dim * sizeof(real));
        memcpy(ref_layer_v(c, to, h), ref_layer_v(c, from, h), n * (size_t)c->dv * sizeof(real));
        if (from->og) memcpy(ref_layer_og(to, h), ref_layer_og(from, h), n * sizeof *from->og);
        if (from->score) memcpy(ref_layer_score(to, h), ref_layer_score(from, h), n * sizeof *from->score);
    }
    if (from->pos) memcpy(to->pos, from->pos, n * sizeof *from->pos);
}

kv_status REF(layer_clone)(const ref_cache *c, const ref_layer *from, ref_layer *to)
{
    *to = *from;
    to->events = (kv_events){0};
    to->coded = (ref_coded){0};
    KV_TRY(allocate(c, to, from->cap));
    REF(layer_copy)(c, from, to);
    return REF(coded_clone)(c, from, to);
}

void REF(layer_free)(ref_layer *l)
{
    release(l);
    REF(coded_free)(l);
    free(l->events.v);
}

static kv_status reserve_rows(const ref_cache *c, ref_layer *l, int64_t n, int64_t limit)
{
    if (n <= l->cap) return KV_OK;
    n = ref_max(n, 2 * l->cap);
    if (limit) n = ref_min(n, limit);
    ref_layer bigger = *l;
    bigger.k = bigger.v = bigger.score = NULL;
    bigger.pos = NULL;
    bigger.og = NULL;
    const kv_status st = allocate(c, &bigger, n);
    if (st != KV_OK) {
        release(&bigger);
        return st;
    }
    REF(layer_copy)(c, l, &bigger);
    release(l);
    *l = bigger;
    return KV_OK;
}

kv_status REF(cache_reserve)(ref_cache *c, ref_layer *l, int64_t m)
{
    /* Slots fill upwards; a ring that has wrapped (head > 0) already has its full size. */
    const int64_t limit = c->ops->slots(&c->policy);
    int64_t n = l->n + l->head + m + REF_PANEL;
    if (limit) n = ref_min(n, limit);
    if (!c->tail) KV_TRY(reserve_rows(c, l, n, limit));
    return REF(coded_reserve)(c, l, n);
}

void REF(cache_decide)(ref_cache *c, int32_t layer, kv_event e)
{
    if (!c->record_events) return;
    e.layer = layer;
    e.reserved = 0;
    if (e.margin != e.margin) e.margin = kv_bits2f(0x7fc00000u); /* one NaN for all sides */
    if (e.margin == 0) e.margin = 0; /* one zero, too */
    const kv_status st = kv_events_push(&c->layers[layer].events, e);
    if (st != KV_OK) c->event_status = st;
}

void REF(cache_event)(ref_cache *c, int32_t layer, int32_t kind, int64_t og, int64_t token,
                      int64_t slot)
{
    const kv_event e = {.og = og, .token = token, .head = -1, .kind = kind, .slot = (int32_t)slot, .margin = kv_inf()};
    REF(cache_decide)(c, layer, e);
}

void REF(cache_move)(ref_cache *c, int64_t head, int64_t to, int64_t from)
{
    ref_moves *m = &c->moves[head];
    if (m->n == m->cap) {
        const int64_t cap = m->cap ? 2 * m->cap : 256;
        ref_move *v = realloc(m->v, (size_t)cap * sizeof *v);
        if (!v) {
            c->event_status = kv_fail(KV_ERR_NOMEM, "out of memory for the rows that move");
            return;
        }
        m->v = v;
        m->cap = cap;
    }
    m->v[m->n++] = (ref_move){to, from};
}
