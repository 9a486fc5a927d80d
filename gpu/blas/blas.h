/* blas.h - what the files of the blas side share (docs/blas.md).
 *
 * The side is a witness for arithmetic: the same forward pass as the reference, with matrix
 * products and attention by OpenBLAS in its own order, its own exponential and libm. It decides
 * nothing about the cache; it replays the decisions of another side. */
#ifndef KV_BLAS_BLAS_H
#define KV_BLAS_BLAS_H

#include "common/backend.h"
#include "common/mem.h"
#include "common/pool.h"
#include "common/state.h"

/* ---- weights.c ------------------------------------------------------------------------------ */

/* W[n][k], row by row, in fp32. */
typedef struct blas_matrix {
    const float *w;
    int64_t n, k;
} blas_matrix;

typedef struct blas_layer_weights {
    const float *attn_norm, *ffn_norm; /* [d_model]; NULL: norms without gains */
    blas_matrix qkv;                   /* query, key and value rows, one below the other */
    blas_matrix o;
    blas_matrix gate_up; /* gate rows, then up rows; without SwiGLU the up rows alone */
    blas_matrix down;
    /* golf; NULL where the model has none */
    const float *resid_mix, *attn_scale, *ffn_scale, *q_gain, *k_gain, *k_shift, *v_shift, *local_v;
} blas_layer_weights;

typedef struct blas_weights blas_weights;
struct blas_weights {
    const kv_model *model;
    int users;
    blas_weights *next;
    float *arena;
    size_t arena_bytes;
    const float *output_norm;
    blas_matrix head;
    blas_matrix bigram_proj, side_gate, side_value, side_proj; /* golf, as the vectors below */
    const float *bigram_scale, *smear, *skips, *conv, *site_gate, *side_scale;
    blas_layer_weights *layers; /* [n_layers] */
};

/* A model's weights, widened on first use and shared by all sessions on it. */
kv_status blas_weights_acquire(const kv_model *m, kv_pool *pool, const blas_weights **out);
void blas_weights_release(const blas_weights *w); /* accepts NULL */

/* ---- cache.c: entries in view order --------------------------------------------------------------- */

/* sink and cascade: which token holds which canonical slot (docs/policy/cascade.md). */
typedef struct blas_rings {
    int32_t sinks, n, window; /* first tokens, rings, slots of a ring; n = 0: a policy without rings */
    int32_t count[KV_CASCADE_MAX], start[KV_CASCADE_MAX]; /* entries; ring offset of the oldest */
    int64_t *og;                                          /* [sinks + n * window], -1: empty */
} blas_rings;

/* Tokens of a set, in view order. That is ascending original index but under xwindow ver=published, where
 * a token may be there twice. */
typedef struct blas_index {
    int64_t n, room;
    int64_t *og;
    int32_t *pos;  /* position at which a rotated key was written */
    uint8_t *dead; /* evicted, not yet removed */
    blas_rings rings;
} blas_index;

/* Coded records of one kind: [heads][room][bytes of the kind], start .. start + n - 1 in use. */
typedef struct blas_records {
    int64_t start, n, room;
    uint8_t *v;
} blas_records;

/* KV heads that hold the same tokens: all of a layer's, or each one alone (kv_policy_heads_agree). */
typedef struct blas_set {
    blas_index index;
    int64_t start, cap; /* rows start .. start + n - 1 of every head are entries */
    float *k, *v;       /* [heads of the set][cap][D], as attention reads or rotates them */
    blas_records records[2];
} blas_set;

/* A kind of state entry (docs/backend.md): records of `rows` tokens for the coded ones, then one entry for
 * each row that is not coded. Plain storages have one kind and no coded rows, kivi has one for K and one
 * for V. */
typedef struct blas_kind {
    int64_t rows;
    size_t bytes;       /* of a coded record */
    int has_k, has_v;   /* what a row's entry holds */
    int64_t lag;        /* the newest rows that are never coded: 0, or R for kivi's V */
    int64_t og_offset;  /* on top of the first token's original index */
    /* Codes `rows` rows of one head; NULL for plain storages. scratch: BLAS_SCRATCH floats times D. */
    void (*encode)(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record);
    /* Overwrites the rows with what the record says. */
    void (*decode)(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v);
} blas_kind;

