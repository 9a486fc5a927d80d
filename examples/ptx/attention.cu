/* attention.cu - where attention.ptx comes from:
 *
 *     nvcc -ptx -arch=compute_75 -o examples/ptx/attention.ptx examples/ptx/attention.cu
 *     kvdiff ops --kernel=examples/ptx/attention.kernel.json
 *
 * There is no host code: attention.kernel.json says how the kernels are launched. They know one run of entries at a
 * time, and keep the state of every row (the largest score, the sum of weights; o is not divided yet) from launch to
 * launch. */
#include <cuda_runtime.h>
#include <math.h>

#ifndef TAIL
#    define TAIL 0 /* attention_wrong.cu has another idea */
#endif

enum { F16 = 1, BF16 = 2, LANES = 32 };

static __device__ float widen_f16(unsigned h)
{
    const unsigned exponent = h >> 10 & 31, fraction = h & 1023, sign = h << 16 & 0x80000000u;
    if (exponent == 0) return __uint_as_float(__float_as_uint((float)fraction * 0x1p-24f) | sign);
    return __uint_as_float(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13);
}

static __device__ float load(const void *p, long long i, int type)
{
    if (type == F16) return widen_f16(((const unsigned short *)p)[i]);
    if (type == BF16) return __uint_as_float((unsigned)((const unsigned short *)p)[i] << 16);
    return ((const float *)p)[i];
}

extern "C" __global__ void attend_begin(float *o, long long o_token, long long o_head, int hd, float *row_max,
                                        float *row_sum)
{
    const long long row = (long long)blockIdx.x * gridDim.y + blockIdx.y;
#pragma unroll 1
    for (int d = threadIdx.x; d < hd; d += LANES)
        o[blockIdx.x * o_token + blockIdx.y * o_head + d] = 0;
    row_max[row] = -INFINITY;
    row_sum[row] = 0;
}

/* Block (t, h) takes the first n entries, of `self` the first t + 1, into row t of head h. One warp; lane j scores
 * entry first + j, then all lanes walk over the entries of the tile, each with dimensions of its own. */
extern "C" __global__ void attend(const float *q, long long q_token, long long q_head, const void *k, long long k_entry,
                                  long long k_head, const void *v, long long v_entry, long long v_head, int k_type,
                                  int v_type, const unsigned char *valid, int n, int self, int hd, int group,
                                  float scale, float *o, long long o_token, long long o_head, float *row_max,
                                  float *row_sum)
{
    extern __shared__ float query[]; /* [hd] */
    const int t = blockIdx.x, h = blockIdx.y, lane = threadIdx.x;
    const long long row = (long long)t * gridDim.y + h;
    float highest = row_max[row], sum = row_sum[row];
#pragma unroll 1
    for (int d = lane; d < hd; d += LANES)
        query[d] = q[t * q_token + h * q_head + d];
    __syncthreads();
    if (self) n = t + 1;
#pragma unroll 1
    for (int first = 0; first < n && (first == 0 || first < n - TAIL); first += LANES) {
        const int i = first + lane;
        float score = -INFINITY;
        if (i < n && (!valid || valid[i])) {
            score = 0;
#pragma unroll 1
            for (int d = 0; d < hd; d++)
                score += query[d] * load(k, i * k_entry + h / group * k_head + d, k_type);
            score *= scale;
        }
        float most = score;
#pragma unroll 1
        for (int s = LANES / 2; s > 0; s /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, s));
        most = fmaxf(most, highest);
        if (most == -INFINITY) continue; /* nobody is alive yet */
        const float weight = expf(score - most), shrink = expf(highest - most);
        float tile = weight;
#pragma unroll 1
        for (int s = LANES / 2; s > 0; s /= 2)
            tile += __shfl_xor_sync(0xffffffffu, tile, s);
        sum = sum * shrink + tile;
        highest = most;
#pragma unroll 1
        for (int d0 = 0; d0 < hd; d0 += LANES) {
            const int d = d0 + lane;
            float *const to = o + t * o_token + h * o_head + d;
            float total = d < hd ? *to * shrink : 0;
#pragma unroll 1
            for (int j = 0; j < LANES && first + j < n; j++) {
                const float w = __shfl_sync(0xffffffffu, weight, j);
                if (w > 0 && d < hd) total += w * load(v, (first + j) * v_entry + h / group * v_head + d, v_type);
            }
            if (d < hd) *to = total;
        }
    }
    row_max[row] = highest;
    row_sum[row] = sum;
}

extern "C" __global__ void attend_end(float *o, long long o_token, long long o_head, int hd, const float *row_max,
                                      const float *row_sum, float *max_out, long long max_head, float *sum_out,
                                      long long sum_head)
{
    const long long row = (long long)blockIdx.x * gridDim.y + blockIdx.y;
    const float sum = row_sum[row];
#pragma unroll 1
    for (int d = threadIdx.x; d < hd; d += LANES) {
        float *const to = o + blockIdx.x * o_token + blockIdx.y * o_head + d;
        *to = sum > 0 ? *to / sum : 0;
    }
    if (threadIdx.x != 0) return;
    if (max_out) max_out[blockIdx.y * max_head + blockIdx.x] = row_max[row];
    if (sum_out) sum_out[blockIdx.y * sum_head + blockIdx.x] = sum;
}
