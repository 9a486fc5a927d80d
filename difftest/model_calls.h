/* model_calls.h - the operations of a model's forward pass as calls of kvdiff_kernel.h, so that somebody other than the
 * reference computes them: a candidate (kernel_side.h), or one who uses the whole bound (budget.h).
 *
 * A forward pass has rmsnorm, gemm, attn_prefill and attn_decode; the latter for all steps where there is no
 * attn_prefill, four tokens at a time. */
#ifndef KV_DIFFTEST_MODEL_CALLS_H
#define KV_DIFFTEST_MODEL_CALLS_H

#include "difftest/ops/opcase.h"
#include "ref/hooks.h"

typedef struct dt_model_calls {
    /* Computes the case's outputs, in the memory that its tensors name. */
    kv_status (*compute)(void *ctx, dt_opcase *c);
    void *ctx;
    uint8_t uses[KVDK_OP_COUNT]; /* the others are the reference's own */
    int32_t layer;               /* of the call; -1: behind the last */
    int64_t token;               /* original index of its first token */

    /* private */
    int64_t first_token; /* of the piece */
    float *ones;         /* gains of a norm that has none */
    int64_t n_ones;
} dt_model_calls;

/* Whether a forward pass has the operation. */
int dt_model_has_op(int op);

/* Makes a session that ref_backend() has opened ask m, which must outlive it. ERR_NOMEM. */
kv_status dt_model_calls_hook(dt_model_calls *m, kv_session *s);
void dt_model_calls_free(dt_model_calls *m);

#endif
