#include "difftest/summary.h"

#include "difftest/cli.h"
#include "difftest/metrics.h"
#include "difftest/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FAILURES = 10, CELL_MAX = 512, MIB = 1 << 20 };

/* Columns of the query below. */
enum { KEY, DEVICE, STATUS, REASON, REPRO, N_TOK, NLL_REF, NLL_GOT, KL, MAX_ULP, MAX_ABS, TOP1, FIRST_DIFF, WORDS,
       OK_REF, OK_GOT, RATIO, DROPPED, BYTES_REF, BYTES_GOT, TIES, TEXT_BYTES };

static const char cases_sql[] =
    "SELECT k.key, k.device, k.status, k.reason, k.repro, k.n_tok, k.sum_nll_ref, k.sum_nll_got, k.sum_kl,"
    " k.max_ulp, k.max_abs, k.n_top1_same, k.first_diff_pos, k.n_words, r.ok_ref, r.ok_got, k.max_ratio, k.dropped_bytes,"
    " k.bytes_ref, k.bytes_got, k.n_ties, k.n_text_bytes"
    " FROM kase k LEFT JOIN retrieval r USING(case_id) WHERE k.run_id = ?1 ORDER BY k.case_id";

static const char retrieval_sql[] =
    "SELECT p.name, k.device, count(*), sum(r.ok_ref), sum(r.ok_got), sum(r.digits_ref), sum(r.digits_got),"
    " sum(r.digits), avg(r.nll_ref / r.digits), avg(r.nll_got / r.digits)"
    " FROM kase k JOIN retrieval r USING(case_id) JOIN policy p USING(policy_id) WHERE k.run_id = ?1"
    " GROUP BY p.name, k.device ORDER BY min(k.case_id)";

static kv_status prepare(dt_db *db, const char *sql, int64_t run_id, sqlite3_stmt **out)
{
    if (sqlite3_prepare_v2(dt_db_handle(db), sql, -1, out, NULL) != SQLITE_OK ||
        sqlite3_bind_int64(*out, 1, run_id) != SQLITE_OK)
        return kv_fail(KV_ERR_DB, "%s: %s", dt_db_file(db), sqlite3_errmsg(dt_db_handle(db)));
    return KV_OK;
}

static kv_status finish(dt_db *db, sqlite3_stmt *s, int rc)
{
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? KV_OK
                             : kv_fail(KV_ERR_DB, "%s: %s", dt_db_file(db), sqlite3_errmsg(dt_db_handle(db)));
}

static const char *text(sqlite3_stmt *s, int column)
{
    const char *t = (const char *)sqlite3_column_text(s, column);
    return t ? t : "";
}

