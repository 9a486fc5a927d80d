/* spm.c - encoding. Of all adjacent pieces that together are a piece, the one of best score is
 * joined first, the leftmost among equals, until none is left; what is no piece then becomes its
 * bytes.
 *
 * That is defined on the whole text. It is done word by word: a piece can only arise across a place
 * where two characters meet that meet inside some piece, so the text is cut everywhere else. With a
 * vocabulary of words the cuts are in front of the spaces; a run of one character may stay whole,
 * and costs O(n log n). */
#include "common/spm.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

typedef struct encoder {
    const kv_spm *s;
    kv_tokens *out;
    kv_bpe_scratch scratch;
    uint64_t dropped;
    int in_unknown; /* the last token is the unknown one */
} encoder;

/* Reads a character; a byte that is none counts as one. */
static size_t next_char(const char *p, size_t n, uint32_t *cp)
{
    const size_t step = kv_utf8_next(p, n, cp);
    if (step == 0) *cp = 0xfffd;
    return step ? step : 1;
}

/* ---- output ---------------------------------------------------------------------------------- */

static kv_status put_token(encoder *e, int32_t id)
{
    e->in_unknown = 0;
    return kv_tokens_append(e->out, &id, 1);
}

/* A character without a token: its bytes; else the unknown token, one for a run;
 * else nothing. */
static kv_status put_unknown(encoder *e, const char *p, size_t n)
{
    const kv_spm *s = e->s;
    if (s->byte_fallback) {
        for (size_t i = 0; i < n; i++)
            KV_TRY(put_token(e, s->byte_id[(uint8_t)p[i]]));
        return KV_OK;
    }
    e->dropped += n;
    if (s->unk < 0 || e->in_unknown) return KV_OK;
    KV_TRY(put_token(e, s->unk));
    e->in_unknown = 1;
    return KV_OK;
}

/* Symbol i is character i of the word, with what it swallowed. */
static kv_status put_word(encoder *e, const char *p, size_t n)
{
    const kv_symbol *sym = e->scratch.symbols;
    uint32_t cp;
    size_t at = 0;
    int32_t reached = 0;
    for (int32_t i = 0; i >= 0; i = sym[i].next) {
        if (sym[i].id < e->s->vocab.n) {
            KV_TRY(put_token(e, sym[i].id));
            continue;
        }
        for (; reached < i; reached++)
            at += next_char(p + at, n - at, &cp);
        KV_TRY(put_unknown(e, p + at, next_char(p + at, n - at, &cp)));
    }
    return KV_OK;
}

/* ---- words ----------------------------------------------------------------------------------- */

static kv_status encode_word(encoder *e, const char *p, size_t n)
{
    int32_t count = 0;
    uint32_t cp;
    KV_TRY(kv_bpe_reserve(&e->scratch, n));
    for (size_t at = 0, step; at < n; at += step) {
        step = next_char(p + at, n - at, &cp);
        e->scratch.symbols[count++].id = kv_spm_char_id(e->s, p + at, step);
    }
    kv_bpe_merge(&e->s->pairs, &e->scratch, count);
    return put_word(e, p, n);
}

static size_t word_length(const kv_spm *s, const char *p, size_t n)
{
    uint32_t a, b;
    size_t at = next_char(p, n, &a);
    for (size_t step; at < n; at += step, a = b) {
        step = next_char(p + at, n - at, &b);
        if (*kv_spm_joint_slot(s, a, b) == 0) break;
    }
    return at;
}

/* A normalised text. User tokens stand alone and never merge. */
static kv_status encode_plain(encoder *e, const char *p, size_t n)
{
    const kv_spm *s = e->s;
    for (size_t at = 0; at < n;) {
        const kv_mark m = kv_marks_next(&s->marks, &s->vocab, p, n, at, KV_MARK_USER);
        while (at < m.at) {
            const size_t length = word_length(s, p + at, m.at - at);
            KV_TRY(encode_word(e, p + at, length));
            at += length;
        }
        if (m.id >= 0) KV_TRY(put_token(e, m.id));
        at += m.n;
    }
    return KV_OK;
}

static kv_status encode_part(encoder *e, const char *text, size_t n)
{
    char *plain;
    size_t plain_n;
    KV_TRY(kv_spm_normalize(e->s, text, n, &plain, &plain_n));
    const kv_status st = encode_plain(e, plain, plain_n);
    free(plain);
    return st;
}

/* What stands between control tokens is a text of its own. */
static kv_status encode_parts(encoder *e, const char *text, size_t n, int special)
{
    const kv_spm *s = e->s;
    if (!special) return encode_part(e, text, n);
    for (size_t at = 0; at < n;) {
        const kv_mark m = kv_marks_next(&s->marks, &s->vocab, text, n, at, KV_MARK_CONTROL);
        KV_TRY(encode_part(e, text + at, m.at - at));
        if (m.id >= 0) KV_TRY(put_token(e, m.id));
        at = m.at + m.n;
    }
    return KV_OK;
}

kv_status kv_spm_encode(const kv_spm *s, const char *text, size_t n, int special, kv_tokens *out,
                        uint64_t *dropped)
{
    encoder e = {.s = s, .out = out};
    const kv_status st = encode_parts(&e, text, n, special);
    kv_bpe_scratch_free(&e.scratch);
    *dropped += e.dropped;
    return st;
}
