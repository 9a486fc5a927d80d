/* Tables as text, CSV and JSON: byte for byte, with every value that needs care. */
#include "tests/unit/kvtest.h"

#include "difftest/table.h"

#include <math.h>

typedef struct sink {
    FILE *f;
    char *text;
    size_t size;
} sink;

static dt_table *begin(sink *s, dt_format format)
{
    *s = (sink){0};
    s->f = open_memstream(&s->text, &s->size);
    assert_non_null(s->f);
    dt_table *t = dt_table_new(format, s->f);
    assert_non_null(t);
    return t;
}

static void expect(sink *s, dt_table *t, const char *text)
{
    assert_ok(dt_table_finish(t));
    assert_int_equal(fclose(s->f), 0);
    assert_string_equal(s->text, text);
    free(s->text);
}

static void fill_mixed(dt_table *t)
{
    dt_table_column(t, "name", DT_LEFT);
    dt_table_column(t, "count", DT_AUTO);
    dt_table_column(t, "value", DT_RIGHT);
    dt_table_text(t, "a");
    dt_table_int(t, 7);
    dt_table_real(t, 0.1);
    dt_table_text(t, "longer, \"quoted\"");
    dt_table_int(t, -1234567);
    dt_table_text(t, NULL);
    dt_table_text(t, "");
    dt_table_text(t, NULL);
    dt_table_number(t, "%.2f", 2.0);
}

static void columns_are_aligned_by_kind_and_missing_is_a_dash(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_TABLE);
    fill_mixed(t);
    expect(&s, t,
           "name                 count  value\n"
           "a                        7    0.1\n"
           "longer, \"quoted\"  -1234567      -\n"
           "                         -   2.00\n");
}

static void a_column_of_numbers_and_texts_is_left_aligned(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_TABLE);
    dt_table_column(t, "mixed", DT_AUTO);
    dt_table_column(t, "n", DT_AUTO);
    dt_table_int(t, 1);
    dt_table_int(t, 10);
    dt_table_text(t, "two");
    dt_table_text(t, NULL);
    expect(&s, t,
           "mixed   n\n"
           "1      10\n"
           "two     -\n");
}

static void csv_quotes_what_needs_it_and_tells_empty_from_missing(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_CSV);
    fill_mixed(t);
    expect(&s, t,
           "name,count,value\n"
           "a,7,0.1\n"
           "\"longer, \"\"quoted\"\"\",-1234567,\n"
           "\"\",,2.00\n");
}

static void json_is_one_object_a_line_in_one_array(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_JSON);
    fill_mixed(t);
    expect(&s, t,
           "[\n"
           "{\"name\":\"a\",\"count\":7,\"value\":0.1},\n"
           "{\"name\":\"longer, \\\"quoted\\\"\",\"count\":-1234567,\"value\":null},\n"
           "{\"name\":\"\",\"count\":null,\"value\":2.00}\n"
           "]\n");
}

static void without_rows_there_is_a_header_or_an_empty_array(void **state)
{
    (void)state;
    static const char *const wanted[] = {"x  y\n", "x,y\n", "[\n]\n"};
    for (int f = 0; f < 3; f++) {
        sink s;
        dt_table *t = begin(&s, (dt_format)f);
        dt_table_column(t, "x", DT_AUTO);
        dt_table_column(t, "y", DT_AUTO);
        expect(&s, t, wanted[f]);
    }
}

