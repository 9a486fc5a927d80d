/* kernels_kvarn.h - the loops of storage kvarn (docs/policy/kvarn.md): rotation, balancing, reading of codes. Included by
 * kernels.c only. Attention on what is read here is in kernels_attn.h. */
#ifndef KV_REF_KERNELS_KVARN_H
#define KV_REF_KERNELS_KVARN_H

/* ---- rotation ------------------------------------------------------------------------------------------------- */

INLINE real hadamard_scale(int64_t n) { return (real)(1 / kv_dsqrt((double)n)); }

static void hadamard(real *x, int64_t n)
{
    for (int64_t h = 1; h < n; h *= 2)
        for (int64_t i = 0; i < n; i += 2 * h)
            for (int64_t j = i; j < i + h; j += h < 16 ? 1 : 16) {
                if (h < 16) {
                    const real a = x[j], b = x[j + h];
                    x[j] = a + b;
                    x[j + h] = a - b;
                } else {
                    const v16 a = v_load(x + j), b = v_load(x + j + h);
                    v_store(x + j, v_add(a, b));
                    v_store(x + j + h, v_sub(a, b));
                }
            }
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * hadamard_scale(n);
}

static void hadamard_panel(real *x, int64_t n)
{
    const v16 scale = v_set1(hadamard_scale(n));
    for (int64_t h = 1; h < n; h *= 2)
        for (int64_t i = 0; i < n; i++) {
            if (i & h) continue;
            const v16 a = v_load(x + 16 * i), b = v_load(x + 16 * (i + h));
            v_store(x + 16 * i, v_add(a, b));
            v_store(x + 16 * (i + h), v_sub(a, b));
        }
    for (int64_t i = 0; i < n; i++)
        v_store(x + 16 * i, v_mul(v_load(x + 16 * i), scale));
}

/* ---- balancing ------------------------------------------------------------------------------------------------- */

/* A matrix lies in both directions, so that the chain of every column and of every row is one lane. */
typedef struct balance_state {
    const ref_balance_job *job;
    int64_t stride, turned_stride;
    real *turned;             /* [cols][turned_stride] */
    real *cur;                /* room for either */
    real *log_col, *log_row;  /* logarithms of the scales */
    real *std_col, *std_row;
    real *exp_col, *exp_row;  /* the scales */
} balance_state;

/* Deviations of the columns of y, from sequential sums: docs/policy/kvarn.md. */
static void deviations(const real *y, int64_t rows, int64_t stride, real *std)
{
    const v16 n = v_set1((real)rows), n1 = v_set1((real)(rows - 1));
    for (int64_t c = 0, g; c < stride; c += 16 * g) {
        v16 sum[4], mean[4];
        g = ref_min(4, (stride - c) / 16);
        for (int64_t i = 0; i < g; i++)
            sum[i] = v_zero();
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < g; i++)
                sum[i] = v_add(sum[i], v_load(y + r * stride + c + 16 * i));
        for (int64_t i = 0; i < g; i++) {
            mean[i] = v_div(sum[i], n);
            sum[i] = v_zero();
        }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < g; i++) {
                const v16 d = v_sub(v_load(y + r * stride + c + 16 * i), mean[i]);
                sum[i] = v_add(sum[i], v_mul(d, d));
            }
        for (int64_t i = 0; i < g; i++)
            v_store(std + c + 16 * i, v_div(sum[i], n1));
    }
    for (int64_t c = 0; c < stride; c++)
        std[c] = r_sqrt(std[c]);
}

/* cur = (x / col) / row */
static void divide(const real *x, int64_t rows, int64_t stride, const real *col, const real *row, real *cur)
{
    for (int64_t r = 0; r < rows; r++) {
        const v16 by = v_set1(row[r]);
        for (int64_t c = 0; c < stride; c += 16)
            v_store(cur + r * stride + c, v_div(v_div(v_load(x + r * stride + c), v_load(col + c)), by));
    }
}

/* The same of the turned matrix: its rows are the columns. */
static void divide_turned(const real *x, int64_t cols, int64_t stride, const real *col, const real *row, real *cur)
{
    for (int64_t c = 0; c < cols; c++) {
        const v16 by = v_set1(col[c]);
        for (int64_t r = 0; r < stride; r += 16)
            v_store(cur + c * stride + r, v_div(v_div(v_load(x + c * stride + r), by), v_load(row + r)));
    }
}

