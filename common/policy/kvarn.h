/* kvarn.h - storage `kvarn`: parameters and limits (docs/policy/kvarn.md). */
#ifndef KV_COMMON_POLICY_KVARN_H
#define KV_COMMON_POLICY_KVARN_H

#include <stdint.h>

typedef enum kv_kvarn_dialect { KV_KVARN_A, KV_KVARN_B } kv_kvarn_dialect;
typedef enum kv_kvarn_tie { KV_TIE_LITERAL, KV_TIE_REL } kv_kvarn_tie;

typedef struct kv_kvarn_params {
    int32_t tile;    /* tokens of a tile: 32, 64 or 128 */
    int32_t kbits;   /* bits of a key code: 2, 3, 4, 5, 6 or 8 */
    int32_t vbits;   /* of a value code */
    int32_t iters;   /* rounds of balancing */
    int32_t dialect; /* kv_kvarn_dialect */
    int32_t tie;     /* kv_kvarn_tie */
} kv_kvarn_params;

#endif
