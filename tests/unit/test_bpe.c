/* Byte-level BPE: merging against the definition carried out literally, and what the reader of
 * vocabularies accepts and refuses. */
#include "tests/unit/tinybpe.h"

#include "common/rng.h"

/* ---- merging --------------------------------------------------------------------------------- */

enum { LETTERS = 4, MERGES = 60, TOKEN_MAX = 64 };

/* Letters a to d and random merges of tokens that are already there. */
typedef struct lexicon {
    char text[LETTERS + MERGES][TOKEN_MAX];
    char merge[MERGES][2 * TOKEN_MAX];
    const char *tokens[LETTERS + MERGES + 1], *merges[MERGES + 1];
    int left[MERGES], right[MERGES], makes[MERGES];
    int n, n_merges;
} lexicon;

static int find(const lexicon *l, const char *text)
{
    for (int i = 0; i < l->n; i++)
        if (strcmp(l->text[i], text) == 0) return i;
    return -1;
}

static int has_merge(const lexicon *l, int a, int b)
{
    for (int m = 0; m < l->n_merges; m++)
        if (l->left[m] == a && l->right[m] == b) return 1;
    return 0;
}

/* Different pairs may make the same token: also two ranks for one text. */
static void add_merge(lexicon *l, int a, int b)
{
    char text[2 * TOKEN_MAX], rule[2 * TOKEN_MAX];
    snprintf(text, sizeof text, "%s%s", l->text[a], l->text[b]);
    snprintf(rule, sizeof rule, "%s %s", l->text[a], l->text[b]);
    if (strlen(text) >= 12 || has_merge(l, a, b)) return;
    const int m = l->n_merges++;
    l->left[m] = a;
    l->right[m] = b;
    l->makes[m] = find(l, text);
    if (l->makes[m] < 0) {
        l->makes[m] = l->n;
        strcpy(l->text[l->n++], text);
    }
    memcpy(l->merge[m], rule, sizeof rule);
}

static void make_lexicon(lexicon *l, uint64_t seed)
{
    memset(l, 0, sizeof *l);
    for (; l->n < LETTERS; l->n++)
        l->text[l->n][0] = (char)('a' + l->n);
    for (uint64_t k = 0; l->n_merges < MERGES; k += 2) {
        const uint32_t n = (uint32_t)l->n;
        add_merge(l, (int)kv_philox_below(seed, 1, k, n), (int)kv_philox_below(seed, 1, k + 1, n));
    }
    for (int i = 0; i < l->n; i++)
        l->tokens[i] = l->text[i];
    for (int m = 0; m < l->n_merges; m++)
        l->merges[m] = l->merge[m];
}

/* The definition: the leftmost of the pairs of lowest rank is merged until none has a merge. */
static int merge_slowly(const lexicon *l, int *ids, int n)
{
    for (;;) {
        int best = l->n_merges, at = -1;
        for (int i = 0; i + 1 < n; i++)
            for (int m = 0; m < best; m++)
                if (l->left[m] == ids[i] && l->right[m] == ids[i + 1]) {
                    best = m;
                    at = i;
                }
        if (at < 0) return n;
        ids[at] = l->makes[best];
        memmove(ids + at + 1, ids + at + 2, (size_t)(n - at - 2) * sizeof *ids);
        n--;
    }
}

static void random_vocabularies_merge_as_the_definition_does(void **state)
{
    (void)state;
    static lexicon l;
    for (uint64_t seed = 0; seed < 40; seed++) {
        kv_tokenizer *tok = NULL;
        make_lexicon(&l, seed);
        const tinybpe t = {.tokens = l.tokens, .merges = l.merges};
        assert_ok(tinybpe_open(&t, &tok));
        for (uint64_t round = 0; round < 50; round++) {
            char text[200];
            int ids[200];
            const int n = 1 + (int)kv_philox_below(seed, 2, round, 199);
            for (int i = 0; i < n; i++) {
                ids[i] = (int)kv_philox_below(seed, 3 + round, (uint64_t)i, LETTERS);
                text[i] = (char)('a' + ids[i]);
            }
            kv_tokens got = {0};
            assert_ok(kv_tokenizer_encode(tok, text, (size_t)n, 0, &got, NULL));
            const int wanted = merge_slowly(&l, ids, n);
            assert_int_equal(got.n, wanted);
            for (int i = 0; i < wanted; i++)
                assert_int_equal(got.v[i], ids[i]);
            kv_tokens_free(&got);
        }
        kv_tokenizer_free(tok);
    }
}

