/* state.c - the cache as canonical bytes (common/state.h), and back. */
#include "gpu/blas/blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kv_status blas_keep_error(blas_session *s, kv_status st)
{
    if (st != KV_OK) snprintf(s->error, sizeof s->error, "%s", kv_message());
    return st;
}

/* Position as exported: of the next read for sink, of the last read otherwise. */
static int32_t exported_pos(const kv_policy *p, const blas_index *ix, int64_t i)
{
    return blas_key_form(p) == KV_KEY_RAW ? (int32_t)i : ix->pos[i];
}

/* Canonical slot of an entry, from what a state holds. Under sink, token t went to ring offset
 * (t - sinks) mod cap, because insertion is one by one. */
static int32_t canonical_slot(const kv_policy *p, int64_t og)
{
    if (p->selection != KV_SEL_SINK || og < p->sink.sinks) return (int32_t)og;
    return (int32_t)(p->sink.sinks + (og - p->sink.sinks) % p->sink.cap);
}

/* ---- export --------------------------------------------------------------------------------- */

static kv_state_head make_head(const blas_session *s, int32_t layer, uint32_t what)
{
    const blas_cache *c = &s->cache;
    kv_state_head h = {.magic = KV_STATE_MAGIC,
                       .version = KV_STATE_VERSION,
                       .what = what & KV_STATE_KV, /* none of the policies has scores */
                       .key_form = blas_key_form(&c->policy),
                       .layer0 = layer < 0 ? 0 : layer,
                       .n_layers = layer < 0 ? c->n_layers : 1,
                       .n_kv_heads = c->n_kv_heads,
                       .head_dim = c->head_dim,
                       .record_bytes = 2 * c->head_dim * (int32_t)sizeof(float),
                       .seen = s->seen,
                       .total_bytes = sizeof h};
    for (int32_t l = 0; l < h.n_layers; l++)
        h.total_bytes +=
            (uint64_t)c->n_kv_heads * kv_state_run_bytes(&h, c->layers[h.layer0 + l].index.n, 0);
    return h;
}

static void export_run(const blas_cache *c, const kv_state_head *h, int32_t layer, int32_t head,
                       void *dst, size_t *offset)
{
    const blas_layer *l = &c->layers[layer];
    const blas_index *ix = &l->index;
    const size_t row_bytes = (size_t)c->head_dim * sizeof(float);
    memset((uint8_t *)dst + *offset, 0, kv_state_run_bytes(h, ix->n, 0)); /* the padding too */
    const kv_state_view v = kv_state_place(h, dst, offset, ix->n, 0);
    *v.run = (kv_state_run){layer, head, (int32_t)ix->n, 0};
    for (int64_t i = 0; i < ix->n; i++) {
        v.og[i] = ix->og[i];
        v.pos[i] = exported_pos(&c->policy, ix, i);
        if (!v.records) continue;
        uint8_t *record = v.records + i * h->record_bytes;
        memcpy(record, blas_keys(c, l, head) + i * c->head_dim, row_bytes);
        memcpy(record + row_bytes, blas_values(c, l, head) + i * c->head_dim, row_bytes);
    }
}

kv_status blas_export_state(kv_session *handle, int32_t layer, uint32_t what, void *dst, size_t cap,
                            size_t *need)
{
    blas_session *s = (blas_session *)handle;
    if (layer < -1 || layer >= s->cache.n_layers)
        return blas_keep_error(s, kv_fail(KV_ERR_USAGE, "layer %d does not exist; the model has %d",
                                          layer, s->cache.n_layers));
    const kv_state_head h = make_head(s, layer, what);
    *need = h.total_bytes;
    if (!dst) return KV_OK;
    if (cap < h.total_bytes)
        return blas_keep_error(s, kv_fail(KV_ERR_USAGE,
                                          "the state needs %llu bytes, the buffer has %zu",
                                          (unsigned long long)h.total_bytes, cap));
    memcpy(dst, &h, sizeof h);
    size_t offset = sizeof h;
    for (int32_t l = 0; l < h.n_layers; l++)
        for (int32_t head = 0; head < h.n_kv_heads; head++)
            export_run(&s->cache, &h, h.layer0 + l, head, dst, &offset);
    return KV_OK;
}

/* ---- import --------------------------------------------------------------------------------- */

