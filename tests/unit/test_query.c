/* Named queries give hand-computed answers on a database filled with known numbers; other SQL is
 * read or refused in one line. */
#include "tests/unit/dbkit.h"

#include "difftest/table.h"

#include <ctype.h>
#include <fcntl.h>

/* Five runs: 1 the baseline, 2 a repeat of 3 with another cache for one case, 3 the run that is
 * looked at, 4 operations, 5 planted bugs. */
static const char fill_sql[] =
    "INSERT INTO env(env_id, fp, hostname, gpu_name, json) VALUES(1, x'01', 'host', 'gpu', '{}');"
    "INSERT INTO build(build_id, fp, git_commit, git_dirty) VALUES"
    " (1, x'01', 'aaaaaaaaaaaaaaaaaaaa', 0), (2, x'02', 'bbbbbbbbbbbbbbbbbbbb', 1);"
    "INSERT INTO model(model_id, fp, name, weights_sha) VALUES(1, x'01', 'nano', x'00');"
    "INSERT INTO policy VALUES(1, x'01', 'full', 'full', 'f32', '{}', 1),"
    " (2, x'02', 'sliding:cap=512', 'sliding', 'f32', '{}', 1);"
    "INSERT INTO kernel(kernel_id, fp, name, variant, op, contract) VALUES"
    " (1, x'01', 'emu', 'exact', '*', 'bitexact'), (2, x'02', 'blas', '', '*', 'bounded');"
    "INSERT INTO kernel_set VALUES(1, x'01', 'emu'), (2, x'02', 'blas');"
    "INSERT INTO corpus VALUES(1, 'books', NULL, NULL, x'01');"
    "INSERT INTO document VALUES(1, 1, 0, 'one', 20, 5, x'01'), (2, 1, 1, 'two', 40, 9, x'02');"
    "INSERT INTO run(run_id, uuid, kind, status, started_at, updated_at, argv, seed, label, "
    "plan_fp,"
    "  host, boot_id, pid_ns, pid, pid_start, env_id, build_id) VALUES"
    " (1, 'u1', 'run', 'fail', 0, 0, '', 7, 'base', x'01', '', '', 0, 0, 0, 1, 1),"
    " (2, 'u2', 'run', 'pass', 3600, 0, '', 7, NULL, x'01', '', '', 0, 0, 0, 1, 2),"
    " (3, 'u3', 'run', 'fail', 86400, 0, '', 7, NULL, x'01', '', '', 0, 0, 0, 1, 2),"
    " (4, 'u4', 'ops', 'pass', 90000, 0, '', 7, NULL, x'02', '', '', 0, 0, 0, 1, 2),"
    " (5, 'u5', 'mutate', 'pass', 93600, 0, '', 7, NULL, x'03', '', '', 0, 0, 0, 1, 2);"
    "INSERT INTO kase(case_id, run_id, key, device, mode, q, contract, contract_version, model_id,"
    "  policy_id, kernel_set_id, doc_id, status, reason, repro, n_tok, n_words, sum_nll_ref,"
    "  sum_nll_got, sum_kl, max_kl, n_top1_same, n_bitexact, max_ulp, max_ratio, first_bad_pos,"
    "  first_diff_pos, content_ref, order_ref, score_ref, content_got, order_got, score_got) VALUES"
    " (1, 1, 'K1', 'emu', 'free', 64, 'bitexact', 1, 1, 1, 1, 1, 'PASS', NULL, 'r', 4, 2, 8, 8, 0, "
    "0,"
    "  4, 4, 0, NULL, NULL, NULL, 1, 1, 1, 1, 1, 1),"
    " (2, 1, 'K2', 'blas', 'free', 64, 'bounded', 1, 1, 1, 2, 1, 'PASS', NULL, 'r', 4, 2, 8, 8, 0, "
    "0,"
    "  4, 4, 0, 0.5, NULL, NULL, 1, 1, 1, 1, 1, 1),"
    " (3, 1, 'K3', 'blas', 'free', 64, 'bounded', 1, 1, 2, 2, 2, 'FAIL', NULL, 'r', 8, NULL, 8, 8, "
    "0,"
    "  0, 8, 8, 0, 1.5, 2, 2, 1, 1, 1, 1, 1, 1),"
    " (4, 2, 'K1', 'emu', 'free', 64, 'bitexact', 1, 1, 1, 1, 1, 'PASS', NULL, 'r', 4, 2, 8, 8, 0, "
    "0,"
    "  4, 4, 0, NULL, NULL, NULL, 1, 1, 1, 2, 1, 1),"
    " (10, 3, 'K1', 'emu', 'free', 64, 'bitexact', 1, 1, 1, 1, 1, 'PASS', NULL, 'r', 4, 2, 8, 8, 0,"
    "  0, 4, 4, 0, NULL, NULL, NULL, 1, 1, 1, 1, 1, 1),"
    " (11, 3, 'K2', 'blas', 'free', 64, 'bounded', 1, 1, 1, 2, 1, 'FAIL', 'over the bound',"
    "  'kvdiff run x', 4, 2, 8, 9, 0.5, 0.25, 3, 0, 1000, 2.5, 3, 1, 1, 1, 1, 5, 5, 5),"
    " (12, 3, 'K3', 'blas', 'free', 64, 'bounded', 1, 1, 2, 2, 2, 'PASS', NULL, 'r', 8, NULL, 8, 8,"
    "  0.25, 0.125, 8, 1, 4, 0.5, NULL, 1, 1, 1, 1, 1, 1, 1),"
    " (13, 3, 'K4', 'none', 'free', 64, 'bitexact', 1, 1, 2, NULL, 2, 'RECORDED', NULL, 'r', 8, "
    "NULL,"
    "  8, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1, 1, NULL, NULL, NULL),"
    " (20, 4, 'op', 'emu', 'free', 1, 'bitexact', 1, NULL, NULL, 1, NULL, 'PASS', NULL, 'r', 0, "
    "NULL,"
    "  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,"
    "  NULL);"
    "UPDATE kase SET n_text_bytes = 8 WHERE n_words IS NOT NULL;" /* 8 / log 2 / 8 */
    "INSERT INTO tok VALUES(11, 0, 50, 2, 2, 0, 1, 0, 0, 1), (11, 1, 51, 2, 2.25, 0.125, 1, 10, 2, "
    "2),"
    " (11, 2, 52, 2, 2.25, 0.125, 1, 20, 8, 3), (11, 3, 53, 2, 2.5, 0.25, 0.5, 1000, 17, 4),"
    " (12, 0, 60, 1, 1, 0.0625, 1, 4, 0, 1);"
    "INSERT INTO event VALUES(11, 0, 0, 2, 0, 1, 1, 5, 1, 0.5, 0x3f000000),"
    " (11, 1, 0, 2, 0, 1, 1, 6, 3, 0.25, 0x3e800000), (11, 2, 1, 2, 0, 1, 1, 5, 1, 0.5, "
    "0x3f000000),"
    " (11, 3, 1, 2, 0, 1, 1, 7, 4, 9e999, 0x7f800000), (13, 0, 0, 2, 0, 1, 0, 5, 1, 0.5, 0);"
    "INSERT INTO retrieval VALUES(10, 512, 250000, 128, 5, '12345', '12345', '12345', 1, 1, 5, 5, "
    "1, 1,"
    "  5, 5), (12, 512, 500000, 256, 5, '12345', '12345', '12045', 1, 0, 5, 4, 1, 2, 5, 4),"
    " (13, 512, 500000, 256, 5, '12345', '12045', NULL, 0, NULL, 4, NULL, 1, NULL, 5, NULL);"
    "INSERT INTO divergence(div_id, case_id, pos, layer, op, head, slot, elem, ref_bits, got_bits,"
    "  ulp, ratio, klass, hypothesis, repro) VALUES"
    " (1, 11, 3, 1, 'attn', 0, 2, 5, 0x3f800000, 0x3f800001, 1, 2.5, 'bug-index', 'head map', 'r'),"
    " (2, 11, 1, 0, 'rope', 1, 3, 4, 0xff800000, 0x40000000, 9, 0.5, 'rounding', NULL, 'r'),"
    " (3, 12, 7, 1, 'attn', 0, 2, 5, 1, 2, 1, 1.5, 'bug-index', NULL, 'r');"
    "INSERT INTO evict_diff VALUES(11, 2, 0, 1, 3, 4, 0.25, 0.5, 0, 0, 0),"
    " (11, 3, 0, 1, 5, 6, 0.25, 0.25, 0, 0, 1);"
    "INSERT INTO op_check(case_id, kernel_id, op, shape, dtype, dist, seed, n_elem, max_ulp, "
    "max_ratio,"
    "  n_over, rerun_same, guard_ok) VALUES"
    " (20, 1, 'gemm', 's', 'f32', 'n', 1, 10, 3, 0.5, 0, 1, 1),"
    " (20, 1, 'gemm', 's', 'f32', 'n', 2, 10, 5, 0.25, 1, 0, 1),"
    " (20, 2, 'gemm', 's', 'f32', 'n', 1, 10, 9, 0.75, 2, 1, 0);"
    "INSERT INTO baseline VALUES(1, 'nightly', 1, 0, 'a', 'r', NULL, 1), (2, 'old', 2, 0, 'a', 'r',"
    "  NULL, 0);"
    "INSERT INTO gate(run_id, metric, slice, n_unit, est, lo, hi, margin, p_adj, method, verdict)"
    "  VALUES(3, 'nll', 'all', 2, 0.125, 0, 0.25, 0.01, 0.5, 'tost', 'inconclusive'),"
    " (3, 'ulp', 'emu', 1, 0, 0, 0, 0, NULL, 'exact', 'fail');"
    "INSERT INTO mutant(mutant_id, code, family, op, patch_sha, expect_klass, expect_tier, equivalent)"
    " VALUES(1, 'M01', 'ring', 'append', x'01', 'bug-policy', 'quick', 0),"
    " (2, 'M02', 'ring', 'append', x'02', 'bug-policy', 'quick', 0),"
    " (3, 'M18', 'ring', 'attn', x'03', 'unknown', 'quick', 1);"
    "INSERT INTO mutant_result(run_id, mutant_id, tier, detected, localised_op, klass, first_pos, secs, killed_by)"
    " VALUES(5, 1, 'quick', 1, 'append', 'bug-policy', 3, 0.5, 'K1'),"
    " (5, 2, 'quick', 0, NULL, NULL, NULL, 1.5, NULL), (5, 3, 'quick', 0, NULL, NULL, NULL, 9, "
    "NULL);";