static const char *const letters[] = {"a", "b", "c", "ab", "bc", "abc", "<e>", NULL};
static const char *const merges[] = {"b c", "a b", "a bc", NULL};
static const int32_t types[] = {1, 1, 1, 1, 1, 1, KV_TOKEN_CONTROL, 1};
static const tinybpe good = {.tokens = letters, .merges = merges, .types = types, .eos = 6};

static void assert_ids(const kv_tokenizer *tok, const char *text, const char *wanted)
{
    char got[256] = "";
    kv_tokens ids = {0};
    assert_ok(kv_tokenizer_encode(tok, text, strlen(text), 0, &ids, NULL));
    for (int64_t i = 0; i < ids.n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids.v[i]);
    assert_string_equal(got, wanted);
    kv_tokens_free(&ids);
}

/* Worked by hand: "b c" comes before "a b", so abc is a+bc, then abc; ab alone is still merged. */
static void lower_rank_goes_first_and_equal_ranks_from_the_left(void **state)
{
    (void)state;
    kv_tokenizer *tok = NULL;
    assert_ok(tinybpe_open(&good, &tok));
    assert_ids(tok, "abc", "5");
    assert_ids(tok, "ab", "3");
    assert_ids(tok, "abab", "3 3");
    assert_ids(tok, "aabcb", "0 5 1");
    assert_ids(tok, "bcbc", "4 4");
    assert_ids(tok, "cba", "2 1 0");
    kv_tokenizer_free(tok);
    const char *const aa[] = {"a", "aa", NULL}, *const rule[] = {"a a", NULL};
    const tinybpe pairs = {.tokens = aa, .merges = rule};
    assert_ok(tinybpe_open(&pairs, &tok));
    assert_ids(tok, "aaaaa", "1 1 0");
    kv_tokenizer_free(tok);
}

static void a_word_of_a_megabyte_takes_no_quadratic_time(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    kv_tokenizer *tok = NULL;
    kv_tokens ids = {0};
    char *text = malloc(N);
    assert_non_null(text);
    for (int i = 0; i < N; i++)
        text[i] = "abc"[i % 3];
    assert_ok(tinybpe_open(&good, &tok));
    assert_ok(kv_tokenizer_encode(tok, text, N, 0, &ids, NULL));
    assert_int_equal(ids.n, N / 3 + 1); /* N = 3 k + 1: the last is an a */
    for (int64_t i = 0; i < ids.n; i++)
        assert_int_equal(ids.v[i], i + 1 < ids.n ? 5 : 0);
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
    free(text);
}

/* ---- the alphabet of bytes ------------------------------------------------------------------- */

static void the_alphabet_of_bytes_is_one_to_one(void **state)
{
    (void)state;
    int seen[0x200] = {0};
    for (int b = 0; b < 256; b++) {
        const uint32_t c = kv_bpe_byte_char((uint8_t)b);
        assert_true(c < 0x144 && !seen[c]);
        seen[c] = 1;
        assert_int_equal(kv_bpe_char_byte(c), b);
    }
    assert_int_equal(kv_bpe_byte_char('!'), '!');
    assert_int_equal(kv_bpe_byte_char('\n'), 0x10a);
    assert_int_equal(kv_bpe_byte_char(' '), 0x120);
    assert_int_equal(kv_bpe_byte_char(0xad), 0x143);
    assert_int_equal(kv_bpe_char_byte(' '), -1);
    assert_int_equal(kv_bpe_char_byte(0x144), -1);
    assert_int_equal(kv_bpe_char_byte(0x10ffff), -1);
}

/* ---- bad files ------------------------------------------------------------------------------- */

static void refused(const tinybpe *t, kv_status status, const char *words)
{
    kv_tokenizer *tok = NULL;
    assert_refused(tinybpe_open(t, &tok), status, words);
    assert_null(tok);
    assert_int_equal(strncmp(kv_message(), "tiny.gguf: ", 11), 0);
}

static void other_tokenizers_are_refused_by_name(void **state)
{
    (void)state;
    tinybpe t = good;
    t.model = "bert";
    refused(&t, KV_ERR_UNSUPPORTED, "tokenizer model 'bert'");
    t = good;
    t.pre = "qwen2";
    refused(&t, KV_ERR_UNSUPPORTED, "pre-tokenizer 'qwen2'");
}

