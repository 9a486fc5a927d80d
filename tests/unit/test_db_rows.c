/* What the database holds: provenance, runs and the rows of a case, number for number. */
#include "tests/unit/dbkit.h"

#include <math.h>
#include <sys/wait.h>

/* ---- provenance ----------------------------------------------------------------------------- */

static void machine_and_program_are_one_row_each_however_often_asked(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    int64_t a = 0, b = 0;
    assert_ok(dt_db_env(db, &a));
    assert_ok(dt_db_env(db, &b));
    assert_true(a > 0);
    assert_int_equal(a, b);
    assert_ok(dt_db_build(db, &a));
    assert_ok(dt_db_build(db, &b));
    assert_true(a > 0);
    assert_int_equal(a, b);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM env WHERE hostname <> '' AND os <> '' AND"
                                   " cpu_model <> '' AND ncores >= 1 AND length(fp) = 32 AND"
                                   " json_extract(json, '$.hostname') = hostname AND"
                                   " sqlite_version = sqlite_version()"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM build WHERE git_commit <> '' AND"
                                   " cc_version <> '' AND cflags LIKE '%-ffp-contract=off%' AND"
                                   " length(fp) = 32 AND built_at > 1600000000 AND"
                                   " git_dirty = (dirty_diff_sha IS NOT NULL)"),
                     1);
    dt_db_close(db);
}

static void a_model_is_its_weights_and_its_config(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    kv_model m = {.name = "nano"};
    m.cfg = (kv_config){.vocab_size = 260, .n_layers = 4, .rope_theta = 10000, .norm_eps = 1e-5f};
    int64_t a = 0, b = 0, c = 0, d = 0;
    assert_ok(dt_db_model(db, &m, &a));
    assert_ok(dt_db_model(db, &m, &b));
    assert_int_equal(a, b);
    m.cfg.rope_pairing = KV_ROPE_HALF;
    assert_ok(dt_db_model(db, &m, &c));
    m.sha256[31] = 1;
    assert_ok(dt_db_model(db, &m, &d));
    assert_true(a != c && c != d && a != d);
    assert_int_equal(
        dbkit_int(db, "SELECT config_json = '{\"n_layers\":4,\"norm_eps\":9.9999997473787516e-6,"
                      "\"rope_theta\":10000.0,\"vocab_size\":260}' AND vocab = 260 AND n_layer = 4"
                      " AND name = 'nano' FROM model ORDER BY model_id LIMIT 1"),
        1);
    dt_db_close(db);
}

static void every_field_of_a_config_counts(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    kv_model m = {.name = "m"};
    int64_t id = 0, n = 0;
    uint8_t *bytes = (uint8_t *)&m.cfg;
    assert_ok(dt_db_model(db, &m, &id));
    for (size_t i = 0; i < sizeof m.cfg; i++) { /* a byte that is no padding gives a new model */
        bytes[i] = 1;
        assert_ok(dt_db_model(db, &m, &id));
        bytes[i] = 0;
    }
    n = dbkit_int(db, "SELECT count(*) FROM model");
    /* 4 bytes in front of rope_theta.., one behind the flags, 4 behind ve_dim: see kv_config */
    const size_t padding = offsetof(kv_config, xsa_layer_mask) - offsetof(kv_config, smear) - 1 +
                           offsetof(kv_config, ve_layer_mask) - offsetof(kv_config, ve_dim) - 4 +
                           offsetof(kv_config, qk_norm) - offsetof(kv_config, use_k_gain) - 1;
    assert_int_equal(n, 1 + sizeof m.cfg - padding);
    dt_db_close(db);
}

