/* equal.c - runs under different policies or steps that must agree: bit for bit where the arithmetic is the same. */
#include "tests/laws/kit.h"

#include <math.h>

static void same_rows_up_to(const law_run *a, const law_run *b, int32_t to, const char *what)
{
    if (to < 8) fail_msg("%s: %s: only %d rows can be compared", what, a->spec, to);
    law_same_rows(a, b, 0, to, what);
}

static void near_rows(const law_run *a, const law_run *b, int32_t to, double bound, const char *what)
{
    for (int32_t i = 0; i < to; i++) {
        const double off = fabs((double)a->nll[i] - (double)b->nll[i]);
        if (!(off <= bound))
            fail_msg("%s: %s: NLL of token %d: %s %.7f, %s %.7f", law_side->name, what, i, a->spec, (double)a->nll[i], b->spec,
                     (double)b->nll[i]);
    }
}

/* ---- a cache that is large enough ----------------------------------------------------------------------------- */

static void caches_that_hold_everything_equal_full(void **state)
{
    (void)state;
    static const char *const large[] = {
        "sliding:cap=160",         "sliding:cap=160,pos=absolute", "sliding:cap=160,pos=saturate", "sink:cap=156",
        "sink:cap=160,sinks=0",    "cascade:cap=160",              "cascade:cap=156,n=3,reduce=mean,sinks=9",
        "cascade:cap=160,n=8",     "h2o:cap=160",                  "h2o:cap=160,gqa=max,heavy=20",
        "tova:cap=160", "dilated:window=160", "dilated:every=1,window=1",
                   "snapkv:cap=65,prompt=64",      "pyramid:cap=65,prompt=64",
        "full+kivi:group=16,residual=192",                         "xwindow:cache=0,stride=160,window=160",
        "xwindow:cache=64,stride=64,ver=published,window=192",
    };
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        if (!law_wanted(large[i]) || law_base_of_its_own(large[i])) continue;
        for (int32_t q = 1; q <= 64; q += 21) {
            law_run full = law_open("full", 6, LAW_TOKENS, 13), r = law_open(large[i], 6, LAW_TOKENS, q);
            law_finish(&full);
            law_finish(&r);
            law_same_rows(&full, &r, 0, LAW_TOKENS, "a cache that holds everything");
            law_close(&full);
            law_close(&r);
        }
    }
}

/* ---- before the first eviction -------------------------------------------------------------------------------- */

/* Tokens that were scored before a step's eviction could matter: up to the first step that evicts, inclusive where the
 * eviction comes after the forward pass. */
static int32_t untouched(const law_run *r)
{
    for (int32_t step = 0; step < r->n_steps; step++)
        for (size_t i = law_events_begin(r, step); i < r->events_end[step]; i++)
            if (r->events.v[i].kind == KV_EVENT_EVICT)
                return r->policy.selection == KV_SEL_SLIDING ? r->steps[step].pos0 : r->steps[step].pos0 + r->steps[step].n;
    return r->n;
}

static void nothing_differs_from_full_before_the_first_eviction(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run full = law_open("full", 7, LAW_TOKENS, 13);
        law_finish(&full);
        for (int32_t q = 1; q <= 9; q += 4) {
            law_run r = law_open(spec, 7, LAW_TOKENS, q);
            law_finish(&r);
            if (r.policy.storage == KV_STORE_F32 && r.policy.selection != KV_SEL_XWINDOW)
                same_rows_up_to(&full, &r, untouched(&r), "before the first eviction");
            law_close(&r);
        }
        law_close(&full);
    }
}

/* A coded storage is exact, or nearly, until its first tile is complete; kvarn rotates rows, which rounds. */
static void coded_storages_equal_full_before_their_first_tile(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run full = law_open("full", 7, LAW_TOKENS, 13), r = law_open(spec, 7, LAW_TOKENS, 3);
        law_finish(&full);
        law_finish(&r);
        if (r.policy.storage == KV_STORE_KVARN) near_rows(&full, &r, r.policy.kvarn.tile / 3 * 3, 2e-4, "before the first tile");
        if (r.policy.storage == KV_STORE_KIVI)
            same_rows_up_to(&full, &r, r.policy.kivi.residual / 3 * 3, "before the first block");
        law_close(&full);
        law_close(&r);
    }
}

/* ---- steps ----------------------------------------------------------------------------------------------------------- */

static void full_does_not_depend_on_its_steps(void **state)
{
    (void)state;
    static const char *const storages[] = {"full", "full+f16", "full+bf16"};
    enum { LONG = 300 }; /* two chunks of attention */
    for (size_t i = 0; i < 3; i++) {
        if (!law_wanted(storages[i])) continue;
        law_run a = law_open(storages[i], 8, LONG, 1);
        law_finish(&a);
        for (int32_t q = 5; q <= 400; q *= 7) {
            law_run b = law_open(storages[i], 8, LONG, q);
            law_finish(&b);
            law_same_rows(&a, &b, 0, LONG, "steps of one token and longer ones");
            refkit_same_state(&a.k, &b.k, "steps of one token and longer ones");
            law_close(&b);
        }
        law_close(&a);
    }
}

/* Until a step starts behind the first eviction, the length of the steps shows nowhere; then it may, by design. */
static int is_plain(const law_run *r)
{
    return r->policy.storage <= KV_STORE_BF16 && r->policy.selection != KV_SEL_XWINDOW;
}

