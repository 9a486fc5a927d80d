/* kvarn.h - coding of one tile of one KV head (docs/policy/kvarn.md, "Coding a tile"). */
#ifndef KV_REF_STORAGE_KVARN_H
#define KV_REF_STORAGE_KVARN_H

#include "ref/kernels.h"

typedef struct ref_kvarn_coder {
    const ref_kernels *kernels;
    kv_kvarn_params params;
    kv_kvarn_layout layout;
} ref_kvarn_coder;

/* Reals of scratch for one tile, and how many of them lead as the matrix that is coded. */
int64_t REF(kvarn_scratch)(const kv_kvarn_layout *l);

/* Code what lies at scratch: keys as X[D][T], values as X[T][D], rows as far apart as ref_balance_job wants them. The
 * record's own half is written whole. All inputs are finite. imbalance: as in ref_balance_job. */
void REF(kvarn_code_keys)(const ref_kvarn_coder *c, real *scratch, uint8_t *record, real *imbalance);
void REF(kvarn_code_values)(const ref_kvarn_coder *c, real *scratch, uint8_t *record, real *imbalance);

#endif
