#include "corpus/bpe_words.h"

#include "common/hash.h"
#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { WORD_MAX = 128 /* characters */ };
#define SPACE "\xe2\x96\x81" /* U+2581 */

/* ---- counted strings ------------------------------------------------------------------------- */

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: words of the texts");
}

static int64_t *slot_of(const corpus_words *w, const char *p, size_t n)
{
    for (uint64_t i = kv_xxh64(p, n, 0);; i++) {
        int64_t *slot = &w->slots[i & w->mask];
        if (*slot < 0) return slot;
        const corpus_word *have = &w->v[*slot];
        if (have->n == n && memcmp(w->bytes.p + have->at, p, n) == 0) return slot;
    }
}

/* Room for one more string; the table is at most half full. */
static kv_status reserve(corpus_words *w)
{
    if (w->n < w->cap) return KV_OK;
    const int64_t cap = w->cap ? 2 * w->cap : 1024;
    corpus_word *v = realloc(w->v, (size_t)cap * sizeof *v);
    if (!v) return no_memory();
    w->v = v;
    int64_t *slots = malloc(2 * (size_t)cap * sizeof *slots);
    if (!slots) return no_memory();
    memset(slots, 0xff, 2 * (size_t)cap * sizeof *slots);
    free(w->slots);
    w->slots = slots;
    w->mask = 2 * (uint64_t)cap - 1;
    w->cap = cap;
    for (int64_t i = 0; i < w->n; i++)
        *slot_of(w, w->bytes.p + v[i].at, v[i].n) = i;
    return KV_OK;
}

kv_status corpus_words_add(corpus_words *w, const char *p, size_t n, int64_t count)
{
    KV_TRY(reserve(w));
    int64_t *slot = slot_of(w, p, n);
    if (*slot < 0) {
        const uint64_t at = w->bytes.n;
        KV_TRY(kv_bytes_add(&w->bytes, p, n));
        w->v[w->n] = (corpus_word){at, (uint32_t)n, 0};
        *slot = w->n++;
    }
    w->v[*slot].count += count;
    return KV_OK;
}

int64_t corpus_words_find(const corpus_words *w, const char *p, size_t n)
{
    return w->n > 0 ? *slot_of(w, p, n) : -1;
}

void corpus_words_free(corpus_words *w)
{
    free(w->bytes.p);
    free(w->v);
    free(w->slots);
    *w = (corpus_words){0};
}

/* ---- cutting --------------------------------------------------------------------------------- */

typedef enum kind { LETTER, SYMBOL, SPACE_CHAR, ALONE, CONTROL } kind;

static kind kind_of(uint32_t cp)
{
    if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) return CONTROL;
    if (cp == ' ' || cp == 0x2581) return SPACE_CHAR;
    const kv_char_class c = kv_char_class_of(cp);
    return c == KV_CHAR_LETTER ? LETTER : c == KV_CHAR_OTHER ? SYMBOL : ALONE;
}

typedef struct cutter {
    corpus_words *words, *chars;
    char word[4 * WORD_MAX + 8];
    size_t n;   /* bytes of the word so far */
    int length; /* its characters without the space */
    kind kind;  /* of them */
} cutter;

static kv_status end_word(cutter *c)
{
    kv_status st = KV_OK;
    if (c->length > 0) st = corpus_words_add(c->words, c->word, c->n, 1);
    c->n = 0;
    c->length = 0;
    return st;
}

static kv_status take(cutter *c, const char *p, size_t n, kind k)
{
    if (k == CONTROL) return end_word(c);
    if (k == SPACE_CHAR) {
        KV_TRY(end_word(c));
        memcpy(c->word, SPACE, 3);
        c->n = 3;
        return corpus_words_add(c->chars, SPACE, 3, 1);
    }
    KV_TRY(corpus_words_add(c->chars, p, n, 1));
    if (k == ALONE) return end_word(c);
    if (c->length > 0 && (c->kind != k || c->length == WORD_MAX)) KV_TRY(end_word(c));
    memcpy(c->word + c->n, p, n);
    c->n += n;
    c->length++;
    c->kind = k;
    return KV_OK;
}

kv_status corpus_words_count(corpus_words *words, corpus_words *chars, const char *text, size_t n)
{
    cutter c = {.words = words, .chars = chars};
    uint32_t cp;
    for (size_t at = 0, step; at < n; at += step) {
        step = kv_utf8_next(text + at, n - at, &cp);
        if (step == 0)
            return kv_fail(KV_ERR_FORMAT, "a text is not UTF-8 at byte %zu; convert it", at);
        KV_TRY(take(&c, text + at, step, kind_of(cp)));
    }
    return end_word(&c);
}
