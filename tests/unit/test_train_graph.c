/* Loss and gradients of a batch: golden values of the presets A, B and U, finite differences, and the bits of a session.
 * test_train_graph64.c runs the same cases in double. */
#include "tests/unit/refkit.h"
#include "tests/unit/trainkit.h"

#include "ref/train/graph.h"

/* A model with weights, gradients and a graph of its own. */
typedef struct rig {
    kv_model *model;
    ref_params ps;
    ref_graph gr;
    real *w, *g;
    int32_t tokens[128], targets[128];
} rig;

/* The golden text: 95 inputs, then their targets. */
static int32_t golden_token(int64_t i)
{
    if (i >= 60 && i < 72) i -= 40;
    return (int32_t)(i % 40 == 0 ? 1 : 4 + (5 * i * i + 3 * i + i / 7) % 251);
}

static void rig_open_with(rig *r, const char *name, int64_t S, int64_t sequences, kv_pool *pool, const ref_kernels *k)
{
    memset(r, 0, sizeof *r);
    r->model = refkit_model(name);
    assert_ok(REF(params_open)(&r->ps, &r->model->cfg));
    r->w = calloc((size_t)r->ps.total, sizeof *r->w);
    r->g = malloc((size_t)r->ps.total * sizeof *r->g);
    assert_true(r->w && r->g);
    memset(r->g, 0xff, (size_t)r->ps.total * sizeof *r->g); /* NaN: every gradient must be written */
    assert_ok(REF(params_read)(&r->ps, r->model, r->w));
    assert_ok(REF(graph_open)(&r->gr, &r->ps, k, pool, S, sequences, r->w, r->g));
    for (int64_t i = 0; i < S * sequences; i++) {
        r->tokens[i] = golden_token(i);
        r->targets[i] = golden_token(i + 1);
    }
}

static void rig_open(rig *r, const char *name, int64_t S, int64_t sequences)
{
    rig_open_with(r, name, S, sequences, NULL, trainkit_kernels());
}

static void rig_close(rig *r)
{
    REF(graph_close)(&r->gr);
    REF(params_close)(&r->ps);
    free(r->w);
    free(r->g);
    kv_model_close(r->model);
}

static const char *const presets[][2] = {{"A", "nano-a"}, {"B", "nano-b"}, {"U", "nano-u"}};

/* ---- golden gradients ------------------------------------------------------------------------------------------ */

static void check_tensor(const char *name, const json_t *t, const real *g, int64_t n, double limit)
{
    double l2 = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        l2 += (double)g[i] * (double)g[i];
        sum += (double)g[i];
    }
    l2 = kv_dsqrt(l2);
    const double size = trainkit_number(t, "l2"), typical = size / kv_dsqrt((double)n);
    assert_near(l2, size, limit, 1e-12, "l2 of %s", name);
    assert_near(sum, trainkit_number(t, "sum"), limit, size * kv_dsqrt((double)n), "sum of %s", name);
    const json_t *first = json_object_get(t, "first"), *other = json_object_get(t, "other");
    for (size_t i = 0; i < json_array_size(first); i++)
        assert_near((double)g[i], json_number_value(json_array_get(first, i)), limit * 10, typical, "value %zu of %s", i, name);
    const int64_t at[2] = {2 * n / 3, n - 1};
    for (size_t i = 0; i < 2; i++)
        assert_near((double)g[at[i]], json_number_value(json_array_get(other, i)), limit * 10, typical, "value %lld of %s",
                    (long long)at[i], name);
}

