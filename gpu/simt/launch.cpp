/* launch.cpp - accepts or refuses a launch and spreads its blocks over the stream's threads. */
#include "gpu/simt/stream.h"

#include "common/rng.h"

#include <utility>

namespace simt
{
namespace
{
cudaError_t check_limits(const Kernel &kernel, dim3 grid, dim3 block, size_t dynamic_bytes)
{
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0)
        return fail(cudaErrorInvalidConfiguration, "kernel %s: grid (%u,%u,%u), block (%u,%u,%u): "
                    "no dimension may be 0", kernel.name, grid.x, grid.y, grid.z, block.x, block.y,
                    block.z);
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration, "kernel %s: grid (%u,%u,%u) is beyond "
                    "(2^31-1, 65535, 65535)", kernel.name, grid.x, grid.y, grid.z);
    if (block.x > MAX_BLOCK_THREADS || block.y > MAX_BLOCK_THREADS || block.z > 64 ||
        threads > MAX_BLOCK_THREADS)
        return fail(cudaErrorInvalidConfiguration, "kernel %s: block (%u,%u,%u) has more than %d threads",
                    kernel.name, block.x, block.y, block.z, MAX_BLOCK_THREADS);
    const size_t limit = dynamic_shared_limit(kernel.address);
    if (dynamic_bytes > limit)
        return fail(cudaErrorInvalidValue, "kernel %s: %zu bytes of dynamic shared memory, %zu are allowed "
                    "(cudaFuncSetAttribute raises that up to %d)", kernel.name, dynamic_bytes, limit,
                    SHARED_LIMIT);
    return cudaSuccess;
}

/* The order of blocks for a seed: a random permutation. */
void permute_blocks(std::vector<uint32_t> &v, uint64_t n, uint64_t seed)
{
    v.resize(n);
    for (uint64_t i = 0; i < n; i++) v[i] = (uint32_t)i;
    for (uint64_t i = n; i > 1; i--) std::swap(v[i - 1], v[kv_splitmix64(seed + i) % i]);
}

/* Barrier-free launches run as one fibre that loops over blocks and threads, so that a barrier in them
 * can be refused by leaving that fibre. */
void loop_entry()
{
    Thread *const t = static_cast<Thread *>(self);
    Worker *const w = t->worker;
    coroutine_entered(w->starter);
    w->run_blocks();
    coroutine_leave(&t->co, &w->main);
}

void work(void *arg, int64_t, int worker)
{
    Worker *const w = static_cast<Stream *>(arg)->workers[(size_t)worker].get();
    if (!w->launch->barrier_free) {
        w->run_blocks();
        return;
    }
    Thread *const t = &w->threads[0];
    coroutine_prepare(&t->co, w->stacks.at(0), w->stacks.usable(0), loop_entry);
    w->starter = &w->main;
    self = t;
    coroutine_switch(&w->main, &t->co);
    self = nullptr;
    if (w->failed) w->stacks.forget_contents();
}

/* Waking the workers costs about ten microseconds: not for launches that are over before. */
int worth_threads(const Stream *stream, const Launch &l)
{
    const uint64_t threads = l.n_blocks * l.block.x * l.block.y * l.block.z;
    const bool small = l.n_blocks < 2 || threads < (l.barrier_free ? 4096u : 128u);
    return small ? 1 : kv_pool_threads(stream->pool);
}

cudaError_t result_of(const Stream *stream, int n_workers)
{
    const Worker *first = nullptr;
    for (int i = 0; i < n_workers; i++) {
        const Worker *const w = stream->workers[(size_t)i].get();
        if (w->failed && (!first || w->block_number < first->block_number)) first = w;
    }
    return first ? fail(cudaErrorLaunchFailure, "%s", first->text) : cudaSuccess;
}
} // namespace

cudaError_t launch_body(const Kernel &kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
                        bool barrier_free, cudaStream_t stream, const Body &body)
{
    if (self) fault("a kernel launches kernel %s", kernel.name);
    if (!stream)
        return fail(cudaErrorInvalidResourceHandle, "kernel %s: launched on the default stream",
                    kernel.name);
    const cudaError_t refused = check_limits(kernel, grid, block, dynamic_bytes);
    if (refused != cudaSuccess) return refused;
    const cudaError_t copied = stream->finish_copies();
    if (copied != cudaSuccess) return copied;

    Launch l;
    l.kernel = kernel;
    l.grid = grid;
    l.block = block;
    l.dynamic_bytes = dynamic_bytes;
    /* Raising the dynamic part's limit opens all that a block has; else both share the default. */
    l.shared_limit = dynamic_shared_limit(kernel.address) > SHARED_DEFAULT ? (size_t)SHARED_LIMIT
                                                                           : (size_t)SHARED_DEFAULT;
    l.barrier_free = barrier_free;
    l.seed = stream->seed ? kv_splitmix64(stream->seed + ++stream->launches) | 1 : 0;
    l.body = body;
    l.n_blocks = (uint64_t)grid.x * grid.y * grid.z;
    l.block_order = nullptr;
    l.next_block = 0;
    l.stopped = false;
    if (l.seed && l.n_blocks <= UINT32_MAX) {
        permute_blocks(stream->block_order, l.n_blocks, l.seed);
        l.block_order = &stream->block_order;
    }

    const int n_workers = worth_threads(stream, l);
    for (int i = 0; i < n_workers; i++) {
        if (stream->workers.size() <= (size_t)i) stream->workers.emplace_back(new Worker());
        if (!stream->workers[(size_t)i]->prepare(&l))
            return fail(cudaErrorMemoryAllocation, "kernel %s: no memory for fibre stacks", kernel.name);
    }
    if (n_workers == 1)
        work(stream, 0, 0);
    else
        kv_pool_run(stream->pool, n_workers, work, stream);
    return result_of(stream, n_workers);
}
} // namespace simt
