/* Token ids of the real model's tokenizer against other implementations.
 *
 * tests/golden/tokens/cases.json holds ids by the `tokenizers` library. The folder that
 * KVDIFF_SHARED names holds more, on which that library and llama.cpp agree: edge cases, and long
 * excerpts of books with their ids. */
#include "tests/unit/modelkit.h"

#include "common/hash.h"
#include "common/utf8.h"

#include <jansson.h>

static kv_tokenizer *tok; /* NULL: no model file */

static int open_tokenizer(void **state)
{
    (void)state;
    tok = modelkit_tokenizer();
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    kv_tokenizer_free(tok);
    return 0;
}

static const char *shared_path(const char *name)
{
    static char path[1024];
    const char *dir = getenv("KVDIFF_SHARED");
    if (!dir || !*dir) kvtest_skip("KVDIFF_SHARED does not name the folder of golden values");
    snprintf(path, sizeof path, "%s/golden/smollm2/%s", dir, name);
    return path;
}

static json_t *load_json(const char *path)
{
    json_error_t e;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!root) fail_msg("%s:%d: %s", path, e.line, e.text);
    assert_true(json_is_array(root));
    return root;
}

static void assert_ids(const char *what, const kv_tokens *got, const json_t *wanted)
{
    const int64_t n = (int64_t)json_array_size(wanted);
    for (int64_t i = 0; i < got->n && i < n; i++) {
        const int64_t id = json_integer_value(json_array_get(wanted, (size_t)i));
        if (got->v[i] != id)
            fail_msg("%s: id %lld is %d, wanted %lld", what, (long long)i, got->v[i],
                     (long long)id);
    }
    if (got->n != n) fail_msg("%s: %lld ids, wanted %lld", what, (long long)got->n, (long long)n);
}

/* Without dropped bytes, the pieces of a text put together are the text. */
static void assert_round_trip(const kv_tokens *ids, const char *text, size_t n)
{
    size_t at = 0;
    for (int64_t i = 0; i < ids->n; i++) {
        size_t length;
        const char *piece = kv_tokenizer_piece(tok, ids->v[i], &length);
        assert_non_null(piece);
        assert_true(length <= n - at);
        assert_memory_equal(piece, text + at, length);
        at += length;
    }
    assert_int_equal(at, n);
}

static void check_case(const json_t *c, int special, int64_t dropped_wanted)
{
    char shown[64];
    const json_t *text = json_object_get(c, "text");
    const char *p = json_string_value(text);
    const size_t n = json_string_length(text);
    kv_tokens ids = {0};
    uint64_t dropped = 0;
    kv_printable(p, n, shown, sizeof shown);
    assert_ok(kv_tokenizer_encode(tok, p, n, special, &ids, &dropped));
    assert_ids(shown, &ids, json_object_get(c, "ids"));
    if (dropped_wanted >= 0) assert_int_equal(dropped, dropped_wanted);
    if (dropped == 0) assert_round_trip(&ids, p, n);
    kv_tokens_free(&ids);
}

static void ids_equal_those_of_the_tokenizers_library(void **state)
{
    (void)state;
    modelkit_need(tok);
    json_t *cases = load_json("tests/golden/tokens/cases.json");
    assert_true(json_array_size(cases) >= 40);
    size_t i;
    json_t *c;
    json_array_foreach(cases, i, c)
        check_case(c, (int)json_integer_value(json_object_get(c, "special")),
                   json_integer_value(json_object_get(c, "dropped")));
    json_decref(cases);
}

static void edge_cases_equal_the_shared_golden(void **state)
{
    (void)state;
    modelkit_need(tok);
    json_t *cases = load_json(shared_path("tokenizer_cases.json"));
    assert_true(json_array_size(cases) >= 40);
    size_t i;
    json_t *c;
    json_array_foreach(cases, i, c)
        check_case(c, 1, json_is_true(json_object_get(c, "roundtrip")) ? 0 : -1);
    json_decref(cases);
}

static void check_excerpt(const json_t *e)
{
    char name[256], hex[65];
    uint8_t sha[32];
    snprintf(name, sizeof name, "excerpts/%s", json_string_value(json_object_get(e, "name")));
    size_t n, ids_size;
    char *text = (char *)kvtest_read(shared_path(name), &n);
    strcpy(name + strlen(name) - 4, ".tok.u32");
    uint8_t *wanted = kvtest_read(shared_path(name), &ids_size);
    kv_tokens ids = {0};
    uint64_t dropped = 0;
    assert_ok(kv_tokenizer_encode(tok, text, n, 1, &ids, &dropped));
    assert_int_equal(dropped, 0);
    assert_int_equal(ids.n, json_integer_value(json_object_get(e, "tokens")));
    assert_int_equal(ids.n * 4, ids_size);
    assert_memory_equal(ids.v, wanted, ids_size);
    kv_sha256(ids.v, ids_size, sha);
    kv_hex32(sha, hex);
    assert_string_equal(hex, json_string_value(json_object_get(e, "ids_sha256_le_u32")));
    assert_round_trip(&ids, text, n);
    kv_tokens_free(&ids);
    free(wanted);
    free(text);
}

static void excerpts_of_books_equal_the_shared_golden(void **state)
{
    (void)state;
    modelkit_need(tok);
    json_t *excerpts = load_json(shared_path("excerpts.json"));
    assert_true(json_array_size(excerpts) > 0);
    size_t i;
    json_t *e;
    json_array_foreach(excerpts, i, e) check_excerpt(e);
    json_decref(excerpts);
}

/* Whole books: only the counts are known, but of every token of 14 books. */
static void books_have_the_token_and_word_counts_of_their_manifest(void **state)
{
    (void)state;
    modelkit_need(tok);
    const char *dir = getenv("KVDIFF_SHARED");
    if (!dir || !*dir) kvtest_skip("KVDIFF_SHARED does not name the folder of golden values");
    char path[1024];
    snprintf(path, sizeof path, "%s/books/manifest.json", dir);
    json_t *books = load_json(path);
    size_t i;
    json_t *b;
    json_array_foreach(books, i, b)
    {
        size_t n;
        snprintf(path, sizeof path, "%s/books/%s", dir,
                 json_string_value(json_object_get(b, "file")));
        char *text = (char *)kvtest_read(path, &n);
        kv_tokens ids = {0};
        assert_ok(kv_utf8_check(text, n, path));
        assert_int_equal(kv_utf8_words(text, n), json_integer_value(json_object_get(b, "words")));
        assert_ok(kv_tokenizer_encode(tok, text, n, 1, &ids, NULL));
        assert_int_equal(ids.n, json_integer_value(json_object_get(b, "smollm2_tokens")));
        kv_tokens_free(&ids);
        free(text);
    }
    json_decref(books);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_those_of_the_tokenizers_library),
        cmocka_unit_test(edge_cases_equal_the_shared_golden),
        cmocka_unit_test(excerpts_of_books_equal_the_shared_golden),
        cmocka_unit_test(books_have_the_token_and_word_counts_of_their_manifest),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
