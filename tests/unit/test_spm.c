/* SentencePiece-style BPE: merging against the definition carried out literally, what happens to
 * spaces and unknown characters, and what the readers accept and refuse. */
#include "tests/unit/gguf_build.h"
#include "tests/unit/spmkit.h"

#include "common/rng.h"

#include <math.h>

#define SP "\xe2\x96\x81" /* U+2581 */

/* ---- merging --------------------------------------------------------------------------------- */

enum { LETTERS = 4, PIECES = 40, PIECE_MAX = 8, TEXT_MAX = 40 };

typedef struct lexicon {
    char text[PIECES][PIECE_MAX + 1];
    spmkit_piece list[PIECES + 1];
    int n;
} lexicon;

/* Pieces of 1 to 6 of the letters a to d, some of which may be no pieces themselves; few scores, so
 * that many are equal. */
static void make_lexicon(lexicon *l, uint64_t seed)
{
    *l = (lexicon){.n = 1};
    strcpy(l->text[0], "<unk>");
    l->list[0] = (spmkit_piece){l->text[0], 0, KV_TOKEN_UNKNOWN};
    for (uint64_t k = 0; l->n < PIECES; k += 10) {
        char *text = l->text[l->n];
        const uint32_t n = 1 + kv_philox_below(seed, 1, k, 6);
        for (uint32_t i = 0; i < n; i++)
            text[i] = (char)('a' + kv_philox_below(seed, 1, k + 1 + i, LETTERS));
        text[n] = '\0';
        int known = 0;
        for (int i = 0; i < l->n; i++)
            known |= strcmp(l->text[i], text) == 0;
        const float score = -(float)kv_philox_below(seed, 1, k + 8, 12);
        if (!known) l->list[l->n++] = (spmkit_piece){text, score, 0};
    }
}

static int find(const lexicon *l, const char *p, size_t n)
{
    for (int i = 1; i < l->n; i++)
        if (strlen(l->text[i]) == n && memcmp(l->text[i], p, n) == 0) return i;
    return -1;
}

/* The definition: cut[i] = a part starts at i. */
static int encode_slowly(const lexicon *l, const char *text, int n, int32_t *ids)
{
    uint8_t cut[TEXT_MAX + 1];
    memset(cut, 1, sizeof cut);
    for (;;) {
        int best_at = -1;
        float best = 0;
        for (int a = 0; a < n; a++) {
            if (!cut[a]) continue;
            int b = a + 1, c;
            for (; b < n && !cut[b]; b++) {
            }
            if (b >= n) break;
            for (c = b + 1; c < n && !cut[c]; c++) {
            }
            const int id = find(l, text + a, (size_t)(c - a));
            if (id < 0 || (best_at >= 0 && l->list[id].score <= best)) continue;
            best = l->list[id].score;
            best_at = b;
        }
        if (best_at < 0) break;
        cut[best_at] = 0;
    }
    int count = 0;
    for (int a = 0, b; a < n; a = b) {
        for (b = a + 1; b < n && !cut[b]; b++) {
        }
        const int id = find(l, text + a, (size_t)(b - a));
        if (id < 0 && count > 0 && ids[count - 1] == 0) continue;
        ids[count++] = id < 0 ? 0 : id;
    }
    return count;
}

static void merging_is_what_the_definition_says(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        lexicon l;
        kv_tokenizer *tok;
        make_lexicon(&l, seed);
        assert_ok(spmkit_open(&(spmkit){.pieces = l.list}, &tok));
        for (uint64_t round = 0; round < 60; round++) {
            char text[TEXT_MAX + 1] = "";
            int32_t wanted[TEXT_MAX];
            kv_tokens ids = {0};
            const int n = (int)kv_philox_below(seed, 2 + round, 0, TEXT_MAX + 1);
            for (int i = 0; i < n; i++)
                text[i] = (char)('a' + kv_philox_below(seed, 2 + round, 1 + (uint64_t)i, LETTERS));
            const int count = encode_slowly(&l, text, n, wanted);
            assert_ok(kv_tokenizer_encode(tok, text, (size_t)n, 0, &ids, NULL));
            assert_int_equal(ids.n, count);
            for (int i = 0; i < count; i++)
                assert_int_equal(ids.v[i], wanted[i]);
            kv_tokens_free(&ids);
        }
        kv_tokenizer_free(tok);
    }
}

