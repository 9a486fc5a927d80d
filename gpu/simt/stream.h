/* stream.h - private to gpu/simt: what a stream and a worker of the host SIMT layer consist of. */
#ifndef GPU_SIMT_STREAM_H
#define GPU_SIMT_STREAM_H

#include "common/pool.h"
#include "gpu/simt/coroutine.h"
#include "gpu/simt/simt.h"

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

namespace simt
{
/* One launch, shared by the workers that run its blocks. */
struct Launch {
    Kernel kernel;
    dim3 grid, block;
    size_t dynamic_bytes;
    size_t shared_limit; /* static and dynamic together */
    bool barrier_free;
    uint64_t seed; /* 0 = ascending order; else of this launch alone */
    Body body;
    uint64_t n_blocks;
    const std::vector<uint32_t> *block_order; /* NULL: ascending */
    std::atomic<uint64_t> next_block;
    std::atomic<bool> stopped; /* a block has failed: start no more */
};

enum State : uint8_t { READY, AT_BARRIER, AT_WARP, DONE };

struct Worker;

/* One CUDA thread of the block that is running. */
struct Thread : Fibre {
    Coroutine co;
    Worker *worker;
    unsigned place; /* in the block's running order */
    State state;
    unsigned mask;    /* of the warp operation it waits for */
    const char *file; /* where it waits */
    int line;
    uint64_t result; /* of the warp operation */
};

struct Warp {
    struct Group { /* lanes that wait for each other; the masks of a warp's groups are disjoint */
        unsigned mask, arrived;
        WarpOp op;
    } group[WARP_LANES / 2];
    unsigned n_groups;
    uint64_t value[WARP_LANES];
    uint8_t source[WARP_LANES];
};

/* Runs blocks, one at a time, on one OS thread. */
struct Worker : Block {
    Worker();
    bool prepare(const Launch *l); /* false: out of memory */
    void run_blocks();             /* until none is left or one has failed */

    const Launch *launch;
    uint64_t block_number; /* in the grid, x fastest */

    Coroutine main;     /* the OS thread's own stack */
    Coroutine *starter; /* &main until the first fibre of a switch from there has begun */
    Stacks stacks;
    std::vector<Thread> threads;
    std::vector<unsigned> order; /* running order: thread numbers */
    Warp warps[MAX_BLOCK_THREADS / WARP_LANES];
    unsigned n_threads, n_done;

    unsigned n_arrived; /* at the block barrier */
    Barrier barrier_kind;
    int n_true, barrier_result;
    const char *barrier_file;
    int barrier_line;

    /* Shared memory: dynamic part, then static arrays as they are first asked for. Behind each lies a
     * red zone. */
    struct Array {
        const void *site;
        size_t offset, bytes;
    };
    std::unique_ptr<unsigned char[]> arena;
    unsigned char *shared; /* the arena, aligned */
    std::vector<Array> arrays;
    size_t shared_used, static_bytes;

    bool failed;
    char text[400]; /* kernel, block, thread and what went wrong */

    bool run_block(uint64_t number);
    void choose_order();
    bool check_shared();
    void fail_block(const char *what);
};

/* Copies of a stream that were issued and have not been made. */
struct LateCopies {
    struct Copy {
        void *dst;
        const void *src;
        size_t bytes;
    };
    std::deque<Copy> waiting;
    uint64_t issued = 0; /* waiting ones included */
};

/* Makes the first `upto` copies that were issued, as far as they wait. */
cudaError_t make_copies(LateCopies &late, uint64_t upto);

struct Event {
    std::shared_ptr<LateCopies> copies; /* of the stream that it was recorded on; NULL: none yet */
    uint64_t upto = 0;
};

struct Stream {
    ~Stream() { kv_pool_destroy(pool); }

    uint64_t seed = 0, launches = 0;
    kv_pool *pool = nullptr; /* NULL: the caller's thread alone */
    std::vector<std::unique_ptr<Worker>> workers;
    std::vector<uint32_t> block_order;
    std::shared_ptr<LateCopies> copies = std::make_shared<LateCopies>();

    cudaError_t finish_copies() { return make_copies(*copies, copies->issued); }
};
} // namespace simt

#endif