enum { BLAS_SCRATCH = 2 * 128 + 16 };

typedef struct blas_cache {
    kv_policy policy;
    int32_t n_layers, n_kv_heads, head_dim;
    int32_t n_sets, set_heads; /* of a layer; KV heads of a set */
    int32_t n_kinds;
    blas_kind kinds[2];
    blas_set *sets; /* [n_layers][n_sets] */
} blas_cache;

kv_status blas_cache_init(blas_cache *c, const kv_config *cfg, const kv_policy *p);
void blas_cache_free(blas_cache *c);
void blas_cache_reset(blas_cache *c);

static inline blas_set *blas_set_at(const blas_cache *c, int32_t layer, int32_t set)
{
    return &c->sets[(int64_t)layer * c->n_sets + set];
}

/* KV_KEY_RAW: keys are stored un-rotated and rotated in every step. */
int32_t blas_key_form(const kv_policy *p);

/* A stored entry's position is its view index. */
int blas_counts_view(const kv_policy *p);

/* Room for m rows behind the entries of a set, and for m more entries in its index. */
kv_status blas_set_reserve(const blas_cache *c, blas_set *set, int64_t m);

/* Row 0 of the entries of a set's KV head; rows are head_dim apart. */
static inline float *blas_keys(const blas_cache *c, const blas_set *set, int64_t head)
{
    return set->k + (head * set->cap + set->start) * c->head_dim;
}
static inline float *blas_values(const blas_cache *c, const blas_set *set, int64_t head)
{
    return set->v + (head * set->cap + set->start) * c->head_dim;
}

/* Takes dead entries out of the index and, unless set is NULL, their rows and records out of the store. */
void blas_remove_dead(const blas_cache *c, blas_index *ix, blas_set *set);

kv_status blas_index_init(blas_index *ix, const kv_policy *p);
kv_status blas_index_reserve(blas_index *ix, int64_t room);
void blas_index_clear(blas_index *ix);
void blas_index_free(blas_index *ix);
void blas_index_copy(blas_index *to, const blas_index *from); /* to has room */

/* ---- storage.c: how rows are kept --------------------------------------------------------------------- */

/* Fills c->kinds. */
void blas_storage_init(blas_cache *c);

/* A row as the storage keeps it (f16, bf16), in fp32. */
void blas_narrow(const kv_policy *p, float *row, int64_t n);

/* Tokens of kind j that are coded when n tokens are held: a multiple of its rows. Boundaries lie at
 * multiples of `rows` of the original index, and whole multiples leave, so n alone decides. */
int64_t blas_sealed(const blas_cache *c, int j, int64_t n);

/* Bytes of an entry for a row that is not coded. */
size_t blas_row_bytes(const blas_cache *c, int j);
void blas_row_write(const blas_cache *c, int j, const float *k, const float *v, uint8_t *dst);
void blas_row_read(const blas_cache *c, int j, const uint8_t *src, float *k, float *v);

static inline uint8_t *blas_record(const blas_cache *c, const blas_set *set, int j, int64_t head, int64_t i)
{
    const blas_records *r = &set->records[j];
    return r->v + (size_t)(head * r->room + r->start + i) * c->kinds[j].bytes;
}
kv_status blas_records_reserve(const blas_cache *c, blas_set *set, int j, int64_t n);

/* kvarn.c and kivi.c: one record of docs/policy/kvarn.md, kivi.md. */
void blas_kvarn_encode(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record);
void blas_kvarn_decode(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v);
void blas_kivi_encode_k(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record);
void blas_kivi_decode_k(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v);
void blas_kivi_encode_v(const kv_policy *p, int64_t D, const float *k, const float *v, float *scratch, uint8_t *record);
void blas_kivi_decode_v(const kv_policy *p, int64_t D, const uint8_t *record, float *k, float *v);

/* kvarn's rotation of a row; its own inverse. */
void blas_hadamard(float *row, int64_t D);

/* Nearest whole number by kvarn.md's rint. */
float blas_rint(float y);

/* Least and largest of n values, `stride` apart; -0 is below +0. */
void blas_range(const float *x, int64_t stride, int64_t n, float *lo, float *hi);

