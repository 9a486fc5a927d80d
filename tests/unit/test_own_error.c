/* The error of a side in units of the reference's own against ref64, as a share of 16, by document and device. */
#include "tests/unit/kvtest.h"

#include "common/policy.h"
#include "difftest/own_error.h"
#include "ref/backend.h"
#include "tests/sides/liar.h"

#include <math.h>

static const kv_backend *liar_honest(void) { return ref_backend(); }

enum { N = 100 };
static kv_model *model;
static int32_t tokens[N];
static kv_backend bounded;

static int set_up(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++)
        tokens[i] = 4 + 32 + i * 37 % 90;
    liar_fill(&bounded, KV_CONTRACT_BOUNDED);
    return kv_model_open("nano", NULL, &model, NULL) == KV_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    kv_model_close(model);
    return 0;
}

/* Logits of the first n tokens in one step; the caller frees them. */
static float *logits_of(const kv_backend *side, int32_t n)
{
    const kv_policy full = {.selection = KV_SEL_FULL, .storage = KV_STORE_F32};
    const kv_open_args args = {.model = model, .policy = &full, .threads = 1, .max_step = n};
    kv_session *s = NULL;
    float *x = malloc((size_t)n * (size_t)model->cfg.vocab_size * sizeof *x);
    assert_non_null(x);
    const kv_step step = {.tokens = tokens, .n = n, .rows = KV_ROWS_ALL, .logits = x};
    assert_ok(side->open(&args, &s));
    assert_ok(side->step(s, &step));
    side->close(s);
    return x;
}

static double ratio(dt_own_error *b, int doc, int device)
{
    const char *why;
    return dt_own_error_ratio(b, doc, device, &why);
}

/* A device whose logits are the reference's times 1 + noise and 1 - noise: its error from the definition. */
static double by_hand(int32_t n, double noise)
{
    float *ref = logits_of(ref_backend(), n), *truth = logits_of(ref64_backend(), n);
    double mine = 0, own = 0;
    for (int64_t i = 0; i < (int64_t)n * model->cfg.vocab_size; i++) {
        const float x = noise != 0 ? ref[i] * (float)(i % 2 ? 1 + noise : 1 - noise) : ref[i];
        mine += pow((double)x - (double)truth[i], 2);
        own += pow((double)ref[i] - (double)truth[i], 2);
    }
    free(ref);
    free(truth);
    assert_true(own > 0);
    return sqrt(mine / own) / 16;
}

static void the_ratio_is_that_of_the_definition(void **state)
{
    (void)state;
    dt_own_error b;
    assert_ok(dt_own_error_init(&b, model, 1, 3, 1));
    static const char *const options[] = {"", "noise=1e-6", "noise=1e-3"};
    static const double noise[] = {0, 1e-6, 1e-3};
    for (int i = 0; i < 3; i++)
        dt_own_error_device(&b, i, &bounded, options[i]);
    assert_ok(dt_own_error_measure(&b, 0, tokens, 40));
    for (int i = 0; i < 3; i++) {
        const double wanted = by_hand(40, noise[i]);
        assert_true(fabs(ratio(&b, 0, i) - wanted) < 1e-9 * wanted);
    }
    assert_true(ratio(&b, 0, 0) == 1.0 / 16);
    assert_true(ratio(&b, 0, 1) < 1 && ratio(&b, 0, 2) > 1);
    dt_own_error_free(&b);
}

static void at_most_64_tokens_are_measured_from_an_empty_cache(void **state)
{
    (void)state;
    dt_own_error b;
    assert_ok(dt_own_error_init(&b, model, 3, 1, 1));
    dt_own_error_device(&b, 0, &bounded, "noise=1e-6");
    assert_ok(dt_own_error_measure(&b, 0, tokens, N));
    assert_ok(dt_own_error_measure(&b, 1, tokens, 64)); /* the same rows, though sessions have been used */
    assert_ok(dt_own_error_measure(&b, 2, tokens, 1));
    assert_true(ratio(&b, 0, 0) == ratio(&b, 1, 0));
    assert_true(fabs(ratio(&b, 0, 0) - by_hand(64, 1e-6)) < 1e-9);
    assert_true(fabs(ratio(&b, 2, 0) - by_hand(1, 1e-6)) < 1e-9);
    dt_own_error_free(&b);
}

