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

#include "common/policy/full.h"
#include "common/policy/sink.h"
#include "common/policy/sliding.h"
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
} kv_policy;

/* One parameter of a policy, for parsers and for `kvdiff policy show`. */
typedef struct kv_policy_param {
    const char *name;
    const char *about;
    size_t offset;            /* of an int32_t in kv_policy */
    int32_t required;         /* no default: must be given */
    int32_t def, min, max;    /* default and limits of a number */
    const char *const *words; /* names of the values 0, 1, ...; NULL for a number */
} kv_policy_param;

enum { KV_POLICY_TEXT_MAX = 160 };

KV_EXTERN_C_BEGIN

/* ERR_USAGE with one line that names the rule and the nearest legal value. */
kv_status kv_policy_parse(const char *spec, kv_policy *out);

/* Checks the limits of an already filled struct, as kv_policy_parse does. */
kv_status kv_policy_check(const kv_policy *p);

/* Writes the canonical spelling; dst holds KV_POLICY_TEXT_MAX bytes. */
void kv_policy_format(const kv_policy *p, char *dst);

const char *kv_selection_name(int32_t selection);
const char *kv_selection_about(int32_t selection);
const char *kv_storage_name(int32_t storage);
const char *kv_storage_about(int32_t storage);

/* Parameters of a selection, sorted by name. */
const kv_policy_param *kv_selection_params(int32_t selection, size_t *n);

/* The largest RoPE position that a case of n_tokens in steps of q can use, for the check against
 * the model's trained context (a bound, exact for the policies listed in docs/policy). */
int64_t kv_policy_max_position(const kv_policy *p, int64_t n_tokens, int32_t q);

KV_EXTERN_C_END

#endif
