/* Any bytes as a checkpoint: refused in one line and nothing changed, or arrays, step and the caller's bytes as the file has
 * them. The checksum would stop nearly every mutation, so each input is also tried with its checksum put right. */
#include "tests/fuzz/fuzz.h"

#include "common/checkpoint.h"
#include "common/hash.h"

#include <string.h>
#include <unistd.h>

enum { N = 5, EXTRA = 7, UNTOUCHED = -1 };

static float arrays[KV_CHECKPOINT_ARRAYS][N];

static const char *path_of(void)
{
    static char path[512];
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/fuzz-checkpoint-%d.kvt", dir && *dir ? dir : "/tmp", (int)getpid());
    return path;
}

static kv_checkpoint_run run_of(kv_train_config *config)
{
    FUZZ_DEMAND(kv_train_preset("nano-a", config) == KV_OK);
    kv_checkpoint_run run = {.config = config, .step = UNTOUCHED, .parameters = N, .real_bytes = sizeof(float)};
    for (int a = 0; a < KV_CHECKPOINT_ARRAYS; a++) {
        run.arrays[a] = arrays[a];
        for (int i = 0; i < N; i++)
            arrays[a][i] = UNTOUCHED;
    }
    return run;
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    kv_train_config config;
    kv_checkpoint_run run = run_of(&config);
    if (i > 1) return NULL;
    const kv_checkpoint c = {.path = path_of(), .extra = (const uint8_t *)"1234567", .extra_bytes = i ? EXTRA : 0};
    run.step = 12;
    FUZZ_DEMAND(kv_checkpoint_write(&c, &run) == KV_OK);
    FILE *f = fopen(c.path, "rb");
    uint8_t *p = malloc(1 << 16);
    FUZZ_DEMAND(f && p);
    *size = fread(p, 1, 1 << 16, f);
    fclose(f);
    unlink(c.path);
    return p;
}

static void check(const uint8_t *data, size_t size)
{
    kv_train_config config;
    kv_checkpoint_run run = run_of(&config);
    kv_checkpoint c = {.path = "input"};
    const kv_status st = kv_checkpoint_parse(&c, &run, data, size);
    if (st == KV_OK) {
        const uint8_t *tail = data + size - 32 - sizeof arrays;
        FUZZ_DEMAND(run.step >= 0 && c.extra && c.extra_bytes < size);
        FUZZ_DEMAND(memcmp(arrays, tail, sizeof arrays) == 0);
        FUZZ_DEMAND(memcmp(c.extra, tail - c.extra_bytes, c.extra_bytes) == 0);
        free((void *)(uintptr_t)c.extra);
        return;
    }
    FUZZ_DEMAND(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED || st == KV_ERR_MISMATCH);
    FUZZ_DEMAND(run.step == UNTOUCHED && !c.extra);
    for (int a = 0; a < KV_CHECKPOINT_ARRAYS; a++)
        for (int i = 0; i < N; i++)
            FUZZ_DEMAND(arrays[a][i] == (float)UNTOUCHED);
    FUZZ_DEMAND(*kv_message() && !strchr(kv_message(), '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    if (size < 32) return 0;
    uint8_t *sealed = malloc(size);
    FUZZ_DEMAND(sealed != NULL);
    memcpy(sealed, data, size);
    kv_sha256(sealed, size - 32, sealed + size - 32);
    check(sealed, size);
    free(sealed);
    return 0;
}
