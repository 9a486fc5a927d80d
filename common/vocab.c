/* vocab.c - the list of tokens with its index, and the tokens that are matched in the text itself.
 * The list comes from a file that nobody vouches for. */
#include "common/vocab.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN = 48 }; /* bytes of a token in a message */

uint64_t kv_slots_for(uint64_t n)
{
    uint64_t slots = 16;
    while (slots < 2 * n)
        slots *= 2;
    return slots;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static uint64_t text_hash(const char *p, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a, spread by one more product below */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)p[i]) * UINT64_C(0x100000001b3);
    return h * UINT64_C(0x9E3779B97F4A7C15) >> 20;
}

kv_span kv_vocab_text(const kv_vocab *v, int32_t id)
{
    return (kv_span){v->text.bytes + v->text.at[id], v->text.at[id + 1] - v->text.at[id]};
}

/* The slot that holds the text, or the free one where it belongs. */
static int32_t *slot_of(const kv_vocab *v, const char *p, size_t n)
{
    for (uint64_t i = text_hash(p, n);; i++) {
        int32_t *slot = &v->slots[i & v->mask];
        if (*slot < 0) return slot;
        const kv_span s = kv_vocab_text(v, *slot);
        if (s.n == n && memcmp(s.p, p, n) == 0) return slot;
    }
}

int32_t kv_vocab_find(const kv_vocab *v, const char *p, size_t n)
{
    return *slot_of(v, p, n);
}

kv_status kv_vocab_reserve(kv_vocab *v, uint64_t n, uint64_t bytes, const char *where)
{
    if (n == 0 || n > KV_VOCAB_MAX)
        return kv_fail(KV_ERR_FORMAT, "%s: the vocabulary has %llu entries; 1 to %d are possible",
                       where, (unsigned long long)n, KV_VOCAB_MAX);
    const uint64_t slots = kv_slots_for(n);
    v->cap = (int32_t)n;
    v->mask = slots - 1;
    v->text = (kv_strings){malloc(bytes + 1), malloc((n + 1) * sizeof *v->text.at)};
    v->piece = (kv_strings){malloc(bytes + 1), malloc((n + 1) * sizeof *v->piece.at)};
    v->type = malloc(n);
    v->slots = malloc(slots * sizeof *v->slots);
    if (!v->text.bytes || !v->text.at || !v->piece.bytes || !v->piece.at || !v->type || !v->slots)
        return kv_fail(KV_ERR_NOMEM, "%s: out of memory while reading the tokenizer", where);
    memset(v->slots, 0xff, slots * sizeof *v->slots);
    v->text.at[0] = v->piece.at[0] = 0;
    return KV_OK;
}

kv_status kv_vocab_add(kv_vocab *v, const char *text, size_t n, uint8_t type,
                       kv_vocab_decode *decode, const char *where)
{
    char shown[SHOWN];
    const int32_t id = v->n;
    if (n == 0)
        return kv_fail(KV_ERR_FORMAT, "%s: token %d is empty; convert the model again", where, id);
    memcpy(v->text.bytes + v->text.at[id], text, n);
    v->text.at[id + 1] = v->text.at[id] + n;
    int32_t *slot = slot_of(v, text, n);
    if (*slot >= 0)
        return kv_fail(KV_ERR_FORMAT, "%s: tokens %d and %d are both '%s'; convert the model again",
                       where, *slot, id, kv_printable(text, n, shown, sizeof shown));
    *slot = id;
    v->type[id] = type;
    v->piece.at[id + 1] = v->piece.at[id] + decode(type, text, n, v->piece.bytes + v->piece.at[id]);
    v->n++;
    return KV_OK;
}

void kv_vocab_free(kv_vocab *v)
{
    free(v->text.bytes);
    free(v->text.at);
    free(v->piece.bytes);
    free(v->piece.at);
    free(v->type);
    free(v->slots);
    *v = (kv_vocab){0};
}

/* ---- marks ----------------------------------------------------------------------------------- */

static uint8_t mark_kind(const kv_vocab *v, int32_t id)
{
    return v->type[id] == KV_TOKEN_USER      ? KV_MARK_USER
           : v->type[id] == KV_TOKEN_CONTROL ? KV_MARK_CONTROL
                                             : 0;
}

static int longer_first(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

kv_status kv_marks_build(const kv_vocab *v, kv_marks *m)
{
    uint32_t count = 0;
    for (int32_t id = 0; id < v->n; id++)
        count += mark_kind(v, id) != 0;
    m->lengths = malloc((count + 1) * sizeof *m->lengths);
    if (!m->lengths) return kv_fail(KV_ERR_NOMEM, "out of memory: tokenizer");
    count = 0;
    for (int32_t id = 0; id < v->n; id++) {
        if (!mark_kind(v, id)) continue;
        const kv_span s = kv_vocab_text(v, id);
        m->first[(uint8_t)s.p[0]] |= mark_kind(v, id);
        m->lengths[count++] = (uint32_t)s.n;
    }
    qsort(m->lengths, count, sizeof *m->lengths, longer_first);
    for (uint32_t i = 0; i < count; i++)
        if (i == 0 || m->lengths[i] != m->lengths[m->n_lengths - 1])
            m->lengths[m->n_lengths++] = m->lengths[i];
    return KV_OK;
}

void kv_marks_free(kv_marks *m)
{
    free(m->lengths);
    *m = (kv_marks){0};
}

kv_mark kv_marks_next(const kv_marks *m, const kv_vocab *v, const char *text, size_t n, size_t at,
                      uint8_t wanted)
{
    for (; m->n_lengths > 0 && at < n; at++) {
        if (!(m->first[(uint8_t)text[at]] & wanted)) continue;
        for (uint32_t i = 0; i < m->n_lengths; i++) {
            const size_t length = m->lengths[i];
            if (length > n - at) continue;
            const int32_t id = kv_vocab_find(v, text + at, length);
            if (id >= 0 && (mark_kind(v, id) & wanted)) return (kv_mark){at, length, id};
        }
    }
    return (kv_mark){n, 0, -1};
}
