/* simt.cpp - runs the blocks of a launch: fibres, barriers, warp operations, shared memory. */
#include "gpu/simt/stream.h"

#include "common/rng.h"

#include <stdarg.h>
#include <stdio.h>
#include <utility>

namespace simt
{
__thread Fibre *self;

namespace
{
const size_t RED_ZONE = 64; /* bytes behind each shared array */
const unsigned char RED_BYTE = 0xA5;

Thread *current() { return static_cast<Thread *>(self); }

void run(Thread *from, Thread *to)
{
    self = to;
    coroutine_switch(&from->co, &to->co);
}

/* The next thread in running order that can run, or NULL. */
Thread *next_ready(Worker *w, unsigned place)
{
    for (unsigned i = 0; i < w->n_threads; i++) {
        if (++place == w->n_threads) place = 0;
        Thread *const t = &w->threads[w->order[place]];
        if (t->state == READY) return t;
    }
    return nullptr;
}

/* Stops t, which waits for others, until somebody makes it ready again. */
void wait(Thread *t, State why, const char *file, int line)
{
    Worker *const w = t->worker;
    t->state = why;
    t->file = file;
    t->line = line;
    Thread *const next = next_ready(w, t->place);
    if (next)
        run(t, next);
    else
        coroutine_switch(&t->co, &w->main); /* nobody can run: the scheduler reports a deadlock */
}

/* First function of every fibre. */
void fibre_entry()
{
    Thread *const t = current();
    Worker *const w = t->worker;
    coroutine_entered(w->starter);
    w->starter = nullptr;
    w->launch->body.run_thread(w->launch->body.closure);
    t->state = DONE;
    w->n_done++;
    if (w->n_arrived > 0)
        fault("barrier divergence: it has left the kernel while another thread waits at %s:%d",
              w->barrier_file, w->barrier_line);
    Thread *const next = next_ready(w, t->place);
    self = next;
    coroutine_leave(&t->co, next ? &next->co : &w->main);
}

void write_text(Worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void write_text(Worker *w, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->text, sizeof w->text, fmt, ap);
    va_end(ap);
}

/* Fisher-Yates with the words of a counter-based generator. */
void shuffle_numbers(unsigned *v, unsigned n, uint64_t key)
{
    for (unsigned i = n; i > 1; i--) std::swap(v[i - 1], v[kv_splitmix64(key + i) % i]);
}
} // namespace

Worker::Worker() : Block(), shared(nullptr), failed(false)
{
    text[0] = '\0';
    main = Coroutine();
    starter = nullptr;
}

bool Worker::prepare(const Launch *l)
{
    launch = l;
    dim = l->block;
    grid = l->grid;
    failed = false;
    n_threads = l->block.x * l->block.y * l->block.z;
    const unsigned n_fibres = l->barrier_free ? 1 : n_threads;
    if (threads.size() < n_fibres) threads.resize(n_fibres);
    if (order.size() < n_threads) order.resize(n_threads);
    if (!arena) {
        const size_t room = SHARED_LIMIT + 64 * (RED_ZONE + 256);
        arena.reset(new unsigned char[room + 256]);
        const uintptr_t a = reinterpret_cast<uintptr_t>(arena.get());
        shared = arena.get() + (256 - a % 256);
        arrays.reserve(64);
    }
    for (unsigned i = 0; i < n_fibres; i++) {
        threads[i].worker = this;
        threads[i].block = this;
    }
    return stacks.reserve(n_fibres);
}

/* ---- one block ---- */

/* Four kinds of order, drawn anew for every block: backwards, fully random, warps shuffled as wholes,
 * and lane by lane across warps from a random start. */
void Worker::choose_order()
{
    for (unsigned i = 0; i < n_threads; i++) order[i] = i;
    if (launch->seed == 0) return;
    const uint64_t key = kv_splitmix64(launch->seed ^ kv_splitmix64(block_number));
    const unsigned n_warps = (n_threads + WARP_LANES - 1) / WARP_LANES;
    unsigned warp_numbers[MAX_BLOCK_THREADS / WARP_LANES], n = 0;
    switch (key % 4) {
    case 0:
        for (unsigned i = 0; i < n_threads; i++) order[i] = n_threads - 1 - i;
        break;
    case 1:
        shuffle_numbers(order.data(), n_threads, key);
        break;
    case 2:
        for (unsigned i = 0; i < n_warps; i++) warp_numbers[i] = i;
        shuffle_numbers(warp_numbers, n_warps, key);
        for (unsigned i = 0; i < n_warps * WARP_LANES; i++) {
            const unsigned t = warp_numbers[i / WARP_LANES] * WARP_LANES + i % WARP_LANES;
            if (t < n_threads) order[n++] = t;
        }
        break;
    default:
        for (unsigned i = 0; i < n_warps * WARP_LANES; i++) {
            const unsigned k = (i + (unsigned)(key >> 8)) % (n_warps * WARP_LANES);
            const unsigned t = k % n_warps * WARP_LANES + k / n_warps;
            if (t < n_threads) order[n++] = t;
        }
        break;
    }
}

/* Shared memory starts as NaN with a red zone behind it. */
static void open_shared(Worker *w)
{
    const size_t dynamic = w->launch->dynamic_bytes;
    memset(w->shared, 0xff, dynamic);
    memset(w->shared + dynamic, RED_BYTE, RED_ZONE);
    w->dynamic = w->shared;
    w->shared_used = dynamic + RED_ZONE;
    w->static_bytes = 0;
    w->arrays.clear();
    w->arrays.push_back({nullptr, 0, dynamic});
}

bool Worker::check_shared()
{
    for (const Array &a : arrays) {
        const unsigned char *const zone = shared + a.offset + a.bytes;
        for (size_t i = 0; i < RED_ZONE; i++)
            if (zone[i] != RED_BYTE) {
                fail_block(a.site ? "a thread has written behind a static shared array"
                                  : "a thread has written behind dynamic shared memory");
                return false;
            }
    }
    return true;
}

void Worker::fail_block(const char *what)
{
    failed = true;
    write_text(this, "kernel %s, block (%u,%u,%u): %s", launch->kernel.name, index.x, index.y, index.z,
               what);
}

bool Worker::run_block(uint64_t number)
{
    block_number = number;
    choose_order();
    open_shared(this);
    n_done = n_arrived = 0;
    for (unsigned i = 0; i < (n_threads + WARP_LANES - 1) / WARP_LANES; i++) warps[i].n_groups = 0;
    for (unsigned i = 0; i < n_threads; i++) {
        Thread &t = threads[order[i]];
        const unsigned n = order[i];
        t.linear = n;
        t.tid = dim3(n % dim.x, n / dim.x % dim.y, n / (dim.x * dim.y));
        t.place = i;
        t.state = READY;
        coroutine_prepare(&t.co, stacks.at(n), stacks.usable(n), fibre_entry);
    }
    starter = &main;
    self = &threads[order[0]];
    coroutine_switch(&main, &threads[order[0]].co);
    self = nullptr;
    if (!failed && n_done < n_threads) { /* all that are left wait */
        const Thread *waits = nullptr;
        for (unsigned i = 0; i < n_threads && !waits; i++)
            if (threads[i].state != DONE) waits = &threads[i];
        failed = true;
        write_text(this,
                   "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): deadlock: it waits at %s:%d for "
                   "threads that have left or wait elsewhere",
                   launch->kernel.name, index.x, index.y, index.z, waits->tid.x, waits->tid.y,
                   waits->tid.z, waits->file, waits->line);
    }
    if (failed) stacks.forget_contents();
    return !failed && check_shared();
}

void Worker::run_blocks()
{
    Launch *const l = const_cast<Launch *>(launch);
    while (!l->stopped.load(std::memory_order_relaxed)) {
        const uint64_t i = l->next_block.fetch_add(1, std::memory_order_relaxed);
        if (i >= l->n_blocks) return;
        const uint64_t b = l->block_order ? (*l->block_order)[i] : i;
        index = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                     (unsigned)(b / grid.x / grid.y));
        if (!l->barrier_free) {
            if (!run_block(b)) l->stopped = true;
            continue;
        }
        block_number = b;
        l->body.run_loop(l->body.closure, l->seed != 0 && (kv_splitmix64(l->seed + b) & 1) != 0);
    }
}

