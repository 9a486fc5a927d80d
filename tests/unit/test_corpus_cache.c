/* Token streams: cutting, counting, and the cache, which must never change a result: an intact file
 * is used, anything else is replaced. */
#include "tests/unit/folderkit.h"
#include "tests/unit/tinybpe.h"

#include "common/hash.h"
#include "corpus/internal.h"

#include <dirent.h>

static corpus *book;
static kv_tokenizer *bytes;

static int open_book(void **state)
{
    assert_ok(corpus_open("book", &book));
    assert_ok(kv_tokenizer_bytes(&bytes));
    return folderkit_make(state);
}

static int close_book(void **state)
{
    corpus_close(book);
    kv_tokenizer_free(bytes);
    return folderkit_remove(state);
}

static const char *cache_dir(void)
{
    return in_folder("cache");
}

/* The only file of the cache folder. */
static const char *cached_file(void)
{
    static char path[1024];
    int n = 0;
    DIR *d = opendir(cache_dir());
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", cache_dir(), e->d_name);
            n++;
        }
    closedir(d);
    assert_int_equal(n, 1); /* and no scratch file is left behind */
    return path;
}

static void get(const char *dir, int64_t max_tokens, corpus_stream *s)
{
    assert_ok(corpus_tokens(book, 0, bytes, dir, max_tokens, s));
}

