/* side_map.h - loads a side's shared object into this process and checks what it exports: the tester does so with its own
 * sides, kvdiff-worker with everybody else's. */
#ifndef KV_DIFFTEST_SIDE_MAP_H
#define KV_DIFFTEST_SIDE_MAP_H

#include "common/backend.h"

/* spec: as the user spelled it, for messages. ERR_MISMATCH: it cannot be loaded, is no side, speaks another ABI, has an
 * incomplete table, changes the floating-point state. The object stays loaded in any case: it may have started threads. */
kv_status dt_side_map(const char *spec, const char *path, void **handle, const kv_backend **backend);

#endif
