/* tile_judge.h - a record of kv_quant_tile against what an honest bounded kernel may write (docs/ops.md, "Codes"). */
#ifndef KV_DIFFTEST_OPS_TILE_JUDGE_H
#define KV_DIFFTEST_OPS_TILE_JUDGE_H

#include "difftest/ops/compare.h"
#include "difftest/ops/tile_bounds.h"

/* Numbers of a record, counted from its length on, so that they are not taken for bytes: codes, scales, zeros and
 * column scales of the keys, then what its codes stand for; the same of the values. */
typedef struct dt_tile_number {
    int is_value; /* of V, not of K */
    enum { DT_TILE_CODE, DT_TILE_SCALE, DT_TILE_ZERO, DT_TILE_COL, DT_TILE_DECODED } kind;
    int64_t row, col; /* of the matrix; of a scale the row and its group */
} dt_tile_number;
dt_tile_number dt_tile_number_of(const kvdk_tile_args *a, int64_t i);

/* Judges the record by every round of the balancing that may be the best, keys and values each by the one that suits
 * it most. rounds: of dt_tile_balance, keys and then values. ref: the reference's record. */
void dt_tile_judge(const kvdk_tile_args *a, const dt_tile_round *rounds, const uint8_t *ref, const uint8_t *got,
                   int slot, dt_op_difference *d);

#endif
