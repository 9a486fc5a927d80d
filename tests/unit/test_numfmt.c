/* bf16 and fp16: every decoding, and encodings against the compiler's _Float16 and against the
 * definition of bf16 (round the upper half to nearest even). */
#include "tests/unit/kvtest.h"

#include "common/numfmt.h"

#include <math.h>

/* Value of an fp16 pattern by its definition. */
static double f16_value(uint16_t h)
{
    const int e = (h >> 10) & 31, m = h & 1023;
    const double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

static void every_fp16_pattern_decodes_to_its_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = kv_f162f((uint16_t)h);
        const int e = (h >> 10) & 31, m = h & 1023;
        if (e == 31 && m) {
            assert_int_equal(kv_f2bits(f), 0x7fffffff);
        } else if (e == 31) {
            assert_true(isinf(f) && !signbit(f) == !(h & 0x8000));
        } else {
            assert_true((double)f == f16_value((uint16_t)h) && !signbit(f) == !(h & 0x8000));
        }
    }
}

static void every_fp16_value_encodes_to_its_pattern(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const int nan = (h & 0x7fff) > 0x7c00;
        assert_int_equal(kv_f2f16(kv_f162f((uint16_t)h)), nan ? 0x7fff : h);
    }
}

/* Halfway between neighbours goes to the even one; one bit to either side decides. */
static void fp16_encoding_rounds_to_nearest_even_between_all_neighbours(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        const float mid = (float)((f16_value((uint16_t)h) + f16_value((uint16_t)(h + 1))) / 2);
        assert_int_equal(kv_f2f16(mid), h + (h & 1));
        assert_int_equal(kv_f2f16(nextafterf(mid, 0.0f)), h);
        assert_int_equal(kv_f2f16(nextafterf(mid, INFINITY)), h + 1);
        assert_int_equal(kv_f2f16(-mid), 0x8000 | (h + (h & 1)));
    }
}

static void fp16_encoding_overflows_at_65520(void **state)
{
    (void)state;
    assert_int_equal(kv_f2f16(65504.0f), 0x7bff);
    assert_int_equal(kv_f2f16(nextafterf(65520.0f, 0.0f)), 0x7bff);
    assert_int_equal(kv_f2f16(65520.0f), 0x7c00);
    assert_int_equal(kv_f2f16(-3e38f), 0xfc00);
    assert_int_equal(kv_f2f16(INFINITY), 0x7c00);
    assert_int_equal(kv_f2f16(-kv_nan()), 0x7fff);
    assert_int_equal(kv_f2f16(0x1p-25f), 0); /* half of the smallest subnormal: tie to even */
    assert_int_equal(kv_f2f16(nextafterf(0x1p-25f, 1.0f)), 1);
    assert_int_equal(kv_f2f16(-1e-45f), 0x8000);
}

#if defined(__FLT16_MAX__)
static void fp16_encoding_agrees_with_the_compiler_on_a_sample(void **state)
{
    (void)state;
    for (uint64_t u = 0; u <= UINT32_MAX; u += 997) {
        const float f = kv_bits2f((int32_t)(uint32_t)u);
        if (isnan(f)) continue;
        const _Float16 c = (_Float16)f;
        uint16_t bits;
        memcpy(&bits, &c, sizeof bits);
        if (kv_f2f16(f) != bits) fail_msg("%a: %04x, compiler %04x", (double)f, kv_f2f16(f), bits);
    }
}
#endif

static void every_bf16_pattern_is_the_upper_half_of_a_float(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = kv_bf162f((uint16_t)h);
        assert_int_equal((uint32_t)kv_f2bits(f), h << 16);
        const int nan = (h & 0x7fff) > 0x7f80;
        assert_int_equal(kv_f2bf16(f), nan ? 0x7fff : h);
    }
}

static void bf16_encoding_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        const uint32_t up = h + 1;
        assert_int_equal(kv_f2bf16(kv_bits2f((int32_t)(h << 16 | 0x7fff))), h);
        assert_int_equal(kv_f2bf16(kv_bits2f((int32_t)(h << 16 | 0x8000))), h & 1 ? up : h);
        assert_int_equal(kv_f2bf16(kv_bits2f((int32_t)(h << 16 | 0x8001))), up);
        assert_int_equal(kv_f2bf16(-kv_bits2f((int32_t)(h << 16 | 0x8001))), 0x8000 | up);
    }
    assert_int_equal(kv_f2bf16(3.4e38f), 0x7f80); /* rounds up to infinity */
    assert_int_equal(kv_f2bf16(kv_bits2f((int32_t)0xff800001)), 0x7fff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fp16_pattern_decodes_to_its_value),
        cmocka_unit_test(every_fp16_value_encodes_to_its_pattern),
        cmocka_unit_test(fp16_encoding_rounds_to_nearest_even_between_all_neighbours),
        cmocka_unit_test(fp16_encoding_overflows_at_65520),
#if defined(__FLT16_MAX__)
        cmocka_unit_test(fp16_encoding_agrees_with_the_compiler_on_a_sample),
#endif
        cmocka_unit_test(every_bf16_pattern_is_the_upper_half_of_a_float),
        cmocka_unit_test(bf16_encoding_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
