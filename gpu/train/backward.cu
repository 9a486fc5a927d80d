/* backward.cu - the gradients of a batch in the order of docs/training.md. */
#include "gpu/train/graph.cuh"

#include "gpu/weights.cuh"

#include <algorithm>

kv_status gpu_graph::open_back()
{
    const size_t T = (size_t)room_, wide = T * (size_t)d(), q = T * (size_t)q_width(), kv = T * (size_t)kv_width();
    const size_t inner = T * (size_t)std::max(std::max(cfg_.ffn_dim, cfg_.bigram_dim), cfg_.sidecar_hidden);
    const int32_t most = std::max(d(), std::max(cfg_.n_heads, cfg_.sidecar_hidden));
    skip_g_ = std::vector<gpu_buffer<float>>((size_t)kv_config_skips(&cfg_));
    for (gpu_buffer<float> &b : skip_g_) KV_TRY(b.reserve(wide));
    for (gpu_buffer<float> *b : {&g_, &g0_, &branch_g_, &row_g_, &row2_g_}) KV_TRY(b->reserve(wide));
    for (gpu_buffer<float> *b : {&wide_g_, &wide2_g_}) KV_TRY(b->reserve(inner));
    for (gpu_buffer<float> *b : {&y_g_, &q_g_, &draw_q_}) KV_TRY(b->reserve(q));
    for (gpu_buffer<float> *b : {&k_g_, &v_g_, &own_g_, &kv_g_, &draw_k_, &draw_v_}) KV_TRY(b->reserve(kv));
    KV_TRY(dots_.reserve(T * (size_t)cfg_.n_heads));
    KV_TRY(partials_.reserve(gpu_token_partials(room_, most)));
    if (!cfg_.sidecar_layer_mask) return KV_OK;
    KV_TRY(other_.reserve((size_t)cfg_.sidecar_hidden * (size_t)d()));
    for (gpu_buffer<float> *b : {&side_z_g_, &side_c_g_, &side_v_g_}) KV_TRY(b->reserve(T * (size_t)cfg_.sidecar_hidden));
    return KV_OK;
}

/* ---- what repeats ---- */

kv_status gpu_graph::channel_sums(const float *a, const float *b, int32_t n, float *out)
{
    const gpu_token_sum s = {a, b, n, n, tokens_, n, seq_, 0, false};
    return gpu_token_sums(s, {out, 1, false}, partials_.p, stream_);
}

kv_status gpu_graph::head_sums(const float *rows, int32_t heads, float *out) { return channel_sums(rows, nullptr, heads, out); }

kv_status gpu_graph::norm_back(const float *x, const float *dy, const float *add, float scale, float *dx)
{
    return gpu_norm_back({x, dy, add, tokens_, d(), cfg_.norm_eps, scale}, dx, stream_);
}

/* x + scale * branch: the scale's gradient, and branch_g_ from g_. row: of a tensor with one per site. */
kv_status gpu_graph::branch_back(const float *w, float *g, kv_role role, int32_t l, int32_t row, const float *branch)
{
    const float *const scale = params_.in(w, role, l);
    if (!scale) return gpu_copy_across(branch_g_.p, g_.p, (size_t)values(d()) * sizeof(float), stream_);
    KV_TRY(channel_sums(g_.p, branch, d(), params_.in(g, role, l) + (int64_t)row * d()));
    return gpu_scaled(g_.p, scale + (int64_t)row * d(), values(d()), d(), branch_g_.p, stream_);
}

/* ---- the head ---- */

kv_status gpu_graph::head_back(const float *w, float *g)
{
    const int32_t vocab = cfg_.vocab_size;
    const kv_role role = cfg_.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT;
    const float share = kv_d2f(kv_ddiv(1.0, (double)tokens_));
    KV_TRY(gpu_logits_back({z_.p, logits_.p, stats_.p, batch_->targets(), tokens_, vocab, cfg_.logit_softcap, share}, stream_));
    KV_TRY(products_.weights(z_.p, last_normed_.p, tokens_, vocab, d(), params_.in(g, role)));
    KV_TRY(products_.inputs(z_.p, tokens_, params_.in(w, role), vocab, d(), row_g_.p));
    return norm_back(stream_in(cfg_.n_layers), row_g_.p, nullptr, 1.0f, g_.p);
}