/* ---- what kernels call ---- */

void fault(const char *fmt, ...)
{
    Thread *const t = current();
    Worker *const w = t->worker;
    char what[280];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    w->failed = true;
    write_text(w, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): %s", w->launch->kernel.name,
               w->index.x, w->index.y, w->index.z, t->tid.x, t->tid.y, t->tid.z, what);
    const_cast<Launch *>(w->launch)->stopped = true;
    coroutine_leave(&t->co, &w->main);
}

int barrier(Barrier kind, int predicate, const char *file, int line)
{
    Thread *const t = current();
    Worker *const w = t->worker;
    if (w->launch->barrier_free) fault("barrier at %s:%d in a kernel launched without", file, line);
    if (w->n_done > 0)
        fault("barrier divergence: it waits at %s:%d, but another thread has left the kernel", file,
              line);
    if (w->n_arrived == 0) {
        w->barrier_kind = kind;
        w->barrier_file = file;
        w->barrier_line = line;
        w->n_true = 0;
    } else if (kind != w->barrier_kind || line != w->barrier_line ||
               (file != w->barrier_file && strcmp(file, w->barrier_file) != 0)) {
        fault("barrier divergence: it waits at %s:%d, another thread at %s:%d", file, line,
              w->barrier_file, w->barrier_line);
    }
    w->n_true += predicate != 0;
    if (++w->n_arrived < w->n_threads) {
        wait(t, AT_BARRIER, file, line);
        return w->barrier_result;
    }
    w->n_arrived = 0;
    w->barrier_result = kind == BARRIER_OR    ? w->n_true > 0
                        : kind == BARRIER_AND ? w->n_true == (int)w->n_threads
                                              : w->n_true;
    for (unsigned i = 0; i < w->n_threads; i++) w->threads[i].state = READY;
    return w->barrier_result;
}

