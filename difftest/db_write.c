/* db_write.c - one finished case into the database, in one transaction. */
#include "difftest/db_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { BUNDLE = 16 }; /* rows of one statement */

static const char *const case_status_names[] = {
    [DT_CASE_PASS] = "PASS",
    [DT_CASE_FAIL] = "FAIL",
    [DT_CASE_SKIP] = "SKIP",
    [DT_CASE_UNSUPPORTED] = "UNSUPPORTED",
    [DT_CASE_UNTRUSTED] = "UNTRUSTED",
    [DT_CASE_ERROR] = "ERROR",
    [DT_CASE_TIMEOUT] = "TIMEOUT",
    [DT_CASE_FLAKY] = "FLAKY",
    [DT_CASE_INCONCLUSIVE] = "INCONCLUSIVE",
    [DT_CASE_RECORDED] = "RECORDED",
    [DT_CASE_XFAIL] = "XFAIL",
    [DT_CASE_XPASS] = "XPASS",
};
KV_STATIC_ASSERT(sizeof case_status_names / sizeof *case_status_names == DT_CASE_STATUS_COUNT,
                 "every status has a name");

const char *dt_case_status_name(dt_case_status s)
{
    return (unsigned)s < DT_CASE_STATUS_COUNT ? case_status_names[s] : NULL;
}

/* ---- statements ----------------------------------------------------------------------------- */

/* X(column, value) of table kase for case c. GOT: only with a device; ID, AT: 0, -1 = none. */
#define GOT(v) DT_IF(c->kernel_set_id, v)
#define ID(x)  DT_IF(x, DT_INT(x))
#define AT(x)  DT_IF((x) >= 0, DT_INT(x))
#define DIG(x) DT_IF(c->has_digests, DT_INT(x))
/* K and V of a device that rounds by its own rules differ by right: their digests say nothing. */
#define CONTENT(x) DT_IF(c->has_digests && c->contract == KV_CONTRACT_BITEXACT, DT_INT(x))
#define KASE_COLUMNS(X)                                 \
    X(run_id, DT_INT(c->run_id))                        \
    X(key, DT_TEXT(c->key))                             \
    X(device, DT_TEXT(c->device))                       \
    X(mode, DT_TEXT(c->mode))                           \
    X(q, DT_INT(c->q))                                  \
    X(contract, DT_TEXT(dt_contract_name(c->contract))) \
    X(contract_version, DT_INT(c->contract_version))    \
    X(model_id, ID(c->model_id))                        \
    X(policy_id, ID(c->policy_id))                      \
    X(kernel_set_id, ID(c->kernel_set_id))              \
    X(doc_id, ID(c->doc_id))                            \
    X(status, DT_TEXT(dt_case_status_name(c->status)))  \
    X(reason, DT_TEXT(c->reason))                       \
    X(repro, DT_TEXT(c->repro))                         \
    X(wall_ms, DT_REAL(c->wall_ms))                     \
    X(ref_ms, DT_REAL(c->ref_ms))                       \
    X(got_ms, GOT(DT_REAL(c->got_ms)))                  \
    X(n_tok, DT_INT(c->n_tok))                          \
    X(n_words, AT(c->n_words))                          \
    X(n_text_bytes, AT(c->n_text_bytes))                \
    X(dropped_bytes, DT_INT(c->dropped_bytes))          \
    X(sum_nll_ref, DT_REAL(c->sum_nll_ref))             \
    X(sum_nll_got, GOT(DT_REAL(c->sum_nll_got)))        \
    X(sum_kl, GOT(DT_REAL(c->sum_kl)))                  \
    X(max_kl, GOT(DT_REAL(c->max_kl)))                  \
    X(n_top1_same, GOT(DT_INT(c->n_top1_same)))         \
    X(n_bitexact, GOT(DT_INT(c->n_bitexact)))           \
    X(max_ulp, GOT(DT_INT(c->max_ulp)))                 \
    X(max_abs, GOT(DT_REAL(c->max_abs)))                \
    X(max_ratio, GOT(DT_REAL(c->max_ratio)))            \
    X(first_bad_pos, AT(c->first_bad_pos))              \
    X(first_diff_pos, AT(c->first_diff_pos))            \
    X(n_ties, GOT(DT_INT(c->n_ties)))                   \
    X(bytes_ref, AT(c->bytes_ref))                      \
    X(bytes_got, GOT(AT(c->bytes_got)))                 \
    X(peak_bytes_ref, AT(c->peak_ref))                  \
    X(peak_bytes_got, GOT(AT(c->peak_got)))             \
    X(content_ref, CONTENT(c->digest_ref.content))      \
    X(order_ref, DIG(c->digest_ref.order))              \
    X(score_ref, DIG(c->digest_ref.score))              \
    X(content_got, GOT(CONTENT(c->digest_got.content))) \
    X(order_got, GOT(DIG(c->digest_got.order)))         \
    X(score_got, GOT(DIG(c->digest_got.score)))

