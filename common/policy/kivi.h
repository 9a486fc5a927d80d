/* kivi.h - storage `kivi`: parameters and limits (docs/policy/kivi.md). */
#ifndef KV_COMMON_POLICY_KIVI_H
#define KV_COMMON_POLICY_KIVI_H

#include <stdint.h>

typedef struct kv_kivi_params {
    int32_t bits;     /* of a code: 2, 3, 4, 5, 6 or 8 */
    int32_t group;    /* values that share scale and minimum; divides residual and head_dim */
    int32_t residual; /* newest rows that stay in fp32 */
} kv_kivi_params;

#endif
