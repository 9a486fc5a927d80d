/* Metrics of logit rows: against a naive definition in long double, against the order of operations
 * of docs/numerics.md 6 to the bit, and between instruction sets. */
#include "tests/unit/kvtest.h"

#include "common/math.h"
#include "common/rng.h"
#include "difftest/metrics.h"
#include "difftest/vec_metrics.h"

#include <float.h>
#include <math.h>

enum { MAX_VOCAB = 49152 };

static float *ref, *got;

static int set_up(void **state)
{
    (void)state;
    ref = malloc(MAX_VOCAB * sizeof *ref);
    got = malloc(MAX_VOCAB * sizeof *got);
    return ref && got ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free(ref);
    free(got);
    return 0;
}

/* Logits of about the given spread; got = ref with relative noise. */
static void fill(int64_t vocab, uint32_t seed, float spread, float noise)
{
    for (int64_t v = 0; v < vocab; v++) {
        const float u = (float)(kv_philox_word(seed, 0, (uint64_t)v) >> 8) * 0x1p-23f - 1.0f;
        const float e = (float)(kv_philox_word(seed, 1, (uint64_t)v) >> 8) * 0x1p-23f - 1.0f;
        ref[v] = u * spread;
        got[v] = ref[v] + ref[v] * e * noise;
    }
}

/* ---- the naive definition ------------------------------------------------------------------- */

typedef struct naive {
    long double log_sum, max; /* of a row: lp_v = x_v - max - log_sum */
    int32_t top1;
    float second;
} naive;

static naive naive_row(const float *x, int64_t vocab)
{
    naive n = {0, (long double)-INFINITY, 0, -INFINITY};
    for (int64_t v = 0; v < vocab; v++)
        if ((long double)x[v] > n.max) {
            n.max = (long double)x[v];
            n.top1 = (int32_t)v;
        }
    for (int64_t v = 0; v < vocab; v++) {
        n.log_sum += expl((long double)x[v] - n.max);
        if (v != n.top1 && x[v] > n.second) n.second = x[v];
    }
    n.log_sum = logl(n.log_sum);
    return n;
}

static long double naive_kl(const naive *p, const naive *q, int64_t vocab)
{
    long double kl = 0;
    for (int64_t v = 0; v < vocab; v++) {
        const long double lp = (long double)ref[v] - p->max - p->log_sum;
        const long double lq = (long double)got[v] - q->max - q->log_sum;
        kl += expl(lp) * (lp - lq);
    }
    return kl;
}

static void assert_close(double value, long double truth, double tolerance)
{
    const long double error = fabsl((long double)value - truth);
    if (!(error <= (long double)tolerance))
        fail_msg("%.17g instead of %.17g", value, (double)truth);
}

static const int64_t vocabs[] = {1,    2,    5,    63,    64,    65,    260,  4095,
                                 4096, 4097, 9000, 16384, 16389, 32000, 49152};
enum { N_VOCABS = sizeof vocabs / sizeof *vocabs };

static void row_equals_naive_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_VOCABS; i++) {
        const int64_t V = vocabs[i];
        const int32_t target = (int32_t)(V / 3);
        dt_row_metrics m;
        fill(V, 7 + (uint32_t)i, 12.0f, 1e-3f);
        const naive p = naive_row(ref, V), q = naive_row(got, V);
        long double sum_sq = 0, max_abs = 0;
        int64_t max_ulp = 0;
        for (int64_t v = 0; v < V; v++) {
            const long double d = fabsl((long double)got[v] - (long double)ref[v]);
            const int64_t ulp = dt_ulp_distance(ref[v], got[v]);
            sum_sq += d * d;
            max_abs = d > max_abs ? d : max_abs;
            max_ulp = ulp > max_ulp ? ulp : max_ulp;
        }
        dt_metrics_row(ref, got, V, target, &m);
        assert_close(m.nll_ref, -((long double)ref[target] - p.max - p.log_sum), 1e-12);
        assert_close(m.nll_got, -((long double)got[target] - q.max - q.log_sum), 1e-12);
        assert_close(m.kl, naive_kl(&p, &q, V), 1e-12);
        assert_close(m.sum_sq, sum_sq, 1e-12 * (double)sum_sq);
        assert_true(m.max_abs == (double)max_abs);
        assert_int_equal(m.max_ulp, max_ulp);
        assert_int_equal(m.top1_ref, p.top1);
        assert_int_equal(m.top1_got, q.top1);
        assert_true(m.margin_ref == (V > 1 ? (float)p.max - p.second : INFINITY));
        assert_true(m.flags & DT_ROW_DIFFERS);
    }
}

