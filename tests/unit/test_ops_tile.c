/* Records of kv_quant_tile under a bounded contract (difftest/ops/tile_judge.c): what rounding may change passes, what
 * it may not is seen and called by its name. */
#include "tests/unit/kvtest.h"

#include "common/math.h"
#include "common/numfmt.h"
#include "difftest/ops/tile_judge.h"

static const kvdk_precision fp32 = {0};

enum { KIVI = 7 }; /* the first listed shape of that format: 32 tokens and channels, groups of 32 */

/* A drawn tile, what is right, and a record to spoil. */
typedef struct tile {
    dt_opcase c;
    dt_answer right;
    uint8_t *record;
    int slot;
    dt_tile_half half[2];
} tile;

static void draw(int64_t shape, dt_dist dist, uint64_t seed, tile *t)
{
    memset(t, 0, sizeof *t);
    dt_opcase_begin(&t->c, KVDK_OP_kv_quant_tile, shape, dist, seed);
    assert_ok(dt_op_impl_of(KVDK_OP_kv_quant_tile)->draw(&t->c));
}

static void find_right(tile *t)
{
    const kvdk_tile_args *a = &t->c.args.kv_quant_tile;
    assert_ok(dt_op_impl_of(KVDK_OP_kv_quant_tile)->answer(&t->c, &fp32, &t->right));
    while (!t->right.bits[t->slot])
        t->slot++;
    t->record = malloc((size_t)a->record.dim[0]);
    assert_non_null(t->record);
    memcpy(t->record, t->right.bits[t->slot], (size_t)a->record.dim[0]);
    for (int i = 0; i < 2; i++)
        t->half[i] = dt_tile_half_of(a, i);
}

static void drop(tile *t)
{
    free(t->record);
    dt_answer_free(&t->right);
    dt_opcase_free(&t->c);
}

static dt_op_difference judged(const tile *t)
{
    void *got[DT_OP_TENSORS] = {0};
    dt_op_difference d;
    got[t->slot] = t->record;
    assert_ok(dt_op_compare(&t->c, &t->right, got, KVDK_BOUNDED, 0, &d));
    return d;
}

static void put_code(const dt_tile_half *h, uint8_t *record, int64_t row, int32_t col, uint32_t code)
{
    const size_t bytes = (size_t)(h->cols * h->bits / 8);
    uint8_t *at = record + h->codes + row * h->code_row, old[257];
    memcpy(old, at, bytes);
    memset(at, 0, bytes);
    for (int32_t i = 0; i < h->cols; i++)
        kv_code_put(at, i, h->bits, i == col ? code : kv_code_get(old, i, h->bits));
}

static uint32_t get_code(const dt_tile_half *h, const uint8_t *record, int64_t row, int32_t col)
{
    return kv_code_get(record + h->codes + row * h->code_row, col, h->bits);
}

static void add_to_half(uint8_t *record, int64_t part, int64_t i, int add)
{
    uint16_t x;
    memcpy(&x, record + part + 2 * i, sizeof x);
    x = (uint16_t)(x + add);
    memcpy(record + part + 2 * i, &x, sizeof x);
}

/* What the reference writes is right, and a code two steps away is not. numbers: scales and zeros of a half. */
static void width_passes(int64_t shape, int64_t kbits, int64_t vbits, int64_t numbers)
{
    tile t;
    draw(shape, DT_DIST_normal, (uint64_t)(kbits * 10 + vbits), &t);
    kvdk_tile_args *a = &t.c.args.kv_quant_tile;
    assert_int_equal(a->tile * a->hd, 32 * 32);
    a->kbits = kbits;
    a->vbits = vbits;
    free(a->record.data);
    assert_ok(dt_opcase_tensor(&t.c, "record", KVDK_U8, dt_tile_bytes(a), 1, 1));
    find_right(&t);
    const dt_op_difference d = judged(&t);
    if (d.n_bad) fail_msg("K%lld V%lld: %lld numbers, %g of the bound", (long long)kbits, (long long)vbits,
                          (long long)d.n_bad, d.max_ratio);
    assert_int_equal(d.n_elem, 2 * (2 * 32 * 32 + numbers));
    assert_true(d.n_informative > 2000 && d.max_ratio < 0.6);
    for (int half = 0; half < 2; half++) {
        const uint32_t code = get_code(&t.half[half], t.record, 7, 9), top = (1u << t.half[half].bits) - 1;
        put_code(&t.half[half], t.record, 7, 9, code > top / 2 ? code - 2 : code + 2);
        assert_true(judged(&t).n_bad > 0);
        put_code(&t.half[half], t.record, 7, 9, code);
    }
    drop(&t);
}

