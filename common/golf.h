/* golf.h - the golf family (docs/golf.md): its presets, the order of its tensors, the generator of their weights.
 *
 * The order of tensors is that of checkpoints and artifacts, and of every sum over all parameters: token and bigram
 * tables, smear gate, skip weights, the layers from the first to the last, the sidecar, an untied head. */
#ifndef KV_COMMON_GOLF_H
#define KV_COMMON_GOLF_H

#include "common/model.h"

typedef struct kv_golf_place {
    kv_role role;
    int32_t layer; /* 0 for tensors of the whole model */
} kv_golf_place;

/* Which optimiser trains a tensor. */
typedef enum kv_golf_group {
    KV_GOLF_TOKEN,  /* AdamW: tables of embeddings */
    KV_GOLF_MUON,   /* Muon: matrices of the blocks, of the bigram and of the sidecar */
    KV_GOLF_SCALAR, /* AdamW: everything else */
    KV_GOLF_HEAD    /* Adam: an untied head */
} kv_golf_group;

KV_EXTERN_C_BEGIN

/* Tensors of a config in their order. places may be NULL: only counts. Has room for kv_golf_order(cfg, NULL). */
int32_t kv_golf_order(const kv_config *cfg, kv_golf_place *places);

kv_golf_group kv_golf_group_of(kv_role role);

/* Dimensions of a tensor as files of the family write it: a matrix has two, a vector one, a number none, the filter of the
 * sidecar three (the middle one is 1). Returns their number. */
int kv_golf_dims(const kv_config *cfg, kv_role role, int64_t dims[3]);

/* Number of parameters of a config. */
int64_t kv_golf_parameters(const kv_config *cfg);

/* The config of "nano-a", "nano-b", "nano-u", "golf-a" or "golf-b"; NULL for any other name. */
const kv_config *kv_golf_preset(const char *name);

/* A model of the family with the weights w, its tensors in fp32 one behind the other in the order above. ERR_NOMEM; what
 * kv_model_check refuses. */
kv_status kv_golf_model(const char *name, const kv_config *cfg, const float *w, kv_model **out);

/* Element e (row-major) of the stream that a name and a seed start: a bell over [-2, 2] with standard deviation 0.577,
 * in steps of 1 / 65536, times 65536. */
int32_t kv_golf_bell(const char *name, uint64_t seed, uint64_t e);

KV_EXTERN_C_END

#endif
