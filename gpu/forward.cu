/* forward.cu - one pass of the model over a piece of a step, in the order of docs/numerics.md. */
#include "gpu/forward.cuh"

namespace
{
/* Rows of logits that are on the device at once. */
enum { LOGIT_ROWS = 256 };

/* Largest angle for which sine and cosine are defined (common/math.h). */
const int64_t MAX_POSITION = INT64_C(1) << 28;
} // namespace

kv_status gpu_pass::run()
{
    KV_TRY(prepare());
    KV_TRY(embed());
    for (int32_t l = 0; l < cfg_.n_layers; l++) {
        KV_TRY(attention_block(l));
        KV_TRY(ffn_block(l));
    }
    KV_TRY(norm(s_->model.output_norm, 1.0f));
    KV_TRY(tap(KV_TAP_FINAL_NORM, 0, w_.normed.p, cfg_.d_model));
    KV_TRY(head());
    KV_TRY(gpu_stream_finish(stream_));
    if (s_->coded) KV_TRY(gpu_coded_check(s_, span()));
    s_->cache.carry.advance(s_->cache.seen, piece_.token, m_, carry_);
    return KV_OK;
}

/* Memory, the view's rows on the device, table rows. */
kv_status gpu_pass::prepare()
{
    const size_t m = (size_t)m_, d = (size_t)cfg_.d_model;
    raw_ = s_->cache.policy->raw_keys();
    KV_TRY(w_.ids.reserve(m));
    KV_TRY(w_.x.reserve(m * d));
    KV_TRY(w_.normed.reserve(m * d));
    KV_TRY(w_.qkv.reserve(m * (size_t)s_->model.layers[0].qkv.n));
    KV_TRY(w_.attended.reserve(values(q_width())));
    KV_TRY(prepare_golf());
    KV_TRY(w_.gate_up.reserve(m * 2 * (size_t)cfg_.ffn_dim));
    KV_TRY(w_.activated.reserve(m * (size_t)cfg_.ffn_dim));
    for (const gpu_layer_view &v : view_.layers) {
        const size_t viewed = (size_t)(v.n_stored + m_) * (size_t)kv_width();
        if (raw_ || view_.own_exact) KV_TRY(w_.view_keys.reserve(viewed));
        if (view_.own_exact) KV_TRY(w_.view_values.reserve(viewed));
    }
    if (view_.own_exact) KV_TRY(upload_own_rows());
    KV_TRY(s_->coded ? prepare_coded() : upload_rows());
    const int64_t reach = view_.pos + (int64_t)m_, length = s_->rope_by_call ? reach : s_->rope_length;
    if (raw_) {
        KV_TRY(gpu_table_cover(s_, 0, reach, length, &zero_row_));
        new_row_ = zero_row_ + KV_MUT(M08, piece_.token, view_.pos);
        return KV_OK;
    }
    return gpu_table_cover(s_, view_.pos, m_, length, &new_row_);
}

/* Rows of the view; with row i = view entry i only those of the new tokens are needed. */
kv_status gpu_pass::upload_rows()
{
    if (view_.table) return KV_OK;
    std::vector<int32_t> rows = view_.rows;
    if (rows.empty())
        for (int32_t x = 0; x < m_; x++) rows.push_back((int32_t)(view_.layer(0).n_stored + x));
    KV_TRY(w_.rows.reserve(rows.size()));
    return gpu_copy_up(w_.rows.p, rows.data(), rows.size() * sizeof(int32_t), stream_);
}

kv_status gpu_pass::upload_own_rows()
{
    const int32_t per_token = cfg_.n_heads / cfg_.n_kv_heads + 2; /* rows as wide as K in a row of qkv; K, V are the last */
    std::vector<int32_t> rows;
    for (int32_t back = 2; back >= 1; back--)
        for (int32_t x = 0; x < m_; x++) rows.push_back((x + 1) * per_token - back);
    KV_TRY(w_.own_rows.reserve(rows.size()));
    return gpu_copy_up(w_.own_rows.p, rows.data(), rows.size() * sizeof(int32_t), stream_);
}

/* Room for codes; nothing is bad yet. */
kv_status gpu_pass::prepare_coded()
{
    const std::vector<int32_t> none((size_t)cfg_.n_layers, 0);
    KV_TRY(gpu_coded_make_room(s_, span()));
    KV_TRY(w_.bad.reserve(none.size()));
    return gpu_copy_up(w_.bad.p, none.data(), none.size() * sizeof(int32_t), stream_);
}

