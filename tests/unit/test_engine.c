/* The engine on text documents: every kind of lie is seen, where it was told, and for that reason; what is
 * no lie passes. Retrieval, verdicts and budgets have tests of their own. */
#include "tests/unit/labkit.h"

enum { TOKENS = 120 };

/* nano reads 120 tokens of the book in steps of 16 under a sink cache of 44 entries; one bit-exact device. */
static void lie(lab *l, const char *options)
{
    lab_begin(l, "book", "sink:cap=40");
    l->o.tokens = TOKENS;
    lab_device(l, KV_CONTRACT_BITEXACT, options);
    lab_run(l);
}

/* ---- no lie ---------------------------------------------------------------------------------------------- */

static void an_honest_side_passes_with_the_sums_of_the_reference(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=none");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT n_tok = 119 AND n_bitexact = 119 AND n_top1_same = 119 AND max_ulp = 0 AND sum_kl = 0"
                  " AND sum_nll_ref = sum_nll_got AND first_diff_pos IS NULL AND content_ref = content_got"
                  " AND order_ref = order_got FROM kase", "1");
    lab_tells(&l, "SELECT count(*) || ',' || min(pos) || ',' || max(pos) FROM tok WHERE flags = 0 AND max_ulp = 0",
              "119,0,118");
    lab_tells(&l, "SELECT count(*) FROM event", "0");
    lab_tells(&l, "SELECT group_concat(pos) FROM tok_hash WHERE layer = -1 AND h_ref = h_got",
              "15,31,47,63,79,95,111,119");
    lab_end(&l);
}

/* Chunks, targets and sums against a plain loop over one long step. */
static void sums_are_those_of_a_plain_loop(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "full");
    l.o.tokens = TOKENS;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    const kv_backend *ref = ref_backend();
    kv_session *s = NULL;
    const kv_open_args args = {.model = l.plan.model, .policy = l.plan.policies, .threads = 1, .max_step = 1};
    assert_ok(ref->open(&args, &s));
    const int32_t *tokens = l.plan.docs[0].stream.tokens.v;
    double sum = 0;
    for (int i = 0; i + 1 < TOKENS; i++) {
        float nll;
        const kv_step step = {.tokens = tokens + i, .n = 1, .rows = KV_ROWS_LAST, .targets = tokens + i + 1,
                              .nll = &nll};
        assert_ok(ref->step(s, &step));
        sum += (double)nll;
    }
    ref->close(s);
    char *end;
    const double stored = strtod(lab_ask(&l, "SELECT printf('%.17g', sum_nll_ref) FROM kase"), &end);
    assert_true(fabs(stored - sum) < 1e-4 * sum);
    for (int i = 0; i < 3; i++) {
        char sql[80], wanted[20];
        snprintf(sql, sizeof sql, "SELECT tok FROM tok WHERE pos = %d", 37 * i);
        snprintf(wanted, sizeof wanted, "%d", tokens[37 * i + 1]);
        lab_tells(&l, sql, wanted);
    }
    lab_end(&l);
}

static void a_slow_side_passes_and_its_time_is_its_own(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=slow");
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_tells(&l, "SELECT got_ms >= 40 AND wall_ms >= got_ms AND ref_ms > 0 FROM kase", "1");
    lab_end(&l);
}

/* ---- logits ---------------------------------------------------------------------------------------------- */

static void one_bit_of_one_logit_fails_at_its_token_and_nowhere_else(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=logit,at=77");
    lab_verdict(&l, 0, "FAIL", "77", "logits of token 77 differ by up to 1 ulp");
    lab_tells(&l, "SELECT n_bitexact = 118 AND max_ulp = 1 AND first_diff_pos = 77 FROM kase", "1");
    lab_tells(&l, "SELECT group_concat(pos) FROM tok WHERE max_ulp > 0", "77");
    lab_tells(&l, "SELECT flags FROM tok WHERE pos = 77", "16");
    lab_tells(&l, "SELECT count(*) FROM tok_hash WHERE h_ref <> h_got", "0");
    lab_end(&l);
}

