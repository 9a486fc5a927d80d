#include "ref/golf.h"

void REF(gate)(const real *x, int64_t n, real *g, real *rest)
{
    for (int64_t i = 0; i < n; i++) {
        g[i] = 1 / (1 + r_exp(-x[i]));
        rest[i] = 1 - g[i];
    }
}

void REF(scale)(const real *x, real s, int64_t n, real *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * s;
}

void REF(add_times)(const real *x, real s, const real *z, int64_t n, real *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] + s * z[i];
}

void REF(add_weighted)(const real *x, const real *w, const real *z, int64_t n, real *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] + w[i] * z[i];
}

void REF(mix)(const real *a, const real *x, const real *b, const real *z, int64_t n, real *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] * x[i] + b[i] * z[i];
}

void REF(add_heads)(const real *x, const real *m, const real *z, int64_t heads, int64_t group, int64_t D, real *y)
{
    for (int64_t h = 0; h < heads; h++)
        REF(add_times)(x + h * D, m[h], z + h / group * D, D, y + h * D);
}

void REF(gain_heads)(real *x, const real *gain, int64_t heads, int64_t D)
{
    for (int64_t h = 0; h < heads; h++)
        REF(scale)(x + h * D, gain[h], D, x + h * D);
}

void REF(norm_heads)(const ref_kernels *k, const real *x, int64_t heads, int64_t D, real eps, real *y)
{
    for (int64_t h = 0; h < heads; h++)
        k->rmsnorm(x + h * D, NULL, D, eps, y + h * D);
}

real REF(unit)(const ref_kernels *k, const real *v, int64_t n, real *u)
{
    const real length = r_sqrt(k->dot(v, v, n)), least = (real)1e-12;
    const real by = length > least ? length : least;
    for (int64_t i = 0; i < n; i++)
        u[i] = v[i] / by;
    return by;
}

void REF(exclude_own)(const ref_kernels *k, const real *v, int64_t heads, int64_t group, int64_t D, real *y)
{
    real u[KV_MAX_HEAD_DIM];
    for (int64_t h = 0; h < heads; h++) {
        if (h % group == 0) REF(unit)(k, v + h / group * D, D, u);
        const real along = k->dot(y + h * D, u, D);
        for (int64_t d = 0; d < D; d++)
            y[h * D + d] = y[h * D + d] - along * u[d];
    }
}

void REF(square_relu)(const kv_config *cfg, const real *f, int64_t n, real *a)
{
    const int leaky = cfg->ffn_kind == KV_FFN_LEAKY_RELU2;
    const real slope = (real)cfg->leaky_slope;
    for (int64_t i = 0; i < n; i++) {
        const real below = leaky ? slope * f[i] : 0, r = f[i] < 0 ? below : f[i];
        a[i] = r * r;
    }
}

void REF(conv3)(const real *w, const real *before2, const real *before1, const real *now, int64_t n, real *c)
{
    for (int64_t i = 0; i < n; i++)
        c[i] = (w[3 * i] * before2[i] + w[3 * i + 1] * before1[i]) + w[3 * i + 2] * now[i];
}

void REF(softcap)(real *z, real cap, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        z[i] = cap * r_tanh(z[i] / cap);
}
