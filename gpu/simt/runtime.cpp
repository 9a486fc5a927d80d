#include "gpu/simt/stream.h"

#include "common/hd.h"

#include <map>
#include <mutex>
#include <new>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace simt
{
namespace
{
const size_t RED_ZONE = 256; /* bytes before and behind each buffer; keeps 256-byte alignment */
const unsigned char RED_BYTE = 0xA5;

/* Buffers by address, and kernels' shared memory limits. Never destroyed: sessions of other shared
 * objects may still be closing when static objects go. */
struct Registry {
    std::mutex lock;
    std::map<uintptr_t, size_t> buffers; /* first byte of the user's part -> its size */
    std::map<uintptr_t, size_t> locked;  /* page-locked memory of the host, likewise */
    std::map<const void *, size_t> shared_limits;
};

Registry &registry()
{
    static Registry *const r = new Registry;
    return *r;
}

struct LastError {
    cudaError_t code;
    char text[400];
};
thread_local LastError last_error;

unsigned char *user_part(uintptr_t key) { return reinterpret_cast<unsigned char *>(key); }

void paint(unsigned char *zone) { memset(zone, RED_BYTE, RED_ZONE); }

bool intact(const unsigned char *zone)
{
    for (size_t i = 0; i < RED_ZONE; i++)
        if (zone[i] != RED_BYTE) return false;
    return true;
}

/* Reports a damaged buffer once: the zones are painted again. */
cudaError_t check_buffer(uintptr_t key, size_t bytes)
{
    unsigned char *const p = user_part(key);
    const bool before = intact(p - RED_ZONE), behind = intact(p + bytes);
    if (before && behind) return cudaSuccess;
    paint(p - RED_ZONE);
    paint(p + bytes);
    return fail(cudaErrorIllegalAddress, "a kernel has written %s a device buffer of %zu bytes",
                before ? "behind" : "before", bytes);
}

bool inside(const std::map<uintptr_t, size_t> &memory, const void *p, size_t bytes)
{
    const uintptr_t a = reinterpret_cast<uintptr_t>(p);
    auto it = memory.upper_bound(a);
    if (it == memory.begin()) return false;
    --it;
    return a - it->first <= it->second && bytes <= it->second - (a - it->first);
}

cudaError_t check_range(const char *call, const char *what, const void *p, size_t bytes)
{
    Registry &r = registry();
    std::lock_guard<std::mutex> hold(r.lock);
    if (bytes == 0 || inside(r.buffers, p, bytes)) return cudaSuccess;
    return fail(cudaErrorInvalidValue, "%s: %zu bytes at the %s are not inside one device buffer",
                call, bytes, what);
}

bool is_locked(const void *p, size_t bytes)
{
    Registry &r = registry();
    std::lock_guard<std::mutex> hold(r.lock);
    return inside(r.locked, p, bytes);
}

cudaError_t make_copy(const LateCopies::Copy &c)
{
    const cudaError_t e = check_range("late cudaMemcpyAsync", "destination", c.dst, c.bytes);
    if (e != cudaSuccess) return e;
    if (!is_locked(c.src, c.bytes))
        return fail(cudaErrorInvalidValue, "late cudaMemcpyAsync: its %zu bytes of the host are freed", c.bytes);
    memcpy(c.dst, c.src, c.bytes);
    return cudaSuccess;
}
} // namespace

cudaError_t make_copies(LateCopies &late, uint64_t upto)
{
    cudaError_t result = cudaSuccess;
    while (late.issued - late.waiting.size() < upto) {
        const LateCopies::Copy c = late.waiting.front();
        late.waiting.pop_front();
        const cudaError_t e = make_copy(c);
        if (e != cudaSuccess) result = e;
    }
    return result;
}

cudaError_t fail(cudaError_t code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(last_error.text, sizeof last_error.text, fmt, ap);
    va_end(ap);
    last_error.code = code;
    return code;
}

size_t device_buffers()
{
    Registry &r = registry();
    std::lock_guard<std::mutex> hold(r.lock);
    return r.buffers.size();
}

size_t dynamic_shared_limit(const void *kernel)
{
    Registry &r = registry();
    std::lock_guard<std::mutex> hold(r.lock);
    const auto it = r.shared_limits.find(kernel);
    return it == r.shared_limits.end() ? (size_t)SHARED_DEFAULT : it->second;
}

cudaError_t set_dynamic_shared_limit(const void *kernel, size_t bytes)
{
    if (bytes > SHARED_LIMIT)
        return fail(cudaErrorInvalidValue, "%zu bytes of dynamic shared memory; a block has %d", bytes,
                    SHARED_LIMIT);
    Registry &r = registry();
    std::lock_guard<std::mutex> hold(r.lock);
    r.shared_limits[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t configure(Stream *stream, uint64_t seed, int threads)
{
    kv_pool *pool = nullptr;
    if (threads > 1 && kv_pool_create(threads, &pool) != KV_OK)
        return fail(cudaErrorMemoryAllocation, "%s", kv_message());
    kv_pool_destroy(stream->pool);
    stream->pool = pool;
    stream->seed = seed;
    return cudaSuccess;
}
} // namespace simt

using simt::fail;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new (std::nothrow) simt::Stream();
    return *stream ? cudaSuccess : fail(cudaErrorMemoryAllocation, "stream: out of memory");
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!stream) return fail(cudaErrorInvalidResourceHandle, "cudaStreamDestroy: no stream");
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (!stream) return fail(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize: no stream");
    cudaError_t result = stream->finish_copies();
    simt::Registry &r = simt::registry();
    std::lock_guard<std::mutex> hold(r.lock);
    for (const auto &b : r.buffers) {
        const cudaError_t e = simt::check_buffer(b.first, b.second);
        if (e != cudaSuccess) result = e;
    }
    return result;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new (std::nothrow) simt::Event();
    return *event ? cudaSuccess : fail(cudaErrorMemoryAllocation, "event: out of memory");
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (!event) return fail(cudaErrorInvalidResourceHandle, "cudaEventDestroy: no event");
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (!event || !stream) return fail(cudaErrorInvalidResourceHandle, "cudaEventRecord: no event or stream");
    event->copies = stream->copies;
    event->upto = stream->copies->issued;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (!event || !stream) return fail(cudaErrorInvalidResourceHandle, "cudaStreamWaitEvent: no event or stream");
    return event->copies ? simt::make_copies(*event->copies, event->upto) : cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    *p = malloc(bytes ? bytes : 1);
    if (!*p) return fail(cudaErrorMemoryAllocation, "cudaMallocHost: %zu bytes", bytes);
    memset(*p, 0xff, bytes);
    simt::Registry &r = simt::registry();
    std::lock_guard<std::mutex> hold(r.lock);
    r.locked[reinterpret_cast<uintptr_t>(*p)] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    if (!p) return cudaSuccess;
    simt::Registry &r = simt::registry();
    std::lock_guard<std::mutex> hold(r.lock);
    if (r.locked.erase(reinterpret_cast<uintptr_t>(p)) == 0)
        return fail(cudaErrorInvalidValue, "cudaFreeHost: not the start of page-locked memory");
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    const size_t zone = simt::RED_ZONE, padded = (bytes + zone - 1) / zone * zone;
    *p = nullptr;
    if (padded < bytes || padded > SIZE_MAX - 2 * zone)
        return fail(cudaErrorMemoryAllocation, "cudaMalloc: %zu bytes", bytes);
    unsigned char *const base = static_cast<unsigned char *>(aligned_alloc(zone, padded + 2 * zone));
    if (!base) return fail(cudaErrorMemoryAllocation, "cudaMalloc: %zu bytes", bytes);
    unsigned char *const user = base + zone;
    simt::paint(base);
    memset(user, 0xff, bytes); /* every float a NaN */
    simt::paint(user + bytes);
    simt::Registry &r = simt::registry();
    std::lock_guard<std::mutex> hold(r.lock);
    r.buffers[reinterpret_cast<uintptr_t>(user)] = bytes;
    *p = user;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (!p) return cudaSuccess;
    simt::Registry &r = simt::registry();
    std::lock_guard<std::mutex> hold(r.lock);
    const auto it = r.buffers.find(reinterpret_cast<uintptr_t>(p));
    if (it == r.buffers.end())
        return fail(cudaErrorInvalidValue, "cudaFree: not the start of a device buffer");
    const cudaError_t e = simt::check_buffer(it->first, it->second);
    r.buffers.erase(it);
    free(static_cast<unsigned char *>(p) - simt::RED_ZONE);
    return e;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (!stream) return fail(cudaErrorInvalidResourceHandle, "cudaMemcpyAsync: no stream");
    cudaError_t e = cudaSuccess;
    if (kind != cudaMemcpyDeviceToHost)
        e = simt::check_range("cudaMemcpyAsync", "destination", dst, bytes);
    if (e == cudaSuccess && kind != cudaMemcpyHostToDevice)
        e = simt::check_range("cudaMemcpyAsync", "source", src, bytes);
    if (e != cudaSuccess || bytes == 0) return e;
    if (kind == cudaMemcpyHostToDevice && simt::is_locked(src, bytes)) {
        stream->copies->waiting.push_back({dst, src, bytes});
        stream->copies->issued++;
        return cudaSuccess;
    }
    e = stream->finish_copies();
    if (e == cudaSuccess) memcpy(dst, src, bytes);
    return e;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t stream)
{
    if (!stream) return fail(cudaErrorInvalidResourceHandle, "cudaMemsetAsync: no stream");
    cudaError_t e = simt::check_range("cudaMemsetAsync", "destination", dst, bytes);
    if (e == cudaSuccess) e = stream->finish_copies();
    if (e == cudaSuccess && bytes != 0) memset(dst, byte, bytes);
    return e;
}

cudaError_t cudaPeekAtLastError() { return simt::last_error.code; }

cudaError_t cudaGetLastError()
{
    const cudaError_t e = simt::last_error.code;
    simt::last_error.code = cudaSuccess;
    return e;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess ? "no error" : simt::last_error.text;
}
