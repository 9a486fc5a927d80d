#include "difftest/ops/record.h"

#include "common/hash.h"
#include "common/math.h"
#include "difftest/db_private.h"

#include <stdio.h>
#include <string.h>

/* -1: the candidate as a whole, which could not be used. */
static const char *op_name(int op)
{
    return op < 0 ? "*" : dt_op_schemas[op].name;
}

void dt_op_key(const dt_candidate_info *info, int op, const dt_ops_request *r, char *dst, size_t size)
{
    snprintf(dst, size, "ops|%s|%s|level=%d|seed=0x%llx", info->name, op_name(op), r->level,
             (unsigned long long)r->seed);
}

static const char *contract_of(const dt_candidate_info *info)
{
    static const char *const names[] = {"bitexact", "bounded", "statistical"};
    return names[info->contract];
}

static kv_status store_kernel(dt_db *db, const dt_candidate_info *info, const char *op, int64_t *id)
{
    uint8_t fp[32];
    kv_sha256_ctx c;
    const char *const contract = contract_of(info);
    kv_sha256_begin(&c);
    kv_sha256_add(&c, info->name, strlen(info->name) + 1);
    kv_sha256_add(&c, op, strlen(op) + 1);
    kv_sha256_add(&c, contract, strlen(contract) + 1);
    kv_sha256_add(&c, info->sha, 32);
    kv_sha256_end(&c, fp);
    const dt_value v[] = {DT_BLOB(fp, 32), DT_TEXT(info->name), DT_TEXT(""),
                          DT_TEXT(op),     DT_TEXT(contract),   DT_BLOB(info->sha, 32)};
    return dt_sql_intern(
        db, "SELECT kernel_id FROM kernel WHERE fp = ?", v, 1,
        "INSERT INTO kernel(fp, name, variant, op, is_reference, contract, so_sha) VALUES(?, ?, ?, ?, 0, ?, ?)"
        " ON CONFLICT DO NOTHING",
        v, DT_COUNT(v), id);
}

static kv_status store_case(dt_db *db, int64_t run_id, const dt_candidate_info *info, const dt_ops_request *request,
                            const dt_op_report *r, int64_t set, int64_t *case_id)
{
    char key[256], repro[600];
    const char *const op = op_name(r->op);
    dt_op_key(info, r->op, request, key, sizeof key);
    snprintf(repro, sizeof repro, "kvdiff ops --kernel=%s --op=%s --level=%d --seed=0x%llx", request->kernel, op,
             request->level, (unsigned long long)request->seed);
    const dt_value v[] = {DT_INT(run_id),
                          DT_TEXT(key),
                          DT_TEXT(info->name),
                          DT_TEXT(contract_of(info)),
                          DT_INT(KV_NUMERIC_CONTRACT_VERSION),
                          DT_INT(set),
                          DT_TEXT(dt_case_status_name(r->status)),
                          DT_IF(r->reason[0], DT_TEXT(r->reason)),
                          DT_TEXT(repro),
                          DT_REAL(r->wall * 1e3),
                          DT_INT(r->max_ulp),
                          DT_IF(r->worst_ratio < 1e300, DT_REAL(r->worst_ratio))};
    KV_TRY(dt_sql_run(db,
                      "INSERT INTO kase(run_id, key, device, mode, q, contract, contract_version, kernel_set_id, "
                      "status, reason, repro,"
                      " wall_ms, max_ulp, max_ratio) VALUES(?, ?, ?, 'ops', 0, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                      v, DT_COUNT(v), NULL));
    *case_id = sqlite3_last_insert_rowid(db->h);
    return KV_OK;
}

static kv_status store_checks(dt_db *db, int64_t case_id, const dt_op_report *r)
{
    for (int i = 0; i < DT_CHECK_COUNT; i++) {
        const dt_check_row *c = &r->checks[i];
        const dt_value v[] = {DT_INT(case_id),
                              DT_TEXT(op_name(r->op)),
                              DT_TEXT(dt_check_name(i)),
                              DT_TEXT(dt_case_status_name(c->status)),
                              DT_INT(c->n),
                              DT_INT(c->n_bad),
                              DT_IF(c->detail[0], DT_TEXT(c->detail)),
                              DT_IF(c->repro[0], DT_TEXT(c->repro))};
        KV_TRY(dt_sql_run(db, "INSERT INTO op_verdict VALUES(?, ?, ?, ?, ?, ?, ?, ?)", v, DT_COUNT(v), NULL));
    }
    return KV_OK;
}

static dt_value three_way(int x)
{
    return DT_IF(x >= 0, DT_INT(x));
}

static kv_status store_record(dt_db *db, int64_t case_id, int64_t kernel_id, int op, const dt_op_record *e)
{
    const dt_op_difference *d = &e->difference;
    const int has = e->has_difference, worst = has && d->worst_index >= 0;
    const dt_value v[] = {DT_INT(case_id),
                          DT_INT(kernel_id),
                          DT_TEXT(dt_op_schemas[op].name),
                          DT_TEXT(e->title),
                          DT_TEXT("f32"),
                          DT_TEXT(e->dist),
                          DT_INT(e->seed),
                          DT_INT(d->n_elem),
                          DT_IF(has, DT_INT(d->max_ulp)),
                          DT_IF(has, DT_INT(d->p999_ulp)),
                          DT_IF(has && d->max_abs < 1e300, DT_REAL(d->max_abs)),
                          DT_IF(has && d->max_ratio < 1e300, DT_REAL(d->max_ratio)),
                          DT_IF(has && d->nmse < 1e300, DT_REAL(d->nmse)),
                          DT_INT(d->n_bad),
                          DT_INT(d->n_nonfinite),
                          DT_IF(worst, DT_INT(d->worst_index)),
                          DT_IF(worst, DT_INT(d->ref_bits)),
                          DT_IF(worst, DT_INT(d->got_bits)),
                          DT_IF(worst, DT_REAL(d->ref_value)),
                          DT_IF(worst, DT_REAL(d->got_value)),
                          three_way(e->rerun_same),
                          three_way(e->guard_ok),
                          three_way(e->inputs_ok)};
    return dt_sql_run(
        db,
        "INSERT INTO op_check(case_id, kernel_id, op, shape, dtype, dist, seed, n_elem, max_ulp, p999_ulp, max_abs,"
        " max_ratio, nmse, n_over, n_nonfinite, arg_worst, ref_bits, got_bits, ref_val, got_val, rerun_same, guard_ok,"
        " inputs_intact) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        v, DT_COUNT(v), NULL);
}

static kv_status store_all(dt_db *db, int64_t run_id, const dt_candidate_info *info, const dt_ops_request *request,
                           const dt_op_report *r, int64_t set, int64_t kernel_id)
{
    int64_t case_id;
    KV_TRY(store_case(db, run_id, info, request, r, set, &case_id));
    if (r->op >= 0) KV_TRY(store_checks(db, case_id, r));
    for (int64_t i = 0; i < r->n_records; i++)
        KV_TRY(store_record(db, case_id, kernel_id, r->op, &r->records[i]));
    return KV_OK;
}

kv_status dt_op_store(dt_db *db, int64_t run_id, const dt_candidate_info *info, const dt_ops_request *request,
                      const dt_op_report *r)
{
    int64_t set, kernel_id;
    KV_TRY(dt_db_kernel_set(db, info->name, info->contract, info->sha, &set));
    KV_TRY(store_kernel(db, info, op_name(r->op), &kernel_id));
    KV_TRY(dt_sql_begin(db));
    return dt_sql_end(db, store_all(db, run_id, info, request, r, set, kernel_id));
}
