/* kvarn.c - tiles of docs/policy/kvarn.md. The order of operations is the page's, not the side's own: the best
 * round of balancing is found by comparing numbers that differ in the last bits only, so another order would
 * choose other scales. */
#include "gpu/blas/blas.h"

#include "common/math.h"
#include "common/numfmt.h"
#include "common/tile.h"

#include <string.h>

void blas_hadamard(float *x, int64_t D)
{
    const float scale = (float)(1.0 / kv_dsqrt((double)D));
    for (int64_t h = 1; h < D; h *= 2)
        for (int64_t i = 0; i < D; i += 2 * h)
            for (int64_t j = i; j < i + h; j++) {
                const float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
    for (int64_t i = 0; i < D; i++)
        x[i] *= scale;
}

/* ---- balancing ------------------------------------------------------------------------------------------ */

typedef struct matrix {
    int64_t rows, cols;
    const float *x; /* [rows][cols] as it came */
    float *cur;     /* x / column scales / row scales */
    float *log_row, *log_col;
    float *best_row, *best_col; /* scales */
} matrix;

static float deviation(const float *v, int64_t n, int64_t stride)
{
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++)
        sum += v[i * stride];
    const float mean = sum / (float)n;
    for (int64_t i = 0; i < n; i++) {
        const float d = v[i * stride] - mean;
        squares += d * d;
    }
    return kv_sqrt(squares / (float)(n - 1));
}

/* Largest over smallest deviation of n lines of `length` values. */
static float spread(const float *x, int64_t n, int64_t line, int64_t length, int64_t stride)
{
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        const float d = deviation(x + i * line, length, stride);
        lo = i == 0 || d < lo ? d : lo;
        hi = i == 0 || d > hi ? d : hi;
    }
    return hi / (lo < 1e-8f ? 1e-8f : lo);
}

static float imbalance(const matrix *m)
{
    const float columns = spread(m->cur, m->cols, 1, m->rows, m->cols);
    return columns + spread(m->cur, m->rows, m->cols, m->cols, 1);
}

static float log_scale(float before, float dev)
{
    const float clamped = dev < 1e-3f ? 1e-3f : dev > 1e3f ? 1e3f : dev;
    const float l = before + (float)kv_log_core((double)clamped);
    return l < -0.3f ? -0.3f : l > 10.0f ? 10.0f : l;
}

static float scale_of(float l)
{
    return (float)kv_exp_core((double)l);
}

static void divide(const matrix *m, const float *row, const float *col, float *out)
{
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            out[r * m->cols + c] = m->x[r * m->cols + c] / col[c] / row[r];
}

/* row and col: room for the scales of this round. */
static void divide_by_logs(const matrix *m, float *row, float *col)
{
    for (int64_t r = 0; r < m->rows; r++)
        row[r] = scale_of(m->log_row[r]);
    for (int64_t c = 0; c < m->cols; c++)
        col[c] = scale_of(m->log_col[c]);
    divide(m, row, col, m->cur);
}

static void balance(matrix *m, const kv_kvarn_params *p)
{
    float row[KV_MAX_HEAD_DIM], col[KV_MAX_HEAD_DIM];
    memcpy(m->cur, m->x, (size_t)(m->rows * m->cols) * sizeof *m->cur);
    for (int64_t r = 0; r < m->rows; r++) {
        m->log_row[r] = 0;
        m->best_row[r] = 1;
    }
    for (int64_t c = 0; c < m->cols; c++) {
        m->log_col[c] = 0;
        m->best_col[c] = 1;
    }
    float best = imbalance(m);
    for (int32_t round = 0; round < p->iters; round++) {
        for (int64_t c = 0; c < m->cols; c++)
            m->log_col[c] = log_scale(m->log_col[c], deviation(m->cur + c, m->rows, m->cols));
        divide_by_logs(m, row, col);
        for (int64_t r = 0; r < m->rows; r++)
            m->log_row[r] = log_scale(m->log_row[r], deviation(m->cur + r * m->cols, m->cols, 1));
        divide_by_logs(m, row, col);
        const float now = imbalance(m);
        if (!(now <= (p->tie == KV_TIE_REL ? best * 1.00001f : best))) continue;
        memcpy(m->best_row, row, (size_t)m->rows * sizeof *row);
        memcpy(m->best_col, col, (size_t)m->cols * sizeof *col);
        best = now;
    }
    divide(m, m->best_row, m->best_col, m->cur);
}

/* ---- codes ------------------------------------------------------------------------------------------------ */

