#include "difftest/locate_report.h"

#include "common/hash.h"
#include "difftest/db_private.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* ---- for people ------------------------------------------------------------------------------------------- */

static void print_place(const dt_finding *f, FILE *out)
{
    if (f->pos >= 0 && f->step_n > 0)
        fprintf(out, "      first wrong token %lld, in the step of tokens %lld to %lld\n", (long long)f->pos,
                (long long)f->step_at, (long long)(f->step_at + f->step_n - 1));
    else if (f->pos >= 0)
        fprintf(out, "      position %lld, before the first step\n", (long long)f->pos);
    fprintf(out, "      op %s", f->op ? f->op : "unknown");
    if (f->layer >= 0) fprintf(out, "  layer %d", f->layer);
    if (f->head >= 0) fprintf(out, "  head %d", f->head);
    if (f->slot >= 0) fprintf(out, "  slot %lld", (long long)f->slot);
    if (f->slot_token >= 0) fprintf(out, " (token %lld)", (long long)f->slot_token);
    if (f->elem >= 0) fprintf(out, "  element %lld", (long long)f->elem);
    fputc('\n', out);
}

static void print_values(const dt_finding *f, FILE *out)
{
    if (!f->has_values) return;
    fprintf(out, "      %s: ref 0x%08x %.9g  got 0x%08x %.9g", f->where, f->ref_bits, f->ref_value, f->got_bits,
            f->got_value);
    if (f->ulp >= 0) fprintf(out, "  (%lld ulp)", (long long)f->ulp);
    if (f->bound > 0) fprintf(out, "  error %.3g, allowed %.3g", fabs(f->got_value - f->ref_value), f->bound);
    fputc('\n', out);
}

static void print_diffs(const dt_finding *f, FILE *out)
{
    for (int32_t i = 0; i < f->n_diffs && i < 3; i++) {
        const dt_evict_diff *d = &f->diffs[i];
        fprintf(out, "      eviction at token %lld, layer %d", (long long)d->pos, d->layer);
        if (d->head >= 0) fprintf(out, ", KV head %d", d->head);
        fprintf(out, ": reference %lld, device %lld\n", (long long)d->ref_victim, (long long)d->got_victim);
    }
    if (f->n_diffs > 3) fprintf(out, "      and %d more evictions\n", f->n_diffs - 3);
}

void dt_report_print(const dt_report *r, FILE *out)
{
    static const char *const words[] = {"SAME", "FAIL", "ERROR", "UNSUPPORTED"};
    const dt_finding *f = r->found;
    fprintf(out, "%-5s %s\n", words[f->found], r->key);
    if (f->found == DT_FOUND_NOTHING) {
        fprintf(out, "      both sides agree: the case does not differ any more\n");
        return;
    }
    if (f->found == DT_FOUND_REFUSED) {
        fprintf(out, "      the device refuses the case: %s\n", f->hypothesis);
        return;
    }
    print_place(f, out);
    print_values(f, out);
    print_diffs(f, out);
    fprintf(out, "      class %s: %s\n", f->klass, f->hypothesis);
    if (f->replays) fprintf(out, "      repeated %d times: %d gave the same bits\n", f->replays, f->same);
    fprintf(out, "      repro: %s\n", r->repro);
}

/* ---- for programs ----------------------------------------------------------------------------------------- */

static json_t *number(int64_t x, int64_t none)
{
    return x == none ? json_null() : json_integer(x);
}

static json_t *text(const char *s)
{
    return s ? json_string(s) : json_null();
}

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *bits(uint32_t x)
{
    char hex[16];
    snprintf(hex, sizeof hex, "0x%08x", x);
    return json_string(hex);
}

static json_t *diffs(const dt_finding *f)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < f->n_diffs; i++) {
        const dt_evict_diff *d = &f->diffs[i];
        json_array_append_new(list, json_pack("{s:I, s:i, s:i, s:o, s:o}", "pos", (json_int_t)d->pos, "layer", d->layer,
                                              "head", d->head, "ref_victim", number(d->ref_victim, -1), "got_victim",
                                              number(d->got_victim, -1)));
    }
    return list;
}

json_t *dt_report_json(const dt_report *r)
{
    static const char *const words[] = {"same", "fail", "error", "unsupported"};
    const dt_finding *f = r->found;
    json_t *j = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:s}", "key", r->key, "found",
                          words[f->found], "pos", number(f->pos, -1), "step_at", number(f->step_at, -1), "layer",
                          number(f->layer, -1), "op", text(f->op), "head", number(f->head, -1), "slot",
                          number(f->slot, -1), "slot_token", number(f->slot_token, -1), "elem", number(f->elem, -1),
                          "klass", f->klass, "hypothesis", f->hypothesis);
    if (!j) return NULL;
    if (f->has_values)
        json_object_update_new(j, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "where", f->where, "ref_bits",
                                            bits(f->ref_bits), "got_bits", bits(f->got_bits), "ref", real(f->ref_value),
                                            "got", real(f->got_value), "ulp", number(f->ulp, -1), "bound",
                                            real(f->bound)));
    json_object_set_new(j, "evictions", diffs(f));
    json_object_set_new(j, "replays", json_integer(f->replays));
    json_object_set_new(j, "same", json_integer(f->same));
    json_object_set_new(j, "repro", text(r->repro));
    return j;
}

/* ---- for the database ------------------------------------------------------------------------------------- */

