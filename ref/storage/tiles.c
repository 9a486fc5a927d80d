/* tiles.c - storage kvarn in a layer: the tail of rotated rows, tiles that become coded, what attention sees, state
 * (docs/policy/kvarn.md). View index i lies in tile i / T or, behind the complete ones, in row i % T of the tail: what
 * leaves the front leaves in whole tiles. Coding itself is in kvarn.c. */
#include "ref/storage.h"
#include "ref/storage/code.h"
#include "ref/storage/kvarn.h"

#include <string.h>

static void init(ref_cache *c)
{
    c->tile = kv_kvarn_layout_of(&c->policy.kvarn, c->head_dim);
    c->tail = c->coded_tokens[0] = c->tile.T;
    c->coded_bytes[0] = c->tile.bytes;
}

/* ---- a piece comes in --------------------------------------------------------------------------------------- */

/* The piece and the tiles that it completes. */
typedef struct arrival {
    ref_attn_layer *a;
    ref_kvarn_coder coder;
    int64_t tail;        /* rows that wait */
    int64_t first;       /* view index of the first tile to code */
    int64_t tiles;       /* to code, per KV head */
} arrival;

static void rotate_own(void *arg, int64_t panel, int worker)
{
    (void)worker;
    const ref_attn_layer *a = arg;
    const ref_cache *c = &a->s->cache;
    const ref_work *w = &a->s->work;
    const int64_t D = c->head_dim, x0 = panel * REF_PANEL, x1 = ref_min(x0 + REF_PANEL, a->m);
    for (int64_t h = 0; h < c->n_kv_heads; h++) {
        a->s->kernels->hadamard_panel(w->own_k + (h * a->panels + panel) * D * REF_PANEL, D);
        for (int64_t x = x0; x < x1; x++)
            a->s->kernels->hadamard(w->own_v + (h * a->m + x) * c->dv, D);
    }
}

/* Key and value of token t of the tail with the piece behind it. */
static const real *key_of(const arrival *r, int64_t h, int64_t t)
{
    const ref_attn_layer *a = r->a;
    const ref_cache *c = &a->s->cache;
    const int64_t x = t - r->tail, panel = c->head_dim * REF_PANEL;
    if (x < 0) return ref_slot_k(c, a->layer, h, t);
    return a->s->work.own_k + (h * a->panels + x / REF_PANEL) * panel + x % REF_PANEL;
}

static const real *value_of(const arrival *r, int64_t h, int64_t t)
{
    const ref_cache *c = &r->a->s->cache;
    if (t < r->tail) return ref_slot_v(c, r->a->layer, h, t);
    return r->a->s->work.own_v + (h * r->a->m + t - r->tail) * c->dv;
}

/* Before any code is made: everything that goes into a tile is finite. */
static kv_status check_finite(const arrival *r, int32_t layer)
{
    const ref_cache *c = &r->a->s->cache;
    const int64_t T = c->tile.T, n = r->tiles * T;
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        for (int64_t t = 0; t < n; t++) {
            const int64_t D = c->head_dim;
            if (!ref_all_finite(key_of(r, h, t), D, REF_PANEL) || !ref_all_finite(value_of(r, h, t), D, 1))
                return kv_fail(KV_ERR_NONFINITE, "storage kvarn: NaN or infinity in layer %d, tile %lld, KV head %lld; it "
                                                 "cannot be coded, and the forward pass was wrong before", layer,
                               (long long)(c->ops->entry(c, r->a->layer, 0, r->first + t).og / T), (long long)h);
        }
    return KV_OK;
}

/* Keys (even tasks) or values of one tile of one KV head. */
static void code_task(void *arg, int64_t task, int worker)
{
    const arrival *r = arg;
    const ref_cache *c = &r->a->s->cache;
    const int64_t T = c->tile.T, D = c->head_dim, h = task / 2 % c->n_kv_heads, tile = task / 2 / c->n_kv_heads;
    const int64_t slot = c->ops->entry(c, r->a->layer, 0, r->first + tile * T).slot;
    real *x = r->a->s->scratch[worker].p;
    uint8_t *record = ref_coded_at(c, r->a->layer, 0, h, slot);
    for (int64_t t = 0; t < T; t++) {
        if (task % 2) {
            memcpy(x + t * D, value_of(r, h, tile * T + t), (size_t)D * sizeof *x);
            continue;
        }
        const real *k = key_of(r, h, tile * T + t);
        for (int64_t d = 0; d < D; d++)
            x[d * T + t] = k[d * REF_PANEL];
    }
    (task % 2 ? REF(kvarn_code_values) : REF(kvarn_code_keys))(&r->coder, x, record, NULL);
}

/* What is behind the last complete tile waits in the tail. */
static void keep_tail(const arrival *r)
{
    const ref_attn_layer *a = r->a;
    const ref_cache *c = &a->s->cache;
    const int64_t T = c->tile.T, end = r->tail + a->m;
    for (int64_t h = 0; h < c->n_kv_heads; h++)
        for (int64_t t = ref_max(r->tail, r->tiles * T); t < end; t++) {
            const real *key = key_of(r, h, t), *value = value_of(r, h, t);
            real *k = ref_slot_k(c, a->layer, h, t - r->tiles * T);
            for (int64_t d = 0; d < c->head_dim; d++)
                k[d * REF_PANEL] = key[d * REF_PANEL];
            memcpy(ref_slot_v(c, a->layer, h, t - r->tiles * T), value, (size_t)c->dv * sizeof *value);
        }
}

