/* full_rows.h - logits of a document's first tokens under policy full, where no score decides and nobody leaves: what the
 * error figures of sides that promise a bound are measured on (budget.h, own_error.h). */
#ifndef KV_DIFFTEST_FULL_ROWS_H
#define KV_DIFFTEST_FULL_ROWS_H

#include "common/backend.h"

typedef struct dt_full_side {
    const kv_backend *backend; /* NULL: there is none */
    const char *options;
    kv_storage storage;
    int32_t step;            /* tokens of a step, at most */
    const kv_events *follow; /* of the only step, for a side that needs it */
    kv_session *session;     /* NULL: not open */
} dt_full_side;

/* Opens the side, or does nothing where it is open. */
kv_status dt_full_open(dt_full_side *s, const kv_model *m, int32_t threads);
void dt_full_close(dt_full_side *s); /* accepts one that is not open */

/* logits[n][vocab] of tokens[n] from an empty cache. */
kv_status dt_full_rows(dt_full_side *s, const kv_model *m, int32_t threads, const int32_t *tokens, int64_t n, float *logits);

/* Root mean square of x - y. */
double dt_rms(const float *x, const float *y, int64_t n);

#endif