/* The group of t's warp that gathers for this mask; faults when the operation cannot be right. */
static Warp::Group *find_group(Thread *t, WarpOp op, unsigned mask, const char *file, int line)
{
    Worker *const w = t->worker;
    const unsigned first = t->linear / WARP_LANES * WARP_LANES, lane_bit = 1u << (t->linear - first);
    const unsigned n_lanes = w->n_threads - first;
    const unsigned existing = n_lanes >= WARP_LANES ? ~0u : (1u << n_lanes) - 1;
    if (!(mask & lane_bit)) fault("%s:%d: the lane is not in its own mask %08x", file, line, mask);
    if (mask & ~existing)
        fault("%s:%d: mask %08x names lanes that do not exist in this warp (%08x do)", file, line, mask,
              existing);
    Warp &warp_ = w->warps[first / WARP_LANES];
    for (unsigned i = 0; i < warp_.n_groups; i++) {
        Warp::Group &g = warp_.group[i];
        if (g.mask == mask && g.op == op) return &g;
        if (g.mask & mask)
            fault("%s:%d: warp divergence: other lanes wait with mask %08x, this one has %08x%s", file,
                  line, g.mask, mask, g.mask == mask ? " for another operation" : "");
    }
    Warp::Group &g = warp_.group[warp_.n_groups++];
    g.mask = mask;
    g.arrived = 0;
    g.op = op;
    return &g;
}

static uint64_t reduce(const Warp &warp_, const Warp::Group &g)
{
    uint64_t ballot = 0;
    int32_t highest = INT32_MIN;
    for (unsigned i = 0; i < WARP_LANES; i++) {
        if (!(g.mask >> i & 1)) continue;
        const int32_t v = from_word<int32_t>(warp_.value[i]);
        ballot |= (uint64_t)(warp_.value[i] != 0) << i;
        if (v > highest) highest = v;
    }
    return g.op == WARP_MAX ? to_word(highest) : g.op == WARP_BALLOT ? ballot : 0;
}

uint64_t warp(WarpOp op, unsigned mask, uint64_t value, unsigned source, const char *file, int line)
{
    Thread *const t = current();
    Worker *const w = t->worker;
    if (w->launch->barrier_free)
        fault("warp operation at %s:%d in a kernel launched without", file, line);
    if (op == WARP_SHUFFLE && !(mask >> (source & 31) & 1))
        fault("%s:%d: the shuffle reads lane %u, which does not take part (mask %08x)", file, line,
              source, mask);
    Warp::Group *const g = find_group(t, op, mask, file, line);
    const unsigned first = t->linear / WARP_LANES * WARP_LANES, my_lane = t->linear - first;
    Warp &warp_ = w->warps[first / WARP_LANES];
    warp_.value[my_lane] = value;
    warp_.source[my_lane] = (uint8_t)source;
    g->arrived |= 1u << my_lane;
    if (g->arrived != mask) {
        wait(t, AT_WARP, file, line);
        return t->result;
    }
    const uint64_t all = op == WARP_SHUFFLE ? 0 : reduce(warp_, *g);
    for (unsigned i = 0; i < WARP_LANES; i++) {
        if (!(mask >> i & 1)) continue;
        Thread &other = w->threads[first + i];
        other.result = op == WARP_SHUFFLE ? warp_.value[warp_.source[i] & 31] : all;
        other.state = READY;
    }
    *g = warp_.group[--warp_.n_groups];
    return t->result;
}

void *shared_array(const void *site, size_t bytes, size_t alignment)
{
    Worker *const w = current()->worker;
    if (w->launch->barrier_free) fault("shared memory in a kernel launched without barriers");
    for (const Worker::Array &a : w->arrays)
        if (a.site == site) return w->shared + a.offset;
    const size_t step = alignment < 16 ? 16 : alignment;
    const size_t offset = (w->shared_used + step - 1) / step * step;
    w->static_bytes += bytes;
    const size_t all = w->static_bytes + w->launch->dynamic_bytes;
    if (w->static_bytes > SHARED_DEFAULT || all > w->launch->shared_limit || w->arrays.size() == 64)
        fault("too much shared memory: %zu bytes of static arrays and %zu dynamic; %zu are allowed",
              w->static_bytes, w->launch->dynamic_bytes, w->launch->shared_limit);
    memset(w->shared + offset, 0xff, bytes);
    memset(w->shared + offset + bytes, RED_BYTE, RED_ZONE);
    w->shared_used = offset + bytes + RED_ZONE;
    w->arrays.push_back({site, offset, bytes});
    return w->shared + offset;
}
} // namespace simt
