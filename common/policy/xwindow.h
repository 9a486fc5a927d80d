/* xwindow.h - policy `xwindow`: parameters and limits (docs/policy/xwindow.md). */
#ifndef KV_COMMON_POLICY_XWINDOW_H
#define KV_COMMON_POLICY_XWINDOW_H

#include <stdint.h>

typedef enum kv_xwindow_pred { KV_PRED_RESET, KV_PRED_CARRY } kv_xwindow_pred;   /* recurrent state at a window's start */
typedef enum kv_xwindow_ver { KV_XW_FIXED, KV_XW_PUBLISHED } kv_xwindow_ver;

typedef struct kv_xwindow_params {
    int32_t window; /* tokens that are computed together */
    int32_t stride; /* windows start at 0, stride, 2 stride, ...; at most window */
    int32_t cache;  /* rows of earlier windows in view: 0, or at least stride */
    int32_t layers; /* the last `layers` layers use the cache; 0: all */
    int32_t pred;   /* kv_xwindow_pred */
    int32_t ver;    /* kv_xwindow_ver */
} kv_xwindow_params;

#endif
