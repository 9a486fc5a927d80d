/* locate on the generated model nano: devices that lie once (tests/sides/liar.h), or bend what they compute at one tap,
 * must be found where they do it. */
#include "tests/unit/kvtest.h"

#include "difftest/locate_blame.h"
#include "difftest/locate_report.h"
#include "difftest/locate_shrink.h"
#include "difftest/options.h"
#include "ref/backend.h"

static const kv_backend *truthful; /* of the liar: the reference, or one that bends */

#include "tests/sides/liar.h"

static const kv_backend *liar_honest(void)
{
    return truthful ? truthful : ref_backend();
}

enum { TOKENS = 96, Q = 16 };

typedef struct bench {
    kv_model *model;
    kv_policy policy;
    int32_t tokens[TOKENS];
    kv_backend liar;
    dt_subject s;
    dt_finding f;
} bench;

static void begin(bench *b, const char *policy, const char *options, int32_t contract)
{
    memset(b, 0, sizeof *b);
    assert_ok(kv_model_open("nano", NULL, &b->model, NULL));
    assert_ok(kv_policy_parse(policy, &b->policy));
    for (int i = 0; i < TOKENS; i++)
        b->tokens[i] = 4 + (i * 37 + i * i % 11) % 200;
    liar_fill(&b->liar, contract);
    b->s = (dt_subject){.model = b->model,
                        .policy = &b->policy,
                        .device = &b->liar,
                        .options = options,
                        .tokens = b->tokens,
                        .n = TOKENS,
                        .q = Q,
                        .mode = DT_MODE_FREE,
                        .threads = 1};
}

static void end(bench *b)
{
    dt_finding_free(&b->f);
    kv_model_close(b->model);
    truthful = NULL;
}

static void locate(bench *b, const char *policy, const char *options)
{
    begin(b, policy, options, KV_CONTRACT_BITEXACT);
    assert_ok(dt_locate(&b->s, &b->f));
}

/* found at token pos, in this operation and layer, with these words in the hypothesis */
static void expect(bench *b, int64_t pos, const char *op, const char *klass, int32_t layer, const char *words)
{
    const dt_finding *f = &b->f;
    const int right = f->found == DT_FOUND_VALUE && f->pos == pos && f->op && strcmp(f->op, op) == 0 &&
                      strcmp(f->klass, klass) == 0 && f->layer == layer && strstr(f->hypothesis, words);
    if (!right)
        fail_msg("found %d at %lld, %s %s layer %d '%s'; wanted %lld, %s %s layer %d '%s'", f->found, (long long)f->pos,
                 f->op ? f->op : "nothing", f->klass, f->layer, f->hypothesis, (long long)pos, op, klass, layer, words);
    end(b);
}

/* ---- lies ------------------------------------------------------------------------------------------------- */

