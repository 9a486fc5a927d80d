/* state.c - the reference's cache as canonical bytes (common/state.h), and back.
 *
 * What an entry is and how it looks is the storage's business (ref/storage.h). Snapshots keep everything in full. */
#include "ref/session.h"
#include "ref/storage.h"

#include "common/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- export --------------------------------------------------------------------------------------- */

static kv_status fail(ref_session *s, kv_status st)
{
    snprintf(s->error, sizeof s->error, "%s", kv_message());
    return st;
}

/* Bytes of a run's records where they differ in size. */
static int64_t record_total(const ref_cache *c, const kv_state_head *h, const ref_layer *l)
{
    int64_t total = 0;
    if (h->record_bytes || !(h->what & KV_STATE_KV)) return 0;
    for (int64_t i = 0; i < c->store->records(c, l); i++)
        total += ref_round_up(c->store->record(c, l, 0, i).bytes, 8);
    return total;
}

static kv_status export_head(const ref_session *s, int32_t layer, uint32_t what, kv_state_head *h)
{
    const ref_cache *c = &s->cache;
    if (layer < -1 || layer >= c->n_layers)
        return kv_fail(KV_ERR_USAGE, "layer %d does not exist; the model has %d", layer, c->n_layers);
    *h = (kv_state_head){.magic = KV_STATE_MAGIC,
                         .version = KV_STATE_VERSION,
                         .what = what & (KV_STATE_KV | (c->ops->needs_score ? KV_STATE_SCORE : 0u)),
                         .key_form = c->ops->key_form(&c->policy),
                         .layer0 = layer < 0 ? 0 : layer,
                         .n_layers = layer < 0 ? c->n_layers : 1,
                         .n_kv_heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .record_bytes = c->store->record_bytes(c),
                         .storage = c->policy.storage,
                         .seen = s->seen,
                         .total_bytes = sizeof *h};
    for (int32_t i = 0; i < h->n_layers; i++) {
        const ref_layer *l = &c->layers[h->layer0 + i];
        h->total_bytes +=
            (uint64_t)c->n_kv_heads * kv_state_run_bytes(h, c->store->records(c, l), record_total(c, h, l));
    }
    if (layer < 0) h->carry_bytes = REF(carry_bytes)(&s->carries);
    h->total_bytes += h->carry_bytes;
    return KV_OK;
}

static void export_run(const ref_cache *c, const kv_state_head *h, int32_t layer, int32_t head,
                       void *dst, size_t *offset)
{
    const ref_layer *l = &c->layers[layer];
    const int64_t n = c->store->records(c, l), total = record_total(c, h, l);
    float row[2 * KV_MAX_HEAD_DIM];
    memset((uint8_t *)dst + *offset, 0, kv_state_run_bytes(h, n, total)); /* the padding too */
    const kv_state_view v = kv_state_place(h, dst, offset, n, total);
    *v.run = (kv_state_run){layer, head, (int32_t)n, (int32_t)total};
    uint8_t *to = v.records;
    for (int64_t i = 0; i < n; i++) {
        const ref_record r = c->store->record(c, l, head, i);
        v.og[i] = r.og;
        v.pos[i] = r.pos;
        if (v.score) v.score[i] = (float)ref_layer_score(l, head)[r.slot];
        if (v.bytes) v.bytes[i] = r.bytes;
        if (!to) continue;
        memcpy(to, c->store->read(c, l, head, &r, row), (size_t)r.bytes);
        to += kv_state_record_stride(h, &v, i);
    }
}

kv_status REF(export_state)(kv_session *handle, int32_t layer, uint32_t what, void *dst, size_t cap,
                            size_t *need)
{
    ref_session *s = (ref_session *)handle;
    kv_state_head h;
    const kv_status st = export_head(s, layer, what, &h);
    if (st != KV_OK) return fail(s, st);
    *need = h.total_bytes;
    if (!dst) return KV_OK;
    if (cap < h.total_bytes)
        return fail(s, kv_fail(KV_ERR_USAGE, "the state needs %llu bytes, the buffer has %zu",
                               (unsigned long long)h.total_bytes, cap));
    memcpy(dst, &h, sizeof h);
    size_t offset = sizeof h;
    for (int32_t i = 0; i < h.n_layers; i++)
        for (int32_t head = 0; head < h.n_kv_heads; head++)
            export_run(&s->cache, &h, h.layer0 + i, head, dst, &offset);
    if (layer < 0) REF(carry_write)(&s->carries, (uint8_t *)dst + offset);
    return KV_OK;
}

/* ---- import ------------------------------------------------------------------------------------------- */