/* ---- follow.c: decisions of another side -------------------------------------------------------------- */

/* The decisions of one set in a step, and how many of them are done. */
typedef struct blas_list {
    const kv_event *v;
    size_t n, done;
} blas_list;

/* Tokens that a piece may leave in the cache. */
typedef struct blas_arrival {
    int64_t first, m; /* original indices first .. first + m - 1 */
    int64_t pos;      /* position of the first */
    int64_t last;     /* original index of the piece's last token */
} blas_arrival;

/* Tokens of the next piece of a step of n tokens, `at` of which are fed; seen: before the step. */
int64_t blas_piece(const kv_policy *p, int64_t seen, int64_t n, int64_t at);

/* Cuts a step's list into sets. ERR_USAGE when it is not in the order of docs/backend.md. lists:
 * [n_layers][n_sets]. */
kv_status blas_lists_cut(const blas_cache *c, const kv_events *follow, blas_list *lists);

/* Decisions before and after the forward pass; evicted entries become dead. first: original index of the
 * piece's first token. ERR_USAGE when the list cannot be obeyed. */
kv_status blas_list_before(const blas_cache *c, blas_index *ix, blas_list *list, int64_t first);
kv_status blas_list_after(const blas_cache *c, blas_index *ix, blas_list *list, const blas_arrival *a);

/* Position of the first token of a piece when ix is what the piece sees. Not for xwindow. */
int64_t blas_base(const kv_policy *p, const blas_index *ix, int64_t first);

/* The decisions of `full`, the only selection that needs no list, for a step of n tokens. */
kv_status blas_full_events(const blas_cache *c, int64_t seen, int64_t n, kv_events *out);

/* For rings.c: the refusal of one decision, the next decision if it is of this kind and cause (else NULL),
 * the entry that holds a token (else -1), a new entry. */
kv_status blas_list_bad(const kv_event *e, const char *what);
const kv_event *blas_list_next(const blas_list *list, int32_t kind, int64_t token);
int64_t blas_index_find(const blas_index *ix, int64_t og);
void blas_index_append(blas_index *ix, int64_t og, int64_t pos);

/* rings.c: what a token's insertion does to the rings of sink and cascade. */
kv_status blas_rings_follow(blas_index *ix, blas_list *list, int64_t token, int64_t pos);

/* Counts and starts after `seen` tokens. ERR_FORMAT when n entries are not what is there then. */
kv_status blas_rings_at(const kv_policy *p, int64_t seen, int64_t n, blas_rings *out);

/* Puts the index's tokens into their slots; counts and starts are set. */
void blas_rings_fill(blas_index *ix);

/* ---- vector.c: loops that are not matrix products ------------------------------------------- */

typedef struct blas_vector {
    /* x[i] = exp(x[i] - max); returns their sum. */
    float (*exp_sum)(float *x, int64_t n, float max);
    float (*max)(const float *x, int64_t n);
    /* h[i] = silu(g[i]) * u[i] */
    void (*swiglu)(const float *g, const float *u, int64_t n, float *h);
    /* y = x / rms(x) * gain; gain may be NULL */
    void (*rmsnorm)(const float *x, const float *gain, int64_t n, float eps, float *y);
    void (*add)(float *x, const float *y, int64_t n);
} blas_vector;
const blas_vector *blas_vector_find(void);

/* ---- rope.c --------------------------------------------------------------------------------- */

typedef struct blas_rope {
    int64_t pairs; /* rotated dims / 2 */
    int half;      /* pair i is (i, i + pairs), else (2i, 2i + 1) */
    float sign;    /* of the sine */
    float inv_freq[KV_MAX_HEAD_DIM / 2];
    /* cos and sin of positions first .. first + n - 1: [n][pairs] each */
    kv_buffer memory;
    int64_t first, n;
    const float *cos, *sin;
} blas_rope;

/* The frozen length that the base stands for; -1: only the length of a call says it, which a cache does not have. */
int64_t blas_rope_length(const kv_config *cfg, const kv_policy *p);

/* Frequencies by the base of `length` tokens. */
void blas_rope_init(blas_rope *r, const kv_config *cfg, int64_t length);
void blas_rope_at(const blas_rope *r, int64_t pos, float *cos, float *sin); /* [pairs] each */
kv_status blas_rope_cover(blas_rope *r, int64_t first, int64_t n);