static void the_first_and_the_last_scored_token_count(void **state)
{
    (void)state;
    static const char *const at[] = {"0", "15", "16", "118"};
    for (int i = 0; i < 4; i++) {
        lab l;
        char options[40];
        snprintf(options, sizeof options, "lie=logit,at=%s", at[i]);
        lie(&l, options);
        lab_verdict(&l, 0, "FAIL", at[i], "ulp");
        lab_end(&l);
    }
}

static void nan_and_infinity_fail_under_every_contract(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie=nan,at=50", "lie=inf,at=50"};
    for (int contract = KV_CONTRACT_BITEXACT; contract <= KV_CONTRACT_STATISTICAL; contract++)
        for (int i = 0; i < 2; i++) {
            lab l;
            lab_begin(&l, "book", "full");
            l.o.tokens = TOKENS;
            lab_device(&l, contract, lies[i]);
            lab_run(&l);
            lab_verdict(&l, 0, "FAIL", "50", "NaN or infinity in the logits of token 50");
            lab_tells(&l, "SELECT (flags & 4) || ',' || (nll_ref IS NULL) || ',' || (nll_got IS NULL) FROM tok"
                          " WHERE pos = 50", "4,0,1");
            lab_end(&l);
        }
}

static void a_canonical_nll_of_its_own_fails_although_the_logits_agree(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=nll,at=33");
    lab_verdict(&l, 0, "FAIL", "33", "canonical NLL of token 33 differs although its logits do not");
    lab_tells(&l, "SELECT n_bitexact FROM kase", "119");
    lab_end(&l);
}

/* The engine's buffers still hold what the honest device before it wrote. */
static void a_side_that_writes_nothing_does_not_live_on_its_neighbours_logits(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "full");
    l.o.tokens = TOKENS;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=mute,at=64");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_verdict(&l, 1, "FAIL", "64", "token 64");
    lab_tells(&l, "SELECT n_bitexact FROM kase WHERE status = 'FAIL'", "64");
    lab_end(&l);
}

static void a_liar_does_not_harm_its_neighbours(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sliding:cap=24");
    l.o.tokens = TOKENS;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=nan,at=40");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=step,at=50");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none,at=1");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    lab_verdict(&l, 1, "FAIL", "40", "NaN");
    lab_verdict(&l, 2, "ERROR", "-", "as told");
    lab_verdict(&l, 3, "PASS", "-", "");
    lab_tells(&l, "SELECT count(DISTINCT sum_nll_ref) FROM kase WHERE n_tok = 119", "1");
    lab_end(&l);
}

/* ---- decisions ------------------------------------------------------------------------------------------- */

static void a_wrong_decision_fails_at_its_token(void **state)
{
    (void)state;
    static const char *const lies[] = {"lie=slot,at=77", "lie=margin,at=77", "lie=lost,at=77"};
    for (int i = 0; i < 3; i++) {
        lab l;
        lie(&l, lies[i]);
        lab_verdict(&l, 0, "FAIL", "77", i == 1 ? "layer 1: equal but for cause, layer, head or margin (inf" : "decision at token 77, layer 1");
        lab_tells(&l, "SELECT n_bitexact = 119 AND first_diff_pos = 77 FROM kase", "1");
        lab_tells(&l, "SELECT group_concat(pos) FROM tok WHERE flags & 32", "79"); /* the step's last token */
        lab_end(&l);
    }
}

/* Behind the list nothing says which token it was: the step's last one bears the blame. */
static void a_decision_too_many_fails(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=extra,at=77");
    lab_verdict(&l, 0, "FAIL", "79", "129 decisions instead of 128 in the step at token 64");
    lab_tells(&l, "SELECT n_bitexact FROM kase", "119");
    lab_end(&l);
}

