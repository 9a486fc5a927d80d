/* features.cu - rmsnorm with as many words of CUDA as a candidate may use in the host SIMT layer (docs/candidates.md). */
#include <cuda_runtime.h>
#include <device_launch_parameters.h>

#include "kvdiff_kernel.h"

KVDK_CANDIDATE_FULL("features", KVDK_BOUNDED, KVDK_NO_PROMISE, KVDK_CUDA)

#ifndef KVDK_SIMT
static __device__ __noinline__ unsigned lane_id() { unsigned l; asm("mov.u32 %0, %%laneid;" : "=r"(l)); return l; }
#else
static __device__ __noinline__ unsigned lane_id() { return threadIdx.x % warpSize; }
#endif

namespace kernels
{
struct __align__(16) Row {
    float *x, *residual, *weight, *y;
};

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int s = 16; s > 0; s >>= 1) v += __shfl_down_sync(0xffffffffu, v, s);
    return __shfl_sync(0xffffffffu, v, 0);
}

/* Sums of squares into total[T], which is zero. */
template <int THREADS, class T> __global__ void __launch_bounds__(THREADS) squares(kvdk_rmsnorm_args a, T *__restrict__ total)
{
    __shared__ T partial[THREADS / 32];
    __shared__ int arrived;
    if (threadIdx.x == 0) arrived = 0;
    __syncthreads();
    float sum = 0;
    for (int64_t d = threadIdx.x; d < a.D; d += blockDim.x) {
        float x = __ldg((const float *)a.x.data + blockIdx.x * a.x.stride[0] + d);
        if (a.residual.data) {
            float *const r = (float *)a.residual.data + blockIdx.x * a.residual.stride[0] + d;
            x = *r = *r + x;
        }
        sum = fmaf(x, x, sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) {
        partial[threadIdx.x / 32] = sum;
        atomicAdd(&arrived, 1);
    }
    __syncthreads();
    if (threadIdx.x < min(THREADS / 32, arrived)) atomicAdd(total + blockIdx.x, partial[threadIdx.x]);
}

__global__ void scale(kvdk_rmsnorm_args a, const float *total)
{
    extern __shared__ __align__(16) float inverse[];
    if (threadIdx.x == 0) inverse[0] = rsqrtf(__fdividef(total[blockIdx.x], (float)a.D) + (float)a.eps);
    __syncthreads();
    const kvdk_tensor &from = a.residual.data ? a.residual : a.x;
    for (int64_t d = threadIdx.x; d < a.D; d += blockDim.x) {
        const float2 both = make_float2(((const float *)from.data)[blockIdx.x * from.stride[0] + d], ((const float *)a.weight.data)[d]);
        ((float *)a.y.data)[blockIdx.x * a.y.stride[0] + d] = both.x * inverse[0] * both.y;
    }
}
} // namespace kernels

KVDK_API uint64_t kvdk_workspace(const kvdk_call *call)
{
    return call->op == KVDK_OP_rmsnorm ? (uint64_t)((const kvdk_rmsnorm_args *)(const void *)call)->T * sizeof(float) : 0;
}

KVDK_API int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream s)
{
    cudaStream_t stream = (cudaStream_t)s;
    float *total = (float *)a->call.workspace;
    const int bytes = 64 * 1024;
    if (cudaMemsetAsync(total, 0, (size_t)a->T * sizeof *total, stream) != cudaSuccess) return 1;
    kernels::squares<64><<<(unsigned)a->T, dim3(64, 1), 0, stream>>>(*a, total); /* the second template argument is deduced */
    if (cudaFuncSetAttribute(kernels::scale, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) return 2;
    auto kernel = kernels::scale;
    kernel<<<dim3((unsigned)a->T), 32,
             bytes, /* more than a kernel has unasked */
             stream>>>(*a, total);
    return cudaPeekAtLastError() == cudaSuccess ? 0 : 3;
}