static void a_policy_is_all_its_parameters(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    static const char *const spec[] = {"full", "sliding:cap=512", "sliding:cap=512,pos=absolute",
                                       "sliding:cap=513"};
    for (int i = 0; i < 4; i++) {
        kv_policy p;
        int64_t a = 0, b = 0;
        assert_ok(kv_policy_parse(spec[i], &p));
        assert_ok(dt_db_policy(db, &p, &a));
        assert_ok(dt_db_policy(db, &p, &b));
        assert_int_equal(a, i + 1);
        assert_int_equal(b, i + 1);
    }
    assert_int_equal(dbkit_int(db, "SELECT json_extract(params_json, '$.pos') = 'absolute' AND"
                                   " json_extract(params_json, '$.cap') = 512 AND"
                                   " selection = 'sliding' AND storage = 'f32' AND"
                                   " name = 'sliding:cap=512,pos=absolute'"
                                   " FROM policy WHERE policy_id = 3"),
                     1);
    dt_db_close(db);
}

static void a_device_is_its_name_contract_and_bytes(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const uint8_t sha[32] = {1};
    int64_t a, b, c, d, e;
    assert_ok(dt_db_kernel_set(db, "cuda:exact", KV_CONTRACT_BITEXACT, sha, &a));
    assert_ok(dt_db_kernel_set(db, "cuda:exact", KV_CONTRACT_BITEXACT, sha, &b));
    assert_ok(dt_db_kernel_set(db, "cuda:exact", KV_CONTRACT_BOUNDED, sha, &c));
    assert_ok(dt_db_kernel_set(db, "cuda:exact", KV_CONTRACT_BITEXACT, NULL, &d));
    assert_ok(dt_db_kernel_set(db, "ref64", KV_CONTRACT_BITEXACT, NULL, &e));
    assert_int_equal(a, b);
    assert_true(a != c && a != d && c != d);
    assert_int_equal(dbkit_int(db,
                               "SELECT group_concat(name || ':' || variant || ':' || is_reference"
                               " || ':' || (so_sha IS NULL), ' ') ="
                               " 'cuda:exact:0:0 cuda:exact:0:0 cuda:exact:0:1 ref64::1:1'"
                               " FROM (SELECT * FROM kernel ORDER BY kernel_id)"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM kernel_set_member WHERE op = '*'"), 4);
    assert_refused(dt_db_kernel_set(db, "x", 9, NULL, &e), KV_ERR_INTERNAL, "contract 9");
    dt_db_close(db);
}

static void corpora_and_documents_are_found_again(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const uint8_t sha[32] = {2}, other[32] = {3};
    int64_t a, b, c, d1, d2, d3;
    assert_ok(dt_db_corpus(db, "books", NULL, -1, sha, &a));
    assert_ok(dt_db_corpus(db, "books", NULL, -1, sha, &b));
    assert_ok(dt_db_corpus(db, "synth", "markov", 5, other, &c));
    assert_int_equal(a, b);
    assert_true(a != c);
    assert_ok(dt_db_document(db, a, 0, "one", 10, 4, sha, &d1));
    assert_ok(dt_db_document(db, a, 0, "one", 10, 4, sha, &d2));
    assert_ok(dt_db_document(db, a, 0, "one", 10, 3, other, &d3));
    assert_int_equal(d1, d2);
    assert_true(d1 != d3);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM corpus WHERE seed IS NULL"), 1);
    assert_int_equal(dbkit_int(db, "SELECT seed FROM corpus WHERE name = 'synth'"), 5);
    dt_db_close(db);
}

/* ---- runs ----------------------------------------------------------------------------------- */

static void a_run_ends_with_the_counts_of_its_cases(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    char key[8];
    for (int i = 0; i < DT_CASE_STATUS_COUNT; i++)
        for (int k = 0; k <= i; k++) { /* i + 1 cases of status i */
            snprintf(key, sizeof key, "%d.%d", i, k);
            dt_case c = dbkit_case(run, device, key, 0);
            c.status = (dt_case_status)i;
            assert_ok(dbkit_write(db, &c));
        }
    assert_int_equal(dbkit_int(db, "SELECT status = 'running' AND ended_at IS NULL FROM run"), 1);
    assert_ok(dt_db_run_end(db, run, "fail", 1));
    assert_int_equal(
        dbkit_int(db, "SELECT (n_pass, n_fail, n_skip, n_unsup, n_untrust, n_error, n_timeout,"
                      " n_flaky, n_inconclusive, n_recorded, n_xfail, n_xpass) ="
                      " (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) AND status = 'fail' AND"
                      " exit_code = 1 AND ended_at >= started_at FROM run"),
        1);
    dt_db_close(db);
}

static void unknown_kinds_statuses_and_runs_are_faults(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    dt_run_start start = {.kind = "walk", .argv = "x"};
    int64_t run;
    int resumed;
    assert_refused(dt_db_run_begin(db, &start, &run, &resumed), KV_ERR_INTERNAL,
                   "'walk' is no kind");
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM run"), 0);
    run = dbkit_run(db, "run", 1, NULL);
    assert_refused(dt_db_run_end(db, run, "running", 0), KV_ERR_INTERNAL, "final status");
    assert_refused(dt_db_run_end(db, run, NULL, 0), KV_ERR_INTERNAL, "final status");
    assert_refused(dt_db_run_end(db, run + 1, "pass", 0), KV_ERR_INTERNAL, "has no run");
    dt_db_close(db);
}

static void an_interrupted_run_is_continued_by_the_same_plan_only(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    int resumed;
    const int64_t first = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    dt_case c = dbkit_case(first, device, "done", 16);
    assert_ok(dbkit_write(db, &c));
    assert_ok(dt_db_run_end(db, first, "interrupted", 130));
    assert_true(dbkit_run(db, "run", 2, &resumed) != first);
    assert_false(resumed);
    assert_true(dbkit_run(db, "ops", 1, &resumed) != first);
    assert_false(resumed);
    assert_int_equal(dbkit_run(db, "run", 1, &resumed), first);
    assert_true(resumed);
    assert_int_equal(dbkit_int(db,
                               "SELECT n_resumes = 1 AND status = 'running' AND ended_at IS NULL"
                               " AND exit_code IS NULL FROM run WHERE run_id = 1"),
                     1);
    int done;
    assert_ok(dt_db_case_done(db, first, "done", &done));
    assert_true(done);
    assert_ok(dt_db_case_done(db, first, "other", &done));
    assert_false(done);
    assert_ok(dt_db_run_end(db, first, "pass", 0));
    assert_true(dbkit_run(db, "run", 1, &resumed) != first); /* finished is finished */
    assert_false(resumed);
    dt_db_close(db);
}

static void a_run_that_is_alive_is_not_taken_over(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    int resumed;
    const int64_t mine = dbkit_run(db, "run", 1, NULL);
    assert_true(dbkit_run(db, "run", 1, &resumed) != mine);
    assert_false(resumed);
    dt_db_close(db);
}

static void the_run_of_a_killed_process_is_continued(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db_close(dbkit_open(kit, DT_DB_WRITE));
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dt_db *db = NULL;
        dt_run_start start = {.kind = "run", .argv = "x"};
        int64_t run;
        int resumed;
        memset(start.plan_fp, 1, sizeof start.plan_fp);
        if (dt_db_open(kit->file, DT_DB_WRITE, &db) != KV_OK) _exit(1);
        _exit(dt_db_run_begin(db, &start, &run, &resumed) == KV_OK ? 0 : 2);
    }
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(info.si_status, 0);
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    int resumed;
    assert_int_equal(dbkit_run(db, "run", 1, &resumed), 1); /* its process is a zombie still */
    assert_true(resumed);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    dt_db_close(db);
}

static void a_run_of_another_machine_is_left_to_it(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t first = dbkit_run(db, "run", 1, NULL);
    assert_ok(dt_sql_exec(db, "UPDATE run SET host = 'elsewhere', pid = 999999999"));
    assert_true(dbkit_run(db, "run", 1, NULL) != first);
    assert_int_equal(dbkit_int(db, "SELECT status = 'running' FROM run WHERE run_id = 1"), 1);
    assert_ok(dt_sql_exec(db, "UPDATE run SET host = (SELECT host FROM run WHERE run_id = 2),"
                              " boot_id = 'an earlier boot' WHERE run_id = 1"));
    int resumed;
    assert_int_equal(dbkit_run(db, "run", 1, &resumed), first);
    assert_true(resumed);
    dt_db_close(db);
}

/* ---- cases ---------------------------------------------------------------------------------- */

static void every_number_of_a_case_arrives(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    dt_case c = dbkit_case(dbkit_run(db, "run", 1, NULL), dbkit_device(db, "emu"), "k", 37);
    c.reason = "why";
    c.status = DT_CASE_FAIL;
    c.wall_ms = 1.5, c.ref_ms = 2.5, c.got_ms = 3.5;
    c.max_kl = 31.0 / 1024;
    c.n_top1_same = 30, c.n_bitexact = 29, c.max_ulp = INT64_MAX;
    c.max_ratio = 0.25;
    c.first_bad_pos = 0, c.first_diff_pos = 5, c.n_words = 9, c.n_text_bytes = 44, c.dropped_bytes = 4;
    c.n_ties = 6, c.bytes_ref = INT64_C(1) << 40, c.bytes_got = 71, c.peak_ref = INT64_MAX, c.peak_got = 73;
    c.cells[0] = 1, c.cells[DT_CELL_COUNT - 1] = INT64_MAX;
    c.has_digests = 1;
    c.digest_ref = (kv_digest){0xFFFFFFFFFFFFFFFFu, 2, 3};
    c.digest_got = (kv_digest){0x8000000000000000u, 5, 6};
    c.rows[3].flags = DT_TOK_TOP1 | DT_TOK_EVICT;
    c.rows[3].max_ulp = 77;
    c.rows[3].margin_ref = 0.1f;
    c.hashes[1].h_got = 0xF000000000000001u;
    c.events[0] = (kv_event){.og = 11,
                             .token = 12,
                             .layer = 1,
                             .head = -1,
                             .kind = KV_EVENT_EVICT,
                             .slot = 13,
                             .margin = INFINITY};
    c.events[3] = (kv_event){.og = 21,
                             .token = 22,
                             .layer = 2,
                             .head = 3,
                             .kind = KV_EVENT_SEAL,
                             .slot = 23,
                             .margin = -0.0f};
    assert_ok(dbkit_write(db, &c));
    assert_int_equal(
        dbkit_int(db, "SELECT (key, device, mode, q, contract, contract_version, status, reason,"
                      " repro, wall_ms, ref_ms, got_ms, n_tok, n_words, n_text_bytes, dropped_bytes) ="
                      " ('k', 'emu', 'free', 64, 'bitexact', 1, 'FAIL', 'why',"
                      " 'kvdiff run --model nano', 1.5, 2.5, 3.5, 37, 9, 44, 4) FROM kase"),
        1);
    assert_int_equal(/* sum of i over 0..36 is 666 */
                     dbkit_int(
                         db, "SELECT (sum_nll_ref, sum_nll_got, sum_kl, max_kl, n_top1_same, "
                             "n_bitexact,"
                             " max_ulp, max_ratio, first_bad_pos, first_diff_pos) ="
                             " (37 + 666 / 8.0, 37 + 666 / 4.0, 666 / 1024.0, 31 / 1024.0, 30, 29,"
                             " 9223372036854775807, 0.25, 0, 5) FROM kase"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT (n_ties, bytes_ref, bytes_got, peak_bytes_ref, peak_bytes_got) ="
                                   " (6, 1099511627776, 71, 9223372036854775807, 73) FROM kase"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT group_concat(cell || n) = 'full.within1,kivi.pieces9223372036854775807'"
                                   " FROM (SELECT * FROM coverage ORDER BY cell)"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT (content_ref, order_ref, score_ref, content_got,"
                                   " order_got, score_got) = (-1, 2, 3, -9223372036854775808, 5, 6)"
                                   " AND model_id IS NULL FROM kase"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok WHERE tok = 100 + pos AND"
                                   " nll_ref = 1 + pos / 8.0 AND nll_got = 1 + pos / 4.0 AND"
                                   " kl = pos / 1024.0 AND n_resident = pos + 1"),
                     37);
    assert_int_equal(dbkit_int(db, "SELECT (max_ulp, flags) = (77, 33) AND"
                                   " margin_ref = 0.100000001490116119384765625"
                                   " FROM tok WHERE pos = 3"),
                     1);
    assert_int_equal(
        dbkit_int(db, "SELECT group_concat(pos || ' ' || layer || ' ' || h_ref || ' '"
                      " || printf('%x', h_got), ',') = '15 -1 1 1,31 -1 1 f000000000000001'"
                      " FROM tok_hash"),
        1);
    assert_int_equal(dbkit_int(db, "SELECT (side, pos, layer, head, kind, slot, og, margin_bits) ="
                                   " (0, 12, 1, -1, 1, 13, 11, 0x7f800000) AND margin = 9e999"
                                   " FROM event WHERE seq = 0"),
                     1);
    assert_int_equal(dbkit_int(db,
                               "SELECT (side, pos, layer, head, kind, slot, og, margin_bits) ="
                               " (1, 22, 2, 3, 3, 23, 21, 0x80000000) FROM event WHERE seq = 3"),
                     1);
    assert_int_equal(dbkit_int(db, "SELECT sum(side) FROM event"), 2);
    dt_db_close(db);
}

static void any_number_of_rows_arrives(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    char key[8];
    for (int n = 0; n <= 40; n++) {
        snprintf(key, sizeof key, "%d", n);
        dt_case c = dbkit_case(run, device, key, n);
        assert_ok(dbkit_write(db, &c));
    }
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM kase k WHERE n_tok = CAST(key AS INTEGER)"
                                   " AND (SELECT count(*) = n_tok AND coalesce(max(pos), -1) ="
                                   " n_tok - 1 FROM tok t WHERE t.case_id = k.case_id)"),
                     41);
    dt_db_close(db);
}

