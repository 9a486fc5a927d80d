/* bpe.h - the parts of the byte-level BPE tokenizer: vocabulary, merges, pre-tokenizer.
 *
 * Private to common/: programs use common/tokenizer.h. */
#ifndef KV_COMMON_BPE_H
#define KV_COMMON_BPE_H

#include "common/vocab.h"

typedef enum kv_pretok { KV_PRETOK_GPT2, KV_PRETOK_SMOLLM } kv_pretok;

typedef struct kv_bpe {
    kv_vocab vocab;       /* text: in the printable alphabet of GPT-2 */
    kv_merges merges;     /* rank: place in the file */
    int32_t byte_id[256]; /* -1: the vocabulary lacks this byte */
    kv_pretok pretok;
    kv_marks marks;
} kv_bpe;

KV_EXTERN_C_BEGIN

/* Code point that stands for a byte in GPT-2's alphabet, and back (-1: stands for none). */
uint32_t kv_bpe_byte_char(uint8_t b);
int kv_bpe_char_byte(uint32_t cp);

/* Fills b from the model file; b is zeroed, to be released by kv_bpe_free even after a failure. */
kv_status kv_bpe_read(const kv_gguf *g, kv_bpe *b);
void kv_bpe_free(kv_bpe *b);

/* ERR_FORMAT when an id that the file names (bos, eos, unknown, padding) is not below vocab. */
kv_status kv_gguf_check_token_ids(const kv_gguf *g, int32_t vocab);

/* The types of n tokens into out; all NORMAL where the file has none. */
kv_status kv_gguf_token_types(const kv_gguf *g, uint64_t n, uint8_t *out);

/* Length of the first pre-token of p[0..n), n > 0. The end of p counts as the end of the text. */
size_t kv_pretok_next(kv_pretok kind, const char *p, size_t n);

/* Appends the tokens of one pre-token. */
kv_status kv_bpe_word(const kv_bpe *b, const char *p, size_t n, kv_bpe_scratch *s, kv_tokens *out,
                      uint64_t *dropped);

KV_EXTERN_C_END

#endif
