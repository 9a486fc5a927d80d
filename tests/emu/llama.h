/* llama.h - the whole model as scalar loops written from docs/numerics.md: what a step of policy `full`
 * must give, token by token. Slow and plain on purpose. Storages f16 and bf16 round K and V
 * (docs/policy/storage.md): keys after RoPE, or before it as policies do that keep them raw. */
#ifndef KV_TESTS_LLAMA_H
#define KV_TESTS_LLAMA_H

#include "tests/emu/emutest.h"

#include "common/model.h"

namespace emutest
{
class llama
{
public:
    explicit llama(const kv_model *m, int32_t storage = KV_STORE_F32, bool raw_keys = false)
        : m_(m), c_(m->cfg), storage_(storage), raw_(raw_keys), keys_((size_t)c_.n_layers),
          values_((size_t)c_.n_layers)
    {
        for (int i = 0; i < c_.rope_dims / 2; i++)
            freq_.push_back(1.0f / kv_d2f(kv_exp_core(2.0 * i / c_.rope_dims * kv_log_core(c_.rope_theta))));
    }

    /* Named rows of the last token that was fed, as taps name them: point, layer. */
    std::vector<float> tap[KV_TAP_COUNT][8];

    std::vector<float> feed(int32_t token)
    {
        const std::vector<float> table = weights(KV_ROLE_TOKEN_EMBD, 0);
        const size_t d = (size_t)c_.d_model;
        x_.assign(table.begin() + (ptrdiff_t)((size_t)token * d), table.begin() + (ptrdiff_t)((size_t)(token + 1) * d));
        tap[KV_TAP_EMBED][0] = x_;
        for (int32_t l = 0; l < c_.n_layers; l++) {
            attention(l);
            feed_forward(l);
        }
        seen_++;
        const std::vector<float> last = norm(KV_ROLE_OUTPUT_NORM, 0);
        tap[KV_TAP_FINAL_NORM][0] = last;
        return times(c_.tied_head ? KV_ROLE_TOKEN_EMBD : KV_ROLE_OUTPUT, 0, last);
    }

    virtual ~llama() = default;

protected:
    const kv_config &config() const { return c_; }

    float softmax_scale() const
    {
        return c_.softmax_scale != 0.0f ? c_.softmax_scale : (float)(1.0 / kv_dsqrt((double)c_.head_dim));
    }

    /* Attention of the newest token: its rows after RoPE, as the storage keeps them. */
    virtual std::vector<float> attend_layer(int32_t l, std::vector<float> q, std::vector<float> k, std::vector<float> v)
    {
        const size_t layer = (size_t)l, dim = (size_t)c_.head_dim;
        keys_[layer].push_back(k);
        values_[layer].push_back(v);
        for (float &x : q) x = x * softmax_scale();
        std::vector<float> out(q.size());
        for (int32_t head = 0; head < c_.n_heads; head++) {
            std::vector<const float *> ks, vs;
            const size_t at = (size_t)(head / (c_.n_heads / c_.n_kv_heads)) * dim;
            for (size_t i = 0; i < keys_[layer].size(); i++) {
                ks.push_back(&keys_[layer][i][at]);
                vs.push_back(&values_[layer][i][at]);
            }
            attend(&q[(size_t)head * dim], ks, vs, c_.head_dim, &out[(size_t)head * dim]);
        }
        return out;
    }

private:
    std::vector<float> weights(kv_role role, int32_t layer) const
    {
        const kv_tensor *const t = kv_model_tensor(m_, role, layer);
        std::vector<float> w((size_t)(t->rows * t->cols));
        kv_tensor_rows_f32(t, 0, t->rows, w.data());
        return w;
    }

    std::vector<float> times(kv_role role, int32_t layer, const std::vector<float> &x) const
    {
        const std::vector<float> w = weights(role, layer);
        std::vector<float> y;
        for (size_t r = 0; r < w.size(); r += x.size()) y.push_back(product(x.data(), &w[r], (int32_t)x.size()));
        return y;
    }

    std::vector<float> norm(kv_role role, int32_t layer) const
    {
        std::vector<float> y(x_.size()), w;
        if (c_.norm_weight) w = weights(role, layer);
        rmsnorm(x_.data(), c_.norm_weight ? w.data() : nullptr, c_.d_model, c_.norm_eps, y.data());
        return y;
    }

    void add(const std::vector<float> &y)
    {
        for (size_t i = 0; i < x_.size(); i++) x_[i] = x_[i] + y[i];
    }

    void rotate(std::vector<float> *rows) const
    {
        std::vector<float> c, s;
        for (const float f : freq_) {
            float sine, cosine;
            kv_sincos((float)seen_ * f, &sine, &cosine);
            c.push_back(cosine);
            s.push_back(c_.rope_sign < 0 ? -sine : sine);
        }
        for (size_t h = 0; h < rows->size(); h += (size_t)c_.head_dim)
            rope(rows->data() + h, c_.rope_dims, c_.rope_pairing == KV_ROPE_HALF, c.data(), s.data());
    }

    void round(std::vector<float> *row) const
    {
        for (float &x : *row) {
            if (storage_ == KV_STORE_F16) x = kv_f162f(kv_f2f16(x));
            if (storage_ == KV_STORE_BF16) x = kv_bf162f(kv_f2bf16(x));
        }
    }

    void attention(int32_t l)
    {
        const size_t layer = (size_t)l;
        const std::vector<float> h = norm(KV_ROLE_ATTN_NORM, l);
        std::vector<float> q = times(KV_ROLE_ATTN_Q, l, h), k = times(KV_ROLE_ATTN_K, l, h),
                           v = times(KV_ROLE_ATTN_V, l, h);
        rotate(&q);
        if (raw_) round(&k);
        rotate(&k);
        if (!raw_) round(&k);
        round(&v);
        tap[KV_TAP_ATTN_NORM][layer] = h;
        tap[KV_TAP_Q][layer] = q;
        tap[KV_TAP_K][layer] = k;
        tap[KV_TAP_V][layer] = v;
        const std::vector<float> out = attend_layer(l, q, k, v);
        tap[KV_TAP_ATTN][layer] = out;
        add(times(KV_ROLE_ATTN_OUTPUT, l, out));
        tap[KV_TAP_ATTN_RESID][layer] = x_;
    }

    void feed_forward(int32_t l)
    {
        const std::vector<float> h = norm(KV_ROLE_FFN_NORM, l), g = times(KV_ROLE_FFN_GATE, l, h),
                                 u = times(KV_ROLE_FFN_UP, l, h);
        std::vector<float> a;
        for (size_t i = 0; i < g.size(); i++) a.push_back(swiglu(g[i], u[i]));
        tap[KV_TAP_FFN_NORM][(size_t)l] = h;
        tap[KV_TAP_FFN_ACT][(size_t)l] = a;
        add(times(KV_ROLE_FFN_DOWN, l, a));
        tap[KV_TAP_RESID][(size_t)l] = x_;
    }

    const kv_model *m_;
    const kv_config &c_;
    const int32_t storage_;
    const bool raw_;
    std::vector<float> freq_, x_;
    std::vector<std::vector<std::vector<float>>> keys_, values_; /* [layer][token] */
    int64_t seen_ = 0;
};
} // namespace emutest

#endif
