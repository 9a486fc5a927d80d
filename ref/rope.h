/* rope.h - rotary position embedding: frequencies, tables, rotation (docs/numerics.md 3). */
#ifndef KV_REF_ROPE_H
#define KV_REF_ROPE_H

#include "common/config.h"
#include "common/mem.h"
#include "ref/kernels.h"

typedef struct ref_rope {
    int64_t head_dim, pairs; /* pairs = rotated dims / 2 */
    int half;                /* pair i is (i, i + pairs), else (2i, 2i + 1) */
    real sign;               /* of the sine */
    real inv_freq[KV_MAX_HEAD_DIM / 2];
} ref_rope;

/* cos[i][x], sin[i][x] for pair i and position first + x, x < n; the rows are `stride` apart, stride a
 * multiple of 16 and larger than n - 1 + 16, zero behind n. */
typedef struct ref_rope_table {
    kv_buffer memory;
    int64_t first, n, stride;
    real *cos, *sin;
} ref_rope_table;

/* The base for calls of `length` tokens: theta, or by the NTK rule (docs/golf.md, "RoPE"). */
double REF(rope_base)(const kv_config *cfg, int64_t length);

/* Frequencies 1 / base^(2i/rd): docs/numerics.md, section 3. */
void REF(rope_init)(ref_rope *r, const kv_config *cfg, double base);

/* cos and sin of one position for every pair. */
void REF(rope_at)(const ref_rope *r, int64_t pos, real *cos, real *sin);

/* Fills t unless it already covers these positions from the same first one. */
kv_status REF(rope_table_fill)(const ref_rope *r, ref_rope_table *t, int64_t first, int64_t n);
static inline void REF(rope_table_forget)(ref_rope_table *t) { t->n = 0; } /* the frequencies have changed */
void REF(rope_table_free)(ref_rope_table *t);

/* Rotates one row of head_dim values in place by column x of the table. */
void REF(rope_row)(const ref_rope *r, const ref_rope_table *t, int64_t x, real *row);

#endif
