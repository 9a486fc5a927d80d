/* loader.c - the loader: who builds batches, and where they wait.
 *
 * A builder owns the cursors and the number of the next batch. It fills slots of a ring; next hands
 * out the slot behind the one that the caller gives back by calling. Every slot carries the cursors
 * as they were when its batch was finished: the state that is saved is that of the last batch
 * handed out, whatever else has been built. With a thread the builder belongs to the thread while
 * it runs; without one, next builds. */
#include "corpus/loader.h"

#include "corpus/loader_batch.h"

#include "common/hash.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_MAX = 1024, WINDOWS_MAX = 1 << 20, SEQ_MAX = 1 << 24 };

typedef struct slot {
    uint16_t *tokens;     /* g * (S + 1) */
    corpus_cursor *after; /* one for each shard */
    corpus_batch_cost cost;
    kv_status st;
    char *message; /* KV_MESSAGE_MAX, when st is no KV_OK */
} slot;

struct corpus_loader {
    corpus_loader_args args;
    corpus_batch_maker *maker; /* the builder's */
    slot *slots;
    int32_t n_slots;
    corpus_cursor *at; /* behind the last batch handed out */
    int64_t batch;     /* number of the next batch to hand out */
    corpus_loader_stats stats;

    pthread_t thread;
    int running; /* the thread was started */
    pthread_mutex_t lock;
    pthread_cond_t built_one, freed_one;
    /* Under the lock while the thread runs. Slot of a batch: its count here modulo n_slots. */
    int64_t built, given; /* since the thread was started; slots [given - 1, built) are in use */
    int stop;
};

/* ---- opening --------------------------------------------------------------------------------- */

corpus_loader_args corpus_loader_defaults(void)
{
    return (corpus_loader_args){.world = 1, .ramp = 1800, .queue = 8};
}

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: training batches");
}

static kv_status check_args(const corpus_loader_args *a)
{
    const struct {
        const char *name;
        int64_t value, min, max;
    } v[] = {{"seq", a->seq, 1, SEQ_MAX},
             {"windows", a->windows, 1, WINDOWS_MAX},
             {"world", a->world, 1, INT32_MAX},
             {"ramp", a->ramp, 1, INT64_MAX},
             {"queue", a->queue, 0, QUEUE_MAX}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        if (v[i].value < v[i].min || v[i].value > v[i].max)
            return kv_fail(KV_ERR_USAGE, "loader: %s is %lld; %lld to %lld are possible", v[i].name,
                           (long long)v[i].value, (long long)v[i].min, (long long)v[i].max);
    return KV_OK;
}

static kv_status make_slots(corpus_loader *l)
{
    const size_t tokens = (size_t)l->args.windows * ((size_t)l->args.seq + 1);
    const size_t shards = (size_t)corpus_shards_count(l->args.shards);
    l->n_slots = l->args.queue + 1;
    l->slots = calloc((size_t)l->n_slots, sizeof *l->slots);
    l->at = calloc(shards, sizeof *l->at);
    if (!l->slots || !l->at) return no_memory();
    for (int32_t i = 0; i < l->n_slots; i++) {
        l->slots[i] = (slot){.tokens = malloc(tokens * sizeof(uint16_t)),
                             .after = calloc(shards, sizeof(corpus_cursor)),
                             .message = malloc(KV_MESSAGE_MAX)};
        if (!l->slots[i].tokens || !l->slots[i].after || !l->slots[i].message) return no_memory();
    }
    return KV_OK;
}

static kv_status make(corpus_loader *l)
{
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->built_one, NULL);
    pthread_cond_init(&l->freed_one, NULL);
    KV_TRY(corpus_batch_maker_new(&l->args, &l->maker));
    return make_slots(l);
}

