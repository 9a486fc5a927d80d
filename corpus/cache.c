/* cache.c - token streams kept between runs, one file each:
 *
 *     offset  0  "KVTOKEN1"
 *             8  key: SHA-256 over what the stream depends on
 *            40  SHA-256 over the ids as little-endian u32
 *            72  u64 dropped bytes, little endian
 *            80  u64 XXH64 of the frame, seeded with the XXH64 of bytes 0 to 79
 *            88  one zstd frame: the ids, little-endian u32
 *
 * A file that is not exactly this, for this key, counts as missing and is replaced. */
#include "corpus/internal.h"

#include "common/file.h"
#include "common/hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zstd.h>

enum { AT_KEY = 8, AT_SHA = 40, AT_DROPPED = 72, AT_SUM = 80, HEADER = 88, LEVEL = 3 };
static const char magic[AT_KEY + 1] = "KVTOKEN1";

/* ---- little endian --------------------------------------------------------------------------- */

static void put_le(uint8_t *p, int bytes, uint64_t x)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(x >> 8 * i);
}

static uint64_t get_le(const uint8_t *p, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint64_t)p[i] << 8 * i;
    return x;
}

static uint64_t sum_of(const uint8_t *p, size_t size)
{
    return kv_xxh64(p + HEADER, size - HEADER, kv_xxh64(p, AT_SUM, 0));
}

void corpus_token_sha(const int32_t *ids, int64_t n, uint8_t out[32])
{
    kv_sha256_ctx h;
    kv_sha256_begin(&h);
    uint8_t chunk[4096];
    for (int64_t at = 0; at < n;) {
        size_t used = 0;
        for (; used < sizeof chunk && at < n; used += 4, at++)
            put_le(chunk + used, 4, (uint32_t)ids[at]);
        kv_sha256_add(&h, chunk, used);
    }
    kv_sha256_end(&h, out);
}

void corpus_cache_key(const corpus_doc *doc, const kv_tokenizer *tok, uint8_t key[32])
{
    kv_sha256_ctx h;
    kv_sha256_begin(&h);
    kv_sha256_add(&h, magic, sizeof magic);
    kv_sha256_add(&h, doc->text_sha, 32);
    kv_sha256_add(&h, kv_tokenizer_fingerprint(tok), 32);
    kv_sha256_end(&h, key);
}

/* DIR/KEY.tokens; the caller frees it; NULL: out of memory. */
static char *path_of(const char *dir, const uint8_t key[32])
{
    char hex[65], *path;
    kv_hex32(key, hex);
    return asprintf(&path, "%s/%s.tokens", dir, hex) < 0 ? NULL : path;
}

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: cache of token streams");
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Number of ids in a file that is intact and meant for the key; -1 otherwise. */
static int64_t check_file(const uint8_t *p, size_t size, const uint8_t key[32], int64_t max_tokens)
{
    if (size < HEADER || memcmp(p, magic, AT_KEY) != 0 || memcmp(p + AT_KEY, key, 32) != 0 ||
        get_le(p + AT_SUM, 8) != sum_of(p, size))
        return -1;
    const unsigned long long bytes = ZSTD_getFrameContentSize(p + HEADER, size - HEADER);
    if (bytes == ZSTD_CONTENTSIZE_ERROR || bytes == ZSTD_CONTENTSIZE_UNKNOWN || bytes == 0 ||
        bytes % 4 || bytes / 4 > (unsigned long long)max_tokens)
        return -1;
    return (int64_t)(bytes / 4);
}

/* Unpacks n ids in place of the list's free end; they count only when their SHA-256 is right. */
static int unpack(const uint8_t *p, size_t size, int64_t n, kv_tokens *tokens)
{
    int32_t *ids = tokens->v + tokens->n;
    const size_t bytes = (size_t)n * sizeof *ids;
    if (ZSTD_decompress(ids, bytes, p + HEADER, size - HEADER) != bytes) return 0;
    for (int64_t i = 0; i < n; i++) {
        uint8_t le[4];
        memcpy(le, &ids[i], sizeof le);
        ids[i] = (int32_t)(uint32_t)get_le(le, 4);
    }
    uint8_t sha[32];
    corpus_token_sha(ids, n, sha);
    if (memcmp(sha, p + AT_SHA, sizeof sha) != 0) return 0;
    tokens->n += n;
    return 1;
}

kv_status corpus_cache_read(const char *dir, const uint8_t key[32], int64_t max_tokens,
                            kv_tokens *tokens, uint64_t *dropped, int *hit)
{
    *hit = 0;
    char *path = path_of(dir, key);
    if (!path) return no_memory();
    corpus_bytes file;
    const kv_status st = corpus_read_file(path, CORPUS_TEXT_MAX, &file);
    free(path);
    if (st != KV_OK) { /* missing or unreadable: tokenise */
        kv_message_clear();
        return KV_OK;
    }
    const uint8_t *p = (const uint8_t *)file.p;
    const int64_t n = check_file(p, file.n, key, max_tokens);
    const kv_status room = n > 0 ? kv_tokens_reserve(tokens, n) : KV_OK;
    if (n > 0 && room == KV_OK && unpack(p, file.n, n, tokens)) {
        *dropped = get_le(p + AT_DROPPED, 8);
        *hit = 1;
    }
    free(file.owned);
    return room;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The file's bytes; the caller frees them. */
static kv_status pack(const uint8_t key[32], const kv_tokens *tokens, uint64_t dropped,
                      uint8_t **out, size_t *out_size)
{
    const size_t bytes = (size_t)tokens->n * 4, bound = ZSTD_compressBound(bytes);
    uint8_t *raw = malloc(bytes), *p = malloc(HEADER + bound);
    if (!raw || !p) {
        free(raw);
        free(p);
        return no_memory();
    }
    for (int64_t i = 0; i < tokens->n; i++)
        put_le(raw + 4 * i, 4, (uint32_t)tokens->v[i]);
    const size_t packed = ZSTD_compress(p + HEADER, bound, raw, bytes, LEVEL);
    free(raw);
    if (ZSTD_isError(packed)) {
        free(p);
        return kv_fail(KV_ERR_INTERNAL, "cache of token streams: zstd: %s",
                       ZSTD_getErrorName(packed));
    }
    memcpy(p, magic, AT_KEY);
    memcpy(p + AT_KEY, key, 32);
    corpus_token_sha(tokens->v, tokens->n, p + AT_SHA);
    put_le(p + AT_DROPPED, 8, dropped);
    put_le(p + AT_SUM, 8, sum_of(p, HEADER + packed));
    *out = p;
    *out_size = HEADER + packed;
    return KV_OK;
}

static kv_status cannot(const char *path)
{
    return kv_fail(KV_ERR_IO, "%s: cannot write the cached tokens: %s; use another cache folder",
                   path, strerror(errno));
}

kv_status corpus_cache_write(const char *dir, const uint8_t key[32], const kv_tokens *tokens,
                             uint64_t dropped)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) return cannot(dir);
    uint8_t *p = NULL;
    size_t size = 0;
    char *path = path_of(dir, key);
    kv_status st = path ? pack(key, tokens, dropped, &p, &size) : no_memory();
    if (st == KV_OK && !kv_file_replace(path, p, size)) st = cannot(path);
    free(p);
    free(path);
    return st;
}
