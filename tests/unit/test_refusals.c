/* States that no cache can have: what one side refuses, every other has to refuse. Each policy exports a state at some
 * lengths; one number of it is changed, and the reference and the sides are asked to go on from there. Which states a
 * policy can have is each side's own decision, written twice from docs/policy/; this asks whether the two agree, number
 * by number. */
#include "tests/unit/refkit.h"
#include "tests/unit/sidekit.h"

#include <math.h>

static const char *const policies[] = {
    "full",
    "full+f16",
    "full+kvarn:tile=32",
    "full+kivi:group=16,residual=32",
    "sliding:cap=24",
    "sliding:cap=24,pos=absolute",
    "sliding:cap=24,pos=saturate",
    "sliding:cap=64,pos=absolute+kvarn:tile=32",
    "sliding:cap=64,pos=absolute+kivi:bits=4,group=16,residual=32",
    "sink:cap=20",
    "sink:cap=20,sinks=0",
    "cascade:cap=24,n=3",
    "cascade:cap=24,homog=1",
    "cascade:cap=24,eager=0,sinks=0",
    "cascade:accept=pow2-1-4,cap=24",
    "cascade:accept=1-then-2,cap=24,eager=0",
    "h2o:cap=24",
    "h2o:cap=12,heavy=4,recent=8",
    "tova:cap=24",
    "snapkv:cap=24,prompt=40,window=8",
    "snapkv:cap=48,prompt=40,window=8",
    "pyramid:beta=4,cap=24,prompt=40,window=8",
    "dilated:every=4,window=16",
    "xwindow:cache=24,stride=8,window=24",
    "xwindow:cache=24,layers=2,stride=8,window=24",
    "xwindow:cache=24,stride=8,ver=published,window=24",
};

enum { N_POLICIES = sizeof policies / sizeof *policies, SIDES = 2, MOST_SHOWN = 6 };

static dt_side sides[SIDES - 1];
static kv_model *model;

static int set_up(void **state)
{
    static const char *const names[SIDES - 1] = {"emu"};
    (void)state;
    for (int i = 0; i < SIDES - 1; i++)
        if (sidekit_open(names[i], &sides[i]) != 0) return -1;
    return kv_model_open("nano", NULL, &model, NULL) == KV_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < SIDES - 1; i++)
        dt_side_close(&sides[i]);
    kv_model_close(model);
    return 0;
}

/* A session of every side that has the policy; s = NULL otherwise. */
typedef struct bench {
    refkit k[SIDES];
    const char *policy;
    int64_t asked, refused, differ;
} bench;

static bench bench_open(const char *spec)
{
    bench b = {.policy = spec};
    kv_policy p;
    assert_ok(kv_policy_parse(spec, &p));
    const kv_open_args a = {.model = model, .policy = &p, .threads = 1, .max_step = 64};
    for (int i = 0; i < SIDES; i++) {
        b.k[i] = (refkit){i ? sides[i - 1].backend : ref_backend(), model, NULL};
        if (b.k[i].side->open(&a, &b.k[i].s) != KV_OK) b.k[i].s = NULL;
    }
    assert_non_null(b.k[0].s);
    assert_non_null(b.k[1].s);
    return b;
}

static void bench_close(bench *b)
{
    for (int i = 0; i < SIDES; i++)
        if (b->k[i].s) refkit_close(&b->k[i]);
}

/* All sides say the same of it. */
static void ask(bench *b, const refkit_blob *x, const char *what, int64_t where)
{
    const int fine = b->k[0].side->import_state(b->k[0].s, x->p, x->size) == KV_OK;
    b->asked++;
    b->refused += !fine;
    for (int i = 1; i < SIDES; i++) {
        if (!b->k[i].s) continue;
        const int too = b->k[i].side->import_state(b->k[i].s, x->p, x->size) == KV_OK;
        if (fine == too) continue;
        if (b->differ++ < MOST_SHOWN)
            print_message("# %s: %s %lld: ref %s it, %s %s: %s\n", b->policy, what, (long long)where,
                          fine ? "takes" : "refuses", b->k[i].side->name, too ? "takes it" : "refuses it",
                          b->k[fine ? i : 0].side->last_error(b->k[fine ? i : 0].s));
    }
}

#define CHANGE(b, x, lvalue, value, what, where) \
    do {                                         \
        const __typeof__(lvalue) kept_ = lvalue; \
        lvalue = value;                          \
        ask(b, x, what, where);                  \
        lvalue = kept_;                          \
    } while (0)

