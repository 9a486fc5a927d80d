/* behaviour.c - checks of how a candidate behaves over several calls, rather than of what one call gives. */
#include "difftest/ops/checks_private.h"

#include "common/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RERUNS = 20, TIMED = 8 };

double dt_checks_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A call whose failure, if it is one, stands in row `call`. 1: there is a result. */
static kv_status try_call(checking *k, const dt_opcase *c, const dt_placement *p, dt_result *r, int *ok)
{
    KV_TRY(dt_exec_call(&k->exec, c, p, r));
    *ok = dt_checks_note_call(k, c, r);
    return KV_OK;
}

/* The first listed shape that it takes, from `from` on; *found = 0: none. */
static kv_status find_case(checking *k, int64_t from, uint64_t seed, dt_opcase *c, dt_result *r, int *found)
{
    *found = 0;
    for (int64_t shape = from; shape < k->impl->n_shapes; shape++) {
        dt_placement p = dt_checks_place(k);
        KV_TRY(dt_checks_draw(k, shape, DT_DIST_normal, seed, 0, c));
        KV_TRY(dt_exec_call(&k->exec, c, &p, r));
        k->report->n_calls++;
        *found = r->reply.outcome == DT_DONE;
        if (*found) return KV_OK;
        dt_result_free(r);
        dt_opcase_free(c);
        if (r->reply.outcome == DT_DIED || r->reply.outcome == DT_HUNG) return KV_OK;
    }
    return KV_OK;
}

static kv_status check_reruns(checking *k, const dt_opcase *c, const dt_result *first)
{
    int slot, ok;
    int64_t at;
    if (k->info->determinism == KVDK_NO_PROMISE) {
        dt_checks_skip(k, DT_CHECK_rerun, "it promises no determinism");
        return KV_OK;
    }
    dt_placement p = dt_checks_place(k);
    p.watch_late = 0;
    for (int i = 0; i < RERUNS; i++) {
        dt_result r;
        KV_TRY(try_call(k, c, &p, &r, &ok));
        if (!ok) return KV_OK;
        if (dt_op_same(c, first->out, r.out, &slot, &at))
            dt_checks_pass(k, DT_CHECK_rerun);
        else
            dt_checks_fail(k, DT_CHECK_rerun, c, DT_CASE_FAIL, "repeat %d differs in %s, element %lld", i + 1,
                           dt_op_schemas[c->op].tensors[slot].name, (long long)at);
        dt_result_free(&r);
    }
    return KV_OK;
}

/* A at an address, B at the same one, A again; both must be right. */
static kv_status check_hidden(checking *k, int64_t shape)
{
    dt_opcase c[2] = {0};
    dt_answer right[2] = {0};
    kv_status st = KV_OK;
    dt_placement p = dt_checks_place(k);
    for (int i = 0; i < 2 && st == KV_OK; i++) {
        st = dt_checks_draw(k, shape, DT_DIST_normal, k->request->seed ^ (uint64_t)(0xabcd + i), 0, &c[i]);
        if (st == KV_OK) st = dt_checks_answer(k, &c[i], &right[i]);
    }
    for (int i = 0; i < 4 && st == KV_OK; i++) {
        dt_result r;
        dt_op_difference d;
        int ok;
        st = try_call(k, &c[i % 2], &p, &r, &ok);
        p.base = k->exec.last_base;
        if (st == KV_OK && ok) st = dt_checks_judge(k, &c[i % 2], &right[i % 2], r.out, DT_CHECK_hidden, &d);
        dt_result_free(&r);
    }
    for (int i = 0; i < 2; i++) {
        dt_answer_free(&right[i]);
        dt_opcase_free(&c[i]);
    }
    return st;
}

