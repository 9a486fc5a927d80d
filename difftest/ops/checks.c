#include "difftest/ops/checks.h"

#include "common/rng.h"
#include "difftest/ops/checks_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *about;
} checks[] = {
#define X(name, about) {#name, about},
    DT_CHECK_LIST(X)
#undef X
};

const char *dt_check_name(int check)
{
    return checks[check].name;
}
const char *dt_check_about(int check)
{
    return checks[check].about;
}

/* ---- rows
 * ------------------------------------------------------------------------------------------------------------- */

/* Checks of several calls are repeated as a whole, the others by their call alone. */
static int is_of_one_call(dt_check check)
{
    switch (check) {
    case DT_CHECK_rerun:
    case DT_CHECK_rows:
    case DT_CHECK_fresh:
    case DT_CHECK_hidden:
    case DT_CHECK_revalidate:
    case DT_CHECK_timing:
    case DT_CHECK_too_good:
        return 0;
    default:
        return 1;
    }
}

static void write_repro(const checking *k, const dt_opcase *c, char *dst, size_t size)
{
    if (!c) {
        snprintf(dst, size, "kvdiff ops --kernel=%s --op=%s --seed=0x%llx", k->request->kernel,
                 dt_op_schemas[k->report->op].name, (unsigned long long)k->request->seed);
        return;
    }
    snprintf(dst, size, "kvdiff ops --kernel=%s --op=%s --dist=%s --shape=%lld --seed=0x%llx", k->request->kernel,
             dt_op_schemas[c->op].name, dt_dist_name(c->dist), (long long)c->shape, (unsigned long long)c->seed);
}

void dt_checks_pass(checking *k, dt_check check)
{
    dt_check_row *row = &k->report->checks[check];
    row->n++;
    if (row->status == DT_CASE_SKIP) row->status = DT_CASE_PASS;
}

void dt_checks_fail(checking *k, dt_check check, const dt_opcase *c, dt_case_status status, const char *fmt, ...)
{
    dt_check_row *row = &k->report->checks[check];
    row->n++;
    if (row->n_bad++) return;
    row->status = status;
    int n = c ? snprintf(row->detail, sizeof row->detail, "%s, %s: ", c->title, dt_dist_name(c->dist)) : 0;
    va_list list;
    va_start(list, fmt);
    vsnprintf(row->detail + n, sizeof row->detail - (size_t)n, fmt, list);
    va_end(list);
    write_repro(k, is_of_one_call(check) ? c : NULL, row->repro, sizeof row->repro);
}

void dt_checks_skip(checking *k, dt_check check, const char *why)
{
    dt_check_row *row = &k->report->checks[check];
    if (row->status == DT_CASE_SKIP) snprintf(row->detail, sizeof row->detail, "%s", why);
}

/* ---- one call
 * ------------------------------------------------------------------------------------------------------------ */

int dt_checks_note_call(checking *k, const dt_opcase *c, const dt_result *r)
{
    k->report->n_calls++;
    if (r->reply.outcome == DT_REFUSED) {
        if (k->report->n_refused++ == 0) snprintf(k->refusal, sizeof k->refusal, "%s: %.200s", c->title, r->reply.why);
        return 0;
    }
    if (r->reply.outcome != DT_DONE) {
        k->crashes += r->reply.outcome == DT_DIED || r->reply.outcome == DT_HUNG;
        dt_checks_fail(k, DT_CHECK_call, c, r->reply.outcome == DT_HUNG ? DT_CASE_TIMEOUT : DT_CASE_ERROR, "%s",
                       r->reply.why);
        return 0;
    }
    dt_checks_pass(k, DT_CHECK_call);
    return 1;
}

void dt_checks_note_surroundings(checking *k, const dt_opcase *c, const dt_placement *p, const dt_result *r)
{
    if (r->guard_ok)
        dt_checks_pass(k, DT_CHECK_guard);
    else
        dt_checks_fail(k, DT_CHECK_guard, c, DT_CASE_FAIL, "%s", r->where);
    if (r->inputs_ok)
        dt_checks_pass(k, DT_CHECK_inputs);
    else
        dt_checks_fail(k, DT_CHECK_inputs, c, DT_CASE_FAIL, "%s", r->where);
    if (r->n_unwritten == 0)
        dt_checks_pass(k, DT_CHECK_unwritten);
    else
        dt_checks_fail(k, DT_CHECK_unwritten, c, DT_CASE_FAIL, "%s", r->where);
    if (r->reply.fpenv)
        dt_checks_pass(k, DT_CHECK_fpenv);
    else
        dt_checks_fail(k, DT_CHECK_fpenv, c, DT_CASE_FAIL,
                       "the floating-point state was changed; no fast-math start-up code, restore MXCSR");
    if (!p->watch_late) return;
    if (r->late_ok)
        dt_checks_pass(k, DT_CHECK_late);
    else
        dt_checks_fail(k, DT_CHECK_late, c, DT_CASE_FAIL, "%s", r->where);
}