static void assert_is_the_book(const corpus_stream *s)
{
    size_t n;
    const char *text;
    assert_ok(corpus_text(book, 0, &text, &n));
    assert_int_equal(s->tokens.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(s->tokens.v[i], 4 + (uint8_t)text[i]);
    assert_int_equal(s->dropped_bytes, 0);
    assert_int_equal(s->is_passkey, 0);
    uint8_t sha[32];
    kv_sha256(s->tokens.v, n * 4, sha); /* this machine is little endian */
    assert_memory_equal(s->token_sha, sha, 32);
}

static void a_stream_is_cut_to_the_wanted_length(void **state)
{
    (void)state;
    corpus_stream all, some;
    uint8_t sha[32];
    get(NULL, 0, &all);
    assert_is_the_book(&all);
    get(NULL, 100, &some);
    assert_int_equal(some.tokens.n, 100);
    assert_memory_equal(some.tokens.v, all.tokens.v, 400);
    kv_sha256(all.tokens.v, 400, sha);
    assert_memory_equal(some.token_sha, sha, 32);
    corpus_stream_free(&some);
    get("", INT64_MAX, &some); /* an empty name is no folder */
    assert_int_equal(some.tokens.n, all.tokens.n);
    corpus_stream_free(&some);
    corpus_stream_free(&all);
}

static void dropped_bytes_come_with_the_stream_also_from_the_cache(void **state)
{
    (void)state;
    static const char *const tokens[] = {"a", "e", "\u0120", "<eos>", NULL};
    static const char *const merges[] = {NULL};
    static const int32_t types[] = {1, 1, 1, KV_TOKEN_CONTROL}; /* in a text, its letters count */
    const tinybpe t = {.tokens = tokens, .merges = merges, .types = types};
    kv_tokenizer *tok = NULL;
    corpus *c = NULL;
    assert_ok(tinybpe_open(&t, &tok));
    assert_ok(corpus_open(put_file("x.txt", "a bee <eos>"), &c));
    for (int round = 0; round < 2; round++) {
        corpus_stream s;
        assert_ok(corpus_tokens(c, 0, tok, cache_dir(), 0, &s));
        assert_int_equal(s.tokens.n, 6); /* a, space, e, e, space, e */
        assert_int_equal(s.dropped_bytes, 5);
        corpus_stream_free(&s);
        cached_file();
    }
    corpus_close(c);
    corpus_stream s;
    assert_ok(corpus_open(put_file("y.txt", "xyz"), &c));
    assert_refused(corpus_tokens(c, 0, tok, NULL, 0, &s), KV_ERR_FORMAT,
                   "document 'y': none of its 3 bytes has a token");
    corpus_close(c);
    kv_tokenizer_free(tok);
}

/* A file with another stream under the right key and with right sums: only a reader of the cache
 * returns it. So the next tests know that the cache is read at all. */
static void an_intact_file_is_used(void **state)
{
    (void)state;
    corpus_stream s;
    uint8_t key[32];
    kv_tokens planted = {0};
    const int32_t ids[] = {7, 8, 9};
    assert_ok(kv_tokens_append(&planted, ids, 3));
    corpus_cache_key(corpus_get_doc(book, 0), bytes, key);
    assert_ok(corpus_cache_write(cache_dir(), key, &planted, 41));
    get(cache_dir(), 0, &s);
    assert_int_equal(s.tokens.n, 3);
    assert_memory_equal(s.tokens.v, ids, sizeof ids);
    assert_int_equal(s.dropped_bytes, 41);
    corpus_stream_free(&s);
    kv_tokens_free(&planted);
}

static void what_is_cached_is_what_was_made(void **state)
{
    (void)state;
    corpus_stream s;
    size_t n, m;
    get(cache_dir(), 50, &s); /* the cut comes after the cache */
    corpus_stream_free(&s);
    uint8_t *first = kvtest_read(cached_file(), &n);
    get(cache_dir(), 0, &s);
    assert_is_the_book(&s);
    corpus_stream_free(&s);
    uint8_t *second = kvtest_read(cached_file(), &m);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    assert_true(n < 41363);
    free(first);
    free(second);
}

/* Every damaged file gives the right stream and is whole again afterwards. */
static void assert_mended(const uint8_t *good, size_t n)
{
    corpus_stream s;
    size_t m;
    get(cache_dir(), 0, &s);
    assert_is_the_book(&s);
    corpus_stream_free(&s);
    uint8_t *now = kvtest_read(cached_file(), &m);
    assert_int_equal(m, n);
    assert_memory_equal(now, good, n);
    free(now);
}

static void a_file_with_any_bit_flipped_is_replaced(void **state)
{
    (void)state;
    corpus_stream s;
    size_t n;
    get(cache_dir(), 0, &s);
    corpus_stream_free(&s);
    const char *path = cached_file();
    uint8_t *good = kvtest_read(path, &n), *bad = malloc(n);
    assert_non_null(bad);
    for (size_t at = 0; at < n; at += at < 128 ? 1 : 997) {
        memcpy(bad, good, n);
        bad[at] ^= (uint8_t)(1u << at % 8);
        kvtest_write(path, bad, n);
        assert_mended(good, n);
    }
    free(bad);
    free(good);
}

static void a_file_cut_off_or_grown_is_replaced(void **state)
{
    (void)state;
    corpus_stream s;
    size_t n;
    get(cache_dir(), 0, &s);
    corpus_stream_free(&s);
    const char *path = cached_file();
    uint8_t *good = kvtest_read(path, &n);
    for (size_t at = 0; at < n; at += at < 100 ? 1 : 1499) {
        kvtest_write(path, good, at);
        assert_mended(good, n);
    }
    good = realloc(good, n + 1);
    assert_non_null(good);
    good[n] = 0;
    kvtest_write(path, good, n + 1);
    assert_mended(good, n);
    free(good);
}

/* Sums are right, but the file claims a stream that the text cannot have. */
static void a_stream_longer_than_its_text_is_not_believed(void **state)
{
    (void)state;
    uint8_t key[32];
    size_t n;
    int hit = 0;
    uint64_t dropped = 0;
    kv_tokens many = {0}, back = {0};
    corpus_cache_key(corpus_get_doc(book, 0), bytes, key);
    assert_ok(kv_tokens_reserve(&many, 50000));
    memset(many.v, 0, 50000 * 4);
    many.n = 50000;
    assert_ok(corpus_cache_write(cache_dir(), key, &many, 0));
    assert_ok(corpus_cache_read(cache_dir(), key, 50000, &back, &dropped, &hit));
    assert_int_equal(hit, 1);
    assert_int_equal(back.n, 50000);
    back.n = 0;
    assert_ok(corpus_cache_read(cache_dir(), key, 49999, &back, &dropped, &hit));
    assert_int_equal(hit, 0);
    assert_int_equal(back.n, 0);
    corpus_stream s;
    get(cache_dir(), 0, &s);
    assert_is_the_book(&s);
    corpus_stream_free(&s);
    free(kvtest_read(cached_file(), &n));
    kv_tokens_free(&many);
    kv_tokens_free(&back);
}

/* Intact, but of another text: somebody renamed or copied it. */
static void a_file_under_the_name_of_another_is_replaced(void **state)
{
    (void)state;
    corpus *c = NULL;
    corpus_stream s;
    char name[1024];
    get(cache_dir(), 0, &s);
    corpus_stream_free(&s);
    snprintf(name, sizeof name, "%s", cached_file());
    assert_int_equal(unlink(name), 0);
    assert_ok(corpus_open("synth:bytes=1k", &c));
    assert_ok(corpus_tokens(c, 0, bytes, cache_dir(), 0, &s));
    corpus_stream_free(&s);
    corpus_close(c);
    assert_int_equal(rename(cached_file(), name), 0);
    get(cache_dir(), 0, &s);
    assert_is_the_book(&s);
    corpus_stream_free(&s);
    cached_file();
}

static void texts_and_tokenizers_have_files_of_their_own(void **state)
{
    (void)state;
    uint8_t key[3][32];
    static const char *const tokens[] = {"a", NULL}, *const merges[] = {NULL};
    const tinybpe t = {.tokens = tokens, .merges = merges};
    kv_tokenizer *tok = NULL;
    corpus *c = NULL;
    assert_ok(tinybpe_open(&t, &tok));
    assert_ok(corpus_open("synth:bytes=1k", &c));
    corpus_cache_key(corpus_get_doc(book, 0), bytes, key[0]);
    corpus_cache_key(corpus_get_doc(c, 0), bytes, key[1]);
    corpus_cache_key(corpus_get_doc(book, 0), tok, key[2]);
    assert_memory_not_equal(key[0], key[1], 32);
    assert_memory_not_equal(key[0], key[2], 32);
    assert_memory_not_equal(key[1], key[2], 32);
    corpus_close(c);
    kv_tokenizer_free(tok);
}

static void a_cache_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    corpus_stream s;
    assert_refused(corpus_tokens(book, 0, bytes, in_folder("no/such"), 0, &s), KV_ERR_IO,
                   "No such file or directory; use another cache folder");
    put_file("plain", "a file");
    assert_refused(corpus_tokens(book, 0, bytes, in_folder("plain"), 0, &s), KV_ERR_IO,
                   "Not a directory; use another cache folder");
    assert_null(s.tokens.v);
}

