/* The floating-point state: flush-to-zero and other rounding modes are found and put right. */
#include "tests/unit/kvtest.h"

#include "common/fpenv.h"

#include <fenv.h>

static int subnormals_survive(void)
{
    volatile float tiny = 1e-38f, tenth = 0.1f;
    return tiny * tenth != 0.0f;
}

static void the_default_state_passes(void **state)
{
    (void)state;
    assert_ok(kv_fpenv_check("at start"));
    feraiseexcept(FE_INEXACT | FE_UNDERFLOW); /* sticky flags are no change of state */
    assert_ok(kv_fpenv_check("with sticky flags"));
}

static void another_rounding_mode_is_found_and_put_right(void **state)
{
    (void)state;
    fesetround(FE_UPWARD);
    assert_refused(kv_fpenv_check("after loading x.so"), KV_ERR_INTERNAL, "after loading x.so");
    volatile float one = 1.0f, tiny = 1e-10f;
    assert_true(one + tiny == 1.0f);
    assert_ok(kv_fpenv_check("again"));
}

#if defined(__x86_64__)
#    include <xmmintrin.h>

static void flush_to_zero_and_denormals_are_zero_are_found_and_put_right(void **state)
{
    (void)state;
    const unsigned bits[] = {0x8000 /* FTZ */, 0x0040 /* DAZ */, 0x8040};
    for (int i = 0; i < 3; i++) {
        _mm_setcsr(_mm_getcsr() | bits[i]);
        assert_refused(kv_fpenv_check("after loading x.so"), KV_ERR_INTERNAL, "flush-to-zero");
        assert_true(subnormals_survive());
        assert_ok(kv_fpenv_check("again"));
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_state_passes),
        cmocka_unit_test(another_rounding_mode_is_found_and_put_right),
#if defined(__x86_64__)
        cmocka_unit_test(flush_to_zero_and_denormals_are_zero_are_found_and_put_right),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
