/* Digests and fingerprints against the answers that their authors publish. */
#include "tests/unit/kvtest.h"

#include "common/hash.h"

/* The sanity buffer of xxHash: byte i = top byte of a 32-bit generator that squares itself. */
static void xxh64_gives_the_published_answers(void **state)
{
    (void)state;
    uint8_t buffer[101];
    const uint32_t prime = 2654435761u;
    uint32_t gen = prime;
    for (size_t i = 0; i < sizeof buffer; i++, gen *= gen)
        buffer[i] = (uint8_t)(gen >> 24);
    static const struct {
        size_t n;
        uint64_t seed, hash;
    } known[] = {
        {0, 0, UINT64_C(0xEF46DB3751D8E999)},   {0, 2654435761u, UINT64_C(0xAC75FDA2929B17EF)},
        {1, 0, UINT64_C(0x4FCE394CC88952D8)},   {1, 2654435761u, UINT64_C(0x739840CB819FA723)},
        {14, 0, UINT64_C(0xCFFA8DB881BC3A3D)},  {14, 2654435761u, UINT64_C(0x5B9611585EFCC9CB)},
        {101, 0, UINT64_C(0x0EAB543384F878AD)}, {101, 2654435761u, UINT64_C(0xCAA65939306F1E21)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (kv_xxh64(buffer, known[i].n, known[i].seed) != known[i].hash)
            fail_msg("XXH64 of %zu bytes, seed %llu", known[i].n,
                     (unsigned long long)known[i].seed);
    assert_true(kv_xxh64("abc", 3, 0) == UINT64_C(0x44BC2CF5AD770999));
}

/* FIPS 180-4 examples and the empty message. */
static const struct {
    const char *message, *hex;
} fips[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

static void sha256_gives_the_published_answers(void **state)
{
    (void)state;
    uint8_t sha[32];
    char hex[65];
    for (size_t i = 0; i < sizeof fips / sizeof *fips; i++) {
        kv_sha256(fips[i].message, strlen(fips[i].message), sha);
        kv_hex32(sha, hex);
        assert_string_equal(hex, fips[i].hex);
    }
}

static void sha256_in_parts_equals_sha256_in_one(void **state)
{
    (void)state;
    static char part[997];
    memset(part, 'a', sizeof part);
    kv_sha256_ctx c;
    uint8_t sha[32];
    char hex[65];
    kv_sha256_begin(&c);
    size_t left = 1000000;
    while (left) {
        const size_t n = left < sizeof part ? left : sizeof part;
        kv_sha256_add(&c, part, n);
        left -= n;
    }
    kv_sha256_end(&c, sha);
    kv_hex32(sha, hex); /* FIPS 180-4: one million letters a */
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_null(c.impl);
}

static void hex_writes_every_nibble_and_a_zero(void **state)
{
    (void)state;
    uint8_t sha[32];
    char hex[66];
    for (int i = 0; i < 32; i++)
        sha[i] = (uint8_t)(i * 8 + 1);
    hex[65] = '!';
    kv_hex32(sha, hex);
    for (int i = 0; i < 32; i++) {
        char two[3];
        snprintf(two, sizeof two, "%02x", sha[i]);
        assert_memory_equal(hex + 2 * i, two, 2);
    }
    assert_int_equal(hex[64], 0);
    assert_int_equal(hex[65], '!');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xxh64_gives_the_published_answers),
        cmocka_unit_test(sha256_gives_the_published_answers),
        cmocka_unit_test(sha256_in_parts_equals_sha256_in_one),
        cmocka_unit_test(hex_writes_every_nibble_and_a_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