static void gradients_equal_the_golden_ones(void **state)
{
    (void)state;
    json_t *root = trainkit_golden("3_gradients.json");
    for (int i = 0; i < COUNT(presets); i++) {
        const json_t *want = trainkit_at(root, presets[i][0]);
        rig r;
        double loss;
        rig_open(&r, presets[i][1], 95, 1);
        assert_ok(REF(graph_gradients)(&r.gr, r.tokens, r.targets, &loss));
        assert_near(loss, trainkit_number(want, "loss"), REF_BITS == 32 ? 1e-6 : 1e-13, 0, "loss of %s", presets[i][1]);
        for (int32_t p = 0; p < r.ps.n; p++) {
            char name[KV_TENSOR_NAME_MAX];
            const ref_param *t = &r.ps.p[p];
            REF(param_name)(&r.ps, t, name);
            const json_t *tensor = json_object_get(json_object_get(want, "tensors"), name);
            if (!tensor) fail_msg("the golden file has no gradient of %s", name);
            if (t->role == KV_ROLE_LOCAL_V && ref_layer_in(r.ps.cfg.xsa_layer_mask, t->layer)) {
                assert_true(r.g[t->at] == 0 && r.g[t->at + t->n - 1] == 0);
                continue;
            }
            check_tensor(name, tensor, r.g + t->at, t->n, REF_BITS == 32 ? 2e-5 : 1e-12);
        }
        rig_close(&r);
    }
    json_decref(root);
}

/* ---- finite differences ------------------------------------------------------------------------------------------- */

#if REF_BITS == 64
#    if defined __SANITIZE_ADDRESS__
enum { EVERY = 32 }; /* all of them would take many minutes; numbers are judged by the other build */
#    else
enum { EVERY = 1 };
#    endif

static double loss_at(rig *r, const int64_t *at, const double *by, int64_t n, double h)
{
    double loss, old[64];
    for (int64_t i = 0; i < n; i++) {
        old[i] = r->w[at[i]];
        r->w[at[i]] = old[i] + h * by[i];
    }
    assert_ok(REF(graph_loss)(&r->gr, r->tokens, r->targets, &loss));
    for (int64_t i = n; i-- > 0;)
        r->w[at[i]] = old[i];
    return loss;
}

/* Slope along a direction, with the error of order h^4. */
static double slope(rig *r, const int64_t *at, const double *by, int64_t n, double h)
{
    const double near = loss_at(r, at, by, n, h) - loss_at(r, at, by, n, -h);
    const double far = loss_at(r, at, by, n, 2 * h) - loss_at(r, at, by, n, -2 * h);
    return (8 * near - far) / (12 * h);
}

static void gradients_equal_finite_differences(void **state)
{
    (void)state;
    rig r;
    double loss;
    rig_open(&r, "nano-u", 19, 2);
    assert_ok(REF(graph_gradients)(&r.gr, r.tokens, r.targets, &loss));
    for (int32_t p = 0; p < r.ps.n; p += EVERY) {
        const ref_param *t = &r.ps.p[p];
        char name[KV_TENSOR_NAME_MAX];
        int64_t at[64];
        double by[64], want = 0;
        REF(param_name)(&r.ps, t, name);
        const int n = t->n < 40 ? (int)t->n : 40;
        for (int i = 0; i < n; i++) { /* a direction through up to 40 entries */
            at[i] = t->at + (t->n <= 40 ? i : (int64_t)(kv_splitmix64((uint64_t)(p * 64 + i)) % (uint64_t)t->n));
            by[i] = i % 3 == 0 ? 1 : i % 3 == 1 ? -0.5 : 0.25;
            for (int k = 0; k < i; k++)
                if (at[k] == at[i]) by[i] = 0;
            want += by[i] * r.g[at[i]];
        }
        assert_near(slope(&r, at, by, n, 1e-4), want, 1e-5, 1e-5, "%s along a direction", name);
        for (int i = 0; i < 3; i++) {
            const double one = 1;
            assert_near(slope(&r, &at[i % n], &one, 1, 1e-4), r.g[at[i % n]], 1e-5, 1e-4, "%s, entry %lld", name,
                        (long long)(at[i % n] - t->at));
        }
    }
    rig_close(&r);
}
#endif

/* ---- bits ---------------------------------------------------------------------------------------------------------- */

