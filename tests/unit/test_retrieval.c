/* Passkey documents: both sides answer from their own cache; a side that answers otherwise, or not at all,
 * is seen. nano has random weights, so nothing is ever retrieved: what counts is that both say the same. */
#include "tests/unit/labkit.h"

enum { LENGTH = 800 }; /* tokens of the prompt; the answer's are 800 to 804 */

static void prepare(lab *l, const char *policy)
{
    lab_begin(l, "passkey:len=800,depth=50,seeds=1", policy);
    l->o.q = 64;
    l->o.digest_every = 0;
    l->o.keep = DT_KEEP_NONE;
}

static void lie(lab *l, int32_t contract, const char *options)
{
    prepare(l, "full");
    lab_device(l, contract, options);
    lab_run(l);
}

/* ---- what is stored -------------------------------------------------------------------------------------- */

static void an_honest_side_answers_like_the_reference(void **state)
{
    (void)state;
    lab l;
    lie(&l, KV_CONTRACT_BITEXACT, "lie=none");
    const corpus_stream *d = &l.plan.docs[0].stream;
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT ctx_len || ',' || digits || ',' || depth_ppm FROM retrieval", "800,5,500000");
    lab_tells(&l, "SELECT expected FROM retrieval", d->passkey.digits);
    lab_tells(&l, "SELECT ans_ref = ans_got AND ok_ref = ok_got AND digits_ref = digits_got AND nll_ref = nll_got"
                  " AND length(ans_ref) = 5 FROM retrieval", "1");
    assert_int_equal(lab_int(&l, "SELECT insert_pos FROM retrieval"), d->passkey.insert_pos);
    /* policy full keeps the whole key */
    assert_int_equal(lab_int(&l, "SELECT needle_resident_ref FROM retrieval"),
                     d->passkey.key_end - d->passkey.insert_pos);
    lab_tells(&l, "SELECT needle_resident_ref = needle_resident_got FROM retrieval", "1");
    lab_tells(&l, "SELECT n_tok FROM kase", "799");
    lab_end(&l);
}

/* The prompt and the expected answer as one text, token by token. */
static void the_nll_of_the_answer_is_that_of_a_plain_loop(void **state)
{
    (void)state;
    lab l;
    lie(&l, KV_CONTRACT_BITEXACT, "lie=none");
    const corpus_stream *d = &l.plan.docs[0].stream;
    const kv_backend *ref = ref_backend();
    const kv_open_args args = {.model = l.plan.model, .policy = l.plan.policies, .threads = 1, .max_step = LENGTH};
    kv_session *s = NULL;
    double sum = 0;
    assert_ok(ref->open(&args, &s));
    const kv_step prompt = {.tokens = d->tokens.v, .n = LENGTH - 1, .rows = KV_ROWS_NONE};
    assert_ok(ref->step(s, &prompt));
    for (int64_t i = 0; i < d->answer.n; i++) {
        const int32_t token = i ? d->answer.v[i - 1] : d->tokens.v[LENGTH - 1];
        float nll;
        const kv_step one = {.tokens = &token, .n = 1, .rows = KV_ROWS_LAST, .targets = &d->answer.v[i], .nll = &nll};
        assert_ok(ref->step(s, &one));
        sum += (double)nll;
    }
    ref->close(s);
    assert_int_equal(d->answer.n, 5);
    const double stored = strtod(lab_ask(&l, "SELECT printf('%.17g', nll_ref) FROM retrieval"), NULL);
    assert_true(fabs(stored - sum) < 1e-4 * sum);
    lab_end(&l);
}

static void an_evicted_key_is_not_resident(void **state)
{
    (void)state;
    lab l;
    prepare(&l, "sink:cap=100");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT needle_resident_ref || ',' || needle_resident_got FROM retrieval", "0,0");
    lab_end(&l);
}

static void the_reference_answers_alone_too(void **state)
{
    (void)state;
    lab l;
    prepare(&l, "full");
    lab_run(&l);
    lab_verdict(&l, 0, "RECORDED", "-", "");
    lab_tells(&l, "SELECT length(ans_ref) = 5 AND nll_ref > 0 AND ans_got IS NULL AND nll_got IS NULL AND ok_got IS"
                  " NULL FROM retrieval", "1");
    lab_end(&l);
}

