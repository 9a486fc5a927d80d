/* Tokenizers as programs use them: token lists, the `bytes` kind, control and user tokens written
 * out in a text, bytes without a token, pieces, fingerprints. */
#include "tests/unit/modelkit.h"
#include "tests/unit/tinybpe.h"

#include "common/rng.h"

static void assert_ids(const kv_tokenizer *tok, const char *text, int special, const char *wanted)
{
    char got[256] = "";
    kv_tokens ids = {0};
    assert_ok(kv_tokenizer_encode(tok, text, strlen(text), special, &ids, NULL));
    for (int64_t i = 0; i < ids.n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids.v[i]);
    assert_string_equal(got, wanted);
    kv_tokens_free(&ids);
}

/* ---- lists of tokens ------------------------------------------------------------------------- */

static void a_list_keeps_its_ids_while_it_grows(void **state)
{
    (void)state;
    kv_tokens t = {0};
    for (int32_t i = 0; i < 1000; i++)
        assert_ok(kv_tokens_append(&t, &i, 1));
    assert_int_equal(t.n, 1000);
    assert_true(t.cap >= t.n);
    for (int32_t i = 0; i < 1000; i++)
        assert_int_equal(t.v[i], i);
    assert_ok(kv_tokens_append(&t, NULL, 0));
    kv_tokens_free(&t);
    assert_null(t.v);
    assert_int_equal(t.n + t.cap, 0);
}

static void a_list_refuses_impossible_sizes(void **state)
{
    (void)state;
    kv_tokens t = {0};
    assert_refused(kv_tokens_reserve(&t, INT64_MAX / 2), KV_ERR_NOMEM, "out of memory");
    assert_null(t.v);
    assert_ok(kv_tokens_reserve(&t, 10));
    t.n = 5;
    assert_refused(kv_tokens_reserve(&t, INT64_MAX - 4), KV_ERR_NOMEM, "out of memory");
    assert_int_equal(t.n, 5);
    kv_tokens_free(&t);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void bytes_follow_four_special_ids(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    kv_tokens ids = {0};
    uint64_t dropped = 0;
    char text[256];
    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    assert_ok(kv_tokenizer_bytes(&tok));
    assert_string_equal(kv_tokenizer_kind(tok), "bytes");
    assert_int_equal(kv_tokenizer_vocab(tok), 260);
    assert_ok(kv_tokenizer_encode(tok, text, sizeof text, 1, &ids, &dropped));
    assert_int_equal(ids.n, 256);
    assert_int_equal(dropped, 0);
    for (int i = 0; i < 256; i++) {
        size_t n;
        assert_int_equal(ids.v[i], 4 + i);
        assert_memory_equal(kv_tokenizer_piece(tok, ids.v[i], &n), &text[i], 1);
        assert_int_equal(n, 1);
    }
    kv_tokens_free(&ids);
    assert_ids(tok, "<eos>", 1, "64 105 115 119 66"); /* its special tokens have no spelling */
    kv_tokenizer_free(tok);
}

static void pieces_out_of_range_are_null(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    size_t n = 99;
    assert_ok(kv_tokenizer_bytes(&tok));
    assert_null(kv_tokenizer_piece(tok, -1, &n));
    assert_int_equal(n, 0);
    assert_null(kv_tokenizer_piece(tok, 260, &n));
    assert_null(kv_tokenizer_piece(tok, INT32_MIN, &n));
    assert_memory_equal(kv_tokenizer_piece(tok, 2, &n), "<eos>", n);
    assert_int_equal(n, 5);
    kv_tokenizer_free(tok);
    kv_tokenizer_free(NULL);
}

/* ---- marks ----------------------------------------------------------------------------------- */

static const char *const tokens[] = {"a",   "b",    "c",   "<",      ">", "ab",
                                     "<e>", "<e>>", "<u>", "\u0120", NULL};
static const char *const merges[] = {"a b", NULL};
static const int32_t types[] = {1, 1, 1, 1, 1, 1, KV_TOKEN_CONTROL, KV_TOKEN_CONTROL, KV_TOKEN_USER,
                                1};
static const tinybpe marked = {.tokens = tokens, .merges = merges, .types = types};

static void control_tokens_are_matched_only_when_asked_for(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    assert_ok(tinybpe_open(&marked, &tok));
    assert_string_equal(kv_tokenizer_kind(tok), "bpe/smollm");
    assert_ids(tok, "a<e>b", 1, "0 6 1"); /* and nothing merges across */
    assert_ids(tok, "<e><e>", 1, "6 6");
    assert_ids(tok, "a<", 1, "0 3");
    kv_tokens ids = {0};
    uint64_t dropped = 0;
    assert_ok(kv_tokenizer_encode(tok, "a<e>b", 5, 0, &ids, &dropped));
    assert_int_equal(ids.n, 4);
    assert_int_equal(dropped, 1); /* the letter e has no token of its own */
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
}

static void the_longest_mark_wins_and_user_tokens_always_match(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    assert_ok(tinybpe_open(&marked, &tok));
    assert_ids(tok, "<e>>", 1, "7");
    assert_ids(tok, "<e>>>", 1, "7 4");
    assert_ids(tok, "ab<u>ab", 0, "5 8 5");
    assert_ids(tok, "<u><e>", 1, "8 6");
    kv_tokenizer_free(tok);
}

static void control_and_normal_pieces_decode(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    size_t n;
    assert_ok(tinybpe_open(&marked, &tok));
    assert_memory_equal(kv_tokenizer_piece(tok, 9, &n), " ", 1);
    assert_int_equal(n, 1);
    assert_memory_equal(kv_tokenizer_piece(tok, 7, &n), "<e>>", 4);
    assert_int_equal(n, 4);
    kv_tokenizer_free(tok);
}

static void dropped_bytes_are_counted_and_neighbours_merge(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    kv_tokens ids = {0};
    uint64_t dropped = 40;
    assert_ok(tinybpe_open(&marked, &tok));
    assert_ok(kv_tokenizer_encode(tok, "aXYb", 4, 0, &ids, &dropped));
    assert_int_equal(dropped, 42); /* added to what was there */
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.v[0], 5);
    assert_ok(kv_tokenizer_encode(tok, "zzz", 3, 0, &ids, NULL));
    assert_int_equal(ids.n, 1); /* appended nothing */
    assert_ok(kv_tokenizer_encode(tok, "", 0, 0, &ids, &dropped));
    assert_int_equal(ids.n, 1);
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
}

