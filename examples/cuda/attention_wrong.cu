/* attention_wrong.cu - attention.cu with a loop that was unrolled by two and has lost its tail: of a tile with an odd number of
 * entries the last value is not added, although its weight is counted.
 *
 *     kvdiff ops --kernel=examples/cuda/attention_wrong.cu
 *
 * fails, and says which entry of which head is weighed wrongly. */
#include "kvdiff_kernel.h"

#include <cuda_runtime.h>
#include <math.h>

KVDK_CANDIDATE_FULL("cuda-attention-wrong", KVDK_BOUNDED, KVDK_SAME_CALL, KVDK_CUDA)

enum { THREADS = 128 };

/* The types that K and V come in. */
static __device__ float widen_f16(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const float value = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexpf(1024 + (float)fraction, exponent - 25)
                                                                               : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -value : value;
}

static __device__ float load(const kvdk_tensor &t, int64_t i, int64_t head, int64_t d)
{
    const int64_t at = i * t.stride[0] + head * t.stride[1] + d;
    if (t.dtype == KVDK_F16) return widen_f16(((const uint16_t *)t.data)[at]);
    if (t.dtype == KVDK_BF16) return __uint_as_float((uint32_t)((const uint16_t *)t.data)[at] << 16);
    return ((const float *)t.data)[at];
}

/* The largest, or the sum, of one value per thread; every thread receives it. */
template <bool MAX> static __device__ float reduce(float value, float *scratch)
{
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            const float other = scratch[threadIdx.x + half];
            scratch[threadIdx.x] = MAX ? fmaxf(scratch[threadIdx.x], other) : scratch[threadIdx.x] + other;
        }
        __syncthreads();
    }
    value = scratch[0];
    __syncthreads(); /* everybody has read it before the next reduction writes */
    return value;
}

/* The score of entry i of a segment; minus infinity for entries that are dead or beyond its end. */
static __device__ float score(const kvdk_attn_args &a, const kvdk_segment &s, int64_t t, int64_t head, int64_t i, int64_t n)
{
    if (i >= n || (s.valid.data && !((const uint8_t *)s.valid.data)[i])) return -INFINITY;
    float sum = 0;
    for (int64_t d = 0; d < a.hd; d++)
        sum += load(a.q, t, head, d) * load(s.k, i, head / (a.Hq / a.Hk), d);
    return sum * (float)a.scale;
}

__global__ void attention(kvdk_attn_args a)
{
    extern __shared__ float out[]; /* [hd]: sum of p * v, by now */
    __shared__ float weight[THREADS];
    __shared__ float scratch[THREADS];
    const int64_t t = blockIdx.x, head = blockIdx.y;
    float row_max = -INFINITY, row_sum = 0;
    for (int64_t d = threadIdx.x; d < a.hd; d += THREADS)
        out[d] = 0;
    for (int64_t g = 0; g < a.n_segments; g++) {
        const kvdk_segment &s = a.segment[g];
        const int64_t n = !s.k.data ? 0 : s.kind == KVDK_SELF ? t + 1 : s.k.dim[0];
        for (int64_t first = 0; first < n; first += THREADS) {
            const float mine = score(a, s, t, head, first + threadIdx.x, n);
            const float highest = fmaxf(row_max, reduce<true>(mine, scratch));
            if (highest == -INFINITY) continue; /* nobody is alive yet */
            const float p = expf(mine - highest), shrink = expf(row_max - highest);
            weight[threadIdx.x] = p;
            row_sum = row_sum * shrink + reduce<false>(p, scratch); /* its barriers stand between writing and reading weights */
            row_max = highest;
            const int64_t tile = n - first < THREADS ? n - first : THREADS;
            for (int64_t d = threadIdx.x; d < a.hd; d += THREADS) {
                float sum = out[d] * shrink;
                for (int64_t j = 0; j + 1 < tile; j += 2) {
                    if (weight[j] > 0) sum += weight[j] * load(s.v, first + j, head / (a.Hq / a.Hk), d);
                    if (weight[j + 1] > 0) sum += weight[j + 1] * load(s.v, first + j + 1, head / (a.Hq / a.Hk), d);
                }
                out[d] = sum;
            }
        }
    }
    float *o = (float *)a.o.data + t * a.o.stride[0] + head * a.o.stride[1];
    for (int64_t d = threadIdx.x; d < a.hd; d += THREADS)
        o[d] = row_sum > 0 ? out[d] / row_sum : 0;
    if (threadIdx.x != 0) return;
    if (a.row_max.data) ((float *)a.row_max.data)[head * a.row_max.stride[0] + t] = row_max;
    if (a.row_sum.data) ((float *)a.row_sum.data)[head * a.row_sum.stride[0] + t] = row_sum;
}

KVDK_API int kvdk_attn_decode(const kvdk_attn_args *a, kvdk_stream stream)
{
    const dim3 grid((unsigned)a->T, (unsigned)a->Hq);
    attention<<<grid, THREADS, (size_t)a->hd * sizeof(float), (cudaStream_t)stream>>>(*a);
    return cudaGetLastError() == cudaSuccess ? 0 : 1;
}

KVDK_API int kvdk_attn_prefill(const kvdk_attn_args *a, kvdk_stream stream)
{
    return kvdk_attn_decode(a, stream);
}
