/* graph.cuh - a batch through a model of the golf family and back: forward.cu keeps what backward.cu needs.
 *
 * T tokens, sequences of `seq` one behind the other. What works on single rows takes the whole batch; what looks at earlier
 * tokens runs sequence by sequence with the kernels of the forward pass (gpu/ops.cuh) and an empty carry. */
#ifndef GPU_TRAIN_GRAPH_CUH
#define GPU_TRAIN_GRAPH_CUH

#include "gpu/train/batch.cuh"
#include "gpu/train/ops.cuh"
#include "gpu/train/params.cuh"
#include "gpu/train/products.cuh"

#include <vector>

/* What a layer keeps of the forward pass, [T][width]. Where a feature is off the buffer stays empty and the accessor of
 * gpu_graph gives what stands for it. */
struct gpu_tape {
    gpu_buffer<float> in, skipped, mixed; /* the stream: as it enters, with its skip, mixed with x0 */
    gpu_buffer<float> raw, qkv, k, v;     /* projections; behind norm, RoPE and gain; keys and values alone */
    gpu_buffer<float> stats, attended, y; /* M and L of every query; attention; behind local_v or XSA */
    gpu_buffer<float> attn_branch, mid;   /* before its scale; the stream behind attention */
    gpu_buffer<float> f, activated, ffn_branch, after;
    gpu_buffer<float> side_normed, side_rows, side_gated, side_branch;
};

class gpu_graph
{
public:
    gpu_graph(const kv_train_config &config, const gpu_params &params, cudaStream_t stream)
        : cfg_(config.model), params_(params), stream_(stream), products_(stream), seq_((int32_t)config.seq),
          room_((int32_t)config.batch_tokens), batches_(config, stream)
    {
    }

    kv_status open(); /* memory for a whole batch */

    /* Windows of seq + 1 tokens become the batch. ERR_USAGE, ERR_FORMAT. */
    kv_status take(const uint16_t *windows, int64_t n);

    /* Begins to copy windows that take may bring. */
    kv_status prefetch(const uint16_t *windows, int64_t n) { return batches_.prefetch(windows, n); }

    /* The loss of every token of the batch, [T]. ERR_NONFINITE names the token. */
    kv_status forward(const float *w);
    const std::vector<float> &nll() const { return host_nll_; }

    /* Behind forward with the same weights: gradients of the mean loss, an array like w. */
    kv_status backward(const float *w, float *g);

private:
    kv_status open_layer(int32_t l);
    kv_status open_back();
    kv_status open_tables();

    kv_status embed(const float *w);
    kv_status forward_layer(const float *w, int32_t l);
    kv_status mix(const float *w, int32_t l);
    kv_status project(const float *w, int32_t l);
    kv_status attend(const float *w, int32_t l);
    kv_status feed(const float *w, int32_t l);
    kv_status sidecar(const float *w, int32_t l);
    kv_status head(const float *w);

    /* backward.cu: g_ is the gradient of the stream. */
    kv_status head_back(const float *w, float *g);
    kv_status layer_back(const float *w, float *g, int32_t l);
    kv_status branch_back(const float *w, float *g, kv_role role, int32_t l, int32_t row, const float *branch);
    kv_status sidecar_back(const float *w, float *g, int32_t l);
    kv_status feed_back(const float *w, float *g, int32_t l);
    kv_status attention_block_back(const float *w, float *g, int32_t l);
    kv_status own_values_back(const float *w, float *g, int32_t l);
    kv_status attend_back(int32_t l);
    kv_status heads_back(const float *w, float *g, int32_t l);
    kv_status one_kind_back(const float *w, float *g, int32_t l, bool keys);
    kv_status values_back(const float *w, float *g, int32_t l);
    kv_status projections_back(const float *w, float *g, int32_t l);
    kv_status mix_back(const float *w, float *g, int32_t l);
    kv_status embed_back(const float *w, float *g);
    kv_status bigram_back(const float *w, float *g);