/* Sums, digests and rows of a document must not depend on the questions asked afterwards. */
static void answering_leaves_the_next_document_alone(void **state)
{
    (void)state;
    lab both, second;
    lab_begin(&both, "passkey:len=800,depth=50,seeds=2", "sink:cap=100");
    both.o.keep = DT_KEEP_NONE;
    lab_device(&both, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&both);
    lab_begin(&second, "passkey:len=800,depth=50,seeds=2", "sink:cap=100");
    second.o.keep = DT_KEEP_NONE;
    snprintf(second.file, sizeof second.file, "%s", in_folder("second.db"));
    remove(second.file);
    assert_ok(dt_list_add(&second.o.docs, "*-seed1", 7));
    lab_device(&second, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&second);
    assert_int_equal(second.plan.n_docs, 1);
    const char *sql = "SELECT printf('%.17g ', sum_nll_ref) || content_ref || ' ' || content_got || ' ' || status ||"
                      " (SELECT printf(' %.17g ', nll_got) || ans_got FROM retrieval r WHERE r.case_id = k.case_id)"
                      " FROM kase k ORDER BY case_id DESC";
    lab_tells(&both, sql, lab_ask(&second, sql));
    lab_tells(&both, "SELECT count(*) FROM kase WHERE status = 'PASS'", "2");
    lab_end(&both);
    lab_end(&second);
}

/* ---- lies ------------------------------------------------------------------------------------------------ */

static void another_answer_fails_behind_the_prompt(void **state)
{
    (void)state;
    lab l;
    lie(&l, KV_CONTRACT_BITEXACT, "lie=answer,at=800");
    lab_verdict(&l, 0, "FAIL", "800", "where the reference says");
    lab_tells(&l, "SELECT ans_got LIKE '%777' AND ans_got <> ans_ref AND ok_got = 0 AND nll_ref = nll_got FROM"
                  " retrieval", "1");
    lab_tells(&l, "SELECT n_bitexact = n_tok FROM kase", "1");
    lab_end(&l);
}

static void one_bit_of_the_answers_nll_fails(void **state)
{
    (void)state;
    lab l;
    lie(&l, KV_CONTRACT_BITEXACT, "lie=nll,at=801");
    lab_verdict(&l, 0, "FAIL", "800", "NLL");
    lab_tells(&l, "SELECT nll_ref <> nll_got AND ans_ref = ans_got FROM retrieval", "1");
    lab_end(&l);
}

static void one_bit_of_the_questions_last_row_fails(void **state)
{
    (void)state;
    lab l;
    lie(&l, KV_CONTRACT_BITEXACT, "lie=logit,at=799");
    lab_verdict(&l, 0, "FAIL", "799", "question's last token");
    lab_end(&l);
}

static void the_questions_last_row_is_held_to_a_bound(void **state)
{
    (void)state;
    lab l;
    lie(&l, KV_CONTRACT_BOUNDED, "lie=none,noise=1e-2,at=799");
    lab_verdict(&l, 0, "FAIL", "799", "logits of token 799 are off by");
    lab_end(&l);
}

static void values_that_are_not_finite_fail_under_every_contract(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie=nan,at=799", "lie=inf,at=800", "lie=nan,at=803"};
    static const char *const words[] = {"question's last token", "logits of the answer", "logits of the answer"};
    static const char *const places[] = {"799", "800", "803"};
    for (int contract = KV_CONTRACT_BITEXACT; contract <= KV_CONTRACT_STATISTICAL; contract++)
        for (int i = 0; i < 3; i++) {
            lab l;
            lie(&l, contract, lies[i]);
            lab_verdict(&l, 0, "FAIL", places[i], words[i]);
            lab_tells(&l, "SELECT ans_got IS NULL AND ans_ref IS NOT NULL FROM retrieval", "1");
            lab_end(&l);
        }
}

