#include "gpu/train/products.cuh"

#include "gpu/train/each.cuh"

namespace
{
/* Rows of n numbers become rows of ld. */
struct widen_rows {
    const float *src;
    float *dst;
    int32_t n, ld;

    __device__ void operator()(int64_t e) const { dst[e / n * ld + e % n] = src[e]; }
};
} // namespace

/* gemm.cu reads the second factor four numbers at a time. */
kv_status gpu_products::plain(const float *a, const float *b, int32_t m, int32_t k, int32_t n, float *y)
{
    gpu_weights w = {b, n, k, n};
    if (n % 4 != 0) {
        w.ld = (n + 3) / 4 * 4;
        KV_TRY(padded_.reserve((size_t)k * (size_t)w.ld));
        KV_TRY(gpu_each((int64_t)k * n, widen_rows{b, padded_.p, n, w.ld}, stream_));
        w.w = padded_.p;
    }
    return gpu_gemm(a, m, w, GPU_STORE, y, stream_);
}

kv_status gpu_products::outputs(const float *x, int32_t m, std::initializer_list<part> parts, int32_t n_in, float *y)
{
    gpu_weights turned = {nullptr, 0, n_in, 0};
    for (const part &p : parts) turned.n += p.n_out;
    turned.ld = (turned.n + 3) / 4 * 4;
    KV_TRY(turned_.reserve((size_t)n_in * (size_t)turned.ld));
    int64_t column = 0;
    for (const part &p : parts) {
        KV_TRY(gpu_transpose(p.w, p.n_out, n_in, turned_.p, turned.ld, column, stream_));
        column += p.n_out;
    }
    turned.w = turned_.p;
    return gpu_gemm(x, m, turned, GPU_STORE, y, stream_);
}

kv_status gpu_products::weights(const float *dy, const float *x, int32_t m, int32_t n_out, int32_t n_in, float *dw)
{
    KV_TRY(turned_.reserve((size_t)n_out * (size_t)m));
    KV_TRY(transpose(dy, m, n_out, turned_.p));
    return plain(turned_.p, x, n_out, m, n_in, dw);
}
