/* The trainer behind its door: steps, checkpoints, refusals; fp32 and double. */
#include "tests/unit/kvtest.h"

#include "ref/train/door.h"

#include <unistd.h>

static kv_train_config small_config(void)
{
    kv_train_config c;
    assert_ok(kv_train_parse("model=nano-u\nseq=24\nbatch_tokens=96\niterations=12\nwarmdown=5\nema=0.5\nqat_below=0.3\nmomentum_steps=6",
                             "test", &c));
    return c;
}

static kv_trainer *open_trainer(const kv_trainer_api *api, const kv_train_config *c, int threads)
{
    kv_trainer *t;
    const kv_trainer_args a = {.config = c, .threads = threads};
    assert_ok(api->open(&a, &t));
    return t;
}

/* Windows of step `step`: a short text that repeats. */
static void fill(uint16_t *w, int64_t step, int64_t n, int64_t S)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t x = 0; x <= S; x++)
            w[i * (S + 1) + x] = (uint16_t)(4 + (step * 7 + i * 13 + x * x + x / 3) % 60);
}

static void run(const kv_trainer_api *api, kv_trainer *t, int64_t to)
{
    uint16_t w[4 * 25];
    while (api->steps(t) < to) {
        kv_train_step s = {.windows = w, .n = 4, .multiplier = -1};
        fill(w, api->steps(t), 4, 24);
        const kv_status st = api->step(t, &s);
        if (st != KV_OK) fail_msg("%s: %s", kv_status_name(st), kv_message());
        assert_int_equal(s.step + 1, api->steps(t));
    }
}

static void assert_same_hash(const kv_trainer_api *api, const kv_trainer *a, const kv_trainer *b, int same)
{
    uint8_t x[32], y[32];
    api->hash(a, x);
    api->hash(b, y);
    assert_int_equal(memcmp(x, y, 32) == 0, same);
}

static void check_resume(const kv_trainer_api *api)
{
    const kv_train_config c = small_config();
    kv_trainer *whole = open_trainer(api, &c, 1), *first = open_trainer(api, &c, 2), *second = open_trainer(api, &c, 3);
    run(api, whole, 12);
    run(api, first, 5);
    assert_same_hash(api, whole, first, 0);
    const uint8_t extra[3] = {1, 2, 3};
    char path[600];
    snprintf(path, sizeof path, "%s", kvtest_path("kvtrain-checkpoint"));
    const kv_checkpoint out = {.path = path, .extra = extra, .extra_bytes = 3};
    assert_ok(api->save(first, &out));
    kv_checkpoint in = {.path = path};
    assert_ok(api->load(second, &in));
    assert_int_equal(in.extra_bytes, 3);
    assert_memory_equal(in.extra, extra, 3);
    free((void *)(uintptr_t)in.extra);
    assert_int_equal(api->steps(second), 5);
    assert_same_hash(api, first, second, 1);
    run(api, second, 12);
    assert_same_hash(api, whole, second, 1);
    unlink(path);
    api->close(whole);
    api->close(first);
    api->close(second);
}

static void a_run_goes_on_from_a_checkpoint_with_the_same_bits(void **state)
{
    (void)state;
    check_resume(ref_trainer_door());
    check_resume(ref64_trainer_door());
}

static void damaged_and_foreign_checkpoints_are_refused(void **state)
{
    (void)state;
    const kv_trainer_api *api = ref_trainer_door();
    kv_train_config c = small_config();
    kv_trainer *t = open_trainer(api, &c, 1);
    char path[600];
    snprintf(path, sizeof path, "%s", kvtest_path("kvtrain-damaged"));
    const kv_checkpoint out = {.path = path};
    run(api, t, 2);
    assert_ok(api->save(t, &out));
    size_t n;
    uint8_t *bytes = kvtest_read(path, &n);
    kv_checkpoint in = {.path = path};
    static const size_t flips[] = {0, 8, 12, 16, 30, 45, 300, 5000};
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        bytes[flips[i]] ^= 0x40;
        kvtest_write(path, bytes, n);
        bytes[flips[i]] ^= 0x40;
        const kv_status st = api->load(t, &in);
        assert_true(st == KV_ERR_FORMAT || st == KV_ERR_UNSUPPORTED);
    }
    for (size_t cut = 0; cut < n; cut = cut * 3 + 1) {
        kvtest_write(path, bytes, cut);
        assert_int_equal(api->load(t, &in), KV_ERR_FORMAT);
    }
    kvtest_write(path, bytes, n);
    c.lr[KV_GOLF_MUON] = 0.5;
    kv_trainer *other = open_trainer(api, &c, 1);
    assert_refused(api->load(other, &in), KV_ERR_MISMATCH, "not 'lr_muon = 0.5'");
    api->close(other);
    c = small_config();
    other = open_trainer(ref64_trainer_door(), &c, 1);
    assert_refused(ref64_trainer_door()->load(other, &in), KV_ERR_UNSUPPORTED, "numbers of 4 bytes");
    ref64_trainer_door()->close(other);
    in.path = "/nonexistent/checkpoint";
    assert_int_equal(api->load(t, &in), KV_ERR_IO);
    const kv_checkpoint nowhere = {.path = "/nonexistent/checkpoint"};
    assert_int_equal(api->save(t, &nowhere), KV_ERR_IO);
    free(bytes);
    unlink(path);
    api->close(t);
}

