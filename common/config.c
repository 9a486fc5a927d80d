#include "common/config.h"

/* A field that must lie in [lo, hi]. */
#define RANGE(field, lo, hi)                                                                       \
    do {                                                                                           \
        if (cfg->field < (lo) || cfg->field > (hi))                                                \
            return kv_fail(KV_ERR_FORMAT,                                                          \
                           "model config: %s is %lld; it must lie between %lld and %lld", #field,  \
                           (long long)cfg->field, (long long)(lo), (long long)(hi));               \
    } while (0)

static kv_status check_golf(const kv_config *cfg)
{
    const uint64_t layers = cfg->n_layers >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << cfg->n_layers) - 1;
    const struct {
        uint64_t mask;
        const char *name;
    } masks[] = {{cfg->xsa_layer_mask, "xsa_layer_mask"},
                 {cfg->sidecar_layer_mask, "sidecar_layer_mask"},
                 {cfg->ve_layer_mask, "ve_layer_mask"}};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        if (masks[i].mask & ~layers)
            return kv_fail(KV_ERR_FORMAT, "model config: %s is 0x%llx; the model has only %d layers", masks[i].name,
                           (unsigned long long)masks[i].mask, cfg->n_layers);
    if (cfg->rope_scaling == KV_ROPE_SCALING_NTK_BY_LENGTH) {
        RANGE(rope_dims, 4, cfg->head_dim);
        RANGE(rope_train_len, 1, 1 << 30);
        RANGE(rope_base_len, 0, 1 << 30);
    }
    if (cfg->bigram_rows != 0) {
        RANGE(bigram_rows, 2, 1 << 24);
        RANGE(bigram_dim, 1, 1 << 16);
        RANGE(bigram_mul_cur, 0, ((int64_t)INT32_MAX) / cfg->vocab_size);
        RANGE(bigram_mul_prev, 0, ((int64_t)INT32_MAX) / cfg->vocab_size);
    }
    if (cfg->sidecar_layer_mask != 0) {
        RANGE(sidecar_hidden, 1, 1 << 16);
        RANGE(sidecar_taps, 3, 3);
    }
    if (!(cfg->logit_softcap >= 0.0f && cfg->logit_softcap < 1e6f))
        return kv_fail(KV_ERR_FORMAT, "model config: logit_softcap is %g; it must lie in [0, 1e6)", (double)cfg->logit_softcap);
    if (!(cfg->leaky_slope >= 0.0f && cfg->leaky_slope <= 1.0f))
        return kv_fail(KV_ERR_FORMAT, "model config: leaky_slope is %g; it must lie in [0, 1]", (double)cfg->leaky_slope);
    return KV_OK;
}

kv_status kv_config_check(const kv_config *cfg)
{
    RANGE(vocab_size, 1, 1 << 22);
    RANGE(n_layers, 1, 1024);
    RANGE(d_model, 1, 1 << 17);
    RANGE(n_heads, 1, 4096);
    RANGE(n_kv_heads, 1, cfg->n_heads);
    RANGE(head_dim, 2, KV_MAX_HEAD_DIM);
    RANGE(ffn_dim, 1, 1 << 20);
    RANGE(ffn_kind, KV_FFN_SWIGLU, KV_FFN_GELU);
    RANGE(qk_norm, KV_QK_NORM_NONE, KV_QK_NORM_RMS_WEIGHT);
    RANGE(rope_dims, 2, cfg->head_dim);
    RANGE(rope_pairing, KV_ROPE_INTERLEAVED, KV_ROPE_HALF);
    RANGE(rope_scaling, KV_ROPE_SCALING_NONE, KV_ROPE_SCALING_YARN);
    RANGE(attn_window, 0, 1 << 30);
    RANGE(max_pos, 0, 1 << 30);
    if (cfg->n_heads % cfg->n_kv_heads != 0)
        return kv_fail(KV_ERR_FORMAT,
                       "model config: %d query heads are not a multiple of %d KV heads",
                       cfg->n_heads, cfg->n_kv_heads);
    if (cfg->rope_dims % 2 != 0)
        return kv_fail(KV_ERR_FORMAT, "model config: rope_dims is %d; it must be even",
                       cfg->rope_dims);
    if (cfg->rope_sign != 1 && cfg->rope_sign != -1)
        return kv_fail(KV_ERR_FORMAT, "model config: rope_sign is %d; it must be 1 or -1",
                       cfg->rope_sign);
    if (!(cfg->norm_eps > 0.0f && cfg->norm_eps < 1.0f))
        return kv_fail(KV_ERR_FORMAT, "model config: norm_eps is %g; it must lie in (0, 1)",
                       (double)cfg->norm_eps);
    if (!(cfg->rope_theta > 1.0 && cfg->rope_theta < 1e12))
        return kv_fail(KV_ERR_FORMAT, "model config: rope_theta is %g; it must lie in (1, 1e12)",
                       cfg->rope_theta);
    return check_golf(cfg);
}

