/* snapkv.h - policies `snapkv` and `pyramid`: parameters and limits (docs/policy/snapkv.md, pyramid.md). */
#ifndef KV_COMMON_POLICY_SNAPKV_H
#define KV_COMMON_POLICY_SNAPKV_H

#include <stdint.h>

typedef struct kv_snapkv_params {
    int32_t cap;    /* entries kept of the prompt, the window included; more than window */
    int32_t window; /* newest tokens of the prompt, kept in any case; their queries decide */
    int32_t kernel; /* width of the average pool; odd */
    int32_t prompt; /* tokens of the prompt: fed as one step; at least window */
    int32_t beta;   /* pyramid only: the smallest budget is (cap - window) / beta */
} kv_snapkv_params;

#endif
