/* storage.h - how rows of K and V are kept: the private table that a storage fills (docs/policy/storage.md).
 *
 * A selection says which tokens stay, a storage what stays of them. Attention runs on `real` rows by slot (ref/cache.h);
 * a storage rounds them on arrival and knows its entries as the bytes of common/state.h. */
#ifndef KV_REF_STORAGE_H
#define KV_REF_STORAGE_H

#include "ref/cache.h"

/* One entry of an exported KV head. */
typedef struct ref_record {
    int64_t slot, og; /* slot: the storage's own business */
    int32_t pos, bytes;
} ref_record;

struct ref_storage {
    /* A value as it is kept; NULL: as computed. */
    real (*round)(real x);

    /* Bytes of every record; 0: each says its own. */
    int32_t (*record_bytes)(const ref_cache *c);

    /* Number of entries of each KV head of a layer, and the i-th of them. */
    int64_t (*records)(const ref_cache *c, const ref_layer *l);
    ref_record (*record)(const ref_cache *c, const ref_layer *l, int64_t head, int64_t i);

    /* The bytes of a record: where they lie, or in `row`, which holds 2 * KV_MAX_HEAD_DIM floats. */
    const void *(*read)(const ref_cache *c, const ref_layer *l, int64_t head, const ref_record *r, void *row);
    void (*write)(const ref_cache *c, ref_layer *l, int64_t head, const ref_record *r, const void *bytes);
};

/* The table of a storage, by kv_storage. */
const ref_storage *REF(storage_find)(int32_t storage);

/* Rounds n values to what the storage keeps of them: as they arrive, or, where a window is computed again and its own
 * rows stay as computed (xwindow), as they are recorded. Exactly one of the two does something. */
void REF(storage_arrive)(const ref_cache *c, real *x, int64_t n);
void REF(storage_record)(const ref_cache *c, real *x, int64_t stride, int64_t n);

#endif
