/* What the rows of a side with a bound are granted: the reference moved by the whole bound of each operation. */
#include "tests/unit/kvtest.h"

#include "common/math.h"
#include "difftest/budget.h"
#include "ref/backend.h"

#include <math.h>

enum { N = 300 };
static kv_model *model;
static int32_t tokens[N];

static int set_up(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++)
        tokens[i] = 4 + 32 + i * 37 % 90;
    return kv_model_open("nano", NULL, &model, NULL) == KV_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    kv_model_close(model);
    return 0;
}

static double rows(dt_budget *b, int doc, kv_storage storage, int64_t n)
{
    double allowed = (double)NAN;
    assert_ok(dt_budget_rows(b, doc, storage, tokens, n, &allowed));
    return allowed;
}

static double alone(kv_storage storage, int64_t n)
{
    dt_budget b;
    assert_ok(dt_budget_init(&b, model, 1, 1));
    const double allowed = rows(&b, 0, storage, n);
    dt_budget_free(&b);
    return allowed;
}

/* Logits of a side under policy full in steps of four tokens; the caller frees them. */
static float *logits_of(const kv_backend *side, kv_storage storage, int32_t n)
{
    const kv_policy full = {.selection = KV_SEL_FULL, .storage = storage};
    const kv_open_args args = {.model = model, .policy = &full, .threads = 1, .max_step = 4};
    const int64_t V = model->cfg.vocab_size;
    kv_session *s = NULL;
    float *x = malloc((size_t)(n * V) * sizeof *x);
    assert_non_null(x);
    assert_ok(side->open(&args, &s));
    for (int32_t at = 0; at < n; at += 4) {
        const kv_step step = {.tokens = tokens + at, .n = n - at < 4 ? n - at : 4, .rows = KV_ROWS_ALL, .logits = x + at * V};
        assert_ok(side->step(s, &step));
    }
    side->close(s);
    return x;
}

/* Largest root mean square of a row's difference between two sides. */
static double apart(const kv_backend *a, kv_storage sa, const kv_backend *b, kv_storage sb, int32_t n)
{
    float *x = logits_of(a, sa, n), *y = logits_of(b, sb, n);
    const int64_t V = model->cfg.vocab_size;
    double worst = 0;
    for (int32_t r = 0; r < n; r++) {
        double sum = 0;
        for (int64_t i = r * V; i < (r + 1) * V; i++)
            sum += pow((double)x[i] - (double)y[i], 2);
        worst = fmax(worst, sqrt(sum / (double)V));
    }
    free(x);
    free(y);
    assert_true(worst > 0);
    return worst;
}

static void the_whole_bound_is_more_than_rounding_and_less_than_a_bug(void **state)
{
    (void)state;
    const double allowed = alone(KV_STORE_F32, N);
    const double rounding = apart(ref_backend(), KV_STORE_F32, ref64_backend(), KV_STORE_F32, 16);
    assert_true(allowed > 10 * rounding);
    assert_true(allowed < 1000 * rounding);
}

static void a_document_is_measured_once_and_by_its_own_tokens(void **state)
{
    (void)state;
    dt_budget b;
    assert_ok(dt_budget_init(&b, model, 3, 1));
    const double first = rows(&b, 0, KV_STORE_F32, N);
    assert_true(rows(&b, 1, KV_STORE_F32, 16) == first); /* the same 16 rows */
    assert_true(rows(&b, 2, KV_STORE_F32, 1) != first);
    const uint64_t calls = b.calls;
    for (int i = 0; i < N; i++)
        tokens[i]++;
    assert_true(rows(&b, 0, KV_STORE_F32, N) == first); /* nobody looked */
    assert_int_equal(b.calls, calls);
    dt_budget_free(&b);
    assert_true(alone(KV_STORE_F32, N) != first);
    for (int i = 0; i < N; i++)
        tokens[i]--;
    assert_true(alone(KV_STORE_F32, N) == first); /* and the same bits again */
}