static void without_a_device_nothing_pretends_to_be_compared(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    dt_case c = dbkit_case(dbkit_run(db, "run", 1, NULL), 0, "k", 16);
    dt_retrieval r = {.expected = "12345", .ans_ref = "12045", .digits = 5, .digits_ref = 4};
    r.nll_ref = 2.5;
    r.nll_got = (double)NAN;
    c.retrieval = &r;
    c.status = DT_CASE_RECORDED;
    c.max_ratio = (double)NAN;
    c.bytes_ref = c.bytes_got = c.peak_ref = c.peak_got = -1;
    c.has_digests = 1;
    c.n_events_got = 0;
    assert_ok(dbkit_write(db, &c));
    assert_int_equal(
        dbkit_int(db, "SELECT count(*) FROM kase WHERE coalesce(kernel_set_id, got_ms, sum_nll_got,"
                      " sum_kl, max_kl, n_top1_same, n_bitexact, max_ulp, max_ratio, content_got, n_ties,"
                      " bytes_ref, bytes_got, peak_bytes_ref, peak_bytes_got, order_got, score_got, first_bad_pos, first_diff_pos, n_words, n_text_bytes) IS NULL"
                      " AND content_ref = 0 AND sum_nll_ref = 31 AND status = 'RECORDED'"),
        1); /* 16 + 120 / 8 */
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok WHERE coalesce(nll_got, kl, max_ulp)"
                                   " IS NULL AND nll_ref IS NOT NULL"),
                     16);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok_hash WHERE h_got IS NULL"), 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM retrieval WHERE coalesce(ans_got, ok_got,"
                                   " digits_got, nll_got, needle_resident_got) IS NULL AND"
                                   " ans_ref = '12045' AND digits_ref = 4 AND nll_ref = 2.5"),
                     1);
    dt_db_close(db);
}

