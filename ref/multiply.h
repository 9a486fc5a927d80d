/* multiply.h - matrix products with packed weights, split among threads by blocks of the result. */
#ifndef KV_REF_MULTIPLY_H
#define KV_REF_MULTIPLY_H

#include "common/pool.h"
#include "ref/kernels.h"

/* c[m][n] = x[m][k] times one packed matrix. */
typedef struct ref_product {
    const ref_packed *w;
    real *c;
    int64_t strips, first; /* multiply's own: tasks of this product per row block, and before it */
} ref_product;

/* Products that share their input: one run of the pool. */
typedef struct ref_products {
    const ref_kernels *kernels;
    kv_pool *pool;
    int cold;      /* the weights come from memory, not from a cache: decides the speed of few rows, no bit */
    const real *x; /* [m][k] */
    int64_t m;
    int n;
    ref_product p[3];
    int64_t strip_panels, n_strips; /* multiply's own: panels of a task; strips of all products */
} ref_products;

void REF(multiply)(ref_products *g);

#endif
