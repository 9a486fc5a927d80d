/* locate_calc.h - the tester's own arithmetic for single rows, by docs/numerics.md: what lies between two taps. */
#ifndef KV_DIFFTEST_LOCATE_CALC_H
#define KV_DIFFTEST_LOCATE_CALC_H

#include "common/model.h"

/* y[rows of the tensor] = W x in the order of the contract; bad memory gives KV_ERR_NOMEM. */
kv_status dt_calc_product(const kv_model *m, kv_role role, int32_t layer, const float *x, float *y);

/* Largest |got - ref| relative to the root mean square of ref; NaN and infinity in got alone count as infinite. */
double dt_row_error(const float *ref, const float *got, int64_t n);

/* Units in the last place between two numbers. */
int64_t dt_ulps(float a, float b);

/* Number of elements with other bits. */
int64_t dt_row_differing(const float *ref, const float *got, int64_t n);

/* Share of the error of (a, b) pairs that lies along the circle: near 1 when pairs were turned by a wrong angle, and
 * lengths kept. Pairs as RoPE has them. */
double dt_turned(const float *ref, const float *got, int64_t pairs, int half);

#endif
