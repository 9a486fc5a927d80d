/* locate_attn.h - guesses about a wrong row of attention: the row is computed again in double under one mistake at a
 * time (an entry left out, positions shifted, another scale ...), and the mistake that gives what the device gave is
 * the guess. Pure: everything is in the arguments. */
#ifndef KV_DIFFTEST_LOCATE_ATTN_H
#define KV_DIFFTEST_LOCATE_ATTN_H

#include "difftest/locate_view.h"

/* One query head in one row. Keys are as read (rotated, with gain); entries in view order. */
typedef struct dt_attn {
    int64_t n, n_gone, stored, D;
    int32_t n_kv, kv;                  /* KV heads, the one that the head reads */
    const dt_entry *entry;             /* [n + n_gone] */
    const double *const *k, *const *v; /* [n_kv][(n + n_gone)][D] */
    const double *q;                   /* [D] before the softmax scale */
    double scale;
    const dt_rotation *rotation;
    int64_t sinks;       /* leading entries that are sinks */
    int raw;             /* keys are kept un-rotated: positions belong to the view */
    double key_gain;     /* of the KV head; 1: none */
    const double *own_v; /* [D] what local_v adds lambda of, or xsa takes out; NULL: neither */
    double lambda;
    int xsa;
    const float *ref, *got;     /* [D] */
    const float *const *others; /* [n_others][D] correct rows that may stand in the place of this one */
    const char *const *other_names;
    int32_t n_others;
} dt_attn;

typedef struct dt_guess {
    const char *op, *klass; /* NULL op: nothing fits */
    int64_t entry;          /* that is concerned, -1: none or all */
    double error;           /* largest difference to what the device gave */
    char text[320];
} dt_guess;

/* Largest difference between the row as computed here and the reference's: small when the view is understood. */
double dt_attn_check(const dt_attn *a);

/* The guess that fits. */
void dt_attn_guess(const dt_attn *a, dt_guess *out);

/* Probabilities of the visible entries. p [n] */
void dt_attn_weights(const dt_attn *a, double *p);

#endif