static void an_honest_device_is_not_accused(void **state)
{
    (void)state;
    static const char *const policies[] = {"full",
                                           "sink:cap=28",
                                           "sliding:cap=32",
                                           "cascade:cap=32",
                                           "h2o:cap=24",
                                           "tova:cap=24",
                                           "full+f16",
                                           "full+kivi:bits=4,group=16,residual=32",
                                           "full+kvarn:tile=32",
                                           "xwindow:cache=32,stride=8,window=32",
                                           "snapkv:cap=40,prompt=64,window=8"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        for (int mode = 0; mode < 2; mode++) {
            bench b;
            begin(&b, policies[i], "lie=none", KV_CONTRACT_BITEXACT);
            b.s.mode = mode ? DT_MODE_LOCKED : DT_MODE_FREE;
            assert_ok(dt_locate(&b.s, &b.f));
            if (b.f.found != DT_FOUND_NOTHING) fail_msg("%s: %s", policies[i], b.f.hypothesis);
            end(&b);
        }
}

static void wrong_logits_are_the_heads_fault(void **state)
{
    (void)state;
    bench b;
    locate(&b, "sink:cap=28", "lie=logit,at=53");
    assert_int_equal(b.f.elem, b.model->cfg.vocab_size / 2);
    assert_int_equal(b.f.ulp, 1);
    assert_int_equal(b.f.replays, 20);
    assert_int_equal(b.f.same, 20);
    expect(&b, 53, "head", "reassoc", -1, "another order");
    locate(&b, "sink:cap=28", "lie=nan,at=53");
    expect(&b, 53, "head", "bug-index", -1, "not written");
    locate(&b, "sink:cap=28", "lie=nll,at=20");
    expect(&b, 20, "nll", "reassoc", -1, "the logits are right");
}

static void wrong_decisions_are_the_policys_fault(void **state)
{
    (void)state;
    bench b;
    locate(&b, "sink:cap=28", "lie=victim,at=53");
    assert_int_equal(b.f.n_diffs, 1);
    assert_true(b.f.diffs[0].pos == 53 && b.f.diffs[0].ref_victim == 25 && b.f.diffs[0].got_victim == 26);
    expect(&b, 53, "policy", "bug-policy", 1, "reference evicts 25 in slot 25, device evicts 26 in slot 26");
    locate(&b, "sink:cap=28", "lie=slot,at=53");
    expect(&b, 53, "policy", "bug-policy", 1, "other slots");
    locate(&b, "h2o:cap=24", "lie=margin,at=31");
    expect(&b, 31, "policy", "bug-policy", 1, "margin 0.5");
    locate(&b, "sink:cap=28", "lie=lost,at=53");
    expect(&b, 53, "policy", "bug-policy", 1, "reference admits 53");
}

static void a_wrong_cache_and_a_wrong_export_are_two_things(void **state)
{
    (void)state;
    bench b;
    locate(&b, "sink:cap=28", "lie=cache,at=53");
    assert_true(b.f.slot_token == 0 && b.f.head == 0 && b.f.elem == 0 && strcmp(b.f.where, "K record") == 0);
    expect(&b, 63, "store", "bug-index", 0, "K of token 0: 1 of 32 values");
    locate(&b, "sink:cap=28", "lie=k,at=53");
    expect(&b, 63, "state", "bug-index", 0, "the export is wrong, the cache is right");
    locate(&b, "full", "lie=pos,at=53");
    expect(&b, 63, "state", "bug-index", 0, "token 0 stands at position 1");
}

static void a_table_is_compared_before_the_first_step(void **state)
{
    (void)state;
    bench b;
    locate(&b, "full", "lie=table,at=7");
    assert_string_equal(b.f.where, "table of sines");
    expect(&b, 7, "rope", "rounding", -1, "before the first step");
}

static void failures_of_the_device_are_findings(void **state)
{
    (void)state;
    bench b;
    locate(&b, "full", "lie=step,at=40");
    assert_int_equal(b.f.found, DT_FOUND_ERROR);
    assert_true(b.f.pos == 32 && b.f.step_n == 16 && strstr(b.f.hypothesis, "step: as told"));
    end(&b);
    locate(&b, "full", "lie=reset");
    assert_int_equal(b.f.found, DT_FOUND_ERROR);
    assert_string_equal(b.f.op, "state");
    end(&b);
    locate(&b, "full", "lie=unsupported");
    assert_int_equal(b.f.found, DT_FOUND_REFUSED);
    end(&b);
    locate(&b, "full", "lie=open");
    assert_int_equal(b.f.found, DT_FOUND_ERROR);
    end(&b);
}

static kv_status no_snapshot(kv_session *s, void **out)
{
    (void)out;
    return liar_refuse(s->message, KV_ERR_NOMEM);
}

/* Without snapshots the search replays from the beginning. */
static void a_device_without_snapshots_is_searched_as_well(void **state)
{
    (void)state;
    bench b;
    begin(&b, "sink:cap=28", "lie=logit,at=53", KV_CONTRACT_BITEXACT);
    b.liar.snapshot = no_snapshot;
    assert_ok(dt_locate(&b.s, &b.f));
    expect(&b, 53, "head", "reassoc", -1, "");
    locate(&b, "sink:cap=28", "lie=snapshot");
    assert_int_equal(b.f.found, DT_FOUND_NOTHING);
    end(&b);
}

/* ---- bounded ---------------------------------------------------------------------------------------------- */

static void honest_rounding_is_not_accused(void **state)
{
    (void)state;
    bench b;
    begin(&b, "sink:cap=28", "lie=none,noise=1e-7", KV_CONTRACT_BOUNDED);
    assert_ok(dt_locate(&b.s, &b.f));
    assert_int_equal(b.f.found, DT_FOUND_NOTHING);
    end(&b);
    begin(&b, "sink:cap=28", "lie=none,noise=1e-3", KV_CONTRACT_BOUNDED);
    assert_ok(dt_locate(&b.s, &b.f));
    assert_true(b.f.bound > 0);
    expect(&b, 0, "head", "bug-numeric", -1, "");
}

/* ---- a side that bends what it taps ----------------------------------------------------------------------- */

static struct {
    int32_t point, layer, row_of_step;
    int64_t token, first; /* bent at this token of the stream; of the step */
    void (*how)(float *row, int64_t n);
} bend;

static void halve(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= 0.5f;
}

static void zero_last(float *x, int64_t n)
{
    x[n - 1] = 0;
}

/* The logits of the row are bent too: a real device could not hide it. */
static kv_status bent_step(kv_session *s, const kv_step *step)
{
    size_t need;
    kv_state_head h;
    uint8_t *blob;
    KV_TRY(ref_backend()->export_state(s, -1, 0, NULL, 0, &need));
    blob = malloc(need);
    KV_TRY(ref_backend()->export_state(s, -1, 0, blob, need, &need));
    memcpy(&h, blob, sizeof h);
    free(blob);
    KV_TRY(ref_backend()->step(s, step));
    const int64_t row = bend.token - h.seen;
    if (row < 0 || row >= step->n) return KV_OK;
    for (int32_t i = 0; i < step->n_taps; i++)
        if (step->taps[i].point == bend.point && step->taps[i].layer == bend.layer && step->taps[i].row == row)
            bend.how(step->taps[i].dst, step->taps[i].width);
    if (step->logits) step->logits[row * 260] += 1;
    return KV_OK;
}

static void bent(bench *b, const char *policy, int point, int32_t layer, int64_t token, void (*how)(float *, int64_t))
{
    static kv_backend table;
    table = *ref_backend();
    table.step = bent_step;
    truthful = &table;
    bend.point = point;
    bend.layer = layer;
    bend.token = token;
    bend.how = how;
    locate(b, policy, "lie=none");
}

static void the_first_wrong_tap_names_the_operation(void **state)
{
    (void)state;
    bench b;
    bent(&b, "full", KV_TAP_ATTN_NORM, 2, 33, halve);
    expect(&b, 33, "rmsnorm", "bug-numeric", 2, "0.5 times too large");
    bent(&b, "full", KV_TAP_V, 1, 50, zero_last);
    expect(&b, 50, "gemm", "bug-index", 1, "1 of 64 elements were not computed");
    bent(&b, "full", KV_TAP_EMBED, 0, 3, zero_last);
    expect(&b, 3, "embed", "bug-index", -1, "1 of 128 elements");
    bent(&b, "full", KV_TAP_FINAL_NORM, 0, 90, halve);
    expect(&b, 90, "rmsnorm", "bug-numeric", -1, "0.5 times");
    bent(&b, "full", KV_TAP_ATTN, 3, 64, halve);
    expect(&b, 64, "attn", "bug-numeric", 3, "the right row times 0.5");
}

/* ---- shrinking and reporting ------------------------------------------------------------------------------ */

static void a_smaller_case_fails_alike(void **state)
{
    (void)state;
    bench b;
    dt_shrunk small;
    locate(&b, "sink:cap=28", "lie=victim,at=53");
    assert_ok(dt_shrink(&b.s, &b.f, 1, &small));
    assert_true(small.n == 55 && small.q == 1 && small.policy.sink.cap == 4);
    assert_ok(dt_shrink(&b.s, &b.f, 0, &small));
    assert_true(small.n == TOKENS && small.q == Q && small.tried == 0);
    end(&b);
}

static void a_report_says_all_of_it(void **state)
{
    (void)state;
    bench b;
    char *text = NULL, cause[400];
    size_t n = 0;
    locate(&b, "sink:cap=28", "lie=victim,at=53");
    const dt_report r = {0, "book/x|nano|sink:cap=28|liar|len=96|free|q=16", "kvdiff locate --model=nano", &b.f};
    FILE *out = open_memstream(&text, &n);
    dt_report_print(&r, out);
    fclose(out);
    assert_non_null(strstr(text, "FAIL  book/x|nano"));
    assert_non_null(strstr(text, "first wrong token 53, in the step of tokens 48 to 63"));
    assert_non_null(strstr(text, "op policy  layer 1  slot 25 (token 25)"));
    assert_non_null(strstr(text, "eviction at token 53, layer 1: reference 25, device 26"));
    assert_non_null(strstr(text, "repro: kvdiff locate --model=nano\n"));
    free(text);
    json_t *j = dt_report_json(&r);
    assert_string_equal(json_string_value(json_object_get(j, "op")), "policy");
    assert_int_equal(json_integer_value(json_object_get(j, "pos")), 53);
    assert_true(json_is_null(json_object_get(j, "elem")));
    assert_int_equal(json_array_size(json_object_get(j, "evictions")), 1);
    json_decref(j);
    dt_report_cause(&b.f, cause, sizeof cause);
    assert_string_equal(cause, "reference evicts # in slot #, device evicts # in slot #");
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_device_is_not_accused),
        cmocka_unit_test(wrong_logits_are_the_heads_fault),
        cmocka_unit_test(wrong_decisions_are_the_policys_fault),
        cmocka_unit_test(a_wrong_cache_and_a_wrong_export_are_two_things),
        cmocka_unit_test(a_table_is_compared_before_the_first_step),
        cmocka_unit_test(failures_of_the_device_are_findings),
        cmocka_unit_test(a_device_without_snapshots_is_searched_as_well),
        cmocka_unit_test(honest_rounding_is_not_accused),
        cmocka_unit_test(the_first_wrong_tap_names_the_operation),
        cmocka_unit_test(a_smaller_case_fails_alike),
        cmocka_unit_test(a_report_says_all_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
