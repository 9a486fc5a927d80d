/* trainer_private.h - shared by trainer.c and checkpoint.c. */
#ifndef KV_REF_TRAIN_TRAINER_PRIVATE_H
#define KV_REF_TRAIN_TRAINER_PRIVATE_H

#include "ref/train/graph.h"
#include "ref/train/optim.h"
#include "ref/train/trainer.h"

enum { REF_TRAIN_ARRAYS = 5 }; /* weights, gradients, two moments, average */

struct ref_trainer {
    kv_train_config config;
    ref_params params;
    ref_graph graph;
    ref_optim optim; /* owns its arrays, one behind the other */
    kv_pool *pool;
    size_t bytes;      /* of the arrays */
    kv_buffer *scratch; /* [threads] of the optimiser */
    int32_t *tokens;   /* [2][T] inputs, targets */
    int64_t step;
};

kv_status REF(checkpoint_save)(const ref_trainer *t, const ref_checkpoint *c);
kv_status REF(checkpoint_load)(ref_trainer *t, ref_checkpoint *c);

#endif
