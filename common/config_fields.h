/* config_fields.h - the fields of kv_config by name, for files that carry a config. */
#ifndef KV_COMMON_CONFIG_FIELDS_H
#define KV_COMMON_CONFIG_FIELDS_H

#include "common/config.h"

/* X(type, field): every field, in the order of files; only append. FLAG: one byte, 0 or 1. */
#define KV_CONFIG_FIELD_LIST(X)                                                                                       \
    X(I32, vocab_size) X(I32, n_layers) X(I32, d_model) X(I32, n_heads) X(I32, n_kv_heads) X(I32, head_dim)           \
    X(I32, ffn_dim) X(I32, ffn_kind) X(F32, leaky_slope) X(F32, norm_eps) X(F32, embed_scale) X(F32, logit_softcap)   \
    X(F32, softmax_scale) X(FLAG, qkv_bias) X(FLAG, o_bias) X(FLAG, norm_weight) X(FLAG, ln_scale_inv_sqrt)           \
    X(FLAG, embed_norm) X(FLAG, tied_head) X(FLAG, use_q_gain) X(FLAG, use_k_gain) X(I32, qk_norm) X(I32, rope_dims)  \
    X(I32, rope_pairing) X(I32, rope_sign) X(I32, rope_scaling) X(F64, rope_theta) X(I32, rope_train_len)             \
    X(I32, rope_base_len) X(F64, rope_p[0]) X(F64, rope_p[1]) X(F64, rope_p[2]) X(F64, rope_p[3]) X(FLAG, k_shift)    \
    X(FLAG, v_shift) X(FLAG, local_v) X(FLAG, resid_mix_x0) X(FLAG, unet_skips) X(FLAG, branch_scales) X(FLAG, smear) \
    X(U64, xsa_layer_mask) X(I32, attn_window) X(I32, attn_sinks) X(I32, bigram_rows) X(I32, bigram_dim)              \
    X(I32, bigram_mul_cur) X(I32, bigram_mul_prev) X(I32, sidecar_hidden) X(I32, sidecar_taps)                        \
    X(U64, sidecar_layer_mask) X(I32, ve_dim) X(U64, ve_layer_mask) X(I32, bos_id) X(I32, eos_id) X(I32, pad_id)      \
    X(I32, max_pos)

typedef enum kv_field_type { KV_FIELD_I32, KV_FIELD_U64, KV_FIELD_FLAG, KV_FIELD_F32, KV_FIELD_F64 } kv_field_type;

typedef struct kv_config_field {
    const char *name;
    kv_field_type type;
    uint32_t bytes, offset; /* in kv_config; in files as many bytes, without padding */
} kv_config_field;

KV_EXTERN_C_BEGIN

const kv_config_field *kv_config_fields(int *n);

/* All fields one behind the other, little endian; bytes: KV_CONFIG_BYTES of them. */
enum { KV_CONFIG_BYTES = 211 };
void kv_config_put(const kv_config *cfg, uint8_t *bytes);

/* ERR_FORMAT, with the field, for a flag that is neither 0 nor 1 and a number that is not finite. Says nothing about
 * whether the numbers describe a model: kv_config_check does. */
kv_status kv_config_get(const uint8_t *bytes, kv_config *cfg);

KV_EXTERN_C_END

#endif