/* ---- the sidecar ---- */

kv_status gpu_graph::sidecar_back(const float *w, float *g, int32_t l)
{
    const int32_t s = site(l), hidden = cfg_.sidecar_hidden;
    if (s < 0) return KV_OK;
    gpu_tape &t = at(l);
    const bool add = s + 1 < kv_config_sites(&cfg_); /* the last site stores */
    const auto weights = [&](const float *dy, const float *x, int32_t n_out, int32_t n_in, kv_role role) {
        float *const to = params_.in(g, role);
        KV_TRY(products_.weights(dy, x, tokens_, n_out, n_in, add ? other_.p : to));
        return add ? gpu_add_to(to, other_.p, (int64_t)n_out * n_in, stream_) : KV_OK;
    };
    KV_TRY(branch_back(w, g, KV_ROLE_SIDECAR_SCALE, 0, s, t.side_branch.p));
    KV_TRY(weights(branch_g_.p, t.side_gated.p, d(), hidden, KV_ROLE_SIDECAR_PROJ));
    KV_TRY(products_.inputs(branch_g_.p, tokens_, params_.in(w, KV_ROLE_SIDECAR_PROJ), d(), hidden, wide_g_.p));
    const gpu_sidecar_rows rows = {t.side_rows.p, params_.in(w, KV_ROLE_SIDECAR_SITE_GATE) + (int64_t)s * hidden,
                                   params_.in(w, KV_ROLE_SIDECAR_CONV), hidden, seq_, tokens_};
    KV_TRY(gpu_sidecar_back(rows, wide_g_.p, side_z_g_.p, side_c_g_.p, side_v_g_.p, stream_));
    KV_TRY(channel_sums(side_z_g_.p, nullptr, hidden, params_.in(g, KV_ROLE_SIDECAR_SITE_GATE) + (int64_t)s * hidden));
    for (int32_t tap = 0; tap < 3; tap++) {
        const float *const values_of = t.side_rows.p + hidden;
        const gpu_token_sum sum = {side_c_g_.p, values_of, hidden, 2 * (int64_t)hidden, tokens_, hidden, seq_, 2 - tap, false};
        KV_TRY(gpu_token_sums(sum, {params_.in(g, KV_ROLE_SIDECAR_CONV) + tap, 3, add}, partials_.p, stream_));
    }
    KV_TRY(weights(side_v_g_.p, t.side_normed.p, hidden, d(), KV_ROLE_SIDECAR_VALUE));
    KV_TRY(weights(side_z_g_.p, t.side_normed.p, hidden, d(), KV_ROLE_SIDECAR_GATE));
    KV_TRY(products_.inputs(side_v_g_.p, tokens_, params_.in(w, KV_ROLE_SIDECAR_VALUE), hidden, d(), row_g_.p));
    KV_TRY(products_.inputs(side_z_g_.p, tokens_, params_.in(w, KV_ROLE_SIDECAR_GATE), hidden, d(), row2_g_.p));
    KV_TRY(gpu_add_to(row_g_.p, row2_g_.p, values(d()), stream_));
    return norm_back(t.after.p, row_g_.p, g_.p, 1.0f, g_.p);
}

/* ---- the feed-forward block ---- */

