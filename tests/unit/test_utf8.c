/* UTF-8: the decoder against a second one written from the definition, over every code point and
 * every sequence of up to three bytes; the messages of the gate; the character classes; words. */
#include "tests/unit/kvtest.h"

#include "common/tokenizer.h"
#include "common/utf8.h"

/* From the definition: take the bits of the shape, then refuse what has a shorter form, surrogates
 * and what lies beyond the last plane. */
static size_t decode_slowly(const uint8_t *p, size_t n, uint32_t *cp)
{
    static const struct {
        uint8_t mask, shape;
        uint32_t least;
    } shapes[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (size_t length = 1; length <= 4; length++) {
        if ((p[0] & shapes[length - 1].mask) != shapes[length - 1].shape) continue;
        if (length > n) return 0;
        uint32_t c = p[0] & (uint8_t)~shapes[length - 1].mask;
        for (size_t i = 1; i < length; i++) {
            if (p[i] >> 6 != 2) return 0;
            c = c * 64 + p[i] % 64;
        }
        if (c < shapes[length - 1].least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
        *cp = c;
        return length;
    }
    return 0;
}

static void assert_same(const uint8_t *p, size_t n)
{
    uint32_t got = 0, wanted = 0;
    const size_t g = kv_utf8_next((const char *)p, n, &got), w = decode_slowly(p, n, &wanted);
    if (g != w || got != wanted)
        fail_msg("%02x %02x %02x (%zu bytes): length %zu of U+%X, wanted %zu of U+%X", p[0], p[1],
                 p[2], n, g, got, w, wanted);
}

static void every_sequence_of_three_bytes_decodes_as_defined(void **state)
{
    (void)state;
    for (uint32_t x = 0; x < 1u << 24; x++) {
        const uint8_t p[4] = {(uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), 0x80};
        assert_same(p, 3);
        assert_same(p, 4);
        if (x < 1u << 16) assert_same(p, 2);
        if (x < 1u << 8) assert_same(p, 1);
    }
}

static void every_code_point_is_written_and_read_back(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char p[4];
        uint32_t back = 0;
        const size_t n = kv_utf8_put(c, p);
        assert_int_equal(n, c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4);
        const int surrogate = c >= 0xd800 && c < 0xe000;
        assert_int_equal(kv_utf8_next(p, n, &back), surrogate ? 0 : n);
        if (!surrogate) assert_int_equal(back, c);
    }
}

static void the_gate_names_offset_and_fault(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"abc\x80", "byte 3 (0x80): a continuation byte without a lead byte"},
        {"\xc0\xaf", "byte 0 (0xC0): an overlong sequence"},
        {"a\xc1\xbf", "byte 1 (0xC1): an overlong sequence"},
        {"ab\xe0\x9f\xbf", "byte 2 (0xE0): an overlong sequence"},
        {"\xf0\x8f\xbf\xbf", "byte 0 (0xF0): an overlong sequence"},
        {"\xc3\xa9\xed\xa0\x80", "byte 2 (0xED): a surrogate"},
        {"\xf4\x90\x80\x80", "byte 0 (0xF4): a character beyond U+10FFFF"},
        {"\xf5\x80\x80\x80", "byte 0 (0xF5): a character beyond U+10FFFF"},
        {"ok\xff", "byte 2 (0xFF): a byte that UTF-8 never uses"},
        {"x\xe2\x82y", "byte 1 (0xE2): a sequence that breaks off"},
        {"x\xe2\x82", "byte 1 (0xE2): a sequence cut off by the end"},
        {"\xc3(", "byte 0 (0xC3): a sequence that breaks off"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_refused(kv_utf8_check(cases[i].text, strlen(cases[i].text), "text.txt"),
                       KV_ERR_FORMAT, cases[i].words);
        assert_int_equal(strncmp(kv_message(), "text.txt: ", 10), 0);
    }
    assert_ok(kv_utf8_check("", 0, "empty"));
    assert_ok(kv_utf8_check("a\0b \xf4\x8f\xbf\xbf", 8, "good"));
}

