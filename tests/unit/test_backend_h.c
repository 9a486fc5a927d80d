/* The door: layouts that cross it are what other compilers and stored results expect. */
#include "tests/unit/kvtest.h"

#include "common/backend.h"

static void event_lists_grow_and_keep_their_order(void **state)
{
    (void)state;
    kv_events list = {NULL, 0, 0};
    for (int i = 0; i < 3000; i++)
        assert_int_equal(kv_events_push(&list, (kv_event){.og = i, .token = 2 * i, .slot = i % 7}),
                         KV_OK);
    assert_int_equal(list.n, 3000);
    assert_true(list.cap >= list.n);
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(list.v[i].og, i);
        assert_int_equal(list.v[i].token, 2 * i);
        assert_int_equal(list.v[i].slot, i % 7);
    }
    free(list.v);
}

/* Events are compared and stored as bytes: no padding, fields at fixed offsets. */
static void an_event_has_a_fixed_layout(void **state)
{
    (void)state;
    assert_int_equal(sizeof(kv_event), 40);
    assert_int_equal(offsetof(kv_event, og), 0);
    assert_int_equal(offsetof(kv_event, token), 8);
    assert_int_equal(offsetof(kv_event, layer), 16);
    assert_int_equal(offsetof(kv_event, head), 20);
    assert_int_equal(offsetof(kv_event, kind), 24);
    assert_int_equal(offsetof(kv_event, slot), 28);
    assert_int_equal(offsetof(kv_event, margin), 32);
    assert_int_equal(offsetof(kv_event, reserved), 36);
    assert_int_equal(KV_EVENT_ADMIT, 0);
    assert_int_equal(KV_EVENT_EVICT, 1);
    assert_int_equal(KV_EVENT_MOVE, 2);
    assert_int_equal(KV_EVENT_SEAL, 3);
}

/* A side built against this header by another compiler must find every function where it is here.
 * The ABI number changes with any of these. */
static void the_table_of_abi_2_has_a_fixed_layout(void **state)
{
    (void)state;
    assert_int_equal(KV_BACKEND_ABI, 2);
    assert_int_equal(offsetof(kv_backend, abi), 0);
    assert_int_equal(offsetof(kv_backend, caps), 4);
    assert_int_equal(offsetof(kv_backend, contract), 8);
    assert_int_equal(offsetof(kv_backend, name), 16);
    const size_t pointers[] = {
        offsetof(kv_backend, available),     offsetof(kv_backend, open),
        offsetof(kv_backend, close),         offsetof(kv_backend, last_error),
        offsetof(kv_backend, reset),         offsetof(kv_backend, step),
        offsetof(kv_backend, export_state),  offsetof(kv_backend, import_state),
        offsetof(kv_backend, snapshot),      offsetof(kv_backend, restore),
        offsetof(kv_backend, snapshot_free), offsetof(kv_backend, digest),
        offsetof(kv_backend, table),         offsetof(kv_backend, trace),
    };
    for (size_t i = 0; i < sizeof pointers / sizeof *pointers; i++)
        assert_int_equal(pointers[i], 16 + (i + 1) * sizeof(void *));
    assert_int_equal(sizeof(kv_backend), 16 + 15 * sizeof(void *));
    assert_int_equal(sizeof(kv_digest), 24);
    assert_int_equal(offsetof(kv_step, flags), 16);
    assert_int_equal(offsetof(kv_step, pos0), 24);
    assert_int_equal(sizeof(kv_tap), 24);
}

static void tap_points_are_numbered_in_the_order_of_the_forward_pass(void **state)
{
    (void)state;
    assert_int_equal(KV_TAP_EMBED, 0);
    assert_true(KV_TAP_ATTN_NORM < KV_TAP_Q && KV_TAP_Q < KV_TAP_K && KV_TAP_K < KV_TAP_V);
    assert_true(KV_TAP_V < KV_TAP_ATTN && KV_TAP_ATTN < KV_TAP_ATTN_RESID);
    assert_true(KV_TAP_ATTN_RESID < KV_TAP_FFN_NORM && KV_TAP_FFN_NORM < KV_TAP_FFN_ACT);
    assert_true(KV_TAP_FFN_ACT < KV_TAP_RESID && KV_TAP_RESID < KV_TAP_FINAL_NORM);
    assert_int_equal(KV_TAP_FINAL_NORM, KV_TAP_COUNT - 1);
}

