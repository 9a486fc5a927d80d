/* attention.c - one layer's attention for a piece of a step: rotation, the walk over the view, insertion
 * into the cache (insert.c). The arithmetic of a row is in kernels_attn.h. */
#include "ref/attention.h"
#include "ref/golf.h"
#include "ref/hooked.h"
#include "ref/storage.h"

#include <string.h>

/* ---- the piece's own keys, values and queries ------------------------------------------------------ */

/* Rotated keys of KV head h take the head's gain: values of lanes lo .. hi-1 of a panel. */
static void gain_lanes(const ref_session *s, int32_t layer, int64_t h, int64_t lo, int64_t hi, real *panel)
{
    const real *gain = s->golf.layers[layer].k_gain;
    for (int64_t d = 0; gain && d < s->cache.head_dim; d++)
        REF(scale)(panel + d * REF_PANEL + lo, gain[h], hi - lo, panel + d * REF_PANEL + lo);
}

/* Keys of 16 tokens of one head, from rows to a panel; lanes behind the last token are zero. */
static void pack_own_keys(const real *rows, int64_t stride, int64_t n, int64_t D, real *panel)
{
    if (n < REF_PANEL) memset(panel, 0, (size_t)(D * REF_PANEL) * sizeof *panel);
    for (int64_t t = 0; t < n; t++)
        for (int64_t d = 0; d < D; d++)
            panel[d * REF_PANEL + t] = rows[t * stride + d];
}

static void own_panel_task(void *arg, int64_t panel, int worker)
{
    (void)worker;
    const ref_attn_layer *j = arg;
    ref_session *s = j->s;
    const ref_work *w = &s->work;
    const ref_rope *r = &s->rope;
    const int64_t D = r->head_dim, dv = s->cache.dv, x0 = panel * REF_PANEL;
    const int64_t n = ref_min(REF_PANEL, j->m - x0), kvw = ref_kv_width(s), qw = ref_q_width(s);
    const int raw = s->cache.ops->key_form(&s->cache.policy) == KV_KEY_RAW;
    for (int64_t h = 0; h < s->cache.n_kv_heads; h++) {
        const int64_t at = (h * j->panels + panel) * D * REF_PANEL;
        pack_own_keys(w->k + x0 * kvw + h * D, kvw, n, D, w->own_raw + at);
        if (raw) REF(storage_arrive)(&s->cache, w->own_raw + at, D * REF_PANEL);
        s->kernels->rotate_panel(w->own_raw + at, D, 2 * r->pairs, r->half, j->own->cos + x0,
                                 j->own->sin + x0, j->own->stride, w->own_k + at);
        gain_lanes(s, j->index, h, 0, REF_PANEL, w->own_k + at);
        if (!raw) REF(storage_arrive)(&s->cache, w->own_k + at, D * REF_PANEL);
        for (int64_t x = x0; x < x0 + n; x++) {
            real *row = w->own_v + (h * j->m + x) * dv;
            memcpy(row, w->v + x * kvw + h * D, (size_t)D * sizeof *row);
            memset(row + D, 0, (size_t)(dv - D) * sizeof *row);
            REF(storage_arrive)(&s->cache, row, KV_MUT(F19, D - 1, D));
        }
    }
    const real *gain = s->golf.layers[j->index].q_gain;
    for (int64_t x = x0; x < x0 + n; x++) {
        for (int64_t h = 0; h < s->model->cfg.n_heads; h++)
            REF(rope_row)(r, j->own, x, w->q + x * qw + h * D);
        if (gain) REF(gain_heads)(w->q + x * qw, gain, s->model->cfg.n_heads, D);
    }
}

/* ---- stored keys that are kept un-rotated ------------------------------------------------------------ */

/* Lanes lo..hi-1 of a panel, lane l at column col0 + l of the view's table. */
static void rotate_lanes(const ref_attn_layer *j, const real *src, int64_t lo, int64_t hi, int64_t col0,
                         real *dst)
{
    const ref_rope *r = &j->s->rope;
    real cos[KV_MAX_HEAD_DIM / 2 * REF_PANEL], sin[KV_MAX_HEAD_DIM / 2 * REF_PANEL];
    real turned[KV_MAX_HEAD_DIM * REF_PANEL];
    for (int64_t i = 0; i < r->pairs; i++)
        for (int64_t l = 0; l < REF_PANEL; l++) {
            const int inside = l >= lo && l < hi;
            cos[i * REF_PANEL + l] = inside ? j->view->cos[i * j->view->stride + col0 + l] : 0;
            sin[i * REF_PANEL + l] = inside ? j->view->sin[i * j->view->stride + col0 + l] : 0;
        }
    j->s->kernels->rotate_panel(src, r->head_dim, 2 * r->pairs, r->half, cos, sin, REF_PANEL, turned);
    for (int64_t d = 0; d < r->head_dim; d++)
        for (int64_t l = lo; l < hi; l++)
            dst[d * REF_PANEL + l] = turned[d * REF_PANEL + l];
}

