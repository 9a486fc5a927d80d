/* Verdicts: which of the words a case ends with, by the device's contract and by what was there to judge. */
#include "tests/unit/labkit.h"

static void judge(lab *l, int32_t contract, const char *options)
{
    lab_begin(l, "book", "sliding:cap=60");
    l->o.tokens = 100;
    lab_device(l, contract, options);
    lab_run(l);
}

/* ---- bounded --------------------------------------------------------------------------------------------- */

/* 16 times the reference's own error is allowed, so the reference uses 1/16 of it. */
static void a_bounded_device_with_the_references_bits_uses_a_sixteenth(void **state)
{
    (void)state;
    lab l;
    judge(&l, KV_CONTRACT_BOUNDED, "lie=none");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT max_ratio = 0.0625 AND contract = 'bounded' FROM kase", "1");
    lab_end(&l);
}

static void a_bounded_device_may_differ_within_its_bound(void **state)
{
    (void)state;
    lab l;
    judge(&l, KV_CONTRACT_BOUNDED, "lie=none,noise=1e-6");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT max_ulp > 0 AND n_bitexact = 0 AND first_diff_pos = 0 AND first_bad_pos IS NULL AND"
                  " max_ratio > 0.0625 AND max_ratio < 1 FROM kase", "1");
    lab_end(&l);
}

/* No row is off by more than the worst case explains, but fp32 has no such errors. */
static void a_bounded_device_with_large_errors_is_not_trusted(void **state)
{
    (void)state;
    lab l;
    judge(&l, KV_CONTRACT_BOUNDED, "lie=none,noise=1e-4");
    lab_verdict(&l, 0, "UNTRUSTED", "-", "times the reference's own against ref64");
    lab_tells(&l, "SELECT max_ratio > 1 FROM kase", "1");
    lab_end(&l);
}

/* Whatever it did before: every row is judged, and flagged where it is beyond. */
static void a_bounded_device_fails_at_the_first_row_beyond_its_bound(void **state)
{
    (void)state;
    static const char *const noises[] = {"lie=none,noise=1e-2", "lie=none,noise=1e-2,at=77", "lie=none,noise=0.5,at=98"};
    static const char *const rows[] = {"0", "77", "98"};
    for (int i = 0; i < 3; i++) {
        lab l;
        char words[80];
        judge(&l, KV_CONTRACT_BOUNDED, noises[i]);
        snprintf(words, sizeof words, "logits of token %s are off by", rows[i]);
        lab_verdict(&l, 0, "FAIL", rows[i], words);
        lab_tells(&l, "SELECT max_ratio > 1 FROM kase", "1");
        lab_tells(&l, "SELECT min(pos) FROM tok WHERE flags & 16", rows[i]);
        lab_tells(&l, "SELECT count(*) FROM tok WHERE flags & 16 AND max_ulp = 0", "0");
        lab_end(&l);
    }
}

static int resets;

static kv_status count_resets(kv_session *s)
{
    resets++;
    return liar_reset(s);
}

/* Wrong in the second segment only. */
static kv_status wrong_later(kv_session *s, const kv_step *step)
{
    const kv_status st = liar_step(s, step);
    for (int32_t r = 0; resets == 3 && step->logits && r < step->n; r++)
        step->logits[r * s->vocab] += 1;
    return st;
}

/* Of a segment the second half is scored; with tiles of 64 tokens the first 48 of each are before the first code. */
static void every_segment_is_judged(void **state)
{
    (void)state;
    static const char *const policies[] = {"sink:cap=40", "full+kvarn:tile=64"};
    for (int i = 0; i < 2; i++) {
        lab l;
        lab_begin(&l, "book", policies[i]);
        l.o.tokens = 160;
        l.o.window = 80;
        lab_device(&l, KV_CONTRACT_BOUNDED, "lie=none");
        l.tables[0].reset = count_resets;
        l.tables[0].step = wrong_later;
        resets = 0;
        lab_run(&l);
        lab_verdict(&l, 0, "FAIL", "120", "logits of token 120 are off by");
        lab_end(&l);
    }
}

static void a_bounded_device_is_held_to_its_decisions(void **state)
{
    (void)state;
    lab l;
    judge(&l, KV_CONTRACT_BOUNDED, "lie=slot,at=70");
    lab_verdict(&l, 0, "FAIL", "70", "decision at token 70");
    lab_end(&l);
}

static kv_status fail_measuring(const kv_open_args *args, kv_session **out)
{
    if (args->policy->selection != KV_SEL_FULL) return liar_open(args, out);
    snprintf(liar_open_message, sizeof liar_open_message, "no policy full here");
    return KV_ERR_UNSUPPORTED;
}

