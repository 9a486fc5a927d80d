/* What `kvdiff run` was asked to do: defaults, and lists of devices whose options contain the comma that
 * separates them. */
#include "tests/unit/kvtest.h"

#include "difftest/options.h"

static void devices(const char *text, const char *wanted)
{
    dt_list l = {0};
    char got[400] = "";
    assert_ok(dt_list_add_devices(&l, text));
    for (int i = 0; i < l.n; i++) {
        strcat(got, i ? " | " : "");
        strcat(got, l.v[i]);
        free(l.v[i]);
    }
    free(l.v);
    assert_string_equal(got, wanted);
}

static void a_list_of_devices_is_split_at_its_commas(void **state)
{
    (void)state;
    devices("blas", "blas");
    devices("blas,emu", "blas | emu");
    devices("blas,emu,./my.so", "blas | emu | ./my.so");
    devices("none", "none");
}

static void options_stay_with_the_device_in_front_of_them(void **state)
{
    (void)state;
    devices("emu:seed=3", "emu:seed=3");
    devices("emu:seed=3,slow=1", "emu:seed=3,slow=1");
    devices("blas,emu:seed=3,slow=1,./my.so", "blas | emu:seed=3,slow=1 | ./my.so");
    devices("emu:seed=1,emu:seed=2", "emu:seed=1 | emu:seed=2");
    devices("cuda:exact,emu:seed=2,blas", "cuda:exact | emu:seed=2 | blas");
    devices("ref:isa=scalar,ref64:isa=avx2", "ref:isa=scalar | ref64:isa=avx2");
    devices("./a=b.so:x=1,y=2,blas", "./a=b.so:x=1,y=2 | blas");
}

static void an_empty_name_in_the_list_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"", ",", ",blas", "blas,,emu", "blas,"};
    for (int i = 0; i < 5; i++) {
        dt_list l = {0};
        assert_refused(dt_list_add_devices(&l, texts[i]), KV_ERR_USAGE, "an empty name in the list");
        for (int k = 0; k < l.n; k++)
            free(l.v[k]);
        free(l.v);
    }
}

static void a_list_grows_in_the_order_of_its_additions(void **state)
{
    (void)state;
    dt_options o;
    dt_options_init(&o);
    assert_ok(dt_list_add_devices(&o.devices, "blas,emu"));
    assert_ok(dt_list_add_devices(&o.devices, "ref"));
    assert_ok(dt_list_add(&o.corpora, "book and more", 4));
    assert_int_equal(o.devices.n, 3);
    assert_string_equal(o.devices.v[2], "ref");
    assert_string_equal(o.corpora.v[0], "book");
    dt_options_free(&o);
    assert_int_equal(o.devices.n, 0);
}

static void defaults_are_the_documented_ones(void **state)
{
    (void)state;
    dt_options o;
    dt_options_init(&o);
    assert_string_equal(o.model, "novel");
    assert_int_equal(o.q, 256);
    assert_int_equal(o.digest_every, 64);
    assert_int_equal(o.tokens, 0);
    assert_int_equal(o.mode, DT_MODE_FREE);
    assert_int_equal(o.keep, DT_KEEP_ALL);
    assert_int_equal(o.window, 0);
    assert_true(o.threads >= 1);
    assert_false(o.allow_long || o.all_events);
    assert_null(o.device_model);
    dt_options_free(&o);
}

static void modes_have_names(void **state)
{
    (void)state;
    assert_string_equal(dt_mode_name(DT_MODE_FREE), "free");
    assert_string_equal(dt_mode_name(DT_MODE_LOCKED), "locked");
    assert_string_equal(dt_mode_name(DT_MODE_FOLLOW), "follow");
    assert_string_equal(dt_mode_name(-1), "?");
    assert_string_equal(dt_mode_name(DT_MODE_COUNT), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_of_devices_is_split_at_its_commas),
        cmocka_unit_test(options_stay_with_the_device_in_front_of_them),
        cmocka_unit_test(an_empty_name_in_the_list_is_refused),
        cmocka_unit_test(a_list_grows_in_the_order_of_its_additions),
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(modes_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