/* ---- the written order ---------------------------------------------------------------------- */

static double ordered_sum_exp(const float *x, int64_t vocab, double max)
{
    double total = 0;
    for (int64_t b = 0; b < vocab; b += 4096) {
        double block = 0;
        for (int64_t v = b; v < vocab && v < b + 4096; v++)
            block += kv_dexp((double)x[v] - max);
        total += block;
    }
    return total;
}

static double ordered_kl(const float *x, double xm, double xs, const float *y, double ym, double ys,
                         int64_t vocab)
{
    double total = 0;
    for (int64_t b = 0; b < vocab; b += 4096) {
        double block = 0;
        for (int64_t v = b; v < vocab && v < b + 4096; v++) {
            const double lp = ((double)x[v] - xm) - xs, lq = ((double)y[v] - ym) - ys;
            block += kv_dexp(lp) * (lp - lq);
        }
        total += block;
    }
    return total;
}

static void assert_same_bits(double a, double b)
{
    if (kv_d2bits(a) != kv_d2bits(b)) fail_msg("%.17g and %.17g differ", a, b);
}

static void check_order(const dt_vec_metrics *vec, int64_t V)
{
    dt_scan s;
    dt_divergence d;
    vec->scan(ref, got, V, &s);
    const double xm = (double)s.top_a.value[0], ym = (double)s.top_b.value[0];
    const double xs = ordered_sum_exp(ref, V, xm), ys = ordered_sum_exp(got, V, ym);
    assert_same_bits(vec->sum_exp(ref, V, xm), xs);
    assert_same_bits(vec->sum_exp(got, V, ym), ys);
    const dt_softmax p = {ref, xm, kv_log_core(xs)}, q = {got, ym, kv_log_core(ys)};
    vec->diverge(&p, &q, V, &d);
    assert_same_bits(d.kl, ordered_kl(ref, xm, p.log_sum, got, ym, q.log_sum, V));
}

static void sums_follow_the_written_order_to_the_bit(void **state)
{
    (void)state;
    const char *const names[] = {"scalar", "avx2"};
    for (int t = 0; t < 2; t++) {
        const dt_vec_metrics *vec = dt_vec_metrics_find(names[t]);
        for (int i = 0; vec && i < N_VOCABS; i++) {
            fill(vocabs[i], 90 + (uint32_t)i, 20.0f, 1e-4f);
            check_order(vec, vocabs[i]);
            fill(vocabs[i], 90 + (uint32_t)i, 2000.0f, 1e-4f); /* most terms underflow to 0 */
            check_order(vec, vocabs[i]);
        }
    }
}

static void instruction_sets_give_the_same_bits(void **state)
{
    (void)state;
    const dt_vec_metrics *a = dt_vec_metrics_find("scalar"), *b = dt_vec_metrics_find("avx2");
    if (!b) kvtest_skip("this CPU has no AVX2");
    const float spreads[] = {1e-40f, 1e-3f, 10.0f, 3e4f, 3e38f};
    for (int i = 0; i < N_VOCABS * 5; i++) {
        const int64_t V = vocabs[i % N_VOCABS];
        dt_scan x, y;
        dt_divergence dx, dy;
        fill(V, 1000 + (uint32_t)i, spreads[i / N_VOCABS], 1e-6f);
        if (V > 70) ref[66] = -0.0f, got[66] = 0.0f;
        a->scan(ref, got, V, &x);
        b->scan(ref, got, V, &y);
        assert_memory_equal(&x, &y, sizeof x);
        const double m = (double)x.top_a.value[0];
        assert_same_bits(a->sum_exp(ref, V, m), b->sum_exp(ref, V, m));
        const dt_softmax p = {ref, m, 1.25}, q = {got, m, 1.5};
        a->diverge(&p, &q, V, &dx);
        b->diverge(&p, &q, V, &dy);
        assert_memory_equal(&dx, &dy, sizeof dx);
    }
}

