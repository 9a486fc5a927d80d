/* Texts to learn retrieval from: the same for equal seeds, within their length, valid UTF-8, and every question is answered by
 * what stands before it. */
#include "tests/unit/kvtest.h"

#include "common/utf8.h"
#include "corpus/internal.h"

enum { FILLER = 100000 };

static char *filler(void)
{
    static char text[FILLER];
    assert_ok(corpus_prose(7, FILLER, text));
    return text;
}

static char *make(uint64_t seed, uint64_t index, size_t bytes, size_t *n)
{
    char *p;
    assert_ok(corpus_recall(filler(), FILLER, seed, index, bytes, &p, n));
    p = realloc(p, *n + 1);
    assert_non_null(p);
    p[*n] = '\0';
    return p;
}

static void texts_fit_and_are_valid(void **state)
{
    (void)state;
    for (size_t bytes = CORPUS_RECALL_LEAST; bytes < 20000; bytes += 1733) {
        size_t n;
        char *p = make(1, bytes, bytes, &n);
        assert_in_range(n, bytes / 4, bytes);
        assert_ok(kv_utf8_check(p, n, "recall"));
        free(p);
    }
}

static void seed_and_index_decide(void **state)
{
    (void)state;
    size_t n[4];
    char *p[4] = {make(1, 0, 8192, &n[0]), make(1, 0, 8192, &n[1]), make(1, 1, 8192, &n[2]), make(2, 0, 8192, &n[3])};
    assert_string_equal(p[0], p[1]);
    assert_string_not_equal(p[0], p[2]);
    assert_string_not_equal(p[0], p[3]);
    for (int i = 0; i < 4; i++)
        free(p[i]);
}

/* Every "after" of a text is followed by a word that some "before" in front of it was followed by. Returns how many. */
static int answered(const char *text, const char *after, const char *before, size_t answer)
{
    int n = 0;
    for (const char *q = text; (q = strstr(q, after)); n++) {
        q += strlen(after);
        int found = 0;
        for (const char *b = text; !found && (b = strstr(b, before)) && b < q - strlen(after); b++)
            found = memcmp(b + strlen(before), q, answer) == 0;
        if (!found) fail_msg("no answer before '%.80s'", q - strlen(after));
    }
    return n;
}

static void every_question_has_its_answer_before_it(void **state)
{
    (void)state;
    int keys = 0, copies = 0, pairs = 0;
    for (uint64_t i = 0; i < 30; i++) {
        size_t n;
        char *p = make(3, i, 6000, &n);
        keys += answered(p, "was hidden in it?\nThe pass key is ", "*** THE PASS KEY ***\nThe pass key is ", 5);
        copies += answered(p, "Here is the line again: ", "Keep this line: ", 8);
        for (const char *q = p; (q = strstr(q, "What is the number of ")); q++, pairs++) {
            char sentence[128];
            const char *from = strchr(q, '?') + 2, *end = strchr(from, '\n');
            snprintf(sentence, sizeof sentence, "%.*s", (int)(end - from + 1), from);
            assert_true(strstr(p, sentence) < q);
        }
        free(p);
    }
    assert_in_range(keys, 20, 1000);
    assert_in_range(copies, 10, 1000);
    assert_in_range(pairs, 60, 10000);
}

static void what_cannot_be_made_is_refused(void **state)
{
    (void)state;
    char *p;
    size_t n;
    assert_refused(corpus_recall(filler(), FILLER, 1, 0, CORPUS_RECALL_LEAST - 1, &p, &n), KV_ERR_USAGE, "at least 1024");
    assert_refused(corpus_recall(filler(), 5000, 1, 0, 4000, &p, &n), KV_ERR_USAGE, "twice as many");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_fit_and_are_valid),
        cmocka_unit_test(seed_and_index_decide),
        cmocka_unit_test(every_question_has_its_answer_before_it),
        cmocka_unit_test(what_cannot_be_made_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
