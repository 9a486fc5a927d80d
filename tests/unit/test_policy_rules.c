/* Rules between parameters: what is refused, with the nearest value that is not, what stands just inside the limits,
 * and what follows from a policy: positions, entries, presets. */
#include "tests/unit/kvtest.h"

#include "common/config.h"
#include "common/policy.h"

static kv_policy parsed(const char *spec)
{
    kv_policy p;
    assert_ok(kv_policy_parse(spec, &p));
    return p;
}

static void mistakes_name_the_nearest_legal_value(void **state)
{
    static const char *const bad[][2] = {
        {"cascade:n=3", "cap=N or window=N is missing"},
        {"cascade:cap=10,n=4", "cap=10 cannot be shared by n=4 rings of equal size; the nearest legal value is 12"},
        {"cascade:cap=9,n=4", "nearest legal value is 8"},
        {"cascade:cap=3,n=4", "nearest legal value is 4"},
        {"cascade:n=8,window=33554433", "more than 268435456 slots; the nearest legal window is 33554432"},
        {"cascade:cap=24,n=4,window=5", "cap=24 and window=5 contradict each other: 4 rings share cap=20"},
        {"cascade:beta=0,cap=8", "beta"},
        {"cascade:beta=1,cap=8", "beta"},
        {"h2o:cap=7", "cap=7 cannot be halved into heavy and recent; the nearest legal value is 8"},
        {"h2o:cap=8,heavy=3,recent=4", "cap=8 is not heavy + recent"},
        {"h2o:cap=8,heavy=9", "cap=8 is not heavy + recent"},
        {"h2o:cap=8,recent=9", "cap=8 is not heavy + recent"},
        {"snapkv:cap=8,prompt=64,window=8", "cap=8 includes window=8 and must be larger; the nearest legal value is 9"},
        {"snapkv:cap=9,prompt=7,window=8", "prompt=7 is shorter than window=8; the nearest legal value is 8"},
        {"snapkv:cap=9,kernel=6,prompt=64,window=8",
         "kernel=6 is even and has no middle; the nearest legal value is 5"},
        {"pyramid:cap=9,kernel=2,prompt=64,window=8", "nearest legal value is 1"},
        {"xwindow:cache=8,stride=9,window=8",
         "stride=9 is more than window=8, so tokens would be left out; the nearest legal value is 8"},
        {"xwindow:cache=7,stride=8,window=8",
         "cache=7 does not hold the rows of one stride=8; the nearest legal value is 8"},
        {"full+kvarn:kbits=7", "kbits=7: codes have 2, 3, 4, 5, 6 or 8 bits; the nearest legal value is 6"},
        {"full+kvarn:vbits=7", "vbits=7"},
        {"full+kvarn:tile=33", "nearest legal value is 32"},
        {"full+kvarn:tile=47", "nearest legal value is 32"},
        {"full+kvarn:tile=48", "nearest legal value is 64"},
        {"full+kvarn:tile=95", "nearest legal value is 64"},
        {"full+kvarn:tile=96", "nearest legal value is 128"},
        {"full+kivi:bits=7", "bits=7"},
        {"full+kivi:group=32,residual=33", "residual=33 must be a multiple of group=32; the nearest legal value is 32"},
        {"full+kivi:group=32,residual=16", "nearest legal value is 32"},
        {"full+kivi:group=32,residual=95", "nearest legal value is 64"},
        {"full+kivi:bits=3,group=2,residual=6",
         "residual=6 codes of 3 bits do not fill whole bytes; use a multiple of 8"},
        {"sliding:cap=96,pos=absolute+kvarn:tile=64",
         "cap=96 must be a multiple of tile=64 and hold at least two; the nearest legal value is 128"},
        {"sliding:cap=200,pos=absolute+kvarn:tile=64", "nearest legal value is 192"},
        {"sliding:cap=32,pos=absolute+kivi:group=32,residual=32",
         "multiple of residual=32 and hold at least two; the nearest legal value is 64"},
        {"sliding:cap=64+kvarn:tile=32", "a tile cannot be re-positioned; use sliding with pos=absolute"},
        {"sink:cap=64+kivi", "it keeps keys un-rotated"},
        {"xwindow:cache=8,stride=8,window=8+kvarn", "it computes rows again"},
        {"tova:cap=64+kvarn", "it evicts single tokens"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_policy p;
        assert_refused(kv_policy_parse(bad[i][0], &p), KV_ERR_USAGE, bad[i][1]);
    }
}

static void values_just_inside_the_limits_are_legal(void **state)
{
    static const char *const good[] = {
        "cascade:cap=4,n=4",
        "cascade:n=8,window=33554432",
        "cascade:cap=24,n=4,window=6",
        "cascade:beta=0.000001,cap=8",
        "h2o:cap=1,heavy=0",
        "h2o:cap=8,recent=8",
        "h2o:cap=8,heavy=8",
        "snapkv:cap=9,prompt=8,window=8",
        "snapkv:cap=9,kernel=1,prompt=64,window=8",
        "xwindow:cache=8,stride=8,window=8",
        "xwindow:cache=0,stride=8,window=8",
        "full+kvarn:kbits=8,vbits=2",
        "full+kivi:bits=8,group=2,residual=2",
        "full+kivi:bits=3,group=8,residual=8",
        "sliding:cap=64,pos=absolute+kvarn:tile=32",
        "sliding:cap=64,pos=absolute+kivi:group=32,residual=32",
    };
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        parsed(good[i]);
}

static void models_fit_or_are_told_why_not(void **state)
{
    static const struct {
        const char *spec;
        int32_t head_dim, n_layers;
        const char *why; /* NULL: fits */
    } t[] = {
        {"full+kvarn", 32, 2, NULL},
        {"full+kvarn", 16, 2, "power of two from 32 on; this model's head_dim is 16"},
        {"full+kvarn", 96, 2, "head_dim is 96"},
        {"full+kivi:group=32,residual=32", 64, 2, NULL},
        {"full+kivi:group=32,residual=32", 48, 2, "group=32 does not divide this model's head_dim 48"},
        {"full+kivi:bits=3,group=2,residual=8", 8, 2, NULL},
        {"full+kivi:bits=3,group=2,residual=8", 10, 2, "10 codes of 3 bits do not fill whole bytes"},
        {"xwindow:cache=8,layers=2,stride=8,window=8", 16, 2, NULL},
        {"xwindow:cache=8,layers=3,stride=8,window=8", 16, 2,
         "layers=3, but the model has 2; the nearest legal value is 2"},
        {"full", 5, 1, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const kv_policy p = parsed(t[i].spec);
        kv_config cfg = {0};
        cfg.head_dim = t[i].head_dim;
        cfg.n_layers = t[i].n_layers;
        if (t[i].why)
            assert_refused(kv_policy_fit(&p, &cfg), KV_ERR_USAGE, t[i].why);
        else
            assert_ok(kv_policy_fit(&p, &cfg));
    }
}

/* The first and the last value of every number, as the pages and `kvdiff policy` have them. */
static void ranges_are_those_of_the_pages(void **state)
{
    static const char wanted[] = "sliding cap 2 268435456\n"
                                 "sink cap 1 268435456\nsink sinks 0 1048576\n"
                                 "cascade cap 1 268435456\ncascade n 1 8\ncascade sinks 0 1048576\ncascade window 1 268435456\n"
                                 "xwindow cache 0 268435456\nxwindow layers 0 65536\nxwindow stride 1 268435456\nxwindow window 1 268435456\n"
                                 "h2o cap 1 268435456\nh2o heavy 0 268435456\nh2o recent 0 268435456\n"
                                 "snapkv cap 2 268435456\nsnapkv kernel 1 255\nsnapkv prompt 1 268435456\nsnapkv window 1 268435456\n"
                                 "tova cap 1 268435456\n"
                                 "pyramid beta 1 1048576\npyramid cap 2 268435456\npyramid kernel 1 255\npyramid prompt 1 268435456\n"
                                 "pyramid window 1 268435456\n"
                                 "dilated every 1 268435456\ndilated sinks 0 1048576\ndilated window 1 268435456\n"
                                 "kvarn iters 1 64\nkvarn kbits 2 8\nkvarn tile 32 128\nkvarn vbits 2 8\n"
                                 "kivi bits 2 8\nkivi group 2 65536\nkivi residual 2 1048576\n";
    char got[4096] = "";
    (void)state;
    for (int32_t x = 0; x < KV_SEL_COUNT + KV_STORE_COUNT; x++) {
        const int32_t store = x - KV_SEL_COUNT;
        const char *name = store < 0 ? kv_selection_name(x) : kv_storage_name(store);
        size_t n;
        const kv_policy_param *d = store < 0 ? kv_selection_params(x, &n) : kv_storage_params(store, &n);
        for (size_t i = 0; i < n; i++)
            if (!d[i].words && !d[i].decimal)
                snprintf(got + strlen(got), sizeof got - strlen(got), "%s %s %d %d\n", name, d[i].name, d[i].min, d[i].max);
    }
    assert_string_equal(got, wanted);
}

static void sizes_follow_from_the_policy(void **state)
{
    static const struct {
        const char *spec;
        int64_t position, entries; /* of 1,000 tokens in steps of 10; entries < 0: no bound */
        int32_t first_step, heads_agree;
    } t[] = {
        {"full", 999, -1, 0, 1},
        {"sliding:cap=24", 23, 24, 0, 1},
        {"sliding:cap=24,pos=absolute", 999, 24, 0, 1},
        {"sliding:cap=24,pos=saturate", 23, 24, 0, 1},
        {"sink:cap=20,sinks=3", 32, 23, 0, 1},
        {"sink:cap=2000", 999, 2004, 0, 1},
        {"cascade:cap=24,sinks=5", 38, 29, 0, 0},
        {"cascade:cap=24,homog=1", 37, 28, 0, 1},
        {"cascade:cap=24,select=newest", 37, 28, 0, 1},
        {"xwindow:cache=24,stride=8,window=16", 39, 40, 0, 1},
        {"h2o:cap=24", 999, 24, 0, 0},
        {"tova:cap=24", 999, 24, 0, 1},
        {"snapkv:cap=40,prompt=64", 999, -1, 64, 0},
        {"pyramid:cap=40,prompt=65", 999, -1, 65, 0},
        {"dilated:window=5", 999, -1, 0, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const kv_policy p = parsed(t[i].spec);
        assert_int_equal(kv_policy_max_position(&p, 1000, 10), t[i].position);
        assert_int_equal(kv_policy_max_entries(&p), t[i].entries < 0 ? INT64_MAX : t[i].entries);
        assert_int_equal(kv_policy_first_step(&p), t[i].first_step);
        assert_int_equal(kv_policy_heads_agree(&p), t[i].heads_agree);
    }
}

static void presets_are_defaults_that_words_override(void **state)
{
    (void)state;
    const kv_policy none = parsed("cascade:cap=24"), paper = parsed("cascade:cap=24,preset=paper"),
                    code = parsed("cascade:cap=24,preset=code");
    assert_int_equal(none.cascade.sinks, 4);
    assert_int_equal(paper.cascade.sinks, 64);
    assert_int_equal(code.cascade.sinks, 64);
    assert_true(none.cascade.beta == 0.9999 && paper.cascade.beta == 0.9999 && code.cascade.beta == 0.9999999);
    assert_int_equal(paper.cascade.score, KV_SCORE_F32);
    assert_int_equal(code.cascade.score, KV_SCORE_F16);
    const kv_policy own = parsed("cascade:beta=0.5,cap=24,preset=code,score=f32,sinks=3");
    assert_true(own.cascade.beta == 0.5 && own.cascade.score == KV_SCORE_F32 && own.cascade.sinks == 3);
    assert_int_equal(own.cascade.preset, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_name_the_nearest_legal_value),
        cmocka_unit_test(values_just_inside_the_limits_are_legal),
        cmocka_unit_test(models_fit_or_are_told_why_not),
        cmocka_unit_test(ranges_are_those_of_the_pages),
        cmocka_unit_test(sizes_follow_from_the_policy),
        cmocka_unit_test(presets_are_defaults_that_words_override),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