kv_status gpu_pass::embed()
{
    const gpu_model &model = s_->model;
    const int32_t *const tokens = piece_.step->tokens + piece_.first;
    KV_TRY(gpu_copy_up(w_.ids.p, tokens, (size_t)m_ * sizeof *tokens, stream_));
    if (cfg_.tied_head)
        KV_TRY(gpu_embed(w_.ids.p, m_, cfg_.d_model, model.head.data.p, 1, model.head.ld, w_.x.p, stream_));
    else
        KV_TRY(gpu_embed(w_.ids.p, m_, cfg_.d_model, model.embedding.p, cfg_.d_model, 1, w_.x.p, stream_));
    KV_TRY(embed_golf());
    return tap(KV_TAP_EMBED, 0, w_.x.p, cfg_.d_model);
}

kv_status gpu_pass::attention_block(int32_t l)
{
    const gpu_layer &layer = s_->model.layers[(size_t)l];
    const int32_t q = q_width(), kv = kv_width(), stride = layer.qkv.n;

    KV_TRY(mix_streams(l));
    KV_TRY(norm(layer.attn_norm, layer.norm_scale));
    KV_TRY(tap(KV_TAP_ATTN_NORM, l, w_.normed.p, cfg_.d_model));
    KV_TRY(matmul(w_.normed.p, layer.qkv.view(), m_, GPU_STORE, projected()));
    KV_TRY(prepare_heads(l));
    KV_TRY(place(l));
    KV_TRY(tap(KV_TAP_Q, l, w_.qkv.p, stride));
    KV_TRY(tap(KV_TAP_K, l, w_.qkv.p + q, stride));
    KV_TRY(tap(KV_TAP_V, l, w_.qkv.p + q + kv, stride));
    KV_TRY(s_->coded ? attend_coded(l) : attend(l));
    KV_TRY(add_own_values(l));
    KV_TRY(tap(KV_TAP_ATTN, l, w_.attended.p, q));
    const gpu_epilogue how = KV_MUT(N07, l == 2 ? GPU_STORE : GPU_ADD, GPU_ADD);
    KV_TRY(matmul(w_.attended.p, layer.attn_output.view(layer.attn_scale.p), m_, how, w_.x.p));
    return tap(KV_TAP_ATTN_RESID, l, w_.x.p, cfg_.d_model);
}

/* Rotates the step's queries and keys and puts K and V into the stores. */
kv_status gpu_pass::place(int32_t l)
{
    const gpu_values nowhere = {nullptr, KV_STORE_F32};
    if (s_->coded)
        return gpu_rope_store(w_.qkv.p, m_, shape(), rope_at(l, new_row_), {false, false}, {nullptr, 0}, nowhere, nowhere,
                              stream_);
    const gpu_store &store = s_->cache.layers[(size_t)l];
    const gpu_slots new_rows = slots(l, view_.identity() ? 0 : view_.layer(l).n_stored);
    return gpu_rope_store(w_.qkv.p, m_, shape(), rope_at(l, new_row_), {raw_, view_.own_exact}, new_rows, stored(store.k),
                          stored(store.v), stream_);
}

gpu_queries gpu_pass::queries(int32_t l) const
{
    gpu_queries q = {};
    q.q = w_.qkv.p;
    q.q_stride = s_->model.layers[(size_t)l].qkv.n;
    q.first = view_.layer(l).n_stored;
    q.m = m_;
    q.heads = cfg_.n_heads;
    q.kv_heads = cfg_.n_kv_heads;
    q.head_dim = cfg_.head_dim;
    q.scale = KV_MUT(M19, kv_mul(gpu_softmax_scale(cfg_), gpu_softmax_scale(cfg_)), gpu_softmax_scale(cfg_));
    q.out = w_.attended.p;
    return q;
}

kv_status gpu_pass::attend_coded(int32_t l)
{
    gpu_coded_step step;
    step.span = span();
    step.q = queries(l);
    step.qkv = w_.qkv.p;
    step.bad = w_.bad.p + l;
    KV_TRY(w_.attention.reserve(gpu_attention_workspace(step.q)));
    step.workspace = w_.attention.p;
    return s_->coded->attend(s_->cache.coded[(size_t)l], step, stream_);
}

kv_status gpu_pass::attend(int32_t l)
{
    const gpu_store &store = s_->cache.layers[(size_t)l];
    const gpu_layer_view &view = view_.layer(l);
    const gpu_slots rows = slots(l, 0);
    gpu_attention_args a = {};
    static_cast<gpu_queries &>(a) = queries(l);
    a.k = stored(store.k);
    a.v = stored(store.v);
    a.k_slot = a.v_slot = view_.identity() ? nullptr : rows.at;
    a.slot_stride = rows.head_stride;
    if (view_.own_exact) {
        KV_TRY(assemble(l, rows, &a));
    } else if (raw_) {
        KV_TRY(gpu_rope_view(a.k, rows, (int32_t)view.n_stored + m_, cfg_.n_kv_heads, cfg_.head_dim,
                             rope_at(l, zero_row_), w_.view_keys.p, stream_));
        a.k = {w_.view_keys.p, KV_STORE_F32};
        a.k_slot = nullptr;
    }
    const bool counts = view_.counting.wanted;
    if (counts) KV_TRY(w_.stats.reserve((size_t)m_ * (size_t)cfg_.n_heads * 2));
    a.stats = counts ? w_.stats.p : nullptr;
    KV_TRY(w_.attention.reserve(gpu_attention_workspace(a)));
    KV_TRY(gpu_attention(a, w_.attention.p, stream_));
    return counts ? count(l, a) : KV_OK;
}

