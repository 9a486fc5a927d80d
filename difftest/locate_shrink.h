/* locate_shrink.h - a smaller case with the same mistake: fewer tokens, a smaller cache, shorter steps. */
#ifndef KV_DIFFTEST_LOCATE_SHRINK_H
#define KV_DIFFTEST_LOCATE_SHRINK_H

#include "difftest/locate.h"

/* What was tried and failed in the same operation. */
typedef struct dt_shrunk {
    int64_t n; /* tokens */
    int32_t q;
    kv_policy policy;
    int tried; /* cases that were run */
} dt_shrunk;

/* *found is what dt_locate said of *s. Every step of the way has failed in the same operation when this returns; cut =
 * 0: the document cannot be cut (a passkey). */
kv_status dt_shrink(const dt_subject *s, const dt_finding *found, int cut, dt_shrunk *out);

/* The policy with another capacity; 0: it has none, or that one is not legal. */
int dt_policy_with_cap(const kv_policy *p, int32_t cap, kv_policy *out);

#endif