static kv_status check_head(const blas_session *s, const kv_state_head *h)
{
    const blas_cache *c = &s->cache;
    if (h->layer0 == 0 && h->n_layers == c->n_layers && h->n_kv_heads == c->n_kv_heads &&
        h->head_dim == c->head_dim && h->record_bytes == 2 * c->head_dim * (int32_t)sizeof(float) &&
        h->key_form == blas_key_form(&c->policy) && (h->what & KV_STATE_KV))
        return KV_OK;
    return kv_fail(KV_ERR_MISMATCH,
                   "cache state: of another model or policy, or without K and V; export all "
                   "layers from a session of the same model and policy");
}

static kv_status check_run(const kv_state_head *h, const kv_state_view *first,
                           const kv_state_view *v)
{
    const int32_t n = v->run->n;
    for (int32_t i = 0; i < n; i++)
        if (v->og[i] < 0 || v->og[i] >= h->seen || (i > 0 && v->og[i] <= v->og[i - 1]))
            return kv_fail(KV_ERR_FORMAT, "cache state: layer %d holds tokens out of order",
                           v->run->layer);
    if (first->run->n != n || memcmp(first->og, v->og, (size_t)n * sizeof *v->og) != 0)
        return kv_fail(KV_ERR_FORMAT, "cache state: heads of layer %d hold different tokens",
                       v->run->layer);
    return KV_OK;
}

/* Reads all runs; with apply = 0 only checks them. */
static kv_status read_runs(blas_session *s, const kv_state_head *h, void *src, int apply)
{
    blas_cache *c = &s->cache;
    const size_t row_bytes = (size_t)c->head_dim * sizeof(float);
    size_t offset = sizeof *h;
    for (int32_t layer = 0; layer < c->n_layers; layer++) {
        blas_layer *l = &c->layers[layer];
        kv_state_view first = {0};
        for (int32_t head = 0; head < c->n_kv_heads; head++) {
            const kv_state_view v = kv_state_place(h, src, &offset, -1, 0);
            const int64_t n = v.run->n;
            if (head == 0) first = v;
            if (!apply) {
                KV_TRY(check_run(h, &first, &v));
                continue;
            }
            if (head == 0) KV_TRY(blas_layer_reserve(c, l, n));
            for (int64_t i = 0; i < n; i++) {
                const uint8_t *record = v.records + i * h->record_bytes;
                memcpy(blas_keys(c, l, head) + i * c->head_dim, record, row_bytes);
                memcpy(blas_values(c, l, head) + i * c->head_dim, record + row_bytes, row_bytes);
                l->index.og[i] = v.og[i];
                l->index.pos[i] = v.pos[i];
                l->index.slot[i] = canonical_slot(&c->policy, v.og[i]);
                l->index.dead[i] = 0;
            }
        }
        if (apply) l->index.n = first.run->n;
    }
    return KV_OK;
}

static kv_status import_bytes(blas_session *s, void *src, size_t size)
{
    kv_state_head h;
    KV_TRY(kv_state_check(src, size));
    memcpy(&h, src, sizeof h);
    KV_TRY(check_head(s, &h));
    KV_TRY(read_runs(s, &h, src, 0));
    blas_cache_reset(&s->cache);
    s->broken = 1;
    KV_TRY(read_runs(s, &h, src, 1));
    s->seen = h.seen;
    s->broken = 0;
    return KV_OK;
}

/* kv_state_place hands out writable pointers; a const source is only read. */
kv_status blas_import_state(kv_session *handle, const void *src, size_t size)
{
    blas_session *s = (blas_session *)handle;
    return blas_keep_error(s, import_bytes(s, (void *)(uintptr_t)src, size));
}

/* ---- snapshots: an export with its size in front -------------------------------------------- */

typedef struct snapshot {
    size_t size;
    uint64_t blob[]; /* 8-byte aligned */
} snapshot;

kv_status blas_snapshot(kv_session *handle, void **out)
{
    blas_session *s = (blas_session *)handle;
    size_t need;
    KV_TRY(blas_export_state(handle, -1, KV_STATE_KV, NULL, 0, &need));
    snapshot *snap = malloc(sizeof *snap + need);
    *out = snap;
    if (!snap) return blas_keep_error(s, kv_fail(KV_ERR_NOMEM, "out of memory for a snapshot"));
    snap->size = need;
    return blas_export_state(handle, -1, KV_STATE_KV, snap->blob, need, &need);
}

kv_status blas_restore(kv_session *s, const void *snap)
{
    const snapshot *p = snap;
    return blas_import_state(s, p->blob, p->size);
}

void blas_snapshot_free(kv_session *s, void *snap)
{
    (void)s;
    free(snap);
}