/* ---- special rows --------------------------------------------------------------------------- */

static void identical_rows_have_no_divergence(void **state)
{
    (void)state;
    dt_row_metrics same, alone;
    fill(5000, 3, 9.0f, 0.0f);
    dt_metrics_row(ref, got, 5000, 17, &same);
    assert_true(same.kl == 0 && same.sum_sq == 0 && same.max_abs == 0 && same.max_ulp == 0);
    assert_int_equal(same.flags, 0);
    assert_same_bits(same.nll_ref, same.nll_got);
    dt_metrics_row(ref, NULL, 5000, 17, &alone);
    assert_int_equal(alone.flags, DT_ROW_ALONE);
    assert_same_bits(alone.nll_ref, same.nll_ref);
}

static void one_changed_bit_is_seen_at_every_place(void **state)
{
    (void)state;
    const int64_t V = 4096 + 77;
    fill(V, 4, 9.0f, 0.0f);
    for (int64_t v = 0; v < V; v += v < 200 ? 1 : 97) {
        dt_row_metrics m;
        const float kept = got[v];
        got[v] = kv_bits2f(kv_f2bits(kept) ^ 1);
        dt_metrics_row(ref, got, V, 0, &m);
        got[v] = kept;
        assert_true(m.flags & DT_ROW_DIFFERS);
        assert_int_equal(m.max_ulp, 1);
    }
}

static void zeros_of_both_signs_are_one_value(void **state)
{
    (void)state;
    dt_row_metrics m;
    fill(300, 5, 9.0f, 0.0f);
    ref[250] = 0.0f;
    got[250] = -0.0f;
    dt_metrics_row(ref, got, 300, 1, &m);
    assert_int_equal(m.flags, DT_ROW_DIFFERS);
    assert_int_equal(m.max_ulp, 0);
    assert_true(m.kl == 0 && m.max_abs == 0);
}

static void ulp_distance_counts_representable_values(void **state)
{
    (void)state;
    assert_int_equal(dt_ulp_distance(1.0f, 1.0f), 0);
    assert_int_equal(dt_ulp_distance(1.0f, nextafterf(1.0f, 2.0f)), 1);
    assert_int_equal(dt_ulp_distance(0.0f, -0.0f), 0);
    assert_int_equal(dt_ulp_distance(0x1p-149f, -0x1p-149f), 2);
    assert_int_equal(dt_ulp_distance(1.0f, 2.0f), 1 << 23);
    assert_int_equal(dt_ulp_distance(FLT_MAX, -FLT_MAX), 2 * INT64_C(0x7f7fffff));
}

static void ties_go_to_the_lowest_index(void **state)
{
    (void)state;
    dt_row_metrics m;
    for (int v = 0; v < 500; v++)
        ref[v] = got[v] = 1.0f;
    ref[300] = ref[90] = 2.0f;
    got[301] = 2.0f;
    dt_metrics_row(ref, got, 500, 0, &m);
    assert_int_equal(m.top1_ref, 90);
    assert_int_equal(m.top1_got, 301);
    assert_true(m.margin_ref == 0.0f);
    assert_true(m.flags & DT_ROW_TOP1);
}

static void top5_is_compared_as_a_set(void **state)
{
    (void)state;
    dt_row_metrics m;
    for (int v = 0; v < 200; v++)
        ref[v] = got[v] = v < 7 ? (float)(20 - v) : -1.0f;
    got[1] = 18.0f;
    got[2] = 19.0f; /* the same five in another order */
    dt_metrics_row(ref, got, 200, 0, &m);
    assert_int_equal(m.flags, DT_ROW_DIFFERS);
    got[5] = 17.5f; /* the sixth overtakes the fifth */
    dt_metrics_row(ref, got, 200, 0, &m);
    assert_int_equal(m.flags, DT_ROW_DIFFERS | DT_ROW_TOP5);
}

