/* forward.cu - the forward pass of a batch in the order of docs/golf.md; what the way back needs is kept. */
#include "gpu/train/graph.cuh"

#include "common/state.h"
#include "gpu/weights.cuh"

/* ---- memory ---- */

float gpu_graph::norm_scale(int32_t l) const
{
    return cfg_.ln_scale_inv_sqrt ? kv_d2f(kv_ddiv(1.0, kv_dsqrt((double)(l + 1)))) : 1.0f;
}

int32_t gpu_graph::site(int32_t l) const
{
    if (l >= 64 || !(cfg_.sidecar_layer_mask >> l & 1)) return -1;
    int32_t n = 0;
    for (int32_t below = 0; below < l; below++) n += cfg_.sidecar_layer_mask >> below & 1;
    return n;
}

int32_t gpu_graph::skip_source(int32_t l) const
{
    const int32_t decoder = l - cfg_.n_layers / 2, skips = kv_config_skips(&cfg_);
    return decoder >= 0 && decoder < skips ? skips - 1 - decoder : -1;
}

kv_status gpu_graph::open_layer(int32_t l)
{
    gpu_tape &t = at(l);
    const size_t T = (size_t)room_, wide = T * (size_t)d(), q = T * (size_t)q_width(), kv = T * (size_t)kv_width();
    const size_t hidden = T * (size_t)cfg_.sidecar_hidden, ffn = T * (size_t)cfg_.ffn_dim;
    if (skip_source(l) >= 0) KV_TRY(t.skipped.reserve(wide));
    if (cfg_.resid_mix_x0) KV_TRY(t.mixed.reserve(wide));
    if (changes_own(l)) KV_TRY(t.y.reserve(q));
    for (gpu_buffer<float> *b : {&t.attn_branch, &t.mid, &t.ffn_branch}) KV_TRY(b->reserve(wide));
    for (gpu_buffer<float> *b : {&t.raw, &t.qkv}) KV_TRY(b->reserve(T * (size_t)qkv_width()));
    for (gpu_buffer<float> *b : {&t.k, &t.v}) KV_TRY(b->reserve(kv));
    for (gpu_buffer<float> *b : {&t.f, &t.activated}) KV_TRY(b->reserve(ffn));
    KV_TRY(t.attended.reserve(q));
    KV_TRY(t.stats.reserve(T * (size_t)cfg_.n_heads * 2));
    if (site(l) < 0) return KV_OK;
    for (gpu_buffer<float> *b : {&t.after, &t.side_normed, &t.side_branch}) KV_TRY(b->reserve(wide));
    KV_TRY(t.side_rows.reserve(2 * hidden));
    return t.side_gated.reserve(hidden);
}

/* Sines and cosines of a sequence's positions; what no sequence remembers at its beginning. */
kv_status gpu_graph::open_tables()
{
    const std::vector<float> inv_freq = gpu_inverse_frequencies(cfg_, cfg_.rope_base_len ? cfg_.rope_base_len : seq_);
    const size_t half = inv_freq.size(), nothing = kv_carry_layout_of(&cfg_).bytes + sizeof(float);
    std::vector<int32_t> identity;
    for (int32_t i = 0; i < seq_; i++) identity.push_back(i);
    KV_TRY(inv_freq_.reserve(half));
    KV_TRY(gpu_copy_up(inv_freq_.p, inv_freq.data(), half * sizeof(float), stream_));
    KV_TRY(cos_.reserve(half * (size_t)seq_));
    KV_TRY(sin_.reserve(half * (size_t)seq_));
    KV_TRY(gpu_rope_table(0, seq_, inv_freq_.p, (int32_t)half, cfg_.rope_sign, cos_.p, sin_.p, stream_));
    KV_TRY(identity_.reserve(identity.size()));
    KV_TRY(gpu_copy_up(identity_.p, identity.data(), identity.size() * sizeof(int32_t), stream_));
    KV_TRY(nothing_.reserve(nothing / sizeof(float)));
    GPU_TRY(cudaMemsetAsync(nothing_.p, 0, nothing / sizeof(float) * sizeof(float), stream_));
    return gpu_stream_finish(stream_);
}

