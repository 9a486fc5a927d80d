/* kvm_read.c - bytes to an open artifact. Order: header, sizes, checksums, config, table (which says how many bytes of payload
 * there must be), only then memory for the payload, its checksum, every code and scale. */
#include "common/kvm_private.h"

#include "common/bytes.h"
#include "common/config_fields.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

typedef struct header {
    uint64_t meta_bytes, packed_bytes, payload_bytes, meta_sum, packed_sum, payload_sum;
} header;

/* The part of the file that is being read. */
typedef struct reader {
    const char *where;
    const uint8_t *p;
    size_t n, at;
} reader;

static kv_status damaged(const char *where, const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "%s: %s; the file is damaged, fetch it again", where, what);
}

static kv_status take(reader *r, uint64_t n, const char *what, const uint8_t **p)
{
    if (n > r->n - r->at) return kv_fail(KV_ERR_FORMAT, "%s: ends inside %s; the file is damaged, fetch it again", r->where, what);
    *p = r->p + r->at;
    r->at += (size_t)n;
    return KV_OK;
}

static kv_status take_int(reader *r, int bytes, const char *what, uint64_t *out)
{
    const uint8_t *p;
    KV_TRY(take(r, (uint64_t)bytes, what, &p));
    *out = kv_get_le(p, bytes);
    return KV_OK;
}

/* ---- header ------------------------------------------------------------------------------------------------------- */

static kv_status read_header(const uint8_t *p, size_t n, const char *where, header *h)
{
    if (n < 8 || memcmp(p, KV_KVM_MAGIC, 8) != 0)
        return kv_fail(KV_ERR_FORMAT, "%s: not an artifact (it does not begin as FILE.kvm does)", where);
    if (n < KV_KVM_HEADER) return damaged(where, "ends inside the header");
    if (kv_get_le(p + KV_KVM_AT_VERSION, 4) != KV_KVM_VERSION)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: version %u of the format; this program reads version %d", where,
                       (unsigned)kv_get_le(p + KV_KVM_AT_VERSION, 4), KV_KVM_VERSION);
    if (kv_get_le(p + KV_KVM_AT_SUM, 8) != kv_xxh64(p, KV_KVM_AT_SUM, 0)) return damaged(where, "wrong checksum of the header");
    h->meta_bytes = kv_get_le(p + KV_KVM_AT_META, 4);
    h->packed_bytes = kv_get_le(p + KV_KVM_AT_PACKED, 8);
    h->payload_bytes = kv_get_le(p + KV_KVM_AT_PAYLOAD, 8);
    h->meta_sum = kv_get_le(p + KV_KVM_AT_META_SUM, 8);
    h->packed_sum = kv_get_le(p + KV_KVM_AT_PACKED_SUM, 8);
    h->payload_sum = kv_get_le(p + KV_KVM_AT_PAYLOAD_SUM, 8);
    if (h->meta_bytes > KV_KVM_MAX_META || h->payload_bytes > KV_KVM_MAX_PAYLOAD)
        return kv_fail(KV_ERR_FORMAT, "%s: claims %llu bytes of meta data and %llu of payload; at most %d and %d are possible", where,
                       (unsigned long long)h->meta_bytes, (unsigned long long)h->payload_bytes, KV_KVM_MAX_META, KV_KVM_MAX_PAYLOAD);
    const uint64_t rest = n - KV_KVM_HEADER;
    if (h->meta_bytes > rest || h->packed_bytes != rest - h->meta_bytes)
        return kv_fail(KV_ERR_FORMAT, "%s: %zu bytes, but its parts claim %d + %llu + %llu; the file is truncated, fetch it again",
                       where, n, KV_KVM_HEADER, (unsigned long long)h->meta_bytes, (unsigned long long)h->packed_bytes);
    return KV_OK;
}

/* ---- meta part ---------------------------------------------------------------------------------------------------- */

static kv_status read_config(reader *r, kv_config *cfg)
{
    uint64_t size;
    const uint8_t *p;
    KV_TRY(take_int(r, 4, "the config", &size));
    if (size != KV_CONFIG_BYTES)
        return kv_fail(KV_ERR_FORMAT, "%s: a config of %u bytes; version %d has %d", r->where, (unsigned)size, KV_KVM_VERSION,
                       KV_CONFIG_BYTES);
    KV_TRY(take(r, size, "the config", &p));
    kv_status st = kv_config_get(p, cfg);
    if (st == KV_OK) st = kv_kvm_check_config(cfg);
    if (st != KV_OK) kv_prefix_message("%s", r->where);
    return st;
}

static kv_status read_quant(reader *r, kv_quant_config *q)
{
    uint64_t passthrough, floors, clip;
    KV_TRY(take_int(r, 8, "the quantiser's config", &passthrough));
    KV_TRY(take_int(r, 4, "the quantiser's config", &floors));
    KV_TRY(take_int(r, 4, "the quantiser's config", &clip));
    q->passthrough_max = (int64_t)passthrough;
    q->floors = (int32_t)floors;
    const uint32_t bits = (uint32_t)clip;
    memcpy(&q->clip_quantile, &bits, sizeof bits);
    const kv_status st = kv_quant_config_check(q);
    if (st != KV_OK) kv_prefix_message("%s", r->where);
    return st;
}

