/* tile_judge.c - codes, scales and zeros of a record, and what they stand for, against the matrix that was coded.
 *
 * With a = x / C (R is the same for a row and leaves it as a factor), lo and hi the ends of a group of a, n = 2^bits -
 * 1:
 *
 *     S = max((hi - lo) / n, 1e-10 R),   Z = lo,   v = n (a - lo) / (hi - lo),   code = v rounded.
 *
 * a is off relatively by C and by the quotient's roundings. lo, hi, S and v are monotone in every a, so they lie
 * between what the ends of the a give. Roundings of their own: S 4 u (difference, quotient, product with R), Z 2 u,
 * both 2 ulp for an R that is another exponential than what X was divided by; v 6 u (difference, S, quotient or
 * reciprocal) and 4 u (|a| + |lo|) / S, for whoever computes a / S - lo / S. S, Z and C are rounded to fp16 once more:
 * half a unit of what is stored. A code may lie half a step and the bound of v away from v.
 *
 * What is stored stands for (code S + Z) C, whatever C was. With the candidate's own S, Z, C before they became halves
 * that is x to half a step S C / 2 and roundings: of v as above, of a quotient_error and R's 2 ulp, 6 u of the
 * products S R and lo R. The halves add their own half units.
 *
 * kivi has neither C nor R nor a floor, and keeps S and Z in fp32: a = x, lo has no error, and no unit is added. */
#include "difftest/ops/tile_judge.h"

#include "common/math.h"
#include "common/numfmt.h"

#include <string.h>

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

static int64_t groups_of(const dt_tile_half *h)
{
    return h->cols / h->group;
}

static int64_t count_of(const dt_tile_half *h, int kind)
{
    if (kind == DT_TILE_COL) return h->is_balanced ? h->cols : 0;
    return h->rows * (kind == DT_TILE_SCALE || kind == DT_TILE_ZERO ? groups_of(h) : h->cols);
}

dt_tile_number dt_tile_number_of(const kvdk_tile_args *a, int64_t i)
{
    for (int half = 0; half < 2; half++) {
        const dt_tile_half h = dt_tile_half_of(a, half);
        for (int kind = DT_TILE_CODE; kind <= DT_TILE_DECODED; i -= count_of(&h, kind), kind++) {
            const int64_t width = kind == DT_TILE_SCALE || kind == DT_TILE_ZERO ? groups_of(&h) : h.cols;
            if (i < count_of(&h, kind)) return (dt_tile_number){half, kind, i / width, i % width};
        }
    }
    return (dt_tile_number){1, DT_TILE_DECODED, 0, 0};
}

/* ---- what stands in the record --------------------------------------------------------------------------- */

/* A scale, a zero: fp16 in kvarn, fp32 in kivi. */
typedef struct number {
    double value;
    double unit, unit_below; /* half a unit in the last place, which rounding to fp16 takes; on the side of 0 */
    uint32_t bits;
    int64_t place; /* among all numbers of its type */
    int is_finite;
    int is_clamped; /* 65504 or more: says nothing about what it was */
} number;

static number half_of(uint16_t h)
{
    const int exponent = h >> 10 & 31, is_power = (h & 1023) == 0 && exponent > 1;
    const double unit = kv_dpow2((exponent ? exponent : 1) - 26);
    return (number){.value = (double)kv_f162f(h),
                    .unit = unit,
                    .unit_below = is_power ? unit / 2 : unit, /* below a power of two numbers lie closer */
                    .bits = h,
                    .place = h & 0x8000 ? -(int64_t)(h & 0x7fff) : h,
                    .is_finite = exponent < 31,
                    .is_clamped = (h & 0x7fff) >= 0x7bff};
}

static number read_number(const dt_tile_half *h, const uint8_t *at)
{
    uint16_t half;
    uint32_t bits;
    memcpy(&half, at, sizeof half);
    if (h->number_bytes == 2) return half_of(half);
    memcpy(&bits, at, sizeof bits);
    const float x = kv_bits2f((int32_t)bits);
    return (number){.value = (double)x,
                    .bits = bits,
                    .place = bits >> 31 ? -(int64_t)(bits & 0x7fffffff) : (int64_t)bits,
                    .is_finite = kv_is_finite(x)};
}

static int64_t scale_at(const dt_tile_half *h, int64_t part, int64_t r, int64_t g)
{
    return part + r * h->scale_row + g * h->number_bytes;
}

static int64_t distance(int64_t a, int64_t b)
{
    return a < b ? b - a : a - b;
}

/* ---- one half by one round ------------------------------------------------------------------------------- */