static void classes_of_sample_characters_are_right(void **state)
{
    (void)state;
    static const struct {
        uint32_t cp;
        kv_char_class k;
    } cases[] = {
        {'a', KV_CHAR_LETTER},     {'Z', KV_CHAR_LETTER},    {'0', KV_CHAR_NUMBER},
        {'9', KV_CHAR_NUMBER},     {'_', KV_CHAR_OTHER},     {'@', KV_CHAR_OTHER},
        {'[', KV_CHAR_OTHER},      {'`', KV_CHAR_OTHER},     {'{', KV_CHAR_OTHER},
        {'/', KV_CHAR_OTHER},      {':', KV_CHAR_OTHER},     {' ', KV_CHAR_SPACE},
        {'\n', KV_CHAR_SPACE},     {'\r', KV_CHAR_SPACE},    {0x0b, KV_CHAR_SPACE},
        {0x08, KV_CHAR_OTHER},     {0x0e, KV_CHAR_OTHER},    {0x1f, KV_CHAR_OTHER},
        {0x7f, KV_CHAR_OTHER},     {0x85, KV_CHAR_SPACE},    {0xa0, KV_CHAR_SPACE},
        {0xaa, KV_CHAR_LETTER},    {0xb2, KV_CHAR_NUMBER},   {0xbd, KV_CHAR_NUMBER},
        {0xd7, KV_CHAR_OTHER},     {0xdf, KV_CHAR_LETTER},   {0x2bc, KV_CHAR_LETTER},
        {0x301, KV_CHAR_OTHER},    {0x3b1, KV_CHAR_LETTER},  {0x663, KV_CHAR_NUMBER},
        {0x94d, KV_CHAR_OTHER},    {0x200b, KV_CHAR_OTHER},  {0x2019, KV_CHAR_OTHER},
        {0x2028, KV_CHAR_SPACE},   {0x2167, KV_CHAR_NUMBER}, {0x2460, KV_CHAR_NUMBER},
        {0x3000, KV_CHAR_SPACE},   {0x4e00, KV_CHAR_LETTER}, {0x9fff, KV_CHAR_LETTER},
        {0xac00, KV_CHAR_LETTER},  {0xe000, KV_CHAR_OTHER},  {0xfeff, KV_CHAR_OTHER},
        {0x1d7ce, KV_CHAR_NUMBER}, {0x1f600, KV_CHAR_OTHER}, {0x20000, KV_CHAR_LETTER},
        {0x10ffff, KV_CHAR_OTHER},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (kv_char_class_of(cases[i].cp) != cases[i].k)
            fail_msg("U+%04X is of class %d, wanted %d", cases[i].cp, kv_char_class_of(cases[i].cp),
                     cases[i].k);
}

/* Published totals of Unicode 16.0: White_Space has 25 characters, general category N* (Nd 760,
 * Nl 236, No 915) has 1911, L* (Lu 1858, Ll 2258, Lt 31, Lm 404, Lo 136477) has 141028. */
static void classes_have_the_sizes_of_unicode_16(void **state)
{
    (void)state;
    uint32_t count[4] = {0};
    assert_string_equal(kv_unicode_version, "16.0.0");
    for (uint32_t c = 0; c < 0x110000; c++)
        count[kv_char_class_of(c)]++;
    assert_int_equal(count[KV_CHAR_SPACE], 25);
    assert_int_equal(count[KV_CHAR_NUMBER], 1911);
    assert_int_equal(count[KV_CHAR_LETTER], 141028);
}

static void the_short_way_for_ascii_agrees_with_the_table(void **state)
{
    (void)state;
    uint32_t class_now = 0, next = 0;
    for (uint32_t c = 0; c < 0x80; c++) {
        while (next < kv_unicode_n_edges && kv_unicode_edges[next] >> 2 <= c)
            class_now = kv_unicode_edges[next++] & 3;
        assert_int_equal(kv_char_class_of(c), class_now);
    }
    for (uint32_t i = 1; i < kv_unicode_n_edges; i++)
        assert_true(kv_unicode_edges[i - 1] >> 2 < kv_unicode_edges[i] >> 2);
}

static void words_are_separated_by_white_space_of_any_script(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t words;
    } cases[] = {{"", 0},
                 {" \n\t ", 0},
                 {"one", 1},
                 {" one  two\nthree ", 3},
                 {"a\xc2\xa0"
                  "b\xe3\x80\x80"
                  "c",
                  3},
                 {"a\xe2\x80\x8b"
                  "b",
                  1},
                 {"\xe2\x80\x94 - ...", 3},
                 {"bad\xff"
                  "bytes are\xc3 letters",
                  3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(kv_utf8_words(cases[i].text, strlen(cases[i].text)), cases[i].words);
}

static void unprintable_bytes_are_shown_as_hex_and_long_texts_are_cut(void **state)
{
    (void)state;
    char out[32];
    assert_string_equal(kv_printable("a\n\x1b[0m\xff\xc3\xa9", 9, out, sizeof out),
                        "a\\x0A\\x1B[0m\\xFF\xc3\xa9");
    assert_string_equal(kv_printable("", 0, out, sizeof out), "");
    for (size_t size = 8; size <= sizeof out; size++) {
        memset(out, 'X', sizeof out);
        kv_printable("\x01\x02\x03\x04\x05\x06\x07\x08\x09", 9, out, size);
        assert_true(strlen(out) < size);
        assert_string_equal(out + strlen(out) - 3, "...");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sequence_of_three_bytes_decodes_as_defined),
        cmocka_unit_test(every_code_point_is_written_and_read_back),
        cmocka_unit_test(the_gate_names_offset_and_fault),
        cmocka_unit_test(classes_of_sample_characters_are_right),
        cmocka_unit_test(classes_have_the_sizes_of_unicode_16),
        cmocka_unit_test(the_short_way_for_ascii_agrees_with_the_table),
        cmocka_unit_test(words_are_separated_by_white_space_of_any_script),
        cmocka_unit_test(unprintable_bytes_are_shown_as_hex_and_long_texts_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