/* A run that cannot be cut: a quadratic encoder would take an hour. */
static void long_runs_are_quick(void **state)
{
    (void)state;
    enum { N = 1 << 21 };
    static const spmkit_piece pieces[] = {
        {"a", 0, 0}, {"aa", -1, 0}, {"aaaa", -2, 0}, {"aaaaaaaa", -3, 0}, {NULL, 0, 0}};
    kv_tokenizer *tok;
    kv_tokens ids = {0};
    char *text = malloc(N + 3);
    assert_non_null(text);
    memset(text, 'a', N + 3);
    assert_ok(spmkit_open(&(spmkit){.pieces = pieces}, &tok));
    assert_ok(kv_tokenizer_encode(tok, text, N + 3, 0, &ids, NULL));
    assert_int_equal(ids.n, N / 8 + 2);
    assert_int_equal(ids.v[0], 3);
    assert_int_equal(ids.v[N / 8], 1);
    assert_int_equal(ids.v[N / 8 + 1], 0);
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
    free(text);
}

/* ---- characters without a token, spaces
 * ------------------------------------------------------------ */

static const spmkit_piece words[] = {{"<unk>", 0, KV_TOKEN_UNKNOWN},
                                     {"<s>", 0, KV_TOKEN_CONTROL},
                                     {"<u>", 0, KV_TOKEN_USER},
                                     {SP "a", -1, 0},
                                     {"ab", 0, 0},
                                     {SP "ab", -2, 0},
                                     {SP, -3, 0},
                                     {"a", -4, 0},
                                     {"b", -5, 0},
                                     {NULL, 0, 0}};

static void unknown_characters_are_one_token_for_a_run(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    kv_tokens ids = {0};
    uint64_t dropped = 5;
    assert_ok(spmkit_open(&(spmkit){.pieces = words}, &tok));
    assert_string_equal(kv_tokenizer_kind(tok), "spm");
    assert_string_equal(spmkit_ids(tok, "xyaxbx", 0), "0 7 0 8 0");
    assert_string_equal(spmkit_ids(tok, "x<u>y", 0), "0 2 0");
    assert_ok(kv_tokenizer_encode(tok, "\xc3\xa9x a", 5, 0, &ids, &dropped));
    assert_int_equal(dropped, 8);
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
}

static void without_an_unknown_token_they_vanish(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    assert_ok(spmkit_open(&(spmkit){.pieces = words + 1}, &tok));
    assert_string_equal(spmkit_ids(tok, "xyaxb", 0), "6 7");
    kv_tokenizer_free(tok);
}

static void unknown_characters_become_bytes(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    assert_ok(spmkit_open(&(spmkit){.pieces = words, .byte_fallback = 1, .with_bytes = 1}, &tok));
    assert_string_equal(spmkit_ids(tok, "a\xc3\xa9\n", 0), "7 204 178 19"); /* 9 + byte */
    size_t n;
    assert_memory_equal(kv_tokenizer_piece(tok, 204, &n), "\xc3", 1);
    assert_int_equal(n, 1);
    kv_tokenizer_free(tok);
    static const spmkit_piece no_space[] = {{"a", 0, 0}, {NULL, 0, 0}};
    assert_ok(
        spmkit_open(&(spmkit){.pieces = no_space, .byte_fallback = 1, .with_bytes = 1}, &tok));
    assert_string_equal(spmkit_ids(tok, " ", 0),
                        "227 151 130"); /* U+2581, as files write a space */
    kv_tokenizer_free(tok);
}

static void spaces_are_u2581(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    size_t n;
    assert_ok(spmkit_open(&(spmkit){.pieces = words}, &tok));
    assert_string_equal(spmkit_ids(tok, "ab ab  a ", 0), "4 5 6 3 6"); /* "ab" before " a" */
    assert_string_equal(spmkit_ids(tok, SP "a", 0), "3");
    assert_memory_equal(kv_tokenizer_piece(tok, 5, &n), " ab", 3);
    assert_int_equal(n, 3);
    assert_string_equal(spmkit_ids(tok, "", 0), "");
    kv_tokenizer_free(tok);
}

static void a_dummy_prefix_stands_before_every_text(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    assert_ok(spmkit_open(&(spmkit){.pieces = words, .dummy_prefix = 1}, &tok));
    assert_string_equal(spmkit_ids(tok, "a", 0), "3");
    assert_string_equal(spmkit_ids(tok, " a", 0), "6 3");
    assert_string_equal(spmkit_ids(tok, "", 0), "");
    assert_string_equal(spmkit_ids(tok, "b<s>b", 1), "6 8 1 6 8");
    assert_string_equal(spmkit_ids(tok, "<s>", 1), "1");
    kv_tokenizer_free(tok);
}

