#include "difftest/locate_blame.h"

#include "difftest/locate_calc.h"

#include "common/math.h"
#include "common/numfmt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Whether x is close to what the device gave, and much closer than the right row is. */
int dt_blame_explains(const float *ref, const float *got, const double *x, int64_t n)
{
    double wrong = 0, left = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        wrong = fmax(wrong, fabs((double)got[i] - (double)ref[i]));
        left = fmax(left, fabs((double)got[i] - x[i]));
        size = fmax(size, fabs(x[i]));
    }
    return left <= 1e-5 * size && left < 0.2 * wrong;
}

static double *room(int64_t n)
{
    return malloc((size_t)n * sizeof(double));
}

/* ---- norms ------------------------------------------------------------------------------------------------ */

/* got = c * ref for one c in all elements: its value, NaN when there is none. */
double dt_blame_factor(const float *ref, const float *got, int64_t n)
{
    double top = 0, below = 0;
    for (int64_t i = 0; i < n; i++) {
        top += (double)ref[i] * (double)got[i];
        below += (double)ref[i] * (double)ref[i];
    }
    const double c = below > 0 ? top / below : (double)NAN;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - c * (double)ref[i]) <= 4e-7 * fabs((double)got[i]) + 1e-30)) return (double)NAN;
    return c;
}

/* The mean square of a Llama row leaves out a part of the row: how many of its last (ends = 1) or first elements; 0:
 * no. */
static int64_t left_out(const float *x, int64_t n, double factor, double eps, int ends)
{
    double all = 0, part = 0;
    for (int64_t i = 0; i < n; i++)
        all += (double)x[i] * (double)x[i];
    const double want = ((all / (double)n + eps) / (factor * factor) - eps) * (double)n;
    for (int64_t k = 1; k < n; k++) {
        const double v = (double)x[ends ? n - k : k - 1];
        part += v * v;
        if (fabs(all - part - want) <= 1e-6 * all && part > 1e-4 * all) return k;
    }
    return 0;
}

static int sum_is_short(const dt_focus *f, int point, double factor, dt_verdict *v)
{
    const kv_config *cfg = &f->model->cfg;
    const int64_t n = f->width[point];
    if (kv_config_is_golf(cfg)) return 0;
    const float *x = point == KV_TAP_ATTN_NORM
                         ? f->before[DT_REF] + f->row * n
                         : dt_focus_row(f, DT_REF, point == KV_TAP_FFN_NORM ? KV_TAP_ATTN_RESID : KV_TAP_RESID, f->row);
    for (int end = 1; end >= 0; end--) {
        const int64_t k = left_out(x, n, factor, (double)cfg->norm_eps, end);
        if (!k) continue;
        dt_verdict_set(v, "rmsnorm", "bug-index", "the %s %lld of %lld elements are left out of the mean square",
                       end ? "last" : "first", (long long)k, (long long)n);
        return 1;
    }
    return 0;
}

static int mixes_streams(const kv_config *cfg)
{
    return cfg->resid_mix_x0 || cfg->unet_skips;
}

static void blame_norm(const dt_focus *f, int point, kv_role gain, dt_verdict *v)
{
    const int64_t n = f->width[point];
    const float *ref = dt_focus_row(f, DT_REF, point, f->row), *got = dt_focus_row(f, DT_GOT, point, f->row);
    const char *klass = dt_klass_of(ref, got, n, 1, "bug-numeric");
    const double c = dt_blame_factor(ref, got, n);
    if (!isnan(c)) {
        if (strcmp(klass, "bug-numeric") == 0 && sum_is_short(f, point, c, v)) return;
        dt_verdict_set(v, "rmsnorm", klass, "the whole row is %.9g times too large: the mean square is wrong", c);
        return;
    }
    const kv_tensor *t = kv_model_tensor(f->model, gain, f->layer);
    float *w = malloc((size_t)n * sizeof *w);
    double *x = room(n);
    dt_verdict_set(v, "rmsnorm", klass, "%lld of %lld elements differ", (long long)dt_row_differing(ref, got, n),
                   (long long)n);
    if (w && x && t->data && t->cols * t->rows == n) {
        kv_tensor_rows_f32(t, 0, t->rows, w);
        for (int64_t i = 0; i < n; i++)
            x[i] = (double)ref[i] / (double)w[i];
        if (dt_blame_explains(ref, got, x, n)) dt_verdict_set(v, "rmsnorm", "bug-numeric", "the gains are not applied");
    } else if (point == KV_TAP_ATTN_NORM && mixes_streams(&f->model->cfg) && strcmp(klass, "bug-numeric") == 0)
        dt_verdict_set(v, "residual", "bug-index",
                       "what enters the norm is wrong: the mix with the first stream, or a skip");
    free(w);
    free(x);
}

