/* The pure parts of locate: a mistake is planted in numbers that the test computes by itself, and must be named. */
#include "tests/unit/kvtest.h"

#include "common/math.h"
#include "common/rng.h"
#include "difftest/locate_attn.h"
#include "difftest/locate_calc.h"
#include "difftest/locate_scores.h"
#include "difftest/locate_shrink.h"
#include "difftest/locate_state.h"

#include <float.h>
#include <math.h>

enum { N = 40, STORED = 30, GONE = 2, ALL = N + GONE, D = 16, H = 2, PAIRS = D / 2, POSITIONS = 128 };

/* ---- a view of attention ---------------------------------------------------------------------------------- */

typedef struct view {
    dt_entry entry[ALL];
    double raw[H][ALL][D], k[H][ALL][D], v[H][ALL][D], q[D];
    const double *kp[H], *vp[H];
    float cos[POSITIONS * PAIRS], sin[POSITIONS * PAIRS], ref[D], got[D];
    dt_rotation rotation;
    dt_attn a;
} view;

static double number(uint64_t *seed)
{
    *seed = kv_splitmix64(*seed);
    return (double)(*seed >> 40) / (double)(1 << 23) - 1;
}

/* Softmax over entries 0 .. n-1 with the scores given, values of head kv. */
static void attend(const view *x, const double *s, int n, int kv, double *out)
{
    double most = s[0], sum = 0;
    for (int i = 1; i < n; i++)
        most = fmax(most, s[i]);
    memset(out, 0, D * sizeof *out);
    for (int i = 0; i < n; i++) {
        const double p = kv_dexp(s[i] - most);
        sum += p;
        for (int d = 0; d < D; d++)
            out[d] += p * x->v[kv][i][d];
    }
    for (int d = 0; d < D; d++)
        out[d] /= sum;
}

static void score(const view *x, int kv, double scale, double *s)
{
    for (int i = 0; i < ALL; i++) {
        s[i] = 0;
        for (int d = 0; d < D; d++)
            s[i] += scale * x->q[d] * x->k[kv][i][d];
    }
}

static void narrow(const double *row, float *to)
{
    for (int d = 0; d < D; d++)
        to[d] = (float)row[d];
}

static view *make_view(void)
{
    static view x;
    uint64_t seed = 7;
    double s[ALL], out[D];
    memset(&x, 0, sizeof x);
    for (int i = 0; i < POSITIONS * PAIRS; i++)
        kv_sincos((float)(i / PAIRS) * (float)(1.0 / (1 + i % PAIRS)), &x.sin[i], &x.cos[i]);
    x.rotation = (dt_rotation){.n = POSITIONS, .pairs = PAIRS, .cos = x.cos, .sin = x.sin};
    for (int i = 0; i < ALL; i++) {
        x.entry[i] = (dt_entry){.og = 100 + i,
                                .slot = (i + 11) % STORED,
                                .pos = i,
                                .stored = i < STORED ? i : -1,
                                .row = i < STORED ? -1 : i - STORED};
        for (int h = 0; h < H; h++)
            for (int d = 0; d < D; d++) {
                x.raw[h][i][d] = 2 * number(&seed);
                x.v[h][i][d] = number(&seed);
            }
        for (int h = 0; h < H; h++)
            dt_rotate(&x.rotation, i, 0, D, x.raw[h][i], x.k[h][i]);
    }
    for (int d = 0; d < D; d++)
        x.q[d] = 2 * number(&seed);
    for (int h = 0; h < H; h++) {
        x.kp[h] = &x.k[h][0][0];
        x.vp[h] = &x.v[h][0][0];
    }
    x.a = (dt_attn){.n = N,
                    .n_gone = GONE,
                    .stored = STORED,
                    .D = D,
                    .n_kv = H,
                    .kv = 0,
                    .entry = x.entry,
                    .k = x.kp,
                    .v = x.vp,
                    .q = x.q,
                    .scale = 0.25,
                    .rotation = &x.rotation,
                    .sinks = 4,
                    .raw = 1,
                    .key_gain = 1,
                    .ref = x.ref,
                    .got = x.got};
    score(&x, 0, 0.25, s);
    attend(&x, s, N, 0, out);
    narrow(out, x.ref);
    memcpy(x.got, x.ref, sizeof x.got);
    return &x;
}

