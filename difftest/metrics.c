#include "difftest/metrics.h"

#include "common/math.h"
#include "difftest/vec_metrics.h"

#include <string.h>

/* ---- choice of instruction set -------------------------------------------------------------- */

const dt_vec_metrics *dt_vec_metrics_find(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (supported && (!name || strcmp(name, dt_vec_metrics_avx2.name) == 0))
        return &dt_vec_metrics_avx2;
#endif
    return !name || strcmp(name, dt_vec_metrics_scalar.name) == 0 ? &dt_vec_metrics_scalar : NULL;
}

const char *dt_metrics_isa(void)
{
    return dt_vec_metrics_find(NULL)->name;
}

/* ---- one row -------------------------------------------------------------------------------- */

static int64_t ordered(float x)
{
    const int64_t mag = kv_f2bits(x) & 0x7fffffff;
    return kv_f2bits(x) < 0 ? -mag : mag;
}

int64_t dt_ulp_distance(float a, float b)
{
    const int64_t d = ordered(a) - ordered(b);
    return d < 0 ? -d : d;
}

static int top_has(const dt_top *t, int32_t index)
{
    for (int i = 0; i < t->n; i++)
        if (t->index[i] == index) return 1;
    return 0;
}

static int same_top_set(const dt_top *a, const dt_top *b)
{
    for (int i = 0; i < a->n; i++)
        if (!top_has(b, a->index[i])) return 0;
    return 1;
}

/* Top of a row and the two rows' flags that follow from it. */
static void compare_tops(const dt_scan *s, dt_row_metrics *out)
{
    out->top1_ref = s->a_finite ? s->top_a.index[0] : -1;
    out->top1_got = s->b_finite ? s->top_b.index[0] : -1;
    out->margin_ref = kv_nan();
    if (s->a_finite)
        out->margin_ref = s->top_a.n > 1 ? s->top_a.value[0] - s->top_a.value[1] : kv_inf();
    if (s->a_finite && s->b_finite) {
        if (out->top1_ref != out->top1_got) out->flags |= DT_ROW_TOP1;
        if (!same_top_set(&s->top_a, &s->top_b)) out->flags |= DT_ROW_TOP5;
    } else {
        out->flags |= DT_ROW_NONFINITE | DT_ROW_TOP1 | DT_ROW_TOP5;
    }
}

/* -log p(target), and the softmax that it came from. */
static double nll_of(const dt_vec_metrics *vec, const float *x, int64_t vocab, int finite,
                     const dt_top *top, int32_t target, dt_softmax *sm)
{
    if (!finite) return (double)kv_nan();
    sm->x = x;
    sm->max = (double)top->value[0];
    sm->log_sum = kv_log_core(vec->sum_exp(x, vocab, sm->max));
    return -(((double)x[target] - sm->max) - sm->log_sum);
}

/* Rows with NaN or infinity: whatever can still be said of the values that are finite in both. */
static void measure_finite_part(const float *ref, const float *got, int64_t vocab,
                                dt_row_metrics *out)
{
    for (int64_t v = 0; v < vocab; v++) {
        if (!kv_is_finite(ref[v]) || !kv_is_finite(got[v])) continue;
        const double d = (double)got[v] - (double)ref[v], abs_d = d < 0 ? -d : d;
        const int64_t ulp = dt_ulp_distance(ref[v], got[v]);
        if (ulp > out->max_ulp) out->max_ulp = ulp;
        if (abs_d > out->max_abs) out->max_abs = abs_d;
        out->sum_sq += d * d;
    }
    out->kl = (double)kv_nan();
}