static void every_width_passes(void **state)
{
    static const int64_t widths[] = {2, 3, 4, 5, 6, 8};
    (void)state;
    for (int i = 0; i < 36; i++)
        width_passes(0, widths[i % 6], widths[i / 6], 3 * 32);
    for (int i = 0; i < 6; i++)
        width_passes(KIVI, widths[i], widths[i], 2 * 32);
}

/* A group of equal numbers has the scale 0, the code 0 and the number itself; kivi keeps fp32, where one unit shows. */
static void a_constant_group_has_one_record(void **state)
{
    tile t;
    (void)state;
    draw(KIVI, DT_DIST_constant, 4, &t);
    find_right(&t);
    assert_int_equal(judged(&t).n_bad, 0);
    put_code(&t.half[1], t.record, 3, 5, 1);
    assert_true(judged(&t).n_bad > 0);
    put_code(&t.half[1], t.record, 3, 5, 0);
    t.record[t.half[1].zero + 3 * t.half[1].scale_row] ^= 1;
    assert_true(judged(&t).n_bad > 0);
    drop(&t);
}

/* Whole steps of 1/8 from -1/4 on; one number of K lies between two of them. */
static void a_tie_may_go_either_way(void **state)
{
    tile t;
    (void)state;
    draw(1, DT_DIST_exact, 3, &t);
    const dt_tile_half h = dt_tile_half_of(&t.c.args.kv_quant_tile, 0);
    float *k = t.c.args.kv_quant_tile.k.data, lo = k[5 * h.row_step];
    int32_t at = -1;
    for (int32_t c = 0; c < h.cols; c++)
        lo = k[5 * h.row_step + c * h.col_step] < lo ? k[5 * h.row_step + c * h.col_step] : lo;
    for (int32_t c = 0; c < h.cols && at < 0; c++)
        if (k[5 * h.row_step + c * h.col_step] == lo + 0.125f) at = c;
    assert_true(at >= 0);
    k[5 * h.row_step + at * h.col_step] = lo + 0.1875f; /* between 1 and 2 */
    find_right(&t);
    assert_int_equal(get_code(&h, t.record, 5, at), 2);
    put_code(&h, t.record, 5, at, 1);
    assert_int_equal(judged(&t).n_bad, 0);
    put_code(&h, t.record, 5, at, 3);
    assert_true(judged(&t).n_bad > 0);
    k[5 * h.row_step + at * h.col_step] = lo + 0.1875f + 0x1p-12f; /* and now nearer to 2 */
    free(t.record);
    dt_answer_free(&t.right);
    find_right(&t);
    assert_int_equal(get_code(&h, t.record, 5, at), 2);
    put_code(&h, t.record, 5, at, 1);
    assert_true(judged(&t).n_bad > 0);
    drop(&t);
}

