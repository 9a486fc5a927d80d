/* user.h - what CUDA kernels of others use and the kernels of gpu/ do not: libm's names, fast intrinsics, atomics on floating-point
 * numbers, vectors, calls of the runtime. It is included before the first line of a candidate's .cu file, whose launches and
 * shared memory difftest/ops/cu_pass.c has rewritten; docs/candidates.md says what holds there.
 *
 * A candidate's work runs on one stream, which the tester passes to it; seeds come from $KVDK_SIMT_SEED (0: ascending order).
 * Every launch draws an order of threads and blocks of its own. The first error of a call is kept, whether or not the candidate
 * looks at it, and the tester asks for it. */
#ifndef GPU_SIMT_USER_H
#define GPU_SIMT_USER_H

#include "gpu/simt/simt.h"

#include <algorithm>
#include <cmath>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define __shared__ _Pragma("GCC error \"__shared__ in an included file; declare it in the .cu file itself\"")
#define __constant__ _Pragma("GCC error \"__constant__ variables are not modelled; pass the values as an argument of the kernel\"")
#define __managed__ _Pragma("GCC error \"__managed__ variables are not modelled\"")
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __maxnreg__(n)

/* ---- launches and errors (gpu/simt/user.cpp) ----------------------------------------------------------------------- */

namespace simt
{
/* The stream that the tester passes; NULL: out of memory. */
cudaStream_t user_stream();

/* Waits for the stream. NULL: nothing went wrong since the last time; else the first error, valid until the next call. */
const char *user_finish();

/* Notes an error for user_finish; returns it. file may be NULL. */
cudaError_t user_note(cudaError_t error, const char *file, int line);

cudaError_t user_stream_open(cudaStream_t *stream, unsigned flags);
cudaError_t user_copy(void *dst, const void *src, size_t bytes, cudaStream_t stream, const char *file, int line);
cudaError_t user_set(void *dst, int byte, size_t bytes, cudaStream_t stream, const char *file, int line);
cudaError_t user_refuse(const char *what, const char *file, int line); /* a call that works on the default stream */

/* The address of a kernel, the key of cudaFuncSetAttribute. A template whose arguments follow from those of the launch has none
 * yet: NULL. */
struct TakeAddress {
    template <class F> const void *operator()(F *kernel) const { return (const void *)kernel; }
};
template <class L> auto address_of(const L &of, int) -> decltype(of(TakeAddress())) { return of(TakeAddress()); }
template <class L> const void *address_of(const L &, long) { return nullptr; }

constexpr size_t alignment(size_t of_type, size_t wanted) { return of_type > wanted ? of_type : wanted; }

template <class F> struct UserKernel {
    Kernel kernel;
    const char *file;
    int line;
    dim3 grid, block;
    size_t dynamic_bytes;
    cudaStream_t stream;
    F f;

    template <class... A> void operator()(A... args) const
    {
        user_note(launch(kernel, grid, block, dynamic_bytes, false, stream, f, args...), file, line);
    }
};

/* kernel<<<grid, block, dynamic_bytes, stream>>> */
struct UserLaunch {
    const char *name;
    const void *address;
    const char *file;
    int line;
    dim3 grid, block;
    size_t dynamic_bytes;
    cudaStream_t stream;

    UserLaunch(const char *name_, const void *address_, const char *file_, int line_, dim3 grid_, dim3 block_,
               size_t dynamic_bytes_ = 0, cudaStream_t stream_ = nullptr)
        : name(name_), address(address_), file(file_), line(line_), grid(grid_), block(block_), dynamic_bytes(dynamic_bytes_),
          stream(stream_)
    {
    }
    template <class F> UserKernel<F> kernel(F f) const
    {
        return {Kernel{name, address}, file, line, grid, block, dynamic_bytes, stream, f};
    }
};
} // namespace simt

#define SIMT_ADDRESS(kernel)                                                                                           \
    simt::address_of([&](auto simt_take) -> decltype(simt_take kernel) { return simt_take kernel; }, 0)

/* ---- calls of the runtime ---------------------------------------------------------------------------------------------- */

typedef cudaError_t cudaError;
enum { cudaStreamDefault = 0, cudaEventDefault = 0 };
enum { cudaMemcpyHostToHost = 0, cudaMemcpyDefault = 4 };

/* Tensors of the tester lie in no device buffer, so that copies cannot be held against one; guards and inputs are the tester's
 * business. */
#define cudaMemcpyAsync(dst, src, bytes, kind, ...)                                                                    \
    simt::user_copy((dst), (src), (bytes), simt::stream_of(__VA_ARGS__), __FILE__, __LINE__)
#define cudaMemsetAsync(dst, byte, bytes, ...)                                                                         \
    simt::user_set((dst), (byte), (bytes), simt::stream_of(__VA_ARGS__), __FILE__, __LINE__)
#define cudaMemcpy(...) simt::user_refuse("cudaMemcpy", __FILE__, __LINE__)
#define cudaMemset(...) simt::user_refuse("cudaMemset", __FILE__, __LINE__)
#define cudaStreamCreateWithFlags(stream, flags) simt::user_stream_open((stream), (flags))
#define cudaStreamCreate(stream) simt::user_stream_open((stream), 0)

namespace simt
{
inline cudaStream_t stream_of(cudaStream_t stream = nullptr) { return stream; }
} // namespace simt

inline cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(simt::user_stream()); }
inline cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
template <class T> cudaError_t cudaMalloc(T **p, size_t bytes) { return cudaMalloc((void **)p, bytes); }
template <class T> cudaError_t cudaMallocAsync(T **p, size_t bytes, cudaStream_t) { return cudaMalloc((void **)p, bytes); }
inline cudaError_t cudaFreeAsync(void *p, cudaStream_t) { return cudaFree(p); }
inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, cudaSuccess; }

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: return *value = simt::MAX_BLOCK_THREADS, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: return *value = simt::SHARED_DEFAULT, cudaSuccess;
    case cudaDevAttrWarpSize: return *value = simt::WARP_LANES, cudaSuccess;
    case cudaDevAttrMultiProcessorCount: return *value = 4, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: return *value = 9, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: return *value = 0, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return *value = simt::SHARED_LIMIT, cudaSuccess;
    }
    return simt::fail(cudaErrorInvalidValue, "cudaDeviceGetAttribute: attribute %d is not modelled", (int)attribute);
}

#include "gpu/simt/user_math.h"

#endif
