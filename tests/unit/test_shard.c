/* Shards: what is written is read, what is damaged is refused, documents straddle files. */
#include "tests/unit/folderkit.h"

#include "common/rng.h"
#include "corpus/shard.h"

static void put_shard(const char *path, int32_t magic, int32_t version, int32_t n, size_t tokens)
{
    uint8_t *p = calloc(1, 1024 + 2 * tokens);
    assert_non_null(p);
    const int32_t head[3] = {magic, version, n};
    memcpy(p, head, sizeof head);
    for (size_t i = 0; i < tokens; i++)
        p[1024 + 2 * i] = (uint8_t)(i % 7);
    kvtest_write(path, p, 1024 + 2 * tokens);
    free(p);
}

/* n tokens: a BOS (1) and 1 to 12 others (2 to 499) over and over. */
static int32_t *make_stream(int64_t n, uint64_t seed)
{
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    assert_non_null(ids);
    uint32_t left = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t k = (uint64_t)i;
        if (left == 0) {
            ids[i] = 1;
            left = 1 + kv_philox_below(seed, 1, k, 12);
        } else {
            ids[i] = 2 + (int32_t)kv_philox_below(seed, 2, k, 498);
            left--;
        }
    }
    return ids;
}

static void write_stream(const char *dir, const char *split, int64_t per_shard, const int32_t *ids,
                         int64_t n)
{
    corpus_shard_writer *w;
    int32_t shards;
    int64_t tokens;
    assert_ok(corpus_shard_writer_open(dir, split, per_shard, 500, &w));
    for (int64_t at = 0; at < n; at += 17)
        assert_ok(corpus_shard_writer_add(w, ids + at, n - at < 17 ? n - at : 17));
    assert_ok(corpus_shard_writer_finish(w, &shards, &tokens));
    corpus_shard_writer_free(w);
    assert_int_equal(shards, (n + per_shard - 1) / per_shard);
    assert_int_equal(tokens, n);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    enum { N = 1000 };
    int32_t *ids = make_stream(N, 1);
    corpus_shards *s;
    uint16_t got[N];
    write_stream(in_folder("data"), "train", 300, ids, N);
    write_stream(in_folder("data"), "val", 5000, ids + 10, 90); /* beside it */
    assert_ok(corpus_shards_open(in_folder("data"), "train", 500, &s));
    assert_int_equal(corpus_shards_count(s), 4);
    assert_int_equal(corpus_shards_tokens(s, 3), 100);
    assert_int_equal(corpus_shards_total(s), N);
    assert_non_null(strstr(corpus_shards_path(s, 2), "train_000002.bin"));
    assert_ok(corpus_shards_verify(s));
    for (int64_t at = 0; at < N; at += 41)
        for (int64_t n = 0; n <= N - at; n += 97) {
            assert_ok(corpus_shards_stream(s, at, n, got));
            for (int64_t i = 0; i < n; i++)
                assert_int_equal(got[i], ids[at + i]);
        }
    assert_ok(corpus_shards_read(s, 1, 250, 50, got));
    assert_int_equal(got[49], ids[599]);
    corpus_shards_close(s);
    assert_ok(corpus_shards_open(in_folder("data/val_000000.bin"), NULL, 500, &s));
    assert_int_equal(corpus_shards_total(s), 90);
    corpus_shards_close(s);
    free(ids);
}

static void the_bytes_are_those_of_the_format(void **state)
{
    (void)state;
    static const int32_t ids[] = {1, 0x1ff, 258};
    corpus_shard_writer *w;
    size_t n;
    assert_ok(corpus_shard_writer_open(folderkit_path, "train", 10, 512, &w));
    assert_ok(corpus_shard_writer_add(w, ids, 3));
    assert_ok(corpus_shard_writer_finish(w, NULL, NULL));
    corpus_shard_writer_free(w);
    uint8_t *p = kvtest_read(in_folder("train_000000.bin"), &n);
    assert_int_equal(n, 1030);
    assert_memory_equal(p, "\x88\xd8\x34\x01\x01\0\0\0\x03\0\0\0", 12); /* 20240520, 1, 3 */
    for (int i = 12; i < 1024; i++)
        assert_int_equal(p[i], 0);
    assert_memory_equal(p + 1024, "\x01\x00\xff\x01\x02\x01", 6);
    free(p);
}