static void step_and_zero(float lo, float hi, float n, int32_t dialect, float *step, float *zero)
{
    if (dialect == KV_KVARN_A) {
        const float s = (hi - lo) / n;
        *step = s < 1e-10f ? 1e-10f : s;
        *zero = lo;
        return;
    }
    const float s = (hi - lo) / n, s0 = s < 1e-7f ? 1e-7f : s;
    const int low = kv_bits2f(kv_f2bits(lo) & 0x7fffffff) > kv_bits2f(kv_f2bits(hi) & 0x7fffffff);
    const float edge = low ? lo : hi;
    *step = low ? s0 : -s0;
    *zero = 0;
    const float q0 = blas_rint(edge / *step);
    if (q0 == 0) return;
    *step = edge / q0;
    *zero = edge;
}

static void put_half(uint8_t *record, int64_t at, int64_t i, float x)
{
    const float c = x < -65504.0f ? -65504.0f : x > 65504.0f ? 65504.0f : x;
    const uint16_t h = kv_f2f16(c);
    memcpy(record + at + 2 * i, &h, sizeof h);
}

static float get_half(const uint8_t *record, int64_t at, int64_t i)
{
    uint16_t h;
    memcpy(&h, record + at + 2 * i, sizeof h);
    return kv_f162f(h);
}

/* Where the parts of one matrix lie in the record: rows of codes, scale and zero of each group, column scales. */
typedef struct place {
    int32_t codes, row_bytes, scale, zero, col, group, bits;
} place;

static void encode_matrix(const matrix *m, const place *at, int32_t dialect, uint8_t *record)
{
    const float n = (float)((1 << at->bits) - 1);
    const int64_t groups = m->cols / at->group;
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t g = 0; g < groups; g++) {
            const float *x = m->cur + r * m->cols + g * at->group;
            float lo, hi, step, zero;
            blas_range(x, 1, at->group, &lo, &hi);
            step_and_zero(lo, hi, n, dialect, &step, &zero);
            for (int32_t i = 0; i < at->group; i++) {
                const float q = blas_rint((x[i] - zero) / step);
                kv_code_put(record + at->codes + r * at->row_bytes, (int32_t)g * at->group + i, at->bits,
                            (uint32_t)(q > 0 ? q < n ? q : n : 0.0f));
            }
            put_half(record, at->scale, r * groups + g, step * m->best_row[r]);
            put_half(record, at->zero, r * groups + g, zero * m->best_row[r]);
        }
    for (int64_t c = 0; c < m->cols; c++)
        put_half(record, at->col, c, m->best_col[c]);
}

static place place_k(const kv_policy *p, const kv_kvarn_layout *l)
{
    return (place){l->k_codes, l->k_row, l->k_scale, l->k_zero, l->k_col, l->T, p->kvarn.kbits};
}

static place place_v(const kv_policy *p, const kv_kvarn_layout *l)
{
    return (place){l->v_codes, l->v_row, l->v_scale, l->v_zero, l->v_col, l->v_group, p->kvarn.vbits};
}

void blas_kvarn_encode(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record)
{
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p->kvarn, (int32_t)D);
    const int64_t T = l.T;
    float *turned = scratch, *cur = turned + T * D, *rows = cur + T * D, *cols = rows + 2 * (T > D ? T : D);
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < D; c++)
            turned[c * T + t] = k[t * D + c];
    matrix mk = {D, T, turned, cur, rows, cols, rows + D, cols + T};
    const place at_k = place_k(p, &l), at_v = place_v(p, &l);
    balance(&mk, &p->kvarn);
    encode_matrix(&mk, &at_k, p->kvarn.dialect, record);
    matrix mv = {T, D, v, cur, rows, cols, rows + T, cols + D};
    balance(&mv, &p->kvarn);
    encode_matrix(&mv, &at_v, p->kvarn.dialect, record);
}

static float decode(const uint8_t *record, const place *at, int64_t groups, int64_t r, int64_t c)
{
    const int64_t g = r * groups + c / at->group;
    const float code = (float)kv_code_get(record + at->codes + r * at->row_bytes, (int32_t)c, at->bits);
    const float product = code * get_half(record, at->scale, g);
    return (product + get_half(record, at->zero, g)) * get_half(record, at->col, c);
}

void blas_kvarn_decode(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v)
{
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p->kvarn, (int32_t)D);
    const place at_k = place_k(p, &l), at_v = place_v(p, &l);
    for (int64_t t = 0; t < l.T; t++)
        for (int64_t c = 0; c < D; c++) {
            k[t * D + c] = decode(record, &at_k, 1, c, t);
            v[t * D + c] = decode(record, &at_v, l.v_groups, t, c);
        }
}
