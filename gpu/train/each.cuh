/* each.cuh - operations on single values: a functor called once per index, a thread each. */
#ifndef GPU_TRAIN_EACH_CUH
#define GPU_TRAIN_EACH_CUH

#include "gpu/kvdev.cuh"

enum { GPU_EACH_THREADS = 128 };

template <class F> __global__ void gpu_k_each(int64_t n, F f)
{
    const int64_t e = (int64_t)blockIdx.x * GPU_EACH_THREADS + threadIdx.x;
    if (e < n) f(e);
}

template <class F> static kv_status gpu_each(int64_t n, const F &f, cudaStream_t stream)
{
    return GPU_LAUNCH_NOSYNC((gpu_k_each<F>), dim3(gpu_blocks(n, GPU_EACH_THREADS)), dim3(GPU_EACH_THREADS), stream, n, f);
}

#endif
