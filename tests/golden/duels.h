/* duels.h - the duels of a cascade, read from its events (docs/policy/cascade.md). */
#ifndef KV_TESTS_GOLDEN_DUELS_H
#define KV_TESTS_GOLDEN_DUELS_H

#include "tests/golden/golden.h"

/* Compares the duels of layer 0, KV head 0 with rows [token entering, ring, incoming, resident, incoming won], all
 * of them and in order. The policy accepts with period 2^i (accept=pow2). One TAP line. */
void golden_duels(const kv_events *events, const kv_cascade_params *p, const json_t *rows, const char *name);

#endif