kv_status corpus_loader_open(const corpus_loader_args *args, corpus_loader **out)
{
    KV_TRY(check_args(args));
    corpus_loader *l = calloc(1, sizeof *l);
    if (!l) return no_memory();
    l->args = *args;
    const kv_status st = make(l);
    if (st == KV_OK)
        *out = l;
    else
        corpus_loader_close(l);
    return st;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void build(corpus_loader *l, slot *s)
{
    s->st = corpus_batch_make(l->maker, s->tokens, s->after, &s->cost);
    if (s->st != KV_OK) snprintf(s->message, KV_MESSAGE_MAX, "%s", kv_message());
}

/* Builds until it is stopped, or a batch fails: that one is handed out for ever. */
static void *thread_main(void *arg)
{
    corpus_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    for (int failed = 0; !failed;) {
        while (!l->stop && l->built - l->given >= l->args.queue)
            pthread_cond_wait(&l->freed_one, &l->lock);
        if (l->stop) break;
        slot *s = &l->slots[l->built % l->n_slots];
        pthread_mutex_unlock(&l->lock);
        build(l, s);
        failed = s->st != KV_OK;
        pthread_mutex_lock(&l->lock);
        l->built++;
        pthread_cond_signal(&l->built_one);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static kv_status start(corpus_loader *l)
{
    l->built = l->given = 0;
    l->stop = 0;
    if (pthread_create(&l->thread, NULL, thread_main, l) != 0)
        return kv_fail(KV_ERR_NOMEM, "loader: no thread can be started; use queue 0");
    l->running = 1;
    return KV_OK;
}

static void stop(corpus_loader *l)
{
    if (!l->running) return;
    pthread_mutex_lock(&l->lock);
    l->stop = 1;
    pthread_cond_signal(&l->freed_one);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->running = 0;
}

void corpus_loader_close(corpus_loader *l)
{
    if (!l) return;
    stop(l);
    for (int32_t i = 0; l->slots && i < l->n_slots; i++) {
        free(l->slots[i].tokens);
        free(l->slots[i].after);
        free(l->slots[i].message);
    }
    free(l->slots);
    free(l->at);
    corpus_batch_maker_free(l->maker);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->built_one);
    pthread_cond_destroy(&l->freed_one);
    free(l);
}

/* ---- batches --------------------------------------------------------------------------------- */

/* The slot of the next batch, filled. */
static slot *wait_for_slot(corpus_loader *l)
{
    pthread_mutex_lock(&l->lock);
    if (l->built == l->given) l->stats.waits++;
    while (l->built == l->given)
        pthread_cond_wait(&l->built_one, &l->lock);
    slot *s = &l->slots[l->given % l->n_slots];
    if (s->st == KV_OK) {
        l->given++; /* and the one before is free */
        pthread_cond_signal(&l->freed_one);
    }
    pthread_mutex_unlock(&l->lock);
    return s;
}

static void count(corpus_loader *l, const corpus_batch_cost *cost)
{
    l->batch++;
    l->stats.batches++;
    l->stats.windows += l->args.windows;
    l->stats.tokens += (int64_t)l->args.windows * (l->args.seq + 1);
    l->stats.reads += cost->reads;
    l->stats.tokens_read += cost->tokens_read;
}

kv_status corpus_loader_next(corpus_loader *l, const uint16_t **windows)
{
    slot *s = l->slots;
    if (l->args.queue > 0) {
        if (!l->running) KV_TRY(start(l));
        s = wait_for_slot(l);
    } else if (s->st == KV_OK) {
        build(l, s);
    }
    if (s->st != KV_OK) return kv_fail(s->st, "%s", s->message);
    memcpy(l->at, s->after, (size_t)corpus_shards_count(l->args.shards) * sizeof *l->at);
    count(l, &s->cost);
    *windows = s->tokens;
    return KV_OK;
}

const uint16_t *corpus_loader_peek(corpus_loader *l)
{
    if (!l->running) return NULL;
    pthread_mutex_lock(&l->lock);
    const slot *s = l->built > l->given ? &l->slots[l->given % l->n_slots] : NULL;
    pthread_mutex_unlock(&l->lock);
    /* Read without the lock: the thread writes no slot from when it is built until it is given back. */
    return s && s->st == KV_OK ? s->tokens : NULL;
}

int64_t corpus_loader_batch(const corpus_loader *l)
{
    return l->batch;
}

corpus_loader_stats corpus_loader_get_stats(const corpus_loader *l)
{
    return l->stats;
}

/* ---- state ----------------------------------------------------------------------------------- */

/* "KVLOAD1\0", XXH64 of arguments and shards, number of the next batch, five numbers for each
 * shard, XXH64 of all before; little-endian 64-bit words. */
enum { CURSOR_WORDS = 5, HEAD_WORDS = 3 };
static const char magic[8] = "KVLOAD1";

static void put_word(uint8_t *p, size_t i, uint64_t v)
{
    for (int k = 0; k < 8; k++)
        p[8 * i + (size_t)k] = (uint8_t)(v >> 8 * k);
}

static uint64_t get_word(const uint8_t *p, size_t i)
{
    uint64_t v = 0;
    for (int k = 0; k < 8; k++)
        v |= (uint64_t)p[8 * i + (size_t)k] << 8 * k;
    return v;
}

/* Over all that decides the batches. */
static uint64_t identity(const corpus_loader *l)
{
    const corpus_loader_args *a = &l->args;
    const int32_t shards = corpus_shards_count(a->shards);
    const uint64_t head[] = {(uint64_t)a->seq,  (uint64_t)a->windows,
                             a->seed,           (uint64_t)a->world,
                             (uint64_t)a->ramp, (uint64_t)corpus_shards_vocab(a->shards),
                             (uint64_t)shards};
    uint8_t le[8];
    uint64_t h = 0;
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) {
        put_word(le, 0, head[i]);
        h = kv_xxh64(le, sizeof le, h);
    }
    for (int32_t i = 0; i < shards; i++) {
        put_word(le, 0, (uint64_t)corpus_shards_tokens(a->shards, i));
        h = kv_xxh64(le, sizeof le, h);
    }
    return h;
}

static size_t state_words(const corpus_loader *l)
{
    return HEAD_WORDS + CURSOR_WORDS * (size_t)corpus_shards_count(l->args.shards);
}

size_t corpus_loader_state_size(const corpus_loader *l)
{
    return 8 * state_words(l) + 8;
}

void corpus_loader_save(const corpus_loader *l, uint8_t *out)
{
    const size_t words = state_words(l);
    memcpy(out, magic, 8);
    put_word(out, 1, identity(l));
    put_word(out, 2, (uint64_t)l->batch);
    for (int32_t i = 0; i < corpus_shards_count(l->args.shards); i++) {
        const corpus_cursor *c = &l->at[i];
        const int64_t v[CURSOR_WORDS] = {c->phase, c->blocks, c->start, c->stride, c->next};
        for (size_t k = 0; k < CURSOR_WORDS; k++)
            put_word(out, HEAD_WORDS + CURSOR_WORDS * (size_t)i + k, (uint64_t)v[k]);
    }
    put_word(out, words, kv_xxh64(out, 8 * words, 0));
}

static kv_status damaged(const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "state of the loader: %s; start from another checkpoint", what);
}

