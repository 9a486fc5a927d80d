/* loader_batch.c - what is in a batch and in which order: shards are drawn by weight, each gives a
 * bucket of windows, and the buckets are dealt out in rounds. The order of the random draws is part
 * of the contract (docs/corpus.md). */
#include "corpus/loader_batch.h"

#include <stdlib.h>
#include <string.h>

/* One drawn shard of a batch. */
typedef struct bucket {
    int32_t shard;
    double weight;
    int32_t count; /* windows */
    int32_t first; /* of its windows in `drawn`; the last is dealt first */
} bucket;

struct corpus_batch_maker {
    corpus_loader_args args;
    int32_t n_shards;
    int64_t batch; /* number of the next one */
    corpus_cursor *cursors;
    bucket *candidates, *buckets; /* n_shards each */
    int32_t *active;              /* n_shards */
    corpus_window *drawn, *dealt; /* windows of the batch each */
    uint16_t *room;               /* a run of windows */
    size_t room_n;
};

/* ---- making ---------------------------------------------------------------------------------- */

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: training batches");
}

static int64_t tokens_of(const corpus_batch_maker *m, int32_t shard)
{
    return corpus_shards_tokens(m->args.shards, shard);
}

static kv_status reserve(corpus_batch_maker *m)
{
    const size_t shards = (size_t)m->n_shards, windows = (size_t)m->args.windows;
    m->cursors = calloc(shards, sizeof *m->cursors);
    m->candidates = malloc(shards * sizeof *m->candidates);
    m->buckets = malloc(shards * sizeof *m->buckets);
    m->active = malloc(shards * sizeof *m->active);
    m->drawn = malloc(windows * sizeof *m->drawn);
    m->dealt = malloc(windows * sizeof *m->dealt);
    return m->cursors && m->candidates && m->buckets && m->active && m->drawn && m->dealt
               ? KV_OK
               : no_memory();
}

static kv_status check_shards(const corpus_batch_maker *m)
{
    for (int32_t i = 0; i < m->n_shards; i++)
        if (corpus_cursor_base_blocks(tokens_of(m, i), m->args.seq) > 0) return KV_OK;
    return kv_fail(KV_ERR_USAGE,
                   "loader: none of %d shards holds a window of %d tokens; use shorter sequences",
                   m->n_shards, m->args.seq + 1);
}

kv_status corpus_batch_maker_new(const corpus_loader_args *args, corpus_batch_maker **out)
{
    corpus_batch_maker *m = calloc(1, sizeof *m);
    if (!m) return no_memory();
    m->args = *args;
    m->n_shards = corpus_shards_count(args->shards);
    kv_status st = check_shards(m);
    if (st == KV_OK) st = reserve(m);
    if (st == KV_OK)
        *out = m;
    else
        corpus_batch_maker_free(m);
    return st;
}

void corpus_batch_maker_free(corpus_batch_maker *m)
{
    if (!m) return;
    free(m->cursors);
    free(m->candidates);
    free(m->buckets);
    free(m->active);
    free(m->drawn);
    free(m->dealt);
    free(m->room);
    free(m);
}

