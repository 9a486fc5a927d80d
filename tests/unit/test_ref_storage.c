/* Storages that keep rows: what 16 bits leave of K and V, in which form, and what a state says of it
 * (docs/policy/storage.md). */
#include "tests/unit/refkit.h"

#include "common/numfmt.h"

enum { N = 150 };

static const char *const selections[] = {"full", "sliding:cap=40", "sliding:cap=40,pos=absolute",
                                         "sliding:cap=40,pos=saturate", "sink:cap=40", "cascade:cap=40,n=2",
                                         "h2o:cap=40", "tova:cap=40", "snapkv:cap=12,window=4,prompt=17"};

static const kv_backend *side_of(int i) { return i ? ref64_backend() : ref_backend(); }

static const char *spec_of(const char *selection, const char *storage)
{
    static char spec[128];
    snprintf(spec, sizeof spec, "%s+%s", selection, storage);
    return spec;
}

static float round_to(const char *storage, float x)
{
    return strcmp(storage, "f16") == 0 ? kv_f162f(kv_f2f16(x)) : kv_bf162f(kv_f2bf16(x));
}

/* Layer 0 of two exports: the same entries, the second's rows are the first's, rounded. */
static void same_rounded(const refkit_blob *wide, const refkit_blob *narrow, const char *storage)
{
    kv_state_head h;
    memcpy(&h, narrow->p, sizeof h);
    for (int32_t head = 0; head < h.n_kv_heads; head++) {
        const kv_state_view a = refkit_run(wide, head), c = refkit_run(narrow, head);
        assert_int_equal(c.run->n, a.run->n);
        assert_memory_equal(a.og, c.og, (size_t)a.run->n * sizeof *a.og);
        assert_true(a.run->n > 0);
        for (int64_t i = 0; i < (int64_t)a.run->n * 2 * h.head_dim; i++) {
            const float want = round_to(storage, ((const float *)(const void *)a.records)[i]);
            const uint16_t got = ((const uint16_t *)(const void *)c.records)[i];
            assert_int_equal(got, strcmp(storage, "bf16") == 0 ? kv_f2bf16(want) : kv_f2f16(want));
        }
    }
}

/* Keys and values of layer 0 do not depend on the cache; the first steps evict nobody by scores that rounding moves. */
static void rows_are_rounded_in_the_form_that_is_kept(void **state)
{
    (void)state;
    kv_model *m = refkit_model("nano");
    int32_t *t = refkit_tokens(N, m);
    for (size_t p = 0; p < sizeof selections / sizeof *selections; p++)
        for (int b = 0; b < 2; b++) {
            const char *storage = b ? "bf16" : "f16";
            refkit wide = refkit_open(ref_backend(), m, selections[p]);
            refkit narrow = refkit_open(ref_backend(), m, spec_of(selections[p], storage));
            refkit_feed(&wide, t, 20, 20, NULL, NULL);
            refkit_feed(&narrow, t, 20, 20, NULL, NULL);
            refkit_blob x = refkit_export(&wide, 0, KV_STATE_KV), y = refkit_export(&narrow, 0, KV_STATE_KV);
            kv_state_head h;
            memcpy(&h, y.p, sizeof h);
            assert_int_equal(h.storage, b ? KV_STORE_BF16 : KV_STORE_F16);
            assert_int_equal(h.record_bytes, 4 * h.head_dim);
            same_rounded(&x, &y, storage);
            free(x.p);
            free(y.p);
            refkit_close(&wide);
            refkit_close(&narrow);
        }
    free(t);
    kv_model_close(m);
}

/* Steps of one token read the same rows as one long step: rounding happens before anybody reads. */
static void a_step_reads_its_own_rows_rounded(void **state)
{
    (void)state;
    kv_model *m = refkit_model("nano");
    int32_t *t = refkit_tokens(N, m);
    for (int b = 0; b < 2; b++)
        for (int side = 0; side < 2; side++) {
            refkit one = refkit_open(side_of(side), m, spec_of("full", b ? "bf16" : "f16"));
            refkit many = refkit_open(side_of(side), m, spec_of("full", b ? "bf16" : "f16"));
            refkit plain = refkit_open(side_of(side), m, "full");
            float *x = refkit_rows(&one, N), *y = refkit_rows(&many, N), *z = refkit_rows(&plain, N);
            refkit_feed(&one, t, N, 1, x, NULL);
            refkit_feed(&many, t, N, N, y, NULL);
            refkit_feed(&plain, t, N, N, z, NULL);
            refkit_same_rows(&one, x, y, N, "steps of 1 and of all");
            refkit_same_state(&one, &many, "steps of 1 and of all");
            assert_memory_not_equal(y, z, sizeof *y * 260); /* the very first row already differs from f32 */
            free(x);
            free(y);
            free(z);
            refkit_close(&one);
            refkit_close(&many);
            refkit_close(&plain);
        }
    free(t);
    kv_model_close(m);
}

static void feed_windows(const refkit *k, const int32_t *t, int32_t n, float *first)
{
    for (int32_t at = 0; at < n; at += 8) {
        const kv_step s = {.tokens = t + at, .n = 16, .flags = KV_STEP_RECOMPUTE, .pos0 = at,
                           .rows = first ? KV_ROWS_ALL : KV_ROWS_NONE, .logits = first};
        assert_side(k, k->side->step(k->s, &s));
    }
}

