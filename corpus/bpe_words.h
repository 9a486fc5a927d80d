/* bpe_words.h - the words of a text and how often each occurs. Private to the trainer. */
#ifndef KV_CORPUS_BPE_WORDS_H
#define KV_CORPUS_BPE_WORDS_H

#include "common/mem.h"

#include <stdint.h>

/* A string that occurs `count` times: bytes[at .. at + n). */
typedef struct corpus_word {
    uint64_t at;
    uint32_t n;
    int64_t count;
} corpus_word;

/* Different strings in the order of their first occurrence, with an index. Zero-initialise. */
typedef struct corpus_words {
    kv_bytes bytes;
    corpus_word *v;
    int64_t n, cap;
    int64_t *slots; /* -1 = free */
    uint64_t mask;
} corpus_words;

KV_EXTERN_C_BEGIN

/* Adds to the count of a string. */
kv_status corpus_words_add(corpus_words *w, const char *p, size_t n, int64_t count);
/* Its place in v; -1: it is not there. */
int64_t corpus_words_find(const corpus_words *w, const char *p, size_t n);
void corpus_words_free(corpus_words *w);

/* Counts the words and the characters of a text. A word is a run of letters, or of characters that
 * are neither letters, digits nor white space, at most 128 of them, with the space before it; a
 * space that no word follows, a digit and other white space count as characters only; control
 * characters count not at all. Spaces are written as U+2581. */
kv_status corpus_words_count(corpus_words *words, corpus_words *chars, const char *text, size_t n);

KV_EXTERN_C_END

#endif
