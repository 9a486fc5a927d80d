/* spm_write.c - writes a vocabulary as SentencePiece does: a protobuf that SentencePiece itself
 * loads (fields as in spm_model.c), and the text form. */
#include "common/spm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_BPE = 2 };

/* ---- the wire -------------------------------------------------------------------------------- */

static kv_status put_varint(kv_bytes *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    return kv_bytes_add(b, bytes, n);
}

static kv_status put_number(kv_bytes *b, uint32_t field, int64_t v)
{
    KV_TRY(put_varint(b, (uint64_t)field << 3));
    return put_varint(b, (uint64_t)v);
}

static kv_status put_bytes(kv_bytes *b, uint32_t field, const void *p, size_t n)
{
    KV_TRY(put_varint(b, (uint64_t)field << 3 | 2));
    KV_TRY(put_varint(b, n));
    return kv_bytes_add(b, p, n);
}

static kv_status put_float(kv_bytes *b, uint32_t field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint8_t le[4] = {(uint8_t)bits, (uint8_t)(bits >> 8), (uint8_t)(bits >> 16),
                           (uint8_t)(bits >> 24)};
    KV_TRY(put_varint(b, (uint64_t)field << 3 | 5));
    return kv_bytes_add(b, le, sizeof le);
}

/* ---- messages -------------------------------------------------------------------------------- */

static kv_status fill_piece(const struct kv_spm_entry *e, kv_bytes *b)
{
    KV_TRY(put_bytes(b, 1, e->text.p, e->text.n));
    KV_TRY(put_float(b, 2, e->score));
    return e->type == KV_TOKEN_NORMAL ? KV_OK : put_number(b, 3, e->type);
}

static kv_status fill_trainer(const kv_spm_source *f, const kv_spm_options *o, kv_bytes *b)
{
    KV_TRY(put_number(b, 3, MODEL_BPE));
    KV_TRY(put_number(b, 4, f->n));
    KV_TRY(put_float(b, 10, o->coverage));
    KV_TRY(put_number(b, 25, o->split_digits));
    KV_TRY(put_number(b, 35, f->byte_fallback));
    KV_TRY(put_number(b, 40, o->unk));
    KV_TRY(put_number(b, 41, o->bos));
    KV_TRY(put_number(b, 42, o->eos));
    return put_number(b, 43, o->pad);
}

static kv_status fill_normalizer(const kv_spm_options *o, kv_bytes *b)
{
    KV_TRY(put_bytes(b, 1, o->normalizer, strlen(o->normalizer)));
    if (o->map_n > 0) KV_TRY(put_bytes(b, 2, o->map, o->map_n));
    KV_TRY(put_number(b, 3, o->dummy_prefix));
    KV_TRY(put_number(b, 4, o->remove_extra));
    return put_number(b, 5, 1);
}

static kv_status write_all(const kv_spm_source *f, const kv_spm_options *o, kv_bytes *inner,
                           kv_bytes *out)
{
    for (int64_t i = 0; i < f->n; i++) {
        inner->n = 0;
        KV_TRY(fill_piece(&f->v[i], inner));
        KV_TRY(put_bytes(out, 1, inner->p, inner->n));
    }
    inner->n = 0;
    KV_TRY(fill_trainer(f, o, inner));
    KV_TRY(put_bytes(out, 2, inner->p, inner->n));
    inner->n = 0;
    KV_TRY(fill_normalizer(o, inner));
    return put_bytes(out, 3, inner->p, inner->n);
}

kv_status kv_spm_write_model(const kv_spm_source *f, const kv_spm_options *o, kv_bytes *out)
{
    kv_bytes inner = {0};
    const kv_status st = write_all(f, o, &inner, out);
    free(inner.p);
    return st;
}

kv_status kv_spm_write_vocab(const kv_spm_source *f, kv_bytes *out)
{
    char score[32];
    for (int64_t i = 0; i < f->n; i++) {
        const int n = snprintf(score, sizeof score, "\t%g\n", (double)f->v[i].score);
        KV_TRY(kv_bytes_add(out, f->v[i].text.p, f->v[i].text.n));
        KV_TRY(kv_bytes_add(out, score, (size_t)n));
    }
    return KV_OK;
}