/* Two units are more than a rounding, and less than a tenth of a step. */
static void a_wrong_number_has_a_name(void **state)
{
    static const struct {
        int half, kind, index;
        const char *text;
    } all[] = {
        {0, DT_TILE_SCALE, 3, "K S of channel 3"},         {0, DT_TILE_ZERO, 4, "K Z of channel 4"},
        {0, DT_TILE_COL, 5, "K c of token 5"},             {1, DT_TILE_SCALE, 2 * 7 + 1, "V S of token 7 group 1"},
        {1, DT_TILE_ZERO, 2 * 8, "V Z of token 8 group 0"}, {1, DT_TILE_COL, 200, "V c of channel 200"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tile t;
        dt_element_name n;
        draw(6, DT_DIST_normal, i, &t);
        find_right(&t);
        const dt_tile_half *h = &t.half[all[i].half];
        const int64_t part = all[i].kind == DT_TILE_SCALE ? h->scale : all[i].kind == DT_TILE_ZERO ? h->zero : h->col;
        add_to_half(t.record, part, all[i].index, 2);
        const dt_op_difference d = judged(&t);
        assert_true(d.n_bad > 0);
        dt_op_impl_of(KVDK_OP_kv_quant_tile)->name(&t.c, d.bad_slot, d.bad_index, &n);
        assert_string_equal(n.text, all[i].text);
        assert_true(d.got_value != d.ref_value && d.bad_bound > 0);
        drop(&t);
    }
}

static void what_is_not_finite_is_wrong(void **state)
{
    tile t;
    (void)state;
    draw(0, DT_DIST_normal, 1, &t);
    find_right(&t);
    const uint16_t nan = 0x7e00;
    memcpy(t.record + t.half[1].zero + 2 * 3, &nan, sizeof nan);
    const dt_op_difference d = judged(&t);
    assert_int_equal(d.n_nonfinite, 1);
    assert_true(d.n_bad > 0);
    drop(&t);
}

/* No round is as good as none, so that C = R = 1 and nothing is rounded. */
static void exact_inputs_are_not_balanced(void **state)
{
    (void)state;
    for (int64_t shape = 0; shape < 20; shape++) {
        tile t;
        draw(shape, DT_DIST_exact, 8, &t);
        find_right(&t);
        const kvdk_tile_args *a = &t.c.args.kv_quant_tile;
        const dt_tile_round *rounds = t.right.detail;
        for (int half = 0; half < 2; half++)
            for (int64_t k = 0; k <= a->iters; k++)
                assert_int_equal(rounds[half * (a->iters + 1) + k].is_legal, k == 0);
        for (int half = 0; half < 2; half++)
            for (int64_t c = 0; t.half[half].is_balanced && c < t.half[half].cols; c++) {
                uint16_t one;
                memcpy(&one, t.record + t.half[half].col + 2 * c, sizeof one);
                assert_int_equal(one, kv_f2f16(1));
            }
        drop(&t);
    }
}

/* At the floor of its range a scale has no error, above it more with every round, and more with coarser sums. */
static void errors_follow_the_rounds(void **state)
{
    tile t;
    (void)state;
    draw(0, DT_DIST_small, 5, &t);
    find_right(&t);
    const dt_tile_round *small = t.right.detail;
    for (int c = 0; c < 32; c++) {
        assert_true(small[3].col[c].log == (double)-0.3f);
        assert_true(small[3].col[c].off == 0);
    }
    assert_true(small[0].is_legal && small[8].is_legal); /* mathematically equal: either may win */
    drop(&t);
    draw(0, DT_DIST_large, 5, &t);
    find_right(&t);
    const dt_tile_round *large = t.right.detail;
    dt_tile_round *coarse = calloc(9, sizeof *coarse);
    assert_non_null(coarse);
    dt_tile_balance(&t.half[0], 8, DT_U + 0x1p-11, coarse);
    assert_true(large[1].col[4].off > 16 * DT_U);
    assert_true(large[8].col[4].off > large[1].col[4].off);
    assert_true(large[8].col[4].off < 0x1p-11);
    assert_true(coarse[1].col[4].off > 16 * large[1].col[4].off);
    free(coarse);
    drop(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_passes),          cmocka_unit_test(a_tie_may_go_either_way),
        cmocka_unit_test(a_constant_group_has_one_record),
        cmocka_unit_test(a_wrong_number_has_a_name),   cmocka_unit_test(what_is_not_finite_is_wrong),
        cmocka_unit_test(exact_inputs_are_not_balanced), cmocka_unit_test(errors_follow_the_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
