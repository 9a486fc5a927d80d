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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(event_lists_grow_and_keep_their_order),
        cmocka_unit_test(an_event_has_a_fixed_layout),
        cmocka_unit_test(the_table_of_abi_2_has_a_fixed_layout),
        cmocka_unit_test(tap_points_are_numbered_in_the_order_of_the_forward_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