static kv_status check_import(const ref_session *s, const void *src, size_t size)
{
    const ref_cache *c = &s->cache;
    KV_TRY(kv_state_check(src, size));
    kv_state_head h;
    memcpy(&h, src, sizeof h);
    if (h.layer0 != 0 || h.n_layers != c->n_layers || h.n_kv_heads != c->n_kv_heads ||
        h.head_dim != c->head_dim || h.storage != c->policy.storage || h.record_bytes != c->store->record_bytes(c) ||
        h.key_form != c->ops->key_form(&c->policy) || !(h.what & KV_STATE_KV) ||
        (c->ops->needs_score && !(h.what & KV_STATE_SCORE)))
        return kv_fail(KV_ERR_MISMATCH, "cache state: of another model or policy, or without K and V; export "
                                        "all layers from a session of the same model and policy");
    return KV_OK;
}

/* The records of a head that the policy has taken over. */
static kv_status import_head(const ref_cache *c, const kv_state_head *h, ref_layer *l, int32_t head,
                             const kv_state_view *v)
{
    const uint8_t *from = v->records;
    for (int64_t i = 0; i < v->run->n; i++) {
        const ref_record r = c->store->record(c, l, head, i);
        if (r.og != v->og[i])
            return kv_fail(KV_ERR_FORMAT, "cache state: heads of layer %d hold different tokens", v->run->layer);
        if (r.pos != v->pos[i])
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld of layer %d is at position %d, not %d as its policy has it",
                           (long long)i, v->run->layer, v->pos[i], r.pos);
        if (v->bytes && r.bytes != v->bytes[i])
            return kv_fail(KV_ERR_FORMAT, "cache state: entry %lld of layer %d is no record of this storage",
                           (long long)i, v->run->layer);
        if (v->score) ref_layer_score(l, head)[r.slot] = (real)v->score[i];
        c->store->write(c, l, head, &r, from);
        from += kv_state_record_stride(h, v, i);
    }
    return KV_OK;
}

static kv_status import_layer(ref_session *s, const kv_state_head *h, int32_t layer, void *src,
                              size_t *offset)
{
    ref_cache *c = &s->cache;
    ref_layer *l = &c->layers[layer];
    for (int32_t head = 0; head < c->n_kv_heads; head++) {
        const kv_state_view v = kv_state_place(h, src, offset, -1, 0);
        KV_TRY(c->store->adopt(c, l, head, &v, h->seen));
        if (v.run->n != c->store->records(c, l))
            return kv_fail(KV_ERR_FORMAT, "cache state: heads of layer %d hold different numbers", layer);
        KV_TRY(import_head(c, h, l, head, &v));
    }
    return KV_OK;
}

kv_status REF(import_state)(kv_session *handle, const void *src, size_t size)
{
    ref_session *s = (ref_session *)handle;
    kv_status st = check_import(s, src, size);
    if (st != KV_OK) return fail(s, st);
    kv_state_head h;
    memcpy(&h, src, sizeof h);
    REF(cache_reset)(&s->cache);
    s->broken = 1;
    size_t offset = sizeof h;
    for (int32_t l = 0; l < s->cache.n_layers; l++) {
        st = import_layer(s, &h, l, (void *)(uintptr_t)src, &offset); /* a view of bytes that are only read */
        if (st != KV_OK) return fail(s, st);
    }
    st = REF(carry_read)(&s->carries, &s->cache.policy, s->model->cfg.vocab_size, h.seen, (const uint8_t *)src + offset,
                         h.carry_bytes);
    if (st != KV_OK) return fail(s, st);
    s->seen = h.seen;
    s->broken = 0;
    return KV_OK;
}

/* ---- snapshots: the layers as they are ------------------------------------------------------------------ */

typedef struct saved_cache {
    int64_t seen, window;
    int32_t n_layers;
    ref_layer *layers; /* owned copies, without events */
    ref_carries carries;
} saved_cache;

void REF(snapshot_free)(kv_session *handle, void *snap)
{
    (void)handle;
    saved_cache *p = snap;
    if (!p) return;
    for (int32_t i = 0; p->layers && i < p->n_layers; i++)
        REF(layer_free)(&p->layers[i]);
    free(p->layers);
    REF(carry_free)(&p->carries);
    free(p);
}

kv_status REF(snapshot)(kv_session *handle, void **out)
{
    ref_session *s = (ref_session *)handle;
    *out = NULL;
    saved_cache *p = calloc(1, sizeof *p);
    if (p) p->layers = calloc((size_t)s->cache.n_layers, sizeof *p->layers);
    int ok = p && p->layers;
    for (int32_t i = 0; ok && i < s->cache.n_layers; i++) {
        p->n_layers = i + 1;
        ok = REF(layer_clone)(&s->cache, &s->cache.layers[i], &p->layers[i]) == KV_OK;
    }
    ok = ok && REF(carry_init)(&p->carries, &s->model->cfg) == KV_OK && REF(carry_copy)(&s->carries, &p->carries) == KV_OK;
    if (!ok) {
        REF(snapshot_free)(handle, p);
        return fail(s, kv_fail(KV_ERR_NOMEM, "out of memory for a snapshot of the cache"));
    }
    p->seen = s->seen;
    p->window = s->cache.window;
    *out = p;
    return KV_OK;
}