static void change_head(bench *b, refkit_blob *x)
{
    kv_state_head *h = (kv_state_head *)(void *)x->p;
    for (int d = -1; d <= 1; d += 2) {
        CHANGE(b, x, h->seen, h->seen + d, "seen", d);
        CHANGE(b, x, h->version, h->version + (uint32_t)d, "version", d);
        CHANGE(b, x, h->what, h->what ^ (d < 0 ? 1u : 2u), "what", d);
        CHANGE(b, x, h->key_form, h->key_form + d, "key form", d);
        CHANGE(b, x, h->layer0, h->layer0 + d, "first layer", d);
        CHANGE(b, x, h->n_layers, h->n_layers + d, "layers", d);
        CHANGE(b, x, h->n_kv_heads, h->n_kv_heads + d, "heads", d);
        CHANGE(b, x, h->head_dim, h->head_dim + d, "head_dim", d);
        CHANGE(b, x, h->record_bytes, h->record_bytes + d, "record bytes", d);
        CHANGE(b, x, h->storage, h->storage + d, "storage", d);
        CHANGE(b, x, h->carry_bytes, h->carry_bytes + (uint64_t)(8 * d), "carry bytes", d);
        CHANGE(b, x, h->total_bytes, h->total_bytes + (uint64_t)(8 * d), "bytes", d);
    }
    CHANGE(b, x, h->seen, -1, "seen", -1);
    CHANGE(b, x, h->seen, h->seen + 1000, "seen", 1000);
    CHANGE(b, x, x->size, x->size - 8, "a short blob", 8);
}

static void change_entry(bench *b, refkit_blob *x, kv_state_view *v, int64_t i)
{
    for (int d = -1; d <= 1; d += 2) {
        CHANGE(b, x, v->og[i], v->og[i] + d, "token of entry", i);
        CHANGE(b, x, v->pos[i], v->pos[i] + d, "position of entry", i);
    }
    CHANGE(b, x, v->og[i], -1, "no token in entry", i);
    CHANGE(b, x, v->og[i], INT64_MAX, "a token beyond all in entry", i);
    CHANGE(b, x, v->pos[i], -1, "a negative position of entry", i);
    CHANGE(b, x, v->pos[i], INT32_MAX, "a large position of entry", i);
    if (v->score) {
        CHANGE(b, x, v->score[i], -1.0f, "a negative score of entry", i);
        CHANGE(b, x, v->score[i], NAN, "a score that is no number, of entry", i);
        CHANGE(b, x, v->score[i], INFINITY, "an endless score of entry", i);
    }
    if (v->bytes) CHANGE(b, x, v->bytes[i], v->bytes[i] + 8, "bytes of entry", i);
    if (i + 1 < v->run->n) {
        const int64_t og = v->og[i];
        v->og[i] = v->og[i + 1];
        CHANGE(b, x, v->og[i + 1], og, "tokens changed places at entry", i);
        v->og[i] = og;
        CHANGE(b, x, v->og[i + 1], og, "a token twice, from entry", i);
    }
}

/* The first and the last run: entries at both ends, and some between. */
static void change_runs(bench *b, refkit_blob *x)
{
    const kv_state_head *h = (const kv_state_head *)(const void *)x->p;
    const int32_t runs[2] = {0, h->n_layers * h->n_kv_heads - 1};
    for (int r = 0; r < 2; r++) {
        kv_state_view v = refkit_run(x, runs[r]);
        for (int d = -1; d <= 1; d += 2) {
            CHANGE(b, x, v.run->n, v.run->n + d, "entries of run", runs[r]);
            CHANGE(b, x, v.run->layer, v.run->layer + d, "layer of run", runs[r]);
            CHANGE(b, x, v.run->head, v.run->head + d, "head of run", runs[r]);
        }
        for (int32_t i = 0; i < v.run->n; i += i < 5 || i + 10 > v.run->n ? 1 : 4)
            change_entry(b, x, &v, i);
    }
}

/* What becomes of every run: without an entry (counted from the end if negative), or longer by the last one again (step = 0) or by
 * tokens that follow it (step = 1). Such a state fits together and is still none. */
typedef struct edit {
    int32_t without, more, step;
} edit;

enum { NOBODY = INT32_MAX };

