/* cascade.h - policy `cascade`: parameters and limits (docs/policy/cascade.md). */
#ifndef KV_COMMON_POLICY_CASCADE_H
#define KV_COMMON_POLICY_CASCADE_H

#include <stdint.h>

enum { KV_CASCADE_MAX = 8 }; /* rings */

typedef enum kv_cascade_reduce { KV_REDUCE_MAX, KV_REDUCE_MEAN, KV_REDUCE_MEDIAN } kv_cascade_reduce;

typedef enum kv_cascade_select {
    KV_SELECT_EMA,    /* the higher score stays, a tie goes to the incoming token */
    KV_SELECT_NEWEST, /* the incoming token always wins */
    KV_SELECT_OLDEST  /* the incoming token always loses */
} kv_cascade_select;

typedef enum kv_cascade_accept { /* acceptance periods: docs/policy/cascade.md */
    KV_ACCEPT_POW2,
    KV_ACCEPT_POW3,
    KV_ACCEPT_POW4,
    KV_ACCEPT_IPLUS1,
    KV_ACCEPT_1_THEN_2,
    KV_ACCEPT_POW2_1,
    KV_ACCEPT_POW2_1_4,
    KV_ACCEPT_POW2_2_4,
    KV_ACCEPT_POW2_3_4
} kv_cascade_accept;

typedef enum kv_cascade_compat { /* defects of released code, as known-bad variants */
    KV_COMPAT_NONE,
    KV_COMPAT_SHIFTED,  /* a step of several tokens credits a slot with what the entry `sinks` places earlier earned */
    KV_COMPAT_REVERSED, /* a step's own tokens are weighted in reverse order */
    KV_COMPAT_STRICT    /* a tie goes to the resident token */
} kv_cascade_compat;

typedef enum kv_cascade_score { KV_SCORE_F32, KV_SCORE_F16 } kv_cascade_score; /* how scores are kept */

typedef struct kv_cascade_params {
    int32_t sinks;  /* first tokens kept for ever; 0 or more */
    int32_t cap;    /* slots other than sinks; n divides it */
    int32_t n;      /* rings, 1 .. KV_CASCADE_MAX */
    int32_t window; /* slots of a ring: cap / n */
    int32_t eager;  /* accept everything until the cache is full */
    int32_t homog;  /* one score for all KV heads */
    int32_t reduce; /* kv_cascade_reduce */
    int32_t select; /* kv_cascade_select */
    int32_t accept; /* kv_cascade_accept */
    int32_t compat; /* kv_cascade_compat */
    int32_t score;  /* kv_cascade_score */
    int32_t preset; /* only while parsing */
    double beta;    /* decay per token, inside (0, 1) */
} kv_cascade_params;

#endif