/* Loss token by token against a session under `full`; two sequences do not see each other. */
static void losses_have_the_bits_of_a_session(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(presets); i++) {
        rig r;
        double loss;
        rig_open(&r, presets[i][1], 50, 2);
        assert_ok(REF(graph_loss)(&r.gr, r.tokens, r.targets, &loss));
        for (int s = 0; s < 2; s++) {
            refkit k = refkit_open(REF_BITS == 32 ? ref_backend() : ref64_backend(), r.model, "full");
            float nll[50];
            const kv_step step = {.tokens = r.tokens + 50 * s, .n = 50, .rows = KV_ROWS_ALL, .nll = nll, .targets = r.targets + 50 * s};
            assert_side(&k, k.side->step(k.s, &step));
            for (int t = 0; t < 50; t++)
                if (kv_f2bits(nll[t]) != kv_f2bits((float)r.gr.nll[50 * s + t]))
                    fail_msg("%s, sequence %d, token %d: nll %.9g, not %.9g", presets[i][1], s, t, (double)r.gr.nll[50 * s + t],
                             (double)nll[t]);
            refkit_close(&k);
        }
        rig_close(&r);
    }
}

static void gradients_have_the_same_bits_everywhere(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    kv_pool *three;
    assert_ok(kv_pool_create(3, &three));
    rig first, other;
    double loss, again;
    rig_open(&first, "nano-u", 40, 3);
    assert_ok(REF(graph_gradients)(&first.gr, first.tokens, first.targets, &loss));
    for (int k = 0; k < tables; k++) {
        rig_open_with(&other, "nano-u", 40, 3, k % 2 ? NULL : three, t[k]);
        assert_ok(REF(graph_gradients)(&other.gr, other.tokens, other.targets, &again));
        assert_true(loss == again);
        assert_bits(other.g, first.g, first.ps.total, "%s", t[k]->name);
        rig_close(&other);
    }
    rig_close(&first);
    kv_pool_destroy(three);
}

/* The mean over a batch is the mean over its sequences: a batch of the same sequence twice has the gradient of one. */
static void a_batch_is_the_mean_of_its_sequences(void **state)
{
    (void)state;
    rig one, two;
    double a, b;
    rig_open(&one, "nano-b", 33, 1);
    rig_open(&two, "nano-b", 33, 2);
    memcpy(two.tokens + 33, two.tokens, 33 * sizeof *two.tokens);
    memcpy(two.targets + 33, two.targets, 33 * sizeof *two.targets);
    assert_ok(REF(graph_gradients)(&one.gr, one.tokens, one.targets, &a));
    assert_ok(REF(graph_gradients)(&two.gr, two.tokens, two.targets, &b));
    assert_near(a, b, REF_BITS == 32 ? 1e-6 : 1e-14, 0, "loss");
    for (int32_t p = 0; p < one.ps.n; p++) {
        const ref_param *t = &one.ps.p[p];
        double diff = 0, size = 0;
        for (int64_t i = t->at; i < t->at + t->n; i++) {
            diff += ((double)one.g[i] - (double)two.g[i]) * ((double)one.g[i] - (double)two.g[i]);
            size += (double)one.g[i] * (double)one.g[i];
        }
        if (!(kv_dsqrt(diff) <= (REF_BITS == 32 ? 3e-5 : 1e-12) * kv_dsqrt(size) + 1e-12))
            fail_msg("tensor %d differs by %g of %g", p, kv_dsqrt(diff), kv_dsqrt(size));
    }
    rig_close(&one);
    rig_close(&two);
}

static void a_loss_that_is_not_finite_is_named(void **state)
{
    (void)state;
    rig r;
    double loss;
    rig_open(&r, "nano-a", 8, 2);
    r.w[r.tokens[11] * r.ps.cfg.d_model] = (real)kv_nan();
    assert_refused(REF(graph_gradients)(&r.gr, r.tokens, r.targets, &loss), KV_ERR_NONFINITE, "token");
    rig_close(&r);
}

/* ---- optimiser ------------------------------------------------------------------------------------------------------ */

typedef struct trainer {
    rig r;
    ref_optim o;
    kv_train_config c;
    kv_buffer scratch[1];
    real *before;
} trainer;

