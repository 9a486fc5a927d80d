/* trace_frame.c - frames from a side's export, or from a trace without a model. */
#include "difftest/trace.h"

#include "common/state.h"
#include "common/tile.h"

#include <stdio.h>
#include <stdlib.h>

dt_rings dt_rings_of(const kv_policy *p)
{
    if (p->selection == KV_SEL_SINK) return (dt_rings){p->sink.sinks, p->sink.cap, 1};
    if (p->selection == KV_SEL_CASCADE) return (dt_rings){p->cascade.sinks, p->cascade.window, p->cascade.n};
    return (dt_rings){0, 0, 0};
}

const char *dt_zone_name(int32_t zone)
{
    static const char *const names[] = {"", "tail", "K coded", "tiles", "sinks"};
    static _Thread_local char ring[16];
    if (zone < DT_ZONE_RING) return names[zone];
    snprintf(ring, sizeof ring, "ring %d", zone - DT_ZONE_RING);
    return ring;
}

static kv_status push(dt_frame *f, dt_held h)
{
    if (f->n == f->cap) {
        const size_t cap = f->cap ? 2 * f->cap : 256;
        dt_held *v = realloc(f->v, cap * sizeof *v);
        if (!v) return kv_fail(KV_ERR_NOMEM, "out of memory");
        f->v = v;
        f->cap = cap;
    }
    f->v[f->n++] = h;
    return KV_OK;
}

/* ---- from an export ------------------------------------------------------------------------------------ */

static int32_t zone_of_slot(const dt_rings *r, int32_t slot)
{
    return slot < r->sinks ? DT_ZONE_SINK : DT_ZONE_RING + (slot - r->sinks) / r->window;
}

static kv_status push_row(dt_frame *f, const kv_policy *p, const kv_state_view *v, int64_t i, const dt_slots *slots)
{
    const dt_rings r = dt_rings_of(p);
    dt_held h = {v->og[i], v->pos[i], -1, DT_ZONE_ROW};
    if (r.n) {
        h.slot = h.og >= 0 && h.og < slots->n ? slots->of[h.og] : -1;
        if (h.slot < 0 || h.slot >= r.sinks + r.n * r.window)
            return kv_fail(KV_ERR_FORMAT, "token %lld is in the cache, but no event gave it a slot", (long long)h.og);
        h.zone = zone_of_slot(&r, h.slot);
    }
    return push(f, h);
}

/* Tokens and zone of entry i where records differ in size; 0 tokens: nothing of its own (kivi's V rows). */
static int32_t coded_span(const kv_policy *p, int32_t D, const kv_state_view *v, int64_t i, int32_t *zone)
{
    const int32_t bytes = v->bytes[i];
    *zone = DT_ZONE_TAIL;
    if (p->storage == KV_STORE_KVARN) {
        if (bytes == 8 * D) return 1;
        *zone = DT_ZONE_TILE;
        return p->kvarn.tile;
    }
    if (v->og[i] >= KV_KIVI_V) return 0;
    if (bytes == 4 * D) return 1;
    *zone = DT_ZONE_KEY;
    return p->kivi.residual;
}

/* A coded V row finishes what the K block began. Keys stand before values, without gaps. */
static kv_status finish_token(dt_frame *f, int64_t og)
{
    const int64_t at = f->n ? og - f->v[0].og : -1;
    if (at < 0 || at >= (int64_t)f->n || f->v[at].og != og)
        return kv_fail(KV_ERR_FORMAT, "the cache holds V of token %lld without its K", (long long)og);
    f->v[at].zone = DT_ZONE_TILE;
    return KV_OK;
}

static kv_status push_coded(dt_frame *f, const kv_policy *p, int32_t D, const kv_state_view *v, int64_t i)
{
    int32_t zone;
    const int32_t span = coded_span(p, D, v, i, &zone);
    for (int32_t k = 0; k < span; k++)
        KV_TRY(push(f, (dt_held){v->og[i] + k, v->pos[i], -1, zone}));
    return span == 0 && v->bytes[i] != 4 * D ? finish_token(f, v->og[i] - KV_KIVI_V) : KV_OK;
}

kv_status dt_frame_from_state(dt_frame *f, const kv_policy *p, const void *blob, int32_t head, const dt_slots *slots)
{
    const kv_state_head *h = blob;
    size_t offset = sizeof *h;
    kv_state_view v = {0};
    if (h->n_layers != 1 || head >= h->n_kv_heads)
        return kv_fail(KV_ERR_FORMAT, "the exported state has %d layers of %d KV heads; one layer was asked for",
                       h->n_layers, h->n_kv_heads);
    for (int32_t i = 0; i <= head; i++)
        v = kv_state_place(h, (void *)(uintptr_t)blob, &offset, -1, 0);
    f->seen = h->seen;
    f->n = 0;
    for (int64_t i = 0; i < v.run->n; i++) {
        if (v.bytes)
            KV_TRY(push_coded(f, p, h->head_dim, &v, i));
        else
            KV_TRY(push_row(f, p, &v, i, slots));
    }
    return KV_OK;
}

/* ---- without a model ------------------------------------------------------------------------------------ */

kv_status dt_frame_from_trace(dt_frame *f, const kv_policy *p, const kv_trace_state *s)
{
    const dt_rings r = dt_rings_of(p);
    f->seen = s->seen;
    f->n = 0;
    for (int32_t i = 0; i < s->n_sink; i++)
        KV_TRY(push(f, (dt_held){i, i, i, DT_ZONE_SINK}));
    for (int32_t ring = s->n_rings - 1; ring >= 0; ring--)
        for (int32_t k = 0; k < s->count[ring]; k++) {
            const int32_t at = ring * r.window + (s->start[ring] + k) % r.window;
            KV_TRY(push(f, (dt_held){s->og[at], s->pos[at], r.sinks + at, DT_ZONE_RING + ring}));
        }
    return KV_OK;
}

static uint64_t fnv(uint64_t h, int64_t v)
{
    for (int i = 0; i < 8; i++)
        h = (h ^ ((uint64_t)v >> 8 * i & 0xff)) * UINT64_C(0x100000001b3);
    return h;
}

uint64_t dt_trace_digest(const kv_trace_state *s)
{
    uint64_t h = fnv(fnv(UINT64_C(0xcbf29ce484222325), s->seen), s->n_sink);
    for (int32_t i = 0; i < s->n_rings; i++)
        h = fnv(fnv(h, s->count[i]), s->start[i]);
    for (int32_t k = 0; k < s->n_slots; k++)
        h = fnv(h, s->og[k]);
    for (int32_t k = 0; k < s->n_slots; k++)
        h = fnv(h, s->pos[k]);
    return h;
}
