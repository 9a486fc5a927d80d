/* locate_scores.h - guesses about wrong scores of cache entries: the scores of a step are computed again in double
 * under one mistake at a time. Pure. */
#ifndef KV_DIFFTEST_LOCATE_SCORES_H
#define KV_DIFFTEST_LOCATE_SCORES_H

#include "common/backend.h"

/* What one step contributes to the scores of a layer and KV head. Entries are stored ones, then the step's own tokens.
 */
typedef struct dt_sums {
    const kv_policy *policy;
    int64_t n, stored, m, D;   /* entries, stored ones among them, tokens of the step */
    int32_t n_heads, n_kv, kv; /* query heads, KV heads, the head whose scores are meant (tova: 0) */
    const float *q;            /* [m][n_heads][D] as tapped */
    const double *const *k;    /* [n_kv][n][D] as read */
    double scale;
    const float *carried; /* [stored] scores before the step; NULL: none */
} dt_sums;

/* What the device said: scores of entries that stay, or margins of entries that leave, NaN for the others; what is not
 * NaN is compared. */
typedef struct dt_scored {
    const double *score, *margin; /* [n] */
} dt_scored;

/* Name of table klass, or NULL: nothing fits, or the right scores do not give what the reference said. *text is static.
 */
const char *dt_scores_guess(const dt_sums *s, const dt_scored *ref, const dt_scored *got, const char **text);

#endif
