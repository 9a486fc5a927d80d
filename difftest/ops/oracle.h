/* oracle.h - what each operation is checked with: how its cases are drawn, what is right, how far off is allowed, and
 * what an element of a result is called. One table per operation, in op_<name>.c.
 *
 * What is right exists twice: the bits of the reference (ref/ops.h), to which KVDK_BITEXACT candidates are held, and a
 * plain computation in double from the formula in kvdiff_kernel.h, written without a look at the reference, with a
 * bound of the forward error for every element. KVDK_BOUNDED candidates are held to the bound; the reference itself
 * must stay inside it, or the tester is at fault.
 *
 * Bounds are derived, docs/ops.md has them with their reasons: u = 2^-24, sums of n terms n u times the sum of
 * magnitudes, in any order; UNDERFLOW times the number of operations covers units that flush to zero. */
#ifndef KV_DIFFTEST_OPS_ORACLE_H
#define KV_DIFFTEST_OPS_ORACLE_H

#include "difftest/ops/opcase.h"

#define DT_U         0x1p-24
#define DT_UNDERFLOW 0x1p-126

/* Outputs by index of the tensor in the schema; all arrays contiguous. */
typedef struct dt_answer {
    void *bits[DT_OP_TENSORS];    /* in the tensor's type */
    double *value[DT_OP_TENSORS]; /* NULL: whole numbers, which have no error */
    double *bound[DT_OP_TENSORS];
    void *detail; /* of an operation that judges by itself; one block of malloc */
} dt_answer;
void dt_answer_free(dt_answer *a);

/* Memory for an output of the case: bits, and unless it is of whole numbers value and bound. The slot comes back. */
kv_status dt_answer_tensor(const dt_opcase *c, const char *name, dt_answer *a, int *slot);

/* The bits of an fp32 output have no error: value = bits, bound = 0. */
void dt_answer_exact(const dt_opcase *c, dt_answer *a, int slot);

/* An element in words of the operation; -1: the operation has no such thing. */
typedef struct dt_element_name {
    int64_t token, head, slot, dim;
    char text[200]; /* "token 3 head 5 dim 2" */
} dt_element_name;

struct dt_op_difference;

typedef struct dt_op_impl {
    int64_t n_shapes; /* of the list of awkward shapes; larger numbers are random */
    uint32_t dists;   /* 1 << dt_dist */
    /* Draws shape c->shape with distribution c->dist. */
    kv_status (*draw)(dt_opcase *c);
    /* Computes what is right. precision: of the candidate's intermediate values. */
    kv_status (*answer)(const dt_opcase *c, const kvdk_precision *precision, dt_answer *a);
    /* Names element i (contiguous) of an output. */
    void (*name)(const dt_opcase *c, int slot, int64_t i, dt_element_name *out);
    /* Fills *d for a candidate that does not promise bits and whose outputs are codes, where equality would be too
     * much. NULL: outputs without bounds must be equal. */
    void (*judge)(const dt_opcase *c, const dt_answer *right, void *const got[DT_OP_TENSORS],
                  struct dt_op_difference *d);
} dt_op_impl;

extern const dt_op_impl dt_op_rmsnorm, dt_op_gemm, dt_op_rope, dt_op_attn_prefill, dt_op_attn_decode, dt_op_attn_colsum,
    dt_op_window_append, dt_op_cascade_plan, dt_op_cascade_move, dt_op_kv_quant_tile, dt_op_attn_quant,
    dt_op_logits_nll, dt_op_topk;
const dt_op_impl *dt_op_impl_of(int op);

#define DT_DIST(name) (1u << DT_DIST_##name)

/* Relative error of a value rounded to a type; 0 for fp32, whose rounding is in u already. */
double dt_unit_of(int32_t dtype);

/* "y, token 3 dim 5" for outputs that are rows of `width` numbers. */
void dt_name_rows(int64_t i, int64_t width, dt_element_name *out);

#endif