static void trainer_open(trainer *t, const char *preset, int64_t S)
{
    memset(t, 0, sizeof *t);
    rig_open(&t->r, preset, S, 1);
    assert_ok(kv_train_preset(preset, &t->c));
    t->o = (ref_optim){.params = &t->r.ps, .kernels = trainkit_kernels(), .w = t->r.w, .g = t->r.g, .scratch = t->scratch};
    real **arrays[] = {&t->o.m, &t->o.v, &t->o.ema, &t->before};
    for (int i = 0; i < COUNT(arrays); i++) {
        *arrays[i] = calloc((size_t)t->r.ps.total, sizeof(real));
        assert_non_null(*arrays[i]);
    }
    memcpy(t->o.ema, t->o.w, (size_t)t->r.ps.total * sizeof(real));
    memcpy(t->before, t->o.w, (size_t)t->r.ps.total * sizeof(real));
}

static void trainer_close(trainer *t)
{
    free(t->o.m);
    free(t->o.v);
    free(t->o.ema);
    free(t->before);
    kv_buffer_free(&t->scratch[0]);
    rig_close(&t->r);
}

static double norm_of(const real *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return kv_dsqrt(sum);
}

/* Norm, sum and single entries (as far as the digest has them) of a tensor whose distance from the golden one is at most
 * `limit` in L2. */
static void check_digest(const real *x, int64_t n, const json_t *digest, double limit, const char *name, int step)
{
    const json_t *first = json_object_get(digest, "first"), *other = json_object_get(digest, "other");
    const int64_t at[2] = {2 * n / 3, n - 1};
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    assert_near(norm_of(x, n), trainkit_number(digest, "l2"), limit, 1, "step %d: l2 of %s", step, name);
    assert_near(sum, trainkit_number(digest, "sum"), limit * kv_dsqrt((double)n), 1, "step %d: sum of %s", step, name);
    for (size_t i = 0; i < json_array_size(first); i++)
        assert_near((double)x[i], json_number_value(json_array_get(first, i)), limit, 1, "step %d: value %zu of %s", step, i, name);
    for (size_t i = 0; i < json_array_size(other); i++)
        assert_near((double)x[at[i]], json_number_value(json_array_get(other, i)), limit, 1, "step %d: value %lld of %s", step,
                    (long long)at[i], name);
}

/* How far a tensor has moved. */
static double moved_by(const trainer *t, const ref_param *e)
{
    double sum = 0;
    for (int64_t i = e->at; i < e->at + e->n; i++)
        sum += ((double)t->o.w[i] - (double)t->before[i]) * ((double)t->o.w[i] - (double)t->before[i]);
    return kv_dsqrt(sum);
}

/* Digests of weights or averages x; in fp32 within a share of how far the tensor has moved. */
static void check_tensors(const trainer *t, const real *x, const json_t *want, double share, int step)
{
    for (int32_t p = 0; p < t->r.ps.n; p++) {
        const ref_param *e = &t->r.ps.p[p];
        char name[KV_TENSOR_NAME_MAX];
        REF(param_name)(&t->r.ps, e, name);
        if (e->role == KV_ROLE_LOCAL_V && ref_layer_in(t->r.ps.cfg.xsa_layer_mask, e->layer)) continue;
        check_digest(x + e->at, e->n, trainkit_at(want, name), REF_BITS == 32 ? share * moved_by(t, e) + 1e-6 : 1e-11, name, step);
    }
}

/* The average follows a change slowly. */
static const double weights_share = 2e-4, average_share = 2e-6;

/* Muon's first update, taken back out of the weights: w = before - lr (decay * before + update). */
static void check_updates(const trainer *t, const json_t *want)
{
    const double lr = t->c.lr[KV_GOLF_MUON], decay = t->c.weight_decay[KV_GOLF_MUON];
    for (int32_t p = 0; p < t->r.ps.n; p++) {
        const ref_param *e = &t->r.ps.p[p];
        char name[KV_TENSOR_NAME_MAX];
        double sum = 0;
        if (kv_golf_group_of(e->role) != KV_GOLF_MUON) continue;
        REF(param_name)(&t->r.ps, e, name);
        for (int64_t i = e->at; i < e->at + e->n; i++) {
            const double u = ((double)t->before[i] * (1 - lr * decay) - (double)t->o.w[i]) / lr;
            sum += u * u;
        }
        assert_near(kv_dsqrt(sum), trainkit_number(want, name), REF_BITS == 32 ? 1e-4 : 1e-11, 0, "update of %s", name);
    }
}

