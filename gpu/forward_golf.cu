/* forward_golf.cu - the parts of a pass that only models of the golf family have, in the order of docs/golf.md. */
#include "gpu/forward.cuh"

kv_status gpu_pass::prepare_golf()
{
    const int32_t d = cfg_.d_model, hidden = cfg_.sidecar_hidden;
    if (changes_heads()) KV_TRY(w_.raw.reserve(values(s_->model.layers[0].qkv.n)));
    if (cfg_.local_v || cfg_.xsa_layer_mask) KV_TRY(w_.own_v.reserve(values(kv_width())));
    if (cfg_.resid_mix_x0) KV_TRY(w_.x0.reserve(values(d)));
    if (kv_config_skips(&cfg_)) KV_TRY(w_.skips.reserve(values((int64_t)d * kv_config_skips(&cfg_))));
    if (cfg_.bigram_rows) KV_TRY(w_.hashes.reserve(values(1)));
    if (cfg_.bigram_rows) KV_TRY(w_.bigram.reserve(values(cfg_.bigram_dim)));
    if (!cfg_.sidecar_layer_mask) return KV_OK;
    KV_TRY(w_.sidecar.reserve(values(2 * (int64_t)hidden)));
    return w_.gated.reserve(values(hidden));
}

/* From the token's row to the stream that enters the first layer. */
kv_status gpu_pass::embed_golf()
{
    const int32_t d = cfg_.d_model;
    const size_t bytes = values(d) * sizeof(float);
    if (s_->cache.carry.bytes()) KV_TRY(gpu_carry_ids(w_.ids.p, m_, piece_.token, carry_, stream_));
    if (cfg_.bigram_rows) KV_TRY(add_bigram());
    if (cfg_.embed_norm) {
        float *const to = cfg_.smear ? w_.normed.p : w_.x.p;
        KV_TRY(gpu_rmsnorm(w_.x.p, nullptr, m_, d, cfg_.norm_eps, 1.0f, to, stream_));
    } else if (cfg_.smear) {
        KV_TRY(gpu_copy_across(w_.normed.p, w_.x.p, bytes, stream_));
    }
    if (cfg_.smear) KV_TRY(gpu_smear(w_.normed.p, s_->model.smear_gate.p, m_, d, carry_, w_.x.p, stream_));
    return cfg_.resid_mix_x0 ? gpu_copy_across(w_.x0.p, w_.x.p, bytes, stream_) : KV_OK;
}

kv_status gpu_pass::add_bigram()
{
    const gpu_model &model = s_->model;
    const gpu_bigram b = {cfg_.bigram_rows, cfg_.bigram_mul_cur, cfg_.bigram_mul_prev};
    KV_TRY(gpu_bigram_hash(w_.ids.p, m_, b, carry_, w_.hashes.p, stream_));
    KV_TRY(gpu_embed(w_.hashes.p, m_, cfg_.bigram_dim, model.bigram_embed.p, cfg_.bigram_dim, 1, w_.bigram.p, stream_));
    return matmul(w_.bigram.p, model.bigram_proj.view(model.bigram_scale.p), m_, GPU_ADD, w_.x.p);
}

/* The layers of the second half take the outputs of the first, the last one first. */
kv_status gpu_pass::mix_streams(int32_t l)
{
    const int32_t decoder = l - cfg_.n_layers / 2, skips = kv_config_skips(&cfg_), d = cfg_.d_model;
    gpu_mix mix = {};
    if (decoder >= 0 && decoder < skips) {
        mix.skip = w_.skips.p + values((int64_t)d * KV_MUT(C14, decoder, (skips - 1 - decoder)));
        mix.skip_weight = s_->model.skip_weights.p + (int64_t)d * decoder;
    }
    if (cfg_.resid_mix_x0) {
        mix.mix = s_->model.layers[(size_t)l].resid_mix.p;
        mix.x0 = w_.x0.p;
    }
    return mix.skip || mix.mix ? gpu_mix_streams(w_.x.p, m_, d, mix, stream_) : KV_OK;
}

kv_status gpu_pass::keep_for_skip(int32_t l)
{
    if (l >= kv_config_skips(&cfg_)) return KV_OK;
    const size_t n = values(cfg_.d_model);
    return gpu_copy_across(w_.skips.p + (size_t)l * n, w_.x.p, n * sizeof(float), stream_);
}

kv_status gpu_pass::prepare_heads(int32_t l)
{
    if (!changes_heads()) return KV_OK;
    const gpu_layer &layer = s_->model.layers[(size_t)l];
    gpu_heads h = {};
    h.raw = w_.raw.p;
    h.shape = shape();
    h.k_shift = layer.k_shift.p;
    h.v_shift = layer.v_shift.p;
    h.norm = cfg_.qk_norm != KV_QK_NORM_NONE;
    h.eps = cfg_.norm_eps;
    h.layer = l;
    h.qkv = w_.qkv.p;
    h.own_v = needs_own(l) ? w_.own_v.p : nullptr;
    return gpu_prepare_heads(h, m_, carry_, stream_);
}

/* Where the own value is taken out again it is not added before. */
kv_status gpu_pass::add_own_values(int32_t l)
{
    const gpu_layer &layer = s_->model.layers[(size_t)l];
    if (layer.excludes_own) return gpu_exclude_own(w_.attended.p, w_.own_v.p, m_, shape(), stream_);
    return cfg_.local_v ? gpu_local_v(w_.attended.p, w_.own_v.p, layer.local_v.p, m_, shape(), stream_) : KV_OK;
}

kv_status gpu_pass::sidecar(int32_t l)
{
    const int32_t site = s_->model.layers[(size_t)l].site;
    if (site < 0) return KV_OK;
    const gpu_sidecar_weights &w = s_->model.sidecar;
    const gpu_buffer<float> no_gains;
    KV_TRY(norm(no_gains, 1.0f));
    KV_TRY(matmul(w_.normed.p, w.gate_value.view(), m_, GPU_STORE, w_.sidecar.p));
    const gpu_sidecar s = {w_.sidecar.p, w.site_gate.p, w.conv.p, cfg_.sidecar_hidden, site};
    KV_TRY(gpu_sidecar_gate(s, m_, carry_, w_.gated.p, stream_));
    const float *const scale = w.scale.p + (int64_t)site * cfg_.d_model;
    return matmul(w_.gated.p, w.proj.view(scale), m_, GPU_ADD, w_.x.p);
}
