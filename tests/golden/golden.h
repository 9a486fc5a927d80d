/* golden.h - what the golden programs share: TAP output, a side with a session, JSON access. The programs
 * print one TAP line per comparison with the largest difference found. */
#ifndef KV_TESTS_GOLDEN_H
#define KV_TESTS_GOLDEN_H

#include "common/mem.h"
#include "common/model.h"
#include "common/policy.h"
#include "common/state.h"
#include "difftest/side.h"

#include <jansson.h>

void golden_ok(int ok, const char *fmt, ...) KV_PRINTF(2, 3);
void golden_skip(const char *name, const char *why);

/* Prints the plan; returns the program's exit status. */
int golden_done(void);

/* Ends the program with a message: the test itself cannot run. */
void golden_die(const char *fmt, ...) __attribute__((noreturn)) KV_PRINTF(1, 2);

json_t *golden_load(const char *folder, const char *name); /* dies */
double golden_number(const json_t *object, const char *key);
const char *golden_text(const json_t *object, const char *key);

/* $KVDIFF_SHARED/golden, or NULL. */
const char *golden_shared(void);

/* A session; a failed step dies. */
typedef struct golden_stream {
    const kv_backend *side;
    kv_session *session;
    const kv_model *model;
    kv_events events; /* of all steps */
    int32_t layers;
} golden_stream;

/* 0: the side refuses the policy, which is reported as a failed test; nothing is left to close. */
int golden_open(golden_stream *s, const dt_side *side, const kv_model *m, const char *policy, int threads);
void golden_close(golden_stream *s);

/* Feeds tokens[n] in steps: the first of `first` tokens, then `chunk` at a time. nll[i] (may be NULL) is the
 * canonical NLL of tokens[i + 1] for i < n - 1; logits (may be NULL) receives the rows of the last step.
 * after(arg, seen) runs behind every step when not NULL. Returns the rows of the last step. */
int32_t golden_feed(golden_stream *s, const int32_t *tokens, int32_t n, int32_t first, int32_t chunk,
                    float *nll, float *logits, void (*after)(void *arg, int32_t seen), void *arg);

/* What one layer and KV head hold. */
typedef struct golden_state {
    kv_buffer blob;
    kv_state_head h;
    kv_state_view v;
} golden_state;

/* `what` is a mask of KV_STATE_*; a state that is damaged dies. */
void golden_export(golden_stream *s, int32_t layer, int32_t head, uint32_t what, golden_state *out);
void golden_state_free(golden_state *g);

/* Original indices (and positions, unless pos is NULL) of one layer and head in view order; returns their
 * number. */
int32_t golden_kept(golden_stream *s, int32_t layer, int32_t head, int64_t *og, int32_t *pos, int32_t cap);

#endif
