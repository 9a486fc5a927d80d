/* The engine on policies with a schedule of their own: prompts and windows. The reference is a puppet, so that what is
 * seen is the engine's work: which steps it feeds, which rows it scores, what it does with a question. */
#include "tests/unit/puppet.h"

static void begin(lab *l, const char *spec, const char *policy)
{
    lab_begin(l, spec, policy);
    l->o.tokens = 60;
}

/* ---- prompts --------------------------------------------------------------------------------------------- */

static void the_prompt_is_one_step_of_both_sides(void **state)
{
    (void)state;
    lab l;
    puppet_instead("full");
    begin(&l, "book", "snapkv:cap=20,window=8,prompt=24");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    assert_string_equal(puppet.steps, "24 24 16 16 16 16 4 4 ");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT n_tok || ',' || (SELECT count(*) FROM tok) || ',' || q FROM kase", "59,59,16");
    lab_tells(&l, "SELECT key LIKE 'book/%|nano|snapkv:cap=20,prompt=24,window=8|%|len=60|free|q=16' FROM kase", "1");
    lab_end(&l);
}

static void half_windows_begin_with_a_prompt_each(void **state)
{
    (void)state;
    lab l;
    puppet_instead("full");
    begin(&l, "book", "pyramid:cap=9,window=8,prompt=12");
    l.o.window = 30;
    lab_run(&l);
    assert_string_equal(puppet.steps, "12 16 2 12 16 2 ");
    lab_tells(&l, "SELECT n_tok FROM kase", "28");
    lab_end(&l);
}

/* ---- windows --------------------------------------------------------------------------------------------- */

static void windows_are_fed_and_every_token_is_scored_once(void **state)
{
    (void)state;
    lab l;
    puppet_instead("full");
    begin(&l, "book", "xwindow:window=16,stride=8,cache=0");
    l.o.q = 5; /* has no meaning here, and stands in the key */
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    assert_string_equal(puppet.steps, "w0:16 w0:16 w8:16 w8:16 w16:16 w16:16 w24:16 w24:16 w32:16 w32:16 w40:16 w40:16 "
                                      "w48:12 w48:12 ");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT n_tok || ',' || (SELECT count(*) FROM tok) || ',' || (SELECT max(pos) FROM tok) FROM kase",
              "59,59,58");
    lab_tells(&l, "SELECT substr(key, -4) FROM kase", "|q=5");
    lab_end(&l);
}

/* Row 20 comes from the window that starts at 8, with nothing before it. */
static void a_row_is_that_of_the_window_that_scores_it(void **state)
{
    (void)state;
    lab l;
    puppet_instead("full");
    begin(&l, "book", "xwindow:window=16,stride=8,cache=0");
    lab_run(&l);
    const int32_t *tokens = l.plan.docs[0].stream.tokens.v;
    const kv_policy full = {.selection = KV_SEL_FULL};
    const kv_open_args args = {.model = l.plan.model, .policy = &full, .threads = 1, .max_step = 16};
    kv_session *s = NULL;
    float nll[16];
    assert_ok(ref_backend()->open(&args, &s));
    const kv_step step = {.tokens = tokens + 8, .n = 16, .rows = KV_ROWS_ALL, .targets = tokens + 9, .nll = nll};
    assert_ok(ref_backend()->step(s, &step));
    ref_backend()->close(s);
    const double stored = strtod(lab_ask(&l, "SELECT printf('%.17g', nll_ref) FROM tok WHERE pos = 20"), NULL);
    assert_true(fabs(stored - (double)nll[12]) < 1e-5);
    lab_end(&l);
}

static void a_lie_in_a_window_is_told_by_its_place_in_the_document(void **state)
{
    (void)state;
    lab l;
    puppet_instead("full");
    begin(&l, "book", "xwindow:window=16,stride=16,cache=0");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=logit,at=37");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "37", "logits of token 37 differ");
    lab_end(&l);
}

