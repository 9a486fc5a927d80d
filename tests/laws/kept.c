/* kept.c - who is in the cache: decisions and exports tell the same story, caps are kept, sinks never move. */
#include "tests/laws/kit.h"

enum { Q = 7 };

/* ---- the cache as the decisions tell it -------------------------------------------------------------------- */

typedef struct ledger {
    int64_t og[LAW_MAX_KEPT];
    int32_t n;
} ledger;

static int32_t find(const ledger *l, int64_t og)
{
    for (int32_t i = 0; i < l->n; i++)
        if (l->og[i] == og) return i;
    return -1;
}

static void drop(const law_run *r, ledger *l, int64_t og)
{
    const int32_t i = find(l, og);
    if (i < 0) fail_msg("%s: %s: token %lld is evicted, but is not in the cache", law_side->name, r->spec, (long long)og);
    l->og[i] = l->og[--l->n];
}

static void admit(const law_run *r, ledger *l, int64_t og)
{
    if (find(l, og) >= 0) fail_msg("%s: %s: token %lld is admitted twice", law_side->name, r->spec, (long long)og);
    assert_true(l->n < LAW_MAX_KEPT);
    l->og[l->n++] = og;
}

/* Whether og is one of the step's own tokens: h2o and tova evict before they admit, and a token of the step that leaves
 * at once is admitted to no slot. */
static int is_own(const law_step *s, int64_t og) { return og >= s->pos0 && og < s->pos0 + s->n; }

/* Decisions of a step, for one layer and head; sliding decides piece by piece, cascades token by token. */
static void replay(const law_run *r, int32_t step, int32_t layer, int32_t head, ledger *l)
{
    const law_step *s = &r->steps[step];
    for (size_t i = law_events_begin(r, step); i < r->events_end[step]; i++) {
        const kv_event *e = &r->events.v[i];
        if (e->layer != layer || (e->head >= 0 && e->head != head)) continue;
        if (e->kind == KV_EVENT_ADMIT && e->slot >= 0) admit(r, l, e->og);
        if (e->kind == KV_EVENT_EVICT && !(is_own(s, e->og) && find(l, e->og) < 0)) drop(r, l, e->og);
        if (e->kind == KV_EVENT_MOVE && find(l, e->og) < 0)
            fail_msg("%s: %s: token %lld moves, but is not in the cache", law_side->name, r->spec, (long long)e->og);
    }
}

