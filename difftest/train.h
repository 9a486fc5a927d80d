/* train.h - a training run: config, data, trainer, checkpoints; the loop over steps (`kvdiff train`), and validation, which
 * `kvdiff ttt` uses too. */
#ifndef KV_DIFFTEST_TRAIN_H
#define KV_DIFFTEST_TRAIN_H

#include "common/tokenizer.h"
#include "corpus/loader.h"
#include "difftest/trainer_side.h"

#include <signal.h>

typedef struct dt_train_options {
    kv_train_config config;
    const char *data;      /* folder of shards, or one shard */
    const char *out;       /* folder of checkpoint and model */
    const char *tokenizer; /* for bits per byte; NULL: none */
    const char *side;      /* whose trainer: ref, ref64, emu, cuda:exact, a .so */
    const char *compare;   /* another side: dt_train_compare */
    const char *isa;       /* of the reference's kernels; NULL: the best */
    int32_t threads;
    int64_t stop_at;       /* steps after which this call ends; 0: at the last */
    int64_t save_every, validate_every, val_tokens, log_every; /* steps; tokens */
    int resume, quiet, last; /* last: the model has the last weights, not their average */
    const volatile sig_atomic_t *stop; /* non-zero: end after the step under way */
} dt_train_options;

/* A tokenizer for a model, for bits per byte; ERR_MISMATCH when their vocabularies differ. */
kv_status dt_train_tokenizer(const char *name, const kv_config *model, kv_tokenizer **out);

/* Mean loss over the first windows of the validation split. */
typedef struct dt_validation {
    int64_t tokens;
    double loss; /* nats per token */
    double bits; /* per byte of text; negative without a tokenizer */
} dt_validation;

/* Tells the trainer which batch of n windows comes behind the one in hand, when the side wants to know and the loader has it
 * ready: to be called between the loader's next and the step. */
kv_status dt_train_prefetch(const kv_trainer_api *api, kv_trainer *t, corpus_loader *l, int64_t n);

/* Runs to the last step (or stop_at), writes the model. ERR_INTERRUPTED after a signal, with a checkpoint written. */
kv_status dt_train_run(const dt_train_options *o);

/* Trains with two sides at once and compares loss, gradients, norm, moments, weights and averages after every step, bit for
 * bit; prints the first difference. *same: there was none. Nothing is written; out is not used. */
kv_status dt_train_compare(const dt_train_options *o, int *same);

/* The validation split of a folder, or the one shard, in windows of the config's seq: at most max_tokens of it. batch: windows
 * that the trainer takes at a time. tok may be NULL. */
kv_status dt_validate(const kv_trainer_api *api, kv_trainer *t, const corpus_shards *val, const kv_tokenizer *tok,
                      const kv_train_config *c, int64_t max_tokens, int averaged, dt_validation *out);

#endif