static void nan_becomes_null_and_never_zero(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    dt_case c = dbkit_case(dbkit_run(db, "run", 1, NULL), dbkit_device(db, "emu"), "k", 1);
    c.sum_nll_got = (double)NAN;
    c.max_kl = (double)INFINITY;
    c.rows[0].nll_got = (double)NAN;
    c.rows[0].margin_ref = NAN;
    assert_ok(dbkit_write(db, &c));
    assert_int_equal(dbkit_int(db, "SELECT sum_nll_got IS NULL AND max_kl = 9e999 FROM kase"), 1);
    assert_int_equal(dbkit_int(db, "SELECT nll_got IS NULL AND margin_ref IS NULL FROM tok"), 1);
    dt_db_close(db);
}

static void a_refused_case_leaves_nothing(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    const int64_t run = dbkit_run(db, "run", 1, NULL), device = dbkit_device(db, "emu");
    dt_case c = dbkit_case(run, device, "same", 16);
    assert_ok(dbkit_write(db, &c));
    c = dbkit_case(run, device, "same", 16); /* the key is taken */
    assert_refused(dbkit_write(db, &c), KV_ERR_INTERNAL, "case 'same'");
    c = dbkit_case(run, device, "rows", 16);
    c.rows[9].pos = 3; /* a position twice: found after half of the rows */
    assert_refused(dbkit_write(db, &c), KV_ERR_INTERNAL, "case 'rows'");
    c = dbkit_case(run + 1, device, "no run", 16);
    assert_refused(dbkit_write(db, &c), KV_ERR_INTERNAL, "FOREIGN KEY");
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM kase"), 1);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok"), 16);
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM event"), 2);
    dt_db_close(db);
}

