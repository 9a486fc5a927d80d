/* quant.h - the quantiser of artifacts of the golf family (docs/artifact.md): which class a tensor gets, floats to codes
 * and scales, and back.
 *
 * Everything is fp32, each operation rounded by itself in the order written, so that the same weights give the same bytes
 * everywhere. A matrix has one scale per row; a tensor that is no matrix has one for the whole (INT6_WHOLE, INT8_WHOLE).
 *   int6  s = fp16(max(max|row| / 31, 1/31));   q = clamp(rint(w / s), -31, 31)
 *   int8  clip = quantile of |row|; t = max(clip / 127, 1/127); q = clamp(rint(clamp(w, -clip, clip) / t), -127, 127); s = fp16(t)
 *   w' = q * s, with the stored s
 * rint rounds halves to even. The floors 1/31 and 1/127 belong to matrices and can be switched off. A stored scale that would
 * be 0 is 1: then every code is 0. The one scale of INT8_WHOLE is stored in fp32, all others in fp16. */
#ifndef KV_COMMON_QUANT_H
#define KV_COMMON_QUANT_H

#include "common/status.h"

#include <stdint.h>

/* X(class, name). The numbers stand in files: only append. */
#define KV_QUANT_CLASS_LIST(X)                                                                                        \
    X(F16, "fp16")          /* every value rounded to binary16; no scales */                                          \
    X(F32, "fp32")          /* as it is; no scales */                                                                 \
    X(INT6, "int6")         /* codes -31..31 in one byte each, an fp16 scale per row */                               \
    X(INT8, "int8")         /* codes -127..127, an fp16 scale per row */                                              \
    X(INT6_WHOLE, "int6/1") /* codes -31..31, one fp16 scale */                                                       \
    X(INT8_WHOLE, "int8/1") /* codes -127..127, one fp32 scale */

typedef enum kv_quant_class {
#define X(name, text) KV_QUANT_##name,
    KV_QUANT_CLASS_LIST(X)
#undef X
        KV_QUANT_CLASS_COUNT
} kv_quant_class;

typedef struct kv_quant_config {
    int64_t passthrough_max; /* tensors of at most so many elements are fp16 */
    int32_t floors;          /* 1: no scale of a matrix below 1/31 (int6) or 1/127 (int8) */
    float clip_quantile;     /* int8: of |row|; in (0, 1] */
} kv_quant_config;

KV_EXTERN_C_BEGIN

/* 65,536 elements, floors on, quantile 0.9999984. */
kv_quant_config kv_quant_default(void);
kv_status kv_quant_config_check(const kv_quant_config *c);

const char *kv_quant_class_name(int cls);

/* Class of a tensor by its name in files of the family: small ones fp16; control tensors fp32; matrices of the blocks and
 * of projections int6; everything else int8. */
kv_quant_class kv_quant_class_of(const kv_quant_config *c, const char *name, int64_t elements, int is_matrix);

/* Largest code of a class; 0: it has no codes. */
int kv_quant_top(int cls);

/* Bytes of values (codes, or the numbers themselves) and of scales, little endian. */
uint64_t kv_quant_value_bytes(int cls, int64_t rows, int64_t cols);
uint64_t kv_quant_scale_bytes(int cls, int64_t rows);

/* w[rows][cols] to values and scales. ERR_FORMAT for a weight that is not finite or too large for the class, with its place. */
kv_status kv_quant_encode(const kv_quant_config *c, int cls, int64_t rows, int64_t cols, const float *w, uint8_t *values,
                          uint8_t *scales);

/* ERR_FORMAT with the place of the first code out of range, value that is not finite, or scale that is not positive
 * or makes a weight infinite. */
kv_status kv_quant_check(int cls, int64_t rows, int64_t cols, const uint8_t *values, const uint8_t *scales);

/* Values and scales that kv_quant_check accepts to w[rows][cols]. */
void kv_quant_decode(int cls, int64_t rows, int64_t cols, const uint8_t *values, const uint8_t *scales, float *w);

/* Linear quantile of x[0..n), n > 0, all finite. Sorts x. rank = q * (n - 1) in fp32; between neighbours a <= b at a
 * fraction f: f < 0.5 ? a + f * (b - a) : b - (b - a) * (1 - f). */
float kv_quantile(float q, float *x, int64_t n);

KV_EXTERN_C_END

#endif