static void without_types_every_token_is_text(void **state)
{
    (void)state;
    tinybpe t = marked;
    kv_tokenizer *tok = NULL;
    t.types = NULL;
    t.pre = "gpt-2";
    assert_ok(tinybpe_open(&t, &tok));
    assert_string_equal(kv_tokenizer_kind(tok), "bpe/gpt-2");
    assert_ids(tok, "<u>", 1, "3 4");
    kv_tokenizer_free(tok);
}

/* ---- bytes of a token ------------------------------------------------------------------------ */

static void tokens_count_the_bytes_of_the_text(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    assert_ok(kv_tokenizer_bytes(&tok));
    assert_int_equal(kv_tokenizer_bytes_of(tok, 1, 4 + ' '), 1);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 4 + 'a', 4 + 'b'), 1);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 4 + 'a', 1), 0);
    assert_int_equal(kv_tokenizer_token_bytes(tok, 3).boundary, 1);
    assert_int_equal(kv_tokenizer_token_bytes(tok, 4).boundary, 0);
    assert_int_equal(kv_tokenizer_token_bytes(tok, 260).boundary, 1);
    assert_int_equal(kv_tokenizer_token_bytes(tok, -1).boundary, 1);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 4, 260), 0);
    kv_tokenizer_free(tok);
    assert_ok(tinybpe_open(&marked, &tok));
    assert_int_equal(kv_tokenizer_bytes_of(tok, 0, 5), 2); /* ab */
    assert_int_equal(kv_tokenizer_bytes_of(tok, 6, 9), 1); /* a space, also behind a control token */
    assert_int_equal(kv_tokenizer_bytes_of(tok, 0, 6), 0);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 0, 8), 3); /* a user token is text */
    kv_tokenizer_free(tok);
}

/* ---- fingerprints ---------------------------------------------------------------------------- */

