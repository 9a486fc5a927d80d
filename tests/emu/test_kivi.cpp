/* Storage kivi: coding and attention kernels against docs/policy/kivi.md; the storage through the door. */
#include "tests/emu/doorkit.h"
#include "tests/emu/llama.h"

#include "gpu/kivi.cuh"

#include <math.h>

using namespace emutest;

namespace
{
/* ---- docs/policy/kivi.md as scalar loops ---- */

struct coded_group {
    float scale, least;
    std::vector<uint32_t> q;
    std::vector<float> read; /* what the codes stand for */
};

coded_group code_group(const std::vector<float> &x, int32_t bits)
{
    const float n = (float)((1 << bits) - 1);
    float lo = x[0], hi = x[0];
    for (const float v : x) {
        if (kv_max_key(v) < kv_max_key(lo)) lo = v;
        if (kv_max_key(v) > kv_max_key(hi)) hi = v;
    }
    coded_group g = {(hi - lo) / n, lo, {}, {}};
    for (const float v : x) {
        float q = 0.0f;
        if (g.scale != 0.0f) {
            q = (v - lo) / g.scale;
            q = !(q > 0.0f) ? 0.0f : q > n ? n : q;
            q = (q + 8388608.0f) - 8388608.0f;
        }
        g.q.push_back((uint32_t)q);
        const float product = q * g.scale;
        g.read.push_back(g.scale == 0.0f ? lo : product + lo);
    }
    return g;
}

void put_float(std::vector<uint8_t> *record, int32_t at, float x) { memcpy(&(*record)[(size_t)at], &x, 4); }

/* Codes the block of R rows of one KV head, rows at stride; `read` receives what the codes stand for. */
std::vector<uint8_t> k_record(const kv_kivi_layout &l, int32_t bits, const float *rows, int64_t stride, float *read)
{
    std::vector<uint8_t> record((size_t)l.k_bytes);
    for (int32_t d = 0; d < l.D; d++)
        for (int32_t g = 0; g < l.R / l.G; g++) {
            std::vector<float> x;
            for (int32_t t = 0; t < l.G; t++) x.push_back(rows[(g * l.G + t) * stride + d]);
            const coded_group c = code_group(x, bits);
            for (int32_t t = 0; t < l.G; t++) {
                kv_code_put(&record[(size_t)(d * l.k_row)], g * l.G + t, bits, c.q[(size_t)t]);
                read[(g * l.G + t) * stride + d] = c.read[(size_t)t];
            }
            put_float(&record, l.k_scale + 4 * (d * (l.R / l.G) + g), c.scale);
            put_float(&record, l.k_min + 4 * (d * (l.R / l.G) + g), c.least);
        }
    return record;
}

std::vector<uint8_t> v_record(const kv_kivi_layout &l, int32_t bits, const float *row, float *read)
{
    std::vector<uint8_t> record((size_t)l.v_bytes);
    for (int32_t g = 0; g < l.D / l.G; g++) {
        const coded_group c = code_group(std::vector<float>(row + g * l.G, row + (g + 1) * l.G), bits);
        for (int32_t d = 0; d < l.G; d++) {
            kv_code_put(record.data(), g * l.G + d, bits, c.q[(size_t)d]);
            read[g * l.G + d] = c.read[(size_t)d];
        }
        put_float(&record, l.v_scale + 4 * g, c.scale);
        put_float(&record, l.v_min + 4 * g, c.least);
    }
    return record;
}

/* ---- kernels ---- */

/* Rows of n tokens, of which the first k_coded and v_coded are coded on the device. The coded ones were given in two
 * halves: those of the cache, in the ring, and those of a piece. */
struct problem {
    kv_kivi_layout l;
    int32_t bits, kv_heads, n, k_coded, v_coded;
    std::vector<float> k, v;           /* [n][width] */
    std::vector<float> k_read, v_read; /* the same as a reader sees them */
    std::vector<uint8_t> blocks, rows; /* records by definition */

