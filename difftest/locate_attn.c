#include "difftest/locate_attn.h"

#include "common/math.h"
#include "common/numfmt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 };

/* A search over mistakes: scratch and the best so far. */
typedef struct hunt {
    const dt_attn *a;
    double *s, *p, *out, *row, *memory; /* [n + n_gone] scores, probabilities; [D] */
    double size, wrong;                 /* largest |got|, largest |got - ref| */
    dt_guess *best;
} hunt;

/* ---- the row ------------------------------------------------------------------------------------------------- */

static const double *key(const dt_attn *a, int32_t kv, int64_t i)
{
    return a->k[kv] + i * a->D;
}
static const double *value(const dt_attn *a, int32_t kv, int64_t i)
{
    return a->v[kv] + i * a->D;
}

static double dot(const double *x, const double *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

static void scores(const dt_attn *a, int32_t kv, int64_t n, double *s)
{
    for (int64_t i = 0; i < n; i++)
        s[i] = a->scale * dot(a->q, key(a, kv, i), a->D);
}

static void softmax(const double *s, int64_t n, double *p)
{
    double m = s[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        m = fmax(m, s[i]);
    for (int64_t i = 0; i < n; i++)
        sum += p[i] = kv_dexp(s[i] - m);
    for (int64_t i = 0; i < n; i++)
        p[i] /= sum;
}

static void weigh(const dt_attn *a, int32_t kv, const double *p, int64_t n, double *out)
{
    for (int64_t d = 0; d < a->D; d++)
        out[d] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; p[i] != 0 && d < a->D; d++)
            out[d] += p[i] * value(a, kv, i)[d];
}

/* What the golf family makes of the row behind attention (docs/golf.md, 9 and 10). */
static void finish_with(const dt_attn *a, const double *own, double scale, double *out)
{
    if (!a->xsa) {
        for (int64_t d = 0; d < a->D; d++)
            out[d] += a->lambda * own[d];
        return;
    }
    const double along = dot(out, own, a->D) * scale * scale;
    for (int64_t d = 0; d < a->D; d++)
        out[d] -= along * own[d];
}

static double unit(const dt_attn *a, const double *own)
{
    return 1 / fmax(sqrt(dot(own, own, a->D)), 1e-12);
}

static void finish(const dt_attn *a, double *out)
{
    if (a->own_v) finish_with(a, a->own_v, unit(a, a->own_v), out);
}

static double distance(const double *x, const float *y, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs(x[i] - (double)y[i]);
        if (!(d <= most)) most = d; /* NaN stays */
    }
    return most;
}

void dt_attn_weights(const dt_attn *a, double *p)
{
    scores(a, a->kv, a->n, p);
    softmax(p, a->n, p);
}

double dt_attn_check(const dt_attn *a)
{
    double *p = malloc((size_t)(a->n + a->D) * sizeof *p), *out = p ? p + a->n : NULL;
    if (!p) return (double)INFINITY;
    dt_attn_weights(a, p);
    weigh(a, a->kv, p, a->n, out);
    finish(a, out);
    const double d = distance(out, a->ref, a->D);
    free(p);
    return d;
}

/* ---- offering a guess ---------------------------------------------------------------------------------------------
 */

static void offer(hunt *h, const double *out, const char *op, const char *klass, int64_t entry, const char *fmt, ...)
    KV_PRINTF(6, 7);

/* The row as the tap would show it. A later guess must be clearly better than an earlier, simpler one. */
static void offer_row(hunt *h, const double *row, const char *op, const char *klass, int64_t entry, const char *text)
{
    const double error = distance(row, h->a->got, h->a->D);
    if (!(error < 0.5 * h->best->error)) return;
    snprintf(h->best->text, sizeof h->best->text, "%s", text);
    h->best->op = op;
    h->best->klass = klass;
    h->best->entry = entry;
    h->best->error = error;
}

