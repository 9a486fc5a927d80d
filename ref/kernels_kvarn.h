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
    return most / (least > (real)1e-8f ? least : (real)1e-8f);
}

static real imbalance(const balance_state *s)
{
    return spread(s->std_col, s->job->cols) + spread(s->std_row, s->job->rows);
}

/* One step of the logarithms towards deviations of 1; a NaN stays one and never wins. */
static void follow(const real *std, int64_t n, real *log, real *scale)
{
    for (int64_t i = 0; i < n; i++) {
        const real d = std[i] < (real)1e-3f ? (real)1e-3f : std[i] > (real)1e3f ? (real)1e3f : std[i];
        const real l = log[i] + (real)kv_log_core((double)d);
        log[i] = l < (real)-0.3f ? (real)-0.3f : l > 10 ? 10 : l;
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
static void read_keys(const ref_tiles *t, const uint8_t *record, int64_t n, real *panels)
{
    const kv_kvarn_layout *l = &t->layout;
    const v_reader reader = v_reader_of(t->kbits);
    real scale[MOST_SCALES], zero[MOST_SCALES];
    widen(record + l->k_scale, l->D, scale);
    widen(record + l->k_zero, l->D, zero);
    for (int64_t d = 0; d < l->D; d++) {
        const v_affine a = v_affine_of(&reader, scale[d], zero[d]);
        const uint8_t *row = record + l->k_codes + d * l->k_row;
        for (int64_t p = 0; p < (n + 15) / 16; p++)
            v_store(panels + (p * l->D + d) * 16, v_decode(&reader, &a, row + 2 * t->kbits * p));
    }
}

/* Values of the first n tokens of a tile as rows of dv, before the scale of a channel; what lies behind D is not used. */
static void read_values(const ref_tiles *t, const uint8_t *record, int64_t n, int64_t dv, real *rows)
{
    const kv_kvarn_layout *l = &t->layout;
    const v_reader reader = v_reader_of(t->vbits);
    real scale[MOST_SCALES], zero[MOST_SCALES];
    widen(record + l->v_scale, n * l->v_groups, scale);
    widen(record + l->v_zero, n * l->v_groups, zero);
    for (int64_t r = 0; r < n; r++)
        for (int64_t g = 0; g < l->v_groups; g++) {
            const v_affine a = v_affine_of(&reader, scale[r * l->v_groups + g], zero[r * l->v_groups + g]);
            const uint8_t *row = record + l->v_codes + r * l->v_row + g * l->v_group * t->vbits / 8;
            real *dst = rows + r * dv + g * l->v_group;
            for (int64_t d = 0; d < l->v_group; d += 16)
                v_store(dst + d, v_decode(&reader, &a, row + 2 * t->vbits * (d / 16)));
        }
}

#endif
