/* Rotary embedding of the reference: frequencies, tables and rotation against docs/numerics.md, section 3,
 * alone and through the door with both pairings. test_ref_double.c runs the same cases in double. */
#include "tests/unit/refkit.h"
#include "tests/unit/refnaive.h"

#include "ref/rope.h"

/* What RoPE reads of a config. */
typedef struct rope_case {
    int32_t head_dim, rope_dims;
    double theta;
    int32_t pairing, sign;
} rope_case;

static const rope_case cases[] = {
    {32, 32, 10000.0, KV_ROPE_INTERLEAVED, 1},  {32, 32, 10000.0, KV_ROPE_HALF, 1},
    {64, 64, 100000.0, KV_ROPE_INTERLEAVED, 1}, {64, 16, 10000.0, KV_ROPE_HALF, 1},
    {64, 64, 500000.0, KV_ROPE_HALF, -1},       {128, 128, 1e6, KV_ROPE_INTERLEAVED, -1},
    {80, 20, 12345.678, KV_ROPE_HALF, -1},      {2, 2, 10000.0, KV_ROPE_INTERLEAVED, 1},
    {256, 256, 10000.0, KV_ROPE_HALF, 1},
};

static ref_rope init(const rope_case *c)
{
    const kv_config cfg = {.head_dim = c->head_dim, .rope_dims = c->rope_dims, .rope_theta = c->theta,
                           .rope_pairing = c->pairing, .rope_sign = c->sign};
    ref_rope r;
    REF(rope_init)(&r, &cfg, cfg.rope_theta);
    return r;
}

static void rope_frequencies_follow_the_formula(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) {
        const ref_rope r = init(&cases[i]);
        assert_int_equal(r.pairs, cases[i].rope_dims / 2);
        assert_true(r.inv_freq[0] == 1);
        for (int64_t p = 0; p < r.pairs; p++) {
            const double share = (double)(2 * p) / cases[i].rope_dims;
            const real want = (real)1 / (real)kv_exp_core(share * kv_log_core(cases[i].theta));
            assert_bits(&r.inv_freq[p], &want, 1, "case %d, pair %lld", i, (long long)p);
        }
    }
}

#if REF_BITS == 32
/* Power and quotient are rounded one after the other: where one rounding of the whole gives another number, the
 * table must hold the first. */
static void rope_frequencies_are_rounded_twice(void **state)
{
    (void)state;
    const kv_config cfg = {.head_dim = 64, .rope_dims = 64, .rope_theta = 1e5, .rope_sign = 1};
    ref_rope r;
    int differ = 0;
    REF(rope_init)(&r, &cfg, cfg.rope_theta);
    for (int p = 0; p < 32; p++) {
        const float once = (float)kv_exp_core(-(p / 32.0 * kv_log_core(1e5)));
        const double off = (double)r.inv_freq[p] / (double)once - 1;
        assert_true(off <= 0x1p-23 && off >= -0x1p-23);
        differ += r.inv_freq[p] != once;
    }
    assert_true(differ > 0 && r.inv_freq[0] == 1);
}
#endif

/* Values that can be said without a program: theta^(-1/4), theta^(-1/2), theta^(-3/4) of 10000. */
static void rope_frequencies_of_theta_10000_are_powers_of_ten(void **state)
{
    (void)state;
    const ref_rope r = init(&cases[0]);
    static const double tenths[] = {1, 0.1, 0.01, 0.001};
    for (int i = 0; i < 4; i++) {
        const double off = (double)r.inv_freq[4 * i] / tenths[i] - 1;
        const double ulp = REF_BITS == 32 ? 0x1p-23 : 0x1p-50;
        if (!(off < ulp && off > -ulp)) fail_msg("pair %d: %.17g", 4 * i, (double)r.inv_freq[4 * i]);
    }
}

