/* windows.c - laws of xwindow (docs/policy/xwindow.md), and the tester's view of its published variant, which breaks
 * two of them. */
#include "tests/laws/kit.h"

static void need_xwindow(void)
{
    if (!law_wanted("xwindow")) kvtest_skip("xwindow was not asked for");
}

/* Rows of a window read by a fresh session under full equal those of plain windowed evaluation. */
static void without_a_cache_every_window_is_read_anew(void **state)
{
    (void)state;
    need_xwindow();
    const int32_t V = law_model->cfg.vocab_size;
    static const char *const plain[] = {"xwindow:cache=0,stride=8,window=24", "xwindow:cache=0,stride=24,window=24",
                                        "xwindow:cache=0,stride=5,ver=published,window=32"};
    for (size_t i = 0; i < 3; i++) {
        if (law_base_of_its_own(plain[i])) continue;
        law_run r = law_open(plain[i], 20, LAW_TOKENS, 1);
        law_finish(&r);
        refkit full = refkit_open(law_side, law_model, "full");
        float *rows = refkit_rows(&full, LAW_TOKENS);
        for (int32_t w = 0; w < r.n_steps; w++) {
            const law_step *s = &r.steps[w];
            assert_side(&full, law_side->reset(full.s));
            refkit_feed(&full, r.tokens + s->pos0, s->n, s->n, rows, NULL);
            for (int32_t t = s->scored; t < s->pos0 + s->n; t++)
                if (memcmp(r.rows + (int64_t)t * V, rows + (int64_t)(t - s->pos0) * V, (size_t)V * sizeof *rows) != 0)
                    fail_msg("%s: %s: token %d in window %d differs from full on the window alone", law_side->name, plain[i],
                             t, w);
        }
        free(rows);
        refkit_close(&full);
        law_close(&r);
    }
}

static void the_first_window_equals_full(void **state)
{
    (void)state;
    need_xwindow();
    static const char *const any[] = {"xwindow:cache=20,stride=8,window=24", "xwindow:cache=20,layers=1,stride=8,window=24",
                                      "xwindow:cache=20,stride=8,ver=published,window=24"};
    for (size_t i = 0; i < 3; i++) {
        if (law_base_of_its_own(any[i])) continue;
        law_run r = law_open(any[i], 21, LAW_TOKENS, 1), full = law_open("full", 21, LAW_TOKENS, 24);
        law_advance(&r, 1);
        law_advance(&full, 1);
        law_same_rows(&full, &r, 0, 24, "the first window");
        law_close(&r);
        law_close(&full);
    }
}

/* Windows that do not overlap, all of whose rows are in view, are one stream; so are they to what the model remembers. */
static void disjoint_windows_in_full_view_equal_full(void **state)
{
    (void)state;
    need_xwindow();
    law_run r = law_open("xwindow:cache=160,pred=carry,stride=20,window=20", 22, LAW_TOKENS, 1);
    law_run full = law_open("full", 22, LAW_TOKENS, 20);
    law_finish(&r);
    law_finish(&full);
    law_same_rows(&full, &r, 0, LAW_TOKENS, "disjoint windows");
    law_close(&r);
    law_close(&full);
}

/* Rows of every window, scored or not, of a stream and of its twin that differs from token `from` on: the number of rows
 * in front of `from` that are not the same. */
static int32_t rows_that_saw_the_future(const char *spec, int32_t from)
{
    const int32_t V = law_model->cfg.vocab_size;
    law_run a = law_open(spec, 23, LAW_TOKENS, 1), b = law_open(spec, 23, LAW_TOKENS, 1);
    float *x = refkit_rows(&a.k, LAW_TOKENS), *y = refkit_rows(&a.k, LAW_TOKENS);
    int32_t bad = 0;
    for (int32_t i = from; i < LAW_TOKENS; i++)
        b.tokens[i] = (b.tokens[i] + 1) % V;
    for (int32_t w = 0; w < a.n_steps; w++) {
        const law_step *s = &a.steps[w];
        const kv_step p = {.tokens = a.tokens + s->pos0, .n = s->n, .rows = KV_ROWS_ALL, .flags = s->flags, .pos0 = s->pos0,
                           .logits = x};
        kv_step q = p;
        q.tokens = b.tokens + s->pos0;
        q.logits = y;
        assert_side(&a.k, law_side->step(a.k.s, &p));
        assert_side(&b.k, law_side->step(b.k.s, &q));
        for (int32_t i = 0; i < s->n && s->pos0 + i < from; i++)
            bad += memcmp(x + (int64_t)i * V, y + (int64_t)i * V, (size_t)V * sizeof *x) != 0;
    }
    free(x);
    free(y);
    law_close(&a);
    law_close(&b);
    return bad;
}

