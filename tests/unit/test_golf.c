/* The golf family on the reference: tables, and streams that go on from what the model remembers (docs/golf.md). */
#include "tests/unit/refkit.h"
#define REF_BITS 32
#include "tests/unit/refnaive.h"

#include "common/golf.h"
#include "ref/golf.h"
#include "ref/rope.h"
#include "tests/bench/golf_flop.h"

#include <math.h>

enum { N = 40 };
static const char *const presets[] = {"nano-a", "nano-b", "nano-u"};

/* ---- tables ------------------------------------------------------------------------------------------------ */

static void pairs_of_tokens_have_the_rows_of_the_published_hash(void **state)
{
    (void)state;
    static const int32_t ids[] = {1, 260, 261, 1023, 1023, 0, 5};
    static const int64_t rows[] = {2047, 1124, 333, 1936, 977, 1757, 1429};
    for (int i = 0; i < COUNT(ids); i++)
        assert_int_equal(ref_bigram_row(kv_golf_preset("golf-a"), i ? ids[i - 1] : -1, ids[i]), rows[i]);
}

static void rope_bases_follow_the_length_of_the_call(void **state)
{
    (void)state;
    static const struct {
        int32_t length;
        double rd64, rd48, rd16;
    } want[] = {{2048, 20452.2287, 20611.9109, 22081.7903},  {2112, 21112.3073, 21284.4906, 22872.1705},
                {4096, 41829.3659, 42485.0871, 48760.5462},  {6144, 63570.1013, 64861.0408, 77502.5005},
                {10240, 107710.5056, 110529.5141, 138949.5494}};
    kv_config cfg = *kv_golf_preset("golf-a");
    for (int i = 0; i < COUNT(want); i++) {
        const double bases[] = {want[i].rd64, want[i].rd48, want[i].rd16};
        for (int d = 0; d < 3; d++) {
            cfg.rope_dims = d == 0 ? 64 : d == 1 ? 48 : 16;
            assert_true(fabs(ref_rope_base(&cfg, want[i].length) - bases[d]) < 5.1e-5);
        }
    }
    assert_true(ref_rope_base(&cfg, 1024) == 10000 && ref_rope_base(&cfg, 1) == 10000);
    cfg.rope_scaling = KV_ROPE_SCALING_NONE;
    assert_true(ref_rope_base(&cfg, 4096) == 10000);
}

static void full_size_models_have_the_published_sizes_and_costs(void **state)
{
    (void)state;
    const kv_config *a = kv_golf_preset("golf-a"), *b = kv_golf_preset("golf-b");
    assert_int_equal(kv_golf_parameters(a), 26829913);
    assert_int_equal(kv_golf_parameters(b), 26823765);
    assert_int_equal(golf_products(a), 26542080);
    assert_int_equal(golf_products(b), 26525696 + 221616); /* the sidecar's three runs */
    assert_int_equal(2 * golf_key_products(a), 22528);
    assert_true(fabs(golf_window_flop(a, 2048) / 1e9 - (108.7 + 47.3)) < 0.1);
}

static void filters_end_with_the_newest_row(void **state)
{
    (void)state;
    static const float w[] = {1, 10, 100, 0.5f, -2, 4}, before2[] = {1, 8}, before1[] = {2, 3}, now[] = {3, -1};
    float c[2];
    REF(conv3)(w, before2, before1, now, 2, c);
    assert_true(c[0] == 321 && c[1] == -6);
}

