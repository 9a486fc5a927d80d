/* mem.h - large arrays: zeroed, 64-byte aligned, on huge pages where the system gives them. The first
 * touch of a 4 KiB page costs about as much as copying it ten times, so arenas are allocated once. */
#ifndef KV_COMMON_MEM_H
#define KV_COMMON_MEM_H

#include "common/status.h"

KV_EXTERN_C_BEGIN

/* NULL when memory is out. bytes = 0 gives a pointer that may be freed. */
void *kv_big_alloc(size_t bytes);
void kv_big_free(void *p, size_t bytes); /* accepts NULL */

/* A buffer that grows and never shrinks. Contents are lost when it grows. Zero-initialise. */
typedef struct kv_buffer {
    void *p;
    size_t bytes;
} kv_buffer;
kv_status kv_buffer_reserve(kv_buffer *b, size_t bytes);
void kv_buffer_free(kv_buffer *b);

/* Bytes that are appended to. Zero-initialise; free(p). ERR_NOMEM. */
typedef struct kv_bytes {
    char *p;
    size_t n, cap;
} kv_bytes;
kv_status kv_bytes_add(kv_bytes *b, const void *p, size_t n);

KV_EXTERN_C_END

#endif