/* Largest deviation over the smallest, of columns plus of rows. */
static real spread(const real *std, int64_t n)
{
    real most = std[0], least = std[0];
    for (int64_t i = 1; i < n; i++) {
        most = std[i] > most ? std[i] : most;
        least = std[i] < least ? std[i] : least;
    }
    return most / (least > (real)1e-8 ? least : (real)1e-8);
}

static real imbalance(const balance_state *s)
{
    return spread(s->std_col, s->job->cols) + spread(s->std_row, s->job->rows);
}

/* Inside [lo, hi]; lo for NaN. */
INLINE real bounded(real x, real lo, real hi) { return x > lo ? x < hi ? x : hi : lo; }

/* One step of the logarithms towards deviations of 1. */
static void follow(const real *std, int64_t n, real *log, real *scale)
{
    for (int64_t i = 0; i < n; i++) {
        const real d = bounded(std[i], (real)1e-3, (real)1e3);
        log[i] = bounded(log[i] + (real)kv_log_core((double)d), (real)-0.3, 10);
        scale[i] = (real)kv_exp_core((double)log[i]);
    }
}

static void balance_start(balance_state *s)
{
    const ref_balance_job *j = s->job;
    real *next = j->scratch;
    s->stride = ref_round_up(j->cols, 16);
    s->turned_stride = ref_round_up(j->rows, 16);
    s->turned = next;
    s->log_col = next += j->cols * s->turned_stride;
    s->std_col = next += s->stride;
    s->exp_col = next += s->stride;
    s->log_row = next += s->stride;
    s->std_row = next += s->turned_stride;
    s->exp_row = next += s->turned_stride;
    s->cur = next + s->turned_stride;
    for (int64_t c = 0; c < j->cols; c++)
        for (int64_t r = 0; r < s->turned_stride; r++)
            s->turned[c * s->turned_stride + r] = r < j->rows ? j->x[r * s->stride + c] : 0;
    for (int64_t c = 0; c < s->stride; c++) {
        s->log_col[c] = 0;
        s->exp_col[c] = j->col[c] = 1;
    }
    for (int64_t r = 0; r < s->turned_stride; r++) {
        s->log_row[r] = 0;
        s->exp_row[r] = j->row[r] = 1;
    }
    deviations(j->x, j->rows, s->stride, s->std_col);
    deviations(s->turned, j->cols, s->turned_stride, s->std_row);
}

/* Columns first, each time from the matrix itself; the deviations of a round's end serve its imbalance and the next round. */
static void balance_round(balance_state *s)
{
    const ref_balance_job *j = s->job;
    follow(s->std_col, j->cols, s->log_col, s->exp_col);
    divide_turned(s->turned, j->cols, s->turned_stride, s->exp_col, s->exp_row, s->cur);
    deviations(s->cur, j->cols, s->turned_stride, s->std_row);
    follow(s->std_row, j->rows, s->log_row, s->exp_row);
    divide_turned(s->turned, j->cols, s->turned_stride, s->exp_col, s->exp_row, s->cur);
    deviations(s->cur, j->cols, s->turned_stride, s->std_row);
    divide(j->x, j->rows, s->stride, s->exp_col, s->exp_row, s->cur);
    deviations(s->cur, j->rows, s->stride, s->std_col);
}

static void balance(const ref_balance_job *j)
{
    balance_state s = {.job = j};
    balance_start(&s);
    real best = imbalance(&s);
    if (j->imbalance) j->imbalance[0] = best;
    for (int32_t n = 1; n <= j->iters; n++) {
        balance_round(&s);
        const real i = imbalance(&s);
        if (j->imbalance) j->imbalance[n] = i;
        if (!(i <= best * j->slack)) continue;
        best = i;
        memcpy(j->col, s.exp_col, (size_t)j->cols * sizeof *j->col);
        memcpy(j->row, s.exp_row, (size_t)j->rows * sizeof *j->row);
    }
    divide(j->x, j->rows, s.stride, j->col, j->row, j->out);
}

/* ---- reading codes --------------------------------------------------------------------------------------------- */

