/* The model that has every feature of the golf family, in windows (docs/policy/xwindow.md) and in steps of a bounded cache,
 * against golden values of an independent program in double precision. tests/golden/golf.c does it for all models. */
#include "tests/emu/goldenkit.h"

using namespace emutest;

namespace
{
enum { WINDOW = 32, STRIDE = 8 };
const golden_model &U = GOLDEN_MODELS[2];
const double NLL = 3e-5, NORM = 2e-6; /* limits for an engine in fp32, from the README of the golden values */

/* One window of the golden stream, token `changed` exchanged; the norm of all rows before the head unless l2 is NULL. */
kv_status window(session *s, int64_t ws, int32_t n, std::vector<float> *nll, double *l2 = nullptr, int64_t changed = -1)
{
    const size_t d = (size_t)s->model->cfg.d_model;
    golden_step step(ws, n, s->vocab());
    std::vector<float> rows((size_t)n * d);
    std::vector<kv_tap> taps;
    for (int32_t r = 0; r < n && l2; r++) taps.push_back({KV_TAP_FINAL_NORM, 0, r, (int32_t)d, &rows[(size_t)r * d]});
    if (changed >= ws && changed < ws + n) step.tokens[(size_t)(changed - ws)] ^= 1;
    step.k.flags = KV_STEP_RECOMPUTE;
    step.k.pos0 = ws;
    step.k.taps = taps.data();
    step.k.n_taps = (int32_t)taps.size();
    KV_TRY(side()->step(s->s, &step.k));
    s->seen = ws + n;
    *nll = step.nll;
    double sum = 0;
    for (const float x : rows) sum += (double)x * (double)x;
    if (l2) *l2 = sqrt(sum);
    return KV_OK;
}

int64_t whole(const json_t *window, const char *key) { return (int64_t)golden::number(window, key); }

/* Feeds the windows of a golden run; those behind the first one that ends with the stream are not windows here. */
void check_run(const golden &g, session *s, const char *run)
{
    const json_t *const windows = g.at(U.key, run);
    size_t done = 0;
    for (size_t w = 0; w < json_array_size(windows) && s->seen < GOLDEN_TOKENS; w++) {
        const json_t *const wanted = json_array_get(windows, w);
        const int64_t ws = whole(wanted, "ws"), end = whole(wanted, "end"), first = whole(wanted, "s");
        std::vector<float> nll;
        double l2;
        assert_side(s->s, window(s, ws, (int32_t)(end - ws), &nll, &l2));
        assert_near(largest_difference({nll.begin() + first, nll.end()}, golden::numbers(wanted, "nll")), NLL,
                    "%s, window %zu: nll", run, w);
        const double norm = golden::number(wanted, "xf_l2");
        assert_near(fabs(l2 - norm) / norm, NORM, "%s, window %zu: norm before the head", run, w);
        done++;
    }
    assert_int_equal(done, 9);
}

struct run_of_policy {
    const char *run, *policy;
};

void test_windows_have_the_golden_values(void **)
{
    const golden g("2b_evaluation.json");
    if (g.absent()) skip();
    const run_of_policy runs[] = {
        {"sliding_once", "xwindow:window=32,stride=8,cache=0"},
        {"nc_fixed_C0_reset", "xwindow:window=32,stride=8,cache=0,pred=reset"},
        {"nc_fixed_C16_reset", "xwindow:window=32,stride=8,cache=16"},
        {"nc_fixed_C48_reset", "xwindow:window=32,stride=8,cache=48"},
        {"nc_fixed_C0_carry", "xwindow:window=32,stride=8,cache=0,pred=carry"},
        {"nc_fixed_C48_carry", "xwindow:window=32,stride=8,cache=48,pred=carry"},
        {"sliding_compat_call_base", "xwindow:window=32,stride=8,cache=0,ver=published"},
        {"nc_published_C0", "xwindow:window=32,stride=8,cache=0,ver=published"},
        {"nc_published_C16", "xwindow:window=32,stride=8,cache=16,ver=published"},
        {"nc_published_C48", "xwindow:window=32,stride=8,cache=48,ver=published"},
    };
    for (const run_of_policy &r : runs) {
        session s(U.name, r.policy, "seed=2");
        check_run(g, &s, r.run);
    }
}

/* RoPE trained on 16 tokens: the published base changes with every window. */
void test_the_published_base_follows_the_call(void **)
{
    const golden g("2b_evaluation.json");
    if (g.absent()) skip();
    session s(U.name, "full");
    side()->close(s.s);
    kv_model changed = *s.model;
    changed.cfg.rope_train_len = 16;
    kv_policy p;
    assert_ok(kv_policy_parse("xwindow:window=32,stride=8,cache=48,ver=published", &p));
    const kv_open_args args = {&changed, &p, options_here(nullptr), 1, 64};
    assert_side(nullptr, side()->open(&args, &s.s));
    check_run(g, &s, "nc_published_C48_train16");
}

/* Steps of 8 tokens beside at most so many older rows: sliding. The last step has 7 tokens, and one older row more. */
void test_steps_in_a_ring_have_the_golden_values(void **)
{
    const golden g("2b_evaluation.json");
    if (g.absent()) skip();
    const run_of_policy runs[] = {{"incremental_ring24", "sliding:cap=32"}, {"incremental_ring72", "sliding:cap=80"}};
    for (const run_of_policy &r : runs) {
        session s(U.name, r.policy, "seed=5");
        for (size_t w = 0; w < 11; w++) {
            const std::vector<double> wanted = golden::numbers(json_array_get(g.at(U.key, r.run), w), "nll");
            assert_near(largest_difference(golden_feed(&s, STRIDE).nll, wanted), NLL, "%s, step %zu", r.run, w);
        }
    }
}

/* nll of all rows that are scored, window by window. */
std::vector<float> scored(session *s, int64_t first_window, int64_t changed = -1)
{
    std::vector<float> all, nll;
    for (int64_t ws = first_window, done = s->seen; done < GOLDEN_TOKENS; ws += STRIDE) {
        const int32_t n = (int32_t)std::min<int64_t>(WINDOW, GOLDEN_TOKENS - ws);
        assert_side(s->s, window(s, ws, n, &nll, nullptr, changed));
        all.insert(all.end(), nll.begin() + (done - ws), nll.end());
        done = ws + n;
    }
    return all;
}

void test_no_score_depends_on_a_later_token(void **)
{
    for (const char *pred : {"reset", "carry"})
        for (const int64_t changed : {20, 45, 66}) {
            const std::string policy = std::string("xwindow:window=32,stride=8,cache=48,pred=") + pred;
            session a("nano-u", policy.c_str()), b("nano-u", policy.c_str());
            const std::vector<float> wanted = scored(&a, 0), got = scored(&b, 0, changed);
            const auto before = [&](const std::vector<float> &v) { return std::vector<float>(v.begin(), v.begin() + changed); };
            assert_bits(before(got), before(wanted), policy.c_str(), (uint64_t)changed);
            assert_true(got != wanted);
        }
}

/* Windows in between leave no trace; what was remembered of older tokens comes back too. */
void test_snapshots_keep_the_memory_of_older_tokens(void **)
{
    for (const char *policy : {"xwindow:window=32,stride=8,cache=48,pred=carry", "xwindow:window=32,stride=8,cache=0,pred=carry"}) {
        session s("nano-u", policy);
        std::vector<float> nll;
        void *snap = nullptr;
        for (const int64_t ws : {0, 8, 16}) assert_side(s.s, window(&s, ws, WINDOW, &nll));
        assert_side(s.s, side()->snapshot(s.s, &snap));
        const std::vector<float> wanted = scored(&s, 24);
        for (int again = 0; again < 2; again++) {
            assert_side(s.s, side()->restore(s.s, snap));
            s.seen = 48;
            assert_bits(scored(&s, 24), wanted, policy, 0);
        }
        side()->snapshot_free(s.s, snap);
        assert_side(s.s, side()->reset(s.s));
        s.seen = 0;
        session fresh("nano-u", policy);
        assert_bits(scored(&s, 0), scored(&fresh, 0), policy, 0);
    }
}

/* Strides behind which the tokens before a window were scored by one window or by two. */
void test_windows_go_on_from_an_imported_state(void **)
{
    const struct {
        const char *policy;
        int64_t stride;
    } cases[] = {{"xwindow:window=16,stride=4,cache=0,pred=carry", 4}, {"xwindow:window=16,stride=1,cache=8,pred=carry", 1},
                 {"xwindow:window=16,stride=16,cache=32,pred=carry+f16", 16}, {"xwindow:window=16,stride=5,cache=10", 5}};
    for (const auto &c : cases) {
        session a("nano-u", c.policy), b("nano-u", c.policy, "seed=2");
        std::vector<float> wanted, got;
        int64_t ws = 0;
        for (int w = 0; w < 3; w++, ws += c.stride) assert_side(a.s, window(&a, ws, 16, &wanted));
        for (int64_t other = 0; other < 9 * c.stride && other < 60; other += c.stride)
            assert_side(b.s, window(&b, other, 16, &got)); /* something else was there before */
        const std::vector<uint64_t> blob = state_of(a);
        assert_side(b.s, side()->import_state(b.s, blob.data(), blob.size() * 8));
        assert_true(state_of(b) == blob);
        for (int w = 0; w < 3; w++, ws += c.stride) {
            assert_side(a.s, window(&a, ws, 16, &wanted));
            assert_side(b.s, window(&b, ws, 16, &got));
            assert_bits(got, wanted, c.policy, (uint64_t)ws);
            assert_true(state_of(a) == state_of(b));
        }
    }
}

/* A state that knows the newest token only. */
void test_a_window_without_the_token_before_it_is_refused(void **)
{
    session s("nano-b", "xwindow:window=16,stride=4,cache=0,pred=carry");
    std::vector<float> nll;
    assert_side(s.s, window(&s, 0, 16, &nll));
    std::vector<uint64_t> blob = state_of(s);
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    const size_t one = kv_carry_layout_of(&s.model->cfg).bytes;
    assert_int_equal(h.carry_bytes, 4 * one); /* windows at 4, 8, 12, and the newest token */
    for (size_t i = 0; i + 1 < 4; i++) { /* a carry that counts as many tokens as the next one */
        std::vector<uint64_t> wrong = blob;
        char *const carry = reinterpret_cast<char *>(wrong.data()) + h.total_bytes - h.carry_bytes;
        memcpy(carry + i * one, carry + (i + 1) * one, sizeof(int32_t));
        assert_refusal(side()->import_state(s.s, wrong.data(), h.total_bytes), KV_ERR_FORMAT, s.s, "counts must ascend");
    }
    blob.erase(blob.end() - (ptrdiff_t)(h.carry_bytes / 8), blob.end() - (ptrdiff_t)(one / 8));
    h.carry_bytes = one;
    h.total_bytes = blob.size() * 8;
    memcpy(blob.data(), &h, sizeof h);
    assert_side(s.s, side()->import_state(s.s, blob.data(), h.total_bytes));
    assert_refusal(window(&s, 4, 16, &nll), KV_ERR_USAGE, s.s, "remembers of token 3");
    assert_side(s.s, window(&s, 16, 16, &nll));
}

void test_a_base_by_length_needs_a_length(void **)
{
    session s("nano-a", "full");
    kv_model changed = *s.model;
    changed.cfg.rope_base_len = 0;
    assert_refusal(try_open(&changed, "full", nullptr), KV_ERR_UNSUPPORTED, nullptr, "rope_base_len 0");
    assert_int_equal(try_open(&changed, "xwindow:window=32,stride=8,cache=0", nullptr), KV_OK);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_have_the_golden_values),
        cmocka_unit_test(test_the_published_base_follows_the_call),
        cmocka_unit_test(test_steps_in_a_ring_have_the_golden_values),
        cmocka_unit_test(test_no_score_depends_on_a_later_token),
        cmocka_unit_test(test_snapshots_keep_the_memory_of_older_tokens),
        cmocka_unit_test(test_windows_go_on_from_an_imported_state),
        cmocka_unit_test(test_a_window_without_the_token_before_it_is_refused),
        cmocka_unit_test(test_a_base_by_length_needs_a_length),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
