/* Rules of other testers: what they say, and what they are known not to see (difftest/judges.h). */
#include "tests/unit/kvtest.h"

#include "common/math.h"
#include "common/rng.h"
#include "difftest/judges.h"

#include <float.h>

enum { N = 4096 };

static float ref[N], got[N];

/* Values of about +-amplitude on both sides. */
static void fill(float amplitude)
{
    for (int i = 0; i < N; i++)
        ref[i] = got[i] = ((float)(kv_philox_word(7, 0, (uint64_t)i) >> 8) * 0x1p-23f - 1.0f) * amplitude;
}

static void equal_outputs_raise_no_alarm(void **state)
{
    (void)state;
    fill(3.0f);
    ref[5] = got[5] = kv_inf();
    assert_int_equal(dt_judge_nmse(ref, got, N), 0);
    assert_int_equal(dt_judge_allclose(ref, got, N), 0);
    ref[5] = got[5] = 1.0f;
    assert_int_equal(dt_judge_flashinfer(ref, got, N), 0);
}

static void nmse_passes_one_wrong_row_of_many(void **state)
{
    (void)state;
    fill(1.0f);
    ref[17] = 0.8f, got[17] = 0.0f; /* one element is lost */
    assert_int_equal(dt_judge_nmse(ref, got, N), 0);
    assert_int_equal(dt_judge_nmse(ref, got, 64), 1);
    assert_int_equal(dt_judge_flashinfer(ref, got, N), 1);
}

static void nmse_is_relative_and_refuses_nan_and_other_infinities(void **state)
{
    (void)state;
    fill(1e-20f);
    for (int i = 0; i < N; i++)
        got[i] = ref[i] * 1.03f;
    assert_int_equal(dt_judge_nmse(ref, got, N), 1); /* 9e-4 whatever the scale */
    fill(1.0f);
    ref[3] = got[3] = kv_nan();
    assert_int_equal(dt_judge_nmse(ref, got, N), 1);
    ref[3] = kv_inf(), got[3] = -kv_inf();
    assert_int_equal(dt_judge_nmse(ref, got, N), 1);
    ref[3] = kv_inf(), got[3] = FLT_MAX;
    assert_int_equal(dt_judge_nmse(ref, got, N), 0);
}

static void nmse_of_an_output_of_zeros_is_an_alarm(void **state)
{
    (void)state;
    fill(1.0f);
    memset(got, 0, sizeof got);
    assert_int_equal(dt_judge_nmse(ref, got, N), 1);
    memset(ref, 0, sizeof ref);
    assert_int_equal(dt_judge_nmse(ref, got, N), 0);
}

static void allclose_has_both_tolerances(void **state)
{
    (void)state;
    const float a[] = {1.0f, 1e-9f, 1000.0f};
    const float near[] = {1.0f + 0x1p-17f, 0.0f, 1000.009f}, far[] = {1.0f + 0x1p-16f, 0.0f, 1000.0f};
    assert_int_equal(dt_judge_allclose(a, near, 3), 0);
    assert_int_equal(dt_judge_allclose(a, far, 3), 1);
    const float small[] = {1e-8f}, zero[] = {0.0f};
    assert_int_equal(dt_judge_allclose(small, zero, 1), 0); /* a hundred per cent off, inside atol */
}

static void allclose_takes_no_nan_and_equal_infinities_only(void **state)
{
    (void)state;
    const float nan[] = {kv_nan()}, inf[] = {kv_inf()}, minus[] = {-kv_inf()}, one[] = {1.0f};
    assert_int_equal(dt_judge_allclose(nan, nan, 1), 1);
    assert_int_equal(dt_judge_allclose(inf, inf, 1), 0);
    assert_int_equal(dt_judge_allclose(inf, minus, 1), 1);
    assert_int_equal(dt_judge_allclose(inf, one, 1), 1);
    assert_int_equal(dt_judge_allclose(one, inf, 1), 1);
}

/* Any output below a hundredth passes as zero, whatever it should have been. */
static void flashinfer_accepts_zeros_for_small_outputs(void **state)
{
    (void)state;
    fill(9.9e-3f);
    memset(got, 0, sizeof got);
    assert_int_equal(dt_judge_flashinfer(ref, got, N), 0);
    assert_int_equal(dt_judge_allclose(ref, got, N), 1);
    fill(2.0f);
    memset(got, 0, sizeof got);
    assert_int_equal(dt_judge_flashinfer(ref, got, N), 1);
}

