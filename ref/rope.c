#include "ref/rope.h"

#include <string.h>

double REF(rope_base)(const kv_config *cfg, int64_t length)
{
    if (cfg->rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH || length <= cfg->rope_train_len) return cfg->rope_theta;
    const double power = (double)cfg->rope_dims / (double)(cfg->rope_dims - 2);
    return cfg->rope_theta * kv_exp_core(power * kv_log_core((double)length / (double)cfg->rope_train_len));
}

void REF(rope_init)(ref_rope *r, const kv_config *cfg, double base)
{
    *r = (ref_rope){.head_dim = cfg->head_dim,
                    .pairs = cfg->rope_dims / 2,
                    .half = cfg->rope_pairing == KV_ROPE_HALF,
                    .sign = cfg->rope_sign < 0 ? -1 : 1};
    const double log_base = kv_log_core(base);
    for (int64_t i = 0; i < r->pairs; i++) {
        const double share = (double)(2 * i) / (double)cfg->rope_dims;
        r->inv_freq[i] = 1 / (real)kv_exp_core(share * log_base);
    }
}

void REF(rope_at)(const ref_rope *r, int64_t pos, real *cos, real *sin)
{
    for (int64_t i = 0; i < r->pairs; i++) {
        const real angle = (real)pos * r->inv_freq[i];
#if REF_BITS == 32
        kv_sincos(angle, &sin[i], &cos[i]);
#else
        kv_sincos_core(angle, &sin[i], &cos[i]);
#endif
        if (r->sign < 0) sin[i] = -sin[i];
    }
}

kv_status REF(rope_table_fill)(const ref_rope *r, ref_rope_table *t, int64_t first, int64_t n)
{
    if (t->memory.p && t->first == first && n <= t->n) return KV_OK;
    const int64_t stride = ref_round_up(n + REF_PANEL, REF_PANEL);
    KV_TRY(kv_buffer_reserve(&t->memory, (size_t)(2 * r->pairs * stride) * sizeof(real)));
    *t = (ref_rope_table){.memory = t->memory, .first = first, .n = n, .stride = stride,
                          .cos = t->memory.p};
    t->sin = t->cos + r->pairs * stride;
    memset(t->cos, 0, (size_t)(2 * r->pairs * stride) * sizeof(real));
    real cos[KV_MAX_HEAD_DIM / 2], sin[KV_MAX_HEAD_DIM / 2];
    for (int64_t x = 0; x < n; x++) {
        REF(rope_at)(r, first + x, cos, sin);
        for (int64_t i = 0; i < r->pairs; i++) {
            t->cos[i * stride + x] = cos[i];
            t->sin[i * stride + x] = sin[i];
        }
    }
    return KV_OK;
}

void REF(rope_table_free)(ref_rope_table *t) { kv_buffer_free(&t->memory); }

void REF(rope_row)(const ref_rope *r, const ref_rope_table *t, int64_t x, real *row)
{
    for (int64_t i = 0; i < r->pairs; i++) {
        const int64_t ia = r->half ? i : 2 * i, ib = r->half ? i + r->pairs : 2 * i + 1;
        const real a = row[ia], b = row[ib];
        const real c = t->cos[i * t->stride + x], s = t->sin[i * t->stride + x];
        row[ia] = r_fma(a, c, -(b * s));
        row[ib] = r_fma(b, c, a * s);
    }
}
