/* shard.h - token streams in files: what training and long evaluations read (docs/corpus.md,
 * "Shards").
 *
 * A shard is 1024 bytes of header (256 little-endian int32: 20240520, version 1, token count n,
 * then unused) and n little-endian uint16 tokens, nothing else. The shards of a split are
 * DIR/SPLIT_000000.bin, DIR/SPLIT_000001.bin, ...; in the order of their names they are one stream,
 * in which every document is a BOS token and its pieces. A document may straddle shards. Nothing
 * marks the end of a document.
 *
 * A reader may be shared by threads: it is never written once it is open. */
#ifndef KV_CORPUS_SHARD_H
#define KV_CORPUS_SHARD_H

#include "common/tokenizer.h"

#include <stdint.h>

enum {
    CORPUS_SHARD_MAGIC = 20240520,
    CORPUS_SHARD_VERSION = 1,
    CORPUS_SHARD_HEADER = 1024,     /* bytes */
    CORPUS_SHARD_TOKENS = 100000000 /* a shard's tokens where nobody says otherwise */
};

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct corpus_shards corpus_shards;

KV_EXTERN_C_BEGIN

/* Maps the shards of a split: path is a folder with SPLIT_*.bin, or one file (split is not looked
 * at). vocab: ids of the model, 1 to 65536. Every header is checked here: ERR_FORMAT for a wrong
 * magic, version, count or size, ERR_IO, ERR_USAGE for a folder without such shards. Tokens are
 * checked as they are read. A file must not be cut while it is open. */
kv_status corpus_shards_open(const char *path, const char *split, int32_t vocab,
                             corpus_shards **out);
void corpus_shards_close(corpus_shards *s); /* accepts NULL */

int32_t corpus_shards_count(const corpus_shards *s);
int32_t corpus_shards_vocab(const corpus_shards *s);
const char *corpus_shards_path(const corpus_shards *s, int32_t shard);
int64_t corpus_shards_tokens(const corpus_shards *s, int32_t shard); /* of one shard */
int64_t corpus_shards_total(const corpus_shards *s);                 /* of the stream */

/* Copies tokens [at, at + n) of one shard / of the stream. ERR_USAGE beyond the end; ERR_FORMAT,
 * with shard and place, for a token that is not below vocab. */
kv_status corpus_shards_read(const corpus_shards *s, int32_t shard, int64_t at, int64_t n,
                             uint16_t *out);
kv_status corpus_shards_stream(const corpus_shards *s, int64_t at, int64_t n, uint16_t *out);

/* Reads every token once, for its check. */
kv_status corpus_shards_verify(const corpus_shards *s);

/* The document that starts at *at: appends its tokens, BOS first, and moves *at behind it. Start
 * with *at = 0; *more = 0 and nothing appended at the end of the stream. Tokens before the first
 * BOS are a document without one. */
kv_status corpus_shards_next_doc(const corpus_shards *s, int32_t bos, int64_t *at, kv_tokens *out,
                                 int *more);

/* Validation reads the first usable + 1 tokens of a split: usable = floor((total - 1) / S) * S; 0
 * when there is not one window of S + 1 tokens. */
int64_t corpus_shards_usable(int64_t total, int64_t S);

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct corpus_shard_writer corpus_shard_writer;

/* Makes dir where it is missing. ERR_USAGE when it already has shards of this split (an old one
 * behind the new ones would be read with them), when tokens_per_shard is not in [1, 2^31 - 1], or
 * when split is not of [A-Za-z0-9-]+. A shard appears whole, by a rename, or not at all. */
kv_status corpus_shard_writer_open(const char *dir, const char *split, int64_t tokens_per_shard,
                                   int32_t vocab, corpus_shard_writer **out);
/* ERR_USAGE for an id that is not in [0, vocab). */
kv_status corpus_shard_writer_add(corpus_shard_writer *w, const int32_t *ids, int64_t n);
/* Writes the last shard. *shards and *tokens (may be NULL): what was written in all. */
kv_status corpus_shard_writer_finish(corpus_shard_writer *w, int32_t *shards, int64_t *tokens);
/* Drops a shard that is not finished; accepts NULL. */
void corpus_shard_writer_free(corpus_shard_writer *w);

KV_EXTERN_C_END

#endif