static void flashinfer_needs_both_errors_at_once(void **state)
{
    (void)state;
    const float large[] = {1000.0f}, off[] = {1009.0f}; /* wrong by 9, 0.9 % */
    assert_int_equal(dt_judge_flashinfer(large, off, 1), 0);
    const float off_more[] = {1011.0f};
    assert_int_equal(dt_judge_flashinfer(large, off_more, 1), 1);
}

/* A comparison with NaN is false, and so no element fails. */
static void flashinfer_passes_a_number_where_the_reference_is_nan(void **state)
{
    (void)state;
    const float nan[] = {kv_nan()}, number[] = {42.0f};
    assert_int_equal(dt_judge_flashinfer(nan, number, 1), 0);
    assert_int_equal(dt_judge_flashinfer(number, nan, 1), 1);
    assert_int_equal(dt_judge_nmse(nan, number, 1), 1);
}

static void fill_samples(dt_sample *a, dt_sample *b, int n, double shift)
{
    memset(a, 0, sizeof *a);
    memset(b, 0, sizeof *b);
    for (int i = 0; i < n; i++) {
        const double x = (double)(kv_philox_word(9, 0, (uint64_t)i) >> 8) * 0x1p-22; /* 0 .. 4, sd 1.15 */
        dt_sample_add(a, x);
        dt_sample_add(b, x + shift);
    }
}

/* The same tokens on both sides, every one of them worse by a tenth of a nat: no alarm, since the spread of the tokens
 * counts as noise. */
static void unpaired_test_misses_what_every_token_shows(void **state)
{
    (void)state;
    dt_sample a, b;
    fill_samples(&a, &b, 500, 0.1);
    assert_int_equal(dt_judge_unpaired(&a, &b), 0);
    fill_samples(&a, &b, 500, 0.3);
    assert_int_equal(dt_judge_unpaired(&a, &b), 1);
    fill_samples(&a, &b, 4000, 0.1);
    assert_int_equal(dt_judge_unpaired(&a, &b), 1);
}

static void unpaired_test_is_silent_about_nan_and_single_values(void **state)
{
    (void)state;
    dt_sample a, b;
    fill_samples(&a, &b, 100, 0.0);
    dt_sample_add(&b, (double)kv_nan());
    assert_int_equal(dt_judge_unpaired(&a, &b), 0);
    fill_samples(&a, &b, 1, 5.0);
    assert_int_equal(dt_judge_unpaired(&a, &b), 0);
}

static void judges_remember_alarms_and_forget_documents(void **state)
{
    (void)state;
    dt_judges j = {0};
    const int32_t targets[64] = {0};
    fill(1.0f);
    dt_judges_rows(&j, ref, got, 64, N / 64, targets);
    assert_int_equal(j.ref.n, 64);
    dt_judges_end_case(&j);
    assert_int_equal(j.ref.n, 0);
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        assert_int_equal(j.alarm[i], 0);
    for (int r = 0; r < 64; r++)
        got[r * 64] -= 3.0f; /* the target of every row becomes unlikely */
    dt_judges_rows(&j, ref, got, 64, N / 64, targets);
    dt_judges_end_case(&j);
    fill(1.0f);
    dt_judges_rows(&j, ref, got, 64, N / 64, targets);
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        assert_int_equal(j.alarm[i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_outputs_raise_no_alarm),
        cmocka_unit_test(nmse_passes_one_wrong_row_of_many),
        cmocka_unit_test(nmse_is_relative_and_refuses_nan_and_other_infinities),
        cmocka_unit_test(nmse_of_an_output_of_zeros_is_an_alarm),
        cmocka_unit_test(allclose_has_both_tolerances),
        cmocka_unit_test(allclose_takes_no_nan_and_equal_infinities_only),
        cmocka_unit_test(flashinfer_accepts_zeros_for_small_outputs),
        cmocka_unit_test(flashinfer_needs_both_errors_at_once),
        cmocka_unit_test(flashinfer_passes_a_number_where_the_reference_is_nan),
        cmocka_unit_test(unpaired_test_misses_what_every_token_shows),
        cmocka_unit_test(unpaired_test_is_silent_about_nan_and_single_values),
        cmocka_unit_test(judges_remember_alarms_and_forget_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
