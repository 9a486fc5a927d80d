/* backend.h - the door: the only thing that the tester knows of an implementation ("side").
 *
 * A side is a table of functions. The reference is linked into the program; every other side is a
 * shared object that exports
 *     const kv_backend *kv_side_entry(uint32_t abi);
 * and returns NULL for an ABI number that it does not speak. Everything that crosses the door is
 * host memory in the layouts of this header, common/model.h, common/policy.h and common/state.h; no
 * device pointer, stream or CUDA type appears here. The meaning of every call is fixed in
 * docs/backend.md; this page is the summary.
 *
 * Rules for all calls: a session is used by one thread at a time; on failure a call returns a status
 * other than KV_OK and last_error(session) says why in one line; after a failed step the session is
 * unusable until reset or restore. Nothing prints, nothing exits. */
#ifndef KV_COMMON_BACKEND_H
#define KV_COMMON_BACKEND_H

#include "common/model.h"
#include "common/policy.h"

#include <stdint.h>
#include <stdlib.h>

#define KV_BACKEND_ABI 2u
#define KV_SIDE_ENTRY  "kv_side_entry"

/* What a side promises about its numbers. */
typedef enum kv_contract {
    KV_CONTRACT_BITEXACT,    /* every output has the bits of the reference */
    KV_CONTRACT_BOUNDED,     /* within a derived error bound */
    KV_CONTRACT_STATISTICAL  /* only distribution metrics are comparable */
} kv_contract;

enum {
    KV_CAP_DETERMINISTIC = 1u << 0, /* same inputs, same bits, on this machine */
    KV_CAP_FOLLOW = 1u << 1,        /* step can replay another side's decisions */
    KV_CAP_NEEDS_FOLLOW = 1u << 2,  /* has no policy of its own: step must be given events */
    KV_CAP_TAPS = 1u << 3,          /* step fills taps */
    KV_CAP_DIGEST = 1u << 4         /* digest() is a fast path of its own */
};

/* ---- decisions ---------------------------------------------------------------------------- */

typedef enum kv_event_kind {
    KV_EVENT_ADMIT, /* token og enters at `slot` */
    KV_EVENT_EVICT, /* token og leaves from `slot` */
    KV_EVENT_MOVE,  /* token og goes on to `slot` (a deeper cascade) */
    KV_EVENT_SEAL   /* the tile whose first token is og becomes coded */
} kv_event_kind;

/* One decision of a cache policy. Order inside a step: layers ascending, KV heads ascending (-1 when
 * all heads share the decision), then the order in which the policy decides. Compared and stored
 * byte for byte, margin bits included. */
typedef struct kv_event {
    int64_t og;     /* original index of the token decided upon */
    int64_t token;  /* original index of the token that caused the decision */
    int32_t layer;
    int32_t head;   /* KV head, or -1 */
    int32_t kind;   /* kv_event_kind */
    int32_t slot;   /* canonical slot number, defined in docs/policy/<name>.md */
    float margin;   /* distance to the decision boundary; +inf where no score decided */
    int32_t reserved; /* 0 */
} kv_event;
KV_STATIC_ASSERT(sizeof(kv_event) == 40, "kv_event is compared and stored as bytes");

/* A growing list of events. Zero-initialise; the owner frees v. */
typedef struct kv_events {
    kv_event *v;
    size_t n, cap;
} kv_events;

static inline kv_status kv_events_push(kv_events *list, kv_event e)
{
    if (list->n == list->cap) {
        const size_t cap = list->cap ? 2 * list->cap : 256;
        kv_event *v = (kv_event *)realloc(list->v, cap * sizeof *v);
        if (!v) return KV_ERR_NOMEM;
        list->v = v;
        list->cap = cap;
    }
    list->v[list->n++] = e;
    return KV_OK;
}

/* ---- one step ------------------------------------------------------------------------------ */

typedef enum kv_rows {
    KV_ROWS_NONE, /* no logits: prefill whose predictions nobody wants */
    KV_ROWS_LAST, /* logits after the last token only: one row */
    KV_ROWS_ALL   /* one row per token */
} kv_rows;

/* Points inside the forward pass that can be looked at. X(name, layer-wise, width, what) */
#define KV_TAP_LIST(X)                                                                             \
    X(EMBED, 0, d_model, "row of the embedding: the residual stream before layer 0")               \
    X(ATTN_NORM, 1, d_model, "input of the projections")                                           \
    X(Q, 1, Hq*D, "queries after RoPE, before the softmax scale")                                  \
    X(K, 1, H*D, "keys after RoPE, as this step's attention reads them")                           \
    X(V, 1, H*D, "values")                                                                         \
    X(ATTN, 1, Hq*D, "attention output, before the output projection")                             \
    X(ATTN_RESID, 1, d_model, "residual stream after the attention block")                         \
    X(FFN_NORM, 1, d_model, "input of the feed-forward block")                                     \
    X(FFN_ACT, 1, ffn_dim, "input of the down projection")                                         \
    X(RESID, 1, d_model, "residual stream after the layer")                                        \
    X(FINAL_NORM, 0, d_model, "input of the output head")

typedef enum kv_tap_point {
#define X(name, layerwise, width, what) KV_TAP_##name,
    KV_TAP_LIST(X)
#undef X
        KV_TAP_COUNT
} kv_tap_point;

/* A request to copy one row of one point into dst. */
typedef struct kv_tap {
    int32_t point; /* kv_tap_point */
    int32_t layer; /* ignored for points of the whole model */
    int32_t row;   /* token of this step, 0-based */
    int32_t width; /* floats in dst: must be the width of the point */
    float *dst;
} kv_tap;

