/* ops_cache.c - ops.h: the rules of cascade and the coding of kvarn on plain arrays, by the code that sessions use. */
#include "ref/ops.h"

#include "common/mem.h"
#include "ref/policy/cascade.h"
#include "ref/storage/kivi.h"
#include "ref/storage/kvarn.h"

#include <stdio.h>
#include <string.h>

#if REF_BITS == 32

/* ---- cascade
 * ----------------------------------------------------------------------------------------------------------- */

static int64_t slots_of(const ref_op_cascade *a)
{
    return a->sinks + a->W * a->levels;
}

/* Slot of the store for a canonical slot. */
static int64_t stored_slot(const ref_op_cascade *a, const ref_cache *c, int64_t s)
{
    return s < a->sinks ? s : REF(cascade_slot)(&c->policy, s - a->sinks);
}

static int64_t canonical_slot(const ref_op_cascade *a, const ref_cache *c, int64_t stored)
{
    const int64_t base = REF(cascade_slot)(&c->policy, 0);
    return stored < base ? stored : a->sinks + stored - base;
}

static kv_status open_cache(const ref_op_cascade *a, ref_cache *c)
{
    const kv_config one = {.n_layers = 1, .n_kv_heads = (int32_t)a->G, .head_dim = 1};
    char text[160];
    kv_policy p;
    snprintf(text, sizeof text, "cascade:window=%lld,n=%lld,sinks=%lld,eager=%lld", (long long)a->W,
             (long long)a->levels, (long long)a->sinks, (long long)a->eager);
    memset(c, 0, sizeof *c);
    KV_TRY(kv_policy_parse(text, &p));
    KV_TRY(REF(cache_init)(c, &one, &p));
    c->record_events = 1;
    return REF(cache_reserve)(c, &c->layers[0], c->ops->slots(&p));
}

/* The layer as the arguments say it is. */
static void fill_layer(const ref_op_cascade *a, ref_cache *c)
{
    ref_layer *l = &c->layers[0];
    const int64_t S = slots_of(a);
    l->seen = a->seen;
    l->n_sink = a->rings[0];
    for (int64_t i = 0; i < a->levels; i++) {
        l->count[i] = a->rings[1 + 2 * i];
        l->start[i] = a->rings[2 + 2 * i];
    }
    for (int64_t h = 0; h < a->G; h++)
        for (int64_t s = 0; s < S; s++) {
            ref_layer_og(l, h)[stored_slot(a, c, s)] = a->og[h * S + s];
            ref_layer_score(l, h)[stored_slot(a, c, s)] = (real)a->score[h * S + s];
        }
}

static void read_layer(const ref_op_cascade *a, const ref_cache *c)
{
    const ref_layer *l = &c->layers[0];
    const int64_t S = slots_of(a);
    a->rings[0] = (int32_t)l->n_sink;
    for (int64_t i = 0; i < a->levels; i++) {
        a->rings[1 + 2 * i] = l->count[i];
        a->rings[2 + 2 * i] = l->start[i];
    }
    for (int64_t i = 0; i < a->G * S; i++)
        a->src[i] = (int32_t)(i % S);
    for (int64_t i = 0; i < a->G * a->T; i++)
        a->dropped[i] = -1;
    for (int64_t h = 0; h < a->G; h++)
        for (int64_t i = 0; i < c->moves[h].n; i++) {
            const ref_move m = c->moves[h].v[i];
            a->src[h * S + canonical_slot(a, c, m.to)] = (int32_t)(m.from < 0 ? m.from : canonical_slot(a, c, m.from));
        }
    for (size_t i = 0; i < l->events.n; i++) {
        const kv_event *e = &l->events.v[i];
        if (e->kind == KV_EVENT_EVICT) a->dropped[e->head * a->T + e->token - a->seen] = e->og;
    }
}

