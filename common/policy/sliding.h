/* sliding.h - policy `sliding`: parameters and limits (docs/policy/sliding.md). */
#ifndef KV_COMMON_POLICY_SLIDING_H
#define KV_COMMON_POLICY_SLIDING_H

#include <stdint.h>

typedef enum kv_sliding_pos {
    KV_SLIDING_REROTATE, /* positions are reassigned 0..|P|-1 before every step; K kept un-rotated */
    KV_SLIDING_ABSOLUTE, /* a token keeps its original index as position */
    KV_SLIDING_SATURATE  /* a token keeps the position it had when it came in: at most cap - 1 */
} kv_sliding_pos;

typedef struct kv_sliding_params {
    int32_t cap; /* most entries a step may end with; at least 2 */
    int32_t pos; /* kv_sliding_pos */
} kv_sliding_params;

#endif
