/* build.h - turns the source of a candidate into something that can be loaded. */
#ifndef KV_DIFFTEST_OPS_BUILD_H
#define KV_DIFFTEST_OPS_BUILD_H

#include "common/status.h"

/* FILE.cu: compiled by nvcc where there is a GPU to run it on, else by the C++ compiler through the host SIMT layer
 * after a source pass (docs/candidates.md); the result is kept in $XDG_CACHE_HOME/kvdiff (or ~/.cache/kvdiff) under the
 * SHA-256 of what went into it. NAME.kernel.json: checked as far as this machine allows (assemble.h), and its own path.
 * Any other file: its own path. verbose: 1: all that a compiler says goes to stderr.
 *
 * ERR_UNSUPPORTED with file and line for what the source pass does not understand, ERR_DEVICE with the compiler's first
 * error or when there is no compiler, ERR_IO; of a descriptor as dt_module_check. */
kv_status dt_candidate_build(const char *path, int verbose, char *built, size_t size);

#endif