/* A cache outlives the call that its keys were rotated in. */
static void a_base_that_follows_the_call_is_for_windows_only(void **state)
{
    (void)state;
    kv_model *own = refkit_model("nano-a"), m = *own;
    kv_policy p;
    kv_session *s;
    m.cfg.rope_base_len = 0;
    const kv_open_args a = {.model = &m, .policy = &p, .threads = 1};
    assert_ok(kv_policy_parse("full", &p));
    assert_refused(ref_backend()->open(&a, &s), KV_ERR_UNSUPPORTED, "only xwindow");
    assert_ok(kv_policy_parse("xwindow:window=32,stride=8,cache=0", &p));
    assert_ok(ref_backend()->open(&a, &s));
    ref_backend()->close(s);
    kv_model_close(own);
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

/* What a session computes for all tokens in steps of `step`, and its state at the end. */
static float *stream(const kv_backend *side, const kv_model *m, const char *policy, int32_t step, refkit_blob *end)
{
    refkit k = refkit_open(side, m, policy);
    int32_t *tokens = refkit_tokens(N, m);
    float *rows = refkit_rows(&k, N);
    refkit_feed(&k, tokens, N, step, rows, NULL);
    *end = refkit_export_all(&k);
    refkit_close(&k);
    free(tokens);
    return rows;
}

static void steps_of_any_size_give_the_same_bits(void **state)
{
    (void)state;
    static const int32_t steps[] = {1, 8, 13};
    const kv_backend *sides[] = {ref_backend(), ref64_backend()};
    for (int i = 0; i < 2 * COUNT(presets); i++)
        for (int f16 = 0; f16 < 2; f16++) {
            kv_model *m = refkit_model(presets[i / 2]);
            const refkit k = {sides[i % 2], m, NULL};
            refkit_blob once;
            float *want = stream(k.side, m, f16 ? "full+f16" : "full", N, &once);
            for (int c = 0; c < COUNT(steps); c++) {
                refkit_blob pieces;
                float *got = stream(k.side, m, f16 ? "full+f16" : "full", steps[c], &pieces);
                refkit_same_rows(&k, want, got, N, presets[i / 2]);
                assert_true(once.size == pieces.size && memcmp(once.p, pieces.p, once.size) == 0);
                free(got);
                free(pieces.p);
            }
            free(want);
            free(once.p);
            kv_model_close(m);
        }
}

static uint8_t *carry_of(const refkit_blob *b, uint64_t *bytes)
{
    kv_state_head h;
    memcpy(&h, b->p, sizeof h);
    *bytes = h.carry_bytes;
    return b->p + b->size - h.carry_bytes;
}

/* Feeds the second half into a session that took over the state b. */
static float *go_on(const kv_model *m, const char *policy, const refkit_blob *b)
{
    refkit k = refkit_open(ref_backend(), m, policy);
    int32_t *tokens = refkit_tokens(N, m);
    float *rows = refkit_rows(&k, N / 2);
    assert_side(&k, k.side->import_state(k.s, b->p, b->size));
    refkit_feed(&k, tokens + N / 2, N / 2, 7, rows, NULL);
    refkit_close(&k);
    free(tokens);
    return rows;
}

static void a_state_carries_what_the_model_remembers(void **state)
{
    (void)state;
    static const char *const policies[] = {"full", "sliding:cap=16", "cascade:cap=16", "h2o:cap=16"};
    for (int i = 0; i < COUNT(presets) * COUNT(policies); i++) {
        const char *policy = policies[i / COUNT(presets)];
        kv_model *m = refkit_model(presets[i % COUNT(presets)]);
        refkit k = refkit_open(ref_backend(), m, policy);
        int32_t *tokens = refkit_tokens(N, m);
        float *want = refkit_rows(&k, N / 2);
        uint64_t bytes;
        refkit_feed(&k, tokens, N / 2, 5, NULL, NULL);
        refkit_blob b = refkit_export_all(&k), again;
        refkit_feed(&k, tokens + N / 2, N / 2, 7, want, NULL);
        float *got = go_on(m, policy, &b);
        refkit_same_rows(&k, want, got, N / 2, policy);
        uint8_t *carry = carry_of(&b, &bytes);
        int32_t ids[2];
        memcpy(ids, carry, sizeof ids);
        assert_int_equal(bytes, kv_carry_layout_of(&m->cfg).bytes);
        assert_true(ids[0] == N / 2 && ids[1] == tokens[N / 2 - 1]);
        free(got);

        memset(carry, 0, bytes); /* forgotten: the first token after it has no predecessor */
        got = go_on(m, policy, &b);
        assert_true(memcmp(want, got, (size_t)m->cfg.vocab_size * sizeof *got) != 0);
        free(got);
        again = refkit_export(&k, 0, KV_STATE_KV);
        carry_of(&again, &bytes);
        assert_int_equal(bytes, 0); /* one layer alone goes without */
        free(again.p);
        free(b.p);
        free(want);
        free(tokens);
        refkit_close(&k);
        kv_model_close(m);
    }
}

static void snapshots_and_resets_include_it(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(presets); i++) {
        kv_model *m = refkit_model(presets[i]);
        refkit k = refkit_open(ref_backend(), m, "full");
        int32_t *tokens = refkit_tokens(N, m);
        float *first = refkit_rows(&k, N), *again = refkit_rows(&k, N);
        void *snap;
        refkit_feed(&k, tokens, 9, 4, first, NULL);
        assert_side(&k, k.side->snapshot(k.s, &snap));
        refkit_feed(&k, tokens + 9, N - 9, 6, first + 9 * m->cfg.vocab_size, NULL);
        assert_side(&k, k.side->restore(k.s, snap));
        refkit_feed(&k, tokens + 9, N - 9, 11, again + 9 * m->cfg.vocab_size, NULL);
        assert_side(&k, k.side->reset(k.s));
        refkit_feed(&k, tokens, 9, 9, again, NULL);
        refkit_same_rows(&k, first, again, N, presets[i]);
        k.side->snapshot_free(k.s, snap);
        refkit_close(&k);
        free(first);
        free(again);
        free(tokens);
        kv_model_close(m);
    }
}

