/* Decisions of a step on both sides: what is a legal tie, and what is a bug that looks like one. Lists and caches are
 * made by hand. */
#include "tests/unit/kvtest.h"

#include "common/state.h"
#include "difftest/decisions.h"

#include <math.h>

static const float inf = INFINITY;
static kv_events ref, got;
static uint64_t cache[512]; /* an export */

static kv_policy policy_of(const char *spec)
{
    kv_policy p;
    assert_ok(kv_policy_parse(spec, &p));
    return p;
}

static void add(kv_events *to, int32_t layer, int32_t head, int kind, int64_t og, int64_t token, int32_t slot, float margin)
{
    assert_ok(kv_events_push(to, (kv_event){.og = og, .token = token, .layer = layer, .head = head, .kind = kind,
                                            .slot = slot, .margin = margin}));
}

static void clear(void)
{
    ref.n = got.n = 0;
}

/* One layer, two KV heads, each with tokens first .. first + n - 1 of score `score` times (1 + index). */
static void *scores(int64_t first, int32_t n, float score)
{
    kv_state_head h = {.magic = KV_STATE_MAGIC, .version = KV_STATE_VERSION, .what = score != 0 ? KV_STATE_SCORE : 0,
                       .n_layers = 1, .n_kv_heads = 2, .head_dim = 32, .record_bytes = 256};
    size_t offset = sizeof h;
    memset(cache, 0, sizeof cache);
    for (int32_t head = 0; head < 2; head++) {
        const kv_state_view v = kv_state_place(&h, cache, &offset, n, 0);
        v.run->head = head;
        for (int32_t i = 0; i < n; i++) {
            v.og[i] = first + i;
            if (v.score) v.score[i] = score * (float)(1 + i);
        }
    }
    h.total_bytes = offset;
    memcpy(cache, &h, sizeof h);
    assert_true(offset <= sizeof cache);
    assert_ok(kv_state_check(cache, offset));
    return cache;
}

#define assert_verdict(spec, state, n_ties, is_broken)                          \
    do {                                                                        \
        const kv_policy p_ = policy_of(spec);                                   \
        const dt_decisions d_ = dt_decisions_judge(&p_, &ref, &got, (state));   \
        assert_int_equal(d_.broken, (is_broken));                               \
        assert_int_equal(d_.ties, (n_ties));                                    \
    } while (0)

/* ---- the same --------------------------------------------------------------------------------------------- */

static void margins_of_scores_may_differ_where_bits_are_not_promised(void **state)
{
    (void)state;
    clear();
    add(&ref, 0, 0, KV_EVENT_EVICT, 3, 9, 3, 0.5f);
    add(&got, 0, 0, KV_EVENT_EVICT, 3, 9, 3, 0.25f);
    assert_false(dt_decisions_same(&ref, &got, 1));
    assert_true(dt_decisions_same(&ref, &got, 0));
    static const float others[] = {INFINITY, NAN};
    for (int i = 0; i < 2; i++) { /* whether a score decided is no matter of rounding */
        got.v[0].margin = others[i];
        assert_false(dt_decisions_same(&ref, &got, 0));
    }
    got.v[0].margin = 0.25f;
    got.v[0].slot = 4;
    assert_false(dt_decisions_same(&ref, &got, 0));
    got.n = 0;
    assert_false(dt_decisions_same(&ref, &got, 0));
}

/* ---- the highest stay --------------------------------------------------------------------------------------- */

/* Of tokens 10, 11, 12 the reference lets 10 go, the device 11; the boundary is a score of 2 (token 11). */
static void top(float ref_margin, float got_margin)
{
    clear();
    for (int32_t head = 0; head < 2; head++) {
        add(&ref, 0, head, KV_EVENT_EVICT, 10, 13, 0, ref_margin);
        add(&ref, 0, head, KV_EVENT_ADMIT, 13, 13, 2, inf);
        add(&got, 0, head, KV_EVENT_EVICT, head ? 10 : 11, 13, head ? 0 : 1, head ? ref_margin * 2 : got_margin);
        add(&got, 0, head, KV_EVENT_ADMIT, 13, 13, 2, inf);
    }
}

