/* digest.h - state digests (docs/backend.md) computed from an export: for sides without a fast path of
 * their own, and to check those that have one. */
#ifndef KV_DIFFTEST_DIGEST_H
#define KV_DIFFTEST_DIGEST_H

#include "common/backend.h"
#include "common/mem.h"

/* Digest of one canonical blob that contains K and V. ERR_FORMAT for a damaged one. */
kv_status dt_digest_blob(const void *blob, size_t size, kv_digest *out);

/* Exports one layer (-1: all) of a session into *buffer; *size receives the bytes. */
kv_status dt_export(const kv_backend *b, kv_session *s, int32_t layer, uint32_t what, kv_buffer *buffer,
                    size_t *size);

/* The digest of one layer (-1: all): the side's own when it has KV_CAP_DIGEST, else by export.
 * content = 0: leave it out (order and score only), which needs no K and V. */
kv_status dt_digest(const kv_backend *b, kv_session *s, int32_t layer, int content, kv_buffer *buffer,
                    kv_digest *out);

/* Bytes of all records in the cache, all layers and heads, without the padding of exports. */
kv_status dt_cache_bytes(const kv_backend *b, kv_session *s, kv_buffer *buffer, int64_t *bytes);

/* Tokens with an original index in [from, to) that layer 0, KV head 0 holds, in coded tiles or by themselves. */
kv_status dt_count_resident(const kv_backend *b, kv_session *s, int64_t from, int64_t to,
                            kv_buffer *buffer, int32_t *n);

#endif
