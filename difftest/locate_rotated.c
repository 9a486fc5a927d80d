/* locate_rotated.c - wrong queries, keys and values: the projection, QK-norm, rotation, the token before, 16 bits. */
#include "difftest/locate_blame.h"

#include "difftest/locate_calc.h"

#include "common/numfmt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- queries, keys, values -------------------------------------------------------------------------------- */

static int is_short(const kv_policy *p)
{
    return p->storage == KV_STORE_F16 || p->storage == KV_STORE_BF16;
}

static float rounded(const kv_policy *p, float x)
{
    return p->storage == KV_STORE_F16 ? kv_f162f(kv_f2f16(x)) : kv_bf162f(kv_f2bf16(x));
}

/* Next value of 16 bits towards zero, for a value that is one. */
static float cut(const kv_policy *p, float exact)
{
    const float r = rounded(p, exact);
    if (fabsf(r) <= fabsf(exact)) return r;
    if (p->storage == KV_STORE_F16) return kv_f162f((uint16_t)(kv_f2f16(exact) - 1));
    return kv_bf162f((uint16_t)(kv_f2bf16(exact) - 1));
}

/* Rows of 16 bits: the device keeps more bits, or cuts instead of rounding. exact: before rounding. */
static int rounding_mistake(const dt_focus *f, const float *exact, const float *ref, const float *got, int64_t n,
                            dt_verdict *v)
{
    int unrounded = 1, truncated = 1, wrong = 0;
    if (!is_short(f->policy)) return 0;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&ref[i], &got[i], sizeof *ref) == 0) continue;
        wrong++;
        unrounded &= fabs((double)got[i] - (double)exact[i]) <= 1e-6 * fabs((double)exact[i]) + 1e-30;
        truncated &= got[i] == cut(f->policy, exact[i]);
    }
    if (!wrong || (!unrounded && !truncated)) return 0;
    dt_verdict_set(v, "store", "bug-numeric",
                   truncated ? "rows are cut to 16 bits, not rounded to nearest"
                             : "rows are not rounded to 16 bits before they are read");
    return 1;
}

/* Golf: what a head of V holds beside its own projection is a multiple of the projection of the token before. */
static int other_share(const dt_focus *f, const float *raw, const float *got)
{
    const int64_t D = f->model->cfg.head_dim, n = f->width[KV_TAP_V];
    float *before = malloc((size_t)n * sizeof *before);
    const float *in = dt_focus_row(f, DT_REF, KV_TAP_ATTN_NORM, f->row - 1);
    int fits = before && dt_calc_product(f->model, KV_ROLE_ATTN_V, f->layer, in, before) == KV_OK;
    for (int64_t h = 0; fits && h < n / D; h++) {
        double along = 0, length = 0, most = 0, left = 0;
        for (int64_t d = h * D; d < (h + 1) * D; d++) {
            along += ((double)got[d] - (double)raw[d]) * (double)before[d];
            length += (double)before[d] * (double)before[d];
        }
        for (int64_t d = h * D; d < (h + 1) * D; d++) {
            most = fmax(most, fabs((double)got[d]));
            left = fmax(left, fabs((double)got[d] - (double)raw[d] - along / length * (double)before[d]));
        }
        fits = left <= 1e-5 * most;
    }
    free(before);
    return fits;
}

/* Golf: V (or K) without what the token before adds, in the first row of a step or everywhere. */
static int lost_shift(const dt_focus *f, int point, const float *raw, const float *got, int64_t n, dt_verdict *v)
{
    const kv_config *cfg = &f->model->cfg;
    const int shifts = point == KV_TAP_V ? cfg->v_shift : cfg->k_shift;
    if (!shifts) return 0;
    const float *ref = dt_focus_row(f, DT_REF, point, f->row);
    double *x = malloc((size_t)n * sizeof(double));
    for (int64_t i = 0; x && i < n; i++)
        x[i] = (double)raw[i];
    const int plain = x && point == KV_TAP_V && dt_blame_explains(ref, got, x, n);
    free(x);
    if (!plain && point == KV_TAP_V && f->row > 0 && other_share(f, raw, got)) {
        dt_verdict_set(v, "carry", "bug-index", "the row of the token before is mixed in with another weight");
        return 1;
    }
    if (!plain && f->row > 0) return 0;
    dt_verdict_set(v, "carry", plain ? "bug-index" : dt_klass_of(ref, got, n, 1, "bug-index"),
                   plain ? "the row of the token before is not mixed in"
                         : "the first token of a step mixes in another row before it");
    return 1;
}

kv_status dt_blame_value(const dt_focus *f, dt_verdict *v)
{
    const int64_t n = f->width[KV_TAP_V];
    const float *in = dt_focus_row(f, DT_REF, KV_TAP_ATTN_NORM, f->row);
    const float *ref = dt_focus_row(f, DT_REF, KV_TAP_V, f->row), *got = dt_focus_row(f, DT_GOT, KV_TAP_V, f->row);
    const float *before = f->row ? dt_focus_row(f, DT_REF, KV_TAP_V, f->row - 1) : NULL;
    float *exact = malloc((size_t)n * sizeof *exact);
    if (!exact) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_status st = dt_calc_product(f->model, KV_ROLE_ATTN_V, f->layer, in, exact);
    if (st == KV_OK && !lost_shift(f, KV_TAP_V, exact, got, n, v) && !rounding_mistake(f, exact, ref, got, n, v))
        st = dt_blame_product(f->model, KV_ROLE_ATTN_V, f->layer, "gemm", in, ref, got, n, before, v);
    free(exact);
    return st;
}

