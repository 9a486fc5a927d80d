/* products.cuh - the three matrix products of a weight, all by gemm.cu: it wants the inner index of the second factor first,
 * which is how a product reads its gradient's weights already; the other two bring one factor into that form. */
#ifndef GPU_TRAIN_PRODUCTS_CUH
#define GPU_TRAIN_PRODUCTS_CUH

#include "gpu/ops.cuh"

#include <initializer_list>

class gpu_products
{
public:
    explicit gpu_products(cudaStream_t stream = nullptr) : stream_(stream) {}

    /* y[m][n] = a[m][k] b[k][n] */
    kv_status plain(const float *a, const float *b, int32_t m, int32_t k, int32_t n, float *y);

    /* Weights w[n_out][n_in]: y[m][n_out] = x w';  dx[m][n_in] = dy w;  dw[n_out][n_in] = dy' x, tokens as inner index. Several
     * weights of one input give their outputs side by side. */
    struct part {
        const float *w;
        int32_t n_out;
    };
    kv_status outputs(const float *x, int32_t m, std::initializer_list<part> parts, int32_t n_in, float *y);
    kv_status inputs(const float *dy, int32_t m, const float *w, int32_t n_out, int32_t n_in, float *dx)
    {
        return plain(dy, w, m, n_out, n_in, dx);
    }
    kv_status weights(const float *dy, const float *x, int32_t m, int32_t n_out, int32_t n_in, float *dw);

    /* dst[c][r] = src[r][c] */
    kv_status transpose(const float *src, int32_t rows, int32_t cols, float *dst)
    {
        return gpu_transpose(src, rows, cols, dst, rows, 0, stream_);
    }

private:
    cudaStream_t stream_;
    gpu_buffer<float> turned_, padded_;
};

#endif
