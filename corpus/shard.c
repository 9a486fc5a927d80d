/* shard.c - reads shards: files of tokens that nobody vouches for, mapped into memory. */
#include "corpus/shard.h"

#include "common/file.h"
#include "corpus/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct shard {
    char *path;
    const uint8_t *map; /* NULL until it is mapped */
    size_t size;
    int64_t n;     /* tokens */
    int64_t first; /* place of its first token in the stream */
} shard;

struct corpus_shards {
    shard *v;
    int32_t n;
    int32_t vocab;
    int64_t total;
};

/* ---- opening --------------------------------------------------------------------------------- */

static int32_t header_word(const uint8_t *p, int i)
{
    const uint8_t *b = p + 4 * i;
    return (int32_t)(b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
}

static kv_status check_header(const shard *s)
{
    const int32_t magic = header_word(s->map, 0), version = header_word(s->map, 1);
    const int64_t n = header_word(s->map, 2);
    if (magic != CORPUS_SHARD_MAGIC)
        return kv_fail(KV_ERR_FORMAT, "%s: no shard: it starts with %d instead of %d", s->path,
                       magic, CORPUS_SHARD_MAGIC);
    if (version != CORPUS_SHARD_VERSION)
        return kv_fail(KV_ERR_FORMAT, "%s: shard version %d; only %d can be read", s->path, version,
                       CORPUS_SHARD_VERSION);
    if (n < 1 || s->size != CORPUS_SHARD_HEADER + 2 * (uint64_t)n)
        return kv_fail(
            KV_ERR_FORMAT,
            "%s: the header says %lld tokens, the file has %lld bytes behind it; fetch or "
            "write it again",
            s->path, (long long)n, (long long)s->size - CORPUS_SHARD_HEADER);
    return KV_OK;
}

static kv_status map_fd(int fd, shard *s)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return kv_file_error(s->path, "read");
    if (!S_ISREG(st.st_mode))
        return kv_fail(KV_ERR_IO, "%s: not a regular file; a shard is one", s->path);
    if (st.st_size < CORPUS_SHARD_HEADER)
        return kv_fail(KV_ERR_FORMAT, "%s: %lld bytes; a shard has a header of %d", s->path,
                       (long long)st.st_size, CORPUS_SHARD_HEADER);
    s->size = (size_t)st.st_size;
    void *map = mmap(NULL, s->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) return kv_file_error(s->path, "map");
    s->map = map;
    return KV_OK;
}

static kv_status open_shard(shard *s)
{
    const int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return kv_file_error(s->path, "open");
    const kv_status st = map_fd(fd, s);
    close(fd);
    KV_TRY(st);
    KV_TRY(check_header(s));
    s->n = header_word(s->map, 2);
    return KV_OK;
}

/* SPLIT_digits.bin */
static int is_shard_name(const char *name, const void *arg)
{
    const char *split = arg;
    const size_t n = strlen(split);
    if (strncmp(name, split, n) != 0 || name[n] != '_') return 0;
    const char *number = name + n + 1;
    const size_t digits = strspn(number, "0123456789");
    return digits > 0 && strcmp(number + digits, ".bin") == 0;
}

static kv_status add_shard(corpus_shards *s, char *path)
{
    shard *v = path ? realloc(s->v, ((size_t)s->n + 1) * sizeof *v) : NULL;
    if (!v) {
        free(path);
        return kv_fail(KV_ERR_NOMEM, "out of memory: list of shards");
    }
    s->v = v;
    v[s->n] = (shard){.path = path, .first = s->total};
    KV_TRY(open_shard(&v[s->n++]));
    s->total += v[s->n - 1].n;
    return KV_OK;
}

static kv_status add_folder(corpus_shards *s, const char *folder, const char *split)
{
    corpus_names names = {0};
    kv_status st = corpus_names_list(folder, is_shard_name, split, &names);
    if (st == KV_OK && names.n == 0)
        st = kv_fail(KV_ERR_USAGE, "%s: no shard %s_000000.bin; check the folder and the split",
                     folder, split);
    for (size_t i = 0; st == KV_OK && i < names.n; i++) {
        char *path;
        if (asprintf(&path, "%s/%s", folder, names.v[i]) < 0) path = NULL;
        st = add_shard(s, path);
    }
    corpus_names_free(&names);
    return st;
}

static kv_status open_all(corpus_shards *s, const char *path, const char *split)
{
    struct stat st;
    if (stat(path, &st) != 0) return kv_file_error(path, "open");
    return S_ISDIR(st.st_mode) ? add_folder(s, path, split) : add_shard(s, strdup(path));
}

kv_status corpus_shards_open(const char *path, const char *split, int32_t vocab,
                             corpus_shards **out)
{
    if (vocab < 1 || vocab > 65536)
        return kv_fail(KV_ERR_USAGE,
                       "a vocabulary of %d tokens: shards hold ids of 1 to 65536 tokens", vocab);
    corpus_shards *s = calloc(1, sizeof *s);
    if (!s) return kv_fail(KV_ERR_NOMEM, "out of memory: list of shards");
    s->vocab = vocab;
    const kv_status st = open_all(s, path, split);
    if (st == KV_OK)
        *out = s;
    else
        corpus_shards_close(s);
    return st;
}

