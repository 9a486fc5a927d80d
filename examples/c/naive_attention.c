/* naive_attention.c - the simplest attention kernel that kvdiff accepts: three passes over the view of every row.
 *
 *     cc -O2 -shared -fPIC -I include -o naive_attention.so examples/c/naive_attention.c -lm
 *     kvdiff ops --kernel=./naive_attention.so */
#include "kvdiff_kernel.h"

#include <math.h>

KVDK_CANDIDATE("naive-attention", KVDK_BOUNDED)

/* The types that K and V come in. */
static float widen_f16(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? ldexpf(1024 + (float)fraction, exponent - 25)
                                       : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -value : value;
}

static float widen_bf16(uint16_t h)
{
    union {
        uint32_t bits;
        float value;
    } u = {(uint32_t)h << 16};
    return u.value;
}

static float load(const kvdk_tensor *t, int64_t i, int64_t head, int64_t d)
{
    const int64_t at = i * t->stride[0] + head * t->stride[1] + d;
    if (t->dtype == KVDK_F16) return widen_f16(((const uint16_t *)t->data)[at]);
    if (t->dtype == KVDK_BF16) return widen_bf16(((const uint16_t *)t->data)[at]);
    return ((const float *)t->data)[at];
}

/* Entries of a segment that token t may look at. */
static int64_t seen(const kvdk_segment *s, int64_t t)
{
    if (!s->k.data) return 0;
    return s->kind == KVDK_SELF ? t + 1 : s->k.dim[0];
}

static int alive(const kvdk_segment *s, int64_t i)
{
    return !s->valid.data || ((const uint8_t *)s->valid.data)[i];
}

static float score(const kvdk_attn_args *a, const kvdk_segment *s, int64_t t, int64_t head, int64_t i)
{
    float sum = 0;
    for (int64_t d = 0; d < a->hd; d++)
        sum += load(&a->q, t, head, d) * load(&s->k, i, head / (a->Hq / a->Hk), d);
    return sum * (float)a->scale;
}

static void row(const kvdk_attn_args *a, int64_t t, int64_t head)
{
    float max = -INFINITY, sum = 0, *o = (float *)a->o.data + t * a->o.stride[0] + head * a->o.stride[1];
    for (int64_t d = 0; d < a->hd; d++)
        o[d] = 0;
    for (int64_t g = 0; g < a->n_segments; g++)
        for (int64_t i = 0; i < seen(&a->segment[g], t); i++)
            if (alive(&a->segment[g], i)) max = fmaxf(max, score(a, &a->segment[g], t, head, i));
    for (int64_t g = 0; g < a->n_segments; g++)
        for (int64_t i = 0; i < seen(&a->segment[g], t); i++) {
            const kvdk_segment *s = &a->segment[g];
            if (!alive(s, i)) continue;
            const float p = expf(score(a, s, t, head, i) - max);
            sum += p;
            for (int64_t d = 0; d < a->hd; d++)
                o[d] += p * load(&s->v, i, head / (a->Hq / a->Hk), d);
        }
    for (int64_t d = 0; sum > 0 && d < a->hd; d++)
        o[d] /= sum;
    if (a->row_max.data) ((float *)a->row_max.data)[head * a->row_max.stride[0] + t] = max;
    if (a->row_sum.data) ((float *)a->row_sum.data)[head * a->row_sum.stride[0] + t] = sum;
}

int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    (void)stream;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t head = 0; head < a->Hq; head++)
            row(a, t, head);
    return 0;
}

int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream)
{
    return kvdk_attn_decode(a, stream);
}
