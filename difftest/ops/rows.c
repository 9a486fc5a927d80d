/* rows.c - a row alone against the same row among others: whoever promises KVDK_SAME_ROW gives the same bits.
 *
 * Rows are cut out of a case by moving pointers; nothing is copied. A token of an attention call sees the tokens before
 * it as entries of the cache then. */
#include "difftest/ops/checks_private.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 4 };

/* What counts rows, and which tensors have them. */
typedef struct row_wise {
    int op;
    const char *count;
    const char *tensors[6];
} row_wise;

static const row_wise kinds[] = {
    {KVDK_OP_rmsnorm, "T", {"x", "residual", "y"}},
    {KVDK_OP_gemm, "M", {"a", "c"}},
    {KVDK_OP_rope, "T", {"x", "pos"}},
    {KVDK_OP_logits_nll, "T", {"h", "target", "nll", "row_max", "row_sum"}},
    {KVDK_OP_topk, "R", {"z", "index", "value"}},
    {KVDK_OP_attn_prefill, "T", {"q", "o"}},
    {KVDK_OP_attn_decode, "T", {"q", "o"}},
};

static const row_wise *kind_of(int op)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].op == op) return &kinds[i];
    return NULL;
}

static int64_t *count_of(dt_opcase *c, const row_wise *k)
{
    const dt_op_schema *s = &dt_op_schemas[c->op];
    int i = 0;
    while (strcmp(s->params[i].name, k->count) != 0)
        i++;
    return (int64_t *)(void *)((char *)&c->args + s->params[i].offset);
}

static size_t row_bytes(const kvdk_tensor *t)
{
    return (size_t)(t->dim[1] * t->dim[2] * t->dim[3]) * dt_dtype_bytes(t->dtype);
}

static void cut_attention(dt_opcase *c, int64_t row)
{
    kvdk_attn_args *a = &c->args.attn_prefill;
    a->row_max.data = a->row_sum.data = NULL; /* [heads][tokens]: no rows */
    for (int64_t i = 0; i < a->n_segments; i++) {
        if (a->segment[i].kind != KVDK_SELF) continue;
        a->segment[i].kind = KVDK_CACHE;
        a->segment[i].k.dim[0] = a->segment[i].v.dim[0] = row + 1;
    }
}

/* Row `row` of c as a case of its own, in the memory of c. */
static void cut(const dt_opcase *c, const row_wise *k, int64_t row, dt_opcase *out)
{
    *out = *c;
    *count_of(out, k) = 1;
    for (int i = 0; i < 6 && k->tensors[i]; i++) {
        kvdk_tensor *t = dt_opcase_find(out, k->tensors[i]);
        if (!t->data) continue;
        t->data = (char *)t->data + (size_t)row * row_bytes(t);
        t->dim[0] = 1;
    }
    if (dt_probe_applies(c->op)) cut_attention(out, row);
}

static int same_row(const dt_opcase *whole, const dt_opcase *one, const dt_result *all, const dt_result *alone,
                    int64_t row, const char **where)
{
    const dt_op_schema *s = &dt_op_schemas[whole->op];
    for (int i = 0; i < s->n_tensors; i++) {
        if (!alone->out[i]) continue;
        const size_t bytes = row_bytes(dt_op_tensor_of(&one->args, &s->tensors[i]));
        *where = s->tensors[i].name;
        if (memcmp((const char *)all->out[i] + (size_t)row * bytes, alone->out[i], bytes) != 0) return 0;
    }
    return 1;
}

static kv_status check_case(checking *k, const row_wise *kind, const dt_opcase *c, const dt_result *all)
{
    const int64_t n = *count_of((dt_opcase *)(uintptr_t)c, kind), step = n > MOST_ROWS ? n / MOST_ROWS : 1;
    for (int64_t row = 0; row < n; row += step) {
        dt_opcase one;
        dt_result r;
        const char *where = "";
        dt_placement p = dt_checks_place(k);
        p.watch_late = 0;
        cut(c, kind, row, &one);
        KV_TRY(dt_exec_call(&k->exec, &one, &p, &r));
        if (dt_checks_note_call(k, &one, &r)) {
            if (same_row(c, &one, all, &r, row, &where))
                dt_checks_pass(k, DT_CHECK_rows);
            else
                dt_checks_fail(k, DT_CHECK_rows, c, DT_CASE_FAIL,
                               "row %lld alone gives other bits in %s than among %lld", (long long)row, where,
                               (long long)n);
        }
        dt_result_free(&r);
    }
    return KV_OK;
}

kv_status dt_checks_rows(checking *k)
{
    const row_wise *kind = kind_of(k->report->op);
    if (k->info->determinism != KVDK_SAME_ROW) {
        dt_checks_skip(k, DT_CHECK_rows, "it does not promise KVDK_SAME_ROW");
        return KV_OK;
    }
    if (!kind) {
        dt_checks_skip(k, DT_CHECK_rows, "rows of this operation are not independent");
        return KV_OK;
    }
    for (int64_t shape = 0; shape < k->impl->n_shapes && k->crashes < MOST_CRASHES; shape++) {
        dt_opcase c;
        dt_result r;
        const dt_placement p = dt_checks_place(k);
        KV_TRY(dt_checks_draw(k, shape, DT_DIST_normal, k->request->seed, 0, &c));
        kv_status st = *count_of(&c, kind) > 1 ? dt_exec_call(&k->exec, &c, &p, &r) : KV_OK;
        if (*count_of(&c, kind) > 1) {
            if (st == KV_OK && dt_checks_note_call(k, &c, &r)) st = check_case(k, kind, &c, &r);
            dt_result_free(&r);
        }
        dt_opcase_free(&c);
        KV_TRY(st);
    }
    return KV_OK;
}