void corpus_shards_close(corpus_shards *s)
{
    if (!s) return;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->v[i].map) munmap((void *)s->v[i].map, s->v[i].size);
        free(s->v[i].path);
    }
    free(s->v);
    free(s);
}

/* ---- asking ---------------------------------------------------------------------------------- */

int32_t corpus_shards_count(const corpus_shards *s)
{
    return s->n;
}

int32_t corpus_shards_vocab(const corpus_shards *s)
{
    return s->vocab;
}

const char *corpus_shards_path(const corpus_shards *s, int32_t i)
{
    return s->v[i].path;
}

int64_t corpus_shards_tokens(const corpus_shards *s, int32_t i)
{
    return s->v[i].n;
}

int64_t corpus_shards_total(const corpus_shards *s)
{
    return s->total;
}

int64_t corpus_shards_usable(int64_t total, int64_t S)
{
    return total > S ? (total - 1) / S * S : 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

static uint16_t token_at(const shard *s, int64_t i)
{
    const uint8_t *p = s->map + CORPUS_SHARD_HEADER + 2 * i;
    return (uint16_t)(p[0] | p[1] << 8);
}

static kv_status bad_token(const corpus_shards *set, const shard *s, int64_t i)
{
    return kv_fail(
        KV_ERR_FORMAT,
        "%s: token %lld is %d, the vocabulary has %d; the shard is damaged or of another "
        "tokenizer",
        s->path, (long long)i, token_at(s, i), set->vocab);
}

/* Range already checked. */
static kv_status copy(const corpus_shards *set, const shard *s, int64_t at, int64_t n,
                      uint16_t *out)
{
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        out[i] = token_at(s, at + i);
        most = out[i] > most ? out[i] : most;
    }
    for (int64_t i = 0; (int64_t)most >= set->vocab && i < n; i++)
        if (out[i] >= set->vocab) return bad_token(set, s, at + i);
    return KV_OK;
}

static kv_status check_range(int64_t at, int64_t n, int64_t have, const char *where)
{
    if (at >= 0 && n >= 0 && at <= have && n <= have - at) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "%s: tokens %lld to %lld were asked for; there are %lld", where,
                   (long long)at, (long long)at + n, (long long)have);
}

kv_status corpus_shards_read(const corpus_shards *s, int32_t i, int64_t at, int64_t n,
                             uint16_t *out)
{
    KV_TRY(check_range(at, n, s->v[i].n, s->v[i].path));
    return copy(s, &s->v[i], at, n, out);
}

/* The shard that holds token `at` of the stream, at < total. */
static const shard *shard_of(const corpus_shards *s, int64_t at)
{
    int32_t lo = 0, hi = s->n - 1;
    while (lo < hi) {
        const int32_t mid = hi - (hi - lo) / 2;
        if (s->v[mid].first <= at)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &s->v[lo];
}

kv_status corpus_shards_stream(const corpus_shards *s, int64_t at, int64_t n, uint16_t *out)
{
    KV_TRY(check_range(at, n, s->total, "the stream of the shards"));
    while (n > 0) {
        const shard *v = shard_of(s, at);
        const int64_t left = v->first + v->n - at, step = n < left ? n : left;
        KV_TRY(copy(s, v, at - v->first, step, out));
        at += step;
        out += step;
        n -= step;
    }
    return KV_OK;
}

kv_status corpus_shards_verify(const corpus_shards *s)
{
    uint16_t room[4096];
    for (int64_t at = 0, n; at < s->total; at += n) {
        n = s->total - at < 4096 ? s->total - at : 4096;
        KV_TRY(corpus_shards_stream(s, at, n, room));
    }
    return KV_OK;
}

/* ---- documents ------------------------------------------------------------------------------- */

/* Appends tokens of one shard from `at` on, up to a BOS (not before skip tokens) or its end; *n =
 * how many. */
static kv_status append_until(const corpus_shards *set, const shard *s, int32_t bos, int64_t at,
                              int64_t skip, kv_tokens *out, int64_t *n)
{
    int64_t end = at + skip;
    while (end < s->n && token_at(s, end) != bos)
        end++;
    *n = end - at;
    KV_TRY(kv_tokens_reserve(out, *n));
    for (int64_t i = at; i < end; i++) {
        const uint16_t token = token_at(s, i);
        if (token >= set->vocab) return bad_token(set, s, i);
        out->v[out->n++] = token;
    }
    return KV_OK;
}

kv_status corpus_shards_next_doc(const corpus_shards *s, int32_t bos, int64_t *at, kv_tokens *out,
                                 int *more)
{
    const int64_t begin = *at;
    *more = 0;
    if (begin < 0 || begin >= s->total)
        return check_range(begin, 0, s->total, "the stream of the shards");
    for (int64_t here = begin; here < s->total;) {
        const shard *v = shard_of(s, here);
        int64_t n;
        KV_TRY(append_until(s, v, bos, here - v->first, here == begin, out, &n));
        here += n;
        *at = here;
        if (here < v->first + v->n) break; /* a BOS stands here */
    }
    *more = 1;
    return KV_OK;
}