kv_status ref_op_cascade_plan(const ref_op_cascade *a)
{
    ref_cache c;
    kv_status st = open_cache(a, &c);
    if (st == KV_OK) {
        fill_layer(a, &c);
        st = REF(cascade_insert)(&c, 0, a->T, a->new_score);
    }
    if (st == KV_OK) st = c.event_status;
    if (st == KV_OK) read_layer(a, &c);
    REF(cache_free)(&c);
    return st;
}

/* ---- kvarn
 * --------------------------------------------------------------------------------------------------------------- */

static real *room(int64_t n)
{
    return kv_big_alloc((size_t)n * sizeof(real));
}
static void give_back(real *p, int64_t n)
{
    kv_big_free(p, (size_t)n * sizeof(real));
}

kv_status ref_op_kvarn_tile(const kv_kvarn_params *p, const float *k, const float *v, int64_t D, uint8_t *record)
{
    ref_kvarn_coder coder = {.params = *p, .layout = kv_kvarn_layout_of(p, (int32_t)D)};
    const int64_t T = coder.layout.T, size = REF(kvarn_scratch)(&coder.layout);
    KV_TRY(REF(kernels_find)(NULL, &coder.kernels));
    real *x = room(size);
    if (!x) return kv_fail(KV_ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < T * D; i++)
        x[i % D * T + i / D] = k[i];
    REF(kvarn_code_keys)(&coder, x, record, NULL);
    memset(x, 0, (size_t)size * sizeof *x);
    memcpy(x, v, (size_t)(T * D) * sizeof *x);
    REF(kvarn_code_values)(&coder, x, record, NULL);
    give_back(x, size);
    return KV_OK;
}

/* Group g of a row of numbers x, `step` apart; scales and minima of a row lie side by side. */
static void code_group(const float *x, int64_t step, ref_kivi_group row, int64_t g)
{
    real values[KV_MAX_HEAD_DIM];
    row.k = (int32_t)g * row.n;
    row.scale += 4 * g;
    row.min += 4 * g;
    for (int32_t i = 0; i < row.n; i++)
        values[i] = x[(row.k + i) * step];
    REF(kivi_code_group)(&row, values);
}

kv_status ref_op_kivi_tile(const kv_kivi_params *p, const float *k, const float *v, int64_t D, uint8_t *record)
{
    const kv_kivi_layout l = kv_kivi_layout_of(p, (int32_t)D);
    const int64_t k_groups = l.R / l.G, v_groups = D / l.G;
    if (l.G > KV_MAX_HEAD_DIM) return kv_fail(KV_ERR_USAGE, "kivi: groups of more than %d", KV_MAX_HEAD_DIM);
    memset(record, 0, (size_t)(l.k_bytes + l.R * l.v_bytes));
    for (int64_t d = 0; d < D; d++)
        for (int64_t g = 0; g < k_groups; g++)
            code_group(k + d, D, (ref_kivi_group){record + d * l.k_row, 0, l.G, p->bits,
                                                  record + l.k_scale + 4 * d * k_groups,
                                                  record + l.k_min + 4 * d * k_groups}, g);
    for (int64_t t = 0; t < l.R; t++) {
        uint8_t *row = record + l.k_bytes + t * l.v_bytes;
        for (int64_t g = 0; g < v_groups; g++)
            code_group(v + t * D, 1, (ref_kivi_group){row, 0, l.G, p->bits, row + l.v_scale, row + l.v_min}, g);
    }
    return KV_OK;
}

/* Memory of one KV head's attention. */
typedef struct head_room {
    real *memory, *k, *v, *q, *scratch, *decoded;
    uint8_t *records;
    int64_t size, dv, entries;
    kv_kvarn_layout layout;
} head_room;