static void no_row_depends_on_a_later_token(void **state)
{
    (void)state;
    need_xwindow();
    static const char *const fixed[] = {"xwindow:cache=20,stride=8,window=24", "xwindow:cache=48,layers=1,stride=8,window=24",
                                        "xwindow:cache=0,stride=8,window=24", "xwindow:cache=24,pred=carry,stride=8,window=24"};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        for (int32_t from = 1; from < LAW_TOKENS; from += 13)
            if (rows_that_saw_the_future(fixed[i], from) != 0)
                fail_msg("%s: %s: rows in front of token %d depend on it", law_side->name, fixed[i], from);
}

/* The law above can fail: the published rule shows a window the rows of its own later tokens. */
static void the_published_rule_breaks_that_law(void **state)
{
    (void)state;
    need_xwindow();
    int32_t bad = 0;
    for (int32_t from = 1; from < LAW_TOKENS; from += 13)
        bad += rows_that_saw_the_future("xwindow:cache=20,stride=8,ver=published,window=24", from);
    assert_true(bad > 0);
}

/* ... and after a window its list holds tokens that the next window computes again: rows that are in view twice. */
static void the_published_rule_shows_tokens_twice(void **state)
{
    (void)state;
    need_xwindow();
    int64_t og[LAW_MAX_KEPT];
    law_run r = law_open("xwindow:cache=20,stride=8,ver=published,window=24", 24, LAW_TOKENS, 1);
    int32_t twice = 0;
    for (int32_t w = 0; w + 1 < r.n_steps; w++) {
        law_advance(&r, 1);
        const int32_t n = law_kept(&r, 0, 0, og);
        for (int32_t i = 0; i < n; i++)
            twice += og[i] >= r.steps[w + 1].pos0;
    }
    assert_true(twice > 0);
    law_close(&r);
}

/* One window; rows may be NULL. */
static kv_status read_window(const refkit *k, const int32_t *tokens, int32_t ws, int32_t n, float *rows)
{
    const kv_step s = {.tokens = tokens + (ws < 0 ? 0 : ws), .n = n, .rows = rows ? KV_ROWS_ALL : KV_ROWS_NONE,
                       .flags = KV_STEP_RECOMPUTE, .pos0 = ws, .logits = rows};
    return law_side->step(k->s, &s);
}

static void hand_over(const refkit *from, const refkit *to)
{
    refkit_blob b = refkit_export_all(from);
    assert_side(to, law_side->import_state(to->s, b.p, b.size));
    free(b.p);
}

/* Windows shorter than they might be: their states do not show where the next one begins. */
static void windows_go_on_behind_an_import(void **state)
{
    (void)state;
    need_xwindow();
    static const char *const any[] = {"xwindow:cache=20,stride=8,window=24", "xwindow:cache=20,layers=1,pred=carry,stride=8,window=24",
                                      "xwindow:cache=20,stride=8,ver=published,window=24"};
    for (size_t i = 0; i < sizeof any / sizeof *any; i++) {
        refkit a = refkit_open(law_side, law_model, any[i]), b = refkit_open(law_side, law_model, any[i]);
        int32_t *tokens = refkit_tokens(LAW_TOKENS, law_model);
        float *x = refkit_rows(&a, 24), *y = refkit_rows(&b, 24);
        for (int32_t ws = 0; ws < 24; ws += 8)
            assert_side(&a, read_window(&a, tokens, ws, 16, NULL));
        hand_over(&a, &b);
        for (int32_t ws = 24; ws < 64; ws += 8) {
            assert_side(&a, read_window(&a, tokens, ws, 24, x));
            assert_side(&b, read_window(&b, tokens, ws, 24, y));
            refkit_same_rows(&a, x, y, 24, any[i]);
            refkit_same_state(&a, &b, any[i]);
        }
        free(x);
        free(y);
        free(tokens);
        refkit_close(&a);
        refkit_close(&b);
    }
}

/* A start that does not fit the stride leaves a gap behind the oldest row: as if the cache were that much smaller. */
static void windows_begin_anywhere_behind_an_import(void **state)
{
    (void)state;
    need_xwindow();
    refkit a = refkit_open(law_side, law_model, "xwindow:cache=32,stride=16,window=16");
    refkit large = refkit_open(law_side, law_model, "xwindow:cache=32,stride=16,window=16");
    refkit small = refkit_open(law_side, law_model, "xwindow:cache=28,stride=16,window=16");
    int32_t *tokens = refkit_tokens(LAW_TOKENS, law_model);
    float *x = refkit_rows(&a, 16), *y = refkit_rows(&a, 16);
    for (int32_t ws = 0; ws < 64; ws += 16)
        assert_side(&a, read_window(&a, tokens, ws, 16, NULL)); /* rows 32 .. 63 stay */
    hand_over(&a, &large);
    hand_over(&a, &small);
    assert_int_equal(read_window(&large, tokens, 65, 16, x), KV_ERR_USAGE);
    assert_int_equal(read_window(&large, tokens, -1, 16, x), KV_ERR_USAGE);
    assert_int_equal(read_window(&large, tokens, 48, 16, x), KV_ERR_USAGE); /* nothing new */
    assert_side(&large, read_window(&large, tokens, 60, 16, x));
    assert_side(&small, read_window(&small, tokens, 60, 16, y));
    refkit_same_rows(&a, x, y, 16, "a window from token 60 on");
    assert_int_equal(read_window(&large, tokens, 64, 16, x), KV_ERR_USAGE); /* the stride counts again */
    assert_side(&large, read_window(&large, tokens, 76, 16, x));
    free(x);
    free(y);
    free(tokens);
    refkit_close(&a);
    refkit_close(&large);
    refkit_close(&small);
}

