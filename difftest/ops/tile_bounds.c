/* tile_bounds.c - errors of the balancing, from its formula.
 *
 * A round makes lc[c] = clip(lc[c] + log(clamp(std of column c of X / C / R))). C is the same for the whole column,
 * and what is added to its logarithm comes off the deviation: with s = std of column c of X / R,
 *
 *     lc[c] = clip(min(max(log s, lc[c] + log 1e-3), lc[c] + log 1e3), -0.3, 10).
 *
 * Every function in it is monotone, so an interval goes through from end to end, and an error of the old lc[c] is only
 * carried on where a clamp takes it. Rows likewise.
 *
 * s moves by at most the deviation's norm of what its elements move by: sqrt(sum of (y e)^2 / (n - 1)), e the relative
 * error of R and of the quotient. Its own roundings: the mean is off by U sum |y|, U = u and the unit of accumulators,
 * which moves s by sqrt(n / (n - 1)) times that; squares, their sum, quotient and root are (n / 2 + 3) U; squares that
 * are flushed to zero 2^-62. To log s come 2 ulp of the logarithm and the addition. */
#include "difftest/ops/tile_bounds.h"

#include "common/math.h"

static double absolute(double x)
{
    return x < 0 ? -x : x;
}
static double larger(double a, double b)
{
    return a > b ? a : b;
}
static double smaller(double a, double b)
{
    return a < b ? a : b;
}

kv_kvarn_layout dt_tile_kvarn(const kvdk_tile_args *a)
{
    const kv_kvarn_params p = {.tile = (int32_t)a->tile, .kbits = (int32_t)a->kbits, .vbits = (int32_t)a->vbits};
    return kv_kvarn_layout_of(&p, (int32_t)a->hd);
}

kv_kivi_layout dt_tile_kivi(const kvdk_tile_args *a)
{
    const kv_kivi_params p = {.bits = (int32_t)a->kbits, .group = (int32_t)a->group, .residual = (int32_t)a->tile};
    return kv_kivi_layout_of(&p, (int32_t)a->hd);
}

int64_t dt_tile_bytes(const kvdk_tile_args *a)
{
    if (a->format != KVDK_KIVI) return dt_tile_kvarn(a).bytes;
    const kv_kivi_layout l = dt_tile_kivi(a);
    return l.k_bytes + a->tile * l.v_bytes;
}

static void place_kvarn(const kvdk_tile_args *a, int of_values, dt_tile_half *h)
{
    const kv_kvarn_layout l = dt_tile_kvarn(a);
    h->is_balanced = 1;
    h->number_bytes = 2;
    h->group = of_values ? l.v_group : l.T;
    h->code_row = of_values ? l.v_row : l.k_row;
    h->scale_row = of_values ? 2 * l.v_groups : 2;
    h->codes = of_values ? l.v_codes : l.k_codes;
    h->scale = of_values ? l.v_scale : l.k_scale;
    h->zero = of_values ? l.v_zero : l.k_zero;
    h->col = of_values ? l.v_col : l.k_col;
}

static void place_kivi(const kvdk_tile_args *a, int of_values, dt_tile_half *h)
{
    const kv_kivi_layout l = dt_tile_kivi(a);
    h->number_bytes = 4;
    h->group = l.G;
    h->code_row = of_values ? l.v_bytes : l.k_row;
    h->scale_row = of_values ? l.v_bytes : 4 * (l.R / l.G);
    h->codes = of_values ? l.k_bytes : 0;
    h->scale = of_values ? l.k_bytes + l.v_scale : l.k_scale;
    h->zero = of_values ? l.k_bytes + l.v_min : l.k_min;
}

dt_tile_half dt_tile_half_of(const kvdk_tile_args *a, int of_values)
{
    dt_tile_half h = {.x = of_values ? a->v.data : a->k.data,
                      .rows = of_values ? a->tile : a->hd,
                      .cols = of_values ? a->hd : a->tile,
                      .row_step = of_values ? a->hd : 1,
                      .col_step = of_values ? 1 : a->hd,
                      .bits = (int32_t)(of_values ? a->vbits : a->kbits)};
    (a->format == KVDK_KIVI ? place_kivi : place_kvarn)(a, of_values, &h);
    return h;
}

double dt_tile_quotient_error(double log_col, double log_row)
{
    return 2 * DT_TILE_TRANSCENDENTAL + (4 + absolute(log_col) + absolute(log_row)) * DT_U;
}

/* A number and how far an honest one may be away from it. */
typedef struct estimate {
    double value, off;
} estimate;

/* Deviation of the n numbers x / by; own: logarithm of the scale that all of them are divided by as well. */
static estimate deviation(const float *x, int64_t n, int64_t step, const dt_tile_scale *by, double own, double sums)
{
    const double count = (double)n, less = (double)(n - 1);
    double sum = 0, magnitude = 0, moved = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        const double y = (double)x[i * step] / by[i].scale;
        const double off = y * (by[i].relative + dt_tile_quotient_error(own, by[i].log));
        sum += y;
        magnitude += absolute(y);
        moved += off * off;
    }
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i * step] / by[i].scale - sum / count;
        squares += d * d;
    }
    estimate e = {.value = kv_dsqrt(squares / less)};
    e.off = kv_dsqrt(moved / less) + sums * magnitude * kv_dsqrt(count / less);
    e.off += (count / 2 + 3) * sums * (e.value + e.off) + 0x1p-62;
    return e;
}

