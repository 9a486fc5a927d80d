/* rope.c - rotary position embedding. The tables must have the bits of docs/numerics.md, section 3,
 * because the tester compares them; the rotation itself is the side's own: two products and a sum.
 */
#include "gpu/blas/blas.h"

#include "common/math.h"

int64_t blas_rope_length(const kv_config *cfg, const kv_policy *p)
{
    if (cfg->rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH) return 0;
    if (cfg->rope_base_len > 0) return cfg->rope_base_len;
    return p->selection == KV_SEL_XWINDOW ? p->xwindow.window : -1;
}

void blas_rope_init(blas_rope *r, const kv_config *cfg, int64_t length)
{
    const double dims = (double)cfg->rope_dims;
    double base = cfg->rope_theta;
    if (cfg->rope_scaling == KV_ROPE_SCALING_NTK_BY_LENGTH && length > cfg->rope_train_len)
        base *= kv_exp_core(dims / (dims - 2.0) * kv_log_core((double)length / (double)cfg->rope_train_len));
    const double log_base = kv_log_core(base);
    r->n = 0;
    r->pairs = cfg->rope_dims / 2;
    r->half = cfg->rope_pairing == KV_ROPE_HALF;
    r->sign = (float)cfg->rope_sign;
    for (int64_t i = 0; i < r->pairs; i++)
        r->inv_freq[i] = 1.0f / (float)kv_exp_core((double)(2 * i) / dims * log_base);
}

void blas_rope_at(const blas_rope *r, int64_t pos, float *cos, float *sin)
{
    for (int64_t i = 0; i < r->pairs; i++) {
        kv_sincos((float)pos * r->inv_freq[i], &sin[i], &cos[i]);
        sin[i] *= r->sign;
    }
}

kv_status blas_rope_cover(blas_rope *r, int64_t first, int64_t n)
{
    if (r->n > 0 && first >= r->first && first + n <= r->first + r->n) return KV_OK;
    n += n / 2; /* windows that grow ask again soon */
    r->n = 0;
    KV_TRY(kv_buffer_reserve(&r->memory, (size_t)(2 * n * r->pairs) * sizeof(float)));
    float *cos = r->memory.p, *sin = cos + n * r->pairs;
    for (int64_t x = 0; x < n; x++)
        blas_rope_at(r, first + x, cos + x * r->pairs, sin + x * r->pairs);
    r->first = first;
    r->n = n;
    r->cos = cos;
    r->sin = sin;
    return KV_OK;
}

void blas_rotate(const blas_rope *r, int64_t pos, const float *src, int64_t head_dim, float *dst)
{
    const float *c = r->cos + (pos - r->first) * r->pairs,
                *s = r->sin + (pos - r->first) * r->pairs;
    const int64_t step = r->half ? 1 : 2, mate = r->half ? r->pairs : 1;
    for (int64_t i = 0; i < r->pairs; i++) {
        const float a = src[step * i], b = src[step * i + mate];
        dst[step * i] = a * c[i] - b * s[i];
        dst[step * i + mate] = b * c[i] + a * s[i];
    }
    for (int64_t d = 2 * r->pairs; d < head_dim; d++)
        dst[d] = src[d];
}

static void gain(const float *gains, int64_t head, float *row, int64_t D)
{
    for (int64_t d = 0; gains && d < D; d++)
        row[d] *= gains[head];
}

void blas_turn_key(const blas_session *s, int32_t layer, int64_t head, int64_t pos, const float *src, float *dst)
{
    const int64_t D = s->cache.head_dim;
    blas_rotate(&s->rope, pos, src, D, dst);
    gain(s->weights->layers[layer].k_gain, head, dst, D);
}

void blas_turn_query(const blas_session *s, int32_t layer, int64_t head, int64_t pos, float *q)
{
    const int64_t D = s->cache.head_dim;
    blas_rotate(&s->rope, pos, q, D, q);
    gain(s->weights->layers[layer].q_gain, head, q, D);
}