static void steps_agree_until_one_starts_behind_an_eviction(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run a = law_open(spec, 9, LAW_TOKENS, 1), b = law_open(spec, 9, LAW_TOKENS, 6);
        law_finish(&a);
        law_finish(&b);
        const int32_t x = untouched(&a), y = untouched(&b);
        if (is_plain(&a)) same_rows_up_to(&a, &b, x < y ? x : y, "steps of 1 and of 6");
        law_close(&a);
        law_close(&b);
    }
}

/* ---- pairs of policies ------------------------------------------------------------------------------------------------ */

/* RoPE sees differences of positions only, and a window has no gaps. */
static void absolute_and_rerotate_are_one_function(void **state)
{
    (void)state;
    if (!law_wanted("sliding:cap=32")) kvtest_skip("sliding was not asked for");
    int64_t x[LAW_MAX_KEPT], y[LAW_MAX_KEPT];
    for (int32_t q = 1; q <= 40; q += 13) {
        law_run a = law_open("sliding:cap=32,pos=absolute", 10, LAW_TOKENS, q), b = law_open("sliding:cap=32", 10, LAW_TOKENS, q);
        while (a.at < a.n_steps) {
            law_advance(&a, 1);
            law_advance(&b, 1);
            const int32_t n = law_kept(&a, 0, 0, x);
            assert_int_equal(n, law_kept(&b, 0, 0, y));
            assert_memory_equal(x, y, (size_t)n * sizeof *x);
        }
        near_rows(&a, &b, LAW_TOKENS, 1e-4, "absolute and rerotate");
        law_close(&a);
        law_close(&b);
    }
}

static void same_kept(const law_run *a, const law_run *b)
{
    int64_t x[LAW_MAX_KEPT], y[LAW_MAX_KEPT];
    for (int32_t l = 0; l < law_model->cfg.n_layers; l++)
        for (int32_t h = 0; h < law_model->cfg.n_kv_heads; h++) {
            const int32_t n = law_kept(a, l, h, x);
            if (n != law_kept(b, l, h, y) || memcmp(x, y, (size_t)n * sizeof *x) != 0)
                fail_msg("%s: %s and %s keep other tokens in layer %d, head %d", law_side->name, a->spec, b->spec, l, h);
        }
}

/* With one ring no token ever duels: scores change nothing. */
static void a_cascade_of_one_ring_is_a_sink(void **state)
{
    (void)state;
    static const char *const one[] = {"cascade:cap=28,n=1", "cascade:cap=28,n=1,select=newest",
                                      "cascade:cap=28,eager=0,homog=1,n=1,reduce=mean", "cascade:cap=28,n=1,select=oldest"};
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) {
        if (!law_wanted(one[i])) continue;
        for (int32_t q = 1; q <= 40; q += 13) {
            law_run a = law_open("sink:cap=28", 11, LAW_TOKENS, q), b = law_open(one[i], 11, LAW_TOKENS, q);
            law_finish(&a);
            law_finish(&b);
            law_same_rows(&a, &b, 0, LAW_TOKENS, "one ring");
            same_kept(&a, &b);
            if (kv_policy_heads_agree(&b.policy)) refkit_same_events(&a.events, &b.events, one[i]);
            law_close(&a);
            law_close(&b);
        }
    }
}

/* Every layer has the budget of snapkv when the prompt is shorter than twice the cap without its window. */
static void a_pyramid_with_one_budget_is_snapkv(void **state)
{
    (void)state;
    if (!law_wanted("pyramid")) kvtest_skip("pyramid was not asked for");
    for (int32_t q = 1; q <= 9; q += 4) {
        law_run a = law_open("snapkv:cap=40,prompt=48,window=8", 12, LAW_TOKENS, q);
        law_run b = law_open("pyramid:cap=40,prompt=48,window=8", 12, LAW_TOKENS, q);
        law_finish(&a);
        law_finish(&b);
        law_same(&a, &b, "one budget");
        law_close(&a);
        law_close(&b);
    }
}

/* A whole prompt is attended to before anything is compressed. */
static void prompts_are_read_in_full(void **state)
{
    (void)state;
    static const char *const both[] = {"snapkv:cap=20,prompt=100,window=8", "pyramid:cap=20,prompt=100,window=8"};
    for (size_t i = 0; i < 2; i++) {
        if (!law_wanted(both[i])) continue;
        law_run full = law_open("full", 13, LAW_TOKENS, 13), r = law_open(both[i], 13, LAW_TOKENS, 4);
        law_finish(&full);
        law_finish(&r);
        law_same_rows(&full, &r, 0, 100, "the prompt");
        law_close(&full);
        law_close(&r);
    }
}

int laws_of_equality(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caches_that_hold_everything_equal_full),
        cmocka_unit_test(nothing_differs_from_full_before_the_first_eviction),
        cmocka_unit_test(coded_storages_equal_full_before_their_first_tile),
        cmocka_unit_test(full_does_not_depend_on_its_steps),
        cmocka_unit_test(steps_agree_until_one_starts_behind_an_eviction),
        cmocka_unit_test(absolute_and_rerotate_are_one_function),
        cmocka_unit_test(a_cascade_of_one_ring_is_a_sink),
        cmocka_unit_test(a_pyramid_with_one_budget_is_snapkv),
        cmocka_unit_test(prompts_are_read_in_full),
    };
    return cmocka_run_group_tests_name("equalities", tests, NULL, NULL);
}