kv_status gpu_graph::open()
{
    const size_t T = (size_t)room_, wide = T * (size_t)d(), logits = T * (size_t)cfg_.vocab_size;
    tape_ = std::vector<gpu_tape>((size_t)cfg_.n_layers + 1);
    for (int32_t l = 0; l < cfg_.n_layers; l++) KV_TRY(open_layer(l));
    for (int32_t l = 1; l <= cfg_.n_layers; l++) KV_TRY(at(l).in.reserve(wide));
    for (gpu_buffer<float> *b : {&sum_, &n_, &x0_, &normed_, &last_normed_}) KV_TRY(b->reserve(wide));
    KV_TRY(batches_.open());
    if (cfg_.bigram_rows) KV_TRY(bigram_.reserve(T * (size_t)cfg_.bigram_dim));
    if (cfg_.bigram_rows) KV_TRY(bigram_branch_.reserve(wide));
    KV_TRY(z_.reserve(logits));
    KV_TRY(logits_.reserve(logits));
    KV_TRY(nll_.reserve(T));
    KV_TRY(stats_.reserve(2 * T));
    KV_TRY(open_tables());
    return open_back();
}

gpu_carry_rows gpu_graph::no_carry() const
{
    const kv_carry_layout layout = kv_carry_layout_of(&cfg_);
    gpu_carry_rows c = {};
    c.before = c.newest = c.slots = nothing_.p;
    c.slot_floats = (int64_t)(layout.bytes / sizeof(float));
    c.n_slots = 1;
    c.from = seq_; /* no row is kept */
    c.norm = (int64_t)(layout.norm / sizeof(float));
    c.k = (int64_t)(layout.k / sizeof(float));
    c.v = (int64_t)(layout.v / sizeof(float));
    c.conv = (int64_t)(layout.conv / sizeof(float));
    return c;
}

/* ---- the batch ---- */

kv_status gpu_graph::take(const uint16_t *windows, int64_t n)
{
    KV_TRY(batches_.take(windows, n, &batch_));
    tokens_ = batch_->tokens();
    return KV_OK;
}

/* ---- forward ---- */

kv_status gpu_graph::embed(const float *w)
{
    KV_TRY(gpu_embed(batch_->ids(), tokens_, d(), params_.in(w, KV_ROLE_TOKEN_EMBD), d(), 1, sum_.p, stream_));
    if (cfg_.bigram_rows) {
        const int32_t dim = cfg_.bigram_dim;
        KV_TRY(gpu_embed(batch_->hashes(), tokens_, dim, params_.in(w, KV_ROLE_BIGRAM_EMBED), dim, 1, bigram_.p, stream_));
        KV_TRY(products_.outputs(bigram_.p, tokens_, {{params_.in(w, KV_ROLE_BIGRAM_PROJ), d()}}, dim, bigram_branch_.p));
        KV_TRY(gpu_add_scaled(sum_.p, params_.in(w, KV_ROLE_BIGRAM_SCALE), bigram_branch_.p, values(d()), 1, sum_.p, stream_));
    }
    KV_TRY(gpu_rmsnorm(sum_.p, nullptr, tokens_, d(), cfg_.norm_eps, 1.0f, n_.p, stream_));
    if (!cfg_.smear) return gpu_copy_across(x0_.p, n_.p, (size_t)values(d()) * sizeof(float), stream_);
    for (int64_t at = 0; at < values(d()); at += (int64_t)seq_ * d())
        KV_TRY(gpu_smear(n_.p + at, params_.in(w, KV_ROLE_SMEAR_GATE), seq_, d(), no_carry(), x0_.p + at, stream_));
    return KV_OK;
}

/* The stream at the beginning of a layer, skip and x0 one after the other: their gradients want what was between. */
kv_status gpu_graph::mix(const float *w, int32_t l)
{
    const int32_t source = skip_source(l);
    if (source >= 0) {
        const float *const weight = params_.in(w, KV_ROLE_SKIP_WEIGHTS) + (int64_t)(l - cfg_.n_layers / 2) * d();
        KV_TRY(gpu_add_scaled(stream_in(l), weight, stream_in(source + 1), values(d()), d(), skipped(l), stream_));
    }
    if (!cfg_.resid_mix_x0) return KV_OK;
    gpu_mix m = {};
    m.mix = params_.in(w, KV_ROLE_RESID_MIX, l);
    m.x0 = x0_.p;
    KV_TRY(gpu_copy_across(mixed(l), skipped(l), (size_t)values(d()) * sizeof(float), stream_));
    return gpu_mix_streams(mixed(l), tokens_, d(), m, stream_);
}

