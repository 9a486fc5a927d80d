/* locate_guess.c - guesses about attention that are about numbers: scale, sums, precision, positions of keys. */
#include "difftest/locate_hunt.h"

#include "common/math.h"
#include "common/numfmt.h"

#include <math.h>
#include <stdio.h>

/* ---- arithmetic ------------------------------------------------------------------------------------------- */

static void guess_scale(dt_hunt *h)
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
        dt_hunt_scores(a, a->kv, a->n, h->s);
        for (int64_t j = 0; j < a->n; j++)
            h->s[j] *= scales[i].by;
        dt_hunt_offer_scores(h, a->n, "attn", "bug-numeric", -1, scales[i].text);
    }
}

/* One dimension does not count in the scores: usually the last. */
static void guess_dimension(dt_hunt *h)
{
    const dt_attn *a = h->a;
    char text[64];
    for (int64_t d = a->D - 1; d >= 0; d--) {
        dt_hunt_scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < a->n; i++)
            h->s[i] -= a->scale * a->q[d] * dt_hunt_key(a, a->kv, i)[d];
        snprintf(text, sizeof text, "dimension %lld is left out of the scores", (long long)d);
        dt_hunt_offer_scores(h, a->n, "attn", "bug-index", -1, text);
    }
}

/* Error of the row when all scores are multiplied by t. */
static double error_at(dt_hunt *h, double t)
{
    const dt_attn *a = h->a;
    double *row = h->row + a->D;
    dt_hunt_scores(a, a->kv, a->n, h->s);
    for (int64_t j = 0; j < a->n; j++)
        h->s[j] *= t;
    dt_hunt_softmax(h->s, a->n, h->p);
    dt_hunt_weigh(a, a->kv, h->p, a->n, row);
    dt_hunt_finish(a, row);
    return dt_hunt_distance(row, a->got, a->D);
}

/* The factor of all scores that comes nearest, by thirds of an interval around 1. */
static void guess_any_scale(dt_hunt *h)
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
    dt_hunt_scores(h->a, h->a->kv, h->a->n, h->s);
    for (int64_t j = 0; j < h->a->n; j++)
        h->s[j] *= t;
    dt_hunt_offer_scores(h, h->a->n, "attn", "bug-numeric", -1, text);
}

/* Chunks put together without what their own maxima ask for. */
static void guess_combine(dt_hunt *h)
{
    static const char *const names[] = {"sums of values are not rescaled when chunks are combined",
                                        "denominators are not rescaled when chunks are combined",
                                        "chunks are combined without rescaling"};
    const dt_attn *a = h->a;
    if (a->n <= DT_HUNT_CHUNK) return;
    dt_hunt_scores(a, a->kv, a->n, h->s);
    double M = h->s[0];
    for (int64_t i = 0; i < a->n; i++)
        M = fmax(M, h->s[i]);
    for (int which = 0; which < 3; which++) {
        double L = 0;
        for (int64_t c = 0; c < a->n; c += DT_HUNT_CHUNK) {
            const int64_t end = c + DT_HUNT_CHUNK < a->n ? c + DT_HUNT_CHUNK : a->n;
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
        dt_hunt_weigh(a, a->kv, h->p, a->n, h->out);
        dt_hunt_offer(h, h->out, "attn", "bug-numeric", -1, "%s", names[which]);
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
        const double k = dt_hunt_key(a, a->kv, i)[d], q = a->q[d] * a->scale;
        const int first = a->rotation->half ? d < a->rotation->pairs : d < 2 * a->rotation->pairs && d % 2 == 0;
        const int this = keys || (what == OF_HALF_KEYS && first);
        sum += (what == OF_QUERY ? (double)round((float)q) : q) * (this ? (double)round((float)k) : k);
    }
    return sum;
}

static void offer_rounded(dt_hunt *h, int what, float (*round)(float), const char *op, const char *text)
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
            const double v = dt_hunt_value(a, a->kv, i)[d];
            h->out[d] += h->p[i] / sum * (what == OF_VALUES ? (double)round((float)v) : v);
        }
    }
    dt_hunt_offer(h, h->out, op, "bug-numeric", -1, "%s", text);
}