/* The row before `finish`. */
static void offer(hunt *h, const double *out, const char *op, const char *klass, int64_t entry, const char *fmt, ...)
{
    char text[sizeof h->best->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (int64_t d = 0; d < h->a->D; d++)
        h->row[d] = out[d];
    finish(h->a, h->row);
    offer_row(h, h->row, op, klass, entry, text);
}

/* Offers the row for probabilities in h->s turned into h->p. */
static void offer_scores(hunt *h, int64_t n, const char *op, const char *klass, int64_t entry, const char *text)
{
    softmax(h->s, n, h->p);
    weigh(h->a, h->a->kv, h->p, n, h->out);
    offer(h, h->out, op, klass, entry, "%s", text);
}

/* ---- rows of somebody else
 * -------------------------------------------------------------------------------------------- */

static void guess_other_rows(hunt *h)
{
    const dt_attn *a = h->a;
    char text[96];
    for (int32_t i = 0; i < a->n_others; i++) {
        for (int64_t d = 0; d < a->D; d++)
            h->row[d] = (double)a->others[i][d];
        snprintf(text, sizeof text, "the row is that of %s", a->other_names[i]);
        offer_row(h, h->row, "attn", "bug-index", -1, text);
    }
    for (int64_t d = 0; d < a->D; d++)
        h->row[d] = 0;
    offer_row(h, h->row, "attn", "bug-index", -1, "the row was not computed: it is zero");
}

/* ---- which entries
 * ------------------------------------------------------------------------------------------------------ */

static void name_entry(const dt_attn *a, int64_t i, char *dst, size_t size)
{
    const dt_entry *e = &a->entry[i];
    snprintf(dst, size, "token %lld (entry %lld%s)", (long long)e->og, (long long)e->slot,
             i + 1 == a->n ? ", the row's own"
             : e->row >= 0 ? ", of this step"
                           : "");
}

/* One entry has another weight than it should: the row lies on the line between the row without it and its value. */
static void guess_weight_of_one(hunt *h)
{
    const dt_attn *a = h->a;
    double *base = h->row + a->D; /* the row without entry j */
    char name[96];
    scores(a, a->kv, a->n, h->s);
    softmax(h->s, a->n, h->p);
    double *full = h->out + a->D;
    weigh(a, a->kv, h->p, a->n, full);
    for (int64_t j = 0; j < a->n; j++) {
        if (h->p[j] > 1 - 1e-9) continue;
        double along = 0, length = 0;
        for (int64_t d = 0; d < a->D; d++) {
            base[d] = (full[d] - h->p[j] * value(a, a->kv, j)[d]) / (1 - h->p[j]);
            const double to = value(a, a->kv, j)[d] - base[d];
            along += ((double)a->got[d] - base[d]) * to;
            length += to * to;
        }
        name_entry(a, j, name, sizeof name);
        offer(h, base, "attn", "bug-index", j, "%s is left out: weight 0, expected %.3g", name, h->p[j]);
        if (a->own_v || length == 0) continue;
        const double w = along / length, doubled = 2 * h->p[j] / (1 + h->p[j]);
        if (!(w > 0 && w < 1)) continue;
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = base[d] + w * (value(a, a->kv, j)[d] - base[d]);
        if (fabs(w - doubled) < 1e-4 * doubled)
            offer(h, h->out, "attn", "bug-index", j, "%s is read twice", name);
        else
            offer(h, h->out, "attn", "bug-index", j,
                  "%s has weight %.3g, expected %.3g: its key is another's, or at another "
                  "position",
                  name, w, h->p[j]);
    }
}

/* Entries that the row must not see, one of them or all up to one. */
static void guess_extra(hunt *h)
{
    const dt_attn *a = h->a;
    char name[96];
    scores(a, a->kv, a->n + a->n_gone, h->s);
    for (int64_t j = a->n; j < a->n + a->n_gone; j++) {
        const double kept = h->s[a->n];
        const dt_entry *e = &a->entry[j];
        snprintf(name, sizeof name, "token %lld, %s", (long long)e->og,
                 e->row >= 0 ? "which comes later" : "which had left");
        softmax(h->s, j + 1, h->p);
        weigh(a, a->kv, h->p, j + 1, h->out);
        offer(h, h->out, "attn", "bug-index", j, "the row also sees %s%s", j > a->n ? "entries up to " : "", name);
        h->s[a->n] = h->s[j];
        double most = h->s[0];
        for (int64_t i = 0; i <= a->n; i++)
            most = fmax(most, h->s[i]);
        double sum = 0;
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = 0;
        for (int64_t i = 0; i <= a->n; i++) {
            const double w = kv_dexp(h->s[i] - most);
            sum += w;
            for (int64_t d = 0; d < a->D; d++)
                h->out[d] += w * value(a, a->kv, i == a->n ? j : i)[d];
        }
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] /= sum;
        h->s[a->n] = kept;
        offer(h, h->out, "attn", "bug-index", j, "the row also sees %s", name);
    }
}

