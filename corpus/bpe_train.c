/* bpe_train.c - byte pair encoding over counted words: the pair of symbols that occurs most often
 * becomes a symbol, until there are enough; among equals, the pair of lowest symbols, left before
 * right. Symbols are numbered: the space, the other characters by falling frequency (then by code
 * point), the merges in order.
 *
 * Counts are kept up to date: a merge takes the pairs of the words that have it out of the counts,
 * rewrites the words, and puts their pairs back. The most frequent pair waits on a heap; an entry
 * whose count is no longer right is stale. So a merge costs what it touches. */
#include "corpus/bpe_train.h"

#include "common/spm.h"
#include "common/utf8.h"
#include "corpus/bpe_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPECIALS = 4, BYTES = 256, PIECE_MAX = 16 /* characters, the space included */ };

/* A word as symbols: line[at .. at + n). */
typedef struct word {
    int64_t at, count;
    int32_t n;
} word;

typedef struct pair {
    int32_t left, right;
    int64_t count, before; /* before: when the heap last heard of it */
    int64_t *words;        /* some words that have it, or had it, maybe twice */
    int64_t n_words, cap;
    int is_touched;
} pair;

typedef struct entry {
    int64_t count, pair;
} entry;

struct corpus_bpe_trainer {
    corpus_bpe_args args;
    corpus_words counted, chars;
    corpus_bpe_report report;

    corpus_words texts; /* of the symbols: the number of a symbol is its place here */
    int32_t *length;    /* characters of each */
    int32_t n_symbols, n_chars;
    int32_t *line;
    word *words;
    int64_t n_words, cap_words;
    pair *pairs;
    int64_t n_pairs, cap_pairs;
    int64_t *slots; /* hash index over pairs; -1 = free */
    uint64_t mask;
    int64_t *touched;
    int64_t n_touched, cap_touched;
    entry *heap;
    int64_t n_heap, cap_heap;
};

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: training a vocabulary");
}

/* Room for one more of size bytes each. */
static kv_status grow(void *array, int64_t n, int64_t *cap, size_t size)
{
    void **p = array;
    if (n < *cap) return KV_OK;
    const int64_t wanted = *cap ? 2 * *cap : 8;
    void *grown = realloc(*p, (size_t)wanted * size);
    if (!grown) return no_memory();
    *p = grown;
    *cap = wanted;
    return KV_OK;
}

/* ---- making, adding -------------------------------------------------------------------------- */

corpus_bpe_args corpus_bpe_defaults(void)
{
    return (corpus_bpe_args){.vocab = 1024, .coverage = 0.999};
}

kv_status corpus_bpe_new(const corpus_bpe_args *args, corpus_bpe_trainer **out)
{
    const int32_t least = SPECIALS + BYTES + 1;
    if (args->vocab < least || args->vocab > 1 << 20)
        return kv_fail(KV_ERR_USAGE, "a vocabulary of %d pieces: %d to %d are possible",
                       args->vocab, least, 1 << 20);
    if (!(args->coverage > 0 && args->coverage <= 1))
        return kv_fail(KV_ERR_USAGE, "a character coverage of %g: above 0 and at most 1 is needed",
                       args->coverage);
    corpus_bpe_trainer *t = calloc(1, sizeof *t);
    if (!t) return no_memory();
    t->args = *args;
    *out = t;
    return KV_OK;
}

void corpus_bpe_free(corpus_bpe_trainer *t)
{
    if (!t) return;
    for (int64_t i = 0; i < t->n_pairs; i++)
        free(t->pairs[i].words);
    corpus_words_free(&t->counted);
    corpus_words_free(&t->chars);
    corpus_words_free(&t->texts);
    free(t->length);
    free(t->line);
    free(t->words);
    free(t->pairs);
    free(t->slots);
    free(t->touched);
    free(t->heap);
    free(t);
}

kv_status corpus_bpe_add(corpus_bpe_trainer *t, const char *text, size_t n)
{
    KV_TRY(corpus_words_count(&t->counted, &t->chars, text, n));
    t->report.bytes += (int64_t)n;
    return KV_OK;
}

/* ---- symbols --------------------------------------------------------------------------------- */

/* The number of the symbol with this text: a new one, or an old one where another pair made it. */
static kv_status intern(corpus_bpe_trainer *t, const char *p, size_t n, int32_t length,
                        int32_t *out)
{
    const int64_t before = t->texts.n;
    KV_TRY(corpus_words_add(&t->texts, p, n, 0));
    *out = (int32_t)corpus_words_find(&t->texts, p, n);
    if (t->texts.n > before) t->length[t->n_symbols++] = length;
    return KV_OK;
}

