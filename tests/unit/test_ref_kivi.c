/* Storage kivi of the reference in whole sessions: what is coded when, every code, scale and minimum, what every step
 * reads and what is exported, against plain loops (docs/policy/kivi.md). */
#include "tests/unit/tilekit.h"

enum { N = 400, MOST_BLOCK = 128 * TILE_D * 2 + 16 };

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

/* ---- the page as loops ------------------------------------------------------------------------------------------ */

/* A group of n values, step apart; codes go to bits k, k + 1, ... of a stream, x becomes what they stand for. */
static void code_group(float *x, int64_t step, int n, int bits, uint8_t *stream, int64_t k, float *scale, float *min)
{
    const float top = (float)((1 << bits) - 1);
    float lo = x[0], hi = x[0];
    for (int i = 0; i < n; i++) {
        if (naive_key(x[i * step]) < naive_key(lo)) lo = x[i * step];
        if (naive_key(x[i * step]) > naive_key(hi)) hi = x[i * step];
    }
    *min = lo;
    *scale = (hi - lo) / top;
    for (int i = 0; i < n; i++) {
        float y = *scale == 0 ? 0 : (x[i * step] - lo) / *scale;
        if (y > top) y = top;
        const float q = kvarn_rint(y);
        for (int b = 0; b < bits; b++)
            if ((uint32_t)q >> b & 1) stream[((k + i) * bits + b) / 8] |= (uint8_t)(1 << ((k + i) * bits + b) % 8);
        const float product = q * *scale;
        x[i * step] = *scale == 0 ? lo : product + lo;
    }
}

/* Records of layer 0 after a step, and the rows that the next step reads: [n][D] of keys and of values. */
typedef struct expected {
    kv_kivi_params p;
    kv_kivi_layout l;
    float key[N * TILE_D], value[N * TILE_D];
    int64_t coded_keys, coded_values;
    uint8_t blocks[N / 16][MOST_BLOCK], value_rows[N][4 * TILE_D];
} expected;

static void expect(expected *e, const tile_window *w, int64_t head)
{
    const int R = e->p.residual, G = e->p.group;
    e->coded_keys = w->n / R * R;
    e->coded_values = w->n > R ? w->n - R : 0;
    memset(e->blocks, 0, sizeof e->blocks);
    memset(e->value_rows, 0, sizeof e->value_rows);
    for (int64_t t = 0; t < w->n; t++) {
        memcpy(e->key + t * TILE_D, tilekit_row(&rows, head, w->first + t, 0), TILE_D * sizeof *e->key);
        memcpy(e->value + t * TILE_D, tilekit_row(&rows, head, w->first + t, 1), TILE_D * sizeof *e->value);
    }
    for (int64_t b = 0; b < e->coded_keys / R; b++)
        for (int d = 0; d < TILE_D; d++)
            for (int g = 0; g < R / G; g++) {
                uint8_t *block = e->blocks[b];
                const int64_t at = 4 * (d * (R / G) + g);
                code_group(e->key + (b * R + g * G) * TILE_D + d, TILE_D, G, e->p.bits, block + d * e->l.k_row, g * G,
                           (float *)(void *)(block + e->l.k_scale + at), (float *)(void *)(block + e->l.k_min + at));
            }
    for (int64_t t = 0; t < e->coded_values; t++)
        for (int g = 0; g < TILE_D / G; g++) {
            uint8_t *row = e->value_rows[t];
            code_group(e->value + t * TILE_D + g * G, 1, G, e->p.bits, row, g * G,
                       (float *)(void *)(row + e->l.v_scale + 4 * g), (float *)(void *)(row + e->l.v_min + 4 * g));
        }
}

/* ---- whole sessions --------------------------------------------------------------------------------------------- */

static void same_entry(const kv_state_view *v, int64_t i, const uint8_t **record, int64_t og, const void *want, int64_t bytes)
{
    const int64_t token = og < KV_KIVI_V ? og : og - KV_KIVI_V;
    if (v->og[i] != og || v->pos[i] != token || v->bytes[i] != bytes || memcmp(*record, want, (size_t)bytes) != 0)
        fail_msg("entry %lld: token %lld, %d bytes; wanted %lld, %lld", (long long)i, (long long)v->og[i], v->bytes[i],
                 (long long)og, (long long)bytes);
    *record += (bytes + 7) / 8 * 8;
}