static int fill(void **state)
{
    dbkit_setup(state);
    dt_db *db = dbkit_open((const dbkit *)*state, DT_DB_WRITE);
    assert_ok(dt_sql_exec(db, fill_sql));
    dt_db_close(db);
    return 0;
}

/* The table with one '|' for every gap between columns and no other blanks than those inside cells.
 */
static void squeeze(char *text)
{
    char *w = text;
    int start = 1;
    for (const char *r = text; *r;) {
        const size_t blanks = strspn(r, " ");
        r += blanks;
        if (blanks == 1 && !start) *w++ = ' ';
        if (blanks > 1 && !start) *w++ = '|';
        start = *r == '\n';
        if (*r) *w++ = *r++;
    }
    *w = '\0';
}

static kv_status run_query(const dbkit *kit, dt_format format, const char *sql, int defaults,
                           const char *params, char **text)
{
    dt_binding v[8];
    int n = 0;
    char *copy = strdup(params), *save = NULL;
    for (char *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(p, '=');
        *equals = '\0';
        v[n++] = (dt_binding){p, equals + 1};
    }
    size_t size;
    FILE *f = open_memstream(text, &size);
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    dt_table *t = dt_table_new(format, f);
    const kv_status st = dt_query_run(db, sql, v, n, defaults, t);
    char why[KV_MESSAGE_MAX];
    strcpy(why, kv_message());
    assert_ok(dt_table_finish(t));
    fclose(f);
    dt_db_close(db);
    free(copy);
    return st == KV_OK ? st : kv_fail(st, "%s", why);
}