typedef struct judging {
    const dt_tile_half *half;
    const dt_tile_round *round;
    const uint8_t *ref, *got;
    int64_t index; /* of the next number */
    dt_op_difference d;
    double squares, errors;
    int64_t far[256]; /* numbers by their distance from the reference's, the last bin for all behind */
} judging;

/* A number that must be x to within `step`, which its format takes, and the bound. */
static void judge(judging *j, double x, double step, double bound, double got, uint32_t ref_bits, uint32_t got_bits)
{
    dt_op_difference *d = &j->d;
    const double err = absolute(got - x), ratio = err <= step ? 0 : (err - step) / bound;
    const int is_worst = !(ratio <= d->max_ratio), is_bad = !(ratio <= 1);
    d->n_elem++;
    d->n_informative += absolute(x) > step + bound;
    if (is_worst) {
        d->max_ratio = ratio == ratio ? ratio : (double)kv_inf();
        d->worst_index = j->index;
    }
    if (is_bad && !d->n_bad) d->bad_index = j->index, d->bad_bound = step + bound;
    if ((is_bad && !d->n_bad) || (is_worst && !d->n_bad))
        d->ref_value = x, d->got_value = got, d->ref_bits = ref_bits, d->got_bits = got_bits;
    d->n_bad += is_bad;
    j->index++;
}

static void note_distance(judging *j, int64_t n)
{
    j->far[n < 255 ? n : 255]++;
    if (n > j->d.max_ulp) j->d.max_ulp = n;
}

static void judge_number(judging *j, int64_t at, double x, double bound)
{
    const number got = read_number(j->half, j->got + at), ref = read_number(j->half, j->ref + at);
    const double most = j->half->number_bytes == 2 ? 65504 : (double)kv_bits2f(0x7f7fffff);
    const double inside = x > most ? most : x < -most ? -most : x;
    const int is_below = absolute(inside) < absolute(got.value);
    j->d.n_nonfinite += !got.is_finite;
    note_distance(j, distance(got.place, ref.place));
    judge(j, inside, is_below ? got.unit_below : got.unit, bound, got.value, ref.bits, got.bits);
}

/* A group of a row: the ends of its numbers, of each the middle and both ends of where it may lie.
 * */
typedef struct place {
    double middle, low, high;
} place;
typedef struct group {
    place lo, hi;
    double floor, floor_low; /* of S: 1e-10 R */
} group;

static double at(const dt_tile_half *h, int64_t r, int64_t c)
{
    return (double)h->x[r * h->row_step + c * h->col_step];
}

/* Relative error of a quotient by both scales. */
static double quotient_error(const judging *j, int64_t r, int64_t c)
{
    return j->half->is_balanced ? dt_tile_quotient_error(j->round->col[c].log, j->round->row[r].log) : 0;
}

/* Of an R that is computed a second time. */
static double again(const judging *j)
{
    return j->half->is_balanced ? DT_TILE_TRANSCENDENTAL : 0;
}

static place quotient(const judging *j, int64_t r, int64_t c)
{
    const dt_tile_scale *col = &j->round->col[c];
    const double a = at(j->half, r, c) / col->scale, least = DT_UNDERFLOW * (1 + 1 / col->scale);
    const double flushed = absolute(a) <= least ? least : 0;
    const double off = absolute(a) * (col->relative + quotient_error(j, r, c)) + flushed;
    return (place){a, a - off, a + off};
}

static group group_of(const judging *j, int64_t r, int64_t g)
{
    const dt_tile_scale *row = &j->round->row[r];
    const double floor = j->half->is_balanced ? (double)1e-10f * row->scale : 0;
    group e = {.floor = floor, .floor_low = floor / (1 + row->relative)};
    for (int64_t c = g * j->half->group; c < (g + 1) * j->half->group; c++) {
        const place a = quotient(j, r, c);
        if (c == g * j->half->group) e.lo = e.hi = a;
        e.lo = (place){smaller(e.lo.middle, a.middle), smaller(e.lo.low, a.low), smaller(e.lo.high, a.high)};
        e.hi = (place){larger(e.hi.middle, a.middle), larger(e.hi.low, a.low), larger(e.hi.high, a.high)};
    }
    return e;
}

static double levels(const judging *j)
{
    return (double)((1 << j->half->bits) - 1);
}

static place step_of(const judging *j, const group *e, int64_t r)
{
    const double n = levels(j), more = e->floor * (1 + j->round->row[r].relative);
    return (place){larger((e->hi.middle - e->lo.middle) / n, e->floor),
                   larger((e->hi.low - e->lo.high) / n, e->floor_low), larger((e->hi.high - e->lo.low) / n, more)};
}

