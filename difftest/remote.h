/* remote.h - a side in a process of its own (kvdiff-worker), behind the same door: crashes, exits, hangs and lost
 * memory there are failures of a call here. One process per session; it opens the model by itself.
 *
 * The limit of one call is KVDIFF_SIDE_LIMIT seconds (600). */
#ifndef KV_DIFFTEST_REMOTE_H
#define KV_DIFFTEST_REMOTE_H

#include "common/backend.h"

/* Loads the file in a process that ends at once, to learn what it promises. *backend lives as long as the program; its
 * available and open must be given *session_options (the caller frees it), which hold path and options. Failures as
 * dt_side_map; ERR_DEVICE when it dies while it is loaded. */
kv_status dt_remote_side(const char *spec, const char *path, const char *options, const kv_backend **backend,
                         char **session_options);

/* KVDIFF_IN_PROCESS=1: sides are loaded into this process. */
int dt_remote_is_off(void);

#endif
