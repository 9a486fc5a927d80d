/* kvarnnaive.h - docs/policy/kvarn.md as plain loops: what the reference's coding of tiles and its attention on codes must
 * equal in every bit. Written from that page, one element at a time. */
#ifndef KV_TESTS_KVARNNAIVE_H
#define KV_TESTS_KVARNNAIVE_H

#include "tests/unit/refnaive.h"

#include "common/numfmt.h"
#include "common/tile.h"

enum { KVARN_MOST = 256 * 128 };

/* A matrix and its scales; tiles of one KV head use two. */
typedef struct kvarn_matrix {
    int64_t rows, cols;
    real x[KVARN_MOST], cur[KVARN_MOST];
    real col[256], row[256]; /* best scales */
} kvarn_matrix;

KV_UNUSED_TEST_HELPER void kvarn_rotate(real *x, int64_t D)
{
    for (int64_t h = 1; h < D; h *= 2)
        for (int64_t i = 0; i < D; i++)
            if (!(i & h)) {
                const real a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
    for (int64_t i = 0; i < D; i++)
        x[i] = x[i] * (real)(1.0 / kv_dsqrt((double)D));
}

KV_UNUSED_TEST_HELPER real kvarn_std(const real *v, int64_t n, int64_t step)
{
    real sum = 0, s = 0;
    for (int64_t i = 0; i < n; i++)
        sum = sum + v[i * step];
    const real mean = sum / (real)n;
    for (int64_t i = 0; i < n; i++) {
        const real d = v[i * step] - mean, dd = d * d;
        s = s + dd;
    }
    return NAIVE_SQRT(s / (real)(n - 1));
}

/* axis 0: columns, 1: rows */
KV_UNUSED_TEST_HELPER real kvarn_line_std(const kvarn_matrix *m, int axis, int64_t i)
{
    return axis ? kvarn_std(m->cur + i * m->cols, m->cols, 1) : kvarn_std(m->cur + i, m->rows, m->cols);
}

KV_UNUSED_TEST_HELPER real kvarn_imbalance(const kvarn_matrix *m)
{
    real total = 0;
    for (int axis = 0; axis < 2; axis++) {
        real most = kvarn_line_std(m, axis, 0), least = most;
        for (int64_t i = 1; i < (axis ? m->rows : m->cols); i++) {
            const real s = kvarn_line_std(m, axis, i);
            if (s > most) most = s;
            if (s < least) least = s;
        }
        if (least < (real)1e-8) least = (real)1e-8;
        total = axis ? total + most / least : most / least;
    }
    return total;
}

KV_UNUSED_TEST_HELPER void kvarn_divide(kvarn_matrix *m, const real *col, const real *row)
{
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            m->cur[r * m->cols + c] = (m->x[r * m->cols + c] / col[c]) / row[r];
}

KV_UNUSED_TEST_HELPER void kvarn_follow(const kvarn_matrix *m, int axis, real *log, real *scale)
{
    for (int64_t i = 0; i < (axis ? m->rows : m->cols); i++) {
        real s = kvarn_line_std(m, axis, i);
        if (!(s > (real)1e-3)) s = (real)1e-3; /* NaN too */
        if (s > (real)1e3) s = (real)1e3;
        log[i] = log[i] + (real)kv_log_core((double)s);
        if (!(log[i] > (real)-0.3)) log[i] = (real)-0.3;
        if (log[i] > 10) log[i] = 10;
        scale[i] = (real)kv_exp_core((double)log[i]);
    }
}

/* trace: [iters + 1], or NULL. Afterwards cur is the balanced matrix. */
KV_UNUSED_TEST_HELPER void kvarn_balance(kvarn_matrix *m, int iters, int rel, real *trace)
{
    real lc[256] = {0}, lr[256] = {0}, ec[256], er[256];
    for (int64_t i = 0; i < 256; i++)
        m->col[i] = m->row[i] = ec[i] = er[i] = 1;
    memcpy(m->cur, m->x, sizeof m->cur);
    real best = kvarn_imbalance(m);
    if (trace) trace[0] = best;
    for (int n = 1; n <= iters; n++) {
        kvarn_follow(m, 0, lc, ec);
        kvarn_divide(m, ec, er);
        kvarn_follow(m, 1, lr, er);
        kvarn_divide(m, ec, er);
        const real i = kvarn_imbalance(m);
        if (trace) trace[n] = i;
        if (rel ? i <= best * (real)1.00001 : i <= best) {
            best = i;
            memcpy(m->col, ec, sizeof ec);
            memcpy(m->row, er, sizeof er);
        }
    }
    kvarn_divide(m, m->col, m->row);
}

KV_UNUSED_TEST_HELPER real kvarn_rint(real y)
{
    const real big = REF_BITS == 32 ? 8388608 : 4503599627370496.0, a = y < 0 ? -y : y;
    if (!(a < big)) return y;
    return y < 0 ? -((a + big) - big) : (a + big) - big;
}

/* One rounding to half, in double, too: to an integer multiple of the step of its binade. */
KV_UNUSED_TEST_HELPER uint16_t kvarn_half(real x)
{
    if (x > 65504) x = 65504;
    if (x < -65504) x = -65504;
    if (REF_BITS == 32) return kv_f2f16((float)x);
    const double a = x < 0 ? -(double)x : (double)x;
    int e = -14;
    while (e < 15 && a >= kv_dpow2(e + 1))
        e++;
    const double step = kv_dpow2(e - 10), n = (a / step + 0x1p52) - 0x1p52;
    return (uint16_t)(kv_f2f16((float)(n * step)) | (__builtin_signbit(x) ? 0x8000 : 0));
}

/* One group of a row: its codes, scale and zero before they are folded. */
KV_UNUSED_TEST_HELPER void kvarn_group(const real *x, int64_t n, int bits, int dialect, uint32_t *codes, real *s, real *z)
{
    const real top = (real)((1 << bits) - 1);
    real lo = x[0], hi = x[0];
    for (int64_t i = 0; i < n; i++) {
        if (naive_key(x[i]) < naive_key(lo)) lo = x[i];
        if (naive_key(x[i]) > naive_key(hi)) hi = x[i];
    }
    if (dialect == KV_KVARN_A) {
        *s = (hi - lo) / top;
        if (!(*s > (real)1e-10)) *s = (real)1e-10;
        *z = lo;
    } else {
        real s0 = (hi - lo) / top;
        if (!(s0 > (real)1e-7)) s0 = (real)1e-7;
        const int low = (lo < 0 ? -lo : lo) > (hi < 0 ? -hi : hi);
        const real edge = low ? lo : hi;
        *s = low ? s0 : -s0;
        const real q0 = kvarn_rint(edge / *s);
        *z = q0 != 0 ? edge : 0;
        if (q0 != 0) *s = edge / q0;
    }
    for (int64_t i = 0; i < n; i++) {
        const real q = kvarn_rint((x[i] - *z) / *s);
        codes[i] = q >= top ? (uint32_t)top : q > 0 ? (uint32_t)q : 0; /* 0 for NaN */
    }
}

/* The K or V half of a record from rows [T][D] of one KV head. */
KV_UNUSED_TEST_HELPER void kvarn_code(const kv_kvarn_params *p, const kv_kvarn_layout *l, int values, const real *rows,
                                      uint8_t *record, kvarn_matrix *m, real *trace)
{
    const int64_t group = values ? l->v_group : l->T, per_row = values ? l->v_groups : 1;
    const int bits = values ? p->vbits : p->kbits;
    m->rows = values ? l->T : l->D;
    m->cols = values ? l->D : l->T;
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            m->x[r * m->cols + c] = values ? rows[r * l->D + c] : rows[c * l->D + r];
    kvarn_balance(m, p->iters, p->tie == KV_TIE_REL, trace);
    uint8_t *codes = record + (values ? l->v_codes : l->k_codes);
    uint16_t *scale = (uint16_t *)(void *)(record + (values ? l->v_scale : l->k_scale));
    uint16_t *zero = (uint16_t *)(void *)(record + (values ? l->v_zero : l->k_zero));
    uint16_t *col = (uint16_t *)(void *)(record + (values ? l->v_col : l->k_col));
    const int64_t row_bytes = values ? l->v_row : l->k_row;
    memset(codes, 0, (size_t)(m->rows * row_bytes));
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t g = 0; g < per_row; g++) {
            uint32_t q[256];
            real s, z;
            kvarn_group(m->cur + r * m->cols + g * group, group, bits, p->dialect, q, &s, &z);
            for (int64_t i = 0; i < group; i++)
                for (int b = 0; b < bits; b++) /* bit by bit: the stream of common/tile.h */
                    if (q[i] >> b & 1) {
                        const int64_t at = (g * group + i) * bits + b;
                        codes[r * row_bytes + at / 8] |= (uint8_t)(1 << at % 8);
                    }
            scale[r * per_row + g] = kvarn_half(s * m->row[r]);
            zero[r * per_row + g] = kvarn_half(z * m->row[r]);
        }
    for (int64_t c = 0; c < m->cols; c++)
        col[c] = kvarn_half(m->col[c]);
}