/* In the answers' buffers stands what the reference said. */
static void silence_is_no_answer(void **state)
{
    (void)state;
    for (int contract = KV_CONTRACT_BITEXACT; contract <= KV_CONTRACT_STATISTICAL; contract++) {
        lab l;
        lie(&l, contract, "lie=mute,at=800");
        lab_verdict(&l, 0, "FAIL", "800", "logits of the answer");
        lab_end(&l);
    }
}

/* ---- failures -------------------------------------------------------------------------------------------- */

static void a_side_that_fails_while_answering_is_an_error_of_its_own(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie=snapshot", "lie=restore", "lie=step,at=800", "lie=layer,at=9999"};
    static const char *const words[] = {"snapshot while answering: as told", "restore while answering: as told",
                                        "step while answering: as told", "cache export"};
    for (int i = 0; i < 4; i++) {
        lab l;
        prepare(&l, "full");
        lab_device(&l, KV_CONTRACT_BITEXACT, lies[i]);
        lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
        lab_run(&l);
        lab_verdict(&l, 0, "ERROR", "-", words[i]);
        lab_verdict(&l, 1, "PASS", "-", "");
        lab_tells(&l, "SELECT count(*) FROM retrieval WHERE ans_ref IS NOT NULL AND nll_ref > 0", "2");
        lab_end(&l);
    }
}

static void a_side_that_failed_before_the_question_is_not_asked(void **state)
{
    (void)state;
    lab l;
    prepare(&l, "full");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=step,at=100");
    lab_run(&l);
    lab_verdict(&l, 0, "ERROR", "-", "step of 64 tokens: as told");
    lab_tells(&l, "SELECT count(*) FROM retrieval", "0");
    lab_end(&l);
}

/* A side that replays decisions does so in its answer, too, when it was asked to or cannot decide by itself. */
static int fed, fed_with_list;

static kv_status count_lists(kv_session *s, const kv_step *step)
{
    kv_step own = *step;
    own.follow = NULL; /* the reference decides by itself */
    fed++;
    fed_with_list += step->follow != NULL;
    return liar_step(s, &own);
}

static void a_follower_follows_while_it_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t caps;
        int32_t mode;
        int follows;
    } tries[] = {{KV_CAP_FOLLOW, DT_MODE_FOLLOW, 1}, {KV_CAP_FOLLOW, DT_MODE_FREE, 0},
                 {KV_CAP_FOLLOW | KV_CAP_NEEDS_FOLLOW, DT_MODE_FREE, 1}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        lab l;
        prepare(&l, "h2o:cap=100");
        l.o.mode = tries[i].mode;
        lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
        l.tables[0].step = count_lists;
        l.tables[0].caps |= tries[i].caps;
        fed = fed_with_list = 0;
        lab_run(&l);
        lab_verdict(&l, 0, "PASS", "-", "");
        assert_true(fed > LENGTH / 64 + 2); /* the prompt, the greedy answer, the expected one */
        assert_int_equal(fed_with_list, tries[i].follows ? fed : 0);
        lab_end(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_side_answers_like_the_reference),
        cmocka_unit_test(the_nll_of_the_answer_is_that_of_a_plain_loop),
        cmocka_unit_test(an_evicted_key_is_not_resident),
        cmocka_unit_test(the_reference_answers_alone_too),
        cmocka_unit_test(answering_leaves_the_next_document_alone),
        cmocka_unit_test(another_answer_fails_behind_the_prompt),
        cmocka_unit_test(one_bit_of_the_answers_nll_fails),
        cmocka_unit_test(one_bit_of_the_questions_last_row_fails),
        cmocka_unit_test(the_questions_last_row_is_held_to_a_bound),
        cmocka_unit_test(values_that_are_not_finite_fail_under_every_contract),
        cmocka_unit_test(silence_is_no_answer),
        cmocka_unit_test(a_side_that_fails_while_answering_is_an_error_of_its_own),
        cmocka_unit_test(a_side_that_failed_before_the_question_is_not_asked),
        cmocka_unit_test(a_follower_follows_while_it_answers),
    };
    return cmocka_run_group_tests(tests, folderkit_make, folderkit_remove);
}
