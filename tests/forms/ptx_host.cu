/* ptx_host.cu - behind examples/ptx/attention.cu in one file: the launches that its descriptor asks for, as host code. So that the
 * source of the PTX runs in the host SIMT layer. */
#include "kvdiff_kernel.h"

#include <stdint.h>

KVDK_CANDIDATE_FULL("ptx-source", KVDK_BOUNDED, KVDK_SAME_CALL, KVDK_CUDA)

KVDK_API uint64_t kvdk_workspace(const kvdk_call *call)
{
    const kvdk_attn_args *a = (const kvdk_attn_args *)call;
    return 8 * (uint64_t)(a->T * a->Hq);
}

KVDK_API int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    const dim3 grid((unsigned)a->T, (unsigned)a->Hq);
    const cudaStream_t s = (cudaStream_t)stream;
    float *const max = (float *)a->call.workspace, *const sum = max + a->T * a->Hq, *const o = (float *)a->o.data;
    const int64_t *const to = a->o.stride, *const from = a->q.stride;
    const int hd = (int)a->hd;
    attend_begin<<<grid, 32, 0, s>>>(o, to[0], to[1], hd, max, sum);
    for (int g = 0; g < 3; g++) {
        const kvdk_segment &e = a->segment[g];
        if (!e.k.data) continue;
        attend<<<grid, 32, 4 * (size_t)hd, s>>>((const float *)a->q.data, from[0], from[1], e.k.data, e.k.stride[0], e.k.stride[1],
                                                e.v.data, e.v.stride[0], e.v.stride[1], e.k.dtype, e.v.dtype,
                                                (const unsigned char *)e.valid.data, (int)e.k.dim[0], e.kind == KVDK_SELF, hd,
                                                (int)(a->Hq / a->Hk), (float)a->scale, o, to[0], to[1], max, sum);
    }
    attend_end<<<grid, 32, 0, s>>>(o, to[0], to[1], hd, max, sum, (float *)a->row_max.data, a->row_max.stride[0],
                                   (float *)a->row_sum.data, a->row_sum.stride[0]);
    return cudaGetLastError() == cudaSuccess ? 0 : 1;
}

KVDK_API int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream)
{
    return kvdk_attn_decode(a, stream);
}
