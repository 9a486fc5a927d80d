/* Status codes, exit codes and the one-line message of a thread. */
#include "tests/unit/kvtest.h"

#include <pthread.h>

static void every_status_has_a_name_a_text_and_an_exit_code(void **state)
{
    (void)state;
    static const int legal[] = {0, 1, 2, 3, 6, 130};
    for (int st = 0; st < KV_STATUS_COUNT; st++) {
        assert_true(strlen(kv_status_name((kv_status)st)) > 1);
        assert_true(strlen(kv_status_text((kv_status)st)) > 1);
        int found = 0;
        for (size_t i = 0; i < sizeof legal / sizeof *legal; i++)
            found |= kv_status_exit_code((kv_status)st) == legal[i];
        assert_true(found);
        assert_int_equal(kv_status_exit_code((kv_status)st) == 0, st == KV_OK);
    }
    assert_string_equal(kv_status_name(KV_ERR_USAGE), "ERR_USAGE");
    assert_int_equal(kv_status_exit_code(KV_ERR_USAGE), 2);
    assert_int_equal(kv_status_exit_code(KV_ERR_CONTEXT), 2);
    assert_int_equal(kv_status_exit_code(KV_ERR_FORMAT), 3);
    assert_int_equal(kv_status_exit_code(KV_ERR_INTERRUPTED), 130);
}

static void a_number_that_is_no_status_is_a_fault_of_the_tester(void **state)
{
    (void)state;
    assert_string_equal(kv_status_name(KV_STATUS_COUNT), "ERR_UNKNOWN");
    assert_string_equal(kv_status_text((kv_status)-1), "unknown status");
    assert_int_equal(kv_status_exit_code(KV_STATUS_COUNT), 6);
}

static void fail_records_the_message_and_gives_the_status_back(void **state)
{
    (void)state;
    kv_message_clear();
    assert_string_equal(kv_message(), "");
    assert_int_equal(kv_fail(KV_ERR_IO, "cannot open '%s': %d", "x", 7), KV_ERR_IO);
    assert_string_equal(kv_message(), "cannot open 'x': 7");
    kv_message_clear();
    assert_string_equal(kv_message(), "");
}

static void prefixes_stack_in_front(void **state)
{
    (void)state;
    kv_set_message("inner");
    kv_prefix_message("line %d", 3);
    kv_prefix_message("file");
    assert_string_equal(kv_message(), "file: line 3: inner");
}

static void long_messages_are_cut_and_stay_terminated(void **state)
{
    (void)state;
    char text[2 * KV_MESSAGE_MAX];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    kv_set_message("%s", text);
    assert_int_equal(strlen(kv_message()), KV_MESSAGE_MAX - 1);
    kv_prefix_message("%s", "front");
    assert_int_equal(strlen(kv_message()), KV_MESSAGE_MAX - 1);
    assert_memory_equal(kv_message(), "front: xxx", 10);
    kv_prefix_message("%s", text);
    assert_int_equal(strlen(kv_message()), KV_MESSAGE_MAX - 1);
}

static void *other_thread(void *arg)
{
    kv_set_message("from the other thread");
    *(int *)arg = strcmp(kv_message(), "from the other thread") == 0;
    return NULL;
}

static void each_thread_has_its_own_message(void **state)
{
    (void)state;
    int seen = 0;
    pthread_t t;
    kv_set_message("mine");
    assert_int_equal(pthread_create(&t, NULL, other_thread, &seen), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_true(seen);
    assert_string_equal(kv_message(), "mine");
}

static kv_status tries(kv_status first, int *reached)
{
    KV_TRY(first);
    *reached = 1;
    return KV_OK;
}

static kv_status tries_goto(kv_status first, int *reached, int *cleaned)
{
    kv_status st;
    KV_TRY_GOTO(st, first, done);
    *reached = 1;
done:
    *cleaned = 1;
    return st;
}

static void try_leaves_at_the_first_failure(void **state)
{
    (void)state;
    int reached = 0, cleaned = 0;
    assert_int_equal(tries(KV_ERR_DB, &reached), KV_ERR_DB);
    assert_int_equal(tries_goto(KV_ERR_DB, &reached, &cleaned), KV_ERR_DB);
    assert_int_equal(reached, 0);
    assert_int_equal(cleaned, 1);
    assert_int_equal(tries(KV_OK, &reached), KV_OK);
    assert_int_equal(reached, 1);
    assert_int_equal(tries_goto(KV_OK, &reached, &cleaned), KV_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_name_a_text_and_an_exit_code),
        cmocka_unit_test(a_number_that_is_no_status_is_a_fault_of_the_tester),
        cmocka_unit_test(fail_records_the_message_and_gives_the_status_back),
        cmocka_unit_test(prefixes_stack_in_front),
        cmocka_unit_test(long_messages_are_cut_and_stay_terminated),
        cmocka_unit_test(each_thread_has_its_own_message),
        cmocka_unit_test(try_leaves_at_the_first_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