static void extra_spaces_go(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    assert_ok(spmkit_open(&(spmkit){.pieces = words, .remove_extra = 1}, &tok));
    assert_string_equal(spmkit_ids(tok, "  b   a  ", 0), "8 3");
    assert_string_equal(spmkit_ids(tok, "    ", 0), "");
    kv_tokenizer_free(tok);
    assert_ok(spmkit_open(&(spmkit){.pieces = words, .remove_extra = 1, .dummy_prefix = 1}, &tok));
    assert_string_equal(spmkit_ids(tok, "  b  ", 0), "6 8");
    assert_string_equal(spmkit_ids(tok, "   ", 0), "");
    kv_tokenizer_free(tok);
}

static void marks_are_matched_in_the_text(void **state)
{
    (void)state;
    kv_tokenizer *tok;
    assert_ok(spmkit_open(&(spmkit){.pieces = words}, &tok));
    assert_string_equal(spmkit_ids(tok, "a<s>b<u>a", 1), "7 1 8 2 7");
    assert_string_equal(spmkit_ids(tok, "a<s>b<u>a", 0), "7 0 8 2 7");
    assert_string_equal(spmkit_ids(tok, "a<unk>b", 1), "7 0 8");
    kv_tokenizer_free(tok);
}

/* ---- bytes of a token ------------------------------------------------------------------------ */

static void bytes_of_tokens_are_those_of_the_text(void **state)
{
    (void)state;
    static const char text[] = "ab  ab a\xc3\xa9 b<u>\n";
    kv_tokenizer *tok;
    kv_tokens ids = {0};
    const int32_t bos = 1;
    assert_ok(spmkit_open(&(spmkit){.pieces = words, .byte_fallback = 1, .with_bytes = 1}, &tok));
    assert_ok(kv_tokens_append(&ids, &bos, 1));
    assert_ok(kv_tokenizer_encode(tok, text, sizeof text - 1, 0, &ids, NULL));
    uint64_t sum = 0;
    for (int64_t i = 1; i < ids.n; i++)
        sum += kv_tokenizer_bytes_of(tok, ids.v[i - 1], ids.v[i]);
    assert_int_equal(sum, sizeof text - 1);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 7, 5), 3); /* " ab" */
    assert_int_equal(kv_tokenizer_bytes_of(tok, 1, 5), 2); /* behind <s>, and at the start */
    assert_int_equal(kv_tokenizer_bytes_of(tok, -1, 5), 2);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 7, 1), 0);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 0, 9 + ' '), 1); /* a byte piece never leads */
    assert_int_equal(kv_tokenizer_bytes_of(tok, 7, 6), 1);
    assert_int_equal(kv_tokenizer_bytes_of(tok, 1, 6), 0);
    assert_int_equal(kv_tokenizer_token_bytes(tok, 0).boundary, 1);
    assert_int_equal(kv_tokenizer_token_bytes(tok, 2).boundary, 0);
    kv_tokens_free(&ids);
    kv_tokenizer_free(tok);
}

/* ---- readers --------------------------------------------------------------------------------- */

static void assert_bad(const spmkit_piece *pieces, int byte_fallback, kv_status st,
                       const char *words_)
{
    kv_tokenizer *tok = NULL;
    assert_refused(spmkit_open(&(spmkit){.pieces = pieces, .byte_fallback = byte_fallback}, &tok),
                   st, words_);
    assert_null(tok);
}

static void bad_pieces_are_refused_with_their_number(void **state)
{
    (void)state;
#define TWO(text, score, type) ((spmkit_piece[]){{"a", 0, 0}, {text, score, type}, {NULL, 0, 0}})
    char long_text[600];
    memset(long_text, 'b', sizeof long_text);
    long_text[599] = '\0';
    assert_bad(words + 9, 0, KV_ERR_FORMAT, "0 entries");
    assert_bad(TWO("", 0, 0), 0, KV_ERR_FORMAT, "token 1 is empty");
    assert_bad(TWO("a", 0, 0), 0, KV_ERR_FORMAT, "tokens 0 and 1 are both 'a'");
    assert_bad(TWO("b", 0, 7), 0, KV_ERR_FORMAT, "piece 1 'b' has no known type");
    assert_bad(TWO("b", 0, KV_TOKEN_UNUSED), 0, KV_ERR_UNSUPPORTED, "piece 1 is marked unused");
    assert_bad(TWO("\xff", 0, 0), 0, KV_ERR_FORMAT, "is not UTF-8");
    assert_bad(TWO(long_text, 0, 0), 0, KV_ERR_FORMAT, "longer than 512 bytes");
    assert_bad(TWO("b", NAN, 0), 0, KV_ERR_FORMAT, "score that is not finite");
    assert_bad(TWO("b", -INFINITY, 0), 0, KV_ERR_FORMAT, "score that is not finite");
    assert_bad(TWO("<0xZZ>", 0, KV_TOKEN_BYTE), 0, KV_ERR_FORMAT, "marked as a byte");
    assert_bad(TWO("<0x0A>", 0, KV_TOKEN_BYTE), 1, KV_ERR_FORMAT, "1 of the 256 byte pieces");
    const spmkit_piece unknown[] = {
        {"a", 0, KV_TOKEN_UNKNOWN}, {"b", 0, KV_TOKEN_UNKNOWN}, {NULL, 0, 0}};
    assert_bad(unknown, 0, KV_ERR_FORMAT, "a second unknown piece");
#undef TWO
}