static void reals_read_back_exactly_and_tables_round_to_six_digits(void **state)
{
    (void)state;
    static const double v[] = {0.1,  1.0 / 3,     5e-324,           1e308,
                               -0.0, 123456789.0, (double)INFINITY, (double)-INFINITY};
    static const char *const wanted[] = {
        "x\n0.1\n0.333333\n4.94066e-324\n1e+308\n-0\n1.23457e+08\ninf\n-inf\n-\n",
        "x\n0.1\n0.3333333333333333\n4.94065645841247e-324\n1e+308\n-0\n123456789\ninf\n-inf\n\n",
        "[\n{\"x\":0.1},\n{\"x\":0.3333333333333333},\n{\"x\":4.94065645841247e-324},\n"
        "{\"x\":1e+308},\n{\"x\":-0},\n{\"x\":123456789},\n{\"x\":9e999},\n{\"x\":-9e999},\n"
        "{\"x\":null}\n]\n",
    };
    for (int f = 0; f < 3; f++) {
        sink s;
        dt_table *t = begin(&s, (dt_format)f);
        dt_table_column(t, "x", DT_LEFT);
        for (size_t i = 0; i < sizeof v / sizeof *v; i++)
            dt_table_real(t, v[i]);
        dt_table_real(t, (double)NAN);
        expect(&s, t, wanted[f]);
    }
}

static void every_double_survives_csv(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252u; /* xorshift64: any bit patterns will do */
    for (int i = 0; i < 2000; i++) {
        double v, back;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(&v, &x, sizeof v);
        if (isnan(v) || isinf(v)) continue;
        sink s;
        dt_table *t = begin(&s, DT_FORMAT_CSV);
        dt_table_column(t, "x", DT_AUTO);
        dt_table_real(t, v);
        assert_ok(dt_table_finish(t));
        fclose(s.f);
        back = strtod(s.text + 2, NULL);
        assert_memory_equal(&back, &v, sizeof v);
        free(s.text);
    }
}

static void width_counts_characters_as_a_terminal_shows_them(void **state)
{
    (void)state;
    assert_int_equal(dt_text_width(""), 0);
    assert_int_equal(dt_text_width("plain"), 5);
    assert_int_equal(dt_text_width("na\xC3\xAFve"), 5);             /* precomposed */
    assert_int_equal(dt_text_width("nai\xCC\x88ve"), 5);            /* i, combining diaeresis */
    assert_int_equal(dt_text_width("\xE6\x9C\xAC\xE6\x96\x87"), 4); /* two ideographs */
    assert_int_equal(dt_text_width("\xF0\x9F\x98\x80"), 2);         /* a pictograph */
    assert_int_equal(dt_text_width("\xFFx\xC3"), 3);                /* not UTF-8 */
}

static void wide_and_combining_characters_keep_columns_straight(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_TABLE);
    dt_table_column(t, "title", DT_LEFT);
    dt_table_column(t, "n", DT_RIGHT);
    dt_table_text(t, "\xE6\x9C\xAC");
    dt_table_int(t, 1);
    dt_table_text(t, "e\xCC\x81t\xC3\xA9s");
    dt_table_int(t, 22);
    expect(&s, t,
           "title   n\n"
           "\xE6\x9C\xAC      1\n"
           "e\xCC\x81t\xC3\xA9s   22\n");
}

static void control_characters_never_reach_a_terminal_or_break_json(void **state)
{
    (void)state;
    static const char nasty[] = "a\x1B[2Jb\nc\xC2\x9B\xFF\\";
    static const char *const wanted[] = {
        "x\na?[2Jb?c??\\\n",
        "x\n\"a\x1B[2Jb\nc\xC2\x9B\xFF\\\"\n",
        "[\n{\"x\":\"a\\u001b[2Jb\\u000ac\\u009b\\ufffd\\\\\"}\n]\n",
    };
    for (int f = 0; f < 3; f++) {
        sink s;
        dt_table *t = begin(&s, (dt_format)f);
        dt_table_column(t, "x", DT_LEFT);
        dt_table_text(t, nasty);
        expect(&s, t, wanted[f]);
    }
}

static void a_name_used_twice_gets_a_number(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_JSON);
    for (int i = 0; i < 3; i++)
        dt_table_column(t, "id", DT_AUTO);
    for (int i = 0; i < 3; i++)
        dt_table_int(t, i);
    expect(&s, t, "[\n{\"id\":0,\"id:2\":1,\"id:3\":2}\n]\n");
}

