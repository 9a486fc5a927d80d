/* tile_bounds.h - where the numbers of a tile's record lie; and of kvarn the balancing (docs/policy/kvarn.md, "Coding
 * a tile") in double, and how far an honest fp32 kernel may be away from it: what a record is judged by when its
 * candidate is bounded (docs/ops.md, "Codes"). */
#ifndef KV_DIFFTEST_OPS_TILE_BOUNDS_H
#define KV_DIFFTEST_OPS_TILE_BOUNDS_H

#include "common/tile.h"
#include "difftest/ops/oracle.h"

enum { DT_TILE_LINES = 256 }; /* most rows or columns */

/* The keys or the values of a tile as the matrix that is coded, and where its numbers lie in the record. */
typedef struct dt_tile_half {
    const float *x; /* element (r, c) is x[r * row_step + c * col_step] */
    int64_t rows, cols, row_step, col_step;
    int64_t group; /* columns that share scale and zero */
    int32_t bits;
    int is_balanced;                 /* kvarn: rows and columns have scales; kivi: none */
    int64_t code_row, scale_row;     /* bytes from a row's codes, and from its scales and zeros, to those of the next */
    int64_t number_bytes;            /* of a scale: 2 or 4 */
    int64_t codes, scale, zero, col; /* bytes from the start of the record; kivi has no col */
} dt_tile_half;
dt_tile_half dt_tile_half_of(const kvdk_tile_args *a, int of_values);

/* Layout of a record of either format, and its length. */
kv_kvarn_layout dt_tile_kvarn(const kvdk_tile_args *a);
kv_kivi_layout dt_tile_kivi(const kvdk_tile_args *a);
int64_t dt_tile_bytes(const kvdk_tile_args *a);

/* A scale of a row or a column: its logarithm, how far off that may be, and e to the power of both. */
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

/* Fills rounds 0 .. iters; of kivi, which has none, round 0. sums: relative error of one addition of a sum. */
void dt_tile_balance(const dt_tile_half *h, int64_t iters, double sums, dt_tile_round *rounds);

/* Relative error of x / (scale of the column) / (scale of the row) by scales whose logarithms are given: two
 * exponentials, two quotients (or reciprocals and products), or one exponential of the rounded sum. */
double dt_tile_quotient_error(double log_col, double log_row);

/* Exponentials and logarithms are good to 2 ulp, as those of CUDA are by its manual. */
#define DT_TILE_TRANSCENDENTAL (4 * DT_U)

#endif
