/* Which tokens a step feeds: q at a time, prompts, windows; by hand and by laws over many lengths. */
#include "tests/unit/kvtest.h"

#include "common/backend.h"
#include "difftest/schedule.h"

static kv_policy policy_of(const char *spec)
{
    kv_policy p;
    assert_ok(kv_policy_parse(spec, &p));
    return p;
}

/* "at:n/fresh ..." of a segment; w in front of windows with their pos0 behind. */
static const char *steps_of(const char *spec, int32_t q, int64_t begin, int64_t end)
{
    static char text[2000];
    const kv_policy p = policy_of(spec);
    dt_schedule s = dt_schedule_begin(&p, q, begin, end);
    dt_turn t;
    size_t n = 0;
    text[0] = '\0';
    while (dt_schedule_next(&s, &t)) {
        const int window = t.flags == KV_STEP_RECOMPUTE;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s%lld:%d/%lld", n ? " " : "", window ? "w" : "",
                              (long long)t.at, t.n, (long long)t.fresh);
        if (window) n += (size_t)snprintf(text + n, sizeof text - n, "@%lld", (long long)t.pos0);
        assert_true(window || (t.flags == 0 && t.pos0 == 0));
    }
    return text;
}

static void steps_of_q_tokens_end_with_a_shorter_one(void **state)
{
    (void)state;
    assert_string_equal(steps_of("full", 16, 0, 40), "0:16/0 16:16/16 32:8/32");
    assert_string_equal(steps_of("sink:cap=8", 16, 0, 32), "0:16/0 16:16/16");
    assert_string_equal(steps_of("full", 16, 100, 110), "100:10/100");
    assert_string_equal(steps_of("full", 1, 5, 8), "5:1/5 6:1/6 7:1/7");
    assert_string_equal(steps_of("full", 16, 0, 0), "");
}

static void a_prompt_comes_first_and_alone(void **state)
{
    (void)state;
    static const char *const specs[] = {"snapkv:cap=20,window=8,prompt=24", "pyramid:cap=20,window=8,prompt=24"};
    for (int i = 0; i < 2; i++) {
        assert_string_equal(steps_of(specs[i], 16, 0, 60), "0:24/0 24:16/24 40:16/40 56:4/56");
        assert_string_equal(steps_of(specs[i], 100, 0, 60), "0:24/0 24:36/24");
        assert_string_equal(steps_of(specs[i], 16, 0, 24), "0:24/0");
        assert_string_equal(steps_of(specs[i], 16, 60, 100), "60:24/60 84:16/84"); /* in every segment */
    }
}

static void windows_overlap_and_go_on_to_the_end(void **state)
{
    (void)state;
    const char *spec = "xwindow:window=16,stride=4,cache=8";
    assert_string_equal(steps_of(spec, 256, 0, 10), "w0:10/0@0"); /* one window, clipped */
    assert_string_equal(steps_of(spec, 256, 0, 16), "w0:16/0@0");
    assert_string_equal(steps_of(spec, 256, 0, 17), "w0:16/0@0 w4:13/16@4"); /* the second is clipped */
    assert_string_equal(steps_of(spec, 1, 0, 25), "w0:16/0@0 w4:16/16@4 w8:16/20@8 w12:13/24@12");
    assert_string_equal(steps_of(spec, 256, 100, 120), "w100:16/100@0 w104:16/116@4"); /* pos0 counts from the segment */
    assert_string_equal(steps_of("xwindow:window=8,stride=8,cache=0", 256, 0, 20), "w0:8/0@0 w8:8/8@8 w16:4/16@16");
}

/* Every position is fed and is fresh once; nothing runs past the segment; no step is longer than promised. */
static void every_position_is_fresh_once(void **state)
{
    (void)state;
    static const char *const specs[] = {"full", "snapkv:cap=5,window=3,prompt=7", "xwindow:window=9,stride=1,cache=1",
                                        "xwindow:window=9,stride=4,cache=30", "xwindow:window=9,stride=9,cache=0"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const kv_policy p = policy_of(specs[i]);
        for (int32_t q = 1; q < 12; q += 5)
            for (int64_t n = 7; n < 60; n++) {
                dt_schedule s = dt_schedule_begin(&p, q, 1000, 1000 + n);
                int64_t done = 1000;
                int32_t longest = 0;
                dt_turn t;
                while (dt_schedule_next(&s, &t)) {
                    assert_true(t.n > 0 && t.at <= t.fresh && t.fresh < t.at + t.n && t.at + t.n <= 1000 + n);
                    assert_int_equal(t.fresh, done);
                    done = t.at + t.n;
                    if (t.n > longest) longest = t.n;
                }
                assert_int_equal(done, 1000 + n);
                assert_int_equal(dt_schedule_longest(&p, q, n), longest);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_of_q_tokens_end_with_a_shorter_one),
        cmocka_unit_test(a_prompt_comes_first_and_alone),
        cmocka_unit_test(windows_overlap_and_go_on_to_the_end),
        cmocka_unit_test(every_position_is_fresh_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
