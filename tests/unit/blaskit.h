/* blaskit.h - what the tests of the blas side share: decisions by the letter of docs/policy/ (by chance where a
 * score would decide: the side replays whatever can be obeyed), a forward pass in plain double loops, and a
 * stream that goes through both. */
#ifndef KV_TESTS_BLASKIT_H
#define KV_TESTS_BLASKIT_H

#include "tests/unit/kvtest.h"

#include "common/backend.h"
#include "common/state.h"

enum { BK_TOKENS = 256, BK_ROWS = 512 }; /* of a stream; computed ones, xwindow's repetitions included */

extern const kv_backend *bk_blas;
extern kv_model *bk_nano;

/* Group fixtures: the side from the build folder, model nano. */
int bk_set_up(void **state);
int bk_tear_down(void **state);

kv_session *bk_open_on(const kv_model *m, const char *policy, int threads);
int32_t bk_token_at(const kv_model *m, int64_t i);

/* ---- decisions ------------------------------------------------------------------------------------------ */

typedef struct bk_entry {
    int64_t og, pos; /* pos: where its key is rotated in the next piece */
    int64_t row;     /* of the computed rows: og but under xwindow */
} bk_entry;

/* Heads that decide alike: view order, the part that the next piece sees, rings by slot. */
typedef struct bk_view {
    bk_entry e[BK_ROWS];
    int64_t n, base; /* base: position of the piece's first token */
    int64_t from, to; /* e[from .. to) are seen */
    bk_entry ring[KV_CASCADE_MAX][BK_TOKENS];
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX];
    kv_events events; /* of the step */
} bk_view;

typedef struct bk_sim {
    kv_policy p;
    int32_t n_layers, n_sets;
    bk_view *views; /* [n_layers][n_sets] */
} bk_sim;

void bk_sim_open(bk_sim *s, const char *policy, const kv_config *cfg);
void bk_sim_close(bk_sim *s);

/* A piece of m tokens from original index `first` on, whose rows are row0, row0 + 1, ...; seen: tokens before. */
void bk_before(bk_sim *s, int64_t first, int64_t m);
void bk_after(bk_sim *s, int64_t first, int64_t m, int64_t row0, int64_t seen);
int64_t bk_piece(const bk_sim *s, int64_t seen, int64_t n, int64_t at);
static inline bk_view *bk_view_at(const bk_sim *s, int32_t layer, int64_t set)
{
    return &s->views[layer * s->n_sets + set];
}

/* ---- the forward pass in double --------------------------------------------------------------------------- */

typedef struct bk_naive {
    const kv_model *m;
    float **w;     /* [tensors] widened */
    double *k, *v; /* [layer][row][H * D], keys before RoPE */
    /* [layer][token][H * D]: rows of tokens below n_read are read from here, keys after RoPE */
    double *read_k, *read_v;
    int64_t n_read;
} bk_naive;

bk_naive bk_naive_open(const kv_model *m);
void bk_naive_close(bk_naive *n);

/* logits[m][vocab] of one piece. */
void bk_naive_forward(bk_naive *n, const bk_sim *s, int64_t first, int64_t m, int64_t row0, double *logits);

/* ---- a stream ------------------------------------------------------------------------------------------------ */

typedef struct bk_stream {
    kv_session *session;
    const kv_model *m;
    bk_sim sim;
    kv_events list, reported;
    int64_t seen, first; /* first: original index of the planned step's first token */
    int64_t rows;        /* computed so far */
    float *logits;       /* of the last step */
} bk_stream;

bk_stream bk_open(const kv_model *m, const char *policy, int threads);
void bk_close(bk_stream *s);

/* Decides a step of n tokens; with n_ (may be NULL) also computes expected[n][vocab]. */
void bk_plan(bk_stream *s, int64_t n, bk_naive *n_, double *expected);
/* Feeds the planned step, with this list. */
kv_status bk_feed(bk_stream *s, int64_t n, const kv_events *list);
void bk_step(bk_stream *s, int64_t n); /* both, and it must succeed */

/* The other stream's place and decisions so far; its session is left alone. Same policy. */
void bk_stand_at(bk_stream *to, const bk_stream *from);

/* A whole export, freed by the caller. */
void *bk_exported(kv_session *s, size_t *size);

/* Feeds the steps (0 ends them) to the side and to the loops; largest difference of a logit. */
double bk_distance(const kv_model *m, const char *policy, const int *steps);

/* The step must be refused with these words and leave no events. */
void bk_refused(bk_stream *s, int64_t n, const kv_events *list, const char *words);

#endif
