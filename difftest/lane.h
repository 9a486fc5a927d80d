/* lane.h - one device on its way through a document: its sums, its rows, its verdict, its case. */
#ifndef KV_DIFFTEST_LANE_H
#define KV_DIFFTEST_LANE_H

#include "difftest/engine.h"
#include "difftest/metrics.h"

typedef struct dt_lane {
    dt_engine *engine;
    int doc, policy, index;    /* index: of the side; -1 = the reference alone */
    const dt_side *side;       /* NULL: the reference alone */
    kv_session *session;       /* of the engine */
    int bitexact;              /* held to the bits of the reference */
    int free_choice;           /* another model's scores choose other tokens, by right: decisions are not judged */
    int alive;                 /* 0: it has failed and is not fed any more */
    dt_case_status status;     /* verdict so far */
    char reason[512];
    int64_t first_bad;         /* -1 = none yet */
    dt_acc acc;
    kv_events events;          /* of the current step */
    dt_bound bound;
    int holds;                 /* the current step's rows are held to it */
    double worst;              /* largest used part of it */
    int64_t n_ties;            /* decisions that differ by a legal tie */
    int64_t bytes_ref, bytes_got, peak_ref, peak_got; /* of the cache, -1 = unknown */
    double seconds;
    int has_digest;
    kv_digest digest, ref_digest;
    dt_tok_row *rows;
    int64_t n_rows, cap_rows;
    dt_hash_row *hashes;
    int64_t n_hashes, cap_hashes;
    kv_events kept_ref, kept_got; /* decisions for the database */
    dt_retrieval retrieval;    /* passkey documents */
    dt_row_metrics last;       /* passkey documents: the prompt's last row, target = first digit */
    char answer[16], ref_answer[16];
} dt_lane;

/* What a step looked like on the reference's side. */
typedef struct dt_seen {
    int64_t pos0;              /* document position of the step's first token */
    int64_t base;              /* document position of the session's token 0, from which events count */
    int32_t n;                 /* tokens of the step */
    int32_t from, to;          /* rows that are scored */
    const int32_t *targets;    /* [n] */
    const float *logits;       /* [n][vocab] */
    const float *nll;          /* [n] */
    const kv_events *events;
    int32_t resident;          /* entries after the step, layer 0, head 0 */
} dt_seen;

/* The engine's session of that side (index -1: none), reset. A lane that cannot run is not alive. */
void dt_lane_begin(dt_lane *l, dt_engine *e, int doc, int policy, int index);

/* The device is given the reference's decisions and replays them. */
int dt_lane_follows(const dt_lane *l);

/* Worst verdict wins; pos is the token that shows it (-1: none). */
void dt_lane_fail(dt_lane *l, dt_case_status status, int64_t pos, const char *fmt, ...) KV_PRINTF(4, 5);

/* Feeds a step to the device; its time is counted. A failure ends the lane with ERROR. */
void dt_lane_step(dt_lane *l, const kv_step *step);

/* Sets the device's cache to an export of the reference's. A failure ends the lane with ERROR. */
void dt_lane_import(dt_lane *l, const void *blob, size_t size);

/* Compares the step that was just fed: decisions, rows of logits, canonical NLL. After a legal tie the device goes on
 * from the reference's cache. */
kv_status dt_lane_compare(dt_lane *l, const dt_seen *seen, const float *got, const float *got_nll);

/* Judges a row of the step that was compared last; only where l->holds. 1: it is beyond its allowance. */
int dt_lane_judge_bound(dt_lane *l, int64_t pos, const dt_row_metrics *m);

/* Compares cache digests after the token at pos and takes the size of the device's cache; names the layer when digests
 * differ. last: the segment ends here, where a digest of the device's own is compared with that of its export. */
kv_status dt_lane_check_state(dt_lane *l, int64_t pos, const kv_digest *ref, int last);

/* Takes the size of the reference's cache. */
void dt_lane_note_bytes(dt_lane *l, int64_t ref);

/* Decides and hands the case to the writer. */
kv_status dt_lane_finish(dt_lane *l, double wall_seconds, double ref_seconds);

/* Frees what the writer did not take. */
void dt_lane_free(dt_lane *l);

#endif
