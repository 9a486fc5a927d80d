/* kernels_columns.h - sums of probabilities by key: a part of kernels.c, see ref_column_job in kernels.h.
 * A key is a lane, so its sum over the queries is one chain per block. */
#ifndef KV_REF_KERNELS_COLUMNS_H
#define KV_REF_KERNELS_COLUMNS_H

/* One query more for the 16 keys of a panel that it all sees. */
INLINE v16 column_step(const ref_column_job *j, int64_t r, const real *score, v16 acc)
{
    const v16 e = v_exp(v_sub(v_load(score), v_set1(j->max[r]))), p = v_div(e, v_set1(j->sum[r]));
    return j->weights ? v_fma(v_set1(j->weights[r]), p, acc) : v_add(acc, p);
}

/* The same key by key, for queries that see only part of a panel and for weights that run backwards. */
static void column_lanes(const ref_column_job *j, int64_t r, int64_t key0, const real *score, real *acc)
{
    for (int64_t l = 0; l < 16 && key0 + l <= j->row0 + r; l++) {
        const real p = r_exp(score[l] - j->max[r]) / j->sum[r];
        if (!j->weights)
            acc[l] = acc[l] + p;
        else if (j->reversed) /* distance between query and key, counted from the other end */
            acc[l] = r_fma(j->weights[j->rows - 1 - (j->row0 + r - key0 - l)], p, acc[l]);
        else
            acc[l] = r_fma(j->weights[r], p, acc[l]);
    }
}

static void column_row(const ref_column_job *j, int64_t r, int64_t p, const real *score, real *acc)
{
    const int64_t key0 = j->key0 + 16 * p;
    if (j->key0 >= 0 && (j->reversed || key0 + 15 > j->row0 + r))
        column_lanes(j, r, key0, score, acc);
    else
        v_store(acc, column_step(j, r, score, v_load(acc)));
}

/* Panels p .. p+g-1. */
static void column_group(const ref_column_job *j, int64_t p, int64_t g)
{
    real *scores = j->scratch, *acc = scores + MR * 16 * MAX_GROUPS, *total = j->acc + 16 * p;
    const int64_t D = j->head_dim, width = 16 * g;
    memset(acc, 0, (size_t)width * sizeof *acc);
    memset(total, 0, (size_t)width * sizeof *total);
    for (int64_t r0 = 0, h; r0 < j->rows; r0 += h) {
        h = next_rows(j->rows - r0);
        const operands o = {j->q + r0 * D, D, j->k + p * D * 16, 16, D * 16, g * D * 16, scores, width};
        tile_reals(h, g, &o, D, TILE_SET);
        for (int64_t i = 0; i < h; i++) {
            for (int64_t n = 0; n < g; n++)
                column_row(j, r0 + i, p + n, scores + i * width + 16 * n, acc + 16 * n);
            const int64_t done = r0 + i + 1;
            if (done % j->block != 0 && done != j->rows) continue;
            for (int64_t l = 0; l < width; l += 16) {
                v_store(total + l, v_add(v_load(total + l), v_load(acc + l)));
                v_store(acc + l, v_zero());
            }
        }
    }
}

static void columns(const ref_column_job *j)
{
    const int64_t groups = GROUPS(ref_min(j->rows, MR));
    for (int64_t p = 0, g; p < j->panels; p += g) {
        g = p + groups <= j->panels ? groups : 1;
        column_group(j, p, g);
    }
}

#endif
