/* policy.h - which cache policy a case uses: its parameters, its spelling, its limits.
 *
 * A policy is two independent choices: selection (which tokens stay, at which positions) and storage
 * (how K and V are kept). Spelling: `selection:key=value,...+storage:key=value,...`, for example
 * "full", "sink:cap=1020,sinks=4", "sliding:cap=512,pos=absolute". The canonical spelling prints
 * every parameter that differs from its default, sorted by name, and leaves "+f32" out; it is part
 * of the key of a case (docs/results.md).
 *
 * Only data and spelling live here. Every decision (who is evicted, which slot, which position) is
 * written twice, by ref/ and by gpu/, from docs/policy/. */
#ifndef KV_COMMON_POLICY_H
#define KV_COMMON_POLICY_H

#include "common/model.h"
#include "common/policy/cascade.h"
#include "common/policy/dilated.h"
#include "common/policy/full.h"
#include "common/policy/h2o.h"
#include "common/policy/kivi.h"
#include "common/policy/kvarn.h"
#include "common/policy/sink.h"
#include "common/policy/sliding.h"
#include "common/policy/snapkv.h"
#include "common/policy/tova.h"
#include "common/policy/xwindow.h"
#include "common/status.h"

#include <stdint.h>

typedef enum kv_selection {
#define X(symbol, name, id, about) KV_SEL_##symbol = id,
#include "common/policy.def"
#undef X
    KV_SEL_COUNT
} kv_selection;

typedef enum kv_storage {
#define X(symbol, name, id, about) KV_STORE_##symbol = id,
#include "common/storage.def"
#undef X
    KV_STORE_COUNT
} kv_storage;

typedef struct kv_policy {
    int32_t selection; /* kv_selection */
    int32_t storage;   /* kv_storage */
    kv_sliding_params sliding;
    kv_sink_params sink;
    kv_cascade_params cascade;
    kv_xwindow_params xwindow;
    kv_h2o_params h2o;
    kv_tova_params tova;
    kv_snapkv_params snapkv;  /* snapkv and pyramid */
    kv_dilated_params dilated;
    kv_kvarn_params kvarn;
    kv_kivi_params kivi;
} kv_policy;

/* One parameter of a policy, for parsers and for `kvdiff policy show`. */
typedef struct kv_policy_param {
    const char *name;
    const char *about;
    size_t offset;            /* of an int32_t in kv_policy; of a double when decimal is set */
    int32_t flags;            /* KV_PARAM_* */
    int32_t def, min, max;    /* default and limits of a number */
    const char *const *words; /* names of the values 0, 1, ...; NULL for a number */
    const char *decimal;      /* default of a number inside (0, 1), as text; NULL for whole numbers and words */
} kv_policy_param;

enum {
    KV_PARAM_REQUIRED = 1, /* no default: must be given */
    KV_PARAM_DERIVED = 2,  /* the default follows from other parameters; def is what is stored until then */
    KV_PARAM_ALIAS = 4     /* another way to say something: never printed */
};

enum { KV_POLICY_TEXT_MAX = 224 };

KV_EXTERN_C_BEGIN

/* ERR_USAGE with one line that names the rule and the nearest legal value. */
kv_status kv_policy_parse(const char *spec, kv_policy *out);

/* Checks an already filled struct, as kv_policy_parse does. */
kv_status kv_policy_check(const kv_policy *p);

/* ERR_USAGE when a policy cannot work on this model (a head size that a storage cannot code, ...). */
kv_status kv_policy_fit(const kv_policy *p, const kv_config *cfg);

/* Why the selection and the storage do not go together; NULL when they do. */
const char *kv_policy_pair_reason(const kv_policy *p);

/* Writes the canonical spelling; dst holds KV_POLICY_TEXT_MAX bytes. */
void kv_policy_format(const kv_policy *p, char *dst);

const char *kv_selection_name(int32_t selection);
const char *kv_selection_about(int32_t selection);
const char *kv_storage_name(int32_t storage);
const char *kv_storage_about(int32_t storage);

/* Parameters of a selection or of a storage, sorted by name. */
const kv_policy_param *kv_selection_params(int32_t selection, size_t *n);
const kv_policy_param *kv_storage_params(int32_t storage, size_t *n);

/* Writes the value of a parameter as it is spelled; dst holds 32 bytes. */
void kv_policy_value(const kv_policy *p, const kv_policy_param *d, char *dst);

/* The largest RoPE position that a case of n_tokens in steps of q can use, for the check against
 * the model's trained context (a bound, exact for the policies listed in docs/policy). */
int64_t kv_policy_max_position(const kv_policy *p, int64_t n_tokens, int32_t q);

/* Most entries of a layer and KV head after a step; INT64_MAX: grows with the stream. */
int64_t kv_policy_max_entries(const kv_policy *p);

/* Tokens that the first step must bring (a prompt), 0: any number. */
int32_t kv_policy_first_step(const kv_policy *p);

/* All heads of a layer decide alike: events carry head -1. */
int kv_policy_heads_agree(const kv_policy *p);

KV_EXTERN_C_END

#endif