static void decisions_of_both_sides_are_kept_where_they_differ(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=lost,at=77");
    lab_tells(&l, "SELECT count(*) FROM event WHERE side = 0", "128"); /* 16 tokens in and out in 4 layers */
    lab_tells(&l, "SELECT count(*) FROM event WHERE side = 1", "127");
    lab_tells(&l, "SELECT min(pos) || ',' || max(pos) FROM event", "64,79");
    lab_end(&l);
}

static void all_events_are_kept_when_asked_for(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = TOKENS;
    l.o.all_events = 1;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    /* 120 admissions and 76 evictions in each of 4 layers, on both sides */
    lab_tells(&l, "SELECT count(*) FILTER (WHERE kind = 0) || ',' || count(*) FILTER (WHERE kind = 1) FROM event",
              "960,608");
    lab_tells(&l, "SELECT max(side) || ',' || max(layer) || ',' || max(pos) FROM event", "1,3,119");
    lab_end(&l);
}

/* ---- the cache ------------------------------------------------------------------------------------------- */

static void one_bit_of_k_that_changes_nothing_else_is_seen(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=k,at=70");
    lab_verdict(&l, 0, "FAIL", "79", "cache after token 79 differs from layer 0 on: K or V bytes");
    lab_tells(&l, "SELECT n_bitexact || ',' || (content_ref <> content_got) || ',' || (order_ref = order_got)"
                  " FROM kase", "119,1,1");
    lab_tells(&l, "SELECT group_concat(pos) FROM tok WHERE flags & 8", "79,95,111");
    lab_tells(&l, "SELECT group_concat(pos || ':' || layer) FROM tok_hash WHERE h_ref <> h_got",
              "79:-1,79:0,95:-1,111:-1,119:-1");
    lab_end(&l);
}

static void a_wrong_position_in_the_cache_is_seen(void **state)
{
    (void)state;
    for (int contract = KV_CONTRACT_BITEXACT; contract <= KV_CONTRACT_STATISTICAL; contract++) {
        lab l;
        lab_begin(&l, "book", "sink:cap=40");
        l.o.tokens = TOKENS;
        lab_device(&l, contract, "lie=pos,at=20");
        lab_run(&l);
        lab_verdict(&l, 0, "FAIL", "31", "from layer 0 on: tokens or positions");
        lab_end(&l);
    }
}

static void without_digests_in_between_the_end_still_tells(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = TOKENS;
    l.o.digest_every = 0;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=k,at=70");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "119", "cache after token 119 differs from layer 0 on: K or V bytes");
    lab_tells(&l, "SELECT group_concat(pos || ':' || layer) FROM tok_hash", "119:-1,119:0");
    lab_end(&l);
}

static void an_export_that_writes_nothing_is_no_copy_of_the_reference(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=blank");
    lab_verdict(&l, 0, "ERROR", "-", "cache export");
    lab_end(&l);
}

static void an_export_that_fails_is_an_error(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=export");
    lab_verdict(&l, 0, "ERROR", "-", "cache export: liar: as told");
    lab_end(&l);
}

/* The whole cache differs, and the question for the layer is not answered: still a case, not the end of the run. */
static void a_layer_that_cannot_be_exported_spares_the_run(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = TOKENS;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=layer,at=70");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "79", "cache after token 79 differs, though no single layer says so: K or V");
    lab_verdict(&l, 1, "PASS", "-", "");
    lab_end(&l);
}

static void one_bit_of_the_rope_table_fails_before_the_first_token(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=table,at=9");
    lab_verdict(&l, 0, "FAIL", "-", "RoPE tables differ at position 9, pair 0");
    lab_tells(&l, "SELECT n_tok || ',' || (SELECT count(*) FROM tok) FROM kase", "0,0");
    lab_end(&l);
}

/* ---- failures -------------------------------------------------------------------------------------------- */

static void a_failing_step_is_an_error_and_keeps_what_was_before(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=step,at=77");
    lab_verdict(&l, 0, "ERROR", "-", "step of 16 tokens: as told");
    lab_tells(&l, "SELECT n_tok || ',' || n_bitexact FROM kase", "64,64");
    lab_tells(&l, "SELECT max(pos) FROM tok", "63");
    lab_end(&l);
}