/* Part i (from 0) of a key that '|' separates. */
static void key_part(const char *key, int i, char *dst, size_t size)
{
    for (; i > 0 && key; i--)
        key = strchr(key, '|') ? strchr(key, '|') + 1 : NULL;
    snprintf(dst, size, "%.*s", key ? (int)strcspn(key, "|") : 0, key ? key : "");
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static void number(dt_table *t, sqlite3_stmt *s, int column, const char *fmt, double value)
{
    if (sqlite3_column_type(s, column) == SQLITE_NULL || isnan(value))
        dt_table_text(t, NULL);
    else
        dt_table_number(t, fmt, value);
}

static void integer(dt_table *t, sqlite3_stmt *s, int column)
{
    if (sqlite3_column_type(s, column) == SQLITE_NULL)
        dt_table_text(t, NULL);
    else
        dt_table_int(t, sqlite3_column_int64(s, column));
}

static void retrieval_cell(dt_table *t, sqlite3_stmt *s)
{
    static const char *const words[] = {"miss", "hit"};
    char cell[32];
    if (sqlite3_column_type(s, OK_REF) == SQLITE_NULL) {
        dt_table_text(t, NULL);
        return;
    }
    const char *ref = words[sqlite3_column_int(s, OK_REF) != 0];
    const char *got = sqlite3_column_type(s, OK_GOT) == SQLITE_NULL ? "-" : words[sqlite3_column_int(s, OK_GOT) != 0];
    snprintf(cell, sizeof cell, "%s/%s", ref, got);
    dt_table_text(t, cell);
}

/* The reference's cache at the end; the device's behind it where it differs. */
static void cache_cell(dt_table *t, sqlite3_stmt *s)
{
    char cell[64];
    const int64_t ref = sqlite3_column_int64(s, BYTES_REF), got = sqlite3_column_int64(s, BYTES_GOT);
    if (sqlite3_column_type(s, BYTES_REF) == SQLITE_NULL) {
        dt_table_text(t, NULL);
        return;
    }
    const int n = snprintf(cell, sizeof cell, "%.3f", (double)ref / MIB);
    if (sqlite3_column_type(s, BYTES_GOT) != SQLITE_NULL && got != ref)
        snprintf(cell + n, sizeof cell - (size_t)n, "/%.3f", (double)got / MIB);
    dt_table_text(t, cell);
}

static void verdict_cell(dt_table *t, sqlite3_stmt *s)
{
    char cell[80];
    const int64_t ties = sqlite3_column_int64(s, TIES);
    const int n = snprintf(cell, sizeof cell, "%s", text(s, STATUS));
    if (ties) snprintf(cell + n, sizeof cell - (size_t)n, " (%lld legal tie%s)", (long long)ties, ties == 1 ? "" : "s");
    dt_table_text(t, cell);
}

static void case_row(dt_table *t, sqlite3_stmt *s)
{
    char part[CELL_MAX];
    const int64_t n = sqlite3_column_int64(s, N_TOK), words = sqlite3_column_int64(s, WORDS);
    const double nll = sqlite3_column_double(s, NLL_REF), d = n ? (double)n : (double)NAN;
    key_part(text(s, KEY), 0, part, sizeof part);
    dt_table_text(t, strrchr(part, '/') ? strrchr(part, '/') + 1 : part); /* the document, without its corpus */
    key_part(text(s, KEY), 2, part, sizeof part);
    dt_table_text(t, part);
    dt_table_text(t, text(s, DEVICE));
    dt_table_int(t, n);
    number(t, s, NLL_REF, "%.4f", dt_perplexity(nll, n));
    number(t, s, NLL_GOT, "%.4f", dt_perplexity(sqlite3_column_double(s, NLL_GOT), n));
    number(t, s, WORDS, "%.6g", words > 0 && n > 0 ? dt_perplexity(nll, words) : (double)NAN);
    number(t, s, TEXT_BYTES, "%.4f", n > 0 ? dt_bits_per_byte(nll, sqlite3_column_int64(s, TEXT_BYTES)) : (double)NAN);
    number(t, s, KL, "%.2e", sqlite3_column_double(s, KL) / d);
    number(t, s, MAX_ABS, "%.1e", sqlite3_column_double(s, MAX_ABS));
    integer(t, s, MAX_ULP);
    number(t, s, TOP1, "%.4f", (double)sqlite3_column_int64(s, TOP1) / d);
    integer(t, s, FIRST_DIFF);
    cache_cell(t, s);
    retrieval_cell(t, s);
    verdict_cell(t, s);
}

static int status_of(const char *name)
{
    for (int i = 0; i < DT_CASE_STATUS_COUNT; i++)
        if (strcmp(name, dt_case_status_name((dt_case_status)i)) == 0) return i;
    return DT_CASE_ERROR;
}

static kv_status print_cases(dt_db *db, int64_t run_id, FILE *out, dt_outcome *o)
{
    static const struct {
        const char *name;
        dt_align align;
    } columns[] = {{"document", DT_LEFT}, {"policy", DT_LEFT}, {"device", DT_LEFT}, {"tokens", DT_RIGHT},
                   {"ppl ref", DT_RIGHT}, {"ppl device", DT_RIGHT}, {"word ppl", DT_RIGHT}, {"bpb ref", DT_RIGHT},
                   {"mean KL", DT_RIGHT}, {"max diff", DT_RIGHT}, {"max ulp", DT_RIGHT}, {"top-1", DT_RIGHT},
                   {"first diff", DT_RIGHT}, {"cache MiB", DT_RIGHT}, {"key ref/dev", DT_LEFT}, {"verdict", DT_LEFT}};
    sqlite3_stmt *s;
    KV_TRY(prepare(db, cases_sql, run_id, &s));
    dt_table *t = dt_table_new(DT_FORMAT_TABLE, out);
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        dt_table_column(t, columns[i].name, columns[i].align);
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        case_row(t, s);
        o->n[status_of(text(s, STATUS))]++;
        o->total++;
    }
    const kv_status st = dt_table_finish(t);
    const kv_status db_st = finish(db, s, rc);
    return st != KV_OK ? st : db_st;
}

/* ---- retrieval ------------------------------------------------------------------------------------------- */