static double off(place p)
{
    return larger(p.high - p.middle, p.middle - p.low);
}

static void judge_scales(judging *j)
{
    const dt_tile_half *h = j->half;
    const int64_t groups = groups_of(h);
    for (int64_t i = 0; i < h->rows * groups; i++) {
        const group e = group_of(j, i / groups, i % groups);
        const place s = step_of(j, &e, i / groups);
        judge_number(j, scale_at(h, h->scale, i / groups, i % groups), s.middle,
                     off(s) + (again(j) + 4 * DT_U) * s.high + DT_UNDERFLOW);
    }
    for (int64_t i = 0; i < h->rows * groups; i++) {
        const group e = group_of(j, i / groups, i % groups);
        const double size = absolute(e.lo.middle) + off(e.lo), R = j->round->row[i / groups].scale;
        const double rounded = h->is_balanced ? (again(j) + 2 * DT_U) * size + DT_UNDERFLOW * (1 + R) : 0;
        judge_number(j, scale_at(h, h->zero, i / groups, i % groups), e.lo.middle, off(e.lo) + rounded);
    }
    for (int64_t c = 0; c < count_of(h, DT_TILE_COL); c++) {
        const dt_tile_scale *col = &j->round->col[c];
        judge_number(j, h->col + 2 * c, col->scale,
                     col->scale * (col->relative + DT_TILE_TRANSCENDENTAL * (1 + col->relative)));
    }
}

static uint32_t code_at(const judging *j, const uint8_t *record, int64_t r, int64_t c)
{
    return kv_code_get(record + j->half->codes + r * j->half->code_row, (int32_t)c, j->half->bits);
}

/* Steps from lo to a, of the size that lo, hi and the floor give. */
static double steps(double a, double lo, double hi, double floor, double n)
{
    const double v = (a - lo) / larger((hi - lo) / n, floor);
    return v > 0 ? smaller(v, n) : 0;
}

static void judge_code(judging *j, int64_t r, int64_t c, const group *e, place step)
{
    const double n = levels(j), most_floor = e->floor * (1 + j->round->row[r].relative);
    const place a = quotient(j, r, c);
    const double v = steps(a.middle, e->lo.middle, e->hi.middle, e->floor, n);
    const double low = steps(a.low, e->lo.high, e->hi.high, most_floor, n);
    const double high = steps(a.high, e->lo.low, e->hi.low, e->floor_low, n);
    const double size = absolute(a.middle) + off(a) + absolute(e->lo.middle) + off(e->lo);
    /* Where all numbers are equal there is no step, and the code is 0. */
    const double rounded = step.high == 0 ? 0 : step.low > 0 ? 6 * DT_U * high + 4 * DT_U * size / step.low : n;
    const uint32_t got = code_at(j, j->got, r, c), ref = code_at(j, j->ref, r, c);
    note_distance(j, distance(got, ref));
    judge(j, v, 0.5, larger(high - v, v - low) + rounded, (double)got, ref, got);
}

static void judge_codes(judging *j)
{
    const dt_tile_half *h = j->half;
    for (int64_t r = 0; r < h->rows; r++)
        for (int64_t g = 0; g < groups_of(h); g++) {
            const group e = group_of(j, r, g);
            const place step = step_of(j, &e, r);
            for (int64_t c = g * h->group; c < (g + 1) * h->group; c++)
                judge_code(j, r, c, &e, step);
        }
}

/* ---- what it stands for ---------------------------------------------------------------------------------- */

typedef struct stored {
    double code;
    number scale, zero, col;
} stored;

static stored stored_at(const judging *j, const uint8_t *record, int64_t r, int64_t c)
{
    const dt_tile_half *h = j->half;
    return (stored){.code = (double)code_at(j, record, r, c),
                    .scale = read_number(h, record + scale_at(h, h->scale, r, c / h->group)),
                    .zero = read_number(h, record + scale_at(h, h->zero, r, c / h->group)),
                    .col = h->is_balanced ? read_number(h, record + h->col + 2 * c) : (number){.value = 1}};
}

static double decoded(const stored *e)
{
    return (e->code * e->scale.value + e->zero.value) * e->col.value;
}

static uint32_t bits_of(double x)
{
    return (uint32_t)kv_f2bits((float)x);
}

