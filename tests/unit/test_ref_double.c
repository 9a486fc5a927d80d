/* The double twin of the reference (docs/numerics.md, section 5): the cases of test_ref_gemm.c, test_ref_ops.c,
 * test_ref_attention.c, test_ref_rope.c and test_ref_kvarn.c once more, compiled with the other width. */
#define REF_BITS 64
#define REF_CASES_ONLY
#include "tests/unit/test_ref_attention.c"
#include "tests/unit/test_ref_gemm.c"
#include "tests/unit/test_ref_kvarn.c"
#include "tests/unit/test_ref_ops.c"
#include "tests/unit/test_ref_rope.c"

/* Section 5 promises a twin, not a copy: it computes in double. */
static void the_double_twin_is_more_precise(void **state)
{
    (void)state;
    const ref_kernels *k;
    assert_ok(ref64_kernels_find("scalar", &k));
    const real third = (real)1 / 3;
    real x = third, y = third * 0x1p-40;
    k->add(&x, &y, 1);
    assert_true((double)x != (double)(float)x && x - third > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_double_twin_is_more_precise),
        cmocka_unit_test(gemm_has_the_bits_of_the_contract_for_1_to_30_rows),
        cmocka_unit_test(gemm_adds_blocks_of_256_in_order),
        cmocka_unit_test(gemm_crosses_its_cache_blocks),
        cmocka_unit_test(gemm_copies_rows_that_compete_for_the_cache),
        cmocka_unit_test(gemm_inputs_tell_a_wrong_order_from_the_right_one),
        cmocka_unit_test(gemm_keeps_zeros_subnormals_and_overflow),
        cmocka_unit_test(rmsnorm_sums_in_64_lanes),
        cmocka_unit_test(rmsnorm_of_zeros_and_of_tiny_rows),
        cmocka_unit_test(swiglu_has_the_bits_of_the_contract),
        cmocka_unit_test(add_is_one_rounded_addition),
        cmocka_unit_test(nll_sums_in_blocks_of_4096),
        cmocka_unit_test(nll_of_ties_zeros_and_a_late_maximum),
        cmocka_unit_test(nll_agrees_with_arithmetic_on_paper),
        cmocka_unit_test(rotate_panel_turns_both_pairings),
        cmocka_unit_test(rotate_panel_keeps_nan_in_its_lane),
        cmocka_unit_test(attention_crosses_chunks_at_256),
        cmocka_unit_test(attention_has_the_bits_for_1_to_48_rows),
        cmocka_unit_test(attention_shares_entries_among_grouped_heads),
        cmocka_unit_test(attention_walks_scattered_spans),
        cmocka_unit_test(attention_of_every_head_size),
        cmocka_unit_test(attention_of_rows_that_end_in_other_chunks),
        cmocka_unit_test(attention_skips_later_entries_that_hold_nan),
        cmocka_unit_test(attention_of_ties_of_giants_and_of_zeros),
        cmocka_unit_test(attention_inputs_tell_one_chunk_from_two),
        cmocka_unit_test(rope_frequencies_follow_the_formula),
        cmocka_unit_test(rope_frequencies_of_theta_10000_are_powers_of_ten),
        cmocka_unit_test(rope_tables_follow_the_formula),
        cmocka_unit_test(rope_of_sign_minus_one_negates_the_sine_only),
        cmocka_unit_test(rope_tables_are_laid_out_as_promised),
        cmocka_unit_test(rope_row_rotates_both_pairings),
        cmocka_unit_test(rope_tables_cross_the_door),
        cmocka_unit_test(rope_of_every_config_reaches_the_keys),
        cmocka_unit_test(golden_tile_to_the_bit),
        cmocka_unit_test(the_page_shows_the_golden_tile),
        cmocka_unit_test(golden_attention),
        cmocka_unit_test(coding_has_the_bits_of_the_page),
        cmocka_unit_test(coding_of_difficult_tiles),
        cmocka_unit_test(scales_stop_at_the_floor),
        cmocka_unit_test(codes_of_every_width_come_back),
        cmocka_unit_test(attention_reads_codes_of_every_width),
        cmocka_unit_test(attention_on_codes_for_1_to_48_rows),
        cmocka_unit_test(attention_on_codes_of_rows_that_see_less),
        cmocka_unit_test(rotation_is_its_own_inverse_and_the_same_in_panels),
        cmocka_unit_test(every_instruction_set_was_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