static void guess_rounding(dt_hunt *h)
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
static void guess_factor(dt_hunt *h)
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
    dt_hunt_offer(h, h->out, "attn", "bug-numeric", -1, "the right row times %.7g: the denominator is wrong",
                  top / below);
}

/* ---- positions -------------------------------------------------------------------------------------------- */

static double dot(const double *x, const double *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Score of entry i when its key is rotated from where it is to `pos`; a negative one: not rotated at all. */
static double score_at(const dt_attn *a, int64_t i, int64_t pos, double *k)
{
    dt_rotate(a->rotation, a->entry[i].pos, 1, a->D, dt_hunt_key(a, a->kv, i), k);
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

static void guess_rules_of_position(dt_hunt *h)
{
    static const char *const names[] = {"stored keys are rotated at their slot, not at their place in the view",
                                        "stored keys are rotated at their original index",
                                        "stored keys are not rotated", "stored keys are rotated in the opposite order",
                                        "stored keys are rotated twice"};
    const dt_attn *a = h->a;
    for (int rule = 0; rule < AT_RULES; rule++) {
        dt_hunt_scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < a->stored; i++)
            h->s[i] = score_at(a, i, wrong_position(a, i, rule), h->row);
        dt_hunt_offer_scores(h, a->n, "rope", "bug-index", 0, names[rule]);
    }
}

/* Score of every entry with positions of entries lo .. hi-1 shifted. */
static void offer_shift(dt_hunt *h, int64_t lo, int64_t hi, int64_t by, const char *what)
{
    char text[128];
    dt_hunt_scores(h->a, h->a->kv, h->a->n, h->s);
    for (int64_t i = lo; i < hi; i++)
        h->s[i] = score_at(h->a, i, h->a->entry[i].pos + by < 0 ? 0 : h->a->entry[i].pos + by, h->row);
    snprintf(text, sizeof text, "%s are rotated %lld positions too %s", what, (long long)(by < 0 ? -by : by),
             by < 0 ? "early" : "late");
    dt_hunt_offer_scores(h, h->a->n, "rope", "bug-index", lo, text);
}

static void guess_shifted_positions(dt_hunt *h)
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
static void guess_gain(dt_hunt *h)
{
    const dt_attn *a = h->a;
    if (a->key_gain == 1) return;
    for (int what = 0; what < 4; what++) {
        const double by = what % 2 ? a->key_gain : 1 / a->key_gain;
        const int64_t n = what < 2 ? a->stored : a->n;
        dt_hunt_scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < n; i++)
            h->s[i] *= by;
        dt_hunt_offer_scores(h, a->n, "rope", "bug-numeric", -1,
                             what % 2 ? "keys have their gain twice" : "keys are read without their gain");
    }
}

static void guess_position_of_one(dt_hunt *h)
{
    const dt_attn *a = h->a;
    char name[96], text[192];
    for (int64_t j = 0; j < a->stored; j++)
        for (int64_t by = -1; by <= 1; by += 2) {
            dt_hunt_scores(a, a->kv, a->n, h->s);
            h->s[j] = score_at(a, j, a->entry[j].pos + by, h->row);
            dt_hunt_name(a, j, name, sizeof name);
            snprintf(text, sizeof text, "the key of %s is rotated one position too %s", name,
                     by < 0 ? "early" : "late");
            dt_hunt_offer_scores(h, a->n, "rope", "bug-index", j, text);
        }
}

void dt_hunt_arithmetic(dt_hunt *h)
{
    guess_scale(h);
    guess_dimension(h);
    guess_gain(h);
    guess_combine(h);
}

void dt_hunt_positions(dt_hunt *h)
{
    if (!h->a->rotation->pairs) return;
    if (h->a->stored) guess_rules_of_position(h);
    guess_shifted_positions(h);
}

void dt_hunt_precision(dt_hunt *h)
{
    guess_factor(h);
    guess_rounding(h);
    guess_any_scale(h);
    if (h->a->rotation->pairs && h->a->stored && h->a->n <= 1024) guess_position_of_one(h);
}
