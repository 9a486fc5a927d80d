#include "difftest/locate_view.h"

#include "common/numfmt.h"
#include "common/tile.h"

#include <string.h>

kv_state_view dt_state_run(const void *blob, int32_t layer, int32_t head)
{
    kv_state_head h;
    memcpy(&h, blob, sizeof h);
    size_t offset = sizeof h;
    kv_state_view v = {0};
    for (int64_t i = 0; i <= (int64_t)(layer - h.layer0) * h.n_kv_heads + head; i++)
        v = kv_state_place(&h, (void *)(uintptr_t)blob, &offset, -1, 0); /* only read */
    return v;
}

/* ---- who is in view --------------------------------------------------------------------------------------- */

/* Positions that are the original index. */
static int is_absolute(const kv_policy *p)
{
    switch (p->selection) {
    case KV_SEL_FULL:
    case KV_SEL_H2O:
    case KV_SEL_TOVA:
    case KV_SEL_SNAPKV:
    case KV_SEL_PYRAMID:
    case KV_SEL_DILATED:
        return 1;
    case KV_SEL_SLIDING:
        return p->sliding.pos == KV_SLIDING_ABSOLUTE;
    default:
        return 0;
    }
}

/* Whether a token had left before the row's forward pass. Sliding drops in front of each piece; snapkv behind the
 * prompt, which may be the first part of a longer step; all others behind the step. */
static int has_left(const kv_policy *p, const kv_events *events, int32_t layer, int32_t head, int64_t og,
                    int64_t row_og)
{
    const int sliding = p->selection == KV_SEL_SLIDING;
    if (!sliding && p->selection != KV_SEL_SNAPKV && p->selection != KV_SEL_PYRAMID) return 0;
    for (size_t i = 0; i < events->n; i++) {
        const kv_event *e = &events->v[i];
        if (e->kind != KV_EVENT_EVICT || e->layer != layer || e->og != og || (e->head >= 0 && e->head != head))
            continue;
        return sliding ? e->token <= row_og : e->token < row_og;
    }
    return 0;
}

static int64_t sink_slot(const kv_sink_params *s, int64_t og)
{
    return og < s->sinks ? og : s->sinks + (og - s->sinks) % s->cap;
}

typedef struct builder {
    const kv_policy *policy;
    const kv_events *events;
    const kv_state_view *run;
    int64_t first, row_og;
    int32_t layer, head;
    dt_row_view *view;
} builder;

static void add(builder *b, int64_t og, int32_t stored, int32_t row, int visible)
{
    dt_row_view *w = b->view;
    const int64_t at = visible ? w->n++ : w->n + w->n_gone++;
    dt_entry *e = &w->v[at];
    *e = (dt_entry){.og = og, .stored = stored, .row = row, .slot = visible ? at : -1};
    if (b->policy->selection == KV_SEL_SINK) e->slot = sink_slot(&b->policy->sink, og);
    if (is_absolute(b->policy))
        e->pos = (int32_t)og;
    else if (b->policy->selection == KV_SEL_SLIDING && b->policy->sliding.pos == KV_SLIDING_SATURATE && stored >= 0)
        e->pos = b->run->pos[stored];
    else
        e->pos = (int32_t)at;
}

static void collect(builder *b, int32_t n, int visible)
{
    for (int32_t i = 0; i < b->run->run->n; i++)
        if (has_left(b->policy, b->events, b->layer, b->head, b->run->og[i], b->row_og) != visible)
            add(b, b->run->og[i], i, -1, visible);
    if (visible) b->view->stored = b->view->n;
    for (int32_t x = 0; x < n; x++) {
        const int64_t og = b->first + x;
        const int left = has_left(b->policy, b->events, b->layer, b->head, og, b->row_og);
        if ((og <= b->row_og && !left) == visible) add(b, og, -1, x, visible);
    }
}

kv_status dt_row_view_make(const kv_policy *p, const void *before, const kv_events *events, int64_t first, int32_t n,
                           int32_t row, int32_t layer, int32_t head, dt_row_view *out)
{
    *out = (dt_row_view){0};
    const int tiles = p->storage == KV_STORE_KVARN || p->storage == KV_STORE_KIVI;
    const int pieces = p->selection == KV_SEL_SLIDING && p->sliding.pos == KV_SLIDING_SATURATE && n > p->sliding.cap;
    if (tiles || pieces || p->selection == KV_SEL_XWINDOW)
        return kv_fail(KV_ERR_UNSUPPORTED, "the view of this policy does not follow from its export");
    const kv_state_view run = dt_state_run(before, layer, head);
    KV_TRY(kv_buffer_reserve(&out->memory, ((size_t)run.run->n + (size_t)n) * sizeof *out->v));
    out->v = out->memory.p;
    builder b = {p, events, &run, first, first + row, layer, head, out};
    collect(&b, n, 1);
    collect(&b, n, 0);
    out->pos = out->v[out->n - 1].pos;
    return KV_OK;
}

void dt_row_view_free(dt_row_view *v)
{
    kv_buffer_free(&v->memory);
    *v = (dt_row_view){0};
}

/* ---- rotation --------------------------------------------------------------------------------------------- */

kv_status dt_rotation_make(const kv_backend *b, kv_session *s, const kv_config *cfg, int64_t n, dt_rotation *out)
{
    *out = (dt_rotation){.n = n, .pairs = cfg->rope_dims / 2, .half = cfg->rope_pairing == KV_ROPE_HALF};
    KV_TRY(kv_buffer_reserve(&out->memory, (size_t)(2 * n * out->pairs + 1) * sizeof(float)));
    float *cos = out->memory.p, *sin = cos + n * out->pairs;
    out->cos = cos;
    out->sin = sin;
    KV_TRY(b->table(s, KV_TABLE_ROPE_COS, 0, n, cos));
    return b->table(s, KV_TABLE_ROPE_SIN, 0, n, sin);
}

void dt_rotation_free(dt_rotation *r)
{
    kv_buffer_free(&r->memory);
    *r = (dt_rotation){0};
}

void dt_rotate(const dt_rotation *r, int64_t pos, int back, int64_t D, const double *src, double *dst)
{
    if (dst != src) memcpy(dst, src, (size_t)D * sizeof *dst);
    if (pos < 0 || pos >= r->n) return;
    for (int64_t i = 0; i < r->pairs; i++) {
        const int64_t a = r->half ? i : 2 * i, b = r->half ? i + r->pairs : 2 * i + 1;
        const double c = (double)r->cos[pos * r->pairs + i], s = (back ? -1 : 1) * (double)r->sin[pos * r->pairs + i];
        const double x = src[a], y = src[b];
        dst[a] = x * c - y * s;
        dst[b] = y * c + x * s;
    }
}

double dt_record_value(int32_t storage, const uint8_t *record, int64_t D, int value, int64_t d)
{
    const int64_t at = (value ? D : 0) + d;
    uint16_t half;
    float full;
    switch (storage) {
    case KV_STORE_F16:
        memcpy(&half, record + 2 * at, sizeof half);
        return (double)kv_f162f(half);
    case KV_STORE_BF16:
        memcpy(&half, record + 2 * at, sizeof half);
        return (double)kv_bf162f(half);
    default:
        memcpy(&full, record + 4 * at, sizeof full);
        return (double)full;
    }
}