/* The prompt's rows are compared, the question stays open: no answer is no pass. */
static void a_question_under_windows_is_unsupported(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie=none", "lie=none", "lie=logit,at=799"};
    static const char *const wanted[] = {"UNSUPPORTED", "UNSUPPORTED", "FAIL"};
    static const char *const at[] = {"-", "-", "799"};
    for (int i = 0; i < 3; i++) {
        lab l;
        puppet_instead("full");
        begin(&l, "passkey:len=800,depth=50,seeds=1", "xwindow:window=100,stride=100,cache=0");
        if (i) lab_device(&l, KV_CONTRACT_BITEXACT, lies[i]);
        lab_run(&l);
        lab_verdict(&l, 0, wanted[i], at[i], i < 2 ? "xwindow cannot answer" : "question's last token differ");
        lab_tells(&l, "SELECT n_tok || ',' || (SELECT count(*) FROM retrieval) FROM kase", "799,0");
        lab_end(&l);
    }
}

/* ---- decisions of single heads ---------------------------------------------------------------------------- */

static kv_status heads_apart(kv_session *s, const kv_step *step)
{
    kv_events all = {0};
    kv_step own = *step;
    own.events = &all;
    KV_TRY(puppet_step(s, &own));
    /* every list twice, once per head; the step's first token leaves at once, and a tile is coded */
    for (size_t i = 0; i < all.n;) {
        size_t end = i;
        while (end < all.n && all.v[end].layer == all.v[i].layer)
            end++;
        for (int32_t head = 0; head < 2; head++)
            for (size_t k = i; k < end; k++) {
                kv_event e = all.v[k];
                e.head = head;
                KV_TRY(kv_events_push(step->events, e));
                static const int32_t more[] = {KV_EVENT_EVICT, KV_EVENT_ADMIT, KV_EVENT_MOVE, KV_EVENT_SEAL};
                e.slot = -1;
                for (int m = 0; k == i && m < 4; m++) {
                    e.kind = more[m];
                    KV_TRY(kv_events_push(step->events, e));
                }
            }
        i = end;
    }
    free(all.v);
    return KV_OK;
}

static void residents_are_those_of_one_head(void **state)
{
    (void)state;
    lab l;
    puppet_instead("sliding:cap=20");
    ((kv_backend *)(uintptr_t)lab_reference)->step = heads_apart;
    begin(&l, "book", "sliding:cap=20");
    l.o.q = 8;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=slot,at=16");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_verdict(&l, 1, "FAIL", "16", "decision at token 16, layer 1, KV head 0: reference evicts 0 in slot 0, device evicts "
                                     "0 in slot 1");
    lab_tells(&l, "SELECT group_concat(n_resident) FROM tok WHERE pos % 8 = 7 AND case_id = 1", "8,16,20,20,20,20,20");
    lab_end(&l);
}

static kv_status refuse_import(kv_session *s, const void *src, size_t size)
{
    (void)src, (void)size;
    snprintf(s->message, sizeof s->message, "as told");
    return KV_ERR_INTERNAL;
}

/* ---- legal ties -------------------------------------------------------------------------------------------- */

/* tova, as far as the engine can see: 40 entries, one leaves per step from token 40 on. At token 50 the reference's
 * margin is what the test says; the device takes the next token instead. */
static void tie(lab *l, int32_t contract, float margin, const char *options)
{
    puppet_instead("sliding:cap=40,pos=absolute");
    begin(l, "book", "tova:cap=40");
    l->o.q = 1;
    l->o.digest_every = 1;
    puppet.margins = 1;
    puppet.at = 50;
    puppet.layer = 1;
    puppet.margin = margin;
    lab_device(l, contract, options);
    lab_run(l);
}

static const float close_margin = 15.9f * 0x1p-24f / 40;

