/* init.c - the first weights of a model, from a seed alone (docs/training.md). */
#include "ref/train/params.h"

#include "common/rng.h"

#include <stdlib.h>
#include <string.h>

enum { ORTHOGONAL_FROM = 64 }; /* smaller matrices stay uniform */

static double above_zero(uint32_t word) { return ((double)word + 0.5) * 0x1p-32; }

/* Numbers 2i and 2i+1 of a stream of normals (Box and Muller). */
static void normals(uint64_t seed, uint64_t stream, uint64_t i, double out[2])
{
    const double radius = kv_dsqrt(-2 * kv_log_core(above_zero(kv_philox_word(seed, stream, 2 * i))));
    double s, c;
    kv_sincos_core(6.283185307179586 * above_zero(kv_philox_word(seed, stream, 2 * i + 1)), &s, &c);
    out[0] = radius * c;
    out[1] = radius * s;
}

static void fill_normal(uint64_t seed, uint64_t stream, int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i += 2) {
        double pair[2];
        normals(seed, stream, (uint64_t)i / 2, pair);
        x[i] = pair[0];
        if (i + 1 < n) x[i + 1] = pair[1];
    }
}

/* Removes from row j its parts along the rows before it. Twice is enough to be orthogonal to the last bits. */
static void remove_earlier(double *a, int64_t m, int64_t j)
{
    double *x = a + j * m;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t k = 0; k < j; k++) {
            const double *e = a + k * m;
            double share = 0;
            for (int64_t i = 0; i < m; i++)
                share = share + e[i] * x[i];
            for (int64_t i = 0; i < m; i++)
                x[i] = x[i] - share * e[i];
        }
}

static double length_of(const double *x, int64_t m)
{
    double sum = 0;
    for (int64_t i = 0; i < m; i++)
        sum = sum + x[i] * x[i];
    return kv_dsqrt(sum);
}

void REF(orthonormalise)(double *a, int64_t n, int64_t m)
{
    for (int64_t j = 0; j < n; j++) {
        double *x = a + j * m;
        const double before = length_of(x, m);
        remove_earlier(a, m, j);
        const double left = length_of(x, m);
        for (int64_t i = 0; i < m; i++)
            x[i] = left > 1e-12 * before ? x[i] / left : 0;
    }
}

/* Rows (or columns, whichever are fewer) of a normal matrix, orthonormal; times gain. */
static kv_status fill_orthogonal(const ref_param *p, uint64_t seed, uint64_t stream, double gain, real *w)
{
    const int tall = p->rows > p->cols;
    const int64_t m = tall ? p->rows : p->cols, n = tall ? p->cols : p->rows;
    double *a = malloc((size_t)p->n * sizeof *a);
    if (!a) return kv_fail(KV_ERR_NOMEM, "out of memory for the first weights");
    fill_normal(seed, stream, p->n, a);
    REF(orthonormalise)(a, n, m);
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t c = 0; c < p->cols; c++)
            w[r * p->cols + c] = (real)(float)(gain * a[tall ? c * m + r : r * m + c]);
    free(a);
    return KV_OK;
}

/* In [-bound, bound]. */
static void fill_uniform(int64_t n, uint64_t seed, uint64_t stream, double bound, real *w)
{
    for (int64_t i = 0; i < n; i++)
        w[i] = (real)(float)(bound * (2 * above_zero(kv_philox_word(seed, stream, (uint64_t)i)) - 1));
}

static kv_status fill_small(const ref_param *p, uint64_t seed, uint64_t stream, double deviation, real *w)
{
    double *a = malloc((size_t)p->n * sizeof *a);
    if (!a) return kv_fail(KV_ERR_NOMEM, "out of memory for the first weights");
    fill_normal(seed, stream, p->n, a);
    for (int64_t i = 0; i < p->n; i++)
        w[i] = (real)(float)(deviation * a[i]);
    free(a);
    return KV_OK;
}

static void fill_constant(int64_t n, real value, real *w)
{
    for (int64_t i = 0; i < n; i++)
        w[i] = value;
}

static kv_status fill_matrix(const ref_params *ps, const ref_param *p, uint64_t seed, uint64_t stream, real *w)
{
    const int64_t least = p->rows < p->cols ? p->rows : p->cols;
    if (p->role == KV_ROLE_ATTN_OUTPUT || p->role == KV_ROLE_FFN_DOWN || p->role == KV_ROLE_OUTPUT ||
        p->role == KV_ROLE_SIDECAR_SITE_GATE) {
        fill_constant(p->n, 0, w);
        return KV_OK;
    }
    if (least < ORTHOGONAL_FROM) {
        fill_uniform(p->n, seed, stream, 1 / kv_dsqrt((double)p->cols), w);
        return KV_OK;
    }
    const int scaled = p->role == KV_ROLE_BIGRAM_PROJ || p->role == KV_ROLE_SIDECAR_PROJ;
    return fill_orthogonal(p, seed, stream, scaled ? 1 / kv_dsqrt(2.0 * ps->cfg.n_layers) : 1, w);
}

static kv_status fill(const ref_params *ps, const ref_param *p, uint64_t seed, uint64_t stream, real *w)
{
    switch (p->role) {
    case KV_ROLE_TOKEN_EMBD:
        return fill_small(p, seed, stream, 0.005, w);
    case KV_ROLE_SIDECAR_CONV:
        fill_uniform(p->n, seed, stream, 1 / kv_dsqrt((double)p->cols), w);
        return KV_OK;
    case KV_ROLE_RESID_MIX:
        fill_constant(p->cols, 1, w);
        fill_constant(p->cols, 0, w + p->cols);
        return KV_OK;
    case KV_ROLE_BIGRAM_SCALE:
        fill_constant(p->n, (real)0.05f, w);
        return KV_OK;
    case KV_ROLE_Q_GAIN:
        fill_constant(p->n, (real)1.5f, w);
        return KV_OK;
    case KV_ROLE_SKIP_WEIGHTS:
    case KV_ROLE_ATTN_SCALE:
    case KV_ROLE_FFN_SCALE:
    case KV_ROLE_K_GAIN:
        fill_constant(p->n, 1, w);
        return KV_OK;
    case KV_ROLE_BIGRAM_EMBED:
    case KV_ROLE_SMEAR_GATE:
    case KV_ROLE_K_SHIFT:
    case KV_ROLE_V_SHIFT:
    case KV_ROLE_LOCAL_V:
    case KV_ROLE_SIDECAR_SCALE:
        fill_constant(p->n, 0, w);
        return KV_OK;
    default:
        return fill_matrix(ps, p, seed, stream, w);
    }
}

kv_status REF(params_init)(const ref_params *ps, uint64_t seed, real *w)
{
    for (int32_t i = 0; i < ps->n; i++)
        KV_TRY(fill(ps, &ps->p[i], seed, (uint64_t)i, w + ps->p[i].at));
    return KV_OK;
}