static void expect(void **state, const char *name, const char *params, const char *wanted)
{
    const dt_query *q = dt_query_find(name);
    char *text = NULL;
    assert_non_null(q);
    assert_ok(run_query((const dbkit *)*state, DT_FORMAT_TABLE, q->sql, 1, params, &text));
    squeeze(text);
    assert_string_equal(text, wanted);
    free(text);
}

/* ---- named queries -------------------------------------------------------------------------- */

static void latest_shows_every_case_of_a_run(void **state)
{
    static const char header[] =
        "document|model|policy|device|mode|q|tokens|ppl_ref|ppl_got|mean_kl|"
        "max_kl|top1|max_ulp|first_diff_pos|status|reason\n";
    char wanted[1024];
    snprintf(
        wanted, sizeof wanted,
        "%s"
        "books/one|nano|full|emu|free|64|4|7.38906|7.38906|0|0|1|0|-|PASS|-\n"
        "books/one|nano|full|blas|free|64|4|7.38906|9.48774|0.125|0.25|0.75|1000|1|FAIL|over the "
        "bound\n"
        "books/two|nano|sliding:cap=512|blas|free|64|8|2.71828|2.71828|0.03125|0.125|1|4|1|PASS|-"
        "\n"
        "books/two|nano|sliding:cap=512|none|free|64|8|2.71828|-|-|-|-|-|-|RECORDED|-\n",
        header);
    expect(state, "latest", "run=3", wanted);
    expect(state, "latest", "", header); /* the last run has no cases */
}