static void documents_straddle_shards(void **state)
{
    (void)state;
    enum { N = 700 };
    int32_t *ids = make_stream(N, 2);
    corpus_shards *s;
    write_stream(in_folder("d"), "train", 9, ids, N);
    assert_ok(corpus_shards_open(in_folder("d"), "train", 500, &s));
    kv_tokens doc = {0};
    int64_t at = 0, seen = 0;
    for (int more;;) {
        doc.n = 0;
        assert_ok(corpus_shards_next_doc(s, 1, &at, &doc, &more));
        if (!more) break;
        assert_int_equal(doc.v[0], 1);
        assert_true(doc.n > 1 || at == N);
        for (int64_t i = 0; i < doc.n; i++, seen++) {
            assert_int_equal(doc.v[i], ids[seen]);
            assert_int_equal(doc.v[i] == 1, i == 0);
        }
        assert_int_equal(at, seen);
    }
    assert_int_equal(seen, N);
    assert_int_equal(doc.n, 0);
    at = 3; /* inside one: the rest of it is a document without BOS */
    int more;
    assert_ok(corpus_shards_next_doc(s, 1, &at, &doc, &more));
    assert_int_equal(more, 1);
    assert_int_equal(doc.v[0], ids[3]);
    kv_tokens_free(&doc);
    corpus_shards_close(s);
    free(ids);
}

static void damaged_shards_are_refused(void **state)
{
    (void)state;
    enum { M = CORPUS_SHARD_MAGIC };
    static const struct {
        int32_t magic, version, n;
        size_t tokens;
        const char *words;
    } bad[] = {{M + 1, 1, 5, 5, "no shard: it starts with 20240521"},
               {M, 2, 5, 5, "shard version 2"},
               {M, 1, 5, 4, "5 tokens, the file has 8 bytes"},
               {M, 1, 5, 6, "5 tokens, the file has 12 bytes"},
               {M, 1, 0, 0, "0 tokens"},
               {M, 1, -5, 5, "-5 tokens"},
               {M, 1, INT32_MAX, 5, "2147483647 tokens"}};
    corpus_shards *s = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_shard(in_folder("train_0.bin"), bad[i].magic, bad[i].version, bad[i].n, bad[i].tokens);
        assert_refused(corpus_shards_open(folderkit_path, "train", 500, &s), KV_ERR_FORMAT,
                       bad[i].words);
    }
    put_file("train_0.bin", "short");
    assert_refused(corpus_shards_open(folderkit_path, "train", 500, &s), KV_ERR_FORMAT, "5 bytes");
    assert_refused(corpus_shards_open(folderkit_path, "val", 500, &s), KV_ERR_USAGE,
                   "no shard val_000000.bin");
    assert_refused(corpus_shards_open(in_folder("none"), "val", 500, &s), KV_ERR_IO, "none");
    assert_refused(corpus_shards_open("/dev/null", "val", 500, &s), KV_ERR_IO,
                   "not a regular file");
    assert_refused(corpus_shards_open(folderkit_path, "train", 0, &s), KV_ERR_USAGE,
                   "vocabulary of 0");
    assert_refused(corpus_shards_open(folderkit_path, "train", 65537, &s), KV_ERR_USAGE, "65537");
    assert_null(s);
}

