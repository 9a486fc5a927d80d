/* refkit.h - sessions of the reference for unit tests: open, feed, export, compare. Failures of the side end
 * the test with the side's own words. */
#ifndef KV_TESTS_REFKIT_H
#define KV_TESTS_REFKIT_H

#include "tests/unit/kvtest.h"

#include "common/rng.h"
#include "common/state.h"
#include "ref/backend.h"

typedef struct refkit {
    const kv_backend *side;
    const kv_model *model;
    kv_session *s;
} refkit;

#define assert_side(kit, expr)                                                                     \
    do {                                                                                           \
        const kv_status st_ = (expr);                                                              \
        if (st_ != KV_OK)                                                                          \
            fail_msg("%s: %s: %s: %s", #expr, (kit)->side->name, kv_status_name(st_),              \
                     (kit)->side->last_error((kit)->s));                                           \
    } while (0)

KV_UNUSED_TEST_HELPER kv_model *refkit_model(const char *name)
{
    kv_model *m = NULL;
    assert_ok(kv_model_open(name, NULL, &m, NULL));
    return m;
}

KV_UNUSED_TEST_HELPER refkit refkit_open_with(const kv_backend *side, const kv_model *m, const char *policy,
                                              const char *options, int threads)
{
    refkit k = {side, m, NULL};
    kv_policy p;
    assert_ok(kv_policy_parse(policy, &p));
    const kv_open_args a = {.model = m, .policy = &p, .options = options, .threads = threads, .max_step = 64};
    assert_ok(side->open(&a, &k.s));
    return k;
}

KV_UNUSED_TEST_HELPER refkit refkit_open(const kv_backend *side, const kv_model *m, const char *policy)
{
    return refkit_open_with(side, m, policy, NULL, 1);
}

KV_UNUSED_TEST_HELPER void refkit_close(refkit *k)
{
    k->side->close(k->s);
    k->s = NULL;
}

/* n tokens of a vocabulary, the same for every caller. */
KV_UNUSED_TEST_HELPER int32_t *refkit_tokens(int32_t n, const kv_model *m)
{
    int32_t *t = malloc((size_t)n * sizeof *t);
    assert_non_null(t);
    for (int32_t i = 0; i < n; i++)
        t[i] = (int32_t)kv_philox_below(20, 24, (uint64_t)i, (uint32_t)m->cfg.vocab_size);
    return t;
}

/* Feeds n tokens, `step` at a time. logits (may be NULL): [n][V], every row; events (may be NULL) grows. */
KV_UNUSED_TEST_HELPER void refkit_feed(const refkit *k, const int32_t *tokens, int32_t n, int32_t step,
                                       float *logits, kv_events *events)
{
    for (int32_t at = 0; at < n; at += step) {
        const kv_step s = {.tokens = tokens + at,
                           .n = n - at < step ? n - at : step,
                           .rows = logits ? KV_ROWS_ALL : KV_ROWS_NONE,
                           .logits = logits ? logits + (int64_t)at * k->model->cfg.vocab_size : NULL,
                           .events = events};
        assert_side(k, k->side->step(k->s, &s));
    }
}

/* [n][V] floats for refkit_feed; the caller frees them. */
KV_UNUSED_TEST_HELPER float *refkit_rows(const refkit *k, int32_t n)
{
    float *p = calloc((size_t)n * (size_t)k->model->cfg.vocab_size, sizeof *p);
    assert_non_null(p);
    return p;
}

/* n rows of logits have the same bits. */
KV_UNUSED_TEST_HELPER void refkit_same_rows(const refkit *k, const float *a, const float *b, int32_t n,
                                            const char *what)
{
    const int32_t V = k->model->cfg.vocab_size;
    for (int32_t r = 0; r < n; r++)
        if (memcmp(a + (int64_t)r * V, b + (int64_t)r * V, (size_t)V * sizeof *a) != 0)
            fail_msg("%s: %s: row %d of the logits has other bits", k->side->name, what, r);
}

/* An exported state. */
typedef struct refkit_blob {
    uint8_t *p;
    size_t size;
} refkit_blob;

KV_UNUSED_TEST_HELPER refkit_blob refkit_export(const refkit *k, int32_t layer, uint32_t what)
{
    refkit_blob b = {NULL, 0};
    assert_side(k, k->side->export_state(k->s, layer, what, NULL, 0, &b.size));
    b.p = malloc(b.size);
    assert_non_null(b.p);
    size_t again = 0;
    assert_side(k, k->side->export_state(k->s, layer, what, b.p, b.size, &again));
    assert_int_equal(again, b.size);
    assert_ok(kv_state_check(b.p, b.size));
    return b;
}

KV_UNUSED_TEST_HELPER refkit_blob refkit_export_all(const refkit *k)
{
    return refkit_export(k, -1, KV_STATE_KV | KV_STATE_SCORE);
}

/* Both sessions export the same bytes. */
KV_UNUSED_TEST_HELPER void refkit_same_state(const refkit *a, const refkit *b, const char *what)
{
    refkit_blob x = refkit_export_all(a), y = refkit_export_all(b);
    if (x.size != y.size || memcmp(x.p, y.p, x.size) != 0)
        fail_msg("%s: %s: the exported states differ (%zu and %zu bytes)", a->side->name, what, x.size,
                 y.size);
    free(x.p);
    free(y.p);
}

KV_UNUSED_TEST_HELPER void refkit_same_events(const kv_events *a, const kv_events *b, const char *what)
{
    if (a->n != b->n || (a->n && memcmp(a->v, b->v, a->n * sizeof *a->v) != 0))
        fail_msg("%s: the events differ (%zu and %zu of them)", what, a->n, b->n);
}

/* Run `index` (layers, then heads) of a blob. */
KV_UNUSED_TEST_HELPER kv_state_view refkit_run(const refkit_blob *b, int32_t index)
{
    kv_state_head h;
    memcpy(&h, b->p, sizeof h);
    size_t offset = sizeof h;
    kv_state_view v = {0};
    assert_true(index < h.n_layers * h.n_kv_heads);
    for (int32_t i = 0; i <= index; i++)
        v = kv_state_place(&h, b->p, &offset, -1, 0);
    return v;
}

#endif
