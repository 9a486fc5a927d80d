/* recall.c - texts that a small model learns retrieval from. Four in ten items are passkey documents in the very words of
 * passkey.c, with the key anywhere; the others give many answers for their length: pairs of a name and a number that are asked
 * for in another order, and lines that are written down twice. All random numbers are Philox words of one stream per text. */
#include "corpus/internal.h"

#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STREAM_RECALL = 0x7265636C, PAIRS = 12, NAME = 24, LINE = 64 };

typedef struct page {
    char *p;
    size_t n, cap;
    const char *filler;
    size_t n_filler;
    uint64_t seed, stream, drawn;
} page;

static uint32_t below(page *g, uint32_t n) { return kv_philox_below(g->seed, g->stream, g->drawn++, n); }

static size_t room(const page *g) { return g->cap - g->n; }

static void put(page *g, const char *text, size_t n)
{
    if (n > room(g)) n = room(g);
    memcpy(g->p + g->n, text, n);
    g->n += n;
}

static void say(page *g, const char *text) { put(g, text, strlen(text)); }

/* Bytes up to which n bytes of text end behind a word: no character is torn. */
static size_t whole_words(const char *text, size_t n)
{
    size_t end = n;
    while (end > 0 && text[end - 1] != ' ' && text[end - 1] != '\n')
        end--;
    return end;
}

/* At most n bytes of the filler, from the beginning of a word to the end of one. */
static void put_filler(page *g, size_t n)
{
    if (n > g->n_filler / 2) n = g->n_filler / 2;
    if (n > room(g)) n = room(g);
    size_t at = below(g, (uint32_t)(g->n_filler / 2));
    while (at < g->n_filler / 2 && g->filler[at] != ' ' && g->filler[at] != '\n')
        at++;
    put(g, g->filler + at + 1, whole_words(g->filler + at + 1, n > 0 ? n - 1 : 0));
}

static void put_passkey(page *g, size_t budget)
{
    char digits[8];
    corpus_words w;
    snprintf(digits, sizeof digits, "%05u", 10000 + below(g, 90000));
    corpus_passkey_words(digits, &w);
    const size_t frame = strlen(w.opening) + strlen(w.key) + strlen(w.question) + 2;
    const size_t filler = budget > frame ? budget - frame : 0;
    const size_t before = below(g, (uint32_t)filler + 1);
    if (frame > room(g)) return;
    say(g, w.opening);
    put_filler(g, before);
    say(g, w.key);
    put_filler(g, filler - before);
    say(g, w.question);
    say(g, "\n\n");
}

static void make_name(page *g, char name[NAME])
{
    static const char *const heads[] = {"Bar", "Cor", "Del", "Fen", "Gar", "Hol", "Kel", "Lin", "Mar", "Nor", "Pel", "Ros", "Sel", "Tor", "Val", "Wen"};
    static const char *const tails[] = {"ba", "by", "den", "dick", "ford", "la", "ley", "mer", "nick", "ra", "rick", "sa", "ton", "ver", "well", "wyn"};
    static const char *const middles[] = {"", "", "a", "e", "i", "o", "in", "er"};
    snprintf(name, NAME, "%s%s%s", heads[below(g, 16)], middles[below(g, 8)], tails[below(g, 16)]);
}

/* Names differ, so that every question has one answer. */
static uint32_t make_pairs(page *g, char names[PAIRS][NAME], uint32_t number[PAIRS])
{
    const uint32_t n = 2 + below(g, PAIRS - 1);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j <= i; j++) {
            if (j == 0) make_name(g, names[i]);
            if (j < i && strcmp(names[i], names[j]) == 0) j = (uint32_t)-1;
        }
        number[i] = 10000 + below(g, 90000);
    }
    return n;
}

static void put_pairs(page *g, size_t budget)
{
    char names[PAIRS][NAME], line[2 * LINE];
    uint32_t number[PAIRS];
    const uint32_t n = make_pairs(g, names, number);
    const size_t lines = 2 * (size_t)n * LINE, filler = budget > lines ? budget - lines : 0;
    if (lines > room(g)) return;
    for (uint32_t i = 0; i < n; i++) {
        snprintf(line, sizeof line, "The number of %s is %05u.\n", names[i], number[i]);
        say(g, line);
        if (filler / n > LINE) put_filler(g, below(g, (uint32_t)(filler / n)));
        say(g, "\n");
    }
    for (uint32_t asked = 0; asked < n; asked++) {
        const uint32_t i = below(g, n);
        snprintf(line, sizeof line, "What is the number of %s? The number of %s is %05u.\n", names[i], names[i], number[i]);
        say(g, line);
    }
    say(g, "\n");
}

static void put_copy(page *g, size_t budget)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    char text[256];
    const uint32_t words = 2 + below(g, 20);
    size_t n = 0;
    for (uint32_t w = 0; w < words; w++) {
        const uint32_t length = 3 + below(g, 6), digits = below(g, 2);
        for (uint32_t i = 0; i < length; i++)
            text[n++] = digits ? letters[26 + below(g, 10)] : letters[below(g, 26)];
        text[n++] = w + 1 < words ? ' ' : '\n';
    }
    if (2 * n + 2 * LINE > room(g)) return;
    say(g, "Keep this line: ");
    put(g, text, n);
    if (budget > 2 * n + 2 * LINE) put_filler(g, below(g, (uint32_t)(budget - 2 * n - 2 * LINE)));
    say(g, "\nHere is the line again: ");
    put(g, text, n);
    say(g, "\n");
}

static void put_item(page *g)
{
    const uint32_t kind = below(g, 10);
    /* short ones more often: what a window holds whole is learned from */
    const size_t most = room(g), least = most < CORPUS_RECALL_LEAST ? most : CORPUS_RECALL_LEAST;
    const uint32_t a = below(g, (uint32_t)(most - least) + 1), b = below(g, (uint32_t)(most - least) + 1);
    const size_t budget = least + (a < b ? a : b);
    if (kind < 4)
        put_passkey(g, budget);
    else if (kind < 8)
        put_pairs(g, budget);
    else
        put_copy(g, budget);
}

kv_status corpus_recall(const char *filler, size_t n_filler, uint64_t seed, uint64_t index, size_t bytes, char **out,
                        size_t *n)
{
    if (bytes < CORPUS_RECALL_LEAST || bytes > CORPUS_TEXT_MAX)
        return kv_fail(KV_ERR_USAGE, "recall: texts of %zu bytes; at least %d", bytes, CORPUS_RECALL_LEAST);
    if (n_filler < 2 * bytes || n_filler > CORPUS_TEXT_MAX)
        return kv_fail(KV_ERR_USAGE, "recall: %zu bytes of filler for texts of %zu; at least twice as many, at most %d", n_filler,
                       bytes, CORPUS_TEXT_MAX);
    page g = {.p = malloc(bytes), .cap = bytes, .filler = filler, .n_filler = n_filler, .seed = seed,
              .stream = (uint64_t)STREAM_RECALL << 32 | index};
    if (!g.p) return kv_fail(KV_ERR_NOMEM, "out of memory: a text of %zu bytes", bytes);
    /* an item that does not fit is drawn again; after some in a row the text is full */
    for (int failed = 0; failed < 8;) {
        const size_t before = g.n;
        put_item(&g);
        failed = g.n == before ? failed + 1 : 0;
    }
    *out = g.p;
    *n = g.n;
    return KV_OK;
}
