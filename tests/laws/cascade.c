/* cascade.c - invariants of the cascade on random configurations, through decisions and exports alone: order, counts,
 * positions, rings that fill from the front, every token kept or dropped once, ages, and scores that do not depend on
 * the steps before anything is evicted. */
#include "tests/laws/kit.h"

#include <math.h>

enum { CONFIGS = 24, TOKENS = 120, SLOTS = 256 };

/* ---- random configurations ------------------------------------------------------------------------------------------ */

static uint32_t draw(int config, uint32_t what, uint32_t below)
{
    return kv_philox_below(77, (uint64_t)config, what, below);
}

static void make_spec(int i, char *dst, size_t size)
{
    static const char *const accept[] = {"pow2", "pow3", "pow4", "iplus1", "1-then-2", "pow2-1", "pow2-1-4", "pow2-2-4",
                                         "pow2-3-4"};
    static const char *const reduce[] = {"max", "mean", "median"}, *const select[] = {"ema", "ema", "newest", "oldest"};
    static const char *const beta[] = {"0.9", "0.5", "0.9999"};
    const uint32_t n = 1 + draw(i, 0, 8), w = 1 + draw(i, 1, 6);
    snprintf(dst, size, "cascade:window=%u,n=%u,sinks=%u,eager=%u,homog=%u,accept=%s,reduce=%s,select=%s,beta=%s", w, n,
             draw(i, 2, 6), draw(i, 3, 4) != 0, draw(i, 4, 3) == 0, accept[i % 9], reduce[draw(i, 5, 3)],
             select[draw(i, 6, 4)], beta[draw(i, 7, 3)]);
}

/* ---- slots as the decisions tell them --------------------------------------------------------------------------------- */

typedef struct rings {
    const law_run *run;
    const kv_cascade_params *p;
    int64_t at[SLOTS];   /* token in a canonical slot, -1: empty */
    int8_t gone[TOKENS]; /* how often a token was dropped */
    int64_t held;        /* tokens outside sinks */
} rings;

static void rings_begin(rings *r, const law_run *run)
{
    *r = (rings){.run = run, .p = &run->policy.cascade};
    for (int i = 0; i < SLOTS; i++)
        r->at[i] = -1;
    assert_true(r->p->sinks + r->p->cap <= SLOTS);
}

static int32_t slot_of(const rings *r, int64_t og)
{
    for (int32_t s = 0; s < SLOTS; s++)
        if (r->at[s] == og) return s;
    return -1;
}

static void wrong(const rings *r, const kv_event *e, const char *what)
{
    fail_msg("%s: %s: token %lld, decided by %lld, slot %d: %s", law_side->name, r->run->spec, (long long)e->og,
             (long long)e->token, e->slot, what);
}

static int is_mine(const kv_event *e, int32_t layer, int32_t head)
{
    return e->layer == layer && (e->head < 0 || e->head == head);
}

/* Takes out who leaves or moves on, then puts in who arrives: one insertion. */
static void insert(rings *r, const kv_event *e, size_t n, int32_t layer, int32_t head)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_mine(&e[i], layer, head) || e[i].kind == KV_EVENT_ADMIT) continue;
        const int32_t slot = slot_of(r, e[i].og);
        if (slot < 0) wrong(r, &e[i], "it is nowhere");
        if (slot < r->p->sinks) wrong(r, &e[i], "a sink");
        if (e[i].kind == KV_EVENT_EVICT && slot != e[i].slot) wrong(r, &e[i], "evicted from a slot that it did not hold");
        if (e[i].kind == KV_EVENT_MOVE && (e[i].slot - r->p->sinks) / r->p->window <= (slot - r->p->sinks) / r->p->window)
            wrong(r, &e[i], "moved to no deeper ring");
        r->at[slot] = -1;
        r->held--;
        if (e[i].kind == KV_EVENT_EVICT) r->gone[e[i].og]++;
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_mine(&e[i], layer, head) || e[i].kind == KV_EVENT_EVICT) continue;
        if (e[i].slot < 0 || e[i].slot >= r->p->sinks + r->p->cap) wrong(r, &e[i], "no such slot");
        if (r->at[e[i].slot] >= 0) wrong(r, &e[i], "the slot is taken");
        r->at[e[i].slot] = e[i].og;
        r->held += e[i].slot >= r->p->sinks;
    }
}

