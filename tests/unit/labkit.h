/* labkit.h - a laboratory for the engine: the generated model nano, one document, the reference as every
 * device's honest side, and lies on order (tests/sides/liar.h). Everything that `kvdiff run` does between
 * its options and its summary happens here; what came out is asked from the database. */
#ifndef KV_TESTS_LABKIT_H
#define KV_TESTS_LABKIT_H

#include "tests/unit/folderkit.h"

#include "common/fpenv.h"
#include "difftest/engine.h"
#include "ref/backend.h"
#include "tests/sides/liar.h"

#include <sqlite3.h>

static const kv_backend *lab_reference; /* instead of the real one, for both sides; NULL: the real one */

static const kv_backend *liar_honest(void) { return lab_reference ? lab_reference : ref_backend(); }

typedef struct lab {
    dt_options o; /* nano, steps of 16 tokens, digests every 16; a test changes what it wants */
    dt_plan plan;
    dt_db *db;
    dt_engine engine;
    kv_progress progress;
    volatile sig_atomic_t stop;
    int64_t doc_ids[16], policy_ids[4], kernel_set_ids[DT_MAX_LANES];
    char file[800];
    kv_backend tables[DT_MAX_LANES];
    int n_sides;
} lab;

/* Before lab_run: one document (a corpus's spelling) and one policy. */
KV_UNUSED_TEST_HELPER void lab_begin(lab *l, const char *spec, const char *policy)
{
    memset(l, 0, sizeof *l);
    dt_options_init(&l->o);
    l->o.model = "nano";
    l->o.q = 16;
    l->o.digest_every = 16;
    l->o.threads = 1;
    assert_ok(dt_list_add(&l->o.corpora, spec, strlen(spec)));
    assert_ok(dt_list_add(&l->o.policies, policy, strlen(policy)));
    snprintf(l->file, sizeof l->file, "%s", in_folder("lab.db"));
    remove(l->file);
}

/* One more device: honest or not. The options make its name unique. */
KV_UNUSED_TEST_HELPER void lab_device(lab *l, int32_t contract, const char *options)
{
    char spec[300];
    snprintf(spec, sizeof spec, "ref:%s", options);
    liar_fill(&l->tables[l->n_sides++], contract);
    assert_ok(dt_list_add(&l->o.devices, spec, strlen(spec)));
}

/* The plan knows "ref" only; the tables of the liars take its place. */
KV_UNUSED_TEST_HELPER void lab_plan(lab *l)
{
    dt_list asked = l->o.devices;
    l->o.devices = (dt_list){0};
    assert_ok(dt_list_add(&l->o.devices, l->n_sides ? "ref" : "none", l->n_sides ? 3 : 4));
    assert_ok(dt_plan_make(&l->o, &l->plan));
    free(l->o.devices.v[0]);
    free(l->o.devices.v);
    l->o.devices = asked;
    if (!l->n_sides) {
        assert_ok(dt_list_add(&l->o.devices, "none", 4));
        return;
    }
    dt_side *sides = calloc(DT_MAX_LANES, sizeof *sides);
    assert_non_null(sides);
    for (int i = 0; i < l->n_sides; i++) {
        sides[i] = (dt_side){.backend = &l->tables[i]};
        snprintf(sides[i].options, sizeof sides[i].options, "%s", l->o.devices.v[i] + strlen("ref:"));
        snprintf(sides[i].name, sizeof sides[i].name, "liar:%s", sides[i].options);
    }
    dt_side_close(&l->plan.sides[0]);
    free(l->plan.sides);
    l->plan.sides = sides;
    l->plan.n_sides = l->n_sides;
}

KV_UNUSED_TEST_HELPER void lab_dimensions(lab *l)
{
    const dt_plan *p = &l->plan;
    dt_engine *e = &l->engine;
    assert_true(p->n_docs <= 16 && p->n_policies <= 4);
    assert_ok(dt_db_open(l->file, DT_DB_WRITE, &l->db));
    assert_ok(dt_db_model(l->db, p->model, &e->model_id));
    for (int i = 0; i < p->n_docs; i++) {
        const dt_document *d = &p->docs[i];
        int64_t corpus_id;
        assert_ok(dt_db_corpus(l->db, d->info->name, d->info->generator, d->info->seed, d->info->manifest_sha,
                               &corpus_id));
        assert_ok(dt_db_document(l->db, corpus_id, d->index, d->doc->title, d->doc->n_bytes, d->stream.tokens.n,
                                 d->stream.token_sha, &l->doc_ids[i]));
    }
    for (int i = 0; i < p->n_policies; i++)
        assert_ok(dt_db_policy(l->db, &p->policies[i], &l->policy_ids[i]));
    for (int i = 0; i < p->n_sides; i++)
        assert_ok(dt_db_kernel_set(l->db, p->sides[i].name, p->sides[i].backend->contract, NULL,
                                   &l->kernel_set_ids[i]));
    const dt_run_start start = {.kind = "run", .argv = "laboratory", .seed = -1};
    int resumed;
    assert_ok(dt_db_run_begin(l->db, &start, &e->run_id, &resumed));
    e->plan = p;
    e->doc_ids = l->doc_ids;
    e->policy_ids = l->policy_ids;
    e->kernel_set_ids = l->kernel_set_ids;
    e->stop = &l->stop;
    e->progress = &l->progress;
}