static void runs_are_summed_up_newest_first(void **state)
{
    static const char header[] = "run_id|kind|status|started|label|git_commit|git_dirty|hostname|"
                                 "gpu_name|cases|passes|fails|toks|ppl_ref|ppl_got|mean_kl|max_kl|"
                                 "top1\n";
    char wanted[1024];
    /* run 3: nll_ref 32 over 24 tokens, nll_got 25 over 16, kl 0.75 over 16, 15 of 16 */
    snprintf(wanted, sizeof wanted,
             "%s"
             "3|run|fail|1970-01-02 00:00:00|-|bbbbbbbbbbbbbbbbbbbb|1|host|gpu|4|2|1|24|3.79367|"
             "4.77073|0.046875|0.25|0.9375\n"
             "2|run|pass|1970-01-01 01:00:00|-|bbbbbbbbbbbbbbbbbbbb|1|host|gpu|1|1|0|4|7.38906|"
             "7.38906|0|0|1\n",
             header);
    expect(state, "runs", "kind=run n=2", wanted);
    snprintf(
        wanted, sizeof wanted,
        "%s"
        "5|mutate|pass|1970-01-02 02:00:00|-|bbbbbbbbbbbbbbbbbbbb|1|host|gpu|0|0|0|-|-|-|-|-|-\n",
        header);
    expect(state, "q1", "n=1", wanted);
}

static void failures_are_what_is_not_a_pass(void **state)
{
    expect(state, "q2", "run=3",
           "key|status|reason|max_ulp|max_ratio|first_bad_pos|first_diff_pos|repro\n"
           "K2|FAIL|over the bound|1000|2.5|3|1|kvdiff run x\n"
           "K4|RECORDED|-|-|-|-|-|r\n");
}

static void the_first_divergence_of_each_case_shows_its_bits(void **state)
{
    expect(state, "q3", "run=3",
           "key|pos|layer|op|head|slot|elem|ref|got|ulp|ratio|klass|hypothesis\n"
           "K2|1|0|rope|1|3|4|0xff800000|0x40000000|9|0.5|rounding|-\n"
           "K3|7|1|attn|0|2|5|0x00000001|0x00000002|1|1.5|bug-index|-\n");
}