/* Loss of the model as it is. */
static double loss_of(trainer *t)
{
    double loss;
    assert_ok(REF(graph_loss)(&t->r.gr, t->r.tokens, t->r.targets, &loss));
    return loss;
}

static void steps_equal_the_golden_ones(void **state)
{
    (void)state;
    json_t *root = trainkit_golden("4_optimizer.json");
    for (int i = 0; i < COUNT(presets); i++) {
        char path[64];
        snprintf(path, sizeof path, "presets/%s/fp64", presets[i][0]);
        const json_t *steps = trainkit_at(root, path);
        const double close = REF_BITS == 32 ? 2e-5 : 1e-12;
        trainer t;
        trainer_open(&t, presets[i][1], 95);
        for (int s = 0; s < 3; s++) {
            const json_t *want = json_array_get(steps, (size_t)s);
            ref_step_info info = {.step = s, .multiplier = REF(lr_multiplier)(s, 4, 3), .momentum = REF(muon_momentum)(s, 0.92, 0.99, 4)};
            double loss;
            assert_ok(REF(graph_gradients)(&t.r.gr, t.r.tokens, t.r.targets, &loss));
            assert_near(loss, trainkit_number(want, "loss_before"), close, 0, "step %d: loss", s);
            assert_near(info.multiplier, trainkit_number(want, "lr_mult"), 1e-15, 0, "multiplier");
            assert_near(info.momentum, trainkit_number(want, "muon_momentum"), 1e-15, 0, "momentum");
            assert_ok(REF(optim_step)(&t.o, &t.c, &info));
            assert_near(info.norm, trainkit_number(want, "grad_norm"), close, 0, "step %d: norm", s);
            assert_near(info.clip, trainkit_number(want, "clip_coef"), close, 0, "step %d: clip", s);
            check_tensors(&t, t.o.w, trainkit_at(want, "params"), weights_share, s);
            check_tensors(&t, t.o.ema, trainkit_at(want, "ema"), average_share, s);
            if (s == 0) check_updates(&t, trainkit_at(want, "muon_update_l2"));
        }
        snprintf(path, sizeof path, "presets/%s/loss_after_3", presets[i][0]);
        assert_near(loss_of(&t), trainkit_number(root, path), REF_BITS == 32 ? 2e-4 : 1e-12, 0, "loss after three steps");
        trainer_close(&t);
    }
    json_decref(root);
}

/* Matrices after one step whose Newton-Schulz was rounded to bf16: within a hundredth of their change. */
static void check_rounded(const trainer *t, const json_t *want)
{
    const char *name;
    json_t *digest;
    int32_t found = 0;
    json_object_foreach((json_t *)(uintptr_t)want, name, digest) {
        for (int32_t p = 0; p < t->r.ps.n; p++) {
            const ref_param *e = &t->r.ps.p[p];
            char ours[KV_TENSOR_NAME_MAX];
            REF(param_name)(&t->r.ps, e, ours);
            if (strcmp(name, ours) != 0) continue;
            check_digest(t->o.w + e->at, e->n, digest, 1e-2 * moved_by(t, e), name, 0);
            found++;
        }
    }
    assert_int_equal(found, json_object_size(want));
}

