/* Models of the golf family against golden values of an independent program in double precision, and what they remember
 * between steps (docs/golf.md). */
#include "tests/emu/goldenkit.h"

using namespace emutest;

namespace
{
/* Limits for an engine in fp32, from the README of the golden values; a planted bug moves a logit by 0.3. */
const double LOGIT = 5e-5, NLL = 3e-5, BLOCK = 2e-6;

/* A tap and the stage of the golden files that it shows. */
struct stage {
    int32_t point;
    const char *name;
};
const stage STAGES[] = {{KV_TAP_ATTN_NORM, "h"}, {KV_TAP_Q, "qq"}, {KV_TAP_K, "kk"}, {KV_TAP_V, "vt"},
                        {KV_TAP_ATTN, "yf"}, {KV_TAP_ATTN_RESID, "x1"}, {KV_TAP_RESID, "xo"}};

/* All rows of one point of the first n tokens. */
struct watched {
    int32_t width;
    std::vector<float> rows;

    watched(const session &s, int32_t n, int32_t point)
        : width((int32_t)kv_tap_width(&s.model->cfg, point)), rows((size_t)(n * width))
    {
    }
    void ask(std::vector<kv_tap> *taps, int32_t point, int32_t layer)
    {
        for (size_t r = 0; r * (size_t)width < rows.size(); r++)
            taps->push_back({point, layer, (int32_t)r, width, &rows[r * (size_t)width]});
    }
    double l2() const
    {
        double sum = 0;
        for (const float x : rows) sum += (double)x * (double)x;
        return sqrt(sum);
    }
};

/* Norm over all rows, first values of row 5, last values of the last row. */
void check_rows(const watched &w, const json_t *wanted, const char *model, int32_t layer, const char *name)
{
    const double l2 = golden::number(wanted, "l2");
    assert_near(fabs(w.l2() - l2) / l2, BLOCK, "%s, layer %d, %s: norm", model, layer, name);
    const auto at = w.rows.begin() + 5 * w.width;
    const std::vector<double> r5 = golden::numbers(wanted, "r5"), last = golden::numbers(wanted, "last");
    assert_near(largest_difference({at, at + 4}, r5), LOGIT, "%s, layer %d, %s: row 5", model, layer, name);
    assert_near(largest_difference({w.rows.end() - 2, w.rows.end()}, last), LOGIT, "%s, layer %d, %s: last row", model,
                layer, name);
}

void check_model(const golden &g, const golden_model &m)
{
    session s(m.name, "full", "seed=1");
    const int32_t layers = s.model->cfg.n_layers;
    std::vector<watched> seen;
    std::vector<kv_tap> taps;
    for (const stage &st : STAGES)
        for (int32_t l = 0; l < layers; l++) seen.emplace_back(s, GOLDEN_TOKENS, st.point);
    seen.emplace_back(s, GOLDEN_TOKENS, KV_TAP_EMBED);
    seen.emplace_back(s, GOLDEN_TOKENS, KV_TAP_FINAL_NORM);
    size_t at = 0;
    for (const stage &st : STAGES)
        for (int32_t l = 0; l < layers; l++) seen[at++].ask(&taps, st.point, l);
    seen[at].ask(&taps, KV_TAP_EMBED, 0);
    seen[at + 1].ask(&taps, KV_TAP_FINAL_NORM, 0);
    const result r = golden_feed(&s, GOLDEN_TOKENS, taps);

    const json_t *const wanted = g.at(m.key);
    check_rows(seen[at], golden::inside(wanted, "embed", "x0"), m.name, 0, "x0");
    check_rows(seen[at + 1], golden::inside(wanted, "final_norm"), m.name, layers, "final norm");
    at = 0;
    for (const stage &st : STAGES)
        for (int32_t l = 0; l < layers; l++) {
            const json_t *const layer = json_array_get(golden::inside(wanted, "layers"), (size_t)l);
            check_rows(seen[at++], golden::inside(layer, "stages", st.name), m.name, l, st.name);
        }
    assert_near(largest_difference(r.nll, golden::numbers(wanted, "nll")), NLL, "%s: nll", m.name);
    for (const char *row : {"0", "1", "47", "94"}) {
        const auto from = r.logits.begin() + atoi(row) * (ptrdiff_t)s.vocab();
        assert_near(largest_difference({from, from + (ptrdiff_t)s.vocab()}, golden::numbers(wanted, "logits", row)), LOGIT,
                    "%s: logits of row %s", m.name, row);
    }
}

void test_forward_has_the_golden_values(void **)
{
    const golden g("2_forward.json");
    if (g.absent()) skip();
    for (const golden_model &m : GOLDEN_MODELS) check_model(g, m);
}

/* A model whose embeddings are so small that the norms' epsilon shows. */
struct faint {
    kv_model *original = nullptr;
    kv_model model;
    std::vector<kv_tensor> tensors;
    std::vector<float> words, pairs;

