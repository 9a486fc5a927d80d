#include "difftest/kernel_side.h"

#include "common/rng.h"
#include "difftest/model_calls.h"
#include "difftest/ops/build.h"
#include "ref/backend.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A candidate as one session uses it. */
typedef struct kernel {
    dt_candidate *candidate;
    dt_exec exec;
    dt_model_calls model;
    uint64_t calls;
    dt_kernel_judge judge;
} kernel;

/* The reference's session, and whose kernels it calls. The reference's calls are given the former. */
typedef struct session {
    kv_session *inner;
    kernel k;
    char error[KV_MESSAGE_MAX];
} session;

/* ---- one call
 * ------------------------------------------------------------------------------------------------------------ */

static kv_status make_call(void *ctx, const dt_opcase *c, dt_result *r)
{
    kernel *k = ctx;
    const char *const name = dt_op_schemas[c->op].name;
    const dt_placement p = {.salt = kv_splitmix64(k->calls++), .base = -1};
    KV_TRY(dt_exec_call(&k->exec, c, &p, r));
    if (r->reply.outcome != DT_DONE)
        return kv_fail(r->reply.outcome == DT_REFUSED ? KV_ERR_UNSUPPORTED : KV_ERR_DEVICE,
                       "%s of the candidate: %.400s", name, r->reply.why);
    if (!r->guard_ok || !r->inputs_ok) return kv_fail(KV_ERR_CONTRACT, "%s of the candidate %s", name, r->where);
    return KV_OK;
}

/* The candidate's outputs go where the forward pass wants them. */
static kv_status compute(void *ctx, dt_opcase *c)
{
    kernel *k = ctx;
    const dt_op_schema *s = &dt_op_schemas[c->op];
    dt_result r;
    k->judge.layer = k->model.layer;
    k->judge.token = k->model.token;
    kv_status st = make_call(k, c, &r);
    if (st == KV_OK) st = dt_kernel_judge_call(&k->judge, c, &r, make_call, k);
    for (int t = 0; t < s->n_tensors && st == KV_OK; t++) {
        kvdk_tensor *out = dt_opcase_find(c, s->tensors[t].name);
        if (r.out[t]) memcpy(out->data, r.out[t], (size_t)dt_tensor_count(out) * dt_dtype_bytes(out->dtype));
    }
    dt_result_free(&r);
    return st;
}

/* ---- options
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct choice {
    char path[PATH_MAX];
    uint8_t ops[KVDK_OP_COUNT];
    int all;
} choice;

static kv_status parse_ops(const char *list, choice *out)
{
    char name[40];
    while (*list) {
        const size_t n = strcspn(list, "+");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), list);
        const int op = dt_op_find(name);
        if (op < 0 || !dt_model_has_op(op))
            return kv_fail(KV_ERR_USAGE,
                           "ops=%s: a model takes rmsnorm, gemm, attn_prefill and attn_decode from a candidate", name);
        out->ops[op] = 1;
        list += n + (list[n] == '+');
    }
    return KV_OK;
}

static kv_status parse(const char *options, choice *out)
{
    *out = (choice){.all = 1};
    const char *comma = options ? strstr(options, ",ops=") : NULL;
    const size_t n = comma ? (size_t)(comma - options) : options ? strlen(options) : 0;
    if (n == 0 || n >= sizeof out->path)
        return kv_fail(KV_ERR_USAGE, "it needs the file of a candidate; write --device=kernel:./my_kernels.so");
    memcpy(out->path, options, n);
    out->path[n] = '\0';
    out->all = comma == NULL;
    return comma ? parse_ops(comma + 5, out) : KV_OK;
}

static kv_status open_kernel(const choice *o, kernel *k)
{
    char built[PATH_MAX];
    int n = 0;
    KV_TRY(dt_candidate_build(o->path, 0, built, sizeof built));
    KV_TRY(dt_candidate_open(built, NULL, &k->candidate));
    const dt_candidate_info *info = dt_candidate_describe(k->candidate);
    for (int op = 0; op < KVDK_OP_COUNT; op++) {
        k->model.uses[op] = info->has[op] && dt_model_has_op(op) && (o->all || o->ops[op]);
        n += k->model.uses[op];
        if (o->ops[op] && !info->has[op])
            return kv_fail(KV_ERR_USAGE, "candidate '%s' has no %s", o->path, dt_op_schemas[op].name);
    }
    dt_exec_begin(&k->exec, k->candidate);
    return n ? KV_OK
             : kv_fail(KV_ERR_UNSUPPORTED,
                       "candidate '%s' has none of rmsnorm, gemm, attn_prefill, attn_decode; `kvdiff ops` judges "
                       "the other operations",
                       o->path);
}

static void close_kernel(kernel *k)
{
    if (k->candidate) dt_exec_end(&k->exec);
    dt_candidate_close(k->candidate);
    dt_model_calls_free(&k->model);
}

/* ---- the side
 * ------------------------------------------------------------------------------------------------------------------ */

