/* The end of `kvdiff run`: exit code and status of a run by its cases, and what the tables say. */
#include "tests/unit/dbkit.h"

#include "difftest/cli.h"
#include "difftest/summary.h"

#include <math.h>

/* ---- exit code and status ---------------------------------------------------------------------------------- */

static dt_outcome outcome(int a, int b)
{
    dt_outcome o = {0};
    if (a >= 0) o.n[a]++;
    if (b >= 0) o.n[b]++;
    o.total = (a >= 0) + (b >= 0);
    return o;
}

static const struct {
    int status, code;
    const char *run;
} alone[DT_CASE_STATUS_COUNT] = {
    {DT_CASE_PASS, 0, "pass"},
    {DT_CASE_FAIL, 1, "fail"},
    {DT_CASE_SKIP, 4, "vacuous"},
    {DT_CASE_UNSUPPORTED, 4, "vacuous"},
    {DT_CASE_UNTRUSTED, 4, "vacuous"},
    {DT_CASE_ERROR, 1, "fail"},
    {DT_CASE_TIMEOUT, 1, "fail"},
    {DT_CASE_FLAKY, 1, "fail"},
    {DT_CASE_INCONCLUSIVE, 5, "inconclusive"},
    {DT_CASE_RECORDED, 0, "recorded"},
    {DT_CASE_XFAIL, 0, "pass"},
    {DT_CASE_XPASS, 1, "fail"},
};

static void every_status_alone_decides_the_run(void **state)
{
    (void)state;
    for (int i = 0; i < DT_CASE_STATUS_COUNT; i++) {
        const dt_outcome o = outcome(alone[i].status, -1);
        assert_int_equal(alone[i].status, i);
        assert_int_equal(dt_outcome_exit_code(&o), alone[i].code);
        assert_string_equal(dt_outcome_status(&o), alone[i].run);
    }
}

/* 1 before 4 before 5 before 0, whatever comes first. */
static void the_worse_of_two_statuses_decides(void **state)
{
    (void)state;
    static const int rank[] = {[0] = 0, [5] = 1, [4] = 2, [1] = 3};
    for (int a = 0; a < DT_CASE_STATUS_COUNT; a++)
        for (int b = 0; b < DT_CASE_STATUS_COUNT; b++) {
            const dt_outcome o = outcome(a, b);
            const int worse = rank[alone[a].code] > rank[alone[b].code] ? alone[a].code : alone[b].code;
            assert_int_equal(dt_outcome_exit_code(&o), worse);
        }
}

static void a_pass_beside_a_recording_is_a_pass_and_nothing_is_none(void **state)
{
    (void)state;
    const dt_outcome mixed = outcome(DT_CASE_PASS, DT_CASE_RECORDED), none = outcome(-1, -1);
    assert_string_equal(dt_outcome_status(&mixed), "pass");
    assert_int_equal(dt_outcome_exit_code(&none), 4);
    assert_string_equal(dt_outcome_status(&none), "vacuous");
}

/* ---- tables ------------------------------------------------------------------------------------------------ */

static void keep(dt_db *db, int64_t run_id, int64_t device, const char *doc, dt_case_status status,
                 const char *reason)
{
    char key[100];
    snprintf(key, sizeof key, "texts/%s|nano|sink:cap=40|emu|len=17|free|q=16", doc);
    dt_case c = dbkit_case(run_id, device, key, 16);
    c.status = status;
    c.reason = reason;
    c.n_words = 4;
    c.n_text_bytes = 20;
    c.n_top1_same = 12;
    c.max_ulp = 7;
    c.first_diff_pos = status == DT_CASE_PASS ? -1 : 5;
    c.bytes_ref = c.peak_ref = 3 << 20;
    c.bytes_got = c.peak_got = status == DT_CASE_PASS ? 3 << 20 : 3 << 19;
    c.n_ties = strcmp(doc, "near") == 0 || strcmp(doc, "odd") == 0;
    assert_ok(dbkit_write(db, &c));
}

static char *print(dt_db *db, int64_t run_id, dt_outcome *o)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    assert_ok(dt_summary_print(db, run_id, f, o));
    fclose(f);
    return text;
}

