/* train.h - how a model is trained: everything that decides a run's bits, apart from its data (docs/training.md).
 *
 * As text it is lines of `key = value`, `#` begins a comment; keys that are left out keep the defaults of the preset that
 * `model` names. The canonical text prints every key in one order, so that its hash says whether a checkpoint belongs to
 * a config. */
#ifndef KV_COMMON_TRAIN_H
#define KV_COMMON_TRAIN_H

#include "common/config.h"
#include "common/golf.h"

typedef enum kv_train_optimizer {
    KV_TRAIN_GOLF,  /* by group: Muon for matrices, AdamW for the rest */
    KV_TRAIN_ADAMW, /* for every tensor */
    KV_TRAIN_SGD    /* with momentum (momentum_from, momentum_to) */
} kv_train_optimizer;

enum { KV_TRAIN_GROUPS = KV_GOLF_HEAD + 1, KV_TRAIN_TEXT_MAX = 8192 };

typedef struct kv_train_config {
    char name[64];        /* of the model that comes out */
    kv_config model;
    uint64_t seed;        /* of the first weights and of the order of the data */
    int64_t seq;          /* tokens of a sequence: inputs, each with a target */
    int64_t batch_tokens; /* inputs of a step; a multiple of seq */
    int64_t iterations;   /* steps that the schedules count on */
    int64_t warmdown;     /* last steps, in which the learning rate falls to 0 */
    double lr[KV_TRAIN_GROUPS], weight_decay[KV_TRAIN_GROUPS]; /* by kv_golf_group */
    double beta1, beta2, eps;                /* AdamW */
    double momentum_from, momentum_to;       /* Muon, SGD */
    int64_t momentum_steps;
    double clip;          /* largest norm of all gradients; 0 = no limit */
    double ema;           /* share of the old average that a step keeps; 0 = the average is the weights */
    double qat_below;     /* matrices are rounded to int6 in forward and backward while the multiplier is below; 0 = never */
    int32_t ns5_bf16;     /* round inside Newton-Schulz to bf16 */
    int32_t optimizer;    /* kv_train_optimizer */
} kv_train_config;

KV_EXTERN_C_BEGIN

/* The defaults of the spec with a preset's model: nano-a, nano-b, nano-u, golf-a, golf-b, mini (kv_train_preset_names).
 * ERR_USAGE for any other name. */
kv_status kv_train_preset(const char *name, kv_train_config *out);
const char *kv_train_preset_names(void);

/* Reads a text over the defaults of its `model` key (default mini). name stands in messages. */
kv_status kv_train_parse(const char *text, const char *name, kv_train_config *out);

/* One assignment, as in a line of the text. ERR_USAGE names the key and the range. */
kv_status kv_train_set(kv_train_config *c, const char *key, const char *value);

/* ERR_USAGE for numbers that do not fit together. */
kv_status kv_train_check(const kv_train_config *c);

/* The canonical text. */
void kv_train_print(const kv_train_config *c, char text[KV_TRAIN_TEXT_MAX]);

KV_EXTERN_C_END

#endif
