/* tile_bounds.h - the balancing of a tile (docs/policy/kvarn.md, "Coding a tile") in double, and how far an honest
 * fp32 kernel may be away from it: what a record is judged by when its candidate is bounded (docs/ops.md, "Codes"). */
#ifndef KV_DIFFTEST_OPS_TILE_BOUNDS_H
#define KV_DIFFTEST_OPS_TILE_BOUNDS_H

#include "difftest/ops/oracle.h"

enum { DT_TILE_LINES = 256 }; /* most rows or columns */

/* The keys or the values of a tile as the matrix that is coded, and where its numbers lie in the record. */
typedef struct dt_tile_half {
    const float *x; /* element (r, c) is x[r * row_step + c * col_step] */
    int64_t rows, cols, row_step, col_step;
    int64_t group; /* columns that share scale and zero */
    int32_t bits;
    int64_t row_bytes;               /* of the codes of a row */
    int64_t codes, scale, zero, col; /* bytes from the start of the record */
} dt_tile_half;
dt_tile_half dt_tile_half_of(const kvdk_tile_args *a, int of_values);

/* A scale of a row or a column: its logarithm, how far off that may be, and e to the power of both.
 * */
typedef struct dt_tile_scale {
    double log, off;
    double scale, relative; /* relative: of the scale, before it is rounded */
} dt_tile_scale;

/* The scales behind a round; 0: before the first. */
typedef struct dt_tile_round {
    dt_tile_scale col[DT_TILE_LINES], row[DT_TILE_LINES];
    double least, most; /* imbalance */
    int is_legal;       /* may be the best, whatever roundings were */
} dt_tile_round;

/* Fills rounds 0 .. iters. sums: what one addition of a sum may be off by, relatively. */
void dt_tile_balance(const dt_tile_half *h, int64_t iters, double sums, dt_tile_round *rounds);

/* Relative error of x / (scale of the column) / (scale of the row) by scales whose logarithms are given: two
 * exponentials, two quotients (or reciprocals and products), or one exponential of the rounded sum. */
double dt_tile_quotient_error(double log_col, double log_row);

/* Exponentials and logarithms are good to 2 ulp, as those of CUDA are by its manual. */
#define DT_TILE_TRANSCENDENTAL (4 * DT_U)

#endif