/* xwindow: what a window records is rounded, in the form that it keeps; the window itself reads what it computed. */
static void a_window_reads_its_own_rows_unrounded(void **state)
{
    (void)state;
    static const char *const versions[] = {"xwindow:window=16,stride=8,cache=16",
                                           "xwindow:window=16,stride=8,cache=16,ver=published"};
    kv_model *m = refkit_model("nano");
    int32_t *t = refkit_tokens(N, m);
    for (int v = 0; v < 2; v++) {
        refkit wide = refkit_open(ref_backend(), m, versions[v]);
        refkit narrow = refkit_open(ref_backend(), m, spec_of(versions[v], "bf16"));
        float *x = refkit_rows(&wide, 16), *y = refkit_rows(&narrow, 16);
        feed_windows(&wide, t, 8, x);
        feed_windows(&narrow, t, 8, y);
        refkit_same_rows(&wide, x, y, 16, "the first window");
        wide.side->reset(wide.s);
        narrow.side->reset(narrow.s);
        feed_windows(&wide, t, 40, NULL);
        feed_windows(&narrow, t, 40, NULL);
        refkit_blob a = refkit_export(&wide, 0, KV_STATE_KV), b = refkit_export(&narrow, 0, KV_STATE_KV);
        same_rounded(&a, &b, "bf16");
        free(a.p);
        free(b.p);
        free(x);
        free(y);
        refkit_close(&wide);
        refkit_close(&narrow);
    }
    free(t);
    kv_model_close(m);
}

/* Snapshots and exports carry on with the same bits; so does a state that an f32 session cannot take. */
static void states_come_back(void **state)
{
    (void)state;
    kv_model *m = refkit_model("nano");
    int32_t *t = refkit_tokens(N, m);
    for (size_t p = 0; p < sizeof selections / sizeof *selections; p++)
        for (int side = 0; side < 2; side++) {
            refkit a = refkit_open(side_of(side), m, spec_of(selections[p], side ? "f16" : "bf16"));
            refkit b = refkit_open(side_of(side), m, spec_of(selections[p], side ? "f16" : "bf16"));
            refkit other = refkit_open(side_of(side), m, selections[p]);
            float *x = refkit_rows(&a, N), *y = refkit_rows(&b, N);
            void *snap;
            refkit_feed(&a, t, 90, 17, NULL, NULL);
            assert_side(&a, a.side->snapshot(a.s, &snap));
            refkit_blob blob = refkit_export_all(&a);
            assert_side(&b, b.side->import_state(b.s, blob.p, blob.size));
            assert_int_equal(other.side->import_state(other.s, blob.p, blob.size), KV_ERR_MISMATCH);
            refkit_same_state(&a, &b, "imported");
            refkit_feed(&a, t + 90, N - 90, 7, x, NULL);
            refkit_feed(&b, t + 90, N - 90, 7, y, NULL);
            refkit_same_rows(&a, x, y, N - 90, "after import");
            assert_side(&a, a.side->restore(a.s, snap));
            refkit_feed(&a, t + 90, N - 90, 7, y, NULL);
            refkit_same_rows(&a, x, y, N - 90, "after restore");
            a.side->snapshot_free(a.s, snap);
            free(blob.p);
            free(x);
            free(y);
            refkit_close(&a);
            refkit_close(&b);
            refkit_close(&other);
        }
    free(t);
    kv_model_close(m);
}

/* Beyond the largest half the format gives infinity; bfloat16 reaches as far as fp32. */
static void overflow_gives_infinity(void **state)
{
    (void)state;
    const float big = round_to("f16", 65520.0f);
    assert_true(big > 3e38f && !kv_is_finite(big));
    assert_true(round_to("f16", 65519.0f) == 65504.0f);
    assert_true(kv_is_finite(round_to("bf16", 3e38f)));
}

/* A step longer than the window is fed in pieces of half of it, the last one shorter. */
static void pieces_have_one_length(void **state)
{
    (void)state;
    static const int64_t want[] = {3, 4, 7, 8, 5, 6, 9, 10, 7, 11}; /* docs/policy/sliding.md, step 5 */
    kv_model *m = refkit_model("nano");
    int32_t *t = refkit_tokens(12, m);
    refkit k = refkit_open(ref_backend(), m, "sliding:cap=4");
    kv_events e = {0};
    refkit_feed(&k, t, 7, 1, NULL, NULL);
    refkit_feed(&k, t + 7, 5, 5, NULL, &e);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(e.v[i].og, want[i]);
    assert_int_equal(e.n, (size_t)m->cfg.n_layers * sizeof want / sizeof *want);
    free(e.v);
    free(t);
    refkit_close(&k);
    kv_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_rounded_in_the_form_that_is_kept),
        cmocka_unit_test(a_step_reads_its_own_rows_rounded),
        cmocka_unit_test(a_window_reads_its_own_rows_unrounded),
        cmocka_unit_test(states_come_back),
        cmocka_unit_test(overflow_gives_infinity),
        cmocka_unit_test(pieces_have_one_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
