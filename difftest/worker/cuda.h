/* cuda.h - device memory for a candidate with KVDK_CUDA, through the driver alone: libcuda.so.1 is loaded when it is
 * asked for, and nothing is linked.
 *
 * The candidate computes in a mirror of the shared block in device memory: what a call may see goes up before it, its
 * surroundings included, and comes back behind it, so that writes beside a tensor are found as they are on the host. An
 * error of the device cannot be mended inside of a process: one line, and the process ends; the tester starts another
 * one. */
#ifndef KV_DIFFTEST_WORKER_CUDA_H
#define KV_DIFFTEST_WORKER_CUDA_H

#include "difftest/worker/worker.h"

/* Number of CUDA devices; 0 when there is no driver either. */
int worker_cuda_devices(void);

/* Makes the first device's primary context current, which is also that of the CUDA runtime, and a stream. ERR_DEVICE.
 */
kv_status worker_cuda_open(void);

/* After worker_cuda_open: a function of the driver; NULL: it has none of that name. Name of an error. */
void *worker_cuda_symbol(const char *name);
const char *worker_cuda_error(int error);

/* Calls fn with device pointers; *seconds is the time from the call to the end of its work. Its status. */
int worker_cuda_call(worker_op_fn *fn, int op, const dt_args *args, const worker_memory *memory, double *seconds);

#endif
