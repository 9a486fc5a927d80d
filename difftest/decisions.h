/* decisions.h - compares what a policy decided in a step on both sides.
 *
 * A device that promises bits, or replays the reference's list, must have the same list byte for byte. Any other
 * has scores of its own, which differ by rounding: its margins may differ, and where two tokens are too close to
 * tell apart either may leave. Such a difference is a *legal tie*; everything else is a bug (docs/results.md,
 * "Legal ties"). */
#ifndef KV_DIFFTEST_DECISIONS_H
#define KV_DIFFTEST_DECISIONS_H

#include "common/backend.h"

/* A margin of up to DT_TIE_ULPS * 2^-24 times the score at the boundary is a tie: a relative difference of 1e-6, the
 * rounding error of a score. */
enum { DT_TIE_ULPS = 16 };

typedef struct dt_decisions {
    int64_t ties;           /* decisions that differ by a legal tie */
    int broken;             /* there is a difference that is none */
    size_t ref_at, got_at;  /* broken: where in the lists it begins (their length: behind the end) */
} dt_decisions;

/* Scores decide who leaves. */
int dt_decides_by_score(const kv_policy *p);

/* exact: byte for byte; else margins count only by whether a score decided. */
int dt_decisions_same(const kv_events *ref, const kv_events *got, int exact);

/* Judges two lists that are not the same. state: the reference's export of all layers after the step, with scores
 * where the policy has them (checked), or NULL: exact, nothing is a tie. */
dt_decisions dt_decisions_judge(const kv_policy *p, const kv_events *ref, const kv_events *got, void *state);

#endif