static kv_status read_tokenizer(reader *r, kv_kvm_extras *e)
{
    uint64_t kind, n;
    const uint8_t *p;
    KV_TRY(take_int(r, 4, "the tokenizer", &kind));
    KV_TRY(take_int(r, 4, "the tokenizer", &n));
    KV_TRY(take(r, n, "the tokenizer", &p));
    if (kind >= KV_KVM_TOKENIZER_COUNT)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: tokenizer of kind %u, which this program does not know", r->where, (unsigned)kind);
    if ((kind == KV_KVM_SENTENCEPIECE) != (n > 0)) return damaged(r->where, "a tokenizer whose size does not fit its kind");
    e->tokenizer_kind = (int)kind;
    e->tokenizer = n ? p : NULL;
    e->tokenizer_bytes = (size_t)n;
    return KV_OK;
}

static kv_status read_notes(reader *r, kv_kvm *k)
{
    uint64_t n;
    const uint8_t *p;
    KV_TRY(take_int(r, 4, "the notes", &n));
    KV_TRY(take(r, n, "the notes", &p));
    if (kv_kvm_check_notes((const char *)p, (size_t)n) != KV_OK) {
        kv_prefix_message("%s", r->where);
        return KV_ERR_FORMAT;
    }
    k->extras.notes = k->notes = strndup((const char *)p, (size_t)n);
    return k->notes ? KV_OK : kv_fail(KV_ERR_NOMEM, "%s: out of memory", r->where);
}

/* ---- table -------------------------------------------------------------------------------------------------------- */

static kv_status check_name(reader *r, const kv_kvm_tensor *t)
{
    uint64_t n;
    const uint8_t *p;
    char shown[80];
    KV_TRY(take_int(r, 1, "the tensor table", &n));
    KV_TRY(take(r, n, "the tensor table", &p));
    if (n == strlen(t->name) && memcmp(p, t->name, (size_t)n) == 0) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' where the config demands '%s'", r->where,
                   kv_printable((const char *)p, n, shown, sizeof shown), t->name);
}

static kv_status check_dims(reader *r, const kv_config *cfg, const kv_kvm_tensor *t)
{
    int64_t dims[3];
    uint64_t n, dim;
    const int wanted = kv_golf_dims(cfg, t->place.role, dims);
    KV_TRY(take_int(r, 1, "the tensor table", &n));
    if (n != (uint64_t)wanted)
        return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' has %u dimensions; the config demands %d", r->where, t->name, (unsigned)n, wanted);
    for (int d = 0; d < wanted; d++) {
        KV_TRY(take_int(r, 4, "the tensor table", &dim));
        if (dim != (uint64_t)dims[d])
            return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' has %u in dimension %d; the config demands %lld", r->where, t->name,
                           (unsigned)dim, d, (long long)dims[d]);
    }
    return KV_OK;
}

/* The class decides sizes, and all parts lie one behind the other: whatever else the entry says is damage. */
static kv_status read_place(reader *r, kv_kvm_tensor *t, uint64_t *end)
{
    uint64_t got[4];
    const uint64_t begin = *end;
    *end = kv_kvm_lay(t, begin);
    if (*end > KV_KVM_MAX_PAYLOAD)
        return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' would end behind %d bytes, the most that a payload may have", r->where, t->name,
                       KV_KVM_MAX_PAYLOAD);
    const uint64_t wanted[] = {t->value_at, t->value_bytes, t->scale_at, t->scale_bytes};
    static const char *const names[] = {"values begin at", "bytes of values are", "scales begin at", "bytes of scales are"};
    for (int i = 0; i < 4; i++) {
        KV_TRY(take_int(r, 4, "the tensor table", &got[i]));
        if (got[i] != wanted[i])
            return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s': %s %llu; %llu is demanded", r->where, t->name, names[i],
                           (unsigned long long)got[i], (unsigned long long)wanted[i]);
    }
    return KV_OK;
}

static kv_status read_tensor(reader *r, const kv_config *cfg, kv_kvm_tensor *t, uint64_t *end)
{
    uint64_t cls;
    KV_TRY(check_name(r, t));
    KV_TRY(take_int(r, 1, "the tensor table", &cls));
    if (cls >= KV_QUANT_CLASS_COUNT)
        return kv_fail(KV_ERR_FORMAT, "%s: tensor '%s' has class %u, which does not exist", r->where, t->name, (unsigned)cls);
    t->cls = (int32_t)cls;
    KV_TRY(check_dims(r, cfg, t));
    return read_place(r, t, end);
}

