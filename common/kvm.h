/* kvm.h - the container of artifacts, FILE.kvm (docs/artifact.md): config, tokenizer, notes, and the quantised weights of a
 * model of the golf family, compressed with zstd.
 *
 * The bytes are untrusted. Every size is checked against the file, the config and a hard limit before memory is taken for it,
 * every byte belongs to exactly one part, and every code and scale is checked before it is used; what is wrong is one line. */
#ifndef KV_COMMON_KVM_H
#define KV_COMMON_KVM_H

#include "common/golf.h"
#include "common/quant.h"

enum {
    KV_KVM_VERSION = 1,
    KV_KVM_HEADER = 64,             /* bytes in front of the meta part */
    KV_KVM_MAX_META = 1 << 24,      /* bytes of config, tokenizer, notes and table together */
    KV_KVM_MAX_NOTES = 1 << 16,
    KV_KVM_MAX_PAYLOAD = 1 << 28,   /* bytes of all codes and scales */
    KV_KVM_LEVEL = 22               /* of zstd, unless the writer asks for another */
};

typedef enum kv_kvm_tokenizer_kind {
    KV_KVM_NO_TOKENIZER,
    KV_KVM_BYTES,        /* the byte vocabulary of the generated models; no blob */
    KV_KVM_SENTENCEPIECE, /* blob: a SentencePiece .model */
    KV_KVM_TOKENIZER_COUNT
} kv_kvm_tokenizer_kind;

/* What the writer adds to a model. Pointers are only read. */
typedef struct kv_kvm_extras {
    kv_quant_config quant;
    int tokenizer_kind;
    const void *tokenizer;
    size_t tokenizer_bytes;
    const char *notes; /* lines "key=value\n"; NULL: none */
    int level;         /* of zstd, 1 to 22 */
} kv_kvm_extras;

typedef struct kv_kvm_tensor {
    char name[KV_TENSOR_NAME_MAX];
    kv_golf_place place;
    int32_t cls; /* kv_quant_class */
    int64_t rows, cols;
    uint64_t value_at, value_bytes, scale_at, scale_bytes; /* in the payload */
} kv_kvm_tensor;

/* An open artifact; owns what it points to. Only read it. */
typedef struct kv_kvm {
    kv_config cfg;
    kv_kvm_extras extras;   /* level: 0; notes: "" when there are none */
    kv_kvm_tensor *tensors; /* in the order of kv_golf_order */
    int32_t n_tensors;
    uint64_t file_bytes, meta_bytes, packed_bytes, payload_bytes;
    uint8_t sha256[32]; /* of the file */
    uint8_t *payload;   /* every code and scale was checked */
    uint8_t *meta;
    char *notes;
} kv_kvm;

KV_EXTERN_C_BEGIN

/* ERR_UNSUPPORTED, with the reason, for a config that an artifact cannot hold: another family, a feature that no side computes. */
kv_status kv_kvm_check_config(const kv_config *cfg);

/* ERR_USAGE unless every line is "key=value" in UTF-8 without control characters: keys of a-z, 0-9, '_', '-', '.', each once,
 * at most 256 lines and KV_KVM_MAX_NOTES bytes. */
kv_status kv_kvm_check_notes(const char *notes, size_t n);

/* The file's bytes; the caller frees *out. The same model and extras give the same bytes with the same version of zstd. */
kv_status kv_kvm_pack(const kv_model *m, const kv_kvm_extras *extras, uint8_t **out, size_t *n);

/* ERR_IO, ERR_FORMAT, ERR_UNSUPPORTED, ERR_NOMEM. Parsing keeps no pointer into bytes; where names them in messages. */
kv_status kv_kvm_open(const char *path, kv_kvm **out);
kv_status kv_kvm_parse(const void *bytes, size_t n, const char *where, kv_kvm **out);
void kv_kvm_close(kv_kvm *k); /* accepts NULL */

/* w[rows][cols] of a tensor, dequantised. */
void kv_kvm_decode(const kv_kvm *k, const kv_kvm_tensor *t, float *w);

/* The model with dequantised weights, independent of k; its fingerprint is that of the file. */
kv_status kv_kvm_model(const kv_kvm *k, const char *name, kv_model **out);

/* The tokenizer of the file; NULL without one. ERR_FORMAT, ERR_MISMATCH when it has more tokens than the model. */
kv_status kv_kvm_tokenizer(const kv_kvm *k, const char *where, struct kv_tokenizer **out);

KV_EXTERN_C_END

#endif