kv_status gpu_graph::feed_back(const float *w, float *g, int32_t l)
{
    gpu_tape &t = at(l);
    const int32_t ffn = cfg_.ffn_dim;
    KV_TRY(branch_back(w, g, KV_ROLE_FFN_SCALE, l, 0, t.ffn_branch.p));
    KV_TRY(products_.weights(branch_g_.p, t.activated.p, tokens_, d(), ffn, params_.in(g, KV_ROLE_FFN_DOWN, l)));
    KV_TRY(products_.inputs(branch_g_.p, tokens_, params_.in(w, KV_ROLE_FFN_DOWN, l), d(), ffn, wide_g_.p));
    KV_TRY(gpu_activation_back(t.f.p, wide_g_.p, values(ffn), leaky(), slope(), wide2_g_.p, stream_));
    KV_TRY(gpu_rmsnorm(t.mid.p, nullptr, tokens_, d(), cfg_.norm_eps, norm_scale(l), normed_.p, stream_));
    KV_TRY(products_.weights(wide2_g_.p, normed_.p, tokens_, ffn, d(), params_.in(g, KV_ROLE_FFN_UP, l)));
    KV_TRY(products_.inputs(wide2_g_.p, tokens_, params_.in(w, KV_ROLE_FFN_UP, l), ffn, d(), row_g_.p));
    return norm_back(t.mid.p, row_g_.p, g_.p, norm_scale(l), g_.p);
}

/* ---- attention ---- */

/* y_g_ becomes the gradient of attention's output, own_g_ that of v by local_v or XSA. */
kv_status gpu_graph::own_values_back(const float *w, float *g, int32_t l)
{
    gpu_tape &t = at(l);
    float *const mix_g = params_.in(g, KV_ROLE_LOCAL_V, l);
    if (excludes_own(l)) {
        if (mix_g) GPU_TRY(cudaMemsetAsync(mix_g, 0, (size_t)cfg_.n_heads * sizeof(float), stream_));
        return gpu_exclude_own_back(t.attended.p, t.v.p, tokens_, shape(), y_g_.p, own_g_.p, stream_);
    }
    if (!cfg_.local_v) return KV_OK;
    KV_TRY(gpu_local_v_back(y_g_.p, t.v.p, params_.in(w, KV_ROLE_LOCAL_V, l), tokens_, shape(), dots_.p, own_g_.p, stream_));
    return head_sums(dots_.p, cfg_.n_heads, mix_g);
}

kv_status gpu_graph::attend_back(int32_t l)
{
    gpu_tape &t = at(l);
    const gpu_attention_grad a = {t.qkv.p, qkv_width(), t.k.p, t.v.p, y_g_.p, t.stats.p, shape(), seq_, sequences(),
                                  gpu_softmax_scale(cfg_), q_g_.p, k_g_.p, v_g_.p};
    KV_TRY(attention_.reserve(gpu_attention_grad_workspace(a)));
    return gpu_attention_back(a, attention_.p, stream_);
}

/* From behind the gain to the projection, of queries or of keys. */
kv_status gpu_graph::one_kind_back(const float *w, float *g, int32_t l, bool keys)
{
    gpu_tape &t = at(l);
    const int32_t heads = keys ? cfg_.n_kv_heads : cfg_.n_heads;
    const kv_role gain = keys ? KV_ROLE_K_GAIN : KV_ROLE_Q_GAIN;
    gpu_head_rows h = {};
    h.d = keys ? k_g_.p : q_g_.p;
    h.raw = t.raw.p + (keys ? q_width() : 0);
    h.raw_stride = qkv_width();
    h.tokens = tokens_;
    h.heads = heads;
    h.dim = cfg_.head_dim;
    h.seq = seq_;
    h.shift = keys ? params_.in(w, KV_ROLE_K_SHIFT, l) : nullptr;
    h.gain = params_.in(w, gain, l);
    h.rope = rope();
    h.eps = cfg_.norm_eps;
    h.gain_rows = dots_.p;
    float *const unshifted = h.shift ? kv_g_.p : keys ? draw_k_.p : draw_q_.p;
    KV_TRY(gpu_heads_back(h, unshifted, stream_));
    if (h.gain) KV_TRY(head_sums(dots_.p, heads, params_.in(g, gain, l)));
    if (!h.shift) return KV_OK;
    KV_TRY(gpu_shift_back({kv_g_.p, h.raw, h.raw_stride, tokens_, heads, h.dim, seq_, h.shift, dots_.p}, draw_k_.p, stream_));
    return head_sums(dots_.p, heads, params_.in(g, KV_ROLE_K_SHIFT, l));
}

