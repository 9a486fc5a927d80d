/* locate_study.h - the bad step under the magnifying glass: repeated from the state before it with taps everywhere. */
#ifndef KV_DIFFTEST_LOCATE_STUDY_H
#define KV_DIFFTEST_LOCATE_STUDY_H

#include "difftest/locate_blame.h"
#include "difftest/locate_flow.h"
#include "difftest/locate_state.h"

/* One point of one layer, all rows of the step. */
typedef struct dt_plane {
    int32_t point, layer;
    int64_t width, at; /* offset in floats of row 0 in every side's buffer */
} dt_plane;

typedef struct dt_study {
    dt_flow *flow;
    dt_finding *out;
    dt_plane *planes;
    int32_t n_planes, layer0, layer1; /* what is tapped: layers layer0 .. layer1-1 */
    kv_buffer plane_memory, taps[DT_SIDES], request;
    int64_t row;          /* first wrong row, -1: none */
    int32_t point, layer; /* where in it */
    int64_t elem;
    double bound;
    int dye_agrees; /* every stored entry has its weight behind an import */
    int by_export;  /* only the export after the step says so */
    dt_rotation rotation;
} dt_study;

/* Repeats the step, tapping these layers (EMBED with layer 0, FINAL_NORM with the last), and notes the first wrong row
 * when it comes before the one that is known. */
kv_status dt_study_tap(dt_study *s, int32_t layer0, int32_t layer1);

/* All layers, in as many portions as memory demands. */
kv_status dt_study_all(dt_study *s);

/* A row of a tapped point; NULL: not tapped. */
const float *dt_study_row(const dt_study *s, int side, int32_t point, int32_t layer, int64_t row);

void dt_study_free(dt_study *s);

/* The wrong row of attention: guesses, dye. Fills op, klass, slot and hypothesis of the finding. */
kv_status dt_study_attention(dt_study *s);

/* The same on coded keys and values (locate_coded.c): op stays NULL when no mistake fits. row: as wrong as the first
 * one, all that it reads is right. */
kv_status dt_study_coded(dt_study *s, int64_t row);

/* Wrong scores of the finding's layer and head: the mistake that gives them, if there is one (locate_scores.h). */
kv_status dt_study_scores(dt_study *s);

/* Which stored entry the device weighs otherwise than the reference, by one-hot values (docs/locate.md, "Dye"). Writes
 * into slot, slot_token and, when text is empty, hypothesis. Does nothing where a side cannot import. */
kv_status dt_study_dye(dt_study *s, const dt_row_view *view);

/* Repeats the step and varies the device's schedule; fills replays and same. *race: results differ. */
kv_status dt_study_repeat(dt_study *s, int *race);

/* ---- verdicts: which operation, from what differs (locate_verdict.c) -------------------------------------- */

extern const char *const dt_part_names[]; /* of dt_part */

void dt_finding_values(dt_finding *o, const char *where, float ref, float got);
void dt_finding_take(dt_finding *o, const dt_verdict *v);

/* The first wrong value is in a tapped row; in logits or NLL although all taps agree; in the decisions; in the state
 * after the step only. */
kv_status dt_verdict_tap(dt_study *s, const dt_state_diff *after);
kv_status dt_verdict_logits(dt_study *s, const dt_look *look);
void dt_verdict_events(dt_study *s);
void dt_verdict_state(dt_study *s, const dt_state_diff *d);

#endif
