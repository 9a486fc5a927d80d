/* synth.c - prose of any length in the manner of the book.
 *
 * A reader walks through the words of the book. Where the word and its predecessor occur together
 * elsewhere, the walk goes on from any of these places; where they do not, it goes on, one time in
 * JUMP, from any other place of the word alone. So short stretches are the book's and the whole is
 * not, and no cycle is ever closed. Words come in the book's lines of 72 characters, in paragraphs
 * and numbered chapters, with quotation marks kept in pairs.
 *
 * Random numbers: word k of the Philox stream (seed, STREAM_PROSE), k counted up from 0. */
#include "corpus/internal.h"

#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STREAM_PROSE = 1,
    STREAM_FILLER = 2,
    JUMP = 8,
    COLUMNS = 72,
    CHAPTER_MIN = 24, /* paragraphs */
    CHAPTER_MORE = 25
};

/* ---- the book as words ----------------------------------------------------------------------- */

typedef struct word {
    const char *p; /* in the book */
    uint32_t n;    /* bytes; 0 = end of a paragraph */
    uint32_t id;   /* equal words have equal ids; 0 = end of a paragraph */
    /* Ranges of places[]: where this word stands, and where it stands behind the same word. */
    uint32_t one, n_one, pair, n_pair;
} word;

typedef struct prose {
    word *words; /* the last one ends a paragraph */
    uint32_t n;
    uint32_t *places; /* word numbers, ordered by (id, id of the word before, number) */
} prose;

static int is_heading(const char *p, size_t n)
{
    return n > 8 && memcmp(p, "CHAPTER ", 8) == 0;
}

/* Appends the words of one block of lines; at most one word for every two bytes. */
static void add_words(prose *b, const char *p, const char *end)
{
    while (p < end) {
        const char *stop = p;
        while (stop < end && *stop != ' ' && *stop != '\n')
            stop++;
        if (stop > p) b->words[b->n++] = (word){.p = p, .n = (uint32_t)(stop - p)};
        p = stop + 1;
    }
    b->words[b->n++] = (word){.p = end};
}

/* Blocks are separated by empty lines. The title, "CHAPTER X" and what follows it are no prose. */
static void split(prose *b, const char *text, size_t n)
{
    const char *end = text + n;
    int skip = 1;
    for (const char *p = text; p < end;) {
        if (*p == '\n') {
            p++;
            continue;
        }
        const char *stop = memmem(p, (size_t)(end - p), "\n\n", 2);
        if (!stop) stop = end;
        if (is_heading(p, (size_t)(stop - p))) skip = 2;
        if (skip > 0)
            skip--;
        else
            add_words(b, p, stop);
        p = stop;
    }
}

static int compare_text(const void *a, const void *b)
{
    const word *x = *(word *const *)a, *y = *(word *const *)b;
    const uint32_t n = x->n < y->n ? x->n : y->n;
    const int c = n ? memcmp(x->p, y->p, n) : 0;
    if (c != 0) return c;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return (x > y) - (x < y);
}

static int same_text(const word *x, const word *y)
{
    return x->n == y->n && (x->n == 0 || memcmp(x->p, y->p, x->n) == 0);
}

static void number_words(prose *b, word **sorted)
{
    for (uint32_t i = 0; i < b->n; i++)
        sorted[i] = &b->words[i];
    qsort(sorted, b->n, sizeof *sorted, compare_text);
    for (uint32_t i = 0, id = 0; i < b->n; i++) {
        if (i > 0 && !same_text(sorted[i - 1], sorted[i])) id++;
        sorted[i]->id = id;
    }
}

/* Order of places: id, id of the word before, number, 21 bits each. */
enum { FIELD = 21 };

