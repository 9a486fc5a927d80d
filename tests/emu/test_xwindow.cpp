/* xwindow: its worked example, its laws, its refusals (docs/policy/xwindow.md). */
#include "tests/emu/probekit.h"

#include <fstream>
#include <array>
#include <sstream>

using namespace emutest;

namespace
{
/* One window: tokens ws .. ws + n - 1 of the test document, one of them exchanged when `changed` is not negative. */
kv_status window(session *s, int64_t ws, int32_t n, result *out, int64_t changed = -1)
{
    std::vector<int32_t> tokens, targets;
    for (int64_t i = ws; i < ws + n; i++) {
        tokens.push_back(i == changed ? token(*s, i) ^ 1 : token(*s, i));
        targets.push_back(token(*s, i + 1));
    }
    std::vector<float> logits((size_t)n * s->vocab()), nll((size_t)n);
    kv_events events = {};
    kv_step k = {};
    k.tokens = tokens.data();
    k.n = n;
    k.rows = KV_ROWS_ALL;
    k.flags = KV_STEP_RECOMPUTE;
    k.pos0 = ws;
    k.logits = logits.data();
    k.targets = targets.data();
    k.nll = nll.data();
    k.events = &events;
    const kv_status st = side()->step(s->s, &k);
    if (st == KV_OK) {
        *out = {logits, nll, std::vector<kv_event>(events.v, events.v + events.n)};
        s->seen = ws + n;
    }
    free(events.v);
    return st;
}

/* All windows of a stream; the rows that each scores, in order. */
std::vector<float> scored(session *s, int32_t size, int32_t stride, int64_t n_tokens, int64_t changed = -1)
{
    std::vector<float> rows;
    for (int64_t ws = 0, done = 0; done < n_tokens; ws += stride) {
        const int32_t n = (int32_t)std::min<int64_t>(size, n_tokens - ws);
        result r;
        assert_side(s->s, window(s, ws, n, &r, changed));
        rows.insert(rows.end(), r.logits.begin() + (done - ws) * (int64_t)s->vocab(), r.logits.end());
        done = ws + n;
    }
    return rows;
}

std::string text_of(const std::vector<kv_event> &events, int32_t layer)
{
    std::string s;
    for (const kv_event &e : events) {
        if (e.layer != layer) continue;
        assert_true(e.head == -1 && e.margin == kv_inf());
        s += (s.empty() ? "" : " ") + std::string(1, "AEMS"[e.kind]) + std::to_string(e.og) + "/" + std::to_string(e.slot);
    }
    return s;
}

std::string text_of(const std::vector<int64_t> &ogs)
{
    std::string s;
    for (const int64_t og : ogs) s += (s.empty() ? "" : " ") + std::to_string(og);
    return s;
}

/* Cells of a table row. */
std::vector<std::string> cells_of(const std::string &line)
{
    std::vector<std::string> cells(1);
    for (size_t i = 1; i + 1 < line.size(); i++) {
        if (line[i] == '|' && line[i - 1] != '\\')
            cells.emplace_back();
        else
            cells.back() += line[i];
    }
    for (std::string &c : cells) {
        const size_t a = c.find_first_not_of(' '), b = c.find_last_not_of(' ');
        c = a == std::string::npos ? "" : c.substr(a, b - a + 1);
    }
    return cells;
}

void test_the_worked_example(void **)
{
    std::ifstream in("docs/policy/xwindow.md");
    std::string line;
    session s("tiny", "xwindow:cache=3,stride=2,window=4");
    int32_t rows = 0;
    bool here = false;
    while (std::getline(in, line)) {
        here |= line.rfind("## Worked example", 0) == 0;
        if (!here || line.rfind("| ", 0) != 0 || line.rfind("| window", 0) == 0) continue;
        const std::vector<std::string> cells = cells_of(line);
        std::stringstream tokens(cells[1]);
        std::vector<int64_t> ogs;
        for (int64_t og; tokens >> og;) ogs.push_back(og);
        result r;
        assert_side(s.s, window(&s, ogs[0], (int32_t)ogs.size(), &r));
        for (int32_t l = 0; l < 2; l++) {
            assert_string_equal(text_of(r.events, l).c_str(), cells[3].c_str());
            assert_string_equal(text_of(runs_of(s)[(size_t)(2 * l)].og).c_str(), cells[4].c_str());
        }
        rows++;
    }
    assert_int_equal(rows, 4);
}

void test_without_cache_every_window_stands_alone(void **)
{
    for (const char *policy : {"xwindow:window=12,stride=5,cache=0", "xwindow:window=12,stride=5,cache=0,ver=published",
                               "xwindow:window=12,stride=5,cache=0+f16"}) {
        session s("tiny", policy);
        for (int64_t ws = 0; ws < 25; ws += 5) {
            result alone, r;
            session full("tiny", "full");
            assert_side(s.s, window(&s, ws, 12, &r));
            full.seen = ws; /* the same tokens, as the first of a stream */
            step(&full, 12, &alone);
            assert_bits(r.logits, alone.logits, policy, (uint64_t)ws);
            assert_int_equal(r.events.size(), 0);
            assert_true(runs_of(s)[0].og.empty());
        }
    }
}

void test_the_first_window_is_full(void **)
{
    session full("tiny", "full");
    result wanted, r;
    step(&full, 20, &wanted);
    for (const char *policy : {"xwindow:window=20,stride=8,cache=30", "xwindow:window=20,stride=8,cache=30,ver=published",
                               "xwindow:window=20,stride=8,cache=30,layers=1", "xwindow:window=20,stride=8,cache=30+bf16"}) {
        session s("tiny", policy, "seed=3");
        assert_side(s.s, window(&s, 0, 20, &r));
        assert_bits(r.logits, wanted.logits, policy, 0);
        assert_bits(r.nll, wanted.nll, policy, 0);
    }
}

/* A token that changes may change what is scored behind it only: also in the last, clipped window, and also under the
 * published rule, as long as every position is scored once. */
void test_nothing_that_is_scored_depends_on_later_tokens(void **)
{
    for (const char *policy : {"xwindow:window=16,stride=4,cache=24", "xwindow:window=16,stride=4,cache=24,layers=1",
                               "xwindow:window=16,stride=4,cache=24,ver=published"}) {
        for (const int64_t changed : {30, 45, 56, 57}) {
            session a("tiny", policy), b("tiny", policy);
            const std::vector<float> x = scored(&a, 16, 4, 58), y = scored(&b, 16, 4, 58, changed);
            const size_t before = (size_t)changed * a.vocab();
            assert_memory_equal(x.data(), y.data(), before * sizeof(float));
            assert_true(memcmp(&x[before], &y[before], a.vocab() * sizeof(float)) != 0);
        }
    }
}

/* With a cache that reaches back to the beginning, one layer sees what `full` sees; deeper ones see rows that were
 * computed with less context. */
void test_layer_zero_reads_the_whole_stream(void **)
{
    session s("tiny", "xwindow:window=16,stride=8,cache=64"), full("tiny", "full");
    const std::vector<float> rows = scored(&s, 16, 8, 40);
    const result wanted = feed(&full, 40, 40);
    assert_memory_equal(rows.data(), wanted.logits.data(), 16 * s.vocab() * sizeof(float));
    const std::vector<run> a = runs_of(s), b = runs_of(full);
    assert_int_equal(a[0].og.size(), 40);
    for (size_t i = 0; i < 40; i++) /* un-rotated here: layer 0's keys depend on their own token only */
        assert_true(key_as_read(s.model->cfg, a[0].k[i], true, (int32_t)i) == b[0].k[i]);
}

/* What a narrow storage rounds are the recorded rows alone. */
void test_recorded_rows_are_rounded(void **)
{
    session wide("tiny", "xwindow:window=10,stride=5,cache=10"), narrow("tiny", "xwindow:window=10,stride=5,cache=10+bf16");
    result a, b;
    assert_side(wide.s, window(&wide, 0, 10, &a));
    assert_side(narrow.s, window(&narrow, 0, 10, &b));
    assert_bits(b.logits, a.logits, "first window", 0);
    const std::vector<run> x = runs_of(wide);
    std::vector<uint64_t> blob = state_of(narrow);
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    size_t offset = sizeof h;
    const kv_state_view v = kv_state_place(&h, blob.data(), &offset, -1, 0);
    for (int32_t i = 0; i < v.run->n; i++)
        for (int32_t d = 0; d < h.head_dim; d++) {
            uint16_t word;
            memcpy(&word, v.records + (int64_t)i * h.record_bytes + 2 * d, 2);
            assert_int_equal(word, kv_f2bf16(x[0].k[(size_t)i][(size_t)d]));
        }
    assert_side(wide.s, window(&wide, 5, 10, &a));
    assert_side(narrow.s, window(&narrow, 5, 10, &b));
    assert_true(memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) != 0);
}

