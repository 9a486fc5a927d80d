/* fake_cuda.c - a libcuda.so.1 whose device is memory of the host that begins somewhere else than the tester's: what the worker's
 * device path does with copies, pointers and errors can be watched without a GPU. Says nothing about a real driver. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static int broken; /* an error that sticks, as those of a device do */

#define CALL __attribute__((visibility("default"))) int

CALL cuInit(unsigned flags);
CALL cuDeviceGetCount(int *n);
CALL cuDeviceGet(int *device, int number);
CALL cuDevicePrimaryCtxRetain(void **context, int device);
CALL cuCtxSetCurrent(void *context);
CALL cuMemAlloc_v2(unsigned long long *p, size_t bytes);
CALL cuMemFree_v2(unsigned long long p);
CALL cuStreamCreate(void **stream, unsigned flags);
CALL cuStreamSynchronize(void *stream);
CALL cuMemcpyHtoD_v2(unsigned long long dst, const void *src, size_t bytes);
CALL cuMemcpyDtoH_v2(void *dst, unsigned long long src, size_t bytes);
CALL cuGetErrorName(int error, const char **name);
CALL fake_cuda_break(void);

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGetCount(int *n) { return *n = 1, 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &broken, device; }
int cuCtxSetCurrent(void *context) { return context == &broken ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { return *stream = &broken, flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *stream) { return stream == &broken ? broken : 400; }
int fake_cuda_break(void) { return broken = 700; }

int cuMemAlloc_v2(unsigned long long *p, size_t bytes)
{
    *p = (unsigned long long)(size_t)malloc(bytes);
    return *p ? broken : 2;
}

int cuMemFree_v2(unsigned long long p)
{
    free((void *)(size_t)p);
    return broken;
}

int cuMemcpyHtoD_v2(unsigned long long dst, const void *src, size_t bytes)
{
    memcpy((void *)(size_t)dst, src, bytes);
    return broken;
}

int cuMemcpyDtoH_v2(void *dst, unsigned long long src, size_t bytes)
{
    memcpy(dst, (const void *)(size_t)src, bytes);
    return broken;
}

int cuGetErrorName(int error, const char **name)
{
    *name = error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
