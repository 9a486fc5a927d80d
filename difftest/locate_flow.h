/* locate_flow.h - two sides (and for bounded devices the yardstick ref64) on their way through a case, with a way back:
 * checkpoints while streaming, and snapshots of the state before the bad step. */
#ifndef KV_DIFFTEST_LOCATE_FLOW_H
#define KV_DIFFTEST_LOCATE_FLOW_H

#include "difftest/budget.h"
#include "difftest/locate.h"
#include "difftest/schedule.h"

enum { DT_REF, DT_GOT, DT_TRUTH, DT_SIDES };

enum { DT_CHECKPOINT_TOKENS = 4096 };

/* Where a stream stands between two steps. */
typedef struct dt_checkpoint {
    int set;
    int64_t begin, end; /* segment */
    dt_schedule next;
    void *snap[DT_SIDES]; /* all NULL: the beginning of the segment, reached by reset */
} dt_checkpoint;

/* How a step went. */
typedef struct dt_look {
    int logits, nll, events, state; /* what differs */
    int64_t row;                    /* first row with a wrong logit or NLL, -1 = none */
    double bound;                   /* what its logits may be off by; 0: bits are promised */
    int digest_lies;                /* the device's own digest is not that of its export */
} dt_look;

typedef struct dt_flow {
    const dt_subject *s;
    const kv_backend *side[DT_SIDES];
    kv_session *session[DT_SIDES]; /* DT_TRUTH: NULL for devices that promise bits */
    int exact, follows;
    dt_bound bound; /* of devices that do not promise bits */
    double factor;  /* times the reference's own error that a value inside may be off by */
    int64_t begin, end;    /* current segment */
    dt_turn turn;          /* current step */
    dt_checkpoint back[2]; /* the newest first */
    int at_snapshot;       /* snapshots of the state before `turn` are in here[] */
    void *here[DT_SIDES];
    kv_buffer logits[DT_SIDES], nll[DT_SIDES], state[DT_SIDES], targets;
    size_t state_bytes[DT_SIDES];
    kv_events events[DT_SIDES];
    int device_failed; /* the device's last call failed: why */
    char why[512];
} dt_flow;

/* Opens the sessions. KV_OK with device_failed set when only the device could not be opened (why), *status then says
 * how. */
kv_status dt_flow_open(dt_flow *f, const dt_subject *s, kv_status *device);
void dt_flow_close(dt_flow *f);

/* Streams from the beginning until a step differs: 1 in *bad, f->turn is the step and *look says how. */
kv_status dt_flow_search(dt_flow *f, int *bad, dt_look *look);

/* Goes back to the state before f->turn and keeps it. */
kv_status dt_flow_rewind(dt_flow *f);

/* Throws the snapshots before f->turn away: from now on dt_flow_before goes the whole way. */
void dt_flow_forget(dt_flow *f);

/* All sides (or one) stand before f->turn again. */
kv_status dt_flow_before(dt_flow *f, int side);

/* Feeds f->turn to one side, the reference before the others. Rows of logits and NLL go to the buffers, decisions to
 * events. taps may be NULL. KV_OK with device_failed set when the device fails. */
kv_status dt_flow_step(dt_flow *f, int side, const kv_tap *taps, int32_t n_taps);

/* Compares what the last step of both sides left in the buffers. */
kv_status dt_flow_look(dt_flow *f, dt_look *look);

/* Goes on behind f->turn for a few steps and compares rows and decisions only: *fed steps, *wrong = 1 when one of them
 * differs. */
kv_status dt_flow_go_on(dt_flow *f, int32_t steps, int32_t *fed, int *wrong);

/* The device's snapshot gives back what it was taken of: *lost = 0. Without one, or an export: 0. */
kv_status dt_flow_round_trip(dt_flow *f, int *lost);

/* Export of all layers into state[side], checked. */
kv_status dt_flow_export(dt_flow *f, int side);

/* First element in which got is wrong; -1 = none. Exact (truth NULL): other bits. Bounded: the worst one of a row whose
 * error against the truth is more than `factor` times the reference's own; *bound receives what was allowed. */
int64_t dt_row_wrong(const float *ref, const float *got, const float *truth, int64_t n, double factor, double *bound);

/* The worst element of a row of logits whose root mean square difference is more than allowed; -1: it is not. */
int64_t dt_row_beyond(const float *ref, const float *got, int64_t n, double allowed);

/* The document position of a session's token. */
static inline int64_t dt_flow_pos(const dt_flow *f, int64_t og)
{
    return f->begin + og;
}

#endif
