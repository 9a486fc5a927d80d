/* pack.h - matrices of reals as the panels that ref_gemm_job.reals wants. */
#ifndef KV_REF_TRAIN_PACK_H
#define KV_REF_TRAIN_PACK_H

#include "ref/real.h"

/* Reals that n outputs with inner dimension k occupy. */
static inline int64_t ref_pack_size(int64_t n, int64_t k) { return ref_round_up(n, REF_PANEL) * k; }

/* Outputs are the rows of w[n][k], ldw apart: y = x * transpose(w). Panels first .. last-1. */
void REF(pack_rows)(const real *w, int64_t ldw, int64_t n, int64_t k, int64_t first, int64_t last, real *panels);

/* Outputs are the columns of w[k][n]: y = x * w. */
void REF(pack_cols)(const real *w, int64_t ldw, int64_t n, int64_t k, int64_t first, int64_t last, real *panels);

/* out[n][ldo] = transpose of w[k][n], for rows first .. last-1 of out. */
void REF(transpose)(const real *w, int64_t ldw, int64_t k, int64_t first, int64_t last, int64_t ldo, real *out);

#endif