void test_offsets_of_the_published_rule(void **)
{
    const struct {
        int32_t cache;
        std::vector<std::array<int32_t, 3>> windows; /* number, offset, rows */
    } cases[] = {{128, {{0, 0, 0}, {1, 32, 1}, {2, 33, 2}, {31, 62, 31}, {33, 64, 33}, {64, 95, 64}, {97, 128, 97}, {128, 128, 128}}},
                 {64, {{32, 63, 32}, {33, 64, 33}, {64, 64, 64}}}};
    for (const auto &c : cases) { /* the page's numbers, 64 times smaller */
        char policy[80];
        snprintf(policy, sizeof policy, "xwindow:window=32,stride=1,cache=%d,ver=published,layers=1", c.cache);
        session s("tiny", policy);
        size_t at = 0;
        for (int32_t w = 0; at < c.windows.size(); w++) {
            const std::vector<run> before = runs_of(s);
            result r;
            assert_side(s.s, window(&s, w, 32, &r));
            assert_true(before[0].og.empty()); /* layer 0 has no cache */
            if (c.windows[at][0] != w) continue;
            const run after = runs_of(s)[2];
            assert_int_equal(before[2].og.size(), c.windows[at][2]);
            assert_int_equal(after.pos.back(), c.windows[at][1] + 31);
            assert_int_equal(after.og.back(), w + 31);
            at++;
        }
    }
}

