/* Batches that come ahead (gpu/train/batch.cuh): what arrives on the device is what a step without a hint would have copied,
 * and a trainer's bits do not know of hints: right ones, wrong ones, impossible ones. */
#include "tests/emu/emutest.h"

#include "common/trainer.h"
#include "gpu/train/batch.cuh"

using namespace emutest;

extern "C" const kv_trainer_api *kv_trainer_entry(uint32_t abi);

namespace
{
enum { SEQ = 24, WINDOWS = 4, STEPS = 3 };

kv_train_config small_config(const char *more = "")
{
    kv_train_config c;
    const std::string text = std::string("model=nano-u\nseq=24\nbatch_tokens=96\niterations=12\nlr_token=0.5\nlr_muon=0.3\n") + more;
    assert_ok(kv_train_parse(text.c_str(), "test", &c));
    return c;
}

/* Windows number `which`. */
std::vector<uint16_t> windows_of(int which)
{
    std::vector<uint16_t> w;
    for (int i = 0; i < WINDOWS; i++)
        for (int x = 0; x <= SEQ; x++) w.push_back((uint16_t)(4 + (which * 7 + i * 13 + x * x + x / 3) % 60));
    return w;
}

/* ---- the batches ---- */

void append(const int32_t *device, size_t n, const stream &on, std::vector<int32_t> *all)
{
    std::vector<int32_t> v(n);
    assert_ok(gpu_copy_down(v.data(), device, n * sizeof(int32_t), on.s));
    on.finish();
    all->insert(all->end(), v.begin(), v.end());
}

/* All that the kernels can see of a batch. */
std::vector<int32_t> contents(const gpu_batch &b, const kv_config &model, const stream &on)
{
    const size_t n = (size_t)b.tokens();
    std::vector<int32_t> all;
    append(b.ids(), n, on, &all);
    append(b.targets(), n, on, &all);
    append(b.token_uses().start, (size_t)model.vocab_size + 1, on, &all);
    append(b.token_uses().list, n, on, &all);
    if (!model.bigram_rows) return all;
    append(b.hashes(), n, on, &all);
    append(b.bigram_uses().start, (size_t)model.bigram_rows + 1, on, &all);
    append(b.bigram_uses().list, n, on, &all);
    return all;
}

/* The same by definition. */
void append_uses(const std::vector<int32_t> &rows, int32_t n_rows, std::vector<int32_t> *all)
{
    std::vector<int32_t> list;
    for (int32_t r = 0; r < n_rows; r++) {
        all->push_back((int32_t)list.size());
        for (size_t t = 0; t < rows.size(); t++)
            if (rows[t] == r) list.push_back((int32_t)t);
    }
    all->push_back((int32_t)list.size());
    all->insert(all->end(), list.begin(), list.end());
}

std::vector<int32_t> definition(const uint16_t *w, int64_t n, const kv_config &model)
{
    std::vector<int32_t> ids, targets, hashes;
    for (int64_t i = 0; i < n; i++, w += SEQ + 1)
        for (int32_t x = 0; x < SEQ; x++) {
            ids.push_back(w[x]);
            targets.push_back(w[x + 1]);
            if (!model.bigram_rows) continue;
            const int32_t mixed = x ? model.bigram_mul_cur * w[x] ^ model.bigram_mul_prev * w[x - 1] : 0;
            hashes.push_back(x == 0 ? model.bigram_rows - 1 : mixed % (model.bigram_rows - 1));
        }
    std::vector<int32_t> all = ids;
    all.insert(all.end(), targets.begin(), targets.end());
    append_uses(ids, model.vocab_size, &all);
    if (!model.bigram_rows) return all;
    all.insert(all.end(), hashes.begin(), hashes.end());
    append_uses(hashes, model.bigram_rows, &all);
    return all;
}

/* Batches and the stream that works on them. */
struct desk {
    explicit desk(const char *more = "") : config(small_config(more)), batches(config, on.s) { assert_ok(batches.open()); }