static refkit_blob edited(const refkit_blob *x, edit e)
{
    kv_state_head h;
    memcpy(&h, x->p, sizeof h);
    const size_t runs = (size_t)(h.n_layers * h.n_kv_heads), record = (size_t)h.record_bytes;
    refkit_blob y = {calloc(1, x->size + runs * (size_t)e.more * (record + 32)), sizeof h};
    assert_non_null(y.p);
    for (int32_t r = 0; r < (int32_t)runs; r++) {
        const kv_state_view from = refkit_run(x, r);
        const int32_t n = from.run->n, gone = e.without < 0 ? n + e.without : e.without;
        kv_state_view to = kv_state_place(&h, y.p, &y.size, n ? n + e.more - (gone >= 0 && gone < n) : 0, 0);
        to.run->layer = from.run->layer, to.run->head = from.run->head;
        for (int32_t i = 0; i < to.run->n; i++) {
            const int32_t wanted = i + (gone >= 0 && i >= gone), last = wanted < n ? wanted : n - 1, beyond = (wanted - last) * e.step;
            to.og[i] = from.og[last] + beyond, to.pos[i] = from.pos[last] + beyond;
            if (to.score) to.score[i] = from.score[last];
            memcpy(to.records + (size_t)i * record, from.records + (size_t)last * record, record);
        }
    }
    memcpy(y.p + y.size, x->p + x->size - h.carry_bytes, h.carry_bytes);
    h.total_bytes = y.size += h.carry_bytes;
    memcpy(y.p, &h, sizeof h);
    assert_ok(kv_state_check(y.p, y.size));
    return y;
}

/* The edited state, and again with other numbers of tokens seen. */
static void ask_edited(bench *b, const refkit_blob *x, edit e, const char *what, int64_t where)
{
    refkit_blob y = edited(x, e);
    kv_state_head *h = (kv_state_head *)(void *)y.p;
    ask(b, &y, what, where);
    CHANGE(b, &y, h->seen, h->seen - 1, "and a token less", where);
    CHANGE(b, &y, h->seen, h->seen + (e.more ? e.more : 1), "and more tokens", where);
    free(y.p);
}

static void drop_and_add_entries(bench *b, const refkit_blob *x)
{
    static const int32_t without[] = {0, 1, 4, 5, 9, -1, -2, -9}, more[] = {1, 2, 8, 23, 24, 25, 48};
    if (((const kv_state_head *)(const void *)x->p)->record_bytes == 0) return;
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        ask_edited(b, x, (edit){.without = without[i]}, "without entry", without[i]);
    for (int32_t step = 0; step < 2; step++)
        for (size_t i = 0; i < sizeof more / sizeof *more; i++)
            ask_edited(b, x, (edit){NOBODY, more[i], step}, "with more entries, number", more[i]);
}

/* Windows of 24 tokens, 8 apart. */
static void feed_windows(const refkit *k, const int32_t *tokens, int32_t n)
{
    for (int32_t at = 0; at + 24 <= n; at += 8) {
        const kv_step s = {
            .tokens = tokens + at, .n = 24, .rows = KV_ROWS_NONE, .flags = KV_STEP_RECOMPUTE, .pos0 = at};
        assert_side(k, k->side->step(k->s, &s));
    }
}

static void every_side_refuses_the_same(void **state)
{
    static const int32_t lengths[] = {1, 3, 12, 40, 41, 66, 110};
    int64_t asked = 0, differ = 0;
    (void)state;
    for (int p = 0; p < N_POLICIES; p++) {
        bench b = bench_open(policies[p]);
        int32_t *tokens = refkit_tokens(160, model);
        for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++) {
            const int prompted = strstr(policies[p], "prompt=") != NULL,
                      windowed = strncmp(policies[p], "xwindow", 7) == 0;
            assert_side(&b.k[0], b.k[0].side->reset(b.k[0].s));
            const int32_t length = windowed ? 24 + 8 * (int32_t)n : prompted ? 40 + lengths[n] : lengths[n];
            if (windowed)
                feed_windows(&b.k[0], tokens, length);
            else
                refkit_feed(&b.k[0], tokens, length, prompted ? 40 : 7, NULL, NULL);
            refkit_blob x = refkit_export_all(&b.k[0]);
            ask(&b, &x, "as it is, tokens", length);
            assert_int_equal(b.refused, 0);
            change_head(&b, &x);
            change_runs(&b, &x);
            drop_and_add_entries(&b, &x);
            b.refused = 0;
            free(x.p);
        }
        free(tokens);
        bench_close(&b);
        asked += b.asked;
        differ += b.differ;
    }
    if (differ) fail_msg("of %lld states, %lld are refused by one side alone", (long long)asked, (long long)differ);
}

