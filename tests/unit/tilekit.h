/* tilekit.h - sessions under storages that code tokens in tiles, against plain loops. Keys and values of layer 0 do not
 * depend on the cache: they are taken from a session that keeps everything in fp32, and what a session under test
 * exports, decides and attends to in layer 0 is computed from them. */
#ifndef KV_TESTS_TILEKIT_H
#define KV_TESTS_TILEKIT_H

#include "tests/unit/kvarnnaive.h"
#include "tests/unit/refkit.h"

enum { TILE_LAYERS = 4, TILE_HEADS = 2, TILE_Q_HEADS = 4, TILE_D = 32 }; /* of model nano */

/* Rows of layer 0, [heads][tokens][K, V][D]. */
typedef struct tile_rows {
    kv_model *model;
    int32_t *tokens;
    int64_t n;
    float *rows;
} tile_rows;

KV_UNUSED_TEST_HELPER tile_rows tilekit_rows(int32_t n)
{
    tile_rows r = {.model = refkit_model("nano"), .n = n};
    assert_int_equal(r.model->cfg.n_layers, TILE_LAYERS);
    assert_int_equal(r.model->cfg.n_kv_heads, TILE_HEADS);
    assert_int_equal(r.model->cfg.n_heads, TILE_Q_HEADS);
    assert_int_equal(r.model->cfg.head_dim, TILE_D);
    r.tokens = refkit_tokens(n, r.model);
    r.rows = malloc((size_t)(TILE_HEADS * n * 2 * TILE_D) * sizeof *r.rows);
    assert_non_null(r.rows);
    refkit k = refkit_open(ref_backend(), r.model, "full");
    refkit_feed(&k, r.tokens, n, n, NULL, NULL);
    refkit_blob b = refkit_export(&k, 0, KV_STATE_KV);
    for (int32_t h = 0; h < TILE_HEADS; h++)
        memcpy(r.rows + (int64_t)h * n * 2 * TILE_D, refkit_run(&b, h).records, (size_t)(n * 2 * TILE_D) * sizeof *r.rows);
    free(b.p);
    refkit_close(&k);
    return r;
}

KV_UNUSED_TEST_HELPER void tilekit_free(tile_rows *r)
{
    free(r->tokens);
    free(r->rows);
    kv_model_close(r->model);
}

/* Key (value = 0) or value of a token. */
KV_UNUSED_TEST_HELPER const float *tilekit_row(const tile_rows *r, int64_t head, int64_t token, int value)
{
    return r->rows + ((head * r->n + token) * 2 + value) * TILE_D;
}

/* What the selection decides, from docs/policy/: cap 0 is `full`. */
typedef struct tile_window {
    int64_t cap, unit;
    int64_t first, n, seen; /* resident: first .. first + n - 1 */
    kv_events events;
} tile_window;

KV_UNUSED_TEST_HELPER void tilekit_event(tile_window *w, int32_t kind, int64_t og, int64_t token, int64_t slot)
{
    const kv_event e = {.og = og, .token = token, .head = -1, .kind = kind, .slot = (int32_t)slot, .margin = kv_inf()};
    assert_ok(kv_events_push(&w->events, e));
}

/* Length of the next piece of a step of m tokens of which `left` remain. */
KV_UNUSED_TEST_HELPER int64_t tilekit_piece(const tile_window *w, int64_t m, int64_t left)
{
    const int64_t most = !w->cap || m <= w->cap - w->unit + 1 ? m : w->cap / 2;
    return left < most ? left : most;
}

/* A piece: evictions, then admissions. */
KV_UNUSED_TEST_HELPER void tilekit_feed(tile_window *w, int64_t m)
{
    int64_t drop = 0;
    while (w->cap && w->n + m - drop > w->cap)
        drop += w->unit;
    for (int64_t i = 0; i < drop; i++)
        tilekit_event(w, KV_EVENT_EVICT, w->first + i, w->seen, i);
    w->first += drop;
    w->n -= drop;
    for (int64_t i = 0; i < m; i++)
        tilekit_event(w, KV_EVENT_ADMIT, w->seen + i, w->seen + i, w->n + i);
    w->n += m;
    w->seen += m;
}

/* The events of layer 0, then the same for the others. */
KV_UNUSED_TEST_HELPER void tilekit_same_events(const tile_window *w, const kv_events *got, const char *what)
{
    if (got->n != TILE_LAYERS * w->events.n) fail_msg("%s: %zu events, not %zu", what, got->n, TILE_LAYERS * w->events.n);
    for (size_t i = 0; i < got->n; i++) {
        kv_event want = w->events.v[i % w->events.n];
        want.layer = (int32_t)(i / w->events.n);
        if (memcmp(&want, &got->v[i], sizeof want) != 0)
            fail_msg("%s: event %zu: kind %d, token %lld in slot %d; wanted %d, %lld, %d", what, i, got->v[i].kind,
                     (long long)got->v[i].og, got->v[i].slot, want.kind, (long long)want.og, want.slot);
    }
}

/* One step of m tokens; q and out receive queries and attention output of its last token in layer 0. */
KV_UNUSED_TEST_HELPER void tilekit_step(const refkit *k, const int32_t *tokens, int32_t m, kv_events *events, float *q,
                                        float *out)
{
    const int32_t width = TILE_Q_HEADS * TILE_D;
    const kv_tap taps[2] = {{.point = KV_TAP_Q, .row = m - 1, .width = width, .dst = q},
                            {.point = KV_TAP_ATTN, .row = m - 1, .width = width, .dst = out}};
    const kv_step s = {.tokens = tokens, .n = m, .n_taps = 2, .taps = taps, .events = events};
    events->n = 0;
    assert_side(k, k->side->step(k->s, &s));
}

