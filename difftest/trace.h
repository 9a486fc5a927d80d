/* trace.h - what a cache holds, token by token: the rows of `kvdiff policy trace`, as a table, as JSON, as a
 * picture. A frame is one layer and KV head after a step. */
#ifndef KV_DIFFTEST_TRACE_H
#define KV_DIFFTEST_TRACE_H

#include "common/backend.h"
#include "difftest/cli.h"

#include <jansson.h>

/* Where, or how precisely, a token is kept. */
typedef enum dt_zone {
    DT_ZONE_ROW,   /* K and V rows of its own, as computed or rounded */
    DT_ZONE_TAIL,  /* the same, where the storage has coded tiles besides */
    DT_ZONE_KEY,   /* kivi: K coded, V not yet */
    DT_ZONE_TILE,  /* K and V coded */
    DT_ZONE_SINK,
    DT_ZONE_RING,  /* ring i: DT_ZONE_RING + i */
    DT_ZONE_COUNT = DT_ZONE_RING + KV_CASCADE_MAX
} dt_zone;

typedef struct dt_held {
    int64_t og;   /* original index */
    int32_t pos;  /* exported position; of a tile: its first token's */
    int32_t slot; /* canonical slot where the policy's page has them fixed (sink, cascade); else -1 */
    int32_t zone; /* dt_zone */
} dt_held;

/* Zero-initialise; the owner frees v. */
typedef struct dt_frame {
    int64_t seen; /* tokens fed */
    dt_held *v;   /* tokens in view order: sinks, then oldest to newest */
    size_t n, cap;
} dt_frame;

/* Rings of a policy: its sinks, slots of a ring, number of rings (0: neither sink nor cascade). */
typedef struct dt_rings {
    int32_t sinks, window, n;
} dt_rings;
dt_rings dt_rings_of(const kv_policy *p);

/* "ring 2"; "" for DT_ZONE_ROW. Valid until the next call on this thread. */
const char *dt_zone_name(int32_t zone);

/* Canonical slots that events gave to tokens 0 .. n-1; -1: none yet. */
typedef struct dt_slots {
    int32_t *of;
    int64_t n;
} dt_slots;

/* From one layer's export, checked by kv_state_check (with K and V where the storage codes tiles). Slots are
 * needed for policies with rings. A tile becomes its tokens. ERR_FORMAT: a state that its policy cannot have. */
kv_status dt_frame_from_state(dt_frame *f, const kv_policy *p, const void *blob, int32_t head, const dt_slots *slots);

/* From a trace without a model. */
kv_status dt_frame_from_trace(dt_frame *f, const kv_policy *p, const kv_trace_state *s);

/* FNV-1a 64 over little-endian int64: seen, stored sinks, (count, start) per ring, original indices of all ring
 * slots in physical order, positions of the same; -1 for an empty slot. */
uint64_t dt_trace_digest(const kv_trace_state *s);

/* ---- output ------------------------------------------------------------------------------------------- */

typedef enum dt_trace_form { DT_TRACE_TABLE, DT_TRACE_JSON, DT_TRACE_SVG } dt_trace_form;

typedef struct dt_trace_head {
    kv_policy policy;
    char spec[KV_POLICY_TEXT_MAX]; /* canonical */
    const char *side, *model, *corpus; /* model and corpus NULL: no model */
    int32_t layer, head, q;
    int64_t tokens;
    int by_slot; /* table: ring slots in physical order instead of age */
} dt_trace_head;

typedef struct dt_trace_out dt_trace_out;

/* path is the picture's file; otherwise stdout is written. Nothing is written before the first frame. */
kv_status dt_trace_out_open(const dt_trace_head *h, dt_trace_form form, const char *path, dt_trace_out **out);
kv_status dt_trace_out_frame(dt_trace_out *o, const dt_frame *f);

/* Ends the output; frees o (NULL is accepted). With keep = 0 a picture is not written. */
kv_status dt_trace_out_close(dt_trace_out *o, int keep);

/* ---- the picture, fed by dt_trace_out ------------------------------------------------------------------ */

typedef struct dt_picture dt_picture;
kv_status dt_picture_new(const dt_trace_head *h, dt_picture **out);
kv_status dt_picture_frame(dt_picture *p, const dt_frame *f);
kv_status dt_picture_write(dt_picture *p, const char *path);
void dt_picture_free(dt_picture *p); /* accepts NULL */

#endif