    /* Sums over tokens into a tensor of parameters. */
    kv_status channel_sums(const float *a, const float *b, int32_t n, float *out);
    kv_status head_sums(const float *rows, int32_t heads, float *out);
    kv_status norm_back(const float *x, const float *dy, const float *add, float scale, float *dx);

    int64_t values(int64_t width) const { return (int64_t)tokens_ * width; }
    int32_t d() const { return cfg_.d_model; }
    int32_t q_width() const { return cfg_.n_heads * cfg_.head_dim; }
    int32_t kv_width() const { return cfg_.n_kv_heads * cfg_.head_dim; }
    int32_t qkv_width() const { return q_width() + 2 * kv_width(); }
    gpu_qkv_shape shape() const { return {cfg_.n_heads, cfg_.n_kv_heads, cfg_.head_dim}; }
    int32_t sequences() const { return tokens_ / seq_; }
    float norm_scale(int32_t l) const;
    bool leaky() const { return cfg_.ffn_kind == KV_FFN_LEAKY_RELU2; }
    float slope() const { return leaky() ? cfg_.leaky_slope : 0.0f; }

    bool excludes_own(int32_t l) const { return l < 64 && (cfg_.xsa_layer_mask >> l & 1); }
    int32_t site(int32_t l) const; /* of the sidecar; -1: none */
    int32_t skip_source(int32_t l) const; /* the layer whose output is added; -1: none */

    gpu_tape &at(int32_t l) { return tape_[(size_t)l]; }
    float *stream_in(int32_t l) { return l == 0 ? x0_.p : at(l).in.p; } /* l = layers: what the head gets */
    float *skipped(int32_t l) { return skip_source(l) >= 0 ? at(l).skipped.p : stream_in(l); }
    float *mixed(int32_t l) { return cfg_.resid_mix_x0 ? at(l).mixed.p : skipped(l); }
    bool changes_own(int32_t l) const { return cfg_.local_v || excludes_own(l); }
    float *y(int32_t l) { return changes_own(l) ? at(l).y.p : at(l).attended.p; }
    float *after(int32_t l) { return site(l) >= 0 ? at(l).after.p : stream_in(l + 1); }
    gpu_rope rope() const { return {cos_.p, sin_.p, cfg_.rope_dims, cfg_.rope_pairing == KV_ROPE_HALF, nullptr, nullptr}; }
    gpu_carry_rows no_carry() const;

    const kv_config &cfg_;
    const gpu_params &params_;
    cudaStream_t stream_;
    gpu_products products_;
    const int32_t seq_, room_; /* tokens of a sequence; most tokens of a batch */
    int32_t tokens_ = 0;       /* of the batch */
    gpu_batches batches_;
    const gpu_batch *batch_ = nullptr; /* the one that take gave */

    std::vector<gpu_tape> tape_; /* one more than layers: the last has only `in` */
    gpu_buffer<int32_t> identity_;
    gpu_buffer<float> cos_, sin_, inv_freq_, nothing_; /* tables of a sequence's positions; an empty carry */
    gpu_buffer<float> bigram_, bigram_branch_, sum_, n_, x0_; /* before layer 0: e is sum_ */
    gpu_buffer<float> normed_, last_normed_, z_, logits_, stats_, nll_, attention_;
    std::vector<float> host_nll_;

    gpu_buffer<float> g_, g0_;      /* gradients of the stream and of x0 */
    std::vector<gpu_buffer<float>> skip_g_; /* shares of layers' outputs that a skip adds */
    gpu_buffer<float> branch_g_, wide_g_, wide2_g_, row_g_, row2_g_; /* of branches, of inner widths, of [T][d] */
    gpu_buffer<float> y_g_, q_g_, k_g_, v_g_, own_g_, kv_g_, draw_q_, draw_k_, draw_v_;
    gpu_buffer<float> dots_, partials_, other_; /* other_: another site's share of a weight */
    gpu_buffer<float> side_z_g_, side_c_g_, side_v_g_;
};

#endif