#define COLUMN(name, value) ", " #name
#define MARK(name, value)   ", ?"
#define VALUE(name, value)  value,
static const char kase_sql[] =
    "INSERT INTO kase(case_id" KASE_COLUMNS(COLUMN) ") VALUES(NULL" KASE_COLUMNS(MARK) ")";

/* Without case_id, which is the first column of each. */
static const char tok_columns[] =
    "pos, tok, nll_ref, nll_got, kl, margin_ref, max_ulp, flags, n_resident";
static const char hash_columns[] = "pos, layer, h_ref, h_got";
static const char event_columns[] =
    "seq, side, pos, layer, head, kind, slot, og, margin, margin_bits";
static const char retrieval_sql[] =
    "INSERT INTO retrieval(case_id, ctx_len, depth_ppm, insert_pos, digits, expected, ans_ref,"
    " ans_got, ok_ref, ok_got, digits_ref, digits_got, nll_ref, nll_got, needle_resident_ref,"
    " needle_resident_got) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char coverage_sql[] = "INSERT INTO coverage(case_id, cell, n) VALUES(?, ?, ?)";
static const char touch_sql[] = "UPDATE run SET updated_at = ? WHERE run_id = ?";

/* INSERT of n rows; parameter 1 is the case, the columns of the rows follow one after the other. */
static kv_status prepare_rows(const dt_db *db, const char *table, const char *columns, int n,
                              dt_rows_sql *rows, sqlite3_stmt **out)
{
    char sql[1024];
    size_t used =
        (size_t)snprintf(sql, sizeof sql, "INSERT INTO %s(case_id, %s) VALUES", table, columns);
    rows->columns = 1;
    for (const char *p = columns; (p = strchr(p, ',')); p++)
        rows->columns++;
    for (int i = 0; i < n; i++) {
        used += (size_t)snprintf(sql + used, sizeof sql - used, "%s(?1", i ? "," : " ");
        for (int c = 0; c < rows->columns; c++)
            used += (size_t)snprintf(sql + used, sizeof sql - used, ",?");
        used += (size_t)snprintf(sql + used, sizeof sql - used, ")");
    }
    return dt_sql_prepare(db, sql, out);
}

static kv_status rows_open(const dt_db *db, const char *table, const char *columns,
                           dt_rows_sql *out)
{
    KV_TRY(prepare_rows(db, table, columns, 1, out, &out->one));
    return prepare_rows(db, table, columns, BUNDLE, out, &out->many);
}

kv_status dt_case_sql_open(dt_db *db, dt_case_sql *out)
{
    memset(out, 0, sizeof *out);
    out->db = db;
    KV_TRY(dt_sql_prepare(db, kase_sql, &out->kase));
    KV_TRY(rows_open(db, "tok", tok_columns, &out->tok));
    KV_TRY(rows_open(db, "tok_hash", hash_columns, &out->hash));
    KV_TRY(rows_open(db, "event", event_columns, &out->event));
    KV_TRY(dt_sql_prepare(db, retrieval_sql, &out->retrieval));
    KV_TRY(dt_sql_prepare(db, coverage_sql, &out->coverage));
    return dt_sql_prepare(db, touch_sql, &out->touch);
}

