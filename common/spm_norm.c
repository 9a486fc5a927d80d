/* spm_norm.c - what SentencePiece does to a text before it cuts it up: rewriting by the map of the
 * file, spaces removed or added, and U+2581 for spaces.
 *
 * A text is rewritten from left to right: a user token stays as it is, else the longest string of
 * the map that starts here is replaced, else one character is copied. */
#include "common/mem.h"
#include "common/spm.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- the map --------------------------------------------------------------------------------- */

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

kv_status kv_spm_norm_map(const void *p, size_t n, const char *where, kv_spm_norm *norm)
{
    const uint8_t *bytes = p;
    const size_t trie = n >= 4 ? le32(bytes) : 0;
    if (n < 4 || trie < 4 || trie % 4 || trie > n - 4 || n - 4 - trie > INT32_MAX ||
        (n - 4 - trie > 0 && bytes[n - 1] != 0))
        return kv_fail(KV_ERR_FORMAT,
                       "%s: the normaliser's map of %zu bytes is damaged; fetch the file again",
                       where, n);
    norm->n_units = (uint32_t)(trie / 4);
    norm->n_rewritten = (uint32_t)(n - 4 - trie);
    norm->units = malloc(trie);
    norm->rewritten = malloc(norm->n_rewritten + 1);
    if (!norm->units || !norm->rewritten)
        return kv_fail(KV_ERR_NOMEM, "%s: out of memory while reading the tokenizer", where);
    for (uint32_t i = 0; i < norm->n_units; i++)
        norm->units[i] = le32(bytes + 4 + 4 * (size_t)i);
    memcpy(norm->rewritten, bytes + 4 + trie, norm->n_rewritten);
    norm->rewritten[norm->n_rewritten] = '\0';
    return KV_OK;
}

/* A unit of darts-clone: bit 8 leaf, low byte and bit 31 label, bits 10.. offset, bit 9 scales it.
 */
static uint32_t offset_of(uint32_t unit)
{
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

/* Longest string of the map that p starts with: its length, 0 = none; *value = its value. */
static size_t longest_match(const kv_spm_norm *m, const char *p, size_t n, uint32_t *value)
{
    size_t best = 0;
    uint32_t at = offset_of(m->units[0]);
    for (size_t i = 0; i < n; i++) {
        at ^= (uint8_t)p[i];
        if (at >= m->n_units || (m->units[at] & 0x800000ffu) != (uint8_t)p[i]) break;
        const uint32_t unit = m->units[at];
        at ^= offset_of(unit);
        if (!(unit & 1u << 8)) continue;
        if (at >= m->n_units) break;
        *value = m->units[at] & 0x7fffffffu;
        best = i + 1;
    }
    return best;
}

/* ---- rewriting ------------------------------------------------------------------------------- */

/* Appends with U+2581 for spaces. */
static kv_status put_text(kv_bytes *o, kv_span s)
{
    for (size_t at = 0; at < s.n;) {
        const char *space = memchr(s.p + at, ' ', s.n - at);
        const size_t plain = space ? (size_t)(space - s.p) - at : s.n - at;
        KV_TRY(kv_bytes_add(o, s.p + at, plain));
        if (space) KV_TRY(kv_bytes_add(o, KV_SPM_SPACE, 3));
        at += plain + (space ? 1 : 0);
    }
    return KV_OK;
}

/* What the beginning of p[0..n), n > 0, becomes; returns the bytes that it replaces. */
static size_t next_piece(const kv_spm *s, const char *p, size_t n, kv_span *out)
{
    const kv_spm_norm *m = &s->norm;
    const uint8_t b = (uint8_t)p[0];
    if (s->marks.first[b] & KV_MARK_USER) {
        const size_t most = s->marks.lengths[0] < n ? s->marks.lengths[0] : n;
        const kv_mark mark = kv_marks_next(&s->marks, &s->vocab, p, most, 0, KV_MARK_USER);
        if (mark.id >= 0 && mark.at == 0) {
            *out = (kv_span){p, mark.n};
            return mark.n;
        }
    }
    uint32_t value = 0, cp;
    const size_t matched = m->units ? longest_match(m, p, n, &value) : 0;
    if (matched) {
        const uint32_t at = value < m->n_rewritten ? value : m->n_rewritten;
        *out = (kv_span){m->rewritten + at, strlen(m->rewritten + at)};
        return matched;
    }
    const size_t step = kv_utf8_next(p, n, &cp);
    *out =
        step ? (kv_span){p, step} : (kv_span){"\xef\xbf\xbd", 3}; /* U+FFFD for what is no UTF-8 */
    return step ? step : 1;
}

/* Bytes at the start that become nothing but spaces. */
static size_t leading(const kv_spm *s, const char *text, size_t n)
{
    size_t at = 0;
    for (kv_span piece; at < n;) {
        const size_t step = next_piece(s, text + at, n - at, &piece);
        if (piece.n != 1 || piece.p[0] != ' ') break;
        at += step;
    }
    return at;
}

static kv_status rewrite(const kv_spm *s, const char *text, size_t n, kv_bytes *o)
{
    const int squeeze = s->norm.remove_extra;
    size_t at = squeeze ? leading(s, text, n) : 0;
    int after_space = squeeze;
    if (at == n) return KV_OK;
    if (s->norm.dummy_prefix) KV_TRY(kv_bytes_add(o, KV_SPM_SPACE, 3));
    while (at < n) {
        kv_span piece;
        at += next_piece(s, text + at, n - at, &piece);
        while (after_space && piece.n > 0 && piece.p[0] == ' ') {
            piece.p++;
            piece.n--;
        }
        if (piece.n == 0) continue;
        KV_TRY(put_text(o, piece));
        after_space = squeeze && piece.p[piece.n - 1] == ' ';
    }
    while (squeeze && o->n >= 3 && memcmp(o->p + o->n - 3, KV_SPM_SPACE, 3) == 0)
        o->n -= 3;
    return KV_OK;
}

kv_status kv_spm_normalize(const kv_spm *s, const char *text, size_t n, char **out, size_t *out_n)
{
    kv_bytes o = {0};
    const kv_status st = rewrite(s, text, n, &o);
    if (st != KV_OK) {
        free(o.p);
        return st;
    }
    *out = o.p;
    *out_n = o.n;
    return KV_OK;
}
