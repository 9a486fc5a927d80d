/* Sums of probabilities by entry (docs/policy/cascade.md, step 4) as plain loops, every bit, for every instruction set of
 * this CPU; and the rules by which scores decide who stays. */
#include "tests/unit/refnaive.h"

#include "ref/policy/scores.h"

/* ---- column sums ------------------------------------------------------------------------------------------ */

typedef struct columns_case {
    int64_t rows, panels, D, row0, key0, block;
    int weighted, reversed;
} columns_case;

/* Sum of one key over the queries that see it. */
static real naive_column(const columns_case *c, const ref_column_job *j, int64_t key)
{
    const real *panel = j->k + key / 16 * c->D * 16 + key % 16;
    real total = 0, acc = 0;
    for (int64_t r = 0; r < c->rows; r++) {
        if (c->key0 < 0 || c->key0 + key <= c->row0 + r) {
            real s = 0;
            for (int64_t d = 0; d < c->D; d++)
                s = NAIVE_FMA(j->q[r * c->D + d], panel[d * 16], s);
            const real e = NAIVE_EXP(s - j->max[r]), p = e / j->sum[r];
            const int64_t w = c->reversed ? c->rows - 1 - (c->row0 + r - c->key0 - key) : r;
            acc = c->weighted ? NAIVE_FMA(j->weights[w], p, acc) : acc + p;
        }
        if ((r + 1) % c->block == 0 || r + 1 == c->rows) {
            total = total + acc;
            acc = 0;
        }
    }
    return total;
}

static void check_columns(const ref_kernels *t, const columns_case *c)
{
    const int64_t keys = 16 * c->panels;
    real *q = naive_randoms(1, c->rows * c->D), *k = naive_randoms(2, keys * c->D), *max = naive_randoms(3, c->rows);
    real *sum = naive_randoms(4, c->rows), *weights = naive_randoms(5, c->rows);
    real *acc = naive_randoms(6, keys), *scratch = malloc(REF_COLUMN_SCRATCH * sizeof *scratch);
    assert_non_null(scratch);
    for (int64_t r = 0; r < c->rows; r++)
        sum[r] = sum[r] * sum[r] + 1;
    const ref_column_job j = {.q = q, .rows = c->rows, .head_dim = c->D, .row0 = c->row0, .max = max, .sum = sum,
                              .weights = c->weighted ? weights : NULL, .block = c->block, .reversed = c->reversed, .k = k,
                              .panels = c->panels, .key0 = c->key0, .scratch = scratch, .acc = acc};
    t->columns(&j);
    for (int64_t i = 0; i < keys; i++) {
        const real want = naive_column(c, &j, i);
        assert_bits(&acc[i], &want, 1, "%s: %lld rows, %lld panels, key0 %lld: key %lld", t->name, (long long)c->rows,
                    (long long)c->panels, (long long)c->key0, (long long)i);
    }
    real *const all[] = {q, k, max, sum, weights, acc, scratch};
    for (int i = 0; i < COUNT(all); i++)
        free(all[i]);
}

static void columns_have_the_bits_of_the_contract(void **state)
{
    (void)state;
    const ref_kernels *t[NAIVE_TABLES];
    const int tables = naive_tables(t, NULL);
    static const columns_case cases[] = {
        {1, 1, 32, 0, -1, 256, 0, 0},   {1, 9, 64, 0, -1, 256, 1, 0},   {3, 8, 32, 0, -1, 256, 1, 0},
        {13, 5, 32, 0, -1, 256, 0, 0},  {257, 3, 32, 0, -1, 256, 1, 0}, {600, 2, 32, 0, -1, 256, 0, 0},
        {32, 4, 32, 100, 0, 32, 0, 0},  {40, 3, 32, 0, 0, 256, 1, 0},   {40, 3, 64, 0, 0, 256, 0, 0},
        {40, 3, 32, 0, 0, 256, 1, 1},   {300, 8, 32, 0, 128, 256, 1, 0}, {300, 8, 32, 0, 128, 256, 1, 1},
        {1, 4, 32, 63, 0, 1, 0, 0},     {5, 1, 256, 0, 0, 2, 1, 0},
    };
    for (int k = 0; k < tables; k++)
        for (int i = 0; i < COUNT(cases); i++)
            check_columns(t[k], &cases[i]);
}

/* ---- who stays ------------------------------------------------------------------------------------------------- */

/* Which of up to 8 entries stay, as a word of bits, lowest index first. */
static unsigned kept(const real *scores, int64_t n, int64_t want, real *lowest)
{
    ref_ranked v[8];
    uint8_t keep[8];
    unsigned bits = 0;
    for (int64_t i = 0; i < n; i++)
        v[i] = (ref_ranked){scores[i], i};
    *lowest = REF(keep_best)(v, n, want, keep);
    for (int64_t i = 0; i < n; i++)
        bits |= (unsigned)keep[i] << i;
    return bits;
}

static void higher_scores_stay_and_ties_go_to_the_older(void **state)
{
    (void)state;
    const real nan = (real)kv_nan(), some[] = {1, 3, 2, 3, 0}, zeros[] = {0, -0.0f, 0, -0.0f};
    const real odd[] = {nan, -5, nan, (real)-kv_inf()};
    real lowest;
    assert_int_equal(kept(some, 5, 2, &lowest), 0x0a);
    assert_true(lowest == 3);
    assert_int_equal(kept(some, 5, 1, &lowest), 0x02); /* two 3s: the older stays */
    assert_int_equal(kept(some, 5, 4, &lowest), 0x0f);
    assert_true(lowest == 1);
    assert_int_equal(kept(zeros, 4, 2, &lowest), 0x03); /* zeros are equal */
    assert_int_equal(kept(odd, 4, 2, &lowest), 0x0a);   /* NaN is below minus infinity */
    assert_int_equal(kept(odd, 4, 3, &lowest), 0x0b);   /* and the older NaN before the newer */
    assert_true(lowest != lowest);
    assert_int_equal(kept(some, 5, 0, &lowest), 0);
    assert_true(lowest == (real)kv_inf());
    assert_int_equal(kept(some, 5, 5, &lowest), 0x1f);
}

static void heads_of_a_group_are_added_in_order(void **state)
{
    (void)state;
    real acc[12] = {0};
    const ref_sums s = {.acc = acc, .stride = 2, .stored = 1, .m = 1, .n_heads = 6, .group = 3};
    acc[1] = (real)1e8;
    acc[3] = (real)-1e8;
    acc[5] = (real)0.25;
    assert_true(REF(group_sum)(&s, 0, 1) == (real)0.25); /* from the other end the quarter would be lost */
    assert_true(REF(group_max)(&s, 0, 1) == (real)1e8);
    acc[7] = 1;
    acc[9] = (real)kv_nan();
    acc[11] = 2;
    const real m = REF(group_max)(&s, 1, 1);
    assert_true(m != m); /* one NaN makes the maximum NaN */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_have_the_bits_of_the_contract),
        cmocka_unit_test(higher_scores_stay_and_ties_go_to_the_older),
        cmocka_unit_test(heads_of_a_group_are_added_in_order),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