static void assert_other_fingerprint(const kv_tokenizer *tok, const tinybpe *t)
{
    kv_tokenizer *other = NULL;
    assert_ok(tinybpe_open(t, &other));
    assert_memory_not_equal(kv_tokenizer_fingerprint(tok), kv_tokenizer_fingerprint(other), 32);
    kv_tokenizer_free(other);
}

static void the_fingerprint_depends_on_all_that_decides_ids(void **state)
{
    (void)state;
    static const char *const other_tokens[] = {"a",   "b",    "c",   "<",      ">", "ab",
                                               "<f>", "<e>>", "<u>", "\u0120", NULL};
    static const char *const bc[] = {"a",  "b",    "c",   "<",      ">", "ab",
                                     "bc", "<e>>", "<u>", "\u0120", NULL};
    static const char *const two[] = {"a b", "b c", NULL}, *const swapped[] = {"b c", "a b", NULL};
    static const int32_t plain[] = {1, 1, 1, 1, 1, 1, 1, 3, 4, 1};
    kv_tokenizer *tok = NULL, *again = NULL;
    assert_ok(tinybpe_open(&marked, &tok));
    assert_ok(tinybpe_open(&marked, &again));
    assert_memory_equal(kv_tokenizer_fingerprint(tok), kv_tokenizer_fingerprint(again), 32);
    kv_tokenizer_free(again);
    tinybpe t = marked;
    t.tokens = other_tokens;
    assert_other_fingerprint(tok, &t);
    t = marked;
    t.types = plain;
    assert_other_fingerprint(tok, &t);
    t = marked;
    t.pre = "gpt-2";
    assert_other_fingerprint(tok, &t);
    kv_tokenizer_free(tok);
    t = marked;
    t.tokens = bc;
    t.merges = two;
    assert_ok(tinybpe_open(&t, &tok));
    t.merges = swapped;
    assert_other_fingerprint(tok, &t);
    kv_tokenizer_free(tok);
    assert_ok(kv_tokenizer_bytes(&tok));
    assert_other_fingerprint(tok, &marked);
    kv_tokenizer_free(tok);
}

/* ---- the real vocabulary --------------------------------------------------------------------- */

static void pieces_of_the_model_put_random_text_together_again(void **state)
{
    (void)state;
    kv_tokenizer *tok = modelkit_tokenizer();
    modelkit_need(tok);
    static const char alphabet[] =
        "  \n\tetaoinshr''0123.,;-\"(XYZ\xc3\xa9\xe2\x80\x94\xe6\xbc\xa2";
    for (uint64_t round = 0; round < 2000; round++) {
        char text[64];
        kv_tokens ids = {0};
        uint64_t dropped = 0;
        size_t at = 0;
        for (size_t i = 0; i < sizeof text; i++)
            text[i] = alphabet[kv_philox_below(11, round, i, sizeof alphabet - 1)];
        assert_ok(kv_tokenizer_encode(tok, text, sizeof text, 0, &ids, &dropped));
        assert_int_equal(dropped, 0);
        for (int64_t i = 0; i < ids.n; i++) {
            size_t n;
            const char *p = kv_tokenizer_piece(tok, ids.v[i], &n);
            assert_true(n <= sizeof text - at);
            assert_memory_equal(p, text + at, n);
            at += n;
        }
        assert_int_equal(at, sizeof text);
        kv_tokens_free(&ids);
    }
    kv_tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_keeps_its_ids_while_it_grows),
        cmocka_unit_test(a_list_refuses_impossible_sizes),
        cmocka_unit_test(bytes_follow_four_special_ids),
        cmocka_unit_test(pieces_out_of_range_are_null),
        cmocka_unit_test(control_tokens_are_matched_only_when_asked_for),
        cmocka_unit_test(the_longest_mark_wins_and_user_tokens_always_match),
        cmocka_unit_test(control_and_normal_pieces_decode),
        cmocka_unit_test(dropped_bytes_are_counted_and_neighbours_merge),
        cmocka_unit_test(without_types_every_token_is_text),
        cmocka_unit_test(tokens_count_the_bytes_of_the_text),
        cmocka_unit_test(the_fingerprint_depends_on_all_that_decides_ids),
        cmocka_unit_test(pieces_of_the_model_put_random_text_together_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