static kv_status make_room(const ref_op_kvarn_attn *a, head_room *r)
{
    r->layout = kv_kvarn_layout_of(&a->params, (int32_t)a->D);
    r->dv = ref_round_up(a->D, REF_PANEL);
    r->entries = a->tiles * r->layout.T + a->tail;
    const int64_t keys = ref_round_up(a->tail, REF_PANEL) * a->D, values = a->tail * r->dv, q = REF_ATTN_ROWS * r->dv;
    const int64_t scratch = REF(attn_scratch)(r->entries, a->D), bytes = a->tiles * r->layout.bytes + REF_CODE_SLACK;
    r->size = keys + values + q + scratch + REF(attn_decoded)(&r->layout) + bytes / (int64_t)sizeof(real) + 1;
    r->memory = room(r->size);
    if (!r->memory) return kv_fail(KV_ERR_NOMEM, "out of memory");
    r->k = r->memory;
    r->v = r->k + keys;
    r->q = r->v + values;
    r->scratch = r->q + q;
    r->decoded = r->scratch + scratch;
    r->records = (uint8_t *)(r->decoded + REF(attn_decoded)(&r->layout));
    return KV_OK;
}

static void pack_head(const ref_op_kvarn_attn *a, int64_t h, head_room *r)
{
    const int64_t bytes = r->layout.bytes;
    for (int64_t i = 0; i < a->tiles; i++)
        memcpy(r->records + i * bytes, a->records + (i * a->Hk + h) * bytes, (size_t)bytes);
    for (int64_t t = 0; t < a->tail; t++)
        for (int64_t d = 0; d < a->D; d++) {
            r->k[(t / REF_PANEL * a->D + d) * REF_PANEL + t % REF_PANEL] = a->tail_k[(t * a->Hk + h) * a->D + d];
            r->v[t * r->dv + d] = a->tail_v[(t * a->Hk + h) * a->D + d];
        }
}

static void attend_head(const ref_op_kvarn_attn *a, const ref_kernels *table, int64_t h, const head_room *r)
{
    const int64_t group = a->Hq / a->Hk, coded = a->tiles * r->layout.T;
    const ref_tiles tiles = {r->records, r->layout, a->params.kbits, a->params.vbits};
    ref_span spans[2];
    int64_t hi[REF_ATTN_ROWS];
    real *out[REF_ATTN_ROWS];
    ref_attn_job job = {.q = r->q,
                        .rows = group,
                        .head_dim = a->D,
                        .spans = spans,
                        .tiles = &tiles,
                        .decoded = r->decoded,
                        .hi = hi,
                        .scratch = r->scratch,
                        .out = out};
    if (coded) spans[job.n_spans++] = (ref_span){NULL, NULL, 0, coded};
    spans[job.n_spans++] = (ref_span){r->k, r->v, 0, a->tail};
    for (int64_t i = 0; i < group; i++) {
        real *q = r->q + i * a->D;
        memcpy(q, a->q + (h * group + i) * a->D, (size_t)a->D * sizeof *q);
        table->hadamard(q, a->D);
        for (int64_t d = 0; d < a->D; d++)
            q[d] = q[d] * a->scale;
        hi[i] = r->entries;
        out[i] = a->o + (h * group + i) * a->D;
    }
    table->attn(&job);
    for (int64_t i = 0; i < group; i++)
        table->hadamard(out[i], a->D);
}

kv_status ref_op_kvarn_attention(const ref_op_kvarn_attn *a)
{
    const ref_kernels *table;
    head_room r;
    if (a->Hq / a->Hk > REF_ATTN_ROWS)
        return kv_fail(KV_ERR_USAGE, "attention on codes: %lld query heads share a KV head; at most %d can",
                       (long long)(a->Hq / a->Hk), REF_ATTN_ROWS);
    KV_TRY(REF(kernels_find)(NULL, &table));
    KV_TRY(make_room(a, &r));
    for (int64_t h = 0; h < a->Hk; h++) {
        pack_head(a, h, &r);
        attend_head(a, table, h, &r);
    }
    give_back(r.memory, r.size);
    return KV_OK;
}

#endif
