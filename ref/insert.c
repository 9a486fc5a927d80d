/* insert.c - after a layer's attention: the policy decides who stays, rows follow its decisions. */
#include "ref/attention.h"
#include "ref/storage.h"

#include <string.h>

/* Key and value of own token x of KV head h. */
static const real *own_key(const ref_attn_layer *a, int64_t h, int64_t x)
{
    const ref_cache *c = &a->s->cache;
    const real *panels = c->ops->key_form(&c->policy) == KV_KEY_RAW ? a->s->work.own_raw : a->s->work.own_k;
    return panels + (h * a->panels + x / REF_PANEL) * c->head_dim * REF_PANEL + x % REF_PANEL;
}

static const real *own_value(const ref_attn_layer *a, int64_t h, int64_t x)
{
    return a->s->work.own_v + (h * a->m + x) * a->s->cache.dv;
}

static void put_row(const ref_attn_layer *a, int64_t h, int64_t slot, const real *key, int64_t stride, const real *value)
{
    const ref_cache *c = &a->s->cache;
    real *k = ref_slot_k(c, a->layer, h, slot), *v = ref_slot_v(c, a->layer, h, slot);
    for (int64_t d = 0; d < c->head_dim; d++)
        k[d * REF_PANEL] = key[d * stride];
    memcpy(v, value, (size_t)c->dv * sizeof *value);
    REF(storage_record)(c, k, REF_PANEL, c->head_dim);
    REF(storage_record)(c, v, 1, c->head_dim);
}

/* Token by token, into the same slot of all heads. */
static void place_rows(ref_attn_layer *a, int32_t layer, int64_t base)
{
    ref_cache *c = &a->s->cache;
    for (int64_t x = 0; x < a->m; x++) {
        const int64_t slot = c->ops->place(c, layer, base + x);
        for (int64_t h = 0; h < c->n_kv_heads; h++)
            put_row(a, h, slot, own_key(a, h, x), REF_PANEL, own_value(a, h, x));
    }
}

/* Rows that come from other slots are set aside before any slot is written. */
static void move_task(void *arg, int64_t h, int worker)
{
    ref_attn_layer *a = arg;
    ref_cache *c = &a->s->cache;
    const ref_moves *m = &c->moves[h];
    const int64_t D = c->head_dim, width = D + c->dv;
    real *aside = a->s->scratch[worker].p;
    for (int64_t i = 0, n = 0; i < m->n; i++) {
        if (m->v[i].from < 0) continue;
        const real *k = ref_slot_k(c, a->layer, h, m->v[i].from);
        real *row = aside + n++ * width;
        for (int64_t d = 0; d < D; d++)
            row[d] = k[d * REF_PANEL];
        memcpy(row + D, ref_slot_v(c, a->layer, h, m->v[i].from), (size_t)c->dv * sizeof *row);
    }
    for (int64_t i = 0, n = 0; i < m->n; i++) {
        const int64_t from = m->v[i].from;
        if (from < 0) {
            put_row(a, h, m->v[i].to, own_key(a, h, ~from), REF_PANEL, own_value(a, h, ~from));
        } else {
            const real *row = aside + n++ * width;
            put_row(a, h, m->v[i].to, row, 1, row + D);
        }
    }
}

static kv_status settle_rows(ref_attn_layer *a, int32_t layer, const ref_sums *sums)
{
    ref_session *s = a->s;
    ref_cache *c = &s->cache;
    int64_t most = 0;
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        c->moves[h].n = 0;
    KV_TRY(c->ops->settle(c, layer, sums));
    KV_TRY(c->event_status);
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        most = ref_max(most, c->moves[h].n);
    const size_t bytes = (size_t)(most * (c->head_dim + c->dv)) * sizeof(real);
    for (int i = 0; i < kv_pool_threads(s->pool); i++)
        KV_TRY(kv_buffer_reserve(&s->scratch[i], bytes));
    kv_pool_run(s->pool, c->n_kv_heads, move_task, a);
    return KV_OK;
}

kv_status REF(insert)(ref_attn_layer *a, int32_t layer, int64_t base, const ref_sums *sums)
{
    if (a->s->cache.ops->settle) return settle_rows(a, layer, sums);
    place_rows(a, layer, base);
    return a->s->cache.event_status;
}