static void expect(view *x, const char *op, const char *klass, const char *words)
{
    dt_guess g;
    assert_true(dt_attn_check(&x->a) < 1e-6);
    dt_attn_guess(&x->a, &g);
    if (!g.op || strcmp(g.op, op) != 0 || strcmp(g.klass, klass) != 0 || !strstr(g.text, words))
        fail_msg("%s %s '%s', wanted %s %s '%s'", g.op ? g.op : "nothing", g.klass ? g.klass : "", g.text, op, klass,
                 words);
}

static void an_entry_left_out_is_named(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D];
    for (int j = 0; j < N; j += 13) {
        char words[32];
        score(x, 0, 0.25, s);
        s[j] = -1e30;
        attend(x, s, N, 0, out);
        narrow(out, x->got);
        snprintf(words, sizeof words, "token %d", 100 + j);
        expect(x, "attn", "bug-index", words);
    }
}

static void an_entry_too_many_is_named(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D];
    score(x, 0, 0.25, s);
    attend(x, s, N + 1, 0, out);
    narrow(out, x->got);
    expect(x, "attn", "bug-index", "also sees token 140");
}

static void entries_of_zeros_are_counted(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D], with = 0, without = 0;
    score(x, 0, 0.25, s);
    attend(x, s, N, 0, out);
    for (int i = 0; i < N; i++)
        without += kv_dexp(s[i]);
    with = without + 5;
    for (int d = 0; d < D; d++)
        out[d] *= without / with;
    narrow(out, x->got);
    expect(x, "attn", "bug-index", "5 entries of zeros");
}

static void another_head_is_named(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D];
    score(x, 1, 0.25, s);
    attend(x, s, N, 0, out);
    narrow(out, x->got);
    expect(x, "attn", "bug-index", "reads keys of KV head 1");
}

static void another_scale_is_named(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D];
    score(x, 0, 0.25 * 0.69314718055994531, s);
    attend(x, s, N, 0, out);
    narrow(out, x->got);
    expect(x, "attn", "bug-numeric", "exp2");
    score(x, 0, 0.25 * 1.003, s);
    attend(x, s, N, 0, out);
    narrow(out, x->got);
    expect(x, "attn", "bug-numeric", "1.003 times too large");
}

static void positions_are_named(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D], k[D];
    score(x, 0, 0.25, s);
    for (int i = 4; i < STORED; i++) {
        dt_rotate(&x->rotation, i + 3, 0, D, x->raw[0][i], k);
        s[i] = 0;
        for (int d = 0; d < D; d++)
            s[i] += 0.25 * x->q[d] * k[d];
    }
    attend(x, s, N, 0, out);
    narrow(out, x->got);
    expect(x, "rope", "bug-index", "all stored keys but the sinks are rotated 3 positions too late");
    score(x, 0, 0.25, s);
    for (int i = 0; i < STORED; i++) {
        dt_rotate(&x->rotation, x->entry[i].slot, 0, D, x->raw[0][i], k);
        s[i] = 0;
        for (int d = 0; d < D; d++)
            s[i] += 0.25 * x->q[d] * k[d];
    }
    attend(x, s, N, 0, out);
    narrow(out, x->got);
    expect(x, "rope", "bug-index", "at their slot");
}

static void a_value_of_somebody_else_is_named(void **state)
{
    (void)state;
    view *x = make_view();
    double s[ALL], out[D];
    score(x, 0, 0.25, s);
    int most = 0;
    for (int i = 1; i < STORED; i++)
        if (s[i] > s[most]) most = i;
    memcpy(x->v[1][most], x->v[0][most], sizeof x->v[1][most]); /* kept beside */
    memcpy(x->v[0][most], x->v[0][N + 1], sizeof x->v[0][most]);
    attend(x, s, N, 0, out);
    narrow(out, x->got);
    memcpy(x->v[0][most], x->v[1][most], sizeof x->v[0][most]);
    expect(x, "attn", "stale-read", "gives the value of token 141");
}

static void a_row_that_fits_nothing_has_no_guess(void **state)
{
    (void)state;
    view *x = make_view();
    dt_guess g;
    for (int d = 0; d < D; d++)
        x->got[d] = x->ref[d] + (d % 3 ? 0.25f : -0.5f);
    dt_attn_guess(&x->a, &g);
    assert_null(g.op);
    x->got[3] = (float)NAN;
    dt_attn_guess(&x->a, &g);
    assert_null(g.op);
}