/* A carry of zeros: the window behind everything seen has no predecessor, as under pred=reset; no other can begin. */
static void what_was_forgotten_is_no_predecessor(void **state)
{
    (void)state;
    need_xwindow();
    refkit a = refkit_open(law_side, law_model, "xwindow:cache=20,pred=carry,stride=8,window=24");
    refkit carry = refkit_open(law_side, law_model, "xwindow:cache=20,pred=carry,stride=8,window=24");
    refkit fresh = refkit_open(law_side, law_model, "xwindow:cache=20,stride=8,window=24");
    const size_t one = kv_carry_layout_of(&law_model->cfg).bytes;
    int32_t *tokens = refkit_tokens(LAW_TOKENS, law_model);
    float *x = refkit_rows(&a, 24), *y = refkit_rows(&a, 24);
    for (int32_t ws = 0; ws < 16; ws += 8)
        assert_side(&a, read_window(&a, tokens, ws, 24, NULL));
    refkit_blob b = refkit_export_all(&a);
    kv_state_head h;
    memcpy(&h, b.p, sizeof h);
    memset(b.p + h.total_bytes - h.carry_bytes, 0, h.carry_bytes);
    h.total_bytes -= h.carry_bytes - one;
    h.carry_bytes = one;
    memcpy(b.p, &h, sizeof h);
    assert_side(&carry, law_side->import_state(carry.s, b.p, h.total_bytes));
    assert_side(&fresh, law_side->import_state(fresh.s, b.p, h.total_bytes));
    if (one) assert_int_equal(read_window(&carry, tokens, 16, 24, x), KV_ERR_USAGE);
    assert_side(&carry, read_window(&carry, tokens, 32, 24, x));
    assert_side(&fresh, read_window(&fresh, tokens, 32, 24, y));
    refkit_same_rows(&a, x, y, 24, "a window behind what was forgotten");
    free(b.p);
    free(x);
    free(y);
    free(tokens);
    refkit_close(&a);
    refkit_close(&carry);
    refkit_close(&fresh);
}

/* Offsets and lengths of docs/policy/xwindow.md: the position of a window's first token, seen in the export. */
static void steps_that_are_no_windows_are_refused(void **state)
{
    (void)state;
    need_xwindow();
    law_run r = law_open("xwindow:cache=20,stride=8,window=24", 25, LAW_TOKENS, 1);
    kv_step s = {.tokens = r.tokens, .n = 24, .rows = KV_ROWS_NONE};
    assert_int_equal(law_side->step(r.k.s, &s), KV_ERR_USAGE); /* without the flag */
    s.flags = KV_STEP_RECOMPUTE;
    s.pos0 = 8;
    assert_int_equal(law_side->step(r.k.s, &s), KV_ERR_USAGE); /* the first window starts at 0 */
    law_finish(&r);
    s.pos0 = LAW_TOKENS + 1;
    assert_int_equal(law_side->step(r.k.s, &s), KV_ERR_USAGE); /* a gap */
    s.pos0 = 0;
    assert_int_equal(law_side->step(r.k.s, &s), KV_ERR_USAGE); /* backwards */
    law_run full = law_open("full", 25, LAW_TOKENS, 8);
    const kv_step t = {.tokens = r.tokens, .n = 8, .rows = KV_ROWS_NONE, .flags = KV_STEP_RECOMPUTE};
    assert_int_equal(law_side->step(full.k.s, &t), KV_ERR_UNSUPPORTED);
    law_close(&full);
    law_close(&r);
}

int laws_of_windows(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_cache_every_window_is_read_anew),
        cmocka_unit_test(the_first_window_equals_full),
        cmocka_unit_test(disjoint_windows_in_full_view_equal_full),
        cmocka_unit_test(no_row_depends_on_a_later_token),
        cmocka_unit_test(the_published_rule_breaks_that_law),
        cmocka_unit_test(the_published_rule_shows_tokens_twice),
        cmocka_unit_test(windows_go_on_behind_an_import),
        cmocka_unit_test(windows_begin_anywhere_behind_an_import),
        cmocka_unit_test(what_was_forgotten_is_no_predecessor),
        cmocka_unit_test(steps_that_are_no_windows_are_refused),
    };
    return cmocka_run_group_tests_name("windows", tests, NULL, NULL);
}
