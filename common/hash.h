/* hash.h - XXH64 (libxxhash) for digests, SHA-256 (libcrypto) for fingerprints. */
#ifndef KV_COMMON_HASH_H
#define KV_COMMON_HASH_H

#include "common/hd.h"

#include <stddef.h>
#include <stdint.h>

KV_EXTERN_C_BEGIN

uint64_t kv_xxh64(const void *p, size_t n, uint64_t seed);

void kv_sha256(const void *p, size_t n, uint8_t out[32]);

typedef struct kv_sha256_ctx {
    void *impl;
} kv_sha256_ctx;
void kv_sha256_begin(kv_sha256_ctx *c);
void kv_sha256_add(kv_sha256_ctx *c, const void *p, size_t n);
void kv_sha256_end(kv_sha256_ctx *c, uint8_t out[32]);

/* Writes 64 hex digits and a zero. */
void kv_hex32(const uint8_t sha[32], char out[65]);

KV_EXTERN_C_END

#endif
