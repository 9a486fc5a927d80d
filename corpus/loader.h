/* loader.h - batches of training windows from shards (docs/corpus.md, "Loader").
 *
 * A window is S + 1 consecutive tokens of one shard: inputs w[0 .. S), targets w[1 .. S + 1). A
 * batch is g windows. Every shard has a cursor that visits the blocks of S tokens of one random
 * phase in a coprime stride, each once, and then starts again with a new phase. A batch mixes
 * windows of several shards: how many grows with the number of batches built, which ones is drawn
 * by what their cursors have left.
 *
 * The batches are a function of the arguments and of the token counts of the shards, never of
 * paths, time, threads or the length of the queue. Random numbers are Philox words of stream
 * `batch` under the seed. */
#ifndef KV_CORPUS_LOADER_H
#define KV_CORPUS_LOADER_H

#include "corpus/shard.h"

typedef struct corpus_loader_args {
    const corpus_shards *shards; /* outlives the loader */
    int32_t seq;                 /* S >= 1 */
    int32_t windows;             /* g >= 1 windows of a batch */
    uint64_t seed;
    int32_t world; /* >= 1: widens the mix as for so many processes; rank r of them takes windows
                    * r, r + world, ... of every batch itself */
    int64_t ramp;  /* batches until the mix is widest; 1800 in the family's recipe */
    int32_t queue; /* batches that a thread builds ahead; 0 = no thread, next builds */
} corpus_loader_args;

/* What was handed out since opening (or restoring); for progress and throughput. */
typedef struct corpus_loader_stats {
    int64_t batches, windows, tokens; /* tokens = windows * (S + 1) */
    int64_t reads;                    /* contiguous ranges that the windows were read in */
    int64_t tokens_read;              /* in these ranges, gaps between windows included */
    int64_t waits; /* calls of next that found the queue empty: depends on time */
} corpus_loader_stats;

typedef struct corpus_loader corpus_loader;

KV_EXTERN_C_BEGIN

/* World 1, ramp 1800, queue 8; the rest zero. */
corpus_loader_args corpus_loader_defaults(void);

/* ERR_USAGE for an argument out of its range, or when no shard holds a window of S + 1 tokens;
 * ERR_NOMEM. */
kv_status corpus_loader_open(const corpus_loader_args *args, corpus_loader **out);
void corpus_loader_close(corpus_loader *l); /* ends the thread; accepts NULL */

/* The next batch: *windows = g * (S + 1) tokens, window i at i * (S + 1), valid until the next call
 * on this loader. ERR_FORMAT for a token that is not below the vocabulary; the same failure again
 * on every later call. One thread at a time. */
kv_status corpus_loader_next(corpus_loader *l, const uint16_t **windows);

/* The batch that the next call of next will give, if the thread has it ready: to be read beside the
 * one handed out last. NULL when not: with queue 0, before the first call of next, when the thread
 * is not so far, or when next will fail; so whether there is one depends on time. Valid as long as
 * next keeps that batch valid, or until the loader is restored or closed. Nothing moves on, and the
 * state to save is the same with and without. From the thread that calls next. */
const uint16_t *corpus_loader_peek(corpus_loader *l);

/* Number of batches that next has handed out, restored ones included: the index of the next batch.
 */
int64_t corpus_loader_batch(const corpus_loader *l);

corpus_loader_stats corpus_loader_get_stats(const corpus_loader *l);

/* The place in the stream of batches, as bytes: after restoring, next gives the batch that it would
 * have given here, and the same ones from then on. What the thread has built ahead is not part of
 * it. corpus_loader_restore takes bytes that nobody vouches for: ERR_FORMAT for damaged ones,
 * ERR_MISMATCH when they belong to other arguments or shards (queue and paths do not count); the
 * loader is as before then. */
size_t corpus_loader_state_size(const corpus_loader *l);
void corpus_loader_save(const corpus_loader *l, uint8_t *out);
kv_status corpus_loader_restore(corpus_loader *l, const uint8_t *bytes, size_t n);

/* A seed from words: FNV-1a over the bytes with offset 1469598103934665603, the family's. */
uint64_t corpus_seed_of(const char *text);

KV_EXTERN_C_END

#endif
