/* corpus.h - document streams: what text goes through both sides. docs/corpus.md says more.
 *
 * A corpus is opened from a spelling:
 *   book                          the book-like text that ships inside the program, one document
 *   synth:bytes=N,seed=S          prose made from the book by a seeded generator, exactly N bytes
 *   passkey:len=L/..,depth=A/..,seeds=K   retrieval documents: prompts of exactly L tokens, the key
 *                                 at A per cent of the filler, keys and fillers of seeds 0 to K - 1
 *   FILE                          one UTF-8 file, whole
 *   DIR                           every *.txt of a folder in byte order of the names; where
 *                                 manifest.json is present it gives titles and is checked
 *
 * Texts are UTF-8; an empty document and invalid UTF-8 are refused with the file and the offset.
 * A corpus is used by one thread at a time. */
#ifndef KV_CORPUS_CORPUS_H
#define KV_CORPUS_CORPUS_H

#include "common/tokenizer.h"

#include <stdint.h>

typedef struct corpus corpus;

typedef struct corpus_info {
    const char *name;         /* canonical spelling: part of the key of a case */
    const char *generator;    /* "files", "book", "synth", "passkey" */
    int64_t seed;             /* -1 = none */
    uint8_t manifest_sha[32]; /* over names, sizes and SHA-256 of all documents, or the canonical
                               * spelling of a generator and the base text's SHA-256 */
    int32_t n_docs;
} corpus_info;

typedef struct corpus_doc {
    const char *name;  /* unique inside the corpus, safe in a key: [A-Za-z0-9._-]+ */
    const char *title; /* from the manifest; else the name */
    int64_t n_bytes;   /* of text; 0 for passkey documents, which are made of tokens */
    int64_t n_words;   /* whitespace-separated words of the whole text; -1 for passkey */
    uint8_t text_sha[32];
} corpus_doc;

/* What a passkey document asks for. */
typedef struct corpus_passkey {
    int32_t n_digits;   /* 5 */
    char digits[8];     /* the key, zero-terminated */
    int32_t depth_ppm;  /* wanted depth: key block's place in the filler, in parts per million */
    int64_t insert_pos; /* token index of the key block's first token */
    int64_t key_end;    /* token index behind the key block */
} corpus_passkey;

/* The tokens of one document. */
typedef struct corpus_stream {
    kv_tokens tokens;
    uint64_t dropped_bytes; /* bytes of the text that have no token */
    uint8_t token_sha[32];  /* over the ids as little-endian u32 */
    int is_passkey;
    corpus_passkey passkey; /* when is_passkey */
    kv_tokens answer;       /* when is_passkey: ids of the key's digits as they follow the prompt */
} corpus_stream;

KV_EXTERN_C_BEGIN

kv_status corpus_open(const char *spec, corpus **out);
void corpus_close(corpus *c); /* accepts NULL */

const corpus_info *corpus_get_info(const corpus *c);
const corpus_doc *corpus_get_doc(const corpus *c, int32_t i);

/* The text of document i, valid until corpus_close; ERR_UNSUPPORTED for passkey. */
kv_status corpus_text(corpus *c, int32_t i, const char **text, size_t *n);

/* Tokenises document i; control tokens written out in a text are plain text. cache_dir (NULL or ""
 * = none) keeps token streams of texts between runs, each under its fingerprint (text, tokenizer,
 * format version); a damaged or foreign cache file is ignored and replaced, a folder that cannot be
 * written is ERR_IO. max_tokens > 0 cuts the stream (never a passkey document). ERR_USAGE for a
 * passkey document whose length does not hold key and question. Free with corpus_stream_free, also
 * after a failure. */
kv_status corpus_tokens(corpus *c, int32_t i, const kv_tokenizer *tok, const char *cache_dir,
                        int64_t max_tokens, corpus_stream *out);
void corpus_stream_free(corpus_stream *s);

/* Scores an answer: the first n_digits digit characters of text[0..n) against the key. Returns the
 * number of equal digits at equal index; found[n_digits + 1] receives them ('-' = missing). */
int32_t corpus_passkey_score(const corpus_passkey *k, const char *text, size_t n, char *found);

/* Text number `index` of the stream that a seed starts, to learn retrieval from (docs/corpus.md): passkey questions, lists of
 * names and numbers with questions, and lines to copy, one behind the other, in at most `bytes` bytes. filler is any prose of
 * at least 2 * bytes bytes; slices of it stand between keys and questions. *out is freed with free(). */
enum { CORPUS_RECALL_LEAST = 1024 };
kv_status corpus_recall(const char *filler, size_t n_filler, uint64_t seed, uint64_t index, size_t bytes, char **out,
                        size_t *n);

KV_EXTERN_C_END

#endif
