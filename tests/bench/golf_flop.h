/* golf_flop.h - what a model of the golf family multiplies (docs/golf.md, "Cost"): the bench divides by its time,
 * tests/unit/test_golf.c knows the numbers of the full-size presets. Elementwise operations are not counted. */
#ifndef KV_TESTS_BENCH_GOLF_FLOP_H
#define KV_TESTS_BENCH_GOLF_FLOP_H

#include "common/config.h"

/* Multiply-adds of a token in all matrix products, the head's and the sidecars' filters included. */
static inline int64_t golf_products(const kv_config *c)
{
    const int64_t d = c->d_model, q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim;
    const int64_t layer = 2 * d * q + 2 * d * kv + 2 * d * c->ffn_dim;
    const int64_t site = c->sidecar_hidden * (3 * d + c->sidecar_taps);
    return c->n_layers * layer + kv_config_sites(c) * site + d * c->vocab_size + d * c->bigram_dim;
}

/* ... and in attention for each key that it sees, over all layers. */
static inline int64_t golf_key_products(const kv_config *c)
{
    return (int64_t)c->n_layers * 2 * c->n_heads * c->head_dim;
}

/* Floating-point operations, two a multiply-add, of a window of n tokens: token i sees i + 1 keys. */
static inline double golf_window_flop(const kv_config *c, int64_t n)
{
    return 2.0 * ((double)n * (double)golf_products(c) + (double)(n * (n + 1) / 2) * (double)golf_key_products(c));
}

#endif