static void causes_are_counted(void **state)
{
    expect(state, "q4", "run=3",
           "op|layer|klass|n|cases|first_pos\n"
           "attn|1|bug-index|2|2|3\n"
           "rope|0|rounding|1|1|1\n");
    expect(state, "q4", "run=3 n=1", "op|layer|klass|n|cases|first_pos\nattn|1|bug-index|2|2|3\n");
}

static void perplexity_is_per_policy_and_device_and_per_word_where_words_are_known(void **state)
{
    /* words: exp(8/2), exp(9/2) */
    expect(
        state, "q5", "run=3",
        "policy|device|mode|docs|tokens|ppl_ref|ppl_got|word_ppl_ref|word_ppl_got|bpb_ref|bpb_got|mean_kl|max_kl|top1\n"
        "full|blas|free|1|4|7.38906|9.48774|54.5982|90.0171|1.4427|1.62303|0.125|0.25|0.75\n"
        "full|emu|free|1|4|7.38906|7.38906|54.5982|54.5982|1.4427|1.4427|0|0|1\n"
        "sliding:cap=512|blas|free|1|8|2.71828|2.71828|-|-|-|-|0.03125|0.125|1\n"
        "sliding:cap=512|none|free|1|8|2.71828|-|-|-|-|-|-|-|-\n");
}

static void deltas_and_changes_compare_with_the_active_baseline(void **state)
{
    expect(state, "q6", "run=3",
           "key|tokens|base_nll|cand_nll|delta\n"
           "K2|4|2|2.25|0.25\n"
           "K1|4|2|2|0\n"
           "K3|8|1|1|0\n");
    expect(state, "q6", "run=3 channel=old", "key|tokens|base_nll|cand_nll|delta\n");
    expect(state, "q7", "run=3",
           "what|key|base_status|cand_status\n"
           "broken|K2|PASS|FAIL\n"
           "fixed|K3|FAIL|PASS\n");
}

static void tokens_are_shown_around_the_first_bad_one(void **state)
{
    static const char header[] =
        "case_id|pos|tok|nll_ref|nll_got|kl|margin_ref|max_ulp|n_resident|differs\n";
    char wanted[512];
    snprintf(wanted, sizeof wanted, "%s%s", header,
             "11|2|52|2|2.25|0.125|1|20|3|state\n"
             "11|3|53|2|2.5|0.25|0.5|1000|4|top1 bound\n");
    expect(state, "q8", "run=3 n=1", wanted);
    snprintf(wanted, sizeof wanted, "%s%s", header, "11|1|51|2|2.25|0.125|1|10|2|top5\n");
    expect(state, "q8", "case=11 pos=1 n=0", wanted);
    snprintf(wanted, sizeof wanted, "%s%s", header, "12|0|60|1|1|0.0625|1|4|1|-\n");
    expect(state, "tokens", "case=12 pos=0", wanted);
}

static void drift_doubles_its_buckets(void **state)
{
    expect(state, "q9", "run=3 policy=full",
           "bucket|first|last|rows|mean_kl|mean_dnll|flips|max_ulp\n"
           "0|0|0|1|0|0|0|0\n"
           "1|1|2|2|0.125|0.25|0|20\n"
           "2|3|3|1|0.25|0.5|1|1000\n");
    expect(state, "drift", "run=3 policy=sliding:cap=512 device=blas",
           "bucket|first|last|rows|mean_kl|mean_dnll|flips|max_ulp\n"
           "0|0|0|1|0.0625|0|0|4\n");
}

static void passkeys_lost_and_gained_are_counted_by_place(void **state)
{
    expect(state, "q10", "",
           "policy|device|ctx_len|depth_pct|n|acc_ref|acc_got|digits_ref|digits_got|lost|gained|"
           "policy_bugs\n"
           "full|emu|512|25|1|1|1|1|1|0|0|0\n"
           "sliding:cap=512|blas|512|50|1|1|0|1|0.8|1|0|1\n"
           "sliding:cap=512|none|512|50|1|0|-|0.8|-|0|-|-\n");
}

