/* sessions.c - what a session owes its user under every policy: the same tokens give the same bits, whatever happened
 * in between. */
#include "tests/laws/kit.h"

enum { Q = 7 };

static void threads_do_not_matter(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run a = law_open(spec, 1, LAW_TOKENS, Q), b = law_open_threads(spec, 1, LAW_TOKENS, Q, 3);
        law_finish(&a);
        law_finish(&b);
        law_same(&a, &b, "one thread and three");
        law_close(&a);
        law_close(&b);
    }
}

static void reset_forgets_everything(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run a = law_open(spec, 1, LAW_TOKENS, Q), used = law_open(spec, 2, LAW_TOKENS, Q);
        law_finish(&a);
        law_finish(&used);
        law_run b = law_open(spec, 1, LAW_TOKENS, Q);
        refkit_close(&b.k);
        b.k = used.k; /* the session of another document */
        used.k.s = NULL;
        assert_side(&b.k, law_side->reset(b.k.s));
        law_run fresh = law_open(spec, 1, LAW_TOKENS, Q);
        refkit_same_state(&fresh.k, &b.k, "nothing fed, and everything forgotten");
        law_close(&fresh);
        law_finish(&b);
        law_same(&a, &b, "a fresh session and one after reset");
        law_close(&a);
        law_close(&b);
        law_close(&used);
    }
}

static void a_snapshot_can_be_returned_to_twice(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run a = law_open(spec, 1, LAW_TOKENS, Q), b = law_open(spec, 1, LAW_TOKENS, Q);
        void *snap = NULL;
        law_finish(&a);
        const int32_t half = b.n_steps / 2;
        law_advance(&b, half);
        assert_side(&b.k, law_side->snapshot(b.k.s, &snap));
        for (int i = 0; i < 3; i++) {
            law_finish(&b);
            law_same(&a, &b, i ? "after restore" : "after snapshot");
            assert_side(&b.k, law_side->restore(b.k.s, snap));
            law_rewind(&b, half);
        }
        law_side->snapshot_free(b.k.s, snap);
        law_close(&a);
        law_close(&b);
    }
}

static void documents_do_not_mix(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run alone = law_open(spec, 1, LAW_TOKENS, Q), a = law_open(spec, 1, LAW_TOKENS, Q);
        law_run other = law_open(spec, 2, LAW_TOKENS, 5);
        law_finish(&alone);
        while (a.at < a.n_steps) {
            law_advance(&a, 1);
            law_advance(&other, 1);
        }
        law_same(&alone, &a, "alone and interleaved with another document");
        law_close(&alone);
        law_close(&a);
        law_close(&other);
    }
}

/* b continues from a's export before step `at`: rows behind it, decisions and the state at the end are a's. */
static void continue_elsewhere(const char *spec, int32_t at)
{
    law_run a = law_open(spec, 1, LAW_TOKENS, Q), b = law_open(spec, 1, LAW_TOKENS, Q);
    const int32_t from = a.steps[at].scored;
    law_advance(&a, at);
    law_advance(&b, 2); /* what b holds is to be replaced */
    refkit_blob blob = refkit_export_all(&a.k);
    assert_side(&b.k, law_side->import_state(b.k.s, blob.p, blob.size));
    refkit_same_state(&a.k, &b.k, "right after import");
    law_finish(&a);
    b.at = at;
    b.events.n = 0;
    law_finish(&b);
    law_same_rows(&a, &b, from, LAW_TOKENS, "continued after import");
    const size_t begin = law_events_begin(&a, at);
    const kv_events tail = {a.events.v + begin, a.events.n - begin, 0};
    refkit_same_events(&tail, &b.events, "continued after import");
    refkit_same_state(&a.k, &b.k, "continued after import");
    free(blob.p);
    law_close(&a);
    law_close(&b);
}

static void an_export_can_be_continued_elsewhere(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run whole = law_open(spec, 1, LAW_TOKENS, Q);
        const int32_t half = whole.n_steps / 2;
        law_close(&whole);
        continue_elsewhere(spec, 1); /* the first tokens are still there */
        continue_elsewhere(spec, half);
    }
}

/* With a stride as long as the window token 0 is among the rows of the published rule. */
static void the_first_token_can_be_continued_elsewhere(void **state)
{
    static const char *const spec = "xwindow:cache=24,stride=24,ver=published,window=24";
    (void)state;
    if (law_wanted(spec)) continue_elsewhere(spec, 1);
}

int laws_of_sessions(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(reset_forgets_everything),
        cmocka_unit_test(a_snapshot_can_be_returned_to_twice),
        cmocka_unit_test(documents_do_not_mix),
        cmocka_unit_test(an_export_can_be_continued_elsewhere),
        cmocka_unit_test(the_first_token_can_be_continued_elsewhere),
    };
    return cmocka_run_group_tests_name("sessions", tests, NULL, NULL);
}
