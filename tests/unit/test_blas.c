/* The blas side: full, sink and sliding against a forward pass in plain double loops, and the calls of its
 * door. Its other policies: test_blas_follow.c, test_blas_coded.c. */
#include "tests/unit/blaskit.h"

#include "ref/backend.h"

#include <math.h>

static void near_double_loops(const char *policy)
{
    /* wraps every cache several times; 40 is longer than every cap */
    static const int steps[] = {3, 1, 7, 1, 40, 2, 16, 1, 1, 20, 5, 0};
    const double worst = bk_distance(bk_nano, policy, steps);
    if (!(worst < 1e-4)) fail_msg("%s: logits are off by %g", policy, worst);
}

static void full_equals_double_loops(void **state)
{
    (void)state;
    near_double_loops("full");
}

static void sink_equals_double_loops(void **state)
{
    (void)state;
    near_double_loops("sink:cap=11,sinks=3");
    near_double_loops("sink:cap=16,sinks=0");
}

static void sliding_equals_double_loops_in_every_position_mode(void **state)
{
    (void)state;
    near_double_loops("sliding:cap=13");
    near_double_loops("sliding:cap=13,pos=absolute");
    near_double_loops("sliding:cap=13,pos=saturate");
}

static void smollm2_equals_double_loops(void **state)
{
    (void)state;
    kv_model *m;
    const int steps[] = {3, 1, 0};
    if (kv_model_open("smollm2", NULL, &m, NULL) != KV_OK) kvtest_skip("%s", kv_message());
    assert_true(bk_distance(m, "full", steps) < 1e-3);
    kv_model_close(m);
}

/* ---- lists that cannot be obeyed ------------------------------------------------------------ */

static void bad_lists_are_refused_and_change_nothing(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "sink:cap=6,sinks=2", 1),
           twin = bk_open(bk_nano, "sink:cap=6,sinks=2", 1);
    bk_step(&s, 12);
    bk_step(&twin, 12);
    bk_plan(&s, 3, NULL, NULL);
    kv_events bad = {0};
    const size_t last = s.list.n - 1; /* an eviction in the last layer */
    for (size_t i = 0; i < s.list.n; i++)
        kv_events_push(&bad, s.list.v[i]);
#define WITH(field, value, words)          \
    do {                                   \
        const kv_event kept = bad.v[last]; \
        bad.v[last].field = (value);       \
        bk_refused(&s, 3, &bad, words);       \
        bad.v[last] = kept;                \
    } while (0)
    WITH(og, 2, "slot is taken");
    WITH(slot, 0, "does not hold");
    WITH(head, 0, "heads decide alike");
    WITH(kind, KV_EVENT_SEAL, "does not have");
    WITH(layer, 0, "layers must ascend");
    WITH(token, 99, "slot is taken");
#undef WITH
    bad.n--;
    bk_refused(&s, 3, &bad, "slot is taken");
    bad.n++;
    kv_events_push(&bad, bad.v[last]);
    bk_refused(&s, 3, &bad, "more than the step");
    bad.n = 0;
    bk_refused(&s, 3, &bad, "does not admit token 12");
    bk_refused(&s, 3, NULL, "no policy of its own");
    assert_int_equal(bk_feed(&s, 3, &s.list), KV_OK);
    bk_step(&twin, 3);
    assert_memory_equal(s.logits, twin.logits, 3 * 260 * sizeof(float));
    free(bad.v);
    bk_close(&s);
    bk_close(&twin);
}

static void bad_sliding_lists_are_refused(void **state)
{
    (void)state;
    bk_stream s = bk_open(bk_nano, "sliding:cap=6", 1);
    bk_step(&s, 6);
    bk_plan(&s, 2, NULL, NULL);
    s.list.v[0].og = 3;
    bk_refused(&s, 2, &s.list, "view index");
    s.list.v[0].og = 0;
    s.list.v[2].slot++;
    bk_refused(&s, 2, &s.list, "slot that is not the token's");
    s.list.v[2].slot--;
    assert_int_equal(bk_feed(&s, 2, &s.list), KV_OK);
    bk_close(&s);
}

static void full_needs_no_list(void **state)
{
    (void)state;
    bk_stream a = bk_open(bk_nano, "full", 1), b = bk_open(bk_nano, "full", 1);
    for (int i = 0; i < 3; i++) {
        bk_step(&a, 5);
        assert_int_equal(bk_feed(&b, 5, NULL), KV_OK);
        b.first += 5;
        assert_memory_equal(a.logits, b.logits, 5 * 260 * sizeof(float));
        assert_int_equal(b.reported.n, a.list.n);
        assert_memory_equal(b.reported.v, a.list.v, a.list.n * sizeof *a.list.v);
    }
    bk_close(&a);
    bk_close(&b);
}