    problem(const kv_kivi_params &p, int32_t D, int32_t heads, int32_t tokens, int32_t k_n, int32_t v_n, float scale)
        : l(kv_kivi_layout_of(&p, D)), bits(p.bits), kv_heads(heads), n(tokens), k_coded(k_n), v_coded(v_n),
          k(noise((size_t)(tokens * heads * D), 61, scale)), v(noise(k.size(), 62, scale)), k_read(k), v_read(v)
    {
        const int32_t w = width();
        for (int32_t t = 0; t < n; t++) k[(size_t)(t * w + 3)] = k_read[(size_t)(t * w + 3)] = -1.25f; /* a constant channel */
        for (int32_t d = 0; d < D; d++) v[(size_t)(w + d)] = v_read[(size_t)(w + d)] = 0.0f;       /* a zero row */
        for (int32_t t = 0; t < k_coded; t += l.R)
            for (int32_t h = 0; h < kv_heads; h++) {
                const size_t at = (size_t)(t * w + h * D);
                const std::vector<uint8_t> r = k_record(l, bits, &k[at], w, &k_read[at]);
                blocks.insert(blocks.end(), r.begin(), r.end());
            }
        for (int32_t t = 0; t < v_coded; t++)
            for (int32_t h = 0; h < kv_heads; h++) {
                const size_t at = (size_t)(t * w + h * D);
                const std::vector<uint8_t> r = v_record(l, bits, &v[at], &v_read[at]);
                rows.insert(rows.end(), r.begin(), r.end());
            }
    }
    int32_t width() const { return kv_heads * l.D; }
};

/* The problem on the device. The first `split` tokens count as those of the cache; the newest R of them are in rings. */
struct device {
    array<unsigned char> blocks, rows;
    floats k_ring, v_ring, k, v;
    ints bad;
    gpu_kivi_codes codes;

    device(const problem &p, int32_t split, const stream &on)
        : blocks(p.blocks.size() + 1), rows(p.rows.size() + 1), k_ring(ring(p, p.k, split), on),
          v_ring(ring(p, p.v, split), on), k(p.k, on), v(p.v, on), bad(std::vector<int32_t>(1, 0), on),
          codes{blocks.p(), rows.p(), p.l, p.bits, p.kv_heads, INT32_MAX, INT32_MAX}
    {
    }

    static std::vector<float> ring(const problem &p, const std::vector<float> &all, int32_t split)
    {
        const int32_t w = p.width();
        std::vector<float> r((size_t)(p.l.R * w), kv_nan());
        for (int32_t t = split < p.l.R ? 0 : split - p.l.R; t < split; t++)
            memcpy(&r[(size_t)(t % p.l.R * w)], &all[(size_t)(t * w)], (size_t)w * 4);
        return r;
    }