static void a_storage_of_16_bits_is_granted_its_own_rounding_twice(void **state)
{
    (void)state;
    const double plain = alone(KV_STORE_F32, N);
    static const kv_storage halves[] = {KV_STORE_F16, KV_STORE_BF16};
    for (int i = 0; i < 2; i++) {
        const double rounding = apart(ref_backend(), KV_STORE_F32, ref_backend(), halves[i], 256);
        const double wanted = plain + 2 * rounding;
        assert_true(fabs(alone(halves[i], N) - wanted) < 1e-12 * wanted);
    }
    assert_true(alone(KV_STORE_KIVI, N) == plain);
    assert_true(alone(KV_STORE_KVARN, N) == plain);
}

/* The measured session takes turns: with everything moved, and as it is. */
static void storages_of_one_document_do_not_disturb_each_other(void **state)
{
    (void)state;
    dt_budget b;
    assert_ok(dt_budget_init(&b, model, 1, 1));
    const double bf16 = rows(&b, 0, KV_STORE_BF16, 40), f32 = rows(&b, 0, KV_STORE_F32, 40);
    dt_budget_free(&b);
    assert_true(bf16 == alone(KV_STORE_BF16, 40));
    assert_true(f32 == alone(KV_STORE_F32, 40));
}

static void the_factor_is_what_operations_may_do_in_errors_of_the_reference(void **state)
{
    (void)state;
    dt_budget b;
    double factor;
    const double own = apart(ref_backend(), KV_STORE_F32, ref64_backend(), KV_STORE_F32, 16);
    assert_ok(dt_budget_init(&b, model, 1, 1));
    assert_ok(dt_budget_factor(&b, 0, tokens, N, &factor));
    assert_true(fabs(factor - rows(&b, 0, KV_STORE_F32, N) / own) < 1e-9 * factor);
    dt_budget_free(&b);
}

static void nothing_is_granted_without_tokens(void **state)
{
    (void)state;
    assert_true(alone(KV_STORE_F32, 0) == 0);
}

/* ---- steps ------------------------------------------------------------------------------------------------ */

static const kv_event admit = {.kind = KV_EVENT_ADMIT}, seal = {.kind = KV_EVENT_SEAL};

static int holds(dt_bound *b, int64_t at, const kv_event *last, int tie, int locked)
{
    kv_event list[2] = {admit, *last};
    const kv_events e = {.v = list, .n = 2};
    return dt_bound_holds(b, at, &e, tie, locked);
}

static void rows_are_held_until_the_first_code(void **state)
{
    (void)state;
    dt_bound b = dt_bound_begin(1);
    assert_true(holds(&b, 0, &admit, 0, 0));
    assert_false(holds(&b, 16, &admit, 1, 0)); /* a legal tie, here only */
    assert_true(holds(&b, 32, &admit, 0, 0));
    assert_false(holds(&b, 48, &seal, 0, 0));
    assert_false(holds(&b, 64, &admit, 0, 0));
    assert_true(holds(&b, 32, &admit, 0, 0)); /* who goes back sees what was */
    assert_false(holds(&b, 48, &admit, 0, 0));
}

static void locked_steps_that_make_no_code_are_held(void **state)
{
    (void)state;
    dt_bound b = dt_bound_begin(1);
    assert_false(holds(&b, 48, &seal, 0, 1));
    assert_true(holds(&b, 64, &admit, 0, 1));
}

static void nobody_is_held_to_nothing(void **state)
{
    (void)state;
    dt_bound b = dt_bound_begin((double)NAN);
    assert_false(holds(&b, 0, &admit, 0, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_bound_is_more_than_rounding_and_less_than_a_bug),
        cmocka_unit_test(a_document_is_measured_once_and_by_its_own_tokens),
        cmocka_unit_test(a_storage_of_16_bits_is_granted_its_own_rounding_twice),
        cmocka_unit_test(storages_of_one_document_do_not_disturb_each_other),
        cmocka_unit_test(the_factor_is_what_operations_may_do_in_errors_of_the_reference),
        cmocka_unit_test(nothing_is_granted_without_tokens),
        cmocka_unit_test(rows_are_held_until_the_first_code),
        cmocka_unit_test(locked_steps_that_make_no_code_are_held),
        cmocka_unit_test(nobody_is_held_to_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