static void a_side_that_cannot_open_is_unsupported_or_an_error(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "full");
    l.o.tokens = TOKENS;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=unsupported");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=open");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=reset");
    lab_run(&l);
    lab_verdict(&l, 0, "UNSUPPORTED", "-", "as told");
    lab_verdict(&l, 1, "ERROR", "-", "as told");
    lab_verdict(&l, 2, "ERROR", "-", "reset: as told");
    lab_tells(&l, "SELECT sum(n_tok) FROM kase", "0");
    lab_end(&l);
}

/* ---- modes ----------------------------------------------------------------------------------------------- */

static void free_mode_lets_a_spoilt_cache_spread(void **state)
{
    (void)state;
    lab l;
    lie(&l, "lie=cache,at=70");
    lab_verdict(&l, 0, "FAIL", "79", "cache after token 79");
    lab_tells(&l, "SELECT min(pos) || ',' || (count(*) > 30) FROM tok WHERE flags & 16", "80,1");
    lab_end(&l);
}

static void locked_mode_heals_it_before_the_next_step(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = TOKENS;
    l.o.mode = DT_MODE_LOCKED;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=cache,at=70");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "79", "cache after token 79");
    lab_tells(&l, "SELECT n_bitexact || ',' || mode FROM kase", "119,locked");
    lab_tells(&l, "SELECT group_concat(pos) FROM tok_hash WHERE layer = -1 AND h_ref <> h_got", "79");
    lab_end(&l);
}

static void locked_mode_needs_an_import_that_works(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "full");
    l.o.tokens = TOKENS;
    l.o.mode = DT_MODE_LOCKED;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=import");
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_verdict(&l, 0, "ERROR", "-", "import of the reference's cache: as told");
    lab_verdict(&l, 1, "PASS", "-", "");
    lab_end(&l);
}

/* A side that counts the steps in which it was given decisions to replay, and whether they were the right ones. */
static struct {
    int steps, with_list, right;
} told;

static kv_status count_follow(kv_session *s, const kv_step *step)
{
    kv_step own = *step;
    const size_t before = step->events->n;
    own.follow = NULL; /* the reference decides by itself */
    const kv_status st = liar_step(s, &own);
    told.steps++;
    told.with_list += step->follow != NULL;
    told.right += step->follow && step->follow->n == step->events->n - before &&
                  memcmp(step->follow->v, step->events->v + before, step->follow->n * sizeof(kv_event)) == 0;
    return st;
}

static void follow_mode_hands_over_the_decisions_of_the_step(void **state)
{
    (void)state;
    const struct {
        uint32_t caps;
        int32_t mode;
        int with_list;
    } tries[] = {{KV_CAP_FOLLOW, DT_MODE_FOLLOW, 8}, {KV_CAP_FOLLOW, DT_MODE_FREE, 0},
                 {KV_CAP_FOLLOW | KV_CAP_NEEDS_FOLLOW, DT_MODE_FREE, 8}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        lab l;
        lab_begin(&l, "book", "sink:cap=40");
        l.o.tokens = TOKENS;
        l.o.mode = tries[i].mode;
        lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
        l.tables[0].step = count_follow;
        l.tables[0].caps |= tries[i].caps;
        memset(&told, 0, sizeof told);
        lab_run(&l);
        lab_verdict(&l, 0, "PASS", "-", "");
        assert_int_equal(told.steps, 8);
        assert_int_equal(told.with_list, tries[i].with_list);
        assert_int_equal(told.right, tries[i].with_list);
        lab_end(&l);
    }
}

static void follow_mode_refuses_a_side_that_cannot_follow(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = TOKENS;
    l.o.mode = DT_MODE_FOLLOW;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&l);
    lab_verdict(&l, 0, "UNSUPPORTED", "-", "cannot replay the reference's decisions");
    lab_end(&l);
}

