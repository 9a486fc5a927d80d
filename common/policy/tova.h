/* tova.h - policy `tova`: parameters and limits (docs/policy/tova.md). */
#ifndef KV_COMMON_POLICY_TOVA_H
#define KV_COMMON_POLICY_TOVA_H

#include <stdint.h>

typedef struct kv_tova_params {
    int32_t cap; /* most entries after a step; at least 1 */
} kv_tova_params;

#endif