/* Targets are looked at where rows are asked for, and nowhere else. */
static void targets_belong_to_rows(void **state)
{
    (void)state;
    const kv_config cfg = {.vocab_size = 10, .n_layers = 2, .d_model = 8, .n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .ffn_dim = 8};
    const int32_t tokens[3] = {1, 2, 3}, good[3] = {9, 0, 4}, second[3] = {9, 10, 4}, first[3] = {-1, 0, 4};
    float nll[3];
    kv_step s = {.tokens = tokens, .n = 3, .nll = nll, .targets = good};
    for (s.rows = KV_ROWS_NONE; s.rows <= KV_ROWS_ALL; s.rows++)
        assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
    s.targets = second;
    s.rows = KV_ROWS_ALL;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "row 1 of the step");
    s.rows = KV_ROWS_LAST;
    assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
    s.targets = first;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "row 0 of the step");
    s.targets = NULL;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "row 0 of the step");
    s.rows = KV_ROWS_NONE;
    assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
    s.rows = KV_ROWS_ALL;
    s.nll = NULL;
    assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
}

static void steps_are_of_tokens_of_the_vocabulary(void **state)
{
    (void)state;
    const kv_config cfg = {.vocab_size = 10};
    const int32_t tokens[4] = {0, 9, 10, -1};
    kv_step s = {.tokens = tokens, .n = 2};
    assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
    s.n = 3;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "token 2 of the step is 10");
    s.tokens = tokens + 3;
    s.n = 1;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "token 0 of the step is -1");
    s.n = 0;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "a step of 0 tokens");
}

static void widths_of_taps_follow_from_the_model(void **state)
{
    (void)state;
    const kv_config cfg = {.vocab_size = 10, .n_layers = 2, .d_model = 700, .n_heads = 300, .n_kv_heads = 150, .head_dim = 2, .ffn_dim = 900};
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_RESID), 700);
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_Q), 600);
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_K), 300);
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_V), 300);
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_ATTN), 600);
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_FFN_ACT), 900);
    assert_int_equal(kv_tap_width(&cfg, KV_TAP_COUNT), -1);
    assert_int_equal(kv_tap_width(&cfg, -1), -1);
}

static void taps_are_of_the_model_and_of_the_step(void **state)
{
    (void)state;
    const kv_config cfg = {.vocab_size = 10, .n_layers = 2, .d_model = 8, .n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .ffn_dim = 8};
    const int32_t tokens[3] = {1, 2, 3};
    float to[8];
    kv_tap tap = {.point = KV_TAP_RESID, .layer = 1, .row = 2, .width = 8, .dst = to};
    const kv_step s = {.tokens = tokens, .n = 3, .taps = &tap, .n_taps = 1};
    assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
    const kv_tap good = tap;
    tap.layer = 2;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "layer 2");
    tap.layer = -1;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "layer -1");
    tap = good;
    tap.row = 3;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "row 3");
    tap.row = -1;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "row -1");
    tap = good;
    tap.width = 9;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "width 9");
    tap = good;
    tap.dst = NULL;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "tap 0");
    tap = good;
    tap.point = KV_TAP_COUNT;
    assert_refused(kv_step_check(&cfg, &s), KV_ERR_USAGE, "tap 0");
    tap = good;
    tap.layer = tap.row = 0;
    assert_int_equal(kv_step_check(&cfg, &s), KV_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(event_lists_grow_and_keep_their_order),
        cmocka_unit_test(an_event_has_a_fixed_layout),
        cmocka_unit_test(the_table_of_abi_2_has_a_fixed_layout),
        cmocka_unit_test(tap_points_are_numbered_in_the_order_of_the_forward_pass),
        cmocka_unit_test(targets_belong_to_rows),
        cmocka_unit_test(steps_are_of_tokens_of_the_vocabulary),
        cmocka_unit_test(widths_of_taps_follow_from_the_model),
        cmocka_unit_test(taps_are_of_the_model_and_of_the_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