static int32_t count(const rings *r, int32_t ring)
{
    int32_t n = 0;
    for (int32_t k = 0; k < r->p->window; k++)
        n += r->at[r->p->sinks + ring * r->p->window + k] >= 0;
    return n;
}

static void check_insertion(const rings *r, const kv_event *e, int64_t held_before)
{
    const kv_cascade_params *p = r->p;
    const int64_t t = e->token, n = t - p->sinks + 1; /* non-sink tokens by now */
    if (r->held < held_before) wrong(r, e, "the cache shrinks");                                    /* I2 */
    if (p->eager && n >= 0 && r->held != (n < p->cap ? n : p->cap)) wrong(r, e, "a wrong number is held");
    for (int32_t i = 0; i + 1 < p->n; i++)                                                            /* I4 */
        if (count(r, i + 1) > 0 && count(r, i) != p->window) wrong(r, e, "a ring is used before the one in front is full");
    if (p->eager && n >= 0 && n <= p->cap + 1)                                                        /* I7 */
        for (int64_t og = t; og > t - p->cap && og >= p->sinks; og--)
            if (slot_of(r, og) < 0) wrong(r, e, "one of the newest is missing although the cache was just filling");
    int64_t span = 0, a = 1;
    for (int32_t i = 0; i < p->n; i++, a *= 2)
        span += a * p->window;
    for (int32_t s = p->sinks; s < p->sinks + p->cap && p->accept == KV_ACCEPT_POW2; s++)             /* I9 */
        if (r->at[s] >= 0 && t - r->at[s] > span) wrong(r, e, "an entry is older than the rings reach");
}

/* Decisions of one layer and head from the start; every insertion is checked. */
static void check_decisions(const law_run *run, int32_t layer, int32_t head, rings *r)
{
    rings_begin(r, run);
    kv_event *mine = malloc((run->events.n + 1) * sizeof *mine);
    size_t n = 0;
    assert_non_null(mine);
    for (size_t i = 0; i < run->events.n; i++)
        if (is_mine(&run->events.v[i], layer, head)) mine[n++] = run->events.v[i];
    int64_t expected = 0;
    for (size_t i = 0, m; i < n; i += m) {
        for (m = 1; i + m < n && mine[i + m].token == mine[i].token; m++)
            continue;
        if (mine[i].kind != KV_EVENT_ADMIT || mine[i].og != expected++) wrong(r, &mine[i], "an insertion starts otherwise");
        const int64_t before = r->held;
        insert(r, mine + i, m, layer, head);
        check_insertion(r, &mine[i], before);
    }
    free(mine);
    assert_int_equal(expected, run->n);
    for (int32_t t = 0; t < run->n; t++)                                                              /* I8 */
        if (r->gone[t] + (slot_of(r, t) >= 0) != 1)
            fail_msg("%s: %s: token %d was dropped %d times and is %s", law_side->name, run->spec, t, r->gone[t],
                     slot_of(r, t) >= 0 ? "there" : "not there");
}

/* Sinks, then the last ring from its oldest to its newest, ..., ring 0: original indices ascend (I1), positions count
 * (I3), and the slots hold these tokens. */
static void check_export(const law_run *run, int32_t layer, int32_t head, const rings *r)
{
    refkit_blob b = refkit_export(&run->k, layer, KV_STATE_SCORE);
    const kv_state_view v = refkit_run(&b, head);
    for (int32_t i = 0; i < v.run->n; i++) {
        if (v.pos[i] != i || (i && v.og[i] <= v.og[i - 1]) || slot_of(r, v.og[i]) < 0)
            fail_msg("%s: %s: layer %d, head %d: entry %d is token %lld at position %d", law_side->name, run->spec, layer,
                     head, i, (long long)v.og[i], v.pos[i]);
        if (i < r->p->sinks && v.score[i] != 0) fail_msg("%s: %s: sink %d has a score", law_side->name, run->spec, i);
    }
    int32_t last = 0; /* deeper rings hold older tokens */
    for (int32_t i = r->p->sinks; i < v.run->n; i++) {
        const int32_t ring = (slot_of(r, v.og[i]) - r->p->sinks) / r->p->window;
        if (i > r->p->sinks && ring > last)
            fail_msg("%s: %s: ring %d stands behind ring %d in the view", law_side->name, run->spec, ring, last);
        last = ring;
    }
    free(b.p);
}

