/* model_private.h - shared by model.c and its loaders; nobody else includes it. */
#ifndef KV_COMMON_MODEL_PRIVATE_H
#define KV_COMMON_MODEL_PRIVATE_H

#include "common/gguf.h"
#include "common/model.h"
#include "common/tokenizer.h"

/* What a kv_model keeps alive. */
typedef struct kv_model_owner {
    kv_tensor *tensors; /* the table that kv_model.tensors points to */
    kv_gguf *gguf;      /* or NULL */
    float *weights;     /* of a generated model, or NULL */
} kv_model_owner;

/* A model with a zeroed tensor table for cfg; the caller fills it and calls kv_model_check. */
kv_status kv_model_new(const char *name, const kv_config *cfg, kv_model **out);

/* Table slot of a role, writable. */
kv_tensor *kv_model_slot(kv_model *m, kv_role role, int32_t layer);

/* Loaders. */
kv_status kv_model_from_gguf(const char *path, const char *name, kv_model **out,
                             kv_tokenizer **tok);
kv_status kv_model_from_kvm(const char *path, const char *name, kv_model **out, kv_tokenizer **tok);
/* Closes k. */
struct kv_kvm;
kv_status kv_model_of_kvm(struct kv_kvm *k, const char *where, const char *name, kv_model **out, kv_tokenizer **tok);
kv_status kv_model_embedded(const char *name, kv_model **out, kv_tokenizer **tok); /* novel */
kv_status kv_model_synth(const char *name, kv_model **out, kv_tokenizer **tok); /* nano, sharp, tiny */
kv_status kv_model_golf(const char *name, kv_model **out, kv_tokenizer **tok);  /* nano-a, ..., golf-b */

/* Gives a model without weights one zeroed fp32 array that holds all of its tensors, in the order of the tensor table. */
kv_status kv_model_allocate(kv_model *m);
/* sha256 of that array. */
void kv_model_fingerprint(kv_model *m);

#endif
