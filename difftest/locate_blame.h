/* locate_blame.h - from a wrong row of a tap, everything before which is right, to the operation at fault. Pure but for
 * the model's weights: taps of both sides come in, a verdict goes out. */
#ifndef KV_DIFFTEST_LOCATE_BLAME_H
#define KV_DIFFTEST_LOCATE_BLAME_H

#include "difftest/locate_flow.h"
#include "difftest/locate_view.h"

/* Taps of one layer, rows 0 .. row of a step, of both sides. */
typedef struct dt_focus {
    const kv_model *model;
    const kv_policy *policy;
    int32_t layer, row;
    int64_t width[KV_TAP_COUNT];
    const float *tap[2][KV_TAP_COUNT]; /* [DT_REF, DT_GOT][point]: [row + 1][width] */
    const float *before[2];            /* the stream that enters the layer: EMBED, or RESID of the layer below */
    int64_t pos;                       /* of the row; -1: unknown */
    int first_of_stream;               /* the step begins the stream: nothing came before */
    const dt_rotation *rotation;
} dt_focus;

static inline const float *dt_focus_row(const dt_focus *f, int side, int point, int64_t row)
{
    return f->tap[side][point] + row * f->width[point];
}

/* A verdict: op and klass are names, text may be empty. */
typedef struct dt_verdict {
    const char *op, *klass;
    char text[400];
} dt_verdict;

void dt_verdict_set(dt_verdict *v, const char *op, const char *klass, const char *fmt, ...) KV_PRINTF(4, 5);

/* "nonfinite", "rounding" or "reassoc" (sums), or what is given for a larger error. */
const char *dt_klass_of(const float *ref, const float *got, int64_t n, int sums, const char *larger);

/* The first wrong row is at this point (ATTN excepted: locate_attn.h). */
kv_status dt_blame(const dt_focus *f, int point, dt_verdict *v);

/* A product: x times the tensor of a role gave got instead of ref. op: "gemm" or "head". other: a correct row that may
 * stand in its place (of the token before), or NULL. */
kv_status dt_blame_product(const kv_model *m, kv_role role, int32_t layer, const char *op, const float *x,
                           const float *ref, const float *got, int64_t n, const float *other, dt_verdict *v);

/* ---- shared by locate_blame.c and locate_rotated.c -------------------------------------------------------- */

/* Whether x is close to what the device gave, and much closer than the right row is. */
int dt_blame_explains(const float *ref, const float *got, const double *x, int64_t n);

/* got = c * ref for one c in all elements: its value, NaN when there is none. */
double dt_blame_factor(const float *ref, const float *got, int64_t n);

kv_status dt_blame_value(const dt_focus *f, dt_verdict *v);
kv_status dt_blame_rotated(const dt_focus *f, int point, kv_role role, dt_verdict *v);

#endif
