#include "difftest/locate_scores.h"
#include "difftest/locate_guess_list.h"

#include "common/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* X(symbol, klass, what) */
#define MISTAKES(X)                                                                      \
    X(NONE, "", "")                                                                      \
    X(LAST_HEAD, "bug-index", "the group's last query head does not count")              \
    X(FIRST_HEAD, "bug-index", "the group's first query head does not count")            \
    X(OTHER_KEYS, "bug-index", "the sums are over keys of another KV head")              \
    X(KEYS_LATE, "bug-index", "the sums are over keys of another KV head")               \
    X(INTERLEAVED, "bug-index", "query heads are interleaved over KV heads in the sums") \
    X(ROW_BEFORE, "bug-index", "probabilities with maximum and sum of the row before")   \
    X(NOT_NORMALISED, "bug-numeric", "weights are summed that were not normalised")      \
    X(UNSCALED, "bug-numeric", "column sums without the softmax scale")                  \
    X(REVERSED, "bug-numeric", "the weights of the step's queries are reversed")         \
    X(NOT_CARRIED, "bug-numeric", "scores are not carried from the step before")         \
    X(DECAY_ONCE, "bug-numeric", "decay once per step instead of once per token")        \
    X(NO_DECAY, "bug-numeric", "scores do not decay")                                    \
    X(NEW_ZERO, "bug-numeric", "a new token begins with score 0")                        \
    X(ONE_MORE, "bug-numeric", "a mean divides by one more than there are")              \
    X(ALL_HEADS, "bug-numeric", "a mean divides by all heads")                           \
    X(UPPER_MIDDLE, "bug-index", "the median is the upper middle")                       \
    X(QUERY_BEFORE, "bug-index", "the last but one query decides")                       \
    X(NARROW_POOL, "bug-index", "the pool is two keys narrower")                         \
    X(SHORT_POOL, "bug-index", "the pool is one key short")                              \
    X(PRESENT_POOL, "bug-numeric", "the pool divides by the keys that are there")        \
    X(SHORT_WINDOW, "bug-index", "the window's first query does not count")              \
    X(STAYS_WITH_SLOT, "stale-read", "scores stay with the slot when entries move up")

DT_MISTAKES(MISTAKES);

typedef struct work {
    const dt_sums *s;
    mistake wrong;
    double *p;     /* [n_heads][m][n] probabilities */
    double *head;  /* [n_heads][n] what a query head gives */
    double *pool;  /* [n] */
    double *score; /* [n] */
} work;

/* ---- probabilities ---------------------------------------------------------------------------------------- */

static int sees(const dt_sums *s, int64_t r, int64_t i)
{
    return i <= s->stored + r;
}

static void row_scores(const work *w, int32_t head, int64_t r, int32_t kv, double *out)
{
    const dt_sums *s = w->s;
    const float *q = s->q + (r * s->n_heads + head) * s->D;
    for (int64_t i = 0; i < s->n; i++) {
        double sum = 0;
        for (int64_t d = 0; d < s->D; d++)
            sum += (double)q[d] * s->k[kv][i * s->D + d];
        out[i] = sum * (w->wrong == UNSCALED ? 1 : s->scale);
    }
}

static void weigh_head(const work *w, int32_t head)
{
    const dt_sums *s = w->s;
    const int32_t own = head / (s->n_heads / s->n_kv), next = (own + 1) % s->n_kv;
    double before_max = 0, before_sum = 1;
    for (int64_t r = 0; r < s->m; r++) {
        double *p = w->p + (head * s->m + r) * s->n, max = -(double)INFINITY, sum = 0;
        row_scores(w, head, r, w->wrong == OTHER_KEYS ? next : own, p);
        for (int64_t i = 0; i < s->n; i++)
            if (sees(s, r, i)) max = fmax(max, p[i]);
        for (int64_t i = 0; i < s->n; i++)
            if (sees(s, r, i)) sum += kv_dexp(p[i] - max);
        const int other = w->wrong == ROW_BEFORE && r > 0;
        /* maximum and sum are those of the right keys */
        if (w->wrong == KEYS_LATE) row_scores(w, head, r, next, p);
        if (w->wrong == INTERLEAVED) row_scores(w, head, r, head % s->n_kv, p);
        const double m = other ? before_max : max, l = w->wrong == NOT_NORMALISED ? 1 : other ? before_sum : sum;
        for (int64_t i = 0; i < s->n; i++)
            p[i] = sees(s, r, i) ? kv_dexp(p[i] - m) / l : 0;
        before_max = max;
        before_sum = sum;
    }
}

