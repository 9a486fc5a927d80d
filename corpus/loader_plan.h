/* loader_plan.h - the arithmetic of the loader, free of files and threads: cursors, how many shards
 * a batch mixes, which ones, and which windows are read together (docs/corpus.md, "Loader"). */
#ifndef KV_CORPUS_LOADER_PLAN_H
#define KV_CORPUS_LOADER_PLAN_H

#include "common/hd.h"

#include <stdint.h>

/* Random numbers of one batch: Philox words 0, 1, ... of stream `batch` under the seed. */
typedef struct corpus_dice {
    uint64_t seed, batch, i;
} corpus_dice;

/* Where a shard is in its pass: block j of `blocks` is (start + j * stride) mod blocks, its window
 * starts at token phase + block * S. blocks 0: no pass has begun. */
typedef struct corpus_cursor {
    int64_t phase, blocks, start, stride;
    int64_t next; /* draws of this pass */
} corpus_cursor;

/* A window of S + 1 tokens. */
typedef struct corpus_window {
    int32_t shard;
    int32_t place; /* in the batch */
    int64_t at;    /* first token, in the shard */
} corpus_window;

KV_EXTERN_C_BEGIN

/* Uniform in [0, n); takes no random number for n = 1. Uniform in [0, 1): takes two. */
uint32_t corpus_dice_below(corpus_dice *d, uint32_t n);
double corpus_dice_unit(corpus_dice *d);

/* n = tokens of the shard, n > S. Largest phase; blocks of a pass with phase 0, the least there are
 * for a shard that can be used at all (0 = it cannot). */
int64_t corpus_cursor_max_phase(int64_t n, int64_t S);
int64_t corpus_cursor_base_blocks(int64_t n, int64_t S);

/* First token of the next window; begins a new pass where the last one is over. */
int64_t corpus_cursor_draw(corpus_cursor *c, int64_t n, int64_t S, corpus_dice *d);

/* Windows left in the pass; those of a new one where none is left. */
int64_t corpus_cursor_remaining(const corpus_cursor *c, int64_t n, int64_t S);

/* Whether the numbers can be a cursor of such a shard. */
int corpus_cursor_is_sound(const corpus_cursor *c, int64_t n, int64_t S);

/* How many shards a batch mixes. p in [0, 1]: how far the ramp is. */
int32_t corpus_mix_width(double p, int32_t world, int32_t eligible, int32_t windows);

/* Weight of a shard in the draw: remaining^(0.9 - 0.4 p), in double. */
double corpus_shard_weight(int64_t remaining, double p);

/* Windows [from, end) of a list sorted by shard and place in it are read together: end. They are of
 * one shard, and each begins at most floor(S / 2), at least 1, tokens behind what is read so far.
 * *lo, *hi = tokens of the shard to read. */
int32_t corpus_run_end(const corpus_window *w, int32_t n, int32_t from, int64_t S, int64_t *lo,
                       int64_t *hi);

KV_EXTERN_C_END

#endif
