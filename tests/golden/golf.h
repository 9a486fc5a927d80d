/* golf.h - what the golden programs of the golf family share: presets, tokens, comparison. */
#ifndef KV_TESTS_GOLDEN_GOLF_H
#define KV_TESTS_GOLDEN_GOLF_H

#include "tests/golden/golden.h"

enum { GOLF_N = 95 }; /* inputs; each predicts the next of GOLF_N + 1 tokens */

void golf_tokens(int32_t tokens[GOLF_N + 1]);

/* A preset, or one whose config or weights a test has changed: tensors are those of `own` until they are replaced. */
typedef struct golf_model {
    char name[2];    /* of the preset in golden files: "A", "B", "U" */
    kv_model *own;
    kv_model m;      /* what sessions are opened with */
    kv_tensor *tensors;
    float *changed[2];
} golf_model;

void golf_open(golf_model *g, char preset); /* dies */
void golf_close(golf_model *g);

/* Largest distance of n floats from golden numbers; infinite when there are not n of them. */
double golf_worst(const json_t *want, const float *got, size_t n);

/* L2 norm of n floats. */
double golf_l2(const float *x, size_t n);

/* Limits for a side: those of the golden README in fp32; ref64 only hands its results over as fp32. */
typedef struct golf_limits {
    double logit, nll, l2; /* l2: relative */
} golf_limits;
golf_limits golf_limits_of(const dt_side *side);

/* Rows of logits; every row of a point that is tapped, [n][width]. A failed step dies. */
typedef struct golf_step {
    const int32_t *tokens; /* [n + 1] */
    int32_t n;
    int64_t window; /* pos0 of a window, or -1 */
    float *logits, *nll; /* [n][vocab], [n]; or NULL */
    int point;      /* kv_tap_point, or -1 */
    int32_t layer;
    float *tap;
} golf_step;
void golf_feed(golden_stream *s, const golf_step *step);

/* golf_weights.c: the generated models. */
void golf_weights(const char *folder);

/* golf_evaluation.c: sliding windows, windows with a cache, steps with a ring. */
void golf_evaluation(const dt_side *side, const char *folder);

#endif
