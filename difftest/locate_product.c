/* locate_product.c - what is wrong with a matrix product: rows or elements of somebody else, a part of the inner
 * dimension left out, low precision, another order. */
#include "difftest/locate_blame.h"
#include "difftest/locate_calc.h"

#include "common/numfmt.h"

#include <math.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dt_verdict_set(dt_verdict *v, const char *op, const char *klass, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->text, sizeof v->text, fmt, ap);
    va_end(ap);
    v->op = op;
    v->klass = klass;
}

/* Largest error, relative to the row, that another order of operations explains. */
static const double tiny = 8e-6;

const char *dt_klass_of(const float *ref, const float *got, int64_t n, int sums, const char *larger)
{
    const double e = dt_row_error(ref, got, n);
    if (!isfinite(e)) return "nonfinite";
    if (sums) return e <= tiny ? "reassoc" : larger;
    for (int64_t i = 0; i < n; i++)
        if (dt_ulps(ref[i], got[i]) > 4) return larger;
    return "rounding";
}

/* ---- somebody else's elements ----------------------------------------------------------------------------- */

static int same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Every wrong element is the right one `by` further on. */
static int shifted_by(const float *ref, const float *got, int64_t n, int64_t by)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        if (same(ref[i], got[i])) continue;
        if (i + by < 0 || i + by >= n || !same(got[i], ref[i + by])) return 0;
        wrong++;
    }
    return wrong > 0;
}

static int all_wrong_are(const float *ref, const float *got, int64_t n, const float *what)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        if (same(ref[i], got[i])) continue;
        if (!same(got[i], what ? what[i] : 0.0f)) return 0;
        wrong++;
    }
    return wrong > 0;
}

/* Fresh memory: some elements are NaN, all others right. */
static int unwritten(const float *ref, const float *got, int64_t n)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        if (same(ref[i], got[i])) continue;
        if (isfinite(got[i])) return 0;
        wrong++;
    }
    return wrong > 0 && wrong < n;
}

static int misplaced(const float *ref, const float *got, int64_t n, const float *other, const char *op, dt_verdict *v)
{
    if (unwritten(ref, got, n)) {
        dt_verdict_set(v, op, "bug-index", "%lld of %lld elements were not written",
                       (long long)dt_row_differing(ref, got, n), (long long)n);
        return 1;
    }
    if (all_wrong_are(ref, got, n, NULL)) {
        dt_verdict_set(v, op, "bug-index", "%lld of %lld elements were not computed: they are zero",
                       (long long)dt_row_differing(ref, got, n), (long long)n);
        return 1;
    }
    if (other && all_wrong_are(ref, got, n, other)) {
        dt_verdict_set(v, op, "bug-index", "the elements are those of the token before");
        return 1;
    }
    for (int64_t by = -64; by <= 64; by++)
        if (by && shifted_by(ref, got, n, by)) {
            dt_verdict_set(v, op, "bug-index", "wrong elements are the right ones of %lld places further on",
                           (long long)by);
            return 1;
        }
    return 0;
}

/* ---- the inner dimension ---------------------------------------------------------------------------------- */

typedef struct inner {
    const kv_tensor *t;
    const float *x, *ref, *got;
    int64_t n;
    float *w;
} inner;

static int near(double a, double b, double scale)
{
    return fabs(a - b) <= 1e-5 * scale;
}

static double sum_of_sizes(const inner *p)
{
    double s = 0;
    for (int64_t k = 0; k < p->t->cols; k++)
        s += fabs((double)p->x[k] * (double)p->w[k]);
    return s;
}

/* Elements lo .. hi-1 of the inner dimension do not take part, in every wrong element that is looked at. */
static int range_is_missing(inner *p, int64_t lo, int64_t hi)
{
    int64_t looked = 0, apart = 0;
    for (int64_t i = 0; i < p->n && looked < 8; i++) {
        double part = 0;
        if (same(p->ref[i], p->got[i])) continue;
        kv_tensor_rows_f32(p->t, i, 1, p->w);
        for (int64_t k = lo; k < hi; k++)
            part += (double)p->x[k] * (double)p->w[k];
        const double scale = sum_of_sizes(p);
        if (!near((double)p->ref[i] - (double)p->got[i], part, scale)) return 0;
        apart += fabs(part) > 1e-4 * scale;
        looked++;
    }
    return apart > 0;
}