/* Heads of a row whose bits differ are what `turn` makes of the right ones. */
static int turned_rows_fit(const dt_focus *f, int point, int64_t pos, int64_t to, int back)
{
    const int64_t D = f->model->cfg.head_dim;
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    double x[KV_MAX_HEAD_DIM];
    int wrong = 0;
    for (int64_t h = 0; h < f->width[point] / D; h++) {
        if (memcmp(ref + h * D, got + h * D, (size_t)D * sizeof *ref) == 0) continue;
        for (int64_t d = 0; d < D; d++)
            x[d] = (double)ref[h * D + d];
        dt_rotate(f->rotation, pos, 1, D, x, x);
        dt_rotate(f->rotation, to, back, D, x, x);
        if (!dt_blame_explains(ref + h * D, got + h * D, x, D)) return 0;
        wrong++;
    }
    return wrong > 0;
}

/* The row is right but for the position at which it was rotated. */
static int wrong_position(const dt_focus *f, int point, dt_verdict *v)
{
    if (f->pos < 0 || !f->rotation->pairs) return 0;
    for (int64_t by = 1; by < f->rotation->n; by++)
        for (int side = -1; side <= 1; side += 2) {
            const int64_t to = f->pos + side * by;
            if (to < 0 || to >= f->rotation->n || !turned_rows_fit(f, point, f->pos, to, 0)) continue;
            dt_verdict_set(v, "rope", "bug-index", "rotated at position %lld instead of %lld", (long long)to,
                           (long long)f->pos);
            return 1;
        }
    if (f->pos && turned_rows_fit(f, point, f->pos, 0, 0)) {
        dt_verdict_set(v, "rope", "bug-index", "not rotated");
        return 1;
    }
    if (f->pos && turned_rows_fit(f, point, f->pos, f->pos, 1)) {
        dt_verdict_set(v, "rope", "bug-numeric", "rotated the other way");
        return 1;
    }
    return 0;
}

/* One line of the rotation with another sign, or sine and cosine exchanged. */
static int wrong_formula(const dt_focus *f, int point, dt_verdict *v)
{
    static const int signs[][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {-1, -1, 1, 1}, {1, -1, -1, 1}};
    const dt_rotation *r = f->rotation;
    const int64_t D = f->model->cfg.head_dim, pos = f->pos;
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    double raw[KV_MAX_HEAD_DIM], x[KV_MAX_HEAD_DIM];
    for (size_t which = 0; which < sizeof signs / sizeof *signs && pos >= 0 && pos < r->n; which++) {
        int fits = 1;
        for (int64_t h = 0; h < f->width[point] / D && fits; h++) {
            if (memcmp(ref + h * D, got + h * D, (size_t)D * sizeof *ref) == 0) continue;
            for (int64_t d = 0; d < D; d++)
                raw[d] = (double)ref[h * D + d];
            dt_rotate(r, pos, 1, D, raw, raw);
            memcpy(x, raw, (size_t)D * sizeof *x);
            for (int64_t i = 0; i < r->pairs; i++) {
                const int64_t a = r->half ? i : 2 * i, b = r->half ? i + r->pairs : 2 * i + 1;
                const double c = (double)r->cos[pos * r->pairs + i], s = (double)r->sin[pos * r->pairs + i];
                x[a] = signs[which][0] * raw[a] * c + signs[which][1] * raw[b] * s;
                x[b] = signs[which][2] * raw[b] * c + signs[which][3] * raw[a] * s;
            }
            fits = dt_blame_explains(ref + h * D, got + h * D, x, D);
        }
        if (!fits) continue;
        dt_verdict_set(v, "rope", "bug-numeric", "a sign in the rotation is wrong");
        return 1;
    }
    return 0;
}

/* Pairs of the other kind: neighbours instead of halves, or halves instead of neighbours. */
static int wrong_pairing(const dt_focus *f, int point, dt_verdict *v)
{
    dt_rotation other = *f->rotation;
    other.half = !other.half;
    const int64_t D = f->model->cfg.head_dim;
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    double x[KV_MAX_HEAD_DIM];
    if (f->pos <= 0) return 0;
    for (int64_t h = 0; h < f->width[point] / D; h++) {
        if (memcmp(ref + h * D, got + h * D, (size_t)D * sizeof *ref) == 0) continue;
        for (int64_t d = 0; d < D; d++)
            x[d] = (double)ref[h * D + d];
        dt_rotate(f->rotation, f->pos, 1, D, x, x);
        dt_rotate(&other, f->pos, 0, D, x, x);
        if (!dt_blame_explains(ref + h * D, got + h * D, x, D)) return 0;
    }
    dt_verdict_set(v, "rope", "bug-index", "dimensions are paired %s",
                   other.half ? "by halves" : "with their neighbours");
    return 1;
}

