/* Random numbers: published known answers, and the properties that streams of weights, documents
 * and mutations rely on. */
#include "tests/unit/kvtest.h"

#include "common/rng.h"

/* Random123 1.14, tests/kat_vectors, philox4x32 10. */
static void philox_gives_the_published_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t in[6], out[4];
    } known[] = {
        {{0, 0, 0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const uint32_t *a = known[i].in;
        const kv_philox_block b = kv_philox(a[0], a[1], a[2], a[3], a[4], a[5]);
        assert_memory_equal(b.v, known[i].out, sizeof b.v);
    }
}

static void philox_words_are_the_lanes_of_consecutive_blocks(void **state)
{
    (void)state;
    const uint64_t seed = UINT64_C(0x0123456789abcdef), stream = UINT64_C(0xfedcba9876543210);
    const uint64_t first[] = {0, 5, 4 * (UINT64_C(1) << 32) + 2};
    for (size_t k = 0; k < 3; k++) {
        const uint64_t i = first[k], b = i / 4;
        const kv_philox_block block = kv_philox((uint32_t)b, (uint32_t)(b >> 32), 0x76543210,
                                                0xfedcba98, 0x89abcdef, 0x01234567);
        assert_int_equal(kv_philox_word(seed, stream, i), block.v[i % 4]);
    }
}

static void philox_seeds_and_streams_are_independent(void **state)
{
    (void)state;
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++)
        same += (kv_philox_word(1, 0, i) == kv_philox_word(2, 0, i)) +
                (kv_philox_word(1, 0, i) == kv_philox_word(1, 1, i)) +
                (kv_philox_word(1, 1, i) == kv_philox_word(1, UINT64_C(1) << 32, i));
    assert_int_equal(same, 0);
}

static void philox_below_stays_below_and_reaches_every_value(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 40; n += 6) {
        uint32_t count[40] = {0};
        for (uint64_t i = 0; i < 400 * n; i++) {
            const uint32_t v = kv_philox_below(7, n, i, n);
            assert_true(v < n);
            count[v]++;
        }
        for (uint32_t v = 0; v < n; v++) /* mean 400, standard deviation 20 */
            assert_in_range(count[v], 280, 520);
    }
    assert_true(kv_philox_below(7, 0, 3, 0x7fffffff) < 0x7fffffff);
}

/* First outputs of the generator as its authors publish it: started at 0 and at 1234567. */
static void splitmix64_gives_the_published_sequence(void **state)
{
    (void)state;
    const uint64_t gamma = UINT64_C(0x9E3779B97F4A7C15);
    static const uint64_t from_0[] = {UINT64_C(0xE220A8397B1DCDAF), UINT64_C(0x6E789E6AA1B965F4),
                                      UINT64_C(0x06C45D188009454F)};
    static const uint64_t from_1234567[] = {
        UINT64_C(6457827717110365317), UINT64_C(3203168211198807973), UINT64_C(9817491932198370423),
        UINT64_C(4593380528125082431), UINT64_C(16408922859458223821)};
    for (uint64_t i = 0; i < 3; i++)
        assert_true(kv_splitmix64(i * gamma) == from_0[i]);
    for (uint64_t i = 0; i < 5; i++)
        assert_true(kv_splitmix64(1234567 + i * gamma) == from_1234567[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(philox_words_are_the_lanes_of_consecutive_blocks),
        cmocka_unit_test(philox_seeds_and_streams_are_independent),
        cmocka_unit_test(philox_below_stays_below_and_reaches_every_value),
        cmocka_unit_test(splitmix64_gives_the_published_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
