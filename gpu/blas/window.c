/* window.c - xwindow (docs/policy/xwindow.md): a window is computed anew against rows that earlier windows
 * recorded. What it reads is copied together, because rows that come into view later lie between. */
#include "gpu/blas/blas.h"

#include <string.h>

static int uses_cache(const blas_cache *c, int32_t layer)
{
    const kv_xwindow_params *x = &c->policy.xwindow;
    return x->cache > 0 && (x->layers == 0 || layer >= c->n_layers - x->layers);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

kv_status blas_window_check(const blas_session *s, const kv_step *step)
{
    const kv_xwindow_params *x = &s->cache.policy.xwindow;
    if (s->cache.policy.selection != KV_SEL_XWINDOW) {
        if (!(step->flags & KV_STEP_RECOMPUTE)) return KV_OK;
        return kv_fail(KV_ERR_UNSUPPORTED, "policy '%s' does not compute rows again; only xwindow does",
                       kv_selection_name(s->cache.policy.selection));
    }
    if (!(step->flags & KV_STEP_RECOMPUTE))
        return kv_fail(KV_ERR_USAGE, "xwindow is fed in windows: the step needs KV_STEP_RECOMPUTE and pos0");
    const int64_t next = s->seen == 0 ? 0 : s->window < 0 ? -1 : s->window + x->stride;
    const int follows = next < 0 ? step->pos0 >= 0 && step->pos0 <= s->seen : step->pos0 == next;
    if (blas_carry_missing(&s->carry, &s->cache.policy, s->seen, step->pos0))
        return kv_fail(KV_ERR_USAGE, "xwindow with pred=carry: no state of the model at token %lld, where the window begins",
                       (long long)step->pos0);
    if (follows && step->n <= x->window && step->pos0 + step->n > s->seen) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "%d tokens from %lld on are not the next window: it begins at token %lld%s, has at most "
                                 "window=%d tokens and ends behind the %lld seen", step->n, (long long)step->pos0,
                   (long long)(next < 0 ? s->seen : next), next < 0 ? " or before" : "", x->window, (long long)s->seen);
}

/* Which recorded rows a layer's window reads, and where the window stands. */
static blas_view view_of(const blas_session *s, int32_t layer, int64_t pos0)
{
    const blas_cache *c = &s->cache;
    const kv_xwindow_params *x = &c->policy.xwindow;
    const blas_index *ix = &blas_set_at(c, layer, 0)->index;
    if (x->ver == KV_XW_PUBLISHED) return (blas_view){.n = ix->n, .base = least(s->seen, x->cache)};
    int64_t lo = 0, hi;
    while (lo < ix->n && ix->og[lo] < pos0 - x->cache)
        lo++;
    for (hi = lo; hi < ix->n && ix->og[hi] < pos0;)
        hi++;
    return (blas_view){.first = lo, .n = hi - lo, .base = hi > lo ? pos0 - ix->og[lo] : 0};
}

/* ---- what the window reads ---------------------------------------------------------------------------- */

enum { LOOP_ROWS = 16 };

typedef struct gather_job {
    blas_session *s;
    int32_t layer;
    const blas_set *set;
    const blas_view *view;
    int64_t pos0, m;
    int raw;
    float *keys, *values; /* [H][n + m][D] */
} gather_job;

/* Row i of the view for one KV head. */
static void gather_row(const gather_job *j, int64_t head, int64_t i)
{
    const blas_session *s = j->s;
    const blas_cache *c = &s->cache;
    const blas_view *view = j->view;
    const int64_t D = c->head_dim, row = view->first + i;
    float *key = j->keys + (head * (view->n + j->m) + i) * D, *value = j->values + (head * (view->n + j->m) + i) * D;
    if (i < view->n) {
        const float *k = blas_keys(c, j->set, head) + row * D;
        memcpy(value, blas_values(c, j->set, head) + row * D, (size_t)D * sizeof *value);
        if (j->raw)
            blas_turn_key(s, j->layer, head, j->set->index.og[row] - (j->pos0 - view->base), k, key);
        else
            memcpy(key, k, (size_t)D * sizeof *key);
        return;
    }
    const int64_t x = i - view->n, stride = s->weights->layers[0].qkv.n;
    const float *k = s->work.qkv + x * stride + (s->model->cfg.n_heads + head) * D;
    memcpy(value, k + c->n_kv_heads * D, (size_t)D * sizeof *value);
    blas_turn_key(s, j->layer, head, view->base + x, k, key);
}