static void a_device_that_cannot_be_measured_has_a_reason_and_no_figure(void **state)
{
    (void)state;
    dt_own_error b;
    const char *why;
    assert_ok(dt_own_error_init(&b, model, 2, 4, 1));
    dt_own_error_device(&b, 0, &bounded, "lie=unsupported");
    dt_own_error_device(&b, 1, &bounded, "lie=step,at=10");
    dt_own_error_device(&b, 2, &bounded, "lie=none");
    assert_ok(dt_own_error_measure(&b, 0, tokens, 20));
    for (int i = 0; i < 2; i++) {
        assert_true(isnan(dt_own_error_ratio(&b, 0, i, &why)));
        assert_string_equal(why, "liar: as told");
        assert_true(isnan(dt_own_error_ratio(&b, 1, i, &why)));
    }
    assert_true(ratio(&b, 0, 2) == 1.0 / 16);
    assert_true(isnan(dt_own_error_ratio(&b, 1, 2, &why))); /* another document */
    assert_string_equal(why, "it was not measured");
    assert_true(isnan(dt_own_error_ratio(&b, 0, 3, &why))); /* needs no budget */
    dt_own_error_free(&b);
}

/* The device's logits go where the reference's were: silence must not inherit them. */
static void a_device_that_writes_nothing_has_no_figure(void **state)
{
    (void)state;
    dt_own_error b;
    assert_ok(dt_own_error_init(&b, model, 1, 2, 1));
    dt_own_error_device(&b, 0, &bounded, "lie=mute");
    dt_own_error_device(&b, 1, &bounded, "lie=nan,at=3");
    assert_ok(dt_own_error_measure(&b, 0, tokens, 20));
    assert_true(isnan(ratio(&b, 0, 0)));
    assert_true(isnan(ratio(&b, 0, 1)));
    dt_own_error_free(&b);
}

/* What a follower is told: the decisions that policy full takes by itself. */
static const kv_events *given;

static kv_status compare_follow(kv_session *s, const kv_step *step)
{
    kv_events own = {0};
    kv_step plain = *step;
    plain.follow = NULL;
    plain.events = &own;
    given = step->follow;
    const kv_status st = liar_step(s, &plain);
    assert_non_null(step->follow);
    assert_int_equal(own.n, step->follow->n);
    assert_memory_equal(own.v, step->follow->v, own.n * sizeof *own.v);
    free(own.v);
    return st;
}

static void a_follower_is_told_what_full_decides(void **state)
{
    (void)state;
    kv_backend follower = bounded;
    follower.caps |= KV_CAP_FOLLOW | KV_CAP_NEEDS_FOLLOW;
    follower.step = compare_follow;
    dt_own_error b;
    assert_ok(dt_own_error_init(&b, model, 2, 1, 1));
    dt_own_error_device(&b, 0, &follower, NULL);
    for (int doc = 0; doc < 2; doc++) {
        given = NULL;
        assert_ok(dt_own_error_measure(&b, doc, tokens, 30 - 20 * doc));
        assert_non_null(given);
        assert_true(ratio(&b, doc, 0) == 1.0 / 16);
    }
    dt_own_error_free(&b);
}

static void done_twice_is_fine_and_keeps_the_figures(void **state)
{
    (void)state;
    dt_own_error b;
    assert_ok(dt_own_error_init(&b, model, 1, 1, 1));
    dt_own_error_device(&b, 0, &bounded, NULL);
    assert_ok(dt_own_error_measure(&b, 0, tokens, 20));
    dt_own_error_done(&b);
    dt_own_error_done(&b);
    assert_true(ratio(&b, 0, 0) == 1.0 / 16);
    dt_own_error_free(&b);
    dt_own_error_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ratio_is_that_of_the_definition),
        cmocka_unit_test(at_most_64_tokens_are_measured_from_an_empty_cache),
        cmocka_unit_test(a_device_that_cannot_be_measured_has_a_reason_and_no_figure),
        cmocka_unit_test(a_device_that_writes_nothing_has_no_figure),
        cmocka_unit_test(a_follower_is_told_what_full_decides),
        cmocka_unit_test(done_twice_is_fine_and_keeps_the_figures),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
