/* kivi.h - coding of one group of numbers (docs/policy/kivi.md). */
#ifndef KV_REF_STORAGE_KIVI_H
#define KV_REF_STORAGE_KIVI_H

#include "ref/real.h"

/* Codes k .. k + n - 1 of a row of a record, with their scale and minimum. */
typedef struct ref_kivi_group {
    uint8_t *codes;
    int32_t k, n, bits;
    uint8_t *scale, *min; /* fp32 each */
} ref_kivi_group;

/* Codes the values x[n] and puts in their place what the codes stand for. The codes' bytes must be zero. */
void REF(kivi_code_group)(const ref_kivi_group *g, real *x);

#endif
