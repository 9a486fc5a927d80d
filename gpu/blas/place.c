/* place.c - from projections to what attention reads: queries rotated, keys and values of the piece stored behind
 * the entries, stored keys rotated where they are kept raw. */
#include "gpu/blas/blas.h"

#include <string.h>

enum { LOOP_ROWS = 16 };

typedef struct place_job {
    blas_session *s;
    int32_t layer;
    int raw;        /* keys are stored before RoPE */
    int64_t m;
    int64_t blocks; /* of the longest view: tasks of a KV head */
} place_job;

static int64_t blocks_of(int64_t n)
{
    return (n + LOOP_ROWS - 1) / LOOP_ROWS;
}

/* Key and value of own token x for one KV head: into the store, as the storage keeps them. */
static void store_own(const place_job *j, int32_t head, int64_t x, const float *k, const float *v)
{
    blas_session *s = j->s;
    const blas_cache *c = &s->cache;
    const int64_t D = c->head_dim, inner = head % c->set_heads;
    const blas_set *set = blas_set_at(c, j->layer, head / c->set_heads);
    const blas_view *view = &s->views[head / c->set_heads];
    float *key = blas_keys(c, set, inner) + (view->n + x) * D, *value = blas_values(c, set, inner) + (view->n + x) * D;
    memcpy(value, v, (size_t)D * sizeof *v);
    if (j->raw)
        memcpy(key, k, (size_t)D * sizeof *k);
    else
        blas_turn_key(s, j->layer, head, view->base + x, k, key);
    if (c->policy.storage == KV_STORE_KVARN) {
        blas_hadamard(key, D);
        blas_hadamard(value, D);
    }
    blas_narrow(&c->policy, key, D);
    blas_narrow(&c->policy, value, D);
}

static void own_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const place_job *j = arg;
    blas_session *s = j->s;
    const int32_t Hq = s->model->cfg.n_heads, H = s->cache.n_kv_heads, group = Hq / H;
    const int64_t D = s->cache.head_dim, end = (task + 1) * LOOP_ROWS < j->m ? (task + 1) * LOOP_ROWS : j->m;
    for (int64_t x = task * LOOP_ROWS; x < end; x++) {
        float *q = s->work.qkv + x * s->weights->layers[0].qkv.n;
        const float *k = q + Hq * D, *v = k + H * D;
        for (int32_t h = 0; h < Hq; h++)
            blas_turn_query(s, j->layer, h, s->views[h / group / s->cache.set_heads].base + x, q + h * D);
        for (int32_t h = 0; h < H; h++)
            store_own(j, h, x, k + h * D, v + h * D);
    }
}

/* A block of one KV head's stored keys, the piece's own included: position = view index. */
static void rotate_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const place_job *j = arg;
    const blas_session *s = j->s;
    const blas_cache *c = &s->cache;
    const int64_t D = c->head_dim, head = task / j->blocks, inner = head % c->set_heads;
    const blas_view *view = &s->views[head / c->set_heads];
    const float *from = blas_keys(c, blas_set_at(c, j->layer, (int32_t)(head / c->set_heads)), inner);
    float *to = (float *)(uintptr_t)view->keys + inner * view->key_stride;
    const int64_t begin = task % j->blocks * LOOP_ROWS, all = view->n + j->m;
    for (int64_t i = begin; i < begin + LOOP_ROWS && i < all; i++)
        blas_turn_key(s, j->layer, head, i, from + i * D, to + i * D);
}

/* Fills the views, and says which positions are needed: *first .. *end - 1. *rows: of the longest view. */
static kv_status lay_out(blas_session *s, int32_t layer, const blas_piece_info *p, int64_t *first, int64_t *end,
                         int64_t *rows)
{
    const blas_cache *c = &s->cache;
    *rows = *end = 0;
    *first = INT64_MAX;
    for (int32_t g = 0; g < c->n_sets; g++) {
        blas_set *set = blas_set_at(c, layer, g);
        KV_TRY(blas_set_reserve(c, set, p->m));
        const int64_t n = set->index.n, base = blas_base(&c->policy, &set->index, p->first);
        s->views[g] = (blas_view){.n = n, .base = base, .keys = blas_keys(c, set, 0), .values = blas_values(c, set, 0),
                                  .key_stride = set->cap * c->head_dim, .value_stride = set->cap * c->head_dim};
        *first = base < *first ? base : *first;
        *end = base + p->m > *end ? base + p->m : *end;
        *rows = n + p->m > *rows ? n + p->m : *rows;
    }
    return KV_OK;
}

/* Points the views at the buffer of rotated keys, [H][rows][D]. */
static kv_status use_buffer(blas_session *s, int64_t rows)
{
    const blas_cache *c = &s->cache;
    const int64_t stride = rows * c->head_dim;
    KV_TRY(kv_buffer_reserve(&s->keys, (size_t)(c->n_kv_heads * stride) * sizeof(float)));
    for (int32_t g = 0; g < c->n_sets; g++) {
        s->views[g].keys = (const float *)s->keys.p + g * c->set_heads * stride;
        s->views[g].key_stride = stride;
    }
    return KV_OK;
}

kv_status blas_place(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const blas_cache *c = &s->cache;
    if (c->policy.selection == KV_SEL_XWINDOW) return blas_window_place(s, layer, p);
    int64_t first, end, rows;
    KV_TRY(lay_out(s, layer, p, &first, &end, &rows));
    const int raw = blas_key_form(&c->policy) == KV_KEY_RAW;
    if (raw) first = 0;
    KV_TRY(blas_rope_cover(&s->rope, first, end - first));
    place_job j = {s, layer, raw, p->m, blocks_of(rows)};
    kv_pool_run(s->pool, blocks_of(p->m), own_task, &j);
    if (raw) {
        KV_TRY(use_buffer(s, rows));
        kv_pool_run(s->pool, c->n_kv_heads * j.blocks, rotate_task, &j);
    }
    /* kvarn codes before the step attends, kivi afterwards */
    if (c->policy.storage != KV_STORE_KVARN) return KV_OK;
    return blas_seal(s, layer, s->views[0].n + p->m, p->first + p->m);
}