/* Newton-Schulz rounded to bf16 is fragile: a last bit flips roundings. Loosely. */
static void steps_with_bf16_are_near_the_golden_ones(void **state)
{
    (void)state;
    json_t *root = trainkit_golden("4_optimizer.json");
    for (int i = 0; i < COUNT(presets); i++) {
        char path[64];
        trainer t;
        trainer_open(&t, presets[i][1], 95);
        t.c.ns5_bf16 = 1;
        for (int s = 0; s < 3; s++) {
            ref_step_info info = {.step = s, .multiplier = REF(lr_multiplier)(s, 4, 3), .momentum = REF(muon_momentum)(s, 0.92, 0.99, 4)};
            double loss;
            assert_ok(REF(graph_gradients)(&t.r.gr, t.r.tokens, t.r.targets, &loss));
            snprintf(path, sizeof path, "presets/%s/ns5_bf16/losses_before/%d", presets[i][0], s);
            assert_near(loss, trainkit_number(root, path), 1e-2, 0, "step %d: loss", s);
            assert_ok(REF(optim_step)(&t.o, &t.c, &info));
            snprintf(path, sizeof path, "presets/%s/ns5_bf16/grad_norms/%d", presets[i][0], s);
            assert_near(info.norm, trainkit_number(root, path), 1e-2, 0, "step %d: norm", s);
            snprintf(path, sizeof path, "presets/%s/ns5_bf16/muon_params_after_1", presets[i][0]);
            if (s == 0) check_rounded(&t, trainkit_at(root, path));
        }
        snprintf(path, sizeof path, "presets/%s/ns5_bf16/loss_after_3", presets[i][0]);
        assert_near(loss_of(&t), trainkit_number(root, path), 1e-2, 0, "loss after three steps");
        trainer_close(&t);
    }
    json_decref(root);
}

static void test_time_training_equals_the_golden_one(void **state)
{
    (void)state;
    json_t *root = trainkit_golden("4_optimizer.json");
    for (int i = 0; i < COUNT(presets); i++) {
        char path[64];
        snprintf(path, sizeof path, "presets/%s/ttt", presets[i][0]);
        const json_t *ttt = trainkit_at(root, path), *steps = json_object_get(ttt, "steps");
        const double close = REF_BITS == 32 ? 2e-5 : 1e-12;
        trainer t;
        trainer_open(&t, presets[i][1], 32);
        t.c.optimizer = KV_TRAIN_ADAMW;
        t.c.clip = 1;
        t.c.beta2 = 0.999;
        for (int g = 0; g < KV_TRAIN_GROUPS; g++) {
            t.c.lr[g] = 5e-4;
            t.c.weight_decay[g] = 0.01;
        }
        for (int s = 0; s < 6; s++) {
            const json_t *want = json_array_get(steps, (size_t)s);
            ref_step_info info = {.step = s, .multiplier = REF(ttt_multiplier)(s, 2, 6, 0.04)};
            int32_t tokens[33];
            double loss;
            for (int k = 0; k < 33; k++)
                tokens[k] = golden_token(s % 2 * 32 + k);
            assert_ok(REF(graph_gradients)(&t.r.gr, tokens, tokens + 1, &loss));
            assert_near(loss, trainkit_number(want, "loss_before"), close, 0, "step %d: loss", s);
            assert_near(5e-4 * info.multiplier, trainkit_number(want, "lr"), 1e-14, 0, "lr");
            assert_ok(REF(optim_step)(&t.o, &t.c, &info));
            assert_near(info.norm, trainkit_number(want, "grad_norm"), close, 0, "step %d: norm", s);
            assert_near(info.clip, trainkit_number(want, "clip_coef"), close, 0, "step %d: clip", s);
        }
        check_tensors(&t, t.o.w, json_object_get(ttt, "params"), weights_share, 6);
        trainer_close(&t);
    }
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_equal_the_golden_ones),
#if REF_BITS == 64
        cmocka_unit_test(gradients_equal_finite_differences),
#endif
        cmocka_unit_test(losses_have_the_bits_of_a_session),
        cmocka_unit_test(gradients_have_the_same_bits_everywhere),
        cmocka_unit_test(a_batch_is_the_mean_of_its_sequences),
        cmocka_unit_test(a_loss_that_is_not_finite_is_named),
        cmocka_unit_test(steps_equal_the_golden_ones),
        cmocka_unit_test(steps_with_bf16_are_near_the_golden_ones),
        cmocka_unit_test(test_time_training_equals_the_golden_one),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
