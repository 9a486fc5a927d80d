/* worker.h - the process in which a candidate runs. It is a program of its own that holds no reference: nothing that a
 * candidate could call or read knows what the right answer is.
 *
 * It is spoken to over a socket, one JSON object a line each way (docs/ops.md, "Candidates as processes"), and shares
 * one block of memory with the tester, in which all tensors lie. */
#ifndef KV_DIFFTEST_WORKER_H
#define KV_DIFFTEST_WORKER_H

#include "difftest/ops/schema.h"

#include <jansson.h>

enum { WORKER_SOCKET = 3, WORKER_MEMORY = 4 };

/* The shared block. */
typedef struct worker_memory {
    uint8_t *p;
    size_t bytes;
} worker_memory;

/* A loaded candidate. */
typedef int worker_op_fn(const void *args, kvdk_stream stream);
typedef struct worker_plugin {
    void *handle;
    kvdk_info info;
    int uses_stream;                              /* 1: work belongs on a stream, which the worker passes */
    worker_op_fn *ops[KVDK_OP_COUNT];             /* NULL: it has none */
    uint64_t (*workspace)(const kvdk_call *args); /* or NULL */
    kvdk_stream (*simt_stream)(void); /* of candidates in the host SIMT layer (gpu/simt/user_door.h), or NULL */
    const char *(*simt_finish)(void);
    const char *(*reason)(void); /* of a module: why its last call was not done; NULL: it was. Or NULL */
} worker_plugin;

/* Loads a shared object and asks it who it is. The failures are the candidate's: ERR_IO no such file, ERR_MISMATCH no
 * candidate or another ABI, ERR_DEVICE its init says that it cannot run. */
kv_status worker_plugin_open(const char *path, worker_plugin *out);

/* The arguments that a "call" message describes; pointers into the block. ERR_FORMAT where it does not fit the
 * operation or the block. */
kv_status worker_read_call(const json_t *message, const worker_memory *memory, int *op, dt_args *args);

#endif
