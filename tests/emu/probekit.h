/* probekit.h - what a step's queries look at, computed by plain loops from taps and exports: the probabilities that
 * policies decide by (docs/numerics.md, section 4), and the states and events of a policy in a form for comparisons. */
#ifndef KV_TESTS_PROBEKIT_H
#define KV_TESTS_PROBEKIT_H

#include "tests/emu/doorkit.h"

#include "common/model.h"

#include <algorithm>

namespace emutest
{
/* One run of an export. */
struct run {
    std::vector<int64_t> og;
    std::vector<int32_t> pos;
    std::vector<float> score;
    std::vector<std::vector<float>> k; /* as stored; storage f32 */
};

/* Runs [layer * kv_heads + head] of a session's state. */
inline std::vector<run> runs_of(const session &s)
{
    std::vector<uint64_t> blob = state_of(s);
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    size_t offset = sizeof h;
    std::vector<run> runs;
    for (int32_t i = 0; i < h.n_layers * h.n_kv_heads; i++) {
        const kv_state_view v = kv_state_place(&h, blob.data(), &offset, -1, 0);
        const int32_t n = v.run->n;
        run r = {{v.og, v.og + n}, {v.pos, v.pos + n}, {}, {}};
        if (v.score) r.score.assign(v.score, v.score + n);
        for (int32_t e = 0; e < n; e++) {
            const float *const row = reinterpret_cast<const float *>(v.records + (int64_t)e * h.record_bytes);
            r.k.emplace_back(row, row + h.head_dim);
        }
        runs.push_back(r);
    }
    return runs;
}

inline float max_of(const std::vector<float> &v)
{
    int32_t key = INT32_MIN;
    for (const float x : v) key = std::max(key, kv_max_key(x));
    return kv_max_unkey(key);
}

/* p_j = exp(s_j - M) / L of one row over its whole view, M and L as its combine has them. */
inline std::vector<float> probabilities(const std::vector<float> &s)
{
    std::vector<float> maxima, sums, p;
    for (size_t c = 0; c < s.size(); c += 256) {
        const std::vector<float> chunk(s.begin() + (ptrdiff_t)c, s.begin() + (ptrdiff_t)std::min(c + 256, s.size()));
        const float m = max_of(chunk);
        float l = 0.0f;
        for (const float x : chunk) l = l + kv_exp(x - m);
        maxima.push_back(m);
        sums.push_back(l);
    }
    const float most = max_of(maxima);
    float l = 0.0f;
    for (size_t c = 0; c < maxima.size(); c++) l = kv_fma(sums[c], kv_exp(maxima[c] - most), l);
    for (const float x : s) p.push_back(kv_exp(x - most) / l);
    return p;
}

/* p[r][j] of one layer and query head for the queries of a step: row r has n_stored + r + 1 entries. */
typedef std::vector<std::vector<float>> attention_rows;

/* What a step did. */
struct probed_step {
    result out;
    std::vector<run> before, after;
    std::vector<std::vector<attention_rows>> p; /* [layer][query head] */
};

/* The key of view entry i as the step reads it: raw ones are rotated at position i. */
inline std::vector<float> key_as_read(const kv_config &c, const std::vector<float> &stored, bool raw, int32_t i)
{
    std::vector<float> k = stored, cosines, sines;
    if (!raw) return k;
    for (int32_t j = 0; j < c.rope_dims / 2; j++) {
        const float f = 1.0f / kv_d2f(kv_exp_core(2.0 * j / c.rope_dims * kv_log_core(c.rope_theta)));
        float sine, cosine;
        kv_sincos((float)i * f, &sine, &cosine);
        cosines.push_back(cosine);
        sines.push_back(sine);
    }
    rope(k.data(), c.rope_dims, c.rope_pairing == KV_ROPE_HALF, cosines.data(), sines.data());
    return k;
}

/* Scores of one query over `keys`, then probabilities. */
inline std::vector<float> look_at(const kv_config &c, const float *q, const std::vector<std::vector<float>> &keys, size_t n)
{
    const float scale = kv_d2f(1.0 / kv_dsqrt((double)c.head_dim));
    std::vector<float> s;
    for (size_t j = 0; j < n; j++) {
        float acc = 0.0f;
        for (int32_t d = 0; d < c.head_dim; d++) acc = kv_fma(q[d] * scale, keys[j][(size_t)d], acc);
        s.push_back(acc);
    }
    return probabilities(s);
}

/* Feeds m tokens; computes all probabilities again. */
inline probed_step probe(session *s, int32_t m)
{
    const kv_config &c = s->model->cfg;
    const bool raw = s->s->cache.policy->raw_keys();
    const int32_t q_width = c.n_heads * c.head_dim, kv_width = c.n_kv_heads * c.head_dim, group = c.n_heads / c.n_kv_heads;
    probed_step step_;
    step_.before = runs_of(*s);
    std::vector<std::vector<float>> q((size_t)(c.n_layers * m)), k = q;
    std::vector<kv_tap> taps;
    for (int32_t l = 0; l < c.n_layers; l++)
        for (int32_t r = 0; r < m; r++) {
            const size_t at = (size_t)(l * m + r);
            q[at].resize((size_t)q_width);
            k[at].resize((size_t)kv_width);
            taps.push_back({KV_TAP_Q, l, r, q_width, q[at].data()});
            taps.push_back({KV_TAP_K, l, r, kv_width, k[at].data()});
        }
    step(s, m, &step_.out, KV_ROWS_ALL, taps);
    step_.after = runs_of(*s);
    for (int32_t l = 0; l < c.n_layers; l++) {
        step_.p.emplace_back();
        for (int32_t h = 0; h < c.n_heads; h++) {
            const run &before = step_.before[(size_t)(l * c.n_kv_heads + h / group)];
            std::vector<std::vector<float>> keys;
            for (size_t i = 0; i < before.k.size(); i++) keys.push_back(key_as_read(c, before.k[i], raw, (int32_t)i));
            attention_rows rows;
            for (int32_t r = 0; r < m; r++) {
                const float *const own = &k[(size_t)(l * m + r)][(size_t)(h / group * c.head_dim)];
                keys.emplace_back(own, own + c.head_dim);
                rows.push_back(look_at(c, &q[(size_t)(l * m + r)][(size_t)(h * c.head_dim)], keys, keys.size()));
            }
            step_.p.back().push_back(rows);
        }
    }
    return step_;
}

/* Sum over the queries row0 .. of a step that see entry j: chains of `block` queries, added in order. */
inline float column_sum(const attention_rows &p, size_t j, size_t row0 = 0, size_t block = 256)
{
    float total = 0.0f;
    for (size_t b = row0; b < p.size(); b += block) {
        float acc = 0.0f;
        for (size_t r = b; r < p.size() && r - b < block; r++)
            if (j < p[r].size()) acc = acc + p[r][j];
        total = total + acc;
    }
    return total;
}

inline float margin(float winner, float loser)
{
    const float m = winner - loser;
    if (m != m) return kv_bits2f(0x7fc00000);
    return m == 0.0f ? 0.0f : m;
}

inline std::string text_of(const kv_event &e)
{
    char s[160];
    snprintf(s, sizeof s, "%c og %lld token %lld layer %d head %d slot %d margin %08x", "AEMS"[e.kind & 3], (long long)e.og,
             (long long)e.token, e.layer, e.head, e.slot, (unsigned)kv_f2bits(e.margin));
    return s;
}

inline void assert_events(const std::vector<kv_event> &got, const std::vector<kv_event> &wanted, const char *what)
{
    for (size_t i = 0; i < got.size() && i < wanted.size(); i++)
        if (memcmp(&got[i], &wanted[i], sizeof got[i]) != 0)
            fail_msg("%s: event %zu is %s; by definition %s", what, i, text_of(got[i]).c_str(), text_of(wanted[i]).c_str());
    if (got.size() != wanted.size()) fail_msg("%s: %zu events; by definition %zu", what, got.size(), wanted.size());
}

/* A run must hold these tokens; scores are compared by their bits, unless none are given. */
inline void assert_run(const run &got, const std::vector<int64_t> &og, const std::vector<float> &score, const char *what)
{
    if (got.og != og) fail_msg("%s: other tokens stay", what);
    if (!score.empty()) assert_bits(got.score, score, what, 0);
}
} // namespace emutest

#endif
