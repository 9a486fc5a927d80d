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
    };
    return cmocka_run_group_tests(tests, folderkit_make, folderkit_remove);
}