/* The reference writes its reasons into its own session. */
static kv_status from_inner(session *s, kv_status st)
{
    if (st != KV_OK) snprintf(s->error, sizeof s->error, "%s", ref_backend()->last_error(s->inner));
    return st;
}

static void close_session(kv_session *handle)
{
    session *s = (session *)handle;
    if (!s) return;
    ref_backend()->close(s->inner);
    close_kernel(&s->k);
    free(s);
}

static kv_status fill_session(session *s, const kv_open_args *args)
{
    choice o;
    kv_open_args a = *args;
    a.options = NULL;
    KV_TRY(parse(args->options, &o));
    KV_TRY(open_kernel(&o, &s->k));
    KV_TRY(ref_backend()->open(&a, &s->inner));
    s->k.judge = (dt_kernel_judge){.info = dt_candidate_describe(s->k.candidate), .first = {.token = -1}};
    s->k.model.compute = compute;
    s->k.model.ctx = &s->k;
    return dt_model_calls_hook(&s->k.model, s->inner);
}

static kv_status open_session(const kv_open_args *args, kv_session **out)
{
    *out = NULL;
    session *s = calloc(1, sizeof *s);
    if (!s) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const kv_status st = fill_session(s, args);
    if (st == KV_OK)
        *out = (kv_session *)s;
    else
        close_session((kv_session *)s);
    return st;
}

const dt_kernel_judge *dt_kernel_session_judge(const kv_session *handle)
{
    return &((const session *)handle)->k.judge;
}

static const char *last_error(const kv_session *handle)
{
    return handle ? ((const session *)handle)->error : kv_message();
}

#define INNER(handle)              (((session *)(handle))->inner)
#define FORWARD(handle, name, ...) from_inner((session *)(handle), ref_backend()->name(INNER(handle), ##__VA_ARGS__))

static kv_status reset(kv_session *s)
{
    return FORWARD(s, reset);
}
static kv_status step(kv_session *s, const kv_step *p)
{
    return FORWARD(s, step, p);
}
static kv_status export_state(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    return FORWARD(s, export_state, layer, what, dst, cap, need);
}
static kv_status import_state(kv_session *s, const void *src, size_t size)
{
    return FORWARD(s, import_state, src, size);
}
static kv_status snapshot(kv_session *s, void **out)
{
    return FORWARD(s, snapshot, out);
}
static kv_status restore(kv_session *s, const void *snap)
{
    return FORWARD(s, restore, snap);
}
static void snapshot_free(kv_session *s, void *snap)
{
    ref_backend()->snapshot_free(INNER(s), snap);
}
static kv_status digest(kv_session *s, int32_t layer, kv_digest *out)
{
    return FORWARD(s, digest, layer, out);
}
static kv_status table(kv_session *s, kv_table which, int64_t first, int64_t n, float *dst)
{
    return FORWARD(s, table, which, first, n, dst);
}

static kv_status available(const char *options, char *why, size_t size)
{
    choice o;
    kernel k = {0};
    kv_status st = parse(options, &o);
    if (st == KV_OK) st = open_kernel(&o, &k);
    if (st != KV_OK) snprintf(why, size, "%s", kv_message());
    close_kernel(&k);
    return st;
}

/* One table for every contract: the promise is the candidate's, and a table has only one. */
static kv_backend sides[KVDK_STATISTICAL + 1];

int dt_is_kernel_side(const kv_backend *b)
{
    return b >= sides && b <= &sides[KVDK_STATISTICAL];
}

kv_status dt_kernel_side(const char *options, const kv_backend **out)
{
    choice o;
    kernel k = {0};
    KV_TRY(parse(options, &o));
    const kv_status st = open_kernel(&o, &k);
    const int contract = st == KV_OK ? dt_candidate_describe(k.candidate)->contract : 0;
    close_kernel(&k);
    KV_TRY(st);
    sides[contract] = (kv_backend){.abi = KV_BACKEND_ABI,
                                   .caps = ref_backend()->caps,
                                   .contract = contract == KVDK_BITEXACT  ? KV_CONTRACT_BITEXACT
                                               : contract == KVDK_BOUNDED ? KV_CONTRACT_BOUNDED
                                                                          : KV_CONTRACT_STATISTICAL,
                                   .name = "kernel",
                                   .available = available,
                                   .open = open_session,
                                   .close = close_session,
                                   .last_error = last_error,
                                   .reset = reset,
                                   .step = step,
                                   .export_state = export_state,
                                   .import_state = import_state,
                                   .snapshot = snapshot,
                                   .restore = restore,
                                   .snapshot_free = snapshot_free,
                                   .digest = digest,
                                   .table = table};
    *out = &sides[contract];
    return KV_OK;
}
