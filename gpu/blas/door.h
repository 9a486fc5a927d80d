/* door.h - single operations of the blas side behind include/kvdiff_kernel.h (docs/blas.md, "Single operations"). Only those that
 * its forward pass consists of; what it has no function for is refused. */
#ifndef KV_BLAS_DOOR_H
#define KV_BLAS_DOOR_H

#include "gpu/blas/blas.h"
#include "include/kvdiff_kernel.h"

/* One call: a session of nothing but what an operation needs, and memory that lives until the end. Zero-initialise. */
typedef struct blas_door {
    blas_session session;
    void *memory[16];
    int n;
} blas_door;

void blas_door_begin(blas_door *d);
/* Frees the memory; what the call returns: 0, -1 refused, positive: failed, as kv_status. */
int blas_door_end(blas_door *d, kv_status st);

/* n numbers; ERR_NOMEM. */
kv_status blas_door_take(blas_door *d, int64_t n, float **p);

/* A tensor as fp32 without gaps. ERR_MISMATCH when there is none of d0 x d1 x d2. */
kv_status blas_door_in(blas_door *d, const kvdk_tensor *t, int64_t d0, int64_t d1, int64_t d2, float **p);

/* Writes an fp32 tensor of d0 x d1 x d2. */
kv_status blas_door_out(const kvdk_tensor *t, int64_t d0, int64_t d1, int64_t d2, const float *p);

/* KV_ERR_UNSUPPORTED */
kv_status blas_door_refuse(const char *why);

/* Position of row i, in numbers, of a tensor whose rows are its first dimension. */
static inline int64_t blas_door_row(const kvdk_tensor *t, int64_t i) { return i * t->stride[0]; }

#endif
