/* tiles.h - coded tiles for naive.c: halves, bit streams, balancing, all by the words of docs/policy/kvarn.md. BUG and
 * real as there. REORDERED: sums in eight chains, fma, reciprocals, exponentials in fp32: what a GPU makes of it. */
#ifndef KV_TESTS_KERNELS_TILES_H
#define KV_TESTS_KERNELS_TILES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static double half_value(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double x = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return h & 0x8000 ? -x : x;
}

/* Where the parts of a record lie (docs/policy/kvarn.md, "Record"). */
typedef struct layout {
    int64_t T, D, g, k_row, v_row, k_codes, k_s, k_z, k_c, v_codes, v_c, v_s, v_z, bytes;
} layout;

static layout layout_of(int64_t T, int64_t D, int64_t kbits, int64_t vbits)
{
    layout l = {.T = T, .D = D, .g = D <= 128 ? D : 128, .k_row = T * kbits / 8, .v_row = D * vbits / 8};
    l.k_s = D * l.k_row;
    l.k_z = l.k_s + 2 * D;
    l.k_c = l.k_z + 2 * D;
    l.v_codes = l.k_c + 2 * T;
    l.v_c = l.v_codes + T * l.v_row;
    l.v_s = l.v_c + 2 * D;
    l.v_z = l.v_s + 2 * T * (D / l.g);
    l.bytes = l.v_z + 2 * T * (D / l.g);
    return l;
}

static int bit_of(int64_t index)
{
    return (int)(BUG(nibble_order) ? index % 8 ^ 4 : index % 8);
}

static void put_code(uint8_t *row, int64_t i, int64_t bits, uint32_t code)
{
    for (int64_t b = 0; b < bits; b++)
        if (code >> b & 1) row[(i * bits + b) / 8] = (uint8_t)(row[(i * bits + b) / 8] | 1u << bit_of(i * bits + b));
}

static double get_code(const uint8_t *row, int64_t i, int64_t bits)
{
    double code = 0;
    for (int64_t b = bits - 1; b >= 0; b--)
        code = 2 * code + (row[(i * bits + b) / 8] >> bit_of(i * bits + b) & 1);
    return code;
}

static uint16_t to_half(real x)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const double y = fabs((double)x) > 65504 ? 65504 : fabs((double)x);
    int exponent;
    frexp(y, &exponent);
    if (y < 0x1p-14) return (uint16_t)(sign | (uint16_t)nearbyint(ldexp(y, 24)));
    const double m = nearbyint(ldexp(y, 11 - exponent)); /* 1024 .. 2048 */
    return (uint16_t)(sign | (uint16_t)(m - 1024 + 1024 * (exponent + 14)));
}

static void put_half(uint8_t *p, int64_t i, real x)
{
    const uint16_t h = to_half(x);
    memcpy(p + 2 * i, &h, 2);
}

static double get_half(const uint8_t *p, int64_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, 2);
    return half_value(h);
}

/* A matrix that is being balanced. */
typedef struct matrix {
    int64_t rows, cols;
    real x[128 * 256], now[128 * 256], col[256], row[256], best_col[256], best_row[256];
} matrix;

#ifdef REORDERED
#    define CHAINS       8
#    define ADD(a, b, c) fmaf(b, c, a) /* a + b c */
#    define DIVIDE(a, b) ((a) * (1 / (b)))
#    define EXP(x)       expf(x)
#    define LOG(x)       logf(x)
#else
#    define CHAINS       1
#    define ADD(a, b, c) ((a) + (b) * (c))
#    define DIVIDE(a, b) ((a) / (b))
#    define EXP(x)       ((real)exp((double)(x)))
#    define LOG(x)       ((real)log((double)(x)))
#endif

static real fold(const real *chain)
{
    real sum = chain[0];
    for (int i = 1; i < CHAINS; i++)
        sum = chain[i] + sum;
    return sum;
}

static real deviation(const real *v, int64_t n, int64_t step)
{
    real sum[CHAINS] = {0}, squares[CHAINS] = {0};
    for (int64_t i = 0; i < n; i++)
        sum[i % CHAINS] += v[i * step];
    const real mean = fold(sum) / (real)n;
    for (int64_t i = 0; i < n; i++) {
        const real d = v[i * step] - mean;
        squares[i % CHAINS] = ADD(squares[i % CHAINS], d, d);
    }
    return (real)sqrt((double)(fold(squares) / (real)(n - (BUG(tile_std) ? 0 : 1))));
}

static real line(const matrix *m, int by_row, int64_t i)
{
    return by_row ? deviation(m->now + i * m->cols, m->cols, 1) : deviation(m->now + i, m->rows, m->cols);
}

static real imbalance(const matrix *m)
{
    real total = 0;
    for (int by_row = 0; by_row < 2; by_row++) {
        real most = line(m, by_row, 0), least = most;
        for (int64_t i = 1; i < (by_row ? m->rows : m->cols); i++) {
            const real s = line(m, by_row, i);
            most = s > most ? s : most;
            least = s < least ? s : least;
        }
        const real ratio = most / (least > 1e-8f ? least : 1e-8f);
        total = by_row ? total + ratio : ratio;
    }
    return total;
}

static void divide(matrix *m, const real *col, const real *row)
{
    for (int64_t i = 0; i < m->rows * m->cols; i++) {
        const real x = DIVIDE(m->x[i], col[i % m->cols]);
        m->now[i] = DIVIDE(x, row[i / m->cols]);
    }
}

