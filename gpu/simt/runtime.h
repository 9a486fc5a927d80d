/* runtime.h - the part of the CUDA runtime that the host code of gpu/ uses, on the CPU.
 *
 * "Device" memory is ordinary memory that starts as NaN and stands between red zones. Every copy is
 * checked against the buffers it touches; every synchronisation checks all red zones. Work is done when
 * it is issued: a stream carries the schedule seed and the worker threads of the launches on it. Only
 * copies up from page-locked memory wait in their stream, as long as a GPU may leave them: until other
 * work is issued on it, it is synchronised, or a stream waits for an event behind them. Whoever uses what
 * such a copy brings without waiting finds the old values. The legacy default stream is refused, as
 * kernels here must name their stream.
 *
 * cudaGetErrorString gives the full text of this thread's last failure, so that host code written for
 * CUDA reports kernel, block and thread without knowing of this layer. */
#ifndef GPU_SIMT_RUNTIME_H
#define GPU_SIMT_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

enum cudaError_t { /* numbers as in CUDA */
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719
};

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

namespace simt
{
struct Stream;
struct Event;

enum {
    MAX_BLOCK_THREADS = 1024,
    WARP_LANES = 32,
    SHARED_DEFAULT = 48 * 1024, /* static, and dynamic without the attribute */
    SHARED_LIMIT = 227 * 1024   /* static and dynamic together, sm_90 */
};

/* Sets how the launches of a stream run. seed 0 = ascending order. threads counts the caller.
 * Returns an error when the worker threads cannot be started. */
cudaError_t configure(Stream *stream, uint64_t seed, int threads);

/* Records an error of this thread with its text; returns code. */
cudaError_t fail(cudaError_t code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Number of device buffers that are allocated now, in the whole process. */
size_t device_buffers();

/* Limit of dynamic shared memory that cudaFuncSetAttribute has set for a kernel. */
size_t dynamic_shared_limit(const void *kernel);
cudaError_t set_dynamic_shared_limit(const void *kernel, size_t bytes);
} // namespace simt

typedef simt::Stream *cudaStream_t;
typedef simt::Event *cudaEvent_t;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);

cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p); /* accepts NULL */

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p); /* accepts NULL; reports a damaged red zone */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t stream);

cudaError_t cudaGetLastError();  /* this thread's last error; forgets it */
cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorString(cudaError_t error);

template <class K>
cudaError_t cudaFuncSetAttribute(K *kernel, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0)
        return simt::fail(cudaErrorInvalidValue, "cudaFuncSetAttribute: unknown attribute");
    return simt::set_dynamic_shared_limit((const void *)kernel, (size_t)value);
}

#endif
