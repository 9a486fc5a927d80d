/* loader_batch.h - builds one batch after the other, in the caller's thread. Private to the loader.
 */
#ifndef KV_CORPUS_LOADER_BATCH_H
#define KV_CORPUS_LOADER_BATCH_H

#include "corpus/loader.h"
#include "corpus/loader_plan.h"

typedef struct corpus_batch_maker corpus_batch_maker;

typedef struct corpus_batch_cost {
    int64_t reads, tokens_read;
} corpus_batch_cost;

KV_EXTERN_C_BEGIN

/* Batch 0 comes first. ERR_USAGE when no shard holds a window. */
kv_status corpus_batch_maker_new(const corpus_loader_args *args, corpus_batch_maker **out);
void corpus_batch_maker_free(corpus_batch_maker *m); /* accepts NULL */

/* Goes to another place: number of the next batch, one cursor for each shard. */
void corpus_batch_maker_set(corpus_batch_maker *m, int64_t batch, const corpus_cursor *cursors);

/* tokens: windows * (S + 1); after: the cursors behind this batch. */
kv_status corpus_batch_make(corpus_batch_maker *m, uint16_t *tokens, corpus_cursor *after,
                            corpus_batch_cost *cost);

KV_EXTERN_C_END

#endif
