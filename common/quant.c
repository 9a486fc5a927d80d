#include "common/quant.h"

#include "common/numfmt.h"

#include <stdlib.h>
#include <string.h>

/* ---- classes ---------------------------------------------------------------------------------------------------- */

kv_quant_config kv_quant_default(void)
{
    return (kv_quant_config){.passthrough_max = 65536, .floors = 1, .clip_quantile = 0.9999984f};
}

kv_status kv_quant_config_check(const kv_quant_config *c)
{
    if (c->passthrough_max < 0)
        return kv_fail(KV_ERR_FORMAT, "quantiser: passthrough_max is %lld; it must be 0 or more", (long long)c->passthrough_max);
    if (c->floors != 0 && c->floors != 1)
        return kv_fail(KV_ERR_FORMAT, "quantiser: floors is %d; it must be 0 or 1", c->floors);
    if (!(c->clip_quantile > 0.0f && c->clip_quantile <= 1.0f))
        return kv_fail(KV_ERR_FORMAT, "quantiser: clip_quantile is %g; it must lie in (0, 1]", (double)c->clip_quantile);
    return KV_OK;
}

const char *kv_quant_class_name(int cls)
{
    static const char *const names[] = {
#define X(name, text) text,
        KV_QUANT_CLASS_LIST(X)
#undef X
    };
    return cls >= 0 && cls < KV_QUANT_CLASS_COUNT ? names[cls] : "?";
}

static int has_one_of(const char *name, const char *const *patterns, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(name, patterns[i])) return 1;
    return 0;
}

kv_quant_class kv_quant_class_of(const kv_quant_config *c, const char *name, int64_t elements, int is_matrix)
{
    static const char *const control[] = {"attn_scale", "mlp_scale",   "resid_mix",   "q_gain",      "k_gain",
                                          "k_shift_mix", "v_shift_mix", "local_v_mix", "skip_weight", "smear"};
    static const char *const coarse[] = {".mlp.", ".attn.", ".proj."};
    if (elements <= c->passthrough_max) return KV_QUANT_F16;
    if (has_one_of(name, control, sizeof control / sizeof *control)) return KV_QUANT_F32;
    if (has_one_of(name, coarse, sizeof coarse / sizeof *coarse)) return is_matrix ? KV_QUANT_INT6 : KV_QUANT_INT6_WHOLE;
    return is_matrix ? KV_QUANT_INT8 : KV_QUANT_INT8_WHOLE;
}

int kv_quant_top(int cls)
{
    if (cls == KV_QUANT_INT6 || cls == KV_QUANT_INT6_WHOLE) return 31;
    return cls == KV_QUANT_INT8 || cls == KV_QUANT_INT8_WHOLE ? 127 : 0;
}

static int is_whole(int cls) { return cls == KV_QUANT_INT6_WHOLE || cls == KV_QUANT_INT8_WHOLE; }

uint64_t kv_quant_value_bytes(int cls, int64_t rows, int64_t cols)
{
    return (uint64_t)rows * (uint64_t)cols * (cls == KV_QUANT_F16 ? 2 : cls == KV_QUANT_F32 ? 4 : 1);
}