static void a_deleted_run_takes_its_cases_along(void **state)
{
    const dbkit *kit = (const dbkit *)*state;
    dt_db *db = dbkit_open(kit, DT_DB_WRITE);
    dt_case c = dbkit_case(dbkit_run(db, "run", 1, NULL), dbkit_device(db, "emu"), "k", 4096);
    assert_ok(dbkit_write(db, &c));
    assert_int_equal(dbkit_int(db, "SELECT count(*) FROM tok_hash"), 256);
    assert_ok(dt_sql_exec(db, "DELETE FROM run"));
    assert_int_equal(dbkit_int(db,
                               "SELECT (SELECT count(*) FROM kase) + (SELECT count(*) FROM tok) +"
                               " (SELECT count(*) FROM tok_hash) + (SELECT count(*) FROM event)"),
                     0);
    dt_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        dbkit_test(machine_and_program_are_one_row_each_however_often_asked),
        dbkit_test(a_model_is_its_weights_and_its_config),
        dbkit_test(every_field_of_a_config_counts),
        dbkit_test(a_policy_is_all_its_parameters),
        dbkit_test(a_device_is_its_name_contract_and_bytes),
        dbkit_test(corpora_and_documents_are_found_again),
        dbkit_test(a_run_ends_with_the_counts_of_its_cases),
        dbkit_test(unknown_kinds_statuses_and_runs_are_faults),
        dbkit_test(an_interrupted_run_is_continued_by_the_same_plan_only),
        dbkit_test(a_run_that_is_alive_is_not_taken_over),
        dbkit_test(the_run_of_a_killed_process_is_continued),
        dbkit_test(a_run_of_another_machine_is_left_to_it),
        dbkit_test(every_number_of_a_case_arrives),
        dbkit_test(any_number_of_rows_arrives),
        dbkit_test(without_a_device_nothing_pretends_to_be_compared),
        dbkit_test(nan_becomes_null_and_never_zero),
        dbkit_test(a_refused_case_leaves_nothing),
        dbkit_test(a_deleted_run_takes_its_cases_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