void test_states_move_to_other_sessions(void **)
{
    for (const char *policy : {"xwindow:window=12,stride=5,cache=20", "xwindow:window=12,stride=5,cache=20,layers=1",
                               "xwindow:window=12,stride=5,cache=10,ver=published", "xwindow:window=12,stride=5,cache=0"})
        for (const int32_t n : {0, 1, 2, 6}) {
            session a("tiny", policy), b("tiny", policy);
            result x, y;
            for (int32_t w = 0; w < n; w++) assert_side(a.s, window(&a, 5 * w, 12, &x));
            assert_side(b.s, window(&b, 0, 12, &y));
            const std::vector<uint64_t> blob = state_of(a);
            assert_side(b.s, side()->import_state(b.s, blob.data(), blob.size() * 8));
            assert_true(state_of(b) == blob);
            for (int32_t w = n; w < n + 3; w++) {
                assert_side(a.s, window(&a, 5 * w, 12, &x));
                assert_side(b.s, window(&b, 5 * w, 12, &y));
                assert_same(y, x, policy);
            }
            assert_true(state_of(b) == state_of(a));
        }
}

void test_other_windows_are_refused(void **)
{
    session s("tiny", "xwindow:window=12,stride=5,cache=20"), untouched("tiny", "xwindow:window=12,stride=5,cache=20");
    result r, wanted;
    const int32_t tokens[13] = {1};
    kv_step plain = {};
    plain.tokens = tokens;
    plain.n = 5;
    assert_refusal(side()->step(s.s, &plain), KV_ERR_USAGE, s.s, "KV_STEP_RECOMPUTE");
    assert_refusal(window(&s, 1, 12, &r), KV_ERR_USAGE, s.s, "begins at 0");
    assert_refusal(window(&s, 0, 13, &r), KV_ERR_USAGE, s.s, "at most 12");
    assert_side(s.s, window(&s, 0, 12, &r));
    assert_refusal(window(&s, 4, 12, &r), KV_ERR_USAGE, s.s, "begins at 5");
    assert_refusal(window(&s, 5, 7, &r), KV_ERR_USAGE, s.s, "behind the 12");
    assert_side(s.s, window(&s, 5, 12, &r));
    assert_side(untouched.s, window(&untouched, 0, 12, &wanted));
    assert_side(untouched.s, window(&untouched, 5, 12, &wanted));
    assert_same(r, wanted, "after refusals");
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_worked_example),
        cmocka_unit_test(test_without_cache_every_window_stands_alone),
        cmocka_unit_test(test_the_first_window_is_full),
        cmocka_unit_test(test_nothing_that_is_scored_depends_on_later_tokens),
        cmocka_unit_test(test_layer_zero_reads_the_whole_stream),
        cmocka_unit_test(test_recorded_rows_are_rounded),
        cmocka_unit_test(test_offsets_of_the_published_rule),
        cmocka_unit_test(test_states_move_to_other_sessions),
        cmocka_unit_test(test_other_windows_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
