/* bpe_train.h - makes a SentencePiece-style BPE vocabulary from texts (docs/tokenizer.md,
 * "Training").
 *
 * The result depends on the texts as a multiset and on the arguments: not on their order, the
 * machine or time. */
#ifndef KV_CORPUS_BPE_TRAIN_H
#define KV_CORPUS_BPE_TRAIN_H

#include "common/mem.h"

#include <stdint.h>

typedef struct corpus_bpe_args {
    int32_t vocab;   /* pieces wanted, specials and bytes included */
    double coverage; /* share of the characters of the texts that get a piece, in (0, 1] */
} corpus_bpe_args;

typedef struct corpus_bpe_report {
    int64_t bytes; /* of the texts */
    int64_t words; /* different ones */
    int32_t pieces, character_pieces;
} corpus_bpe_report;

typedef struct corpus_bpe_trainer corpus_bpe_trainer;

KV_EXTERN_C_BEGIN

/* Vocabulary 1024, coverage 0.999. */
corpus_bpe_args corpus_bpe_defaults(void);

/* ERR_USAGE for an argument out of its range. */
kv_status corpus_bpe_new(const corpus_bpe_args *args, corpus_bpe_trainer **out);
void corpus_bpe_free(corpus_bpe_trainer *t); /* accepts NULL */

/* Counts the words and characters of a text, valid UTF-8. Nothing of it is kept. */
kv_status corpus_bpe_add(corpus_bpe_trainer *t, const char *text, size_t n);

/* Appends FILE.model and FILE.vocab. Fewer pieces than wanted where no pair is left that occurs
 * twice. ERR_USAGE when the characters alone are more than wanted. Once. */
kv_status corpus_bpe_finish(corpus_bpe_trainer *t, kv_bytes *model, kv_bytes *vocab,
                            corpus_bpe_report *report);

KV_EXTERN_C_END

#endif
