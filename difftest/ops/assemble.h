/* assemble.h - what can be said of a module with a descriptor (descriptor.h) before a worker loads it. */
#ifndef KV_DIFFTEST_OPS_ASSEMBLE_H
#define KV_DIFFTEST_OPS_ASSEMBLE_H

#include "common/status.h"

/* KV_OK: the descriptor is well-formed, it fits its module, and there is a CUDA device that may run it. Without a
 * device a PTX text is assembled for the architecture that it names, where there is a ptxas, and the end is
 * ERR_UNSUPPORTED, with a line that says so. verbose: 1: all that ptxas says goes to stderr.
 *
 * ERR_IO, ERR_FORMAT: descriptor or module; ERR_DEVICE: ptxas does not take it, with its first error. */
kv_status dt_module_check(const char *path, int verbose);

#endif
