/* policy_rules.h - what policy.c and policy_rules.c share. */
#ifndef KV_COMMON_POLICY_RULES_H
#define KV_COMMON_POLICY_RULES_H

#include "common/policy.h"

enum { KV_POLICY_CAP_MAX = 1 << 28 };

/* Fills in what follows from other parameters; bit i of given: parameter i of the selection was spelled out. */
kv_status kv_policy_derive(const char *spec, kv_policy *p, uint64_t given);

/* Rules between parameters; limits of single ones are checked before. */
kv_status kv_policy_check_rules(const char *spec, const kv_policy *p);

#endif
