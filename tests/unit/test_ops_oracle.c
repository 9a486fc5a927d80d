/* What single operations are checked with (difftest/ops): the reference stays inside the bound that is derived from the formula, on
 * every listed shape and distribution; every result says something; what is off is seen and called by its name. */
#include "tests/unit/kvtest.h"

#include "common/math.h"
#include "difftest/ops/compare.h"
#include "ref/ops.h"

static const kvdk_precision fp32 = {0};

static void draw(int op, int64_t shape, dt_dist dist, int64_t part, uint64_t seed, dt_opcase *c)
{
    dt_opcase_begin(c, op, shape, dist, seed);
    c->part = part;
    assert_ok(dt_op_impl_of(op)->draw(c));
    assert_true(c->title[0]);
}

static void find_slot(int op, const char *name, int *slot)
{
    const dt_op_schema *s = &dt_op_schemas[op];
    for (*slot = 0; strcmp(s->tensors[*slot].name, name) != 0; ++*slot)
        assert_true(*slot + 1 < s->n_tensors);
}

/* Every output has an answer, inputs have none, and the elements at both ends have names. */
static void check_outputs(const dt_opcase *c, const dt_answer *right)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    for (int i = 0; i < s->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(&c->args, &s->tensors[i]);
        const int is_out = s->tensors[i].role != DT_IN && t->data;
        dt_element_name first, last;
        if (!is_out != !right->bits[i]) fail_msg("%s %s: tensor %s", s->name, c->title, s->tensors[i].name);
        if (!is_out || dt_tensor_count(t) == 0) continue;
        dt_op_impl_of(c->op)->name(c, i, 0, &first);
        dt_op_impl_of(c->op)->name(c, i, dt_tensor_count(t) - 1, &last);
        assert_true(first.text[0] && last.text[0]);
        if (dt_tensor_count(t) > 1 && strcmp(first.text, last.text) == 0) fail_msg("%s: both ends are '%s'", s->name, first.text);
    }
}

static double check_case(int op, int64_t shape, dt_dist dist, int64_t part, uint64_t seed, int64_t *n_parts, int64_t *informative)
{
    dt_opcase c;
    dt_answer right = {0};
    dt_op_difference d;
    double ratio;
    draw(op, shape, dist, part, seed, &c);
    *n_parts = c.n_parts;
    assert_ok(dt_op_impl_of(op)->answer(&c, &fp32, &right));
    check_outputs(&c, &right);
    if (!dt_op_trust(&c, &right, &ratio))
        fail_msg("%s, %s, %s, shape %lld, seed %llu: %g of the bound", dt_op_schemas[op].name, c.title, dt_dist_name(dist),
                 (long long)shape, (unsigned long long)seed, ratio);
    for (int contract = KVDK_BITEXACT; contract <= KVDK_BOUNDED; contract++) {
        assert_ok(dt_op_compare(&c, &right, right.bits, contract, dist == DT_DIST_exact, &d));
        assert_int_equal(d.n_bad, 0);
    }
    *informative += d.n_informative;
    dt_answer_free(&right);
    dt_opcase_free(&c);
    return ratio;
}

static void check_op(int op)
{
    const dt_op_impl *impl = dt_op_impl_of(op);
    double worst = 0;
    for (int dist = 0; dist < DT_DIST_COUNT; dist++) {
        int64_t informative = 0, parts = 1;
        if (!(impl->dists >> dist & 1)) continue;
        for (int64_t shape = 0; shape < impl->n_shapes + 4; shape++)
            for (int64_t part = 0; part < 3 && part < parts; part++) {
                const double r = check_case(op, shape, (dt_dist)dist, part, 5, &parts, &informative);
                worst = r > worst ? r : worst;
                if (dist != DT_DIST_dye) parts = 1;
            }
        /* A product of numbers below the normal range may be flushed to zero by whoever is bounded. */
        if (!informative && dist != DT_DIST_subnormal) fail_msg("%s, %s: an output of zeros would pass", dt_op_schemas[op].name, dt_dist_name(dist));
    }
    printf("# %s: at most %.3g of the bound\n", dt_op_schemas[op].name, worst);
}

#define X(name, type) \
    static void inside_the_bound_##name(void **state) { (void)state; check_op(KVDK_OP_##name); }
KVDK_OP_LIST(X)
#undef X

/* Every distribution that checks.c sends to a check of its own must exist somewhere, and hidden, timing etc. need normal ones. */
static void every_operation_has_what_the_checks_need(void **state)
{
    uint32_t all = 0;
    (void)state;
    for (int op = 0; op < KVDK_OP_COUNT; op++) {
        assert_non_null(dt_op_impl_of(op));
        assert_true(dt_op_impl_of(op)->dists & DT_DIST(normal));
        assert_true(dt_op_impl_of(op)->n_shapes >= 5);
        all |= dt_op_impl_of(op)->dists;
    }
    assert_int_equal(all, (1u << DT_DIST_COUNT) - 1);
}