static dt_check check_of(dt_dist dist)
{
    switch (dist) {
    case DT_DIST_exact:
        return DT_CHECK_exact;
    case DT_DIST_dye:
        return DT_CHECK_dye;
    case DT_DIST_ascending:
    case DT_DIST_low:
    case DT_DIST_subnormal:
        return DT_CHECK_special;
    default:
        return DT_CHECK_numeric;
    }
}

static void fail_difference(checking *k, dt_check check, const dt_opcase *c, const dt_op_difference *d)
{
    dt_element_name where;
    k->impl->name(c, d->bad_slot, d->bad_index, &where);
    const char *const tensor = dt_op_schemas[c->op].tensors[d->bad_slot].name;
    if (k->info->contract == KVDK_BITEXACT || check == DT_CHECK_exact || d->bad_bound == 0)
        dt_checks_fail(k, check, c, DT_CASE_FAIL,
                       "%s, %s: ref %.9g (0x%08x) got %.9g (0x%08x); %lld of %lld elements differ", tensor, where.text,
                       d->ref_value, d->ref_bits, d->got_value, d->got_bits, (long long)d->n_bad, (long long)d->n_elem);
    else
        dt_checks_fail(k, check, c, DT_CASE_FAIL,
                       "%s, %s: true %.9g got %.9g, bound %.3g; %lld of %lld elements over it, worst %.3g times",
                       tensor, where.text, d->ref_value, d->got_value, d->bad_bound, (long long)d->n_bad,
                       (long long)d->n_elem, d->max_ratio);
}

static kv_status recall(void *ctx, const dt_opcase *c, dt_result *out)
{
    checking *k = ctx;
    const dt_placement p = dt_checks_place(k);
    KV_TRY(dt_exec_call(&k->exec, c, &p, out));
    return out->reply.outcome == DT_DONE ? KV_OK : kv_fail(KV_ERR_DEVICE, "%s", out->reply.why);
}

/* The first wrong element in words; of attention the entry of the view that is to blame. */
static void note_culprit(checking *k, const dt_opcase *c, const dt_op_difference *d)
{
    dt_op_report *r = k->report;
    dt_probe probe = {.kind = DT_PROBE_NOTHING};
    if (r->has_first_bad && (!dt_probe_applies(c->op) || k->is_probed)) return;
    k->impl->name(c, d->bad_slot, d->bad_index, &r->first_bad);
    r->has_first_bad = 1;
    if (!dt_probe_applies(c->op) || dt_probe_weights(c, &k->info->precision, 0, recall, k, &probe) != KV_OK ||
        !probe.kind)
        return;
    k->is_probed = 1;
    r->first_bad = (dt_element_name){.token = probe.token, .head = probe.head, .slot = probe.entry, .dim = -1};
    snprintf(r->first_bad.text, sizeof r->first_bad.text, "%s", probe.text);
    snprintf(r->first_bad_case, sizeof r->first_bad_case, "%s, %s", c->title, dt_dist_name(c->dist));
}

kv_status dt_checks_judge(checking *k, const dt_opcase *c, const dt_answer *right, void *const got[DT_OP_TENSORS],
                          dt_check check, dt_op_difference *d)
{
    dt_op_report *r = k->report;
    KV_TRY(dt_op_compare(c, right, got, k->info->contract, c->dist == DT_DIST_exact, d));
    r->n_informative += d->n_informative;
    if (d->max_ratio > r->worst_ratio) r->worst_ratio = d->max_ratio;
    if (d->max_ulp > r->max_ulp) r->max_ulp = d->max_ulp;
    if (!d->n_bad) {
        dt_checks_pass(k, check);
        return KV_OK;
    }
    note_culprit(k, c, d);
    fail_difference(k, check, c, d);
    return KV_OK;
}

