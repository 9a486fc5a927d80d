/* internal.h - what the files of corpus/ share; programs use corpus/corpus.h.
 *
 *   corpus.c    opens a spelling, hands out texts and tokens
 *   spelling.c  "kind:key=value,..." to numbers
 *   files.c     FILE and DIR        manifest.c  manifest.json of a DIR
 *   book.c      the text that is part of the program
 *   synth.c     prose of any length, made from the book
 *   passkey.c   retrieval documents
 *   recall.c    texts to learn retrieval from
 *   cache.c     token streams kept between runs */
#ifndef KV_CORPUS_INTERNAL_H
#define KV_CORPUS_INTERNAL_H

#include "corpus/corpus.h"

enum { CORPUS_TEXT_MAX = 1 << 30 }; /* bytes of one document */

/* A text in memory; owned = what to free, NULL for text that is part of the program. */
typedef struct corpus_bytes {
    const char *p;
    size_t n;
    char *owned;
} corpus_bytes;

/* Which passkey document this is. */
typedef struct corpus_trial {
    int64_t len;       /* tokens */
    int32_t depth_ppm; /* parts per million of the filler */
    int64_t seed;
} corpus_trial;

typedef struct corpus_item {
    corpus_doc doc; /* name and title point to the two below */
    char *name, *title;
    char *path;        /* files */
    corpus_bytes text; /* once corpus_text was asked for it */
    corpus_trial trial;
} corpus_item;

/* Fetches the text of a document whose corpus_item does not hold it. */
typedef kv_status corpus_load(const corpus_item *item, corpus_bytes *out);

struct corpus {
    corpus_info info;
    char *name; /* info.name */
    corpus_item *items;
    int32_t cap;
    corpus_load *load; /* NULL: documents are made of tokens */
};

/* ---- corpus.c -------------------------------------------------------------------------------- */

/* Appends a document; name is made safe and unique, title NULL = the name. The rest of the item is
 * zero. The item is valid until the next call. */
kv_status corpus_add(corpus *c, const char *name, const char *title, corpus_item **out);
kv_status corpus_set_name(corpus *c, const char *name);

/* Replaces in place what a key cannot carry by '_'. */
void corpus_make_safe(char *name);

/* ERR_USAGE when a name would break the one line of a message. */
kv_status corpus_check_line(const char *name);

/* Fills n_bytes, n_words and text_sha of an item. ERR_FORMAT: empty, or invalid UTF-8. */
kv_status corpus_describe(corpus_item *item, const char *where, const char *text, size_t n);

/* manifest_sha of a generator: its spelling, a version and the SHA-256 of what it draws on. */
void corpus_sign_generator(corpus *c, const char *wording);

/* ---- spelling.c ------------------------------------------------------------------------------ */

enum { CORPUS_LIST_MAX = 64 };

typedef struct corpus_param {
    const char *name;
    const char *about; /* for messages */
    int is_list;       /* values separated by '/' */
    int decimals;      /* digits allowed behind the point; values count units of 10^-decimals */
    int64_t min, max;  /* in these units */
    int64_t def;       /* -1 = must be given */
} corpus_param;

typedef struct corpus_values {
    int32_t n;
    int64_t v[CORPUS_LIST_MAX];
} corpus_values;

/* Parses text = "key=value,..." (NULL = nothing given) into out[n], one for each of params[n].
 * Whole numbers may end in k, M or G, powers of 1024. ERR_USAGE. spec is for messages. */
kv_status corpus_parse(const char *spec, const char *text, const corpus_param *params, int n,
                       corpus_values *out);

/* ---- files.c, manifest.c --------------------------------------------------------------------- */

kv_status corpus_open_path(corpus *c, const char *path);

/* A regular file of at most max bytes, whole; out is freed with free(out->owned). ERR_IO. */
kv_status corpus_read_file(const char *path, size_t max, corpus_bytes *out);

/* Names in a folder. Zero-initialise; free even after a failure. */
typedef struct corpus_names {
    char **v;
    size_t n, cap;
} corpus_names;
typedef int corpus_wanted(const char *name, const void *arg);

/* The wanted names in byte order. ERR_IO. */
kv_status corpus_names_list(const char *path, corpus_wanted *wanted, const void *arg,
                            corpus_names *l);
void corpus_names_free(corpus_names *l);

typedef struct corpus_entry {
    char *file, *title;   /* title may be NULL */
    int64_t bytes, words; /* -1 = not given */
    uint8_t sha[32];
    int has_sha;
} corpus_entry;

/* manifest.json, entries sorted by file name. */
typedef struct corpus_manifest {
    corpus_entry *v;
    size_t n;
} corpus_manifest;

/* Parses untrusted bytes; out is zeroed by the caller and freed even after a failure. ERR_FORMAT.
 */
kv_status corpus_manifest_parse(const char *bytes, size_t n, const char *where,
                                corpus_manifest *out);
void corpus_manifest_free(corpus_manifest *m);
const corpus_entry *corpus_manifest_find(const corpus_manifest *m, const char *file);

/* ERR_MISMATCH when the text is not the one that the manifest lists. */
kv_status corpus_entry_check(const corpus_entry *e, const corpus_doc *doc, const char *where);

/* ---- book.c, synth.c, passkey.c -------------------------------------------------------------- */

const char *corpus_book_text(size_t *n);
const uint8_t *corpus_book_sha(uint8_t out[32]); /* returns out */

kv_status corpus_open_book(corpus *c, const char *spec, const char *params);
kv_status corpus_open_synth(corpus *c, const char *spec, const char *params);
kv_status corpus_open_passkey(corpus *c, const char *spec, const char *params);

/* Writes exactly n bytes of generated prose: valid UTF-8, and the beginning of what the same seed
 * gives for a larger n, but for up to three line feeds in place of a character that n cuts. */
kv_status corpus_prose(uint64_t seed, size_t n, char *out);

/* Like corpus_prose, but starts with the book itself from a paragraph that the seed picks. */
kv_status corpus_filler(uint64_t seed, size_t n, char *out);

/* The texts of a passkey document of five digits, but for its filler. */
typedef struct corpus_words {
    const char *opening;
    char key[512];
    char question[256]; /* the answer included */
} corpus_words;
void corpus_passkey_words(const char *digits, corpus_words *out);

kv_status corpus_passkey_tokens(const corpus_item *item, const kv_tokenizer *tok,
                                corpus_stream *out);

/* ---- cache.c --------------------------------------------------------------------------------- */

/* What a token stream depends on. */
void corpus_cache_key(const corpus_doc *doc, const kv_tokenizer *tok, uint8_t key[32]);

/* *hit = 1 and the tokens appended when dir holds an intact file for the key, with at most
 * max_tokens tokens. Anything else in its place is no error. */
kv_status corpus_cache_read(const char *dir, const uint8_t key[32], int64_t max_tokens,
                            kv_tokens *tokens, uint64_t *dropped, int *hit);

/* Makes dir where it is missing. The file appears whole or not at all. ERR_IO. */
kv_status corpus_cache_write(const char *dir, const uint8_t key[32], const kv_tokens *tokens,
                             uint64_t dropped);

/* SHA-256 over ids as little-endian u32. */
void corpus_token_sha(const int32_t *ids, int64_t n, uint8_t out[32]);

#endif