static void check_export(const refkit *k, expected *e, const tile_window *w)
{
    refkit_blob b = refkit_export(k, 0, KV_STATE_KV);
    for (int64_t h = 0; h < TILE_HEADS; h++) {
        const kv_state_view v = refkit_run(&b, (int32_t)h);
        const uint8_t *record = v.records;
        int64_t i = 0;
        expect(e, w, h);
        for (int64_t t = 0; t < e->coded_keys; t += e->p.residual)
            same_entry(&v, i++, &record, w->first + t, e->blocks[t / e->p.residual], e->l.k_bytes);
        for (int64_t t = e->coded_keys; t < w->n; t++)
            same_entry(&v, i++, &record, w->first + t, e->key + t * TILE_D, 4 * TILE_D);
        for (int64_t t = 0; t < w->n; t++)
            same_entry(&v, i++, &record, w->first + t + KV_KIVI_V,
                       t < e->coded_values ? (const void *)e->value_rows[t] : e->value + t * TILE_D,
                       t < e->coded_values ? e->l.v_bytes : 4 * TILE_D);
        assert_int_equal(v.run->n, i);
    }
    free(b.p);
}

/* The last token of a piece of m reads what was coded before, then the piece in fp32. before: resident then, without what
 * leaves. */
static void check_attention(expected *e, const tile_window *before, int64_t m, const float *q, const float *out)
{
    const float *k[N + 1], *v[N + 1];
    for (int64_t h = 0; h < TILE_HEADS; h++) {
        expect(e, before, h);
        for (int64_t t = 0; t < before->n + m; t++) {
            k[t] = t < before->n ? e->key + t * TILE_D : tilekit_row(&rows, h, before->first + t, 0);
            v[t] = t < before->n ? e->value + t * TILE_D : tilekit_row(&rows, h, before->first + t, 1);
        }
        for (int64_t i = 2 * h; i < 2 * h + 2; i++) {
            float scaled[TILE_D], o[TILE_D];
            for (int d = 0; d < TILE_D; d++)
                scaled[d] = q[i * TILE_D + d] * (float)(1.0 / kv_dsqrt((double)TILE_D));
            naive_attention(scaled, k, v, before->n + m, TILE_D, o);
            assert_bits(out + i * TILE_D, o, TILE_D, "attention after %lld tokens", (long long)(before->seen + m));
        }
    }
}

/* Blocks, then values, that this piece completed. */
static void seal(tile_window *w, int64_t n_before)
{
    const int64_t R = w->unit, values = w->n > R ? w->n - R : 0, values_before = n_before > R ? n_before - R : 0;
    for (int64_t i = n_before / R * R; i + R <= w->n; i += R)
        tilekit_event(w, KV_EVENT_SEAL, w->first + i, w->first + i + R - 1, i);
    for (int64_t i = values_before; i < values; i++)
        tilekit_event(w, KV_EVENT_SEAL, w->first + i + KV_KIVI_V, w->first + i, i);
}

static void check_schedule(const char *spec, int64_t cap, const int32_t *steps)
{
    kv_policy policy;
    assert_ok(kv_policy_parse(spec, &policy));
    refkit k = refkit_open(ref_backend(), rows.model, spec);
    tile_window w = {.cap = cap, .unit = policy.kivi.residual}, before = w;
    kv_events got = {0};
    expected *e = malloc(sizeof *e);
    assert_non_null(e);
    e->p = policy.kivi;
    e->l = kv_kivi_layout_of(&e->p, TILE_D);
    assert_true(e->l.k_bytes <= MOST_BLOCK && e->l.v_bytes <= 4 * TILE_D);
    for (; w.seen < N; steps += steps[1] != 0) {
        float q[TILE_Q_HEADS * TILE_D], out[TILE_Q_HEADS * TILE_D];
        const int32_t m = *steps < N - w.seen ? *steps : (int32_t)(N - w.seen);
        int64_t piece = 0;
        w.events.n = 0;
        tilekit_step(&k, rows.tokens + w.seen, m, &got, q, out);
        for (int64_t left = m; left > 0; left -= piece) {
            piece = tilekit_piece(&w, m, left);
            tilekit_feed(&w, piece);
            before = (tile_window){.first = w.first, .n = w.n - piece, .seen = w.seen - piece, .unit = w.unit};
            seal(&w, before.n);
        }
        tilekit_same_events(&w, &got, spec);
        check_export(&k, e, &w);
        check_attention(e, &before, piece, q, out);
    }
    free(e);
    free(got.v);
    free(w.events.v);
    refkit_close(&k);
}