enum { KV_STEP_RECOMPUTE = 1u << 0 /* rows pos0.. are computed again against the cache */ };

typedef struct kv_step {
    const int32_t *tokens; /* [n] ids, each in [0, vocab) */
    int32_t n;             /* at least 1 */
    int32_t rows;          /* kv_rows */
    uint32_t flags;        /* KV_STEP_* */
    int32_t n_taps;
    int64_t pos0;            /* KV_STEP_RECOMPUTE only */
    const kv_events *follow; /* decisions to replay, or NULL */
    const kv_tap *taps;      /* [n_taps] */
    float *logits;           /* [rows][vocab], or NULL */
    const int32_t *targets;  /* [rows] token that each row should predict; needed when nll is set */
    float *nll;              /* [rows] -log p(target) in nats by the canonical op, or NULL */
    kv_events *events;       /* decisions of this step are appended; or NULL */
} kv_step;

KV_EXTERN_C_BEGIN

/* Floats of a row of a tap point (kv_tap_point); -1: no such point. */
int64_t kv_tap_width(const kv_config *cfg, int32_t point);

/* What every side refuses before it begins: ERR_USAGE for tokens outside the vocabulary, n < 1, missing
 * targets, taps that do not exist. For sides to call; user sides may. */
kv_status kv_step_check(const kv_config *cfg, const kv_step *step);

KV_EXTERN_C_END

/* ---- state --------------------------------------------------------------------------------- */

/* Digests of the cache (docs/backend.md): equal digests and unequal output accuse attention, unequal
 * digests accuse the write or evict path. */
typedef struct kv_digest {
    uint64_t content; /* which tokens with which bytes; independent of their order */
    uint64_t order;   /* original index and cache position in view order */
    uint64_t score;   /* scores in view order; XXH64 of nothing for policies without */
} kv_digest;

typedef enum kv_table {
    KV_TABLE_ROPE_COS, /* dst[n][rope_dims/2]: cosines for positions first .. first + n - 1 */
    KV_TABLE_ROPE_SIN  /* the same for sines, as the forward pass uses them */
} kv_table;

/* ---- tracing a policy without a model ------------------------------------------------------------- */

/* What a ring cache holds: canonical slots, sinks left out. Valid during the call that passes it. */
typedef struct kv_trace_state {
    int64_t seen;
    int32_t n_sink, n_rings, n_slots;
    const int32_t *count, *start; /* [n_rings] entries of a ring, ring offset of its oldest */
    const int64_t *og;            /* [n_slots] original index, -1 for an empty slot */
    const int32_t *pos;           /* [n_slots] position of the next read, -1 for an empty slot */
} kv_trace_state;

/* Tokens 0 .. n_tokens-1 are inserted one by one, each with a score that never changes. One KV head. */
typedef struct kv_trace {
    const kv_policy *policy; /* sink or cascade */
    int64_t n_tokens;
    float (*score)(void *arg, int64_t token);
    /* after every token; a non-zero return ends the trace early */
    int (*look)(void *arg, const kv_trace_state *state);
    void *arg;
    kv_events *events; /* or NULL */
} kv_trace;

typedef struct kv_open_args {
    const kv_model *model;   /* outlives the session */
    const kv_policy *policy; /* copied */
    const char *options;     /* what follows the side's name: "exact", "seed=3,isa=avx2"; or NULL */
    int32_t threads;         /* worker threads the side may use; at least 1 */
    int32_t max_step;        /* hint: no step will be longer */
} kv_open_args;

typedef struct kv_session kv_session; /* private to the side */

typedef struct kv_backend {
    uint32_t abi;      /* KV_BACKEND_ABI */
    uint32_t caps;     /* KV_CAP_* */
    int32_t contract;  /* kv_contract */
    int32_t reserved;
    const char *name;  /* what results call it */

    /* Whether the side can run on this machine; why receives the reason when it cannot. */
    kv_status (*available)(const char *options, char *why, size_t why_size);

    /* ERR_UNSUPPORTED when the side lacks a feature of the model or the policy: never a fallback. */
    kv_status (*open)(const kv_open_args *args, kv_session **out);
    void (*close)(kv_session *s); /* accepts NULL */

    /* Text of the last failure; s == NULL: of a failed open on this thread. Never NULL. */
    const char *(*last_error)(const kv_session *s);

    /* Forgets every token: as after open. */
    kv_status (*reset)(kv_session *s);

    /* Feeds tokens, all or nothing. */
    kv_status (*step)(kv_session *s, const kv_step *step);

    /* Canonical state (common/state.h) of one layer, or of all (layer = -1). *need receives the size;
     * dst == NULL only asks for it. `what` is a mask of KV_STATE_*. */
    kv_status (*export_state)(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap,
                              size_t *need);
    /* Replaces the whole state by another side's export of all layers with K and V. */
    kv_status (*import_state)(kv_session *s, const void *src, size_t size);

    /* A private copy of the state, to come back to. */
    kv_status (*snapshot)(kv_session *s, void **out);
    kv_status (*restore)(kv_session *s, const void *snap);
    void (*snapshot_free)(kv_session *s, void *snap); /* accepts NULL */

    /* Digests of one layer or of all (layer = -1). Optional: NULL without KV_CAP_DIGEST. */
    kv_status (*digest)(kv_session *s, int32_t layer, kv_digest *out);

    /* A derived table, so that both sides' can be compared bit for bit when a case opens. */
    kv_status (*table)(kv_session *s, kv_table which, int64_t first, int64_t n, float *dst);

    /* The side's insertion rule alone, without a model. Optional: NULL. */
    kv_status (*trace)(const kv_trace *t);
} kv_backend;

typedef const kv_backend *kv_side_entry_fn(uint32_t abi);

#endif
