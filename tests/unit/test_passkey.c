/* Retrieval documents: exact lengths, the key where it was asked for, the answer that follows, and
 * the scorer. Everything is checked for the tokenizer of bytes and, where a model is there, for its
 * own. */
#include "tests/unit/modelkit.h"
#include "tests/unit/tinybpe.h"

#include "common/utf8.h"
#include "corpus/internal.h"

static kv_tokenizer *bytes, *model;

static int open_tokenizers(void **state)
{
    (void)state;
    assert_ok(kv_tokenizer_bytes(&bytes));
    model = modelkit_tokenizer();
    return 0;
}

static int close_tokenizers(void **state)
{
    (void)state;
    kv_tokenizer_free(bytes);
    kv_tokenizer_free(model);
    return 0;
}

/* The bytes that tokens from .. to stand for, zero-terminated; the caller frees them. */
static char *text_of(const kv_tokenizer *tok, const kv_tokens *t, int64_t from, int64_t to,
                     size_t *size)
{
    size_t used = 0, cap = 1;
    for (int64_t i = from; i < to; i++) {
        size_t n;
        assert_non_null(kv_tokenizer_piece(tok, t->v[i], &n));
        cap += n;
    }
    char *p = malloc(cap);
    assert_non_null(p);
    for (int64_t i = from; i < to; i++) {
        size_t n;
        const char *piece = kv_tokenizer_piece(tok, t->v[i], &n);
        memcpy(p + used, piece, n);
        used += n;
    }
    p[used] = '\0';
    *size = used;
    return p;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

typedef void check_fn(const kv_tokenizer *tok, const corpus_trial *t, const corpus_stream *s);

/* Calls the check for every document of a grid. */
static void for_each(const kv_tokenizer *tok, const char *spec, check_fn *check)
{
    corpus *c = NULL;
    assert_ok(corpus_open(spec, &c));
    assert_true(corpus_get_info(c)->n_docs > 0);
    for (int32_t i = 0; i < corpus_get_info(c)->n_docs; i++) {
        corpus_stream s;
        assert_ok(corpus_tokens(c, i, tok, NULL, 0, &s));
        check(tok, &c->items[i].trial, &s);
        corpus_stream_free(&s);
    }
    corpus_close(c);
}

/* ---- documents ------------------------------------------------------------------------------- */

/* The whole prompt is valid text of exactly the length; the key block names the key six times and
 * nothing else does; the prompt ends in the question. */
static void check_text(const kv_tokenizer *tok, const corpus_trial *t, const corpus_stream *s)
{
    const corpus_passkey *k = &s->passkey;
    size_t n;
    assert_int_equal(s->is_passkey, 1);
    assert_int_equal(s->tokens.n, t->len);
    assert_int_equal(s->dropped_bytes, 0);
    assert_int_equal(k->n_digits, 5);
    assert_int_equal(strlen(k->digits), 5);
    assert_true(atoi(k->digits) >= 10000 && atoi(k->digits) <= 99999);
    assert_int_equal(k->depth_ppm, t->depth_ppm);
    char *all = text_of(tok, &s->tokens, 0, s->tokens.n, &n);
    assert_ok(kv_utf8_check(all, n, "prompt"));
    assert_int_equal(count(all, k->digits), 6);
    assert_memory_equal(all, "A pass key of five digits", 25);
    const char *end = strrchr(all, '\n') + 1;
    assert_true(strcmp(end, "The pass key is ") == 0 || strcmp(end, "The pass key is") == 0);
    free(all);
    char *block = text_of(tok, &s->tokens, k->insert_pos, k->key_end, &n);
    assert_int_equal(count(block, k->digits), 6);
    assert_memory_equal(block, "\n\n*** THE PASS KEY ***\n", 23);
    assert_string_equal(strrchr(block, '*') + 1, "\n\n");
    free(block);
}

/* The key block lies in the filler at the wanted share, moved back by less than a word. */
static void check_depth(const kv_tokenizer *tok, const corpus_trial *t, const corpus_stream *s)
{
    const corpus_passkey *k = &s->passkey;
    size_t n;
    int64_t open = 0, ask = s->tokens.n;
    char *all = text_of(tok, &s->tokens, 0, s->tokens.n, &n);
    const size_t opening = (size_t)(strstr(all, "at the end.\n\n") - all) + 13;
    const size_t question = (size_t)(strstr(all, "\n\nHere the text ends.") - all);
    free(all);
    for (size_t at = 0, i = 0; at < question; i++) {
        if (at <= opening) open = (int64_t)i;
        ask = (int64_t)i + 1;
        kv_tokenizer_piece(tok, s->tokens.v[i], &n);
        at += n;
    }
    const int64_t filler = ask - open - (k->key_end - k->insert_pos);
    const double wanted = (double)filler * t->depth_ppm / 1e6;
    const double got = (double)(k->insert_pos - open);
    if (got > wanted + 1.5 || got < wanted - 40)
        fail_msg("len %lld depth %d: key at %g of %lld, wanted %g", (long long)t->len, t->depth_ppm,
                 got, (long long)filler, wanted);
    if (t->depth_ppm == 0) assert_int_equal(k->insert_pos, open);
    if (t->depth_ppm == 1000000) assert_int_equal(k->key_end, ask);
}

/* Prompt and answer together end as the text that asks and answers; the answer shows the key. */
static void check_answer(const kv_tokenizer *tok, const corpus_trial *t, const corpus_stream *s)
{
    (void)t;
    size_t n;
    char found[8];
    assert_true(s->answer.n > 0);
    char *answer = text_of(tok, &s->answer, 0, s->answer.n, &n);
    char *end = text_of(tok, &s->tokens, s->tokens.n - 4, s->tokens.n, &n);
    char both[256];
    snprintf(both, sizeof both, "%s%s", end, answer);
    assert_non_null(strstr(both, "s "));
    assert_string_equal(both + strlen(both) - 5, s->passkey.digits);
    assert_int_equal(both[strlen(both) - 6], ' ');
    assert_int_equal(corpus_passkey_score(&s->passkey, answer, strlen(answer), found), 5);
    free(end);
    free(answer);
}

#define GRID_BYTES "passkey:len=1024/1025/1500/5000,depth=0/0.5/33.3333/50/99/100,seeds=3"
#define GRID_MODEL "passkey:len=256/1024/2049/20000,depth=0/0.5/33.3333/50/99/100,seeds=3"

static void prompts_of_bytes_have_exact_length_and_text(void **state)
{
    (void)state;
    for_each(bytes, GRID_BYTES, check_text);
    for_each(bytes, GRID_BYTES, check_depth);
    for_each(bytes, GRID_BYTES, check_answer);
}

static void prompts_of_the_model_have_exact_length_and_text(void **state)
{
    (void)state;
    modelkit_need(model);
    for_each(model, GRID_MODEL, check_text);
    for_each(model, GRID_MODEL, check_depth);
    for_each(model, GRID_MODEL, check_answer);
}

static void every_length_from_the_least_is_exact(void **state)
{
    (void)state;
    corpus *c = NULL;
    corpus_stream s;
    char spec[64];
    long long least = 0;
    assert_ok(corpus_open("passkey:len=64", &c));
    assert_refused(corpus_tokens(c, 0, bytes, NULL, 0, &s), KV_ERR_USAGE, "len=64 is too short");
    assert_int_equal(sscanf(strstr(kv_message(), "the least is"), "the least is len=%lld", &least),
                     1);
    assert_true(least > 64 && least < 1024);
    corpus_close(c);
    for (long long len = least - 1; len < least + 200; len++) {
        snprintf(spec, sizeof spec, "passkey:len=%lld,depth=70", len);
        assert_ok(corpus_open(spec, &c));
        const kv_status st = corpus_tokens(c, 0, bytes, NULL, 0, &s);
        assert_int_equal(st, len < least ? KV_ERR_USAGE : KV_OK);
        if (st == KV_OK) check_text(bytes, &(corpus_trial){len, 700000, 0}, &s);
        corpus_stream_free(&s);
        corpus_close(c);
    }
}

static void documents_are_made_of_tokens_and_have_no_text(void **state)
{
    (void)state;
    corpus *c = NULL;
    const char *text;
    size_t n;
    assert_ok(corpus_open("passkey:len=1k/2k,depth=0/12.5,seeds=2", &c));
    const corpus_info *info = corpus_get_info(c);
    assert_string_equal(info->generator, "passkey");
    assert_int_equal(info->n_docs, 8);
    assert_string_equal(corpus_get_doc(c, 0)->name, "len1024-depth0-seed0");
    assert_string_equal(corpus_get_doc(c, 3)->name, "len1024-depth12.5-seed1");
    assert_string_equal(corpus_get_doc(c, 7)->name, "len2048-depth12.5-seed1");
    assert_int_equal(corpus_get_doc(c, 0)->n_bytes, 0);
    assert_int_equal(corpus_get_doc(c, 0)->n_words, -1);
    assert_refused(corpus_text(c, 0, &text, &n), KV_ERR_UNSUPPORTED, "made of tokens");
    for (int32_t i = 0; i < 8; i++)
        for (int32_t j = 0; j < i; j++)
            assert_memory_not_equal(corpus_get_doc(c, i)->text_sha, corpus_get_doc(c, j)->text_sha,
                                    32);
    corpus_close(c);
}

/* A document is the same in every grid that it is part of, and on every call. */
static void a_document_does_not_depend_on_its_grid(void **state)
{
    (void)state;
    corpus *one = NULL, *many = NULL;
    corpus_stream a, b;
    assert_ok(corpus_open("passkey:len=1k,depth=25,seeds=2", &one));
    assert_ok(corpus_open("passkey:len=2k/1k,depth=0/25,seeds=4", &many));
    assert_string_equal(corpus_get_doc(one, 1)->name, corpus_get_doc(many, 13)->name);
    assert_memory_equal(corpus_get_doc(one, 1)->text_sha, corpus_get_doc(many, 13)->text_sha, 32);
    assert_ok(corpus_tokens(one, 1, bytes, NULL, 0, &a));
    assert_ok(corpus_tokens(many, 13, bytes, NULL, 7, &b)); /* passkey documents are never cut */
    assert_memory_equal(a.token_sha, b.token_sha, 32);
    assert_int_equal(b.tokens.n, 1024);
    corpus_stream_free(&a);
    corpus_stream_free(&b);
    corpus_close(one);
    corpus_close(many);
}

static void seeds_have_keys_and_fillers_of_their_own(void **state)
{
    (void)state;
    enum { SEEDS = 100 };
    corpus *c = NULL;
    int same_key = 0, same_filler = 0;
    static char keys[SEEDS][8];
    static uint8_t fillers[SEEDS][200];
    assert_ok(corpus_open("passkey:len=1k,depth=100,seeds=100", &c));
    for (int i = 0; i < SEEDS; i++) {
        corpus_stream s;
        size_t n;
        assert_ok(corpus_tokens(c, i, bytes, NULL, 0, &s));
        memcpy(keys[i], s.passkey.digits, sizeof keys[i]);
        char *text =
            text_of(bytes, &s.tokens, s.passkey.insert_pos - 200, s.passkey.insert_pos, &n);
        memcpy(fillers[i], text, 200);
        free(text);
        for (int k = 0; k < i; k++) {
            same_key += strcmp(keys[i], keys[k]) == 0;
            same_filler += memcmp(fillers[i], fillers[k], 200) == 0;
        }
        corpus_stream_free(&s);
    }
    corpus_close(c);
    assert_true(same_key <= 2);      /* of 4950 pairs; 0.055 expected */
    assert_true(same_filler <= 100); /* some 260 paragraphs to start from: 19 expected */
}

/* One row of the grid differs from the next in nothing but where the key stands. */
static void documents_of_one_seed_share_key_and_filler(void **state)
{
    (void)state;
    corpus *c = NULL;
    corpus_stream a, b;
    assert_ok(corpus_open("passkey:len=2k,depth=0/60,seeds=1", &c));
    assert_ok(corpus_tokens(c, 0, bytes, NULL, 0, &a));
    assert_ok(corpus_tokens(c, 1, bytes, NULL, 0, &b));
    assert_string_equal(a.passkey.digits, b.passkey.digits);
    const int64_t open = a.passkey.insert_pos, block = a.passkey.key_end - open;
    const int64_t moved = b.passkey.insert_pos - open;
    assert_true(moved > 500);
    assert_memory_equal(a.tokens.v, b.tokens.v, (size_t)open * 4);
    assert_memory_equal(a.tokens.v + open, b.tokens.v + open + moved, (size_t)block * 4);
    assert_memory_equal(a.tokens.v + open + block, b.tokens.v + open, (size_t)moved * 4);
    assert_memory_equal(a.tokens.v + open + block + moved, b.tokens.v + open + moved + block,
                        (size_t)(a.tokens.n - open - block - moved) * 4);
    corpus_stream_free(&a);
    corpus_stream_free(&b);
    corpus_close(c);
}

static void a_tokenizer_without_digits_or_line_feeds_is_refused(void **state)
{
    (void)state;
    static const char *const letters[] = {"a", "e", "\u0120", "t", NULL};
    static const char *const digits[] = {"0", "1", "2", "3", "4", "5",
                                         "6", "7", "8", "9", "e", NULL};
    static const char *const none[] = {NULL};
    kv_tokenizer *tok = NULL;
    corpus *c = NULL;
    corpus_stream s;
    tinybpe t = {.tokens = letters, .merges = none};
    assert_ok(corpus_open("passkey:len=2k", &c));
    assert_ok(tinybpe_open(&t, &tok));
    assert_refused(corpus_tokens(c, 0, tok, NULL, 0, &s), KV_ERR_UNSUPPORTED,
                   "has no tokens for digits");
    kv_tokenizer_free(tok);
    t.tokens = digits;
    assert_ok(tinybpe_open(&t, &tok));
    assert_refused(corpus_tokens(c, 0, tok, NULL, 0, &s), KV_ERR_UNSUPPORTED,
                   "has no token for a line feed");
    kv_tokenizer_free(tok);
    corpus_close(c);
}

/* ---- scoring --------------------------------------------------------------------------------- */

static void the_score_counts_equal_digits_at_equal_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *found;
        int32_t score;
    } cases[] = {
        {"39384", "39384", 5},     {" 39384.\n", "39384", 5},   {"is 3, 9, 3, 8 and 4", "39384", 5},
        {"393841111", "39384", 5}, {"93840", "93840", 0},       {"39385", "39385", 4},
        {"3", "3----", 1},         {"x", "-----", 0},           {"", "-----", 0},
        {"0939384", "09393", 2}, /* only the first five digits count */
        {"00000", "00000", 0},     {"\xd9\xa3 39", "39---", 2}, /* an Arabic digit is none of ours
                                                                 */
    };
    const corpus_passkey k = {.n_digits = 5, .digits = "39384"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char found[6];
        memset(found, 'X', sizeof found);
        assert_int_equal(corpus_passkey_score(&k, cases[i].text, strlen(cases[i].text), found),
                         cases[i].score);
        assert_string_equal(found, cases[i].found);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_of_bytes_have_exact_length_and_text),
        cmocka_unit_test(prompts_of_the_model_have_exact_length_and_text),
        cmocka_unit_test(every_length_from_the_least_is_exact),
        cmocka_unit_test(documents_are_made_of_tokens_and_have_no_text),
        cmocka_unit_test(a_document_does_not_depend_on_its_grid),
        cmocka_unit_test(seeds_have_keys_and_fillers_of_their_own),
        cmocka_unit_test(documents_of_one_seed_share_key_and_filler),
        cmocka_unit_test(a_tokenizer_without_digits_or_line_feeds_is_refused),
        cmocka_unit_test(the_score_counts_equal_digits_at_equal_place),
    };
    return cmocka_run_group_tests(tests, open_tokenizers, close_tokenizers);
}