static void without_a_measured_error_there_is_no_trust(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sliding:cap=60");
    l.o.tokens = 100;
    lab_device(&l, KV_CONTRACT_BOUNDED, "lie=none");
    lab_device(&l, KV_CONTRACT_BOUNDED, "lie=none,at=1");
    l.tables[0].open = fail_measuring;
    lab_run(&l);
    lab_verdict(&l, 0, "UNTRUSTED", "-", "its error under policy full is not known: liar: no policy full here");
    lab_verdict(&l, 1, "PASS", "-", "");
    lab_tells(&l, "SELECT count(*) FROM kase WHERE max_ratio = 0", "1");
    lab_end(&l);
}

/* ---- statistical, two models, nothing ---------------------------------------------------------------------- */

static void a_statistical_contract_stays_open(void **state)
{
    (void)state;
    lab l;
    judge(&l, KV_CONTRACT_STATISTICAL, "lie=none");
    lab_verdict(&l, 0, "INCONCLUSIVE", "-", "needs a baseline");
    lab_end(&l);
}

static void nothing_scored_is_no_pass(void **state)
{
    (void)state;
    for (int contract = KV_CONTRACT_BITEXACT; contract <= KV_CONTRACT_STATISTICAL; contract++) {
        lab l;
        lab_begin(&l, put_file("x.txt", "x"), "full");
        lab_device(&l, contract, "lie=none");
        lab_run(&l);
        lab_verdict(&l, 0, "INCONCLUSIVE", "-", "nothing was scored");
        lab_tells(&l, "SELECT n_tok || ',' || (SELECT count(*) FROM tok) FROM kase", "0,0");
        lab_end(&l);
    }
}

static void two_tokens_are_one_scored_row(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, put_file("xy.txt", "xy"), "full");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=logit,at=0");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_verdict(&l, 1, "FAIL", "0", "ulp");
    lab_tells(&l, "SELECT group_concat(n_tok) FROM kase", "1,1");
    lab_end(&l);
}

static void two_models_are_recorded_not_judged(void **state)
{
    (void)state;
    for (int contract = KV_CONTRACT_BITEXACT; contract <= KV_CONTRACT_STATISTICAL; contract++) {
        lab l;
        lab_begin(&l, "book", "full");
        l.o.tokens = 100;
        l.o.device_model = "nano";
        lab_device(&l, contract, "lie=logit,at=50");
        lab_run(&l);
        lab_verdict(&l, 0, "RECORDED", "-", "two different models");
        lab_tells(&l, "SELECT max_ulp || ',' || first_diff_pos || ',' || (key LIKE '%|nano~nano|%') FROM kase",
                  "1,50,1");
        lab_end(&l);
    }
}

static void two_models_must_still_be_finite(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "full");
    l.o.tokens = 100;
    l.o.device_model = "nano";
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=nan,at=50");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "50", "NaN");
    lab_end(&l);
}

/* ---- more than one fault ------------------------------------------------------------------------------------ */

/* The first reason is the cause; the first token is the smallest. */
static void the_first_reason_stays(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = 100;
    l.o.digest_every = 16;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=cache,at=30");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "31", "cache after token 31");
    lab_tells(&l, "SELECT first_diff_pos = (SELECT min(pos) FROM tok WHERE max_ulp > 0 OR flags & 8) FROM kase", "1");
    lab_end(&l);
}

static void a_lie_is_told_once_per_document_and_policy(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = 60;
    assert_ok(dt_list_add(&l.o.policies, "full", 4));
    assert_ok(dt_list_add(&l.o.corpora, put_file("short.txt", "less than thirty bytes"), strlen(in_folder("short.txt"))));
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=logit,at=30");
    lab_run(&l);
    lab_tells(&l, "SELECT group_concat(status || ':' || ifnull(first_bad_pos, '-')) FROM (SELECT * FROM kase ORDER BY"
                  " case_id)", "FAIL:30,PASS:-,FAIL:30,PASS:-");
    lab_end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bounded_device_with_the_references_bits_uses_a_sixteenth),
        cmocka_unit_test(a_bounded_device_may_differ_within_its_bound),
        cmocka_unit_test(a_bounded_device_with_large_errors_is_not_trusted),
        cmocka_unit_test(a_bounded_device_fails_at_the_first_row_beyond_its_bound),
        cmocka_unit_test(every_segment_is_judged),
        cmocka_unit_test(a_bounded_device_is_held_to_its_decisions),
        cmocka_unit_test(without_a_measured_error_there_is_no_trust),
        cmocka_unit_test(a_statistical_contract_stays_open),
        cmocka_unit_test(nothing_scored_is_no_pass),
        cmocka_unit_test(two_tokens_are_one_scored_row),
        cmocka_unit_test(two_models_are_recorded_not_judged),
        cmocka_unit_test(two_models_must_still_be_finite),
        cmocka_unit_test(the_first_reason_stays),
        cmocka_unit_test(a_lie_is_told_once_per_document_and_policy),
    };
    return cmocka_run_group_tests(tests, folderkit_make, folderkit_remove);
}