/* The element at index i of an fp32 output moves by `times` of its bound. */
static void shifted(int op, int64_t shape, const char *tensor, int64_t i, double times, int64_t n_bad)
{
    dt_opcase c;
    dt_answer right = {0};
    dt_op_difference d;
    void *got[DT_OP_TENSORS];
    int slot;
    draw(op, shape, DT_DIST_normal, 0, 9, &c);
    assert_ok(dt_op_impl_of(op)->answer(&c, &fp32, &right));
    find_slot(op, tensor, &slot);
    memcpy(got, right.bits, sizeof got);
    const size_t bytes = (size_t)dt_tensor_count(dt_op_tensor_of(&c.args, &dt_op_schemas[op].tensors[slot])) * sizeof(float);
    float *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, right.bits[slot], bytes);
    copy[i] = (float)(right.value[slot][i] + times * right.bound[slot][i]);
    got[slot] = copy;
    assert_ok(dt_op_compare(&c, &right, got, KVDK_BOUNDED, 0, &d));
    assert_int_equal(d.n_bad, n_bad);
    if (n_bad) {
        assert_int_equal(d.bad_slot, slot);
        assert_int_equal(d.bad_index, i);
    }
    free(copy);
    dt_answer_free(&right);
    dt_opcase_free(&c);
}

static void a_step_over_the_bound_is_seen(void **state)
{
    (void)state;
    for (int over = 0; over < 2; over++) {
        const double times = over ? 2 : 0.5; /* the result is rounded to fp32 */
        shifted(KVDK_OP_gemm, 3, "c", 7, times, over);
        shifted(KVDK_OP_rope, 2, "x", 40, times, over);
        shifted(KVDK_OP_attn_colsum, 2, "colsum", 1, times, over);
        shifted(KVDK_OP_attn_quant, 2, "o", 33, times, over);
        shifted(KVDK_OP_logits_nll, 4, "row_sum", 2, times, over);
    }
}

static void named(int op, int64_t shape, dt_dist dist, int64_t part, const char *tensor, int64_t i, const char *text)
{
    dt_opcase c;
    dt_element_name n;
    int slot;
    draw(op, shape, dist, part, 9, &c);
    find_slot(op, tensor, &slot);
    dt_op_impl_of(op)->name(&c, slot, i, &n);
    assert_string_equal(n.text, text);
    dt_opcase_free(&c);
}

static void elements_have_names(void **state)
{
    (void)state;
    named(KVDK_OP_gemm, 2, DT_DIST_normal, 0, "c", 18, "row 1 column 1");
    named(KVDK_OP_gemm, 2, DT_DIST_dye, 0, "c", 15, "column 1, element 2 of K");
    named(KVDK_OP_rope, 1, DT_DIST_normal, 0, "x", 27, "token 1 (position 0) head 1 dim 3");
    named(KVDK_OP_rope, 3, DT_DIST_dye, 2, "x", 40, "token 0 (position 256) head 0 dim 40, not to be rotated");
    named(KVDK_OP_attn_colsum, 1, DT_DIST_normal, 0, "colsum", 70, "head 1, entry 1 of the cache");
    named(KVDK_OP_attn_colsum, 1, DT_DIST_dye, 0, "colsum", 64, "head 0, entry 0 of the self, share of token 0");
    named(KVDK_OP_window_append, 6, DT_DIST_normal, 0, "k_cache", 14 * 16 + 9, "slot 14 head 1 dim 1, place of token 0");
    named(KVDK_OP_window_append, 6, DT_DIST_normal, 0, "v_cache", 5 * 16, "slot 5 head 0 dim 0, not to be written");
    named(KVDK_OP_window_append, 6, DT_DIST_normal, 0, "ring", 1, "count");
    named(KVDK_OP_cascade_move, 2, DT_DIST_dye, 0, "v_cache", 16, "slot 1 head 0 dim 0, place of slot 0");
    named(KVDK_OP_cascade_move, 2, DT_DIST_dye, 0, "k_cache", 3, "slot 0 head 0 dim 3, place of new token 0");
    named(KVDK_OP_cascade_plan, 3, DT_DIST_normal, 0, "src", 7 + 4, "list 1 slot 4 (ring 1 offset 1)");
    named(KVDK_OP_cascade_plan, 3, DT_DIST_normal, 0, "rings", 4, "start of ring 1");
    named(KVDK_OP_cascade_plan, 3, DT_DIST_normal, 0, "dropped", 2, "list 0, when token 2 (original index 8) came");
    named(KVDK_OP_kv_quant_tile, 0, DT_DIST_normal, 0, "record", 17, "K codes of channel 1, byte 1 (17 of the record)");
    named(KVDK_OP_kv_quant_tile, 0, DT_DIST_normal, 0, "record", 1151, "V Z of token 31, byte 1 (1151 of the record)");
    named(KVDK_OP_kv_quant_tile, 8, DT_DIST_normal, 0, "record", 2569, "K minima of channel 1, byte 1 (2569 of the record)");
    named(KVDK_OP_kv_quant_tile, 8, DT_DIST_normal, 0, "record", 3315, "V row of token 5, byte 3 (3315 of the record)");
    named(KVDK_OP_attn_quant, 2, DT_DIST_normal, 0, "o", 65, "head 1 dim 1");
    named(KVDK_OP_logits_nll, 1, DT_DIST_normal, 0, "nll", 1, "token 1 (target 0)");
    named(KVDK_OP_topk, 2, DT_DIST_normal, 0, "index", 6, "row 1, place 1 of 5");
}