/* Entries of zeros behind the last: a tail that is not masked. */
static void guess_padding(hunt *h)
{
    const dt_attn *a = h->a;
    scores(a, a->kv, a->n, h->s);
    double most = 0, sum = 0;
    for (int64_t i = 0; i < a->n; i++)
        most = fmax(most, h->s[i]);
    for (int64_t i = 0; i < a->n; i++)
        sum += h->p[i] = kv_dexp(h->s[i] - most);
    weigh(a, a->kv, h->p, a->n, h->row + a->D);
    for (int64_t pad = 1; pad <= CHUNK; pad++) {
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = (h->row + a->D)[d] / (sum + (double)pad * kv_dexp(-most));
        offer(h, h->out, "attn", "bug-index", -1, "%lld entries of zeros behind the last one take part",
              (long long)pad);
    }
}

/* The beginning or the end of the view is missing. */
static void guess_missing_part(hunt *h)
{
    const dt_attn *a = h->a;
    double *left = h->row + a->D; /* what remains */
    char from[96], to[96];
    for (int end = 0; end < 2; end++) {
        double share = 1;
        scores(a, a->kv, a->n, h->s);
        softmax(h->s, a->n, h->p);
        weigh(a, a->kv, h->p, a->n, left);
        for (int64_t cut = 1; cut < a->n; cut++) {
            const int64_t gone = end ? a->n - cut : cut - 1;
            share -= h->p[gone];
            if (share < 1e-6) break;
            for (int64_t d = 0; d < a->D; d++) {
                left[d] -= h->p[gone] * value(a, a->kv, gone)[d];
                h->out[d] = left[d] / share;
            }
            name_entry(a, end ? gone : 0, from, sizeof from);
            name_entry(a, end ? a->n - 1 : gone, to, sizeof to);
            offer(h, h->out, "attn", "bug-index", gone, "%lld entries are left out: %s to %s", (long long)cut, from,
                  to);
        }
    }
}

/* Every chunk's last entry, first entry, or the entries of one chunk. */
static void guess_chunks(hunt *h)
{
    const dt_attn *a = h->a;
    if (a->n <= CHUNK) return;
    for (int which = 0; which < 2; which++) {
        scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < a->n; i++)
            if (i % CHUNK == (which ? 0 : CHUNK - 1)) h->s[i] = -(double)INFINITY;
        offer_scores(h, a->n, "attn", "bug-index", which ? 0 : CHUNK - 1,
                     which ? "the first entry of every chunk is left out"
                           : "the last entry of every chunk is left out");
    }
    for (int64_t c = 0; c * CHUNK < a->n; c++) {
        char text[96];
        scores(a, a->kv, a->n, h->s);
        for (int64_t i = c * CHUNK; i < (c + 1) * CHUNK && i < a->n; i++)
            h->s[i] = -(double)INFINITY;
        snprintf(text, sizeof text, "chunk %lld of the view is left out", (long long)c);
        offer_scores(h, a->n, "attn", "bug-index", c * CHUNK, text);
    }
}

/* ---- values and heads
 * --------------------------------------------------------------------------------------------------- */

static void guess_values(hunt *h)
{
    const dt_attn *a = h->a;
    char name[96], instead[96];
    scores(a, a->kv, a->n, h->s);
    softmax(h->s, a->n, h->p);
    for (int64_t shift = -2; shift <= 2; shift++) {
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = 0;
        for (int64_t i = 0; i < a->n; i++) {
            const int64_t j = i + shift < 0 ? 0 : i + shift >= a->n ? a->n - 1 : i + shift;
            for (int64_t d = 0; d < a->D; d++)
                h->out[d] += h->p[i] * value(a, a->kv, j)[d];
        }
        if (shift)
            offer(h, h->out, "attn", "bug-index", 0, "every key goes with the value %lld entries away",
                  (long long)shift);
    }
    double *want = h->row + a->D;
    if (a->own_v || a->n > 1024) return;
    for (int64_t j = 0; j < a->n; j++) { /* one value is another's: which one follows from the difference */
        if (h->p[j] < 1e-4) continue;
        for (int64_t d = 0; d < a->D; d++)
            want[d] = value(a, a->kv, j)[d] + ((double)a->got[d] - (double)a->ref[d]) / h->p[j];
        for (int32_t g = 0; g < a->n_kv; g++)
            for (int64_t i = 0; i < a->n + a->n_gone; i++) {
                if (fabs(value(a, g, i)[0] - want[0]) > 1e-3 * (1 + fabs(want[0]))) continue;
                weigh(a, a->kv, h->p, a->n, h->out);
                for (int64_t d = 0; d < a->D; d++)
                    h->out[d] += h->p[j] * (value(a, g, i)[d] - value(a, a->kv, j)[d]);
                name_entry(a, j, name, sizeof name);
                name_entry(a, i, instead, sizeof instead);
                offer(h, h->out, "attn", i >= a->n ? "stale-read" : "bug-index", j, "%s gives the value of %s%s", name,
                      instead, g == a->kv ? "" : ", of another KV head");
            }
    }
}

