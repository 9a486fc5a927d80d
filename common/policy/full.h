/* full.h - policy `full`: parameters and limits (docs/policy/full.md). */
#ifndef KV_COMMON_POLICY_FULL_H
#define KV_COMMON_POLICY_FULL_H

/* No parameters. Slot of an entry = its original index. */

#endif