static void rings_keep_their_invariants(void **state)
{
    (void)state;
    if (!law_wanted("cascade")) kvtest_skip("cascade was not asked for");
    static rings r;
    char spec[KV_POLICY_TEXT_MAX];
    for (int i = 0; i < CONFIGS; i++) {
        make_spec(i, spec, sizeof spec);
        law_run run = law_open(spec, 40, TOKENS, 1 + (int32_t)draw(i, 8, 9));
        law_finish(&run);
        for (int32_t l = 0; l < law_model->cfg.n_layers; l++)
            for (int32_t h = 0; h < law_model->cfg.n_kv_heads; h++) {
                check_decisions(&run, l, h, &r);
                check_export(&run, l, h, &r);
            }
        law_close(&run);
    }
}

/* I6: who stays does not depend on the steps where no score decides. */
static void scoreless_cascades_do_not_see_their_steps(void **state)
{
    (void)state;
    if (!law_wanted("cascade")) kvtest_skip("cascade was not asked for");
    static const char *const specs[] = {"cascade:cap=24,n=3,select=newest", "cascade:cap=24,n=4,select=oldest,sinks=1",
                                        "cascade:accept=pow3,cap=21,eager=0,n=3,select=newest"};
    for (size_t i = 0; i < 3; i++) {
        law_run a = law_open(specs[i], 41, TOKENS, 1), b = law_open(specs[i], 41, TOKENS, 7);
        law_finish(&a);
        law_finish(&b);
        int64_t x[LAW_MAX_KEPT], y[LAW_MAX_KEPT];
        const int32_t n = law_kept(&a, 1, 0, x);
        assert_int_equal(n, law_kept(&b, 1, 0, y));
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
        law_close(&a);
        law_close(&b);
    }
}

/* I10: before anything is evicted, the decayed sums of probabilities are the same whatever the steps, up to rounding.
 * With reduce=mean: a maximum over heads is taken per step. */
static void scores_do_not_depend_on_the_steps_before_an_eviction(void **state)
{
    (void)state;
    if (!law_wanted("cascade")) kvtest_skip("cascade was not asked for");
    static const char *const specs[] = {"cascade:beta=0.9,cap=64,reduce=mean", "cascade:beta=0.99,cap=64,homog=1,reduce=mean"};
    for (size_t i = 0; i < 2; i++) {
        law_run a = law_open(specs[i], 42, 64, 1), b = law_open(specs[i], 42, 64, 9);
        law_finish(&a);
        law_finish(&b);
        refkit_blob x = refkit_export(&a.k, 1, KV_STATE_SCORE), y = refkit_export(&b.k, 1, KV_STATE_SCORE);
        const kv_state_view u = refkit_run(&x, 1), v = refkit_run(&y, 1);
        assert_int_equal(u.run->n, v.run->n);
        for (int32_t k = 0; k < u.run->n; k++)
            if (!(fabsf(u.score[k] - v.score[k]) <= 2e-5f * fabsf(u.score[k]) + 1e-9f))
                fail_msg("%s: %s: score of token %lld: %g in steps of 1, %g in steps of 9", law_side->name, specs[i],
                         (long long)u.og[k], (double)u.score[k], (double)v.score[k]);
        free(x.p);
        free(y.p);
        law_close(&a);
        law_close(&b);
    }
}

int laws_of_cascade(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rings_keep_their_invariants),
        cmocka_unit_test(scoreless_cascades_do_not_see_their_steps),
        cmocka_unit_test(scores_do_not_depend_on_the_steps_before_an_eviction),
    };
    return cmocka_run_group_tests_name("cascades", tests, NULL, NULL);
}