static void guess_heads(hunt *h)
{
    const dt_attn *a = h->a;
    for (int32_t g = 0; g < a->n_kv; g++) {
        if (g == a->kv) continue;
        for (int what = 0; what < 3; what++) {
            static const char *const names[] = {"keys and values", "keys", "values"};
            scores(a, what == 2 ? a->kv : g, a->n, h->s);
            softmax(h->s, a->n, h->p);
            weigh(a, what == 1 ? a->kv : g, h->p, a->n, h->out);
            offer(h, h->out, "attn", "bug-index", 0, "the head reads %s of KV head %d instead of %d", names[what], g,
                  a->kv);
        }
    }
}

/* What the golf family does with the token's own value, with another head's or another length. */
static void guess_own_value(hunt *h)
{
    const dt_attn *a = h->a;
    double *y = h->row + a->D;
    if (!a->own_v) return;
    scores(a, a->kv, a->n, h->s);
    softmax(h->s, a->n, h->p);
    weigh(a, a->kv, h->p, a->n, y);
    for (int32_t g = -1; g < a->n_kv; g++) {
        const double *own = g < 0 ? a->own_v : value(a, g, a->n - 1);
        const double scale = g < 0 ? sqrt(unit(a, own)) : unit(a, own);
        const char *text = g < 0 ? "the own value is not brought to length 1 before it is taken out"
                                 : "the own value is that of another KV head";
        if (g == a->kv || (g < 0 && !a->xsa)) continue;
        memcpy(h->out, y, (size_t)a->D * sizeof *y);
        finish_with(a, own, scale, h->out);
        offer_row(h, h->out, "attn", g < 0 ? "bug-numeric" : "bug-index", -1, text);
        if (g >= 0) continue;
        memcpy(h->out, y, (size_t)a->D * sizeof *y);
        finish_with(a, own, 1, h->out);
        offer_row(h, h->out, "attn", "bug-numeric", -1, text);
    }
    offer_row(h, y, "attn", "bug-numeric", -1, "what the own value adds or takes out is missing");
}

/* ---- arithmetic
 * ------------------------------------------------------------------------------------------------------------ */

static void guess_scale(hunt *h)
{
    const dt_attn *a = h->a;
    const double root = sqrt((double)a->D);
    const struct {
        double by;
        const char *text;
    } scales[] = {{0.69314718055994531, "exp2 instead of exp: scores are multiplied by ln 2"},
                  {1.4426950408889634, "scores are multiplied by log2(e) once too often"},
                  {1 / a->scale, "scores are not scaled"},
                  {a->scale, "scores are scaled twice"},
                  {root, "scores are too large by sqrt(head_dim)"},
                  {1 / root, "scores are too small by sqrt(head_dim)"},
                  {0.5, "scores are halved"},
                  {2, "scores are doubled"},
                  {-1, "scores have the other sign"},
                  {0, "all scores are equal"}};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        scores(a, a->kv, a->n, h->s);
        for (int64_t j = 0; j < a->n; j++)
            h->s[j] *= scales[i].by;
        offer_scores(h, a->n, "attn", "bug-numeric", -1, scales[i].text);
    }
}

/* One dimension does not count in the scores: usually the last. */
static void guess_dimension(hunt *h)
{
    const dt_attn *a = h->a;
    char text[64];
    for (int64_t d = a->D - 1; d >= 0; d--) {
        scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < a->n; i++)
            h->s[i] -= a->scale * a->q[d] * key(a, a->kv, i)[d];
        snprintf(text, sizeof text, "dimension %lld is left out of the scores", (long long)d);
        offer_scores(h, a->n, "attn", "bug-index", -1, text);
    }
}

