/* Optimisers, schedules and first weights: golden values, plain formulas, and what must hold of any seed. */
#include "tests/unit/trainkit.h"

/* ---- schedules -------------------------------------------------------------------------------------------- */

static void schedules_equal_the_golden_ones(void **state)
{
    (void)state;
    json_t *g = trainkit_golden("6_schedules_loader.json");
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(g, "muon_momentum"), key, v)
        assert_near(REF(muon_momentum)(atoi(key), 0.92, 0.99, 1500), json_number_value(v), 1e-15, 0, "momentum %s", key);
    json_object_foreach((json_t *)(uintptr_t)trainkit_at(g, "ttt/lr"), key, v)
        assert_near(5e-4 * REF(ttt_multiplier)(atoi(key), 119, 2380, 0.04), json_number_value(v), 1e-14, 0, "ttt %s", key);
    for (int i = 0; i < 12; i++) {
        char at[32];
        snprintf(at, sizeof at, "ttt_toy/lr/%d", i);
        assert_near(5e-4 * REF(ttt_multiplier)(i, 3, 12, 0.04), trainkit_number(g, at), 1e-14, 0, "toy %d", i);
    }
    static const int64_t plans[][2] = {{9000, 3000}, {4, 3}, {2, 3}};
    static const char *const names[] = {"9000/3000", "4/3", "2/3 (iterations < warmdown)"};
    for (int i = 0; i < COUNT(plans); i++)
        json_object_foreach(json_object_get(json_object_get(g, "lr_mult"), names[i]), key, v)
            assert_near(REF(lr_multiplier)(atoi(key), plans[i][0], plans[i][1]), json_number_value(v), 1e-15, 0, "%s", key);
    json_decref(g);
}

static void schedules_at_their_ends(void **state)
{
    (void)state;
    assert_true(REF(lr_multiplier)(10, 10, 3) == 1);
    assert_true(REF(lr_multiplier)(12, 10, 3) == 1);
    assert_true(REF(lr_multiplier)(9, 10, 0) == 1);
    assert_true(REF(muon_momentum)(0, 0.5, 0.75, 0) == 0.75);
    assert_true(REF(ttt_multiplier)(0, 0, 10, 0.5) == 1);
    assert_true(REF(power)(0.5, 3) == 0.125);
}

/* ---- Newton-Schulz ------------------------------------------------------------------------------------------ */

static void read_matrix(const json_t *m, real *x)
{
    const size_t rows = json_array_size(m), cols = json_array_size(json_array_get(m, 0));
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            x[r * cols + c] = (real)json_number_value(json_array_get(json_array_get(m, r), c));
}

static void ns5_equals_the_golden_matrices(void **state)
{
    (void)state;
    json_t *g = trainkit_golden("4_optimizer.json");
    const char *name;
    json_t *v;
    json_object_foreach(json_object_get(g, "ns5"), name, v) {
        const json_t *in = json_object_get(v, "input");
        const int64_t rows = (int64_t)json_array_size(in), cols = (int64_t)json_array_size(json_array_get(in, 0));
        real x[24], want[24], scratch[2000];
        for (int bf16 = 0; bf16 < 2; bf16++) {
            read_matrix(in, x);
            read_matrix(json_object_get(v, bf16 ? "bf16" : "fp64"), want);
            assert_true(REF(muon_scratch)(rows, cols) <= COUNT(scratch));
            REF(ns5)(trainkit_kernels(), rows, cols, bf16, x, scratch);
            for (int64_t i = 0; i < rows * cols; i++)
                assert_near((double)x[i], (double)want[i], bf16 ? 0 : REF_BITS == 32 ? 2e-6 : 1e-14, 1, "%s, bf16 %d", name, bf16);
        }
    }
    json_object_foreach(json_object_get(g, "ns5_scalar_map"), name, v) {
        /* One singular value of a matrix of norm 1. */
        const double value = atof(name);
        real x[4] = {(real)value, 0, 0, (real)kv_dsqrt(1 - value * value)}, scratch[400];
        REF(ns5)(trainkit_kernels(), 2, 2, 0, x, scratch);
        assert_near((double)x[0], json_number_value(v), REF_BITS == 32 ? 1e-5 : 1e-13, 0, "scalar map of %s", name);
    }
    json_decref(g);
}

