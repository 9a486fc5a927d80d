/* trainer.h - the trainer as a door: all that the tester knows of it. One table for fp32 and one for its double twin,
 * like the sides (common/backend.h). Not thread-safe; strings and arrays stay the caller's.
 *
 * Windows are S + 1 tokens, inputs w[0 .. S), targets w[1 .. S + 1), as corpus/loader.h hands them out. */
#ifndef KV_REF_TRAIN_TRAINER_H
#define KV_REF_TRAIN_TRAINER_H

#include "common/model.h"
#include "common/train.h"

typedef struct ref_trainer ref_trainer;

typedef struct ref_trainer_args {
    const kv_train_config *config; /* kv_train_check has passed */
    const kv_model *start;         /* weights to go on from; NULL: from the seed */
    int threads;
    const char *isa; /* as the side's option; NULL: the best of this CPU */
} ref_trainer_args;

typedef struct ref_train_step {
    const uint16_t *windows;
    int64_t n;         /* windows: 1 .. batch_tokens / seq */
    double multiplier; /* of the learning rates; negative: by the config's schedule */
    /* Results. */
    int64_t step; /* that was made, from 0 */
    double used;  /* multiplier */
    double momentum, loss, norm, clip;
} ref_train_step;

/* The end of a checkpoint: everything of a run that is not in the config. */
typedef struct ref_checkpoint {
    const char *path;
    const uint8_t *extra; /* the caller's: where its data stands; of a loaded one malloc'ed, the caller frees it */
    size_t extra_bytes;
} ref_checkpoint;

typedef struct ref_trainer_api {
    const char *name;

    kv_status (*open)(const ref_trainer_args *a, ref_trainer **out);
    void (*close)(ref_trainer *t); /* accepts NULL */

    int64_t (*steps)(const ref_trainer *t); /* made so far */

    /* Forward, backward, update. ERR_NONFINITE names step and token or tensor; the weights are those before the step. */
    kv_status (*step)(ref_trainer *t, ref_train_step *s);

    /* nll of every target of n windows, [n][S]; averaged: with the running average of the weights. */
    kv_status (*losses)(ref_trainer *t, const uint16_t *windows, int64_t n, int averaged, float *nll);

    /* Multiplier of the learning rate in test-time training: docs/training.md. */
    double (*ttt_multiplier)(int64_t step, int64_t warm, int64_t total, double floor);

    /* SHA-256 of weights and averages. */
    void (*hash)(const ref_trainer *t, uint8_t sha[32]);

    /* A model with the weights or their average, in fp32. */
    kv_status (*model)(const ref_trainer *t, int averaged, kv_model **out);

    /* Writes to a temporary name beside path, then renames. */
    kv_status (*save)(const ref_trainer *t, const ref_checkpoint *c);
    /* ERR_FORMAT for a damaged file, ERR_MISMATCH, with the first line that differs, for another config; t is as before. */
    kv_status (*load)(ref_trainer *t, ref_checkpoint *c);
} ref_trainer_api;

KV_EXTERN_C_BEGIN
const ref_trainer_api *ref_trainer_door(void);
const ref_trainer_api *ref64_trainer_door(void);
KV_EXTERN_C_END

#endif
