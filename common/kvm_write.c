/* kvm_write.c - a model to the bytes of an artifact. */
#include "common/kvm_private.h"

#include "common/bytes.h"
#include "common/config_fields.h"
#include "common/hash.h"
#include "common/mem.h"
#include "common/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

typedef struct writer {
    uint8_t *p;
    size_t n;
} writer;

static void put(writer *w, const void *p, size_t n)
{
    if (n) memcpy(w->p + w->n, p, n);
    w->n += n;
}

static void put_int(writer *w, int bytes, uint64_t x)
{
    kv_put_le(w->p + w->n, bytes, x);
    w->n += (size_t)bytes;
}

/* ---- payload ------------------------------------------------------------------------------------------------------ */

static kv_status choose_classes(const kv_model *m, const kv_quant_config *q, kv_kvm_tensor *t, int32_t n, uint64_t *payload)
{
    uint64_t end = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t dims[3];
        const int is_matrix = kv_golf_dims(&m->cfg, t[i].place.role, dims) == 2;
        t[i].cls = (int32_t)kv_quant_class_of(q, t[i].name, t[i].rows * t[i].cols, is_matrix);
        end = kv_kvm_lay(&t[i], end);
        if (end > KV_KVM_MAX_PAYLOAD)
            return kv_fail(KV_ERR_UNSUPPORTED, "model '%s': more than %d bytes of codes; an artifact cannot hold them", m->name,
                           KV_KVM_MAX_PAYLOAD);
    }
    *payload = end;
    return KV_OK;
}

static kv_status encode(const kv_model *m, const kv_quant_config *q, const kv_kvm_tensor *t, int32_t n, uint8_t *payload)
{
    kv_buffer w = {0};
    kv_status st = KV_OK;
    for (int32_t i = 0; i < n && st == KV_OK; i++) {
        const kv_tensor *from = kv_model_tensor(m, t[i].place.role, t[i].place.layer);
        st = kv_buffer_reserve(&w, (size_t)(t[i].rows * t[i].cols) * sizeof(float));
        if (st != KV_OK) break;
        kv_tensor_rows_f32(from, 0, t[i].rows, w.p);
        st = kv_quant_encode(q, t[i].cls, t[i].rows, t[i].cols, w.p, payload + t[i].value_at, payload + t[i].scale_at);
        if (st != KV_OK) kv_prefix_message("model '%s': tensor '%s'", m->name, t[i].name);
    }
    kv_buffer_free(&w);
    return st;
}

/* ---- meta part ---------------------------------------------------------------------------------------------------- */

enum { ENTRY_MAX = 1 + KV_TENSOR_NAME_MAX + 1 + 1 + 3 * 4 + 4 * 4 };

static size_t meta_bound(const kv_kvm_extras *e, size_t notes, int32_t n)
{
    return 4 + KV_CONFIG_BYTES + 16 + 8 + e->tokenizer_bytes + 4 + notes + 4 + (size_t)n * ENTRY_MAX;
}

static void put_entry(writer *w, const kv_config *cfg, const kv_kvm_tensor *t)
{
    int64_t dims[3];
    const int n = kv_golf_dims(cfg, t->place.role, dims);
    put_int(w, 1, strlen(t->name));
    put(w, t->name, strlen(t->name));
    put_int(w, 1, (uint64_t)t->cls);
    put_int(w, 1, (uint64_t)n);
    for (int d = 0; d < n; d++)
        put_int(w, 4, (uint64_t)dims[d]);
    put_int(w, 4, t->value_at);
    put_int(w, 4, t->value_bytes);
    put_int(w, 4, t->scale_at);
    put_int(w, 4, t->scale_bytes);
}

static void put_meta(writer *w, const kv_config *cfg, const kv_kvm_extras *e, const char *notes, const kv_kvm_tensor *t, int32_t n)
{
    uint32_t clip;
    memcpy(&clip, &e->quant.clip_quantile, sizeof clip);
    put_int(w, 4, KV_CONFIG_BYTES);
    kv_config_put(cfg, w->p + w->n);
    w->n += KV_CONFIG_BYTES;
    put_int(w, 8, (uint64_t)e->quant.passthrough_max);
    put_int(w, 4, (uint64_t)e->quant.floors);
    put_int(w, 4, clip);
    put_int(w, 4, (uint64_t)e->tokenizer_kind);
    put_int(w, 4, e->tokenizer_bytes);
    put(w, e->tokenizer, e->tokenizer_bytes);
    put_int(w, 4, strlen(notes));
    put(w, notes, strlen(notes));
    put_int(w, 4, (uint64_t)n);
    for (int32_t i = 0; i < n; i++)
        put_entry(w, cfg, &t[i]);
}