kv_status gpu_graph::values_back(const float *w, float *g, int32_t l)
{
    gpu_tape &t = at(l);
    const float *const shift = params_.in(w, KV_ROLE_V_SHIFT, l);
    if (changes_own(l)) KV_TRY(gpu_add_to(v_g_.p, own_g_.p, values(kv_width()), stream_)); /* of two shares the order is free */
    if (!shift) return gpu_copy_across(draw_v_.p, v_g_.p, (size_t)values(kv_width()) * sizeof(float), stream_);
    const float *const raw = t.raw.p + q_width() + kv_width();
    const gpu_shift_rows s = {v_g_.p, raw, qkv_width(), tokens_, cfg_.n_kv_heads, cfg_.head_dim, seq_, shift, dots_.p};
    KV_TRY(gpu_shift_back(s, draw_v_.p, stream_));
    return head_sums(dots_.p, cfg_.n_kv_heads, params_.in(g, KV_ROLE_V_SHIFT, l));
}

/* row_g_ becomes the gradient of the projections' input. */
kv_status gpu_graph::projections_back(const float *w, float *g, int32_t l)
{
    const struct {
        kv_role role;
        const float *dy;
        int32_t n_out;
    } order[] = {{KV_ROLE_ATTN_V, draw_v_.p, kv_width()},
                 {KV_ROLE_ATTN_K, draw_k_.p, kv_width()},
                 {KV_ROLE_ATTN_Q, draw_q_.p, q_width()}};
    KV_TRY(gpu_rmsnorm(mixed(l), nullptr, tokens_, d(), cfg_.norm_eps, norm_scale(l), normed_.p, stream_));
    for (const auto &p : order) {
        const bool first = p.role == KV_ROLE_ATTN_V;
        KV_TRY(products_.weights(p.dy, normed_.p, tokens_, p.n_out, d(), params_.in(g, p.role, l)));
        KV_TRY(products_.inputs(p.dy, tokens_, params_.in(w, p.role, l), p.n_out, d(), first ? row_g_.p : row2_g_.p));
        if (!first) KV_TRY(gpu_add_to(row_g_.p, row2_g_.p, values(d()), stream_));
    }
    return KV_OK;
}

kv_status gpu_graph::attention_block_back(const float *w, float *g, int32_t l)
{
    gpu_tape &t = at(l);
    KV_TRY(branch_back(w, g, KV_ROLE_ATTN_SCALE, l, 0, t.attn_branch.p));
    KV_TRY(products_.weights(branch_g_.p, y(l), tokens_, d(), q_width(), params_.in(g, KV_ROLE_ATTN_OUTPUT, l)));
    KV_TRY(products_.inputs(branch_g_.p, tokens_, params_.in(w, KV_ROLE_ATTN_OUTPUT, l), d(), q_width(), y_g_.p));
    KV_TRY(own_values_back(w, g, l));
    KV_TRY(attend_back(l));
    KV_TRY(one_kind_back(w, g, l, false));
    KV_TRY(one_kind_back(w, g, l, true));
    KV_TRY(values_back(w, g, l));
    KV_TRY(projections_back(w, g, l));
    return norm_back(mixed(l), row_g_.p, g_.p, norm_scale(l), g_.p);
}

/* ---- the stream ---- */

kv_status gpu_graph::mix_back(const float *w, float *g, int32_t l)
{
    const int64_t n = values(d());
    const int32_t source = skip_source(l), row = l - cfg_.n_layers / 2;
    if (cfg_.resid_mix_x0) {
        const float *const mix = params_.in(w, KV_ROLE_RESID_MIX, l);
        float *const mix_g = params_.in(g, KV_ROLE_RESID_MIX, l), *const share = l == cfg_.n_layers - 1 ? g0_.p : row_g_.p;
        KV_TRY(channel_sums(g_.p, skipped(l), d(), mix_g));
        KV_TRY(channel_sums(g_.p, x0_.p, d(), mix_g + d()));
        KV_TRY(gpu_scaled(g_.p, mix + d(), n, d(), share, stream_));
        if (share == row_g_.p) KV_TRY(gpu_add_to(g0_.p, row_g_.p, n, stream_));
        KV_TRY(gpu_scaled(g_.p, mix, n, d(), g_.p, stream_));
    }
    if (source < 0) return KV_OK;
    KV_TRY(channel_sums(g_.p, stream_in(source + 1), d(), params_.in(g, KV_ROLE_SKIP_WEIGHTS) + (int64_t)row * d()));
    return gpu_scaled(g_.p, params_.in(w, KV_ROLE_SKIP_WEIGHTS) + (int64_t)row * d(), n, d(), skip_g_[(size_t)source].p, stream_);
}