/* ---- the residual stream ---------------------------------------------------------------------------------- */

typedef struct stream_case {
    const float *x, *y;  /* the stream before, the branch */
    const float *normed; /* the norm of the stream */
    const float *ref, *got;
    int64_t n;
} stream_case;

static int stream_mistake(const stream_case *s, dt_verdict *v)
{
    static const char *const names[] = {
        "the branch is not added",  "the stream is lost: only the branch is there",  "the branch is added twice",
        "the branch is subtracted", "the branch is added to the norm of the stream", "the stream is doubled"};
    double *x = room(s->n);
    int found = 0;
    for (int which = 0; x && which < 6 && !found; which++) {
        for (int64_t i = 0; i < s->n; i++) {
            const double a = (double)s->x[i], b = (double)s->y[i], c = (double)s->normed[i];
            const double with[6] = {a, b, a + 2 * b, a - b, c + b, 2 * a + b};
            x[i] = with[which];
        }
        found = dt_blame_explains(s->ref, s->got, x, s->n);
        if (found) dt_verdict_set(v, "residual", which == 4 ? "bug-index" : "bug-numeric", "%s", names[which]);
    }
    free(x);
    return found;
}

/* Where the branch is accumulated on top of the stream instead of beside it. */
static int starts_from_stream(const dt_focus *f, kv_role role, const float *in, const stream_case *s)
{
    const kv_tensor *t = kv_model_tensor(f->model, role, f->layer);
    float *w = malloc((size_t)t->cols * sizeof *w);
    int fits = w != NULL;
    for (int64_t r = 0; fits && r < t->rows; r++) {
        float acc = s->x[r];
        kv_tensor_rows_f32(t, r, 1, w);
        for (int64_t k = 0; k < t->cols; k++)
            acc = kv_fma(in[k], w[k], acc);
        fits = memcmp(&acc, &s->got[r], sizeof acc) == 0;
    }
    free(w);
    return fits;
}

/* The branch as the device must have had it. */
static void branch_of(const stream_case *s, float *y)
{
    for (int64_t i = 0; i < s->n; i++)
        y[i] = memcmp(&s->ref[i], &s->got[i], sizeof *s->ref) == 0 ? s->y[i]
                                                                   : (float)((double)s->got[i] - (double)s->x[i]);
}

static kv_status blame_stream(const dt_focus *f, int point, int in_point, int norm_point, kv_role role, dt_verdict *v)
{
    const int64_t n = f->width[point];
    const float *in = dt_focus_row(f, DT_REF, in_point, f->row);
    const float *x = point == KV_TAP_ATTN_RESID ? f->before[DT_REF] + f->row * n
                                                : dt_focus_row(f, DT_REF, KV_TAP_ATTN_RESID, f->row);
    float *y = malloc(2 * (size_t)n * sizeof *y);
    if (!y) return kv_fail(KV_ERR_NOMEM, "out of memory");
    const stream_case s = {x,
                           y,
                           dt_focus_row(f, DT_REF, norm_point, f->row),
                           dt_focus_row(f, DT_REF, point, f->row),
                           dt_focus_row(f, DT_GOT, point, f->row),
                           n};
    kv_status st = dt_calc_product(f->model, role, f->layer, in, y);
    const int golf = kv_config_is_golf(&f->model->cfg); /* branch scales and mixes lie in between */
    if (st == KV_OK && golf) {
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)((double)s.ref[i] - (double)x[i]);
    }
    if (st == KV_OK && !stream_mistake(&s, v)) {
        if (!golf && starts_from_stream(f, role, in, &s))
            dt_verdict_set(v, "residual", "reassoc", "the branch is accumulated on top of the stream");
        else {
            branch_of(&s, y + n);
            st = dt_blame_product(f->model, role, f->layer, "gemm", in, y, y + n, n, NULL, v);
            if (dt_row_error(s.ref, s.got, n) <= 2e-7) v->klass = "reassoc";
        }
    }
    free(y);
    return st;
}