/* One half of a round: logarithms of the columns or the rows, and the matrix divided by what they say. */
static void improve(matrix *m, int by_row, real *lc, real *lr)
{
    real *l = by_row ? lr : lc, add[256];
    for (int64_t i = 0; i < (by_row ? m->rows : m->cols); i++) {
        real s = line(m, by_row, i);
        s = s > 1e-3f ? s < 1e3f ? s : 1e3f : 1e-3f;
        add[i] = l[i] + LOG(s);
        add[i] = add[i] > -0.3f ? add[i] < 10 ? add[i] : 10 : -0.3f;
    }
    memcpy(l, add, (size_t)(by_row ? m->rows : m->cols) * sizeof *l);
    for (int64_t i = 0; i < m->cols; i++)
        m->col[i] = EXP(lc[i]);
    for (int64_t i = 0; i < m->rows; i++)
        m->row[i] = EXP(lr[i]);
    divide(m, m->col, m->row);
}

static void balance(matrix *m, int64_t iters)
{
    real lc[256] = {0}, lr[256] = {0};
    for (int i = 0; i < 256; i++)
        m->best_col[i] = m->best_row[i] = 1;
    memcpy(m->now, m->x, sizeof m->x);
    real best = imbalance(m);
    for (int64_t n = 0; n < iters; n++) {
        improve(m, 0, lc, lr);
        improve(m, 1, lc, lr);
        const real now = imbalance(m);
        if (!(now <= best)) continue;
        best = now;
        memcpy(m->best_col, m->col, sizeof m->col);
        memcpy(m->best_row, m->row, sizeof m->row);
    }
    divide(m, m->best_col, m->best_row);
}

/* Parts of a record that a matrix goes to. */
typedef struct target {
    uint8_t *codes, *scale, *zero, *col;
    int64_t row_bytes, bits, group;
} target;

static int below(real a, real b)
{
    return a < b || (a == b && signbit(a) && !signbit(b));
}

/* Steps of s from lo to x, which become the code. */
static real steps(real x, real lo, real s)
{
#ifdef REORDERED
    return fmaf(x, 1 / s, -lo * (1 / s));
#else
    return (x - lo) / s;
#endif
}

static uint32_t code_of(real v, real n)
{
    const real q = BUG(tile_truncate) ? floor(v) : (real)nearbyint((double)v);
    return (uint32_t)(q > 0 ? q < n ? q : n : 0);
}

static void code_group(const matrix *m, const target *to, int64_t r, int64_t g)
{
    const int64_t first = BUG(tile_group) && g + to->group < m->cols * m->rows - 1 ? 1 : 0;
    const real *x = m->now + r * m->cols + g, n = (real)((1 << to->bits) - 1), scale = m->best_row[r];
    real lo = x[first], hi = lo;
    for (int64_t i = first; i < to->group + first; i++) {
        if (below(x[i], lo)) lo = x[i];
        if (below(hi, x[i])) hi = x[i];
    }
    const real s0 = DIVIDE(hi - lo, n), s = s0 > 1e-10f ? s0 : 1e-10f;
    for (int64_t i = 0; i < to->group; i++)
        put_code(to->codes + r * to->row_bytes, g + i, to->bits, code_of(steps(x[i], lo, s), n));
    const int64_t at = r * (m->cols / to->group) + g / to->group;
    put_half(to->scale, BUG(tile_neighbour) ? at ^ 1 : at,
             (BUG(tile_half_twice) ? (real)half_value(to_half(s)) : s) * scale);
    put_half(to->zero, at, BUG(tile_zero) ? lo : BUG(tile_sign) ? -lo * scale : lo * scale);
}

static void code_matrix(const matrix *m, const target *to)
{
    memset(to->codes, 0, (size_t)(m->rows * to->row_bytes));
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t g = 0; g < m->cols; g += to->group)
            code_group(m, to, r, g);
    for (int64_t i = 0; i < m->cols; i++)
        put_half(to->col, i, m->best_col[i]);
}

/* Codes and numbers of a kivi row: `groups` of n codes each; scales and minima of a row lie side by side. */
typedef struct kivi_row {
    uint8_t *codes, *scale, *min;
    int64_t n, groups, bits;
} kivi_row;

/* Group g of numbers x, `step` apart. docs/policy/kivi.md. */
static void code_kivi(const float *x, int64_t step, const kivi_row *row, int64_t g)
{
    const int64_t first = BUG(tile_group) ? 1 : 0, own = BUG(tile_neighbour) && row->groups > 1 ? g ^ 1 : g;
    const real n = (real)((1 << row->bits) - 1);
    real lo = (real)x[first * step], hi = lo;
    for (int64_t i = first; i < row->n; i++) {
        if (below((real)x[i * step], lo)) lo = (real)x[i * step];
        if (below(hi, (real)x[i * step])) hi = (real)x[i * step];
    }
    const real s = DIVIDE(hi - lo, n);
    for (int64_t i = 0; i < row->n; i++)
        put_code(row->codes, g * row->n + i, row->bits, s > 0 ? code_of(steps((real)x[i * step], lo, s), n) : 0);
    const float scale = (float)(BUG(tile_half_twice) ? (real)half_value(to_half(s)) : s);
    const float least = (float)(BUG(tile_sign) ? -lo : lo);
    memcpy(row->scale + 4 * own, &scale, 4);
    memcpy(row->min + 4 * g, &least, 4);
}

#endif
