/* The loader: its arithmetic against the family's worked examples, and batches that depend on the
 * arguments alone: not on paths, threads, the queue, or on having been interrupted. Also built with
 * ThreadSanitizer. */
#include "tests/unit/folderkit.h"

#include "common/hash.h"
#include "corpus/loader.h"
#include "corpus/loader_plan.h"

/* ---- arithmetic: worked examples of the family's description
 * ----------------------------------------- */

static void cursors_visit_the_blocks_of_the_examples(void **state)
{
    (void)state;
    static const struct {
        int64_t n, S, max_phase, phase, blocks, start, stride, base_blocks, offsets[16];
    } want[] = {
        {1000,
         64,
         63,
         37,
         15,
         5,
         4,
         15,
         {357, 613, 869, 165, 421, 677, 933, 229, 485, 741, 37, 293, 549, 805, 101}},
        {777, 64, 63, 0, 12, 11, 5, 12, {704, 256, 576, 128, 448, 0, 320, 640, 192, 512, 64, 384}},
        {130, 64, 63, 63, 1, 0, 1, 2, {63}},
        {200, 64, 63, 8, 2, 1, 1, 3, {72, 8}}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        corpus_dice d = {1, 0, 0};
        corpus_cursor c = {want[i].phase, want[i].blocks, want[i].start, want[i].stride, 0};
        assert_int_equal(corpus_cursor_max_phase(want[i].n, want[i].S), want[i].max_phase);
        assert_int_equal(corpus_cursor_base_blocks(want[i].n, want[i].S), want[i].base_blocks);
        assert_true(corpus_cursor_is_sound(&c, want[i].n, want[i].S));
        for (int64_t k = 0; k < c.blocks; k++) {
            assert_int_equal(corpus_cursor_remaining(&c, want[i].n, want[i].S), c.blocks - k);
            assert_int_equal(corpus_cursor_draw(&c, want[i].n, want[i].S, &d), want[i].offsets[k]);
        }
        assert_int_equal(corpus_cursor_remaining(&c, want[i].n, want[i].S), want[i].base_blocks);
        assert_int_equal(d.i, 0); /* the pass was given: nothing was drawn */
        corpus_cursor_draw(&c, want[i].n, want[i].S, &d);
        assert_true(d.i > 0);
    }
}

static void a_pass_has_every_block_once(void **state)
{
    (void)state;
    corpus_dice d = {7, 3, 0};
    for (int64_t n = 5; n < 400; n += 1 + n / 9) {
        const int64_t S = 4;
        corpus_cursor c = {0};
        for (int pass = 0; pass < 20; pass++) {
            uint8_t seen[400] = {0};
            int64_t first = corpus_cursor_draw(&c, n, S, &d);
            const int64_t blocks = c.blocks;
            assert_true(blocks >= 1 && c.phase <= corpus_cursor_max_phase(n, S));
            for (int64_t k = 0;; first = corpus_cursor_draw(&c, n, S, &d)) {
                assert_true(corpus_cursor_is_sound(&c, n, S));
                assert_int_equal((first - c.phase) % S, 0);
                assert_true(first >= 0 && first + S < n);
                assert_false(seen[first]);
                seen[first] = 1;
                if (++k == blocks) break;
            }
        }
    }
}

static void a_choice_of_one_takes_no_random_number(void **state)
{
    (void)state;
    corpus_dice d = {7, 3, 0};
    corpus_cursor c = {0};
    for (int i = 0; i < 5; i++)
        assert_int_equal(corpus_cursor_draw(&c, 9, 8, &d), 0); /* one window, one phase */
    assert_int_equal(d.i, 0);
    corpus_cursor_draw(&c, 200, 64,
                       &d); /* c is at its end: a phase of 64, a start of 2 or 3, ... */
    assert_true(d.i >= 2);
}

