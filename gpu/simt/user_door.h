/* user_door.h - what the tester's worker looks for in a candidate that was compiled for the host SIMT layer: included before the one
 * source file of such a candidate, and nowhere else. */
#ifndef GPU_SIMT_USER_DOOR_H
#define GPU_SIMT_USER_DOOR_H

#include "gpu/simt/user.h"

/* The stream for kvdk_<operation>, and what a call has come to when it has returned (user.h). */
extern "C" __attribute__((visibility("default"))) void *kvdk_simt_stream() { return simt::user_stream(); }
extern "C" __attribute__((visibility("default"))) const char *kvdk_simt_finish() { return simt::user_finish(); }

#endif
