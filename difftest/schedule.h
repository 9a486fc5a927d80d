/* schedule.h - which tokens a step feeds: q at a time, unless the policy asks for something else
 * (docs/policy/snapkv.md and pyramid.md: a prompt first; docs/policy/xwindow.md: windows that overlap).
 *
 * A segment is what is fed from an empty cache: a document, or a chunk of it in half-window mode. */
#ifndef KV_DIFFTEST_SCHEDULE_H
#define KV_DIFFTEST_SCHEDULE_H

#include "common/policy.h"

typedef struct dt_turn {
    int64_t at;     /* document position of the step's first token */
    int64_t fresh;  /* first document position that no earlier step fed; at, except in a window that goes back */
    int32_t n;      /* tokens of the step */
    uint32_t flags; /* KV_STEP_RECOMPUTE for a window, else 0 */
    int64_t pos0;   /* kv_step.pos0 */
} dt_turn;

typedef struct dt_schedule {
    const kv_policy *policy;
    int32_t q;
    int64_t begin, end; /* document positions of the segment */
    int64_t start;      /* of the next step */
    int64_t done;       /* end of what was fed so far */
} dt_schedule;

dt_schedule dt_schedule_begin(const kv_policy *policy, int32_t q, int64_t begin, int64_t end);

/* Fills *t with the next step; 0: the segment has been fed. */
int dt_schedule_next(dt_schedule *s, dt_turn *t);

/* Tokens of the longest step of a segment of n tokens. */
int32_t dt_schedule_longest(const kv_policy *policy, int32_t q, int64_t n);

#endif
