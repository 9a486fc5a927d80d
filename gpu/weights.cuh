/* weights.cuh - a model on the device: fp32 weights in the layouts that the kernels read.
 *
 * Every weight is widened to fp32 by the definition of its storage format (common/tensor.h) and uploaded
 * once, when a session opens. Projections that read the same input are one matrix: q | k | v, gate | up. */
#ifndef GPU_WEIGHTS_CUH
#define GPU_WEIGHTS_CUH

#include "common/model.h"
#include "gpu/ops.cuh"

#include <vector>

/* A matrix that owns its memory. */
struct gpu_matrix {
    gpu_buffer<float> data; /* [k][ld] */
    int32_t n = 0, k = 0, ld = 0;

    gpu_weights view() const { return {data.p, n, k, ld}; }
};

struct gpu_layer {
    gpu_buffer<float> attn_norm, ffn_norm; /* [d_model]; p == NULL: no gains */
    gpu_matrix qkv, attn_output, gate_up, ffn_down;
};

struct gpu_model {
    kv_config cfg;
    gpu_matrix head;             /* [d_model][V] */
    gpu_buffer<float> embedding; /* [V][d_model]; unused when the head is tied */
    gpu_buffer<float> output_norm;
    gpu_buffer<float> inv_freq; /* [rope_dims / 2] */
    std::vector<gpu_layer> layers;
};

/* ERR_UNSUPPORTED names the feature that this side does not have. */
kv_status gpu_model_supported(const kv_model *model);

kv_status gpu_model_upload(const kv_model *model, gpu_model *out, cudaStream_t stream);

/* Softmax scale of a config: its own, or the fp32 nearest to 1 / sqrt(head_dim). */
float gpu_softmax_scale(const kv_config &cfg);

#endif