static estimate column(const dt_tile_half *h, const dt_tile_round *r, int64_t c, double sums)
{
    return deviation(h->x + c * h->col_step, h->rows, h->row_step, r->row, r->col[c].log, sums);
}

static estimate row(const dt_tile_half *h, const dt_tile_round *r, int64_t i, double sums)
{
    return deviation(h->x + i * h->row_step, h->cols, h->col_step, r->col, r->row[i].log, sums);
}

/* The logarithm that follows `old` when the deviation without it is s; not clipped yet. */
static double next_log(double s, double old)
{
    const double l = s > 0x1p-1000 ? kv_log_core(s) : -700;
    const double least = old + kv_log_core((double)1e-3f), most = old + kv_log_core((double)1e3f);
    return smaller(larger(l, least), most);
}

static double clip(double log)
{
    return larger((double)-0.3f, smaller(log, 10));
}

static dt_tile_scale scale_of(double log, double off)
{
    return (dt_tile_scale){
        .log = log, .off = off, .scale = kv_dexp(log), .relative = off < 1e-3 ? off * (1 + off) : kv_dexp(off) - 1};
}

/* One step of a scale's logarithm. Clipped to an end it is that end, whatever was rounded before.
 * */
static dt_tile_scale follow(estimate s, const dt_tile_scale *old)
{
    const double down = next_log(s.value - s.off, old->log - old->off);
    const double up = next_log(s.value + s.off, old->log + old->off);
    const double added = larger(absolute(down - old->log), absolute(up - old->log)) + old->off;
    const double rounded = DT_TILE_TRANSCENDENTAL * added + DT_U * larger(absolute(down), absolute(up));
    const double l = clip(next_log(s.value, old->log));
    return scale_of(l, larger(clip(up + rounded) - l, l - clip(down - rounded)));
}

/* ---- who is the best ------------------------------------------------------------------------------------- */

typedef struct span {
    double least, most;
} span;

/* Largest deviation over the smallest. Each is an estimate that is still to be divided by its scale. */
static span spread(const estimate *s, const dt_tile_scale *by, int64_t n)
{
    span largest = {0, 0}, smallest = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        const double least = larger(0, s[i].value - s[i].off) / by[i].scale * larger(0, 1 - by[i].relative);
        const double most = (s[i].value + s[i].off) / by[i].scale * (1 + by[i].relative);
        largest = i ? (span){larger(largest.least, least), larger(largest.most, most)} : (span){least, most};
        smallest = i ? (span){smaller(smallest.least, least), smaller(smallest.most, most)} : (span){least, most};
    }
    return (span){larger(0, largest.least) / larger(smallest.most, (double)1e-8f),
                  largest.most / larger(smallest.least, (double)1e-8f)};
}

static void weigh(const dt_tile_half *h, const estimate *col, const estimate *rows, dt_tile_round *r)
{
    const span c = spread(col, r->col, h->cols), l = spread(rows, r->row, h->rows);
    r->least = (c.least + l.least) * (1 - 4 * DT_U); /* two quotients, the floor, the sum */
    r->most = (c.most + l.most) * (1 + 4 * DT_U);
}

/* A round is kept when it is no worse than the best so far, so the last of the best wins. */
static void find_legal(dt_tile_round *rounds, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        rounds[k].is_legal = 1;
        for (int64_t j = 0; j < n; j++)
            if (j < k ? rounds[k].least > rounds[j].most : j > k && rounds[k].least >= rounds[j].most)
                rounds[k].is_legal = 0;
    }
}

void dt_tile_balance(const dt_tile_half *h, int64_t iters, double sums, dt_tile_round *rounds)
{
    estimate col[DT_TILE_LINES], rows[DT_TILE_LINES];
    for (int64_t c = 0; c < h->cols; c++)
        rounds[0].col[c] = scale_of(0, 0);
    for (int64_t r = 0; r < h->rows; r++)
        rounds[0].row[r] = scale_of(0, 0);
    for (int64_t c = 0; c < h->cols; c++)
        col[c] = column(h, &rounds[0], c, sums);
    for (int64_t r = 0; r < h->rows; r++)
        rows[r] = row(h, &rounds[0], r, sums);
    weigh(h, col, rows, &rounds[0]);
    for (int64_t n = 1; n <= iters; n++) {
        dt_tile_round *now = &rounds[n];
        *now = rounds[n - 1];
        for (int64_t c = 0; c < h->cols; c++)
            now->col[c] = follow(col[c], &now->col[c]);
        for (int64_t r = 0; r < h->rows; r++) {
            rows[r] = row(h, now, r, sums);
            now->row[r] = follow(rows[r], &now->row[r]);
        }
        for (int64_t c = 0; c < h->cols; c++)
            col[c] = column(h, now, c, sums);
        weigh(h, col, rows, now);
    }
    find_legal(rounds, iters + 1);
}
