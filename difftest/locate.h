/* locate.h - finds the first wrong value of a device in one case: token, layer, operation, head, slot, element; says
 * what kind of mistake it is and gives a guess in words. docs/locate.md describes the procedure.
 *
 * Both sides are streamed with the schedule of the case until a step differs; that step is repeated from a snapshot of
 * the state before it with everything tapped. Only the door (common/backend.h) is used, so that a side may live
 * anywhere. */
#ifndef KV_DIFFTEST_LOCATE_H
#define KV_DIFFTEST_LOCATE_H

#include "common/backend.h"
#include "common/mem.h"
#include "difftest/plan.h"

/* One case: a document under a policy on a device. Everything outlives the search. */
typedef struct dt_subject {
    const kv_model *model;
    const kv_policy *policy;
    const kv_backend *device;
    const char *options;   /* of the device */
    const int32_t *tokens; /* [n] whole chunks only in half-window mode */
    int64_t n;
    int32_t after;   /* what the last row should predict (first digit of a passkey); 0 */
    int32_t window;  /* tokens of a chunk in half-window mode; 0: one stream */
    int32_t q, mode; /* tokens per step; dt_mode */
    int32_t threads;
    int warm;  /* the document is fed once before, and forgotten by reset */
    int quick; /* the step is not repeated and nothing is dyed */
} dt_subject;

/* A case of a plan. */
dt_subject dt_subject_of(const dt_plan *p, int doc, int policy, int side);

/* What one eviction looked like on both sides. */
typedef struct dt_evict_diff {
    int64_t pos; /* token that caused it, document position */
    int32_t layer, head;
    int64_t ref_victim, got_victim; /* document positions; -1: that side lets nobody go */
    double ref_score, got_score;    /* the reference's scores of the two before the step; NaN: unknown */
    int tie;
} dt_evict_diff;

enum { DT_EVICT_DIFF_MAX = 64 };

typedef enum dt_found {
    DT_FOUND_NOTHING, /* the sides agree */
    DT_FOUND_VALUE,   /* they differ */
    DT_FOUND_ERROR,   /* the device failed or refused; hypothesis has its words */
    DT_FOUND_REFUSED  /* the device does not support the case: nothing to compare */
} dt_found;

typedef struct dt_finding {
    dt_found found;
    int64_t pos;     /* first wrong token, document position; -1: before the first token */
    int64_t step_at; /* the step that shows it: first token and length */
    int32_t step_n;
    int32_t layer, head;      /* -1: of the whole model; of no single head */
    int64_t slot, slot_token; /* entry of the view and the token in it, document position; -1: none */
    int64_t elem;             /* in the row that is named by `where`; -1: none */
    const char *op, *klass;   /* names of op_names.def and of table klass; static */
    char where[64];           /* what the values are: "ATTN", "K record", "logits", "margin", ... */
    int has_values;
    uint32_t ref_bits, got_bits;
    double ref_value, got_value;
    int64_t ulp;  /* -1: unknown */
    double bound; /* allowed error; 0 for devices that promise bits */
    char hypothesis[400];
    int replays, same; /* repeats of the step; those that gave the first one's bits */
    int32_t n_diffs;
    dt_evict_diff diffs[DT_EVICT_DIFF_MAX];
    kv_buffer state; /* the reference's export before the step */
    size_t state_bytes;
} dt_finding;

/* Searches one case. A failure that is returned is of the reference, of memory or of the tester; the device's own are
 * findings. *out must be zeroed or hold an earlier finding, and is freed by dt_finding_free. */
kv_status dt_locate(const dt_subject *s, dt_finding *out);
void dt_finding_free(dt_finding *f);

/* Names of op_names.def in its order; NULL behind the last. */
extern const char *const dt_op_names[];

#endif