    explicit faint(const char *name)
    {
        assert_ok(kv_model_open(name, nullptr, &original, nullptr));
        model = *original;
        tensors.assign(model.tensors, model.tensors + KV_ROLE_GLOBAL_COUNT + model.cfg.n_layers * KV_ROLE_PER_LAYER);
        model.tensors = tensors.data();
        weaken(KV_ROLE_TOKEN_EMBD, &words);
        weaken(KV_ROLE_BIGRAM_EMBED, &pairs);
    }
    faint(const faint &) = delete;
    faint &operator=(const faint &) = delete;
    ~faint() { kv_model_close(original); }

private:
    void weaken(kv_role role, std::vector<float> *to)
    {
        kv_tensor &t = tensors[(size_t)role];
        to->resize((size_t)(t.rows * t.cols));
        kv_tensor_rows_f32(&t, 0, t.rows, to->data());
        for (float &x : *to) x *= 1.0f / 256;
        t.data = to->data();
    }
};

void test_epsilon_of_the_norms(void **)
{
    const golden g("2_forward.json");
    if (g.absent()) skip();
    for (const golden_model &m : GOLDEN_MODELS) {
        faint f(m.name);
        session s(m.name, "full");
        side()->close(s.s);
        kv_policy p;
        assert_ok(kv_policy_parse("full", &p));
        const kv_open_args args = {&f.model, &p, options_here(nullptr), 1, 64};
        assert_side(nullptr, side()->open(&args, &s.s));
        watched x0(s, GOLDEN_TOKENS, KV_TAP_EMBED);
        std::vector<kv_tap> taps;
        x0.ask(&taps, KV_TAP_EMBED, 0);
        const result r = golden_feed(&s, GOLDEN_TOKENS, taps);
        const json_t *const wanted = g.at(m.key, "eps_probe");
        check_rows(x0, golden::inside(wanted, "embed", "x0"), m.name, 0, "x0 with faint embeddings");
        const std::vector<double> nll = golden::numbers(wanted, "nll_first8");
        const std::vector<double> last = golden::numbers(wanted, "logits_94_first8");
        assert_near(largest_difference({r.nll.begin(), r.nll.begin() + 8}, nll), NLL, "%s: faint, nll", m.name);
        const auto at = r.logits.begin() + 94 * (ptrdiff_t)s.vocab();
        assert_near(largest_difference({at, at + 8}, last), LOGIT, "%s: faint, logits", m.name);
    }
}

/* ---- what is remembered ---- */

void test_steps_of_any_size_give_the_same_bits(void **)
{
    for (const golden_model &m : GOLDEN_MODELS) {
        session whole(m.name, "full");
        const result wanted = golden_feed(&whole, GOLDEN_TOKENS);
        const std::vector<std::vector<int32_t>> schedules = {{1}, {2}, {8}, {13}, {1, 8, 13, 2}, {94, 1}};
        for (const std::vector<int32_t> &sizes : schedules) {
            session s(m.name, "full", "seed=4");
            const result got = golden_feed_in(&s, GOLDEN_TOKENS, sizes);
            assert_bits(got.logits, wanted.logits, m.name, (uint64_t)sizes[0]);
            assert_bits(got.nll, wanted.nll, m.name, (uint64_t)sizes[0]);
            assert_true(state_of(s) == state_of(whole));
        }
    }
}

const char *const POLICIES[] = {"full", "full+f16", "sliding:cap=24", "sliding:cap=24,pos=saturate", "sink:cap=20",
                                "cascade:cap=24", "h2o:cap=24", "tova:cap=24+bf16"};

void test_a_state_goes_on_in_another_session(void **)
{
    for (const golden_model &m : GOLDEN_MODELS)
        for (const char *policy : POLICIES) {
            session a(m.name, policy), b(m.name, policy, "seed=3");
            golden_feed_in(&a, 40, {7});
            golden_feed_in(&b, 23, {5}); /* something else was there before */
            const std::vector<uint64_t> blob = state_of(a);
            assert_side(b.s, side()->import_state(b.s, blob.data(), blob.size() * 8));
            b.seen = 40;
            assert_true(state_of(b) == blob);
            void *snap = nullptr;
            assert_side(a.s, side()->snapshot(a.s, &snap));
            const result wanted = golden_feed_in(&a, 60, {1, 6});
            assert_same(golden_feed_in(&b, 60, {1, 6}), wanted, policy);
            assert_true(state_of(b) == state_of(a));
            assert_side(a.s, side()->restore(a.s, snap));
            a.seen = 40;
            assert_true(state_of(a) == blob);
            assert_same(golden_feed_in(&a, 60, {1, 6}), wanted, policy);
            side()->snapshot_free(a.s, snap);
            assert_side(a.s, side()->reset(a.s));
            a.seen = 0;
            session fresh(m.name, policy);
            assert_same(golden_feed_in(&a, 30, {7}), golden_feed_in(&fresh, 30, {7}), policy);
        }
}

kv_state_head head_of(const std::vector<uint64_t> &blob)
{
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    return h;
}

/* The carry's floats of a whole state. */
float *carry_of(std::vector<uint64_t> *blob)
{
    const kv_state_head h = head_of(*blob);
    return reinterpret_cast<float *>(reinterpret_cast<char *>(blob->data()) + (h.total_bytes - h.carry_bytes));
}

/* Each part of the carry matters for the next token; without one of them it differs. */
void test_a_forgotten_carry_differs(void **)
{
    for (const golden_model &m : GOLDEN_MODELS) {
        session s(m.name, "full");
        golden_feed(&s, 40);
        const std::vector<uint64_t> blob = state_of(s);
        const kv_carry_layout l = kv_carry_layout_of(&s.model->cfg);
        assert_int_equal(head_of(blob).carry_bytes, l.bytes);
        const result wanted = golden_feed(&s, 3);
        const size_t parts[] = {sizeof(int32_t), l.norm, l.k, l.v, l.conv};
        for (const size_t part : parts) {
            if (part == 0) continue;
            std::vector<uint64_t> other = blob;
            float *const at = carry_of(&other) + part / sizeof(float);
            if (part == sizeof(int32_t))
                *reinterpret_cast<int32_t *>(at) ^= 1;
            else
                *at += 0.5f;
            assert_side(s.s, side()->import_state(s.s, other.data(), other.size() * 8));
            s.seen = 40;
            const result got = golden_feed(&s, 3);
            if (memcmp(got.logits.data(), wanted.logits.data(), s.vocab() * sizeof(float)) == 0)
                fail_msg("%s: the part of the carry at byte %zu does not matter", m.name, part);
        }
    }
}

/* The carry holds what the taps and the token stream say; before the first token it is zero. */
void test_the_carry_is_that_of_the_newest_token(void **)
{
    session s("nano-b", "full"), one("nano-b", "full");
    std::vector<uint64_t> blob = state_of(s);
    const size_t floats = head_of(blob).carry_bytes / sizeof(float);
    for (size_t i = 0; i < floats; i++) assert_int_equal(kv_f2bits(carry_of(&blob)[i]), 0);
    golden_feed(&s, 40);
    golden_feed_in(&one, 40, {1});
    blob = state_of(s);
    const int32_t *const ids = reinterpret_cast<const int32_t *>(carry_of(&blob));
    assert_int_equal(ids[0], 40);
    assert_int_equal(ids[1], golden_token(39));
    assert_true(state_of(one) == blob);
    assert_int_equal(head_of(state_of(s, 1)).carry_bytes, 0);
    session llama("tiny", "full");
    assert_int_equal(head_of(state_of(llama)).carry_bytes, 0);
}

void test_a_carry_that_contradicts_its_state_is_refused(void **)
{
    session s("nano-a", "full"), untouched("nano-a", "full");
    golden_feed(&s, 10);
    golden_feed(&untouched, 10);
    const std::vector<uint64_t> blob = state_of(s);
    for (const auto &wrong : {std::pair<int, int32_t>{0, 9}, {0, 0}, {1, 260}, {1, -1}}) {
        std::vector<uint64_t> other = blob;
        reinterpret_cast<int32_t *>(carry_of(&other))[wrong.first] = wrong.second;
        assert_refusal(side()->import_state(s.s, other.data(), other.size() * 8), KV_ERR_FORMAT, s.s, "carry");
    }
    kv_state_head h = head_of(blob);
    std::vector<uint64_t> without(blob.begin(), blob.end() - (ptrdiff_t)(h.carry_bytes / 8));
    h.total_bytes -= h.carry_bytes;
    h.carry_bytes = 0;
    memcpy(without.data(), &h, sizeof h);
    assert_refusal(side()->import_state(s.s, without.data(), without.size() * 8), KV_ERR_MISMATCH, s.s, "carry bytes 0");
    assert_same(golden_feed(&s, 5), golden_feed(&untouched, 5), "after refusals");
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_has_the_golden_values),
        cmocka_unit_test(test_epsilon_of_the_norms),
        cmocka_unit_test(test_steps_of_any_size_give_the_same_bits),
        cmocka_unit_test(test_a_state_goes_on_in_another_session),
        cmocka_unit_test(test_a_forgotten_carry_differs),
        cmocka_unit_test(test_the_carry_is_that_of_the_newest_token),
        cmocka_unit_test(test_a_carry_that_contradicts_its_state_is_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