/* Error of the row when all scores are multiplied by t. */
static double error_at(hunt *h, double t)
{
    const dt_attn *a = h->a;
    double *row = h->row + a->D;
    scores(a, a->kv, a->n, h->s);
    for (int64_t j = 0; j < a->n; j++)
        h->s[j] *= t;
    softmax(h->s, a->n, h->p);
    weigh(a, a->kv, h->p, a->n, row);
    finish(a, row);
    return distance(row, a->got, a->D);
}

/* The factor of all scores that comes nearest, by thirds of an interval around 1. */
static void guess_any_scale(hunt *h)
{
    double lo = 0.7, hi = 1.4;
    char text[96];
    if (h->a->n < 3) return; /* two entries fit any factor */
    for (int i = 0; i < 60; i++) {
        const double a = lo + (hi - lo) / 3, b = hi - (hi - lo) / 3;
        if (error_at(h, a) < error_at(h, b))
            hi = b;
        else
            lo = a;
    }
    const double t = (lo + hi) / 2;
    if (fabs(t - 1) < 1e-5) return;
    snprintf(text, sizeof text, "all scores are %.7g times too large", t);
    scores(h->a, h->a->kv, h->a->n, h->s);
    for (int64_t j = 0; j < h->a->n; j++)
        h->s[j] *= t;
    offer_scores(h, h->a->n, "attn", "bug-numeric", -1, text);
}

/* Chunks put together without what their own maxima ask for. */
static void guess_combine(hunt *h)
{
    static const char *const names[] = {"sums of values are not rescaled when chunks are combined",
                                        "denominators are not rescaled when chunks are combined",
                                        "chunks are combined without rescaling"};
    const dt_attn *a = h->a;
    if (a->n <= CHUNK) return;
    scores(a, a->kv, a->n, h->s);
    double M = h->s[0];
    for (int64_t i = 0; i < a->n; i++)
        M = fmax(M, h->s[i]);
    for (int which = 0; which < 3; which++) {
        double L = 0;
        for (int64_t c = 0; c < a->n; c += CHUNK) {
            const int64_t end = c + CHUNK < a->n ? c + CHUNK : a->n;
            double m = h->s[c], l = 0;
            for (int64_t i = c; i < end; i++)
                m = fmax(m, h->s[i]);
            const double w = kv_dexp(m - M);
            for (int64_t i = c; i < end; i++) {
                const double e = kv_dexp(h->s[i] - m);
                l += e;
                h->p[i] = e * (which == 1 ? w : 1);
            }
            L += l * (which == 0 ? w : 1);
        }
        for (int64_t i = 0; i < a->n; i++)
            h->p[i] /= L;
        weigh(a, a->kv, h->p, a->n, h->out);
        offer(h, h->out, "attn", "bug-numeric", -1, "%s", names[which]);
    }
}

static float to_bf16(float x)
{
    return kv_bf162f(kv_f2bf16(x));
}
static float to_f16(float x)
{
    return kv_f162f(kv_f2f16(x));
}

/* What is rounded to 16 bits. Probabilities are those of the row's chunk: exp(s - m). */
enum { OF_WEIGHTS, OF_SCORES, OF_STORED_KEYS, OF_KEYS, OF_HALF_KEYS, OF_VALUES, OF_QUERY, ROUNDED };

static double rounded_dot(const dt_attn *a, int64_t i, int what, float (*round)(float))
{
    double sum = 0;
    const int keys = what == OF_KEYS || (what == OF_STORED_KEYS && i < a->stored);
    for (int64_t d = 0; d < a->D; d++) {
        const double k = key(a, a->kv, i)[d], q = a->q[d] * a->scale;
        const int first = a->rotation->half ? d < a->rotation->pairs : d < 2 * a->rotation->pairs && d % 2 == 0;
        const int this = keys || (what == OF_HALF_KEYS && first);
        sum += (what == OF_QUERY ? (double)round((float)q) : q) * (this ? (double)round((float)k) : k);
    }
    return sum;
}

