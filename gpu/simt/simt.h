/* simt.h - the host SIMT layer: runs CUDA kernels on a CPU, one fibre per CUDA thread.
 *
 * A .cu file compiled with `g++ -x c++ -include gpu/simt/simt.h` sees here what it needs of the CUDA
 * language (this header) and of the CUDA runtime (gpu/simt/runtime.h). The layer is a judge as well as
 * an engine; each of the following is an error return of the launch or of the next synchronisation,
 * with a message that names kernel, block and thread, never a crash:
 *
 *   - a barrier that not all threads of a block reach, or reach at different places;
 *   - a warp operation with a wrong mask, a lane that does not take part, two different operations;
 *   - a barrier or shared memory in a kernel launched as barrier-free;
 *   - a launch that a device would refuse (block size, grid size, shared memory);
 *   - a write beyond shared memory or beyond a device buffer.
 *
 * Shared memory and device memory start as NaN. A seed permutes the order of threads and of blocks:
 * results must not depend on it, and a missing barrier makes them depend on it.
 *
 * How it works: a block runs on one OS thread; its CUDA threads are fibres that run until they reach a
 * barrier or a warp operation and then switch to the next fibre that can run. Barrier-free kernels
 * (GPU_LAUNCH_NOSYNC) run as a plain loop over threads, which costs no switches. Blocks of a launch may be
 * spread over several OS threads. docs/gpu.md has the rules for kernel authors. */
#ifndef GPU_SIMT_SIMT_H
#define GPU_SIMT_SIMT_H

#ifdef __CUDACC__
#    error "gpu/simt/simt.h is for host compilers; nvcc needs nothing of it"
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#define GPU_SIMT 1

#define __global__
#define __device__
#define __host__
#ifdef KV_COUNT_BRANCHES
#    define __forceinline__ inline
#else
#    define __forceinline__ inline __attribute__((always_inline))
#endif
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

#include "gpu/simt/runtime.h"

namespace simt
{
/* What a kernel can see of the block that it runs in. */
struct Block {
    dim3 index, dim, grid;
    unsigned char *dynamic; /* dynamic shared memory */
};

/* The CUDA thread that is running on this OS thread; NULL outside kernels. */
struct Fibre {
    dim3 tid;
    unsigned linear; /* x + dim.x * (y + dim.y * z) */
    Block *block;
};
extern __thread Fibre *self __attribute__((tls_model("initial-exec")));

enum Barrier { BARRIER_PLAIN, BARRIER_OR, BARRIER_AND, BARRIER_COUNT };
enum WarpOp { WARP_SYNC, WARP_SHUFFLE, WARP_BALLOT, WARP_MAX };

/* All threads of the block arrive, at the same place in the source, then all go on. */
int barrier(Barrier kind, int predicate, const char *file, int line);

/* The lanes of mask arrive with the same operation; each gets its own result. source is the lane that
 * a shuffle reads. */
uint64_t warp(WarpOp op, unsigned mask, uint64_t value, unsigned source, const char *file, int line);

/* The block's static shared array that belongs to `site` (the address of a variable that is unique to
 * the declaration). Filled with NaN when the block's first thread asks. */
void *shared_array(const void *site, size_t bytes, size_t alignment);

/* Ends the launch with an error: the message is put behind kernel, block and thread. */
[[noreturn]] void fault(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- launching ---- */

struct Kernel {
    const char *name;
    const void *address; /* key of cudaFuncSetAttribute */
};

/* A kernel and its arguments with the types erased. */
struct Body {
    const void *closure;
    void (*run_thread)(const void *closure); /* for one CUDA thread: `self` says which */
    /* For all threads of one block: sets self->tid for each; reversed runs them backwards. */
    void (*run_loop)(const void *closure, bool reversed);
};

cudaError_t launch_body(const Kernel &kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
                        bool barrier_free, cudaStream_t stream, const Body &body);

template <class F, class Args> struct Closure {
    F kernel;
    Args args;

    static void run_thread(const void *p)
    {
        const Closure *c = static_cast<const Closure *>(p);
        std::apply(c->kernel, c->args);
    }

    static void run_loop(const void *p, bool reversed)
    {
        const Closure *c = static_cast<const Closure *>(p);
        Fibre *const f = self;
        const dim3 dim = f->block->dim;
        const unsigned n = dim.x * dim.y * dim.z;
        dim3 t = reversed ? dim3(dim.x - 1, dim.y - 1, dim.z - 1) : dim3(0, 0, 0);
        for (unsigned i = 0; i < n; i++) {
            f->linear = reversed ? n - 1 - i : i;
            f->tid = t;
            std::apply(c->kernel, c->args);
            if (reversed) {
                if (t.x-- == 0) {
                    t.x = dim.x - 1;
                    if (t.y-- == 0) {
                        t.y = dim.y - 1;
                        t.z--;
                    }
                }
            } else if (++t.x == dim.x) {
                t.x = 0;
                if (++t.y == dim.y) {
                    t.y = 0;
                    t.z++;
                }
            }
        }
    }
};

template <class F, class... A>
cudaError_t launch(const Kernel &kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
                   bool barrier_free, cudaStream_t stream, F f, A... args)
{
    typedef Closure<F, std::tuple<A...>> C;
    const C closure = {f, std::tuple<A...>(args...)};
    const Body body = {&closure, C::run_thread, C::run_loop};
    return launch_body(kernel, grid, block, dynamic_bytes, barrier_free, stream, body);
}

template <class T> uint64_t to_word(T v)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "does not fit a shuffle");
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    return u;
}

