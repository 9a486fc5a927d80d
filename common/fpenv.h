/* fpenv.h - the floating-point state that the contract needs: round to nearest, no flush to zero.
 *
 * A shared library linked with fast-math switches the whole process to flush-to-zero when it loads.
 * Programs call kv_fpenv_check at start and after every dlopen; worker threads inherit the state. */
#ifndef KV_COMMON_FPENV_H
#define KV_COMMON_FPENV_H

#include "common/status.h"

/* ERR_INTERNAL when subnormals are flushed or rounding is not to nearest; `when` says after what.
 * The state is put right before returning. */
kv_status kv_fpenv_check(const char *when);

#endif