/* ---- the activation --------------------------------------------------------------------------------------- */

static double silu(double x)
{
    return x / (1 + kv_dexp(-x));
}

static double gelu(double x)
{
    const double t = 0.7978845608028654 * (x + 0.044715 * x * x * x), e = kv_dexp(-2 * fabs(t));
    return 0.5 * x * (1 + (t < 0 ? -1 : 1) * (1 - e) / (1 + e));
}

enum { ACTIVATIONS = 11 };

static void swiglu_with(double g, double u, double with[ACTIVATIONS])
{
    const double all[ACTIVATIONS] = {silu(u) * g,
                                     g * u,
                                     silu(g),
                                     g,
                                     u,
                                     gelu(g) * u,
                                     (g > 0 ? g : 0) * u,
                                     u / (1 + kv_dexp(-g)),
                                     silu(g) + u,
                                     silu(1.702 * g) / 1.702 * u,
                                     g / (1 + kv_dexp(g)) * u};
    memcpy(with, all, sizeof all);
}

static int swiglu_mistake(const float *g, const float *u, const float *ref, const float *got, int64_t n, dt_verdict *v)
{
    static const char *const names[ACTIVATIONS] = {"gate and up are exchanged",      "the gate is not activated",
                                                   "the product with up is missing", "the result is the gate as it is",
                                                   "the result is up as it is",      "GELU instead of SiLU",
                                                   "ReLU instead of SiLU",           "sigmoid instead of SiLU",
                                                   "sum instead of product",         "the quick GELU instead of SiLU",
                                                   "exp has the other sign"};
    double *x = room(n), with[ACTIVATIONS];
    int found = 0;
    for (int c = 0; x && c < ACTIVATIONS && !found; c++) {
        for (int64_t i = 0; i < n; i++) {
            swiglu_with((double)g[i], (double)u[i], with);
            x[i] = memcmp(&ref[i], &got[i], sizeof *ref) == 0 ? (double)got[i] : with[c];
        }
        found = dt_blame_explains(ref, got, x, n);
        if (found) dt_verdict_set(v, "swiglu", c == 0 ? "bug-index" : "bug-numeric", "%s", names[c]);
    }
    free(x);
    return found;
}

/* An activation's error is small against its own result; a product's also where the result happens to be small. */
static int errors_are_relative(const float *ref, const float *got, int64_t n)
{
    double most = 0, typical = 0;
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        if (ref[i] == got[i] || !(fabs((double)ref[i]) > 0)) continue;
        const double e = fabs((double)got[i] - (double)ref[i]) / fabs((double)ref[i]);
        most = fmax(most, e);
        typical += e;
        wrong++;
    }
    return wrong > 0 && (most < 1e-6 || (most < 8 * typical / (double)wrong && most < 0.3));
}

static kv_status blame_activation(const dt_focus *f, dt_verdict *v)
{
    const int64_t n = f->width[KV_TAP_FFN_ACT];
    const kv_config *cfg = &f->model->cfg;
    const float *in = dt_focus_row(f, DT_REF, KV_TAP_FFN_NORM, f->row);
    const float *ref = dt_focus_row(f, DT_REF, KV_TAP_FFN_ACT, f->row),
                *got = dt_focus_row(f, DT_GOT, KV_TAP_FFN_ACT, f->row);
    const char *small = dt_klass_of(ref, got, n, 0, "bug-numeric");
    float *g = malloc(2 * (size_t)n * sizeof *g);
    if (!g) return kv_fail(KV_ERR_NOMEM, "out of memory");
    kv_status st = KV_OK;
    const int gated = cfg->ffn_kind == KV_FFN_SWIGLU;
    if (gated) st = dt_calc_product(f->model, KV_ROLE_FFN_GATE, f->layer, in, g);
    if (st == KV_OK) st = dt_calc_product(f->model, KV_ROLE_FFN_UP, f->layer, in, g + n);
    if (st == KV_OK && gated && swiglu_mistake(g, g + n, ref, got, n, v)) {
        free(g);
        return KV_OK;
    }
    if (st == KV_OK && errors_are_relative(ref, got, n))
        dt_verdict_set(v, "swiglu", small, "%lld of %lld elements differ, by about the same share of each",
                       (long long)dt_row_differing(ref, got, n), (long long)n);
    else if (st == KV_OK)
        dt_verdict_set(v, "gemm",
                       dt_klass_of(ref, got, n, 1, dt_row_error(ref, got, n) > 0.05 ? "bug-index" : "bug-numeric"),
                       "gemm or swiglu: %lld of %lld elements behind the activation differ",
                       (long long)dt_row_differing(ref, got, n), (long long)n);
    free(g);
    return st;
}

