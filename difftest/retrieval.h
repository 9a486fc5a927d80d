/* retrieval.h - the question at the end of a passkey document: both sides answer greedily from their own
 * cache, and both are scored on the right answer. */
#ifndef KV_DIFFTEST_RETRIEVAL_H
#define KV_DIFFTEST_RETRIEVAL_H

#include "difftest/lane.h"

enum { DT_ANSWER_TOKENS = 16 }; /* most tokens of a greedy answer */

/* Called after the prompt was fed to the reference (e->ref) and to all live lanes, whose `last` rows say
 * what comes first. Fills the lanes' retrieval. lanes[0 .. n-1], n >= 1, at most DT_MAX_LANES. */
kv_status dt_retrieval_run(dt_engine *e, int doc, dt_lane *lanes, int n);

/* Under a policy that answers no questions (xwindow: a window is computed as a whole, and nothing goes on from its
 * end): the rows of the prompt stay, and a case that would have passed is UNSUPPORTED. */
void dt_retrieval_refuse(dt_lane *lanes, int n);

#endif