void dt_case_sql_close(dt_case_sql *s)
{
    sqlite3_stmt *const all[] = {s->kase,       s->tok.one,   s->tok.many,
                                 s->hash.one,   s->hash.many, s->event.one,
                                 s->event.many, s->retrieval, s->coverage,
                                 s->touch};
    for (int i = 0; i < DT_COUNT(all); i++)
        sqlite3_finalize(all[i]);
    memset(s, 0, sizeof *s);
}

/* ---- rows ----------------------------------------------------------------------------------- */

static kv_status step_once(const dt_db *db, sqlite3_stmt *stmt, int bound, const char *doing)
{
    if (bound == SQLITE_OK && sqlite3_step(stmt) == SQLITE_DONE) {
        sqlite3_reset(stmt);
        return KV_OK;
    }
    const kv_status st = dt_db_fail(db, doing);
    sqlite3_reset(stmt);
    return st;
}

static kv_status run_bound(const dt_db *db, sqlite3_stmt *stmt, const dt_value *v, int n,
                           const char *doing)
{
    KV_TRY(dt_sql_bind(db, stmt, v, n));
    const kv_status st = step_once(db, stmt, SQLITE_OK, doing);
    sqlite3_clear_bindings(stmt);
    return st;
}

static kv_status write_kase(const dt_case_sql *s, const dt_case *c)
{
    const dt_value v[] = {KASE_COLUMNS(VALUE)};
    return run_bound(s->db, s->kase, v, DT_COUNT(v), "writing a case");
}

/* Tables with many rows. Values are bound directly: dt_value would be half of the time. */

static int or_null(sqlite3_stmt *stmt, int at, int known, int64_t value)
{
    return known ? sqlite3_bind_int64(stmt, at, value) : sqlite3_bind_null(stmt, at);
}

/* Binds row i of a case from parameter `at` on. */
typedef int bind_row(sqlite3_stmt *stmt, int at, const dt_case *c, int64_t i);

static int bind_tok(sqlite3_stmt *stmt, int at, const dt_case *c, int64_t i)
{
    const dt_tok_row *r = &c->rows[i];
    const int device = c->kernel_set_id != 0;
    const double nan = (double)NAN; /* bound as NULL */
    int bad = sqlite3_bind_int64(stmt, at, r->pos);
    bad |= sqlite3_bind_int64(stmt, at + 1, r->tok);
    bad |= sqlite3_bind_double(stmt, at + 2, r->nll_ref);
    bad |= sqlite3_bind_double(stmt, at + 3, device ? r->nll_got : nan);
    bad |= sqlite3_bind_double(stmt, at + 4, device ? r->kl : nan);
    bad |= sqlite3_bind_double(stmt, at + 5, (double)r->margin_ref);
    bad |= or_null(stmt, at + 6, device, r->max_ulp);
    bad |= sqlite3_bind_int64(stmt, at + 7, (int64_t)r->flags);
    return bad | sqlite3_bind_int64(stmt, at + 8, r->n_resident);
}

static int bind_hash(sqlite3_stmt *stmt, int at, const dt_case *c, int64_t i)
{
    const dt_hash_row *h = &c->hashes[i];
    int bad = sqlite3_bind_int64(stmt, at, h->pos);
    bad |= sqlite3_bind_int64(stmt, at + 1, h->layer);
    bad |= sqlite3_bind_int64(stmt, at + 2, (int64_t)h->h_ref);
    return bad | or_null(stmt, at + 3, c->kernel_set_id != 0, (int64_t)h->h_got);
}