static void rope_tables_follow_the_formula(void **state)
{
    (void)state;
    static const int64_t positions[] = {0, 1, 2, 3, 17, 255, 256, 1000, 8191, 131072, 16777215};
    real cos[KV_MAX_HEAD_DIM / 2], sin[KV_MAX_HEAD_DIM / 2];
    for (int i = 0; i < COUNT(cases); i++) {
        const ref_rope r = init(&cases[i]);
        for (int j = 0; j < COUNT(positions); j++) {
            REF(rope_at)(&r, positions[j], cos, sin);
            for (int64_t p = 0; p < r.pairs; p++) {
                real c, s;
                naive_angle(positions[j], p, cases[i].rope_dims, cases[i].theta, cases[i].sign, &c, &s);
                assert_bits(&cos[p], &c, 1, "case %d, position %lld, cos %lld", i, (long long)positions[j],
                            (long long)p);
                assert_bits(&sin[p], &s, 1, "case %d, position %lld, sin %lld", i, (long long)positions[j],
                            (long long)p);
            }
        }
    }
}

static void rope_of_sign_minus_one_negates_the_sine_only(void **state)
{
    (void)state;
    rope_case plus = cases[0], minus = cases[0];
    minus.sign = -1;
    const ref_rope a = init(&plus), b = init(&minus);
    real ca[16], sa[16], cb[16], sb[16];
    for (int64_t pos = 0; pos < 50; pos++) {
        REF(rope_at)(&a, pos, ca, sa);
        REF(rope_at)(&b, pos, cb, sb);
        assert_bits(cb, ca, 16, "cosines at %lld", (long long)pos);
        for (int i = 0; i < 16; i++) {
            const real negated = -sa[i];
            assert_bits(&sb[i], &negated, 1, "sine %d at %lld", i, (long long)pos);
        }
    }
}

static void rope_tables_are_laid_out_as_promised(void **state)
{
    (void)state;
    static const struct {
        int64_t first, n;
    } fills[] = {{0, 1}, {0, 16}, {0, 17}, {5, 3}, {100, 40}, {100, 41}, {100, 2}, {99, 2}, {0, 200}};
    const ref_rope r = init(&cases[0]);
    ref_rope_table t = {0};
    for (int i = 0; i < COUNT(fills); i++) {
        assert_ok(REF(rope_table_fill)(&r, &t, fills[i].first, fills[i].n));
        assert_int_equal(t.first, fills[i].first);
        assert_true(t.n >= fills[i].n && t.stride % 16 == 0 && t.stride > t.n - 1 + 16);
        for (int64_t p = 0; p < r.pairs; p++)
            for (int64_t x = 0; x < t.stride; x++) {
                real c = 0, s = 0;
                if (x < t.n) naive_angle(t.first + x, p, 32, 10000.0, 1, &c, &s);
                assert_bits(&t.cos[p * t.stride + x], &c, 1, "fill %d, pair %lld, column %lld", i,
                            (long long)p, (long long)x);
                assert_bits(&t.sin[p * t.stride + x], &s, 1, "fill %d, pair %lld, column %lld", i,
                            (long long)p, (long long)x);
            }
    }
    REF(rope_table_free)(&t);
}

static void rope_row_rotates_both_pairings(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) {
        const rope_case *c = &cases[i];
        const ref_rope r = init(c);
        ref_rope_table t = {0};
        assert_ok(REF(rope_table_fill)(&r, &t, 7, 20));
        for (int64_t x = 0; x < 20; x++) {
            real *row = naive_randoms(60, c->head_dim), *want = naive_randoms(60, c->head_dim);
            naive_rope(want, 7 + x, c->rope_dims, c->pairing == KV_ROPE_HALF, c->theta, c->sign);
            REF(rope_row)(&r, &t, x, row);
            assert_bits(row, want, c->head_dim, "case %d, column %lld", i, (long long)x);
            free(row);
            free(want);
        }
        REF(rope_table_free)(&t);
    }
}

/* ---- through the door ------------------------------------------------------------------------------ */

static const struct {
    int32_t rope_dims, pairing, sign;
} worn[] = {
    {32, KV_ROPE_INTERLEAVED, 1}, {32, KV_ROPE_HALF, 1}, {32, KV_ROPE_INTERLEAVED, -1},
    {32, KV_ROPE_HALF, -1},       {16, KV_ROPE_HALF, 1}, {16, KV_ROPE_INTERLEAVED, -1},
};

/* The tiny model with another rotation. */
static kv_model dressed(const kv_model *tiny, int i)
{
    kv_model m = *tiny;
    m.cfg.rope_dims = worn[i].rope_dims;
    m.cfg.rope_pairing = worn[i].pairing;
    m.cfg.rope_sign = worn[i].sign;
    assert_ok(kv_config_check(&m.cfg));
    return m;
}