/* Keys and values of the view in fp32: stored ones widened, keys rotated where they are kept raw, and behind them the new
 * tokens' as they were computed. These stand in qkv, which is a store of q, K and V rows in turn. */
kv_status gpu_pass::assemble(int32_t l, const gpu_slots &rows, gpu_attention_args *a)
{
    const int32_t heads = cfg_.n_kv_heads, dim = cfg_.head_dim, n = (int32_t)view_.layer(l).n_stored;
    const int64_t at = (int64_t)n * kv_width();
    const gpu_rope none = {};
    const gpu_values own = {w_.qkv.p, KV_STORE_F32};
    KV_TRY(gpu_rope_view(a->k, rows, n, heads, dim, raw_ ? rope_at(l, zero_row_) : none, w_.view_keys.p,
                         stream_));
    KV_TRY(gpu_rope_view(a->v, rows, n, heads, dim, none, w_.view_values.p, stream_));
    KV_TRY(gpu_rope_view(own, {w_.own_rows.p, 0}, m_, heads, dim, none, w_.view_keys.p + at, stream_));
    KV_TRY(gpu_rope_view(own, {w_.own_rows.p + m_, 0}, m_, heads, dim, none, w_.view_values.p + at, stream_));
    a->k = {w_.view_keys.p, KV_STORE_F32};
    a->v = {w_.view_values.p, KV_STORE_F32};
    a->k_slot = a->v_slot = nullptr;
    return KV_OK;
}

/* What each entry has received goes to the policy. */
kv_status gpu_pass::count(int32_t l, const gpu_attention_args &a)
{
    const gpu_counting &c = view_.counting;
    KV_TRY(w_.sums.reserve((size_t)(a.first + m_) * (size_t)cfg_.n_heads));
    KV_TRY(gpu_column_sums({a, c.row0, c.block, c.weights, c.reversed, w_.sums.p}, stream_));
    return s_->cache.policy->count(l, w_.sums.p);
}

kv_status gpu_pass::ffn_block(int32_t l)
{
    const gpu_layer &layer = s_->model.layers[(size_t)l];
    KV_TRY(norm(layer.ffn_norm, layer.norm_scale));
    KV_TRY(tap(KV_TAP_FFN_NORM, l, w_.normed.p, cfg_.d_model));
    KV_TRY(matmul(w_.normed.p, layer.gate_up.view(), m_, GPU_STORE, w_.gate_up.p));
    KV_TRY(activate());
    KV_TRY(tap(KV_TAP_FFN_ACT, l, w_.activated.p, cfg_.ffn_dim));
    KV_TRY(matmul(w_.activated.p, layer.ffn_down.view(layer.ffn_scale.p), m_, GPU_ADD, w_.x.p));
    KV_TRY(sidecar(l));
    KV_TRY(tap(KV_TAP_RESID, l, w_.x.p, cfg_.d_model));
    return keep_for_skip(l);
}

kv_status gpu_pass::activate()
{
    if (cfg_.ffn_kind == KV_FFN_SWIGLU) return gpu_swiglu(w_.gate_up.p, m_, cfg_.ffn_dim, w_.activated.p, stream_);
    const float slope = cfg_.ffn_kind == KV_FFN_LEAKY_RELU2 ? cfg_.leaky_slope : 0.0f;
    return gpu_squared_relu(w_.gate_up.p, m_, cfg_.ffn_dim, slope, w_.activated.p, stream_);
}

/* Logits of the rows that the step wants. */
kv_status gpu_pass::head()
{
    const kv_step &step = *piece_.step;
    const bool wanted = step.logits || step.nll;
    if (!wanted || step.rows == KV_ROWS_NONE) return KV_OK;
    if (step.rows == KV_ROWS_LAST) {
        const bool has_last = piece_.first + m_ == step.n;
        return has_last ? head_rows(m_ - 1, 1, 0) : KV_OK;
    }
    for (int32_t r = 0; r < m_; r += LOGIT_ROWS)
        KV_TRY(head_rows(r, gpu_min(m_ - r, LOGIT_ROWS), piece_.first + r));
    return KV_OK;
}