/* ---- lists of decisions
 * ------------------------------------------------------------------------------------------------ */

enum { BEFORE = 47, STEP = 9 };

typedef struct decided {
    refkit_blob before; /* the state that the step begins with */
    kv_events list;
    const int32_t *tokens;
} decided;

/* 1: the side takes the step with these decisions. */
static int takes(const refkit *k, const decided *d, const kv_events *list)
{
    assert_side(k, k->side->import_state(k->s, d->before.p, d->before.size));
    const kv_step s = {.tokens = d->tokens + BEFORE, .n = STEP, .rows = KV_ROWS_NONE, .follow = list};
    return k->side->step(k->s, &s) == KV_OK;
}

static void must_refuse(const refkit *k, const decided *d, const kv_events *list, const char *policy, const char *what,
                        size_t where)
{
    if (takes(k, d, list)) fail_msg("%s: %s: a list in which %s %zu is taken", k->side->name, policy, what, where);
}

/* The decisions without one of them, with one twice, with one about somebody else. */
static void damage(const refkit *k, const decided *d, const char *policy)
{
    const size_t n = d->list.n;
    kv_event *v = malloc((n + 1) * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i += i < 12 || i + 12 > n ? 1 : 7) {
        kv_events list = {.v = v, .n = n - 1, .cap = n + 1};
        memcpy(v, d->list.v, i * sizeof *v);
        memcpy(v + i, d->list.v + i + 1, (n - i - 1) * sizeof *v);
        must_refuse(k, d, &list, policy, "there is no event", i);
        memcpy(v, d->list.v, (i + 1) * sizeof *v);
        memcpy(v + i + 1, d->list.v + i, (n - i) * sizeof *v);
        list.n = n + 1;
        must_refuse(k, d, &list, policy, "there is twice event", i);
        memcpy(v, d->list.v, n * sizeof *v);
        list.n = n;
#define WRONG(lvalue, value, what)                 \
    do {                                           \
        lvalue = value;                            \
        must_refuse(k, d, &list, policy, what, i); \
        v[i] = d->list.v[i];                       \
    } while (0)
        WRONG(v[i].kind, v[i].kind + 1, "another kind has event");
        WRONG(v[i].kind, v[i].kind - 1, "another kind has event");
        WRONG(v[i].layer, v[i].layer + 1, "another layer has event");
        WRONG(v[i].head, v[i].head + 1, "another head has event");
        WRONG(v[i].token, v[i].token + 1, "another token has event");
        WRONG(v[i].token, v[i].token - 1, "another token has event");
        WRONG(v[i].og, -1, "nobody leaves in event");
        WRONG(v[i].og, 1000, "one who never was leaves in event");
#undef WRONG
    }
    free(v);
}

static void lists_that_do_not_fit_are_refused(void **state)
{
    static const char *const specs[] = {"sliding:cap=24",           "sink:cap=20", "cascade:cap=24,n=3",
                                        "cascade:cap=24,homog=1",   "h2o:cap=24",  "tova:cap=24",
                                        "dilated:every=4,window=16"};
    (void)state;
    for (size_t p = 0; p < sizeof specs / sizeof *specs; p++) {
        bench b = bench_open(specs[p]);
        int32_t *tokens = refkit_tokens(BEFORE + STEP, model);
        decided d = {.tokens = tokens};
        refkit_feed(&b.k[0], tokens, BEFORE, 7, NULL, NULL);
        d.before = refkit_export_all(&b.k[0]);
        refkit_feed(&b.k[0], tokens + BEFORE, STEP, STEP, NULL, &d.list);
        assert_true(d.list.n > 4);
        for (int i = 1; i < SIDES; i++) {
            if (!takes(&b.k[i], &d, &d.list))
                fail_msg("%s: %s: %s", specs[p], b.k[i].side->name, b.k[i].side->last_error(b.k[i].s));
            damage(&b.k[i], &d, specs[p]);
        }
        free(d.list.v);
        free(d.before.p);
        free(tokens);
        bench_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_side_refuses_the_same),
                                       cmocka_unit_test(lists_that_do_not_fit_are_refused)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