static void the_loss_falls_and_the_average_follows(void **state)
{
    (void)state;
    const kv_trainer_api *api = ref_trainer_door();
    const kv_train_config c = small_config();
    kv_trainer *t = open_trainer(api, &c, 2);
    uint16_t w[4 * 25];
    float first[96], last[96], averaged[96];
    double sums[3] = {0, 0, 0};
    fill(w, 3, 4, 24);
    assert_ok(api->losses(t, w, 4, 0, first));
    run(api, t, 12);
    assert_ok(api->losses(t, w, 4, 0, last));
    assert_ok(api->losses(t, w, 4, 1, averaged));
    for (int i = 0; i < 96; i++) {
        sums[0] += (double)first[i];
        sums[1] += (double)last[i];
        sums[2] += (double)averaged[i];
    }
    assert_true(sums[0] / 96 > 5.4 && sums[0] / 96 < 5.7); /* log 260 = 5.56 */
    assert_true(sums[1] < 0.9 * sums[0] && sums[2] < sums[0] && sums[2] != sums[1]);
    assert_ok(api->losses(t, w + 25, 1, 0, averaged)); /* fewer windows: the same numbers */
    assert_memory_equal(averaged, last + 24, 24 * sizeof(float));
    api->close(t);
}

static void a_model_comes_out_and_goes_in(void **state)
{
    (void)state;
    const kv_trainer_api *api = ref_trainer_door();
    const kv_train_config c = small_config();
    kv_trainer *t = open_trainer(api, &c, 1), *again;
    kv_model *m;
    uint16_t w[4 * 25];
    float a[96], b[96];
    run(api, t, 3);
    assert_ok(api->model(t, 0, &m));
    assert_string_equal(m->name, "nano-u");
    const kv_trainer_args args = {.config = &c, .start = m, .threads = 1};
    assert_ok(api->open(&args, &again));
    fill(w, 1, 4, 24);
    assert_ok(api->losses(t, w, 4, 0, a));
    assert_ok(api->losses(again, w, 4, 0, b));
    assert_memory_equal(a, b, sizeof a);
    kv_model_close(m);
    api->close(t);
    api->close(again);
}

static void gradients_can_be_had_without_a_step(void **state)
{
    (void)state;
    const kv_trainer_api *api = ref_trainer_door();
    const kv_train_config c = small_config();
    const size_t n = (size_t)kv_golf_parameters(&c.model);
    kv_trainer *t = open_trainer(api, &c, 1), *untouched = open_trainer(api, &c, 1);
    float *g = malloc(n * sizeof(float)), *again = malloc(n * sizeof(float)), *m = malloc(n * sizeof(float));
    uint16_t w[4 * 25];
    fill(w, 0, 4, 24);
    kv_train_step s = {.windows = w, .n = 4, .multiplier = -1}, made = s;
    assert_ok(api->gradients(t, &s, g));
    assert_ok(api->gradients(t, &s, again));
    assert_memory_equal(g, again, n * sizeof *g);
    assert_same_hash(api, t, untouched, 1);
    assert_ok(api->step(t, &made));
    assert_true(made.loss == s.loss && made.used == s.used);
    assert_ok(api->read(t, KV_TRAINER_FIRST, m));
    assert_true(m[0] == (float)(1 - c.beta1) * (g[0] * (float)made.clip)); /* AdamW's, of the token table */
    assert_ok(api->read(t, KV_TRAINER_WEIGHTS, g));
    assert_ok(api->read(untouched, KV_TRAINER_WEIGHTS, again));
    assert_true(memcmp(g, again, n * sizeof *g) != 0);
    free(g);
    free(again);
    free(m);
    api->close(t);
    api->close(untouched);
}

static void bad_batches_are_refused(void **state)
{
    (void)state;
    const kv_trainer_api *api = ref_trainer_door();
    const kv_train_config c = small_config();
    kv_trainer *t = open_trainer(api, &c, 1);
    uint16_t w[4 * 25];
    fill(w, 0, 4, 24);
    kv_train_step s = {.windows = w, .n = 5, .multiplier = -1};
    assert_refused(api->step(t, &s), KV_ERR_USAGE, "1 to 4");
    w[30] = 260;
    s.n = 4;
    assert_refused(api->step(t, &s), KV_ERR_FORMAT, "token 260");
    assert_int_equal(api->steps(t), 0);
    api->close(t);
    kv_trainer *none;
    const kv_trainer_args a = {.config = &c, .threads = 1, .options = "isa=mmx"}, b = {.config = &c, .threads = 1, .options = "mmx"};
    assert_refused(api->open(&a, &none), KV_ERR_USAGE, "mmx");
    assert_refused(api->open(&b, &none), KV_ERR_USAGE, "unknown option 'mmx'");
}

static void the_multiplier_of_test_time_training(void **state)
{
    (void)state;
    const kv_trainer_api *api = ref_trainer_door();
    assert_true(api->ttt_multiplier(0, 10, 100, 0.04) == 0.1);
    assert_true(api->ttt_multiplier(10, 10, 100, 0.04) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_goes_on_from_a_checkpoint_with_the_same_bits),
        cmocka_unit_test(damaged_and_foreign_checkpoints_are_refused),
        cmocka_unit_test(the_loss_falls_and_the_average_follows),
        cmocka_unit_test(a_model_comes_out_and_goes_in),
        cmocka_unit_test(gradients_can_be_had_without_a_step),
        cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(the_multiplier_of_test_time_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
