/* The blas side replays decisions of every selection: against double loops, under lists that cannot be obeyed, and
 * after a state has moved to another session. */
#include "tests/unit/blaskit.h"

static void near_double_loops(const char *policy, const int *steps)
{
    const double worst = bk_distance(bk_nano, policy, steps);
    if (!(worst < 1e-4)) fail_msg("%s: logits are off by %g", policy, worst);
}

/* 40 is longer than every cap. */
static const int wrapping[] = {3, 1, 7, 1, 40, 2, 16, 1, 1, 20, 5, 0};

static void cascade_equals_double_loops(void **state)
{
    (void)state;
    near_double_loops("cascade:cap=12,n=3,sinks=2", wrapping);
    near_double_loops("cascade:cap=12,n=4,sinks=0,eager=0", wrapping);
    near_double_loops("cascade:cap=4,n=4,sinks=1", wrapping); /* rings of one slot */
    near_double_loops("cascade:cap=10,n=2,sinks=3,homog=1", wrapping);
    near_double_loops("cascade:cap=16,n=2,sinks=3,select=newest", wrapping);
}

static void ranked_policies_equal_double_loops(void **state)
{
    (void)state;
    const int prompt_first[] = {30, 1, 1, 7, 3, 0}, longer[] = {37, 1, 4, 0}, short_prompt[] = {12, 5, 1, 0};
    near_double_loops("h2o:cap=14", wrapping);
    near_double_loops("h2o:cap=9,recent=9", wrapping);
    near_double_loops("tova:cap=11", wrapping);
    near_double_loops("snapkv:cap=12,window=4,prompt=30", prompt_first);
    near_double_loops("snapkv:cap=12,window=4,prompt=30", longer);
    near_double_loops("snapkv:cap=15,window=4,prompt=12", short_prompt); /* nothing leaves */
    near_double_loops("pyramid:cap=12,window=4,prompt=30", prompt_first);
}

static void xwindow_equals_double_loops(void **state)
{
    (void)state;
    const int windows[] = {24, 24, 24, 24, 24, 19, 0}, short_stream[] = {7, 0};
    near_double_loops("xwindow:window=24,stride=8,cache=20", windows);
    near_double_loops("xwindow:window=24,stride=8,cache=8,layers=1", windows);
    near_double_loops("xwindow:window=24,stride=24,cache=48", windows);
    near_double_loops("xwindow:window=24,stride=8,cache=0", windows);
    near_double_loops("xwindow:window=24,stride=8,cache=20,ver=published", windows);
    near_double_loops("xwindow:window=24,stride=8,cache=20,ver=published,layers=2", windows);
    near_double_loops("xwindow:window=24,stride=8,cache=20", short_stream);
}

/* ---- lists that cannot be obeyed ------------------------------------------------------------------------ */

/* The planned list with event i replaced is refused; unchanged it is obeyed afterwards. */
static void changed(bk_stream *s, int64_t n, size_t i, kv_event e, const char *words)
{
    const kv_event kept = s->list.v[i];
    s->list.v[i] = e;
    bk_refused(s, n, &s->list, words);
    s->list.v[i] = kept;
}

static size_t first_of(const bk_stream *s, int kind)
{
    for (size_t i = 0; i < s->list.n; i++)
        if (s->list.v[i].kind == kind) return i;
    fail_msg("the step has no decision of kind %d", kind);
    return 0;
}

static void refuse_one(bk_stream *s, int64_t n, size_t i, int32_t slot, int64_t og, const char *words)
{
    kv_event e = s->list.v[i];
    e.slot = slot;
    e.og = og;
    changed(s, n, i, e, words);
}

