/* kvdev.cuh - the words that kernels and their host code are written in.
 *
 * The same .cu text is compiled by nvcc and, through gpu/simt, by g++ and clang++. What differs between the
 * two stands here and nowhere else: shared memory, launches, unrolling. Floating point goes through
 * common/math.h (kv_fma, kv_add, ...), never through bare operators.
 *
 * Host code never prints and never exits: every CUDA error becomes a kv_status with the place and the
 * runtime's text. */
#ifndef GPU_KVDEV_CUH
#define GPU_KVDEV_CUH

#include "common/math.h"
#include "common/mutant.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>
#include <utility>

#ifdef __CUDACC__
#    include <cuda_runtime.h>
#else
#    include "gpu/simt/simt.h"
#endif

#define GPU_DEVICE static __device__ __forceinline__

#ifdef __CUDACC__
#    define GPU_UNROLL _Pragma("unroll")

/* A static shared array, in the body of a kernel. */
#    define GPU_SHARED(T, name, n) __shared__ __align__(16) T name[n]
/* The dynamic shared memory of a launch, aligned to 16 bytes. */
#    define GPU_SHARED_DYNAMIC(T, name)                                                            \
        extern __shared__ __align__(16) unsigned char gpu_dynamic_shared[];                        \
        T *const name = (T *)gpu_dynamic_shared

/* Launches a kernel and gives a kv_status. GPU_LAUNCH_NOSYNC says that the kernel has no barrier, no warp
 * operation and no shared memory. A kernel with template arguments is put in brackets. */
