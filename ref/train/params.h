/* params.h - the parameters of a model as one array in the order of kv_golf_order, and arrays of the same shape: their
 * gradients, moments and averages. In `real`, so that the double twin trains in double. */
#ifndef KV_REF_TRAIN_PARAMS_H
#define KV_REF_TRAIN_PARAMS_H

#include "common/golf.h"
#include "ref/real.h"

typedef struct ref_param {
    kv_role role;
    int32_t layer;
    kv_golf_group group;
    int64_t rows, cols, n, at; /* n = rows * cols values from `at` on */
} ref_param;

typedef struct ref_params {
    kv_config cfg;
    ref_param *p; /* [n] owned */
    int32_t n;
    int64_t total;
    int16_t index[KV_ROLE_COUNT]; /* of a role's first tensor; -1: none */
    int16_t stride;               /* between the tensors of one role in consecutive layers */
} ref_params;

kv_status REF(params_open)(ref_params *ps, const kv_config *cfg);
void REF(params_close)(ref_params *ps);

/* The tensor of a role, or NULL; layer is 0 for whole-model roles. */
static inline const ref_param *ref_param_of(const ref_params *ps, kv_role role, int32_t layer)
{
    return ps->index[role] < 0 ? NULL : &ps->p[ps->index[role] + layer * ps->stride];
}

/* "blocks.3.attn.c_q.weight" */
void REF(param_name)(const ref_params *ps, const ref_param *p, char name[KV_TENSOR_NAME_MAX]);

/* w[total] from a model of the same shape. ERR_NOMEM. */
kv_status REF(params_read)(const ref_params *ps, const kv_model *m, real *w);

/* First weights (docs/training.md): uniform, normal or orthogonal from the seed, zeros and ones. ERR_NOMEM. */
kv_status REF(params_init)(const ref_params *ps, uint64_t seed, real *w);

/* Rows of a[n][m], n <= m, become orthonormal in order, each by what the rows before it leave of it: the Q of a QR
 * decomposition with positive diagonal. A row of which less than 1e-12 is left becomes zero. */
void REF(orthonormalise)(double *a, int64_t n, int64_t m);

#endif
