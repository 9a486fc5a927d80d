/* text.h - golden files about real text: token ids and tables of NLLs in $KVDIFF_SHARED/golden/smollm2. Every failure
 * dies. */
#ifndef KV_TESTS_GOLDEN_TEXT_H
#define KV_TESTS_GOLDEN_TEXT_H

#include "tests/golden/golden.h"

enum { GOLDEN_TOKENS = 16384 }; /* more than any file holds */

/* The folder, or NULL when KVDIFF_SHARED is not set. */
const char *golden_text_folder(void);

/* Ids of an excerpt: little-endian u32. Returns their number. */
int32_t golden_ids(const char *name, int32_t *ids, int32_t cap);

/* Reads lines of numbers: column `value` is the NLL, `next` the predicted token, `token` the predicting one (-1: no
 * such column). tokens and nll hold GOLDEN_TOKENS. Returns the rows. */
int32_t golden_nll(const char *name, int token, int next, int value, int32_t *tokens, double *nll);

typedef struct golden_bound {
    double each, mean;                  /* allowed */
    double worst, mean_off, mean_want;  /* found */
} golden_bound;

/* 1 when n NLLs are within both bounds; an NLL that is not finite never is. */
int golden_compare(const double *want, const float *got, int32_t n, golden_bound *c);

#endif
