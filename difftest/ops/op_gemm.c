/* op_gemm.c - products of matrices, bias and epilogue.
 *
 * Bound of a product p = sum over k of a w (+ bias), S the sum of magnitudes: K products, K - 1 additions in any order
 * and the bias are off by e = (K + 2) u S at most. ADD: one addition more. RELU2: 2 |p| e + e^2 and one product.
 * SILU_MUL: the derivative of silu is below 1.1, its exponential is off by (8 + |g|) u, three operations follow;
 * exp(-g) may overflow below g = -88, which costs |g| 2^-126. Inputs that a unit flushes to zero cost 2^-126 times what
 * they are multiplied with. */
#include "difftest/ops/oracle.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    int64_t M, N, K, epilogue;
    int bias;
} shapes[] = {
    {1, 1, 1, KVDK_STORE, 0},      {1, 16, 16, KVDK_STORE, 1},     {3, 17, 31, KVDK_ADD, 0},
    {2, 34, 64, KVDK_SILU_MUL, 0}, {5, 15, 65, KVDK_RELU2, 1},     {16, 16, 255, KVDK_STORE, 0},
    {1, 48, 256, KVDK_ADD, 1},     {17, 31, 257, KVDK_STORE, 1},   {4, 64, 257, KVDK_SILU_MUL, 1},
    {2, 7, 513, KVDK_RELU2, 0},    {64, 5, 128, KVDK_STORE, 0},    {65, 33, 96, KVDK_ADD, 0},
    {1, 257, 100, KVDK_STORE, 1},  {129, 6, 63, KVDK_SILU_MUL, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void choose(dt_opcase *c, kvdk_gemm_args *a, int *bias)
{
    if (c->shape < N_SHAPES) {
        a->M = shapes[c->shape].M;
        a->N = shapes[c->shape].N;
        a->K = shapes[c->shape].K;
        a->epilogue = shapes[c->shape].epilogue;
        *bias = shapes[c->shape].bias;
    } else {
        a->M = 1 + dt_opcase_below(c, 90, 0, 40);
        a->N = 2 + 2 * dt_opcase_below(c, 90, 1, 40);
        a->K = 1 + dt_opcase_below(c, 90, 2, 600);
        a->epilogue = dt_opcase_below(c, 90, 3, 4);
        *bias = (int)dt_opcase_below(c, 90, 4, 2);
    }
    if (c->dist == DT_DIST_exact && a->epilogue == KVDK_SILU_MUL)
        a->epilogue = KVDK_STORE; /* an exponential is never exact */
    if (c->dist != DT_DIST_dye) return;
    a->M = a->K; /* a row for every element of K */
    a->N = a->N < 7 ? a->N : 7;
    a->epilogue = KVDK_STORE;
    *bias = 0;
}

/* Row m reads element m of K and nothing else; w says where it comes from. */
static void colour(dt_opcase *c, kvdk_gemm_args *a)
{
    c->n_parts = 1;
    for (int64_t i = 0; i < a->M * a->K; i++)
        ((float *)a->a.data)[i] = i / a->K == i % a->K;
    for (int64_t i = 0; i < a->N * a->K; i++)
        ((float *)a->w.data)[i] = (float)(i + 1);
}

/* A sum of negative zeros has a sign that depends on its first term. */
static void without_zeros(kvdk_tensor *t)
{
    for (int64_t i = 0; i < dt_tensor_count(t); i++)
        if (((float *)t->data)[i] == 0) ((float *)t->data)[i] = 1;
}

static kv_status draw(dt_opcase *c)
{
    static const char *const epilogues[] = {"store", "add", "silu_mul", "relu2"};
    kvdk_gemm_args *a = &c->args.gemm;
    int bias;
    choose(c, a, &bias);
    const int64_t width = a->epilogue == KVDK_SILU_MUL ? a->N / 2 : a->N;
    KV_TRY(dt_opcase_tensor(c, "a", KVDK_F32, a->M, a->K, 1));
    KV_TRY(dt_opcase_tensor(c, "w", KVDK_F32, a->N, a->K, 1));
    KV_TRY(dt_opcase_tensor(c, "c", KVDK_F32, a->M, width, 1));
    if (bias) KV_TRY(dt_opcase_tensor(c, "bias", KVDK_F32, a->N, 1, 1));
    dt_opcase_fill(c, "a", 1, 1, a->K);
    dt_opcase_fill(c, "w", 2, c->dist == DT_DIST_subnormal ? 0x1p132 : 1,
                   a->K); /* products below the normal range, not zeros */
    dt_opcase_fill(c, "bias", 3, 1, a->N);
    dt_opcase_fill(c, "c", 4, 1, width);
    if (c->dist == DT_DIST_exact) {
        without_zeros(&a->a);
        without_zeros(&a->w);
    }
    if (c->dist == DT_DIST_dye) colour(c, a);
    for (int64_t i = 0; a->epilogue != KVDK_ADD && i < a->M * width; i++)
        ((float *)a->c.data)[i] = kv_bits2f(0x7fc00000); /* what only ADD may read */
    snprintf(c->title, sizeof c->title, "M=%lld N=%lld K=%lld %s%s", (long long)a->M, (long long)a->N, (long long)a->K,
             epilogues[a->epilogue], bias ? " bias" : "");
    return KV_OK;
}

/* ---- truth
 * ---------------------------------------------------------------------------------------------------------------- */

typedef struct number {
    double value, error;
} number;

static double absolute(double x)
{
    return x < 0 ? -x : x;
}

static number product(const kvdk_gemm_args *a, int64_t m, int64_t n)
{
    const float *x = (const float *)a->a.data + m * a->K, *w = (const float *)a->w.data + n * a->K;
    double sum = 0, magnitude = 0, inputs = 0;
    for (int64_t k = 0; k < a->K; k++) {
        const double term = (double)x[k] * (double)w[k];
        sum += term;
        magnitude += absolute(term);
        inputs += absolute((double)x[k]) + absolute((double)w[k]) + 2;
    }
    if (a->bias.data) {
        const double b = (double)((const float *)a->bias.data)[n];
        sum += b;
        magnitude += absolute(b);
    }
    return (number){sum, ((double)a->K + 2) * DT_U * magnitude + DT_UNDERFLOW * (inputs + 2)};
}

static number silu_mul(number g, number u)
{
    const double s = g.value / (1 + kv_dexp(g.value < -700 ? 700 : -g.value)), size = absolute(g.value);
    const double off = 1.1 * g.error + absolute(s) * (12 + size) * DT_U + 2 * (size + 1) * DT_UNDERFLOW,
                 value = s * u.value;
    return (number){value, off * (absolute(u.value) + u.error) + absolute(s) * u.error + 2 * DT_U * absolute(value) +
                               DT_UNDERFLOW};
}

static number finish(const kvdk_gemm_args *a, int64_t m, int64_t n)
{
    const number p = product(a, m, n);
    const double r = p.value > 0 ? p.value : 0;
    double c;
    switch (a->epilogue) {
    case KVDK_ADD:
        c = (double)((const float *)a->c.data)[m * a->N + n];
        return (number){c + p.value, p.error + DT_U * (absolute(c + p.value) + p.error) + 2 * DT_UNDERFLOW};
    case KVDK_SILU_MUL:
        return silu_mul(p, product(a, m, n + a->N / 2));
    case KVDK_RELU2:
        return (number){r * r,
                        2 * r * p.error + p.error * p.error + 2 * DT_U * (r + p.error) * (r + p.error) + DT_UNDERFLOW};
    default:
        return p;
    }
}

/* ---- bits
 * --------------------------------------------------------------------------------------------------------------------
 */

static kv_status bits_of(const kvdk_gemm_args *a, float *out)
{
    const ref_op_gemm_args g = {.a = a->a.data,
                                .w = a->w.data,
                                .bias = a->bias.data,
                                .m = a->M,
                                .n = a->N,
                                .k = a->K,
                                .epilogue = a->epilogue == KVDK_ADD        ? REF_OP_ADD
                                            : a->epilogue == KVDK_SILU_MUL ? REF_OP_SILU_MUL
                                            : a->epilogue == KVDK_RELU2    ? REF_OP_RELU2
                                                                           : REF_OP_STORE,
                                .c = out};
    for (int64_t i = 0; a->epilogue == KVDK_ADD && i < a->M * a->N; i++)
        out[i] = ((const float *)a->c.data)[i];
    return ref_op_gemm_epilogue(&g);
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_gemm_args *a = &c->args.gemm;
    const int64_t width = a->epilogue == KVDK_SILU_MUL ? a->N / 2 : a->N;
    int slot;
    KV_TRY(dt_answer_tensor(c, "c", out, &slot));
    for (int64_t i = 0; i < a->M * width; i++) {
        const number x = finish(a, i / width, i % width);
        out->value[slot][i] = x.value;
        out->bound[slot][i] = x.error + (double)a->K * dt_unit_of(precision->accumulators) * absolute(x.value);
    }
    return bits_of(a, out->bits[slot]);
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    const int64_t width = c->args.gemm.c.dim[1];
    (void)slot;
    *out = (dt_element_name){.token = i / width, .head = -1, .slot = -1, .dim = i % width};
    if (c->dist == DT_DIST_dye)
        snprintf(out->text, sizeof out->text, "column %lld, element %lld of K", (long long)(i % width),
                 (long long)(i / width));
    else
        snprintf(out->text, sizeof out->text, "row %lld column %lld", (long long)(i / width), (long long)(i % width));
}

const dt_op_impl dt_op_gemm = {
    .n_shapes = N_SHAPES,
    .dists = DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(small) | DT_DIST(large) | DT_DIST(subnormal) |
             DT_DIST(constant) | DT_DIST(exact) | DT_DIST(dye),
    .draw = draw,
    .answer = answer,
    .name = name,
};
