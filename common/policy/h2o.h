/* h2o.h - policy `h2o`: parameters and limits (docs/policy/h2o.md). */
#ifndef KV_COMMON_POLICY_H2O_H
#define KV_COMMON_POLICY_H2O_H

#include <stdint.h>

typedef enum kv_h2o_gqa { KV_GQA_SUM, KV_GQA_MAX } kv_h2o_gqa; /* query heads of a group become one score */

typedef struct kv_h2o_params {
    int32_t cap;    /* heavy + recent: most entries after a step */
    int32_t heavy;  /* kept by score */
    int32_t recent; /* newest, kept in any case */
    int32_t gqa;    /* kv_h2o_gqa */
} kv_h2o_params;

#endif
