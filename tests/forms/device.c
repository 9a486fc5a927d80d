/* device.c - a candidate that says its tensors are on a device, for tests/forms/fake_cuda.c: attention of examples/c, and with
 * -DOUTSIDE a write before q, the first tensor of all, with -DSTICKS an error of the device in its third call. */
#include "kvdiff_kernel.h"
#undef KVDK_CANDIDATE
#define KVDK_CANDIDATE(name, contract) KVDK_CANDIDATE_FULL("device", contract, KVDK_SAME_CALL, KVDK_CUDA)
#define kvdk_attn_decode host_attn_decode
#define kvdk_attn_prefill host_attn_prefill
#include "examples/c/naive_attention.c"
#undef kvdk_attn_decode
#undef kvdk_attn_prefill

#include <dlfcn.h>

KVDK_API int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream);

int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    if (!stream) return 5;
    const int rc = host_attn_decode(a, stream);
#ifdef OUTSIDE
    ((float *)a->q.data)[-8] = 0;
#endif
#ifdef STICKS
    static int n;
    int (*fail)(void);
    *(void **)(void *)&fail = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fake_cuda_break");
    if (++n == 3) fail();
#endif
    return rc;
}
