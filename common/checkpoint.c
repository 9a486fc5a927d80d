#include "common/checkpoint.h"

#include "common/file.h"
#include "common/hash.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC "KVTRAIN\n"

typedef struct head {
    char magic[8];
    uint32_t version, real_bytes;
    uint64_t step, parameters, config_bytes, extra_bytes;
} head;

enum { VERSION = 1, MAX_EXTRA = 1 << 28 };

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *to, const void *p, size_t n)
{
    if (n) memcpy(to, p, n);
    return to + n;
}

kv_status kv_checkpoint_write(const kv_checkpoint *c, const kv_checkpoint_run *run)
{
    char text[KV_TRAIN_TEXT_MAX];
    kv_train_print(run->config, text);
    const head h = {.magic = MAGIC, .version = VERSION, .real_bytes = (uint32_t)run->real_bytes, .step = (uint64_t)run->step,
                    .parameters = (uint64_t)run->parameters, .config_bytes = strlen(text), .extra_bytes = c->extra_bytes};
    const size_t array = (size_t)run->parameters * run->real_bytes;
    const size_t n = sizeof h + h.config_bytes + h.extra_bytes + KV_CHECKPOINT_ARRAYS * array + 32;
    uint8_t *bytes = malloc(n), *p = bytes;
    if (!bytes) return kv_fail(KV_ERR_NOMEM, "out of memory for a checkpoint of %zu bytes", n);
    p = put(p, &h, sizeof h);
    p = put(p, text, h.config_bytes);
    p = put(p, c->extra, h.extra_bytes);
    for (int i = 0; i < KV_CHECKPOINT_ARRAYS; i++)
        p = put(p, run->arrays[i], array);
    kv_sha256(bytes, n - 32, p);
    const int ok = kv_file_replace(c->path, bytes, n);
    free(bytes);
    return ok ? KV_OK : kv_file_error(c->path, "write");
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

/* The first line in which two texts differ, of the second. */
static kv_status other_config(const char *path, const char *have, const char *want)
{
    while (*have && strcspn(have, "\n") == strcspn(want, "\n") && strncmp(have, want, strcspn(have, "\n")) == 0) {
        have += strcspn(have, "\n") + 1;
        want += strcspn(want, "\n") + 1;
    }
    return kv_fail(KV_ERR_MISMATCH, "checkpoint '%s' belongs to another config: it has '%.*s', not '%.*s'; use its config or another folder",
                   path, (int)strcspn(have, "\n"), have, (int)strcspn(want, "\n"), want);
}

static kv_status damaged(const char *path, const char *what)
{
    return kv_fail(KV_ERR_FORMAT, "checkpoint '%s' is damaged: %s; delete it to start anew", path, what);
}

static kv_status check_head(const char *path, const head *h, size_t n, size_t real_bytes)
{
    if (n < sizeof *h + 32 || memcmp(h->magic, MAGIC, 8) != 0) return damaged(path, "not a checkpoint");
    if (h->version != VERSION || h->real_bytes != real_bytes)
        return kv_fail(KV_ERR_UNSUPPORTED, "checkpoint '%s' has version %u with numbers of %u bytes; this program writes %d with %zu",
                       path, h->version, h->real_bytes, VERSION, real_bytes);
    if (h->config_bytes >= KV_TRAIN_TEXT_MAX || h->extra_bytes > MAX_EXTRA || h->parameters > INT64_MAX / 64 || h->step > INT64_MAX)
        return damaged(path, "impossible sizes");
    const uint64_t arrays = KV_CHECKPOINT_ARRAYS * h->parameters * real_bytes;
    if (n != sizeof *h + h->config_bytes + h->extra_bytes + arrays + 32) return damaged(path, "wrong length");
    return KV_OK;
}

static kv_status check_config(const kv_checkpoint_run *run, const char *path, const head *h, const uint8_t *text)
{
    char have[KV_TRAIN_TEXT_MAX] = "", want[KV_TRAIN_TEXT_MAX];
    memcpy(have, text, h->config_bytes);
    kv_train_print(run->config, want);
    if (strcmp(have, want) != 0) return other_config(path, have, want);
    return h->parameters == (uint64_t)run->parameters ? KV_OK : damaged(path, "wrong number of parameters");
}

kv_status kv_checkpoint_parse(kv_checkpoint *c, kv_checkpoint_run *run, const uint8_t *bytes, size_t n)
{
    head h = {0};
    uint8_t sum[32];
    if (n >= sizeof h) memcpy(&h, bytes, sizeof h);
    KV_TRY(check_head(c->path, &h, n, run->real_bytes));
    kv_sha256(bytes, n - 32, sum);
    if (memcmp(sum, bytes + n - 32, 32) != 0) return damaged(c->path, "its checksum does not fit");
    const uint8_t *p = bytes + sizeof h;
    KV_TRY(check_config(run, c->path, &h, p));
    uint8_t *extra = malloc(h.extra_bytes + 1);
    if (!extra) return kv_fail(KV_ERR_NOMEM, "out of memory for a checkpoint");
    memcpy(extra, p + h.config_bytes, h.extra_bytes);
    p += h.config_bytes + h.extra_bytes;
    const size_t array = (size_t)run->parameters * run->real_bytes;
    for (int i = 0; i < KV_CHECKPOINT_ARRAYS; i++, p += array)
        memcpy(run->arrays[i], p, array);
    run->step = (int64_t)h.step;
    c->extra = extra;
    c->extra_bytes = h.extra_bytes;
    return KV_OK;
}

kv_status kv_checkpoint_read(kv_checkpoint *c, kv_checkpoint_run *run)
{
    char *bytes;
    size_t n;
    KV_TRY(kv_file_read(c->path, SIZE_MAX / 2, &bytes, &n));
    const kv_status st = kv_checkpoint_parse(c, run, (const uint8_t *)bytes, n);
    free(bytes);
    return st;
}