int32_t kv_config_sites(const kv_config *cfg)
{
    int32_t n = 0;
    for (uint64_t mask = cfg->sidecar_layer_mask; mask; mask &= mask - 1)
        n++;
    return n;
}

typedef struct feature {
    int on;
    const char *name;
} feature;

static const char *first_on(const feature *f, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f[i].on) return f[i].name;
    return NULL;
}

const char *kv_config_beyond_golf(const kv_config *cfg)
{
    const feature features[] = {
        {cfg->ffn_kind == KV_FFN_GELU, "ffn_kind"},
        {cfg->embed_scale != 1.0f, "embed_scale"},
        {cfg->qkv_bias, "qkv_bias"},
        {cfg->o_bias, "o_bias"},
        {cfg->qk_norm == KV_QK_NORM_RMS_WEIGHT, "qk_norm"},
        {cfg->rope_scaling != KV_ROPE_SCALING_NONE && cfg->rope_scaling != KV_ROPE_SCALING_NTK_BY_LENGTH, "rope_scaling"},
        {cfg->attn_window != 0, "attn_window"},
        {cfg->attn_sinks != 0, "attn_sinks"},
        {cfg->ve_layer_mask != 0, "ve_layer_mask"},
    };
    return first_on(features, sizeof features / sizeof *features);
}

const char *kv_config_beyond_llama(const kv_config *cfg)
{
    const feature features[] = {
        {cfg->ffn_kind != KV_FFN_SWIGLU, "ffn_kind"},
        {cfg->ln_scale_inv_sqrt, "ln_scale_inv_sqrt"},
        {cfg->embed_norm, "embed_norm"},
        {cfg->embed_scale != 1.0f, "embed_scale"},
        {cfg->logit_softcap != 0.0f, "logit_softcap"},
        {cfg->qkv_bias, "qkv_bias"},
        {cfg->o_bias, "o_bias"},
        {cfg->qk_norm != KV_QK_NORM_NONE, "qk_norm"},
        {cfg->use_q_gain, "use_q_gain"},
        {cfg->use_k_gain, "use_k_gain"},
        {cfg->rope_scaling != KV_ROPE_SCALING_NONE, "rope_scaling"},
        {cfg->k_shift, "k_shift"},
        {cfg->v_shift, "v_shift"},
        {cfg->local_v, "local_v"},
        {cfg->xsa_layer_mask != 0, "xsa_layer_mask"},
        {cfg->resid_mix_x0, "resid_mix_x0"},
        {cfg->unet_skips, "unet_skips"},
        {cfg->branch_scales, "branch_scales"},
        {cfg->smear, "smear"},
        {cfg->attn_window != 0, "attn_window"},
        {cfg->attn_sinks != 0, "attn_sinks"},
        {cfg->bigram_rows != 0, "bigram_rows"},
        {cfg->sidecar_layer_mask != 0, "sidecar_layer_mask"},
        {cfg->ve_layer_mask != 0, "ve_layer_mask"},
    };
    return first_on(features, sizeof features / sizeof *features);
}
