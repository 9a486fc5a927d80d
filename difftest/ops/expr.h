/* expr.h - small integer expressions over the arguments of an operation: how a launch descriptor (descriptor.h) says
 * what depends on a call. 64-bit; an overflow or a division by zero is an error, never a wrapped number.
 *
 *     value    a whole number (10 or 0x..), a name, (e), min(a, b), max(a, b), cdiv(a, b): a / b rounded up
 *     by rank  - !   * / %   + -   << >>   < <= > >=   == !=   &&   ||   c ? a : b     as in C; / and % truncate
 *     names    integer parameters of the operation as in its schema (T, hd, segment0.kind);
 *              TENSOR.dim0 .. dim3, .stride0 .. stride3 (in elements), .dtype, .present (0 when absent; then its
 *              dimensions and strides are 0, too); constants of kvdiff_kernel.h (KVDK_F16, KVDK_SELF) */
#ifndef KV_DIFFTEST_OPS_EXPR_H
#define KV_DIFFTEST_OPS_EXPR_H

#include "difftest/ops/schema.h"

enum {
    DT_EXPR_TEXT = 400,    /* longest expression */
    DT_EXPR_DEPTH = 40,    /* of parentheses and of operators that wait for a right side */
    DT_EXPR_LIST = 1 << 16 /* nodes of one descriptor */
};

typedef struct dt_expr_node {
    int32_t kind, at;           /* what it is; where in the text */
    int32_t left, right, other; /* operands, numbers of nodes */
    int64_t value;              /* a constant; an offset into the arguments */
} dt_expr_node;

/* The nodes of all expressions of a descriptor. */
typedef struct dt_expr_pool {
    dt_expr_node *node;
    int32_t n, cap;
} dt_expr_pool;

typedef struct dt_expr {
    const char *text; /* borrowed from who compiled it; for messages */
    int32_t root;     /* -1: none */
} dt_expr;

/* ERR_FORMAT with a line that says what is wrong at which character, ERR_NOMEM. The text must live as long as the
 * expression. */
kv_status dt_expr_compile(const char *text, const dt_op_schema *op, dt_expr_pool *pool, dt_expr *out);

/* A constant. */
kv_status dt_expr_constant(int64_t value, dt_expr_pool *pool, dt_expr *out);

/* 1 with its value: it does not depend on a call. */
int dt_expr_is_constant(const dt_expr_pool *pool, const dt_expr *e, int64_t *out);

/* ERR_CONTRACT: an overflow, a division by zero, a shift by a width that there is not; the line names the expression.
 */
kv_status dt_expr_value(const dt_expr_pool *pool, const dt_expr *e, const void *args, int64_t *out);

void dt_expr_pool_free(dt_expr_pool *pool);

#endif