static kv_status check_again(checking *k, const dt_opcase *c, const dt_result *first)
{
    dt_result r;
    dt_answer right = {0};
    dt_op_difference d;
    int ok, slot;
    int64_t at;
    const dt_placement p = dt_checks_place(k);
    KV_TRY(try_call(k, c, &p, &r, &ok));
    kv_status st = dt_checks_answer(k, c, &right);
    if (st == KV_OK && ok) {
        if (k->info->determinism != KVDK_NO_PROMISE && !dt_op_same(c, first->out, r.out, &slot, &at))
            dt_checks_fail(k, DT_CHECK_revalidate, c, DT_CASE_FAIL,
                           "after %lld calls %s, element %lld, is not what it was at first",
                           (long long)k->report->n_calls, dt_op_schemas[c->op].tensors[slot].name, (long long)at);
        else
            st = dt_checks_judge(k, c, &right, r.out, DT_CHECK_revalidate, &d);
    }
    dt_answer_free(&right);
    dt_result_free(&r);
    return st;
}

/* What the process has learned until now must not matter. */
static kv_status check_fresh(checking *k, dt_candidate *c, const dt_opcase *first, const dt_result *result)
{
    dt_result r;
    int ok, slot;
    int64_t at;
    const dt_placement p = dt_checks_place(k);
    if (k->info->determinism == KVDK_NO_PROMISE) {
        dt_checks_skip(k, DT_CHECK_fresh, "it promises no determinism");
        return KV_OK;
    }
    if (dt_candidate_restart(c) != KV_OK) {
        dt_checks_fail(k, DT_CHECK_fresh, NULL, DT_CASE_ERROR, "it cannot be started a second time: %.300s",
                       kv_message());
        return KV_OK;
    }
    KV_TRY(try_call(k, first, &p, &r, &ok));
    if (ok && dt_op_same(first, result->out, r.out, &slot, &at))
        dt_checks_pass(k, DT_CHECK_fresh);
    else if (ok)
        dt_checks_fail(k, DT_CHECK_fresh, first, DT_CASE_FAIL, "in a new process %s, element %lld, is another",
                       dt_op_schemas[first->op].tensors[slot].name, (long long)at);
    dt_result_free(&r);
    return KV_OK;
}

/* ---- time
 * --------------------------------------------------------------------------------------------------------------------
 */

static double bytes_touched(const dt_opcase *c)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    double bytes = 0;
    for (int i = 0; i < s->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(&c->args, &s->tensors[i]);
        if (t->data) bytes += (double)dt_tensor_count(t) * (double)dt_dtype_bytes(t->dtype);
    }
    return bytes;
}

/* Two vectors of 64 bytes a cycle at 6 GHz on every core: more than any of them can load. */
static double fastest_bytes_per_second(void)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return 128.0 * 6e9 * (double)(cores > 0 ? cores : 1);
}

/* Every timed call has inputs of its own, and its result is judged: nothing can be answered from memory. */
static kv_status check_timing(checking *k, int64_t shape)
{
    const double overhead = 2e-3; /* of the message to the process and back */
    for (int i = 0; i < TIMED; i++) {
        dt_opcase c;
        dt_result r;
        dt_answer right = {0};
        dt_op_difference d;
        int ok;
        KV_TRY(dt_checks_draw(k, shape, DT_DIST_normal, k->request->seed ^ (uint64_t)(0x717e + i), 0, &c));
        dt_placement p = dt_checks_place(k);
        p.watch_late = i == TIMED - 1;
        kv_status st = try_call(k, &c, &p, &r, &ok);
        if (st == KV_OK && ok) st = dt_checks_answer(k, &c, &right);
        if (st == KV_OK && ok) st = dt_checks_judge(k, &c, &right, r.out, DT_CHECK_timing, &d);
        if (st == KV_OK && ok && r.reply.seconds < 0)
            dt_checks_fail(k, DT_CHECK_timing, &c, DT_CASE_FAIL,
                           "a call took %g s: the clock of its process is not to be trusted", r.reply.seconds);
        if (st == KV_OK && ok && r.reply.seconds > r.reply.wall + overhead)
            dt_checks_fail(k, DT_CHECK_timing, &c, DT_CASE_FAIL,
                           "it took %g s by its own clock and %g s by the tester's", r.reply.seconds, r.reply.wall);
        if (st == KV_OK && ok && r.reply.seconds < 0.9 * bytes_touched(&c) / fastest_bytes_per_second())
            dt_checks_fail(k, DT_CHECK_too_good, &c, DT_CASE_FAIL,
                           "%.3g MB in %.3g s: no machine reads them so fast; the work is done somewhere else",
                           bytes_touched(&c) / 1e6, r.reply.seconds);
        else if (st == KV_OK && ok)
            dt_checks_pass(k, DT_CHECK_too_good);
        dt_answer_free(&right);
        dt_result_free(&r);
        dt_opcase_free(&c);
        KV_TRY(st);
    }
    return KV_OK;
}

