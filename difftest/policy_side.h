/* policy_side.h - `policy:SPEC`, a device that is the reference under another policy: what does a policy cost?
 *
 *     kvdiff run --policy=full --device=policy:sink:cap=1020,policy:full+kvarn
 *
 * streams both at once, so that the case holds KL(full || policy), agreement of the arg-max and both perplexities. It
 * is a measurement of the policy, not of an implementation: such cases are recorded, never judged. */
#ifndef KV_DIFFTEST_POLICY_SIDE_H
#define KV_DIFFTEST_POLICY_SIDE_H

#include "common/backend.h"

/* The reference; its option is the policy, which replaces the one that open is given. */
const kv_backend *dt_policy_side(void);

#endif
