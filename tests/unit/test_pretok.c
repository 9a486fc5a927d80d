/* The pre-tokenizers: where text is cut. Expected pieces follow from the patterns in
 * common/pretok.c, worked out by hand; test_tokenizer_golden compares with other implementations.
 */
#include "tests/unit/kvtest.h"

#include "common/bpe.h"
#include "common/rng.h"

/* Pieces of the text with '|' between them. */
static const char *cut(kv_pretok kind, const char *text, size_t n, char *out)
{
    size_t used = 0;
    for (size_t at = 0; at < n;) {
        const size_t step = kv_pretok_next(kind, text + at, n - at);
        assert_true(step > 0 && step <= n - at);
        if (at > 0) out[used++] = '|';
        memcpy(out + used, text + at, step);
        used += step;
        at += step;
    }
    out[used] = '\0';
    return out;
}

static void assert_cut(kv_pretok kind, const char *text, const char *wanted)
{
    char out[512];
    assert_string_equal(cut(kind, text, strlen(text), out), wanted);
}

static void both(const char *text, const char *wanted)
{
    assert_cut(KV_PRETOK_GPT2, text, wanted);
    assert_cut(KV_PRETOK_SMOLLM, text, wanted);
}

static void a_space_leads_the_word_behind_it(void **state)
{
    (void)state;
    both("one two", "one| two");
    both(" one", " one");
    both("a, b!", "a|,| b|!");
    both("a -- b", "a| --| b");
    both("\xc3\x89t\xc3\xa9 \xce\xb1", "\xc3\x89t\xc3\xa9| \xce\xb1");
}

static void white_space_keeps_its_last_character_for_the_word(void **state)
{
    (void)state;
    both("a  b", "a| | b");
    both("a   b", "a|  | b");
    both("a\nb", "a|\n|b");
    both("a\n\nb", "a|\n|\n|b");
    both("a \n b", "a| \n| b");
    both("a\t\tb", "a|\t|\t|b");
    both("a\n\xe3\x80\x80"
         "b",
         "a|\n|\xe3\x80\x80|b");
    both("a   ", "a|   ");
    both("  ", "  ");
    both(" ", " ");
}

static void contractions_are_lower_case_with_an_ascii_apostrophe(void **state)
{
    (void)state;
    both("I'm he'll we've they're it'd don't it's",
         "I|'m| he|'ll| we|'ve| they|'re| it|'d| don|'t| "
         "it|'s");
    both("I'M", "I|'|M");
    both("'tis", "'t|is");
    both("'lx", "'|lx");
    both("'r", "'|r");
    both(" 's", " '|s");
    both("it\xe2\x80\x99s", "it|\xe2\x80\x99|s");
    both("''s", "''|s");
}

static void numbers_stay_whole_for_gpt2_and_fall_into_digits_for_smollm(void **state)
{
    (void)state;
    assert_cut(KV_PRETOK_GPT2, "in 1871, 2", "in| 1871|,| 2");
    assert_cut(KV_PRETOK_SMOLLM, "in 1871, 2", "in| |1|8|7|1|,| |2");
    assert_cut(KV_PRETOK_GPT2, "a12b", "a|12|b");
    assert_cut(KV_PRETOK_SMOLLM, "a12b", "a|1|2|b");
    assert_cut(KV_PRETOK_SMOLLM, "\xc2\xbd\xe2\x85\xa7", "\xc2\xbd|\xe2\x85\xa7");
    assert_cut(KV_PRETOK_GPT2, "\xc2\xbd\xe2\x85\xa7", "\xc2\xbd\xe2\x85\xa7");
}

/* For smollm, white space in front of a digit ends "its" text and stays together. */
static void white_space_before_a_digit_is_one_piece_for_smollm(void **state)
{
    (void)state;
    assert_cut(KV_PRETOK_SMOLLM, "a   1", "a|   |1");
    assert_cut(KV_PRETOK_GPT2, "a   1", "a|  | 1");
    assert_cut(KV_PRETOK_SMOLLM, "a\n\n1", "a|\n\n|1");
    assert_cut(KV_PRETOK_GPT2, "a\n\n1", "a|\n|\n|1");
}

static void bytes_that_are_no_utf8_count_as_other_characters(void **state)
{
    (void)state;
    both("a\xff\xfe!b", "a|\xff\xfe!|b");
    both("a \x80", "a| \x80");
    both("\xe2\x82", "\xe2\x82");
}

static void any_bytes_are_cut_into_pieces_that_make_progress(void **state)
{
    (void)state;
    static const char alphabet[] = " \n'1as\xc3\xa9\xe2\x80\x99.";
    char text[40], out[128];
    for (uint64_t round = 0; round < 20000; round++) {
        const size_t n = 1 + kv_philox_below(7, round, 0, sizeof text - 1);
        for (size_t i = 0; i < n; i++)
            text[i] = alphabet[kv_philox_below(7, round, i + 1, sizeof alphabet - 1)];
        for (kv_pretok kind = KV_PRETOK_GPT2; kind <= KV_PRETOK_SMOLLM; kind++) {
            size_t used = 0;
            cut(kind, text, n, out);
            for (size_t i = 0; out[i]; i++)
                if (out[i] != '|') assert_int_equal(out[i], text[used++]);
            assert_int_equal(used, n);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_space_leads_the_word_behind_it),
        cmocka_unit_test(white_space_keeps_its_last_character_for_the_word),
        cmocka_unit_test(contractions_are_lower_case_with_an_ascii_apostrophe),
        cmocka_unit_test(numbers_stay_whole_for_gpt2_and_fall_into_digits_for_smollm),
        cmocka_unit_test(white_space_before_a_digit_is_one_piece_for_smollm),
        cmocka_unit_test(bytes_that_are_no_utf8_count_as_other_characters),
        cmocka_unit_test(any_bytes_are_cut_into_pieces_that_make_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
