/* shard_write.c - writes shards. A shard grows under a name that starts with a dot and is renamed
 * when it is whole: readers never see a part of one. */
#include "corpus/shard.h"

#include "common/file.h"
#include "corpus/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM = 1 << 15 }; /* tokens that wait to be written */

struct corpus_shard_writer {
    char *dir, *split;
    int32_t vocab;
    int64_t per_shard;
    FILE *file;     /* NULL: no shard is open */
    char *scratch;  /* its path */
    int64_t n;      /* its tokens */
    int32_t shards; /* finished */
    int64_t tokens; /* in them */
};

/* ---- opening --------------------------------------------------------------------------------- */

static kv_status no_memory(void)
{
    return kv_fail(KV_ERR_NOMEM, "out of memory: writing shards");
}

static int is_of_split(const char *name, const void *arg)
{
    const char *split = arg;
    const size_t n = strlen(split);
    return strncmp(name, split, n) == 0 && name[n] == '_';
}

static kv_status check_folder(const char *dir, const char *split)
{
    corpus_names names = {0};
    KV_TRY(kv_file_folder(dir));
    kv_status st = corpus_names_list(dir, is_of_split, split, &names);
    if (st == KV_OK && names.n > 0)
        st = kv_fail(KV_ERR_USAGE, "%s: already has %s; remove it or write into another folder",
                     dir, names.v[0]);
    corpus_names_free(&names);
    return st;
}

static kv_status check_args(const char *split, int64_t tokens_per_shard, int32_t vocab)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    if (!*split || split[strspn(split, safe)])
        return kv_fail(KV_ERR_USAGE,
                       "split '%s': letters, digits and '-' make a name, such as train", split);
    if (tokens_per_shard < 1 || tokens_per_shard > INT32_MAX)
        return kv_fail(KV_ERR_USAGE, "%lld tokens in a shard; 1 to %d are possible",
                       (long long)tokens_per_shard, INT32_MAX);
    if (vocab < 1 || vocab > 65536)
        return kv_fail(KV_ERR_USAGE,
                       "a vocabulary of %d tokens: shards hold ids of 1 to 65536 tokens", vocab);
    return KV_OK;
}

kv_status corpus_shard_writer_open(const char *dir, const char *split, int64_t tokens_per_shard,
                                   int32_t vocab, corpus_shard_writer **out)
{
    KV_TRY(check_args(split, tokens_per_shard, vocab));
    KV_TRY(check_folder(dir, split));
    corpus_shard_writer *w = calloc(1, sizeof *w);
    if (!w) return no_memory();
    w->dir = strdup(dir);
    w->split = strdup(split);
    w->per_shard = tokens_per_shard;
    w->vocab = vocab;
    if (!w->dir || !w->split) {
        corpus_shard_writer_free(w);
        return no_memory();
    }
    *out = w;
    return KV_OK;
}

void corpus_shard_writer_free(corpus_shard_writer *w)
{
    if (!w) return;
    if (w->file) {
        fclose(w->file);
        unlink(w->scratch);
    }
    free(w->scratch);
    free(w->dir);
    free(w->split);
    free(w);
}

/* ---- shards ---------------------------------------------------------------------------------- */

static kv_status put_header(corpus_shard_writer *w)
{
    uint8_t header[CORPUS_SHARD_HEADER] = {0};
    const uint32_t words[3] = {CORPUS_SHARD_MAGIC, CORPUS_SHARD_VERSION, (uint32_t)w->n};
    for (int i = 0; i < 12; i++)
        header[i] = (uint8_t)(words[i / 4] >> 8 * (i % 4));
    rewind(w->file);
    if (fwrite(header, 1, sizeof header, w->file) != sizeof header)
        return kv_file_error(w->scratch, "write");
    return KV_OK;
}

static kv_status begin_shard(corpus_shard_writer *w)
{
    free(w->scratch);
    if (asprintf(&w->scratch, "%s/.%s.XXXXXX", w->dir, w->split) < 0) {
        w->scratch = NULL;
        return no_memory();
    }
    const int fd = mkstemp(w->scratch);
    if (fd < 0) return kv_file_error(w->scratch, "make");
    w->n = 0;
    w->file = fdopen(fd, "wb");
    if (!w->file) {
        close(fd);
        unlink(w->scratch);
        return no_memory();
    }
    return put_header(w);
}

static kv_status end_shard(corpus_shard_writer *w)
{
    char *path;
    KV_TRY(put_header(w));
    if (asprintf(&path, "%s/%s_%06d.bin", w->dir, w->split, w->shards) < 0) return no_memory();
    const int whole =
        fflush(w->file) == 0 && fchmod(fileno(w->file), 0644) == 0 && fsync(fileno(w->file)) == 0;
    const kv_status st =
        whole && rename(w->scratch, path) == 0 ? KV_OK : kv_file_error(path, "write");
    free(path);
    if (st != KV_OK) return st;
    fclose(w->file);
    w->file = NULL;
    w->shards++;
    w->tokens += w->n;
    return KV_OK;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static kv_status put_tokens(corpus_shard_writer *w, const int32_t *ids, int64_t n)
{
    uint8_t room[2 * ROOM];
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= w->vocab)
            return kv_fail(KV_ERR_USAGE, "token %d does not belong to a vocabulary of %d", ids[i],
                           w->vocab);
        room[2 * i] = (uint8_t)ids[i];
        room[2 * i + 1] = (uint8_t)(ids[i] >> 8);
    }
    if (fwrite(room, 2, (size_t)n, w->file) != (size_t)n) return kv_file_error(w->scratch, "write");
    w->n += n;
    return KV_OK;
}

kv_status corpus_shard_writer_add(corpus_shard_writer *w, const int32_t *ids, int64_t n)
{
    while (n > 0) {
        if (!w->file) KV_TRY(begin_shard(w));
        const int64_t left = w->per_shard - w->n;
        int64_t step = n < left ? n : left;
        if (step > ROOM) step = ROOM;
        KV_TRY(put_tokens(w, ids, step));
        ids += step;
        n -= step;
        if (w->n == w->per_shard) KV_TRY(end_shard(w));
    }
    return KV_OK;
}

kv_status corpus_shard_writer_finish(corpus_shard_writer *w, int32_t *shards, int64_t *tokens)
{
    if (w->file) KV_TRY(end_shard(w));
    if (shards) *shards = w->shards;
    if (tokens) *tokens = w->tokens;
    return KV_OK;
}