/* Share of the error that is a turn, of all heads that differ; 0 when dimensions that are not rotated differ too. */
static double share_turned(const dt_focus *f, int point)
{
    const int64_t D = f->model->cfg.head_dim, pairs = f->rotation->pairs;
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    double least = 1;
    for (int64_t h = 0; h < f->width[point] / D; h++) {
        if (memcmp(ref + h * D + 2 * pairs, got + h * D + 2 * pairs, (size_t)(D - 2 * pairs) * sizeof *ref) != 0)
            return 0;
        if (memcmp(ref + h * D, got + h * D, (size_t)D * sizeof *ref) != 0)
            least = fmin(least, dt_turned(ref + h * D, got + h * D, pairs, f->rotation->half));
    }
    return least;
}

/* Heads that are the right ones times a number: a norm or a gain. */
static int scaled_heads(const dt_focus *f, int point, dt_verdict *v)
{
    const int64_t D = f->model->cfg.head_dim;
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    double factor = (double)NAN;
    if (f->model->cfg.qk_norm == KV_QK_NORM_NONE) return 0;
    for (int64_t h = 0; h < f->width[point] / D; h++) {
        if (memcmp(ref + h * D, got + h * D, (size_t)D * sizeof *ref) == 0) continue;
        factor = dt_blame_factor(ref + h * D, got + h * D, D);
        if (isnan(factor)) return 0;
    }
    if (isnan(factor)) return 0;
    dt_verdict_set(v, "rmsnorm", dt_klass_of(ref, got, f->width[point], 1, "bug-numeric"),
                   "a head is %.9g times the right one: its norm or its gain is wrong", factor);
    return 1;
}

static int row_differs(const dt_focus *f, int point)
{
    return memcmp(dt_focus_row(f, DT_REF, point, f->row), dt_focus_row(f, DT_GOT, point, f->row),
                  (size_t)f->width[point] * sizeof(float)) != 0;
}

/* The row before rotation, as the device has it and as it should be. */
static void unrotated(const dt_focus *f, int point, int side, float *dst)
{
    const int64_t D = f->model->cfg.head_dim;
    const float *row = dt_focus_row(f, side, point, f->row);
    double x[KV_MAX_HEAD_DIM];
    for (int64_t h = 0; h < f->width[point] / D; h++) {
        for (int64_t d = 0; d < D; d++)
            x[d] = (double)row[h * D + d];
        dt_rotate(f->rotation, f->pos, 1, D, x, x);
        for (int64_t d = 0; d < D; d++)
            dst[h * D + d] = (float)x[d];
    }
}

/* Storages of 16 bits: values are wrong in the same way as keys, and easier to read. */
static kv_status short_keys(const dt_focus *f, int point, dt_verdict *v, int *done)
{
    *done = 0;
    if (point != KV_TAP_K || !is_short(f->policy) || !row_differs(f, KV_TAP_V)) return KV_OK;
    dt_verdict of_value = {0};
    KV_TRY(dt_blame_value(f, &of_value));
    *done = of_value.op && strcmp(of_value.op, "store") == 0;
    if (*done) *v = of_value;
    return KV_OK;
}

kv_status dt_blame_rotated(const dt_focus *f, int point, kv_role role, dt_verdict *v)
{
    const int64_t n = f->width[point];
    const float *in = dt_focus_row(f, DT_REF, KV_TAP_ATTN_NORM, f->row);
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    int done;
    KV_TRY(short_keys(f, point, v, &done));
    if (done || wrong_position(f, point, v) || wrong_pairing(f, point, v) || wrong_formula(f, point, v) ||
        scaled_heads(f, point, v))
        return KV_OK;
    const double error = dt_row_error(ref, got, n), turned = share_turned(f, point);
    if (isfinite(error) && turned > 0.95 && error > 8e-6) {
        dt_verdict_set(v, "rope", "bug-numeric",
                       "pairs keep their length: the angle, or its sine and cosine, is wrong");
        return KV_OK;
    }
    if (isfinite(error) && error <= 8e-6 && !row_differs(f, KV_TAP_V) && f->model->cfg.qk_norm == KV_QK_NORM_NONE &&
        turned > 0) {
        dt_verdict_set(v, "rope", dt_klass_of(ref, got, n, 0, "rounding"), "rounded differently while it was rotated");
        return KV_OK;
    }
    float *raw = malloc(2 * (size_t)n * sizeof *raw);
    if (!raw) return kv_fail(KV_ERR_NOMEM, "out of memory");
    unrotated(f, point, DT_REF, raw);
    unrotated(f, point, DT_GOT, raw + n);
    kv_status st = KV_OK;
    if (!(point == KV_TAP_K && lost_shift(f, point, raw, raw + n, n, v)))
        st = dt_blame_product(f->model, role, f->layer, "gemm", in, raw, raw + n, n, NULL, v);
    free(raw);
    return st;
}