/* Bits of Newton-Schulz do not depend on the instruction set. A tall matrix is its transpose, but for the order in which
 * the norm is summed. */
static void ns5_has_the_same_bits_everywhere(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    enum { R = 37, C = 70 };
    real *wide = NULL, *scratch = malloc((size_t)REF(muon_scratch)(R, C) * sizeof *scratch);
    assert_non_null(scratch);
    for (int k = 0; k < tables; k++) {
        real *x = naive_randoms(5, R * C), *y = naive_randoms(5, R * C), *z = naive_randoms(5, R * C);
        REF(ns5)(t[k], R, C, 0, x, scratch);
        for (int i = 0; i < R * C; i++)
            z[i % C * R + i / C] = y[i];
        REF(ns5)(t[k], C, R, 0, z, scratch);
        for (int i = 0; i < R * C; i++)
            assert_near((double)z[i % C * R + i / C], (double)x[i], REF_BITS == 32 ? 1e-5 : 1e-13, 1, "tall");
        free(y);
        free(z);
        if (wide) {
            assert_bits(x, wide, R * C, "%s", t[k]->name);
            free(x);
        } else {
            wide = x;
        }
    }
    free(wide);
    free(scratch);
}

/* ---- AdamW ---------------------------------------------------------------------------------------------------- */

static void adamw_follows_its_formula(void **state)
{
    (void)state;
    kv_train_config c;
    assert_ok(kv_train_preset("nano-a", &c));
    enum { N = 5 };
    real w[N] = {1, -2, (real)0.5, 0, 3}, g[N] = {(real)0.1, (real)-3, 0, (real)1e-4, (real)7}, m[N] = {0}, v[N] = {0};
    double wd[N], md[N] = {0}, vd[N] = {0}, b1 = 1, b2 = 1;
    for (int i = 0; i < N; i++)
        wd[i] = (double)w[i];
    for (int t = 0; t < 4; t++) {
        const ref_step_info s = {.step = t, .multiplier = 0.5};
        REF(adamw)(&c, KV_GOLF_TOKEN, &s, N, g, w, m, v);
        b1 *= 0.9;
        b2 *= 0.95;
        for (int i = 0; i < N; i++) {
            const double lr = 0.035 * 0.5, gi = (double)g[i];
            md[i] = 0.9 * md[i] + (1 - 0.9) * gi;
            vd[i] = 0.95 * vd[i] + (1 - 0.95) * gi * gi;
            wd[i] = wd[i] * (1 - lr * 0.04) - lr / (1 - b1) * md[i] / (kv_dsqrt(vd[i]) / kv_dsqrt(1 - b2) + 1e-8);
            assert_near((double)w[i], wd[i], REF_BITS == 32 ? 1e-6 : 1e-15, 1, "step %d, value %d", t, i);
        }
    }
}

/* ---- a whole step: clipping, groups, average -------------------------------------------------------------------- */

typedef struct rig {
    ref_params ps;
    ref_optim o;
    kv_train_config c;
    kv_buffer scratch[2];
} rig;

static void rig_open(rig *r, kv_pool *pool)
{
    memset(r, 0, sizeof *r);
    assert_ok(kv_train_preset("nano-u", &r->c));
    assert_ok(REF(params_open)(&r->ps, &r->c.model));
    assert_int_equal(r->ps.total, kv_golf_parameters(&r->c.model));
    r->o = (ref_optim){.params = &r->ps, .kernels = trainkit_kernels(), .pool = pool, .scratch = r->scratch};
    real **arrays[] = {&r->o.w, &r->o.g, &r->o.m, &r->o.v, &r->o.ema};
    for (int i = 0; i < COUNT(arrays); i++) {
        *arrays[i] = i < 2 ? naive_randoms((uint64_t)(60 + i), r->ps.total) : calloc((size_t)r->ps.total, sizeof(real));
        assert_non_null(*arrays[i]);
    }
    memcpy(r->o.ema, r->o.w, (size_t)r->ps.total * sizeof(real));
}