static kv_status code_tiles(arrival *r, int32_t layer)
{
    ref_session *s = r->a->s;
    ref_cache *c = &s->cache;
    KV_TRY(check_finite(r, layer));
    for (int i = 0; i < kv_pool_threads(s->pool); i++)
        KV_TRY(kv_buffer_reserve(&s->scratch[i], (size_t)REF(kvarn_scratch)(&c->tile) * sizeof(real)));
    kv_pool_run(s->pool, 2 * c->n_kv_heads * r->tiles, code_task, r);
    for (int64_t i = 0; i < r->tiles; i++) {
        const int64_t at = r->first + i * c->tile.T, og = c->ops->entry(c, r->a->layer, 0, at).og;
        REF(cache_event)(c, layer, KV_EVENT_SEAL, og, og + c->tile.T - 1, at);
    }
    return KV_OK;
}

static kv_status take(ref_attn_layer *a, int32_t layer, int64_t base)
{
    ref_session *s = a->s;
    ref_cache *c = &s->cache;
    const int64_t T = c->tile.T, tail = a->layer->n % T;
    arrival r = {.a = a, .coder = {s->kernels, c->policy.kvarn, c->tile}, .tail = tail, .first = a->layer->n - tail,
                 .tiles = (tail + a->m) / T};
    kv_pool_run(s->pool, a->panels, rotate_own, a);
    for (int64_t x = 0; x < a->m; x++)
        c->ops->place(c, layer, base + x);
    a->n_ranges = c->ops->view(c, a->layer, a->ranges);
    if (r.tiles) KV_TRY(code_tiles(&r, layer));
    keep_tail(&r);
    return c->event_status;
}

static int64_t spans(const ref_attn_layer *a, int64_t head, ref_span *out, ref_tiles *tiles)
{
    const ref_cache *c = &a->s->cache;
    int64_t n = 0, coded = a->layer->n / c->tile.T * c->tile.T;
    *tiles = (ref_tiles){ref_coded_at(c, a->layer, 0, head, 0), c->tile, c->policy.kvarn.kbits, c->policy.kvarn.vbits};
    for (int64_t i = 0; i < a->n_ranges && coded; i++) {
        const int64_t m = ref_min(coded, a->ranges[i].n);
        out[n++] = (ref_span){NULL, NULL, a->ranges[i].slot0, m};
        coded -= m;
    }
    out[n++] = (ref_span){ref_layer_k(c, a->layer, head), ref_layer_v(c, a->layer, head), 0, a->layer->n % c->tile.T};
    return n;
}

/* ---- state --------------------------------------------------------------------------------------------------- */

static int32_t record_bytes(const ref_cache *c)
{
    (void)c;
    return 0;
}

static int64_t records(const ref_cache *c, const ref_layer *l) { return l->n / c->tile.T + l->n % c->tile.T; }

static ref_record record(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i)
{
    const int64_t T = c->tile.T, tiles = l->n / T, tail = i - tiles;
    const ref_entry e = c->ops->entry(c, l, head, tail < 0 ? i * T : tiles * T + tail);
    if (tail < 0) return (ref_record){e.slot, e.og, e.pos, c->tile.bytes};
    return (ref_record){tail, e.og, e.pos, 2 * c->head_dim * (int32_t)sizeof(float)};
}

static const void *read(const ref_cache *c, const ref_layer *l, int64_t head, const ref_record *r, void *row)
{
    if (r->bytes == c->tile.bytes) return ref_coded_at(c, l, 0, head, r->slot);
    const real *k = ref_slot_k(c, l, head, r->slot), *v = ref_slot_v(c, l, head, r->slot);
    float *out = row;
    for (int64_t d = 0; d < c->head_dim; d++) {
        out[d] = (float)k[d * REF_PANEL];
        out[c->head_dim + d] = (float)v[d];
    }
    return row;
}

static void write(const ref_cache *c, ref_layer *l, int64_t head, const ref_record *r, const void *bytes)
{
    if (r->bytes == c->tile.bytes) {
        memcpy(ref_coded_at(c, l, 0, head, r->slot), bytes, (size_t)r->bytes);
        return;
    }
    real *k = ref_slot_k(c, l, head, r->slot), *v = ref_slot_v(c, l, head, r->slot);
    const float *in = bytes;
    for (int64_t d = 0; d < c->head_dim; d++) {
        k[d * REF_PANEL] = (real)in[d];
        v[d] = (real)in[c->head_dim + d];
    }
}

static kv_status adopt(ref_cache *c, ref_layer *l, int64_t head, const kv_state_view *v, int64_t seen)
{
    int64_t tokens = 0;
    for (int64_t i = 0; i < v->run->n; i++)
        tokens += v->bytes[i] == c->tile.bytes ? c->tile.T : 1;
    return REF(adopt_tokens)(c, l, head, v->run->n ? v->og[0] : 0, tokens, seen, c->tile.T);
}

const ref_storage REF(storage_kvarn) = {.init = init, .record_bytes = record_bytes, .records = records, .record = record,
                                        .read = read, .write = write, .adopt = adopt, .take = take, .spans = spans};