typedef struct char_count {
    const char *p;
    uint32_t n, cp;
    int64_t count;
} char_count;

/* The space first, then by falling count, then by code point. */
static int more_frequent(const void *a, const void *b)
{
    const char_count *x = a, *y = b;
    const int x_space = x->cp == 0x2581, y_space = y->cp == 0x2581;
    if (x_space != y_space) return x_space ? -1 : 1;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return (x->cp > y->cp) - (x->cp < y->cp);
}

/* Takes characters until they cover the wanted share; the space counts first and is always there.
 */
static kv_status choose_chars(corpus_bpe_trainer *t, char_count *v, int64_t n)
{
    int64_t total = 0, covered = 0;
    for (int64_t i = 0; i < n; i++)
        total += v[i].count;
    for (int64_t i = 0; i < n && (i == 0 || (double)covered < t->args.coverage * (double)total);
         i++) {
        int32_t id;
        if (SPECIALS + BYTES + t->n_symbols >= t->args.vocab)
            return kv_fail(
                KV_ERR_USAGE,
                "%d pieces do not hold the characters of the texts; ask for more pieces, or "
                "lower the coverage of %g",
                t->args.vocab, t->args.coverage);
        KV_TRY(intern(t, v[i].p, v[i].n, 1, &id));
        covered += v[i].count;
    }
    t->n_chars = t->report.character_pieces = t->n_symbols;
    return KV_OK;
}

static kv_status find_chars(corpus_bpe_trainer *t)
{
    KV_TRY(corpus_words_add(&t->chars, KV_SPM_SPACE, 3, 0));
    const int64_t n = t->chars.n;
    char_count *v = malloc((size_t)n * sizeof *v);
    t->length = malloc((size_t)t->args.vocab * sizeof *t->length);
    if (!v || !t->length) {
        free(v);
        return no_memory();
    }
    for (int64_t i = 0; i < n; i++) {
        const corpus_word *w = &t->chars.v[i];
        v[i] = (char_count){t->chars.bytes.p + w->at, w->n, 0, w->count};
        kv_utf8_next(v[i].p, w->n, &v[i].cp);
    }
    qsort(v, (size_t)n, sizeof *v, more_frequent);
    const kv_status st = choose_chars(t, v, n);
    free(v);
    return st;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static int64_t *pair_slot(const corpus_bpe_trainer *t, int32_t left, int32_t right)
{
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t i = key * UINT64_C(0x9E3779B97F4A7C15) >> 20;; i++) {
        int64_t *slot = &t->slots[i & t->mask];
        if (*slot < 0 || (t->pairs[*slot].left == left && t->pairs[*slot].right == right))
            return slot;
    }
}

static kv_status grow_pairs(corpus_bpe_trainer *t)
{
    if (t->n_pairs < t->cap_pairs) return KV_OK;
    KV_TRY(grow(&t->pairs, t->n_pairs, &t->cap_pairs, sizeof *t->pairs));
    free(t->slots);
    t->slots = malloc(2 * (size_t)t->cap_pairs * sizeof *t->slots);
    if (!t->slots) return no_memory();
    memset(t->slots, 0xff, 2 * (size_t)t->cap_pairs * sizeof *t->slots);
    t->mask = 2 * (uint64_t)t->cap_pairs - 1;
    for (int64_t i = 0; i < t->n_pairs; i++)
        *pair_slot(t, t->pairs[i].left, t->pairs[i].right) = i;
    return KV_OK;
}

static kv_status pair_of(corpus_bpe_trainer *t, int32_t left, int32_t right, int64_t *out)
{
    KV_TRY(grow_pairs(t));
    int64_t *slot = pair_slot(t, left, right);
    if (*slot < 0) {
        t->pairs[t->n_pairs] = (pair){.left = left, .right = right};
        *slot = t->n_pairs++;
    }
    *out = *slot;
    return KV_OK;
}

static int fits(const corpus_bpe_trainer *t, int32_t left, int32_t right)
{
    return t->length[left] + t->length[right] <= PIECE_MAX;
}