static void rig_close(rig *r)
{
    free(r->o.w);
    free(r->o.g);
    free(r->o.m);
    free(r->o.v);
    free(r->o.ema);
    for (int i = 0; i < COUNT(r->scratch); i++)
        kv_buffer_free(&r->scratch[i]);
    REF(params_close)(&r->ps);
}

static void a_step_has_the_same_bits_on_any_number_of_threads(void **state)
{
    (void)state;
    kv_pool *two;
    assert_ok(kv_pool_create(2, &two));
    rig a, b;
    rig_open(&a, NULL);
    rig_open(&b, two);
    for (int i = 0; i < 2; i++) {
        ref_step_info sa = {.step = i, .multiplier = 1, .momentum = 0.95}, sb = sa;
        assert_ok(REF(optim_step)(&a.o, &a.c, &sa));
        assert_ok(REF(optim_step)(&b.o, &b.c, &sb));
        assert_true(sa.norm == sb.norm && sa.clip == sb.clip && sa.clip < 1);
        assert_bits(b.o.w, a.o.w, a.ps.total, "weights after step %d", i);
        assert_bits(b.o.ema, a.o.ema, a.ps.total, "average after step %d", i);
    }
    rig_close(&a);
    rig_close(&b);
    kv_pool_destroy(two);
}

static void clipping_and_the_average_follow_their_formulas(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL);
    const ref_param *p = ref_param_of(&r.ps, KV_ROLE_SMEAR_GATE, 0);
    const real g0 = r.o.g[p->at], w0 = r.o.w[p->at];
    double sum = 0;
    for (int64_t i = 0; i < r.ps.total; i++)
        sum = kv_dfma((double)r.o.g[i], (double)r.o.g[i], sum);
    ref_step_info s = {.step = 0, .multiplier = 1, .momentum = 0.92};
    assert_ok(REF(optim_step)(&r.o, &r.c, &s));
    const real norm = (real)kv_dsqrt(sum), clip = (real)0.3 / (norm + (real)1e-6);
    assert_true(s.norm == (double)norm && s.clip == (double)clip);
    const real g1 = g0 * clip;
    assert_true(r.o.g[p->at] == g1);
    const real want = (real)0.997 * w0 + (real)(1 - 0.997) * r.o.w[p->at];
    assert_true(r.o.ema[p->at] == want);
    rig_close(&r);
}

static void a_gradient_that_is_not_finite_is_named(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL);
    const ref_param *p = ref_param_of(&r.ps, KV_ROLE_ATTN_V, 3);
    r.o.g[p->at + 5] = (real)kv_nan();
    const real before = r.o.w[0];
    ref_step_info s = {.step = 0, .multiplier = 1, .momentum = 0.92};
    assert_refused(REF(optim_step)(&r.o, &r.c, &s), KV_ERR_NONFINITE, "blocks.3.attn.c_v.weight");
    assert_true(r.o.w[0] == before);
    rig_close(&r);
}

static void sgd_follows_its_formula(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, NULL);
    r.c.optimizer = KV_TRAIN_SGD;
    r.c.clip = 0;
    const ref_param *p = ref_param_of(&r.ps, KV_ROLE_ATTN_Q, 1);
    const real g = r.o.g[p->at], lr = (real)(0.025 * 0.5), keep = 1 - (real)(0.025 * 0.5 * 0.04);
    real w = r.o.w[p->at], m = 0;
    for (int i = 0; i < 3; i++) {
        ref_step_info s = {.step = i, .multiplier = 0.5, .momentum = 0.75};
        assert_ok(REF(optim_step)(&r.o, &r.c, &s));
        m = (real)0.75 * m + g;
        w = w * keep - lr * m;
        assert_true(r.o.w[p->at] == w && s.clip == 1);
    }
    rig_close(&r);
}

/* ---- first weights ------------------------------------------------------------------------------------------------ */

