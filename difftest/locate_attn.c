#include "difftest/locate_hunt.h"

#include "common/math.h"
#include "common/numfmt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the row ---------------------------------------------------------------------------------------------- */

const double *dt_hunt_key(const dt_attn *a, int32_t kv, int64_t i)
{
    return a->k[kv] + i * a->D;
}

const double *dt_hunt_value(const dt_attn *a, int32_t kv, int64_t i)
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

void dt_hunt_scores(const dt_attn *a, int32_t kv, int64_t n, double *s)
{
    for (int64_t i = 0; i < n; i++)
        s[i] = a->scale * dot(a->q, dt_hunt_key(a, kv, i), a->D);
}

void dt_hunt_softmax(const double *s, int64_t n, double *p)
{
    double m = s[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        m = fmax(m, s[i]);
    for (int64_t i = 0; i < n; i++)
        sum += p[i] = kv_dexp(s[i] - m);
    for (int64_t i = 0; i < n; i++)
        p[i] /= sum;
}

void dt_hunt_weigh(const dt_attn *a, int32_t kv, const double *p, int64_t n, double *out)
{
    for (int64_t d = 0; d < a->D; d++)
        out[d] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; p[i] != 0 && d < a->D; d++)
            out[d] += p[i] * dt_hunt_value(a, kv, i)[d];
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

void dt_hunt_finish(const dt_attn *a, double *out)
{
    if (a->own_v) finish_with(a, a->own_v, unit(a, a->own_v), out);
}

double dt_hunt_distance(const double *x, const float *y, int64_t n)
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
    dt_hunt_scores(a, a->kv, a->n, p);
    dt_hunt_softmax(p, a->n, p);
}

double dt_attn_check(const dt_attn *a)
{
    double *p = malloc((size_t)(a->n + a->D) * sizeof *p), *out = p ? p + a->n : NULL;
    if (!p) return (double)INFINITY;
    dt_attn_weights(a, p);
    dt_hunt_weigh(a, a->kv, p, a->n, out);
    dt_hunt_finish(a, out);
    const double d = dt_hunt_distance(out, a->ref, a->D);
    free(p);
    return d;
}

/* ---- offering a guess ------------------------------------------------------------------------------------- */

void dt_hunt_offer(dt_hunt *h, const double *out, const char *op, const char *klass, int64_t entry, const char *fmt,
                   ...) KV_PRINTF(6, 7);

/* The row as the tap would show it. A later guess must be clearly better than an earlier, simpler one. */
static void offer_row(dt_hunt *h, const double *row, const char *op, const char *klass, int64_t entry, const char *text)
{
    const double error = dt_hunt_distance(row, h->a->got, h->a->D);
    if (!(error < 0.5 * h->best->error)) return;
    snprintf(h->best->text, sizeof h->best->text, "%s", text);
    h->best->op = op;
    h->best->klass = klass;
    h->best->entry = entry;
    h->best->error = error;
}

