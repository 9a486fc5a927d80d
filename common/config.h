/* config.h - the shape of a model: one struct for the Llama family and the golf family.
 *
 * All-zero means "feature off", so a Llama model is a config in which the golf fields stay zero.
 * Every runtime calls kv_config_check, then refuses by name the features it does not have. */
#ifndef KV_COMMON_CONFIG_H
#define KV_COMMON_CONFIG_H

#include "common/status.h"

#include <stdint.h>

typedef enum kv_ffn_kind {
    KV_FFN_SWIGLU,      /* (silu(x Wg) * (x Wu)) Wd */
    KV_FFN_RELU2,       /* relu(x Wu)^2 Wd */
    KV_FFN_LEAKY_RELU2, /* leaky(x Wu)^2 Wd */
    KV_FFN_GELU
} kv_ffn_kind;

typedef enum kv_qk_norm { KV_QK_NORM_NONE, KV_QK_NORM_RMS, KV_QK_NORM_RMS_WEIGHT } kv_qk_norm;

typedef enum kv_rope_pairing {
    KV_ROPE_INTERLEAVED, /* pairs (2i, 2i+1): GGUF's llama */
    KV_ROPE_HALF         /* pairs (i, i + rope_dims/2): Hugging Face files */
} kv_rope_pairing;

typedef enum kv_rope_scaling {
    KV_ROPE_SCALING_NONE,
    KV_ROPE_SCALING_NTK_BY_LENGTH,
    KV_ROPE_SCALING_LINEAR,
    KV_ROPE_SCALING_LLAMA3,
    KV_ROPE_SCALING_YARN
} kv_rope_scaling;

typedef struct kv_config {
    int32_t vocab_size;   /* V */
    int32_t n_layers;     /* L */
    int32_t d_model;      /* width of the residual stream */
    int32_t n_heads;      /* query heads Hq */
    int32_t n_kv_heads;   /* H; query head h reads KV head h / (Hq / H) */
    int32_t head_dim;     /* D; at most KV_MAX_HEAD_DIM */
    int32_t ffn_dim;      /* inner width of the feed-forward block */
    int32_t ffn_kind;     /* kv_ffn_kind */
    float leaky_slope;    /* KV_FFN_LEAKY_RELU2 */
    float norm_eps;       /* added to the mean square */
    float embed_scale;    /* 1 = multiplication skipped */
    float logit_softcap;  /* c of c * tanh(z / c); 0 = off */
    float softmax_scale;  /* 0 = 1 / sqrt(head_dim) */
    uint8_t qkv_bias;     /* bias added after the projection, by one addition */
    uint8_t o_bias;
    uint8_t norm_weight;  /* RMSNorm has learned gains */
    uint8_t ln_scale_inv_sqrt; /* multiply a norm's output by 1 / sqrt(layer + 1) */
    uint8_t embed_norm;   /* RMSNorm right after the embedding */
    uint8_t tied_head;    /* output matrix = embedding matrix */
    uint8_t use_q_gain, use_k_gain; /* one product per head after RoPE */
    int32_t qk_norm;      /* kv_qk_norm */

    int32_t rope_dims;    /* rotated dims of a head; the rest pass through */
    int32_t rope_pairing; /* kv_rope_pairing */
    int32_t rope_sign;    /* +1 Llama, -1 golf: negates the sine table */
    int32_t rope_scaling; /* kv_rope_scaling */
    double rope_theta;
    int32_t rope_train_len, rope_base_len; /* KV_ROPE_SCALING_NTK_BY_LENGTH */
    double rope_p[4];     /* parameters of the other scalings */

    uint8_t k_shift, v_shift, local_v;               /* golf: token shift, own value mixed in */
    uint8_t resid_mix_x0, unet_skips, branch_scales; /* golf: residual topology */
    uint8_t smear;
    uint64_t xsa_layer_mask;
    int32_t attn_window, attn_sinks; /* static window of every layer (Mistral); 0 = none */
    int32_t bigram_rows, bigram_dim, bigram_mul_cur, bigram_mul_prev;
    int32_t sidecar_hidden, sidecar_taps;
    uint64_t sidecar_layer_mask;
    int32_t ve_dim;
    uint64_t ve_layer_mask;

    int32_t bos_id, eos_id, pad_id; /* -1 = none */
    int32_t max_pos;                /* trained context; 0 = no limit */
} kv_config;

enum { KV_MAX_HEAD_DIM = 256 };

KV_EXTERN_C_BEGIN

/* ERR_FORMAT with the offending field when the numbers cannot describe a model. */
kv_status kv_config_check(const kv_config *cfg);

/* Golf family: the residual stream is normalised before layer 0. Decides what a file calls its tensors. */
static inline int kv_config_is_golf(const kv_config *cfg) { return cfg->embed_norm; }

/* Layers whose output is kept for a later layer (the first half), and layers with a sidecar: sites. */
static inline int32_t kv_config_skips(const kv_config *cfg) { return cfg->unet_skips ? cfg->n_layers / 2 : 0; }
int32_t kv_config_sites(const kv_config *cfg);

/* Name of the first feature that is switched on and that no side computes yet, or NULL. */
const char *kv_config_beyond_golf(const kv_config *cfg);

/* Name of the first feature beyond the plain Llama block that is switched on, or NULL: what a
 * runtime that has only that block names when it refuses a model. */
const char *kv_config_beyond_llama(const kv_config *cfg);

KV_EXTERN_C_END

#endif