/* ---- the other calls ------------------------------------------------------------------------ */

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    bk_stream a = bk_open(bk_nano, "sink:cap=20", 1), b = bk_open(bk_nano, "sink:cap=20", 3);
    for (int i = 0; i < 4; i++) {
        bk_step(&a, 1 + 9 * i);
        bk_step(&b, 1 + 9 * i);
        assert_memory_equal(a.logits, b.logits, (size_t)(1 + 9 * i) * 260 * sizeof(float));
    }
    bk_close(&a);
    bk_close(&b);
}

static void foreign_states_are_refused(void **state)
{
    (void)state;
    size_t size, need;
    bk_stream a = bk_open(bk_nano, "full", 1), b = bk_open(bk_nano, "sink:cap=4", 1);
    bk_step(&a, 3);
    void *blob = bk_exported(a.session, &size);
    assert_int_equal(bk_blas->import_state(b.session, blob, size), KV_ERR_MISMATCH);
    assert_int_equal(bk_blas->export_state(a.session, 4, KV_STATE_KV, NULL, 0, &need), KV_ERR_USAGE);
    assert_int_equal(bk_blas->export_state(a.session, -1, KV_STATE_KV, blob, 10, &need), KV_ERR_USAGE);
    size_t offset = sizeof(kv_state_head);
    const kv_state_view v = kv_state_place(blob, blob, &offset, -1, 0);
    v.og[1] = v.og[0];
    assert_int_equal(bk_blas->import_state(a.session, blob, size), KV_ERR_FORMAT);
    bk_step(&a, 2); /* a refused import leaves the session as it was */
    free(blob);
    bk_close(&a);
    bk_close(&b);
}

static void snapshot_and_reset_go_back(void **state)
{
    (void)state;
    float kept[6 * 260];
    void *snap;
    bk_stream s = bk_open(bk_nano, "sink:cap=9,sinks=2", 1), mark = bk_open(bk_nano, "sink:cap=9,sinks=2", 1);
    bk_step(&s, 6);
    memcpy(kept, s.logits, sizeof kept);
    assert_int_equal(bk_blas->reset(s.session), KV_OK);
    bk_stand_at(&s, &mark);
    bk_step(&s, 6);
    assert_memory_equal(kept, s.logits, sizeof kept);
    bk_step(&s, 9);
    assert_int_equal(bk_blas->snapshot(s.session, &snap), KV_OK);
    bk_stand_at(&mark, &s);
    for (int i = 0; i < 2; i++) {
        bk_step(&s, 6);
        if (i) assert_memory_equal(kept, s.logits, sizeof kept);
        memcpy(kept, s.logits, sizeof kept);
        assert_int_equal(bk_blas->restore(s.session, snap), KV_OK);
        bk_stand_at(&s, &mark);
    }
    bk_blas->snapshot_free(s.session, snap);
    bk_blas->snapshot_free(s.session, NULL);
    bk_close(&s);
    bk_close(&mark);
    bk_blas->close(NULL);
}

static void tables_have_the_bits_of_the_reference(void **state)
{
    (void)state;
    kv_policy p;
    kv_session *r;
    float a[8 * 16], b[8 * 16];
    assert_ok(kv_policy_parse("full", &p));
    const kv_open_args args = {.model = bk_nano, .policy = &p, .threads = 1};
    assert_int_equal(ref_backend()->open(&args, &r), KV_OK);
    kv_session *s = bk_open_on(bk_nano, "full", 1);
    const int64_t first[] = {0, 1000, 131072, 5000000};
    for (int i = 0; i < 8; i++) {
        const kv_table which = i & 1 ? KV_TABLE_ROPE_SIN : KV_TABLE_ROPE_COS;
        assert_int_equal(ref_backend()->table(r, which, first[i / 2], 8, a), KV_OK);
        assert_int_equal(bk_blas->table(s, which, first[i / 2], 8, b), KV_OK);
        assert_memory_equal(a, b, sizeof a);
    }
    ref_backend()->close(r);
    bk_blas->close(s);
}

static void taps_and_nll_show_the_pass(void **state)
{
    (void)state;
    float k[64], v[64], embed[128], logits[4 * 260], nll[4];
    const int32_t tokens[] = {5, 9, 200, 31}, targets[] = {9, 200, 31, 7};
    const kv_tap taps[] = {
        {KV_TAP_K, 2, 3, 64, k}, {KV_TAP_V, 2, 3, 64, v}, {KV_TAP_EMBED, 0, 1, 128, embed}};
    kv_session *s = bk_open_on(bk_nano, "full", 2);
    const kv_step step = {.tokens = tokens,
                          .n = 4,
                          .rows = KV_ROWS_ALL,
                          .n_taps = 3,
                          .taps = taps,
                          .logits = logits,
                          .targets = targets,
                          .nll = nll};
    assert_int_equal(bk_blas->step(s, &step), KV_OK);
    size_t size, offset = sizeof(kv_state_head);
    void *blob = bk_exported(s, &size);
    for (int run = 0; run < 2 * 2 + 2; run++) {
        const kv_state_view view = kv_state_place(blob, blob, &offset, -1, 0);
        const float *record = (const float *)(const void *)view.records + 3 * 64;
        if (view.run->layer != 2) continue;
        assert_memory_equal(record, k + 32 * view.run->head, 32 * sizeof(float));
        assert_memory_equal(record + 32, v + 32 * view.run->head, 32 * sizeof(float));
    }
    free(blob);
    float row[128];
    kv_tensor_rows_f32(kv_model_tensor(bk_nano, KV_ROLE_TOKEN_EMBD, 0), 9, 1, row);
    assert_memory_equal(row, embed, sizeof row);
    for (int r = 0; r < 4; r++) {
        double sum = 0;
        for (int i = 0; i < 260; i++)
            sum += exp((double)logits[r * 260 + i]);
        assert_true(fabs((double)nll[r] - (log(sum) - (double)logits[r * 260 + targets[r]])) <
                    1e-5);
    }
    bk_blas->close(s);
}