static void long_tables_are_printed_in_blocks_under_one_header(void **state)
{
    (void)state;
    sink s;
    dt_table *t = begin(&s, DT_FORMAT_TABLE);
    dt_table_column(t, "i", DT_AUTO);
    const int n = 2 * DT_TABLE_BLOCK + 5;
    for (int i = 0; i < n; i++)
        dt_table_int(t, i);
    assert_ok(dt_table_finish(t));
    fclose(s.f);
    int lines = 0, headers = 0, wanted = 0;
    for (char *save, *line = strtok_r(s.text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        lines++;
        headers += strchr(line, 'i') != NULL;
        if (lines > 1) assert_int_equal(atoi(line), wanted++);
    }
    assert_int_equal(headers, 1);
    assert_int_equal(lines, n + 1);
    free(s.text);
}

static void a_full_device_is_reported(void **state)
{
    (void)state;
    FILE *f = fopen("/dev/full", "w");
    if (!f) kvtest_skip("no /dev/full");
    dt_table *t = dt_table_new(DT_FORMAT_CSV, f);
    dt_table_column(t, "x", DT_AUTO);
    for (int i = 0; i < 100000; i++)
        dt_table_int(t, i);
    assert_refused(dt_table_finish(t), KV_ERR_IO, "No space left");
    fclose(f);
}

static void an_unfinished_row_is_a_fault(void **state)
{
    (void)state;
    for (int f = 0; f < 3; f++) {
        sink s;
        dt_table *t = begin(&s, (dt_format)f);
        dt_table_column(t, "x", DT_AUTO);
        dt_table_column(t, "y", DT_AUTO);
        dt_table_int(t, 1);
        assert_refused(dt_table_finish(t), KV_ERR_INTERNAL, "inside a row");
        fclose(s.f);
        free(s.text);
    }
}

static void a_table_without_columns_prints_nothing(void **state)
{
    (void)state;
    for (int f = 0; f < 3; f++) {
        sink s;
        dt_table *t = begin(&s, (dt_format)f);
        expect(&s, t, "");
    }
    assert_refused(dt_table_finish(NULL), KV_ERR_NOMEM, "out of memory");
}

static void formats_have_names(void **state)
{
    (void)state;
    dt_format f = DT_FORMAT_TABLE;
    assert_ok(dt_format_parse("json", &f));
    assert_int_equal(f, DT_FORMAT_JSON);
    assert_ok(dt_format_parse("csv", &f));
    assert_int_equal(f, DT_FORMAT_CSV);
    assert_ok(dt_format_parse("table", &f));
    assert_int_equal(f, DT_FORMAT_TABLE);
    assert_refused(dt_format_parse("xml", &f), KV_ERR_USAGE, "'xml'; use table, csv or json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_aligned_by_kind_and_missing_is_a_dash),
        cmocka_unit_test(a_column_of_numbers_and_texts_is_left_aligned),
        cmocka_unit_test(csv_quotes_what_needs_it_and_tells_empty_from_missing),
        cmocka_unit_test(json_is_one_object_a_line_in_one_array),
        cmocka_unit_test(without_rows_there_is_a_header_or_an_empty_array),
        cmocka_unit_test(reals_read_back_exactly_and_tables_round_to_six_digits),
        cmocka_unit_test(every_double_survives_csv),
        cmocka_unit_test(width_counts_characters_as_a_terminal_shows_them),
        cmocka_unit_test(wide_and_combining_characters_keep_columns_straight),
        cmocka_unit_test(control_characters_never_reach_a_terminal_or_break_json),
        cmocka_unit_test(a_name_used_twice_gets_a_number),
        cmocka_unit_test(long_tables_are_printed_in_blocks_under_one_header),
        cmocka_unit_test(a_full_device_is_reported),
        cmocka_unit_test(an_unfinished_row_is_a_fault),
        cmocka_unit_test(a_table_without_columns_prints_nothing),
        cmocka_unit_test(formats_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