static int inner_missing(inner *p, const char *op, dt_verdict *v)
{
    const int64_t K = p->t->cols;
    for (int64_t lo = K - 1; lo > 0; lo--)
        if (K - lo <= 64 || lo % 256 == 0)
            if (range_is_missing(p, lo, K)) {
                dt_verdict_set(v, op, "bug-index", "the last %lld of %lld inner elements are left out",
                               (long long)(K - lo), (long long)K);
                return 1;
            }
    for (int64_t hi = 1; hi < K; hi = hi < 64 ? hi + 1 : hi + 64)
        if (range_is_missing(p, 0, hi)) {
            dt_verdict_set(v, op, "bug-index", "the first %lld of %lld inner elements are left out", (long long)hi,
                           (long long)K);
            return 1;
        }
    for (int64_t k = 1; k + 1 < K && K <= 4096; k++)
        if (range_is_missing(p, k, k + 1)) {
            dt_verdict_set(v, op, "bug-index", "inner element %lld is left out", (long long)k);
            return 1;
        }
    return 0;
}

/* Factors rounded to 16 bits: which ones explains the wrong elements. */
static int low_precision(inner *p, const char *op, dt_verdict *v)
{
    static const char *const names[] = {"inputs are rounded to bf16",       "inputs are rounded to f16",
                                        "weights are rounded to bf16",      "weights are rounded to f16",
                                        "both factors are rounded to bf16", "both factors are rounded to f16"};
    double error[6] = {0}, plain = 0;
    int64_t looked = 0;
    for (int64_t i = 0; i < p->n && looked < 8; i++) {
        if (same(p->ref[i], p->got[i])) continue;
        looked++;
        kv_tensor_rows_f32(p->t, i, 1, p->w);
        double sum[6] = {0};
        for (int64_t k = 0; k < p->t->cols; k++) {
            const double x = (double)p->x[k], w = (double)p->w[k];
            const double xb = (double)kv_bf162f(kv_f2bf16(p->x[k])), xh = (double)kv_f162f(kv_f2f16(p->x[k]));
            const double wb = (double)kv_bf162f(kv_f2bf16(p->w[k])), wh = (double)kv_f162f(kv_f2f16(p->w[k]));
            const double with[6] = {xb * w, xh * w, x * wb, x * wh, xb * wb, xh * wh};
            for (int c = 0; c < 6; c++)
                sum[c] += with[c];
        }
        plain += fabs((double)p->got[i] - (double)p->ref[i]);
        for (int c = 0; c < 6; c++)
            error[c] += fabs((double)p->got[i] - sum[c]);
    }
    for (int c = 0; c < 6; c++)
        if (error[c] < 0.1 * plain) {
            dt_verdict_set(v, op, "bug-numeric", "%s", names[c]);
            return 1;
        }
    return 0;
}

kv_status dt_blame_product(const kv_model *m, kv_role role, int32_t layer, const char *op, const float *x,
                           const float *ref, const float *got, int64_t n, const float *other, dt_verdict *v)
{
    const kv_tensor *t = kv_model_tensor(m, role, layer);
    inner p = {.t = t, .x = x, .ref = ref, .got = got, .n = n < t->rows ? n : t->rows};
    const char *klass = dt_klass_of(ref, got, n, 1, "bug-numeric");
    dt_verdict_set(v, op, klass, "%lld of %lld elements differ", (long long)dt_row_differing(ref, got, n),
                   (long long)n);
    if (strcmp(klass, "reassoc") == 0) {
        snprintf(v->text, sizeof v->text, "sums taken in another order: %lld of %lld elements differ by rounding",
                 (long long)dt_row_differing(ref, got, n), (long long)n);
        return KV_OK;
    }
    if (misplaced(ref, got, n, other, op, v) || strcmp(klass, "nonfinite") == 0) return KV_OK;
    p.w = malloc((size_t)t->cols * sizeof *p.w);
    if (!p.w) return kv_fail(KV_ERR_NOMEM, "out of memory");
    if (!inner_missing(&p, op, v) && !low_precision(&p, op, v) && dt_row_error(ref, got, n) > 0.05)
        v->klass = "bug-index";
    free(p.w);
    return KV_OK;
}
