/* ttt.h - test-time training (`kvdiff ttt`): a model adapts to the text that it is judged on.
 *
 * FULL trains on all of it, several times over, and scores it afterwards: the result says how well the text was learned, not
 * how well the model predicts. SCORE_FIRST scores a chunk, then trains on it, then goes on: every score was given before the
 * weights saw the token. */
#ifndef KV_DIFFTEST_TTT_H
#define KV_DIFFTEST_TTT_H

#include "common/model.h"
#include "common/tokenizer.h"

typedef enum dt_ttt_mode { DT_TTT_FULL, DT_TTT_SCORE_FIRST } dt_ttt_mode;

typedef struct dt_ttt_options {
    const char *model, *data, *tokenizer;
    const char *side, *isa; /* whose trainer; of the reference's kernels, may be NULL */
    int32_t mode; /* dt_ttt_mode */
    int32_t threads;
    int64_t seq;      /* 0: what the model was trained for */
    int64_t batch;    /* sequences of a step */
    int64_t epochs;   /* 0: 20, score-first 3 */
    int64_t tokens;   /* of the text; 0: all */
    int64_t chunk;    /* score-first: tokens between updates; a multiple of seq */
    int64_t stride;   /* tokens that a window scores; 0: seq */
    double lr;        /* 0: 5e-4, score-first 2e-3 */
    const char *db;   /* NULL: as dt_db_path */
    int argc;         /* the command line, for the database */
    char **argv;
} dt_ttt_options;

kv_status dt_ttt_run(const dt_ttt_options *o);

/* One score for results.db. Modes: plain is without adaptation. */
#define DT_TTT_PLAIN_NAME "windows"
#define DT_TTT_FULL_NAME "ttt-full"
#define DT_TTT_FIRST_NAME "ttt-score-first"
typedef struct dt_ttt_score {
    const kv_model *model; /* before any adaptation */
    const char *mode, *label, *options; /* options: JSON */
    const char *text;      /* what the tokens are called */
    uint8_t text_sha[32];  /* of the tokens that were read */
    int32_t q;             /* tokens of a window */
    int64_t tokens;
    uint64_t bytes;        /* 0: unknown */
    double sum, seconds;   /* nats; of scoring and training */
} dt_ttt_score;

/* Writes a run with one case. ERR_DB as dt_db_open. */
kv_status dt_ttt_record(const char *database, const dt_ttt_score *s, int argc, char **argv);

#endif
