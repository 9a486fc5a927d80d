/* locate_state.h - where two exports and two lists of decisions differ, and what that says. Pure. */
#ifndef KV_DIFFTEST_LOCATE_STATE_H
#define KV_DIFFTEST_LOCATE_STATE_H

#include "difftest/locate_blame.h"

typedef enum dt_part {
    DT_PART_NONE,
    DT_PART_SHAPE, /* head, number of entries, size of records */
    DT_PART_TOKEN, /* original index */
    DT_PART_POS,
    DT_PART_SCORE,
    DT_PART_RECORD, /* K or V bytes */
    DT_PART_CARRY
} dt_part;

typedef struct dt_state_diff {
    dt_part part;
    int32_t layer, head;
    int64_t entry, og; /* index in the run; token of the reference there */
    int64_t byte;      /* first other byte of a record or of the carry */
    int has_values;
    float ref, got; /* SCORE; RECORD of plain storages */
    int64_t elem;   /* of the K or V row; -1 */
    int value;      /* RECORD of plain storages: in V */
} dt_state_diff;

/* Two checked exports of all layers with everything. Tokens first, then records (the oldest token first, then layer and
 * head), positions, scores, carry. */
void dt_state_compare(const void *ref, const void *got, dt_state_diff *out);

/* Tokens that both exports hold at the same entry of a run, at other positions: the most in one run. */
int32_t dt_positions_differ(const void *ref, const void *got);

/* Both exports end with the same carry, which has not moved on then. */
int dt_same_carry(const void *a, const void *b);

/* The run holds the same tokens, in whatever order. */
int dt_same_tokens(const void *ref, const void *got, int32_t layer, int32_t head);

/* What is wrong with a record: whose row it is, or how it was rounded or coded. before: the reference's export before
 * the step, or NULL. */
void dt_blame_record(const kv_policy *p, const void *before, const void *ref, const void *got, const dt_state_diff *d,
                     dt_verdict *v);

/* A difference of decisions: the first one, and who is at fault. ref, got: exports after the step, or NULL. */
typedef struct dt_event_diff {
    size_t at;                 /* index in both lists: equal up to here */
    const kv_event *ref, *got; /* NULL: the list ends here */
    int only_margin, only_order, only_slot;
} dt_event_diff;

void dt_events_compare(const kv_events *ref, const kv_events *got, dt_event_diff *out);

void dt_blame_events(const kv_policy *p, const kv_events *ref, const kv_events *got, const void *ref_after,
                     const void *got_after, dt_event_diff *d, dt_verdict *v);

/* Evictions on which the sides disagree, at most `most`: their number. base: document position of token 0; ties: they
 * are legal. */
int32_t dt_evict_diffs(const kv_events *ref, const kv_events *got, const void *before, int64_t base, int ties,
                       dt_evict_diff *dst, int32_t most);

#endif
