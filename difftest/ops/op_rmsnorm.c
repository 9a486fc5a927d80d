/* op_rmsnorm.c - rmsnorm: r = 1 / sqrt(mean square + eps); y = x r w. The relative error of the mean square is at most
 * (n + 2) u, all its terms being positive; half of that enters r, and a root, a division and two products follow. */
#include "difftest/ops/oracle.h"

#include "common/math.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    int64_t T, D;
    int residual;
} shapes[] = {{1, 1, 0},  {1, 2, 1},   {3, 31, 0},  {5, 32, 0},  {2, 33, 1},  {4, 63, 0},   {1, 64, 0},
              {7, 65, 0}, {2, 127, 0}, {3, 128, 1}, {1, 257, 0}, {65, 96, 0}, {2, 1024, 0}, {1, 4099, 0}};

static kv_status draw(dt_opcase *c)
{
    kvdk_rmsnorm_args *a = &c->args.rmsnorm;
    const int64_t n = sizeof shapes / sizeof *shapes;
    const int listed = c->shape < n;
    a->T = listed ? shapes[c->shape].T : 1 + dt_opcase_below(c, 90, 0, 40);
    a->D = listed ? shapes[c->shape].D : 1 + dt_opcase_below(c, 90, 1, 700);
    a->eps = (double)1e-5f;
    KV_TRY(dt_opcase_tensor(c, "x", KVDK_F32, a->T, a->D, 1));
    KV_TRY(dt_opcase_tensor(c, "weight", KVDK_F32, a->D, 1, 1));
    KV_TRY(dt_opcase_tensor(c, "y", KVDK_F32, a->T, a->D, 1));
    const int residual = listed ? shapes[c->shape].residual : dt_opcase_below(c, 90, 2, 3) == 0;
    if (residual) KV_TRY(dt_opcase_tensor(c, "residual", KVDK_F32, a->T, a->D, 1));
    dt_opcase_fill(c, "x", 1, 1, a->D);
    dt_opcase_fill(c, "residual", 2, 1, a->D);
    dt_opcase_fill(c, "weight", 3, 1, a->D);
    snprintf(c->title, sizeof c->title, "T=%lld D=%lld%s", (long long)a->T, (long long)a->D,
             residual ? " residual" : "");
    return KV_OK;
}

static void truth(const kvdk_rmsnorm_args *a, const float *x, double *value, double *bound)
{
    const float *w = a->weight.data;
    const double n = (double)a->D, relative = (n + 2) / 2 * DT_U + 5 * DT_U;
    for (int64_t t = 0; t < a->T; t++, x += a->D, value += a->D, bound += a->D) {
        double sum = 0;
        for (int64_t i = 0; i < a->D; i++)
            sum += (double)x[i] * (double)x[i];
        const double r = 1 / kv_dsqrt(sum / n + a->eps);
        for (int64_t i = 0; i < a->D; i++) {
            const double y = (double)x[i] * r * (double)w[i];
            value[i] = y;
            bound[i] = relative * (y < 0 ? -y : y) + DT_UNDERFLOW * (1 + r);
        }
    }
}

static kv_status answer(const dt_opcase *c, const kvdk_precision *precision, dt_answer *out)
{
    const kvdk_rmsnorm_args *a = &c->args.rmsnorm;
    const int64_t n = a->T * a->D;
    const float *x = a->x.data;
    int y, residual;
    (void)precision; /* nothing here is a score, a probability or an accumulator of attention */
    KV_TRY(dt_answer_tensor(c, "y", out, &y));
    if (a->residual.data) {
        KV_TRY(dt_answer_tensor(c, "residual", out, &residual));
        float *sum = out->bits[residual];
        for (int64_t i = 0; i < n; i++) {
            sum[i] = ((const float *)a->residual.data)[i] + x[i]; /* one addition has one right result */
            out->value[residual][i] = (double)sum[i];
        }
        x = sum;
    }
    truth(a, x, out->value[y], out->bound[y]);
    return ref_op_rmsnorm(x, a->weight.data, a->T, a->D, (float)a->eps, out->bits[y]);
}

static void name(const dt_opcase *c, int slot, int64_t i, dt_element_name *out)
{
    (void)slot;
    dt_name_rows(i, c->args.rmsnorm.D, out);
}

const dt_op_impl dt_op_rmsnorm = {
    .n_shapes = sizeof shapes / sizeof *shapes,
    .dists =
        DT_DIST(normal) | DT_DIST(outlier) | DT_DIST(small) | DT_DIST(large) | DT_DIST(subnormal) | DT_DIST(constant),
    .draw = draw,
    .answer = answer,
    .name = name,
};