static void history_follows_a_key_or_a_pattern(void **state)
{
    static const char header[] =
        "run_id|started|git|dirty|key|ppl_got|ppl_ref|max_ulp|max_ratio|status\n";
    char wanted[512];
    snprintf(wanted, sizeof wanted, "%s%s", header,
             "3|1970-01-02 00:00:00|bbbbbbbbbbbb|1|K2|9.48774|7.38906|1000|2.5|FAIL\n"
             "1|1970-01-01 00:00:00|aaaaaaaaaaaa|0|K2|7.38906|7.38906|0|0.5|PASS\n");
    expect(state, "q11", "key=K2", wanted);
    expect(state, "q11", "key=*2", wanted);
    snprintf(wanted, sizeof wanted, "%s%s", header,
             "3|1970-01-02 00:00:00|bbbbbbbbbbbb|1|K1|7.38906|7.38906|0|-|PASS\n"
             "3|1970-01-02 00:00:00|bbbbbbbbbbbb|1|K2|9.48774|7.38906|1000|2.5|FAIL\n");
    expect(state, "q11", "key=K[12] n=2", wanted);
}

static void operations_are_ordered_by_the_part_of_the_bound_they_use(void **state)
{
    /* the variant of blas is empty */
    expect(state, "q12", "",
           "name|variant|op|dtype|n|max_ulp|worst_ratio|n_over|nondeterministic|out_of_bounds\n"
           "blas|gemm|f32|1|9|0.75|2|0|1\n"
           "emu|exact|gemm|f32|2|5|0.5|1|1|0\n");
}

static void evictions_that_a_tie_explains_are_left_out(void **state)
{
    expect(state, "q13", "run=3",
           "key|pos|layer|head|ref_victim|got_victim|ref_score|got_score\n"
           "K2|2|0|1|3|4|0.25|0.5\n");
}

static void decisions_of_one_side_only_are_shown(void **state)
{
    expect(state, "decisions", "run=3",
           "key|pos|layer|head|side|kind|slot|og|margin|margin_bits\n"
           "K2|2|0|1|ref|evict|6|3|0.25|0x3e800000\n"
           "K2|2|0|1|got|evict|7|4|inf|0x7f800000\n");
}

static void flaky_needs_the_same_build_machine_and_seed(void **state)
{
    expect(state, "q14", "",
           "key|caches|nll_ref|nll_got|runs|statuses\n"
           "K1|2|1|1|2|PASS\n");
}

static void equivalent_mutants_do_not_count(void **state)
{
    expect(state, "q15", "",
           "family|tier|n|found|found_pct|localised_pct|head_pct|klass_pct|mean_secs\n"
           "ring|quick|2|1|50|100|-|100|1\n");
}

static void gates_show_failures_first(void **state)
{
    expect(state, "q16", "",
           "metric|slice|n_unit|est|lo|hi|margin|p_adj|verdict|method\n"
           "ulp|emu|1|0|0|0|0|-|fail|exact\n"
           "nll|all|2|0.125|0|0.25|0.01|0.5|inconclusive|tost\n");
}

/* ---- their catalogue ------------------------------------------------------------------------ */

static void the_catalogue_is_sorted_and_complete(void **state)
{
    (void)state;
    size_t n;
    char alias[8];
    const dt_query *q = dt_queries(&n);
    assert_int_equal(n, 20);
    for (size_t i = 0; i < n; i++) {
        assert_true(i == 0 || strcmp(q[i - 1].name, q[i].name) < 0);
        assert_true(strlen(q[i].about) > 10 && !strchr(q[i].about, '\n'));
        assert_ptr_equal(dt_query_find(q[i].name), &q[i]);
    }
    for (int i = 1; i <= 16; i++) {
        snprintf(alias, sizeof alias, "q%d", i);
        assert_non_null(dt_query_find(alias));
        assert_string_equal(dt_query_find(alias)->alias, alias);
    }
    assert_non_null(dt_query_find("latest"));
    assert_null(dt_query_find("q17"));
    assert_null(dt_query_find(""));
}