static int ascending(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void compare(const law_run *r, int32_t step, int32_t layer, int32_t head, ledger *told)
{
    int64_t kept[LAW_MAX_KEPT];
    const int32_t n = law_kept(r, layer, head, kept);
    qsort(told->og, (size_t)told->n, sizeof *told->og, ascending);
    for (int32_t i = 1; i < n; i++)
        if (kept[i] <= kept[i - 1])
            fail_msg("%s: %s: after step %d, layer %d, head %d: entry %d is token %lld behind %lld", law_side->name,
                     r->spec, step, layer, head, i, (long long)kept[i], (long long)kept[i - 1]);
    if (n != told->n || memcmp(kept, told->og, (size_t)n * sizeof *kept) != 0)
        fail_msg("%s: %s: after step %d, layer %d, head %d: the export holds %d tokens, the decisions leave %d or others",
                 law_side->name, r->spec, step, layer, head, n, told->n);
    if (n > kv_policy_max_entries(&r->policy))
        fail_msg("%s: %s: %d entries after step %d", law_side->name, r->spec, n, step);
}

static int is_published(const law_run *r)
{
    return r->policy.selection == KV_SEL_XWINDOW && r->policy.xwindow.ver == KV_XW_PUBLISHED;
}

/* Resident = admitted - evicted, entries are in order, nothing leaves that is not there, and no cap is exceeded. */
static void decisions_account_for_the_cache(void **state)
{
    (void)state;
    const kv_config *cfg = &law_model->cfg;
    for_each_policy(spec) {
        law_run r = law_open(spec, 1, LAW_TOKENS, Q);
        ledger *told = calloc((size_t)(cfg->n_layers * cfg->n_kv_heads), sizeof *told);
        assert_non_null(told);
        /* published keeps tokens twice by design of its defect */
        for (int32_t step = 0; step < r.n_steps && !is_published(&r); step++) {
            law_advance(&r, 1);
            for (int32_t l = 0; l < cfg->n_layers; l++)
                for (int32_t h = 0; h < cfg->n_kv_heads; h++) {
                    replay(&r, step, l, h, &told[l * cfg->n_kv_heads + h]);
                    compare(&r, step, l, h, &told[l * cfg->n_kv_heads + h]);
                }
        }
        free(told);
        law_close(&r);
    }
}

/* ---- how many --------------------------------------------------------------------------------------------------- */

/* Entries after a step of m tokens that found `before` and ends with `seen` tokens fed; -1: the rule has no simple
 * count. */
static int64_t count_law(const kv_policy *p, int64_t before, int64_t m, int64_t seen)
{
    const int64_t cap = kv_policy_max_entries(p), all = before + m;
    switch (p->selection) {
    case KV_SEL_FULL:
        return seen;
    case KV_SEL_SLIDING: /* whole tiles leave */
        return p->storage == KV_STORE_KVARN || p->storage == KV_STORE_KIVI ? -1 : all < cap ? all : cap;
    case KV_SEL_CASCADE:
        return p->cascade.eager ? (seen < cap ? seen : cap) : -1;
    case KV_SEL_SINK:
    case KV_SEL_H2O:
    case KV_SEL_TOVA:
        return all < cap ? all : cap;
    case KV_SEL_DILATED: {
        const int64_t far = seen > p->dilated.window ? seen - p->dilated.window : 0;
        const int64_t behind = far > p->dilated.sinks ? far - p->dilated.sinks : 0;
        return seen - behind + (behind + p->dilated.every - 1) / p->dilated.every;
    }
    case KV_SEL_SNAPKV:
        return before ? all : p->snapkv.cap;
    default:
        return -1;
    }
}

static void caches_fill_to_their_cap_and_stay_there(void **state)
{
    (void)state;
    int64_t og[LAW_MAX_KEPT];
    for_each_policy(spec) {
        law_run r = law_open(spec, 3, LAW_TOKENS, Q);
        int64_t before = 0;
        for (int32_t step = 0; step < r.n_steps; step++) {
            law_advance(&r, 1);
            const law_step *s = &r.steps[step];
            const int64_t wanted = count_law(&r.policy, before, s->n, s->pos0 + s->n);
            before = law_kept(&r, law_model->cfg.n_layers - 1, 0, og);
            if (wanted >= 0 && wanted != before)
                fail_msg("%s: %s: %lld entries after step %d, by rule %lld", law_side->name, spec, (long long)before, step,
                         (long long)wanted);
        }
        law_close(&r);
    }
}

/* pyramid: a layer's budget by the formula of docs/policy/pyramid.md, which never grows from layer to layer. */
static void pyramids_shrink_from_layer_to_layer(void **state)
{
    (void)state;
    int64_t og[LAW_MAX_KEPT];
    for_each_policy(spec) {
        law_run r = law_open(spec, 3, LAW_TOKENS, Q);
        law_advance(&r, 1);
        int32_t sum = 0, last = INT32_MAX;
        for (int32_t l = 0; l < law_model->cfg.n_layers && r.policy.selection == KV_SEL_PYRAMID; l++) {
            const int32_t n = law_kept(&r, l, 0, og);
            if (n > last) fail_msg("%s: %s: layer %d keeps %d entries, more than the one before", law_side->name, spec, l, n);
            sum += n;
            last = n;
        }
        if (r.policy.selection == KV_SEL_PYRAMID && law_model->cfg.n_layers == 2)
            assert_int_equal(sum, law_model->cfg.n_layers * r.policy.snapkv.cap); /* two layers share evenly */
        law_close(&r);
    }
}

/* ---- who must stay ------------------------------------------------------------------------------------------------ */

/* The newest entries that a policy keeps in any case; snapkv: of the prompt. */
static int32_t protected_newest(const law_run *r, int32_t step)
{
    switch (r->policy.selection) {
    case KV_SEL_H2O:
        return r->policy.h2o.recent;
    case KV_SEL_SNAPKV:
    case KV_SEL_PYRAMID:
        return step == 0 ? r->policy.snapkv.window : 0;
    default:
        return 0;
    }
}

static void the_newest_tokens_stay_where_they_are_protected(void **state)
{
    (void)state;
    int64_t og[LAW_MAX_KEPT];
    for_each_policy(spec) {
        law_run r = law_open(spec, 4, LAW_TOKENS, Q);
        for (int32_t step = 0; step < r.n_steps; step++) {
            law_advance(&r, 1);
            const int32_t seen = r.steps[step].pos0 + r.steps[step].n, keep = protected_newest(&r, step);
            for (int32_t h = 0; h < law_model->cfg.n_kv_heads && keep; h++) {
                const int32_t n = law_kept(&r, 1, h, og);
                for (int32_t i = 0; i < keep && i < seen; i++)
                    if (n <= i || og[n - 1 - i] != seen - 1 - i)
                        fail_msg("%s: %s: token %d is gone after step %d", law_side->name, spec, seen - 1 - i, step);
            }
        }
        law_close(&r);
    }
}

static int32_t sinks_of(const kv_policy *p)
{
    return p->selection == KV_SEL_SINK ? p->sink.sinks : p->selection == KV_SEL_CASCADE ? p->cascade.sinks : 0;
}

/* Sink i stays entry i with token i at position i, and not a bit of its record changes. */
static void sinks_never_move(void **state)
{
    (void)state;
    for_each_policy(spec) {
        law_run r = law_open(spec, 5, LAW_TOKENS, Q);
        const int32_t sinks = sinks_of(&r.policy);
        law_advance(&r, 1);
        refkit_blob first = refkit_export(&r.k, 1, KV_STATE_KV);
        const kv_state_view a = refkit_run(&first, 1);
        kv_state_head h;
        memcpy(&h, first.p, sizeof h);
        while (sinks && r.at < r.n_steps) {
            law_advance(&r, 1);
            refkit_blob now = refkit_export(&r.k, 1, KV_STATE_KV);
            const kv_state_view b = refkit_run(&now, 1);
            for (int32_t i = 0; i < sinks; i++)
                if (b.og[i] != i || b.pos[i] != i ||
                    memcmp(a.records + i * h.record_bytes, b.records + i * h.record_bytes, (size_t)h.record_bytes) != 0)
                    fail_msg("%s: %s: sink %d has changed after step %d", law_side->name, spec, i, r.at - 1);
            free(now.p);
        }
        free(first.p);
        law_close(&r);
    }
}

int laws_of_kept_sets(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decisions_account_for_the_cache),
        cmocka_unit_test(caches_fill_to_their_cap_and_stay_there),
        cmocka_unit_test(pyramids_shrink_from_layer_to_layer),
        cmocka_unit_test(the_newest_tokens_stay_where_they_are_protected),
        cmocka_unit_test(sinks_never_move),
    };
    return cmocka_run_group_tests_name("kept sets", tests, NULL, NULL);
}