void dt_metrics_row(const float *ref, const float *got, int64_t vocab, int32_t target,
                    dt_row_metrics *out)
{
    const dt_vec_metrics *vec = dt_vec_metrics_find(NULL);
    dt_scan s;
    dt_softmax p, q;
    memset(out, 0, sizeof *out);
    if (!got) {
        out->flags |= DT_ROW_ALONE;
        got = ref;
    }
    vec->scan(ref, got, vocab, &s);
    compare_tops(&s, out);
    out->max_ulp = s.max_ulp;
    if (s.differs) out->flags |= DT_ROW_DIFFERS;
    out->nll_ref = nll_of(vec, ref, vocab, s.a_finite, &s.top_a, target, &p);
    out->nll_got = out->nll_ref;
    if (s.differs) out->nll_got = nll_of(vec, got, vocab, s.b_finite, &s.top_b, target, &q);
    if (out->flags & DT_ROW_NONFINITE) {
        measure_finite_part(ref, got, vocab, out);
    } else if (s.differs) {
        dt_divergence d;
        vec->diverge(&p, &q, vocab, &d);
        out->kl = d.kl < 0 && d.kl > -1e-12 ? 0.0 : d.kl;
        out->sum_sq = d.sum_sq;
        out->max_abs = d.max_abs;
    }
}

typedef struct rows_job {
    const float *ref, *got;
    int64_t vocab;
    const int32_t *targets;
    dt_row_metrics *out;
} rows_job;

static void run_row(void *arg, int64_t r, int worker)
{
    const rows_job *j = arg;
    (void)worker;
    dt_metrics_row(j->ref + r * j->vocab, j->got ? j->got + r * j->vocab : NULL, j->vocab,
                   j->targets[r], &j->out[r]);
}

void dt_metrics_rows(kv_pool *pool, const float *ref, const float *got, int64_t n_rows,
                     int64_t vocab, const int32_t *targets, dt_row_metrics *out)
{
    rows_job job = {ref, got, vocab, targets, out};
    kv_pool_run(pool, n_rows, run_row, &job);
}

/* ---- a case --------------------------------------------------------------------------------- */

void dt_acc_init(dt_acc *a)
{
    memset(a, 0, sizeof *a);
    a->max_kl_pos = a->max_ulp_pos = -1;
    a->first_diff_pos = a->first_top1_pos = a->first_nonfinite_pos = -1;
}

static void first(int64_t *where, int64_t pos)
{
    if (*where < 0) *where = pos;
}

void dt_acc_add(dt_acc *a, int64_t pos, int64_t vocab, const dt_row_metrics *r)
{
    a->n_tok++;
    a->n_values += vocab;
    a->sum_nll_ref += r->nll_ref;
    a->sum_nll_got += r->nll_got;
    a->sum_kl += r->kl;
    a->sum_sq += r->sum_sq;
    if (r->max_abs > a->max_abs) a->max_abs = r->max_abs;
    if (r->kl > a->max_kl) {
        a->max_kl = r->kl;
        a->max_kl_pos = pos;
    }
    if (r->max_ulp > a->max_ulp) {
        a->max_ulp = r->max_ulp;
        a->max_ulp_pos = pos;
    }
    a->n_top1_same += !(r->flags & DT_ROW_TOP1);
    a->n_top5_same += !(r->flags & DT_ROW_TOP5);
    a->n_bitexact += !(r->flags & DT_ROW_DIFFERS);
    a->n_nonfinite += (r->flags & DT_ROW_NONFINITE) != 0;
    if (r->flags & DT_ROW_DIFFERS) first(&a->first_diff_pos, pos);
    if (r->flags & DT_ROW_TOP1) first(&a->first_top1_pos, pos);
    if (r->flags & DT_ROW_NONFINITE) first(&a->first_nonfinite_pos, pos);
}

double dt_perplexity(double sum_nll, int64_t n)
{
    return n > 0 ? kv_exp_core(sum_nll / (double)n) : (double)kv_nan();
}

double dt_bits_per_byte(double sum_nll, int64_t bytes)
{
    return bytes > 0 ? sum_nll / kv_log_core(2) / (double)bytes : (double)kv_nan();
}

double dt_acc_rms(const dt_acc *a)
{
    return a->n_values > 0 ? kv_dsqrt(a->sum_sq / (double)a->n_values) : 0.0;
}
