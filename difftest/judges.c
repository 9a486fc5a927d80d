#include "difftest/judges.h"

#include "common/math.h"

#include <float.h>

const char *dt_judge_title(int judge)
{
    static const char *const titles[] = {
#define X(name, title) title,
        DT_JUDGE_LIST(X)
#undef X
    };
    return titles[judge];
}

static int is_nan(float x) { return x != x; }
static int is_infinite(float x) { return x >= FLT_MAX || x <= -FLT_MAX; }

int dt_judge_nmse(const float *ref, const float *got, int64_t n)
{
    double error = 0, power = 0;
    for (int64_t i = 0; i < n; i++) {
        if (is_nan(ref[i]) || is_nan(got[i])) return 1;
        if (is_infinite(ref[i]) || is_infinite(got[i])) {
            if (is_infinite(ref[i]) != is_infinite(got[i]) || (ref[i] < 0) != (got[i] < 0)) return 1;
            continue;
        }
        const double d = (double)got[i] - (double)ref[i];
        error += d * d;
        power += (double)got[i] * (double)got[i];
    }
    return error / power > 5e-4; /* an output of zeros: infinite; zeros on both sides: NaN, no alarm */
}

int dt_judge_allclose(const float *ref, const float *got, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double r = (double)ref[i], d = (double)got[i] - r, off = d < 0 ? -d : d, size = r < 0 ? -r : r;
        if (got[i] == ref[i]) continue; /* infinities, too */
        if (!(off <= 1e-8 + 1e-5 * size && off <= DBL_MAX)) return 1;
    }
    return 0;
}

int dt_judge_flashinfer(const float *ref, const float *got, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double r = (double)ref[i], d = (double)got[i] - r, off = d < 0 ? -d : d, size = r < 0 ? -r : r;
        if (kv_is_finite(ref[i]) && !kv_is_finite(got[i])) return 1;
        if (off > 1e-2 && off / (size + 1e-8) > 1e-2) return 1;
    }
    return 0;
}

void dt_sample_add(dt_sample *s, double x)
{
    s->n++;
    s->sum += x;
    s->squares += x * x;
}

/* Variance of the mean. */
static double variance_of_mean(const dt_sample *s)
{
    const double n = (double)s->n, mean = s->sum / n, v = (s->squares - n * mean * mean) / (n - 1);
    return (v > 0 ? v : v < 0 ? 0 : v) / n;
}

int dt_judge_unpaired(const dt_sample *a, const dt_sample *b)
{
    if (a->n < 2 || b->n < 2) return 0;
    const double d = a->sum / (double)a->n - b->sum / (double)b->n;
    const double z = d / kv_dsqrt(variance_of_mean(a) + variance_of_mean(b));
    return z > 1.959963985 || z < -1.959963985;
}

/* In nats, in double; NaN where the logits have one. */
static double nll_of(const float *z, int64_t vocab, int32_t target)
{
    double most = (double)z[0], sum = 0;
    for (int64_t i = 1; i < vocab; i++)
        most = (double)z[i] > most ? (double)z[i] : most;
    for (int64_t i = 0; i < vocab; i++)
        sum += kv_dexp((double)z[i] - most);
    return kv_log_core(sum) - ((double)z[target] - most);
}

/* The elementary functions of the project are made for numbers. */
static int all_finite(const float *z, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!kv_is_finite(z[i])) return 0;
    return 1;
}

static double score(const float *z, int64_t vocab, int32_t target)
{
    return all_finite(z, vocab) ? nll_of(z, vocab, target) : (double)kv_nan();
}

void dt_judges_rows(dt_judges *j, const float *ref, const float *got, int32_t rows, int64_t vocab,
                    const int32_t *targets)
{
    const int64_t n = rows * vocab;
    j->alarm[DT_JUDGE_NMSE] |= dt_judge_nmse(ref, got, n);
    j->alarm[DT_JUDGE_ALLCLOSE] |= dt_judge_allclose(ref, got, n);
    j->alarm[DT_JUDGE_FLASHINFER] |= dt_judge_flashinfer(ref, got, n);
    for (int32_t r = 0; r < rows && !j->alarm[DT_JUDGE_PERPLEXITY]; r++) {
        dt_sample_add(&j->ref, score(ref + r * vocab, vocab, targets[r]));
        dt_sample_add(&j->got, score(got + r * vocab, vocab, targets[r]));
    }
}

void dt_judges_end_case(dt_judges *j)
{
    const dt_sample none = {0};
    j->alarm[DT_JUDGE_PERPLEXITY] |= dt_judge_unpaired(&j->ref, &j->got);
    j->ref = j->got = none;
}
