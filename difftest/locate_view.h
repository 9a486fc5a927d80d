/* locate_view.h - what a row of a step attends to, from the reference's state before the step, in double: the ground on
 * which guesses about a wrong attention output stand. Written from docs/policy/; the caller checks it against the
 * reference's own output before it trusts it. */
#ifndef KV_DIFFTEST_LOCATE_VIEW_H
#define KV_DIFFTEST_LOCATE_VIEW_H

#include "common/backend.h"
#include "common/mem.h"
#include "common/state.h"

typedef struct dt_entry {
    int64_t og;     /* token of the session */
    int64_t slot;   /* canonical slot where it follows from the token (sink), else the index in the view */
    int32_t pos;    /* at which it is read */
    int32_t stored; /* entry of the exported run; -1: a token of the step */
    int32_t row;    /* of the step; -1: a stored entry */
} dt_entry;

/* Entries in view order, the row's own last; behind them those that the row must not see: stored entries that have
 * left, then later tokens of the step. */
typedef struct dt_row_view {
    dt_entry *v;
    int64_t n, n_gone, stored; /* visible; behind them; stored ones among the visible */
    int32_t pos;               /* of the row */
    kv_buffer memory;
} dt_row_view;

/* The run of a layer and KV head in a checked export of all layers. */
kv_state_view dt_state_run(const void *blob, int32_t layer, int32_t head);

/* View of row `row` of a step of n tokens that begins with session token `first`; events are the reference's of that
 * step. ERR_UNSUPPORTED: coded storages and policies whose view does not follow from an export. */
kv_status dt_row_view_make(const kv_policy *p, const void *before, const kv_events *events, int64_t first, int32_t n,
                           int32_t row, int32_t layer, int32_t head, dt_row_view *out);
void dt_row_view_free(dt_row_view *v);

/* Cosines and sines that the reference uses, positions 0 .. n-1. */
typedef struct dt_rotation {
    int64_t n, pairs;
    int half;               /* KV_ROPE_HALF */
    const float *cos, *sin; /* [n][pairs] */
    kv_buffer memory;
} dt_rotation;
kv_status dt_rotation_make(const kv_backend *b, kv_session *s, const kv_config *cfg, int64_t n, dt_rotation *out);
void dt_rotation_free(dt_rotation *r);

/* dst = src rotated to position pos (back: from it); pos outside the table: dst = src. [D] */
void dt_rotate(const dt_rotation *r, int64_t pos, int back, int64_t D, const double *src, double *dst);

/* A stored value of a record's K (value = 0) or V row as a number. */
double dt_record_value(int32_t storage, const uint8_t *record, int64_t D, int value, int64_t d);

#endif
