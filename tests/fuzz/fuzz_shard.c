/* Any bytes as a shard: what is accepted has the tokens that its header says, all of them read
 * within the file, and its documents put together are the stream. */
#include "tests/fuzz/fuzz.h"

#include "corpus/shard.h"

#include <string.h>
#include <unistd.h>

enum { VOCAB = 300 };

static const char *file_of(const uint8_t *data, size_t size)
{
    static char path[512];
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/fuzz-shard-%d.bin", dir && *dir ? dir : "/tmp", (int)getpid());
    FILE *f = fopen(path, "wb");
    FUZZ_DEMAND(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    return path;
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    static const int32_t head[3] = {CORPUS_SHARD_MAGIC, CORPUS_SHARD_VERSION, 40};
    if (i > 0) return NULL;
    *size = CORPUS_SHARD_HEADER + 80;
    uint8_t *p = calloc(1, *size);
    if (!p) abort();
    memcpy(p, head, sizeof head);
    for (int k = 0; k < 40; k++)
        p[CORPUS_SHARD_HEADER + 2 * k] = (uint8_t)(k % 9);
    return p;
}

static void check_documents(const corpus_shards *s, int all_good)
{
    kv_tokens doc = {NULL, 0, 0};
    kv_status st = KV_OK;
    int64_t at = 0;
    for (int more = 1; st == KV_OK && more;)
        st = corpus_shards_next_doc(s, 1, &at, &doc, &more);
    FUZZ_DEMAND((st == KV_OK) == all_good);
    FUZZ_DEMAND(!all_good || (at == corpus_shards_total(s) && doc.n == at));
    for (int64_t i = 0; i < doc.n; i++)
        FUZZ_DEMAND(doc.v[i] >= 0 && doc.v[i] < VOCAB);
    kv_tokens_free(&doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    corpus_shards *s;
    const char *path = file_of(data, size);
    if (corpus_shards_open(path, NULL, VOCAB, &s) == KV_OK) {
        const int64_t n = corpus_shards_total(s);
        FUZZ_DEMAND((uint64_t)n * 2 + CORPUS_SHARD_HEADER == size);
        check_documents(s, corpus_shards_verify(s) == KV_OK);
        corpus_shards_close(s);
    }
    unlink(path);
    return 0;
}
