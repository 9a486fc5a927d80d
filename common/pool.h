/* pool.h - a small pthread pool. Work is split by output element, so results never depend on the number
 * of threads or on who does which task. */
#ifndef KV_COMMON_POOL_H
#define KV_COMMON_POOL_H

#include "common/status.h"

#include <stdint.h>

typedef struct kv_pool kv_pool;

/* Runs task `task`; worker is in [0, kv_pool_threads): the index of per-thread scratch. */
typedef void kv_pool_fn(void *arg, int64_t task, int worker);

KV_EXTERN_C_BEGIN

/* threads >= 1 counts the calling thread: 1 starts none. */
kv_status kv_pool_create(int threads, kv_pool **out);
void kv_pool_destroy(kv_pool *p); /* accepts NULL */
int kv_pool_threads(const kv_pool *p); /* 1 for NULL */

/* Runs tasks 0 .. n-1 in any order on all threads and returns when the last is done. The caller works
 * too, as worker 0. p == NULL runs them here. Calls must not nest. */
void kv_pool_run(kv_pool *p, int64_t n, kv_pool_fn *fn, void *arg);

/* Processors that this process may use. */
int kv_cpu_count(void);

KV_EXTERN_C_END

#endif