/* ---- what a head gives ------------------------------------------------------------------------------------ */

static double power(double b, int64_t n)
{
    double x = 1;
    while (n-- > 0)
        x *= b;
    return x;
}

static double weight(const work *w, int64_t r)
{
    const dt_sums *s = w->s;
    if (s->policy->selection != KV_SEL_CASCADE) return 1;
    const double b = s->policy->cascade.beta;
    return (1 - b) * power(b, w->wrong == REVERSED ? r : s->m - 1 - r);
}

static void sum_queries(const work *w, int32_t head, int64_t from)
{
    const dt_sums *s = w->s;
    double *out = w->head + head * s->n;
    memset(out, 0, (size_t)s->n * sizeof *out);
    for (int64_t r = from; r < s->m; r++) {
        const double by = weight(w, r), *p = w->p + (head * s->m + r) * s->n;
        for (int64_t i = 0; i < s->n; i++)
            out[i] += by * p[i];
    }
}

/* snapkv: the prompt's mean of the last queries, pooled over neighbours. */
static void pool(const work *w, int32_t head)
{
    const dt_sums *s = w->s;
    const int64_t window = s->policy->snapkv.window, keys = s->n - window;
    const int64_t wide = (s->policy->snapkv.kernel - 1) / 2, left = wide - (w->wrong == NARROW_POOL);
    const int64_t right = left - (w->wrong == SHORT_POOL);
    double *m = w->head + head * s->n;
    sum_queries(w, head, s->m - window + (w->wrong == SHORT_WINDOW));
    for (int64_t j = 0; j < keys; j++) {
        double sum = 0;
        int64_t there = 0;
        for (int64_t i = j - left; i <= j + right; i++)
            if (i >= 0 && i < keys) {
                sum += m[i] / (double)window;
                there++;
            }
        w->pool[j] = sum / (double)(w->wrong == PRESENT_POOL ? there : s->policy->snapkv.kernel);
    }
    for (int64_t j = 0; j < s->n; j++)
        m[j] = j < keys ? w->pool[j] : 0;
}

static void one_head(const work *w, int32_t head)
{
    const dt_sums *s = w->s;
    weigh_head(w, head);
    if (s->policy->selection == KV_SEL_SNAPKV || s->policy->selection == KV_SEL_PYRAMID)
        pool(w, head);
    else if (s->policy->selection == KV_SEL_TOVA) {
        const int64_t r = s->m - 1 - (w->wrong == QUERY_BEFORE && s->m > 1);
        memcpy(w->head + head * s->n, w->p + (head * s->m + r) * s->n, (size_t)s->n * sizeof(double));
    } else
        sum_queries(w, head, 0);
}

/* ---- from heads to scores --------------------------------------------------------------------------------- */

enum { MAX_GROUP = 64 };

typedef enum join { BY_SUM, BY_MEAN, BY_MAX, BY_MEDIAN } join;

static join join_of(const kv_policy *p)
{
    if (p->selection == KV_SEL_H2O) return p->h2o.gqa == KV_GQA_MAX ? BY_MAX : BY_SUM;
    if (p->selection != KV_SEL_CASCADE) return BY_MEAN;
    return p->cascade.reduce == KV_REDUCE_MEAN ? BY_MEAN : p->cascade.reduce == KV_REDUCE_MEDIAN ? BY_MEDIAN : BY_MAX;
}

static double joined(const work *w, double *x, int32_t n)
{
    double sum = 0, max = x[0];
    for (int32_t i = 0; i < n; i++) {
        sum += x[i];
        max = fmax(max, x[i]);
    }
    switch (join_of(w->s->policy)) {
    case BY_SUM:
        return sum;
    case BY_MAX:
        return max;
    case BY_MEAN:
        return sum / (w->wrong == ONE_MORE ? n + 1 : w->wrong == ALL_HEADS ? w->s->n_heads : n);
    default:
        break;
    }
    for (int32_t i = 1; i < n; i++) /* few: by insertion */
        for (int32_t j = i; j > 0 && x[j] < x[j - 1]; j--) {
            const double t = x[j];
            x[j] = x[j - 1];
            x[j - 1] = t;
        }
    return x[w->wrong == UPPER_MIDDLE ? n / 2 : (n - 1) / 2];
}

