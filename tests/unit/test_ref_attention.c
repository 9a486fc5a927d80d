/* Attention of a block of rows against the formulas of docs/numerics.md, section 4: every bit, for every
 * instruction set of this CPU, over views that are scattered over a store whose other slots hold NaN.
 * test_ref_double.c runs the same cases in double. */
#include "tests/unit/refnaive.h"

enum { GUARD = 16 }; /* reals behind every output row */

/* One KV head's store and a view of it, together with its entries as plain rows. */
typedef struct attn_view {
    int64_t D, Dv, n;       /* entries in view order */
    real *k, *v;            /* stores of all spans, one behind the other: panels and rows */
    const real **k_row, **v_row; /* [n] rows of D, for the plain loops */
    real *rows;
    ref_span spans[REF_MAX_SPANS];
    int64_t n_spans;
} attn_view;

/* Spans of the given lengths, each in a store of its own, at a slot of its own choice; everything that is
 * not an entry is NaN. */
static attn_view make_view(int64_t D, const int64_t *lengths, int n_spans, uint64_t seed)
{
    attn_view w = {.D = D, .Dv = (D + 15) / 16 * 16, .n_spans = n_spans};
    int64_t slots = 0, first[REF_MAX_SPANS];
    for (int i = 0; i < n_spans; i++) {
        first[i] = i == 0 ? 0 : (int64_t)(kv_splitmix64(seed + (uint64_t)i) % 37); /* inside any panel */
        w.spans[i] = (ref_span){.slot0 = first[i], .n = lengths[i]};
        slots += (first[i] + lengths[i] + 15) / 16 * 16;
        w.n += lengths[i];
    }
    w.k = malloc((size_t)(slots * D) * sizeof *w.k);
    w.v = malloc((size_t)(slots * w.Dv) * sizeof *w.v);
    w.rows = naive_randoms(seed, 2 * w.n * D);
    w.k_row = malloc((size_t)w.n * sizeof *w.k_row);
    w.v_row = malloc((size_t)w.n * sizeof *w.v_row);
    assert_true(w.k && w.v && w.k_row && w.v_row);
    for (int64_t i = 0; i < slots * D; i++)
        w.k[i] = (real)kv_nan();
    for (int64_t i = 0; i < slots * w.Dv; i++)
        w.v[i] = (real)kv_nan();
    int64_t at = 0, view = 0;
    for (int i = 0; i < n_spans; i++) {
        w.spans[i].k = w.k + at * D;
        w.spans[i].v = w.v + at * w.Dv;
        for (int64_t e = 0; e < lengths[i]; e++, view++) {
            const int64_t slot = at + first[i] + e;
            w.k_row[view] = w.rows + 2 * view * D;
            w.v_row[view] = w.k_row[view] + D;
            for (int64_t d = 0; d < D; d++) {
                w.k[(slot / 16 * D + d) * 16 + slot % 16] = w.k_row[view][d];
                w.v[slot * w.Dv + d] = w.v_row[view][d];
            }
            for (int64_t d = D; d < w.Dv; d++)
                w.v[slot * w.Dv + d] = 0; /* as the cache pads its rows */
        }
        at += (first[i] + lengths[i] + 15) / 16 * 16;
    }
    return w;
}

static void free_view(attn_view *w)
{
    free(w->k);
    free(w->v);
    free(w->rows);
    free(w->k_row);
    free(w->v_row);
}

/* Queries of `rows` rows, row r sees hi[r] entries: the kernel's outputs against the plain loops'. */
static void check_rows(const ref_kernels *t, const attn_view *w, int64_t rows, const int64_t *hi)
{
    const int64_t D = w->D;
    real *q = naive_randoms(77, rows * D), *got = naive_randoms(78, rows * (D + GUARD)), want[NAIVE_MAX_DIM];
    real *scratch = malloc((size_t)REF(attn_scratch)(w->n, D) * sizeof *scratch), lse[REF_ATTN_ROWS];
    real *out[REF_ATTN_ROWS];
    assert_non_null(scratch);
    for (int64_t i = 0; i < rows * D; i++)
        q[i] = q[i] * 4; /* livelier scores */
    for (int64_t r = 0; r < rows; r++)
        out[r] = got + (rows - 1 - r) * (D + GUARD); /* rows may lie anywhere */
    const ref_attn_job job = {.q = q, .rows = rows, .head_dim = D, .spans = w->spans, .n_spans = w->n_spans,
                              .hi = hi, .scratch = scratch, .out = out, .lse = rows % 2 ? lse : NULL};
    t->attn(&job);
    for (int64_t r = 0; r < rows; r++) {
        const real want_lse = naive_attention(q + r * D, w->k_row, w->v_row, hi[r], D, want);
        assert_bits(out[r], want, D, "%s: D %lld, %lld rows, row %lld sees %lld", t->name, (long long)D,
                    (long long)rows, (long long)r, (long long)hi[r]);
        if (job.lse)
            assert_bits(&lse[r], &want_lse, 1, "%s: log-sum-exp of row %lld", t->name, (long long)r);
        for (int64_t d = D; d < D + GUARD; d++) {
            const real guard = naive_random(78, out[r] - got + d);
            assert_bits(out[r] + d, &guard, 1, "%s: behind output row %lld", t->name, (long long)r);
        }
    }
    free(q);
    free(got);
    free(scratch);
}