static void blocks_and_rows_under_full(void **state)
{
    (void)state;
    check_schedule("full+kivi:residual=32", 0, tilekit_around);
    check_schedule("full+kivi:residual=32,group=8,bits=4", 0, tilekit_around);
    check_schedule("full+kivi:residual=48,group=16,bits=3", 0, tilekit_around);
    check_schedule("full+kivi:residual=64,bits=8", 0, tilekit_long);
    check_schedule("full+kivi:bits=6", 0, tilekit_long);
}

static void whole_blocks_leave_a_window(void **state)
{
    (void)state;
    check_schedule("sliding:cap=64,pos=absolute+kivi:residual=32", 64, tilekit_window);
    check_schedule("sliding:cap=96,pos=absolute+kivi:residual=24,group=8,bits=5", 96, tilekit_window);
    check_schedule("sliding:cap=320,pos=absolute+kivi:residual=64", 320, tilekit_window);
}

/* ---- laws ------------------------------------------------------------------------------------------------------- */

static void a_residual_that_holds_everything_is_full(void **state)
{
    (void)state;
    for (int side = 0; side < 2; side++) {
        const kv_backend *b = side ? ref64_backend() : ref_backend();
        refkit a = refkit_open(b, rows.model, "full"), k = refkit_open(b, rows.model, "full+kivi");
        float *x = refkit_rows(&a, 128), *y = refkit_rows(&a, 128);
        refkit_feed(&a, rows.tokens, 128, 10, x, NULL);
        refkit_feed(&k, rows.tokens, 128, 128, y, NULL); /* the token that fills it still reads itself raw */
        refkit_same_rows(&a, x, y, 128, "residual");
        refkit_feed(&a, rows.tokens + 128, 1, 1, x, NULL);
        refkit_feed(&k, rows.tokens + 128, 1, 1, y, NULL);
        assert_memory_not_equal(x, y, (size_t)rows.model->cfg.vocab_size * sizeof *x);
        free(x);
        free(y);
        refkit_close(&a);
        refkit_close(&k);
    }
}

static void a_window_that_holds_everything_is_full(void **state)
{
    (void)state;
    refkit a = refkit_open(ref_backend(), rows.model, "full+kivi:residual=32");
    refkit b = refkit_open(ref_backend(), rows.model, "sliding:cap=512,pos=absolute+kivi:residual=32");
    tilekit_go_on(&a, &b, rows.tokens, 300, 37, "a window that holds everything");
    refkit_close(&a);
    refkit_close(&b);
}

static void states_come_back(void **state)
{
    (void)state;
    static const char *const specs[] = {"full+kivi:residual=32", "full+kivi:residual=64,group=16,bits=3",
                                        "sliding:cap=96,pos=absolute+kivi:residual=32,bits=4"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        tilekit_states(ref_backend(), &rows, specs[i], 31, 1);
        tilekit_states(ref_backend(), &rows, specs[i], 64, 1);
        tilekit_states(ref_backend(), &rows, specs[i], 203, 1);
        tilekit_states(ref64_backend(), &rows, specs[i], 203, 0); /* its scales are exported in fp32 */
    }
    tilekit_bad_states(&rows, "full+kivi:residual=32", 70);
    tilekit_bad_states(&rows, "sliding:cap=96,pos=absolute+kivi:residual=32", 75);
}

static void what_is_not_finite_is_not_coded(void **state)
{
    (void)state;
    tilekit_not_finite(&rows, "full+kivi:residual=32", 31, 30, kv_nan(), "layer 2, token 30, KV head 1");
    tilekit_not_finite(&rows, "full+kivi:residual=32", 32, 1, kv_inf(), "layer 2, token 0, KV head 1");
}