/* dst[head_dim] = src rotated to position pos, which the table covers; dst may be src. */
void blas_rotate(const blas_rope *r, int64_t pos, const float *src, int64_t head_dim, float *dst);

/* ---- the session ---------------------------------------------------------------------------- */

/* Working memory of one piece. Rows are tokens. */
typedef struct blas_work {
    kv_buffer memory;
    int64_t m;      /* tokens that it has room for */
    float *x, *xn;  /* [m][d_model] */
    float *qkv;     /* [m][Hq * D + 2 * H * D] */
    float *att;     /* [m][Hq * D] */
    float *stats;   /* [m][Hq][2] largest score of a row, sum of its exponentials; NULL: nobody asks */
    float *gate_up; /* [m][2 * ffn_dim] */
    float *act;     /* [m][ffn_dim] */

    /* golf; no memory where the config leaves them off */
    float *x0;      /* [m][d_model] the stream before layer 0 */
    float *pairs;   /* [m][bigram_dim] */
    float *skips;   /* [skips][m][d_model] */
    float *raw;     /* [m][2 * H * D] keys and values as projected */
    float *side_gate, *side_value; /* [m][sidecar_hidden] */
} blas_work;

/* ---- carry.c: what the model remembers (docs/golf.md, "State") ---------------------------------- */

typedef struct blas_carry {
    kv_carry_layout layout;
    int64_t conv_rows, conv; /* rows that a site remembers, floats of each */
    uint8_t *v;     /* [n] blocks of common/state.h, ascending, the newest last */
    int64_t *fed;   /* [n] tokens fed up to each */
    int64_t n, cap;
    uint8_t *before; /* the block that the piece under way begins with; zeros: nothing */
    int64_t old;    /* blocks from before the piece; the others are being filled */
    int64_t first, fresh; /* original index of the piece's first token; rows from `fresh` on are new */
} blas_carry;

/* What the current layer's attention reads of a set: n stored rows, then the piece's own. */
typedef struct blas_view {
    const float *keys, *values; /* row 0 of the set's first KV head */
    int64_t key_stride, value_stride; /* floats between KV heads */
    int64_t n;
    int64_t base;  /* position of the piece's first token */
    int64_t first; /* stored row that the view begins with: 0 but under xwindow */
} blas_view;

typedef struct blas_session {
    const kv_model *model;
    const blas_weights *weights;
    const blas_vector *vec;
    kv_pool *pool;
    blas_cache cache;
    blas_rope rope;
    float scale; /* of the softmax */
    blas_work work;
    kv_buffer *scratch;      /* [threads] scores of attention; working memory of a codec */
    kv_buffer keys, values;  /* rows of a view that are not read where they are stored */
    kv_buffer logits;        /* rows that the caller wants scored but not returned */
    int64_t *odd;            /* [H] token of the view whose row a codec refused, or -1 */
    blas_view *views;        /* [n_sets] */
    blas_list *lists;        /* [n_layers][n_sets] */
    blas_index rehearsal;
    blas_carry carry;
    int64_t seen;
    int64_t window; /* xwindow: where the last window began; -1: not known, after an import */
    int broken;     /* a step failed half-way */
    char error[KV_MESSAGE_MAX];
} blas_session;

/* One piece of a step. */
typedef struct blas_piece_info {
    const kv_step *step;
    int64_t row0, m; /* tokens row0 .. row0 + m - 1 of the step */
    int64_t first;   /* original index of the first one */
} blas_piece_info;

