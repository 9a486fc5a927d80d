/* Generated prose: exact lengths, valid UTF-8, the same for equal seeds, in the book's own words
 * and form, and never the same stretch over again. */
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
    for (size_t n = 1; n < 6000; n += n < 400 ? 1 : 61) {
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
    assert_string_equal(hex, "ce7ed09cbe9a4cf9f0494d601ed922c9e2c2bb6568664463ac234a3cc6f9cc37");
    corpus_close(c);
}

/* ---- form ------------------------------------------------------------------------------------ */

enum { MANY = 1 << 20 };

static int is_open_mark(const char *p)
{
    return memcmp(p, "\u201c", 3) == 0;
}

static int is_shut_mark(const char *p)
{
    return memcmp(p, "\u201d", 3) == 0;
}

/* Removes double quotation marks: the generator leaves some out to keep pairs. */
static void strip_marks(char *text)
{
    char *to = text;
    for (const char *p = text; *p;)
        if (strlen(p) >= 3 && (is_open_mark(p) || is_shut_mark(p)))
            p += 3;
        else
            *to++ = *p++;
    *to = '\0';
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Cuts the text into its words; the caller frees the list. */
static char **words_of(char *text, size_t *n)
{
    char **list = malloc((strlen(text) / 2 + 1) * sizeof *list), *save = NULL;
    assert_non_null(list);
    *n = 0;
    for (char *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
        list[(*n)++] = w;
    return list;
}

static void every_word_is_one_of_the_book(void **state)
{
    (void)state;
    size_t book_n, n_known, n;
    const char *text = corpus_book_text(&book_n);
    char *book = strndup(text, book_n), *made = prose(3, 200000);
    assert_non_null(book);
    *strrchr(made, ' ') = '\0'; /* the last word may be cut */
    strip_marks(book);
    strip_marks(made);
    char **known = words_of(book, &n_known), **words = words_of(made, &n);
    qsort(known, n_known, sizeof *known, by_text);
    assert_true(n > 30000);
    for (size_t i = 0, chapter = 1; i < n; i++) {
        char number[24];
        snprintf(number, sizeof number, "%zu", chapter);
        if (i > 0 && strcmp(words[i - 1], "CHAPTER") == 0) {
            assert_string_equal(words[i], number);
            chapter++;
        } else if (!bsearch(&words[i], known, n_known, sizeof *known, by_text)) {
            fail_msg("'%s' is no word of the book", words[i]);
        }
    }
    free(words);
    free(known);
    free(made);
    free(book);
}

static void lines_have_at_most_72_characters(void **state)
{
    (void)state;
    char *p = prose(4, MANY);
    int columns = 0, longest = 0;
    for (const char *s = p; *s; s++) {
        columns = *s == '\n' ? 0 : columns + (((uint8_t)*s & 0xc0) != 0x80);
        if (columns > longest) longest = columns;
    }
    assert_int_equal(longest, 72);
    assert_null(strstr(p, " \n"));
    assert_null(strstr(p, "  "));
    assert_null(strstr(p, "\n\n\n\n"));
    free(p);
}

static void quotation_marks_come_in_pairs_within_a_paragraph(void **state)
{
    (void)state;
    char *p = prose(4, MANY), *end = strrchr(p, '\n');
    int quoted = 0, pairs = 0;
    while (end > p && end[-1] != '\n')
        end--;
    for (const char *s = p; s + 3 < end; s++) {
        if (is_open_mark(s)) {
            assert_int_equal(quoted, 0);
            quoted = 1;
        } else if (is_shut_mark(s)) {
            assert_int_equal(quoted, 1);
            quoted = 0;
            pairs++;
        } else if (s[0] == '\n' && s[1] == '\n') {
            assert_int_equal(quoted, 0);
        }
    }
    assert_true(pairs > 1000);
    free(p);
}

/* Length of the common beginning of two suffixes of the list of words. */
static size_t common(char **a, char **b, char **end)
{
    size_t n = 0;
    for (; b + n < end && strcmp(a[n], b[n]) == 0; n++)
        ;
    return n;
}

static char **suffix_end;

static int by_suffix(const void *a, const void *b)
{
    char **x = *(char **const *)a, **y = *(char **const *)b;
    const size_t n = x < y ? common(x, y, suffix_end) : common(y, x, suffix_end);
    if (x + n >= suffix_end || y + n >= suffix_end) return (x < y) - (x > y);
    return strcmp(x[n], y[n]);
}

/* A generator that fell into a cycle would show one text for ever: a model with a memory would know
 * it by heart. In a megabyte, the longest stretch that occurs twice is a long paragraph. */
static void no_long_stretch_occurs_twice(void **state)
{
    (void)state;
    size_t n, longest = 0;
    char *p = prose(6, MANY), **words = words_of(p, &n);
    char ***order = malloc(n * sizeof *order);
    assert_non_null(order);
    for (size_t i = 0; i < n; i++)
        order[i] = &words[i];
    suffix_end = words + n;
    qsort(order, n, sizeof *order, by_suffix);
    for (size_t i = 1; i < n; i++) {
        char **a = order[i - 1], **b = order[i];
        const size_t same = a < b ? common(a, b, suffix_end) : common(b, a, suffix_end);
        if (same > longest) longest = same;
    }
    if (longest >= 150) fail_msg("a stretch of %zu words occurs twice", longest);
    assert_true(longest > 10); /* the book's own turns do come again */
    free(order);
    free(words);
    free(p);
}

/* ---- filler and documents -------------------------------------------------------------------- */

static void fillers_start_with_a_paragraph_of_the_book(void **state)
{
    (void)state;
    size_t book_n;
    const char *book = corpus_book_text(&book_n);
    static char a[100000];
    const char *starts[20];
    int different = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        assert_ok(corpus_filler(seed, sizeof a, a));
        assert_ok(kv_utf8_check(a, sizeof a, "filler"));
        const char *at = memmem(book, book_n, a, 100);
        assert_non_null(at);
        const size_t rest = (size_t)(book + book_n - at);
        assert_memory_equal(at - 2, "\n\n", 2);
        assert_memory_equal(a, at, rest);
        assert_memory_equal(a + rest, "\n\nCHAPTER 1\n\n", 13);
        starts[seed] = at;
        for (uint64_t k = 0; k < seed; k++)
            different += starts[k] != at;
    }
    assert_true(different > 150); /* of 190 pairs */
}

static void a_document_has_the_text_that_its_spelling_says(void **state)
{
    (void)state;
    corpus *c = NULL;
    const char *text;
    size_t n;
    uint8_t sha[32];
    assert_ok(corpus_open("synth:bytes=10k,seed=9", &c));
    const corpus_doc *doc = corpus_get_doc(c, 0);
    assert_string_equal(corpus_get_info(c)->generator, "synth");
    assert_int_equal(corpus_get_info(c)->seed, 9);
    assert_int_equal(corpus_get_info(c)->n_docs, 1);
    assert_string_equal(doc->name, "b10240-s9");
    assert_ok(corpus_text(c, 0, &text, &n));
    assert_int_equal(n, 10240);
    assert_int_equal(doc->n_bytes, 10240);
    assert_int_equal(doc->n_words, kv_utf8_words(text, n));
    char *p = prose(9, 10240);
    assert_memory_equal(text, p, n);
    kv_sha256(text, n, sha);
    assert_memory_equal(doc->text_sha, sha, 32);
    free(p);
    corpus_close(c);
}

static void seeds_up_to_the_largest_number_are_told_apart(void **state)
{
    (void)state;
    corpus *a = NULL, *b = NULL;
    assert_ok(corpus_open("synth:bytes=1k,seed=9223372036854775807", &a));
    assert_ok(corpus_open("synth:bytes=1k,seed=4294967295", &b));
    assert_int_equal(corpus_get_info(a)->seed, INT64_MAX);
    assert_memory_not_equal(corpus_get_doc(a, 0)->text_sha, corpus_get_doc(b, 0)->text_sha, 32);
    assert_memory_not_equal(corpus_get_info(a)->manifest_sha, corpus_get_info(b)->manifest_sha, 32);
    corpus_close(a);
    corpus_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length_is_exact_and_valid_utf8),
        cmocka_unit_test(seeds_decide_the_text),
        cmocka_unit_test(the_text_of_seed_1_is_the_recorded_one),
        cmocka_unit_test(every_word_is_one_of_the_book),
        cmocka_unit_test(lines_have_at_most_72_characters),
        cmocka_unit_test(quotation_marks_come_in_pairs_within_a_paragraph),
        cmocka_unit_test(no_long_stretch_occurs_twice),
        cmocka_unit_test(fillers_start_with_a_paragraph_of_the_book),
        cmocka_unit_test(a_document_has_the_text_that_its_spelling_says),
        cmocka_unit_test(seeds_up_to_the_largest_number_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