/* ---- the file ----------------------------------------------------------------------------------------------------- */

static void put_header(uint8_t *p, size_t meta, const uint8_t *packed, size_t packed_bytes, const uint8_t *payload, uint64_t payload_bytes)
{
    memcpy(p, KV_KVM_MAGIC, 8);
    kv_put_le(p + KV_KVM_AT_VERSION, 4, KV_KVM_VERSION);
    kv_put_le(p + KV_KVM_AT_META, 4, meta);
    kv_put_le(p + KV_KVM_AT_PACKED, 8, packed_bytes);
    kv_put_le(p + KV_KVM_AT_PAYLOAD, 8, payload_bytes);
    kv_put_le(p + KV_KVM_AT_META_SUM, 8, kv_xxh64(p + KV_KVM_HEADER, meta, 0));
    kv_put_le(p + KV_KVM_AT_PACKED_SUM, 8, kv_xxh64(packed, packed_bytes, 0));
    kv_put_le(p + KV_KVM_AT_PAYLOAD_SUM, 8, kv_xxh64(payload, (size_t)payload_bytes, 0));
    kv_put_le(p + KV_KVM_AT_SUM, 8, kv_xxh64(p, KV_KVM_AT_SUM, 0));
}

static kv_status assemble(const kv_model *m, const kv_kvm_extras *e, const char *notes, const kv_kvm_tensor *t, int32_t n,
                          const uint8_t *payload, uint64_t payload_bytes, writer *w)
{
    const size_t bound = ZSTD_compressBound((size_t)payload_bytes), meta = meta_bound(e, strlen(notes), n);
    if (!(w->p = malloc(KV_KVM_HEADER + meta + bound))) return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    w->n = KV_KVM_HEADER;
    put_meta(w, &m->cfg, e, notes, t, n);
    const size_t meta_bytes = w->n - KV_KVM_HEADER;
    if (meta_bytes > KV_KVM_MAX_META)
        return kv_fail(KV_ERR_UNSUPPORTED, "model '%s': %zu bytes of tokenizer, notes and table; at most %d are possible", m->name,
                       meta_bytes, KV_KVM_MAX_META);
    const size_t packed = ZSTD_compress(w->p + w->n, bound, payload, (size_t)payload_bytes, e->level);
    if (ZSTD_isError(packed)) return kv_fail(KV_ERR_NOMEM, "model '%s': cannot compress: %s", m->name, ZSTD_getErrorName(packed));
    put_header(w->p, meta_bytes, w->p + w->n, packed, payload, payload_bytes);
    w->n += packed;
    return KV_OK;
}

static kv_status check_extras(const kv_model *m, const kv_kvm_extras *e, const char *notes)
{
    kv_tokenizer *tok;
    KV_TRY(kv_kvm_check_notes(notes, strlen(notes)));
    if (e->level < 1 || e->level > 22)
        return kv_fail(KV_ERR_USAGE, "zstd has no level %d; it must lie between 1 and 22", e->level);
    KV_TRY(kv_quant_config_check(&e->quant));
    KV_TRY(kv_kvm_open_tokenizer(&m->cfg, e, "tokenizer", &tok));
    kv_tokenizer_free(tok);
    return KV_OK;
}

kv_status kv_kvm_pack(const kv_model *m, const kv_kvm_extras *e, uint8_t **out, size_t *size)
{
    const char *notes = e->notes ? e->notes : "";
    uint64_t payload_bytes = 0;
    uint8_t *payload = NULL;
    writer w = {0};
    int32_t n;
    *out = NULL;
    kv_status st = kv_kvm_check_config(&m->cfg);
    if (st == KV_OK) st = check_extras(m, e, notes);
    if (st != KV_OK) {
        kv_prefix_message("model '%s'", m->name);
        return st;
    }
    kv_kvm_tensor *t = kv_kvm_tensors_of(&m->cfg, &n);
    if (!t) return kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    st = choose_classes(m, &e->quant, t, n, &payload_bytes);
    if (st == KV_OK && !(payload = malloc((size_t)payload_bytes))) st = kv_fail(KV_ERR_NOMEM, "model '%s': out of memory", m->name);
    if (st == KV_OK) st = encode(m, &e->quant, t, n, payload);
    if (st == KV_OK) st = assemble(m, e, notes, t, n, payload, payload_bytes, &w);
    free(payload);
    free(t);
    if (st != KV_OK) {
        free(w.p);
        return st;
    }
    *out = w.p;
    *size = w.n;
    return KV_OK;
}