/* ---- half windows ---------------------------------------------------------------------------------------- */

static void window(lab *l, const char *options)
{
    lab_begin(l, "book", "sink:cap=12");
    l->o.tokens = 150;
    l->o.window = 40;
    lab_device(l, KV_CONTRACT_BITEXACT, options);
}

static void half_windows_score_the_second_half_of_every_chunk(void **state)
{
    (void)state;
    lab l;
    window(&l, "lie=none");
    lab_run(&l);
    lab_verdict(&l, 0, "PASS", "-", "");
    /* 150 tokens are 3 chunks; of each, positions 20 to 38 predict a token of the chunk */
    lab_tells(&l, "SELECT n_tok FROM kase", "57");
    lab_tells(&l, "SELECT count(*) FILTER (WHERE pos % 40 BETWEEN 20 AND 38) || ',' || count(*) || ',' || min(pos)"
                  " || ',' || max(pos) FROM tok", "57,57,20,118");
    lab_tells(&l, "SELECT n_words IS NULL FROM kase", "1");
    lab_end(&l);
}

/* Every chunk starts with an empty cache: its rows are those of a run over the chunk alone. */
static void a_chunk_knows_nothing_of_the_one_before(void **state)
{
    (void)state;
    lab l, alone;
    window(&l, "lie=none");
    lab_run(&l);
    char text[41];
    const char *book;
    size_t n;
    assert_ok(corpus_text(l.plan.corpora[0], 0, &book, &n)); /* nano's tokens are 4 + byte */
    snprintf(text, sizeof text, "%.40s", book + 40);
    for (int i = 0; i < 40; i++)
        assert_int_equal(4 + (unsigned char)text[i], l.plan.docs[0].stream.tokens.v[40 + i]);
    lab_begin(&alone, put_file("chunk.txt", text), "sink:cap=12");
    snprintf(alone.file, sizeof alone.file, "%s", in_folder("alone.db"));
    remove(alone.file);
    lab_device(&alone, KV_CONTRACT_BITEXACT, "lie=none");
    lab_run(&alone);
    assert_string_equal(lab_ask(&l, "SELECT group_concat(printf('%.17g', nll_ref)) FROM (SELECT nll_ref FROM tok"
                                    " WHERE pos BETWEEN 60 AND 78 ORDER BY pos)"),
                        lab_ask(&alone, "SELECT group_concat(printf('%.17g', nll_ref)) FROM (SELECT nll_ref FROM"
                                        " tok WHERE pos BETWEEN 20 AND 38 ORDER BY pos)"));
    lab_end(&alone);
    lab_end(&l);
}

/* Sessions count from their reset, documents from their start. */
static void a_lie_in_a_later_chunk_is_told_by_its_place_in_the_document(void **state)
{
    (void)state;
    lab l;
    window(&l, "lie=slot,at=33");
    lab_run(&l);
    lab_verdict(&l, 0, "FAIL", "33", "decision at token 33, layer 1");
    lab_tells(&l, "SELECT min(pos) || ',' || max(pos) || ',' || count(DISTINCT pos) FROM event", "32,119,24");
    lab_tells(&l, "SELECT group_concat(pos) FROM tok WHERE flags & 32", "38,78,118");
    lab_end(&l);
}

/* ---- the rest -------------------------------------------------------------------------------------------- */

static void rows_are_kept_as_asked(void **state)
{
    (void)state;
    static const char *const wanted[] = {"119", "1", "0"};
    for (int keep = DT_KEEP_ALL; keep <= DT_KEEP_NONE; keep++) {
        lab l;
        lab_begin(&l, "book", "full");
        l.o.tokens = TOKENS;
        l.o.keep = keep;
        lab_device(&l, KV_CONTRACT_BITEXACT, "lie=logit,at=77");
        lab_run(&l);
        lab_tells(&l, "SELECT count(*) FROM tok", wanted[keep]);
        lab_verdict(&l, 0, "FAIL", "77", "ulp");
        lab_tells(&l, "SELECT n_tok FROM kase", "119");
        lab_end(&l);
    }
}