static void a_legal_tie_is_counted_and_the_device_goes_on_from_the_references_cache(void **state)
{
    (void)state;
    for (int contract = KV_CONTRACT_BOUNDED; contract <= KV_CONTRACT_STATISTICAL; contract++) {
        lab l;
        tie(&l, contract, close_margin, "lie=victim,at=50");
        lab_verdict(&l, 0, contract == KV_CONTRACT_BOUNDED ? "PASS" : "INCONCLUSIVE", "-",
                    contract == KV_CONTRACT_BOUNDED ? "" : "baseline");
        lab_tells(&l, "SELECT n_ties FROM kase", "1");
        lab_tells(&l, "SELECT group_concat(pos || ':' || flags) FROM tok WHERE flags", "50:96");
        assert_int_equal(puppet.imports, 1);
        lab_tells(&l, "SELECT group_concat(DISTINCT pos) || ',' || count(*) FROM event", "50,16");
        lab_end(&l);
    }
}

static void another_victim_that_was_no_close_call_is_a_bug(void **state)
{
    (void)state;
    lab l;
    tie(&l, KV_CONTRACT_BOUNDED, close_margin * 1.02f, "lie=victim,at=50");
    lab_verdict(&l, 0, "FAIL", "50", "decision at token 50, layer 1: reference evicts 10 in slot 0 with margin 2.42e-08, device "
                                     "evicts 11 in slot 1");
    lab_tells(&l, "SELECT n_ties FROM kase", "0");
    lab_tells(&l, "SELECT flags FROM tok WHERE pos = 50", "32");
    assert_int_equal(puppet.imports, 0);
    lab_end(&l);
    tie(&l, KV_CONTRACT_BOUNDED, 0, "lie=victim,at=50,margin=1e-3");
    lab_verdict(&l, 0, "FAIL", "50", "device evicts 11");
    lab_end(&l);
    tie(&l, KV_CONTRACT_BOUNDED, 0, "lie=victim,at=51"); /* the close call was at 50 */
    lab_verdict(&l, 0, "FAIL", "51", "with margin 0.25, device evicts 12");
    lab_end(&l);
}

static void a_bitexact_device_has_no_ties(void **state)
{
    (void)state;
    lab l;
    tie(&l, KV_CONTRACT_BITEXACT, 0, "lie=victim,at=50");
    lab_verdict(&l, 0, "FAIL", "50", "device evicts 11");
    lab_tells(&l, "SELECT n_ties FROM kase", "0");
    lab_end(&l);
}

static void rounding_of_a_margin_is_no_difference_where_bits_are_not_promised(void **state)
{
    (void)state;
    lab l;
    tie(&l, KV_CONTRACT_BOUNDED, 0.5f, "lie=victim,at=1000"); /* never told */
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_end(&l);
    tie(&l, KV_CONTRACT_BOUNDED, 0.125f, "lie=margin,at=49"); /* the reference's is 0.25, the device says 0.5 */
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT count(*) FROM tok WHERE flags", "0");
    lab_end(&l);
    tie(&l, KV_CONTRACT_BITEXACT, 0.125f, "lie=margin,at=49");
    lab_verdict(&l, 0, "FAIL", "49", "margin (0x1p-2 in the reference, 0x1p-1 in the device)");
    lab_end(&l);
}

static void a_tie_needs_an_import_that_works(void **state)
{
    (void)state;
    lab l;
    tie(&l, KV_CONTRACT_BOUNDED, 0, "lie=victim,at=50");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_end(&l);
    puppet_instead("sliding:cap=40,pos=absolute");
    begin(&l, "book", "tova:cap=40");
    l.o.q = 1;
    puppet.margins = 1;
    puppet.at = 50;
    puppet.layer = 1;
    lab_device(&l, KV_CONTRACT_BOUNDED, "lie=victim,at=50");
    l.tables[0].import_state = refuse_import;
    lab_run(&l);
    lab_verdict(&l, 0, "ERROR", "-", "import of the reference's cache");
    lab_end(&l);
}

/* ---- ties of a device that really decides otherwise -------------------------------------------------------------- */

