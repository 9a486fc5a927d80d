/* tensor.c - widening of stored weights to fp32.
 *
 * Formulas, each operation rounded by itself (docs/formats.md):
 *   Q4_0  d * (q - 8)              Q4_1  d * q + m             Q8_0  d * q
 *   Q4_K, Q5_K  (d * scale) * q - (dmin * min)                 Q6_K  (d * scale) * (q - 32)
 * Byte layouts: ggml's block formats, restated in docs/formats.md. */
#include "common/tensor.h"

#include "common/numfmt.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t gguf_type;
    int32_t weights, bytes;
} formats[] = {
#define X(name, gguf, weights, bytes) {#name, gguf, weights, bytes},
    KV_DTYPE_LIST(X)
#undef X
};

const char *kv_dtype_name(int32_t t) { return t >= 0 && t < KV_DTYPE_COUNT ? formats[t].name : "?"; }

int kv_dtype_from_gguf(uint32_t gguf_type)
{
    for (int i = 0; i < KV_DTYPE_COUNT; i++)
        if (formats[i].gguf_type == gguf_type) return i;
    return -1;
}

int64_t kv_dtype_block_weights(int32_t t) { return formats[t].weights; }

int64_t kv_dtype_block_bytes(int32_t t) { return formats[t].bytes; }

int64_t kv_dtype_row_bytes(int32_t t, int64_t cols)
{
    return cols % formats[t].weights ? -1 : cols / formats[t].weights * formats[t].bytes;
}

static float f16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return kv_f162f(h);
}

int kv_dtype_has_min(int32_t t) { return t == KV_DTYPE_Q4_1; }

int kv_dtype_has_codes(int32_t t) { return t == KV_DTYPE_Q4_0 || t == KV_DTYPE_Q4_1 || t == KV_DTYPE_Q8_0; }

void kv_read_codes(int32_t dtype, const void *block, kv_codes *out)
{
    const uint8_t *b = block, *q = b + (kv_dtype_has_min(dtype) ? 4 : 2);
    const int zero = dtype == KV_DTYPE_Q4_0 ? 8 : 0;
    out->d = f16_at(b);
    out->m = kv_dtype_has_min(dtype) ? f16_at(b + 2) : 0;
    if (dtype == KV_DTYPE_Q8_0) {
        memcpy(out->q, q, sizeof out->q);
        return;
    }
    for (int j = 0; j < 16; j++) {
        out->q[j] = (int8_t)((q[j] & 15) - zero);
        out->q[j + 16] = (int8_t)((q[j] >> 4) - zero);
    }
}

static void dequant_codes(int32_t dtype, const uint8_t *b, float *y)
{
    kv_codes c;
    kv_read_codes(dtype, b, &c);
    for (int j = 0; j < 32; j++)
        y[j] = c.d * (float)c.q[j];
    if (kv_dtype_has_min(dtype))
        for (int j = 0; j < 32; j++)
            y[j] = y[j] + c.m;
}

/* Scale and minimum of sub-block j (0..7): six bits each, packed in twelve bytes. */
static void k4_scale_min(const uint8_t *s, int j, float *scale, float *min)
{
    if (j < 4) {
        *scale = (float)(s[j] & 63);
        *min = (float)(s[j + 4] & 63);
    } else {
        *scale = (float)((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4));
        *min = (float)((s[j + 4] >> 4) | ((s[j] >> 6) << 4));
    }
}

static void dequant_q4_k(const uint8_t *b, float *y)
{
    const float d = f16_at(b), dmin = f16_at(b + 2);
    const uint8_t *scales = b + 4, *q = b + 16;
    for (int j = 0; j < 8; j++) { /* 32 weights each; odd sub-blocks sit in the high nibbles */
        float scale, min;
        k4_scale_min(scales, j, &scale, &min);
        const float ds = d * scale, dm = dmin * min;
        const int shift = (j & 1) * 4;
        for (int l = 0; l < 32; l++)
            y[32 * j + l] = ds * (float)((q[32 * (j / 2) + l] >> shift) & 15) - dm;
    }
}

static void dequant_q5_k(const uint8_t *b, float *y)
{
    const float d = f16_at(b), dmin = f16_at(b + 2);
    const uint8_t *scales = b + 4, *high = b + 16, *q = b + 48;
    for (int j = 0; j < 8; j++) { /* fifth bit of sub-block j: bit j of high[] */
        float scale, min;
        k4_scale_min(scales, j, &scale, &min);
        const float ds = d * scale, dm = dmin * min;
        const int shift = (j & 1) * 4;
        for (int l = 0; l < 32; l++) {
            const int code = ((q[32 * (j / 2) + l] >> shift) & 15) | (((high[l] >> j) & 1) << 4);
            y[32 * j + l] = ds * (float)code - dm;
        }
    }
}

static void dequant_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *low = b, *high = b + 128;
    const int8_t *scales = (const int8_t *)(b + 192);
    const float d = f16_at(b + 208);
    for (int half = 0; half < 2; half++)       /* 128 weights */
        for (int part = 0; part < 4; part++)   /* 32 weights: two sub-blocks of 16 */
            for (int l = 0; l < 32; l++) {
                const int lo = low[64 * half + 32 * (part & 1) + l] >> (part >= 2 ? 4 : 0);
                const int hi = high[32 * half + l] >> (2 * part);
                const int code = ((lo & 15) | ((hi & 3) << 4)) - 32;
                const float ds = d * (float)scales[8 * half + 2 * part + l / 16];
                y[128 * half + 32 * part + l] = ds * (float)code;
            }
}

static void dequant_block(int32_t dtype, const uint8_t *b, float *y)
{
    switch (dtype) {
    case KV_DTYPE_F32:
        memcpy(y, b, sizeof *y);
        break;
    case KV_DTYPE_F16:
        *y = f16_at(b);
        break;
    case KV_DTYPE_BF16: {
        uint16_t h;
        memcpy(&h, b, sizeof h);
        *y = kv_bf162f(h);
        break;
    }
    case KV_DTYPE_Q4_0:
    case KV_DTYPE_Q4_1:
    case KV_DTYPE_Q8_0:
        dequant_codes(dtype, b, y);
        break;
    case KV_DTYPE_Q4_K:
        dequant_q4_k(b, y);
        break;
    case KV_DTYPE_Q5_K:
        dequant_q5_k(b, y);
        break;
    case KV_DTYPE_Q6_K:
        dequant_q6_k(b, y);
        break;
    }
}

void kv_dequant(int32_t dtype, const void *src, int64_t n, float *dst)
{
    if (dtype == KV_DTYPE_F32) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    }
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += formats[dtype].weights, b += formats[dtype].bytes)
        dequant_block(dtype, b, dst + i);
}

void kv_tensor_rows_f32(const kv_tensor *t, int64_t row0, int64_t n_rows, float *dst)
{
    const int64_t row_bytes = kv_dtype_row_bytes(t->dtype, t->cols);
    const uint8_t *src = (const uint8_t *)t->data + row0 * row_bytes;
    kv_dequant(t->dtype, src, n_rows * t->cols, dst);
}