/* A folder in the file's place cannot be replaced; the scratch file must not stay. */
static void a_failed_replacement_leaves_nothing_behind(void **state)
{
    (void)state;
    corpus_stream s;
    get(cache_dir(), 0, &s);
    corpus_stream_free(&s);
    const char *path = cached_file();
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(corpus_tokens(book, 0, bytes, cache_dir(), 0, &s), KV_ERR_IO,
                   "cannot write the cached tokens");
    cached_file();
}

#define in_a_folder(test) cmocka_unit_test_setup_teardown(test, open_book, close_book)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_a_folder(a_stream_is_cut_to_the_wanted_length),
        in_a_folder(dropped_bytes_come_with_the_stream_also_from_the_cache),
        in_a_folder(an_intact_file_is_used),
        in_a_folder(what_is_cached_is_what_was_made),
        in_a_folder(a_file_with_any_bit_flipped_is_replaced),
        in_a_folder(a_file_cut_off_or_grown_is_replaced),
        in_a_folder(a_stream_longer_than_its_text_is_not_believed),
        in_a_folder(a_file_under_the_name_of_another_is_replaced),
        in_a_folder(texts_and_tokenizers_have_files_of_their_own),
        in_a_folder(a_cache_that_cannot_be_written_is_an_error),
        in_a_folder(a_failed_replacement_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
