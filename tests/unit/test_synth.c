/* Generated prose: exact lengths, valid UTF-8, the same for equal seeds, in the book's own words and
 * form, and never the same stretch over again. */
#include "tests/unit/kvtest.h"

#include "common/hash.h"
#include "common/utf8.h"
#include "corpus/internal.h"

static char *prose(uint64_t seed, size_t n)
{
    char *p = malloc(n + 1);
    assert_non_null(p);
    memset(p, '#', n + 1);
    assert_ok(corpus_prose(seed, n, p));
    assert_int_equal(p[n], '#');
    p[n] = '\0';
    return p;
}

static void every_length_is_exact_and_valid_utf8(void **state)
{
    (void)state;
    char *whole = prose(5, 8000);
    for (size_t n = 1; n < 3000; n++) {
        char *p = prose(5, n);
        assert_ok(kv_utf8_check(p, n, "prose"));
        size_t same = n; /* but for the line feeds that stand for a cut character */
        while (same > 0 && n - same < 3 && memcmp(p, whole, same) != 0)
            same--;
        assert_memory_equal(p, whole, same);
        for (size_t i = same; i < n; i++)
            assert_int_equal(p[i], '\n');
        free(p);
    }
    free(whole);
}

static void seeds_decide_the_text(void **state)
{
    (void)state;
    char *a = prose(1, 4096), *b = prose(1, 4096), *c = prose(2, 4096);
    assert_memory_equal(a, b, 4096);
    assert_memory_not_equal(a, c, 4096);
    free(a);
    free(b);
    free(c);
}

/* The text is part of the key of recorded results: a change of the generator must be noticed (and
 * the version in corpus_sign_generator raised). */
static void the_text_of_seed_1_is_the_recorded_one(void **state)
{
    (void)state;
    char hex[65];
    uint8_t sha[32];
    corpus *c = NULL;
    assert_ok(corpus_open("synth", &c));
    memcpy(sha, corpus_get_doc(c, 0)->text_sha, 32);
    kv_hex32(sha, hex);
    assert_string_equal(hex, "RECORDED");
    corpus_close(c);
}

typedef struct dictionary {
    char *text;
    char **words;
    size_t n;
} dictionary;

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static dictionary book_words(void)
{
    size_t n;
    const char *book = corpus_book_text(&n);
    dictionary d = {strndup(book, n), malloc(n * sizeof(char *)), 0};
    assert_true(d.text && d.words);
    for (char *save = NULL, *w = strtok_r(d.text, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
        d.words[d.n++] = w;
    qsort(d.words, d.n, sizeof *d.words, by_text);
    return d;
}

static int is_word_of_book(const dictionary *d, const char *w)
{
    return bsearch(&w, d->words, d->n, sizeof *d->words, by_text) != NULL;
}

/* A word whose quotation mark was left out to keep pairs is found with it. */
static int is_word_but_for_marks(const dictionary *d, const char *w)
{
    char other[256];
    static const char *const forms[] = {"%s", "\u201c%s", "%s\u201d", "\u201c%s\u201d"};
    for (int i = 0; i < 4; i++) {
        const char *p = w;
        char bare[128];
        size_t used = 0;
        for (; *p && used + 4 < sizeof bare; p++) {
            const int mark = i > 0 && (strncmp(p, "\u201c", 3) == 0 || strncmp(p, "\u201d", 3) == 0);
            if (mark)
                p += 2;
            else
                bare[used++] = *p;
        }
        bare[used] = '\0';
        snprintf(other, sizeof other,
                 i == 0   ? forms[0]
                 : i == 1 ? forms[1]
                 : i == 2 ? forms[2]
                          : forms[3],
                 bare);
        if (is_word_of_book(d, other)) return 1;
    }
    return 0;
}