static void every_query_runs_without_parameters_and_lists_those_it_has(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    size_t n;
    const dt_query *q = dt_queries(&n);
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    for (size_t i = 0; i < n; i++) {
        char *text = NULL, word[64];
        sqlite3_stmt *stmt = NULL;
        assert_ok(run_query(kit, DT_FORMAT_CSV, q[i].sql, 1, "", &text));
        assert_true(strlen(text) > 10);
        free(text);
        assert_ok(dt_sql_prepare(db, q[i].sql, &stmt));
        int commas = *q[i].params ? 1 : 0;
        for (const char *p = q[i].params; (p = strstr(p, "), ")); p++)
            commas++;
        assert_int_equal(sqlite3_bind_parameter_count(stmt), commas);
        for (int at = 1; at <= commas; at++) {
            snprintf(word, sizeof word, "%s (", sqlite3_bind_parameter_name(stmt, at) + 1);
            assert_non_null(strstr(q[i].params, word));
        }
        sqlite3_finalize(stmt);
    }
    dt_db_close(db);
}

/* ---- other SQL ------------------------------------------------------------------------------ */

static void refuse(void **state, const char *sql, const char *params, kv_status st,
                   const char *words)
{
    char *text = NULL;
    assert_refused(run_query((const dbkit *)*state, DT_FORMAT_CSV, sql, 0, params, &text), st,
                   words);
    assert_string_equal(text, "");
    free(text);
}

static void statements_that_write_are_refused(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    char sql[600], copy[480];
    static const char *const writing[] = {
        "DELETE FROM tok",
        "DROP TABLE tok",
        "CREATE TABLE x(y)",
        "INSERT INTO run_kind VALUES('a', 'b') RETURNING name",
        "BEGIN",
        "VACUUM",
    };
    for (size_t i = 0; i < sizeof writing / sizeof *writing; i++)
        refuse(state, writing[i], "", KV_ERR_USAGE, "only read here");
    snprintf(copy, sizeof copy, "%s/copy.db", kit->dir);
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", copy);
    refuse(state, sql, "", KV_ERR_USAGE, "only read here");
    assert_false(dbkit_exists(copy));
    snprintf(sql, sizeof sql, "ATTACH '%s' AS x", copy);
    refuse(state, sql, "", KV_ERR_USAGE, "only read here");
    assert_false(dbkit_exists(copy));
}

static void mistakes_in_sql_are_one_line(void **state)
{
    refuse(state, "SELECT * FROM tokk", "", KV_ERR_USAGE, "no such table: tokk");
    refuse(state, "SELEC 1", "", KV_ERR_USAGE, "syntax error");
    refuse(state, "SELECT '\n\n", "", KV_ERR_USAGE, "SQL: ");
    refuse(state, "", "", KV_ERR_USAGE, "empty");
    refuse(state, " -- nothing\n", "", KV_ERR_USAGE, "empty");
    refuse(state, "SELECT 1; SELECT 2", "", KV_ERR_USAGE, "more than one");
    refuse(state, "SELECT 1; nonsense", "", KV_ERR_USAGE, "more than one");
}

static void a_semicolon_or_a_comment_behind_is_no_second_statement(void **state)
{
    char *text = NULL;
    assert_ok(run_query((const dbkit *)*state, DT_FORMAT_CSV, "SELECT 1 AS x; ; -- done\n", 0, "",
                        &text));
    assert_string_equal(text, "x\n1\n");
    free(text);
}

static void parameters_must_fit(void **state)
{
    refuse(state, "SELECT :a + :b", "a=1", KV_ERR_USAGE, "parameter 'b' has no value; add b=VALUE");
    refuse(state, "SELECT :a", "a=1 c=2", KV_ERR_USAGE, "no parameter 'c', only: a");
    refuse(state, "SELECT 1", "c=2", KV_ERR_USAGE, "no parameters");
    refuse(state, "SELECT ?", "", KV_ERR_USAGE, "bare ?");
}