uint64_t kv_quant_scale_bytes(int cls, int64_t rows)
{
    if (kv_quant_top(cls) == 0) return 0;
    return cls == KV_QUANT_INT8_WHOLE ? 4 : cls == KV_QUANT_INT6_WHOLE ? 2 : 2 * (uint64_t)rows;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static void put_f16(uint8_t *p, uint16_t h)
{
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static float get_f16(const uint8_t *p) { return kv_f162f((uint16_t)(p[0] | p[1] << 8)); }

static void put_f32(uint8_t *p, float f)
{
    const uint32_t u = (uint32_t)kv_f2bits(f);
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(u >> 8 * i);
}

static float get_f32(const uint8_t *p)
{
    return kv_bits2f((int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24));
}

static float get_scale(int cls, const uint8_t *scales, int64_t row)
{
    return cls == KV_QUANT_INT8_WHOLE ? get_f32(scales) : get_f16(scales + 2 * row);
}

/* ---- floats to codes -------------------------------------------------------------------------------------------- */

static float magnitude(float x) { return kv_bits2f(kv_f2bits(x) & 0x7fffffff); }

/* Half to even, |y| < 2^22: the addition rounds at 1, the subtraction is exact. */
static int rint_small(float y) { return (int)((y + 0x1.8p23f) - 0x1.8p23f); }

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float kv_quantile(float q, float *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    const float rank = q * (float)(n - 1); /* below 2^40: whole part and fraction are exact */
    int64_t lo = (int64_t)rank;
    if (lo > n - 1) lo = n - 1; /* n - 1 rounded up to fp32 */
    const float f = rank - (float)lo, a = x[lo], b = f > 0.0f && lo < n - 1 ? x[lo + 1] : a, d = b - a;
    return f < 0.5f ? a + f * d : b - d * (1.0f - f);
}

/* How the values of one scale become codes. */
typedef struct grid {
    float step; /* what they are divided by */
    float clip; /* beyond it they count as this */
} grid;

static float floored(float step, float least, int floors) { return floors && step < least ? least : step; }

static grid int6_grid(const kv_quant_config *c, int cls, const float *w, int64_t n, uint8_t *scale)
{
    float most = 0.0f;
    for (int64_t i = 0; i < n; i++)
        if (magnitude(w[i]) > most) most = magnitude(w[i]);
    const float step = floored(most / 31.0f, 1.0f / 31.0f, c->floors && !is_whole(cls));
    const uint16_t h = kv_f2f16(step);
    put_f16(scale, h ? h : 0x3c00);
    return (grid){get_f16(scale), most};
}

static grid int8_grid(const kv_quant_config *c, int cls, const float *w, int64_t n, float *room, uint8_t *scale)
{
    for (int64_t i = 0; i < n; i++)
        room[i] = magnitude(w[i]);
    const float clip = kv_quantile(c->clip_quantile, room, n);
    float step = floored(clip / 127.0f, 1.0f / 127.0f, c->floors && !is_whole(cls));
    if (step == 0.0f || (!is_whole(cls) && kv_f2f16(step) == 0)) step = 1.0f;
    if (is_whole(cls))
        put_f32(scale, step);
    else
        put_f16(scale, kv_f2f16(step));
    return (grid){step, clip};
}

static void encode_codes(grid g, int top, const float *w, int64_t n, uint8_t *codes)
{
    for (int64_t i = 0; i < n; i++) {
        const float x = w[i] > g.clip ? g.clip : w[i] < -g.clip ? -g.clip : w[i];
        int q = rint_small(x / g.step);
        q = q > top ? top : q < -top ? -top : q;
        codes[i] = (uint8_t)q;
    }
}

static kv_status bad_weight(int64_t i, int64_t cols, float w, const char *why)
{
    return kv_fail(KV_ERR_FORMAT, "row %lld, column %lld: %g %s", (long long)(i / cols), (long long)(i % cols), (double)w, why);
}

/* Largest weight that a class can hold. fp16's largest number is 65504; it holds weights, or one 31st or 127th of them. */
static float largest(int cls)
{
    switch (cls) {
    case KV_QUANT_F16:
        return 65504.0f;
    case KV_QUANT_F32:
        return kv_inf();
    case KV_QUANT_INT8_WHOLE:
        return 0x1p126f; /* scale * 127 stays finite, however it is rounded */
    default:
        return 65504.0f * (float)kv_quant_top(cls);
    }
}

static kv_status check_weights(int cls, int64_t n, int64_t cols, const float *w)
{
    const float limit = largest(cls);
    for (int64_t i = 0; i < n; i++) {
        if (!kv_is_finite(w[i])) return bad_weight(i, cols, w[i], "is not a finite number");
        if (magnitude(w[i]) > limit) return bad_weight(i, cols, w[i], "is too large for its class");
    }
    return KV_OK;
}

static void encode_numbers(int cls, int64_t n, const float *w, uint8_t *values)
{
    for (int64_t i = 0; i < n; i++)
        if (cls == KV_QUANT_F16)
            put_f16(values + 2 * i, kv_f2f16(w[i]));
        else
            put_f32(values + 4 * i, w[i]);
}

kv_status kv_quant_encode(const kv_quant_config *c, int cls, int64_t rows, int64_t cols, const float *w, uint8_t *values,
                          uint8_t *scales)
{
    const int64_t n = is_whole(cls) ? rows * cols : cols, groups = rows * cols / n;
    const int top = kv_quant_top(cls);
    KV_TRY(check_weights(cls, rows * cols, cols, w));
    if (top == 0) {
        encode_numbers(cls, rows * cols, w, values);
        return KV_OK;
    }
    float *room = top == 127 ? malloc((size_t)n * sizeof *room) : NULL;
    if (top == 127 && !room) return kv_fail(KV_ERR_NOMEM, "out of memory for a row of %lld weights", (long long)n);
    for (int64_t r = 0; r < groups; r++) {
        const float *row = w + r * n;
        const grid g = top == 127 ? int8_grid(c, cls, row, n, room, scales + 2 * r) : int6_grid(c, cls, row, n, scales + 2 * r);
        encode_codes(g, top, row, n, values + r * n);
    }
    free(room);
    return KV_OK;
}

/* ---- codes to floats -------------------------------------------------------------------------------------------- */

static float number_at(int cls, const uint8_t *values, int64_t i)
{
    return cls == KV_QUANT_F16 ? get_f16(values + 2 * i) : get_f32(values + 4 * i);
}

kv_status kv_quant_check(int cls, int64_t rows, int64_t cols, const uint8_t *values, const uint8_t *scales)
{
    const int top = kv_quant_top(cls);
    for (int64_t i = 0; top == 0 && i < rows * cols; i++)
        if (!kv_is_finite(number_at(cls, values, i)))
            return bad_weight(i, cols, number_at(cls, values, i), "is not a finite number");
    for (int64_t i = 0; top != 0 && i < rows * cols; i++) {
        const int q = (int8_t)values[i];
        if (q > top || q < -top)
            return kv_fail(KV_ERR_FORMAT, "row %lld, column %lld: code %d; %s has codes from %d to %d", (long long)(i / cols),
                           (long long)(i % cols), q, kv_quant_class_name(cls), -top, top);
    }
    for (int64_t r = 0; top != 0 && r < (is_whole(cls) ? 1 : rows); r++) {
        const float s = get_scale(cls, scales, r);
        if (!(s > 0.0f && kv_is_finite(s * (float)top)))
            return kv_fail(KV_ERR_FORMAT, "scale %lld is %g; it must be above 0 and keep weights finite", (long long)r, (double)s);
    }
    return KV_OK;
}

void kv_quant_decode(int cls, int64_t rows, int64_t cols, const uint8_t *values, const uint8_t *scales, float *w)
{
    if (kv_quant_top(cls) == 0) {
        for (int64_t i = 0; i < rows * cols; i++)
            w[i] = number_at(cls, values, i);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        const float s = get_scale(cls, scales, is_whole(cls) ? 0 : r);
        for (int64_t c = 0; c < cols; c++)
            w[r * cols + c] = (float)(int8_t)values[r * cols + c] * s;
    }
}
