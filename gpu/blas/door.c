/* door.c - who the blas side is to include/kvdiff_kernel.h, tensors, and operations on rows: rmsnorm, gemm, rope, logits_nll. */
#include "gpu/blas/door.h"

#include "common/numfmt.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

KVDK_CANDIDATE("blas", KVDK_BOUNDED)

static void (*say)(const char *line);

int kvdk_init(const kvdk_host *host)
{
    say = host->log;
    openblas_set_num_threads(1);
    return 0;
}

/* ---- a call ---- */

void blas_door_begin(blas_door *d)
{
    memset(d, 0, sizeof *d);
    d->session.vec = blas_vector_find();
}

int blas_door_end(blas_door *d, kv_status st)
{
    for (int i = 0; i < d->n; i++)
        free(d->memory[i]);
    if (st != KV_OK && say) say(kv_message());
    return st == KV_ERR_UNSUPPORTED ? -1 : (int)st;
}

kv_status blas_door_refuse(const char *why) { return kv_fail(KV_ERR_UNSUPPORTED, "blas: %s", why); }

kv_status blas_door_take(blas_door *d, int64_t n, float **p)
{
    *p = d->n < 16 ? malloc((size_t)(n > 0 ? n : 1) * sizeof **p) : NULL;
    if (!*p) return kv_fail(KV_ERR_NOMEM, "out of memory");
    d->memory[d->n++] = *p;
    return KV_OK;
}

static kv_status expect(const kvdk_tensor *t, int64_t d0, int64_t d1, int64_t d2)
{
    if (t->data && t->dim[0] == d0 && t->dim[1] == d1 && t->dim[2] == d2 && t->dim[3] == 1) return KV_OK;
    return kv_fail(KV_ERR_MISMATCH, "a tensor of the call is missing, or not %lld x %lld x %lld", (long long)d0, (long long)d1,
                   (long long)d2);
}

static float element(const kvdk_tensor *t, int64_t at)
{
    const uint16_t *half = t->data;
    if (t->dtype == KVDK_F16) return kv_f162f(half[at]);
    return t->dtype == KVDK_BF16 ? kv_bf162f(half[at]) : ((const float *)t->data)[at];
}

kv_status blas_door_in(blas_door *d, const kvdk_tensor *t, int64_t d0, int64_t d1, int64_t d2, float **p)
{
    float *to;
    KV_TRY(expect(t, d0, d1, d2));
    KV_TRY(blas_door_take(d, d0 * d1 * d2, &to));
    *p = to;
    for (int64_t i = 0; i < d0; i++)
        for (int64_t j = 0; j < d1; j++)
            for (int64_t k = 0; k < d2; k++)
                *to++ = element(t, blas_door_row(t, i) + j * t->stride[1] + k * t->stride[2]);
    return KV_OK;
}

kv_status blas_door_out(const kvdk_tensor *t, int64_t d0, int64_t d1, int64_t d2, const float *p)
{
    KV_TRY(expect(t, d0, d1, d2));
    for (int64_t i = 0; i < d0; i++)
        for (int64_t j = 0; j < d1; j++)
            for (int64_t k = 0; k < d2; k++)
                ((float *)t->data)[blas_door_row(t, i) + j * t->stride[1] + k * t->stride[2]] = *p++;
    return KV_OK;
}

static int32_t whole_number(const kvdk_tensor *t, int64_t i) { return ((const int32_t *)t->data)[blas_door_row(t, i)]; }

/* ---- rmsnorm ---- */

static kv_status rmsnorm(blas_door *d, const kvdk_rmsnorm_args *a)
{
    float *x, *w, *y, *residual;
    KV_TRY(blas_door_in(d, &a->x, a->T, a->D, 1, &x));
    KV_TRY(blas_door_in(d, &a->weight, a->D, 1, 1, &w));
    KV_TRY(blas_door_take(d, a->T * a->D, &y));
    if (a->residual.data) {
        KV_TRY(blas_door_in(d, &a->residual, a->T, a->D, 1, &residual));
        d->session.vec->add(residual, x, a->T * a->D);
        KV_TRY(blas_door_out(&a->residual, a->T, a->D, 1, residual));
        x = residual;
    }
    for (int64_t t = 0; t < a->T; t++)
        d->session.vec->rmsnorm(x + t * a->D, w, a->D, (float)a->eps, y + t * a->D);
    return blas_door_out(&a->y, a->T, a->D, 1, y);
}

int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream stream)
{
    blas_door d;
    (void)stream;
    blas_door_begin(&d);
    return blas_door_end(&d, rmsnorm(&d, a));
}

/* ---- gemm ---- */