/* ---- scores ----------------------------------------------------------------------------------------------- */

enum { M = 6, STORED_S = 10, N_S = M + STORED_S, HEADS = 4 };

/* h2o's sums, plainly: heads lo .. hi-1 of KV head 0, carried or not. */
static void plain_h2o(const float *q, const double *k, const float *carried, int hi, double *score)
{
    for (int i = 0; i < N_S; i++)
        score[i] = i < STORED_S && carried ? (double)carried[i] : 0;
    for (int h = 0; h < hi; h++)
        for (int r = 0; r < M; r++) {
            double e[N_S], sum = 0;
            for (int i = 0; i <= STORED_S + r; i++) {
                double s = 0;
                for (int d = 0; d < D; d++)
                    s += 0.25 * (double)q[(r * HEADS + h) * D + d] * k[i * D + d];
                sum += e[i] = kv_dexp(s);
            }
            for (int i = 0; i <= STORED_S + r; i++)
                score[i] += e[i] / sum;
        }
}

static void wrong_scores_are_named(void **state)
{
    (void)state;
    static float q[M * HEADS * D], carried[STORED_S];
    static double k[2][N_S * D];
    double right[N_S], wrong[N_S], none[N_S];
    kv_policy p;
    const char *text = NULL;
    uint64_t seed = 3;
    assert_ok(kv_policy_parse("h2o:cap=12", &p));
    for (size_t i = 0; i < sizeof q / sizeof *q; i++)
        q[i] = (float)(2 * number(&seed));
    for (size_t i = 0; i < sizeof k / sizeof(double); i++)
        (&k[0][0])[i] = number(&seed);
    for (int i = 0; i < N_S; i++)
        none[i] = (double)NAN;
    for (int i = 0; i < STORED_S; i++)
        carried[i] = (float)(2 + number(&seed));
    const double *const heads[] = {k[0], k[1]};
    const dt_sums s = {.policy = &p,
                       .n = N_S,
                       .stored = STORED_S,
                       .m = M,
                       .D = D,
                       .n_heads = HEADS,
                       .n_kv = 2,
                       .kv = 0,
                       .q = q,
                       .k = heads,
                       .scale = 0.25,
                       .carried = carried};
    plain_h2o(q, k[0], carried, 2, right);
    const dt_scored ref = {right, none}, got = {wrong, none};
    plain_h2o(q, k[0], carried, 1, wrong);
    assert_string_equal(dt_scores_guess(&s, &ref, &got, &text), "bug-index");
    assert_non_null(strstr(text, "last query head"));
    plain_h2o(q, k[0], NULL, 2, wrong);
    assert_string_equal(dt_scores_guess(&s, &ref, &got, &text), "bug-numeric");
    assert_non_null(strstr(text, "not carried"));
    const dt_scored silent = {none, none};
    assert_null(dt_scores_guess(&s, &ref, &silent, &text)); /* nothing was said */
    memcpy(wrong, right, sizeof wrong);
    assert_null(dt_scores_guess(&s, &ref, &got, &text)); /* nothing is wrong */
    wrong[4] += 1;
    assert_null(dt_scores_guess(&s, &ref, &got, &text)); /* nothing fits */
}

/* ---- decisions -------------------------------------------------------------------------------------------- */

static kv_event event(int kind, int64_t og, int64_t token, int32_t slot, float margin)
{
    return (kv_event){.og = og, .token = token, .layer = 1, .head = -1, .kind = kind, .slot = slot, .margin = margin};
}

