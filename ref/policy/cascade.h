/* cascade.h - the insertion rule of cascade alone, for traces and tests. */
#ifndef KV_REF_POLICY_CASCADE_H
#define KV_REF_POLICY_CASCADE_H

#include "ref/cache.h"

/* Inserts m tokens into all heads of a layer: token x of KV head h has the score fresh[h * m + x]. Fills c->moves. */
kv_status REF(cascade_insert)(ref_cache *c, int32_t layer, int64_t m, const real *fresh);

/* Slot of the store that canonical ring slot j (sinks left out) lies in. */
int64_t REF(cascade_slot)(const kv_policy *p, int64_t j);

#endif