/* Where record `entry` of a run begins. */
static char *read_floats(char *at, float *x, int n)
{
    at = strchr(at, '|') + 1;
    for (int i = 0; i < n; i++)
        x[i] = strtof(at, &at);
    return at;
}

/* The groups of the page's worked example, coded by the plain loops that everything else here is held to. */
static void the_page_shows_groups(void **state)
{
    (void)state;
    size_t size;
    char *page = (char *)kvtest_read("docs/policy/kivi.md", &size), *at = strstr(page, "| values |");
    assert_non_null(at);
    int lines = 0;
    for (at = strchr(strchr(at, '\n') + 1, '\n') + 1; *at == '|'; at = strchr(at, '\n') + 1, lines++) {
        float x[4], min, scale, codes[4], read[4], got_scale, got_min;
        uint8_t stream[4] = {0};
        char *p = read_floats(at, x, 4);
        p = read_floats(read_floats(read_floats(read_floats(p, &min, 1), &scale, 1), codes, 4), read, 4);
        code_group(x, 1, 4, 2, stream, 0, &got_scale, &got_min);
        assert_true(got_scale == scale && got_min == min);
        for (int i = 0; i < 4; i++)
            assert_true((float)kv_code_get(stream, i, 2) == codes[i] && x[i] == read[i]);
    }
    assert_int_equal(lines, 4);
    free(page);
}

static float *record_of(const kv_state_view *v, int64_t entry)
{
    uint8_t *record = v->records;
    for (int64_t i = 0; i < entry; i++)
        record += (v->bytes[i] + 7) / 8 * 8;
    return (float *)(void *)record;
}

/* A group of equal values has scale 0 and codes 0 and is kept as its minimum, which may be -0. */
static void constant_groups_keep_their_value(void **state)
{
    (void)state;
    const kv_kivi_params p = {.bits = 2, .group = 16, .residual = 32};
    const kv_kivi_layout l = kv_kivi_layout_of(&p, TILE_D);
    refkit k = refkit_open(ref_backend(), rows.model, "full+kivi:residual=32,group=16");
    refkit_feed(&k, rows.tokens, 31, 31, NULL, NULL);
    refkit_blob b = refkit_export_all(&k);
    kv_state_view v = refkit_run(&b, 0);
    for (int t = 0; t < 31; t++)
        for (int d = 0; d < TILE_D; d++) {
            record_of(&v, t)[d] = d == 5 && t % 3 == 1 ? -0.0f : d % 2 ? 0.0f : 2.5f;
            record_of(&v, 31 + t)[d] = -1.25f;
        }
    assert_side(&k, k.side->import_state(k.s, b.p, b.size));
    free(b.p);
    refkit_feed(&k, rows.tokens + 31, 2, 1, NULL, NULL); /* completes the block, then codes the first value */
    b = refkit_export_all(&k);
    v = refkit_run(&b, 0);
    const uint8_t *block = (const uint8_t *)record_of(&v, 0), *value = (const uint8_t *)record_of(&v, 2);
    for (int d = 0; d < TILE_D; d++) {
        float scale, min;
        memcpy(&scale, block + l.k_scale + 8 * d, sizeof scale);
        memcpy(&min, block + l.k_min + 8 * d, sizeof min);
        assert_int_equal(kv_f2bits(scale), 0);
        assert_int_equal(kv_f2bits(min), kv_f2bits(d == 5 ? -0.0f : d % 2 ? 0.0f : 2.5f));
        for (int i = 0; i < 4; i++)
            assert_int_equal(block[d * l.k_row + i], 0);
    }
    const float want[4] = {0, 0, -1.25f, -1.25f};
    assert_int_equal(v.og[2], KV_KIVI_V);
    assert_memory_equal(value + l.v_scale, want, sizeof want);
    free(b.p);
    refkit_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_and_rows_under_full),
        cmocka_unit_test(whole_blocks_leave_a_window),
        cmocka_unit_test(a_residual_that_holds_everything_is_full),
        cmocka_unit_test(a_window_that_holds_everything_is_full),
        cmocka_unit_test(states_come_back),
        cmocka_unit_test(what_is_not_finite_is_not_coded),
        cmocka_unit_test(the_page_shows_groups),
        cmocka_unit_test(constant_groups_keep_their_value),
    };
    return cmocka_run_group_tests(tests, open_rows, close_rows);
}
