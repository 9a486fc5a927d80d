/* Any bytes as an exported cache: refused, or every run that the header announces lies inside. */
#include "tests/fuzz/fuzz.h"

#include "common/state.h"

#include <string.h>

enum { RECORD = 16 };

static volatile uint64_t touched; /* keeps reads that only sanitizers look at */

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    if (i >= 4) return NULL;
    kv_state_head h = {.magic = KV_STATE_MAGIC,
                       .version = KV_STATE_VERSION,
                       .what = i,
                       .layer0 = (int32_t)i,
                       .n_layers = 2,
                       .n_kv_heads = 2,
                       .head_dim = 2,
                       .record_bytes = RECORD,
                       .seen = 9,
                       .total_bytes = sizeof h};
    for (int k = 0; k < 4; k++)
        h.total_bytes += kv_state_run_bytes(&h, k, 0);
    *size = (size_t)h.total_bytes;
    uint8_t *blob = calloc(1, *size);
    if (!blob) abort();
    memcpy(blob, &h, sizeof h);
    size_t offset = sizeof h;
    for (int k = 0; k < 4; k++) {
        const kv_state_view v = kv_state_place(&h, blob, &offset, k, 0);
        *v.run = (kv_state_run){h.layer0 + k / 2, k % 2, k, 0};
    }
    return blob;
}

/* Reads every byte that a view points to. */
static uint64_t touch(const kv_state_head *h, const kv_state_view *v)
{
    uint64_t sum = 0;
    for (int32_t k = 0; k < v->run->n; k++) {
        sum += (uint64_t)v->og[k] + (uint32_t)v->pos[k];
        if (v->score) sum += v->score[k] > 0;
        for (int32_t b = 0; v->records && b < h->record_bytes; b++)
            sum += v->records[(size_t)k * (size_t)h->record_bytes + (size_t)b];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (kv_state_check(data, size) != KV_OK) {
        FUZZ_DEMAND(kv_message()[0] != '\0' && !strchr(kv_message(), '\n'));
        return 0;
    }
    kv_state_head h;
    memcpy(&h, data, sizeof h);
    size_t offset = sizeof h;
    for (int64_t i = 0; i < (int64_t)h.n_layers * h.n_kv_heads; i++) {
        const kv_state_view v = kv_state_place(&h, (void *)(uintptr_t)data, &offset, -1, 0);
        touched += touch(&h, &v);
    }
    FUZZ_DEMAND(offset == size);
    return 0;
}
