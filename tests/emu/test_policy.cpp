/* Decisions of gpu/policy/ against the worked examples of docs/policy/, which are read from the pages. */
#include "tests/emu/emutest.h"

namespace
{
/* One row of a worked example, cells as text. */
struct example_row {
    std::string tokens, sees, events, after;
};

std::string trim(const std::string &s)
{
    const size_t a = s.find_first_not_of(' '), b = s.find_last_not_of(' ');
    return a == std::string::npos ? "" : s.substr(a, b - a + 1);
}

/* The table below the first line that starts with `heading`, behind "## Worked example". */
std::vector<example_row> read_example(const char *page, const char *heading)
{
    std::ifstream in(page);
    if (!in) fail_msg("cannot open %s (tests run in the project root)", page);
    std::vector<example_row> rows;
    std::string line;
    bool worked = false, here = false;
    while (std::getline(in, line)) {
        if (line.rfind("## Worked example", 0) == 0) worked = true;
        if (worked && line.rfind(heading, 0) == 0) here = true;
        else if (here && !rows.empty() && line.rfind("|", 0) != 0) break;
        if (!here || line.rfind("| ", 0) != 0 || line.rfind("| step", 0) == 0) continue;
        std::vector<std::string> cells;
        std::stringstream split(line.substr(1));
        for (std::string cell; std::getline(split, cell, '|');) cells.push_back(trim(cell));
        assert_true(cells.size() >= 5);
        rows.push_back({cells[1], cells[2], cells[3], cells[4]});
    }
    assert_true(rows.size() >= 3);
    return rows;
}

int32_t count_words(const std::string &s)
{
    std::stringstream in(s);
    int32_t n = 0;
    for (std::string w; in >> w;) n++;
    return n;
}

void append(std::string *s, const std::string &word) { *s += (s->empty() ? "" : " ") + word; }

std::string text_of(const std::vector<gpu_entry> &entries)
{
    std::string s;
    for (const gpu_entry &e : entries) append(&s, std::to_string(e.og) + "@" + std::to_string(e.pos));
    return s;
}

std::string text_of(const kv_events &events)
{
    std::string s;
    for (size_t i = 0; i < events.n; i++) {
        const kv_event &e = events.v[i];
        append(&s, (e.kind == KV_EVENT_ADMIT ? "A" : "E") + std::to_string(e.og) + "/" + std::to_string(e.slot));
    }
    return s;
}

/* Who is in which row of the store: what K and V would be. */
typedef std::vector<int64_t> owners;

/* One step as the forward pass sees it. */
struct seen_step {
    std::string sees;
    kv_events events = {};
};

/* Feeds m tokens and notes what the last one attends to. The rows of the view must hold the tokens that
 * the policy lists, and a piece must not overwrite a row that its view still needs. */
void feed(gpu_policy *p, int64_t *seen, int32_t m, owners *store, seen_step *out)
{
    const int64_t before_step = *seen;
    for (int32_t first = 0, n; first < m; first += n) {
        n = p->piece(before_step, m, first);
        std::vector<gpu_entry> before;
        assert_ok(p->list(0, 0, &before));
        gpu_view view;
        assert_ok(p->begin(*seen, n, &view, &out->events));
        store->resize((size_t)p->rows(), -1);
        const int64_t n_stored = view.layer(0).n_stored;
        std::vector<int32_t> rows = view.rows;
        for (int32_t i = 0; rows.size() < (size_t)(n_stored + n); i++) rows.push_back(i);
        for (int32_t x = 0; x < n; x++) (*store)[(size_t)rows[(size_t)(n_stored + x)]] = *seen + x;
        out->sees.clear();
        for (size_t i = 0; i < rows.size(); i++) {
            const int64_t og = (*store)[(size_t)rows[i]];
            int64_t pos = p->raw_keys() ? (int64_t)i : view.pos + (int64_t)i - n_stored;
            for (const gpu_entry &e : before) /* a stored key that was rotated when it came in */
                if (!p->raw_keys() && e.og == og) pos = e.pos;
            append(&out->sees, std::to_string(og) + "@" + std::to_string(pos));
        }
        assert_ok(p->finish(*seen, n, &out->events));
        *seen += n;
    }
}

void run_example(std::unique_ptr<gpu_policy> p, const char *page, const char *heading)
{
    int64_t seen = 0;
    owners store;
    for (const example_row &row : read_example(page, heading)) {
        seen_step step;
        const int64_t before = seen;
        feed(p.get(), &seen, count_words(row.tokens), &store, &step);
        assert_string_equal(step.sees.c_str(), row.sees.c_str());
        assert_string_equal(text_of(step.events).c_str(), row.events.c_str());
        for (size_t i = 0; i < step.events.n; i++) {
            const kv_event &e = step.events.v[i];
            assert_true(e.head == -1 && e.margin == kv_inf() && e.reserved == 0);
            assert_true(e.token >= before && e.token < seen);
            assert_true(e.kind != KV_EVENT_ADMIT || e.token == e.og);
        }
        std::vector<gpu_entry> entries;
        assert_ok(p->list(0, 0, &entries));
        assert_string_equal(text_of(entries).c_str(), row.after.c_str());
        for (const gpu_entry &e : entries) assert_true(store[(size_t)e.row] == e.og);
        free(step.events.v);
    }
}

void test_full_follows_its_worked_example(void **)
{
    run_example(gpu_policy_full(2), "docs/policy/full.md", "## Worked example");
}

void test_dilated_follows_its_worked_example(void **)
{
    run_example(gpu_policy_dilated({1, 3, 2}, 2), "docs/policy/dilated.md", "## Worked example");
}

void test_sliding_follows_its_worked_examples(void **)
{
    const char *const page = "docs/policy/sliding.md";
    run_example(gpu_policy_sliding({4, KV_SLIDING_REROTATE}, 2), page, "### rerotate");
    run_example(gpu_policy_sliding({4, KV_SLIDING_ABSOLUTE}, 2), page, "### absolute");
    run_example(gpu_policy_sliding({4, KV_SLIDING_SATURATE}, 2), page, "### saturate");
}

void test_sink_follows_its_worked_example(void **)
{
    kv_sink_params params;
    params.cap = 3;
    params.sinks = 2;
    run_example(gpu_policy_sink(params, 2), "docs/policy/sink.md", "## Worked example");
}

/* ---- laws ---- */

kv_sink_params sink_params(int32_t cap, int32_t sinks)
{
    kv_sink_params p;
    p.cap = cap;
    p.sinks = sinks;
    return p;
}

/* Feeds n tokens in steps of random length. */
void feed_random(gpu_policy *p, int64_t *seen, int32_t n, int32_t longest, uint64_t seed, owners *store,
                 std::string *events)
{
    for (uint64_t i = 0; n > 0; i++) {
        const int32_t m = gpu_min(n, 1 + (int32_t)kv_philox_below(seed, 0, i, (uint32_t)longest));
        seen_step step;
        feed(p, seen, m, store, &step);
        append(events, text_of(step.events));
        free(step.events.v);
        n -= m;
    }
}

void test_bounded_policies_use_a_bounded_number_of_rows(void **)
{
    struct {
        std::unique_ptr<gpu_policy> p;
        int64_t most;
    } cases[] = {
        {gpu_policy_sink(sink_params(50, 4), 2), 50 + 4 + 16},
        {gpu_policy_sink(sink_params(1, 0), 2), 1 + 16},
        {gpu_policy_sliding({50, KV_SLIDING_REROTATE}, 2), 50},
        {gpu_policy_sliding({7, KV_SLIDING_SATURATE}, 2), 7},
    };
    for (auto &c : cases) {
        int64_t seen = 0;
        owners store;
        std::string events;
        feed_random(c.p.get(), &seen, 5000, 16, 1, &store, &events);
        assert_true(c.p->rows() <= c.most);
    }
}

/* The ring of a sink policy ends the same whatever the steps; so do its insertions. */
void test_sink_insertions_do_not_depend_on_the_steps(void **)
{
    std::string first_events, first_after;
    for (const uint64_t seed : {1, 2, 3, 4}) {
        const std::unique_ptr<gpu_policy> p = gpu_policy_sink(sink_params(11, 3), 2);
        int64_t seen = 0;
        owners store;
        std::string events;
        feed_random(p.get(), &seen, 200, 30, seed, &store, &events);
        std::vector<gpu_entry> entries;
        assert_ok(p->list(0, 0, &entries));
        if (first_events.empty()) {
            first_events = events;
            first_after = text_of(entries);
        }
        assert_string_equal(events.c_str(), first_events.c_str());
        assert_string_equal(text_of(entries).c_str(), first_after.c_str());
    }
}

/* A policy that adopts another's entries goes on like it; slots show that a ring's start is right too. */
void check_adoption(const gpu_policy &fresh, int32_t before)
{
    std::unique_ptr<gpu_policy> a, b;
    assert_ok(fresh.clone(&a));
    assert_ok(fresh.clone(&b));
    int64_t seen = 0;
    owners store;
    std::string events;
    if (before) feed_random(a.get(), &seen, before, 5, 9, &store, &events);
    std::vector<gpu_entry> entries;
    assert_ok(a->list(0, 0, &entries));
    gpu_runs runs = {entries, entries};
    assert_ok(b->adopt(seen, &runs));
    assert_ok(b->list(0, 0, &entries));
    owners other((size_t)b->rows(), -1);
    for (const gpu_entry &e : entries) other[(size_t)e.row] = e.og;
    std::string events_a, events_b;
    int64_t seen_a = seen, seen_b = seen;
    feed_random(a.get(), &seen_a, 40, 5, 10, &store, &events_a);
    feed_random(b.get(), &seen_b, 40, 5, 10, &other, &events_b);
    assert_string_equal(events_a.c_str(), events_b.c_str());
}

void test_adopted_entries_go_on_like_the_original(void **)
{
    for (const int32_t before : {0, 1, 2, 3, 6, 7, 8, 9, 13, 50}) {
        check_adoption(*gpu_policy_full(2), before);
        check_adoption(*gpu_policy_sink(sink_params(6, 2), 2), before);
        check_adoption(*gpu_policy_sink(sink_params(4, 0), 2), before);
        check_adoption(*gpu_policy_dilated({1, 3, 4}, 2), before);
        check_adoption(*gpu_policy_sliding({6, KV_SLIDING_REROTATE}, 2), before);
        check_adoption(*gpu_policy_sliding({6, KV_SLIDING_ABSOLUTE}, 2), before);
        check_adoption(*gpu_policy_sliding({6, KV_SLIDING_SATURATE}, 2), before);
    }
}

void assert_no_such_token(gpu_policy *p, int64_t seen, int32_t m, const char *words)
{
    gpu_view view;
    assert_int_equal(p->begin(seen, m, &view, nullptr), KV_ERR_UNSUPPORTED);
    if (!strstr(kv_message(), words)) fail_msg("%s: no '%s'", kv_message(), words);
}

void test_tokens_beyond_the_last_position_are_refused_by_number(void **)
{
    const emutest::stream on;
    const gpu_site site = {2, 4, 2, on.s};
    const int64_t last = INT32_MAX; /* exclusive */
    assert_no_such_token(gpu_policy_full(2).get(), last - 2, 5, "full: token 2147483649 ");
    assert_no_such_token(gpu_policy_full(2).get(), last, 1, "token 2147483647 ");
    assert_no_such_token(gpu_policy_dilated({1, 3, 4}, 2).get(), last - 2, 5, "dilated: token 2147483649 ");
    assert_no_such_token(gpu_policy_tova({8}, site).get(), last - 2, 5, "tova: token 2147483649 ");
}

void test_states_that_a_policy_cannot_have_are_refused(void **)
{
    gpu_runs gap = {{{0, 0, 0}, {2, 1, 0}}}, far = {{{0, 5, 0}}};
    gpu_runs unlike = {{{0, 0, 0}, {1, 1, 0}}, {{0, 0, 0}}};
    assert_int_equal(gpu_policy_full(2)->adopt(2, &unlike), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_full(2)->adopt(2, &gap), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_full(2)->adopt(1, &far), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_dilated({0, 9, 2}, 2)->adopt(2, &gap), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_dilated({0, 9, 2}, 2)->adopt(1, &far), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_sink(sink_params(4, 1), 2)->adopt(3, &gap), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_sink(sink_params(4, 1), 2)->adopt(2, &gap), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_sliding({4, KV_SLIDING_REROTATE}, 2)->adopt(3, &gap), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_sliding({4, KV_SLIDING_SATURATE}, 2)->adopt(1, &far), KV_ERR_MISMATCH);
    assert_int_equal(gpu_policy_sliding({4, KV_SLIDING_REROTATE}, 2)->adopt(0, &far), KV_ERR_MISMATCH);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_follows_its_worked_example),
        cmocka_unit_test(test_dilated_follows_its_worked_example),
        cmocka_unit_test(test_sliding_follows_its_worked_examples),
        cmocka_unit_test(test_sink_follows_its_worked_example),
        cmocka_unit_test(test_bounded_policies_use_a_bounded_number_of_rows),
        cmocka_unit_test(test_sink_insertions_do_not_depend_on_the_steps),
        cmocka_unit_test(test_adopted_entries_go_on_like_the_original),
        cmocka_unit_test(test_tokens_beyond_the_last_position_are_refused_by_number),
        cmocka_unit_test(test_states_that_a_policy_cannot_have_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
