/* kvmkit.h - a golf model of a few hundred weights, its artifact, and artifacts with damage whose checksums are right. */
#ifndef KV_TESTS_KVMKIT_H
#define KV_TESTS_KVMKIT_H

#include "common/bytes.h"
#include "common/hash.h"
#include "common/kvm_private.h"
#include "common/model_private.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define KVMKIT_HELPER __attribute__((unused)) static

KVMKIT_HELPER void kvmkit_demand(int holds)
{
    if (!holds) abort();
}

/* Every tensor of the family, each as small as it goes. */
KVMKIT_HELPER kv_config kvmkit_config(void)
{
    kv_config c = *kv_golf_preset("nano-u");
    c.vocab_size = 8;
    c.n_layers = 2;
    c.d_model = 8;
    c.n_heads = 2;
    c.n_kv_heads = 1;
    c.head_dim = c.rope_dims = 4;
    c.ffn_dim = 12;
    c.bigram_rows = 4;
    c.bigram_dim = 3;
    c.sidecar_hidden = 2;
    c.sidecar_layer_mask = 2;
    c.xsa_layer_mask = 1;
    return c;
}

/* Weights between -2 and 2. */
KVMKIT_HELPER kv_model *kvmkit_model(const kv_config *cfg)
{
    kv_model *m;
    kvmkit_demand(kv_model_new("kit", cfg, &m) == KV_OK && kv_model_allocate(m) == KV_OK);
    float *w = ((kv_model_owner *)m->owner)->weights;
    for (int64_t i = 0; i < kv_model_weights(m); i++)
        w[i] = (float)kv_golf_bell("kvmkit", 1, (uint64_t)i) * 0x1p-16f;
    kvmkit_demand(kv_model_check(m) == KV_OK);
    return m;
}

/* passthrough_max = limit, no tokenizer, two notes, a fast level. */
KVMKIT_HELPER kv_kvm_extras kvmkit_extras(int64_t limit)
{
    kv_kvm_extras e = {.quant = kv_quant_default(), .notes = "seed=1\nsteps=20\n", .level = 1};
    e.quant.passthrough_max = limit;
    return e;
}

typedef struct kvmkit_bytes {
    uint8_t *p;
    size_t n;
} kvmkit_bytes;

/* free(p). */
KVMKIT_HELPER kvmkit_bytes kvmkit_packed(const kv_model *m, const kv_kvm_extras *e)
{
    kvmkit_bytes b = {0};
    kvmkit_demand(kv_kvm_pack(m, e, &b.p, &b.n) == KV_OK);
    return b;
}

/* The kit's model, packed and opened again. */
KVMKIT_HELPER kv_kvm *kvmkit_artifact(int64_t limit)
{
    const kv_config cfg = kvmkit_config();
    const kv_kvm_extras e = kvmkit_extras(limit);
    kv_model *m = kvmkit_model(&cfg);
    kvmkit_bytes b = kvmkit_packed(m, &e);
    kv_kvm *k;
    kvmkit_demand(kv_kvm_parse(b.p, b.n, "kit.kvm", &k) == KV_OK);
    free(b.p);
    kv_model_close(m);
    return k;
}

/* Makes the checksums of a file right again, where its sizes allow it. */
KVMKIT_HELPER void kvmkit_reseal(uint8_t *p, size_t n)
{
    if (n < KV_KVM_HEADER) return;
    const uint64_t meta = kv_get_le(p + KV_KVM_AT_META, 4), rest = n - KV_KVM_HEADER;
    if (meta <= rest) {
        kv_put_le(p + KV_KVM_AT_META_SUM, 8, kv_xxh64(p + KV_KVM_HEADER, (size_t)meta, 0));
        kv_put_le(p + KV_KVM_AT_PACKED_SUM, 8, kv_xxh64(p + KV_KVM_HEADER + meta, (size_t)(rest - meta), 0));
    }
    kv_put_le(p + KV_KVM_AT_SUM, 8, kv_xxh64(p, KV_KVM_AT_SUM, 0));
}

/* A file of these two parts, with right sizes and checksums; the caller frees it. */
KVMKIT_HELPER uint8_t *kvmkit_file(const void *meta, size_t meta_n, const void *payload, size_t payload_n, size_t *n)
{
    const size_t bound = ZSTD_compressBound(payload_n);
    uint8_t *p = calloc(1, KV_KVM_HEADER + meta_n + bound);
    kvmkit_demand(p != NULL);
    memcpy(p, KV_KVM_MAGIC, 8);
    if (meta_n) memcpy(p + KV_KVM_HEADER, meta, meta_n);
    const size_t packed = ZSTD_compress(p + KV_KVM_HEADER + meta_n, bound, payload, payload_n, 1);
    kvmkit_demand(!ZSTD_isError(packed));
    kv_put_le(p + KV_KVM_AT_VERSION, 4, KV_KVM_VERSION);
    kv_put_le(p + KV_KVM_AT_META, 4, meta_n);
    kv_put_le(p + KV_KVM_AT_PACKED, 8, packed);
    kv_put_le(p + KV_KVM_AT_PAYLOAD, 8, payload_n);
    kv_put_le(p + KV_KVM_AT_PAYLOAD_SUM, 8, kv_xxh64(payload, payload_n, 0));
    *n = KV_KVM_HEADER + meta_n + packed;
    kvmkit_reseal(p, *n);
    return p;
}

#endif