static void bad_cascade_lists_are_refused(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "cascade:cap=12,n=3,sinks=2", 1);
    bk_step(&s, 60);
    bk_plan(&s, 8, NULL, NULL);
    const size_t admit = first_of(&s, KV_EVENT_ADMIT), move = first_of(&s, KV_EVENT_MOVE),
                 evict = first_of(&s, KV_EVENT_EVICT);
    const kv_event a = s.list.v[admit], m = s.list.v[move], v = s.list.v[evict];
    refuse_one(&s, 8, admit, 1, a.og, "the ring that the token comes to"); /* a sink's slot */
    refuse_one(&s, 8, admit, 2 + 4, a.og, "the ring that the token comes to");
    refuse_one(&s, 8, admit, 99, a.og, "the ring that the token comes to");
    refuse_one(&s, 8, admit, 2 + (a.slot - 2 + 1) % 4, a.og, "nor that of its oldest");
    refuse_one(&s, 8, move, m.slot, m.og + 1, "slot is taken");
    refuse_one(&s, 8, move, m.slot - 4, m.og, "the ring that the token comes to");
    refuse_one(&s, 8, evict, v.slot + 1, v.og, "does not hold");
    refuse_one(&s, 8, evict, v.slot, 1, "slot is taken");
    kv_event seal = m;
    seal.kind = KV_EVENT_SEAL;
    changed(&s, 8, move, seal, "does not have");
    assert_int_equal(bk_feed(&s, 8, &s.list), KV_OK);
    bk_close(&s);
}

static void heads_must_stand_in_order(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "h2o:cap=6", 1);
    bk_step(&s, 9);
    bk_plan(&s, 3, NULL, NULL);
    kv_event e = s.list.v[0];
    e.head = -1;
    changed(&s, 3, 0, e, "heads inside them, must ascend");
    e.head = 1;
    changed(&s, 3, 0, e, "heads inside them, must ascend");
    kv_events half = {s.list.v, 0, 0}; /* of layer 0, head 0 only */
    while (s.list.v[half.n].head == 0)
        half.n++;
    bk_refused(&s, 3, &half, "does not admit token 9");
    assert_int_equal(bk_feed(&s, 3, &s.list), KV_OK);
    bk_close(&s);
}

static void bad_ranked_lists_are_refused(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "tova:cap=6", 1);
    bk_step(&s, 9);
    bk_plan(&s, 4, NULL, NULL);
    const size_t evict = first_of(&s, KV_EVENT_EVICT), admit = first_of(&s, KV_EVENT_ADMIT);
    const kv_event v = s.list.v[evict], a = s.list.v[admit];
    refuse_one(&s, 4, evict, v.slot + 1, v.og, "view index");
    refuse_one(&s, 4, evict, -1, v.og, "view index");
    refuse_one(&s, 4, evict, 10, v.og, "view index");
    refuse_one(&s, 4, evict + 1, v.slot, v.og, "each token once");
    refuse_one(&s, 4, admit, a.slot + 1, a.og, "after the evictions");
    refuse_one(&s, 4, admit, a.slot, a.og + 1, "does not admit token");
    kv_event later = v;
    later.token++;
    changed(&s, 4, evict, later, "does not admit token");
    kv_events kind = {0}; /* no eviction: ten entries */
    for (size_t i = 0; i < s.list.n; i++)
        if (s.list.v[i].kind == KV_EVENT_ADMIT) {
            s.list.v[i].slot = (int32_t)(6 + s.list.v[i].og - 9);
            kv_events_push(&kind, s.list.v[i]);
        }
    bk_refused(&s, 4, &kind, "the policy holds 6");
    free(kind.v);
    bk_close(&s);
}

static void bad_windows_are_refused(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "xwindow:window=12,stride=4,cache=8", 1);
    bk_step(&s, 12);
    bk_plan(&s, 12, NULL, NULL);
    s.first = 5;
    bk_refused(&s, 12, &s.list, "not the next window");
    s.first = 4;
    bk_refused(&s, 13, &s.list, "not the next window");
    bk_refused(&s, 8, &s.list, "not the next window"); /* ends where the last one ended */
    const int32_t token = 3;
    const kv_step plain = {.tokens = &token, .n = 1, .follow = &s.list};
    assert_int_equal(bk_blas->step(s.session, &plain), KV_ERR_USAGE);
    const size_t admit = first_of(&s, KV_EVENT_ADMIT);
    refuse_one(&s, 12, admit, s.list.v[admit].slot + 1, s.list.v[admit].og, "after the evictions");
    assert_int_equal(bk_feed(&s, 12, &s.list), KV_OK);
    bk_close(&s);
}

static void a_prompt_comes_at_once(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "snapkv:cap=12,window=4,prompt=30", 1);
    bk_plan(&s, 29, NULL, NULL);
    bk_refused(&s, 29, &s.list, "prompt has 30");
    bk_close(&s);
}