static void a_close_call_is_a_tie_and_no_other(void **state)
{
    (void)state;
    const float limit = 16 * 0x1p-24f * 2; /* token 11 has score 2 */
    top(limit, limit);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 1, 0);
    top(0, 0);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 1, 0);
    top(limit * 1.01f, 0);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(0, limit * 1.01f); /* the device itself says that it was none */
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(limit, limit);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 1.0f), 0, 1); /* smaller scores, smaller limit */
    top(inf, inf);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(NAN, 0);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(-limit, 0);
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
}

static void a_promise_of_bits_knows_no_ties(void **state)
{
    (void)state;
    top(0, 0);
    assert_verdict("h2o:cap=3,recent=1", NULL, 0, 1);
}

/* Scores that are shares of 1: the lowest of k kept is at most 1/k. */
static void without_exported_scores_the_share_of_a_kept_token_is_the_measure(void **state)
{
    (void)state;
    const float limit = 16 * 0x1p-24f / 50;
    clear();
    add(&ref, 0, -1, KV_EVENT_EVICT, 10, 13, 0, limit);
    add(&got, 0, -1, KV_EVENT_EVICT, 11, 13, 1, 0);
    assert_verdict("tova:cap=50", scores(11, 3, 0), 1, 0);
    ref.v[0].margin = limit * 1.01f;
    assert_verdict("tova:cap=50", scores(11, 3, 0), 0, 1);
    /* of 60 tokens one leaves and 9 are the window: 50 are kept by score */
    ref.v[0].margin = limit;
    ref.v[0].head = got.v[0].head = 0;
    assert_verdict("snapkv:cap=59,window=9,prompt=60", scores(11, 3, 0), 1, 0);
    ref.v[0].margin = limit * 1.01f;
    assert_verdict("pyramid:cap=59,window=9,prompt=60", scores(11, 3, 0), 0, 1);
}

static void several_ties_of_one_step_count_each(void **state)
{
    (void)state;
    clear();
    for (int i = 0; i < 3; i++)
        add(&ref, 0, 0, KV_EVENT_EVICT, 10 + i, 20, i, 0);
    for (int i = 0; i < 3; i++)
        add(&got, 0, 0, KV_EVENT_EVICT, 11 + i + (i > 0), 20, i, 0); /* 11 13 14 */
    assert_verdict("h2o:cap=9,recent=1", scores(13, 5, 1.0f), 2, 0);
    ref.v[0].margin = 0.5f; /* token 10 was not close */
    assert_verdict("h2o:cap=9,recent=1", scores(13, 5, 1.0f), 0, 1);
}

/* A tie moves one eviction; it neither adds nor drops one, and admits nobody else. */
static void a_tie_explains_nothing_but_another_victim(void **state)
{
    (void)state;
    top(0, 0);
    got.v[1].og = 12;
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(0, 0);
    got.v[0].token = 12;
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(0, 0);
    got.n--;
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 1, 1);
    top(0, 0);
    got.v[0].layer = 1;
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(0, 0);
    got.v[0].og = 10; /* the same victim from another slot */
    assert_verdict("h2o:cap=3,recent=1", scores(11, 3, 2.0f), 0, 1);
    top(0, 0);
    assert_verdict("sliding:cap=3", scores(11, 3, 2.0f), 0, 1); /* no score decides there */
    const kv_policy p = policy_of("h2o:cap=3,recent=1");
    top(0.5f, 0);
    const dt_decisions d = dt_decisions_judge(&p, &ref, &got, scores(11, 3, 2.0f));
    assert_true(d.broken && d.ref_at == 0 && d.got_at == 0);
}

/* ---- duels ------------------------------------------------------------------------------------------------- */

/* Two rings of two, no sinks: 0 1 2 3 fill ring 1 and ring 0, then token 4 pushes 2 out of ring 0 into a duel with 1,
 * the newest of ring 1. On the reference 2 wins; on the device 1 stays. Then token 5 is a fact of each side's own. */
