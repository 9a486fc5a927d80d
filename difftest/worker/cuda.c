#include "difftest/worker/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* From cuda.h, which need not be there: the types and numbers of the driver's interface are fixed. */
typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext;
typedef void *CUstream;
typedef unsigned long long CUdeviceptr;
enum { CU_STREAM_NON_BLOCKING = 1 };

/* X(member, symbol, arguments) */
#define CUDA_CALLS(X)                                                                                \
    X(init, "cuInit", (unsigned flags))                                                              \
    X(device_count, "cuDeviceGetCount", (int *n))                                                    \
    X(device_get, "cuDeviceGet", (CUdevice * device, int number))                                    \
    X(retain, "cuDevicePrimaryCtxRetain", (CUcontext * context, CUdevice device))                    \
    X(make_current, "cuCtxSetCurrent", (CUcontext context))                                          \
    X(alloc, "cuMemAlloc_v2", (CUdeviceptr * p, size_t bytes))                                       \
    X(release, "cuMemFree_v2", (CUdeviceptr p))                                                      \
    X(stream_create, "cuStreamCreate", (CUstream * stream, unsigned flags))                          \
    X(stream_finish, "cuStreamSynchronize", (CUstream stream))                                       \
    X(up, "cuMemcpyHtoDAsync_v2", (CUdeviceptr dst, const void *src, size_t bytes, CUstream stream)) \
    X(down, "cuMemcpyDtoH_v2", (void *dst, CUdeviceptr src, size_t bytes))                           \
    X(error_name, "cuGetErrorName", (CUresult error, const char **name))

static struct {
    void *lib;
#define X(member, symbol, arguments) CUresult(*member) arguments;
    CUDA_CALLS(X)
#undef X
    CUstream stream;
    CUdeviceptr mirror; /* of the whole block; 0: none yet */
    size_t mirror_bytes;
} cuda;

static int load(void)
{
    cuda.lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!cuda.lib) return 0;
#define X(member, symbol, arguments)                          \
    *(void **)(void *)&cuda.member = dlsym(cuda.lib, symbol); \
    if (!cuda.member) return 0;
    CUDA_CALLS(X)
#undef X
    return 1;
}

int worker_cuda_devices(void)
{
    int n = 0;
    return load() && cuda.init(0) == 0 && cuda.device_count(&n) == 0 ? n : 0;
}

void *worker_cuda_symbol(const char *name)
{
    return cuda.lib ? dlsym(cuda.lib, name) : NULL;
}

const char *worker_cuda_error(int error)
{
    const char *name = NULL;
    return cuda.error_name(error, &name) == 0 && name ? name : "an unknown error";
}

/* A driver maps far more addresses than it has memory. */
static void lift_address_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_AS, &r) != 0) return;
    r.rlim_cur = r.rlim_max;
    (void)setrlimit(RLIMIT_AS, &r);
}

kv_status worker_cuda_open(void)
{
    CUdevice device;
    CUcontext context;
    CUresult e;
    lift_address_limit();
    if (!load())
        return kv_fail(KV_ERR_DEVICE, "it wants device memory, and there is no CUDA driver (libcuda.so.1) here");
    if ((e = cuda.init(0)) != 0 || (e = cuda.device_get(&device, 0)) != 0 || (e = cuda.retain(&context, device)) != 0 ||
        (e = cuda.make_current(context)) != 0 || (e = cuda.stream_create(&cuda.stream, CU_STREAM_NON_BLOCKING)) != 0)
        return kv_fail(KV_ERR_DEVICE, "it wants device memory, and the CUDA device cannot be used: %s",
                       worker_cuda_error(e));
    return KV_OK;
}

/* Errors of a device stick to its context. */
static void demand(CUresult e, const char *what)
{
    if (e == 0) return;
    fprintf(stderr, "kvdiff-worker: CUDA, %s: %s\n", what, worker_cuda_error(e));
    exit(1);
}

/* The block may have grown since the last call. */
static void reserve_mirror(size_t bytes)
{
    if (cuda.mirror_bytes >= bytes) return;
    if (cuda.mirror) demand(cuda.release(cuda.mirror), "memory for the tensors");
    demand(cuda.alloc(&cuda.mirror, bytes), "memory for the tensors");
    cuda.mirror_bytes = bytes;
}

/* The part of the block that a call is about: its tensors and workspace, and as much around them as the tester guards.
 */
typedef struct region {
    size_t from, end;
} region;

static void include(region *r, const worker_memory *memory, const void *p, size_t bytes)
{
    const size_t guarded = 4096, at = (size_t)((const uint8_t *)p - memory->p);
    const size_t from = at > guarded ? at - guarded : 0,
                 end = memory->bytes - at - bytes > guarded ? at + bytes + guarded : memory->bytes;
    if (from < r->from) r->from = from;
    if (end > r->end) r->end = end;
}

static region used_region(int op, const dt_args *args, const worker_memory *memory)
{
    const dt_op_schema *s = &dt_op_schemas[op];
    region r = {memory->bytes, 0};
    for (int i = 0; i < s->n_tensors; i++) {
        const kvdk_tensor *t = dt_op_tensor_of(args, &s->tensors[i]);
        if (t->data) include(&r, memory, t->data, (size_t)dt_tensor_extent(t) * dt_dtype_bytes(t->dtype));
    }
    if (args->call.workspace) include(&r, memory, args->call.workspace, args->call.workspace_bytes);
    if (r.end <= r.from) r = (region){0, 0};
    return r;
}

static void *device_pointer(const worker_memory *memory, const void *p)
{
    return p ? (void *)(uintptr_t)(cuda.mirror + (CUdeviceptr)((const uint8_t *)p - memory->p)) : NULL;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Inputs go up on the candidate's stream, and are there before the clock starts: a copy without a stream may return
 * while its last bytes are on their way, and a stream that does not wait for the default one would overtake them. */
int worker_cuda_call(worker_op_fn *fn, int op, const dt_args *args, const worker_memory *memory, double *seconds)
{
    dt_args there = *args;
    const dt_op_schema *s = &dt_op_schemas[op];
    const region r = used_region(op, args, memory);
    reserve_mirror(memory->bytes);
    for (int i = 0; i < s->n_tensors; i++) {
        kvdk_tensor *t = dt_op_tensor(&there, &s->tensors[i]);
        t->data = device_pointer(memory, t->data);
    }
    there.call.workspace = device_pointer(memory, args->call.workspace);
    demand(cuda.up(cuda.mirror + r.from, memory->p + r.from, r.end - r.from, cuda.stream), "inputs to the device");
    demand(cuda.stream_finish(cuda.stream), "inputs to the device");
    const double t = now();
    const int rc = fn(&there, cuda.stream);
    demand(cuda.stream_finish(cuda.stream), "the work of the call");
    *seconds = now() - t;
    demand(cuda.down(memory->p + r.from, cuda.mirror + r.from, r.end - r.from), "results from the device");
    return rc;
}
