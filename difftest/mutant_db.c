/* mutant_db.c - results of planted bugs in the database, one transaction each: an interrupted benchmark goes on behind
 * the last one. */
#include "difftest/db_private.h"
#include "difftest/mutants.h"

#include "common/hash.h"

#include <stdio.h>
#include <string.h>

/* The identity of a bug is its row of the table. */
static void identify(const dt_mutant *m, uint8_t sha[32])
{
    char text[1024];
    const int n = snprintf(text, sizeof text, "%s|%d|%s|%s|%d|%s|%s|%s", m->id, m->side, m->family, m->op, m->head,
                           m->klass, m->when, m->about);
    kv_sha256(text, n < (int)sizeof text ? (size_t)n : sizeof text - 1, sha);
}

static kv_status store_mutant(dt_db *db, const dt_mutant *m, int64_t *id)
{
    uint8_t sha[32];
    identify(m, sha);
    const dt_value v[] = {DT_TEXT(m->id),
                          DT_TEXT(m->family),
                          DT_TEXT(m->op),
                          DT_BLOB(sha, sizeof sha),
                          DT_TEXT(m->klass),
                          DT_TEXT(dt_tier_name(m->tier)),
                          DT_INT(m->equivalent),
                          DT_TEXT(m->side == DT_MUTANT_EMU ? "emu" : "ref"),
                          DT_IF(m->head >= 0, DT_INT(m->head)),
                          DT_TEXT(m->when),
                          DT_TEXT(m->about)};
    KV_TRY(
        dt_sql_run(db,
                   "INSERT INTO mutant(code, family, op, patch_sha, expect_klass, expect_tier, equivalent, side, head,"
                   " activation, about) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
                   " ON CONFLICT(code) DO UPDATE SET family = ?2, op = ?3, patch_sha = ?4, expect_klass = ?5,"
                   " expect_tier = ?6, equivalent = ?7, side = ?8, head = ?9, activation = ?10, about = ?11",
                   v, DT_COUNT(v), NULL));
    return dt_sql_run(db, "SELECT mutant_id FROM mutant WHERE code = ?1", v, 1, id);
}

#define JUDGED(i) DT_IF(r->judged, DT_INT(r->report.judge[i]))

kv_status dt_mutant_store(dt_db *db, int64_t run_id, int32_t tier, const dt_mutant *m, const dt_mutant_result *r)
{
    int64_t id = 0;
    KV_TRY(store_mutant(db, m, &id));
    const dt_value v[] = {DT_INT(run_id),
                          DT_INT(id),
                          DT_TEXT(dt_tier_name(tier)),
                          DT_INT(r->outcome == DT_MUTANT_FOUND),
                          DT_IF(r->report.op[0], DT_TEXT(r->report.op)),
                          DT_IF(r->report.klass[0], DT_TEXT(r->report.klass)),
                          DT_IF(r->report.first_pos >= 0, DT_INT(r->report.first_pos)),
                          DT_REAL(r->report.seconds),
                          DT_IF(r->killed_by[0], DT_TEXT(r->killed_by)),
                          DT_TEXT(dt_mutant_outcome_name(r->outcome)),
                          DT_IF(r->report.head >= 0, DT_INT(r->report.head)),
                          DT_INT(r->report.cases),
                          DT_TEXT(r->report.key),
                          DT_TEXT(r->report.reason),
                          DT_TEXT(r->report.repro),
                          JUDGED(DT_JUDGE_NMSE),
                          JUDGED(DT_JUDGE_ALLCLOSE),
                          JUDGED(DT_JUDGE_FLASHINFER),
                          JUDGED(DT_JUDGE_PERPLEXITY)};
    return dt_sql_run(
        db,
        "INSERT OR REPLACE INTO mutant_result(run_id, mutant_id, tier, detected, localised_op, klass, first_pos,"
        " secs, killed_by, outcome, localised_head, cases, case_key, reason, repro, judge_nmse, judge_allclose,"
        " judge_flashinfer, judge_perplexity) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,"
        " ?14, ?15, ?16, ?17, ?18, ?19)",
        v, DT_COUNT(v), NULL);
}

static void copy_text(sqlite3_stmt *s, int column, char *dst, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(s, column);
    snprintf(dst, size, "%s", text ? text : "");
}

static void read_row(sqlite3_stmt *s, dt_mutant_result *r)
{
    char outcome[16];
    *r = (dt_mutant_result){.done = 1, .report.head = -1};
    copy_text(s, 1, outcome, sizeof outcome);
    for (int i = 0; i < DT_MUTANT_FAULT; i++)
        if (strcmp(outcome, dt_mutant_outcome_name(i)) == 0) r->outcome = i;
    copy_text(s, 2, r->report.op, sizeof r->report.op);
    copy_text(s, 3, r->report.klass, sizeof r->report.klass);
    if (sqlite3_column_type(s, 4) != SQLITE_NULL) r->report.head = sqlite3_column_int(s, 4);
    copy_text(s, 5, r->killed_by, sizeof r->killed_by);
    r->report.first_pos = sqlite3_column_type(s, 6) == SQLITE_NULL ? -1 : sqlite3_column_int64(s, 6);
    r->report.seconds = sqlite3_column_double(s, 7);
    copy_text(s, 8, r->report.key, sizeof r->report.key);
    copy_text(s, 9, r->report.reason, sizeof r->report.reason);
    copy_text(s, 10, r->report.repro, sizeof r->report.repro);
    r->judged = sqlite3_column_type(s, 11) != SQLITE_NULL;
    for (int i = 0; i < DT_JUDGE_COUNT; i++)
        r->report.judge[i] = sqlite3_column_int(s, 11 + i);
    r->report.cases = sqlite3_column_int(s, 15);
}

kv_status dt_mutant_load(dt_db *db, int64_t run_id, int32_t tier, dt_mutant_result *results)
{
    sqlite3_stmt *s = NULL;
    int n, rc;
    const dt_mutant *table = dt_mutants(&n);
    const dt_value v[] = {DT_INT(run_id), DT_TEXT(dt_tier_name(tier))};
    KV_TRY(
        dt_sql_prepare(db,
                       "SELECT m.code, x.outcome, x.localised_op, x.klass, x.localised_head, x.killed_by, x.first_pos,"
                       " x.secs, x.case_key, x.reason, x.repro, x.judge_nmse, x.judge_allclose, x.judge_flashinfer,"
                       " x.judge_perplexity, x.cases FROM mutant_result x JOIN mutant m USING(mutant_id)"
                       " WHERE x.run_id = ?1 AND x.tier = ?2",
                       &s));
    kv_status st = dt_sql_bind(db, s, v, DT_COUNT(v));
    while (st == KV_OK && (rc = sqlite3_step(s)) != SQLITE_DONE) {
        if (rc != SQLITE_ROW) {
            st = dt_db_fail(db, "reading results of planted bugs");
            break;
        }
        const char *code = (const char *)sqlite3_column_text(s, 0);
        for (int i = 0; i < n; i++)
            if (strcmp(table[i].id, code) == 0) read_row(s, &results[i]);
    }
    sqlite3_finalize(s);
    return st;
}
