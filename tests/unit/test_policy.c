/* Spelling of policies: canonical form, every way to get it wrong, and the largest position. */
#include "tests/unit/kvtest.h"

#include "common/policy.h"

static kv_policy parsed(const char *spec)
{
    kv_policy p;
    if (kv_policy_parse(spec, &p) != KV_OK) fail_msg("%s: %s", spec, kv_message());
    return p;
}

static void spellings_have_one_canonical_form(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"full", "full"},
        {"full:", "full"},
        {"full+f32", "full"},
        {"sink:cap=1020", "sink:cap=1020"},
        {"sink:cap=1020,sinks=4", "sink:cap=1020"},
        {"sink:sinks=64,cap=508", "sink:cap=508,sinks=64"},
        {"sink:cap=1,sinks=0+f32", "sink:cap=1,sinks=0"},
        {"sliding:cap=512", "sliding:cap=512"},
        {"sliding:pos=rerotate,cap=512", "sliding:cap=512"},
        {"sliding:cap=512,pos=absolute", "sliding:cap=512,pos=absolute"},
        {"sliding:pos=saturate,cap=2", "sliding:cap=2,pos=saturate"},
        {"cascade:beta=0.30000000000000004,cap=8", "cascade:beta=0.30000000000000004,cap=8"}, /* no shorter text reads back as it */
        {"cascade:beta=0.5000,cap=8", "cascade:beta=0.5,cap=8"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char text[KV_POLICY_TEXT_MAX];
        const kv_policy p = parsed(pairs[i][0]);
        assert_ok(kv_policy_check(&p));
        kv_policy_format(&p, text);
        assert_string_equal(text, pairs[i][1]);
        const kv_policy again = parsed(text);
        assert_memory_equal(&again, &p, sizeof p);
    }
}

static void parameters_land_in_their_fields(void **state)
{
    (void)state;
    kv_policy p = parsed("sink:cap=508,sinks=64");
    assert_int_equal(p.selection, KV_SEL_SINK);
    assert_int_equal(p.storage, KV_STORE_F32);
    assert_int_equal(p.sink.cap, 508);
    assert_int_equal(p.sink.sinks, 64);
    p = parsed("sliding:cap=512,pos=saturate");
    assert_int_equal(p.selection, KV_SEL_SLIDING);
    assert_int_equal(p.sliding.cap, 512);
    assert_int_equal(p.sliding.pos, KV_SLIDING_SATURATE);
    assert_int_equal(parsed("sink:cap=9").sink.sinks, 4);
    assert_int_equal(parsed("sliding:cap=9").sliding.pos, KV_SLIDING_REROTATE);
}

static void every_mistake_gets_a_line_that_helps(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "unknown selection ''; known: full, sliding, sink"},
        {"sinks", "unknown selection 'sinks'"},
        {"full:cap=3", "full has no parameter 'cap'; it has: none"},
        {"sink", "cap=N is missing"},
        {"sink:sinks=4", "cap=N is missing"},
        {"sink:cap", "needs a value"},
        {"sink:cap=", "not a whole number"},
        {"sink:cap=1e3", "not a whole number"},
        {"sink:cap=12x", "not a whole number"},
        {"sink:cap=0", "nearest legal value is 1"},
        {"sink:cap=-5", "nearest legal value is 1"},
        {"sink:cap=99999999999999999999", "nearest legal value is 268435456"},
        {"sink:cap=4,cap=5", "given twice"},
        {"sink:cap=4,size=5", "no parameter 'size'; it has: cap, sinks"},
        {"sink:cap=4,sinks=-1", "nearest legal value is 0"},
        {"sliding:cap=1", "nearest legal value is 2"},
        {"sliding:cap=8,pos=relative", "use one of rerotate, absolute, saturate"},
        {"full+f33", "unknown storage 'f33'; known: f32"},
        {"full+", "unknown storage ''"},
        {"full+f32:bits=2", "has no parameter 'bits'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_policy p;
        assert_refused(kv_policy_parse(bad[i][0], &p), KV_ERR_USAGE, bad[i][1]);
    }
}

static void a_very_long_spelling_is_refused_in_one_line(void **state)
{
    (void)state;
    char spec[4096];
    memset(spec, 'a', sizeof spec - 1);
    spec[sizeof spec - 1] = '\0';
    kv_policy p;
    assert_refused(kv_policy_parse(spec, &p), KV_ERR_USAGE, "longer than 255");
}