static void gather_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const gather_job *j = arg;
    const blas_session *s = j->s;
    const int64_t D = s->cache.head_dim, all = j->view->n + j->m;
    for (int64_t i = task * LOOP_ROWS; i < least((task + 1) * LOOP_ROWS, all); i++) {
        for (int64_t h = 0; h < s->cache.n_kv_heads; h++)
            gather_row(j, h, i);
        float *q = s->work.qkv + (i - j->view->n) * s->weights->layers[0].qkv.n;
        for (int64_t h = 0; i >= j->view->n && h < s->model->cfg.n_heads; h++)
            blas_turn_query(s, j->layer, h, j->view->base + i - j->view->n, q + h * D);
    }
}

kv_status blas_window_place(blas_session *s, int32_t layer, const blas_piece_info *p)
{
    const blas_cache *c = &s->cache;
    blas_set *set = blas_set_at(c, layer, 0);
    blas_view *view = &s->views[0];
    KV_TRY(blas_set_reserve(c, set, p->m));
    *view = view_of(s, layer, p->first);
    if (!uses_cache(c, layer)) view->base = view_of(s, c->n_layers - 1, p->first).base;
    const int64_t all = view->n + p->m, floats = c->n_kv_heads * all * c->head_dim;
    KV_TRY(blas_rope_cover(&s->rope, 0, view->base + p->m));
    KV_TRY(kv_buffer_reserve(&s->keys, (size_t)floats * sizeof(float)));
    KV_TRY(kv_buffer_reserve(&s->values, (size_t)floats * sizeof(float)));
    view->keys = s->keys.p;
    view->values = s->values.p;
    view->key_stride = view->value_stride = all * c->head_dim;
    gather_job j = {s, layer, set, view, p->first, p->m, c->policy.xwindow.ver == KV_XW_FIXED, s->keys.p, s->values.p};
    kv_pool_run(s->pool, (all + LOOP_ROWS - 1) / LOOP_ROWS, gather_task, &j);
    return KV_OK;
}

/* ---- what it leaves ---------------------------------------------------------------------------------------- */

blas_arrival blas_window_arrival(const blas_session *s, int32_t layer, int64_t pos0, int64_t n)
{
    const kv_xwindow_params *x = &s->cache.policy.xwindow;
    const int64_t end = pos0 + n, kept = least(x->stride, n);
    if (!uses_cache(&s->cache, layer)) return (blas_arrival){.last = end - 1};
    if (x->ver == KV_XW_FIXED) return (blas_arrival){s->seen, end - s->seen, s->seen, end - 1};
    return (blas_arrival){end - kept, kept, least(s->seen, x->cache) + n - kept, end - 1};
}

void blas_window_record(blas_session *s, int32_t layer, const blas_piece_info *p, const blas_arrival *a)
{
    const blas_cache *c = &s->cache;
    const blas_set *set = blas_set_at(c, layer, 0);
    const blas_view *view = &s->views[0];
    const int64_t D = c->head_dim, row_bytes = D * (int64_t)sizeof(float), stride = s->weights->layers[0].qkv.n;
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        for (int64_t i = 0; i < a->m; i++) {
            const int64_t x = a->first - p->first + i;
            float *key = blas_keys(c, set, h) + (set->index.n + i) * D;
            float *value = blas_values(c, set, h) + (set->index.n + i) * D;
            const float *raw = s->work.qkv + x * stride + (s->model->cfg.n_heads + h) * D;
            const float *read = view->keys + h * view->key_stride + (view->n + x) * D;
            memcpy(key, c->policy.xwindow.ver == KV_XW_FIXED ? raw : read, (size_t)row_bytes);
            memcpy(value, raw + c->n_kv_heads * D, (size_t)row_bytes);
            blas_narrow(&c->policy, key, D);
            blas_narrow(&c->policy, value, D);
        }
}