static void an_interrupted_document_leaves_no_case(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "full");
    l.o.tokens = TOKENS;
    lab_device(&l, KV_CONTRACT_BITEXACT, "lie=none");
    l.stop = 1;
    assert_refused(lab_try(&l), KV_ERR_INTERRUPTED, "the same command goes on");
    lab_tells(&l, "SELECT count(*) FROM kase", "0");
    lab_end(&l);
}

static void the_reference_alone_is_recorded(void **state)
{
    (void)state;
    lab l;
    lab_begin(&l, "book", "sink:cap=40");
    l.o.tokens = TOKENS;
    lab_run(&l);
    lab_verdict(&l, 0, "RECORDED", "-", "");
    lab_tells(&l, "SELECT n_tok = 119 AND sum_nll_ref > 0 AND sum_nll_got IS NULL AND max_ulp IS NULL"
                  " AND sum_kl IS NULL AND n_bitexact IS NULL FROM kase", "1");
    lab_tells(&l, "SELECT count(*) FROM tok WHERE nll_got IS NULL", "119");
    lab_end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_side_passes_with_the_sums_of_the_reference),
        cmocka_unit_test(sums_are_those_of_a_plain_loop),
        cmocka_unit_test(a_slow_side_passes_and_its_time_is_its_own),
        cmocka_unit_test(one_bit_of_one_logit_fails_at_its_token_and_nowhere_else),
        cmocka_unit_test(the_first_and_the_last_scored_token_count),
        cmocka_unit_test(nan_and_infinity_fail_under_every_contract),
        cmocka_unit_test(a_canonical_nll_of_its_own_fails_although_the_logits_agree),
        cmocka_unit_test(a_side_that_writes_nothing_does_not_live_on_its_neighbours_logits),
        cmocka_unit_test(a_liar_does_not_harm_its_neighbours),
        cmocka_unit_test(a_wrong_decision_fails_at_its_token),
        cmocka_unit_test(a_decision_too_many_fails),
        cmocka_unit_test(decisions_of_both_sides_are_kept_where_they_differ),
        cmocka_unit_test(all_events_are_kept_when_asked_for),
        cmocka_unit_test(one_bit_of_k_that_changes_nothing_else_is_seen),
        cmocka_unit_test(a_wrong_position_in_the_cache_is_seen),
        cmocka_unit_test(without_digests_in_between_the_end_still_tells),
        cmocka_unit_test(an_export_that_writes_nothing_is_no_copy_of_the_reference),
        cmocka_unit_test(an_export_that_fails_is_an_error),
        cmocka_unit_test(a_layer_that_cannot_be_exported_spares_the_run),
        cmocka_unit_test(one_bit_of_the_rope_table_fails_before_the_first_token),
        cmocka_unit_test(a_failing_step_is_an_error_and_keeps_what_was_before),
        cmocka_unit_test(a_side_that_cannot_open_is_unsupported_or_an_error),
        cmocka_unit_test(free_mode_lets_a_spoilt_cache_spread),
        cmocka_unit_test(locked_mode_heals_it_before_the_next_step),
        cmocka_unit_test(locked_mode_needs_an_import_that_works),
        cmocka_unit_test(follow_mode_hands_over_the_decisions_of_the_step),
        cmocka_unit_test(follow_mode_refuses_a_side_that_cannot_follow),
        cmocka_unit_test(half_windows_score_the_second_half_of_every_chunk),
        cmocka_unit_test(a_chunk_knows_nothing_of_the_one_before),
        cmocka_unit_test(a_lie_in_a_later_chunk_is_told_by_its_place_in_the_document),
        cmocka_unit_test(rows_are_kept_as_asked),
        cmocka_unit_test(an_interrupted_document_leaves_no_case),
        cmocka_unit_test(the_reference_alone_is_recorded),
    };
    return cmocka_run_group_tests(tests, folderkit_make, folderkit_remove);
}