static void bad_merges_are_refused_with_their_rank(void **state)
{
    (void)state;
    static const struct {
        const char *bad, *words;
    } cases[] = {
        {"x b", "merge 1 'x b' starts with a token that the vocabulary lacks"},
        {"a x", "merge 1 'a x' ends with a token that the vocabulary lacks"},
        {"a c", "merge 1 'a c' makes a token that the vocabulary lacks"},
        {"b c", "merge 1 'b c' is there twice"},
        {"ab", "merge 1 'ab' is not two tokens with one space"},
        {"a b c", "merge 1 'a b c' is not two tokens with one space"},
        {" b", "merge 1 ' b' is not two tokens with one space"},
        {"a ", "merge 1 'a ' is not two tokens with one space"},
        {"", "merge 1 '' is not two tokens with one space"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const list[] = {"b c", cases[i].bad, NULL};
        tinybpe t = good;
        t.merges = list;
        refused(&t, KV_ERR_FORMAT, cases[i].words);
    }
    tinybpe t = good;
    t.no_merges = 1;
    refused(&t, KV_ERR_FORMAT, "tokenizer.ggml.merges");
}

static void bad_vocabularies_are_refused_with_the_token(void **state)
{
    (void)state;
    const char *const twice[] = {"a", "b", "a", NULL}, *const empty[] = {"a", "", NULL};
    const char *const none[] = {NULL};
    tinybpe t = {.tokens = twice, .merges = none};
    refused(&t, KV_ERR_FORMAT, "tokens 0 and 2 are both 'a'");
    t.tokens = empty;
    refused(&t, KV_ERR_FORMAT, "token 1 is empty");
    t.tokens = none;
    refused(&t, KV_ERR_FORMAT, "the vocabulary has 0 entries");
}

static void bad_types_and_ids_are_refused(void **state)
{
    (void)state;
    static const int32_t wild[] = {1, 1, 7, 1, 1, 1, 3}, zero[] = {0, 1, 1, 1, 1, 1, 3};
    tinybpe t = good;
    t.more_types = 1;
    refused(&t, KV_ERR_FORMAT, "tokenizer.ggml.token_type has 8 entries for 7 tokens");
    t.more_types = -1;
    refused(&t, KV_ERR_FORMAT, "tokenizer.ggml.token_type has 6 entries for 7 tokens");
    t = good;
    t.types = wild;
    refused(&t, KV_ERR_FORMAT, "token 2 has type 7");
    t.types = zero;
    refused(&t, KV_ERR_FORMAT, "token 0 has type 0");
    t = good;
    t.eos = 7;
    refused(&t, KV_ERR_FORMAT, "tokenizer.ggml.eos_token_id is 7, but there are 7 tokens");
}

/* Every file that ends early is refused, by the reader of the file or by that of the vocabulary. */
static void files_cut_off_anywhere_are_refused(void **state)
{
    (void)state;
    gguf_build b;
    tinybpe_build(&good, &b);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, b.p, n);
        kv_gguf *g = NULL;
        kv_tokenizer *tok = NULL;
        kv_status st = kv_gguf_parse(copy, n, "tiny.gguf", &g);
        if (st == KV_OK) st = kv_tokenizer_from_gguf(g, &tok);
        if (st == KV_OK) assert_int_equal(kv_tokenizer_vocab(tok), 7); /* only padding is missing */
        kv_tokenizer_free(tok);
        kv_gguf_close(g);
        free(copy);
        if (n + 64 < b.n) assert_int_equal(st, KV_ERR_FORMAT);
    }
    gb_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_vocabularies_merge_as_the_definition_does),
        cmocka_unit_test(lower_rank_goes_first_and_equal_ranks_from_the_left),
        cmocka_unit_test(a_word_of_a_megabyte_takes_no_quadratic_time),
        cmocka_unit_test(the_alphabet_of_bytes_is_one_to_one),
        cmocka_unit_test(other_tokenizers_are_refused_by_name),
        cmocka_unit_test(bad_merges_are_refused_with_their_rank),
        cmocka_unit_test(bad_vocabularies_are_refused_with_the_token),
        cmocka_unit_test(bad_types_and_ids_are_refused),
        cmocka_unit_test(files_cut_off_anywhere_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
