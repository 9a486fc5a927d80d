/* checkpoint.h - a training run between two steps as one file (docs/training.md, "Checkpoints"): head, config as text, the
 * caller's bytes, weights, first moments, second moments, averages, and a SHA-256 of all that. Trainers share the format, so
 * that one goes on where another stopped. */
#ifndef KV_COMMON_CHECKPOINT_H
#define KV_COMMON_CHECKPOINT_H

#include "common/train.h"

/* What the caller of a trainer adds to a run: everything that is neither config nor trainer. */
typedef struct kv_checkpoint {
    const char *path;
    const uint8_t *extra; /* the caller's: where its data stands; of a loaded one malloc'ed, the caller frees it */
    size_t extra_bytes;
} kv_checkpoint;

enum { KV_CHECKPOINT_ARRAYS = 4 };

/* What the trainer adds. */
typedef struct kv_checkpoint_run {
    const kv_train_config *config;
    int64_t step;       /* steps made; a result of reading */
    int64_t parameters; /* numbers in each array */
    size_t real_bytes;  /* of a number */
    void *arrays[KV_CHECKPOINT_ARRAYS]; /* weights, first moments, second moments, averages */
} kv_checkpoint_run;

KV_EXTERN_C_BEGIN

/* Writes beside the place and renames. ERR_NOMEM, ERR_IO. */
kv_status kv_checkpoint_write(const kv_checkpoint *c, const kv_checkpoint_run *run);

/* Fills the arrays and step, and the caller's bytes. ERR_FORMAT for a damaged file, ERR_UNSUPPORTED for another version or
 * other numbers, ERR_MISMATCH, with the first line that differs, for another config; nothing is changed then. */
kv_status kv_checkpoint_read(kv_checkpoint *c, kv_checkpoint_run *run);

/* The same for the n bytes of a file; c->path stands in messages. */
kv_status kv_checkpoint_parse(kv_checkpoint *c, kv_checkpoint_run *run, const uint8_t *bytes, size_t n);

KV_EXTERN_C_END

#endif
