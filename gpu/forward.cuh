/* forward.cuh - the forward pass of one piece of a step: everything that its stages share. forward.cu has the frame,
 * attention and head, forward_golf.cu what the golf family adds. */
#ifndef GPU_FORWARD_CUH
#define GPU_FORWARD_CUH

#include "gpu/session.cuh"

class gpu_pass
{
public:
    gpu_pass(kv_session *s, const gpu_piece &piece, const gpu_view &view)
        : s_(s), cfg_(s->model.cfg), w_(s->work), stream_(s->stream.s), piece_(piece), view_(view),
          m_(piece.m), carry_(s->cache.carry.rows(s->cache.seen, piece.token, piece.m))
    {
    }

    kv_status run();

private:
    kv_status prepare();
    kv_status upload_rows();
    kv_status upload_own_rows();
    kv_status prepare_coded();
    kv_status embed();
    kv_status attention_block(int32_t l);
    kv_status ffn_block(int32_t l);
    kv_status place(int32_t l);
    kv_status attend(int32_t l);
    kv_status attend_coded(int32_t l);
    gpu_queries queries(int32_t l) const;
    kv_status assemble(int32_t l, const gpu_slots &rows, gpu_attention_args *a);
    kv_status count(int32_t l, const gpu_attention_args &a);
    kv_status activate();
    kv_status head();
    kv_status head_rows(int32_t first, int32_t n, int32_t out_row);
    kv_status tap(int32_t point, int32_t layer, const float *rows, int64_t stride);

    /* forward_golf.cu: each does nothing where the config switches it off. */
    kv_status prepare_golf();
    kv_status embed_golf();
    kv_status add_bigram();
    kv_status mix_streams(int32_t l);
    kv_status prepare_heads(int32_t l);
    kv_status add_own_values(int32_t l);
    kv_status sidecar(int32_t l);
    kv_status keep_for_skip(int32_t l);

    kv_status matmul(const float *x, const gpu_weights &w, int32_t m, gpu_epilogue epilogue, float *y)
    {
        KV_TRY(w_.partials.reserve(gpu_matmul_partials(w, m)));
        return gpu_matmul(x, m, w, epilogue, y, w_.partials.p, stream_);
    }

    kv_status norm(const gpu_buffer<float> &gains, float scale)
    {
        return gpu_rmsnorm(w_.x.p, gains.p, m_, cfg_.d_model, cfg_.norm_eps, scale, w_.normed.p, stream_);
    }

    int32_t q_width() const { return cfg_.n_heads * cfg_.head_dim; }
    int32_t kv_width() const { return cfg_.n_kv_heads * cfg_.head_dim; }
    gpu_qkv_shape shape() const { return {cfg_.n_heads, cfg_.n_kv_heads, cfg_.head_dim}; }
    size_t values(int64_t width) const { return (size_t)m_ * (size_t)width; } /* of all rows */

    /* Whether heads are changed between projection and RoPE, and whether layer l needs the tokens' own values. */
    bool changes_heads() const
    {
        return cfg_.qk_norm || cfg_.k_shift || cfg_.v_shift || cfg_.local_v || cfg_.xsa_layer_mask;
    }
    bool needs_own(int32_t l) const { return cfg_.local_v || s_->model.layers[(size_t)l].excludes_own; }
    float *projected() const { return changes_heads() ? w_.raw.p : w_.qkv.p; }

    /* Rows of the view entries of layer l from `first` on. */
    gpu_slots slots(int32_t l, int64_t first) const
    {
        return {(view_.table ? view_.table : w_.rows.p) + view_.layer(l).rows_at + first, view_.head_stride};
    }

    gpu_rope rope_at(int32_t l, int64_t table_row) const
    {
        const gpu_layer &layer = s_->model.layers[(size_t)l];
        const int64_t at = table_row * (cfg_.rope_dims / 2);
        return {s_->table.cos.p + at, s_->table.sin.p + at, cfg_.rope_dims, cfg_.rope_pairing == KV_ROPE_HALF,
                layer.q_gain.p, layer.k_gain.p};
    }

    /* Storages in codes see all layers alike. */
    gpu_span span() const
    {
        return {s_->cache.seen - view_.layer(0).n_stored, s_->cache.seen, m_};
    }

    gpu_values stored(const gpu_buffer<unsigned char> &b) const { return {b.p, s_->cache.storage}; }

    kv_session *s_;
    const kv_config &cfg_;
    gpu_work &w_;
    cudaStream_t stream_;
    const gpu_piece &piece_;
    const gpu_view &view_;
    int32_t m_;
    const gpu_carry_rows carry_;
    int64_t new_row_ = 0;       /* row of the first new token in the table of sines and cosines */
    int64_t zero_row_ = 0;      /* of position 0, where keys are kept raw */
    bool raw_ = false;
};

#endif
