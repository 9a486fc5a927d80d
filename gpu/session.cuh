/* session.cuh - what a session of this side consists of; the parts of the door that work on it.
 *
 * Device memory of a session, all fp32 unless said otherwise:
 *
 *   model    weights, written once
 *   stores   per layer two buffers [rows][kv_heads * head_dim], K and V, in the storage's format; who is
 *            in which row is the policy's business, for each layer and KV head. Storages in codes have
 *            parts instead (coded.cuh)
 *   table    cosines and sines of a window of positions
 *   work     activations of the piece under way, [tokens][width]; they grow to the longest piece
 *
 * Bounded policies reach their size early and stay there. */
#ifndef GPU_SESSION_CUH
#define GPU_SESSION_CUH

#include "common/backend.h"
#include "common/state.h"
#include "gpu/carry.cuh"
#include "gpu/coded.cuh"
#include "gpu/ops.cuh"
#include "gpu/policy.cuh"
#include "gpu/weights.cuh"

#include <memory>
#include <string>
#include <vector>

/* K and V of one layer: bytes of numbers in the storage's format. */
struct gpu_store {
    gpu_buffer<unsigned char> k, v;
};

/* What is remembered between steps, and what a snapshot copies. */
struct gpu_cache {
    std::unique_ptr<gpu_policy> policy;
    int32_t storage = KV_STORE_F32;
    std::vector<gpu_store> layers; /* storages of numbers */
    std::vector<gpu_parts> coded;  /* per layer: storages in codes */
    gpu_carry carry;               /* what the model itself remembers */
    int64_t seen = 0; /* tokens fed */
};

/* Table rows for positions first .. first + n - 1. */
struct gpu_table {
    gpu_buffer<float> cos, sin; /* [n][rope_dims / 2] */
    int64_t first = 0, n = 0;
    gpu_buffer<float> inv_freq; /* [rope_dims / 2] */
    int64_t length = 0;         /* tokens that their base is for; 0: not made yet */
};

struct gpu_work {
    gpu_buffer<int32_t> ids, targets, rows;
    gpu_buffer<float> x, normed, qkv, attended, gate_up, activated, logits, nll;
    gpu_buffer<int32_t> hashes;   /* golf: rows of the bigram table, */
    gpu_buffer<float> bigram, x0; /* what they hold; the stream before layer 0 */
    gpu_buffer<float> skips;      /* outputs of the first layers, [skips][m][d_model] */
    gpu_buffer<float> raw, own_v; /* projections; v of the step's tokens */
    gpu_buffer<float> sidecar, gated; /* gate | value; the input of its projection */
    gpu_buffer<float> view_keys;  /* stored keys of one layer, rotated, in view order */
    gpu_buffer<float> view_values; /* the same for values, where new rows are read as computed */
    gpu_buffer<int32_t> own_rows; /* then: where the new rows stand in qkv, [K, V][m] */
    gpu_buffer<float> partials;   /* of gpu_matmul */
    gpu_buffer<float> attention;  /* workspace of gpu_attention */
    gpu_buffer<float> stats, sums; /* of gpu_column_sums */
    gpu_buffer<uint32_t> records; /* of export and import */
    gpu_buffer<int32_t> bad;      /* per layer: what was to be coded and is not finite */
};

/* Declaration order: buffers go before the stream does. */
struct kv_session {
    gpu_stream stream;
    gpu_model model;
    std::unique_ptr<gpu_coded> coded; /* NULL: K and V are kept as numbers */
    gpu_cache cache;
    gpu_table table;
    int64_t rope_length = 1; /* gpu_rope_length; */
    bool rope_by_call = false; /* but each pass has its own */
    gpu_work work;
    bool broken = false; /* a step has failed half-way */
    std::string error;
};

/* ---- forward.cu ---- */

/* A piece of a step: tokens first .. first + m - 1 of it, from the stream's token `token` on. */
struct gpu_piece {
    const kv_step *step;
    int32_t first, m;
    int64_t token;
};

/* Runs the model over a piece: fills stores, logits, nll and taps. */
kv_status gpu_forward(kv_session *s, const gpu_piece &piece, const gpu_view &view);

/* Table rows for these positions, by the base of a length; *at receives the row of position `first`. */
kv_status gpu_table_cover(kv_session *s, int64_t first, int64_t n, int64_t length, int64_t *at);

/* Floats in a row of a tap point; 0 for an unknown point. */
int32_t gpu_tap_width(const kv_config &cfg, int32_t point);

/* ---- trace.cu ---- */

/* Runs the insertion rule of sink or cascade alone (kv_backend.trace). */
kv_status gpu_trace(const kv_trace &t);

/* ---- state.cu ---- */

/* Rows for what the policy has placed; what is stored stays. */
kv_status gpu_cache_make_room(kv_session *s);
kv_status gpu_cache_reset(gpu_cache *cache);

kv_status gpu_state_export(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap,
                           size_t *need);
kv_status gpu_state_import(kv_session *s, const void *src, size_t size);

/* The head of a state of one layer or (layer = -1) of all; its size is that of head and carry. */
kv_state_head gpu_state_head(const kv_session *s, int32_t layer, uint32_t what);

/* Reports the size of a state; with dst, checks that it fits, clears it and writes the head. *wanted: go on. */
kv_status gpu_state_begin(const kv_state_head &h, void *dst, size_t cap, size_t *need, bool *wanted);

/* ---- coded_state.cu: the same for storages in codes ---- */

kv_status gpu_coded_make_room(kv_session *s, const gpu_span &span);
kv_status gpu_coded_export(kv_session *s, kv_state_head head, void *dst, size_t cap, size_t *need);
kv_status gpu_coded_import(kv_session *s, const kv_state_head &head, void *blob);

/* ERR_NONFINITE when something of the piece could not be coded. */
kv_status gpu_coded_check(kv_session *s, const gpu_span &span);

/* The carry stands at the end of a state: writes it into a blob, checks or takes over that of a checked blob. */
kv_status gpu_state_put_carry(const kv_session *s, const kv_state_head &h, void *blob);
kv_status gpu_state_take_carry(kv_session *s, const kv_state_head &h, const void *blob);

/* *to becomes a copy of the session's cache; or the session's cache a copy of from. */
kv_status gpu_cache_save(kv_session *s, gpu_cache *to);
kv_status gpu_cache_load(kv_session *s, const gpu_cache &from);

#endif