#    define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                             \
        ((kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__),                     \
         gpu_status(cudaGetLastError(), #kernel, __FILE__, __LINE__))
#    define GPU_LAUNCH_NOSYNC(kernel, grid, block, stream, ...)                                    \
        GPU_LAUNCH(kernel, grid, block, 0, stream, ##__VA_ARGS__)
#else
#    ifdef __SANITIZE_ADDRESS__ /* accumulators in registers have no accesses to look at */
#        define GPU_UNROLL _Pragma("GCC unroll 16")
#    else
#        define GPU_UNROLL
#    endif
#    define GPU_SHARED(T, name, n)                                                                 \
        static const char name##_site = 0;                                                         \
        T *const name = static_cast<T *>(                                                          \
            simt::shared_array(&name##_site, sizeof(T) * (size_t)(n), alignof(T)))
#    define GPU_SHARED_DYNAMIC(T, name) T *const name = (T *)simt::self->block->dynamic
#    define GPU_LAUNCH_SIMT(kernel, grid, block, shared_bytes, barrier_free, stream, ...)          \
        gpu_status(simt::launch(                                                                   \
                       simt::Kernel{#kernel, (const void *)(kernel)}, (grid), (block),             \
                       (shared_bytes), barrier_free, (stream),                                     \
                       [](const auto &...gpu_arg) { (kernel)(gpu_arg...); }, ##__VA_ARGS__),         \
                   #kernel, __FILE__, __LINE__)
#    define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                             \
        GPU_LAUNCH_SIMT(kernel, grid, block, shared_bytes, false, stream, ##__VA_ARGS__)
#    define GPU_LAUNCH_NOSYNC(kernel, grid, block, stream, ...)                                    \
        GPU_LAUNCH_SIMT(kernel, grid, block, 0, true, stream, ##__VA_ARGS__)
#endif

/* ---- host side ----------------------------------------------------------------------------- */

/* KV_OK, or the failure that a CUDA error stands for, with its text and place as the message. */
kv_status gpu_status(cudaError_t error, const char *what, const char *file, int line);

/* Returns from the enclosing function when a CUDA runtime call fails. */
#define GPU_TRY(call) KV_TRY(gpu_status((call), #call, __FILE__, __LINE__))

/* A stream of its own; seed and threads steer the host SIMT layer (gpu/simt/runtime.h). */
kv_status gpu_stream_open(cudaStream_t *stream, uint64_t seed, int32_t threads);
void gpu_stream_close(cudaStream_t stream); /* accepts NULL */

/* Waits for all work of the stream; reports what went wrong in it. */
kv_status gpu_stream_finish(cudaStream_t stream);

/* A stream, closed with its owner. */
struct gpu_stream {
    cudaStream_t s = nullptr;

    gpu_stream() = default;
    gpu_stream(const gpu_stream &) = delete;
    gpu_stream &operator=(const gpu_stream &) = delete;
    ~gpu_stream() { gpu_stream_close(s); }
};

/* A place in the work of a stream that other streams can wait for; the host waits for neither. */
struct gpu_event {
    cudaEvent_t e = nullptr;

    gpu_event() = default;
    gpu_event(const gpu_event &) = delete;
    gpu_event &operator=(const gpu_event &) = delete;
    ~gpu_event();
    kv_status open();
    kv_status mark(cudaStream_t stream); /* behind all that was issued on the stream so far */
    kv_status hold(cudaStream_t stream); /* what is issued on the stream from now on begins behind the mark */
};

kv_status gpu_device_alloc(void **p, size_t bytes);
kv_status gpu_host_alloc(void **p, size_t bytes); /* page-locked, for cudaFreeHost */
kv_status gpu_copy_up(void *dst, const void *src, size_t bytes, cudaStream_t stream);
kv_status gpu_copy_down(void *dst, const void *src, size_t bytes, cudaStream_t stream);
kv_status gpu_copy_across(void *dst, const void *src, size_t bytes, cudaStream_t stream);

/* Device memory for n elements, freed with the object. */
template <class T> struct gpu_buffer {
    T *p = nullptr;
    size_t n = 0;

    gpu_buffer() = default;
    gpu_buffer(const gpu_buffer &) = delete;
    gpu_buffer &operator=(const gpu_buffer &) = delete;
    gpu_buffer &operator=(gpu_buffer &&o) noexcept
    {
        std::swap(p, o.p);
        std::swap(n, o.n);
        return *this;
    }
    gpu_buffer(gpu_buffer &&o) noexcept : p(o.p), n(o.n)
    {
        o.p = nullptr;
        o.n = 0;
    }
    ~gpu_buffer() { (void)cudaFree(p); }

    /* Room for count elements; what was there is lost when it has to grow. */
    kv_status reserve(size_t count)
    {
        if (count <= n) return KV_OK;
        (void)cudaFree(p);
        p = nullptr;
        n = 0;
        KV_TRY(gpu_device_alloc((void **)&p, count * sizeof(T)));
        n = count;
        return KV_OK;
    }

    /* Room for count elements; the first `used` are kept. Grows by half at least, so that appending
     * costs a constant number of copies per element. */
    kv_status grow(size_t count, size_t used, cudaStream_t stream)
    {
        if (count <= n) return KV_OK;
        gpu_buffer larger;
        KV_TRY(larger.reserve(count > n + n / 2 ? count : n + n / 2));
        if (used) {
            KV_TRY(gpu_copy_across(larger.p, p, used * sizeof(T), stream));
            KV_TRY(gpu_stream_finish(stream));
        }
        std::swap(p, larger.p);
        std::swap(n, larger.n);
        return KV_OK;
    }
};

/* Page-locked memory of the host for n elements: copies up from it do not hold the host up, and read it until their stream
 * is finished, which has to be before the memory is written again or freed. Freed with the object. */
template <class T> struct gpu_pinned {
    T *p = nullptr;
    size_t n = 0;

    gpu_pinned() = default;
    gpu_pinned(const gpu_pinned &) = delete;
    gpu_pinned &operator=(const gpu_pinned &) = delete;
    ~gpu_pinned() { (void)cudaFreeHost(p); }

    kv_status open(size_t count) /* once */
    {
        KV_TRY(gpu_host_alloc((void **)&p, count * sizeof(T)));
        n = count;
        return KV_OK;
    }
};

static inline unsigned gpu_blocks(int64_t n, int64_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

KV_HD int32_t gpu_min(int32_t a, int32_t b) { return a < b ? a : b; }

/* ---- device side --------------------------------------------------------------------------- */

/* Sixteen or eight bytes at once; p is aligned to them. */
GPU_DEVICE float4 gpu_load4(const float *p) { return *reinterpret_cast<const float4 *>(p); }
GPU_DEVICE float2 gpu_load2(const float *p) { return *reinterpret_cast<const float2 *>(p); }
GPU_DEVICE void gpu_store4(float *p, float4 v) { *reinterpret_cast<float4 *>(p) = v; }

/* Last stage of R64 (docs/numerics.md, section 3) in one warp: thread j brings lanes j and j + 32; thread 0
 * receives the sum. */
GPU_DEVICE float gpu_r64_tree(float lane_j, float lane_j32)
{
    float v = kv_add(lane_j, lane_j32);
    for (int s = 16; s > 0; s >>= 1) v = kv_add(v, __shfl_down_sync(0xffffffffu, v, s));
    return v;
}

/* R64 of a(i) * b(i), i < n, for all threads of a warp; threadIdx.x is the lane. */
template <class A, class B> GPU_DEVICE float gpu_r64_dot(int32_t n, const A &a, const B &b)
{
    const int32_t lane = (int32_t)threadIdx.x;
    float low = 0.0f, high = 0.0f;
    for (int32_t i = lane; i < n; i += 64) low = kv_fma(a(i), b(i), low);
    for (int32_t i = lane + 32; i < n; i += 64) high = kv_fma(a(i), b(i), high);
    return __shfl_sync(0xffffffffu, gpu_r64_tree(low, high), 0);
}

#endif
