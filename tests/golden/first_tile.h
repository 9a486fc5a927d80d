/* first_tile.h - what a storage makes of tokens 0-31 of layer 0, KV head 0, against codes that another program
 * made of the same numbers in double precision. */
#ifndef KV_TESTS_GOLDEN_FIRST_TILE_H
#define KV_TESTS_GOLDEN_FIRST_TILE_H

#include "tests/golden/golden.h"

/* tile: {"K": {codes, scales, ..., soft_codes}, "V": {...}} of a case of tests/golden/policies. soft_codes lie so near
 * to a rounding tie that they may be one off (and so may elements of f16 below 1/4 where the side computes in
 * fp32), at most one of a hundred; every other code is exact, fp16 scales are within one step, fp32
 * scales within 1e-5 of their size. One TAP line each for K and V. */
void golden_first_tile(golden_stream *s, const kv_policy *p, const json_t *tile, const char *name,
                       int fp32);

#endif