static void offer_rounded(hunt *h, int what, float (*round)(float), const char *op, const char *text)
{
    const dt_attn *a = h->a;
    double most = -(double)INFINITY, sum = 0;
    for (int64_t i = 0; i < a->n; i++) {
        h->s[i] = rounded_dot(a, i, what, round);
        if (what == OF_SCORES) h->s[i] = (double)round((float)h->s[i]);
        most = fmax(most, h->s[i]);
    }
    for (int64_t i = 0; i < a->n; i++) {
        h->p[i] = kv_dexp(h->s[i] - most);
        if (what == OF_WEIGHTS) h->p[i] = (double)round((float)h->p[i]);
        sum += h->p[i];
    }
    for (int64_t d = 0; d < a->D; d++) {
        h->out[d] = 0;
        for (int64_t i = 0; i < a->n; i++) {
            const double v = value(a, a->kv, i)[d];
            h->out[d] += h->p[i] / sum * (what == OF_VALUES ? (double)round((float)v) : v);
        }
    }
    offer(h, h->out, op, "bug-numeric", -1, "%s", text);
}

static void guess_precision(hunt *h)
{
    static const char *const names[ROUNDED] = {
        "probabilities", "scores", "stored keys", "keys", "the first dims of pairs of keys", "values", "the query"};
    char text[80];
    for (int what = 0; what < ROUNDED; what++)
        for (int half = 0; half < 2; half++) {
            const int keys = what == OF_KEYS || what == OF_STORED_KEYS || what == OF_HALF_KEYS;
            snprintf(text, sizeof text, "%s rounded to %s", names[what], half ? "f16" : "bf16");
            if (what == OF_STORED_KEYS && !h->a->stored) continue;
            offer_rounded(h, what, half ? to_f16 : to_bf16, keys && h->a->raw ? "rope" : "attn", text);
        }
}

/* The right row times a number: a denominator with something added, a weight too much. */
static void guess_factor(hunt *h)
{
    const dt_attn *a = h->a;
    double top = 0, below = 0;
    for (int64_t d = 0; d < a->D; d++) {
        top += (double)a->got[d] * (double)a->ref[d];
        below += (double)a->ref[d] * (double)a->ref[d];
    }
    if (a->own_v || below == 0) return;
    for (int64_t d = 0; d < a->D; d++)
        h->out[d] = (double)a->ref[d] * top / below;
    offer(h, h->out, "attn", "bug-numeric", -1, "the right row times %.7g: the denominator is wrong", top / below);
}

/* ---- positions
 * --------------------------------------------------------------------------------------------------------------- */

/* Score of entry i when its key is rotated from where it is to `pos`; a negative one: not rotated at all. */
static double score_at(const dt_attn *a, int64_t i, int64_t pos, double *k)
{
    dt_rotate(a->rotation, a->entry[i].pos, 1, a->D, key(a, a->kv, i), k);
    dt_rotate(a->rotation, pos, 0, a->D, k, k);
    return a->scale * dot(a->q, k, a->D);
}

enum { AT_SLOT, AT_TOKEN, AT_ZERO, AT_BACKWARDS, AT_TWICE, AT_RULES };

static int64_t wrong_position(const dt_attn *a, int64_t i, int rule)
{
    const dt_entry *e = &a->entry[i];
    switch (rule) {
    case AT_SLOT:
        return e->slot;
    case AT_TOKEN:
        return e->og;
    case AT_BACKWARDS:
        return a->stored - 1 - i;
    case AT_TWICE:
        return 2 * (int64_t)e->pos;
    default:
        return -1;
    }
}

static void guess_rules_of_position(hunt *h)
{
    static const char *const names[] = {"stored keys are rotated at their slot, not at their place in the view",
                                        "stored keys are rotated at their original index",
                                        "stored keys are not rotated", "stored keys are rotated in the opposite order",
                                        "stored keys are rotated twice"};
    const dt_attn *a = h->a;
    for (int rule = 0; rule < AT_RULES; rule++) {
        scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < a->stored; i++)
            h->s[i] = score_at(a, i, wrong_position(a, i, rule), h->row);
        offer_scores(h, a->n, "rope", "bug-index", 0, names[rule]);
    }
}

/* Score of every entry with positions of entries lo .. hi-1 shifted. */
static void offer_shift(hunt *h, int64_t lo, int64_t hi, int64_t by, const char *what)
{
    char text[128];
    scores(h->a, h->a->kv, h->a->n, h->s);
    for (int64_t i = lo; i < hi; i++)
        h->s[i] = score_at(h->a, i, h->a->entry[i].pos + by < 0 ? 0 : h->a->entry[i].pos + by, h->row);
    snprintf(text, sizeof text, "%s are rotated %lld positions too %s", what, (long long)(by < 0 ? -by : by),
             by < 0 ? "early" : "late");
    offer_scores(h, h->a->n, "rope", "bug-index", lo, text);
}