/* Everything of the view that lies in panel `task` of the store, for all heads. */
static void rotate_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const ref_attn_layer *j = arg;
    ref_session *s = j->s;
    const ref_rope *r = &s->rope;
    const int64_t slot0 = task * REF_PANEL, panel = r->head_dim * REF_PANEL;
    int64_t view = 0;
    for (int64_t i = 0; i < j->n_ranges; view += j->ranges[i].n, i++) {
        const ref_range *g = &j->ranges[i];
        const int64_t lo = ref_max(0, g->slot0 - slot0);
        const int64_t hi = ref_min(REF_PANEL, g->slot0 + g->n - slot0), col0 = view + slot0 - g->slot0;
        if (lo >= hi) continue;
        for (int64_t h = 0; h < s->cache.n_kv_heads; h++) {
            const int64_t at = h * j->layer->cap * r->head_dim + task * panel;
            const real *src = j->layer->k + at;
            real *dst = (real *)s->rotated.p + at;
            if (hi - lo == REF_PANEL)
                s->kernels->rotate_panel(src, r->head_dim, 2 * r->pairs, r->half, j->view->cos + col0,
                                         j->view->sin + col0, j->view->stride, dst);
            else
                rotate_lanes(j, src, lo, hi, col0, dst);
            gain_lanes(s, j->index, h, lo, hi, dst);
        }
    }
}