/* Takes the pairs of a word out of the counts (sign -1) or puts them in (+1). */
static kv_status count_pairs(corpus_bpe_trainer *t, int64_t w, int sign)
{
    const word *x = &t->words[w];
    for (int32_t i = 0; i + 1 < x->n; i++) {
        const int32_t left = t->line[x->at + i], right = t->line[x->at + i + 1];
        int64_t k;
        if (!fits(t, left, right)) continue;
        KV_TRY(pair_of(t, left, right, &k));
        pair *p = &t->pairs[k];
        p->count += sign * x->count;
        if (!p->is_touched) {
            KV_TRY(grow(&t->touched, t->n_touched, &t->cap_touched, sizeof *t->touched));
            t->touched[t->n_touched++] = k;
            p->is_touched = 1;
        }
        if (sign < 0 || (p->n_words > 0 && p->words[p->n_words - 1] == w)) continue;
        KV_TRY(grow(&p->words, p->n_words, &p->cap, sizeof *p->words));
        p->words[p->n_words++] = w;
    }
    return KV_OK;
}

/* ---- the heap -------------------------------------------------------------------------------- */

static int goes_first(const corpus_bpe_trainer *t, entry a, entry b)
{
    const pair *x = &t->pairs[a.pair], *y = &t->pairs[b.pair];
    if (a.count != b.count) return a.count > b.count;
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static kv_status push(corpus_bpe_trainer *t, entry e)
{
    KV_TRY(grow(&t->heap, t->n_heap, &t->cap_heap, sizeof *t->heap));
    int64_t i = t->n_heap++;
    for (; i > 0 && goes_first(t, e, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = e;
    return KV_OK;
}

static entry pop(corpus_bpe_trainer *t)
{
    const entry top = t->heap[0], e = t->heap[--t->n_heap];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < t->n_heap; i = child) {
        if (child + 1 < t->n_heap && goes_first(t, t->heap[child + 1], t->heap[child])) child++;
        if (!goes_first(t, t->heap[child], e)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = e;
    return top;
}

/* Tells the heap which counts have changed. */
static kv_status push_touched(corpus_bpe_trainer *t)
{
    for (int64_t i = 0; i < t->n_touched; i++) {
        pair *p = &t->pairs[t->touched[i]];
        p->is_touched = 0;
        if (p->count == p->before) continue;
        p->before = p->count;
        if (p->count >= 2) KV_TRY(push(t, (entry){p->count, t->touched[i]}));
    }
    t->n_touched = 0;
    return KV_OK;
}

/* The most frequent pair; -1: none occurs twice. */
static int64_t best_pair(corpus_bpe_trainer *t)
{
    while (t->n_heap > 0) {
        const entry e = pop(t);
        if (t->pairs[e.pair].count == e.count) return e.pair;
    }
    return -1;
}

/* ---- words ----------------------------------------------------------------------------------- */

static kv_status end_part(corpus_bpe_trainer *t, int64_t begin, int64_t end, int64_t count)
{
    if (end - begin < 2) return KV_OK; /* nothing to merge */
    KV_TRY(grow(&t->words, t->n_words, &t->cap_words, sizeof *t->words));
    t->words[t->n_words++] = (word){begin, count, (int32_t)(end - begin)};
    return count_pairs(t, t->n_words - 1, 1);
}

/* Cuts a counted word at characters that got no piece; its parts become words. */
static kv_status add_word(corpus_bpe_trainer *t, const corpus_word *w, int64_t *used)
{
    const char *p = t->counted.bytes.p + w->at;
    int64_t begin = *used;
    uint32_t cp;
    for (size_t at = 0, step; at < w->n; at += step) {
        step = kv_utf8_next(p + at, w->n - at, &cp);
        const int64_t id = corpus_words_find(&t->texts, p + at, step);
        if (id >= 0) {
            t->line[(*used)++] = (int32_t)id;
        } else {
            KV_TRY(end_part(t, begin, *used, w->count));
            begin = *used;
        }
    }
    return end_part(t, begin, *used, w->count);
}

static kv_status add_words(corpus_bpe_trainer *t)
{
    int64_t used = 0;
    t->line = malloc((t->counted.bytes.n + 1) * sizeof *t->line);
    if (!t->line) return no_memory();
    for (int64_t i = 0; i < t->counted.n; i++)
        KV_TRY(add_word(t, &t->counted.v[i], &used));
    return push_touched(t);
}

/* Writes id for every left, right of a word, from the left. */
static void rewrite(corpus_bpe_trainer *t, word *x, int32_t left, int32_t right, int32_t id)
{
    int32_t *v = t->line + x->at;
    int32_t n = 0;
    for (int32_t i = 0; i < x->n; n++) {
        const int here = v[i] == left && i + 1 < x->n && v[i + 1] == right;
        v[n] = here ? id : v[i];
        i += here ? 2 : 1;
    }
    x->n = n;
}

static int has_pair(const corpus_bpe_trainer *t, const word *x, int32_t left, int32_t right)
{
    for (int32_t i = 0; i + 1 < x->n; i++)
        if (t->line[x->at + i] == left && t->line[x->at + i + 1] == right) return 1;
    return 0;
}

static kv_status merge(corpus_bpe_trainer *t, int64_t k)
{
    const pair p = t->pairs[k]; /* the table may move */
    char text[8 * PIECE_MAX];
    const corpus_word *l = &t->texts.v[p.left], *r = &t->texts.v[p.right];
    memcpy(text, t->texts.bytes.p + l->at, l->n);
    memcpy(text + l->n, t->texts.bytes.p + r->at, r->n);
    int32_t id;
    KV_TRY(intern(t, text, l->n + r->n, t->length[p.left] + t->length[p.right], &id));
    t->pairs[k].words = NULL; /* its words are done with after this */
    t->pairs[k].n_words = t->pairs[k].cap = 0;
    kv_status st = KV_OK;
    for (int64_t i = 0; st == KV_OK && i < p.n_words; i++) {
        word *x = &t->words[p.words[i]];
        if (!has_pair(t, x, p.left, p.right)) continue; /* another merge took it */
        st = count_pairs(t, p.words[i], -1);
        rewrite(t, x, p.left, p.right, id);
        if (st == KV_OK) st = count_pairs(t, p.words[i], 1);
    }
    free(p.words);
    return st == KV_OK ? push_touched(t) : st;
}

/* ---- the vocabulary -------------------------------------------------------------------------- */

static kv_status add_piece(const corpus_bpe_trainer *t, int32_t id, kv_spm_source *src)
{
    const corpus_word *w = &t->texts.v[id];
    const int64_t place = src->n - SPECIALS - BYTES;
    const kv_span text = {t->texts.bytes.p + w->at, w->n};
    return kv_spm_source_add(src, text, -(float)place, KV_TOKEN_NORMAL);
}

/* Specials, bytes, the space, merges in order, the other characters. */
static kv_status list_pieces(const corpus_bpe_trainer *t, char names[BYTES][8], kv_spm_source *src)
{
    static const char *const specials[SPECIALS] = {"<pad>", "<s>", "</s>", "<unk>"};
    for (int i = 0; i < SPECIALS; i++)
        KV_TRY(kv_spm_source_add(src, (kv_span){specials[i], strlen(specials[i])}, 0,
                                 i == 3 ? KV_TOKEN_UNKNOWN : KV_TOKEN_CONTROL));
    for (int b = 0; b < BYTES; b++) {
        snprintf(names[b], sizeof names[b], "<0x%02X>", (unsigned)b);
        KV_TRY(kv_spm_source_add(src, (kv_span){names[b], 6}, 0, KV_TOKEN_BYTE));
    }
    KV_TRY(add_piece(t, 0, src));
    for (int32_t id = t->n_chars; id < t->n_symbols; id++)
        KV_TRY(add_piece(t, id, src));
    for (int32_t id = 1; id < t->n_chars; id++)
        KV_TRY(add_piece(t, id, src));
    return KV_OK;
}

static kv_status write_files(const corpus_bpe_trainer *t, kv_bytes *model, kv_bytes *vocab)
{
    char names[BYTES][8];
    kv_spm_source src = {.where = "new vocabulary", .byte_fallback = 1};
    const kv_spm_options o = {.normalizer = "identity",
                              .split_digits = 1,
                              .coverage = (float)t->args.coverage,
                              .pad = 0,
                              .bos = 1,
                              .eos = 2,
                              .unk = 3};
    kv_status st = list_pieces(t, names, &src);
    if (st == KV_OK) st = kv_spm_write_model(&src, &o, model);
    if (st == KV_OK) st = kv_spm_write_vocab(&src, vocab);
    kv_spm_source_free(&src);
    return st;
}

kv_status corpus_bpe_finish(corpus_bpe_trainer *t, kv_bytes *model, kv_bytes *vocab,
                            corpus_bpe_report *report)
{
    KV_TRY(find_chars(t));
    KV_TRY(add_words(t));
    while (SPECIALS + BYTES + t->n_symbols < t->args.vocab) {
        const int64_t k = best_pair(t);
        if (k < 0) break;
        KV_TRY(merge(t, k));
    }
    t->report.words = t->counted.n;
    t->report.pieces = SPECIALS + BYTES + t->n_symbols;
    *report = t->report;
    return write_files(t, model, vocab);
}
