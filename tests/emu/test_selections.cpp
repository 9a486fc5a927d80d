/* What holds for every selection that decides by scores: schedule seeds, reset, snapshots, import, memory; lists of
 * decisions that are followed. */
#include "tests/emu/probekit.h"

using namespace emutest;

namespace
{
const char *const POLICIES[] = {"cascade:n=3,sinks=2,window=4,beta=0.9", "cascade:n=2,window=5,homog=1,reduce=mean,eager=0",
                                "cascade:n=3,sinks=1,window=3,select=newest", "h2o:cap=10", "h2o:cap=9,heavy=2,gqa=max",
                                "tova:cap=9", "snapkv:cap=6,window=2,prompt=8", "pyramid:cap=6,window=2,prompt=8",
                                "cascade:n=3,sinks=2,window=4+f16", "h2o:cap=10+bf16"};

void test_seeds_and_threads_change_no_bit(void **)
{
    for (const char *policy : POLICIES) {
        session first("tiny", policy, "seed=0", 1);
        const result wanted = feed(&first, 60, 10);
        for (const char *options : {"seed=1", "seed=2", "seed=77"})
            for (const int32_t threads : {1, 2}) {
                session s("tiny", policy, options, threads);
                assert_same(feed(&s, 60, 10), wanted, policy);
                assert_true(state_of(s) == state_of(first));
            }
    }
}

void test_events_wanted_or_not_change_no_bit(void **)
{
    for (const char *policy : POLICIES) {
        session a("tiny", policy), b("tiny", policy);
        feed(&a, 40, 8);
        for (int32_t i = 0; i < 40; i += 8) {
            std::vector<int32_t> tokens;
            for (int32_t x = 0; x < 8; x++) tokens.push_back(token(b, i + x));
            kv_step k = {};
            k.tokens = tokens.data();
            k.n = 8;
            assert_side(b.s, side()->step(b.s, &k));
        }
        assert_true(state_of(a) == state_of(b));
    }
}

void test_reset_returns_to_the_beginning(void **)
{
    for (const char *policy : POLICIES) check_reset(policy, 40, 8);
}

void test_snapshots_come_back_any_number_of_times(void **)
{
    for (const char *policy : POLICIES) check_snapshots(policy, 24, 8);
}

void test_an_imported_state_goes_on_like_the_original(void **)
{
    for (const char *policy : POLICIES)
        for (const int32_t n : {0, 8, 9, 16, 41}) check_import(policy, n, 24, 8);
}

/* A valid state in which one thing is wrong. */
void check_bad_state(const char *policy, const char *words, void (*harm)(const kv_state_head *, kv_state_view *))
{
    session a("tiny", policy), b("tiny", policy);
    feed(&a, 30, 10);
    feed(&b, 20, 10);
    std::vector<uint64_t> blob = state_of(a);
    const std::vector<uint64_t> before = state_of(b);
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    size_t offset = sizeof h;
    kv_state_place(&h, blob.data(), &offset, -1, 0);
    kv_state_view second = kv_state_place(&h, blob.data(), &offset, -1, 0);
    harm(&h, &second);
    assert_refusal(side()->import_state(b.s, blob.data(), blob.size() * 8), KV_ERR_MISMATCH, b.s, words);
    assert_true(state_of(b) == before);
}

void test_states_that_a_policy_cannot_have_are_refused(void **)
{
    const auto swapped = [](const kv_state_head *, kv_state_view *v) { std::swap(v->og[3], v->og[4]); };
    const auto moved = [](const kv_state_head *, kv_state_view *v) { v->pos[3] += 1; };
    const auto newest_lost = [](const kv_state_head *, kv_state_view *v) { v->og[v->run->n - 1] -= 1, v->og[v->run->n - 2] -= 1; };
    for (const char *policy : {"cascade:n=3,sinks=2,window=4", "h2o:cap=10", "snapkv:cap=8,window=2,prompt=10"}) {
        check_bad_state(policy, "entry", swapped);
        check_bad_state(policy, "entry", moved);
        check_bad_state(policy, "entry", newest_lost);
    }
    check_bad_state("tova:cap=9", "entry", swapped);
    const auto sink_lost = [](const kv_state_head *, kv_state_view *v) { v->og[1] += 1; };
    check_bad_state("cascade:n=3,sinks=2,window=4", "entry 1", sink_lost);
    const auto unlike = [](const kv_state_head *, kv_state_view *v) {
        int32_t i = v->run->n - 1; /* a token that had left comes back */
        while (i > 0 && v->og[i] == v->og[i - 1] + 1) i--;
        v->og[i] = v->og[i] - 1;
        v->pos[i] = v->pos[i] - 1;
    };
    check_bad_state("tova:cap=9", "agree", unlike);
}

void test_states_without_scores_are_refused_where_scores_decide(void **)
{
    session a("tiny", "h2o:cap=10"), b("tiny", "h2o:cap=10");
    feed(&a, 20, 5);
    size_t need;
    assert_side(a.s, side()->export_state(a.s, -1, KV_STATE_KV, nullptr, 0, &need));
    std::vector<uint64_t> blob(need / 8);
    assert_side(a.s, side()->export_state(a.s, -1, KV_STATE_KV, blob.data(), need, &need));
    assert_refusal(side()->import_state(b.s, blob.data(), need), KV_ERR_MISMATCH, b.s, "KV_STATE_SCORE");
}

void test_bounded_policies_keep_their_memory(void **)
{
    for (const char *policy : {"cascade:n=3,sinks=2,window=4", "h2o:cap=10", "tova:cap=9"}) {
        session s("tiny", policy);
        std::vector<size_t> sizes[2];
        feed(&s, 48, 8);
        for (std::vector<size_t> &now : sizes) {
            for (const gpu_store &l : s.s->cache.layers) now.push_back(l.k.n + l.v.n);
            now.push_back(s.s->work.sums.n + s.s->work.stats.n + s.s->work.attention.n + s.s->work.view_keys.n);
            now.push_back((size_t)s.s->cache.policy->rows());
            feed(&s, 400, 8);
        }
        assert_true(sizes[0] == sizes[1]);
    }
}

/* ---- lists that are followed ---- */

kv_status follow(session *s, int32_t m, const std::vector<kv_event> &list, result *out)
{
    std::vector<int32_t> tokens;
    for (int32_t x = 0; x < m; x++) tokens.push_back(token(*s, s->seen + x));
    std::vector<float> logits((size_t)m * s->vocab());
    kv_events given = {const_cast<kv_event *>(list.data()), list.size(), 0}, events = {};
    kv_step k = {};
    k.tokens = tokens.data();
    k.n = m;
    k.rows = KV_ROWS_ALL;
    k.logits = logits.data();
    k.follow = &given;
    k.events = &events;
    const kv_status st = side()->step(s->s, &k);
    if (st == KV_OK) s->seen += m;
    if (st == KV_OK) *out = {logits, {}, std::vector<kv_event>(events.v, events.v + events.n)};
    free(events.v);
    return st;
}

void test_a_follower_of_its_own_list_ends_the_same(void **)
{
    std::vector<const char *> policies(POLICIES, POLICIES + sizeof POLICIES / sizeof *POLICIES);
    for (const char *p : {"full", "sliding:cap=9", "sink:cap=6,sinks=3"}) policies.push_back(p);
    for (const char *policy : policies) {
        session leader("tiny", policy), follower("tiny", policy, "seed=4");
        for (int32_t i = 0; i < 6; i++) {
            result wanted, got;
            step(&leader, i == 0 ? 13 : 5, &wanted);
            assert_side(follower.s, follow(&follower, i == 0 ? 13 : 5, wanted.events, &got));
            assert_bits(got.logits, wanted.logits, policy, (uint64_t)i);
            assert_true(same_events(got.events, wanted.events));
        }
        assert_true(state_of(leader) == state_of(follower));
    }
}

/* Another choice than its own: an entry that stays there leaves here, in place of one that does not. */
void test_h2o_and_tova_obey_another_choice(void **)
{
    for (const char *policy : {"h2o:cap=10", "tova:cap=10"}) {
        session own("tiny", policy), other("tiny", policy);
        result mine, got;
        feed(&own, 10, 10);
        feed(&other, 10, 10);
        step(&own, 2, &mine); /* in the first list: two stored entries leave, then two tokens come */
        std::vector<kv_event> list = mine.events;
        const run before = runs_of(other)[0];
        assert_true(list[0].og < 10 && list[1].og < 10 && list[2].kind == KV_EVENT_ADMIT);
        int32_t instead = 0;
        while (instead == list[0].slot || instead == list[1].slot) instead++;
        list[1].og = before.og[(size_t)instead];
        list[1].slot = instead;
        if (list[1].og < list[0].og) std::swap(list[0], list[1]);
        assert_side(other.s, follow(&other, 2, list, &got));
        assert_true(same_events(got.events, list));
        const run after = runs_of(other)[0], kept = runs_of(own)[0];
        assert_int_equal(after.og.size(), 10);
        assert_true(after.og != kept.og);
        for (const kv_event &e : {list[0], list[1]})
            assert_true(std::find(after.og.begin(), after.og.end(), e.og) == after.og.end());
    }
}

/* Every duel of a cascade turned round is obeyed, too. */
void test_cascade_obeys_other_outcomes(void **)
{
    session own("tiny", "cascade:n=2,sinks=0,window=4"), other("tiny", "cascade:n=2,sinks=0,window=4");
    result r, mine, got;
    feed(&own, 9, 3);
    feed(&other, 9, 3);
    step(&own, 1, &mine); /* n = 9, odd: one duel in each list, nothing else */
    std::vector<kv_event> turned;
    const std::vector<run> before = runs_of(other), kept = runs_of(own);
    for (size_t l = 0, i = 0; l < 4; l++) {
        turned.push_back(mine.events[i]); /* ADMIT */
        const bool won = mine.events[i + 1].kind == KV_EVENT_MOVE;
        kv_event move = mine.events[i + 1], evict = mine.events[won ? i + 2 : i + 1];
        if (won) {
            evict.og = move.og; /* the comer loses: it leaves from the slot of the newcomer */
            evict.slot = mine.events[i].slot;
        } else {
            const std::vector<int64_t> &og = kept[l].og;
            int64_t newest = -1; /* of the second ring */
            for (size_t e = 0; e < 4; e++) newest = std::max(newest, og[e]);
            move = evict;
            move.kind = KV_EVENT_MOVE;
            move.margin = kv_inf();
            move.slot = 4 + (int32_t)(newest % 4);
            evict.og = newest;
            evict.slot = move.slot;
            turned.push_back(move);
        }
        turned.push_back(evict);
        i += won ? 3 : 2;
    }
    assert_side(other.s, follow(&other, 1, turned, &got));
    assert_true(same_events(got.events, turned));
    const std::vector<run> after = runs_of(other);
    for (size_t l = 0; l < 4; l++) {
        assert_true(after[l].og != kept[l].og);
        assert_int_equal(after[l].og.size(), 8);
    }
}

void test_lists_that_cannot_be_obeyed_are_refused(void **)
{
    std::vector<const char *> policies(POLICIES, POLICIES + sizeof POLICIES / sizeof *POLICIES);
    for (const char *p : {"full", "sliding:cap=9", "sink:cap=6,sinks=3"}) policies.push_back(p);
    for (const char *policy : policies) {
        session leader("tiny", policy), follower("tiny", policy), untouched("tiny", policy);
        for (session *s : {&leader, &follower, &untouched}) feed(s, 30, 10);
        result wanted, got, after;
        step(&leader, 3, &wanted);
        for (int harm = 0; harm < 7; harm++) {
            std::vector<kv_event> list = wanted.events;
            kv_event &e = list[list.size() / 2];
            if (harm == 0) list.pop_back();
            if (harm == 1) list.push_back(list.back());
            if (harm == 2) e.og = 1000;
            if (harm == 3) e.slot += 1;
            if (harm == 4) e.layer ^= 1;
            if (harm == 5) e.token = 5;
            if (harm == 6) list.clear();
            assert_refusal(follow(&follower, 3, list, &got), KV_ERR_USAGE, follower.s, "cannot be obeyed");
        }
        assert_true(state_of(follower) == state_of(untouched));
        result free_step;
        step(&follower, 3, &free_step);
        assert_same(free_step, wanted, policy);
    }
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeds_and_threads_change_no_bit),
        cmocka_unit_test(test_events_wanted_or_not_change_no_bit),
        cmocka_unit_test(test_reset_returns_to_the_beginning),
        cmocka_unit_test(test_snapshots_come_back_any_number_of_times),
        cmocka_unit_test(test_an_imported_state_goes_on_like_the_original),
        cmocka_unit_test(test_states_that_a_policy_cannot_have_are_refused),
        cmocka_unit_test(test_states_without_scores_are_refused_where_scores_decide),
        cmocka_unit_test(test_bounded_policies_keep_their_memory),
        cmocka_unit_test(test_a_follower_of_its_own_list_ends_the_same),
        cmocka_unit_test(test_h2o_and_tova_obey_another_choice),
        cmocka_unit_test(test_cascade_obeys_other_outcomes),
        cmocka_unit_test(test_lists_that_cannot_be_obeyed_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
