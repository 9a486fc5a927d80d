/* probe.h - which entry of the view does an attention kernel weigh wrongly? The call is made again with values that
 * name their entry: row e of V is 2^head in one dimension and 0 elsewhere, so that the output is the weight of every
 * entry; hd entries at a time. */
#ifndef KV_DIFFTEST_OPS_PROBE_H
#define KV_DIFFTEST_OPS_PROBE_H

#include "difftest/ops/exec.h"
#include "difftest/ops/oracle.h"

/* Makes a call. */
typedef kv_status dt_recall_fn(void *ctx, const dt_opcase *c, dt_result *out);

typedef enum dt_probe_kind {
    DT_PROBE_NOTHING,  /* every weight is right */
    DT_PROBE_NOT_READ, /* one entry has no weight */
    DT_PROBE_READ,     /* one entry has a weight that the token must not see, or that is dead */
    DT_PROBE_WEIGHT,   /* one entry's weight is out of proportion to the others */
    DT_PROBE_ALL       /* so are most: scale, maximum or sum of the row */
} dt_probe_kind;

typedef struct dt_probe {
    dt_probe_kind kind;
    int64_t token, head; /* the first row with a wrong weight */
    int64_t entry;       /* number through all segments, dead ones counted; -1: all */
    double right, got;   /* its weight */
    char text[200];      /* "token 3 head 5 does not read entry 59 of the cache, which has the weight 0.31" */
} dt_probe;

static inline int dt_probe_applies(int op)
{
    return op == KVDK_OP_attn_prefill || op == KVDK_OP_attn_decode;
}

/* c: a call of attn_prefill or attn_decode; its values are replaced in a copy. token0 is added to tokens in the text.
 * The status is that of recall, ERR_NOMEM, or the oracle's. */
kv_status dt_probe_weights(const dt_opcase *c, const kvdk_precision *precision, int64_t token0, dt_recall_fn *recall,
                           void *ctx, dt_probe *out);

#endif
