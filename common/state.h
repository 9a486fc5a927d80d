/* state.h - the canonical layout of a cache: what export_state writes and import_state reads.
 *
 * One blob, little endian, 8-byte aligned:
 *
 *   kv_state_head
 *   for each exported layer, ascending; for each KV head, ascending:
 *     kv_state_run
 *     int64_t og[n]       original index of the token
 *     int32_t pos[n]      RoPE position: of the next read for sink and cascade, of the last read
 *                         otherwise; padded to 8 bytes
 *     float   score[n]    only with KV_STATE_SCORE; padded to 8 bytes
 *     int32_t bytes[n]    only with KV_STATE_KV and record_bytes = 0: of each record; padded to 8 bytes
 *     records[n]          only with KV_STATE_KV: K row, then V row, as stored; padded to 8 bytes.
 *                         With record_bytes = 0 records differ in size (docs/policy/kvarn.md, kivi.md) and
 *                         each is padded to 8 bytes.
 *
 *   carry               carry_bytes bytes, only when all layers are exported: what the model itself remembers of the
 *                       newest tokens (kv_carry_layout). It follows the stream of tokens, not the cache: nothing
 *                       is ever evicted from it.
 *
 * Entries stand in view order: sinks, then oldest to newest. The layout is shared by all sides; who
 * is in it, in which order and at which position is each side's own decision. */
#ifndef KV_COMMON_STATE_H
#define KV_COMMON_STATE_H

#include "common/status.h"

#include <stdint.h>

enum {
    KV_STATE_SCORE = 1u << 0, /* scores, where the policy has them */
    KV_STATE_KV = 1u << 1     /* K and V bytes */
};

enum { KV_KEY_ROTATED, KV_KEY_RAW }; /* K stored after or before RoPE */

#define KV_STATE_MAGIC   0x5453564Bu /* "KVST" */
#define KV_STATE_VERSION 3u

typedef struct kv_state_head {
    uint32_t magic, version;
    uint32_t what;         /* KV_STATE_* actually present */
    int32_t key_form;      /* KV_KEY_* */
    int32_t layer0;        /* first exported layer */
    int32_t n_layers;      /* exported layers */
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t record_bytes;  /* of one entry of one KV head: K and V; 0: each says its own */
    int32_t storage;       /* kv_storage */
    int64_t seen;          /* tokens fed so far */
    uint64_t carry_bytes;  /* 0 for models that remember nothing, and when not all layers are exported */
    uint64_t total_bytes;  /* of the whole blob */
} kv_state_head;
KV_STATIC_ASSERT(sizeof(kv_state_head) == 64, "kv_state_head is a file layout");

typedef struct kv_state_run {
    int32_t layer, head;
    int32_t n; /* resident entries */
    int32_t record_total; /* record_bytes = 0: bytes of all records, padding included; else 0 */
} kv_state_run;
KV_STATIC_ASSERT(sizeof(kv_state_run) == 16, "kv_state_run is a file layout");

/* One run with pointers into the blob (or into the buffer being written). */
typedef struct kv_state_view {
    kv_state_run *run;
    int64_t *og;
    int32_t *pos;
    float *score;      /* NULL when absent */
    int32_t *bytes;    /* NULL when all records have one size */
    uint8_t *records;  /* NULL when absent */
} kv_state_view;

/* The carry: int32_t number of tokens fed so far, at most 2^31 - 1; int32_t id of the newest; then floats at these offsets in
 * bytes, 0 = the model has no such part. Rows that no token has filled are zero. */
typedef struct kv_carry_layout {
    size_t norm;    /* [d_model] the newest token's row after the first norm: predecessor of the smear gate */
    size_t k, v;    /* [n_layers][n_kv_heads * head_dim] its raw projections: predecessors of the shift */
    size_t conv;    /* [sites][sidecar_taps - 1][sidecar_hidden] newest rows of each site's value path, oldest first */
    size_t bytes;   /* of the whole carry, a multiple of 8; 0: the model remembers nothing */
} kv_carry_layout;

KV_EXTERN_C_BEGIN

struct kv_config;
kv_carry_layout kv_carry_layout_of(const struct kv_config *cfg);

/* Bytes of a run with n entries; record_total as in kv_state_run (0 when records have one size). */
size_t kv_state_run_bytes(const kv_state_head *h, int64_t n, int64_t record_total);

/* Lays out run number i of a blob whose earlier runs are already written; *offset is advanced.
 * A reader of a checked blob passes n < 0; a writer passes n and record_total, which are put into the run. */
kv_state_view kv_state_place(const kv_state_head *h, void *blob, size_t *offset, int64_t n, int64_t record_total);

/* Bytes of entry i's record, and the distance from one record to the next. */
static inline int32_t kv_state_record_bytes(const kv_state_head *h, const kv_state_view *v, int64_t i)
{
    return v->bytes ? v->bytes[i] : h->record_bytes;
}
static inline int64_t kv_state_record_stride(const kv_state_head *h, const kv_state_view *v, int64_t i)
{
    return v->bytes ? ((int64_t)v->bytes[i] + 7) / 8 * 8 : h->record_bytes;
}

/* Verifies that size bytes at blob are a complete, consistent state; every later access through
 * kv_state_place(…, n < 0) stays inside. ERR_FORMAT says what is wrong. */
kv_status kv_state_check(const void *blob, size_t size);

KV_EXTERN_C_END

#endif