/* The worked example of docs/policy/cascade.md, on plain arrays: in one step, and token by token. */
static void cascade_of_the_page(int64_t step)
{
    enum { S = 7, T = 16 };
    static const float score[T] = {1, 8, 5, 2, 9, 6, 3, 0, 7, 4, 4, 8, 5, 2, 9, 6};
    static const int64_t left[T] = {-1, -1, -1, -1, -1, -1, -1, 1, 6, 2, 7, 5, 9, 3, 12, 10};
    static const int64_t after[S] = {0, 15, 14, 13, 11, 8, 4};
    int64_t og[S] = {-1, -1, -1, -1, -1, -1, -1}, next[S], dropped[T];
    float stored[S] = {0}, moved[S];
    int32_t rings[7] = {0}, src[S];
    for (int64_t t = 0; t < T; t += step) {
        const ref_op_cascade a = {.G = 1, .T = step, .sinks = 1, .W = 2, .levels = 3, .eager = 1, .seen = t, .score = stored,
                                  .new_score = score + t, .og = og, .rings = rings, .src = src, .dropped = dropped + t};
        assert_ok(ref_op_cascade_plan(&a));
        for (int s = 0; s < S; s++) {
            next[s] = src[s] < 0 ? t - 1 - src[s] : og[src[s]];
            moved[s] = src[s] < 0 ? score[t - 1 - src[s]] : stored[src[s]];
        }
        memcpy(og, next, sizeof og);
        memcpy(stored, moved, sizeof stored);
    }
    for (int t = 0; t < T; t++)
        assert_int_equal(dropped[t], left[t]);
    for (int s = 0; s < S; s++)
        assert_int_equal(og[s], after[s]);
}

static void a_cascade_on_plain_arrays_follows_its_page(void **state)
{
    (void)state;
    cascade_of_the_page(1);
    cascade_of_the_page(4);
    cascade_of_the_page(16);
}

/* NaN below -inf, equal numbers by index, both zeros equal. */
static void the_largest_are_found_by_hand(void **state)
{
    static const float z[6] = {-0.0f, 1, 0.0f, 1, -2, 0.0f};
    static const int32_t want[4] = {0, 1, 2, 3};
    dt_opcase c;
    dt_answer right = {0};
    int slot;
    (void)state;
    draw(KVDK_OP_topk, 11, DT_DIST_normal, 0, 1, &c);
    float *row = c.args.topk.z.data;
    memcpy(row, z, sizeof z);
    for (int i = 0; i < 6; i++)
        row[6 + i] = i == 1 ? -kv_inf() : kv_bits2f(0x7fc00000);
    assert_ok(dt_op_impl_of(KVDK_OP_topk)->answer(&c, &fp32, &right));
    find_slot(KVDK_OP_topk, "index", &slot);
    assert_memory_equal(right.bits[slot], want, sizeof want);
    assert_memory_equal((int32_t *)right.bits[slot] + 4, want, sizeof want);
    dt_answer_free(&right);
    dt_opcase_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define X(name, type) cmocka_unit_test(inside_the_bound_##name),
        KVDK_OP_LIST(X)
#undef X
        cmocka_unit_test(every_operation_has_what_the_checks_need),
        cmocka_unit_test(a_step_over_the_bound_is_seen),
        cmocka_unit_test(elements_have_names),
        cmocka_unit_test(a_cascade_on_plain_arrays_follows_its_page),
        cmocka_unit_test(the_largest_are_found_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