/* The row before `finish`. */
void dt_hunt_offer(dt_hunt *h, const double *out, const char *op, const char *klass, int64_t entry, const char *fmt,
                   ...)
{
    char text[sizeof h->best->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (int64_t d = 0; d < h->a->D; d++)
        h->row[d] = out[d];
    dt_hunt_finish(h->a, h->row);
    offer_row(h, h->row, op, klass, entry, text);
}

/* Offers the row for probabilities in h->s turned into h->p. */
void dt_hunt_offer_scores(dt_hunt *h, int64_t n, const char *op, const char *klass, int64_t entry, const char *text)
{
    dt_hunt_softmax(h->s, n, h->p);
    dt_hunt_weigh(h->a, h->a->kv, h->p, n, h->out);
    dt_hunt_offer(h, h->out, op, klass, entry, "%s", text);
}

/* ---- rows of somebody else -------------------------------------------------------------------------------- */

static void guess_other_rows(dt_hunt *h)
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

/* ---- which entries ---------------------------------------------------------------------------------------- */

void dt_hunt_name(const dt_attn *a, int64_t i, char *dst, size_t size)
{
    const dt_entry *e = &a->entry[i];
    snprintf(dst, size, "token %lld (entry %lld%s)", (long long)e->og, (long long)e->slot,
             i + 1 == a->n ? ", the row's own"
             : e->row >= 0 ? ", of this step"
                           : "");
}

/* One entry has another weight than it should: the row lies on the line between the row without it and its value. */
static void guess_weight_of_one(dt_hunt *h)
{
    const dt_attn *a = h->a;
    double *base = h->row + a->D; /* the row without entry j */
    char name[96];
    dt_hunt_scores(a, a->kv, a->n, h->s);
    dt_hunt_softmax(h->s, a->n, h->p);
    double *full = h->out + a->D;
    dt_hunt_weigh(a, a->kv, h->p, a->n, full);
    for (int64_t j = 0; j < a->n; j++) {
        if (h->p[j] > 1 - 1e-9) continue;
        double along = 0, length = 0;
        for (int64_t d = 0; d < a->D; d++) {
            base[d] = (full[d] - h->p[j] * dt_hunt_value(a, a->kv, j)[d]) / (1 - h->p[j]);
            const double to = dt_hunt_value(a, a->kv, j)[d] - base[d];
            along += ((double)a->got[d] - base[d]) * to;
            length += to * to;
        }
        dt_hunt_name(a, j, name, sizeof name);
        dt_hunt_offer(h, base, "attn", "bug-index", j, "%s is left out: weight 0, expected %.3g", name, h->p[j]);
        if (a->own_v || length == 0) continue;
        const double w = along / length, doubled = 2 * h->p[j] / (1 + h->p[j]);
        if (!(w > 0 && w < 1)) continue;
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = base[d] + w * (dt_hunt_value(a, a->kv, j)[d] - base[d]);
        if (fabs(w - doubled) < 1e-4 * doubled)
            dt_hunt_offer(h, h->out, "attn", "bug-index", j, "%s is read twice", name);
        else
            dt_hunt_offer(h, h->out, "attn", "bug-index", j,
                          "%s has weight %.3g, expected %.3g: its key is another's, or at another "
                          "position",
                          name, w, h->p[j]);
    }
}

/* Entries that the row must not see, one of them or all up to one. */
static void guess_extra(dt_hunt *h)
{
    const dt_attn *a = h->a;
    char name[96];
    dt_hunt_scores(a, a->kv, a->n + a->n_gone, h->s);
    for (int64_t j = a->n; j < a->n + a->n_gone; j++) {
        const double kept = h->s[a->n];
        const dt_entry *e = &a->entry[j];
        snprintf(name, sizeof name, "token %lld, %s", (long long)e->og,
                 e->row >= 0 ? "which comes later" : "which had left");
        dt_hunt_softmax(h->s, j + 1, h->p);
        dt_hunt_weigh(a, a->kv, h->p, j + 1, h->out);
        dt_hunt_offer(h, h->out, "attn", "bug-index", j, "the row also sees %s%s", j > a->n ? "entries up to " : "",
                      name);
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
                h->out[d] += w * dt_hunt_value(a, a->kv, i == a->n ? j : i)[d];
        }
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] /= sum;
        h->s[a->n] = kept;
        dt_hunt_offer(h, h->out, "attn", "bug-index", j, "the row also sees %s", name);
    }
}

/* Entries of zeros behind the last: a tail that is not masked. */
static void guess_padding(dt_hunt *h)
{
    const dt_attn *a = h->a;
    dt_hunt_scores(a, a->kv, a->n, h->s);
    double most = 0, sum = 0;
    for (int64_t i = 0; i < a->n; i++)
        most = fmax(most, h->s[i]);
    for (int64_t i = 0; i < a->n; i++)
        sum += h->p[i] = kv_dexp(h->s[i] - most);
    dt_hunt_weigh(a, a->kv, h->p, a->n, h->row + a->D);
    for (int64_t pad = 1; pad <= DT_HUNT_CHUNK; pad++) {
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = (h->row + a->D)[d] / (sum + (double)pad * kv_dexp(-most));
        dt_hunt_offer(h, h->out, "attn", "bug-index", -1, "%lld entries of zeros behind the last one take part",
                      (long long)pad);
    }
}

/* The beginning or the end of the view is missing. */
static void guess_missing_part(dt_hunt *h)
{
    const dt_attn *a = h->a;
    double *left = h->row + a->D; /* what remains */
    char from[96], to[96];
    for (int end = 0; end < 2; end++) {
        double share = 1;
        dt_hunt_scores(a, a->kv, a->n, h->s);
        dt_hunt_softmax(h->s, a->n, h->p);
        dt_hunt_weigh(a, a->kv, h->p, a->n, left);
        for (int64_t cut = 1; cut < a->n; cut++) {
            const int64_t gone = end ? a->n - cut : cut - 1;
            share -= h->p[gone];
            if (share < 1e-6) break;
            for (int64_t d = 0; d < a->D; d++) {
                left[d] -= h->p[gone] * dt_hunt_value(a, a->kv, gone)[d];
                h->out[d] = left[d] / share;
            }
            dt_hunt_name(a, end ? gone : 0, from, sizeof from);
            dt_hunt_name(a, end ? a->n - 1 : gone, to, sizeof to);
            dt_hunt_offer(h, h->out, "attn", "bug-index", gone, "%lld entries are left out: %s to %s", (long long)cut,
                          from, to);
        }
    }
}

