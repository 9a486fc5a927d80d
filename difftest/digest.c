#include "difftest/digest.h"

#include "common/hash.h"
#include "common/state.h"
#include "common/tile.h"

#include <string.h>
#include <xxhash.h>

static void add_run(const kv_state_head *h, const kv_state_view *v, uint64_t *content, XXH64_state_t *order,
                    XXH64_state_t *score)
{
    const uint8_t *record = v->records;
    for (int64_t i = 0; i < v->run->n; i++) {
        const int64_t place[2] = {v->og[i], v->pos[i]};
        XXH64_update(order, place, sizeof place);
        if (!v->records) continue;
        const int64_t key[3] = {v->run->layer, v->run->head, v->og[i]};
        *content += kv_xxh64(record, (size_t)kv_state_record_bytes(h, v, i), kv_xxh64(key, sizeof key, 0));
        record += kv_state_record_stride(h, v, i);
    }
    if (v->score) XXH64_update(score, v->score, (size_t)v->run->n * sizeof *v->score);
}

kv_status dt_digest_blob(const void *blob, size_t size, kv_digest *out)
{
    KV_TRY(kv_state_check(blob, size));
    kv_state_head h;
    memcpy(&h, blob, sizeof h);
    XXH64_state_t *order = XXH64_createState(), *score = XXH64_createState();
    if (!order || !score) {
        XXH64_freeState(order);
        XXH64_freeState(score);
        return kv_fail(KV_ERR_NOMEM, "out of memory for a digest");
    }
    XXH64_reset(order, 0);
    XXH64_reset(score, 0);
    *out = (kv_digest){0};
    size_t offset = sizeof h;
    for (int64_t i = 0; i < (int64_t)h.n_layers * h.n_kv_heads; i++) {
        /* a view of bytes that are only read */
        const kv_state_view v = kv_state_place(&h, (void *)(uintptr_t)blob, &offset, -1, 0);
        add_run(&h, &v, &out->content, order, score);
    }
    if (h.carry_bytes && h.what & KV_STATE_KV)
        out->content += kv_xxh64((const uint8_t *)blob + offset, h.carry_bytes, kv_xxh64("carry", 5, 0));
    out->order = XXH64_digest(order);
    out->score = XXH64_digest(score);
    XXH64_freeState(order);
    XXH64_freeState(score);
    return KV_OK;
}

static kv_status said(const kv_backend *b, const kv_session *s, kv_status st)
{
    return st == KV_OK ? KV_OK : kv_fail(st, "%s: %s", b->name, b->last_error(s));
}

kv_status dt_export(const kv_backend *b, kv_session *s, int32_t layer, uint32_t what, kv_buffer *buffer,
                    size_t *size)
{
    KV_TRY(said(b, s, b->export_state(s, layer, what, NULL, 0, size)));
    KV_TRY(kv_buffer_reserve(buffer, *size + *size / 4));
    memset(buffer->p, 0, *size); /* the last export may have been another side's */
    return said(b, s, b->export_state(s, layer, what, buffer->p, buffer->bytes, size));
}

kv_status dt_digest(const kv_backend *b, kv_session *s, int32_t layer, int content, kv_buffer *buffer,
                    kv_digest *out)
{
    if (b->caps & KV_CAP_DIGEST && content) return said(b, s, b->digest(s, layer, out));
    size_t size;
    KV_TRY(dt_export(b, s, layer, KV_STATE_SCORE | (content ? KV_STATE_KV : 0), buffer, &size));
    const kv_status st = dt_digest_blob(buffer->p, size, out);
    if (st != KV_OK) kv_prefix_message("%s", b->name);
    return st;
}

static int64_t record_bytes(const kv_state_head *h, void *blob)
{
    size_t offset = sizeof *h;
    int64_t bytes = 0;
    for (int64_t i = 0; i < (int64_t)h->n_layers * h->n_kv_heads; i++) {
        const kv_state_view v = kv_state_place(h, blob, &offset, -1, 0);
        for (int32_t e = 0; e < v.run->n; e++)
            bytes += kv_state_record_bytes(h, &v, e);
    }
    return bytes;
}

/* Where records have one size an export without them will do. */
kv_status dt_cache_bytes(const kv_backend *b, kv_session *s, kv_buffer *buffer, int64_t *bytes)
{
    kv_state_head h = {0};
    for (uint32_t what = 0; what <= KV_STATE_KV && h.record_bytes == 0; what += KV_STATE_KV) {
        size_t size;
        KV_TRY(dt_export(b, s, -1, what, buffer, &size));
        const kv_status st = kv_state_check(buffer->p, size);
        if (st != KV_OK) {
            kv_prefix_message("%s", b->name);
            return st;
        }
        memcpy(&h, buffer->p, sizeof h);
    }
    *bytes = record_bytes(&h, buffer->p);
    return KV_OK;
}

/* Tokens of [from, to) among those that entry i stands for. A coded tile stands for all up to the next entry's
 * first: where tiles are kept, tokens have no gaps. kivi's value rows are the same tokens once more. */
static int64_t tokens_inside(const kv_state_head *h, const kv_state_view *v, int32_t i, int64_t from, int64_t to)
{
    if (v->og[i] >= KV_KIVI_V) return 0;
    const int64_t next = i + 1 < v->run->n && v->og[i + 1] < KV_KIVI_V ? v->og[i + 1] : h->seen;
    const int tiles = h->storage == KV_STORE_KVARN || h->storage == KV_STORE_KIVI;
    const int64_t first = v->og[i] > from ? v->og[i] : from, end = tiles ? next : v->og[i] + 1;
    return (end < to ? end : to) > first ? (end < to ? end : to) - first : 0;
}

kv_status dt_count_resident(const kv_backend *b, kv_session *s, int64_t from, int64_t to,
                            kv_buffer *buffer, int32_t *n)
{
    size_t size, offset = sizeof(kv_state_head);
    KV_TRY(dt_export(b, s, 0, 0, buffer, &size));
    KV_TRY(kv_state_check(buffer->p, size));
    kv_state_head h;
    memcpy(&h, buffer->p, sizeof h);
    const kv_state_view v = kv_state_place(&h, buffer->p, &offset, -1, 0);
    *n = 0;
    for (int32_t i = 0; i < v.run->n; i++)
        *n += (int32_t)tokens_inside(&h, &v, i, from, to);
    return KV_OK;
}
