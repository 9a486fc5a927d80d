/* kernel_judge.h - every call that a model makes of a candidate's operation, judged at once: the bits of the reference
 * or the derived bound of that very call (docs/ops.md), with the activations of the model as inputs. */
#ifndef KV_DIFFTEST_KERNEL_JUDGE_H
#define KV_DIFFTEST_KERNEL_JUDGE_H

#include "difftest/ops/compare.h"
#include "difftest/ops/probe.h"

/* A call that broke the contract. */
typedef struct dt_violation {
    int op;             /* kvdk_op */
    int64_t token;      /* original index; -1: there is none */
    int32_t layer;      /* -1: behind the last */
    int64_t head, elem; /* of the first wrong element, in its row; -1: none */
    const char *tensor; /* output that it belongs to */
    uint32_t ref_bits, got_bits;
    double right, got, bound; /* bound 0: bits were promised */
    int is_nonfinite;
    dt_probe probe; /* of attention: the entry that is to blame */
} dt_violation;

typedef struct dt_kernel_judge {
    const dt_candidate_info *info;
    int64_t token;      /* original index of the call's first token */
    int32_t layer;      /* -1: behind the last */
    int64_t n_judged;   /* calls */
    double worst_ratio; /* share of the bound that was used */
    dt_violation first; /* token -1: none yet */
} dt_kernel_judge;

/* ERR_CONTRACT with "operation at token, layer: element ..." when the call breaks the contract. An attention call is
 * then made again with values that name their entry, so that the message can say which entry has the wrong weight.
 * ERR_INTERNAL: the reference leaves its own bound. */
kv_status dt_kernel_judge_call(dt_kernel_judge *j, dt_opcase *c, const dt_result *r, dt_recall_fn *recall, void *ctx);

#endif
