/* artifact.h - what `kvdiff pack` and `kvdiff inspect` share: configs as JSON, weights by the name of a model or of a file,
 * figures of an artifact's tensors. */
#ifndef KV_DIFFTEST_ARTIFACT_H
#define KV_DIFFTEST_ARTIFACT_H

#include "common/kvm.h"

#include <jansson.h>

enum { DT_ARTIFACT_BUDGET = 16000000 /* bytes, the program included */ };

/* The config that --config names: a preset, a JSON text that begins with '{', or the path of such a file. Fields by their
 * names in kv_config; "base" names the preset that the others start from. Checked for an artifact. ERR_USAGE; for a file
 * ERR_IO, ERR_FORMAT. */
kv_status dt_config_parse(const char *text, kv_config *cfg);

/* All fields that dt_config_parse would not assume by itself, by name. NULL: out of memory. */
json_t *dt_config_json(const kv_config *cfg);

/* FILE.safetensors with this config, or whatever kv_model_open knows (cfg may be NULL for that). ERR_USAGE when a config is
 * needed. */
kv_status dt_weights_open(const char *name, const kv_config *cfg, kv_model **out);
int dt_has_suffix(const char *path, const char *suffix);

typedef struct dt_tensor_figures {
    double entropy;                 /* bits a code, from the frequencies of the tensor's codes; 0 for classes without codes */
    double largest, rms, share;     /* dequantised - original: largest and root mean square; the latter over the original's */
} dt_tensor_figures;

/* other: a model with the same tensors, or NULL: only entropy. ERR_MISMATCH when its tensor has another shape. */
kv_status dt_tensor_measure(const kv_kvm *k, const kv_kvm_tensor *t, const kv_model *other, dt_tensor_figures *out);

#endif
