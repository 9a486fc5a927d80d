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

bool is_device(Registry &r, const void *p, size_t bytes)
{
    const uintptr_t a = reinterpret_cast<uintptr_t>(p);
    auto it = r.buffers.upper_bound(a);
    if (it == r.buffers.begin()) return false;
    --it;
    return a - it->first <= it->second && bytes <= it->second - (a - it->first);
}

cudaError_t check_range(const char *call, const char *what, const void *p, size_t bytes)
{
    Registry &r = registry();
    std::lock_guard<std::mutex> hold(r.lock);
    if (bytes == 0 || is_device(r, p, bytes)) return cudaSuccess;
    return fail(cudaErrorInvalidValue, "%s: %zu bytes at the %s are not inside one device buffer",
                call, bytes, what);
}
} // namespace

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
    simt::Registry &r = simt::registry();
    std::lock_guard<std::mutex> hold(r.lock);
    cudaError_t result = cudaSuccess;
    for (const auto &b : r.buffers) {
        const cudaError_t e = simt::check_buffer(b.first, b.second);
        if (e != cudaSuccess) result = e;
    }
    return result;
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
    if (e == cudaSuccess && bytes != 0) memcpy(dst, src, bytes);
    return e;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t stream)
{
    if (!stream) return fail(cudaErrorInvalidResourceHandle, "cudaMemsetAsync: no stream");
    const cudaError_t e = simt::check_range("cudaMemsetAsync", "destination", dst, bytes);
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
