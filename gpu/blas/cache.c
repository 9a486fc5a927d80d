/* cache.c - rows of K and V in view order, so that attention is two matrix products on them as they
 * lie.
 *
 *   store of one KV head:   | free | entries start .. start + n - 1 | free, own tokens of a step |
 *
 * Eviction closes its gap by moving the shorter side: the sinks forward, or nothing at all for a
 * window. */
#include "gpu/blas/blas.h"

#include <stdlib.h>
#include <string.h>

int32_t blas_key_form(const kv_policy *p)
{
    const int raw = p->selection == KV_SEL_SINK ||
                    (p->selection == KV_SEL_SLIDING && p->sliding.pos == KV_SLIDING_REROTATE);
    return raw ? KV_KEY_RAW : KV_KEY_ROTATED;
}

kv_status blas_cache_init(blas_cache *c, const kv_config *cfg, const kv_policy *p)
{
    c->policy = *p;
    c->n_layers = cfg->n_layers;
    c->n_kv_heads = cfg->n_kv_heads;
    c->head_dim = cfg->head_dim;
    c->layers = calloc((size_t)c->n_layers, sizeof *c->layers);
    return c->layers ? KV_OK : kv_fail(KV_ERR_NOMEM, "cache: out of memory");
}

static size_t store_bytes(const blas_cache *c, int64_t cap)
{
    return (size_t)(c->n_kv_heads * cap * c->head_dim) * sizeof(float);
}

void blas_cache_free(blas_cache *c)
{
    for (int32_t i = 0; c->layers && i < c->n_layers; i++) {
        blas_layer *l = &c->layers[i];
        kv_big_free(l->k, store_bytes(c, l->cap));
        kv_big_free(l->v, store_bytes(c, l->cap));
        blas_index_free(&l->index);
    }
    free(c->layers);
    c->layers = NULL;
}

void blas_cache_reset(blas_cache *c)
{
    for (int32_t i = 0; i < c->n_layers; i++)
        c->layers[i].index.n = c->layers[i].start = 0;
}

/* ---- the index ------------------------------------------------------------------------------ */

kv_status blas_index_reserve(blas_index *ix, int64_t room)
{
    if (room <= ix->room) return KV_OK;
    room += room / 2;
    int64_t *og = realloc(ix->og, (size_t)room * sizeof *og);
    if (og) ix->og = og;
    int32_t *slot = realloc(ix->slot, (size_t)room * sizeof *slot);
    if (slot) ix->slot = slot;
    int32_t *pos = realloc(ix->pos, (size_t)room * sizeof *pos);
    if (pos) ix->pos = pos;
    uint8_t *dead = realloc(ix->dead, (size_t)room);
    if (dead) ix->dead = dead;
    if (!og || !slot || !pos || !dead) return kv_fail(KV_ERR_NOMEM, "cache: out of memory");
    ix->room = room;
    return KV_OK;
}

void blas_index_free(blas_index *ix)
{
    free(ix->og);
    free(ix->slot);
    free(ix->pos);
    free(ix->dead);
    *ix = (blas_index){0};
}

void blas_index_copy(blas_index *to, const blas_index *from)
{
    const size_t n = (size_t)from->n;
    to->n = from->n;
    if (n == 0) return;
    memcpy(to->og, from->og, n * sizeof *to->og);
    memcpy(to->slot, from->slot, n * sizeof *to->slot);
    memcpy(to->pos, from->pos, n * sizeof *to->pos);
    memcpy(to->dead, from->dead, n);
}

static void index_remove(blas_index *ix, int64_t i, int64_t j)
{
    const size_t tail = (size_t)(ix->n - j);
    memmove(ix->og + i, ix->og + j, tail * sizeof *ix->og);
    memmove(ix->slot + i, ix->slot + j, tail * sizeof *ix->slot);
    memmove(ix->pos + i, ix->pos + j, tail * sizeof *ix->pos);
    memmove(ix->dead + i, ix->dead + j, tail);
    ix->n -= j - i;
}

/* ---- the store ------------------------------------------------------------------------------ */

/* Moves `rows` rows of every head. */
static void move_rows(const blas_cache *c, const blas_layer *l, int64_t from, int64_t to,
                      int64_t rows)
{
    const size_t bytes = (size_t)(rows * c->head_dim) * sizeof(float);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        const int64_t head = h * l->cap;
        memmove(l->k + (head + to) * c->head_dim, l->k + (head + from) * c->head_dim, bytes);
        memmove(l->v + (head + to) * c->head_dim, l->v + (head + from) * c->head_dim, bytes);
    }
}

static void store_remove(const blas_cache *c, blas_layer *l, int64_t n, int64_t i, int64_t j)
{
    if (i <= n - j) {
        move_rows(c, l, l->start, l->start + (j - i), i);
        l->start += j - i;
    } else {
        move_rows(c, l, l->start + j, l->start + i, n - j);
    }
}

void blas_remove_dead(const blas_cache *c, blas_index *ix, blas_layer *l)
{
    for (int64_t j = ix->n; j > 0;) {
        if (!ix->dead[j - 1]) {
            j--;
            continue;
        }
        int64_t i = j;
        while (i > 0 && ix->dead[i - 1])
            i--;
        if (l) store_remove(c, l, ix->n, i, j);
        index_remove(ix, i, j);
        j = i;
    }
}

static kv_status grow(const blas_cache *c, blas_layer *l, int64_t cap)
{
    float *k = kv_big_alloc(store_bytes(c, cap)), *v = kv_big_alloc(store_bytes(c, cap));
    if (!k || !v) {
        kv_big_free(k, store_bytes(c, cap));
        kv_big_free(v, store_bytes(c, cap));
        return kv_fail(KV_ERR_NOMEM, "cache: out of memory for %lld entries", (long long)cap);
    }
    const size_t bytes = (size_t)(l->index.n * c->head_dim) * sizeof(float);
    for (int64_t h = 0; bytes && h < c->n_kv_heads; h++) {
        memcpy(k + h * cap * c->head_dim, blas_keys(c, l, h), bytes);
        memcpy(v + h * cap * c->head_dim, blas_values(c, l, h), bytes);
    }
    kv_big_free(l->k, store_bytes(c, l->cap));
    kv_big_free(l->v, store_bytes(c, l->cap));
    l->k = k;
    l->v = v;
    l->cap = cap;
    l->start = 0;
    return KV_OK;
}

kv_status blas_layer_reserve(const blas_cache *c, blas_layer *l, int64_t m)
{
    const int64_t n = l->index.n, want = n + m;
    KV_TRY(blas_index_reserve(&l->index, want));
    if (l->start + want <= l->cap) return KV_OK;
    if (2 * want > l->cap) return grow(c, l, 2 * want + 64);
    move_rows(c, l, l->start, 0, n); /* at most once per cap / 2 rows */
    l->start = 0;
    return KV_OK;
}
