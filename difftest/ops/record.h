/* record.h - results of operations into results.db. */
#ifndef KV_DIFFTEST_OPS_RECORD_H
#define KV_DIFFTEST_OPS_RECORD_H

#include "difftest/ops/checks.h"

/* Key of an operation's case: "ops|<candidate>|<op>|level=1|seed=0x2a". */
void dt_op_key(const dt_candidate_info *info, int op, const dt_ops_request *r, char *dst, size_t size);

/* One case with all its rows, in one transaction. */
kv_status dt_op_store(dt_db *db, int64_t run_id, const dt_candidate_info *info, const dt_ops_request *request,
                      const dt_op_report *r);

#endif
