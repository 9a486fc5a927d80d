/* vocab.h - what tokenizers with a vocabulary share: the list of tokens, the tokens that are
 * matched in the text itself, and merging.
 *
 * Private to common/. Tables are read-only once built, so one tokenizer serves any number of
 * threads; what an encoding needs to write lives in kv_bpe_scratch. */
#ifndef KV_COMMON_VOCAB_H
#define KV_COMMON_VOCAB_H

#include "common/tokenizer.h"

/* Token types: the numbers of GGUF and of SentencePiece. */
enum {
    KV_TOKEN_NORMAL = 1,
    KV_TOKEN_UNKNOWN,
    KV_TOKEN_CONTROL, /* matched in the text when the caller asks for it */
    KV_TOKEN_USER,    /* matched in the text always */
    KV_TOKEN_UNUSED,
    KV_TOKEN_BYTE
};

enum { KV_VOCAB_MAX = INT32_MAX / 4 };

/* n strings one behind the other: string i = bytes[at[i] .. at[i + 1]). */
typedef struct kv_strings {
    char *bytes;
    uint64_t *at;
} kv_strings;

/* Tokens as they are looked up, and the bytes they stand for. */
typedef struct kv_vocab {
    int32_t n, cap;
    kv_strings text;  /* by which a token is found */
    kv_strings piece; /* decoded */
    uint8_t *type;    /* KV_TOKEN_* */
    int32_t *slots;   /* hash index over text: id, -1 = free */
    uint64_t mask;    /* slots - 1 */
} kv_vocab;

/* Writes the bytes that a token stands for, at most n of them, and returns how many. */
typedef size_t kv_vocab_decode(uint8_t type, const char *text, size_t n, char *out);

/* Tokens that are matched in the text: a filter for the places where one can start. */
enum { KV_MARK_CONTROL = 1, KV_MARK_USER = 2 };
typedef struct kv_marks {
    uint8_t first[256]; /* KV_MARK_* of the tokens that start with this byte */
    uint32_t *lengths;  /* lengths of these tokens, longest first */
    uint32_t n_lengths;
} kv_marks;

typedef struct kv_mark {
    size_t at, n; /* where a mark stands; at = end of the text: none */
    int32_t id;
} kv_mark;

typedef struct kv_merge {
    uint64_t pair; /* left id << 32 | right id */
    int32_t rank;  /* lower merges first; -1 = free slot */
    int32_t id;    /* of the merged token */
} kv_merge;

typedef struct kv_merges {
    kv_merge *slots; /* hash table over pairs */
    uint64_t mask;   /* slots - 1 */
} kv_merges;

/* A token or character of the text that is being merged. */
typedef struct kv_symbol {
    int32_t id;         /* -1 = swallowed by its left neighbour */
    int32_t prev, next; /* -1 = none */
} kv_symbol;

/* Working memory of one encoding; zero-initialise. */
typedef struct kv_bpe_scratch {
    kv_symbol *symbols;
    uint64_t *heap;
    size_t cap; /* symbols */
} kv_bpe_scratch;

KV_EXTERN_C_BEGIN

/* ---- vocab.c --------------------------------------------------------------------------------- */

/* Room for n tokens of `bytes` bytes of text together. v is zeroed, to be released by kv_vocab_free
 * even after a failure. where names the file in messages. ERR_FORMAT for none or too many. */
kv_status kv_vocab_reserve(kv_vocab *v, uint64_t n, uint64_t bytes, const char *where);

/* Appends a token. ERR_FORMAT: an empty one, a text that is there already. */
kv_status kv_vocab_add(kv_vocab *v, const char *text, size_t n, uint8_t type,
                       kv_vocab_decode *decode, const char *where);
void kv_vocab_free(kv_vocab *v);

/* Id of a token by its text; -1: none. */
int32_t kv_vocab_find(const kv_vocab *v, const char *p, size_t n);
kv_span kv_vocab_text(const kv_vocab *v, int32_t id);

kv_status kv_marks_build(const kv_vocab *v, kv_marks *m);
void kv_marks_free(kv_marks *m);

/* The first mark of the wanted kinds at or after `at`, the longest if several start there. */
kv_mark kv_marks_next(const kv_marks *m, const kv_vocab *v, const char *text, size_t n, size_t at,
                      uint8_t wanted);

/* Slots of a hash table for n entries: a power of two, at most half full. */
uint64_t kv_slots_for(uint64_t n);

/* ---- bpe.c ----------------------------------------------------------------------------------- */

/* An empty table for n merges. */
kv_status kv_merges_reserve(kv_merges *m, uint64_t n);
void kv_merges_free(kv_merges *m);

/* The slot of a pair's merge; rank < 0: it has none, and would go there. */
kv_merge *kv_merges_slot(const kv_merges *m, int32_t left, int32_t right);

/* Room for a text of n symbols; ERR_UNSUPPORTED for more than 2^31 - 1. */
kv_status kv_bpe_reserve(kv_bpe_scratch *s, size_t n);
void kv_bpe_scratch_free(kv_bpe_scratch *s);

/* Links symbols[0..count), whose ids are set, and merges until no pair has a merge: the one of
 * lowest rank first, the leftmost among equals. symbols[0] stays the head of the list. */
void kv_bpe_merge(const kv_merges *m, kv_bpe_scratch *s, int32_t count);

KV_EXTERN_C_END

#endif
