/* sums.cu - gradients of parameters that are sums over tokens. Blocks of 256 tokens are independent: a thread takes a column of
 * a block, a second kernel adds the blocks in their order. */
#include "gpu/train/each.cuh"
#include "gpu/train/ops.cuh"

enum { WARPS = 4 };

namespace
{
struct block_sums {
    gpu_token_sum s;
    float *partials;

    __device__ float factor(int64_t t, int32_t c) const
    {
        const float own = s.b[t * s.b_stride + c];
        const float before = t % s.seq >= s.back ? s.b[(t - s.back) * s.b_stride + c] : 0.0f;
        return s.minus_own ? kv_sub(before, own) : before;
    }

    __device__ void operator()(int64_t e) const
    {
        const int32_t c = (int32_t)(e % s.n);
        const int64_t first = e / s.n * GPU_KB, end = first + GPU_KB < s.tokens ? first + GPU_KB : s.tokens;
        float sum = 0.0f;
        for (int64_t t = first; t < end; t++) {
            const float a = s.a[t * s.a_stride + c];
            sum = s.b ? kv_fma(a, factor(t, c), sum) : kv_add(sum, a);
        }
        partials[e] = sum;
    }
};

struct add_blocks {
    const float *partials;
    int64_t blocks;
    int32_t n;
    gpu_sum_target to;

    __device__ void operator()(int64_t c) const
    {
        float sum = partials[c];
        for (int64_t b = 1; b < blocks; b++) sum = kv_add(sum, partials[b * n + c]);
        float *const out = to.out + c * to.out_stride;
        *out = to.add ? kv_add(*out, sum) : sum;
    }
};

struct table_back {
    const float *d;
    const int32_t *start, *list;
    int32_t width;
    bool add;
    float *out;

    __device__ void operator()(int64_t e) const
    {
        const int32_t row = (int32_t)(e / width), c = (int32_t)(e % width);
        float sum = 0.0f;
        for (int32_t i = start[row]; i < start[row + 1]; i++) sum = kv_add(sum, d[(int64_t)list[i] * width + c]);
        out[e] = add ? kv_add(out[e], sum) : sum;
    }
};
} // namespace

size_t gpu_token_partials(int64_t tokens, int32_t n) { return (size_t)gpu_blocks(tokens, GPU_KB) * (size_t)n; }

kv_status gpu_token_sums(const gpu_token_sum &s, const gpu_sum_target &to, float *partials, cudaStream_t stream)
{
    const int64_t blocks = gpu_blocks(s.tokens, GPU_KB);
    KV_TRY(gpu_each(blocks * s.n, block_sums{s, partials}, stream));
    return gpu_each(s.n, add_blocks{partials, blocks, s.n, to}, stream);
}

__global__ void gpu_k_row_dots(const float *a, const float *b, int64_t rows, int32_t n, float *dots)
{
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return; /* the whole warp */
    const float *const x = a + row * n, *const y = b + row * n;
    const float sum = gpu_r64_dot(n, [&](int32_t i) { return x[i]; }, [&](int32_t i) { return y[i]; });
    if (threadIdx.x == 0) dots[row] = sum;
}

kv_status gpu_row_dots(const float *a, const float *b, int64_t rows, int32_t n, float *dots, cudaStream_t stream)
{
    return GPU_LAUNCH(gpu_k_row_dots, dim3(gpu_blocks(rows, WARPS)), dim3(32, WARPS), 0, stream, a, b, rows, n, dots);
}

kv_status gpu_table_back(const float *d, const int32_t *start, const int32_t *list, int32_t rows, int32_t width, bool add, float *out,
                         cudaStream_t stream)
{
    return gpu_each((int64_t)rows * width, table_back{d, start, list, width, add, out}, stream);
}