/* A model with fields of its own behind a good one: the last word of a field counts. */
static void refuse_extra(const void *extra, size_t n, kv_status st, const char *words_)
{
    kv_tokenizer *tok = NULL;
    kv_bytes file = spmkit_model(&(spmkit){.pieces = words});
    assert_ok(kv_bytes_add(&file, extra, n));
    assert_refused(kv_tokenizer_from_model(file.p, file.n, "kit.model", &tok), st, words_);
    free(file.p);
}

static void models_of_other_kinds_are_refused(void **state)
{
    (void)state;
    refuse_extra("\x12\x02\x18\x01", 4, KV_ERR_UNSUPPORTED, "the model type is not BPE");
    refuse_extra("\x12\x03\xc0\x01\x01", 5, KV_ERR_UNSUPPORTED, "spaces are suffixes");
    refuse_extra("\x1a\x02\x28\x00", 4, KV_ERR_UNSUPPORTED, "spaces are not escaped");
    refuse_extra("\x2a\x03\x12\x01x", 5, KV_ERR_UNSUPPORTED, "denormaliser");
    refuse_extra("\x1a\x03\x12\x01x", 5, KV_ERR_FORMAT, "map of 1 bytes is damaged");
    refuse_extra("\x0f", 1, KV_ERR_FORMAT, "unknown kind");
    refuse_extra("\x0a\x05x", 3, KV_ERR_FORMAT, "beyond the end");
    refuse_extra("\x08\x01", 2, KV_ERR_FORMAT, "wrong kind");
    refuse_extra("\x0a\x02\x08\x01", 4, KV_ERR_FORMAT, "wrong kind");
    refuse_extra("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, KV_ERR_FORMAT, "cut off");
}

static void models_cut_off_anywhere_are_refused_or_smaller(void **state)
{
    (void)state;
    kv_bytes file = spmkit_model(&(spmkit){.pieces = words, .byte_fallback = 1, .with_bytes = 1});
    for (size_t n = 0; n < file.n; n++) {
        kv_tokenizer *tok = NULL;
        char *copy = malloc(n + 1);
        assert_non_null(copy);
        memcpy(copy, file.p, n);
        if (kv_tokenizer_from_model(copy, n, "cut.model", &tok) == KV_OK)
            assert_true(n + 32 > file.n); /* only the normaliser is missing */
        else
            assert_non_null(strstr(kv_message(), "cut.model"));
        kv_tokenizer_free(tok);
        free(copy);
    }
    free(file.p);
}

static void text_vocabularies_are_read(void **state)
{
    (void)state;
    static const char good[] =
        "<unk>\t0\n<s>\t0\n" SP "a\t-0\nab\t-1\na\t-2.5\nb\t-3e0\n" SP "\t-4\n";
    kv_tokenizer *tok = NULL;
    assert_ok(kv_tokenizer_from_vocab(good, sizeof good - 1, "good.vocab", &tok));
    assert_int_equal(kv_tokenizer_vocab(tok), 7);
    assert_string_equal(spmkit_ids(tok, "ab ab<s>x", 1), "3 2 5 1 0");
    kv_tokenizer_free(tok);
    static const struct {
        const char *text, *words;
    } bad[] = {{"a\t1", "line 1 is cut off"},  {"a\t1\nb\n", "line 2 is not a piece"},
               {"a\tx\n", "line 1 is not"},    {"\t1\n", "line 1 is not"},
               {"a\t1 \n", "line 1 is not"},   {"a\t\n", "line 1 is not"},
               {"a\t1e9999\n", "not finite"},  {"", "0 entries"},
               {"<0x0A>\t0\n", "1 of the 256"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tok = NULL;
        assert_refused(kv_tokenizer_from_vocab(bad[i].text, strlen(bad[i].text), "bad.vocab", &tok),
                       KV_ERR_FORMAT, bad[i].words);
    }
}

static kv_status open_gguf(const float *scores, uint64_t n_scores, int prefix, int map,
                           kv_tokenizer **out)
{
    static const char *const tokens[] = {"<unk>", "<s>", SP "a", "ab", "a", "b", SP};
    static const int32_t types[] = {2, 3, 1, 1, 1, 1, 1};
    gguf_build b = {0};
    kv_gguf *g;
    gb_string(&b, "tokenizer.ggml.model", "llama");
    gb_strings(&b, "tokenizer.ggml.tokens", tokens, 7);
    gb_array(&b, "tokenizer.ggml.token_type", KV_GGUF_I32, 7, types, sizeof types);
    if (scores)
        gb_array(&b, "tokenizer.ggml.scores", KV_GGUF_F32, n_scores, scores,
                 n_scores * sizeof *scores);
    if (prefix >= 0) gb_bool(&b, "tokenizer.ggml.add_space_prefix", prefix);
    if (map) gb_string(&b, "tokenizer.ggml.precompiled_charsmap", "x");
    gb_finish(&b);
    assert_ok(kv_gguf_parse(b.p, b.n, "spm.gguf", &g));
    const kv_status st = kv_tokenizer_from_gguf(g, out);
    kv_gguf_close(g);
    gb_free(&b);
    return st;
}

static void gguf_vocabularies_are_read(void **state)
{
    (void)state;
    static const float scores[] = {0, 0, -2, -1, -3, -4, -5};
    kv_tokenizer *tok = NULL;
    assert_ok(open_gguf(scores, 7, 0, 0, &tok));
    assert_string_equal(spmkit_ids(tok, "ab ab", 0), "3 6 3");
    kv_tokenizer_free(tok);
    assert_ok(
        open_gguf(scores, 7, -1, 0, &tok)); /* a prefix where the file does not say otherwise */
    assert_string_equal(spmkit_ids(tok, "ab", 0), "6 3");
    assert_string_equal(spmkit_ids(tok, "a<s>a", 1), "2 1 2");
    kv_tokenizer_free(tok);
    assert_refused(open_gguf(scores, 6, 0, 0, &tok), KV_ERR_FORMAT,
                   "scores has 6 entries for 7 tokens");
    assert_refused(open_gguf(NULL, 0, 0, 0, &tok), KV_ERR_FORMAT, "tokenizer.ggml.scores");
    assert_refused(open_gguf(scores, 7, 0, 1, &tok), KV_ERR_UNSUPPORTED, "precompiled_charsmap");
}

static void the_fingerprint_depends_on_all_that_decides_ids(void **state)
{
    (void)state;
    const spmkit kits[] = {{.pieces = words},
                           {.pieces = words, .dummy_prefix = 1},
                           {.pieces = words, .remove_extra = 1},
                           {.pieces = words + 1},
                           {.pieces = words, .with_bytes = 1},
                           {.pieces = words, .with_bytes = 1, .byte_fallback = 1}};
    enum { N = sizeof kits / sizeof *kits };
    uint8_t seen[N + 1][32];
    for (int i = 0; i <= N; i++) {
        spmkit_piece other[sizeof words / sizeof *words];
        kv_tokenizer *tok;
        memcpy(other, words, sizeof words);
        other[7].score = -4.5f;
        assert_ok(spmkit_open(i < N ? &kits[i] : &(spmkit){.pieces = other}, &tok));
        memcpy(seen[i], kv_tokenizer_fingerprint(tok), 32);
        kv_tokenizer_free(tok);
        for (int k = 0; k < i; k++)
            assert_memory_not_equal(seen[i], seen[k], 32);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_is_what_the_definition_says),
        cmocka_unit_test(long_runs_are_quick),
        cmocka_unit_test(unknown_characters_are_one_token_for_a_run),
        cmocka_unit_test(without_an_unknown_token_they_vanish),
        cmocka_unit_test(unknown_characters_become_bytes),
        cmocka_unit_test(spaces_are_u2581),
        cmocka_unit_test(a_dummy_prefix_stands_before_every_text),
        cmocka_unit_test(extra_spaces_go),
        cmocka_unit_test(marks_are_matched_in_the_text),
        cmocka_unit_test(bytes_of_tokens_are_those_of_the_text),
        cmocka_unit_test(bad_pieces_are_refused_with_their_number),
        cmocka_unit_test(models_of_other_kinds_are_refused),
        cmocka_unit_test(models_cut_off_anywhere_are_refused_or_smaller),
        cmocka_unit_test(text_vocabularies_are_read),
        cmocka_unit_test(gguf_vocabularies_are_read),
        cmocka_unit_test(the_fingerprint_depends_on_all_that_decides_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