/* ---- libraries
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct search {
    checking *k;
    char found[200];
    int64_t n;
} search;

static int is_ours(const char *path)
{
    static const char *const names[] = {"emu.so", "blas.so", "cuda.so", "libkvref", "libkvdifftest", "libkvcommon"};
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(file, names[i], strlen(names[i])) == 0) return 1;
    return 0;
}

/* The process names a library by its own path, the user perhaps by a link to it. */
static int is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void look_at(void *ctx, const char *path)
{
    search *s = ctx;
    s->n++;
    if (is_ours(path) && !s->found[0] && !is_same_file(path, s->k->request->file))
        snprintf(s->found, sizeof s->found, "%s", path);
}

static void check_borrowed(checking *k, dt_candidate *c)
{
    search s = {.k = k};
    dt_reply reply;
    dt_candidate_objects(c, look_at, &s, &reply);
    if (reply.outcome != DT_DONE || s.n == 0)
        dt_checks_skip(k, DT_CHECK_borrowed, "a candidate that is a program of its own does not say what it loads");
    else if (s.found[0])
        dt_checks_fail(k, DT_CHECK_borrowed, NULL, DT_CASE_FAIL,
                       "its process has loaded %s: it computes with what it is compared with", s.found);
    else
        dt_checks_pass(k, DT_CHECK_borrowed);
}

/* What gives wrong results at once need not be asked whether it does so later. */
static int is_wrong(const checking *k)
{
    static const dt_check all[] = {DT_CHECK_numeric, DT_CHECK_special, DT_CHECK_exact, DT_CHECK_dye, DT_CHECK_call};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (k->report->checks[all[i]].n_bad) return 1;
    return 0;
}

static kv_status check_sequences(checking *k, dt_candidate *c, const dt_opcase *first, const dt_result *result)
{
    KV_TRY(dt_checks_rows(k));
    KV_TRY(check_hidden(k, first->shape));
    KV_TRY(check_timing(k, first->shape));
    KV_TRY(check_again(k, first, result));
    return check_fresh(k, c, first, result);
}

static void skip_sequences(checking *k)
{
    static const dt_check all[] = {DT_CHECK_rows,     DT_CHECK_hidden,     DT_CHECK_timing,
                                   DT_CHECK_too_good, DT_CHECK_revalidate, DT_CHECK_fresh};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dt_checks_skip(k, all[i], "single calls go wrong already");
}

kv_status dt_checks_behaviour(checking *k, dt_candidate *c)
{
    dt_opcase first;
    dt_result result;
    int found;
    dt_checks_skip(k, DT_CHECK_sanitizer, "the candidate runs on the host; compute-sanitizer looks at CUDA only");
    dt_checks_skip(k, DT_CHECK_resources, "the candidate has no device code");
    KV_TRY(find_case(k, k->impl->n_shapes / 2, k->request->seed, &first, &result, &found));
    if (!found) return KV_OK;
    kv_status st = check_reruns(k, &first, &result);
    if (st == KV_OK) check_borrowed(k, c);
    if (st == KV_OK && is_wrong(k))
        skip_sequences(k);
    else if (st == KV_OK)
        st = check_sequences(k, c, &first, &result);
    dt_result_free(&result);
    dt_opcase_free(&first);
    return st;
}