static int32_t compat;

/* The reference with a defect of docs/policy/cascade.md. */
static kv_status open_defective(const kv_open_args *args, kv_session **out)
{
    kv_policy p = *args->policy;
    kv_open_args own = *args;
    if (p.selection == KV_SEL_CASCADE) p.cascade.compat = compat;
    own.policy = &p;
    return liar_open(&own, out);
}

static void defective(lab *l, const char *model, int32_t contract, int32_t defect, const char *policy)
{
    lab_reference = NULL;
    compat = defect;
    begin(l, "book", policy);
    l->o.model = model;
    l->o.tokens = 120;
    l->o.q = 8;
    l->o.digest_every = 8;
    lab_device(l, contract, "lie=none");
    l->tables[0].open = open_defective;
    lab_run(l);
}

/* compat=strict gives ties to the resident. With `sharp` nearly all scores are 0: it parts from the reference again and
 * again, every time by a legal tie. nano's scores never tie. */
static void a_device_that_settles_ties_otherwise_is_no_liar(void **state)
{
    (void)state;
    static const char *const policies[] = {"cascade:cap=16,n=2", "cascade:cap=24,n=3,sinks=0", "cascade:cap=16,homog=1"};
    for (int i = 0; i < 3; i++) {
        lab l;
        defective(&l, "sharp", KV_CONTRACT_BOUNDED, KV_COMPAT_STRICT, policies[i]);
        lab_verdict(&l, 0, "PASS", "-", "");
        lab_tells(&l, "SELECT n_ties > 4 AND (SELECT count(*) FROM tok WHERE flags & 64) > 2 AND (SELECT count(*) FROM tok"
                      " WHERE (flags & 64 <> 0) <> (flags & 32 <> 0)) = 0 FROM kase", "1");
        lab_end(&l);
        defective(&l, "nano", KV_CONTRACT_BOUNDED, KV_COMPAT_STRICT, policies[i]);
        lab_verdict(&l, 0, "PASS", "-", "");
        lab_tells(&l, "SELECT n_ties FROM kase", "0");
        lab_end(&l);
    }
    lab l;
    defective(&l, "sharp", KV_CONTRACT_BITEXACT, KV_COMPAT_STRICT, policies[0]);
    lab_tells(&l, "SELECT status || ',' || n_ties FROM kase", "FAIL,0");
    lab_end(&l);
}

/* Scores that are credited to the wrong slots are no rounding. */
static void a_device_with_wrong_scores_is_found(void **state)
{
    (void)state;
    static const int32_t defects[] = {KV_COMPAT_SHIFTED, KV_COMPAT_REVERSED};
    for (int i = 0; i < 2; i++) {
        lab l;
        defective(&l, "nano", KV_CONTRACT_BOUNDED, defects[i], "cascade:cap=24,n=3,sinks=2,beta=0.9");
        lab_tells(&l, "SELECT status || ',' || (reason LIKE 'decision at token %, layer %, KV head %') FROM kase", "FAIL,1");
        lab_end(&l);
    }
}

/* h2o's scores are exported, and real ones: the next token's is far away; with `sharp` it is as small as the victim's. */
static void margins_of_h2o_are_measured_by_its_scores(void **state)
{
    (void)state;
    for (int ties = 0; ties < 2; ties++) {
        lab l;
        lab_reference = NULL;
        begin(&l, "book", "h2o:cap=16");
        l.o.model = ties ? "sharp" : "nano";
        l.o.q = 1;
        lab_device(&l, KV_CONTRACT_BOUNDED, "lie=victim,at=17");
        lab_run(&l);
        lab_verdict(&l, 0, ties ? "PASS" : "FAIL", ties ? "-" : "17", ties ? "" : "decision at token 17, layer 1, KV "
                                                                                         "head 0: reference evicts");
        lab_tells(&l, "SELECT n_ties FROM kase", ties ? "1" : "0");
        lab_end(&l);
    }
}

