/* locate_hunt.h - what the files of the guesses about attention share: one row, computed under a mistake, is offered
 * and kept when it is nearer to the device's than the best so far. */
#ifndef KV_DIFFTEST_LOCATE_HUNT_H
#define KV_DIFFTEST_LOCATE_HUNT_H

#include "difftest/locate_attn.h"

enum { DT_HUNT_CHUNK = 256 };

/* A search over mistakes: scratch and the best so far. */
typedef struct dt_hunt {
    const dt_attn *a;
    double *s, *p, *out, *row, *memory; /* [n + n_gone] scores, probabilities; [D] */
    double size, wrong;                 /* largest |got|, largest |got - ref| */
    dt_guess *best;
} dt_hunt;

/* Key and value of entry i as KV head kv holds them. [D] */
const double *dt_hunt_key(const dt_attn *a, int32_t kv, int64_t i);
const double *dt_hunt_value(const dt_attn *a, int32_t kv, int64_t i);

/* s[n] = scaled scores; p[n] = their softmax (may be s); out[D] = values weighed by p. */
void dt_hunt_scores(const dt_attn *a, int32_t kv, int64_t n, double *s);
void dt_hunt_softmax(const double *s, int64_t n, double *p);
void dt_hunt_weigh(const dt_attn *a, int32_t kv, const double *p, int64_t n, double *out);

/* What the golf family makes of the row behind attention (docs/golf.md, 9 and 10). */
void dt_hunt_finish(const dt_attn *a, double *out);

double dt_hunt_distance(const double *x, const float *y, int64_t n);

/* Offers a row as it is before dt_hunt_finish. A later guess must be clearly better than an earlier, simpler one. */
void dt_hunt_offer(dt_hunt *h, const double *out, const char *op, const char *klass, int64_t entry, const char *fmt,
                   ...) KV_PRINTF(6, 7);

/* Offers the row of the scores in h->s. */
void dt_hunt_offer_scores(dt_hunt *h, int64_t n, const char *op, const char *klass, int64_t entry, const char *text);

/* "token 12 (entry 3, of this step)" */
void dt_hunt_name(const dt_attn *a, int64_t i, char *dst, size_t size);

/* locate_guess.c: scale, precision, sums, positions. */
void dt_hunt_arithmetic(dt_hunt *h);
void dt_hunt_positions(dt_hunt *h);
void dt_hunt_precision(dt_hunt *h);

#endif
