/* kit.h - runs of one side under one policy, for laws that need no second implementation (docs/testing.md).
 *
 * A run is a session, a stream of tokens and a schedule of steps. Its rows are the logits of every position as the
 * policy scores them: in xwindow the row of the window that scores it. */
#ifndef KV_TESTS_LAWS_KIT_H
#define KV_TESTS_LAWS_KIT_H

#include "tests/unit/refkit.h"

#include "difftest/side.h"

typedef struct law_step {
    int32_t pos0, n;  /* tokens pos0 .. pos0 + n - 1 */
    int32_t scored;   /* first position whose row counts */
    uint32_t flags;   /* KV_STEP_* */
} law_step;

typedef struct law_run {
    refkit k;
    kv_policy policy;
    const char *spec;
    int32_t *tokens; /* [n] */
    int32_t n;
    law_step *steps; /* [n_steps] */
    int32_t n_steps, at;
    float *rows;        /* [n][vocab] */
    float *nll;         /* [n] of the next token; the last is of token 0 */
    kv_events events;
    size_t *events_end; /* [n_steps] events behind step i */
} law_run;

/* What main chose. */
extern const kv_backend *law_side;
extern kv_model *law_model;

/* Policies of the general laws: small caches, so that 160 tokens wrap around. Only those that main's words leave. */
extern const char *const law_policies[];
int law_wanted(const char *spec);

/* Published windows of models with NTK scaling take the base of RoPE from each call: nothing else has their bits. */
int law_base_of_its_own(const char *spec);

/* A policy of every law; `for_each_policy(spec)` skips what was not asked for. */
#define for_each_policy(spec)                                         \
    for (const char *const *it_ = law_policies, *spec = NULL; *it_; it_++) \
        if (spec = *it_, law_wanted(spec))

enum { LAW_TOKENS = 160 };

/* Tokens of document `doc`, the first n, in steps of q (xwindow: its windows; snapkv: the prompt, then q). */
law_run law_open(const char *spec, uint32_t doc, int32_t n, int32_t q);
law_run law_open_threads(const char *spec, uint32_t doc, int32_t n, int32_t q, int threads);
void law_close(law_run *r);
void law_rewind(law_run *r, int32_t step); /* the session was set back to the state before this step */
void law_advance(law_run *r, int32_t steps); /* at most that many further steps */
void law_finish(law_run *r);

/* First event and the event behind the last of step i. */
size_t law_events_begin(const law_run *r, int32_t step);

/* Rows [from, to) have the same bits. */
void law_same_rows(const law_run *a, const law_run *b, int32_t from, int32_t to, const char *what);

/* Everything: rows, NLL, events, exported state. */
void law_same(const law_run *a, const law_run *b, const char *what);

/* Original indices (and positions) of the entries of a layer and KV head, in view order, expanded to tokens where an
 * entry is a tile. kivi: of K. Returns their number; og has room for LAW_MAX_KEPT. */
enum { LAW_MAX_KEPT = 1024 };
int32_t law_kept(const law_run *r, int32_t layer, int32_t head, int64_t *og);

/* The groups of laws; each returns the number of failed tests. */
int laws_of_sessions(void);
int laws_of_kept_sets(void);
int laws_of_equality(void);
int laws_of_windows(void);
int laws_of_cascade(void);

#endif