static void last_row_alone_equals_the_row_of_all(void **state)
{
    (void)state;
    float all[4 * 260], last[260], nll_last;
    const int32_t tokens[] = {5, 9, 200, 31}, target = 7;
    kv_session *a = bk_open_on(bk_nano, "full", 1), *b = bk_open_on(bk_nano, "full", 1);
    kv_step step = {.tokens = tokens, .n = 4, .rows = KV_ROWS_ALL, .logits = all};
    assert_int_equal(bk_blas->step(a, &step), KV_OK);
    step.rows = KV_ROWS_LAST;
    step.logits = last;
    step.targets = &target;
    step.nll = &nll_last;
    assert_int_equal(bk_blas->step(b, &step), KV_OK);
    for (int i = 0; i < 260; i++)
        assert_true(fabsf(all[3 * 260 + i] - last[i]) < 1e-4f);
    step.logits = NULL; /* scored, not returned */
    step.rows = KV_ROWS_NONE;
    assert_int_equal(bk_blas->step(b, &step), KV_OK);
    bk_blas->close(a);
    bk_blas->close(b);
}

static void impossible_steps_are_refused(void **state)
{
    (void)state;
    kv_session *s = bk_open_on(bk_nano, "full", 1);
    float buffer[260], nll;
    const int32_t good = 3, outside = 260, negative = -1;
    kv_tap tap = {KV_TAP_K, 0, 0, 63, buffer};
    const struct {
        kv_step step;
        kv_status status;
    } bad[] = {
        {{.tokens = &good, .n = 0}, KV_ERR_USAGE},
        {{.tokens = &outside, .n = 1}, KV_ERR_USAGE},
        {{.tokens = &negative, .n = 1}, KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .rows = KV_ROWS_ALL, .nll = &nll}, KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .rows = KV_ROWS_ALL, .nll = &nll, .targets = &outside},
         KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .n_taps = 1, .taps = &tap}, KV_ERR_USAGE},
        {{.tokens = &good, .n = 1, .flags = KV_STEP_RECOMPUTE}, KV_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(bk_blas->step(s, &bad[i].step), bad[i].status);
        assert_true(*bk_blas->last_error(s));
    }
    const kv_step fine = {.tokens = &good, .n = 1, .rows = KV_ROWS_LAST, .logits = buffer};
    assert_int_equal(bk_blas->step(s, &fine), KV_OK);
    bk_blas->close(s);
}

static void what_the_side_lacks_is_refused_by_name(void **state)
{
    (void)state;
    kv_policy p;
    kv_session *s;
    kv_model odd = *bk_nano;
    odd.cfg.qkv_bias = 1;
    assert_ok(kv_policy_parse("full", &p));
    kv_open_args args = {.model = &odd, .policy = &p, .threads = 1};
    assert_int_equal(bk_blas->open(&args, &s), KV_ERR_UNSUPPORTED);
    assert_non_null(strstr(bk_blas->last_error(NULL), "qkv_bias"));
    args.model = bk_nano;
    args.threads = 0;
    assert_int_equal(bk_blas->open(&args, &s), KV_ERR_USAGE);
    args.threads = 1;
    args.options = "fast";
    assert_int_equal(bk_blas->open(&args, &s), KV_ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_equals_double_loops),
        cmocka_unit_test(sink_equals_double_loops),
        cmocka_unit_test(sliding_equals_double_loops_in_every_position_mode),
        cmocka_unit_test(smollm2_equals_double_loops),
        cmocka_unit_test(bad_lists_are_refused_and_change_nothing),
        cmocka_unit_test(bad_sliding_lists_are_refused),
        cmocka_unit_test(full_needs_no_list),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(foreign_states_are_refused),
        cmocka_unit_test(snapshot_and_reset_go_back),
        cmocka_unit_test(tables_have_the_bits_of_the_reference),
        cmocka_unit_test(taps_and_nll_show_the_pass),
        cmocka_unit_test(last_row_alone_equals_the_row_of_all),
        cmocka_unit_test(impossible_steps_are_refused),
        cmocka_unit_test(what_the_side_lacks_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, bk_set_up, bk_tear_down);
}