static void unsound_cursors_are_noticed(void **state)
{
    (void)state;
    const corpus_cursor good = {37, 15, 5, 4, 3};
    assert_true(corpus_cursor_is_sound(&good, 1000, 64));
    const corpus_cursor bad[] = {{-1, 15, 5, 4, 3},  {64, 14, 5, 3, 3},  {37, 14, 5, 3, 3},
                                 {37, 15, 15, 4, 3}, {37, 15, -1, 4, 3}, {37, 15, 5, 0, 3},
                                 {37, 15, 5, 15, 3}, {37, 15, 5, 5, 3},  {37, 15, 5, 4, 16},
                                 {37, 15, 5, 4, -1}, {0, 0, 0, 1, 0},    {0, -1, 0, 1, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(corpus_cursor_is_sound(&bad[i], 1000, 64));
    assert_true(corpus_cursor_is_sound(&(corpus_cursor){0}, 3, 64));
    assert_false(corpus_cursor_is_sound(&(corpus_cursor){0, 1, 0, 1, 0}, 64, 64));
}

static void the_mix_grows_as_in_the_examples(void **state)
{
    (void)state;
    static const struct {
        double p;
        int32_t world, eligible, windows, mix;
    } want[] = {{0, 1, 80, 384, 8},
                {0.0225, 1, 80, 384, 9},
                {0.25, 1, 80, 384, 14},
                {0.5, 1, 80, 384, 20},
                {1, 1, 80, 384, 32},
                {0, 8, 80, 384, 8},
                {0.0225, 8, 80, 384, 9},
                {0.25, 8, 80, 384, 22},
                {0.5, 8, 80, 384, 36},
                {1, 8, 80, 384, 64},
                {1, 1, 1, 384, 1},
                {0.5, 1, 80, 5, 5},
                {0.5, 1, 10, 384, 9},
                {1, INT32_MAX, 9, 384, 9},
                {0.0625, 1, 80, 384, 10},
                {0.1041666666666666667, 1, 80, 384, 10}}; /* 9.5 and 10.5, ties: to even */
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(
            corpus_mix_width(want[i].p, want[i].world, want[i].eligible, want[i].windows),
            want[i].mix);
}

static void assert_near(double got, double want)
{
    const double far = got > want ? got - want : want - got;
    if (far > 1e-14) fail_msg("%.17g, wanted %.17g", got, want);
}

static void weights_are_those_of_the_examples(void **state)
{
    (void)state;
    static const int64_t remaining[] = {15, 12, 1};
    static const double want[2][3] = {
        {0.5248094645215174, 0.4293215087196292, 0.04586902675885333},
        {0.46454886380125354, 0.41550513533195765, 0.11994600086678882}};
    for (int p = 0; p < 2; p++) {
        double sum = 0;
        for (int i = 0; i < 3; i++)
            sum += corpus_shard_weight(remaining[i], p);
        for (int i = 0; i < 3; i++)
            assert_near(corpus_shard_weight(remaining[i], p) / sum, want[p][i]);
    }
    assert_near(corpus_shard_weight(0, 0), 1);
}

static void windows_that_are_near_are_read_together(void **state)
{
    (void)state;
    static const corpus_window w[] = {{0, 0, 0},   {0, 1, 64},  {0, 2, 161}, {0, 3, 194},
                                      {0, 4, 300}, {1, 5, 300}, {1, 6, 300}, {1, 7, 398}};
    static const struct {
        int32_t end;
        int64_t lo, hi;
    } want[] = {{4, 0, 259}, {5, 300, 365}, {7, 300, 365}, {8, 398, 463}};
    int64_t lo, hi;
    for (int32_t i = 0, k = 0; k < 4; i = want[k++].end) {
        assert_int_equal(corpus_run_end(w, 8, i, 64, &lo, &hi), want[k].end);
        assert_int_equal(lo, want[k].lo);
        assert_int_equal(hi, want[k].hi);
    }
    static const corpus_window tiny[] = {{0, 0, 0}, {0, 1, 3}, {0, 2, 7}}; /* S = 1: a gap of 1 */
    assert_int_equal(corpus_run_end(tiny, 3, 0, 1, &lo, &hi), 2);
    assert_int_equal(hi, 5);
}

static void seeds_from_words(void **state)
{
    (void)state;
    assert_true(corpus_seed_of("") == UINT64_C(0x14650fb0739d0383));
    assert_true(corpus_seed_of("a") == UINT64_C(0x44bd8ad473cd9906));
    assert_true(corpus_seed_of("abc") == UINT64_C(0xe16801510db89efd));
}

/* ---- batches --------------------------------------------------------------------------------- */

enum { SHARDS = 12, S = 16, G = 24, WINDOW = S + 1 };

/* A token says where it stands: 12 bits of place, 4 of shard. */
static int64_t tokens_of(int32_t shard)
{
    return shard == 3 ? S : 100 + 37 * (int64_t)shard; /* one is too short for a window */
}

static corpus_shards *open_shards(const char *name)
{
    corpus_shard_writer *w;
    corpus_shards *s;
    char dir[600], file[800], to[800];
    snprintf(dir, sizeof dir, "%s", in_folder(name));
    for (int32_t i = 0; i < SHARDS;
         i++) { /* shards of different sizes: each from a writer of its own */
        snprintf(file, sizeof file, "part%d", i);
        assert_ok(corpus_shard_writer_open(dir, file, 1 << 20, 65536, &w));
        for (int64_t k = 0; k < tokens_of(i); k++) {
            const int32_t id = i << 12 | (int32_t)k;
            assert_ok(corpus_shard_writer_add(w, &id, 1));
        }
        assert_ok(corpus_shard_writer_finish(w, NULL, NULL));
        corpus_shard_writer_free(w);
        snprintf(file, sizeof file, "%s/part%d_000000.bin", dir, i);
        snprintf(to, sizeof to, "%s/train_%06d.bin", dir, i);
        assert_int_equal(rename(file, to), 0);
    }
    assert_ok(corpus_shards_open(dir, "train", 65536, &s));
    assert_int_equal(corpus_shards_count(s), SHARDS);
    return s;
}

static corpus_loader *open_loader(const corpus_shards *shards, uint64_t seed, int32_t queue)
{
    corpus_loader_args a = corpus_loader_defaults();
    corpus_loader *l;
    a.shards = shards;
    a.seq = S;
    a.windows = G;
    a.seed = seed;
    a.ramp = 10;
    a.queue = queue;
    assert_ok(corpus_loader_open(&a, &l));
    return l;
}

static void windows_are_blocks_of_their_shards(void **state)
{
    (void)state;
    corpus_shards *shards = open_shards("a");
    corpus_loader *l = open_loader(shards, 1, 2);
    int64_t drawn[SHARDS] = {0};
    for (int batch = 0; batch < 60; batch++) {
        const uint16_t *w;
        int met[SHARDS] = {0};
        assert_ok(corpus_loader_next(l, &w));
        for (int i = 0; i < G; i++, w += WINDOW) {
            const int shard = w[0] >> 12;
            for (int k = 1; k < WINDOW; k++)
                assert_int_equal(w[k], w[0] + k);
            assert_true((w[S] & 0xfff) < tokens_of(shard));
            drawn[shard]++;
            met[shard]++;
            if (i < 8)
                assert_int_equal(met[shard], 1); /* the first round has every shard of the mix */
        }
        int mix = 0;
        for (int i = 0; i < SHARDS; i++)
            mix += met[i] > 0;
        const double p = batch < 10 ? batch / 10.0 : 1;
        assert_int_equal(mix, corpus_mix_width(p, 1, SHARDS - 1, G));
    }
    assert_int_equal(drawn[3], 0);
    for (int i = 0; i < SHARDS; i++)
        assert_true(i == 3 || drawn[i] > 20);
    assert_true(drawn[11] > drawn[0]);
    const corpus_loader_stats st = corpus_loader_get_stats(l);
    assert_int_equal(st.batches, 60);
    assert_int_equal(st.windows, 60 * G);
    assert_int_equal(st.tokens, 60 * G * WINDOW);
    assert_true(st.reads > 60 && st.reads < st.windows);
    assert_int_equal(corpus_loader_batch(l), 60);
    corpus_loader_close(l);
    corpus_shards_close(shards);
}

/* Hash of the next n batches. */
static uint64_t hash_batches(corpus_loader *l, int n, int pause)
{
    uint64_t h = 0;
    for (int i = 0; i < n; i++) {
        const uint16_t *w;
        assert_ok(corpus_loader_next(l, &w));
        if (pause && i % 5 == 0) usleep(500);
        h = kv_xxh64(w, G * WINDOW * sizeof *w, h);
    }
    return h;
}

static void batches_depend_on_seed_and_shards_alone(void **state)
{
    (void)state;
    corpus_shards *a = open_shards("a"), *b = open_shards("other-name");
    static const int32_t queues[] = {0, 1, 2, 8, 64};
    uint64_t first = 0;
    for (size_t i = 0; i < sizeof queues / sizeof *queues; i++) {
        corpus_loader *l = open_loader(i % 2 ? b : a, 5, queues[i]);
        const uint64_t h = hash_batches(l, 40, i % 2);
        if (i == 0) first = h;
        assert_true(h == first);
        corpus_loader_close(l);
    }
    /* Recorded: another order of the random draws would be another contract. */
    if (first != UINT64_C(0x9ef33b993e8029d9))
        fail_msg("batches of seed 5 hash to %016llx", (unsigned long long)first);
    corpus_loader *l = open_loader(a, 6, 0);
    assert_true(hash_batches(l, 40, 0) != first);
    corpus_loader_close(l);
    corpus_shards_close(a);
    corpus_shards_close(b);
}

static void a_restored_loader_goes_on_as_if_nothing_had_been(void **state)
{
    (void)state;
    corpus_shards *shards = open_shards("a");
    corpus_loader *l = open_loader(shards, 9, 4), *other = open_loader(shards, 9, 1);
    const size_t size = corpus_loader_state_size(l);
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    for (int k = 0; k < 12; k++) {
        corpus_loader_save(l, bytes);
        assert_ok(corpus_loader_restore(other, bytes, size));
        assert_int_equal(corpus_loader_batch(other), corpus_loader_batch(l));
        const uint64_t h = hash_batches(l, 3, 0);
        assert_true(hash_batches(other, 3, 0) == h);
        assert_int_equal(corpus_loader_batch(l), 3 * (k + 1));
        if (k % 3 == 2) { /* and back, on the loader itself */
            assert_ok(corpus_loader_restore(l, bytes, size));
            assert_int_equal(corpus_loader_get_stats(l).batches, 0);
            assert_true(hash_batches(l, 3, 0) == h);
        }
    }
    free(bytes);
    corpus_loader_close(other);
    corpus_loader_close(l);
    corpus_shards_close(shards);
}

/* What the thread has ready, after at most five seconds. */
static const uint16_t *wait_for_peek(corpus_loader *l)
{
    const uint16_t *w = NULL;
    for (int i = 0; i < 10000 && !(w = corpus_loader_peek(l)); i++)
        usleep(500);
    if (!w) fail_msg("batch %lld does not get ready", (long long)corpus_loader_batch(l));
    return w;
}

static void assert_same_state(const corpus_loader *a, const corpus_loader *b)
{
    uint8_t x[1024], y[sizeof x];
    const size_t size = corpus_loader_state_size(a);
    assert_true(size <= sizeof x);
    corpus_loader_save(a, x);
    corpus_loader_save(b, y);
    assert_memory_equal(x, y, size);
}

static void peeking_shows_the_next_batch_and_changes_nothing(void **state)
{
    (void)state;
    corpus_shards *shards = open_shards("a");
    for (int32_t queue = 1; queue < 4; queue++) {
        corpus_loader *l = open_loader(shards, 5, queue), *without = open_loader(shards, 5, 0);
        assert_null(corpus_loader_peek(l)); /* no thread runs yet */
        const uint16_t *w, *plain, *peeked = NULL;
        uint64_t h = 0;
        for (int i = 0; i < 40; i++) {
            assert_ok(corpus_loader_next(l, &w));
            assert_ok(corpus_loader_next(without, &plain));
            if (peeked) assert_ptr_equal(w, peeked);
            assert_memory_equal(w, plain, G * WINDOW * sizeof *w);
            peeked = wait_for_peek(l);
            assert_ptr_equal(corpus_loader_peek(l), peeked);
            assert_ptr_not_equal(peeked, w);
            assert_int_equal(corpus_loader_batch(l), i + 1);
            assert_same_state(l, without);
            if (i % 5 == 0) usleep(500); /* the thread goes on beside what was peeked */
            h = kv_xxh64(peeked, G * WINDOW * sizeof *w, h);
            assert_memory_equal(w, plain, G * WINDOW * sizeof *w);
        }
        corpus_loader *next = open_loader(shards, 5, 0);
        hash_batches(next, 1, 0);
        assert_true(hash_batches(next, 40, 0) == h);
        corpus_loader_close(next);
        corpus_loader_close(without);
        corpus_loader_close(l);
    }
    corpus_shards_close(shards);
}

static void there_is_nothing_to_peek_at_without_a_thread(void **state)
{
    (void)state;
    corpus_shards *shards = open_shards("a");
    corpus_loader *l = open_loader(shards, 5, 0), *threaded = open_loader(shards, 5, 2);
    uint8_t bytes[1024];
    hash_batches(l, 3, 0);
    assert_null(corpus_loader_peek(l));
    hash_batches(threaded, 3, 0);
    wait_for_peek(threaded);
    corpus_loader_save(threaded, bytes);
    assert_ok(corpus_loader_restore(threaded, bytes, corpus_loader_state_size(threaded)));
    assert_null(corpus_loader_peek(threaded)); /* restoring ends the thread */
    assert_true(hash_batches(threaded, 3, 0) == hash_batches(l, 3, 0));
    corpus_loader_close(threaded);
    corpus_loader_close(l);
    corpus_shards_close(shards);
}

static void foreign_and_damaged_states_are_refused(void **state)
{
    (void)state;
    corpus_shards *shards = open_shards("a");
    corpus_loader *l = open_loader(shards, 9, 1), *seed = open_loader(shards, 8, 0);
    const size_t size = corpus_loader_state_size(l);
    uint8_t bytes[1024];
    assert_true(size <= sizeof bytes);
    hash_batches(l, 2, 0);
    corpus_loader_save(l, bytes);
    assert_refused(corpus_loader_restore(seed, bytes, size), KV_ERR_MISMATCH, "other arguments");
    for (size_t n = 0; n < size; n++)
        assert_refused(corpus_loader_restore(l, bytes, n), KV_ERR_FORMAT, "state of the loader");
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 4;
        assert_refused(corpus_loader_restore(l, bytes, size), KV_ERR_FORMAT, "state of the loader");
        bytes[i] ^= 4;
    }
    for (size_t i = 24; i < size - 8; i += 8) { /* a number of a cursor, under a right checksum */
        uint8_t broken[sizeof bytes];
        memcpy(broken, bytes, size);
        broken[i + 6] = 1;
        const uint64_t sum = kv_xxh64(broken, size - 8, 0);
        memcpy(broken + size - 8, &sum, 8);
        assert_refused(corpus_loader_restore(l, broken, size), KV_ERR_FORMAT, "outside its shard");
    }
    corpus_loader *same = open_loader(shards, 9, 0);
    assert_ok(corpus_loader_restore(same, bytes, size));
    assert_true(hash_batches(same, 3, 0) == hash_batches(l, 3, 0)); /* refusals left l as it was */
    corpus_loader_close(same);
    corpus_loader_close(seed);
    corpus_loader_close(l);
    corpus_shards_close(shards);
}

static void a_bad_token_is_reported_again_and_again(void **state)
{
    (void)state;
    corpus_shards *good = open_shards("a"), *bad;
    char dir[600];
    snprintf(dir, sizeof dir, "%s", in_folder("a"));
    corpus_shards_close(good);
    assert_ok(
        corpus_shards_open(dir, "train", (SHARDS - 1) << 12, &bad)); /* the last shard is bad */
    for (int32_t queue = 0; queue < 3; queue++) {
        corpus_loader *l = open_loader(bad, 1, queue);
        const uint16_t *w;
        kv_status st = KV_OK;
        for (int i = 0; i < 50 && st == KV_OK; i++)
            st = corpus_loader_next(l, &w);
        assert_int_equal(st, KV_ERR_FORMAT);
        for (int i = 0; i < 3; i++)
            assert_refused(corpus_loader_next(l, &w), KV_ERR_FORMAT, "train_000011.bin: token");
        assert_null(corpus_loader_peek(l));
        corpus_loader_close(l);
    }
    corpus_shards_close(bad);
}

static void impossible_arguments_are_refused(void **state)
{
    (void)state;
    corpus_shards *shards = open_shards("a");
    corpus_loader_args a = corpus_loader_defaults(), good;
    corpus_loader *l = NULL;
    assert_int_equal(a.world, 1);
    assert_int_equal(a.ramp, 1800);
    assert_int_equal(a.queue, 8);
    a.shards = shards;
    a.seq = S;
    a.windows = G;
    good = a;
#define REFUSED(field, value, words) \
    a = good;                        \
    a.field = value;                 \
    assert_refused(corpus_loader_open(&a, &l), KV_ERR_USAGE, words)
    REFUSED(seq, 0, "seq is 0");
    REFUSED(windows, 0, "windows is 0");
    REFUSED(world, 0, "world is 0");
    REFUSED(ramp, 0, "ramp is 0");
    REFUSED(queue, -1, "queue is -1");
    REFUSED(seq, 507, "none of 12 shards holds a window of 508 tokens");
#undef REFUSED
    a = good;
    a.seq = 506; /* one window, of one shard */
    assert_ok(corpus_loader_open(&a, &l));
    const uint16_t *w;
    assert_ok(corpus_loader_next(l, &w));
    assert_int_equal(w[0], 11 << 12);
    assert_int_equal(corpus_loader_get_stats(l).reads, 1);
    corpus_loader_close(l);
    corpus_loader_close(NULL);
    corpus_shards_close(shards);
}

#define in_a_folder(f) cmocka_unit_test_setup_teardown(f, folderkit_make, folderkit_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cursors_visit_the_blocks_of_the_examples),
        cmocka_unit_test(a_pass_has_every_block_once),
        cmocka_unit_test(a_choice_of_one_takes_no_random_number),
        cmocka_unit_test(unsound_cursors_are_noticed),
        cmocka_unit_test(the_mix_grows_as_in_the_examples),
        cmocka_unit_test(weights_are_those_of_the_examples),
        cmocka_unit_test(windows_that_are_near_are_read_together),
        cmocka_unit_test(seeds_from_words),
        in_a_folder(windows_are_blocks_of_their_shards),
        in_a_folder(batches_depend_on_seed_and_shards_alone),
        in_a_folder(a_restored_loader_goes_on_as_if_nothing_had_been),
        in_a_folder(peeking_shows_the_next_batch_and_changes_nothing),
        in_a_folder(there_is_nothing_to_peek_at_without_a_thread),
        in_a_folder(foreign_and_damaged_states_are_refused),
        in_a_folder(a_bad_token_is_reported_again_and_again),
        in_a_folder(impossible_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
