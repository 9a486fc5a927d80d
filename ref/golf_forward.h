/* golf_forward.h - where the golf family leaves the Llama block (docs/golf.md): loops over the rows of a piece, made of
 * the operations of golf.h. Each does nothing for what the config leaves off. */
#ifndef KV_REF_GOLF_FORWARD_H
#define KV_REF_GOLF_FORWARD_H

#include "ref/session.h"

/* Parameters that are no matrices, widened to `real`. */
kv_status REF(golf_init)(ref_golf *g, const kv_model *m);
void REF(golf_free)(ref_golf *g);

/* Rows of the token table in w.x become the stream before layer 0, in w.x and w.x0. */
void REF(golf_embed)(ref_session *s, const ref_piece *p);

/* A layer's way: the stream that enters it (skip, resid_mix), the projections before RoPE (shift, QK-norm), the result of
 * attention before its projection (local_v, XSA), and behind the feed-forward block the sidecar and the skip's start. */
void REF(golf_enter)(ref_session *s, int32_t layer, const ref_piece *p);
void REF(golf_projected)(ref_session *s, int32_t layer, const ref_piece *p);
void REF(golf_attended)(ref_session *s, int32_t layer, const ref_piece *p);
void REF(golf_leave)(ref_session *s, int32_t layer, const ref_piece *p);

#endif
