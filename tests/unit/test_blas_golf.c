/* The golf family on the blas side: it follows the reference's decisions under every selection, its logits stay within
 * rounding of the reference's, and either side goes on from the other's state. */
#include "tests/unit/blaskit.h"

#include "difftest/schedule.h"
#include "ref/backend.h"

#include <math.h>

enum { N = 67, Q = 11 }; /* the last step brings one token */

/* Both sides on one stream. */
typedef struct pair {
    kv_policy policy;
    const kv_model *m;
    kv_session *ref, *blas;
    int32_t tokens[N];
    double worst; /* distance of two logits so far */
} pair;

static pair open_pair(const kv_model *m, const char *spec)
{
    pair p = {.m = m};
    assert_ok(kv_policy_parse(spec, &p.policy));
    const kv_open_args a = {.model = m, .policy = &p.policy, .threads = 1, .max_step = N};
    if (ref_backend()->open(&a, &p.ref) != KV_OK || bk_blas->open(&a, &p.blas) != KV_OK)
        fail_msg("%s: %s / %s", spec, ref_backend()->last_error(NULL), bk_blas->last_error(NULL));
    for (int i = 0; i < N; i++)
        p.tokens[i] = bk_token_at(m, i);
    return p;
}

static void close_pair(pair *p)
{
    ref_backend()->close(p->ref);
    bk_blas->close(p->blas);
}

static void step_pair(pair *p, const dt_turn *t)
{
    const int32_t V = p->m->cfg.vocab_size;
    float *want = malloc((size_t)(t->n * V) * sizeof *want), *got = malloc((size_t)(t->n * V) * sizeof *got);
    kv_events events = {0};
    assert_true(want && got);
    kv_step s = {.tokens = p->tokens + t->at, .n = t->n, .rows = KV_ROWS_ALL, .flags = t->flags, .pos0 = t->pos0,
                 .logits = want, .events = &events};
    if (ref_backend()->step(p->ref, &s) != KV_OK) fail_msg("ref: %s", ref_backend()->last_error(p->ref));
    s.events = NULL;
    s.follow = &events;
    s.logits = got;
    if (bk_blas->step(p->blas, &s) != KV_OK) fail_msg("blas: %s", bk_blas->last_error(p->blas));
    for (int64_t i = 0; i < (int64_t)t->n * V; i++) {
        const double d = fabs((double)want[i] - (double)got[i]);
        if (!(d <= p->worst)) p->worst = d;
    }
    free(events.v);
    free(want);
    free(got);
}

static void hand_over(const kv_backend *from, kv_session *a, const kv_backend *to, kv_session *b)
{
    size_t size;
    if (from->export_state(a, -1, KV_STATE_KV, NULL, 0, &size) != KV_OK) fail_msg("%s", from->last_error(a));
    uint64_t *blob = calloc(1, size);
    assert_non_null(blob);
    if (from->export_state(a, -1, KV_STATE_KV, blob, size, &size) != KV_OK) fail_msg("%s", from->last_error(a));
    if (to->import_state(b, blob, size) != KV_OK) fail_msg("%s", to->last_error(b));
    free(blob);
}

static const char *const presets[] = {"nano-a", "nano-b", "nano-u"};
static const char *const policies[] = {
    "full", "full+f16", "sliding:cap=24", "sliding:cap=24,pos=absolute", "sink:cap=20,sinks=3", "cascade:cap=24,n=3", "h2o:cap=24",
    "tova:cap=24", "snapkv:cap=24,prompt=40,window=8", "xwindow:window=24,stride=7,cache=16",
    "xwindow:window=24,stride=7,cache=0,pred=carry", "xwindow:window=24,stride=8,cache=16,pred=carry",
    "xwindow:window=24,stride=5,cache=0,pred=carry", /* the two tokens before a start were scored in different windows */
    "xwindow:window=24,stride=8,cache=16,ver=published"};