static kv_status rotate_store(ref_attn_layer *j, ref_rope_table *table)
{
    ref_session *s = j->s;
    const int64_t n = j->stored > table->n ? 2 * j->stored : j->stored;
    KV_TRY(REF(rope_table_fill)(&s->rope, table, KV_MUT(F26, 1, 0), n));
    KV_TRY(kv_buffer_reserve(&s->rotated, j->layer->k_bytes));
    j->view = table;
    kv_pool_run(s->pool, j->layer->cap / REF_PANEL, rotate_task, j);
    j->stored_k = s->rotated.p;
    return KV_OK;
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

static int64_t row_blocks(const ref_attn_layer *j)
{
    return (j->m * j->group + REF_ATTN_ROWS - 1) / REF_ATTN_ROWS;
}

int64_t REF(attn_spans)(const ref_attn_layer *j, int64_t h, ref_span *spans, ref_tiles *tiles)
{
    const ref_cache *c = &j->s->cache;
    const ref_work *w = &j->s->work;
    const int64_t D = c->head_dim;
    int64_t n = 0;
    if (c->store->spans) return c->store->spans(j, h, spans, tiles);
    for (int64_t i = 0; i < j->n_ranges; i++)
        spans[n++] = (ref_span){j->stored_k + h * j->layer->cap * D, ref_layer_v(c, j->layer, h), j->ranges[i].slot0,
                                j->ranges[i].n};
    spans[n++] = (ref_span){w->own_k + h * j->panels * D * REF_PANEL, w->own_v + h * j->m * c->dv, 0, j->m};
    return n;
}

/* Rows are (token, query head of the group), token by token. */
static void attend_task(void *arg, int64_t task, int worker)
{
    const ref_attn_layer *j = arg;
    ref_session *s = j->s;
    const ref_work *w = &s->work;
    const int64_t D = s->cache.head_dim, qw = ref_q_width(s), h = task / row_blocks(j);
    const int64_t row0 = task % row_blocks(j) * REF_ATTN_ROWS;
    const int rotated = s->cache.store->spans != NULL;
    ref_tiles tiles;
    real *scratch = s->scratch[worker].p, *q = scratch, *out[REF_ATTN_ROWS];
    real max[REF_ATTN_ROWS], sum[REF_ATTN_ROWS];
    int64_t hi[REF_ATTN_ROWS];
    ref_span spans[REF_MAX_SPANS];
    ref_attn_job job = {.q = q, .head_dim = D, .spans = spans, .hi = hi, .out = out, .max = max,
                        .sum = sum, .scratch = scratch + REF_ATTN_ROWS * D};
    job.rows = ref_min(REF_ATTN_ROWS, j->m * j->group - row0);
    for (int64_t r = 0; r < job.rows; r++) {
        const int64_t x = (row0 + r) / j->group, head = h * j->group + (row0 + r) % j->group;
        memcpy(q + r * D, w->q + x * qw + head * D, (size_t)D * sizeof *q);
        if (rotated) s->kernels->hadamard(q + r * D, D);
        for (int64_t d = 0; d < D; d++)
            q[r * D + d] = q[r * D + d] * s->scale;
        hi[r] = j->stored + x + 1 + KV_MUT(F23, x + 1 < j->m, 0);
        out[r] = w->att + x * qw + head * D;
    }
    job.n_spans = REF(attn_spans)(j, h, spans, &tiles);
    job.decoded = job.scratch + REF(attn_scratch)(j->stored + j->m, D);
    if (rotated) job.tiles = &tiles;
    s->kernels->attn(&job);
    for (int64_t r = 0; rotated && r < job.rows; r++)
        s->kernels->hadamard(out[r], D);
    for (int64_t r = 0; j->row_max && r < job.rows; r++) {
        const int64_t at = (h * j->group + (row0 + r) % j->group) * j->m + (row0 + r) / j->group;
        j->row_max[at] = max[r];
        j->row_sum[at] = sum[r];
    }
}

static kv_status reserve_scratch(ref_session *s, int64_t entries)
{
    int64_t reals = REF_ATTN_ROWS * s->rope.head_dim + REF(attn_scratch)(entries, s->rope.head_dim);
    if (s->cache.store->spans) reals += REF(attn_decoded)(&s->cache.tile);
    for (int i = 0; i < kv_pool_threads(s->pool); i++)
        KV_TRY(kv_buffer_reserve(&s->scratch[i], (size_t)reals * sizeof(real)));
    return KV_OK;
}

/* ---- taps -------------------------------------------------------------------------------------------------- */

/* K and V of the piece's rows, as attention reads them. */
static void tap_own(const ref_attn_layer *j, const ref_piece *p)
{
    const ref_session *s = j->s;
    const ref_work *w = &s->work;
    const int64_t D = s->cache.head_dim;
    for (int32_t i = 0; i < p->step->n_taps; i++) {
        const kv_tap *t = &p->step->taps[i];
        const int64_t x = t->row - p->row0;
        if ((t->point != KV_TAP_K && t->point != KV_TAP_V) || t->layer != j->index || x < 0 || x >= p->m) continue;
        for (int64_t h = 0; h < s->cache.n_kv_heads; h++)
            for (int64_t d = 0; d < D; d++)
                t->dst[h * D + d] =
                    (float)(t->point == KV_TAP_V
                                ? w->own_v[(h * j->m + x) * s->cache.dv + d]
                                : w->own_k[((h * j->panels + x / REF_PANEL) * D + d) * REF_PANEL + x % REF_PANEL]);
    }
}

/* Room for what the softmax of every row ended with. */
static kv_status keep_rows(ref_attn_layer *j)
{
    const int64_t n = j->s->model->cfg.n_heads * j->m;
    KV_TRY(kv_buffer_reserve(&j->s->rows, (size_t)(2 * n) * sizeof(real)));
    j->row_max = j->s->rows.p;
    j->row_sum = j->row_max + n;
    return KV_OK;
}

static kv_status take_in(ref_attn_layer *j, int32_t layer, int64_t base, const ref_demand *d)
{
    ref_sums sums = {.stored = j->stored, .m = j->m, .base = base, .n_heads = j->s->model->cfg.n_heads,
                     .group = j->group};
    if (j->s->cache.store->take) return KV_OK; /* it is in already */
    if (d->rows) KV_TRY(REF(columns)(j, d, &sums));
    KV_TRY(REF(insert)(j, layer, base, &sums));
    return j->s->cache.store->code ? j->s->cache.store->code(j, layer) : KV_OK;
}

kv_status REF(attend)(ref_session *s, int32_t layer, const ref_piece *p, int64_t base)
{
    ref_cache *c = &s->cache;
    ref_layer *l = &c->layers[layer];
    ref_attn_layer j = {.s = s, .layer = l, .index = layer, .m = p->m, .panels = (p->m + REF_PANEL - 1) / REF_PANEL,
                    .group = s->model->cfg.n_heads / c->n_kv_heads, .own = &s->own_table};
    ref_demand demand = {0};
    double t0 = REF(now)();
    KV_TRY(REF(rope_table_fill)(&s->rope, &s->own_table, base, p->m));
    KV_TRY(REF(cache_reserve)(c, l, p->m));
    j.n_ranges = c->ops->view(c, l, j.ranges);
    for (int64_t i = 0; i < j.n_ranges; i++)
        j.stored += j.ranges[i].n;
    if (c->ops->demand) KV_TRY(c->ops->demand(c, l, p->m, &demand));
    if (demand.rows) KV_TRY(keep_rows(&j));
    kv_pool_run(s->pool, j.panels, own_panel_task, &j);
    REF(tap_rows)(p, KV_TAP_Q, layer, s->work.q, ref_q_width(s));
    tap_own(&j, p);
    j.stored_k = l->k;
    if (j.stored && c->ops->key_form(&c->policy) == KV_KEY_RAW)
        KV_TRY(rotate_store(&j, &s->view_table));
    double t1 = REF(now)();
    s->seconds[REF_OP_ROTATE] += t1 - t0;
    if (c->store->take) {
        KV_TRY(c->store->take(&j, layer, base));
        t0 = t1;
        t1 = REF(now)();
        s->seconds[REF_OP_OTHER] += t1 - t0;
    }
    KV_TRY(reserve_scratch(s, j.stored + p->m));
    if (!REF(hooked_attention)(&j)) kv_pool_run(s->pool, c->n_kv_heads * row_blocks(&j), attend_task, &j);
    t0 = REF(now)();
    s->seconds[REF_OP_ATTENTION] += t0 - t1;
    const kv_status st = take_in(&j, layer, base, &demand);
    s->seconds[REF_OP_OTHER] += REF(now)() - t0;
    return st;
}