static int bind_event(sqlite3_stmt *stmt, int at, const dt_case *c, int64_t i)
{
    const kv_event *e = &c->events[i];
    uint32_t bits;
    memcpy(&bits, &e->margin, sizeof bits);
    int bad = sqlite3_bind_int64(stmt, at, i);
    bad |= sqlite3_bind_int64(stmt, at + 1, i >= c->n_events - c->n_events_got);
    bad |= sqlite3_bind_int64(stmt, at + 2, e->token);
    bad |= sqlite3_bind_int64(stmt, at + 3, e->layer);
    bad |= sqlite3_bind_int64(stmt, at + 4, e->head);
    bad |= sqlite3_bind_int64(stmt, at + 5, e->kind);
    bad |= sqlite3_bind_int64(stmt, at + 6, e->slot);
    bad |= sqlite3_bind_int64(stmt, at + 7, e->og);
    bad |= sqlite3_bind_double(stmt, at + 8, (double)e->margin);
    return bad | sqlite3_bind_int64(stmt, at + 9, (int64_t)bits);
}

/* Several rows per statement: starting one costs as much as writing a row. */
static kv_status write_many(const dt_db *db, const dt_rows_sql *rows, bind_row *bind,
                            const dt_case *c, int64_t case_id, int64_t n, const char *doing)
{
    for (int64_t i = 0; i < n;) {
        const int k = n - i >= BUNDLE ? BUNDLE : 1;
        sqlite3_stmt *stmt = k == BUNDLE ? rows->many : rows->one;
        int bad = sqlite3_bind_int64(stmt, 1, case_id);
        for (int j = 0; j < k; j++)
            bad |= bind(stmt, 2 + j * rows->columns, c, i + j);
        KV_TRY(step_once(db, stmt, bad, doing));
        i += k;
    }
    return KV_OK;
}

static kv_status write_retrieval(const dt_case_sql *s, const dt_retrieval *r, int64_t case_id)
{
    const int got = r->ans_got != NULL;
    const dt_value v[] = {
        DT_INT(case_id),
        DT_INT(r->ctx_len),
        DT_INT(r->depth_ppm),
        DT_INT(r->insert_pos),
        DT_INT(r->digits),
        DT_TEXT(r->expected),
        DT_TEXT(r->ans_ref),
        DT_TEXT(r->ans_got),
        DT_INT(r->ok_ref),
        DT_IF(got, DT_INT(r->ok_got)),
        DT_INT(r->digits_ref),
        DT_IF(got, DT_INT(r->digits_got)),
        DT_REAL(r->nll_ref),
        DT_IF(got, DT_REAL(r->nll_got)),
        DT_INT(r->needle_resident_ref),
        DT_IF(got, DT_INT(r->needle_resident_got)),
    };
    return run_bound(s->db, s->retrieval, v, DT_COUNT(v), "writing a retrieval");
}

static kv_status write_coverage(const dt_case_sql *s, const dt_case *c, int64_t case_id)
{
    for (int i = 0; i < DT_CELL_COUNT; i++) {
        const dt_value v[] = {DT_INT(case_id), DT_TEXT(dt_cell_name(i)), DT_INT(c->cells[i])};
        if (c->cells[i]) KV_TRY(run_bound(s->db, s->coverage, v, DT_COUNT(v), "writing visited states"));
    }
    return KV_OK;
}

static kv_status write_all(const dt_case_sql *s, const dt_case *c)
{
    KV_TRY(write_kase(s, c));
    const int64_t case_id = sqlite3_last_insert_rowid(s->db->h);
    KV_TRY(write_many(s->db, &s->tok, bind_tok, c, case_id, c->n_rows, "writing token rows"));
    KV_TRY(write_many(s->db, &s->hash, bind_hash, c, case_id, c->n_hashes, "writing digests"));
    KV_TRY(write_many(s->db, &s->event, bind_event, c, case_id, c->n_events, "writing decisions"));
    if (c->retrieval) KV_TRY(write_retrieval(s, c->retrieval, case_id));
    KV_TRY(write_coverage(s, c, case_id));
    const dt_value v[] = {DT_INT(time(NULL)), DT_INT(c->run_id)};
    return run_bound(s->db, s->touch, v, DT_COUNT(v), "writing a case");
}

kv_status dt_case_sql_write(const dt_case_sql *s, const dt_case *c)
{
    KV_TRY(dt_sql_begin(s->db));
    const kv_status st = dt_sql_end(s->db, write_all(s, c));
    if (st != KV_OK) kv_prefix_message("case '%s'", c->key);
    return st;
}
