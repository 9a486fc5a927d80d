/* tokenizer.h - text to token ids and back.
 *
 * Kinds: `bytes` (the generated models: 0 pad, 1 bos, 2 eos, 3 unk, byte b = 4 + b); GPT-2 style
 * byte-level BPE whose vocabulary, merges and pre-tokenizer come from a GGUF file; SentencePiece's
 * BPE by scores, from a GGUF file or from a file of its own. Encoding is exact: same ids as the
 * implementations that the model was trained with. A vocabulary may lack single bytes; such bytes
 * vanish, or become the unknown token, as they do there, and are counted. docs/tokenizer.md. */
#ifndef KV_COMMON_TOKENIZER_H
#define KV_COMMON_TOKENIZER_H

#include "common/gguf.h"

typedef struct kv_tokenizer kv_tokenizer;

/* A growing list of ids. Zero-initialise; free with kv_tokens_free. */
typedef struct kv_tokens {
    int32_t *v;
    int64_t n, cap;
} kv_tokens;

KV_EXTERN_C_BEGIN

kv_status kv_tokens_reserve(kv_tokens *t, int64_t more);
kv_status kv_tokens_append(kv_tokens *t, const int32_t *ids, int64_t n);
void kv_tokens_free(kv_tokens *t);

kv_status kv_tokenizer_bytes(kv_tokenizer **out);

/* ERR_UNSUPPORTED for another tokenizer model or pre-tokenizer, ERR_FORMAT for missing merges, bad
 * token ids, merges of unknown tokens. Keeps no pointer into g. */
kv_status kv_tokenizer_from_gguf(const kv_gguf *g, kv_tokenizer **out);

/* SentencePiece's BPE: FILE.model (protobuf) or FILE.vocab (a piece, a tab and a score a line) in
 * memory. Keeps no pointer into p; where names the file in messages. ERR_FORMAT, ERR_UNSUPPORTED.
 */
kv_status kv_tokenizer_from_model(const void *p, size_t n, const char *where, kv_tokenizer **out);
kv_status kv_tokenizer_from_vocab(const char *p, size_t n, const char *where, kv_tokenizer **out);

/* A file: by its name FILE.gguf, FILE.vocab, else a SentencePiece model. */
kv_status kv_tokenizer_open(const char *path, kv_tokenizer **out);
void kv_tokenizer_free(kv_tokenizer *t); /* accepts NULL */

const char *kv_tokenizer_kind(const kv_tokenizer *t); /* "bytes", "bpe/smollm", "spm" */
int32_t kv_tokenizer_vocab(const kv_tokenizer *t);

/* SHA-256 over everything that decides ids: kind, tokens with types, merges. */
const uint8_t *kv_tokenizer_fingerprint(const kv_tokenizer *t);

/* Appends the ids of text[0..n). special != 0: control tokens written out in the text are matched
 * first. *dropped (may be NULL) is increased by the bytes that have no token. text must be valid
 * UTF-8: check it with kv_utf8_check. */
kv_status kv_tokenizer_encode(const kv_tokenizer *t, const char *text, size_t n, int special,
                              kv_tokens *out, uint64_t *dropped);

/* Bytes of one token; control tokens give their name. NULL and *n = 0 for an id out of range. */
const char *kv_tokenizer_piece(const kv_tokenizer *t, int32_t id, size_t *n);

/* What a token adds to the bytes of a text, for bits per byte (docs/tokenizer.md, "Bytes of a
 * token"). */
typedef struct kv_token_bytes {
    uint32_t base; /* bytes without the leading space; 0 for control, unknown and unused tokens */
    uint8_t lead;  /* starts with a space that stands for U+2581: it counts behind text only */
    uint8_t boundary; /* no text: control, unknown, unused, or no id of the vocabulary */
} kv_token_bytes;
kv_token_bytes kv_tokenizer_token_bytes(const kv_tokenizer *t, int32_t id);

/* Bytes of target y behind input x: base[y], and one more if y leads with a space and x is no
 * boundary. Any ids; -1 for x = the start of the text, a boundary. */
uint32_t kv_tokenizer_bytes_of(const kv_tokenizer *t, int32_t x, int32_t y);

/* ERR_FORMAT with the byte offset of the first invalid sequence (overlong, surrogate, > U+10FFFF).
 */
kv_status kv_utf8_check(const char *text, size_t n, const char *where);

KV_EXTERN_C_END

#endif
