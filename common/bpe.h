/* bpe.h - the parts of the byte-level BPE tokenizer: vocabulary, merges, pre-tokenizer.
 *
 * Private to common/: programs use common/tokenizer.h. All tables are read-only once built, so one
 * tokenizer serves any number of threads; what an encoding needs to write lives in kv_bpe_scratch.
 */
#ifndef KV_COMMON_BPE_H
#define KV_COMMON_BPE_H

#include "common/tokenizer.h"

/* Token types of GGUF. */
enum {
    KV_TOKEN_NORMAL = 1,
    KV_TOKEN_UNKNOWN,
    KV_TOKEN_CONTROL, /* matched in the text when the caller asks for it */
    KV_TOKEN_USER,    /* matched in the text always */
    KV_TOKEN_UNUSED,
    KV_TOKEN_BYTE
};

typedef enum kv_pretok { KV_PRETOK_GPT2, KV_PRETOK_SMOLLM } kv_pretok;

/* n strings one behind the other: string i = bytes[at[i] .. at[i + 1]). */
typedef struct kv_strings {
    char *bytes;
    uint64_t *at;
} kv_strings;

/* Tokens as the model file writes them, and the bytes they stand for. */
typedef struct kv_vocab {
    int32_t n;
    kv_strings text;  /* in the printable alphabet of GPT-2 */
    kv_strings piece; /* decoded */
    uint8_t *type;    /* KV_TOKEN_* */
    int32_t *slots;   /* hash index over text: id, -1 = free */
    uint64_t mask;    /* slots - 1 */
} kv_vocab;

typedef struct kv_merge {
    uint64_t pair; /* left id << 32 | right id */
    int32_t rank;  /* place in the file; lower merges first; -1 = free slot */
    int32_t id;    /* of the merged token */
} kv_merge;

typedef struct kv_bpe {
    kv_vocab vocab;
    kv_merge *merges; /* hash table over pairs */
    uint64_t mask;    /* slots - 1 */
    int32_t n_merges;
    int32_t byte_id[256]; /* -1: the vocabulary lacks this byte */
    kv_pretok pretok;
    uint8_t first[256]; /* bit 0: some control token starts with this byte; bit 1: user token */
    uint32_t *lengths;  /* lengths of these tokens, longest first */
    uint32_t n_lengths;
} kv_bpe;

/* Working memory of one encoding; zero-initialise. */
typedef struct kv_bpe_scratch {
    struct kv_symbol *symbols;
    uint64_t *heap;
    size_t cap; /* symbols */
} kv_bpe_scratch;

KV_EXTERN_C_BEGIN

/* Code point that stands for a byte in GPT-2's alphabet, and back (-1: stands for none). */
uint32_t kv_bpe_byte_char(uint8_t b);
int kv_bpe_char_byte(uint32_t cp);

/* Fills b from the model file; b is zeroed, to be released by kv_bpe_free even after a failure. */
kv_status kv_bpe_read(const kv_gguf *g, kv_bpe *b);
void kv_bpe_free(kv_bpe *b);
void kv_vocab_free(kv_vocab *v);

/* Id of a token by its text; -1: none. */
int32_t kv_vocab_find(const kv_vocab *v, const char *p, size_t n);

/* The slot of a pair's merge; rank < 0: it has none, and would go there. */
kv_merge *kv_bpe_merge_slot(const kv_bpe *b, int32_t left, int32_t right);

/* Length of the first pre-token of p[0..n), n > 0. The end of p counts as the end of the text. */
size_t kv_pretok_next(kv_pretok kind, const char *p, size_t n);

/* Appends the tokens of one pre-token. */
kv_status kv_bpe_word(const kv_bpe *b, const char *p, size_t n, kv_bpe_scratch *s, kv_tokens *out,
                      uint64_t *dropped);
void kv_bpe_scratch_free(kv_bpe_scratch *s);

KV_EXTERN_C_END

#endif