void corpus_batch_maker_set(corpus_batch_maker *m, int64_t batch, const corpus_cursor *cursors)
{
    m->batch = batch;
    memcpy(m->cursors, cursors, (size_t)m->n_shards * sizeof *cursors);
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* Index of a bucket drawn by weight: the sum runs in the order of the list; no draw among one. */
static int32_t draw_bucket(const bucket *v, int32_t n, corpus_dice *d)
{
    double total = 0, sum = 0;
    if (n == 1) return 0;
    for (int32_t i = 0; i < n; i++)
        total += v[i].weight;
    const double at = corpus_dice_unit(d) * total;
    for (int32_t i = 0; i < n - 1; i++) {
        sum += v[i].weight;
        if (at < sum) return i;
    }
    return n - 1;
}

static int32_t list_candidates(corpus_batch_maker *m, double p)
{
    int32_t n = 0;
    for (int32_t i = 0; i < m->n_shards; i++) {
        const int64_t tokens = tokens_of(m, i), S = m->args.seq;
        if (corpus_cursor_base_blocks(tokens, S) == 0) continue;
        const int64_t remaining = corpus_cursor_remaining(&m->cursors[i], tokens, S);
        m->candidates[n++] = (bucket){i, corpus_shard_weight(remaining, p), 0, 0};
    }
    return n;
}

/* Which shards, without replacement, and how many windows of each; returns the number of shards. */
static int32_t draw_shards(corpus_batch_maker *m, corpus_dice *d)
{
    const double ramp = (double)m->batch / (double)m->args.ramp, p = ramp < 1 ? ramp : 1;
    int32_t left = list_candidates(m, p);
    const int32_t mix = corpus_mix_width(p, m->args.world, left, m->args.windows);
    for (int32_t i = 0; i < mix; i++) {
        const int32_t k = draw_bucket(m->candidates, left, d);
        m->buckets[i] = m->candidates[k];
        m->buckets[i].count = 1;
        left--;
        memmove(m->candidates + k, m->candidates + k + 1,
                (size_t)(left - k) * sizeof *m->candidates);
    }
    for (int32_t i = mix; i < m->args.windows; i++)
        m->buckets[draw_bucket(m->buckets, mix, d)].count++;
    return mix;
}

/* Fisher-Yates from the end, for arrays of any type. */
#define PERMUTE(v, n, dice)                                                \
    do {                                                                   \
        for (int32_t i_ = (n)-1; i_ > 0; i_--) {                           \
            const uint32_t k_ = corpus_dice_below(dice, (uint32_t)i_ + 1); \
            const __typeof__(*(v)) t_ = (v)[i_];                           \
            (v)[i_] = (v)[k_];                                             \
            (v)[k_] = t_;                                                  \
        }                                                                  \
    } while (0)

static void draw_windows(corpus_batch_maker *m, int32_t mix, corpus_dice *d)
{
    int32_t n = 0;
    PERMUTE(m->buckets, mix, d);
    for (int32_t b = 0; b < mix; b++) {
        bucket *k = &m->buckets[b];
        k->first = n;
        for (int32_t i = 0; i < k->count; i++)
            m->drawn[n++] = (corpus_window){
                k->shard, 0,
                corpus_cursor_draw(&m->cursors[k->shard], tokens_of(m, k->shard), m->args.seq, d)};
        PERMUTE(m->drawn + k->first, k->count, d);
    }
}

/* Rounds: one window of every bucket that has some, in a new order each time. */
static void deal(corpus_batch_maker *m, int32_t mix, corpus_dice *d)
{
    int32_t place = 0;
    for (int32_t b = 0; b < mix; b++)
        m->active[b] = b;
    for (int32_t n = mix; n > 0;) {
        int32_t still = 0;
        PERMUTE(m->active, n, d);
        for (int32_t i = 0; i < n; i++) {
            bucket *k = &m->buckets[m->active[i]];
            m->dealt[place] = m->drawn[k->first + --k->count];
            m->dealt[place].place = place;
            place++;
            if (k->count > 0) m->active[still++] = m->active[i];
        }
        n = still;
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

static int by_place_in_shard(const void *a, const void *b)
{
    const corpus_window *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

static kv_status reserve_room(corpus_batch_maker *m, size_t n)
{
    if (n <= m->room_n) return KV_OK;
    free(m->room);
    m->room = malloc(n * sizeof *m->room);
    m->room_n = m->room ? n : 0;
    return m->room ? KV_OK : no_memory();
}

/* Windows that lie near each other are read in one go. */
static kv_status read_windows(corpus_batch_maker *m, uint16_t *tokens, corpus_batch_cost *cost)
{
    const int32_t n = m->args.windows;
    const size_t size = (size_t)m->args.seq + 1;
    qsort(m->dealt, (size_t)n, sizeof *m->dealt, by_place_in_shard);
    *cost = (corpus_batch_cost){0};
    for (int32_t i = 0, end; i < n; i = end) {
        int64_t lo, hi;
        end = corpus_run_end(m->dealt, n, i, m->args.seq, &lo, &hi);
        KV_TRY(reserve_room(m, (size_t)(hi - lo)));
        KV_TRY(corpus_shards_read(m->args.shards, m->dealt[i].shard, lo, hi - lo, m->room));
        for (int32_t k = i; k < end; k++)
            memcpy(tokens + (size_t)m->dealt[k].place * size, m->room + (m->dealt[k].at - lo),
                   size * sizeof *tokens);
        cost->reads++;
        cost->tokens_read += hi - lo;
    }
    return KV_OK;
}

kv_status corpus_batch_make(corpus_batch_maker *m, uint16_t *tokens, corpus_cursor *after,
                            corpus_batch_cost *cost)
{
    corpus_dice d = {m->args.seed, (uint64_t)m->batch, 0};
    const int32_t mix = draw_shards(m, &d);
    draw_windows(m, mix, &d);
    deal(m, mix, &d);
    KV_TRY(read_windows(m, tokens, cost));
    m->batch++;
    memcpy(after, m->cursors, (size_t)m->n_shards * sizeof *after);
    return KV_OK;
}
