#include "gpu/kvdev.cuh"

#include <string.h>

static kv_status status_of(cudaError_t error)
{
    switch (error) {
    case cudaErrorMemoryAllocation:
        return KV_ERR_NOMEM;
#ifdef __CUDACC__
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
        return KV_ERR_DEVICE;
#endif
    default:
        return KV_ERR_INTERNAL;
    }
}

kv_status gpu_status(cudaError_t error, const char *what, const char *file, int line)
{
    if (error == cudaSuccess) return KV_OK;
    (void)cudaGetLastError(); /* else the next launch would report this error again */
    const char *const slash = strrchr(file, '/');
    return kv_fail(status_of(error), "%s:%d: %.80s: %s", slash ? slash + 1 : file, line, what,
                   cudaGetErrorString(error));
}

kv_status gpu_stream_open(cudaStream_t *stream, uint64_t seed, int32_t threads)
{
    *stream = nullptr;
    GPU_TRY(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
#ifdef GPU_SIMT
    GPU_TRY(simt::configure(*stream, seed, threads));
#else
    (void)seed;
    (void)threads;
#endif
    return KV_OK;
}

void gpu_stream_close(cudaStream_t stream)
{
    if (stream) (void)cudaStreamDestroy(stream);
}

kv_status gpu_stream_finish(cudaStream_t stream)
{
    GPU_TRY(cudaStreamSynchronize(stream));
    return KV_OK;
}

gpu_event::~gpu_event()
{
    if (e) (void)cudaEventDestroy(e);
}

kv_status gpu_event::open()
{
    GPU_TRY(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    return KV_OK;
}

kv_status gpu_event::mark(cudaStream_t stream)
{
    GPU_TRY(cudaEventRecord(e, stream));
    return KV_OK;
}

kv_status gpu_event::hold(cudaStream_t stream)
{
    GPU_TRY(cudaStreamWaitEvent(stream, e, 0));
    return KV_OK;
}

kv_status gpu_host_alloc(void **p, size_t bytes)
{
    const cudaError_t e = cudaMallocHost(p, bytes);
    if (e == cudaErrorMemoryAllocation)
        return kv_fail(KV_ERR_NOMEM, "no room for %zu bytes of page-locked memory", bytes);
    return gpu_status(e, "cudaMallocHost", __FILE__, __LINE__);
}

kv_status gpu_device_alloc(void **p, size_t bytes)
{
    const cudaError_t e = cudaMalloc(p, bytes);
    if (e == cudaErrorMemoryAllocation)
        return kv_fail(KV_ERR_NOMEM, "no room for %zu bytes of device memory", bytes);
    return gpu_status(e, "cudaMalloc", __FILE__, __LINE__);
}

static kv_status copy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (bytes) GPU_TRY(cudaMemcpyAsync(dst, src, bytes, kind, stream));
    return KV_OK;
}

kv_status gpu_copy_up(void *dst, const void *src, size_t bytes, cudaStream_t stream)
{
    return copy(dst, src, bytes, cudaMemcpyHostToDevice, stream);
}

kv_status gpu_copy_down(void *dst, const void *src, size_t bytes, cudaStream_t stream)
{
    return copy(dst, src, bytes, cudaMemcpyDeviceToHost, stream);
}

kv_status gpu_copy_across(void *dst, const void *src, size_t bytes, cudaStream_t stream)
{
    return copy(dst, src, bytes, cudaMemcpyDeviceToDevice, stream);
}
