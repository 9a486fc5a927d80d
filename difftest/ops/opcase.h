/* opcase.h - one call of an operation: its arguments in the tester's own memory, drawn from a seed. The candidate gets
 * copies. */
#ifndef KV_DIFFTEST_OPS_OPCASE_H
#define KV_DIFFTEST_OPS_OPCASE_H

#include "difftest/ops/schema.h"

/* X(name, about) How the inputs are distributed. */
#define DT_DIST_LIST(X)                                                                          \
    X(normal, "N(0, 1)")                                                                         \
    X(outlier, "N(0, 1), one channel in 16 times 50")                                            \
    X(uniform, "scores almost equal: every entry counts alike")                                  \
    X(peak, "one entry takes almost all of the softmax")                                         \
    X(small, "everything times 1/1000: an output of zeros must not pass")                        \
    X(large, "times 1000")                                                                       \
    X(subnormal, "times 2^-132: flushing to zero shows")                                         \
    X(constant, "every row the same number")                                                     \
    X(ascending, "every entry scores higher than the one before: each block raises the maximum") \
    X(low, "all scores below -100: a maximum that starts at 0 loses everything")                 \
    X(exact, "small whole numbers: every sum is exact in any order, every bit must agree")       \
    X(dye, "the values name where they come from: what was read shows in the result")

typedef enum dt_dist {
#define X(name, about) DT_DIST_##name,
    DT_DIST_LIST(X)
#undef X
        DT_DIST_COUNT
} dt_dist;
const char *dt_dist_name(int dist);
int dt_dist_find(const char *name); /* -1: unknown */

typedef struct dt_opcase {
    int op;
    dt_dist dist;
    uint64_t seed;
    int64_t shape;         /* number of the shape that was drawn */
    dt_args args;          /* tensors: contiguous, in memory of the case; absent ones have data = NULL */
    char title[160];       /* "T=3 D=257" */
    int64_t part, n_parts; /* dye: which part of the entries is coloured, set before drawing; how many parts there are,
                              by drawing */
} dt_opcase;

/* Zeroes c and says what is to be drawn. */
void dt_opcase_begin(dt_opcase *c, int op, int64_t shape, dt_dist dist, uint64_t seed);
void dt_opcase_free(dt_opcase *c); /* accepts a zeroed one */

/* Gives a tensor of the arguments memory (zeroed) and dimensions; unused ones are 1. Inputs are marked read-only.
 * ERR_NOMEM. */
kv_status dt_opcase_tensor(dt_opcase *c, const char *name, int32_t dtype, int64_t d0, int64_t d1, int64_t d2);

/* The tensor of that name; a name that the operation does not have is the tester's fault. */
kvdk_tensor *dt_opcase_find(dt_opcase *c, const char *name);

/* Word i of the case's random stream `stream`; a whole number in 0 .. n-1; a normal number. */
uint32_t dt_opcase_word(const dt_opcase *c, uint64_t stream, uint64_t i);
int64_t dt_opcase_below(const dt_opcase *c, uint64_t stream, uint64_t i, int64_t n);
double dt_opcase_normal(const dt_opcase *c, uint64_t stream, uint64_t i);

/* Fills an fp32, f16 or bf16 tensor by the case's distribution: normal numbers times scale and what the distribution
 * says (dye, uniform, peak, ascending and low: as normal; the operation shapes them further). exact: whole numbers -4
 * .. 4. width: numbers of a row, for constant and outlier. */
void dt_opcase_fill(dt_opcase *c, const char *name, uint64_t stream, double scale, int64_t width);

/* Element i (contiguous) of an fp32, f16 or bf16 tensor. */
float dt_element(const kvdk_tensor *t, int64_t i);
void dt_element_set(kvdk_tensor *t, int64_t i, float x);

#endif
