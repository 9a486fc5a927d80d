/* compare.h - what a candidate gave against what is right. */
#ifndef KV_DIFFTEST_OPS_COMPARE_H
#define KV_DIFFTEST_OPS_COMPARE_H

#include "difftest/ops/exec.h"
#include "difftest/ops/oracle.h"

typedef struct dt_op_difference {
    int64_t n_elem, n_bad, n_nonfinite; /* elements; against the contract; not finite where the right ones are */
    int64_t n_informative;              /* elements for which a zero would not have passed */
    int64_t max_ulp, p999_ulp;
    double max_abs, max_ratio; /* largest |got - value|; largest of that / bound */
    double nmse;               /* sum (got - ref)^2 / sum ref^2 of the reference's bits; the judge of llama.cpp */
    int bad_slot;              /* tensor of the first bad element, -1: none */
    int64_t bad_index;
    uint32_t ref_bits, got_bits; /* of the worst element if none is bad; of the first bad one */
    double ref_value, got_value, bad_bound;
    int worst_slot; /* where max_ratio was found; -1: nowhere */
    int64_t worst_index;
} dt_op_difference;

/* contract: KVDK_BITEXACT: bits; KVDK_BOUNDED: bounds. Whole numbers must be equal in any case, unless the operation
 * judges its codes by itself. bits = 1: bits must agree whatever the contract says (exact inputs). ERR_NOMEM. */
kv_status dt_op_compare(const dt_opcase *c, const dt_answer *right, void *const got[DT_OP_TENSORS], int32_t contract,
                        int bits, dt_op_difference *out);

/* The reference against its own bound: 0 when it leaves it, which is a fault of the tester. */
int dt_op_trust(const dt_opcase *c, const dt_answer *right, double *ratio);

/* First element in which two results of the same case differ; 0: none does. */
int dt_op_same(const dt_opcase *c, void *const a[DT_OP_TENSORS], void *const b[DT_OP_TENSORS], int *slot,
               int64_t *index);

#endif