enum { MOST_SCALES = 256 + 16 }; /* of channels, or of tokens times groups */

INLINE void widen(const uint8_t *halves, int64_t n, real *dst)
{
    for (int64_t i = 0; i < n; i += 16)
        v_store(dst + i, v_half(halves + 2 * i));
}

/* Keys of the first n tokens of a tile as panels [n/16][D][16], before the scale of a token. */
INLINE void read_keys_of(const int few, const ref_tiles *t, const uint8_t *record, int64_t n, real *panels)
{
    const kv_kvarn_layout *l = &t->layout;
    const v_reader reader = v_reader_of(t->kbits, few);
    const int64_t D = l->D, step = 2 * t->kbits, row_bytes = l->k_row;
    const uint8_t *row = record + l->k_codes;
    real scale[MOST_SCALES], zero[MOST_SCALES];
    widen(record + l->k_scale, D, scale);
    widen(record + l->k_zero, D, zero);
    for (int64_t d = 0; d < D; d++, row += row_bytes) {
        const v_affine a = v_affine_of(&reader, scale[d], zero[d]);
        for (int64_t p = 0; p < (n + 15) / 16; p++)
            v_store(panels + (p * D + d) * 16, v_decode(&reader, &a, row + step * p));
    }
}

static void read_keys(const ref_tiles *t, const uint8_t *record, int64_t n, real *panels)
{
    if (t->kbits <= 4)
        read_keys_of(1, t, record, n, panels);
    else
        read_keys_of(0, t, record, n, panels);
}

/* Values of the first n tokens of a tile as rows of dv, before the scale of a channel; what lies behind D is not used. */
INLINE void read_values_of(const int few, const ref_tiles *t, const uint8_t *record, int64_t n, int64_t dv, real *rows)
{
    const kv_kvarn_layout *l = &t->layout;
    const v_reader reader = v_reader_of(t->vbits, few);
    const int64_t group = l->v_group, groups = l->v_groups, step = 2 * t->vbits, row_bytes = l->v_row;
    real scale[MOST_SCALES], zero[MOST_SCALES];
    widen(record + l->v_scale, n * groups, scale);
    widen(record + l->v_zero, n * groups, zero);
    for (int64_t r = 0; r < n; r++) {
        const uint8_t *row = record + l->v_codes + r * row_bytes;
        for (int64_t d = 0; d < groups * group; d += 16, row += step) {
            const v_affine a = v_affine_of(&reader, scale[r * groups + d / group], zero[r * groups + d / group]);
            v_store(rows + r * dv + d, v_decode(&reader, &a, row));
        }
    }
}

static void read_values(const ref_tiles *t, const uint8_t *record, int64_t n, int64_t dv, real *rows)
{
    if (t->vbits <= 4)
        read_values_of(1, t, record, n, dv, rows);
    else
        read_values_of(0, t, record, n, dv, rows);
}

/* ---- few rows: codes are used where they are read ----------------------------------------------------------------- */

/* A whole tile read for a few rows would cost more to write and read again than to use. READ_WIDTH tokens or channels
 * are read side by side; they share a group of values. */
enum { READ_ROWS = 4, READ_WIDTH = 16 * CODE_GROUPS };

INLINE int reads_directly(const kv_kvarn_layout *l)
{
    return l->T % READ_WIDTH == 0 && l->D % READ_WIDTH == 0 && l->v_group % READ_WIDTH == 0;
}

INLINE void store_sums(const int rows, const v16 *acc, real *out, int64_t stride)
{
    UNROLL
    for (int i = 0; i < rows * CODE_GROUPS; i++)
        v_store(out + i / CODE_GROUPS * stride + 16 * (i % CODE_GROUPS), acc[i]);
}