static void duel(float ref_margin, float got_margin, int swap)
{
    kv_events *a = swap ? &got : &ref, *b = swap ? &ref : &got;
    clear();
    add(a, 0, 0, KV_EVENT_ADMIT, 4, 4, 0, inf);
    add(a, 0, 0, KV_EVENT_MOVE, 2, 4, 3, inf);
    add(a, 0, 0, KV_EVENT_EVICT, 1, 4, 3, swap ? got_margin : ref_margin);
    add(a, 0, 0, KV_EVENT_ADMIT, 5, 5, 1, inf);
    add(a, 0, 0, KV_EVENT_EVICT, 0, 5, 2, inf);
    add(b, 0, 0, KV_EVENT_ADMIT, 4, 4, 0, inf);
    add(b, 0, 0, KV_EVENT_EVICT, 2, 4, 0, swap ? ref_margin : got_margin);
    add(b, 0, 0, KV_EVENT_ADMIT, 5, 5, 1, inf);
    add(b, 0, 0, KV_EVENT_EVICT, 1, 5, 2, 0.75f); /* follows from the duel */
    for (int i = 0; i < 2; i++)
        add(i ? &ref : &got, 0, 1, KV_EVENT_ADMIT, 4, 4, 0, inf);
}

static void a_duel_of_equals_is_a_tie_whoever_wins(void **state)
{
    (void)state;
    const char *spec = "cascade:cap=4,n=2,sinks=0";
    for (int swap = 0; swap < 2; swap++) {
        const float limit = 16 * 0x1p-24f * (swap ? 1.0f : 2.0f); /* the score of the device's victim: token 1 or 2 */
        duel(limit, limit, swap);
        assert_verdict(spec, scores(1, 4, 1.0f), 1, 0);
        duel(limit * 1.01f, 0, swap);
        assert_verdict(spec, scores(1, 4, 1.0f), 0, 1);
        duel(0, limit * 1.01f, swap);
        assert_verdict(spec, scores(1, 4, 1.0f), 0, 1);
        duel(inf, inf, swap);
        assert_verdict(spec, scores(1, 4, 1.0f), 0, 1);
    }
}

/* Gone from the reference's cache later in the step: the highest score (4) measures. */
static void a_victim_that_left_both_caches_is_measured_by_the_highest(void **state)
{
    (void)state;
    duel(16 * 0x1p-24f * 4, 0, 0);
    assert_verdict("cascade:cap=4,n=2,sinks=0", scores(10, 4, 1.0f), 1, 0);
    duel(16 * 0x1p-24f * 4.1f, 0, 0);
    assert_verdict("cascade:cap=4,n=2,sinks=0", scores(10, 4, 1.0f), 0, 1);
}

static void what_is_no_duel_is_no_tie(void **state)
{
    (void)state;
    const char *spec = "cascade:cap=4,n=2,sinks=0";
    duel(0, 0, 0);
    got.v[0].slot = 1; /* another place for the newcomer */
    assert_verdict(spec, scores(1, 4, 1.0f), 0, 1);
    duel(0, 0, 0);
    got.v[1].og = 0; /* neither of the two */
    assert_verdict(spec, scores(1, 4, 1.0f), 0, 1);
    duel(0, 0, 0);
    got.v[1].token = 5;
    assert_verdict(spec, scores(1, 4, 1.0f), 0, 1);
    duel(0, 0, 0);
    got.v[got.n - 1].slot = 7; /* another head's list is judged by itself */
    assert_verdict(spec, scores(1, 4, 1.0f), 1, 1);
    duel(0, 0, 0);
    assert_verdict("cascade:cap=4,n=2,sinks=0,select=newest", scores(1, 4, 1.0f), 0, 1);
}

static int free_lists(void **state)
{
    (void)state;
    free(ref.v);
    free(got.v);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(margins_of_scores_may_differ_where_bits_are_not_promised),
        cmocka_unit_test(a_close_call_is_a_tie_and_no_other),
        cmocka_unit_test(a_promise_of_bits_knows_no_ties),
        cmocka_unit_test(without_exported_scores_the_share_of_a_kept_token_is_the_measure),
        cmocka_unit_test(several_ties_of_one_step_count_each),
        cmocka_unit_test(a_tie_explains_nothing_but_another_victim),
        cmocka_unit_test(a_duel_of_equals_is_a_tie_whoever_wins),
        cmocka_unit_test(a_victim_that_left_both_caches_is_measured_by_the_highest),
        cmocka_unit_test(what_is_no_duel_is_no_tie),
    };
    return cmocka_run_group_tests(tests, NULL, free_lists);
}