/* Projections, shift, norm, RoPE and gain; keys and values once more by themselves. */
kv_status gpu_graph::project(const float *w, int32_t l)
{
    gpu_tape &t = at(l);
    gpu_rope turn = rope();
    gpu_heads h = {};
    turn.q_gain = params_.in(w, KV_ROLE_Q_GAIN, l);
    turn.k_gain = params_.in(w, KV_ROLE_K_GAIN, l);
    h.shape = shape();
    h.k_shift = params_.in(w, KV_ROLE_K_SHIFT, l);
    h.v_shift = params_.in(w, KV_ROLE_V_SHIFT, l);
    h.norm = true;
    h.eps = cfg_.norm_eps;
    h.layer = l;
    KV_TRY(gpu_rmsnorm(mixed(l), nullptr, tokens_, d(), cfg_.norm_eps, norm_scale(l), normed_.p, stream_));
    KV_TRY(products_.outputs(normed_.p, tokens_,
                             {{params_.in(w, KV_ROLE_ATTN_Q, l), q_width()},
                              {params_.in(w, KV_ROLE_ATTN_K, l), kv_width()},
                              {params_.in(w, KV_ROLE_ATTN_V, l), kv_width()}},
                             d(), t.raw.p));
    for (int64_t row = 0; row < tokens_; row += seq_) {
        float *const qkv = t.qkv.p + row * qkv_width();
        h.raw = t.raw.p + row * qkv_width();
        h.qkv = qkv;
        KV_TRY(gpu_prepare_heads(h, seq_, no_carry(), stream_));
        KV_TRY(gpu_rope_store(qkv, seq_, shape(), turn, {false, true}, {identity_.p, 0}, {t.k.p + row * kv_width(), KV_STORE_F32},
                              {t.v.p + row * kv_width(), KV_STORE_F32}, stream_));
    }
    return KV_OK;
}

kv_status gpu_graph::attend(const float *w, int32_t l)
{
    gpu_tape &t = at(l);
    gpu_attention_args a = {};
    a.q_stride = qkv_width();
    a.m = seq_;
    a.heads = cfg_.n_heads;
    a.kv_heads = cfg_.n_kv_heads;
    a.head_dim = cfg_.head_dim;
    a.scale = gpu_softmax_scale(cfg_);
    KV_TRY(attention_.reserve(gpu_attention_workspace(a)));
    for (int64_t row = 0; row < tokens_; row += seq_) {
        a.q = t.qkv.p + row * qkv_width();
        a.out = t.attended.p + row * q_width();
        a.stats = t.stats.p + row * cfg_.n_heads * 2;
        a.k = {t.k.p + row * kv_width(), KV_STORE_F32};
        a.v = {t.v.p + row * kv_width(), KV_STORE_F32};
        KV_TRY(gpu_attention(a, attention_.p, stream_));
    }
    if (!changes_own(l)) return KV_OK;
    KV_TRY(gpu_copy_across(t.y.p, t.attended.p, (size_t)values(q_width()) * sizeof(float), stream_));
    if (excludes_own(l)) return gpu_exclude_own(t.y.p, t.v.p, tokens_, shape(), stream_);
    return gpu_local_v(t.y.p, t.v.p, params_.in(w, KV_ROLE_LOCAL_V, l), tokens_, shape(), stream_);
}

kv_status gpu_graph::feed(const float *w, int32_t l)
{
    gpu_tape &t = at(l);
    const int32_t ffn = cfg_.ffn_dim;
    KV_TRY(gpu_rmsnorm(t.mid.p, nullptr, tokens_, d(), cfg_.norm_eps, norm_scale(l), normed_.p, stream_));
    KV_TRY(products_.outputs(normed_.p, tokens_, {{params_.in(w, KV_ROLE_FFN_UP, l), ffn}}, d(), t.f.p));
    KV_TRY(gpu_squared_relu(t.f.p, tokens_, ffn, slope(), t.activated.p, stream_));
    KV_TRY(products_.outputs(t.activated.p, tokens_, {{params_.in(w, KV_ROLE_FFN_DOWN, l), d()}}, ffn, t.ffn_branch.p));
    return gpu_add_scaled(t.mid.p, params_.in(w, KV_ROLE_FFN_SCALE, l), t.ffn_branch.p, values(d()), d(), after(l), stream_);
}