static void check_finds_what_parse_would_refuse(void **state)
{
    (void)state;
    kv_policy p = parsed("sink:cap=8");
    p.sink.cap = 0;
    assert_refused(kv_policy_check(&p), KV_ERR_USAGE, "cap=0");
    p = parsed("sliding:cap=8");
    p.sliding.pos = 3;
    assert_refused(kv_policy_check(&p), KV_ERR_USAGE, "pos=3");
    p.selection = KV_SEL_COUNT;
    assert_refused(kv_policy_check(&p), KV_ERR_USAGE, "selection");
    p = parsed("full");
    p.storage = -1;
    assert_refused(kv_policy_check(&p), KV_ERR_USAGE, "storage -1");
}

static void names_and_lines_exist_for_every_policy(void **state)
{
    (void)state;
    for (int32_t s = 0; s < KV_SEL_COUNT; s++) {
        size_t n;
        const kv_policy_param *d = kv_selection_params(s, &n);
        assert_true(strlen(kv_selection_name(s)) > 2 && strlen(kv_selection_about(s)) > 10);
        for (size_t i = 0; i < n; i++) {
            assert_true(strlen(d[i].about) > 5);
            assert_true(d[i].offset + sizeof(int32_t) <= sizeof(kv_policy));
            assert_true(d[i].flags & (KV_PARAM_REQUIRED | KV_PARAM_DERIVED) || d[i].decimal ||
                        (d[i].def >= d[i].min && d[i].def <= d[i].max));
            if (i) assert_true(strcmp(d[i - 1].name, d[i].name) < 0);
        }
    }
    for (int32_t s = 0; s < KV_STORE_COUNT; s++)
        assert_true(strlen(kv_storage_name(s)) > 2 && strlen(kv_storage_about(s)) > 10);
    assert_string_equal(kv_selection_name(-1), "?");
    assert_string_equal(kv_selection_about(KV_SEL_COUNT), "?");
    assert_string_equal(kv_storage_name(-1), "?");
    assert_string_equal(kv_storage_about(KV_STORE_COUNT), "?");
    size_t n = 5;
    assert_null(kv_selection_params(KV_SEL_COUNT, &n));
    assert_int_equal(n, 0);
}

/* Ids are stored in results: they never change. */
static void ids_are_those_of_the_first_release(void **state)
{
    (void)state;
    assert_int_equal(KV_SEL_FULL, 0);
    assert_int_equal(KV_SEL_SLIDING, 1);
    assert_int_equal(KV_SEL_SINK, 2);
    assert_int_equal(KV_SEL_CASCADE, 3);
    assert_int_equal(KV_SEL_XWINDOW, 4);
    assert_int_equal(KV_SEL_H2O, 5);
    assert_int_equal(KV_SEL_SNAPKV, 6);
    assert_int_equal(KV_SEL_TOVA, 7);
    assert_int_equal(KV_SEL_PYRAMID, 8);
    assert_int_equal(KV_SEL_DILATED, 9);
    assert_int_equal(KV_STORE_F32, 0);
    assert_int_equal(KV_STORE_F16, 1);
    assert_int_equal(KV_STORE_BF16, 2);
    assert_int_equal(KV_STORE_KVARN, 3);
    assert_int_equal(KV_STORE_KIVI, 4);
}

/* The worked examples of docs/policy: sink cap=3,sinks=2 reads position 8 in a step of 4; sliding
 * cap=4 never goes beyond 3; absolute and full follow the token. */
static void the_largest_position_follows_the_policy(void **state)
{
    (void)state;
    const kv_policy full = parsed("full"), sink = parsed("sink:cap=3,sinks=2"),
                    re = parsed("sliding:cap=4"), ab = parsed("sliding:cap=4,pos=absolute"),
                    sat = parsed("sliding:cap=4,pos=saturate");
    assert_int_equal(kv_policy_max_position(&full, 12288, 256), 12287);
    assert_int_equal(kv_policy_max_position(&sink, 11, 4), 8);
    assert_int_equal(kv_policy_max_position(&sink, 3, 1), 2);
    assert_int_equal(kv_policy_max_position(&re, 12, 5), 3);
    assert_int_equal(kv_policy_max_position(&sat, 12, 5), 3);
    assert_int_equal(kv_policy_max_position(&ab, 12, 5), 11);
    assert_int_equal(kv_policy_max_position(&re, 2, 1), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spellings_have_one_canonical_form),
        cmocka_unit_test(parameters_land_in_their_fields),
        cmocka_unit_test(every_mistake_gets_a_line_that_helps),
        cmocka_unit_test(a_very_long_spelling_is_refused_in_one_line),
        cmocka_unit_test(check_finds_what_parse_would_refuse),
        cmocka_unit_test(names_and_lines_exist_for_every_policy),
        cmocka_unit_test(ids_are_those_of_the_first_release),
        cmocka_unit_test(the_largest_position_follows_the_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