kv_status blas_carry_init(blas_carry *c, const kv_config *cfg);
void blas_carry_free(blas_carry *c);
/* Whether a window cannot begin at `start`, for want of what the model remembered there. */
int blas_carry_missing(const blas_carry *c, const kv_policy *p, int64_t seen, int64_t start);
kv_status blas_carry_begin(blas_session *s, const blas_piece_info *p);
void blas_carry_end(blas_session *s);
/* Rows of the piece at part `part` of the blocks being filled, behind `at` rows of the same width; part 0: no such. */
void blas_carry_keep(blas_carry *c, size_t part, int64_t at, int64_t width, const float *rows, int64_t stride);
void blas_carry_keep_conv(blas_carry *c, int32_t site, const float *rows);
/* A site's value row, `back` tokens before the block's moment. */
static inline const float *blas_carry_conv(const blas_carry *c, const float *block, int32_t site, int64_t back)
{
    return block + c->layout.conv / sizeof(float) + ((site + 1) * c->conv_rows - back) * c->conv;
}
size_t blas_carry_bytes(const blas_carry *c);
void blas_carry_write(const blas_carry *c, void *dst);
kv_status blas_carry_read(blas_carry *c, const kv_policy *p, int32_t vocab, int64_t seen, const void *src, size_t bytes);

/* golf.c: the stream before layer 0; a layer's beginning, projections before RoPE, output of attention, end. */
void blas_golf_embed(blas_session *s, const blas_piece_info *p);
void blas_golf_enter(blas_session *s, int32_t layer, const blas_piece_info *p);
void blas_golf_projected(blas_session *s, int32_t layer, const blas_piece_info *p);
void blas_golf_attended(blas_session *s, int32_t layer, const blas_piece_info *p);
void blas_golf_activate(const blas_session *s, int64_t m);
void blas_golf_leave(blas_session *s, int32_t layer, const blas_piece_info *p);

/* A key of a KV head, or a query of a query head, at its position, its gain included; dst may be src. */
void blas_turn_key(const blas_session *s, int32_t layer, int64_t head, int64_t pos, const float *src, float *dst);
void blas_turn_query(const blas_session *s, int32_t layer, int64_t head, int64_t pos, float *q);

/* forward.c: y[m][w->n] = x[m][w->k] times the transpose of w. */
void blas_multiply(const blas_session *s, const float *x, int64_t m, const blas_matrix *w, float *y);

/* forward.c: -log p(target) of a row of logits, its largest and the sum of exp(x - largest). z = cap * tanh(z / cap). */
float blas_nll(const float *x, int64_t vocab, int32_t target, float *max, double *sum);
void blas_softcap(float *z, int64_t n, float cap);

/* golf.c: h = r * r with r = f where f >= 0, else slope * f. */
void blas_squared_relu(const float *f, int64_t n, float slope, float *h);

/* forward.c: the pass over one piece, admissions and evictions included. */
kv_status blas_forward(blas_session *s, const blas_piece_info *p);

/* Copies the row that a tap asks for: rows[m] of `width` floats, `stride` apart. */
void blas_tap(const blas_piece_info *p, int point, int32_t layer, const float *rows, int64_t width,
              int64_t stride);

/* place.c: rotates queries, stores the piece's keys and values and fills s->views. */
kv_status blas_place(blas_session *s, int32_t layer, const blas_piece_info *p);

/* Codes what is complete when a layer holds the n tokens before original index `end`. ERR_NONFINITE: a row cannot
 * be coded. */
kv_status blas_seal(blas_session *s, int32_t layer, int64_t n, int64_t end);

/* window.c: xwindow. Whether a window that begins at pos0 may follow; ERR_USAGE. */
kv_status blas_window_check(const blas_session *s, const kv_step *step);
kv_status blas_window_place(blas_session *s, int32_t layer, const blas_piece_info *p);
/* The rows that a window of n tokens leaves in a layer; m = 0 in layers without cache. */
blas_arrival blas_window_arrival(const blas_session *s, int32_t layer, int64_t pos0, int64_t n);
/* Stores them behind the layer's entries, where there is room. */
void blas_window_record(blas_session *s, int32_t layer, const blas_piece_info *p, const blas_arrival *a);

/* attention.c: one layer for m tokens: queries in work.qkv (kvarn turns them there), s->views, result in
 * work.att. */
kv_status blas_attend(blas_session *s, int64_t m);

/* state.c */
kv_status blas_export_state(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap,
                            size_t *need);
kv_status blas_import_state(kv_session *s, const void *src, size_t size);
kv_status blas_snapshot(kv_session *s, void **out);
kv_status blas_restore(kv_session *s, const void *snap);
void blas_snapshot_free(kv_session *s, void *snap);

/* Keeps the message of a failed call for last_error. */
kv_status blas_keep_error(blas_session *s, kv_status st);

#endif