/* Of two equal values at the border of the five, the one with the lower index is in. */
static void tie_at_the_border_of_the_top5_goes_to_the_lower_index(void **state)
{
    (void)state;
    const int later[] = {51, 150}; /* of the same 64 values, and of later ones */
    for (int i = 0; i < 2; i++) {
        dt_row_metrics m;
        for (int v = 0; v < 200; v++)
            ref[v] = got[v] = v < 4 ? (float)(20 - v) : -1.0f;
        ref[50] = got[50] = ref[later[i]] = 3.0f;
        got[later[i]] = 2.0f;
        dt_metrics_row(ref, got, 200, 0, &m);
        assert_int_equal(m.flags, DT_ROW_DIFFERS);
        got[50] = 2.5f;
        got[later[i]] = 3.0f;
        dt_metrics_row(ref, got, 200, 0, &m);
        assert_int_equal(m.flags, DT_ROW_DIFFERS | DT_ROW_TOP5);
    }
}

static void non_finite_values_are_flagged_at_every_place(void **state)
{
    (void)state;
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int64_t v = 0; v < 200; v++) {
        dt_row_metrics m;
        fill(200, 6, 5.0f, 1e-5f);
        got[v] = bad[v % 4];
        dt_metrics_row(ref, got, 200, 3, &m);
        assert_true(m.flags & DT_ROW_NONFINITE);
        assert_true(isnan(m.nll_got) && isnan(m.kl) && !isnan(m.nll_ref));
        assert_int_equal(m.top1_got, -1);
        assert_true(m.top1_ref >= 0 && m.max_ulp > 0 && m.max_abs > 0 && m.sum_sq < 1);
        ref[v] = bad[(v + 1) % 4];
        dt_metrics_row(ref, got, 200, 3, &m);
        assert_true(isnan(m.nll_ref) && isnan((double)m.margin_ref) && m.top1_ref == -1);
    }
}

/* Rounding makes the sum of nearly equal rows negative now and then; what is stored is not. */
static void rounding_never_makes_kl_negative(void **state)
{
    (void)state;
    const dt_vec_metrics *vec = dt_vec_metrics_find(NULL);
    int negative = 0;
    for (int v = 0; v < 3000; v++) {
        dt_row_metrics m;
        dt_divergence d;
        fill(3000, 21, 8.0f, 0.0f);
        got[v] = nextafterf(got[v], v & 1 ? 99.0f : -99.0f);
        dt_metrics_row(ref, got, 3000, 0, &m);
        assert_true(m.kl >= 0 && m.kl < 1e-11);
        const double max = (double)ref[m.top1_ref], got_max = (double)got[m.top1_got];
        const dt_softmax p = {ref, max, kv_log_core(vec->sum_exp(ref, 3000, max))};
        const dt_softmax q = {got, got_max, kv_log_core(vec->sum_exp(got, 3000, got_max))};
        vec->diverge(&p, &q, 3000, &d);
        negative += d.kl < 0;
    }
    assert_true(negative > 0);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    enum { ROWS = 37, V = 700 };
    dt_row_metrics one[ROWS], many[ROWS];
    int32_t targets[ROWS];
    fill(ROWS * V, 8, 9.0f, 1e-5f);
    for (int r = 0; r < ROWS; r++)
        targets[r] = r * 11;
    memset(one, 0, sizeof one);
    memset(many, 0, sizeof many);
    dt_metrics_rows(NULL, ref, got, ROWS, V, targets, one);
    for (int threads = 1; threads <= 4; threads++) {
        kv_pool *pool;
        assert_ok(kv_pool_create(threads, &pool));
        dt_metrics_rows(pool, ref, got, ROWS, V, targets, many);
        kv_pool_destroy(pool);
        assert_memory_equal(one, many, sizeof one);
    }
    dt_row_metrics fifth;
    dt_metrics_row(ref + 5 * V, got + 5 * V, V, targets[5], &fifth);
    assert_same_bits(fifth.kl, one[5].kl);
}

/* ---- a case --------------------------------------------------------------------------------- */