kv_status gpu_graph::layer_back(const float *w, float *g, int32_t l)
{
    if (l < kv_config_skips(&cfg_)) KV_TRY(gpu_add_to(g_.p, skip_g_[(size_t)l].p, values(d()), stream_));
    KV_TRY(sidecar_back(w, g, l));
    KV_TRY(feed_back(w, g, l));
    KV_TRY(attention_block_back(w, g, l));
    return mix_back(w, g, l);
}

/* ---- before the first layer ---- */

/* row_g_ is the gradient of the sum of embeddings. */
kv_status gpu_graph::bigram_back(const float *w, float *g)
{
    const int32_t dim = cfg_.bigram_dim;
    KV_TRY(gpu_row_dots(row_g_.p, bigram_branch_.p, tokens_, d(), dots_.p, stream_));
    KV_TRY(head_sums(dots_.p, 1, params_.in(g, KV_ROLE_BIGRAM_SCALE)));
    KV_TRY(gpu_scaled(row_g_.p, params_.in(w, KV_ROLE_BIGRAM_SCALE), values(d()), 1, branch_g_.p, stream_));
    KV_TRY(products_.weights(branch_g_.p, bigram_.p, tokens_, d(), dim, params_.in(g, KV_ROLE_BIGRAM_PROJ)));
    KV_TRY(products_.inputs(branch_g_.p, tokens_, params_.in(w, KV_ROLE_BIGRAM_PROJ), d(), dim, wide_g_.p));
    return gpu_table_back(wide_g_.p, batch_->bigram_uses().start, batch_->bigram_uses().list, cfg_.bigram_rows, dim, false,
                          params_.in(g, KV_ROLE_BIGRAM_EMBED), stream_);
}

kv_status gpu_graph::embed_back(const float *w, float *g)
{
    if (cfg_.resid_mix_x0) KV_TRY(gpu_add_to(g_.p, g0_.p, values(d()), stream_));
    float *dn = g_.p;
    if (cfg_.smear) {
        const float *const gate = params_.in(w, KV_ROLE_SMEAR_GATE);
        float *const gate_g = params_.in(g, KV_ROLE_SMEAR_GATE);
        const gpu_token_sum s = {g_.p, n_.p, d(), d(), tokens_, d(), seq_, 1, true};
        KV_TRY(gpu_token_sums(s, {gate_g, 1, false}, partials_.p, stream_));
        KV_TRY(gpu_smear_gate_back(gate, d(), gate_g, stream_));
        KV_TRY(gpu_smear_back(g_.p, gate, tokens_, d(), seq_, row2_g_.p, stream_));
        dn = row2_g_.p;
    }
    KV_TRY(norm_back(sum_.p, dn, nullptr, 1.0f, row_g_.p));
    if (cfg_.bigram_rows) KV_TRY(bigram_back(w, g));
    return gpu_table_back(row_g_.p, batch_->token_uses().start, batch_->token_uses().list, cfg_.vocab_size, d(), cfg_.tied_head,
                          params_.in(g, KV_ROLE_TOKEN_EMBD), stream_);
}

kv_status gpu_graph::backward(const float *w, float *g)
{
    KV_TRY(head_back(w, g));
    for (int32_t l = cfg_.n_layers - 1; l >= 0; l--) KV_TRY(layer_back(w, g, l));
    return embed_back(w, g);
}