/* The line that contains word (behind its line feed, when it begins with one); fails without. */
static const char *line_with(char *text, const char *word)
{
    char *at = strstr(text, word);
    if (!at) fail_msg("no line with '%s' in:\n%s", word, text);
    if (*word == '\n') at++;
    while (at > text && at[-1] != '\n')
        at--;
    static char line[2000];
    snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
    return line;
}

#define assert_says(text, words) \
    if (!strstr((text), (words))) fail_msg("'%s' is not in:\n%s", (words), (text))

static void the_table_shows_what_was_stored(void **state)
{
    const dbkit *kit = *state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run_id = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    keep(db, run_id, device, "good", DT_CASE_PASS, NULL);
    keep(db, run_id, device, "near", DT_CASE_PASS, NULL);
    keep(db, run_id, device, "bad", DT_CASE_FAIL, "logits of token 5 differ");
    keep(db, run_id, device, "odd", DT_CASE_UNTRUSTED, "its error is not known");
    dt_outcome o;
    char *text = print(db, run_id, &o);
    /* sum of nll_ref: 16 + 120/8 = 31; of nll_got: 16 + 120/4 = 46; of kl: 120/1024 */
    char number[40];
    const char *row = line_with(text, "\ngood ");
    assert_says(row, "sink:cap=40");
    snprintf(number, sizeof number, " %.4f ", exp(31.0 / 16));
    assert_says(row, number);
    snprintf(number, sizeof number, " %.4f ", exp(46.0 / 16));
    assert_says(row, number);
    snprintf(number, sizeof number, " %.6g ", exp(31.0 / 4)); /* per word */
    assert_says(row, number);
    snprintf(number, sizeof number, " %.4f ", 31.0 / log(2) / 20); /* per byte, in bits */
    assert_says(row, number);
    snprintf(number, sizeof number, " %.2e ", 120.0 / 1024 / 16);
    assert_says(row, number);
    assert_says(row, "0.7500"); /* top-1 */
    assert_true(strcmp(row + strlen(row) - 5, " PASS") == 0);
    assert_says(row, "  3.000  ");
    assert_says(line_with(text, "\nnear "), "PASS (1 legal tie)");
    assert_says(line_with(text, "\nodd "), "UNTRUSTED (1 legal tie)");
    assert_says(line_with(text, "\nbad "), "FAIL");
    assert_says(line_with(text, "\nbad "), "  3.000/1.500  ");
    assert_says(text, "\nFAIL  texts/bad|nano|sink:cap=40|emu|len=17|free|q=16\n      logits of token 5 differ\n"
                      "      repeat: kvdiff run --model nano\n");
    assert_says(text, "\nUNTRUSTED  texts/odd|");
    assert_says(text, "PASS 2  FAIL 1  UNTRUSTED 1  \n");
    assert_null(strstr(text, "\nPASS  texts"));
    assert_int_equal(o.total, 4);
    assert_int_equal(o.n[DT_CASE_PASS], 2);
    assert_int_equal(dt_outcome_exit_code(&o), 1);
    free(text);
    dt_db_close(db);
}

static void ten_failures_are_shown_and_the_others_counted(void **state)
{
    const dbkit *kit = *state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run_id = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    for (int i = 0; i < 13; i++) {
        char doc[10];
        snprintf(doc, sizeof doc, "d%02d", i);
        keep(db, run_id, device, doc, DT_CASE_FAIL, "wrong");
    }
    dt_outcome o;
    char *text = print(db, run_id, &o);
    int shown = 0;
    for (const char *at = text; (at = strstr(at, "\nFAIL  ")); at++)
        shown++;
    assert_int_equal(shown, 10);
    assert_says(text, "and 3 more: kvdiff query");
    assert_says(text, "PASS 0  FAIL 13  \n");
    free(text);
    dt_db_close(db);
}

