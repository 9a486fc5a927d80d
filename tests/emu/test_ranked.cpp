/* h2o, tova, snapkv and pyramid: whole steps on the tiny model against their pages, written down here as plain loops. */
#include "tests/emu/probekit.h"

using namespace emutest;

namespace
{
const float INF = kv_inf();

/* Entries before an eviction: stored, then the step's. */
struct candidates {
    std::vector<int64_t> og;
    std::vector<float> score;
};

bool beats(const candidates &c, size_t a, size_t b)
{
    const float x = c.score[a], y = c.score[b];
    if (x != x || y != y) return x == x || (y != y && a < b);
    return x > y || (x == y && a < b);
}

/* Which of the first n_open stay when `keep` do: counted out, one against all. */
std::vector<bool> who_stays(const candidates &c, size_t n_open, size_t keep)
{
    std::vector<bool> stays(c.og.size(), true);
    for (size_t i = 0; i < n_open; i++) {
        size_t better = 0;
        for (size_t j = 0; j < n_open; j++) better += j != i && beats(c, j, i);
        stays[i] = better < keep;
    }
    return stays;
}

/* The events of one list, and what stays. */
std::vector<kv_event> eviction(const candidates &c, size_t n_open, size_t keep, size_t m, int32_t layer, int32_t head,
                               candidates *after)
{
    const std::vector<bool> stays = who_stays(c, n_open, keep);
    std::vector<kv_event> events;
    size_t lowest = n_open;
    for (size_t i = 0; i < n_open; i++)
        if (stays[i] && (lowest == n_open || beats(c, lowest, i))) lowest = i;
    for (size_t i = 0; i < n_open; i++)
        if (!stays[i])
            events.push_back({c.og[i], c.og.back(), layer, head, KV_EVENT_EVICT, (int32_t)i,
                              lowest == n_open ? INF : margin(c.score[lowest], c.score[i]), 0});
    *after = {};
    for (size_t i = 0; i < c.og.size(); i++) {
        const int32_t slot = stays[i] ? (int32_t)after->og.size() : -1;
        if (i + m >= c.og.size()) events.push_back({c.og[i], c.og[i], layer, head, KV_EVENT_ADMIT, slot, INF, 0});
        if (!stays[i]) continue;
        after->og.push_back(c.og[i]);
        after->score.push_back(c.score[i]);
    }
    return events;
}

void append(std::vector<kv_event> *to, const std::vector<kv_event> &more) { to->insert(to->end(), more.begin(), more.end()); }

/* Stored entries of a run and the step's tokens. */
candidates line_up(const run &before, int64_t seen, int32_t m)
{
    candidates c = {before.og, {}};
    for (int32_t x = 0; x < m; x++) c.og.push_back(seen + x);
    return c;
}

/* ---- h2o ---- */

void check_h2o(const char *policy, size_t heavy, size_t recent, bool largest, int32_t q, int32_t n_tokens)
{
    session s("tiny", policy, "seed=5");
    for (int32_t at = 0; at < n_tokens; at += q) {
        const int64_t seen = s.seen;
        const probed_step st = probe(&s, q);
        std::vector<kv_event> wanted;
        for (size_t i = 0; i < st.before.size(); i++) {
            candidates c = line_up(st.before[i], seen, q), after;
            for (size_t j = 0; j < c.og.size(); j++) {
                const float a = column_sum(st.p[i / 2][i % 2 * 2], j), b = column_sum(st.p[i / 2][i % 2 * 2 + 1], j);
                const float u = largest ? max_of({a, b}) : a + b;
                c.score.push_back(j < st.before[i].og.size() ? st.before[i].score[j] + u : u);
            }
            const bool full = c.og.size() > heavy + recent;
            const size_t n_open = full ? c.og.size() - recent : c.og.size(), keep = full ? heavy : n_open;
            append(&wanted, eviction(c, n_open, keep, (size_t)q, (int32_t)i / 2, (int32_t)i % 2, &after));
            assert_run(st.after[i], after.og, after.score, policy);
            for (size_t e = 0; e < after.og.size(); e++) assert_int_equal(st.after[i].pos[e], after.og[e]);
        }
        assert_events(st.out.events, wanted, policy);
    }
}

void test_h2o_follows_its_page(void **)
{
    check_h2o("h2o:cap=12", 6, 6, false, 1, 40);
    check_h2o("h2o:cap=12,heavy=9", 9, 3, false, 5, 60);
    check_h2o("h2o:cap=10,gqa=max,recent=0", 10, 0, true, 7, 56);
    check_h2o("h2o:cap=9,heavy=0", 0, 9, false, 4, 24);
    check_h2o("h2o:cap=20", 10, 10, false, 300, 300); /* two blocks of queries, two chunks of entries */
}

/* ---- tova ---- */

void check_tova(const char *policy, size_t cap, int32_t q, int32_t n_tokens)
{
    session s("tiny", policy, "seed=6");
    for (int32_t at = 0; at < n_tokens; at += q) {
        const int64_t seen = s.seen;
        const probed_step st = probe(&s, q);
        std::vector<kv_event> wanted;
        for (size_t l = 0; l < 2; l++) {
            candidates c = line_up(st.before[2 * l], seen, q), after;
            for (size_t j = 0; j < c.og.size(); j++) {
                float t = st.p[l][0].back()[j];
                for (size_t h = 1; h < 4; h++) t = t + st.p[l][h].back()[j];
                c.score.push_back(t / 4.0f);
            }
            append(&wanted, eviction(c, c.og.size(), std::min(cap, c.og.size()), (size_t)q, (int32_t)l, -1, &after));
            assert_run(st.after[2 * l], after.og, {}, policy);
            assert_run(st.after[2 * l + 1], after.og, {}, policy);
            assert_true(st.after[2 * l].score.empty());
        }
        assert_events(st.out.events, wanted, policy);
    }
}

void test_tova_follows_its_page(void **)
{
    check_tova("tova:cap=8", 8, 1, 40);
    check_tova("tova:cap=8", 8, 5, 60);
    check_tova("tova:cap=1", 1, 3, 12);
    check_tova("tova:cap=270", 270, 280, 280);
}

/* ---- snapkv, pyramid ---- */

struct snap {
    size_t cap, window, kernel, prompt;
    std::vector<size_t> keep; /* of each layer, outside the window */
};

/* s(j) of one KV head, from the probabilities of its two query heads. */
std::vector<float> snap_scores(const snap &p, const attention_rows &a, const attention_rows &b)
{
    const size_t n = p.prompt - p.window, k = (p.kernel - 1) / 2;
    std::vector<float> pooled[2], s;
    for (int h = 0; h < 2; h++) {
        std::vector<float> mean;
        for (size_t j = 0; j < n; j++)
            mean.push_back(column_sum(h ? b : a, j, p.prompt - p.window, p.prompt) / (float)p.window);
        for (size_t j = 0; j < n; j++) {
            float sum = 0.0f;
            for (size_t i = j < k ? 0 : j - k; i <= j + k && i < n; i++) sum = sum + mean[i];
            pooled[h].push_back(sum / (float)p.kernel);
        }
    }
    for (size_t j = 0; j < n; j++) s.push_back((pooled[0][j] + pooled[1][j]) / 2.0f);
    return s;
}

void check_snap(const char *policy, const snap &p)
{
    session s("tiny", policy, "seed=7");
    const probed_step st = probe(&s, (int32_t)p.prompt);
    std::vector<kv_event> wanted;
    std::vector<candidates> after(4);
    for (size_t i = 0; i < 4; i++) {
        candidates c = line_up(st.before[i], 0, (int32_t)p.prompt);
        c.score = snap_scores(p, st.p[i / 2][i % 2 * 2], st.p[i / 2][i % 2 * 2 + 1]);
        c.score.resize(c.og.size(), 0.0f);
        append(&wanted, eviction(c, p.prompt - p.window, p.keep[i / 2], p.prompt, (int32_t)i / 2, (int32_t)i % 2, &after[i]));
        assert_run(st.after[i], after[i].og, {}, policy);
    }
    assert_events(st.out.events, wanted, policy);
    result more;
    step(&s, 3, &more);
    std::vector<kv_event> later;
    for (size_t i = 0; i < 4; i++)
        for (int64_t x = 0; x < 3; x++)
            later.push_back({(int64_t)p.prompt + x, (int64_t)p.prompt + x, (int32_t)i / 2, (int32_t)i % 2, KV_EVENT_ADMIT,
                             (int32_t)(after[i].og.size() + (size_t)x), INF, 0});
    assert_events(more.events, later, policy);
}

void test_snapkv_and_pyramid_follow_their_pages(void **)
{
    check_snap("snapkv:cap=24,window=8,prompt=64", {24, 8, 5, 64, {16, 16}});
    check_snap("snapkv:cap=20,window=1,prompt=21,kernel=1", {20, 1, 1, 21, {19, 19}});
    check_snap("snapkv:cap=40,window=10,prompt=300,kernel=9", {40, 10, 9, 300, {30, 30}});
    check_snap("pyramid:cap=24,window=8,prompt=64", {24, 8, 5, 64, {32, 0}});
    check_snap("pyramid:cap=40,window=8,prompt=64", {40, 8, 5, 64, {56, 8}});
    check_snap("pyramid:cap=40,window=8,prompt=60", {40, 8, 5, 60, {32, 32}}); /* T < 2c: as snapkv */
}

void test_a_short_prompt_is_refused_and_a_long_first_step_is_cut(void **)
{
    session s("tiny", "snapkv:cap=12,window=4,prompt=20"), whole("tiny", "snapkv:cap=12,window=4,prompt=20");
    const int32_t tokens[19] = {1};
    kv_step k = {};
    k.tokens = tokens;
    k.n = 19;
    assert_refusal(side()->step(s.s, &k), KV_ERR_USAGE, s.s, "prompt 20");
    result pieces, one;
    step(&s, 20, &pieces);
    step(&s, 11, &pieces);
    step(&whole, 31, &one);
    assert_bits(one.logits, pieces.logits, "pieces", 0);
    std::stable_sort(pieces.events.begin(), pieces.events.end(), [](const kv_event &a, const kv_event &b) {
        return a.layer != b.layer ? a.layer < b.layer : a.head < b.head;
    });
    assert_true(same_events(one.events, pieces.events));
    assert_true(state_of(s) == state_of(whole));
}

/* A prompt below cap is kept whole for ever. */
void test_a_prompt_below_cap_is_not_compressed(void **)
{
    session s("tiny", "snapkv:cap=50,window=4,prompt=20"), full("tiny", "full");
    assert_bits(feed(&s, 60, 20).logits, feed(&full, 60, 20).logits, "no compression", 0);
    assert_int_equal(runs_of(s)[0].og.size(), 60);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_h2o_follows_its_page),
        cmocka_unit_test(test_tova_follows_its_page),
        cmocka_unit_test(test_snapkv_and_pyramid_follow_their_pages),
        cmocka_unit_test(test_a_short_prompt_is_refused_and_a_long_first_step_is_cut),
        cmocka_unit_test(test_a_prompt_below_cap_is_not_compressed),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
