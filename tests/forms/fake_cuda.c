/* fake_cuda.c - a libcuda.so.1 whose device is memory of the host that begins somewhere else than the tester's: what the worker's
 * device path does with copies, pointers, modules, launches and errors can be watched without a GPU. Kernels are those of
 * fake_kernels.h, whatever a module holds beside their names. Says nothing about a real driver. */
#include "tests/forms/fake_kernels.h"

#include <stddef.h>
#include <stdio.h>

static int broken; /* an error that sticks, as those of a device do */

/* A copy up from memory that is not page-locked: the bytes are taken at once and arrive as late as CUDA promises. Without a
 * stream: at the next call of the default stream, for which the worker's stream does not wait. */
typedef struct copy {
    void *dst, *bytes;
    size_t n;
    int on_stream;
    struct copy *next;
} copy;
static copy *on_their_way;

static void arrive(int on_stream)
{
    for (copy **at = &on_their_way, *c; (c = *at);) {
        if (c->on_stream != on_stream) {
            at = &c->next;
            continue;
        }
        memcpy(c->dst, c->bytes, c->n);
        *at = c->next;
        free(c->bytes);
        free(c);
    }
}

static int send(unsigned long long dst, const void *src, size_t n, int on_stream)
{
    copy *c = malloc(sizeof *c), **last = &on_their_way;
    *c = (copy){(void *)(size_t)dst, malloc(n + 1), n, on_stream, NULL};
    memcpy(c->bytes, src, n);
    while (*last)
        last = &(*last)->next;
    *last = c;
    return broken;
}

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
CALL cuMemcpyHtoDAsync_v2(unsigned long long dst, const void *src, size_t bytes, void *stream);
CALL cuMemcpyDtoH_v2(void *dst, unsigned long long src, size_t bytes);
CALL cuGetErrorName(int error, const char **name);
CALL cuModuleLoadDataEx(void **module, const void *image, unsigned n, int *options, void **values);
CALL cuModuleGetFunction(void **function, void *module, const char *name);
CALL cuFuncGetParamInfo(void *function, size_t i, size_t *offset, size_t *bytes);
CALL cuFuncGetAttribute(int *value, int attribute, void *function);
CALL cuFuncSetAttribute(void *function, int attribute, int value);
CALL cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                    void *stream, void **parameters, void **extra);
CALL fake_cuda_break(void);

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGetCount(int *n) { return *n = 1, 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &broken, device; }
int cuCtxSetCurrent(void *context) { return context == &broken ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { return *stream = &broken, flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *stream) { return arrive(1), stream == &broken ? broken : 400; }
int fake_cuda_break(void) { return broken = 700; }

int cuMemAlloc_v2(unsigned long long *p, size_t bytes)
{
    *p = (unsigned long long)(size_t)malloc(bytes);
    return *p ? broken : 2;
}

int cuMemFree_v2(unsigned long long p)
{
    arrive(0);
    free((void *)(size_t)p);
    return broken;
}

int cuMemcpyHtoD_v2(unsigned long long dst, const void *src, size_t bytes)
{
    arrive(0);
    return send(dst, src, bytes, 0);
}

int cuMemcpyHtoDAsync_v2(unsigned long long dst, const void *src, size_t bytes, void *stream)
{
    return stream == &broken ? send(dst, src, bytes, 1) : 400;
}

int cuMemcpyDtoH_v2(void *dst, unsigned long long src, size_t bytes)
{
    arrive(0);
    memcpy(dst, (const void *)(size_t)src, bytes);
    return broken;
}

int cuGetErrorName(int error, const char **name)
{
    static const struct {
        int error;
        const char *name;
    } names[] = {{1, "CUDA_ERROR_INVALID_VALUE"},
                 {218, "CUDA_ERROR_INVALID_PTX"},
                 {500, "CUDA_ERROR_NOT_FOUND"},
                 {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
    *name = "CUDA_ERROR_UNKNOWN";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error) *name = names[i].name;
    return 0;
}

/* ---- modules ------------------------------------------------------------------------------------------------------- */

/* A PTX text with the word "refused" in it is refused, with a log as an assembler writes it. */
int cuModuleLoadDataEx(void **module, const void *image, unsigned n, int *options, void **values)
{
    if (n != 2 || options[0] != 5 || options[1] != 6) return 1;
    *module = kernels;
    if (memcmp(image, "\x7f" "ELF", 4) == 0 || !strstr(image, "refused")) return broken;
    snprintf(values[0], (size_t)values[1], "ptxas application ptx input, line 9; warning : x\nptxas application ptx input, line 12; error   : "
                                           "Unknown instruction\nptxas fatal   : Ptx assembly aborted due to errors\n");
    return 218;
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    for (size_t i = 0; module == kernels && i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, name) == 0) return *function = &kernels[i], 0;
    return 500;
}

int cuFuncGetParamInfo(void *function, size_t i, size_t *offset, size_t *bytes)
{
    const kernel *k = function;
    if (i >= (size_t)k->n) return 1;
    *offset = 0;
    *bytes = k->bytes[i];
    return 0;
}

int cuFuncGetAttribute(int *value, int attribute, void *function)
{
    *value = ((const kernel *)function)->fixed;
    return attribute == 1 ? 0 : 1;
}

int cuFuncSetAttribute(void *function, int attribute, int value)
{
    kernel *k = function;
    if (attribute != 8 || value + k->fixed > 200 * 1024) return 1; /* a smaller device than the largest one */
    k->most = value;
    return 0;
}

static int run_blocks(const kernel *k, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, void **parameters)
{
    float *room = malloc(shared + 1);
    int error = 0;
    for (unsigned z = 0; z < gz; z++)
        for (unsigned y = 0; y < gy; y++)
            for (unsigned x = 0; x < gx && !error; x++) {
                const block b = {x, y, gy, threads, room, shared, parameters};
                memset(room, 0xff, shared);
                error = k->run(&b);
            }
    free(room);
    return error;
}

/* What happens on the device is seen only later. */
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **parameters, void **extra)
{
    const kernel *k = function;
    if (broken) return broken;
    if (extra || stream != &broken) return 400;
    arrive(1);
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !bx || !by || bz - 1 > 63 || bx * by * bz > 1024) return 1;
    if (shared + (unsigned)k->fixed > 48 * 1024 && shared > (unsigned)k->most) return 1;
    broken = run_blocks(k, gx, gy, gz, bx * by * bz, shared, parameters);
    return 0;
}