    gpu_raw_rows raw(const problem &p, bool values, int32_t split) const
    {
        const int32_t w = p.width();
        return {(values ? v_ring : k_ring).p(), (values ? v : k).p() + split * w, w, split, p.l.R, w};
    }
};

void assert_record_bytes(const std::vector<unsigned char> &got, const std::vector<uint8_t> &wanted, const char *what)
{
    for (size_t i = 0; i < wanted.size(); i++)
        if (got[i] != wanted[i]) fail_msg("%s: byte %zu is %02x, by definition %02x", what, i, got[i], wanted[i]);
}

void check_coding(const kv_kivi_params &p, int32_t D, int32_t kv_heads, float scale)
{
    const int32_t R = p.residual, split = R - 3;
    const problem y(p, D, kv_heads, 2 * R + 5, 2 * R, R + 5, scale);
    for (const uint64_t seed : {0, 3}) {
        const stream on((uint64_t)seed);
        const device d(y, split, on);
        assert_ok(gpu_kivi_code_k(d.codes, d.raw(y, false, split), {0, 2 * R, 0}, d.bad.p(), on.s));
        assert_ok(gpu_kivi_code_v(d.codes, d.raw(y, true, split), {0, R + 5, 0}, d.bad.p(), on.s));
        assert_record_bytes(d.blocks.get(on), y.blocks, "K block");
        assert_record_bytes(d.rows.get(on), y.rows, "V row");
        assert_int_equal(d.bad.get(on)[0], 0);
    }
}

void test_codes_have_the_bytes_of_the_definition(void **)
{
    for (const kv_kivi_params &p : {kv_kivi_params{2, 32, 128}, {4, 16, 48}, {3, 8, 16}, {8, 32, 32}, {6, 4, 8}, {5, 2, 8}})
        for (const float scale : {1.0f, 1e-20f, 5e37f}) check_coding(p, 64, 2, scale);
    check_coding({2, 4, 8}, 20, 3, 1.0f); /* a row of codes that is padded */
    check_coding({2, 1, 8}, 32, 1, 1.0f); /* groups of one: scale 0 */
    check_coding({2, 32, 32}, 256, 1, 3.0f);
}

void test_groups_that_are_not_finite_are_reported(void **)
{
    const kv_kivi_params p = {2, 8, 16};
    problem y(p, 32, 2, 64, 48, 48, 1.0f);
    y.k[20 * 64 + 40] = kv_inf();
    y.k[40 * 64 + 1] = kv_nan();
    y.v[30 * 64 + 63] = -kv_inf();
    const stream on;
    const device d(y, 0, on);
    assert_ok(gpu_kivi_code_v(d.codes, d.raw(y, true, 0), {0, 48, 0}, d.bad.p(), on.s));
    assert_int_equal(d.bad.get(on)[0], INT32_MAX - 30);
    assert_ok(gpu_kivi_code_k(d.codes, d.raw(y, false, 0), {0, 48, 0}, d.bad.p(), on.s));
    assert_int_equal(d.bad.get(on)[0], INT32_MAX - 16); /* the block of the lowest token */
}

void check_attention(const kv_kivi_params &p, int32_t D, int32_t heads, int32_t kv_heads, int32_t stored, int32_t m)
{
    const int32_t R = p.residual, n = stored + m, k_coded = stored / R * R, v_coded = stored > R ? stored - R : 0;
    const problem y(p, D, kv_heads, n, k_coded, v_coded, 1.0f);
    const std::vector<float> queries = noise((size_t)(m * heads * D), 63, 2.0f);
    const float scale = 0.2f;
    std::vector<float> wanted((size_t)(m * heads * D));
    for (int32_t x = 0; x < m; x++)
        for (int32_t h = 0; h < heads; h++) {
            const size_t row = (size_t)((x * heads + h) * D), at = (size_t)(h / (heads / kv_heads) * D);
            std::vector<float> q;
            std::vector<const float *> ks, vs;
            for (size_t d = 0; d < (size_t)D; d++) q.push_back(queries[row + d] * scale);
            for (size_t i = 0; i <= (size_t)(stored + x); i++) {
                ks.push_back(&y.k_read[i * (size_t)y.width() + at]);
                vs.push_back(&y.v_read[i * (size_t)y.width() + at]);
            }
            attend(q.data(), ks, vs, D, &wanted[row]);
        }
    for (const uint64_t seed : {0, 1, 4}) {
        const stream on((uint64_t)seed);
        const device d(y, stored, on);
        assert_ok(gpu_copy_up(d.blocks.p(), y.blocks.data(), y.blocks.size(), on.s));
        assert_ok(gpu_copy_up(d.rows.p(), y.rows.data(), y.rows.size(), on.s));
        const floats dq(queries, on), out(wanted.size());
        gpu_queries q = {};
        q.q = dq.p(), q.q_stride = heads * D, q.first = stored, q.m = m;
        q.heads = heads, q.kv_heads = kv_heads, q.head_dim = D, q.scale = scale, q.out = out.p();
        const floats workspace(gpu_attention_workspace(q));
        assert_ok(gpu_kivi_attention(q, d.codes, d.raw(y, false, stored), d.raw(y, true, stored), 0, k_coded, v_coded,
                                     workspace.p(), on.s));
        assert_bits(out.get(on), wanted, "attention", (uint64_t)seed);
    }
}

void test_attention_has_the_bits_of_the_definition(void **)
{
    check_attention({2, 32, 32}, 32, 4, 2, 0, 5);
    check_attention({2, 32, 32}, 32, 4, 2, 31, 1);
    check_attention({2, 32, 32}, 32, 4, 2, 32, 1);
    check_attention({4, 8, 24}, 32, 4, 2, 300, 20); /* blocks that straddle chunks */
    check_attention({3, 8, 16}, 64, 6, 2, 250, 33);
    check_attention({8, 32, 128}, 128, 2, 1, 270, 3);
}

/* ---- the door ---- */

/* The model of llama.h with this storage, steps of one token. */
class kivi_llama : public llama
{
public:
    kivi_llama(const kv_model *m, const kv_kivi_params &p)
        : llama(m), p_(p), l_(kv_kivi_layout_of(&p, m->cfg.head_dim)), layers_((size_t)m->cfg.n_layers)
    {
    }

protected:
    std::vector<float> attend_layer(int32_t l, std::vector<float> q, std::vector<float> k, std::vector<float> v) override
    {
        const int32_t D = config().head_dim, heads = config().n_heads, kv_heads = config().n_kv_heads, w = kv_heads * D;
        layer &y = layers_[(size_t)l];
        y.k.insert(y.k.end(), k.begin(), k.end());
        y.v.insert(y.v.end(), v.begin(), v.end());
        for (float &x : q) x = x * softmax_scale();
        std::vector<float> out(q.size());
        for (int32_t h = 0; h < heads; h++) {
            std::vector<const float *> ks, vs;
            for (size_t i = (size_t)(h / (heads / kv_heads) * D); i < y.k.size(); i += (size_t)w)
                ks.push_back(&y.k[i]), vs.push_back(&y.v[i]);
            attend(&q[(size_t)(h * D)], ks, vs, D, &out[(size_t)(h * D)]);
        }
        const int32_t n = (int32_t)y.k.size() / w, R = p_.residual;
        for (int32_t h = 0; h < kv_heads; h++) {
            float *const oldest = &y.k[(size_t)((n - n % R - R) * w + h * D)];
            if (n % R == 0) k_record(l_, p_.bits, oldest, w, oldest);
            float *const lagging = &y.v[(size_t)((n - R - 1) * w + h * D)];
            if (n > R) v_record(l_, p_.bits, lagging, lagging);
        }
        return out;
    }

private:
    struct layer {
        std::vector<float> k, v; /* as a reader sees them */
    };