/* ---- size of the cache --------------------------------------------------------------------------------------- */

/* nano: 4 layers of 2 KV heads; a record of fp32 is 256 bytes. */
static void the_size_of_the_cache_is_that_of_its_records(void **state)
{
    (void)state;
    lab l;
    lab_reference = NULL;
    begin(&l, "book", "sink:cap=20,sinks=4");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_tells(&l, "SELECT (bytes_ref = 4 * 2 * 24 * 256) || (bytes_got = bytes_ref) || (peak_bytes_ref = bytes_ref) ||"
                  " (peak_bytes_got = bytes_got) FROM kase", "1111");
    lab_end(&l);
    begin(&l, "book", "full");
    l.o.window = 24; /* the peak is that of a chunk */
    lab_run(&l);
    lab_tells(&l, "SELECT (bytes_ref = 4 * 2 * 24 * 256) || (bytes_got IS NULL) || (peak_bytes_got IS NULL) FROM kase", "111");
    lab_end(&l);
}

/* A prompt of 40 tokens that a reset makes forgotten: the peak stays. */
static void the_peak_is_kept_when_the_cache_shrinks(void **state)
{
    (void)state;
    lab l;
    puppet_instead("full");
    begin(&l, "book", "xwindow:window=40,stride=30,cache=0"); /* the puppet's cache holds its last window: 40, then 30 tokens */
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_tells(&l, "SELECT (bytes_ref = 4 * 2 * 30 * 256) || (peak_bytes_ref = 4 * 2 * 40 * 256) || (bytes_got = bytes_ref) ||"
                  " (peak_bytes_got = peak_bytes_ref) FROM kase", "1111");
    lab_end(&l);
}

/* ---- digests of the device's own --------------------------------------------------------------------------- */

static int digests;

/* Of the honest cache: under lie=k the export says something else. */
static kv_status honest_digest(kv_session *s, int32_t layer, kv_digest *out)
{
    digests++;
    return liar_honest()->digest(s->honest, layer, out);
}

static void a_digest_of_the_devices_own_is_checked_against_its_export(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie=none", "lie=k,at=40"};
    for (int i = 0; i < 2; i++) {
        lab l;
        lab_reference = NULL;
        begin(&l, "book", "full");
        lab_device(&l, KV_CONTRACT_BITEXACT, lies[i]);
        l.tables[0].caps |= KV_CAP_DIGEST;
        l.tables[0].digest = honest_digest;
        digests = 0;
        lab_run(&l);
        assert_int_equal(digests, 4); /* after 16, 32, 48 and 60 tokens */
        lab_verdict(&l, 0, i ? "FAIL" : "PASS", "-", i ? "own digest is not that of its export: K or V bytes" : "");
        lab_end(&l);
    }
}

/* ---- coded storages ------------------------------------------------------------------------------------------ */

static void coded(lab *l, const char *policy, int32_t mode, const char *options)
{
    lab_reference = NULL;
    begin(l, "book", policy);
    l->o.tokens = 160;
    l->o.mode = mode;
    lab_device(l, KV_CONTRACT_BOUNDED, options);
    lab_run(l);
}

/* From token 80 on, where both storages have codes: noise that a row is not granted moves the means. */
static void flipped_codes_are_judged_by_their_means(void **state)
{
    (void)state;
    static const struct {
        const char *policy, *options, *status;
    } tries[] = {{"full+kivi:bits=4,group=16,residual=32", "lie=none,codes=1e-2,at=80", "PASS"},
                 {"full+kivi:bits=4,group=16,residual=32", "lie=none,codes=0.06,at=80", "UNTRUSTED"},
                 {"full+kvarn:tile=32", "lie=none,codes=0.06,at=80", "PASS"},
                 {"full+kvarn:tile=32,tie=rel", "lie=none,codes=0.06,at=80", "UNTRUSTED"},
                 {"full+kvarn:tile=32", "lie=none,codes=0.2,at=80", "UNTRUSTED"},
                 {"full", "lie=none,codes=1.2,at=80", "PASS"}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        lab l;
        const int passes = strcmp(tries[i].status, "PASS") == 0;
        coded(&l, tries[i].policy, DT_MODE_FREE, tries[i].options);
        lab_verdict(&l, 0, tries[i].status, "-", passes ? "" : "flipped codes explain up to");
        lab_tells(&l, "SELECT max_ratio > 1 FROM kase", passes ? "0" : "1");
        lab_end(&l);
    }
}

