/* init.cu - first weights, on the host: they are made once. */
#include "gpu/train/init.cuh"

#include "common/rng.h"

namespace
{
/* The random words of one tensor. */
struct words {
    uint64_t seed, stream;

    /* In (0, 1). */
    double unit(int64_t i) const { return kv_dmul(kv_dadd((double)kv_philox_word(seed, stream, (uint64_t)i), 0.5), 0x1p-32); }

    /* Two words give two normal numbers, the cosine's first. */
    double normal(int64_t i) const
    {
        double sine, cosine;
        const int64_t pair = i / 2 * 2;
        kv_sincos_core(kv_dmul(0x1.921fb54442d18p+2, unit(pair + 1)), &sine, &cosine);
        return kv_dmul(kv_dsqrt(kv_dmul(-2.0, kv_log_core(unit(pair)))), i % 2 ? sine : cosine);
    }
};

double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum = kv_dadd(sum, kv_dmul(a[i], b[i]));
    return sum;
}

/* Rows of a[n][m], n <= m, become orthonormal in order; a row of which less than 1e-12 is left becomes zero. */
void orthonormalise(double *a, int64_t n, int64_t m)
{
    for (int64_t r = 0; r < n; r++) {
        double *const row = a + r * m;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t s = 0; s < r; s++) {
                const double along = dot(row, a + s * m, m);
                for (int64_t i = 0; i < m; i++) row[i] = kv_dsub(row[i], kv_dmul(along, a[s * m + i]));
            }
        const double length = kv_dsqrt(dot(row, row, m));
        for (int64_t i = 0; i < m; i++) row[i] = length < 1e-12 ? 0.0 : kv_ddiv(row[i], length);
    }
}

void orthogonal(const words &random, int64_t rows, int64_t cols, double factor, float *w)
{
    const bool tall = rows > cols;
    const int64_t n = tall ? cols : rows, m = tall ? rows : cols;
    std::vector<double> a((size_t)(n * m));
    for (int64_t i = 0; i < n * m; i++) a[(size_t)i] = random.normal(i);
    orthonormalise(a.data(), n, m);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) w[r * cols + c] = kv_d2f(kv_dmul(factor, a[(size_t)(tall ? c * m + r : r * m + c)]));
}

void uniform(const words &random, int64_t rows, int64_t cols, float *w)
{
    const double bound = kv_ddiv(1.0, kv_dsqrt((double)cols));
    for (int64_t i = 0; i < rows * cols; i++) w[i] = kv_d2f(kv_dmul(bound, kv_dsub(kv_dmul(2.0, random.unit(i)), 1.0)));
}

/* factor: of a large one. */
void matrix(const words &random, const gpu_param &p, double factor, float *w)
{
    if (p.rows >= 64 && p.cols >= 64)
        orthogonal(random, p.rows, p.cols, factor, w);
    else
        uniform(random, p.rows, p.cols, w);
}

/* What a tensor of one value is filled with. */
float constant_of(kv_role role)
{
    switch (role) {
    case KV_ROLE_SKIP_WEIGHTS:
    case KV_ROLE_ATTN_SCALE:
    case KV_ROLE_FFN_SCALE:
    case KV_ROLE_K_GAIN:
        return 1.0f;
    case KV_ROLE_Q_GAIN:
        return 1.5f;
    case KV_ROLE_BIGRAM_SCALE:
        return 0.05f;
    default:
        return 0.0f;
    }
}

void fill(const kv_config &cfg, const gpu_param &p, const words &random, float *w)
{
    switch (p.role) {
    case KV_ROLE_TOKEN_EMBD:
        for (int64_t i = 0; i < p.n(); i++) w[i] = kv_d2f(kv_dmul(0.005, random.normal(i)));
        return;
    case KV_ROLE_BIGRAM_PROJ:
    case KV_ROLE_SIDECAR_PROJ:
        return matrix(random, p, kv_ddiv(1.0, kv_dsqrt((double)(2 * cfg.n_layers))), w);
    case KV_ROLE_ATTN_Q:
    case KV_ROLE_ATTN_K:
    case KV_ROLE_ATTN_V:
    case KV_ROLE_FFN_UP:
    case KV_ROLE_SIDECAR_GATE:
    case KV_ROLE_SIDECAR_VALUE:
        return matrix(random, p, 1.0, w);
    case KV_ROLE_SIDECAR_CONV:
        return uniform(random, p.rows, p.cols, w);
    default:
        for (int64_t i = 0; i < p.n(); i++) w[i] = constant_of(p.role);
        for (int64_t i = 0; p.role == KV_ROLE_RESID_MIX && i < p.cols; i++) w[i] = 1.0f;
    }
}
} // namespace

void gpu_first_weights(const kv_config &cfg, const gpu_params &params, uint64_t seed, float *w)
{
    uint64_t number = 0;
    for (const gpu_param &p : params.all()) fill(cfg, p, {seed, number++}, w + p.host_at);
}