/* Every chunk's last entry, first entry, or the entries of one chunk. */
static void guess_chunks(dt_hunt *h)
{
    const dt_attn *a = h->a;
    if (a->n <= DT_HUNT_CHUNK) return;
    for (int which = 0; which < 2; which++) {
        dt_hunt_scores(a, a->kv, a->n, h->s);
        for (int64_t i = 0; i < a->n; i++)
            if (i % DT_HUNT_CHUNK == (which ? 0 : DT_HUNT_CHUNK - 1)) h->s[i] = -(double)INFINITY;
        dt_hunt_offer_scores(h, a->n, "attn", "bug-index", which ? 0 : DT_HUNT_CHUNK - 1,
                             which ? "the first entry of every chunk is left out"
                                   : "the last entry of every chunk is left out");
    }
    for (int64_t c = 0; c * DT_HUNT_CHUNK < a->n; c++) {
        char text[96];
        dt_hunt_scores(a, a->kv, a->n, h->s);
        for (int64_t i = c * DT_HUNT_CHUNK; i < (c + 1) * DT_HUNT_CHUNK && i < a->n; i++)
            h->s[i] = -(double)INFINITY;
        snprintf(text, sizeof text, "chunk %lld of the view is left out", (long long)c);
        dt_hunt_offer_scores(h, a->n, "attn", "bug-index", c * DT_HUNT_CHUNK, text);
    }
}

/* ---- values and heads ------------------------------------------------------------------------------------- */

static void guess_values(dt_hunt *h)
{
    const dt_attn *a = h->a;
    char name[96], instead[96];
    dt_hunt_scores(a, a->kv, a->n, h->s);
    dt_hunt_softmax(h->s, a->n, h->p);
    for (int64_t shift = -2; shift <= 2; shift++) {
        for (int64_t d = 0; d < a->D; d++)
            h->out[d] = 0;
        for (int64_t i = 0; i < a->n; i++) {
            const int64_t j = i + shift < 0 ? 0 : i + shift >= a->n ? a->n - 1 : i + shift;
            for (int64_t d = 0; d < a->D; d++)
                h->out[d] += h->p[i] * dt_hunt_value(a, a->kv, j)[d];
        }
        if (shift)
            dt_hunt_offer(h, h->out, "attn", "bug-index", 0, "every key goes with the value %lld entries away",
                          (long long)shift);
    }
    double *want = h->row + a->D;
    if (a->own_v || a->n > 1024) return;
    for (int64_t j = 0; j < a->n; j++) { /* one value is another's: which one follows from the difference */
        if (h->p[j] < 1e-4) continue;
        for (int64_t d = 0; d < a->D; d++)
            want[d] = dt_hunt_value(a, a->kv, j)[d] + ((double)a->got[d] - (double)a->ref[d]) / h->p[j];
        for (int32_t g = 0; g < a->n_kv; g++)
            for (int64_t i = 0; i < a->n + a->n_gone; i++) {
                if (fabs(dt_hunt_value(a, g, i)[0] - want[0]) > 1e-3 * (1 + fabs(want[0]))) continue;
                dt_hunt_weigh(a, a->kv, h->p, a->n, h->out);
                for (int64_t d = 0; d < a->D; d++)
                    h->out[d] += h->p[j] * (dt_hunt_value(a, g, i)[d] - dt_hunt_value(a, a->kv, j)[d]);
                dt_hunt_name(a, j, name, sizeof name);
                dt_hunt_name(a, i, instead, sizeof instead);
                dt_hunt_offer(h, h->out, "attn", i >= a->n ? "stale-read" : "bug-index", j,
                              "%s gives the value of %s%s", name, instead, g == a->kv ? "" : ", of another KV head");
            }
    }
}

static void guess_heads(dt_hunt *h)
{
    const dt_attn *a = h->a;
    for (int32_t g = 0; g < a->n_kv; g++) {
        if (g == a->kv) continue;
        for (int what = 0; what < 3; what++) {
            static const char *const names[] = {"keys and values", "keys", "values"};
            dt_hunt_scores(a, what == 2 ? a->kv : g, a->n, h->s);
            dt_hunt_softmax(h->s, a->n, h->p);
            dt_hunt_weigh(a, what == 1 ? a->kv : g, h->p, a->n, h->out);
            dt_hunt_offer(h, h->out, "attn", "bug-index", 0, "the head reads %s of KV head %d instead of %d",
                          names[what], g, a->kv);
        }
    }
}

/* What the golf family does with the token's own value, with another head's or another length. */
static void guess_own_value(dt_hunt *h)
{
    const dt_attn *a = h->a;
    double *y = h->row + a->D;
    if (!a->own_v) return;
    dt_hunt_scores(a, a->kv, a->n, h->s);
    dt_hunt_softmax(h->s, a->n, h->p);
    dt_hunt_weigh(a, a->kv, h->p, a->n, y);
    for (int32_t g = -1; g < a->n_kv; g++) {
        const double *own = g < 0 ? a->own_v : dt_hunt_value(a, g, a->n - 1);
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

/* ---- all of them ------------------------------------------------------------------------------------------ */

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
    dt_hunt h = {.a = a,
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
    dt_hunt_arithmetic(&h);
    dt_hunt_positions(&h);
    guess_extra(&h);
    guess_padding(&h);
    guess_chunks(&h);
    guess_missing_part(&h);
    guess_values(&h);
    dt_hunt_precision(&h);
    if (a->n > 2) guess_weight_of_one(&h);
    /* a fit is close to the device's row, and much closer than the right row is */
    if (!(out->error < 0.2 * h.wrong && out->error < 1e-4 * h.size + 1e-30))
        *out = (dt_guess){.entry = -1, .error = out->error};
    free(memory);
}