/* out[i][j] = chain over channels of fma(q[i], key j of the tile, acc). */
INLINE void score_keys_of(const int rows, const int few, const ref_tiles *t, const uint8_t *record, const real *q,
                          real *out, int64_t stride)
{
    const kv_kvarn_layout *l = &t->layout;
    const v_reader reader = v_reader_of(t->kbits, few);
    const int64_t D = l->D, step = 2 * t->kbits, row_bytes = l->k_row, T = l->T;
    real scale[MOST_SCALES], zero[MOST_SCALES];
    widen(record + l->k_scale, D, scale);
    widen(record + l->k_zero, D, zero);
    for (int64_t j = 0; j < T; j += READ_WIDTH) {
        const uint8_t *row = record + l->k_codes + step * (j / 16);
        v16 acc[READ_ROWS * CODE_GROUPS];
        UNROLL
        for (int i = 0; i < rows * CODE_GROUPS; i++)
            acc[i] = v_zero();
        for (int64_t d = 0; d < D; d++, row += row_bytes) {
            const v_affine a = v_affine_of(&reader, scale[d], zero[d]);
            UNROLL
            for (int g = 0; g < CODE_GROUPS; g++) {
                const v16 k = v_decode(&reader, &a, row + step * g);
                UNROLL
                for (int i = 0; i < rows; i++)
                    acc[i * CODE_GROUPS + g] = v_fma(v_set1(q[i * D + d]), k, acc[i * CODE_GROUPS + g]);
            }
        }
        store_sums(rows, acc, out + j, stride);
    }
}

/* out[i][d] = chain over tokens of fma(p[i], value d, acc); rows of p and out are `lda` and dv apart. */
INLINE void weigh_values_of(const int rows, const int few, const ref_tiles *t, const uint8_t *record, const real *p,
                            int64_t lda, real *out, int64_t dv)
{
    const kv_kvarn_layout *l = &t->layout;
    const v_reader reader = v_reader_of(t->vbits, few);
    const int64_t groups = l->v_groups, step = 2 * t->vbits, row_bytes = l->v_row, T = l->T, D = l->D;
    real scale[MOST_SCALES], zero[MOST_SCALES];
    widen(record + l->v_scale, T * groups, scale);
    widen(record + l->v_zero, T * groups, zero);
    for (int64_t d = 0; d < D; d += READ_WIDTH) {
        const uint8_t *row = record + l->v_codes + step * (d / 16);
        const int64_t group = d / l->v_group;
        v16 acc[READ_ROWS * CODE_GROUPS];
        UNROLL
        for (int i = 0; i < rows * CODE_GROUPS; i++)
            acc[i] = v_zero();
        for (int64_t e = 0; e < T; e++, row += row_bytes) {
            const v_affine a = v_affine_of(&reader, scale[e * groups + group], zero[e * groups + group]);
            UNROLL
            for (int g = 0; g < CODE_GROUPS; g++) {
                const v16 v = v_decode(&reader, &a, row + step * g);
                UNROLL
                for (int i = 0; i < rows; i++)
                    acc[i * CODE_GROUPS + g] = v_fma(v_set1(p[i * lda + e]), v, acc[i * CODE_GROUPS + g]);
            }
        }
        store_sums(rows, acc, out + d, dv);
    }
}

#define ROWS_OF(f, few, ...)                                                                                       \
    switch (rows) {                                                                                                \
    case 1:                                                                                                        \
        f(1, few, __VA_ARGS__);                                                                                    \
        break;                                                                                                     \
    case 2:                                                                                                        \
        f(2, few, __VA_ARGS__);                                                                                    \
        break;                                                                                                     \
    case 3:                                                                                                        \
        f(3, few, __VA_ARGS__);                                                                                    \
        break;                                                                                                     \
    default:                                                                                                       \
        f(READ_ROWS, few, __VA_ARGS__);                                                                            \
        break;                                                                                                     \
    }

static void score_keys(int64_t rows, const ref_tiles *t, const uint8_t *record, const real *q, real *out, int64_t stride)
{
    if (t->kbits <= 4) {
        ROWS_OF(score_keys_of, 1, t, record, q, out, stride)
    } else {
        ROWS_OF(score_keys_of, 0, t, record, q, out, stride)
    }
}

static void weigh_values(int64_t rows, const ref_tiles *t, const uint8_t *record, const real *p, int64_t lda, real *out,
                         int64_t dv)
{
    if (t->vbits <= 4) {
        ROWS_OF(weigh_values_of, 1, t, record, p, lda, out, dv)
    } else {
        ROWS_OF(weigh_values_of, 0, t, record, p, lda, out, dv)
    }
}
#undef ROWS_OF

#endif