/* Rows first .. first + n - 1 of the piece go to rows out_row .. of the caller's arrays. */
kv_status gpu_pass::head_rows(int32_t first, int32_t n, int32_t out_row)
{
    const kv_step &step = *piece_.step;
    const size_t vocab = (size_t)cfg_.vocab_size, rows = (size_t)n;
    KV_TRY(w_.logits.reserve(rows * vocab));
    KV_TRY(matmul(w_.normed.p + (int64_t)first * cfg_.d_model, s_->model.head.view(), n, GPU_STORE, w_.logits.p));
    if (cfg_.logit_softcap != 0.0f)
        KV_TRY(gpu_softcap(w_.logits.p, (int64_t)(rows * vocab), cfg_.logit_softcap, stream_));
    if (step.logits)
        KV_TRY(gpu_copy_down(step.logits + (size_t)out_row * vocab, w_.logits.p,
                             rows * vocab * sizeof(float), stream_));
    if (!step.nll) return KV_OK;
    KV_TRY(w_.targets.reserve(rows));
    KV_TRY(w_.nll.reserve(rows));
    KV_TRY(gpu_copy_up(w_.targets.p, step.targets + out_row, rows * sizeof(int32_t), stream_));
    KV_TRY(gpu_nll(w_.logits.p, w_.targets.p, n, cfg_.vocab_size, w_.nll.p, nullptr, stream_));
    return gpu_copy_down(step.nll + out_row, w_.nll.p, rows * sizeof(float), stream_);
}

/* Copies the rows of this point that the step asks for. */
kv_status gpu_pass::tap(int32_t point, int32_t layer, const float *rows, int64_t stride)
{
    const bool layerwise =
        point != KV_TAP_EMBED && point != KV_TAP_FINAL_NORM;
    for (int32_t i = 0; i < piece_.step->n_taps; i++) {
        const kv_tap &t = piece_.step->taps[i];
        const int32_t row = t.row - piece_.first;
        if (t.point != point || (layerwise && t.layer != layer) || row < 0 || row >= m_) continue;
        KV_TRY(gpu_copy_down(t.dst, rows + row * stride, (size_t)t.width * sizeof(float), stream_));
    }
    return KV_OK;
}
int32_t gpu_tap_width(const kv_config &c, int32_t point)
{
    switch (point) {
    case KV_TAP_Q:
    case KV_TAP_ATTN:
        return c.n_heads * c.head_dim;
    case KV_TAP_K:
    case KV_TAP_V:
        return c.n_kv_heads * c.head_dim;
    case KV_TAP_FFN_ACT:
        return c.ffn_dim;
    default:
        return point >= 0 && point < KV_TAP_COUNT ? c.d_model : 0;
    }
}

/* The frequencies for the base of this length; a table of another one is void. */
static kv_status set_base(kv_session *s, int64_t length)
{
    gpu_table &t = s->table;
    if (t.length == length) return KV_OK;
    const std::vector<float> inv_freq = gpu_inverse_frequencies(s->model.cfg, length);
    t.n = 0;
    KV_TRY(t.inv_freq.reserve(inv_freq.size()));
    KV_TRY(gpu_copy_up(t.inv_freq.p, inv_freq.data(), inv_freq.size() * sizeof(float), s->stream.s));
    t.length = length;
    return gpu_stream_finish(s->stream.s);
}

/* Some positions more than asked for, so that single-token steps seldom make a table. */
kv_status gpu_table_cover(kv_session *s, int64_t first, int64_t n, int64_t length, int64_t *at)
{
    gpu_table &t = s->table;
    if (first + n > MAX_POSITION)
        return kv_fail(KV_ERR_UNSUPPORTED, "position %lld: sine and cosine are defined below 2^28; use a "
                       "policy whose positions count inside the cache", (long long)(first + n - 1));
    KV_TRY(set_base(s, length));
    if (first < t.first || first + n > t.first + t.n) {
        const int32_t half = s->model.cfg.rope_dims / 2;
        int64_t count = n + n / 2 + 256;
        if (first + count > MAX_POSITION) count = MAX_POSITION - first;
        t.n = 0;
        KV_TRY(t.cos.reserve((size_t)(count * half)));
        KV_TRY(t.sin.reserve((size_t)(count * half)));
        KV_TRY(gpu_rope_table((int32_t)first, (int32_t)count, t.inv_freq.p, half, s->model.cfg.rope_sign, t.cos.p, t.sin.p,
                              s->stream.s));
        t.first = first;
        t.n = count;
    }
    *at = first - t.first;
    return KV_OK;
}

kv_status gpu_forward(kv_session *s, const gpu_piece &piece, const gpu_view &view)
{
    return gpu_pass(s, piece, view).run();
}