kv_status dt_checks_answer(checking *k, const dt_opcase *c, dt_answer *right)
{
    double ratio;
    KV_TRY(k->impl->answer(c, &k->info->precision, right));
    const int trusted = dt_op_trust(c, right, &ratio);
    if (ratio > k->report->ref_ratio) k->report->ref_ratio = ratio;
    if (trusted) return KV_OK;
    return kv_fail(
        KV_ERR_INTERNAL,
        "%s %s, %s, shape %lld, seed 0x%llx: the reference leaves its own bound (%.3g times): a fault of the tester",
        dt_op_schemas[c->op].name, c->title, dt_dist_name(c->dist), (long long)c->shape, (unsigned long long)c->seed,
        ratio);
}

/* The places of a case follow from the case, so that its command alone repeats them. */
static void begin_places(checking *k, const dt_opcase *c)
{
    k->placements = ((c->shape * DT_DIST_COUNT + c->dist) * 64 + c->part) * 2;
}

dt_placement dt_checks_place(checking *k)
{
    const uint64_t i = (uint64_t)k->placements++;
    return (dt_placement){.salt = kv_splitmix64(k->request->seed ^ (0x9d5u + i)),
                          .gap = (int64_t)(i % 3) * 4,
                          .at_end = i / 3 % 2 == 0,
                          .base = -1,
                          .watch_late = k->late_looks++ < 2};
}

/* ---- one case
 * ------------------------------------------------------------------------------------------------------------ */

static dt_op_record *new_record(dt_op_report *r, const dt_opcase *c)
{
    if (r->n_records == r->cap_records) {
        const int64_t cap = r->cap_records ? 2 * r->cap_records : 64;
        dt_op_record *p = realloc(r->records, (size_t)cap * sizeof *p);
        if (!p) return NULL;
        r->records = p;
        r->cap_records = cap;
    }
    dt_op_record *e = &r->records[r->n_records++];
    *e = (dt_op_record){.seed = c->seed, .shape = c->shape, .rerun_same = -1, .guard_ok = -1, .inputs_ok = -1};
    snprintf(e->title, sizeof e->title, "%s", c->title);
    snprintf(e->dist, sizeof e->dist, "%s", dt_dist_name(c->dist));
    return e;
}

/* The same inputs among other rubbish, at another place. */
static kv_status check_poison(checking *k, const dt_opcase *c, const dt_result *first)
{
    dt_result r;
    int slot;
    int64_t at;
    const dt_placement p = dt_checks_place(k);
    KV_TRY(dt_exec_call(&k->exec, c, &p, &r));
    if (dt_checks_note_call(k, c, &r)) {
        dt_checks_note_surroundings(k, c, &p, &r);
        if (dt_op_same(c, first->out, r.out, &slot, &at))
            dt_checks_pass(k, DT_CHECK_poison);
        else if (k->info->determinism == KVDK_NO_PROMISE)
            dt_checks_skip(k, DT_CHECK_poison, "it promises no determinism, and repeats differ");
        else
            dt_checks_fail(
                k, DT_CHECK_poison, c, DT_CASE_FAIL,
                "%s, element %lld depends on what was in memory that it must not read, or on where tensors lie",
                dt_op_schemas[c->op].tensors[slot].name, (long long)at);
    }
    dt_result_free(&r);
    return KV_OK;
}

static kv_status judge_case(checking *k, const dt_opcase *c, const dt_result *r)
{
    dt_answer right = {0};
    dt_op_record *record = new_record(k->report, c);
    if (!record) return kv_fail(KV_ERR_NOMEM, "out of memory");
    record->guard_ok = r->guard_ok;
    record->inputs_ok = r->inputs_ok;
    record->seconds = r->reply.seconds;
    kv_status st = dt_checks_answer(k, c, &right);
    if (st == KV_OK) st = dt_checks_judge(k, c, &right, r->out, check_of(c->dist), &record->difference);
    record->has_difference = st == KV_OK;
    dt_answer_free(&right);
    return st;
}

static kv_status run_case(checking *k, const dt_opcase *c)
{
    dt_result r;
    begin_places(k, c);
    const dt_placement p = dt_checks_place(k);
    if (k->request->verbose) {
        char repro[600];
        write_repro(k, c, repro, sizeof repro);
        fprintf(stderr, "%s\n", repro);
    }
    kv_status st = dt_exec_call(&k->exec, c, &p, &r);
    if (st == KV_OK && dt_checks_note_call(k, c, &r)) {
        dt_checks_note_surroundings(k, c, &p, &r);
        st = judge_case(k, c, &r);
        if (st == KV_OK) st = check_poison(k, c, &r);
    }
    dt_result_free(&r);
    return st;
}

