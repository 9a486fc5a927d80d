/* exec.h - makes one call of a candidate and looks at everything around it.
 *
 * The tensors of the case are copied into the shared block, each between red zones of random NaNs and with gaps of them
 * between rows; outputs and workspace start as random NaNs, too. When the candidate has answered, the whole region is
 * copied (sealed) before anything else happens; only after that does anybody compute what is right. */
#ifndef KV_DIFFTEST_OPS_EXEC_H
#define KV_DIFFTEST_OPS_EXEC_H

#include "difftest/ops/candidate.h"
#include "difftest/ops/opcase.h"

typedef struct dt_placement {
    uint64_t salt;  /* of red zones and poison */
    int64_t gap;    /* elements between rows, 0 = contiguous */
    int at_end;     /* 1: tensors end at their red zone, 0: they begin behind one */
    int64_t base;   /* offset of the region in the block; -1: wherever the last call did not lie */
    int watch_late; /* 1: look again after a moment whether something is still being written */
} dt_placement;

typedef struct dt_exec {
    dt_candidate *candidate;
    uint8_t *sealed; /* copy of the region of the last call */
    size_t sealed_bytes;
    int64_t next_base;
    int64_t last_base; /* where the last call lay */
    int64_t n_calls;
} dt_exec;

typedef struct dt_result {
    dt_reply reply;
    void *out[DT_OP_TENSORS]; /* outputs and in/outs after the call, contiguous; NULL for inputs and after anything but
                                 DT_DONE */
    int guard_ok, inputs_ok, workspace_ok, late_ok;
    int64_t n_unwritten; /* elements of outputs that still hold their poison */
    char where[200];     /* the first offence in words */
} dt_result;

void dt_exec_begin(dt_exec *e, dt_candidate *c);
void dt_exec_end(dt_exec *e);

/* ERR_NOMEM, ERR_USAGE (the case does not fit into the block); all else is in the result. */
kv_status dt_exec_call(dt_exec *e, const dt_opcase *c, const dt_placement *p, dt_result *out);
void dt_result_free(dt_result *r);

#endif
