#include "difftest/budget.h"

#include "common/math.h"
#include "common/rng.h"
#include "difftest/ops/oracle.h"
#include "ref/backend.h"

#include <math.h>
#include <stdlib.h>

/* ---- operations that use their whole bound ------------------------------------------------------------------ */

static double sign_of(const dt_budget *b, double value, uint64_t i)
{
    if (b->sign == DT_SIGN_OUTWARD) return value < 0 ? -1 : 1;
    return kv_splitmix64(b->calls << 32 ^ i) & 1 ? -1 : 1;
}

static void move(const dt_budget *b, const dt_answer *right, int slot, kvdk_tensor *out)
{
    const float *bits = right->bits[slot];
    float *to = out->data;
    const int64_t n = dt_tensor_count(out);
    for (int64_t i = 0; i < n; i++) {
        const double value = right->value[slot][i];
        to[i] = kv_is_finite(bits[i]) ? (float)(value + sign_of(b, value, (uint64_t)i) * right->bound[slot][i]) : bits[i];
    }
}

static kv_status compute(void *ctx, dt_opcase *c)
{
    dt_budget *b = ctx;
    const dt_op_schema *s = &dt_op_schemas[c->op];
    const kvdk_precision fp32 = {0};
    dt_answer right = {0};
    b->calls++;
    const kv_status st = dt_op_impl_of(c->op)->answer(c, &fp32, &right);
    for (int i = 0; i < s->n_tensors && st == KV_OK; i++)
        if (right.value[i]) move(b, &right, i, dt_opcase_find(c, s->tensors[i].name));
    dt_answer_free(&right);
    return st;
}

/* ---- measuring ----------------------------------------------------------------------------------------------- */

static dt_full_side side_of(const kv_backend *backend, kv_storage storage)
{
    return (dt_full_side){.backend = backend, .storage = storage, .step = DT_BUDGET_STEP};
}

static double *nothing_known(int64_t n)
{
    double *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; x && i < n; i++)
        x[i] = (double)NAN;
    return x;
}

kv_status dt_budget_init(dt_budget *b, const kv_model *m, int32_t n_docs, int32_t threads)
{
    *b = (dt_budget){.model = m, .threads = threads, .legal = {.compute = compute, .ctx = b}};
    b->plain = side_of(ref_backend(), KV_STORE_F32);
    b->truth = side_of(ref64_backend(), KV_STORE_F32);
    for (int i = 0; i < KV_STORE_COUNT; i++)
        b->stored[i] = side_of(ref_backend(), (kv_storage)i);
    for (int op = 0; op < KVDK_OP_COUNT; op++)
        b->legal.uses[op] = (uint8_t)dt_model_has_op(op);
    b->operations = nothing_known(n_docs);
    b->rounding = nothing_known((int64_t)n_docs * KV_STORE_COUNT);
    return b->operations && b->rounding ? KV_OK : kv_fail(KV_ERR_NOMEM, "out of memory");
}

void dt_budget_free(dt_budget *b)
{
    dt_full_close(&b->plain);
    dt_full_close(&b->truth);
    for (int i = 0; i < KV_STORE_COUNT; i++)
        dt_full_close(&b->stored[i]);
    dt_model_calls_free(&b->legal);
    kv_buffer_free(&b->right);
    kv_buffer_free(&b->other);
    free(b->operations);
    free(b->rounding);
    *b = (dt_budget){0};
}

/* Largest root mean square of a row's difference. */
static kv_status worst_row(const dt_budget *b, int64_t rows, double *off)
{
    const int64_t vocab = b->model->cfg.vocab_size;
    const float *x = b->right.p, *y = b->other.p;
    *off = 0;
    for (int64_t r = 0; r < rows; r++) {
        const double one = dt_rms(x + r * vocab, y + r * vocab, vocab);
        if (!isfinite(one)) return kv_fail(KV_ERR_NONFINITE, "the allowance of a row: token %lld has no finite logits", (long long)r);
        *off = fmax(*off, one);
    }
    return KV_OK;
}

/* By one of the sides, into b->other: how far its rows are from b->right. */
static kv_status measure(dt_budget *b, dt_full_side *side, const int32_t *tokens, int64_t rows, double *off)
{
    KV_TRY(dt_full_rows(side, b->model, b->threads, tokens, rows, b->other.p));
    return worst_row(b, rows, off);
}