/* Stores never shrink, so the snapshot's slots fit; panels of a head may lie further apart by now. */
static void restore_layer(const ref_cache *c, const ref_layer *from, ref_layer *to)
{
    REF(layer_copy)(c, from, to);
    REF(coded_copy)(c, from, to);
    to->n = from->n;
    to->seen = from->seen;
    to->n_sink = from->n_sink;
    to->head = from->head;
    memcpy(to->count, from->count, sizeof to->count);
    memcpy(to->start, from->start, sizeof to->start);
}

kv_status REF(restore)(kv_session *handle, const void *snap)
{
    ref_session *s = (ref_session *)handle;
    const saved_cache *p = snap;
    REF(cache_reset)(&s->cache);
    for (int32_t i = 0; i < s->cache.n_layers; i++)
        restore_layer(&s->cache, &p->layers[i], &s->cache.layers[i]);
    KV_TRY(REF(carry_copy)(&p->carries, &s->carries));
    s->seen = p->seen;
    s->cache.window = p->window;
    s->broken = 0;
    return KV_OK;
}

/* ---- digests ------------------------------------------------------------------------------------------------ */

typedef struct digest_job {
    ref_session *s;
    int32_t layer0;
    uint64_t *content; /* [layers * heads] */
} digest_job;

static void digest_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const digest_job *j = arg;
    const ref_cache *c = &j->s->cache;
    const int64_t layer = j->layer0 + task / c->n_kv_heads, head = task % c->n_kv_heads;
    const ref_layer *l = &c->layers[layer];
    float row[2 * KV_MAX_HEAD_DIM];
    uint64_t sum = 0;
    for (int64_t i = 0; i < c->store->records(c, l); i++) {
        const ref_record r = c->store->record(c, l, head, i);
        const int64_t key[3] = {layer, head, r.og};
        sum += kv_xxh64(c->store->read(c, l, head, &r, row), (size_t)r.bytes, kv_xxh64(key, sizeof key, 0));
    }
    j->content[task] = sum;
}

/* What the model remembers, a part of the content of all layers. */
static kv_status digest_carry(const ref_carries *c, uint64_t *content)
{
    const size_t bytes = REF(carry_bytes)(c);
    if (!bytes) return KV_OK;
    uint8_t *p = malloc(bytes);
    if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory for a digest");
    REF(carry_write)(c, p);
    *content += kv_xxh64(p, bytes, kv_xxh64("carry", 5, 0));
    free(p);
    return KV_OK;
}

/* Original indices and positions, then scores, of all runs in view order; out is filled. */
static kv_status digest_order(const ref_cache *c, int32_t layer0, int32_t n, kv_digest *out)
{
    int64_t entries = 0, at = 0;
    for (int32_t i = 0; i < n; i++)
        entries += c->store->records(c, &c->layers[layer0 + i]) * c->n_kv_heads;
    int64_t *order = malloc((size_t)(2 * entries + 1) * sizeof *order);
    float *score = malloc((size_t)(entries + 1) * sizeof *score);
    if (!order || !score) {
        free(order);
        free(score);
        return kv_fail(KV_ERR_NOMEM, "out of memory for a digest");
    }
    for (int64_t run = 0; run < (int64_t)n * c->n_kv_heads; run++) {
        const ref_layer *l = &c->layers[layer0 + run / c->n_kv_heads];
        const int64_t head = run % c->n_kv_heads;
        for (int64_t i = 0; i < c->store->records(c, l); i++, at++) {
            const ref_record r = c->store->record(c, l, head, i);
            order[2 * at] = r.og;
            order[2 * at + 1] = r.pos;
            if (l->score) score[at] = (float)ref_layer_score(l, head)[r.slot];
        }
    }
    out->order = kv_xxh64(order, (size_t)(2 * at) * sizeof *order, 0);
    out->score = kv_xxh64(score, c->ops->needs_score ? (size_t)at * sizeof *score : 0, 0);
    free(order);
    free(score);
    return KV_OK;
}

kv_status REF(digest)(kv_session *handle, int32_t layer, kv_digest *out)
{
    ref_session *s = (ref_session *)handle;
    const ref_cache *c = &s->cache;
    const int32_t layer0 = layer < 0 ? 0 : layer, n = layer < 0 ? c->n_layers : 1;
    uint64_t *content = calloc((size_t)(n * c->n_kv_heads), sizeof *content);
    if (!content) return fail(s, kv_fail(KV_ERR_NOMEM, "out of memory for a digest"));
    digest_job j = {s, layer0, content};
    kv_pool_run(s->pool, (int64_t)n * c->n_kv_heads, digest_task, &j);
    *out = (kv_digest){0};
    for (int32_t run = 0; run < n * c->n_kv_heads; run++)
        out->content += content[run];
    free(content);
    kv_status st = digest_order(c, layer0, n, out);
    if (st == KV_OK && layer < 0) st = digest_carry(&s->carries, &out->content);
    return st == KV_OK ? KV_OK : fail(s, st);
}