static void a_recording_is_not_counted_as_a_pass(void **state)
{
    const dbkit *kit = *state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run_id = dbkit_run(db, "run", 1, NULL);
    keep(db, run_id, 0, "alone", DT_CASE_RECORDED, NULL);
    dt_outcome o;
    char *text = print(db, run_id, &o);
    assert_says(text, "PASS 0  FAIL 0  RECORDED 1  \n");
    assert_says(line_with(text, "\nalone "), "RECORDED");
    assert_null(strstr(text, "\nRECORDED  texts"));
    assert_string_equal(dt_outcome_status(&o), "recorded");
    free(text);
    dt_db_close(db);
}

/* Two runs in one file: each shows its own. */
static void a_run_shows_its_own_cases_only(void **state)
{
    const dbkit *kit = *state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t one = dbkit_run(db, "run", 1, NULL), two = dbkit_run(db, "run", 2, NULL);
    const int64_t device = dbkit_device(db, "emu");
    keep(db, one, device, "first", DT_CASE_FAIL, "wrong");
    keep(db, two, device, "second", DT_CASE_PASS, NULL);
    dt_outcome o;
    char *text = print(db, two, &o);
    assert_null(strstr(text, "\nfirst "));
    assert_non_null(strstr(text, "\nsecond "));
    assert_int_equal(dt_outcome_exit_code(&o), 0);
    free(text);
    dt_db_close(db);
}

static void retrieval_is_summed_by_policy_and_device(void **state)
{
    const dbkit *kit = *state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run_id = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    kv_policy policy;
    int64_t policy_id;
    assert_ok(kv_policy_parse("sink:cap=40", &policy));
    assert_ok(dt_db_policy(db, &policy, &policy_id));
    for (int i = 0; i < 4; i++) {
        char key[80];
        snprintf(key, sizeof key, "passkey/%d|nano|sink:cap=40|emu|len=17|free|q=16", i);
        dt_case c = dbkit_case(run_id, device, key, 0);
        const dt_retrieval r = {.ctx_len = 17, .digits = 5, .expected = "12345", .ans_ref = "12345",
                                .ans_got = i ? "12345" : "99999", .ok_ref = 1, .ok_got = i > 0, .digits_ref = 5,
                                .digits_got = i ? 5 : 1, .nll_ref = 1, .nll_got = 2};
        c.policy_id = policy_id;
        c.retrieval = &r;
        assert_ok(dbkit_write(db, &c));
    }
    dt_outcome o;
    char *text = print(db, run_id, &o);
    const char *row = line_with(strstr(text, "passkey policy"), "sink:cap=40");
    char name[40], dev[40], digits_ref[40], digits_got[40];
    int keys, ref, got;
    double nll_ref, nll_got;
    assert_int_equal(sscanf(row, "%39s %39s %d %d %d %39s %39s %lf %lf", name, dev, &keys, &ref, &got, digits_ref,
                            digits_got, &nll_ref, &nll_got), 9);
    assert_true(keys == 4 && ref == 4 && got == 3);
    assert_string_equal(digits_ref, "20/20");
    assert_string_equal(digits_got, "16/20");
    assert_true(nll_ref == 0.2 && nll_got == 0.4);
    assert_says(line_with(text, "\n0 "), "hit/miss");
    assert_says(line_with(text, "\n1 "), "hit/hit");
    free(text);
    dt_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_alone_decides_the_run),
        cmocka_unit_test(the_worse_of_two_statuses_decides),
        cmocka_unit_test(a_pass_beside_a_recording_is_a_pass_and_nothing_is_none),
        cmocka_unit_test_setup_teardown(the_table_shows_what_was_stored, dbkit_setup, dbkit_teardown),
        cmocka_unit_test_setup_teardown(ten_failures_are_shown_and_the_others_counted, dbkit_setup, dbkit_teardown),
        cmocka_unit_test_setup_teardown(a_recording_is_not_counted_as_a_pass, dbkit_setup, dbkit_teardown),
        cmocka_unit_test_setup_teardown(a_run_shows_its_own_cases_only, dbkit_setup, dbkit_teardown),
        cmocka_unit_test_setup_teardown(retrieval_is_summed_by_policy_and_device, dbkit_setup, dbkit_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