/* Same bits in all layers of two sessions: logits of further tokens and state. */
KV_UNUSED_TEST_HELPER void tilekit_go_on(refkit *a, refkit *b, const int32_t *tokens, int32_t n, int32_t step, const char *what)
{
    float *x = refkit_rows(a, n), *y = refkit_rows(b, n);
    kv_events e = {0}, f = {0};
    refkit_feed(a, tokens, n, step, x, &e);
    refkit_feed(b, tokens, n, step, y, &f);
    refkit_same_rows(a, x, y, n, what);
    refkit_same_events(&e, &f, what);
    refkit_same_state(a, b, what);
    free(x);
    free(y);
    free(e.v);
    free(f.v);
}

/* A session goes on with the same bits after snapshot and restore, and so does another that imports its state. */
KV_UNUSED_TEST_HELPER void tilekit_states(const kv_backend *side, const tile_rows *r, const char *spec, int32_t at, int import)
{
    refkit a = refkit_open(side, r->model, spec), b = refkit_open_with(side, r->model, spec, "isa=scalar", 2);
    void *snap;
    refkit_feed(&a, r->tokens, at, 11, NULL, NULL);
    refkit_blob blob = refkit_export_all(&a);
    assert_side(&a, side->snapshot(a.s, &snap));
    assert_side(&a, side->restore(a.s, snap)); /* no store has grown in between: the copies are equally long */
    refkit_feed(&b, r->tokens, at, 11, NULL, NULL);
    refkit_same_state(&a, &b, "another instruction set, two threads");
    tilekit_go_on(&a, &b, r->tokens + at, 60, 7, spec);
    assert_side(&a, side->restore(a.s, snap));
    refkit_blob again = refkit_export_all(&a);
    assert_int_equal(again.size, blob.size);
    assert_memory_equal(again.p, blob.p, blob.size);
    if (import) assert_side(&b, side->import_state(b.s, blob.p, blob.size));
    if (import) tilekit_go_on(&a, &b, r->tokens + at, 60, 7, "import");
    side->snapshot_free(a.s, snap);
    free(blob.p);
    free(again.p);
    refkit_close(&a);
    refkit_close(&b);
}

/* Entries that a session must refuse: each differs from a good state in one number. */
KV_UNUSED_TEST_HELPER void tilekit_bad_states(const tile_rows *r, const char *spec, int32_t at)
{
    refkit a = refkit_open(ref_backend(), r->model, spec), b = refkit_open(ref_backend(), r->model, spec);
    refkit_feed(&a, r->tokens, at, at, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        refkit_blob blob = refkit_export_all(&a);
        const kv_state_view v = refkit_run(&blob, 1);
        if (i == 0) v.og[0] += 1;
        if (i == 1) v.pos[0] += 1;
        if (i == 2) { /* the same total: two sizes change places */
            const int32_t last = v.run->n - 1, bytes = v.bytes[0];
            assert_int_not_equal(bytes, v.bytes[last]);
            v.bytes[0] = v.bytes[last];
            v.bytes[last] = bytes;
        }
        assert_int_equal(b.side->import_state(b.s, blob.p, blob.size), KV_ERR_FORMAT);
        assert_non_null(strstr(b.side->last_error(b.s), "cache state"));
        free(blob.p);
    }
    refkit_close(&a);
    refkit_close(&b);
}

/* A value that is not finite waits in the fp32 rows; the step that would code it is refused, in one line. */
KV_UNUSED_TEST_HELPER void tilekit_not_finite(const tile_rows *r, const char *spec, int32_t before, int32_t entry,
                                              float value, const char *words)
{
    refkit k = refkit_open(ref_backend(), r->model, spec);
    refkit_feed(&k, r->tokens, before, before, NULL, NULL);
    refkit_blob blob = refkit_export_all(&k);
    const kv_state_view v = refkit_run(&blob, 2 * TILE_HEADS + 1); /* layer 2, KV head 1 */
    uint8_t *record = v.records;
    for (int32_t i = 0; i < entry; i++)
        record += (v.bytes[i] + 7) / 8 * 8;
    memcpy(record + 20, &value, sizeof value);
    assert_side(&k, k.side->import_state(k.s, blob.p, blob.size));
    const kv_step s = {.tokens = r->tokens + before, .n = 1};
    assert_int_equal(k.side->step(k.s, &s), KV_ERR_NONFINITE);
    const char *text = k.side->last_error(k.s);
    if (!strstr(text, words) || strchr(text, '\n')) fail_msg("\"%s\" lacks \"%s\"", text, words);
    assert_int_equal(k.side->step(k.s, &s), KV_ERR_STATE);
    assert_side(&k, k.side->reset(k.s));
    assert_side(&k, k.side->step(k.s, &s));
    free(blob.p);
    refkit_close(&k);
}

/* Lengths of steps: around the edge of a unit of 32 (one less, one more, several at once), long ones, and such that
 * a window cuts into pieces. The last one before the 0 goes on. */
static const int32_t tilekit_around[] = {31, 1, 1, 30, 1, 2, 63, 1, 129, 5, 0}, tilekit_long[] = {100, 0};
static const int32_t tilekit_window[] = {33, 64, 65, 1, 31, 32, 97, 200, 7, 0};

#endif
