/* Storage kvarn in whole sessions of the reference: which tiles are coded when, what every step reads, what is exported
 * (docs/policy/kvarn.md). The arithmetic of a tile is in test_ref_kvarn.c. */
#include "tests/unit/tilekit.h"

enum { N = 400 };

static tile_rows rows;

static int open_rows(void **state)
{
    (void)state;
    rows = tilekit_rows(N);
    return 0;
}

static int close_rows(void **state)
{
    (void)state;
    tilekit_free(&rows);
    return 0;
}

/* Rotated rows of some tokens of a KV head, [n][D]. */
static void rotated(int64_t head, int64_t token, int64_t n, int value, real *dst)
{
    for (int64_t t = 0; t < n; t++) {
        memcpy(dst + t * TILE_D, tilekit_row(&rows, head, token + t, value), TILE_D * sizeof *dst);
        kvarn_rotate(dst + t * TILE_D, TILE_D);
    }
}

/* Layer 0 of an export: tiles, then the tail, byte for byte; the last token's attention over exactly that. */
static void check_step(const refkit *k, const kv_kvarn_params *p, const tile_window *w, const float *q, const float *out)
{
    const kv_kvarn_layout l = kv_kvarn_layout_of(p, TILE_D);
    const int64_t T = l.T, tiles = w->n / T, tail = w->n % T;
    refkit_blob b = refkit_export(k, 0, KV_STATE_KV);
    kvarn_matrix *m = malloc(sizeof *m);
    uint8_t *want = malloc((size_t)l.bytes), *padded[N];
    assert_true(m && want);
    for (int64_t h = 0; h < TILE_HEADS; h++) {
        const kv_state_view v = refkit_run(&b, (int32_t)h);
        const uint8_t *record = v.records;
        real x[128 * TILE_D], tail_k[128 * TILE_D], tail_v[128 * TILE_D];
        assert_int_equal(v.run->n, tiles + tail);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t og = w->first + t * T;
            for (int value = 0; value < 2; value++) {
                rotated(h, og, T, value, x);
                kvarn_code(p, &l, value, x, want, m, NULL);
            }
            assert_true(v.og[t] == og && v.pos[t] == og && v.bytes[t] == l.bytes);
            if (memcmp(record, want, (size_t)l.bytes) != 0) fail_msg("tile %lld after %lld tokens", (long long)t, (long long)w->seen);
            padded[t] = malloc((size_t)l.bytes);
            assert_non_null(padded[t]);
            memcpy(padded[t], record, (size_t)l.bytes);
            record += (l.bytes + 7) / 8 * 8;
        }
        rotated(h, w->first + tiles * T, tail, 0, tail_k);
        rotated(h, w->first + tiles * T, tail, 1, tail_v);
        for (int64_t t = 0; t < tail; t++, record += 8 * TILE_D) {
            assert_true(v.og[tiles + t] == w->first + tiles * T + t && v.bytes[tiles + t] == 8 * TILE_D);
            assert_memory_equal(record, tail_k + t * TILE_D, 4 * TILE_D);
            assert_memory_equal(record + 4 * TILE_D, tail_v + t * TILE_D, 4 * TILE_D);
        }
        for (int64_t i = 2 * h; i < 2 * h + 2; i++) {
            real turned[TILE_D], o[TILE_D];
            memcpy(turned, q + i * TILE_D, sizeof turned);
            kvarn_rotate(turned, TILE_D);
            for (int d = 0; d < TILE_D; d++)
                turned[d] = turned[d] * (real)(1.0 / kv_dsqrt((double)TILE_D));
            kvarn_attention(p, &l, turned, (const uint8_t *const *)padded, tiles, tail_k, tail_v, w->n, o);
            kvarn_rotate(o, TILE_D);
            assert_bits(out + i * TILE_D, o, TILE_D, "attention after %lld tokens", (long long)w->seen);
        }
        for (int64_t t = 0; t < tiles; t++)
            free(padded[t]);
    }
    free(b.p);
    free(m);
    free(want);
}

