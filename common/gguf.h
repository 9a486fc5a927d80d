/* gguf.h - reader of GGUF model files, versions 2 and 3, little endian.
 *
 * The bytes are untrusted: every length, count and offset is checked against the file before it is
 * used, and nothing is allocated in proportion to a number that the file merely claims. The file is
 * mapped; strings and tensors point into the map and live as long as the kv_gguf.
 *
 * Format: ggml's docs/formats.md. Layout: header, key/value pairs, tensor infos, padding to
 * general.alignment, tensor data. */
#ifndef KV_COMMON_GGUF_H
#define KV_COMMON_GGUF_H

#include "common/tensor.h"

typedef struct kv_gguf kv_gguf;

/* A string inside the file: not zero-terminated. */
typedef struct kv_span {
    const char *p;
    uint64_t n;
} kv_span;

/* An array value: n elements of type (GGUF's value type number), first one at p. */
typedef struct kv_gguf_array {
    uint32_t type;
    uint64_t n;
    const uint8_t *p;
} kv_gguf_array;

enum { KV_GGUF_U32 = 4, KV_GGUF_I32 = 5, KV_GGUF_F32 = 6, KV_GGUF_BOOL = 7, KV_GGUF_STRING = 8 };

typedef struct kv_gguf_tensor {
    kv_span name;
    uint32_t n_dims;
    uint64_t dims[4]; /* fastest first: dims[0] = in-features */
    uint32_t gguf_type;
    uint64_t offset;     /* in the file */
    const void *data;
} kv_gguf_tensor;

KV_EXTERN_C_BEGIN

/* Opens a file / parses a buffer that outlives the result. ERR_IO, ERR_FORMAT. `where` names the
 * buffer in messages. */
kv_status kv_gguf_open(const char *path, kv_gguf **out);
kv_status kv_gguf_parse(const void *bytes, size_t size, const char *where, kv_gguf **out);
void kv_gguf_close(kv_gguf *g); /* accepts NULL */

const char *kv_gguf_where(const kv_gguf *g);
const void *kv_gguf_bytes(const kv_gguf *g, size_t *size);
uint32_t kv_gguf_version(const kv_gguf *g);

/* Values by key. The required forms fail with ERR_FORMAT when the key is missing or of another type;
 * the _or forms return the default when it is missing (and fail when it is of another type).
 * Integers of any width and sign are accepted where they fit. */
int kv_gguf_has(const kv_gguf *g, const char *key);
kv_status kv_gguf_u32(const kv_gguf *g, const char *key, uint32_t *out);
kv_status kv_gguf_u32_or(const kv_gguf *g, const char *key, uint32_t def, uint32_t *out);
kv_status kv_gguf_f32(const kv_gguf *g, const char *key, float *out);
kv_status kv_gguf_f32_or(const kv_gguf *g, const char *key, float def, float *out);
kv_status kv_gguf_bool_or(const kv_gguf *g, const char *key, int def, int *out);
kv_status kv_gguf_string(const kv_gguf *g, const char *key, kv_span *out);
kv_status kv_gguf_array_of(const kv_gguf *g, const char *key, uint32_t type, kv_gguf_array *out);

/* Walks a string array: copy the kv_gguf_array, call until 0; p and n of the copy advance. */
int kv_gguf_next_string(kv_gguf_array *rest, kv_span *out);

/* Walks the key/value pairs for listings: key and value rendered as text (arrays as "[n] type").
 * 0 past the end. */
int kv_gguf_describe(const kv_gguf *g, uint64_t i, kv_span *key, char *value, size_t value_size);

uint64_t kv_gguf_n_tensors(const kv_gguf *g);
const kv_gguf_tensor *kv_gguf_tensor_at(const kv_gguf *g, uint64_t i);
const kv_gguf_tensor *kv_gguf_find_tensor(const kv_gguf *g, const char *name); /* NULL if absent */

KV_EXTERN_C_END

#endif
