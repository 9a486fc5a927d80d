/* tensor.h - stored matrices and the block formats they come in.
 *
 * A kv_tensor is a view of bytes that somebody else owns (a mapped file, a generator's buffer):
 * `rows` out-features of `cols` in-features, row by row, in one of the formats below. Blocks run
 * along the columns. Widening to fp32 is defined per weight as single IEEE operations, so that every
 * side starts from the same fp32 values; the definitions stand in docs/formats.md. */
#ifndef KV_COMMON_TENSOR_H
#define KV_COMMON_TENSOR_H

#include "common/status.h"

#include <stdint.h>

/* X(name, GGUF type number, weights per block, bytes per block) */
#define KV_DTYPE_LIST(X)                                                                           \
    X(F32, 0, 1, 4)                                                                                \
    X(F16, 1, 1, 2)                                                                                \
    X(Q4_0, 2, 32, 18)                                                                             \
    X(Q4_1, 3, 32, 20)                                                                             \
    X(Q8_0, 8, 32, 34)                                                                             \
    X(Q4_K, 12, 256, 144)                                                                          \
    X(Q5_K, 13, 256, 176)                                                                          \
    X(Q6_K, 14, 256, 210)                                                                          \
    X(BF16, 30, 1, 2)

typedef enum kv_dtype {
#define X(name, gguf, weights, bytes) KV_DTYPE_##name,
    KV_DTYPE_LIST(X)
#undef X
        KV_DTYPE_COUNT
} kv_dtype;

typedef struct kv_tensor {
    const void *data; /* NULL = the model has no such tensor */
    uint64_t n_bytes;
    int64_t rows, cols; /* a vector is one row */
    int32_t dtype;      /* kv_dtype */
    int32_t reserved;
} kv_tensor;

KV_EXTERN_C_BEGIN

const char *kv_dtype_name(int32_t dtype);
int kv_dtype_from_gguf(uint32_t gguf_type); /* -1: not supported */
int64_t kv_dtype_block_weights(int32_t dtype);
int64_t kv_dtype_block_bytes(int32_t dtype);

/* Bytes of one row; -1 when cols is not a multiple of the block. */
int64_t kv_dtype_row_bytes(int32_t dtype, int64_t cols);

/* Widens n weights that start at a block boundary. n is a multiple of the block. */
void kv_dequant(int32_t dtype, const void *src, int64_t n, float *dst);

/* Formats whose weight is d * q, or d * q + m, with one d and m for 32 weights: Q4_0, Q4_1, Q8_0. d is fp16 and
 * q has at most eight bits, so that the product is exact in fp32. */
typedef struct kv_codes {
    float d, m; /* m: 0 where the format has none */
    int8_t q[32];
} kv_codes;

int kv_dtype_has_codes(int32_t dtype);
int kv_dtype_has_min(int32_t dtype);
void kv_read_codes(int32_t dtype, const void *block, kv_codes *out);

/* dst[n_rows][cols] = rows row0 .. row0 + n_rows - 1 of t in fp32. */
void kv_tensor_rows_f32(const kv_tensor *t, int64_t row0, int64_t n_rows, float *dst);

KV_EXTERN_C_END

#endif