/* The last `rows` rows of a causal block: `group` query heads share a token's entries, row r of the block
 * belongs to token r / group, and the last token sees everything. */
static void check_causal(const attn_view *w, int64_t rows, int64_t group)
{
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    int64_t hi[REF_ATTN_ROWS];
    for (int64_t r = 0; r < rows; r++)
        hi[r] = w->n - (rows - 1) / group + r / group;
    assert_true(hi[0] >= 1);
    for (int k = 0; k < tables; k++)
        check_rows(t[k], w, rows, hi);
}

static void attention_crosses_chunks_at_256(void **state)
{
    (void)state;
    static const int64_t n[] = {1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 300, 511, 512, 513, 768, 1025};
    for (int i = 0; i < COUNT(n); i++) {
        attn_view w = make_view(32, &n[i], 1, 1000 + (uint64_t)i);
        check_causal(&w, 1, 1);
        if (n[i] >= 7) check_causal(&w, 7, 1);
        free_view(&w);
    }
}

static void attention_has_the_bits_for_1_to_48_rows(void **state)
{
    (void)state;
    static const int64_t n[] = {20, 240};
    attn_view w = make_view(32, n, 2, 5);
    for (int64_t rows = 1; rows <= REF_ATTN_ROWS; rows++)
        check_causal(&w, rows, 1); /* the block's view ends in the second chunk, some rows' in the first */
    free_view(&w);
}

static void attention_shares_entries_among_grouped_heads(void **state)
{
    (void)state;
    static const int64_t n[] = {250, 12}, groups[] = {2, 3, 4, 8, 48};
    attn_view w = make_view(64, n, 2, 6);
    for (int i = 0; i < COUNT(groups); i++) {
        check_causal(&w, groups[i], groups[i]);
        check_causal(&w, REF_ATTN_ROWS, groups[i]);
        check_causal(&w, 2 * groups[i] - 1 < REF_ATTN_ROWS ? 2 * groups[i] - 1 : 5, groups[i]);
    }
    free_view(&w);
}

/* A ring that has wrapped, sinks in front of it, many short runs: the view is what counts, not the slots. */
static void attention_walks_scattered_spans(void **state)
{
    (void)state;
    static const struct {
        int n;
        int64_t length[REF_MAX_SPANS];
    } views[] = {
        {2, {4, 9}},
        {3, {4, 251, 2}},             /* a chunk ends inside the last span */
        {3, {1, 254, 2}},
        {4, {4, 252, 256, 1}},        /* chunks end where spans end */
        {5, {17, 300, 3, 200, 40}},
        {8, {1, 1, 1, 1, 1, 1, 1, 1}},
        {32, {3, 11, 16, 1, 9, 30, 2, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8}},
    };
    for (int i = 0; i < COUNT(views); i++) {
        attn_view w = make_view(32, views[i].length, views[i].n, 40 + (uint64_t)i);
        check_causal(&w, 1, 1);
        check_causal(&w, 8, 1);
        check_causal(&w, w.n < 24 ? 8 : 48, w.n < 24 ? 4 : 2);
        free_view(&w);
    }
}

static void attention_of_every_head_size(void **state)
{
    (void)state;
    static const int64_t dims[] = {2, 8, 16, 20, 40, 48, 64, 80, 96, 128, 160, 256}, n[] = {6, 270};
    for (int i = 0; i < COUNT(dims); i++) {
        attn_view w = make_view(dims[i], n, 2, 70 + (uint64_t)i);
        check_causal(&w, 1, 1);
        check_causal(&w, 14, 2);
        free_view(&w);
    }
}

/* Rows of one block may end chunks apart. */
static void attention_of_rows_that_end_in_other_chunks(void **state)
{
    (void)state;
    static const int64_t n[] = {700}, hi[] = {1, 1, 2, 255, 256, 256, 257, 258, 300, 511, 512, 513, 513, 700};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    attn_view w = make_view(32, n, 1, 90);
    for (int k = 0; k < tables; k++)
        for (int from = 0; from < COUNT(hi); from++)
            check_rows(t[k], &w, COUNT(hi) - from, hi + from);
    free_view(&w);
}