/* ---- the beginning ---------------------------------------------------------------------------------------- */

static void blame_embed(const dt_focus *f, dt_verdict *v)
{
    const kv_config *cfg = &f->model->cfg;
    const int64_t n = f->width[KV_TAP_EMBED];
    const float *ref = dt_focus_row(f, DT_REF, KV_TAP_EMBED, f->row),
                *got = dt_focus_row(f, DT_GOT, KV_TAP_EMBED, f->row);
    const char *klass = dt_klass_of(ref, got, n, 0, "bug-index");
    const double c = dt_blame_factor(ref, got, n);
    if (!isnan(c) && cfg->embed_norm)
        dt_verdict_set(v, "rmsnorm", dt_klass_of(ref, got, n, 1, "bug-numeric"),
                       "the whole row is %.9g times too large", c);
    else if (cfg->smear || cfg->bigram_rows) {
        if (f->first_of_stream && f->row == 0)
            dt_verdict_set(v, "carry", dt_klass_of(ref, got, n, 0, "bug-numeric"),
                           "smear or bigram: the first token, which has none before it, is wrong");
        else if (f->row == 0)
            dt_verdict_set(v, "carry", "stale-read",
                           "smear or bigram: the first token of a step does not find the one before the step");
        else
            dt_verdict_set(v, "carry", klass, "smear or bigram: what the token before adds is wrong");
    } else
        dt_verdict_set(v, "embed", klass, "%lld of %lld elements of the embedding differ",
                       (long long)dt_row_differing(ref, got, n), (long long)n);
}

static kv_status blame_last(const dt_focus *f, dt_verdict *v)
{
    const kv_config *cfg = &f->model->cfg;
    const int sidecar = f->layer < 64 && (cfg->sidecar_layer_mask >> f->layer & 1);
    if (sidecar && f->row < 2) {
        dt_verdict_set(v, "carry", "bug-index", "the first tokens of a step convolve with other rows before them");
        return KV_OK;
    }
    return blame_stream(f, KV_TAP_RESID, KV_TAP_FFN_ACT, KV_TAP_FFN_NORM, KV_ROLE_FFN_DOWN, v);
}

kv_status dt_blame(const dt_focus *f, int point, dt_verdict *v)
{
    switch (point) {
    case KV_TAP_EMBED:
        blame_embed(f, v);
        return KV_OK;
    case KV_TAP_ATTN_NORM:
        blame_norm(f, point, KV_ROLE_ATTN_NORM, v);
        return KV_OK;
    case KV_TAP_Q:
        return dt_blame_rotated(f, point, KV_ROLE_ATTN_Q, v);
    case KV_TAP_K:
        return dt_blame_rotated(f, point, KV_ROLE_ATTN_K, v);
    case KV_TAP_V:
        return dt_blame_value(f, v);
    case KV_TAP_ATTN_RESID:
        return blame_stream(f, point, KV_TAP_ATTN, KV_TAP_ATTN_NORM, KV_ROLE_ATTN_OUTPUT, v);
    case KV_TAP_FFN_NORM:
        blame_norm(f, point, KV_ROLE_FFN_NORM, v);
        return KV_OK;
    case KV_TAP_FFN_ACT:
        return blame_activation(f, v);
    case KV_TAP_RESID:
        return blame_last(f, v);
    default:
        blame_norm(f, point, KV_ROLE_OUTPUT_NORM, v);
        return KV_OK;
    }
}
