/* spm_model.c - reads a SentencePiece file: sentencepiece_model.proto's ModelProto on the wire.
 *
 *   1 pieces (repeated): 1 text, 2 score (float), 3 type (1 = normal where it is left out)
 *   2 trainer: 3 model type (2 = BPE), 24 spaces as suffixes, 35 byte fallback
 *   3 normaliser, 5 denormaliser: 2 map, 3 dummy prefix, 4 remove extra spaces, 5 escape spaces
 *
 * The bytes are untrusted: every length is checked against what is left. Fields that decide nothing
 * here are skipped. */
#include "common/spm.h"

#include <string.h>

enum { WIRE_VARINT, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { MODEL_BPE = 2 };

typedef struct wire {
    const uint8_t *p, *end;
    const char *where;
    const uint8_t *begin; /* of the file, for offsets in messages */
} wire;

typedef struct field {
    uint64_t number, value; /* value: varints, and 32 or 64 bits as they are */
    int kind;               /* WIRE_* */
    wire inside;            /* WIRE_BYTES */
} field;

/* ---- the wire -------------------------------------------------------------------------------- */

static kv_status damaged(const wire *w, const char *what)
{
    return kv_fail(KV_ERR_FORMAT,
                   "%s: offset %lld: %s; this is no SentencePiece file, or a damaged one", w->where,
                   (long long)(w->p - w->begin), what);
}

static int read_varint(wire *w, uint64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->p == w->end) return 0;
        const uint8_t b = *w->p++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return 1;
        }
    }
    return 0;
}

static int read_fixed(wire *w, int n, uint64_t *out)
{
    if (w->end - w->p < n) return 0;
    *out = 0;
    for (int i = 0; i < n; i++)
        *out |= (uint64_t)w->p[i] << 8 * i;
    w->p += n;
    return 1;
}

/* The next field; call while w->p < w->end. */
static kv_status next_field(wire *w, field *f)
{
    uint64_t key;
    if (!read_varint(w, &key)) return damaged(w, "a field's number is cut off");
    f->number = key >> 3;
    f->kind = (int)(key & 7);
    if (f->kind == WIRE_VARINT)
        return read_varint(w, &f->value) ? KV_OK : damaged(w, "a number is cut off");
    if (f->kind == WIRE_64 || f->kind == WIRE_32)
        return read_fixed(w, f->kind == WIRE_64 ? 8 : 4, &f->value)
                   ? KV_OK
                   : damaged(w, "a number is cut off");
    if (f->kind != WIRE_BYTES) return damaged(w, "a field of unknown kind");
    if (!read_varint(w, &f->value)) return damaged(w, "a length is cut off");
    if (f->value > (uint64_t)(w->end - w->p)) return damaged(w, "a length goes beyond the end");
    f->inside = (wire){w->p, w->p + f->value, w->where, w->begin};
    w->p += f->value;
    return KV_OK;
}

static kv_status expect(const wire *w, const field *f, int kind)
{
    return f->kind == kind ? KV_OK : damaged(w, "a field of the wrong kind");
}

static float as_float(uint64_t bits)
{
    const uint32_t b = (uint32_t)bits;
    float v;
    memcpy(&v, &b, sizeof v);
    return v;
}

/* ---- the messages ---------------------------------------------------------------------------- */

static kv_status read_piece(wire w, kv_spm_source *src)
{
    kv_span text = {"", 0};
    float score = 0;
    uint8_t type = KV_TOKEN_NORMAL;
    for (field f; w.p < w.end;) {
        KV_TRY(next_field(&w, &f));
        if (f.number == 1) {
            KV_TRY(expect(&w, &f, WIRE_BYTES));
            text = (kv_span){(const char *)f.inside.p, f.value};
        } else if (f.number == 2) {
            KV_TRY(expect(&w, &f, WIRE_32));
            score = as_float(f.value);
        } else if (f.number == 3) {
            KV_TRY(expect(&w, &f, WIRE_VARINT));
            type = f.value <= KV_TOKEN_BYTE ? (uint8_t)f.value : 0; /* 0: refused with its number */
        }
    }
    return kv_spm_source_add(src, text, score, type);
}

static kv_status unsupported(const wire *w, const char *what)
{
    return kv_fail(KV_ERR_UNSUPPORTED, "%s: %s; train the vocabulary with other options", w->where,
                   what);
}

static kv_status read_trainer(wire w, kv_spm_source *src, int *is_bpe)
{
    const wire all = w;
    for (field f; w.p < w.end;) {
        KV_TRY(next_field(&w, &f));
        if (f.number != 3 && f.number != 24 && f.number != 35) continue;
        KV_TRY(expect(&w, &f, WIRE_VARINT));
        if (f.number == 3) *is_bpe = f.value == MODEL_BPE;
        if (f.number == 24 && f.value) return unsupported(&all, "spaces are suffixes of words");
        if (f.number == 35) src->byte_fallback = f.value != 0;
    }
    return KV_OK;
}

static kv_status read_normalizer(wire w, kv_spm_norm *norm)
{
    const wire all = w;
    for (field f; w.p < w.end;) {
        KV_TRY(next_field(&w, &f));
        if (f.number < 2 || f.number > 5) continue;
        KV_TRY(expect(&w, &f, f.number == 2 ? WIRE_BYTES : WIRE_VARINT));
        if (f.number == 2 && f.value > 0) {
            if (norm->units) return damaged(&all, "two maps of the normaliser");
            KV_TRY(kv_spm_norm_map(f.inside.p, f.value, w.where, norm));
        }
        if (f.number == 3) norm->dummy_prefix = f.value != 0;
        if (f.number == 4) norm->remove_extra = f.value != 0;
        if (f.number == 5 && !f.value) return unsupported(&all, "spaces are not escaped");
    }
    return KV_OK;
}

static kv_status check_denormalizer(wire w)
{
    const wire all = w;
    for (field f; w.p < w.end;) {
        KV_TRY(next_field(&w, &f));
        if (f.number == 2 && f.kind == WIRE_BYTES && f.value > 0)
            return unsupported(&all, "it has a denormaliser");
    }
    return KV_OK;
}

static kv_status read_message(wire w, kv_spm_source *src, kv_spm_norm *norm)
{
    int is_bpe = 0;
    const wire all = w;
    for (field f; w.p < w.end;) {
        KV_TRY(next_field(&w, &f));
        if (f.number < 1 || f.number > 5 || f.number == 4) continue;
        KV_TRY(expect(&w, &f, WIRE_BYTES));
        if (f.number == 1) KV_TRY(read_piece(f.inside, src));
        if (f.number == 2) KV_TRY(read_trainer(f.inside, src, &is_bpe));
        if (f.number == 3) KV_TRY(read_normalizer(f.inside, norm));
        if (f.number == 5) KV_TRY(check_denormalizer(f.inside));
    }
    return is_bpe ? KV_OK : unsupported(&all, "the model type is not BPE");
}

kv_status kv_spm_read_model(const void *p, size_t n, const char *where, kv_spm *s)
{
    const uint8_t *bytes = p;
    kv_spm_source src = {.where = where, .byte_fallback = 0};
    s->norm.dummy_prefix = s->norm.remove_extra = 1; /* what a file without these fields means */
    kv_status st = read_message((wire){bytes, bytes + n, where, bytes}, &src, &s->norm);
    if (st == KV_OK) st = kv_spm_build(&src, s);
    kv_spm_source_free(&src);
    return st;
}