static int all_heads(const kv_policy *p)
{
    return p->selection == KV_SEL_TOVA || (p->selection == KV_SEL_CASCADE && p->cascade.homog);
}

static double carried(const work *w, int64_t i)
{
    const dt_sums *s = w->s;
    if (!s->carried || i >= s->stored || w->wrong == NOT_CARRIED) return 0;
    const double before = (double)s->carried[i];
    if (s->policy->selection != KV_SEL_CASCADE || w->wrong == NO_DECAY) return before;
    return before * power(s->policy->cascade.beta, w->wrong == DECAY_ONCE ? 1 : s->m);
}

static void all_scores(work *w, mistake wrong)
{
    const dt_sums *s = w->s;
    const int32_t group = s->n_heads / s->n_kv;
    int32_t lo = all_heads(s->policy) ? 0 : s->kv * group, hi = all_heads(s->policy) ? s->n_heads : lo + group;
    double x[MAX_GROUP];
    w->wrong = wrong;
    for (int32_t h = lo; h < hi; h++)
        one_head(w, h);
    if (wrong == LAST_HEAD && hi - lo > 1) hi--;
    if (wrong == FIRST_HEAD && hi - lo > 1) lo++;
    for (int64_t i = 0; i < s->n; i++) {
        for (int32_t h = lo; h < hi; h++)
            x[h - lo] = w->head[h * s->n + i];
        w->score[i] = carried(w, i) + (wrong == NEW_ZERO && i >= s->stored ? 0 : joined(w, x, hi - lo));
    }
}

/* ---- comparing -------------------------------------------------------------------------------------------- */

static int near(double a, double b, double size)
{
    return fabs(a - b) <= 2e-5 * size;
}

/* Scores of those that stay; and of those that leave up to one number, the lowest score that stays. */
static int fits(const work *w, const dt_scored *said)
{
    const int64_t n = w->s->n;
    double size = 0, lowest = (double)NAN;
    int64_t compared = 0;
    for (int64_t i = 0; i < n; i++)
        size = fmax(size, fabs(w->score[i]));
    for (int64_t i = 0; i < n; i++) {
        if (!isnan(said->score[i])) {
            if (!near(w->score[i], said->score[i], size)) return 0;
            compared++;
        }
        if (isfinite(said->margin[i])) {
            if (!isnan(lowest) && !near(w->score[i] + said->margin[i], lowest, size)) return 0;
            if (isnan(lowest)) lowest = w->score[i] + said->margin[i];
            compared++;
        }
    }
    return compared > 1;
}

/* Entries that stay show the scores of those who had their places: their k-th is that of entry k. */
static int stays_with_slot(const work *w, const dt_scored *said)
{
    int64_t k = 0, moved = 0;
    for (int64_t i = 0; i < w->s->n; i++) {
        if (isnan(said->score[i])) continue;
        if (!near(w->score[k], said->score[i], 1)) return 0;
        moved += k != i;
        k++;
    }
    return moved > 0;
}

const char *dt_scores_guess(const dt_sums *s, const dt_scored *ref, const dt_scored *got, const char **text)
{
    const int64_t all = (int64_t)s->n_heads * s->m * s->n;
    const char *klass = NULL;
    if (s->n_heads > MAX_GROUP || all > (int64_t)8 << 20) return NULL;
    double *memory = malloc((size_t)(all + ((int64_t)s->n_heads + 2) * s->n) * sizeof *memory);
    if (!memory) return NULL;
    work w = {.s = s,
              .p = memory,
              .head = memory + all,
              .pool = memory + all + s->n_heads * s->n,
              .score = memory + all + (s->n_heads + 1) * s->n};
    all_scores(&w, NONE);
    const int understood = fits(&w, ref) && !fits(&w, got), slot = understood && stays_with_slot(&w, got);
    for (int wrong = 1; understood && !slot && !klass && wrong < STAYS_WITH_SLOT; wrong++) {
        all_scores(&w, (mistake)wrong);
        if (!fits(&w, got)) continue;
        klass = klasses[wrong];
        *text = texts[wrong];
    }
    if (slot) {
        klass = klasses[STAYS_WITH_SLOT];
        *text = texts[STAYS_WITH_SLOT];
    }
    free(memory);
    return klass;
}