    kv_kivi_params p_;
    kv_kivi_layout l_;
    std::vector<layer> layers_;
};

void test_steps_of_one_token_follow_the_definition(void **)
{
    for (const char *policy : {"full+kivi:residual=32", "full+kivi:bits=3,group=8,residual=24"}) {
        kv_policy p;
        assert_ok(kv_policy_parse(policy, &p));
        session s("nano", policy, "seed=2");
        kivi_llama by_hand(s.model, p.kivi);
        check_by_hand(&s, &by_hand, policy);
    }
}

const char *const POLICIES[] = {"full+kivi:residual=32", "full+kivi:bits=3,group=8,residual=24",
                                "sliding:cap=96,pos=absolute+kivi:residual=32",
                                "sliding:cap=48,pos=absolute+kivi:bits=8,group=8,residual=24"};

std::string text_of(const std::vector<kv_event> &events, int32_t kind)
{
    std::string s;
    for (const kv_event &e : events) {
        if (e.layer != 2 || e.kind != kind) continue;
        assert_true(e.head == -1 && e.margin == kv_inf() && e.reserved == 0);
        const bool value = e.og >= KV_KIVI_V;
        s += (s.empty() ? "" : " ") + std::string(value ? "v" : "") + std::to_string(value ? e.og - KV_KIVI_V : e.og) + "/" +
             std::to_string(e.slot) + "-" + std::to_string(e.token);
    }
    return s;
}

void assert_seals(session *s, int32_t n, const char *wanted)
{
    result r;
    step(s, n, &r);
    assert_string_equal(text_of(r.events, KV_EVENT_SEAL).c_str(), wanted);
    bool sealed[4] = {false, false, false, false}; /* seals stand behind everything else of their layer */
    for (const kv_event &e : r.events) {
        assert_true(e.kind == KV_EVENT_SEAL || !sealed[e.layer]);
        sealed[e.layer] = e.kind == KV_EVENT_SEAL;
    }
}

void test_blocks_and_rows_are_sealed_when_they_are_due(void **)
{
    session s("nano", "full+kivi:group=8,residual=8");
    assert_seals(&s, 7, "");
    assert_seals(&s, 1, "0/0-7");
    assert_seals(&s, 1, "v0/0-0");
    assert_seals(&s, 17, "8/8-15 16/16-23 v1/1-1 v2/2-2 v3/3-3 v4/4-4 v5/5-5 v6/6-6 v7/7-7 v8/8-8 v9/9-9 v10/10-10 "
                         "v11/11-11 v12/12-12 v13/13-13 v14/14-14 v15/15-15 v16/16-16 v17/17-17");
    session w("nano", "sliding:cap=16,pos=absolute+kivi:group=8,residual=8");
    assert_seals(&w, 9, "0/0-7 v0/0-0");
    assert_seals(&w, 7, "8/8-15 v1/1-1 v2/2-2 v3/3-3 v4/4-4 v5/5-5 v6/6-6 v7/7-7");
    assert_seals(&w, 1, "v8/0-8"); /* tokens 0 .. 7 have left */
    assert_seals(&w, 9, "16/0-23 v16/0-16 v17/1-17"); /* 16 leave, coded rows and raw ones alike */
}

void test_states_hold_blocks_and_rows_in_the_order_of_the_page(void **)
{
    session s("nano", "full+kivi:bits=3,group=8,residual=24");
    feed(&s, 60, 7);
    std::vector<uint64_t> blob = state_of(s);
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    kv_policy p;
    assert_ok(kv_policy_parse("full+kivi:bits=3,group=8,residual=24", &p));
    const kv_kivi_layout l = kv_kivi_layout_of(&p.kivi, 32);
    assert_true(h.record_bytes == 0 && h.storage == KV_STORE_KIVI && h.key_form == KV_KEY_ROTATED);
    std::vector<int64_t> og, bytes;
    for (int64_t t = 0; t < 48; t += 24) og.push_back(t), bytes.push_back(l.k_bytes);
    for (int64_t t = 48; t < 60; t++) og.push_back(t), bytes.push_back(4 * 32);
    for (int64_t t = 0; t < 60; t++) og.push_back(t + KV_KIVI_V), bytes.push_back(t < 36 ? l.v_bytes : 4 * 32);
    size_t offset = sizeof h;
    for (int32_t i = 0; i < h.n_layers * h.n_kv_heads; i++) {
        const kv_state_view v = kv_state_place(&h, blob.data(), &offset, -1, 0);
        assert_int_equal(v.run->n, og.size());
        for (size_t e = 0; e < og.size(); e++)
            assert_true(v.og[e] == og[e] && v.pos[e] == (int32_t)(og[e] & ~KV_KIVI_V) && v.bytes[e] == bytes[e]);
    }
}

void test_states_and_snapshots_go_on_like_the_original(void **)
{
    for (const char *policy : POLICIES) check_continuation(policy, 103);
    check_continuation(POLICIES[0], 64); /* nothing but codes */
}

void test_seeds_and_threads_change_no_bit(void **) { check_seeds_and_threads(POLICIES[3], 20); }

/* A step reads its own rows raw: nothing is coded before the residual is full and another step begins. */
void test_a_residual_alone_is_full_bit_for_bit(void **)
{
    session plain("nano", "full"), coded("nano", "full+kivi"), one_shot("nano", "full+kivi:group=8,residual=8");
    const result a = feed(&plain, 128, 16);
    assert_bits(feed(&coded, 128, 16).logits, a.logits, "128 tokens", 0);
    session whole("nano", "full");
    assert_bits(feed(&one_shot, 128, 128).logits, feed(&whole, 128, 128).logits, "one step", 0);
    result next, next_plain;
    step(&one_shot, 1, &next);
    step(&whole, 1, &next_plain);
    assert_true(next.logits != next_plain.logits); /* now it reads codes */
}

void test_rows_that_are_not_finite_are_refused(void **)
{
    session s("nano", "full+kivi:group=8,residual=8");
    feed(&s, 12, 12);
    std::vector<uint64_t> blob = state_of(s);
    const kv_state_view v = run_of(&blob, 5); /* layer 2, head 1 */
    const float bad = kv_inf();
    memcpy(v.records + (v.bytes[0] + 7) / 8 * 8 + 4 * 32 * 3, &bad, 4); /* K of token 11 */
    assert_side(s.s, side()->import_state(s.s, blob.data(), blob.size() * 8));
    const std::vector<int32_t> tokens(4, 1);
    kv_step k = {};
    k.tokens = tokens.data();
    k.n = 4;
    assert_refusal(side()->step(s.s, &k), KV_ERR_NONFINITE, s.s, "layer 2, tile 1: K or V from token 8 on");
}

void test_models_that_do_not_fit_are_refused(void **)
{
    kv_model *m = nullptr;
    assert_ok(kv_model_open("nano", nullptr, &m, nullptr));
    assert_refusal(try_open(m, "full+kivi:group=64", nullptr), KV_ERR_USAGE, nullptr, "group=64 does not divide");
    kv_model_close(m);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_have_the_bytes_of_the_definition),
        cmocka_unit_test(test_groups_that_are_not_finite_are_reported),
        cmocka_unit_test(test_attention_has_the_bits_of_the_definition),
        cmocka_unit_test(test_steps_of_one_token_follow_the_definition),
        cmocka_unit_test(test_blocks_and_rows_are_sealed_when_they_are_due),
        cmocka_unit_test(test_states_hold_blocks_and_rows_in_the_order_of_the_page),
        cmocka_unit_test(test_states_and_snapshots_go_on_like_the_original),
        cmocka_unit_test(test_seeds_and_threads_change_no_bit),
        cmocka_unit_test(test_a_residual_alone_is_full_bit_for_bit),
        cmocka_unit_test(test_rows_that_are_not_finite_are_refused),
        cmocka_unit_test(test_models_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
