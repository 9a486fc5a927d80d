#include "difftest/model_calls.h"

#include <stdlib.h>

enum { DECODE_TOKENS = 4 };

int dt_model_has_op(int op)
{
    return op == KVDK_OP_rmsnorm || op == KVDK_OP_gemm || op == KVDK_OP_attn_prefill || op == KVDK_OP_attn_decode;
}

/* Where the forward pass is. */
static void hook_at(void *ctx, int32_t layer, int64_t token)
{
    dt_model_calls *m = ctx;
    m->layer = layer;
    m->first_token = m->token = token;
}

/* The case borrows the caller's arrays. */
static void lend(dt_opcase *c, const char *name, const float *p, int64_t d0, int64_t d1, int64_t d2)
{
    *dt_opcase_find(c, name) = (kvdk_tensor){
        .data = (void *)(uintptr_t)p, .dtype = KVDK_F32, .dim = {d0, d1, d2, 1}, .stride = {d1 * d2, d2, 1, 1}};
}

static kv_status hook_rmsnorm(void *ctx, const float *x, const float *w, int64_t m, int64_t n, float eps, float *y)
{
    dt_model_calls *k = ctx;
    dt_opcase c;
    if (!w && k->n_ones < n) {
        free(k->ones);
        k->n_ones = 0;
        k->ones = malloc((size_t)n * sizeof *k->ones);
        if (!k->ones) return kv_fail(KV_ERR_NOMEM, "out of memory");
        k->n_ones = n;
        for (int64_t i = 0; i < n; i++)
            k->ones[i] = 1;
    }
    dt_opcase_begin(&c, KVDK_OP_rmsnorm, 0, DT_DIST_normal, 0);
    c.args.rmsnorm.T = m;
    c.args.rmsnorm.D = n;
    c.args.rmsnorm.eps = (double)eps;
    lend(&c, "x", x, m, n, 1);
    lend(&c, "weight", w ? w : k->ones, n, 1, 1);
    lend(&c, "y", y, m, n, 1);
    return k->compute(k->ctx, &c);
}

static kv_status hook_gemm(void *ctx, const float *a, const float *w, int64_t m, int64_t n, int64_t depth, float *out)
{
    dt_model_calls *k = ctx;
    dt_opcase c;
    dt_opcase_begin(&c, KVDK_OP_gemm, 0, DT_DIST_normal, 0);
    c.args.gemm.M = m;
    c.args.gemm.N = n;
    c.args.gemm.K = depth;
    c.args.gemm.epilogue = KVDK_STORE;
    lend(&c, "a", a, m, depth, 1);
    lend(&c, "w", w, n, depth, 1);
    lend(&c, "c", out, m, n, 1);
    return k->compute(k->ctx, &c);
}

/* Tokens from .. from+T-1: what came before them in the step is cache to them. Statistics are [Hq][a->T] outside,
 * [Hq][T] inside. */
static kv_status attend(dt_model_calls *k, int op, const ref_op_attn *a, int64_t from, int64_t T)
{
    dt_opcase c;
    const int64_t stored = a->stored + from, width = a->Hk * a->D, row = a->Hq * a->D;
    float *stats = calloc((size_t)(2 * a->Hq * T), sizeof *stats);
    if (!stats) return kv_fail(KV_ERR_NOMEM, "out of memory");
    dt_opcase_begin(&c, op, 0, DT_DIST_normal, 0);
    kvdk_attn_args *args = &c.args.attn_prefill;
    args->T = T;
    args->Hq = a->Hq;
    args->Hk = a->Hk;
    args->hd = a->D;
    args->scale = (double)a->scale;
    args->n_segments = 2;
    args->segment[0].kind = KVDK_CACHE;
    args->segment[1].kind = KVDK_SELF;
    lend(&c, "q", a->q + from * row, T, a->Hq, a->D);
    lend(&c, "segment0.k", a->k, stored, a->Hk, a->D);
    lend(&c, "segment0.v", a->v, stored, a->Hk, a->D);
    lend(&c, "segment1.k", a->k + stored * width, T, a->Hk, a->D);
    lend(&c, "segment1.v", a->v + stored * width, T, a->Hk, a->D);
    lend(&c, "o", a->o + from * row, T, a->Hq, a->D);
    lend(&c, "row_max", stats, a->Hq, T, 1);
    lend(&c, "row_sum", stats + a->Hq * T, a->Hq, T, 1);
    k->token = k->first_token + from;
    const kv_status st = k->compute(k->ctx, &c);
    for (int64_t h = 0; h < a->Hq; h++)
        for (int64_t t = 0; t < T; t++) {
            a->max[h * a->T + from + t] = stats[h * T + t];
            a->sum[h * a->T + from + t] = stats[a->Hq * T + h * T + t];
        }
    free(stats);
    k->token = k->first_token;
    return st;
}

static kv_status hook_attention(void *ctx, const ref_op_attn *a)
{
    dt_model_calls *k = ctx;
    const int has_prefill = k->uses[KVDK_OP_attn_prefill], has_decode = k->uses[KVDK_OP_attn_decode];
    if (has_prefill && (a->T > DECODE_TOKENS || !has_decode)) return attend(k, KVDK_OP_attn_prefill, a, 0, a->T);
    for (int64_t from = 0; from < a->T; from += DECODE_TOKENS) {
        const int64_t left = a->T - from;
        KV_TRY(attend(k, KVDK_OP_attn_decode, a, from, left < DECODE_TOKENS ? left : DECODE_TOKENS));
    }
    return KV_OK;
}

kv_status dt_model_calls_hook(dt_model_calls *m, kv_session *s)
{
    const uint8_t *uses = m->uses;
    const int attends = uses[KVDK_OP_attn_prefill] || uses[KVDK_OP_attn_decode];
    const ref_hooks hooks = {.ctx = m,
                             .at = hook_at,
                             .rmsnorm = uses[KVDK_OP_rmsnorm] ? hook_rmsnorm : NULL,
                             .gemm = uses[KVDK_OP_gemm] ? hook_gemm : NULL,
                             .attention = attends ? hook_attention : NULL};
    return ref_session_hook(s, &hooks);
}

void dt_model_calls_free(dt_model_calls *m)
{
    free(m->ones);
    *m = (dt_model_calls){0};
}
