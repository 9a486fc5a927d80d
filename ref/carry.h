/* carry.h - what the model itself remembers of the tokens before a piece: the predecessors of the bigram, the smear
 * gate, the shift and the sidecar's convolution (docs/golf.md, "State"; layout: common/state.h).
 *
 * A carry belongs to a point of the stream, `fed` tokens from its start. One is enough for everybody but xwindow with
 * pred=carry, whose coming windows begin at earlier points: there one is kept for each of them, and the newest. */
#ifndef KV_REF_CARRY_H
#define KV_REF_CARRY_H

#include "common/policy.h"
#include "common/state.h"
#include "ref/real.h"

typedef struct ref_carry {
    int64_t fed;   /* 0: nothing is remembered */
    int32_t token; /* the newest */
    int64_t row;   /* its row in the piece under way */
    real *parts;   /* at the layout's offsets / sizeof(float); zero where fed = 0 */
} ref_carry;

typedef struct ref_carries {
    kv_carry_layout layout;
    int64_t kv_width, d_model, conv; /* reals of a row of K or V of a layer, of the stream, and of the sidecar's value path */
    int32_t conv_rows;               /* remembered of a site */
    ref_carry *v;    /* ascending; n of them are kept, all `cap` own their parts */
    int64_t n, cap;
    int64_t kept;    /* of v: from before the piece; the others are being filled */
    ref_carry before; /* what the piece under way sees; parts belong to v, or are zero */
    ref_carry nothing;
    int64_t fresh;   /* first row of the piece that counts as new: rows before it were computed earlier too */
} ref_carries;

kv_status REF(carry_init)(ref_carries *c, const kv_config *cfg);
void REF(carry_free)(ref_carries *c);
static inline void REF(carry_reset)(ref_carries *c) { c->n = 0; }

/* A piece of m tokens, the first of which is token `start`; `seen` tokens were fed before. */
typedef struct ref_carry_piece {
    const kv_policy *policy;
    const int32_t *tokens;
    int64_t start, m, seen;
} ref_carry_piece;

/* Whether xwindow needs the carry at the start of a window that is not kept (after an import without it). A window behind
 * all that was seen goes on from a carry of zeros when that is what was imported. */
int REF(carry_missing)(const ref_carries *c, const kv_policy *p, int64_t seen, int64_t start);

/* Around a piece: begin finds the predecessors and opens the carries that it will leave behind, end drops the others. */
kv_status REF(carry_begin)(ref_carries *c, const ref_carry_piece *p);
void REF(carry_end)(ref_carries *c, const ref_carry_piece *p);

/* In between: rows of the piece, [m][width], of which the last, and what else is needed, is remembered. k, v of a layer,
 * w of a site; NULL where the model has no such part. */
void REF(carry_norm)(ref_carries *c, const real *norm);
void REF(carry_kv)(ref_carries *c, int32_t layer, const real *k, const real *v);
void REF(carry_conv)(ref_carries *c, int32_t site, const real *w);

/* Predecessors of the piece's first row: of its norm row, of a layer's raw k and v, of a site's value row, `back` rows
 * ago (1 or 2). */
static inline const real *REF(before_norm)(const ref_carries *c) { return c->before.parts + c->layout.norm / sizeof(float); }
static inline const real *REF(before_k)(const ref_carries *c, int64_t layer)
{
    return c->before.parts + c->layout.k / sizeof(float) + layer * c->kv_width;
}
static inline const real *REF(before_v)(const ref_carries *c, int64_t layer)
{
    return c->before.parts + c->layout.v / sizeof(float) + layer * c->kv_width;
}
static inline const real *REF(before_conv)(const ref_carries *c, int64_t site, int64_t back)
{
    return c->before.parts + c->layout.conv / sizeof(float) + (site * c->conv_rows + c->conv_rows - back) * c->conv;
}

/* As bytes: one carry after the other, the newest last; a single empty one before the first token. */
size_t REF(carry_bytes)(const ref_carries *c);
void REF(carry_write)(const ref_carries *c, void *dst);
kv_status REF(carry_read)(ref_carries *c, const kv_policy *p, int32_t vocab, int64_t seen, const void *src, size_t bytes);

/* *to becomes a copy; to was initialised for the same model. */
kv_status REF(carry_copy)(const ref_carries *from, ref_carries *to);

#endif