/* A schedule of steps, 0-terminated; the last one repeats. */
static void check_schedule(const char *spec, int64_t cap, const int32_t *steps)
{
    kv_policy policy;
    assert_ok(kv_policy_parse(spec, &policy));
    refkit k = refkit_open(ref_backend(), rows.model, spec);
    tile_window w = {.cap = cap, .unit = policy.kvarn.tile};
    kv_events got = {0};
    for (int32_t m; w.seen < N; steps += steps[1] != 0) {
        float q[TILE_Q_HEADS * TILE_D], out[TILE_Q_HEADS * TILE_D];
        m = *steps < N - w.seen ? *steps : (int32_t)(N - w.seen);
        w.events.n = 0;
        tilekit_step(&k, rows.tokens + w.seen, m, &got, q, out);
        for (int32_t left = m; left > 0;) {
            const int64_t piece = tilekit_piece(&w, m, left), T = w.unit;
            tilekit_feed(&w, piece);
            for (int64_t i = 0; i + T <= w.n; i += T) /* sealed by this piece */
                if (w.first + i + T > w.seen - piece) tilekit_event(&w, KV_EVENT_SEAL, w.first + i, w.first + i + T - 1, i);
            left -= (int32_t)piece;
        }
        tilekit_same_events(&w, &got, spec);
        check_step(&k, &policy.kvarn, &w, q, out);
    }
    free(got.v);
    free(w.events.v);
    refkit_close(&k);
}

static void tiles_under_full(void **state)
{
    (void)state;
    check_schedule("full+kvarn:tile=32", 0, tilekit_around);
    check_schedule("full+kvarn:tile=64,dialect=B,tie=rel,kbits=3,vbits=5,iters=3", 0, tilekit_around);
    check_schedule("full+kvarn", 0, tilekit_long);
}

static void whole_tiles_leave_a_window(void **state)
{
    (void)state;
    check_schedule("sliding:cap=64,pos=absolute+kvarn:tile=32", 64, tilekit_window);
    check_schedule("sliding:cap=96,pos=absolute+kvarn:tile=32,dialect=B", 96, tilekit_window);
    check_schedule("sliding:cap=320,pos=absolute+kvarn:tile=64", 320, tilekit_window); /* wraps in the second chunk */
}

/* ---- laws ------------------------------------------------------------------------------------------------------ */

static void logits_near(const float *a, const float *b, int64_t n, double bound)
{
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        if (!(d < bound && -d < bound)) fail_msg("logit %lld: %g and %g", (long long)i, (double)a[i], (double)b[i]);
    }
}

static void nothing_coded_is_full_up_to_rounding(void **state)
{
    (void)state;
    for (int side = 0; side < 2; side++) {
        const kv_backend *b = side ? ref64_backend() : ref_backend();
        refkit a = refkit_open(b, rows.model, "full"), k = refkit_open(b, rows.model, "full+kvarn");
        float *x = refkit_rows(&a, 127), *y = refkit_rows(&a, 127);
        refkit_feed(&a, rows.tokens, 127, 10, x, NULL);
        refkit_feed(&k, rows.tokens, 127, 10, y, NULL);
        logits_near(x, y, 127 * rows.model->cfg.vocab_size, side ? 1e-6 : 2e-4);
        free(x);
        free(y);
        refkit_close(&a);
        refkit_close(&k);
    }
}

static void a_window_that_holds_everything_is_full(void **state)
{
    (void)state;
    refkit a = refkit_open(ref_backend(), rows.model, "full+kvarn:tile=32");
    refkit b = refkit_open(ref_backend(), rows.model, "sliding:cap=512,pos=absolute+kvarn:tile=32");
    tilekit_go_on(&a, &b, rows.tokens, 300, 37, "a window that holds everything");
    refkit_close(&a);
    refkit_close(&b);
}

/* Mean absolute difference of the logits of a storage, on a side, from those of f32. */
static double distance(const kv_backend *side, const char *spec)
{
    refkit a = refkit_open(ref_backend(), rows.model, "full"), k = refkit_open(side, rows.model, spec);
    float *x = refkit_rows(&a, N), *y = refkit_rows(&a, N);
    const int64_t n = (int64_t)N * rows.model->cfg.vocab_size;
    double sum = 0;
    refkit_feed(&a, rows.tokens, N, 50, x, NULL);
    refkit_feed(&k, rows.tokens, N, 50, y, NULL);
    for (int64_t i = 0; i < n; i++)
        sum += x[i] < y[i] ? (double)y[i] - (double)x[i] : (double)x[i] - (double)y[i];
    free(x);
    free(y);
    refkit_close(&a);
    refkit_close(&k);
    return sum / (double)n;
}