static void judge_decoded(judging *j, int64_t r, int64_t c)
{
    const double x = at(j->half, r, c), n = levels(j);
    const stored e = stored_at(j, j->got, r, c), ref = stored_at(j, j->ref, r, c);
    const double value = decoded(&e), right = decoded(&ref), size = absolute(e.scale.value),
                 col = absolute(e.col.value);
    const double scale = size + e.scale.unit, zero = absolute(e.zero.value) + e.zero.unit, wide = col + e.col.unit;
    const double quotient = quotient_error(j, r, c) + again(j) + 4 * DT_U, flushed = (n + 4) * DT_UNDERFLOW * wide;
    const double rounded = absolute(x) * quotient + DT_U * (12 * n * scale + 6 * zero) * wide + flushed;
    const double halves = (e.code * e.scale.unit + e.zero.unit + e.scale.unit / 2) * wide +
                          (absolute(e.code * e.scale.value + e.zero.value) + size / 2) * e.col.unit;
    if (absolute(value - x) > j->d.max_abs) j->d.max_abs = absolute(value - x);
    j->squares += right * right;
    j->errors += (value - right) * (value - right);
    if (e.scale.is_clamped || e.zero.is_clamped || e.col.is_clamped)
        j->index++;
    else
        judge(j, x, size * col / 2 + halves, rounded, value, bits_of(right), bits_of(value));
}

static void judge_round(judging *j)
{
    judge_codes(j);
    judge_scales(j);
    for (int64_t r = 0; r < j->half->rows; r++)
        for (int64_t c = 0; c < j->half->cols; c++)
            judge_decoded(j, r, c);
}

/* ---- the record ----------------------------------------------------------------------------------------------------
 * */

static int is_better(const dt_op_difference *a, const dt_op_difference *b)
{
    return a->n_bad != b->n_bad ? a->n_bad < b->n_bad : a->max_ratio < b->max_ratio;
}

/* One half by the round that suits it most. */
static judging best_round(const dt_tile_half *h, const dt_tile_round *rounds, int64_t iters, const uint8_t *ref,
                          const uint8_t *got, int64_t index)
{
    judging best = {.index = index};
    for (int64_t k = 0, first = 1; k <= iters; k++) {
        judging j = {.half = h, .round = &rounds[k], .ref = ref, .got = got, .index = index, .d.worst_index = index};
        if (!rounds[k].is_legal) continue;
        judge_round(&j);
        if (first || is_better(&j.d, &best.d)) best = j;
        first = 0;
    }
    return best;
}

/* Adds one half's difference to that of the halves before it. */
static void merge(dt_op_difference *to, const dt_op_difference *d, int slot)
{
    const int is_first_bad = d->n_bad && !to->n_bad, is_worst = d->max_ratio > to->max_ratio || to->worst_index < 0;
    if (is_first_bad) to->bad_slot = slot, to->bad_index = d->bad_index, to->bad_bound = d->bad_bound;
    if (is_first_bad || (is_worst && !to->n_bad)) {
        to->ref_value = d->ref_value;
        to->got_value = d->got_value;
        to->ref_bits = d->ref_bits;
        to->got_bits = d->got_bits;
    }
    if (is_worst) to->worst_slot = slot, to->worst_index = d->worst_index;
    to->n_elem += d->n_elem;
    to->n_bad += d->n_bad;
    to->n_nonfinite += d->n_nonfinite;
    to->n_informative += d->n_informative;
    to->max_ulp = d->max_ulp > to->max_ulp ? d->max_ulp : to->max_ulp;
    to->max_abs = larger(to->max_abs, d->max_abs);
    to->max_ratio = larger(to->max_ratio, d->max_ratio);
}

/* 999 of 1000 numbers are no farther from the reference's. */
static int64_t most_of(const int64_t far[256])
{
    int64_t all = 0, seen = 0, n = 0;
    for (int i = 0; i < 256; i++)
        all += far[i];
    while (n < 255 && (seen += far[n]) < all - all / 1000)
        n++;
    return n;
}

void dt_tile_judge(const kvdk_tile_args *a, const dt_tile_round *rounds, const uint8_t *ref, const uint8_t *got,
                   int slot, dt_op_difference *d)
{
    int64_t index = a->record.dim[0], far[256] = {0};
    double squares = 0, errors = 0;
    *d = (dt_op_difference){.bad_slot = -1, .worst_slot = -1, .worst_index = -1};
    for (int half = 0; half < 2; half++, rounds += a->iters + 1) {
        const dt_tile_half h = dt_tile_half_of(a, half);
        const judging j = best_round(&h, rounds, a->iters, ref, got, index);
        merge(d, &j.d, slot);
        index = j.index;
        squares += j.squares;
        errors += j.errors;
        for (int i = 0; i < 256; i++)
            far[i] += j.far[i];
    }
    d->p999_ulp = most_of(far);
    d->nmse = squares > 0 ? errors / squares : errors > 0 ? (double)kv_inf() : 0;
}
