/* kernel_side.h - `kernel:FILE`, a device that is the reference with some operations computed by a candidate
 * (kvdiff_kernel.h), in a process of its own: one kernel judged inside a whole model, everything around it being right.
 *
 *     kvdiff run --device=kernel:./my_attention.so
 *     kvdiff run --device=kernel:./my_kernels.so,ops=attn_decode+rmsnorm      only these; the rest is the reference's
 *
 * Operations that a model's forward pass takes from a candidate: rmsnorm, gemm, attn_prefill, attn_decode (the latter
 * for all steps where there is no attn_prefill: four tokens at a time). All others are the reference's own; `kvdiff
 * ops` judges them. The contract is the candidate's. */
#ifndef KV_DIFFTEST_KERNEL_SIDE_H
#define KV_DIFFTEST_KERNEL_SIDE_H

#include "common/backend.h"
#include "difftest/kernel_judge.h"

/* Starts the candidate and asks who it is. The table lives as long as the program. options: "FILE[,ops=A+B]".
 * ERR_USAGE: options; else as dt_candidate_open. */
kv_status dt_kernel_side(const char *options, const kv_backend **out);

/* Whether a table is one of those that dt_kernel_side gave. */
int dt_is_kernel_side(const kv_backend *b);

/* Every call is judged as it is made (kernel_judge.h); the first that breaks the contract makes the step fail with
 * ERR_CONTRACT. s: a session of such a table. */
const dt_kernel_judge *dt_kernel_session_judge(const kv_session *s);

#endif
