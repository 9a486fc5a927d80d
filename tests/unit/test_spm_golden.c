/* SentencePiece's own ids: of a vocabulary that kvdiff trained and of one that SentencePiece
 * trained, with a normaliser's map, a prefix and user tokens (tests/golden/spm/make.py). */
#include "tests/unit/kvtest.h"

#include "common/hash.h"
#include "common/tokenizer.h"

#include <jansson.h>

#define FOLDER "tests/golden/spm/"

static json_t *model_cases(const char *name, json_t **root)
{
    json_error_t e;
    *root = json_load_file(FOLDER "cases.json", JSON_ALLOW_NUL, &e);
    if (!*root) fail_msg("cases.json: %s", e.text);
    json_t *m = json_object_get(json_object_get(*root, "models"), name);
    assert_non_null(m);
    return m;
}

static void check_case(const kv_tokenizer *tok, const json_t *c)
{
    const json_t *text = json_array_get(c, 0), *wanted = json_array_get(c, 1);
    kv_tokens ids = {0};
    assert_ok(
        kv_tokenizer_encode(tok, json_string_value(text), json_string_length(text), 0, &ids, NULL));
    if ((size_t)ids.n != json_array_size(wanted))
        fail_msg("'%s': %lld tokens, wanted %zu", json_string_value(text), (long long)ids.n,
                 json_array_size(wanted));
    for (int64_t i = 0; i < ids.n; i++)
        if (ids.v[i] != json_integer_value(json_array_get(wanted, (size_t)i)))
            fail_msg("'%s': token %lld is %d", json_string_value(text), (long long)i, ids.v[i]);
    kv_tokens_free(&ids);
}

static void check_book(const kv_tokenizer *tok, const json_t *book)
{
    size_t n;
    uint8_t *text = kvtest_read("corpus/text/book.txt", &n), sha[32];
    char hex[65];
    kv_tokens ids = {0};
    assert_ok(kv_tokenizer_encode(tok, (char *)text, n, 0, &ids, NULL));
    assert_int_equal(ids.n, json_integer_value(json_object_get(book, "tokens")));
    kv_sha256(ids.v, (size_t)ids.n * sizeof *ids.v, sha);
    kv_hex32(sha, hex);
    assert_string_equal(hex, json_string_value(json_object_get(book, "sha256")));
    kv_tokens_free(&ids);
    free(text);
}

static void check_model(const char *name)
{
    char path[128];
    kv_tokenizer *tok;
    json_t *root, *m = model_cases(name, &root), *cases = json_object_get(m, "cases");
    snprintf(path, sizeof path, FOLDER "%s.model", name);
    assert_ok(kv_tokenizer_open(path, &tok));
    assert_true(json_array_size(cases) >= 80);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(tok, json_array_get(cases, i));
    check_book(tok, json_object_get(m, "book"));
    kv_tokenizer_free(tok);
    json_decref(root);
}

static void ids_of_a_vocabulary_of_our_own(void **state)
{
    (void)state;
    check_model("own");
}

static void ids_of_a_vocabulary_with_a_map(void **state)
{
    (void)state;
    check_model("rules");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_a_vocabulary_of_our_own),
        cmocka_unit_test(ids_of_a_vocabulary_with_a_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