/* What code k of a row stands for: w * S + Z. */
KV_UNUSED_TEST_HELPER real kvarn_value(const uint8_t *row, int64_t k, int bits, const uint8_t *scale, const uint8_t *zero)
{
    uint32_t w = 0;
    uint16_t s, z;
    for (int b = 0; b < bits; b++)
        w |= (uint32_t)(row[(k * bits + b) / 8] >> (k * bits + b) % 8 & 1) << b;
    memcpy(&s, scale, sizeof s);
    memcpy(&z, zero, sizeof z);
    const real product = (real)w * (real)kv_f162f(s);
    return product + (real)kv_f162f(z);
}

KV_UNUSED_TEST_HELPER real kvarn_half_at(const uint8_t *halves, int64_t i)
{
    uint16_t h;
    memcpy(&h, halves + 2 * i, sizeof h);
    return (real)kv_f162f(h);
}

/* One query row, multiplied by the scale, over n entries: tiles[t / T], then rows of the tail. Not turned back. */
KV_UNUSED_TEST_HELPER void kvarn_attention(const kv_kvarn_params *p, const kv_kvarn_layout *l, const real *q,
                                           const uint8_t *const *tiles, int64_t n_tiles, const real *tail_k,
                                           const real *tail_v, int64_t n, real *out)
{
    const int64_t T = l->T, D = l->D, chunks = (n + 255) / 256;
    real *m = calloc((size_t)chunks, sizeof *m), *sum = calloc((size_t)chunks, sizeof *sum);
    real *o = calloc((size_t)(chunks * D), sizeof *o);
    assert_true(m && sum && o);
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t v0 = 256 * c, len = n - v0 < 256 ? n - v0 : 256;
        real s[256];
        for (int64_t i = 0; i < len; i++) {
            const int64_t v = v0 + i, t = v / T, j = v % T;
            real acc = 0;
            for (int64_t d = 0; d < D; d++)
                acc = NAIVE_FMA(q[d], t < n_tiles ? kvarn_value(tiles[t] + l->k_codes + d * l->k_row, j, p->kbits,
                                                                 tiles[t] + l->k_scale + 2 * d, tiles[t] + l->k_zero + 2 * d)
                                                  : tail_k[(v - n_tiles * T) * D + d], acc);
            s[i] = t < n_tiles ? acc * kvarn_half_at(tiles[t] + l->k_col, j) : acc;
        }
        m[c] = naive_max(s, len);
        for (int64_t i = 0; i < len; i++) {
            s[i] = NAIVE_EXP(s[i] - m[c]);
            sum[c] = sum[c] + s[i];
        }
        for (int64_t v = v0; v < v0 + len; v = (v / T + 1) * T)
            for (int64_t d = 0; d < D; d++) {
                const int64_t t = v / T, end = (t + 1) * T < v0 + len ? (t + 1) * T : v0 + len, g = d / l->v_group;
                real a = 0;
                for (int64_t e = v; e < end; e++) {
                    const int64_t at = (e % T) * l->v_groups + g;
                    a = NAIVE_FMA(s[e - v0],
                                  t < n_tiles ? kvarn_value(tiles[t] + l->v_codes + e % T * l->v_row, d, p->vbits,
                                                            tiles[t] + l->v_scale + 2 * at, tiles[t] + l->v_zero + 2 * at)
                                              : tail_v[(e - n_tiles * T) * D + d], a);
                }
                real *sumd = &o[c * D + d];
                *sumd = t < n_tiles ? NAIVE_FMA(a, kvarn_half_at(tiles[t] + l->v_col, d), *sumd) : *sumd + a;
            }
    }
    const real M = naive_max(m, chunks);
    real L = 0;
    for (int64_t c = 0; c < chunks; c++)
        L = NAIVE_FMA(sum[c], NAIVE_EXP(m[c] - M), L);
    for (int64_t d = 0; d < D; d++) {
        real O = 0;
        for (int64_t c = 0; c < chunks; c++)
            O = NAIVE_FMA(o[c * D + d], NAIVE_EXP(m[c] - M), O);
        out[d] = O / L + 0;
    }
    free(m);
    free(sum);
    free(o);
}

#endif