static void rows_become_orthonormal(void **state)
{
    (void)state;
    enum { N = 9, M = 17 };
    double a[N * M], before[N * M];
    for (int i = 0; i < N * M; i++)
        before[i] = a[i] = (double)naive_random(3, i);
    for (int i = 0; i < M; i++)
        before[4 * M + i] = a[4 * M + i] = 2 * a[M + i] - a[2 * M + i]; /* nothing of its own */
    REF(orthonormalise)(a, N, M);
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) {
            double dot = 0, own = 0;
            for (int k = 0; k < M; k++) {
                dot += a[i * M + k] * a[j * M + k];
                own += a[i * M + k] * before[i * M + k];
            }
            assert_near(dot, i == j && i != 4, 1e-14, 1, "rows %d and %d", i, j);
            assert_true(i != j || i == 4 || own > 0);
        }
}

static double mean_square(const real *x, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s / (double)n;
}

static void first_weights_have_their_shapes(void **state)
{
    (void)state;
    kv_train_config c;
    ref_params ps;
    assert_ok(kv_train_preset("mini", &c));
    assert_ok(REF(params_open)(&ps, &c.model));
    real *w = calloc((size_t)ps.total, sizeof *w), *again = calloc((size_t)ps.total, sizeof *w);
    assert_true(w && again);
    assert_ok(REF(params_init)(&ps, 7, w));
    assert_ok(REF(params_init)(&ps, 7, again));
    assert_bits(again, w, ps.total, "the same seed");
    const ref_param *e = ref_param_of(&ps, KV_ROLE_TOKEN_EMBD, 0), *q = ref_param_of(&ps, KV_ROLE_ATTN_Q, 2);
    const ref_param *up = ref_param_of(&ps, KV_ROLE_FFN_UP, 1), *bp = ref_param_of(&ps, KV_ROLE_BIGRAM_PROJ, 0);
    const ref_param *o = ref_param_of(&ps, KV_ROLE_ATTN_OUTPUT, 5), *s = ref_param_of(&ps, KV_ROLE_SIDECAR_GATE, 0);
    assert_near(mean_square(w + e->at, e->n), 0.005 * 0.005, 0.02, 0, "embedding");
    assert_near(mean_square(w + q->at, q->n), 1.0 / 128, 1e-6, 0, "queries");     /* orthonormal rows */
    assert_near(mean_square(w + up->at, up->n), 1.0 / 384, 1e-6, 0, "wide inner"); /* orthonormal columns */
    assert_near(mean_square(w + bp->at, bp->n), 1.0 / 3 / 32, 0.05, 0, "bigram projection, small: uniform");
    assert_near(mean_square(w + s->at, s->n), 1.0 / 3 / 128, 0.05, 0, "sidecar: uniform");
    assert_true(mean_square(w + o->at, o->n) == 0);
    assert_ok(REF(params_init)(&ps, 8, again));
    assert_true(naive_differs(w, again, ps.total) >= 0);
    free(w);
    free(again);
    REF(params_close)(&ps);
}

/* ---- late quantisation --------------------------------------------------------------------------------------------- */

static void fake_int6_rounds_rows(void **state)
{
    (void)state;
    const real w[8] = {(real)0.5, -1, 2, (real)0.016, (real)0.01, (real)-0.02, (real)0.03, (real)0.015};
    const real scale[2] = {2 / (real)31, 1 / (real)31}, q[8] = {8, -16, 31, 0, 0, -1, 1, 0};
    real out[8];
    REF(fake_int6)(w, 2, 4, out);
    for (int i = 0; i < 8; i++)
        assert_true(out[i] == q[i] * scale[i / 4]);
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_equal_the_golden_ones),
        cmocka_unit_test(schedules_at_their_ends),
        cmocka_unit_test(ns5_equals_the_golden_matrices),
        cmocka_unit_test(ns5_has_the_same_bits_everywhere),
        cmocka_unit_test(adamw_follows_its_formula),
        cmocka_unit_test(a_step_has_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(clipping_and_the_average_follow_their_formulas),
        cmocka_unit_test(sgd_follows_its_formula),
        cmocka_unit_test(a_gradient_that_is_not_finite_is_named),
        cmocka_unit_test(rows_become_orthonormal),
        cmocka_unit_test(first_weights_have_their_shapes),
        cmocka_unit_test(fake_int6_rounds_rows),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