static void tokens_beyond_the_vocabulary_are_refused(void **state)
{
    (void)state;
    corpus_shards *s;
    kv_tokens doc = {0};
    uint16_t got[20];
    int64_t at = 0;
    int more;
    put_shard(in_folder("train_0.bin"), CORPUS_SHARD_MAGIC, 1, 20, 20); /* 0 to 6 over and over */
    assert_ok(corpus_shards_open(folderkit_path, "train", 7, &s));
    assert_ok(corpus_shards_verify(s));
    corpus_shards_close(s);
    assert_ok(corpus_shards_open(folderkit_path, "train", 6, &s));
    assert_ok(corpus_shards_read(s, 0, 0, 6, got));
    assert_refused(corpus_shards_read(s, 0, 7, 13, got), KV_ERR_FORMAT, "token 13 is 6");
    assert_refused(corpus_shards_verify(s), KV_ERR_FORMAT, "token 6 is 6, the vocabulary has 6");
    assert_refused(corpus_shards_next_doc(s, 9, &at, &doc, &more), KV_ERR_FORMAT, "token 6 is 6");
    assert_refused(corpus_shards_read(s, 0, 18, 3, got), KV_ERR_USAGE, "18 to 21");
    assert_refused(corpus_shards_read(s, 0, -1, 3, got), KV_ERR_USAGE, "there are 20");
    assert_refused(corpus_shards_stream(s, 1, INT64_MAX, got), KV_ERR_USAGE, "there are 20");
    kv_tokens_free(&doc);
    corpus_shards_close(s);
}

static void the_writer_refuses_what_would_be_misread(void **state)
{
    (void)state;
    static const int32_t ids[] = {1, 2, 3}, high[] = {1, 500}, low[] = {-1};
    corpus_shard_writer *w = NULL;
    assert_refused(corpus_shard_writer_open(folderkit_path, "a/b", 9, 500, &w), KV_ERR_USAGE,
                   "a/b");
    assert_refused(corpus_shard_writer_open(folderkit_path, "", 9, 500, &w), KV_ERR_USAGE,
                   "split ''");
    assert_refused(corpus_shard_writer_open(folderkit_path, "a", 0, 500, &w), KV_ERR_USAGE,
                   "0 tokens");
    assert_refused(corpus_shard_writer_open(folderkit_path, "a", 9, 70000, &w), KV_ERR_USAGE,
                   "70000");
    assert_refused(corpus_shard_writer_open(in_folder("no/where"), "a", 9, 500, &w), KV_ERR_IO,
                   "where");
    assert_null(w);
    assert_ok(corpus_shard_writer_open(folderkit_path, "a", 9, 500, &w));
    assert_ok(corpus_shard_writer_add(w, ids, 3));
    assert_refused(corpus_shard_writer_add(w, high, 2), KV_ERR_USAGE, "token 500");
    assert_refused(corpus_shard_writer_add(w, low, 1), KV_ERR_USAGE, "token -1");
    corpus_shard_writer_free(w); /* not finished: nothing stays */
    assert_ok(corpus_shard_writer_open(folderkit_path, "a", 9, 500, &w));
    assert_ok(corpus_shard_writer_add(w, ids, 3));
    assert_ok(corpus_shard_writer_finish(w, NULL, NULL));
    corpus_shard_writer_free(w);
    assert_refused(corpus_shard_writer_open(folderkit_path, "a", 9, 500, &w), KV_ERR_USAGE,
                   "already has a_000000.bin");
}

static void usable_tokens_are_whole_windows(void **state)
{
    (void)state;
    assert_int_equal(corpus_shards_usable(62023633, 2048), 62021632);
    assert_int_equal(corpus_shards_usable(2049, 2048), 2048);
    assert_int_equal(corpus_shards_usable(2048, 2048), 0);
    assert_int_equal(corpus_shards_usable(0, 8), 0);
    assert_int_equal(corpus_shards_usable(17, 8), 16);
}

#define in_a_folder(f) cmocka_unit_test_setup_teardown(f, folderkit_make, folderkit_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_a_folder(what_is_written_is_read),
        in_a_folder(the_bytes_are_those_of_the_format),
        in_a_folder(documents_straddle_shards),
        in_a_folder(damaged_shards_are_refused),
        in_a_folder(tokens_beyond_the_vocabulary_are_refused),
        in_a_folder(the_writer_refuses_what_would_be_misread),
        cmocka_unit_test(usable_tokens_are_whole_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