static kv_status print_retrieval(dt_db *db, int64_t run_id, FILE *out)
{
    sqlite3_stmt *s;
    KV_TRY(prepare(db, retrieval_sql, run_id, &s));
    dt_table *t = NULL;
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        if (!t) {
            static const char *const names[] = {"passkey policy", "device", "keys", "found ref", "found dev",
                                                "digits ref", "digits dev", "nll/digit ref", "nll/digit dev"};
            fputc('\n', out);
            t = dt_table_new(DT_FORMAT_TABLE, out);
            for (size_t i = 0; i < sizeof names / sizeof *names; i++)
                dt_table_column(t, names[i], i < 2 ? DT_LEFT : DT_RIGHT);
        }
        char digits[48];
        dt_table_text(t, text(s, 0));
        dt_table_text(t, text(s, 1));
        for (int c = 2; c <= 4; c++)
            integer(t, s, c);
        for (int c = 5; c <= 6; c++) {
            snprintf(digits, sizeof digits, "%lld/%lld", (long long)sqlite3_column_int64(s, c),
                     (long long)sqlite3_column_int64(s, 7));
            dt_table_text(t, sqlite3_column_type(s, c) == SQLITE_NULL ? NULL : digits);
        }
        number(t, s, 8, "%.3f", sqlite3_column_double(s, 8));
        number(t, s, 9, "%.3f", sqlite3_column_double(s, 9));
    }
    const kv_status st = t ? dt_table_finish(t) : KV_OK;
    const kv_status db_st = finish(db, s, rc);
    return st != KV_OK ? st : db_st;
}

/* ---- what did not pass ------------------------------------------------------------------------------------ */

static kv_status print_failures(dt_db *db, int64_t run_id, FILE *out)
{
    sqlite3_stmt *s;
    KV_TRY(prepare(db, cases_sql, run_id, &s));
    int rc, shown = 0, more = 0;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        const int status = status_of(text(s, STATUS));
        if (status == DT_CASE_PASS || status == DT_CASE_RECORDED) continue;
        if (shown == MAX_FAILURES) {
            more++;
            continue;
        }
        shown++;
        fprintf(out, "\n%s  %s\n      %s\n      repeat: %s\n", text(s, STATUS), text(s, KEY), text(s, REASON),
                text(s, REPRO));
    }
    if (more)
        fprintf(out, "\nand %d more: kvdiff query \"SELECT key, status, reason FROM kase WHERE run_id=%lld AND "
                     "status<>'PASS'\"\n", more, (long long)run_id);
    return finish(db, s, rc);
}

kv_status dt_summary_print(dt_db *db, int64_t run_id, FILE *out, dt_outcome *outcome)
{
    memset(outcome, 0, sizeof *outcome);
    KV_TRY(print_cases(db, run_id, out, outcome));
    KV_TRY(print_retrieval(db, run_id, out));
    KV_TRY(print_failures(db, run_id, out));
    fputc('\n', out);
    for (int i = 0; i < DT_CASE_STATUS_COUNT; i++)
        if (outcome->n[i] || i == DT_CASE_PASS || i == DT_CASE_FAIL)
            fprintf(out, "%s %lld  ", dt_case_status_name((dt_case_status)i), (long long)outcome->n[i]);
    fputc('\n', out);
    return KV_OK;
}

/* ---- verdict of the run ------------------------------------------------------------------------------------ */

int dt_outcome_exit_code(const dt_outcome *o)
{
    if (o->n[DT_CASE_FAIL] || o->n[DT_CASE_ERROR] || o->n[DT_CASE_TIMEOUT] || o->n[DT_CASE_FLAKY] ||
        o->n[DT_CASE_XPASS])
        return DT_EXIT_FAIL;
    if (o->n[DT_CASE_UNSUPPORTED] || o->n[DT_CASE_UNTRUSTED] || o->n[DT_CASE_SKIP] || o->total == 0)
        return DT_EXIT_VACUOUS;
    return o->n[DT_CASE_INCONCLUSIVE] ? DT_EXIT_INCONCLUSIVE : DT_EXIT_PASS;
}

const char *dt_outcome_status(const dt_outcome *o)
{
    switch (dt_outcome_exit_code(o)) {
    case DT_EXIT_FAIL:
        return "fail";
    case DT_EXIT_VACUOUS:
        return "vacuous";
    case DT_EXIT_INCONCLUSIVE:
        return "inconclusive";
    default:
        return o->n[DT_CASE_RECORDED] == o->total ? "recorded" : "pass";
    }
}