/* What is right, into b->right; room in b->other. */
static kv_status run_plain(dt_budget *b, const int32_t *tokens, int64_t rows)
{
    const size_t bytes = (size_t)rows * (size_t)b->model->cfg.vocab_size * sizeof(float);
    const ref_hooks none = {0};
    KV_TRY(kv_buffer_reserve(&b->right, bytes));
    KV_TRY(kv_buffer_reserve(&b->other, bytes));
    KV_TRY(dt_full_open(&b->plain, b->model, b->threads));
    KV_TRY(ref_session_hook(b->plain.session, &none));
    return dt_full_rows(&b->plain, b->model, b->threads, tokens, rows, b->right.p);
}

static int64_t at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

static kv_status measure_operations(dt_budget *b, const int32_t *tokens, int64_t n, double *off)
{
    double all = 0;
    n = at_most(n, DT_BUDGET_TOKENS);
    KV_TRY(run_plain(b, tokens, n));
    KV_TRY(dt_model_calls_hook(&b->legal, b->plain.session));
    for (int sign = 0; sign < DT_SIGN_COUNT; sign++) {
        double one;
        b->sign = (dt_budget_sign)sign;
        b->calls = 0;
        KV_TRY(measure(b, &b->plain, tokens, n, &one));
        all = fmax(all, one);
    }
    *off = all;
    return KV_OK;
}

static kv_status measure_rounding(dt_budget *b, kv_storage storage, const int32_t *tokens, int64_t n, double *off)
{
    double worst = 0;
    n = at_most(n, DT_BUDGET_STORED);
    if (storage == KV_STORE_F16 || storage == KV_STORE_BF16) {
        KV_TRY(run_plain(b, tokens, n));
        KV_TRY(measure(b, &b->stored[storage], tokens, n, &worst));
    }
    *off = 2 * worst; /* half a unit and half a unit are one */
    return KV_OK;
}

kv_status dt_budget_rows(dt_budget *b, int32_t doc, kv_storage storage, const int32_t *tokens, int64_t n, double *allowed)
{
    double *operations = &b->operations[doc], *rounding = &b->rounding[doc * KV_STORE_COUNT + storage];
    if (isnan(*operations)) KV_TRY(measure_operations(b, tokens, n, operations));
    if (isnan(*rounding)) KV_TRY(measure_rounding(b, storage, tokens, n, rounding));
    *allowed = *operations + *rounding;
    return KV_OK;
}

kv_status dt_budget_factor(dt_budget *b, int32_t doc, const int32_t *tokens, int64_t n, double *factor)
{
    double own, operations;
    KV_TRY(dt_budget_rows(b, doc, KV_STORE_F32, tokens, n, &operations));
    n = at_most(n, DT_BUDGET_TOKENS);
    KV_TRY(run_plain(b, tokens, n));
    KV_TRY(measure(b, &b->truth, tokens, n, &own));
    *factor = own > 0 ? operations / own : 1;
    return KV_OK;
}

/* ---- rows on their way --------------------------------------------------------------------------------------- */

dt_bound dt_bound_begin(double allowed)
{
    return (dt_bound){.allowed = allowed, .coded_from = INT64_MAX};
}

int dt_bound_holds(dt_bound *b, int64_t at, const kv_events *decisions, int tie, int locked)
{
    int seals = 0;
    for (size_t i = 0; i < decisions->n && !seals; i++)
        seals = decisions->v[i].kind == KV_EVENT_SEAL;
    if (seals && !locked && at < b->coded_from) b->coded_from = at;
    return !isnan(b->allowed) && !seals && !tie && at < b->coded_from;
}

dt_code_allowance dt_budget_codes(const kv_policy *p)
{
    switch (p->storage) {
    case KV_STORE_KVARN:
        return (dt_code_allowance){0.3, p->kvarn.tie == KV_TIE_LITERAL ? 0.06 : 0.02};
    case KV_STORE_KIVI:
        return (dt_code_allowance){0.05, 0.005};
    default:
        return (dt_code_allowance){(double)NAN, (double)NAN};
    }
}