static kv_status finish(blas_door *d, const kvdk_gemm_args *a, const float *product)
{
    const int64_t width = a->epilogue == KVDK_SILU_MUL ? a->N / 2 : a->N;
    float *c;
    if (a->epilogue == KVDK_STORE) return blas_door_out(&a->c, a->M, width, 1, product);
    if (a->epilogue == KVDK_ADD) {
        KV_TRY(blas_door_in(d, &a->c, a->M, width, 1, &c));
        d->session.vec->add(c, product, a->M * width);
        return blas_door_out(&a->c, a->M, width, 1, c);
    }
    KV_TRY(blas_door_take(d, a->M * width, &c));
    if (a->epilogue == KVDK_RELU2) blas_squared_relu(product, a->M * width, 0.0f, c);
    for (int64_t m = 0; a->epilogue == KVDK_SILU_MUL && m < a->M; m++)
        d->session.vec->swiglu(product + m * a->N, product + m * a->N + width, width, c + m * width);
    return blas_door_out(&a->c, a->M, width, 1, c);
}

static kv_status gemm(blas_door *d, const kvdk_gemm_args *a)
{
    float *x, *w, *product;
    if (a->bias.data) return blas_door_refuse("its models have no biases");
    if (a->epilogue < KVDK_STORE || a->epilogue > KVDK_RELU2) return blas_door_refuse("it does not know this epilogue");
    KV_TRY(blas_door_in(d, &a->a, a->M, a->K, 1, &x));
    KV_TRY(blas_door_in(d, &a->w, a->N, a->K, 1, &w));
    KV_TRY(blas_door_take(d, a->M * a->N, &product));
    blas_multiply(&d->session, x, a->M, &(blas_matrix){w, a->N, a->K}, product);
    return finish(d, a, product);
}

int kvdk_gemm(const kvdk_gemm_args *a, kvdk_stream stream)
{
    blas_door d;
    (void)stream;
    blas_door_begin(&d);
    return blas_door_end(&d, gemm(&d, a));
}

/* ---- rope ---- */

static kv_status rope(blas_door *d, const kvdk_rope_args *a)
{
    float *x, *cos, *sin;
    blas_rope *r = &d->session.rope;
    if (a->pairing != KVDK_ADJACENT && a->pairing != KVDK_HALF) return blas_door_refuse("it does not know this pairing");
    KV_TRY(expect(&a->pos, a->T, 1, 1));
    KV_TRY(blas_door_in(d, &a->x, a->T, a->H, a->hd, &x));
    KV_TRY(blas_door_in(d, &a->cos, a->P, a->rd / 2, 1, &cos));
    KV_TRY(blas_door_in(d, &a->sin, a->P, a->rd / 2, 1, &sin));
    r->pairs = a->rd / 2;
    r->half = a->pairing == KVDK_HALF;
    r->cos = cos;
    r->sin = sin;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t h = 0; h < a->H; h++) {
            float *head = x + (t * a->H + h) * a->hd;
            blas_rotate(r, whole_number(&a->pos, t), head, a->hd, head);
        }
    return blas_door_out(&a->x, a->T, a->H, a->hd, x);
}

int kvdk_rope(const kvdk_rope_args *a, kvdk_stream stream)
{
    blas_door d;
    (void)stream;
    blas_door_begin(&d);
    return blas_door_end(&d, rope(&d, a));
}

/* ---- logits_nll ---- */

static kv_status logits_nll(blas_door *d, const kvdk_nll_args *a)
{
    float *h, *w, *z, *out;
    KV_TRY(expect(&a->target, a->T, 1, 1));
    KV_TRY(blas_door_in(d, &a->h, a->T, a->D, 1, &h));
    KV_TRY(blas_door_in(d, &a->w, a->V, a->D, 1, &w));
    KV_TRY(blas_door_take(d, a->T * a->V, &z));
    KV_TRY(blas_door_take(d, 3 * a->T, &out));
    blas_multiply(&d->session, h, a->T, &(blas_matrix){w, a->V, a->D}, z);
    if (a->softcap != 0) blas_softcap(z, a->T * a->V, (float)a->softcap);
    for (int64_t t = 0; t < a->T; t++) {
        double sum;
        out[t] = blas_nll(z + t * a->V, a->V, whole_number(&a->target, t), &out[a->T + t], &sum);
        out[2 * a->T + t] = (float)sum;
    }
    KV_TRY(blas_door_out(&a->nll, a->T, 1, 1, out));
    KV_TRY(blas_door_out(&a->row_max, a->T, 1, 1, out + a->T));
    return blas_door_out(&a->row_sum, a->T, 1, 1, out + 2 * a->T);
}

int kvdk_logits_nll(const kvdk_nll_args *a, kvdk_stream stream)
{
    blas_door d;
    (void)stream;
    blas_door_begin(&d);
    return blas_door_end(&d, logits_nll(&d, a));
}