static void more_bits_are_nearer_to_full(void **state)
{
    (void)state;
    const double eight = distance(ref_backend(), "full+kvarn:tile=32,kbits=8,vbits=8");
    const double four = distance(ref_backend(), "full+kvarn:tile=32,kbits=4,vbits=4");
    const double two = distance(ref_backend(), "full+kvarn:tile=32,kbits=2,vbits=2");
    assert_true(eight > 0 && 8 * eight < four && 2 * four < two);
    const double twin = distance(ref64_backend(), "full+kvarn:tile=32,kbits=8,vbits=8");
    assert_true(twin < 1.1 * eight && eight < 1.1 * twin);
}

static void states_come_back(void **state)
{
    (void)state;
    static const char *const specs[] = {"full+kvarn:tile=32", "full+kvarn:tile=64,kbits=5,vbits=3,dialect=B",
                                        "sliding:cap=96,pos=absolute+kvarn:tile=32"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        tilekit_states(ref_backend(), &rows, specs[i], 31, 1);
        tilekit_states(ref_backend(), &rows, specs[i], 64, 1);
        tilekit_states(ref_backend(), &rows, specs[i], 203, 1);
        tilekit_states(ref64_backend(), &rows, specs[i], 203, 0); /* its tail is exported in fp32 */
    }
    tilekit_bad_states(&rows, "full+kvarn:tile=32", 70);
    tilekit_bad_states(&rows, "sliding:cap=96,pos=absolute+kvarn:tile=32", 75);
}

static void what_is_not_finite_is_not_coded(void **state)
{
    (void)state;
    tilekit_not_finite(&rows, "full+kvarn:tile=32", 63, 20, kv_nan(), "layer 2, tile 1, KV head 1");
    tilekit_not_finite(&rows, "full+kvarn:tile=32", 31, 0, -kv_inf(), "layer 2, tile 0, KV head 1");
}

/* The table of the page: bytes of a token of one KV head where all tiles are complete, times 2. */
static void bytes_are_those_of_the_page(void **state)
{
    (void)state;
    static const int32_t dims[] = {32, 64, 128, 256}, tiles[] = {32, 64, 128};
    static const int32_t twice[4][3] = {{72, 66, 63}, {132, 120, 114}, {252, 228, 216}, {500, 452, 428}};
    for (int d = 0; d < 4; d++)
        for (int t = 0; t < 3; t++) {
            const kv_kvarn_params p = {.tile = tiles[t], .kbits = 4, .vbits = 2};
            assert_int_equal(2 * kv_kvarn_layout_of(&p, dims[d]).bytes, twice[d][t] * tiles[t]);
        }
    refkit k = refkit_open(ref_backend(), rows.model, "full+kvarn:tile=64");
    refkit_feed(&k, rows.tokens, 128 + 5, 50, NULL, NULL);
    refkit_blob b = refkit_export(&k, 1, KV_STATE_KV);
    const kv_state_view v = refkit_run(&b, 0);
    int64_t bytes = 0;
    for (int32_t i = 0; i < v.run->n; i++)
        bytes += v.bytes[i];
    assert_int_equal(bytes, 128 * 33 + 5 * 8 * TILE_D);
    free(b.p);
    refkit_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_under_full),
        cmocka_unit_test(whole_tiles_leave_a_window),
        cmocka_unit_test(nothing_coded_is_full_up_to_rounding),
        cmocka_unit_test(a_window_that_holds_everything_is_full),
        cmocka_unit_test(more_bits_are_nearer_to_full),
        cmocka_unit_test(states_come_back),
        cmocka_unit_test(what_is_not_finite_is_not_coded),
        cmocka_unit_test(bytes_are_those_of_the_page),
    };
    return cmocka_run_group_tests(tests, open_rows, close_rows);
}