static void rope_tables_cross_the_door(void **state)
{
    (void)state;
    enum { N = 40, FIRST = 250 };
    kv_model *tiny = refkit_model("tiny");
    for (int i = 0; i < COUNT(worn); i++) {
        const kv_model m = dressed(tiny, i);
        const int32_t pairs = worn[i].rope_dims / 2;
        float cos[N * 16], sin[N * 16];
        refkit k = refkit_open(REF(backend)(), &m, "full");
        assert_side(&k, k.side->table(k.s, KV_TABLE_ROPE_COS, FIRST, N, cos));
        assert_side(&k, k.side->table(k.s, KV_TABLE_ROPE_SIN, FIRST, N, sin));
        for (int32_t x = 0; x < N; x++)
            for (int32_t p = 0; p < pairs; p++) {
                real c, s;
                naive_angle(FIRST + x, p, worn[i].rope_dims, 10000.0, worn[i].sign, &c, &s);
                const float want_c = (float)c, want_s = (float)s;
                assert_memory_equal(&cos[x * pairs + p], &want_c, sizeof want_c);
                assert_memory_equal(&sin[x * pairs + p], &want_s, sizeof want_s);
            }
        refkit_close(&k);
    }
    kv_model_close(tiny);
}

/* Policy sink exports keys before rotation, the tap shows them after it: the rotation between them is the
 * configured one, at the position of the token. */
static void rope_of_every_config_reaches_the_keys(void **state)
{
    (void)state;
    enum { N = 21, D = 32, H = 2 };
    kv_model *tiny = refkit_model("tiny");
    int32_t *tokens = refkit_tokens(N, tiny);
    for (int i = 0; i < COUNT(worn); i++) {
        const kv_model m = dressed(tiny, i);
        refkit k = refkit_open(REF(backend)(), &m, "sink:cap=100");
        float keys[N][H * D];
        kv_tap taps[N];
        for (int x = 0; x < N; x++)
            taps[x] = (kv_tap){.point = KV_TAP_K, .layer = 1, .row = x, .width = H * D, .dst = keys[x]};
        const kv_step step = {.tokens = tokens, .n = N, .n_taps = N, .taps = taps};
        assert_side(&k, k.side->step(k.s, &step));
        refkit_blob b = refkit_export(&k, 1, KV_STATE_KV);
        for (int h = 0; h < H; h++) {
            const kv_state_view v = refkit_run(&b, h);
            for (int x = 0; x < N; x++) {
                real row[D];
                float raw[2 * D];
                memcpy(raw, v.records + x * (int)sizeof raw, sizeof raw);
                for (int d = 0; d < D; d++)
                    row[d] = (real)raw[d];
                naive_rope(row, x, worn[i].rope_dims, worn[i].pairing == KV_ROPE_HALF, 10000.0, worn[i].sign);
                for (int d = 0; d < D; d++) {
                    /* ref64 exports its raw keys rounded to fp32 */
                    const double off = (double)keys[x][h * D + d] - (double)row[d];
                    const double allowed = REF_BITS == 32 ? 0 : 1e-6;
                    if (!(off <= allowed && off >= -allowed))
                        fail_msg("config %d, head %d, token %d, dim %d: %a, not %a", i, h, x, d,
                                 (double)keys[x][h * D + d], (double)row[d]);
                }
            }
        }
        free(b.p);
        refkit_close(&k);
    }
    free(tokens);
    kv_model_close(tiny);
}

#ifndef REF_CASES_ONLY
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_frequencies_follow_the_formula),
#if REF_BITS == 32
        cmocka_unit_test(rope_frequencies_are_rounded_twice),
#endif
        cmocka_unit_test(rope_frequencies_of_theta_10000_are_powers_of_ten),
        cmocka_unit_test(rope_tables_follow_the_formula),
        cmocka_unit_test(rope_of_sign_minus_one_negates_the_sine_only),
        cmocka_unit_test(rope_tables_are_laid_out_as_promised),
        cmocka_unit_test(rope_row_rotates_both_pairings),
        cmocka_unit_test(rope_tables_cross_the_door),
        cmocka_unit_test(rope_of_every_config_reaches_the_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
