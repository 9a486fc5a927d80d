/* side.h - the worker's end of difftest/remote.c: one side, one session. */
#ifndef KV_DIFFTEST_WORKER_SIDE_H
#define KV_DIFFTEST_WORKER_SIDE_H

#include "difftest/worker/worker.h"

#include "common/backend.h"

enum { WORKER_SNAPSHOTS = 64 };

typedef struct worker_side {
    void *handle;
    const kv_backend *backend;
    kv_model *model;
    kv_session *session;
    kv_events events; /* of the last step */
    void *snapshots[WORKER_SNAPSHOTS];
} worker_side;

/* Answers a message whose "do" begins with "side_"; NULL: out of memory. */
json_t *worker_side_answer(worker_side *s, const char *what, const json_t *message, const worker_memory *memory);

#endif
