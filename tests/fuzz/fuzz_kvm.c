/* Any bytes as an artifact: refused in one line, or a model whose weights are finite and which packs again.
 *
 * Checksums would stop nearly every mutation at the door, so each input is tried four ways: as a file; as a file whose
 * checksums are put right; as the two open parts of a file (length of the meta part, meta part, payload), which are
 * compressed and sealed here; and as notes. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/kvmkit.h"

#include "common/math.h"

static const int64_t limits[] = {0, 20, 65536}; /* passthrough_max */
enum { LIMITS = 3 };

static uint8_t *open_parts(const uint8_t *file, size_t n, size_t *size)
{
    kv_kvm *k;
    kvmkit_demand(kv_kvm_parse(file, n, "seed", &k) == KV_OK);
    *size = 4 + (size_t)(k->meta_bytes + k->payload_bytes);
    uint8_t *p = malloc(*size);
    kvmkit_demand(p != NULL);
    kv_put_le(p, 4, k->meta_bytes);
    memcpy(p + 4, k->meta, (size_t)k->meta_bytes);
    memcpy(p + 4 + k->meta_bytes, k->payload, (size_t)k->payload_bytes);
    kv_kvm_close(k);
    return p;
}

uint8_t *fuzz_seed(unsigned i, size_t *size)
{
    if (i >= 2 * LIMITS) return NULL;
    const kv_config cfg = kvmkit_config();
    const kv_kvm_extras e = kvmkit_extras(limits[i % LIMITS]);
    kv_model *m = kvmkit_model(&cfg);
    uint8_t *file, *parts = NULL;
    kvmkit_demand(kv_kvm_pack(m, &e, &file, size) == KV_OK);
    kv_model_close(m);
    if (i < LIMITS) return file;
    parts = open_parts(file, *size, size);
    free(file);
    return parts;
}

static void use(const kv_kvm *k)
{
    kv_model *m;
    FUZZ_DEMAND(kv_kvm_check_notes(k->extras.notes, strlen(k->extras.notes)) == KV_OK);
    if (k->payload_bytes > 1 << 20) return; /* a legal model, too large to be looked at a thousand times */
    FUZZ_DEMAND(kv_kvm_model(k, "fuzz", &m) == KV_OK && kv_model_check(m) == KV_OK);
    const float *w = ((kv_model_owner *)m->owner)->weights;
    for (int64_t i = 0; i < kv_model_weights(m); i++)
        FUZZ_DEMAND(kv_is_finite(w[i]));
    kv_kvm_extras again = k->extras;
    uint8_t *file;
    size_t n;
    again.level = 1;
    const kv_status st = kv_kvm_pack(m, &again, &file, &n);
    /* a weight may be too large for the class that the rule gives; a tokenizer is looked at only here */
    FUZZ_DEMAND(st == KV_OK || strstr(kv_message(), "too large") || strstr(kv_message(), "tokenizer"));
    free(file);
    kv_model_close(m);
}

static void try_file(const uint8_t *p, size_t n)
{
    kv_kvm *k;
    const kv_status st = kv_kvm_parse(p, n, "input", &k);
    if (st != KV_OK) {
        FUZZ_DEMAND(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED || st == KV_ERR_NOMEM);
        FUZZ_DEMAND(strncmp(kv_message(), "input: ", 7) == 0 && !strchr(kv_message(), '\n'));
        return;
    }
    use(k);
    kv_kvm_close(k);
}

static void try_parts(const uint8_t *p, size_t n)
{
    if (n < 4) return;
    const uint64_t meta = kv_get_le(p, 4);
    if (meta > n - 4) return;
    size_t size;
    uint8_t *file = kvmkit_file(p + 4, (size_t)meta, p + 4 + meta, n - 4 - (size_t)meta, &size);
    try_file(file, size);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_file(data, size);
    uint8_t *sealed = malloc(size ? size : 1);
    kvmkit_demand(sealed != NULL);
    if (size) memcpy(sealed, data, size);
    kvmkit_reseal(sealed, size);
    try_file(sealed, size);
    free(sealed);
    try_parts(data, size);
    if (kv_kvm_check_notes((const char *)data, size) != KV_OK) FUZZ_DEMAND(!strchr(kv_message(), '\n'));
    return 0;
}