template <class T> T from_word(uint64_t u)
{
    T v;
    memcpy(&v, &u, sizeof v);
    return v;
}

template <class T>
T shuffle(unsigned mask, T v, unsigned source, const char *file, int line)
{
    return from_word<T>(warp(WARP_SHUFFLE, mask, to_word(v), source, file, line));
}

inline unsigned lane() { return self->linear & 31; }
} // namespace simt

#define threadIdx (simt::self->tid)
#define blockIdx  (simt::self->block->index)
#define blockDim  (simt::self->block->dim)
#define gridDim   (simt::self->block->grid)
#define warpSize  32

/* Where a barrier stands in the source, for messages and for the divergence check. */
#define SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_HERE) { simt::barrier(simt::BARRIER_PLAIN, 0, file, line); }
inline int __syncthreads_or(int p, SIMT_HERE)
{
    return simt::barrier(simt::BARRIER_OR, p, file, line);
}
inline int __syncthreads_and(int p, SIMT_HERE)
{
    return simt::barrier(simt::BARRIER_AND, p, file, line);
}
inline int __syncthreads_count(int p, SIMT_HERE)
{
    return simt::barrier(simt::BARRIER_COUNT, p, file, line);
}

inline void __syncwarp(unsigned mask = ~0u, SIMT_HERE)
{
    simt::warp(simt::WARP_SYNC, mask, 0, 0, file, line);
}

/* Shuffles inside segments of `width` lanes (a power of two), as CUDA defines them: a lane whose source
 * lies outside its segment keeps its own value, except for __shfl_sync, which wraps. */
template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, SIMT_HERE)
{
    const unsigned l = simt::lane(), segment = l & ~((unsigned)width - 1);
    return simt::shuffle(mask, v, segment | ((unsigned)source & ((unsigned)width - 1)), file, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, SIMT_HERE)
{
    const unsigned l = simt::lane(), s = l ^ (unsigned)bits;
    const bool stays = (s & ~((unsigned)width - 1)) > (l & ~((unsigned)width - 1));
    return simt::shuffle(mask, v, stays ? l : s & 31, file, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, SIMT_HERE)
{
    const unsigned l = simt::lane(), place = l & ((unsigned)width - 1);
    return simt::shuffle(mask, v, place + delta < (unsigned)width ? l + delta : l, file, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, SIMT_HERE)
{
    const unsigned l = simt::lane(), place = l & ((unsigned)width - 1);
    return simt::shuffle(mask, v, place >= delta ? l - delta : l, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int p, SIMT_HERE)
{
    return (unsigned)simt::warp(simt::WARP_BALLOT, mask, p != 0, 0, file, line);
}
inline int __any_sync(unsigned mask, int p, SIMT_HERE)
{
    return simt::warp(simt::WARP_BALLOT, mask, p != 0, 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int p, SIMT_HERE)
{
    return simt::warp(simt::WARP_BALLOT, mask, p != 0, 0, file, line) == mask;
}
inline int __reduce_max_sync(unsigned mask, int v, SIMT_HERE)
{
    return simt::from_word<int>(
        simt::warp(simt::WARP_MAX, mask, simt::to_word(v), 0, file, line));
}

/* Integer atomics only: a float atomic has no order and is not part of the contract. */
inline int atomicAdd(int *p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline int atomicCAS(int *p, int expected, int desired)
{
    __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
inline int atomicMax(int *p, int v)
{
    int old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v > old && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED,
                                                   __ATOMIC_RELAXED)) {
    }
    return old;
}

#endif