static kv_status run(dt_db *db, const char *sql, const dt_value *v, int n)
{
    return dt_sql_run(db, sql, v, n, NULL);
}

enum { STATE_MAX = 16 << 20 }; /* larger states are not kept */

/* The reference's state before the step, compressed. sha is NULL-able: *has tells. */
static kv_status store_state(dt_db *db, const dt_finding *f, uint8_t sha[32], int *has)
{
    *has = f->state_bytes > 0 && f->state_bytes <= STATE_MAX;
    if (!*has) return KV_OK;
    const size_t room = ZSTD_compressBound(f->state_bytes);
    void *packed = malloc(room);
    if (!packed) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const size_t n = ZSTD_compress(packed, room, f->state.p, f->state_bytes, 3);
    kv_sha256(f->state.p, f->state_bytes, sha);
    const dt_value v[] = {DT_BLOB(sha, 32), DT_TEXT("zstd"), DT_INT(f->state_bytes), DT_BLOB(packed, (int)n)};
    const kv_status st =
        ZSTD_isError(n)
            ? kv_fail(KV_ERR_INTERNAL, "zstd: %s", ZSTD_getErrorName(n))
            : run(db, "INSERT OR IGNORE INTO blob(sha, codec, raw_len, data) VALUES(?,?,?,?)", v, DT_COUNT(v));
    free(packed);
    return st;
}

#define AT(x) DT_IF((x) >= 0, DT_INT(x))

static kv_status store_divergence(dt_db *db, const dt_report *r)
{
    const dt_finding *f = r->found;
    uint8_t sha[32];
    int has;
    KV_TRY(store_state(db, f, sha, &has));
    const double err = fabs(f->got_value - f->ref_value);
    const dt_value v[] = {DT_INT(r->case_id),
                          DT_INT(f->pos),
                          AT(f->layer),
                          DT_TEXT(f->op),
                          AT(f->head),
                          AT(f->slot),
                          AT(f->elem),
                          DT_IF(f->has_values, DT_INT(f->ref_bits)),
                          DT_IF(f->has_values, DT_INT(f->got_bits)),
                          DT_IF(f->has_values, DT_REAL(f->ref_value)),
                          DT_IF(f->has_values, DT_REAL(f->got_value)),
                          AT(f->ulp),
                          DT_IF(f->has_values, DT_REAL(err)),
                          DT_IF(f->has_values, DT_REAL(f->bound)),
                          DT_IF(f->bound > 0, DT_REAL(err / f->bound)),
                          DT_TEXT(f->klass),
                          DT_TEXT(f->hypothesis),
                          DT_IF(f->replays, DT_INT(f->replays)),
                          DT_IF(f->replays, DT_INT(f->same == f->replays)),
                          DT_IF(has, DT_BLOB(sha, 32)),
                          DT_TEXT(r->repro)};
    return run(db,
               "INSERT INTO divergence(case_id, pos, layer, op, head, slot, elem, ref_bits, got_bits, ref_val, "
               "got_val, ulp, err, bound, "
               "ratio, klass, hypothesis, replays, deterministic, snapshot_sha, repro) "
               "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
               v, DT_COUNT(v));
}

static int64_t pattern(double x)
{
    const float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static kv_status store_diff(dt_db *db, int64_t case_id, const dt_evict_diff *d)
{
    const dt_value v[] = {DT_INT(case_id),
                          DT_INT(d->pos),
                          DT_INT(d->layer),
                          DT_INT(d->head),
                          AT(d->ref_victim),
                          AT(d->got_victim),
                          DT_REAL(d->ref_score),
                          DT_REAL(d->got_score),
                          DT_IF(!isnan(d->ref_score), DT_INT(pattern(d->ref_score))),
                          DT_IF(!isnan(d->got_score), DT_INT(pattern(d->got_score))),
                          DT_INT(d->tie)};
    return run(db, "INSERT OR REPLACE INTO evict_diff VALUES(?,?,?,?,?,?,?,?,?,?,?)", v, DT_COUNT(v));
}

static kv_status store_all(dt_db *db, const dt_report *r)
{
    const dt_value id = DT_INT(r->case_id);
    const dt_finding *f = r->found;
    KV_TRY(run(db, "DELETE FROM divergence WHERE case_id = ?", &id, 1));
    KV_TRY(run(db, "DELETE FROM evict_diff WHERE case_id = ?", &id, 1));
    if (f->found == DT_FOUND_VALUE || f->found == DT_FOUND_ERROR) KV_TRY(store_divergence(db, r));
    for (int32_t i = 0; i < f->n_diffs; i++)
        KV_TRY(store_diff(db, r->case_id, &f->diffs[i]));
    return KV_OK;
}

kv_status dt_report_store(dt_db *db, const dt_report *r)
{
    KV_TRY(dt_sql_begin(db));
    return dt_sql_end(db, store_all(db, r));
}

/* ---- causes ----------------------------------------------------------------------------------------------- */

void dt_report_cause(const dt_finding *f, char *dst, size_t size)
{
    size_t n = 0;
    for (const char *p = f->hypothesis; *p && n + 1 < size;) {
        if (!isdigit((unsigned char)*p)) {
            dst[n++] = *p++;
            continue;
        }
        while (isalnum((unsigned char)*p) || *p == '.' || ((*p == '-' || *p == '+') && p[-1] == 'e'))
            p++;
        dst[n++] = '#';
    }
    dst[n] = 0;
}