kv_status gpu_graph::sidecar(const float *w, int32_t l)
{
    const int32_t s = site(l), hidden = cfg_.sidecar_hidden;
    if (s < 0) return KV_OK;
    gpu_tape &t = at(l);
    KV_TRY(gpu_rmsnorm(t.after.p, nullptr, tokens_, d(), cfg_.norm_eps, 1.0f, t.side_normed.p, stream_));
    KV_TRY(products_.outputs(t.side_normed.p, tokens_,
                             {{params_.in(w, KV_ROLE_SIDECAR_GATE), hidden}, {params_.in(w, KV_ROLE_SIDECAR_VALUE), hidden}},
                             d(), t.side_rows.p));
    for (int64_t row = 0; row < tokens_; row += seq_) {
        const gpu_sidecar rows = {t.side_rows.p + row * 2 * hidden, params_.in(w, KV_ROLE_SIDECAR_SITE_GATE),
                                  params_.in(w, KV_ROLE_SIDECAR_CONV), hidden, s};
        KV_TRY(gpu_sidecar_gate(rows, seq_, no_carry(), t.side_gated.p + row * hidden, stream_));
    }
    KV_TRY(products_.outputs(t.side_gated.p, tokens_, {{params_.in(w, KV_ROLE_SIDECAR_PROJ), d()}}, hidden, t.side_branch.p));
    const float *const scale = params_.in(w, KV_ROLE_SIDECAR_SCALE) + (int64_t)s * d();
    return gpu_add_scaled(t.after.p, scale, t.side_branch.p, values(d()), d(), stream_in(l + 1), stream_);
}

kv_status gpu_graph::forward_layer(const float *w, int32_t l)
{
    gpu_tape &t = at(l);
    KV_TRY(mix(w, l));
    KV_TRY(project(w, l));
    KV_TRY(attend(w, l));
    KV_TRY(products_.outputs(y(l), tokens_, {{params_.in(w, KV_ROLE_ATTN_OUTPUT, l), d()}}, q_width(), t.attn_branch.p));
    KV_TRY(gpu_add_scaled(mixed(l), params_.in(w, KV_ROLE_ATTN_SCALE, l), t.attn_branch.p, values(d()), d(), t.mid.p, stream_));
    KV_TRY(feed(w, l));
    return sidecar(w, l);
}

kv_status gpu_graph::head(const float *w)
{
    const int32_t vocab = cfg_.vocab_size;
    const float *const matrix = params_.in(w, cfg_.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT);
    KV_TRY(gpu_rmsnorm(stream_in(cfg_.n_layers), nullptr, tokens_, d(), cfg_.norm_eps, 1.0f, last_normed_.p, stream_));
    KV_TRY(products_.outputs(last_normed_.p, tokens_, {{matrix, vocab}}, d(), z_.p));
    KV_TRY(gpu_copy_across(logits_.p, z_.p, (size_t)values(vocab) * sizeof(float), stream_));
    if (cfg_.logit_softcap != 0.0f) KV_TRY(gpu_softcap(logits_.p, values(vocab), cfg_.logit_softcap, stream_));
    return gpu_nll(logits_.p, batch_->targets(), tokens_, vocab, nll_.p, stats_.p, stream_);
}

kv_status gpu_graph::forward(const float *w)
{
    KV_TRY(embed(w));
    for (int32_t l = 0; l < cfg_.n_layers; l++) KV_TRY(forward_layer(w, l));
    KV_TRY(head(w));
    host_nll_.resize((size_t)tokens_);
    KV_TRY(gpu_copy_down(host_nll_.data(), nll_.p, host_nll_.size() * sizeof(float), stream_));
    KV_TRY(gpu_stream_finish(stream_));
    for (int32_t t = 0; t < tokens_; t++)
        if (!kv_is_finite(host_nll_[(size_t)t]))
            return kv_fail(KV_ERR_NONFINITE, "the loss of token %d of the batch is not finite", t);
    return KV_OK;
}