    void prefetch(int which, int64_t n = WINDOWS)
    {
        std::vector<uint16_t> w = windows_of(which);
        assert_ok(batches.prefetch(w.data(), n));
        w.assign(w.size(), 3); /* it has been read */
    }
    /* takes windows; they were found waiting, or not */
    void take(int which, bool found, int64_t n = WINDOWS)
    {
        const std::vector<uint16_t> w = windows_of(which);
        const gpu_batch *b;
        const int64_t before = batches.found();
        assert_ok(batches.take(w.data(), n, &b));
        assert_int_equal(batches.found() - before, found);
        assert_int_equal(b->tokens(), n * SEQ);
        if (contents(*b, config.model, on) != definition(w.data(), n, config.model)) fail_msg("batch %d is another one", which);
    }

    const stream on;
    const kv_train_config config;
    gpu_batches batches;
};

void test_a_batch_that_was_announced_is_there(void **)
{
    for (const char *more : {"", "bigram_rows=0\nbigram_dim=0\n"}) {
        desk d(more);
        d.take(0, false);
        d.prefetch(1);
        for (int step = 1; step < 6; step++) { /* as a run does: the next one is announced before the step */
            d.prefetch(step + 1);
            d.take(step, true);
        }
        d.take(6, true);
        d.take(6, false); /* taken is taken */
    }
}

void test_what_waits_goes_on_waiting(void **)
{
    desk d;
    d.prefetch(1);
    for (int other = 10; other < 14; other++) d.take(other, false);
    d.prefetch(2);
    d.prefetch(2); /* said twice */
    d.take(1, true);
    d.take(20, false);
    d.take(2, true);
}

void test_a_wrong_announcement_is_no_batch(void **)
{
    desk d;
    d.prefetch(1);
    d.prefetch(2);
    d.take(3, false); /* in the place of the older one */
    d.take(1, false);
    d.take(2, true);
    d.prefetch(4, 2);
    d.take(4, false);
    d.prefetch(5);
    d.take(5, false, 3);
    d.take(5, true);
    std::vector<uint16_t> w = windows_of(6);
    const gpu_batch *b;
    w.back()++; /* a single token, the last */
    assert_ok(d.batches.prefetch(w.data(), WINDOWS));
    d.take(6, false);
    assert_ok(d.batches.take(w.data(), WINDOWS, &b));
    assert_int_equal(d.batches.found(), 3);
    assert_ok(d.batches.prefetch(w.data(), 0));
    assert_ok(d.batches.prefetch(w.data(), WINDOWS + 1));
    assert_ok(d.batches.prefetch(w.data(), INT64_MAX));
    d.prefetch(7);
    w.back() = (uint16_t)d.config.model.vocab_size;
    assert_ok(d.batches.prefetch(w.data(), WINDOWS));
    assert_int_equal(d.batches.take(w.data(), WINDOWS, &b), KV_ERR_FORMAT);
    assert_int_equal(d.batches.take(w.data(), 0, &b), KV_ERR_USAGE);
    assert_int_equal(d.batches.take(w.data(), INT64_MAX, &b), KV_ERR_USAGE);
    d.take(7, true);
}

/* ---- the trainer ---- */

/* What steps leave behind: losses and norms of all, nll of a text, hash of the weights. */
struct outcome {
    std::vector<double> numbers;
    std::vector<float> nll;
    uint8_t sha[32];
};

typedef void hint(const kv_trainer_api *api, kv_trainer *t, int step);

void announce(const kv_trainer_api *api, kv_trainer *t, int which, int64_t n = WINDOWS)
{
    const std::vector<uint16_t> w = windows_of(which);
    assert_ok(api->prefetch(t, w.data(), n));
}

void run_steps(const char *options, hint *before_step, outcome *out)
{
    const kv_trainer_api *const api = kv_trainer_entry(KV_TRAINER_ABI);
    const kv_train_config config = small_config();
    kv_trainer_args a = {};
    kv_trainer *t;
    a.config = &config;
    a.threads = 2;
    a.options = options;
    assert_ok(api->open(&a, &t));
    for (int i = 0; i < STEPS; i++) {
        const std::vector<uint16_t> w = windows_of(i);
        kv_train_step s = {};
        s.windows = w.data();
        s.n = WINDOWS;
        s.multiplier = -1;
        before_step(api, t, i);
        assert_ok(api->step(t, &s));
        out->numbers.insert(out->numbers.end(), {s.loss, s.norm, s.clip, s.used});
    }
    const std::vector<uint16_t> w = windows_of(50);
    out->nll.resize(WINDOWS * SEQ);
    assert_ok(api->losses(t, w.data(), WINDOWS, 1, out->nll.data()));
    assert_ok(api->hash(t, out->sha));
    api->close(t);
}

void none(const kv_trainer_api *, kv_trainer *, int) {}
void right(const kv_trainer_api *api, kv_trainer *t, int step) { announce(api, t, step + 1); }
void late(const kv_trainer_api *api, kv_trainer *t, int step) { announce(api, t, step); }
void wrong(const kv_trainer_api *api, kv_trainer *t, int step) { announce(api, t, 30 + step); }
void shorter(const kv_trainer_api *api, kv_trainer *t, int step) { announce(api, t, step, 1 + step % 3); }
void impossible(const kv_trainer_api *api, kv_trainer *t, int step)
{
    std::vector<uint16_t> w = windows_of(step + 1);
    assert_ok(api->prefetch(t, w.data(), WINDOWS + 1));
    w[3] = 65535;
    assert_ok(api->prefetch(t, w.data(), WINDOWS));
}

/* Right ones, with a validation and gradients of other windows in between. */
void disturbed(const kv_trainer_api *api, kv_trainer *t, int step)
{
    const std::vector<uint16_t> w = windows_of(40 + step);
    const kv_train_config config = small_config();
    std::vector<float> nll(WINDOWS * SEQ), g((size_t)kv_golf_parameters(&config.model));
    kv_train_step s = {};
    s.windows = w.data();
    s.n = 2;
    s.multiplier = -1;
    announce(api, t, step + 1);
    assert_ok(api->losses(t, w.data(), WINDOWS, 0, nll.data()));
    assert_ok(api->gradients(t, &s, g.data()));
}

void test_steps_do_not_know_of_announcements(void **)
{
    static const struct {
        const char *name;
        hint *f;
    } hints[] = {{"right", right},     {"late", late},           {"wrong", wrong},
                 {"shorter", shorter}, {"impossible", impossible}, {"disturbed", disturbed}};
    outcome wanted;
    run_steps(nullptr, none, &wanted);
    for (const auto &h : hints) {
        outcome got;
        run_steps("seed=3", h.f, &got);
        if (got.numbers != wanted.numbers || memcmp(got.sha, wanted.sha, 32) != 0) fail_msg("%s announcements change the steps", h.name);
        assert_bits(got.nll, wanted.nll, h.name, 3);
    }
}

/* Training may go on behind the end of its schedule: there the rates are whole again. */
void test_the_schedule_ends(void **)
{
    const kv_trainer_api *const api = kv_trainer_entry(KV_TRAINER_ABI);
    const kv_train_config config = small_config("iterations=3\nwarmdown=2\n");
    const double wanted[] = {1, 1, 0.5, 1, 1};
    const std::vector<uint16_t> w = windows_of(0);
    kv_trainer_args a = {};
    kv_trainer *t;
    a.config = &config;
    a.threads = 1;
    assert_ok(api->open(&a, &t));
    for (const double multiplier : wanted) {
        kv_train_step s = {};
        s.windows = w.data();
        s.n = WINDOWS;
        s.multiplier = -1;
        assert_ok(api->step(t, &s));
        assert_true(s.used == multiplier);
    }
    api->close(t);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_batch_that_was_announced_is_there),
        cmocka_unit_test(test_what_waits_goes_on_waiting),
        cmocka_unit_test(test_a_wrong_announcement_is_no_batch),
        cmocka_unit_test(test_steps_do_not_know_of_announcements),
        cmocka_unit_test(test_the_schedule_ends),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