/* Every document under every policy, on every device; the status of the first that failed. */
KV_UNUSED_TEST_HELPER kv_status lab_try(lab *l)
{
    int todo[DT_MAX_LANES];
    for (int i = 0; i < DT_MAX_LANES; i++)
        todo[i] = 1;
    lab_plan(l);
    lab_dimensions(l);
    assert_ok(dt_writer_start(l->file, &l->engine.writer));
    kv_status st = dt_engine_open(&l->engine);
    l->engine.ref_backend = liar_honest();
    for (int d = 0; st == KV_OK && d < l->plan.n_docs; d++)
        st = dt_engine_measure(&l->engine, d);
    dt_own_error_done(&l->engine.own);
    for (int i = 0; i < l->plan.n_policies; i++)
        for (int d = 0; st == KV_OK && d < l->plan.n_docs; d++)
            st = dt_engine_run(&l->engine, d, i, todo);
    char message[KV_MESSAGE_MAX];
    snprintf(message, sizeof message, "%s", kv_message());
    dt_engine_close(&l->engine);
    assert_ok(dt_writer_stop(l->engine.writer));
    kv_set_message("%s", message);
    return st;
}

KV_UNUSED_TEST_HELPER void lab_run(lab *l) { assert_ok(lab_try(l)); }

KV_UNUSED_TEST_HELPER void lab_end(lab *l)
{
    dt_db_close(l->db);
    dt_plan_free(&l->plan);
    dt_options_free(&l->o);
}

/* The one value that a statement gives, as text in one of four buffers; "NULL" for NULL. */
KV_UNUSED_TEST_HELPER const char *lab_ask(const lab *l, const char *sql)
{
    static char text[4][1024];
    static int turn;
    char *dst = text[turn++ % 4];
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(dt_db_handle(l->db), sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(dt_db_handle(l->db)));
    if (sqlite3_step(s) != SQLITE_ROW) fail_msg("%s: no row", sql);
    const char *value = (const char *)sqlite3_column_text(s, 0);
    snprintf(dst, sizeof text[0], "%s", value ? value : "NULL");
    sqlite3_finalize(s);
    return dst;
}

#define lab_tells(l, sql, wanted) assert_string_equal(lab_ask((l), (sql)), (wanted))

KV_UNUSED_TEST_HELPER int64_t lab_int(const lab *l, const char *sql) { return strtoll(lab_ask(l, sql), NULL, 10); }

/* The case of device i (from 0) has this verdict, first bad token and a reason with these words. */
KV_UNUSED_TEST_HELPER void lab_verdict_(const lab *l, int i, const char *status, const char *first_bad,
                                        const char *words, const char *file, int line)
{
    char sql[300], got[400], wanted[200];
    snprintf(sql, sizeof sql, "SELECT status || ' at ' || ifnull(first_bad_pos, '-') FROM kase WHERE device = '%s'",
             l->plan.n_sides ? l->plan.sides[i].name : "none");
    snprintf(got, sizeof got, "%s", lab_ask(l, sql));
    snprintf(wanted, sizeof wanted, "%s at %s", status, first_bad);
    snprintf(sql, sizeof sql, "SELECT ifnull(reason, '') FROM kase WHERE device = '%s'",
             l->plan.n_sides ? l->plan.sides[i].name : "none");
    const char *reason = lab_ask(l, sql);
    if (strcmp(got, wanted) == 0 && strstr(reason, words) && (*words || !*reason)) return;
    print_error("case of device %d: %s (%s); wanted %s (%s)\n", i, got, reason, wanted, words);
    _fail(file, line);
}
#define lab_verdict(l, i, status, first_bad, words) \
    lab_verdict_((l), (i), (status), (first_bad), (words), __FILE__, __LINE__)

#endif
