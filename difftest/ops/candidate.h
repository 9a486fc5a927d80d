/* candidate.h - somebody's kernels, in a process of their own with limits. Whatever happens there becomes an outcome
 * here: the tester goes on.
 *
 * A candidate is named by its file:
 *   FILE.so       loaded by kvdiff-worker
 *   FILE.cu       compiled first (build.h), then as above
 *   NAME.kernel.json  a module of device code and how it is launched (descriptor.h), by kvdiff-worker as well
 *   anything else a program, or FILE.py for python3, that speaks the protocol of docs/ops.md itself
 *
 * All calls are made by one thread. */
#ifndef KV_DIFFTEST_OPS_CANDIDATE_H
#define KV_DIFFTEST_OPS_CANDIDATE_H

#include "difftest/ops/schema.h"

typedef struct dt_candidate dt_candidate;

typedef struct dt_limits {
    double call_seconds, open_seconds; /* wall clock */
    int64_t address_bytes;             /* of the process, on top of the shared block; 0: none */
} dt_limits;
extern const dt_limits dt_default_limits;

typedef struct dt_candidate_info {
    char name[64];
    int32_t contract, determinism, memory; /* as in kvdk_info */
    kvdk_precision precision;
    int32_t fast_math;
    int has_workspace;
    uint8_t has[KVDK_OP_COUNT];
    uint8_t sha[32]; /* SHA-256 of the file; of a descriptor and its module, one behind the other */
} dt_candidate_info;

typedef enum dt_outcome {
    DT_DONE,    /* it returned 0 */
    DT_REFUSED, /* a negative number: it does not support this */
    DT_FAILED,  /* a positive number, or an answer that makes no sense */
    DT_DIED,    /* its process is gone: a signal, an exit */
    DT_HUNG     /* no answer within the limit: it was killed */
} dt_outcome;

typedef struct dt_reply {
    dt_outcome outcome;
    char why[512];        /* one line, unless DT_DONE */
    double seconds, wall; /* as the worker measured it, as the tester did */
    int fpenv;            /* 1: the floating-point state is what it was before */
} dt_reply;

/* Starts the process and asks who it is. ERR_IO: no such file. ERR_MISMATCH: not a candidate. ERR_UNSUPPORTED: it
 * refused (a program that answers by a negative status). ERR_DEVICE: it cannot run here, or died while it was loaded. ERR_USAGE: a spelling. */
kv_status dt_candidate_open(const char *path, const dt_limits *limits, dt_candidate **out);
void dt_candidate_close(dt_candidate *c); /* accepts NULL; kills what is left of its process group */
const dt_candidate_info *dt_candidate_describe(const dt_candidate *c);

/* The block of memory that is shared with the process. */
uint8_t *dt_candidate_memory(const dt_candidate *c, size_t *bytes);

/* One call. Tensors and workspace of args lie in the block. After DT_DIED and DT_HUNG the next call starts a new
 * process first (a failure to do so is DT_FAILED with its reason). */
void dt_candidate_call(dt_candidate *c, int op, const dt_args *args, dt_reply *reply);

/* Bytes of workspace that it wants for such a call. */
void dt_candidate_workspace(dt_candidate *c, int op, const dt_args *args, uint64_t *bytes, dt_reply *reply);

/* A new process, whatever the state of the present one. */
kv_status dt_candidate_restart(dt_candidate *c);

/* Calls look with the path of every object that is mapped into the process. */
typedef void dt_object_fn(void *ctx, const char *path);
void dt_candidate_objects(dt_candidate *c, dt_object_fn *look, void *ctx, dt_reply *reply);

#endif