static void values_are_numbers_when_they_read_as_numbers(void **state)
{
    static const char *const value[] = {"12",  "-3",  "1.5",  "1e3", "9223372036854775808",
                                        "abc", "12x", "0x10", "nan", "inf",
                                        "",    "-"};
    static const char *const type[] = {"integer", "integer", "real", "real", "real", "text",
                                       "text",    "text",    "text", "text", "text", "text"};
    for (size_t i = 0; i < sizeof value / sizeof *value; i++) {
        char params[64], wanted[64], *text = NULL;
        snprintf(params, sizeof params, "v=%s", value[i]);
        snprintf(wanted, sizeof wanted, "t\n%s\n", type[i]);
        assert_ok(run_query((const dbkit *)*state, DT_FORMAT_CSV, "SELECT typeof($v) AS t", 0,
                            params, &text));
        assert_string_equal(text, wanted);
        free(text);
    }
}

static void every_type_is_printed(void **state)
{
    char *text = NULL;
    assert_ok(run_query((const dbkit *)*state, DT_FORMAT_JSON,
                        "SELECT NULL AS n, -5 AS i, 0.5 AS r, 'x\"y' AS t, x'00ff' AS b, x'' AS e",
                        0, "", &text));
    assert_string_equal(text, "[\n{\"n\":null,\"i\":-5,\"r\":0.5,\"t\":\"x\\\"y\",\"b\":\"00ff\","
                              "\"e\":\"\"}\n]\n");
    free(text);
}

static void damage_found_while_reading_is_not_the_users_mistake(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_READ);
    const int64_t root = dbkit_int(db, "SELECT rootpage FROM sqlite_schema WHERE name = 'tok'");
    dt_db_close(db);
    uint8_t junk[8192];
    memset(junk, 0xA5, sizeof junk);
    const int fd = open(kit->file, O_WRONLY);
    assert_int_equal(pwrite(fd, junk, sizeof junk, (root - 1) * 8192), (ssize_t)sizeof junk);
    close(fd);
    char *text = NULL;
    assert_refused(run_query(kit, DT_FORMAT_CSV, "SELECT pos FROM tok", 0, "", &text), KV_ERR_DB,
                   "damaged");
    free(text);
}

#define query_test(f) cmocka_unit_test_setup_teardown(f, fill, dbkit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        query_test(latest_shows_every_case_of_a_run),
        query_test(runs_are_summed_up_newest_first),
        query_test(failures_are_what_is_not_a_pass),
        query_test(the_first_divergence_of_each_case_shows_its_bits),
        query_test(causes_are_counted),
        query_test(perplexity_is_per_policy_and_device_and_per_word_where_words_are_known),
        query_test(deltas_and_changes_compare_with_the_active_baseline),
        query_test(tokens_are_shown_around_the_first_bad_one),
        query_test(drift_doubles_its_buckets),
        query_test(passkeys_lost_and_gained_are_counted_by_place),
        query_test(history_follows_a_key_or_a_pattern),
        query_test(operations_are_ordered_by_the_part_of_the_bound_they_use),
        query_test(evictions_that_a_tie_explains_are_left_out),
        query_test(decisions_of_one_side_only_are_shown),
        query_test(flaky_needs_the_same_build_machine_and_seed),
        query_test(equivalent_mutants_do_not_count),
        query_test(gates_show_failures_first),
        cmocka_unit_test(the_catalogue_is_sorted_and_complete),
        query_test(every_query_runs_without_parameters_and_lists_those_it_has),
        query_test(statements_that_write_are_refused),
        query_test(mistakes_in_sql_are_one_line),
        query_test(a_semicolon_or_a_comment_behind_is_no_second_statement),
        query_test(parameters_must_fit),
        query_test(values_are_numbers_when_they_read_as_numbers),
        query_test(every_type_is_printed),
        query_test(damage_found_while_reading_is_not_the_users_mistake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
