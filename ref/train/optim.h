/* optim.h - what turns gradients into new weights: clipping, AdamW, Muon, the running average, and the schedules of
 * their constants. Formulas: the page of the golf family, orders: docs/training.md. */
#ifndef KV_REF_TRAIN_OPTIM_H
#define KV_REF_TRAIN_OPTIM_H

#include "common/mem.h"
#include "common/pool.h"
#include "common/train.h"
#include "ref/kernels.h"
#include "ref/train/kernels.h"
#include "ref/train/params.h"

/* ---- schedule.c: all in double, steps from 0 -------------------------------------------------------- */

/* Learning rate multiplier: 1, then falling in the last `warmdown` steps; 1 from `iterations` on. */
double REF(lr_multiplier)(int64_t step, int64_t iterations, int64_t warmdown);

/* Muon's momentum, rising from one value to another in `steps` steps. */
double REF(muon_momentum)(int64_t step, double from, double to, int64_t steps);

/* Multiplier of test-time training: rises from 0.1 to 1 in the first `warm` steps, then half a cosine to floor. */
double REF(ttt_multiplier)(int64_t step, int64_t warm, int64_t total, double floor);

/* beta^n by repeated multiplication. */
double REF(power)(double beta, int64_t n);

/* ---- optim.c ------------------------------------------------------------------------------------------ */

/* Arrays of params->total values each. */
typedef struct ref_optim {
    const ref_params *params;
    const ref_kernels *kernels;
    kv_pool *pool;
    real *w, *g;  /* weights; gradients, overwritten by a step */
    real *m, *v;  /* AdamW's moments; m is the buffer of Muon and of SGD */
    real *ema;
    kv_buffer *scratch; /* [threads] of Muon */
} ref_optim;

/* The constants of one step. */
typedef struct ref_step_info {
    int64_t step;      /* from 0 */
    double multiplier; /* of all learning rates */
    double momentum;
    /* Results: norm of all gradients, and what they were multiplied by. */
    double norm, clip;
} ref_step_info;

/* Clips the gradients, updates the weights and the average. ERR_NONFINITE names the first tensor whose gradient is
 * not finite; nothing has been changed then. */
kv_status REF(optim_step)(ref_optim *o, const kv_train_config *c, ref_step_info *s);

/* One tensor of n values by AdamW's step t = s->step + 1. */
void REF(adamw)(const kv_train_config *c, kv_golf_group group, const ref_step_info *s, int64_t n, const real *g,
                real *w, real *m, real *v);

/* ---- muon.c --------------------------------------------------------------------------------------------- */

/* Reals of scratch for a matrix. */
int64_t REF(muon_scratch)(int64_t rows, int64_t cols);

/* x[rows][cols] becomes its approximate orthogonal factor: five Newton-Schulz steps. */
void REF(ns5)(const ref_kernels *k, int64_t rows, int64_t cols, int bf16, real *x, real *scratch);

/* One matrix by Muon. g is overwritten by the update, of which *length (may be NULL) receives the Frobenius norm. */
void REF(muon)(const ref_kernels *k, const kv_train_config *c, const ref_step_info *s, const ref_param *p, real *g,
               real *w, real *buffer, real *scratch, double *length);

/* ---- qat.c ------------------------------------------------------------------------------------------------ */

/* out = w[rows][cols] rounded to six bits per row and back: what late quantisation-aware training computes with. */
void REF(fake_int6)(const real *w, int64_t rows, int64_t cols, real *out);

#endif