static void accumulator_sums_in_order_and_remembers_first_places(void **state)
{
    (void)state;
    dt_acc a;
    dt_acc_init(&a);
    assert_true(isnan(dt_perplexity(a.sum_nll_ref, a.n_tok)) && dt_acc_rms(&a) == 0);
    assert_int_equal(a.first_diff_pos, -1);
    const dt_row_metrics same = {.nll_ref = 1.0, .nll_got = 1.0};
    const dt_row_metrics diff = {.nll_ref = 2.0,
                                 .nll_got = 3.0,
                                 .kl = 0.5,
                                 .max_abs = 2,
                                 .sum_sq = 36,
                                 .max_ulp = 9,
                                 .flags = DT_ROW_DIFFERS};
    const dt_row_metrics flip = {.nll_ref = 3.0,
                                 .nll_got = 5.0,
                                 .kl = 0.25,
                                 .max_abs = 1,
                                 .sum_sq = 4,
                                 .max_ulp = 12,
                                 .flags = DT_ROW_DIFFERS | DT_ROW_TOP1 | DT_ROW_TOP5};
    dt_acc_add(&a, 10, 5, &same);
    dt_acc_add(&a, 11, 5, &diff);
    dt_acc_add(&a, 12, 5, &flip);
    dt_acc_add(&a, 13, 5, &same);
    assert_int_equal(a.n_tok, 4);
    assert_true(a.sum_nll_ref == 7 && a.sum_nll_got == 10 && a.sum_kl == 0.75 && a.max_kl == 0.5);
    assert_true(a.max_abs == 2 && a.max_ulp == 12);
    assert_int_equal(a.max_kl_pos, 11);
    assert_int_equal(a.max_ulp_pos, 12);
    assert_int_equal(a.n_bitexact, 2);
    assert_int_equal(a.n_top1_same, 3);
    assert_int_equal(a.n_top5_same, 3);
    assert_int_equal(a.first_diff_pos, 11);
    assert_int_equal(a.first_top1_pos, 12);
    assert_int_equal(a.first_nonfinite_pos, -1);
    assert_close(dt_acc_rms(&a), sqrtl(40.0L / 20), 1e-15);
    assert_close(dt_perplexity(a.sum_nll_ref, a.n_tok), expl(7.0L / 4), 1e-14);
    assert_close(dt_bits_per_byte(a.sum_nll_ref, 9), 7.0L / 9 / logl(2.0L), 1e-15);
    assert_true(isnan(dt_bits_per_byte(7, 0)));
}

static void accumulator_marks_the_first_non_finite_row(void **state)
{
    (void)state;
    dt_acc a;
    dt_row_metrics m;
    dt_acc_init(&a);
    fill(64, 9, 5.0f, 0.0f);
    dt_metrics_row(ref, got, 64, 0, &m);
    dt_acc_add(&a, 0, 64, &m);
    got[7] = NAN;
    dt_metrics_row(ref, got, 64, 0, &m);
    dt_acc_add(&a, 1, 64, &m);
    assert_int_equal(a.n_nonfinite, 1);
    assert_int_equal(a.first_nonfinite_pos, 1);
    assert_true(isnan(a.sum_nll_got) && !isnan(a.sum_nll_ref));
}

static void unknown_instruction_set_is_refused(void **state)
{
    (void)state;
    assert_null(dt_vec_metrics_find("mmx"));
    assert_non_null(dt_vec_metrics_find("scalar"));
    assert_string_equal(dt_metrics_isa(), dt_vec_metrics_find(NULL)->name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_equals_naive_definition),
        cmocka_unit_test(sums_follow_the_written_order_to_the_bit),
        cmocka_unit_test(instruction_sets_give_the_same_bits),
        cmocka_unit_test(identical_rows_have_no_divergence),
        cmocka_unit_test(one_changed_bit_is_seen_at_every_place),
        cmocka_unit_test(zeros_of_both_signs_are_one_value),
        cmocka_unit_test(ulp_distance_counts_representable_values),
        cmocka_unit_test(ties_go_to_the_lowest_index),
        cmocka_unit_test(top5_is_compared_as_a_set),
        cmocka_unit_test(tie_at_the_border_of_the_top5_goes_to_the_lower_index),
        cmocka_unit_test(non_finite_values_are_flagged_at_every_place),
        cmocka_unit_test(rounding_never_makes_kl_negative),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(accumulator_sums_in_order_and_remembers_first_places),
        cmocka_unit_test(accumulator_marks_the_first_non_finite_row),
        cmocka_unit_test(unknown_instruction_set_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
