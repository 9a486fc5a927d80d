/* kvm_private.h - the layout that the reader and the writer of artifacts share (docs/artifact.md). */
#ifndef KV_COMMON_KVM_PRIVATE_H
#define KV_COMMON_KVM_PRIVATE_H

#include "common/kvm.h"

#define KV_KVM_MAGIC "\x89KVM\r\n\x1a\n" /* not text, and damaged by whatever translates line ends */

/* Places in the header. */
enum {
    KV_KVM_AT_VERSION = 8,
    KV_KVM_AT_META = 12,    /* u32: bytes of the meta part */
    KV_KVM_AT_PACKED = 16,  /* u64: bytes of the zstd frame */
    KV_KVM_AT_PAYLOAD = 24, /* u64: bytes that it holds */
    KV_KVM_AT_META_SUM = 32,
    KV_KVM_AT_PACKED_SUM = 40,
    KV_KVM_AT_PAYLOAD_SUM = 48,
    KV_KVM_AT_SUM = 56 /* of the header up to here */
};

/* A tensor's entry by the config alone: name, place, shape. Offsets and class stay 0. */
void kv_kvm_describe(const kv_config *cfg, kv_golf_place place, kv_kvm_tensor *t);

/* Lays the tensor behind `end` bytes of payload, by its class; returns the new end. */
uint64_t kv_kvm_lay(kv_kvm_tensor *t, uint64_t end);

/* The tensors of a config, described; the caller frees them. NULL: out of memory. */
kv_kvm_tensor *kv_kvm_tensors_of(const kv_config *cfg, int32_t *n);

/* Opens a tokenizer and holds it against the vocabulary. *out may be NULL: none. */
kv_status kv_kvm_open_tokenizer(const kv_config *cfg, const kv_kvm_extras *e, const char *where, struct kv_tokenizer **out);

#endif
