/* hooks.h - a session of the reference in which somebody else computes some of the operations: how one kernel is judged
 * inside a whole model, everything around it being right (kvdiff run --device=kernel:FILE), and how far a whole model gets
 * when every operation errs as far as it may. fp32 only; of a session
 * without hooks nothing changes.
 *
 * A hook gets plain rows, as the functions of ref/ops.h do, and is called by one thread at a time. Its first failure
 * makes the step fail with its status and message. */
#ifndef KV_REF_HOOKS_H
#define KV_REF_HOOKS_H

#include "common/backend.h"
#include "ref/ops.h"

KV_EXTERN_C_BEGIN

typedef struct ref_hooks {
    void *ctx;
    /* The layer whose operations come next, -1 behind the last one, and the original index of the piece's first token.
     * May be NULL. */
    void (*at)(void *ctx, int32_t layer, int64_t token);
    /* NULL: the reference's own. w of rmsnorm may be NULL: no gains. */
    kv_status (*rmsnorm)(void *ctx, const float *x, const float *w, int64_t m, int64_t n, float eps, float *y);
    kv_status (*gemm)(void *ctx, const float *a, const float *w, int64_t m, int64_t n, int64_t k, float *c);
    /* Attention over plain storages; over coded tiles the reference's own is used. */
    kv_status (*attention)(void *ctx, const ref_op_attn *a);
} ref_hooks;

/* For a session that ref_backend() has opened; h is copied. ERR_NOMEM. */
kv_status ref_session_hook(kv_session *s, const ref_hooks *h);

KV_EXTERN_C_END

#endif