static kv_status read_cursors(const corpus_loader *l, const uint8_t *bytes, corpus_cursor *out)
{
    for (int32_t i = 0; i < corpus_shards_count(l->args.shards); i++) {
        const size_t w = HEAD_WORDS + CURSOR_WORDS * (size_t)i;
        out[i] = (corpus_cursor){(int64_t)get_word(bytes, w), (int64_t)get_word(bytes, w + 1),
                                 (int64_t)get_word(bytes, w + 2), (int64_t)get_word(bytes, w + 3),
                                 (int64_t)get_word(bytes, w + 4)};
        if (!corpus_cursor_is_sound(&out[i], corpus_shards_tokens(l->args.shards, i), l->args.seq))
            return damaged("a cursor lies outside its shard");
    }
    return KV_OK;
}

static kv_status check_state(const corpus_loader *l, const uint8_t *bytes, size_t n)
{
    const size_t words = state_words(l);
    if (n < 8 * HEAD_WORDS + 8 || memcmp(bytes, magic, 8) != 0)
        return damaged("these bytes are none");
    if (get_word(bytes, n / 8 - 1) != kv_xxh64(bytes, 8 * (n / 8 - 1), 0) || n % 8)
        return damaged("its checksum is wrong");
    if (get_word(bytes, 1) != identity(l) || n != 8 * words + 8)
        return kv_fail(
            KV_ERR_MISMATCH,
            "state of the loader: it belongs to other shards or other arguments (sequence "
            "length, windows, seed, world, ramp, vocabulary); use those");
    return (int64_t)get_word(bytes, 2) < 0 ? damaged("its batch number is negative") : KV_OK;
}

kv_status corpus_loader_restore(corpus_loader *l, const uint8_t *bytes, size_t n)
{
    KV_TRY(check_state(l, bytes, n));
    const size_t size = (size_t)corpus_shards_count(l->args.shards) * sizeof *l->at;
    corpus_cursor *cursors = malloc(size);
    if (!cursors) return no_memory();
    const kv_status st = read_cursors(l, bytes, cursors);
    if (st == KV_OK) {
        stop(l);
        memcpy(l->at, cursors, size);
        l->batch = (int64_t)get_word(bytes, 2);
        l->stats = (corpus_loader_stats){0};
        l->slots[0].st = KV_OK;
        corpus_batch_maker_set(l->maker, l->batch, l->at);
    }
    free(cursors);
    return st;
}

uint64_t corpus_seed_of(const char *text)
{
    uint64_t h = UINT64_C(1469598103934665603);
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * UINT64_C(1099511628211);
    return h;
}
