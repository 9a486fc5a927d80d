/* kvarn.c - from a balanced matrix to codes and halves; kvarn.h. */
#include "ref/storage/kvarn.h"

#include "common/numfmt.h"
#include "ref/storage/code.h"

#include <string.h>

/* Codes of some rows: `group` columns share a scale and a zero. */
typedef struct code_rows {
    const real *row_scale;
    int64_t rows, cols, stride, group;
    int32_t bits, dialect;
    uint8_t *codes, *scale, *zero; /* [rows][row_bytes]; [rows][cols / group] halves */
    int64_t row_bytes;
} code_rows;

static void put_half(uint8_t *halves, int64_t i, real x)
{
    const real limit = 65504;
    const uint16_t h = kv_f2f16(r_narrow(x > limit ? limit : x < -limit ? -limit : x));
    memcpy(halves + 2 * i, &h, sizeof h);
}

typedef struct affine {
    real scale, zero;
} affine;

/* Dialect A: from the least value upwards. */
static affine from_least(real lo, real hi, real n)
{
    const real s = (hi - lo) / n;
    return (affine){s > (real)1e-10 ? s : (real)1e-10, lo};
}

/* Dialect B: zero and the edge that is farther from it are exact; the scale may be negative. */
static affine snapped(real lo, real hi, real n)
{
    const real s0 = (hi - lo) / n, s1 = s0 > (real)1e-7 ? s0 : (real)1e-7;
    const int low = (lo < 0 ? -lo : lo) > (hi < 0 ? -hi : hi);
    const real edge = low ? lo : hi, s = low ? s1 : -s1, q = ref_whole(edge / s);
    return q != 0 ? (affine){edge / q, edge} : (affine){s, 0};
}

static void code_group(const code_rows *j, const real *x, int64_t r, int64_t g)
{
    const real n = (real)((1 << j->bits) - 1);
    const int64_t at = r * (j->cols / j->group) + g;
    real lo, hi;
    ref_range_of(x, j->group, 1, &lo, &hi);
    const affine a = j->dialect == KV_KVARN_B ? snapped(lo, hi, n) : from_least(lo, hi, n);
    for (int64_t i = 0; i < j->group; i++)
        kv_code_put(j->codes + r * j->row_bytes, (int32_t)(g * j->group + i), j->bits,
                    ref_code(ref_whole((x[i] - a.zero) / a.scale), n));
    put_half(j->scale, at, a.scale * j->row_scale[r]);
    put_half(j->zero, at, a.zero * KV_MUT(F21, 1, j->row_scale[r]));
}

/* Balances the matrix at scratch, then codes it. */
static void code(const ref_kvarn_coder *c, code_rows *j, real *scratch, uint8_t *col_scale, real *imbalance)
{
    real *col, *row, *out = scratch;
    j->stride = ref_round_up(j->cols, 16);
    out += j->rows * j->stride;
    col = out + j->rows * j->stride;
    row = col + j->stride;
    const ref_balance_job b = {.x = scratch, .rows = j->rows, .cols = j->cols, .iters = c->params.iters,
                               .slack = c->params.tie == KV_TIE_REL ? (real)1.00001 : 1, .col = col, .row = row,
                               .scratch = row + ref_round_up(j->rows, 16), .out = out, .imbalance = imbalance};
    c->kernels->balance(&b);
    j->row_scale = row;
    j->dialect = c->params.dialect;
    memset(j->codes, 0, (size_t)(j->rows * j->row_bytes));
    for (int64_t r = 0; r < j->rows; r++)
        for (int64_t g = 0; g < j->cols / j->group; g++)
            code_group(j, out + r * j->stride + g * j->group, r, g);
    for (int64_t i = 0; i < j->cols; i++)
        put_half(col_scale, i, col[i]);
}

void REF(kvarn_code_keys)(const ref_kvarn_coder *c, real *scratch, uint8_t *record, real *imbalance)
{
    const kv_kvarn_layout *l = &c->layout;
    code_rows j = {.rows = l->D, .cols = l->T, .group = l->T, .bits = c->params.kbits, .codes = record + l->k_codes,
                   .row_bytes = l->k_row, .scale = record + l->k_scale, .zero = record + l->k_zero};
    code(c, &j, scratch, record + l->k_col, imbalance);
}

void REF(kvarn_code_values)(const ref_kvarn_coder *c, real *scratch, uint8_t *record, real *imbalance)
{
    const kv_kvarn_layout *l = &c->layout;
    code_rows j = {.rows = l->T, .cols = l->D, .group = l->v_group, .bits = c->params.vbits,
                   .codes = record + l->v_codes, .row_bytes = l->v_row, .scale = record + l->v_scale,
                   .zero = record + l->v_zero};
    code(c, &j, scratch, record + l->v_col, imbalance);
}

int64_t REF(kvarn_scratch)(const kv_kvarn_layout *l)
{
    const int64_t T = ref_round_up(l->T, 16), D = ref_round_up(l->D, 16);
    return 2 * T * D + T + D + ref_max(REF(balance_scratch)(l->T, l->D), REF(balance_scratch)(l->D, l->T));
}