static void refuse(const refkit *k, const refkit_blob *b, kv_status status, const char *words)
{
    assert_refused(k->side->import_state(k->s, b->p, b->size), status, words);
}

static void a_carry_that_does_not_belong_is_refused(void **state)
{
    (void)state;
    kv_model *m = refkit_model("nano-b");
    refkit k = refkit_open(ref_backend(), m, "full"), other = refkit_open(ref_backend(), m, "full");
    int32_t *tokens = refkit_tokens(N, m);
    refkit_feed(&k, tokens, 9, 4, NULL, NULL);
    refkit_blob b = refkit_export_all(&k);
    uint64_t bytes;
    int32_t ids[2];
    uint8_t *carry = carry_of(&b, &bytes);
    memcpy(ids, carry, sizeof ids);
    ids[0]--;
    memcpy(carry, ids, sizeof ids);
    refuse(&other, &b, KV_ERR_FORMAT, "another moment");
    ids[0]++;
    ids[1] = m->cfg.vocab_size;
    memcpy(carry, ids, sizeof ids);
    refuse(&other, &b, KV_ERR_FORMAT, "outside the vocabulary");
    kv_state_head h;
    memcpy(&h, b.p, sizeof h);
    h.carry_bytes = 0;
    h.total_bytes = b.size -= bytes;
    memcpy(b.p, &h, sizeof h);
    refuse(&other, &b, KV_ERR_MISMATCH, "what the model remembers");
    free(b.p);
    free(tokens);
    refkit_close(&k);
    refkit_close(&other);
    kv_model_close(m);
}

/* ---- windows ------------------------------------------------------------------------------------------------------ */

enum { WINDOW = 12 };

static void feed_window(const refkit *k, const int32_t *tokens, int32_t start, float *rows)
{
    const kv_step step = {.tokens = tokens + start, .n = WINDOW, .rows = rows ? KV_ROWS_ALL : KV_ROWS_NONE,
                          .flags = KV_STEP_RECOMPUTE, .pos0 = start, .logits = rows};
    assert_side(k, k->side->step(k->s, &step));
}

