/* hooked.h - private to ref/: where the forward pass asks whether somebody else computes. In double nobody does. */
#ifndef KV_REF_HOOKED_H
#define KV_REF_HOOKED_H

#include "ref/attention.h"
#include "ref/hooks.h"

typedef struct ref_hooked {
    ref_hooks hooks;
    kv_buffer rows;   /* weights, or K, V and statistics, as rows */
    kv_status status; /* of the first hook that failed */
    char message[KV_MESSAGE_MAX];
} ref_hooked;

/* Says where the forward pass is; -1: behind the last layer. */
void REF(hooked_at)(const ref_session *s, int32_t layer);

/* Each: 1 when it has been done. */
int REF(hooked_norm)(const ref_session *s, int64_t m, const float *gain, real scale);
int REF(hooked_multiply)(const ref_session *s, const real *x, int64_t m, const ref_packed *w, real *c);
int REF(hooked_attention)(const ref_attn_layer *a);

/* What became of the hooks of a piece; forgets it. */
kv_status REF(hooked_status)(const ref_session *s);
void REF(hooked_free)(ref_session *s);

#endif
