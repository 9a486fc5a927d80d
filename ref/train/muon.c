/* muon.c - Muon: momentum, then the update is made nearly orthogonal by Newton-Schulz. */
#include "ref/train/optim.h"
#include "ref/train/pack.h"

#include "common/numfmt.h"

#include <string.h>

int64_t REF(muon_scratch)(int64_t rows, int64_t cols)
{
    const int64_t r = ref_min(rows, cols), c = ref_max(rows, cols);
    return 2 * r * c + 3 * r * r + ref_pack_size(ref_max(r, c), r) + ref_pack_size(r, c);
}

static real bf16(real x) { return (real)kv_bf162f(kv_f2bf16(r_narrow(x))); }

static void round_all(real *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = bf16(x[i]);
}

/* c[m][n] = a[m][k] * panels */
static void multiply(const ref_kernels *t, const real *a, int64_t m, int64_t k, const real *panels, int64_t n, real *c)
{
    const ref_gemm_job job = {.a = a, .lda = k, .m = m, .k = k, .reals = panels, .n = n, .c = c, .ldc = n};
    t->gemm(&job);
}

static double length_of(const ref_kernels *k, const real *x, int64_t n) { return kv_dsqrt(k->train->squares(x, n, 0)); }

/* Buffers of one matrix with r <= c. */
typedef struct ns_work {
    const ref_kernels *k;
    int64_t r, c;
    int bf16;
    real *x, *bx;     /* [r][c] */
    real *a, *b, *a2; /* [r][r] */
    real *panels;
} ns_work;

/* b = q(q(B a) + q(C a^2)); with bf16, C multiplies a before the product. */
static void mix_squares(const ns_work *w)
{
    const real B = (real)-4.7750, C = (real)2.0315;
    const int64_t n = w->r * w->r;
    for (int64_t i = 0; w->bf16 && i < n; i++)
        w->b[i] = bf16(C * w->a[i]);
    REF(pack_cols)(w->a, w->r, w->r, w->r, 0, (w->r + REF_PANEL - 1) / REF_PANEL, w->panels);
    multiply(w->k, w->bf16 ? w->b : w->a, w->r, w->r, w->panels, w->r, w->a2);
    for (int64_t i = 0; i < n; i++) {
        if (w->bf16)
            w->b[i] = bf16(bf16(B * w->a[i]) + bf16(w->a2[i]));
        else
            w->b[i] = B * w->a[i] + C * w->a2[i];
    }
}

/* x = A x + b x, b of a = x * transpose(x) */
static void iterate(const ns_work *w)
{
    const real A = (real)3.4445;
    const int64_t n = w->r * w->c;
    REF(pack_rows)(w->x, w->c, w->r, w->c, 0, (w->r + REF_PANEL - 1) / REF_PANEL, w->panels);
    multiply(w->k, w->x, w->r, w->c, w->panels, w->r, w->a);
    if (w->bf16) round_all(w->a, w->r * w->r);
    mix_squares(w);
    REF(pack_cols)(w->x, w->c, w->c, w->r, 0, (w->c + REF_PANEL - 1) / REF_PANEL, w->panels);
    multiply(w->k, w->b, w->r, w->r, w->panels, w->c, w->bx);
    for (int64_t i = 0; i < n; i++) {
        if (w->bf16)
            w->x[i] = bf16(bf16(A * w->x[i]) + bf16(w->bx[i]));
        else
            w->x[i] = A * w->x[i] + w->bx[i];
    }
}

static void normalise(const ns_work *w, real *x)
{
    const int64_t n = w->r * w->c;
    if (w->bf16) round_all(x, n);
    const real length = (real)length_of(w->k, x, n), tiny = (real)1e-7;
    const real divisor = w->bf16 ? bf16(bf16(length) + tiny) : length + tiny;
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] / divisor;
    if (w->bf16) round_all(x, n);
}

void REF(ns5)(const ref_kernels *k, int64_t rows, int64_t cols, int bf16_inside, real *x, real *scratch)
{
    ns_work w = {.k = k, .r = ref_min(rows, cols), .c = ref_max(rows, cols), .bf16 = bf16_inside, .x = scratch};
    w.bx = w.x + w.r * w.c;
    w.a = w.bx + w.r * w.c;
    w.b = w.a + w.r * w.r;
    w.a2 = w.b + w.r * w.r;
    w.panels = w.a2 + w.r * w.r;
    normalise(&w, x);
    if (rows > cols)
        REF(transpose)(x, cols, rows, 0, cols, rows, w.x);
    else
        memcpy(w.x, x, (size_t)(rows * cols) * sizeof *x);
    for (int i = 0; i < 5; i++)
        iterate(&w);
    if (rows > cols)
        REF(transpose)(w.x, rows, cols, 0, rows, cols, x);
    else
        memcpy(x, w.x, (size_t)(rows * cols) * sizeof *x);
}

void REF(muon)(const ref_kernels *k, const kv_train_config *c, const ref_step_info *s, const ref_param *p, real *g,
               real *w, real *buffer, real *scratch, double *length)
{
    const double rate = c->lr[KV_GOLF_MUON] * s->multiplier;
    const real mu = (real)s->momentum, lr = (real)rate, keep = 1 - (real)(rate * c->weight_decay[KV_GOLF_MUON]);
    for (int64_t i = 0; i < p->n; i++) {
        buffer[i] = mu * buffer[i] + g[i];
        g[i] = g[i] + mu * buffer[i];
    }
    REF(ns5)(k, p->rows, p->cols, c->ns5_bf16, g, scratch);
    if (p->rows > p->cols) {
        const real scale = (real)kv_dsqrt((double)p->rows / (double)p->cols);
        for (int64_t i = 0; i < p->n; i++)
            g[i] = g[i] * scale;
        if (c->ns5_bf16) round_all(g, p->n);
    }
    if (length) *length = length_of(k, g, p->n);
    for (int64_t i = 0; i < p->n; i++)
        w[i] = w[i] * keep - lr * g[i];
}