static void guess_shifted_positions(hunt *h)
{
    const dt_attn *a = h->a;
    const int64_t most = a->stored < 64 ? a->stored : 64, sinks = a->sinks < a->stored ? a->sinks : a->stored;
    char text[48];
    for (int64_t step = 2; step <= 2 * most + 1; step++) {
        const int64_t by = step % 2 ? -(step / 2) : step / 2;
        offer_shift(h, 0, a->stored, by, "all stored keys");
        if (!sinks) continue;
        offer_shift(h, 0, sinks, by, "the sinks");
        offer_shift(h, sinks, a->stored, by, "all stored keys but the sinks");
    }
    /* keys of the step itself are rotated with the stored ones where those are kept un-rotated */
    for (int64_t n = 1; n <= 8 && n <= a->n && a->raw; n++)
        for (int64_t by = -1; by <= 1; by += 2) {
            snprintf(text, sizeof text, "the first %lld keys of the view", (long long)n);
            offer_shift(h, 0, n, by, text);
        }
    for (int64_t by = -1; by <= 1; by += 2)
        offer_shift(h, 0, a->n, by, "all keys");
}

/* Golf: keys that miss their gain. */
static void guess_gain(hunt *h)
{
    const dt_attn *a = h->a;
    if (a->key_gain == 1) return;
    for (int what = 0; what < 4; what++) {
        const double by = what % 2 ? a->key_gain : 1 / a->key_gain;
        const int64_t n = what < 2 ? a->stored : a->n;
        scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < n; i++)
            h->s[i] *= by;
        offer_scores(h, a->n, "rope", "bug-numeric", -1,
                     what % 2 ? "keys have their gain twice" : "keys are read without their gain");
    }
}

static void guess_position_of_one(hunt *h)
{
    const dt_attn *a = h->a;
    char name[96], text[192];
    for (int64_t j = 0; j < a->stored; j++)
        for (int64_t by = -1; by <= 1; by += 2) {
            scores(a, a->kv, a->n, h->s);
            h->s[j] = score_at(a, j, a->entry[j].pos + by, h->row);
            name_entry(a, j, name, sizeof name);
            snprintf(text, sizeof text, "the key of %s is rotated one position too %s", name,
                     by < 0 ? "early" : "late");
            offer_scores(h, a->n, "rope", "bug-index", j, text);
        }
}

/* ---- all of them
 * ---------------------------------------------------------------------------------------------------------------- */

static int all_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

void dt_attn_guess(const dt_attn *a, dt_guess *out)
{
    *out = (dt_guess){.entry = -1};
    const int64_t all = a->n + a->n_gone;
    double *memory = malloc((size_t)(2 * all + 4 * a->D) * sizeof *memory);
    if (!memory || !all_finite(a->got, a->D)) {
        free(memory);
        return;
    }
    hunt h = {.a = a,
              .memory = memory,
              .s = memory,
              .p = memory + all,
              .out = memory + 2 * all,
              .row = memory + 2 * all + 2 * a->D,
              .best = out};
    for (int64_t d = 0; d < a->D; d++) {
        h.size = fmax(h.size, fabs((double)a->ref[d]));
        h.wrong = fmax(h.wrong, fabs((double)a->ref[d] - (double)a->got[d]));
    }
    out->error = 2 * h.wrong;
    guess_other_rows(&h);
    guess_own_value(&h);
    guess_heads(&h);
    guess_scale(&h);
    guess_dimension(&h);
    guess_gain(&h);
    guess_combine(&h);
    if (a->rotation->pairs) {
        if (a->stored) guess_rules_of_position(&h);
        guess_shifted_positions(&h);
    }
    guess_extra(&h);
    guess_padding(&h);
    guess_chunks(&h);
    guess_missing_part(&h);
    guess_values(&h);
    guess_factor(&h);
    guess_precision(&h);
    guess_any_scale(&h);
    if (a->rotation->pairs && a->stored && a->n <= 1024) guess_position_of_one(&h);
    if (a->n > 2) guess_weight_of_one(&h);
    /* a fit is close to the device's row, and much closer than the right row is */
    if (!(out->error < 0.2 * h.wrong && out->error < 1e-4 * h.size + 1e-30))
        *out = (dt_guess){.entry = -1, .error = out->error};
    free(memory);
}