/* ---- states that move -------------------------------------------------------------------------------------- */

/* Steps before and behind the move; xwindow's are windows. */
static void moves(const char *policy, const int *before, int after)
{
    size_t size, again_size;
    bk_stream a = bk_open(bk_nano, policy, 1), b = bk_open(bk_nano, policy, 1);
    for (; *before; before++)
        bk_step(&a, *before);
    void *blob = bk_exported(a.session, &size);
    assert_int_equal(bk_blas->import_state(b.session, blob, size), KV_OK);
    void *again = bk_exported(b.session, &again_size);
    assert_int_equal(size, again_size);
    assert_memory_equal(blob, again, size);
    bk_stand_at(&b, &a);
    for (int i = 0; i < 2; i++) {
        bk_step(&a, after);
        bk_step(&b, after);
        assert_memory_equal(a.logits, b.logits, (size_t)after * 260 * sizeof(float));
    }
    assert_int_equal(bk_blas->import_state(b.session, blob, size - 8), KV_ERR_FORMAT);
    free(blob);
    free(again);
    bk_close(&a);
    bk_close(&b);
}

static void state_moves_between_sessions(void **state)
{
    (void)state;
    static const char *const policies[] = {
        "full", "sink:cap=9,sinks=2", "sliding:cap=9", "sliding:cap=9,pos=absolute", "sliding:cap=9,pos=saturate",
        "cascade:cap=12,n=3,sinks=2", "cascade:cap=12,n=3,sinks=2,homog=1,eager=0", "h2o:cap=10", "tova:cap=10",
        "full+f16", "sliding:cap=9+bf16", "cascade:cap=12,n=3,sinks=2+f16", "h2o:cap=10+bf16",
        "full+kivi:residual=32,bits=4", "full+kivi:residual=32,group=16", "full+kvarn:tile=32",
        "full+kvarn:tile=32,dialect=B,kbits=3,vbits=5", "sliding:cap=64,pos=absolute+kvarn:tile=32",
        "sliding:cap=64,pos=absolute+kivi:residual=32"};
    const int steps[] = {8, 7, 30, 1, 40, 0}, prompt[] = {40, 3, 0}, windows[] = {24, 24, 24, 0};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        moves(policies[i], steps, 5);
    moves("snapkv:cap=12,window=4,prompt=40", prompt, 5);
    moves("pyramid:cap=12,window=4,prompt=40", prompt, 5);
    moves("xwindow:window=24,stride=8,cache=16", windows, 24);
    moves("xwindow:window=24,stride=8,cache=16+f16", windows, 24);
    moves("xwindow:window=24,stride=8,cache=16,ver=published", windows, 24);
}

/* Order digests are what a bounded side is compared by: a state says where every entry stands. */
static void exported_positions_are_those_of_the_pages(void **state)
{
    (void)state;
    size_t size, offset = sizeof(kv_state_head);
    bk_stream s = bk_open(bk_nano, "cascade:cap=12,n=3,sinks=2", 1);
    bk_step(&s, 50);
    void *blob = bk_exported(s.session, &size);
    for (int run = 0; run < 4 * 2; run++) {
        const bk_view *v = bk_view_at(&s.sim, run / 2, run % 2);
        const kv_state_view got = kv_state_place(blob, blob, &offset, -1, 0);
        assert_int_equal(got.run->n, v->n);
        for (int64_t i = 0; i < v->n; i++) {
            assert_int_equal(got.og[i], v->e[i].og);
            assert_int_equal(got.pos[i], i);
        }
    }
    free(blob);
    bk_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cascade_equals_double_loops),
        cmocka_unit_test(ranked_policies_equal_double_loops),
        cmocka_unit_test(xwindow_equals_double_loops),
        cmocka_unit_test(bad_cascade_lists_are_refused),
        cmocka_unit_test(heads_must_stand_in_order),
        cmocka_unit_test(bad_ranked_lists_are_refused),
        cmocka_unit_test(bad_windows_are_refused),
        cmocka_unit_test(a_prompt_comes_at_once),
        cmocka_unit_test(state_moves_between_sessions),
        cmocka_unit_test(exported_positions_are_those_of_the_pages),
    };
    return cmocka_run_group_tests(tests, bk_set_up, bk_tear_down);
}