static kv_status read_table(reader *r, kv_kvm *k)
{
    uint64_t n, end = 0;
    const int32_t wanted = kv_golf_order(&k->cfg, NULL);
    KV_TRY(take_int(r, 4, "the tensor table", &n));
    if (n != (uint64_t)wanted)
        return kv_fail(KV_ERR_FORMAT, "%s: %u tensors; the config demands %d", r->where, (unsigned)n, wanted);
    if (!(k->tensors = kv_kvm_tensors_of(&k->cfg, &k->n_tensors))) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", r->where);
    for (int32_t i = 0; i < k->n_tensors; i++)
        KV_TRY(read_tensor(r, &k->cfg, &k->tensors[i], &end));
    if (r->at != r->n) return damaged(r->where, "bytes left over behind the tensor table");
    if (end != k->payload_bytes)
        return kv_fail(KV_ERR_FORMAT, "%s: claims %llu bytes of payload; its tensors have %llu", r->where,
                       (unsigned long long)k->payload_bytes, (unsigned long long)end);
    return KV_OK;
}

static kv_status read_meta(kv_kvm *k, const uint8_t *p, const header *h, const char *where)
{
    if (h->meta_sum != kv_xxh64(p, (size_t)h->meta_bytes, 0)) return damaged(where, "wrong checksum of the meta part");
    k->meta = malloc((size_t)h->meta_bytes + 1);
    if (!k->meta) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", where);
    memcpy(k->meta, p, (size_t)h->meta_bytes);
    reader r = {where, k->meta, (size_t)h->meta_bytes, 0};
    KV_TRY(read_config(&r, &k->cfg));
    KV_TRY(read_quant(&r, &k->extras.quant));
    KV_TRY(read_tokenizer(&r, &k->extras));
    KV_TRY(read_notes(&r, k));
    return read_table(&r, k);
}

/* ---- payload ------------------------------------------------------------------------------------------------------ */

static kv_status unpack(kv_kvm *k, const uint8_t *p, const header *h, const char *where)
{
    const size_t packed = (size_t)h->packed_bytes, payload = (size_t)h->payload_bytes;
    if (h->packed_sum != kv_xxh64(p, packed, 0)) return damaged(where, "wrong checksum of the compressed weights");
    if (ZSTD_getFrameContentSize(p, packed) != payload || ZSTD_findFrameCompressedSize(p, packed) != packed)
        return damaged(where, "the compressed weights are not one zstd frame of the size that the header claims");
    if (!(k->payload = malloc(payload))) return kv_fail(KV_ERR_NOMEM, "%s: out of memory for %zu bytes of weights", where, payload);
    const size_t got = ZSTD_decompress(k->payload, payload, p, packed);
    if (ZSTD_isError(got)) return damaged(where, ZSTD_getErrorName(got));
    if (got != payload || h->payload_sum != kv_xxh64(k->payload, payload, 0)) return damaged(where, "wrong checksum of the weights");
    for (int32_t i = 0; i < k->n_tensors; i++) {
        const kv_kvm_tensor *t = &k->tensors[i];
        const kv_status st = kv_quant_check(t->cls, t->rows, t->cols, k->payload + t->value_at, k->payload + t->scale_at);
        if (st != KV_OK) {
            kv_prefix_message("%s: tensor '%s'", where, t->name);
            return st;
        }
    }
    return KV_OK;
}

static kv_status parse(kv_kvm *k, const uint8_t *p, size_t n, const char *where)
{
    header h;
    KV_TRY(read_header(p, n, where, &h));
    k->file_bytes = n;
    k->meta_bytes = h.meta_bytes;
    k->packed_bytes = h.packed_bytes;
    k->payload_bytes = h.payload_bytes;
    KV_TRY(read_meta(k, p + KV_KVM_HEADER, &h, where));
    KV_TRY(unpack(k, p + KV_KVM_HEADER + h.meta_bytes, &h, where));
    kv_sha256(p, n, k->sha256);
    return KV_OK;
}

kv_status kv_kvm_parse(const void *bytes, size_t n, const char *where, kv_kvm **out)
{
    *out = NULL;
    kv_kvm *k = calloc(1, sizeof *k);
    if (!k) return kv_fail(KV_ERR_NOMEM, "%s: out of memory", where);
    const kv_status st = parse(k, bytes, n, where);
    if (st == KV_OK)
        *out = k;
    else
        kv_kvm_close(k);
    return st;
}

kv_status kv_kvm_open(const char *path, kv_kvm **out)
{
    char *bytes;
    size_t n;
    *out = NULL;
    KV_TRY(kv_file_read(path, KV_KVM_HEADER + KV_KVM_MAX_META + ZSTD_COMPRESSBOUND((size_t)KV_KVM_MAX_PAYLOAD), &bytes, &n));
    const kv_status st = kv_kvm_parse(bytes, n, path, out);
    free(bytes);
    return st;
}

void kv_kvm_close(kv_kvm *k)
{
    if (!k) return;
    free(k->tensors);
    free(k->payload);
    free(k->meta);
    free(k->notes);
    free(k);
}