/* The first group is coded by the step that brings token 31. */
static void before_the_first_code_rows_are_held_to_the_bound(void **state)
{
    (void)state;
    static const char *const policies[] = {"full+kivi:bits=4,group=32,residual=32", "full+kvarn:tile=32"};
    for (int i = 0; i < 2; i++) {
        lab l;
        coded(&l, policies[i], DT_MODE_FREE, "lie=none,codes=1e-2,at=10");
        lab_verdict(&l, 0, "FAIL", "10", "logits of token 10 are off by");
        lab_end(&l);
        coded(&l, policies[i], DT_MODE_FREE, "lie=none,codes=1e-2,at=16");
        lab_verdict(&l, 0, "PASS", "-", "");
        lab_end(&l);
    }
}

/* Locked: every step starts from the reference's codes, so that only those which a step makes itself can flip: here the
 * steps from 48 and 112 on. */
static void from_the_references_codes_rows_are_held_to_the_bound(void **state)
{
    (void)state;
    static const char *const tries[] = {"lie=none,codes=1e-2,at=80", "lie=none,codes=1e-2,at=50", "lie=none,codes=1e-6,at=0"};
    static const char *const rows[] = {"80", "64", "-"};
    for (int i = 0; i < 3; i++) {
        lab l;
        coded(&l, "full+kvarn:tile=64", DT_MODE_LOCKED, tries[i]);
        lab_verdict(&l, 0, i < 2 ? "FAIL" : "PASS", rows[i], i < 2 ? "are off by" : "");
        lab_end(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_prompt_is_one_step_of_both_sides),
        cmocka_unit_test(half_windows_begin_with_a_prompt_each),
        cmocka_unit_test(windows_are_fed_and_every_token_is_scored_once),
        cmocka_unit_test(a_row_is_that_of_the_window_that_scores_it),
        cmocka_unit_test(a_lie_in_a_window_is_told_by_its_place_in_the_document),
        cmocka_unit_test(a_question_under_windows_is_unsupported),
        cmocka_unit_test(residents_are_those_of_one_head),
        cmocka_unit_test(a_legal_tie_is_counted_and_the_device_goes_on_from_the_references_cache),
        cmocka_unit_test(another_victim_that_was_no_close_call_is_a_bug),
        cmocka_unit_test(a_bitexact_device_has_no_ties),
        cmocka_unit_test(rounding_of_a_margin_is_no_difference_where_bits_are_not_promised),
        cmocka_unit_test(a_tie_needs_an_import_that_works),
        cmocka_unit_test(a_device_that_settles_ties_otherwise_is_no_liar),
        cmocka_unit_test(a_device_with_wrong_scores_is_found),
        cmocka_unit_test(margins_of_h2o_are_measured_by_its_scores),
        cmocka_unit_test(the_size_of_the_cache_is_that_of_its_records),
        cmocka_unit_test(the_peak_is_kept_when_the_cache_shrinks),
        cmocka_unit_test(a_digest_of_the_devices_own_is_checked_against_its_export),
        cmocka_unit_test(flipped_codes_are_judged_by_their_means),
        cmocka_unit_test(before_the_first_code_rows_are_held_to_the_bound),
        cmocka_unit_test(from_the_references_codes_rows_are_held_to_the_bound),
    };
    return cmocka_run_group_tests(tests, folderkit_make, folderkit_remove);
}