/* Strides in which a window's predecessors were scored in one window, and in two. */
static void windows_go_on_from_an_imported_carry(void **state)
{
    (void)state;
    static const char *const policies[] = {"xwindow:window=12,stride=4,cache=0,pred=carry", "xwindow:window=12,stride=1,cache=8,pred=carry",
                                           "xwindow:window=12,stride=12,cache=12,pred=carry", "xwindow:window=12,stride=5,cache=10"};
    static const int32_t strides[] = {4, 1, 12, 5};
    for (int i = 0; i < COUNT(policies); i++) {
        kv_model *m = refkit_model("nano-u");
        refkit a = refkit_open(ref_backend(), m, policies[i]), b = refkit_open(ref_backend(), m, policies[i]);
        int32_t *tokens = refkit_tokens(8 * WINDOW, m);
        float *want = refkit_rows(&a, WINDOW), *got = refkit_rows(&b, WINDOW);
        int32_t start = 0;
        for (int w = 0; w < 3; w++, start += strides[i])
            feed_window(&a, tokens, start, NULL);
        refkit_blob blob = refkit_export_all(&a);
        assert_side(&b, b.side->import_state(b.s, blob.p, blob.size));
        refkit_same_state(&a, &b, policies[i]);
        for (int w = 0; w < 4; w++, start += strides[i]) {
            feed_window(&a, tokens, start, want);
            feed_window(&b, tokens, start, got);
            refkit_same_rows(&a, want, got, WINDOW, policies[i]);
        }
        free(blob.p);
        free(want);
        free(got);
        free(tokens);
        refkit_close(&a);
        refkit_close(&b);
        kv_model_close(m);
    }
}

static void windows_without_their_predecessors_are_refused(void **state)
{
    (void)state;
    kv_model *m = refkit_model("nano-b");
    refkit k = refkit_open(ref_backend(), m, "xwindow:window=12,stride=4,cache=0,pred=carry");
    int32_t *tokens = refkit_tokens(8 * WINDOW, m);
    feed_window(&k, tokens, 0, NULL);
    refkit_blob b = refkit_export_all(&k);
    uint64_t bytes;
    uint8_t *carry = carry_of(&b, &bytes);
    memset(carry, 0, bytes);
    assert_int_equal(bytes, 3 * kv_carry_layout_of(&m->cfg).bytes); /* windows at 4 and 8, and the newest token */
    kv_state_head h;
    memcpy(&h, b.p, sizeof h);
    h.total_bytes -= 2 * bytes / 3;
    h.carry_bytes = bytes / 3;
    memcpy(b.p, &h, sizeof h);
    assert_side(&k, k.side->import_state(k.s, b.p, h.total_bytes));
    const kv_step step = {.tokens = tokens + 4, .n = WINDOW, .flags = KV_STEP_RECOMPUTE, .pos0 = 4};
    assert_int_equal(k.side->step(k.s, &step), KV_ERR_USAGE);
    assert_non_null(strstr(k.side->last_error(k.s), "was not imported"));
    free(b.p);
    free(tokens);
    refkit_close(&k);
    kv_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_of_tokens_have_the_rows_of_the_published_hash),
        cmocka_unit_test(rope_bases_follow_the_length_of_the_call),
        cmocka_unit_test(full_size_models_have_the_published_sizes_and_costs),
        cmocka_unit_test(filters_end_with_the_newest_row),
        cmocka_unit_test(a_base_that_follows_the_call_is_for_windows_only),
        cmocka_unit_test(steps_of_any_size_give_the_same_bits),
        cmocka_unit_test(a_state_carries_what_the_model_remembers),
        cmocka_unit_test(snapshots_and_resets_include_it),
        cmocka_unit_test(a_carry_that_does_not_belong_is_refused),
        cmocka_unit_test(windows_go_on_from_an_imported_carry),
        cmocka_unit_test(windows_without_their_predecessors_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
