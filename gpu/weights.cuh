/* weights.cuh - a model on the device: fp32 weights in the layouts that the kernels read.
 *
 * Every weight is widened to fp32 by the definition of its storage format (common/tensor.h) and uploaded
 * once, when a session opens. Projections that read the same input are one matrix: q | k | v, gate | up, gate | value. */
#ifndef GPU_WEIGHTS_CUH
#define GPU_WEIGHTS_CUH

#include "common/model.h"
#include "common/policy.h"
#include "gpu/ops.cuh"

#include <vector>

/* A matrix that owns its memory. */
struct gpu_matrix {
    gpu_buffer<float> data; /* [k][ld] */
    int32_t n = 0, k = 0, ld = 0;

    /* scale: [n], or NULL */
    gpu_weights view(const float *scale = nullptr) const { return {data.p, n, k, ld, scale}; }
};

/* What the config switches off has p == NULL. */
struct gpu_layer {
    gpu_buffer<float> attn_norm, ffn_norm; /* [d_model] */
    float norm_scale;                      /* of both norms' outputs */
    gpu_matrix qkv, attn_output, gate_up, ffn_down; /* gate_up: of other kinds than SwiGLU up alone */
    gpu_buffer<float> resid_mix;                    /* [2][d_model] */
    gpu_buffer<float> attn_scale, ffn_scale;        /* [d_model] */
    gpu_buffer<float> q_gain, k_gain, k_shift, v_shift, local_v; /* one per head */
    bool excludes_own;
    int32_t site; /* of the sidecar; -1: none */
};

/* The sidecar's weights, shared by its sites. */
struct gpu_sidecar_weights {
    gpu_matrix gate_value, proj;
    gpu_buffer<float> conv, site_gate, scale; /* [hidden][taps], [sites][hidden], [sites][d_model] */
};

struct gpu_model {
    kv_config cfg;
    gpu_matrix head;             /* [d_model][V] */
    gpu_buffer<float> embedding; /* [V][d_model]; unused when the head is tied */
    gpu_buffer<float> output_norm;
    gpu_buffer<float> bigram_embed; /* [bigram_rows][bigram_dim] */
    gpu_matrix bigram_proj;
    gpu_buffer<float> bigram_scale; /* [d_model], all the same */
    gpu_buffer<float> smear_gate, skip_weights; /* [d_model], [skips][d_model] */
    gpu_sidecar_weights sidecar;
    std::vector<gpu_layer> layers;
};

/* ERR_UNSUPPORTED names the feature that this side does not have. */
kv_status gpu_model_supported(const kv_model *model);

kv_status gpu_model_upload(const kv_model *model, gpu_model *out, cudaStream_t stream);

/* Tokens that the base of RoPE is chosen for (docs/golf.md), 1 where it does not depend on them; *by_call: those of each
 * pass instead, and this length for tables that are shown. ERR_UNSUPPORTED when the policy does not say. */
kv_status gpu_rope_length(const kv_model &model, const kv_policy &policy, int64_t *length, bool *by_call);

/* [rope_dims / 2] */
std::vector<float> gpu_inverse_frequencies(const kv_config &cfg, int64_t length);

/* Softmax scale of a config: its own, or the fp32 nearest to 1 / sqrt(head_dim). */
float gpu_softmax_scale(const kv_config &cfg);

#endif
