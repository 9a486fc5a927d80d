/* trainer.h - the door of a trainer: all that the tester knows of whatever trains a model of the golf family
 * (docs/training.md). The reference has one in fp32 and its double twin; a side, a shared object as for common/backend.h,
 * has one when it exports kv_trainer_entry. Not thread-safe; strings and arrays stay the caller's. The message of a failure
 * is kv_message() of the side that failed: last_error.
 *
 * Windows are S + 1 tokens, inputs w[0 .. S), targets w[1 .. S + 1), as corpus/loader.h hands them out. */
#ifndef KV_COMMON_TRAINER_H
#define KV_COMMON_TRAINER_H

#include "common/checkpoint.h"
#include "common/model.h"
#include "common/train.h"

#define KV_TRAINER_ABI   2u
#define KV_TRAINER_ENTRY "kv_trainer_entry"

typedef struct kv_trainer kv_trainer;

typedef struct kv_trainer_args {
    const kv_train_config *config; /* kv_train_check has passed */
    const kv_model *start;         /* weights to go on from; NULL: from the seed */
    int threads;
    const char *options; /* as a side's: "isa=avx2" (reference), "seed=3" (emu), "exact" (cuda); NULL: none */
} kv_trainer_args;

typedef struct kv_train_step {
    const uint16_t *windows;
    int64_t n;         /* windows: 1 .. batch_tokens / seq */
    double multiplier; /* of the learning rates; negative: by the config's schedule */
    /* Results. */
    int64_t step; /* that was made, from 0 */
    double used;  /* multiplier */
    double momentum, loss, norm, clip;
} kv_train_step;

/* Arrays of all parameters in the order of kv_golf_order, as the last step left them. */
typedef enum kv_trainer_part {
    KV_TRAINER_FIRST, /* moments */
    KV_TRAINER_SECOND,
    KV_TRAINER_WEIGHTS,
    KV_TRAINER_AVERAGES,
    KV_TRAINER_PARTS
} kv_trainer_part;

typedef struct kv_trainer_api {
    uint32_t abi; /* KV_TRAINER_ABI */
    const char *name;

    kv_status (*open)(const kv_trainer_args *a, kv_trainer **out);
    void (*close)(kv_trainer *t); /* accepts NULL */
    const char *(*last_error)(void); /* this thread's last failure, one line */

    int64_t (*steps)(const kv_trainer *t); /* made so far */

    /* Forward, backward, update. ERR_NONFINITE names step and token or tensor; the weights are those before the step. */
    kv_status (*step)(kv_trainer *t, kv_train_step *s);

    /* Announces a batch of n windows: that of the coming step or of the one behind it. NULL: the side does not care. The side
     * may begin to bring it where it is needed and go on with that beside the steps; it has read windows when it returns. A
     * hint, no promise: every other call leaves the same bits and fails in the same way whether this one was made or not and
     * whichever batches come. Windows that step would refuse are left to step; what can fail here is memory or the device. */
    kv_status (*prefetch)(kv_trainer *t, const uint16_t *windows, int64_t n);

    /* The first half of a step: loss and gradients, before the clip, [kv_golf_parameters] in fp32. Nothing changes. */
    kv_status (*gradients)(kv_trainer *t, kv_train_step *s, float *dst);

    /* nll of every target of n windows, [n][S]; averaged: with the running average of the weights. */
    kv_status (*losses)(kv_trainer *t, const uint16_t *windows, int64_t n, int averaged, float *nll);

    /* Multiplier of the learning rate in test-time training: docs/training.md. */
    double (*ttt_multiplier)(int64_t step, int64_t warm, int64_t total, double floor);

    /* SHA-256 of weights and averages. */
    kv_status (*hash)(const kv_trainer *t, uint8_t sha[32]);

    /* [kv_golf_parameters] in fp32. */
    kv_status (*read)(const kv_trainer *t, kv_trainer_part part, float *dst);

    /* A model with the weights or their average, in fp32. */
    kv_status (*model)(const kv_trainer *t, int averaged, kv_model **out);

    /* Writes to a temporary name beside path, then renames. */
    kv_status (*save)(const kv_trainer *t, const kv_checkpoint *c);
    /* ERR_FORMAT for a damaged file, ERR_MISMATCH, with the first line that differs, for another config; t is as before. */
    kv_status (*load)(kv_trainer *t, kv_checkpoint *c);
} kv_trainer_api;

typedef const kv_trainer_api *kv_trainer_entry_fn(uint32_t abi);

#endif