/* What a row may not see must not reach it, whatever it holds. */
static void attention_skips_later_entries_that_hold_nan(void **state)
{
    (void)state;
    static const int64_t n[] = {9, 260};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    enum { D = 32, ROWS = 9 };
    attn_view w = make_view(D, n, 2, 91);
    real q[ROWS * D], got[ROWS * D], want[D], *out[ROWS];
    int64_t hi[ROWS];
    real *scratch = malloc((size_t)REF(attn_scratch)(w.n, D) * sizeof *scratch);
    assert_non_null(scratch);
    for (int r = 0; r < ROWS; r++) {
        hi[r] = w.n - ROWS + 1 + r;
        out[r] = got + r * D;
        for (int d = 0; d < D; d++)
            q[r * D + d] = naive_random(92, r * D + d);
    }
    const int64_t last = w.spans[1].slot0 + n[1] - 1; /* seen by the last row only */
    for (int d = 0; d < D; d++) {
        ((real *)(uintptr_t)w.spans[1].k)[(last / 16 * D + d) * 16 + last % 16] = (real)kv_nan();
        ((real *)(uintptr_t)w.spans[1].v)[last * w.Dv + d] = (real)kv_nan();
    }
    const ref_attn_job job = {.q = q, .rows = ROWS, .head_dim = D, .spans = w.spans, .n_spans = 2, .hi = hi,
                              .scratch = scratch, .out = out};
    for (int k = 0; k < tables; k++) {
        t[k]->attn(&job);
        for (int r = 0; r < ROWS - 1; r++) {
            naive_attention(q + r * D, w.k_row, w.v_row, hi[r], D, want);
            assert_bits(out[r], want, D, "%s: row %d", t[k]->name, r);
        }
        assert_true(out[ROWS - 1][0] != out[ROWS - 1][0]); /* the poison was real */
    }
    free(scratch);
    free_view(&w);
}

/* Equal scores, a score that dwarfs the others, and outputs that are zero: +0, never -0. */
static void attention_of_ties_of_giants_and_of_zeros(void **state)
{
    (void)state;
    static const int64_t n[] = {300}, hi[] = {1, 2, 200, 300};
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    for (int kind = 0; kind < 3; kind++) {
        attn_view w = make_view(16, n, 1, 95);
        for (int64_t e = 0; e < w.n; e++)
            for (int64_t d = 0; d < w.D; d++) {
                real *k = (real *)(uintptr_t)w.k_row[e] + d, *v = (real *)(uintptr_t)w.v_row[e] + d;
                if (kind == 0) *k = (real)0.5;
                if (kind == 1 && e == 100) *k = *k * 4096;
                if (kind == 2) *v = (real)-0.0;
                w.k[(e / 16 * w.D + d) * 16 + e % 16] = *k;
                w.v[e * w.Dv + d] = *v;
            }
        for (int k = 0; k < tables; k++)
            check_rows(t[k], &w, COUNT(hi), hi);
        free_view(&w);
    }
}

/* If the inputs could not tell the formulas apart, the tests above would prove nothing. */
static void attention_inputs_tell_one_chunk_from_two(void **state)
{
    (void)state;
    static const int64_t n[] = {256};
    attn_view w = make_view(32, n, 1, 96);
    real *q = naive_randoms(97, 32), whole[32], max[2], sum[2], o[2][32];
    int others = 0;
    naive_attention(q, w.k_row, w.v_row, 256, 32, whole);
    for (int c = 0; c < 2; c++)
        naive_chunk(q, w.k_row + 128 * c, w.v_row + 128 * c, 128, 32, &max[c], &sum[c], o[c]);
    const real M = naive_max(max, 2), e0 = NAIVE_EXP(max[0] - M), e1 = NAIVE_EXP(max[1] - M);
    for (int d = 0; d < 32; d++) {
        const real halves = NAIVE_FMA(o[1][d], e1, o[0][d] * e0) / NAIVE_FMA(sum[1], e1, sum[0] * e0);
        others += naive_bits_of(halves) != naive_bits_of(whole[d]);
    }
    assert_true(others > 4);
    free(q);
    free_view(&w);
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_crosses_chunks_at_256),
        cmocka_unit_test(attention_has_the_bits_for_1_to_48_rows),
        cmocka_unit_test(attention_shares_entries_among_grouped_heads),
        cmocka_unit_test(attention_walks_scattered_spans),
        cmocka_unit_test(attention_of_every_head_size),
        cmocka_unit_test(attention_of_rows_that_end_in_other_chunks),
        cmocka_unit_test(attention_skips_later_entries_that_hold_nan),
        cmocka_unit_test(attention_of_ties_of_giants_and_of_zeros),
        cmocka_unit_test(attention_inputs_tell_one_chunk_from_two),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