/* change: the turn before which the reference's state is handed over; -1: never. */
static double distance(const char *preset, const char *spec, int change)
{
    kv_model *m;
    assert_ok(kv_model_open(preset, NULL, &m, NULL));
    pair p = open_pair(m, spec);
    dt_schedule schedule = dt_schedule_begin(&p.policy, Q, 0, N);
    dt_turn t;
    for (int i = 0; dt_schedule_next(&schedule, &t); i++) {
        if (i == change) hand_over(ref_backend(), p.ref, bk_blas, p.blas);
        step_pair(&p, &t);
    }
    close_pair(&p);
    kv_model_close(m);
    return p.worst;
}

static void every_selection_stays_within_rounding(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        for (size_t j = 0; j < sizeof policies / sizeof *policies; j++) {
            const double limit = strstr(policies[j], "f16") ? 5e-2 : 1e-4, d = distance(presets[i], policies[j], -1);
            if (!(d <= limit)) fail_msg("%s under %s: logits are off by %g", presets[i], policies[j], d);
        }
}

static void a_state_of_the_reference_goes_on(void **state)
{
    (void)state;
    for (size_t j = 0; j < sizeof policies / sizeof *policies; j++) {
        const double limit = strstr(policies[j], "f16") ? 5e-2 : 1e-4, d = distance("nano-u", policies[j], 3);
        if (!(d <= limit)) fail_msg("%s after an import: logits are off by %g", policies[j], d);
    }
}

/* And back: the reference takes over, a snapshot remembers, a reset forgets. */
static void a_state_of_this_side_goes_on(void **state)
{
    (void)state;
    kv_model *m;
    void *snap;
    assert_ok(kv_model_open("nano-b", NULL, &m, NULL));
    pair p = open_pair(m, "full");
    step_pair(&p, &(dt_turn){.at = 0, .n = 30});
    hand_over(bk_blas, p.blas, ref_backend(), p.ref);
    assert_ok(bk_blas->snapshot(p.blas, &snap));
    step_pair(&p, &(dt_turn){.at = 30, .n = 5});
    assert_ok(bk_blas->restore(p.blas, snap));
    hand_over(bk_blas, p.blas, ref_backend(), p.ref);
    step_pair(&p, &(dt_turn){.at = 30, .n = 37});
    assert_ok(bk_blas->reset(p.blas));
    assert_ok(ref_backend()->reset(p.ref));
    step_pair(&p, &(dt_turn){.at = 0, .n = 3});
    if (!(p.worst <= 1e-4)) fail_msg("logits are off by %g", p.worst);
    bk_blas->snapshot_free(p.blas, snap);
    close_pair(&p);
    kv_model_close(m);
}

static void window_pair(pair *p, int32_t ws, int32_t n)
{
    step_pair(p, &(dt_turn){.at = ws, .n = n, .flags = KV_STEP_RECOMPUTE, .pos0 = ws});
}

/* Windows shorter than they might be, and one that does not fit the stride; both sides have imported the state. */
static void windows_begin_anywhere_behind_an_import(void **state)
{
    (void)state;
    kv_model *m;
    assert_ok(kv_model_open("nano-u", NULL, &m, NULL));
    pair p = open_pair(m, "xwindow:window=24,stride=8,cache=16");
    for (int32_t ws = 0; ws < 24; ws += 8)
        window_pair(&p, ws, 16);
    hand_over(ref_backend(), p.ref, bk_blas, p.blas);
    window_pair(&p, 24, 24);
    hand_over(ref_backend(), p.ref, bk_blas, p.blas);
    hand_over(ref_backend(), p.ref, ref_backend(), p.ref);
    window_pair(&p, 43, 20);
    if (!(p.worst <= 1e-4)) fail_msg("logits are off by %g", p.worst);
    const kv_step gap = {.tokens = p.tokens, .n = 3, .flags = KV_STEP_RECOMPUTE, .pos0 = 64};
    hand_over(ref_backend(), p.ref, bk_blas, p.blas);
    assert_int_equal(bk_blas->step(p.blas, &gap), KV_ERR_USAGE);
    close_pair(&p);
    kv_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_selection_stays_within_rounding),
        cmocka_unit_test(a_state_of_the_reference_goes_on),
        cmocka_unit_test(a_state_of_this_side_goes_on),
        cmocka_unit_test(windows_begin_anywhere_behind_an_import),
    };
    return cmocka_run_group_tests(tests, bk_set_up, bk_tear_down);
}