static void decisions_are_told_apart(void **state)
{
    (void)state;
    kv_event a[3] = {event(KV_EVENT_ADMIT, 9, 9, 4, kv_inf()), event(KV_EVENT_EVICT, 3, 9, 4, kv_inf()),
                     event(KV_EVENT_ADMIT, 10, 10, 5, kv_inf())},
             b[3];
    const kv_events ref = {a, 3, 3}, got = {b, 3, 3};
    dt_event_diff d;
    dt_verdict v = {0};
    kv_policy p;
    dt_evict_diff diff[4];
    assert_ok(kv_policy_parse("sink:cap=4", &p));
    memcpy(b, a, sizeof b);
    dt_events_compare(&ref, &got, &d);
    assert_null(d.ref);
    assert_int_equal(dt_evict_diffs(&ref, &got, NULL, 0, 0, diff, 4), 0);
    b[1].og = 4;
    dt_blame_events(&p, &ref, &got, NULL, NULL, &d, &v);
    assert_int_equal(d.at, 1);
    assert_string_equal(v.op, "policy");
    assert_string_equal(v.klass, "bug-policy");
    assert_int_equal(dt_evict_diffs(&ref, &got, NULL, 100, 0, diff, 4), 1);
    assert_true(diff[0].pos == 109 && diff[0].ref_victim == 103 && diff[0].got_victim == 104);
    memcpy(b, a, sizeof b);
    b[0].margin = 0; /* not the slot alone */
    b[2].slot = 6;
    dt_events_compare(&ref, &got, &d);
    assert_false(d.only_slot || d.only_margin || d.only_order);
    b[0] = a[0];
    dt_blame_events(&p, &ref, &got, NULL, NULL, &d, &v);
    assert_true(d.only_slot && strstr(v.text, "other slots"));
    memcpy(b, a, sizeof b);
    b[0] = a[1];
    b[1] = a[0];
    dt_blame_events(&p, &ref, &got, NULL, NULL, &d, &v);
    assert_true(d.only_order && strstr(v.text, "another order"));
    memcpy(b, a, sizeof b);
    b[1].margin = 0.5f;
    dt_blame_events(&p, &ref, &got, NULL, NULL, &d, &v);
    assert_true(d.only_margin && strstr(v.text, "margin 0.5"));
}

/* Policies that export no scores: margins that do not differ by one number are another score. */
static void margins_tell_scores_from_choices(void **state)
{
    (void)state;
    kv_event a[3] = {event(KV_EVENT_EVICT, 1, 9, 1, 0.25f), event(KV_EVENT_EVICT, 2, 9, 2, 0.5f),
                     event(KV_EVENT_EVICT, 5, 9, 5, 0.125f)},
             b[3];
    const kv_events ref = {a, 3, 3}, got = {b, 3, 3};
    dt_event_diff d;
    dt_verdict v = {0};
    kv_policy p;
    assert_ok(kv_policy_parse("tova:cap=8", &p));
    memcpy(b, a, sizeof b);
    for (int i = 0; i < 3; i++)
        b[i].margin += 0.125f;
    b[2].og = 6; /* somebody else leaves, and the lowest that stays is another */
    dt_blame_events(&p, &ref, &got, NULL, NULL, &d, &v);
    assert_string_equal(v.op, "policy");
    b[1].margin += 0.125f;
    dt_blame_events(&p, &ref, &got, NULL, NULL, &d, &v);
    assert_string_equal(v.op, "colsum");
}

/* ---- numbers ---------------------------------------------------------------------------------------------- */

static void classes_follow_the_size_of_the_error(void **state)
{
    (void)state;
    float ref[4] = {1, -2, 3, 4}, got[4] = {1, -2, 3, 4};
    got[2] = nextafterf(nextafterf(3, 4), 4);
    assert_string_equal(dt_klass_of(ref, got, 4, 0, "bug-index"), "rounding");
    assert_string_equal(dt_klass_of(ref, got, 4, 1, "bug-index"), "reassoc");
    got[2] = 3.1f;
    assert_string_equal(dt_klass_of(ref, got, 4, 0, "bug-index"), "bug-index");
    assert_string_equal(dt_klass_of(ref, got, 4, 1, "bug-numeric"), "bug-numeric");
    got[2] = (float)INFINITY;
    assert_string_equal(dt_klass_of(ref, got, 4, 1, "bug-numeric"), "nonfinite");
}

static void ulps_are_counted_across_zero(void **state)
{
    (void)state;
    assert_int_equal(dt_ulps(1.0f, 1.0f), 0);
    assert_int_equal(dt_ulps(1.0f, nextafterf(1.0f, 2.0f)), 1);
    assert_int_equal(dt_ulps(0.0f, -0.0f), 0);
    assert_int_equal(dt_ulps(1e-45f, -1e-45f), 2);
}

