/* dilated.h - policy `dilated`: parameters and limits (docs/policy/dilated.md). */
#ifndef KV_COMMON_POLICY_DILATED_H
#define KV_COMMON_POLICY_DILATED_H

#include <stdint.h>

typedef struct kv_dilated_params {
    int32_t sinks;  /* first tokens kept for ever; 0 or more */
    int32_t every;  /* of the others every such one is kept for ever; at least 1 */
    int32_t window; /* newest tokens, kept in any case; at least 1 */
} kv_dilated_params;

#endif