kv_status dt_checks_draw(checking *k, int64_t shape, dt_dist dist, uint64_t seed, int64_t part, dt_opcase *c)
{
    dt_opcase_begin(c, k->report->op, shape, dist, seed);
    c->part = part;
    const kv_status st = k->impl->draw(c);
    if (st != KV_OK) dt_opcase_free(c);
    return st;
}

static kv_status draw_and_run(checking *k, int64_t shape, dt_dist dist)
{
    int64_t parts = 1;
    for (int64_t part = 0; part < parts && part < 64 && k->crashes < MOST_CRASHES; part++) {
        dt_opcase c;
        KV_TRY(dt_checks_draw(k, shape, dist, k->request->seed, part, &c));
        if (dist == DT_DIST_dye) parts = c.n_parts;
        const kv_status st = run_case(k, &c);
        dt_opcase_free(&c);
        KV_TRY(st);
    }
    return KV_OK;
}

static kv_status run_all(checking *k)
{
    static const int random_shapes[] = {2, 8, 40, 200};
    const dt_ops_request *r = k->request;
    const int64_t n = k->impl->n_shapes + random_shapes[r->level];
    for (int dist = 0; dist < DT_DIST_COUNT; dist++) {
        if (!(k->impl->dists >> dist & 1) || (r->only_dists && !(r->only_dists >> dist & 1))) continue;
        const int64_t first = r->only_shape >= 0 ? r->only_shape : 0, end = r->only_shape >= 0 ? first + 1 : n;
        for (int64_t shape = first; shape < end && k->crashes < MOST_CRASHES; shape++)
            KV_TRY(draw_and_run(k, shape, (dt_dist)dist));
    }
    return KV_OK;
}

/* ---- the whole
 * ------------------------------------------------------------------------------------------------------------- */

static int severity(dt_case_status s)
{
    switch (s) {
    case DT_CASE_ERROR:
        return 4;
    case DT_CASE_TIMEOUT:
        return 3;
    case DT_CASE_FAIL:
        return 5;
    default:
        return 0;
    }
}

static void conclude(checking *k)
{
    dt_op_report *r = k->report;
    int worst = -1;
    for (int i = 0; i < DT_CHECK_COUNT; i++)
        if (severity(r->checks[i].status) > (worst < 0 ? 0 : severity(r->checks[worst].status))) worst = i;
    if (worst >= 0) {
        r->status = r->checks[worst].status;
        snprintf(r->reason, sizeof r->reason, "%s: %.350s", dt_check_name(worst), r->checks[worst].detail);
    } else if (r->n_records == 0) {
        r->status = DT_CASE_UNSUPPORTED;
        snprintf(r->reason, sizeof r->reason, "it refuses all that it was asked: %s", k->refusal);
    } else if (k->info->contract == KVDK_STATISTICAL) {
        r->status = DT_CASE_UNTRUSTED;
        snprintf(r->reason, sizeof r->reason, "a statistical contract says nothing about single operations");
    } else if (r->n_informative == 0) {
        r->status = DT_CASE_UNTRUSTED;
        snprintf(r->reason, sizeof r->reason, "an output of zeros would have passed as well");
    } else {
        r->status = DT_CASE_PASS;
        if (r->n_refused)
            snprintf(r->reason, sizeof r->reason, "%lld calls refused, the first %s", (long long)r->n_refused,
                     k->refusal);
    }
}

kv_status dt_ops_check(dt_candidate *c, int op, const dt_ops_request *request, dt_op_report *out)
{
    checking k = {.request = request, .report = out, .info = dt_candidate_describe(c), .impl = dt_op_impl_of(op)};
    const double t = dt_checks_now();
    memset(out, 0, sizeof *out);
    out->op = op;
    for (int i = 0; i < DT_CHECK_COUNT; i++)
        out->checks[i].status = DT_CASE_SKIP;
    if (!k.impl || !k.info->has[op]) {
        out->status = DT_CASE_UNSUPPORTED;
        snprintf(out->reason, sizeof out->reason, "the candidate has no %s", dt_op_schemas[op].name);
        return KV_OK;
    }
    dt_exec_begin(&k.exec, c);
    kv_status st = run_all(&k);
    if (st == KV_OK && k.crashes < MOST_CRASHES && out->n_records) st = dt_checks_behaviour(&k, c);
    dt_exec_end(&k.exec);
    conclude(&k);
    out->wall = dt_checks_now() - t;
    return st;
}

void dt_op_report_free(dt_op_report *r)
{
    free(r->records);
    memset(r, 0, sizeof *r);
}