static void rows_are_wrong_by_bits_or_by_the_references_error(void **state)
{
    (void)state;
    float ref[4] = {1, 2, 3, 4}, truth[4] = {1, 2, 3, 4}, got[4] = {1, 2, 3, 4};
    double bound;
    assert_int_equal(dt_row_wrong(ref, got, NULL, 4, 16, &bound), -1);
    got[3] = nextafterf(4, 5);
    assert_int_equal(dt_row_wrong(ref, got, NULL, 4, 16, &bound), 3);
    assert_int_equal(dt_row_wrong(ref, got, truth, 4, 16, &bound), -1);
    ref[0] = 1.001f; /* the reference's own error: sixteen times that is granted */
    got[1] = 2.01f;
    assert_int_equal(dt_row_wrong(ref, got, truth, 4, 16, &bound), -1);
    assert_int_equal(dt_row_wrong(ref, got, truth, 4, 8, &bound), 1);
    got[1] = 2.02f;
    assert_int_equal(dt_row_wrong(ref, got, truth, 4, 16, &bound), 1);
    assert_true(fabs(bound - 0.008) < 1e-4);
    got[1] = (float)NAN;
    assert_int_equal(dt_row_wrong(ref, got, truth, 4, 16, &bound), 1);
    got[1] = ref[1];
    got[3] = ref[3] = (float)NAN; /* on both sides */
    assert_int_equal(dt_row_wrong(ref, got, NULL, 4, 16, &bound), 0);
}

static void rows_of_logits_are_wrong_beyond_what_is_allowed(void **state)
{
    (void)state;
    float ref[4] = {1, 2, 3, 4}, got[4] = {1, 2.02f, 2.99f, 4}; /* off by 0.0112 */
    assert_int_equal(dt_row_beyond(ref, got, 4, 0.0113), -1);
    assert_int_equal(dt_row_beyond(ref, got, 4, 0.0111), 1);
    got[0] = (float)NAN;
    assert_int_equal(dt_row_beyond(ref, got, 4, DBL_MAX), 0);
    got[0] = (float)INFINITY;
    assert_int_equal(dt_row_beyond(ref, got, 4, DBL_MAX), 0);
}

static void turns_keep_the_length_of_pairs(void **state)
{
    (void)state;
    const float ref[4] = {3, 4, 1, 0}, turned[4] = {4, 3, 0, 1}, longer[4] = {3.3f, 4.4f, 1, 0};
    assert_true(dt_turned(ref, turned, 2, 0) > 0.999);
    assert_true(dt_turned(ref, longer, 2, 0) < 0.1);
}

static void capacities_that_are_not_legal_are_not_tried(void **state)
{
    (void)state;
    kv_policy p, q;
    assert_ok(kv_policy_parse("cascade:cap=32", &p));
    assert_false(dt_policy_with_cap(&p, 6, &q));
    assert_true(dt_policy_with_cap(&p, 8, &q));
    assert_int_equal(q.cascade.window, 2);
    assert_ok(kv_policy_parse("h2o:cap=64,heavy=16", &p));
    assert_true(dt_policy_with_cap(&p, 8, &q));
    assert_true(q.h2o.heavy == 2 && q.h2o.recent == 6);
    assert_ok(kv_policy_parse("full", &p));
    assert_false(dt_policy_with_cap(&p, 8, &q));
    assert_ok(kv_policy_parse("sliding:cap=64,pos=absolute+kivi:residual=32", &p));
    assert_false(dt_policy_with_cap(&p, 8, &q));
}

static void names_of_operations_have_no_twins(void **state)
{
    (void)state;
    for (int i = 0; dt_op_names[i]; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(dt_op_names[i], dt_op_names[j]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_left_out_is_named),
        cmocka_unit_test(an_entry_too_many_is_named),
        cmocka_unit_test(entries_of_zeros_are_counted),
        cmocka_unit_test(another_head_is_named),
        cmocka_unit_test(another_scale_is_named),
        cmocka_unit_test(positions_are_named),
        cmocka_unit_test(a_value_of_somebody_else_is_named),
        cmocka_unit_test(a_row_that_fits_nothing_has_no_guess),
        cmocka_unit_test(wrong_scores_are_named),
        cmocka_unit_test(decisions_are_told_apart),
        cmocka_unit_test(margins_tell_scores_from_choices),
        cmocka_unit_test(classes_follow_the_size_of_the_error),
        cmocka_unit_test(ulps_are_counted_across_zero),
        cmocka_unit_test(rows_are_wrong_by_bits_or_by_the_references_error),
        cmocka_unit_test(rows_of_logits_are_wrong_beyond_what_is_allowed),
        cmocka_unit_test(turns_keep_the_length_of_pairs),
        cmocka_unit_test(capacities_that_are_not_legal_are_not_tried),
        cmocka_unit_test(names_of_operations_have_no_twins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