static uint64_t rank_of(const prose *b, uint32_t i)
{
    const uint32_t before = b->words[i ? i - 1 : b->n - 1].id;
    return (uint64_t)b->words[i].id << 2 * FIELD | (uint64_t)before << FIELD | i;
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Notes for every run of equal ranks >> shift in which range of places its words stand. */
static void note_ranges(prose *b, const uint64_t *ranks, int shift)
{
    for (uint32_t first = 0, end; first < b->n; first = end) {
        for (end = first + 1; end < b->n && ranks[end] >> shift == ranks[first] >> shift;)
            end++;
        for (uint32_t k = first; k < end; k++) {
            word *w = &b->words[b->places[k]];
            *(shift == FIELD ? &w->pair : &w->one) = first;
            *(shift == FIELD ? &w->n_pair : &w->n_one) = end - first;
        }
    }
}

static void order_places(prose *b, uint64_t *ranks)
{
    for (uint32_t i = 0; i < b->n; i++)
        ranks[i] = rank_of(b, i);
    qsort(ranks, b->n, sizeof *ranks, compare_u64);
    for (uint32_t k = 0; k < b->n; k++)
        b->places[k] = (uint32_t)(ranks[k] & ((1u << FIELD) - 1));
    note_ranges(b, ranks, FIELD);
    note_ranges(b, ranks, 2 * FIELD);
}

static void prose_free(prose *b)
{
    free(b->words);
    free(b->places);
}

static kv_status prose_make(prose *b)
{
    size_t n;
    const char *text = corpus_book_text(&n);
    *b = (prose){0};
    b->words = malloc((n + 2) * sizeof *b->words);
    if (b->words) split(b, text, n);
    word **sorted = malloc((b->n + 1) * sizeof *sorted);
    uint64_t *ranks = malloc((b->n + 1) * sizeof *ranks);
    b->places = malloc((b->n + 1) * sizeof *b->places);
    const int ready = b->words && sorted && ranks && b->places;
    if (ready) {
        number_words(b, sorted);
        order_places(b, ranks);
    } else {
        prose_free(b);
    }
    free(ranks);
    free(sorted);
    return ready ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory: generated prose");
}

/* ---- setting it in lines --------------------------------------------------------------------- */

typedef struct writer {
    char *out;
    size_t n, at;
    uint32_t column; /* characters in this line */
    int quoted;      /* between quotation marks */
} writer;

static void put(writer *w, const char *p, size_t n)
{
    const size_t room = w->n - w->at;
    if (n > room) n = room;
    memcpy(w->out + w->at, p, n);
    w->at += n;
}

static uint32_t characters(const char *p, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((uint8_t)p[i] & 0xc0) != 0x80;
    return count;
}

static void put_word(writer *w, const char *p, size_t n)
{
    const uint32_t width = characters(p, n);
    const uint32_t most = w->quoted ? COLUMNS - 1 : COLUMNS; /* room for a mark at the end */
    if (w->column > 0 && w->column + 1 + width > most) {
        put(w, "\n", 1);
        w->column = 0;
    } else if (w->column > 0) {
        put(w, " ", 1);
        w->column++;
    }
    put(w, p, n);
    w->column += width;
}

/* A walk that jumps leaves marks unpaired: an opening one inside quotation marks and a closing one
 * outside are left out. */
static void put_paired(writer *w, const char *p, size_t n)
{
    static const char open[] = "\u201c", shut[] = "\u201d";
    const size_t mark = sizeof open - 1;
    char kept[256];
    size_t used = 0;
    for (size_t i = 0; i < n && used < sizeof kept;) {
        const int opens = n - i >= mark && memcmp(p + i, open, mark) == 0;
        const int shuts = n - i >= mark && memcmp(p + i, shut, mark) == 0;
        if ((opens && w->quoted) || (shuts && !w->quoted)) {
            i += mark;
            continue;
        }
        if (opens || shuts) w->quoted = opens;
        kept[used++] = p[i++];
    }
    if (used > 0) put_word(w, kept, used);
}

static void end_paragraph(writer *w)
{
    if (w->quoted) put(w, "\u201d", strlen("\u201d"));
    put(w, "\n\n", 2);
    w->column = 0;
    w->quoted = 0;
}

static void put_chapter(writer *w, uint32_t number)
{
    char line[32];
    const int n = snprintf(line, sizeof line, "%sCHAPTER %u\n\n", number > 1 ? "\n" : "", number);
    put(w, line, (size_t)n);
}

/* Line feeds instead of a character that the end of the text would cut. */
static void end_text(writer *w)
{
    size_t start = w->n;
    while (start > 0 && ((uint8_t)w->out[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0) return;
    const uint8_t lead = (uint8_t)w->out[--start];
    const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (start + length > w->n) memset(w->out + start, '\n', w->n - start);
}

/* ---- walking --------------------------------------------------------------------------------- */

typedef struct dice {
    uint64_t seed, stream, k;
} dice;

static uint32_t below(dice *d, uint32_t n)
{
    return kv_philox_below(d->seed, d->stream, d->k++, n);
}

/* The word to be read after word i. */
static uint32_t step(const prose *b, uint32_t i, dice *d)
{
    const word *w = &b->words[i];
    if (w->n == 0)
        i = b->places[w->one + below(d, w->n_one)];
    else if (w->n_pair > 1)
        i = b->places[w->pair + below(d, w->n_pair)];
    else if (w->n_one > 1 && below(d, JUMP) == 0)
        i = b->places[w->one + below(d, w->n_one)];
    return i + 1 < b->n ? i + 1 : 0;
}

static void walk(const prose *b, dice *d, writer *w)
{
    uint32_t i = b->n - 1, left = 0; /* paragraphs of this chapter */
    for (uint32_t chapter = 1; w->at < w->n;) {
        if (left == 0) {
            put_chapter(w, chapter++);
            left = CHAPTER_MIN + below(d, CHAPTER_MORE);
        }
        i = step(b, i, d);
        if (b->words[i].n > 0) {
            put_paired(w, b->words[i].p, b->words[i].n);
        } else {
            end_paragraph(w);
            left--;
        }
    }
}

/* from_book: the book from a paragraph that the seed picks comes first. */
static kv_status write_prose(uint64_t seed, int from_book, size_t n, char *out)
{
    prose b;
    KV_TRY(prose_make(&b));
    writer w = {.out = out, .n = n};
    if (from_book) {
        size_t book_n;
        const char *end = corpus_book_text(&book_n) + book_n;
        dice pick = {seed, STREAM_FILLER, 0};
        const char *from = b.words[step(&b, b.n - 1, &pick)].p;
        put(&w, from, (size_t)(end - from));
        put(&w, "\n\n", 2);
    }
    dice d = {seed, STREAM_PROSE, 0};
    walk(&b, &d, &w);
    end_text(&w);
    prose_free(&b);
    return KV_OK;
}

kv_status corpus_prose(uint64_t seed, size_t n, char *out)
{
    return write_prose(seed, 0, n, out);
}

kv_status corpus_filler(uint64_t seed, size_t n, char *out)
{
    return write_prose(seed, 1, n, out);
}

/* ---- documents ------------------------------------------------------------------------------- */

static kv_status load(const corpus_item *item, corpus_bytes *out)
{
    const size_t n = (size_t)item->trial.len;
    char *p = malloc(n);
    if (!p) return kv_fail(KV_ERR_NOMEM, "out of memory: %zu bytes of generated prose", n);
    const kv_status st = corpus_prose((uint64_t)item->trial.seed, n, p);
    if (st == KV_OK)
        *out = (corpus_bytes){p, n, p};
    else
        free(p);
    return st;
}

kv_status corpus_open_synth(corpus *c, const char *spec, const char *params)
{
    static const corpus_param known[] = {
        {"bytes", "length of the text", 0, 0, 1, CORPUS_TEXT_MAX, 1 << 20},
        {"seed", "which text", 0, 0, 0, INT64_MAX, 1},
    };
    corpus_values v[2];
    corpus_item *item;
    char name[96];
    KV_TRY(corpus_parse(spec, params, known, 2, v));
    const long long bytes = v[0].v[0], seed = v[1].v[0];
    snprintf(name, sizeof name, "synth:bytes=%lld,seed=%lld", bytes, seed);
    KV_TRY(corpus_set_name(c, name));
    snprintf(name, sizeof name, "b%lld-s%lld", bytes, seed);
    KV_TRY(corpus_add(c, name, NULL, &item));
    item->trial = (corpus_trial){.len = bytes, .seed = seed};
    KV_TRY(load(item, &item->text));
    KV_TRY(corpus_describe(item, "generated prose", item->text.p, item->text.n));
    c->info.generator = "synth";
    c->info.seed = seed;
    c->load = load;
    corpus_sign_generator(c, "");
    return KV_OK;
}
