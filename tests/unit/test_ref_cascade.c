/* The insertion rule of cascade under synthetic attention, against two other programs' results: a simulator in
 * double (moving averages of made-up probabilities, nine digits) and one in integers (no rounding at all, digests).
 * In double, so that both fit; the rule is the same text in fp32. */
#define REF_BITS 64

#include "tests/unit/kvtest.h"

#include "ref/policy/cascade.h"

#include <string.h>

enum { MOST = 2048 };

typedef struct sim {
    ref_cache cache;
    int64_t dropped[MOST];
    int n_dropped;
    double least_margin;
} sim;

static void sim_open(sim *s, const char *policy)
{
    const kv_config one = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 1};
    kv_policy p;
    memset(s, 0, sizeof *s);
    s->least_margin = 1;
    assert_ok(kv_policy_parse(policy, &p));
    assert_ok(REF(cache_init)(&s->cache, &one, &p));
    assert_ok(REF(cache_reserve)(&s->cache, &s->cache.layers[0], s->cache.ops->slots(&p)));
    s->cache.record_events = 1;
}

/* Inserts m tokens and notes what left. */
static void sim_insert(sim *s, int64_t m, const double *fresh)
{
    s->cache.moves[0].n = 0;
    assert_ok(REF(cascade_insert)(&s->cache, 0, m, fresh));
    kv_events *e = &s->cache.layers[0].events;
    for (size_t i = 0; i < e->n; i++) {
        if (e->v[i].kind != KV_EVENT_EVICT) continue;
        assert_true(s->n_dropped < MOST);
        s->dropped[s->n_dropped++] = e->v[i].og;
        if ((double)e->v[i].margin < s->least_margin) s->least_margin = (double)e->v[i].margin;
    }
    e->n = 0;
}

/* Original indices of sinks and entries in view order; *slot receives their slots. */
static int64_t sim_list(const sim *s, int64_t *og, int64_t *slot)
{
    const ref_layer *l = &s->cache.layers[0];
    for (int64_t i = 0; i < l->n; i++) {
        const ref_entry e = s->cache.ops->entry(&s->cache, l, 0, i);
        og[i] = e.og;
        slot[i] = e.slot;
    }
    return l->n;
}

/* ---- moving averages in double --------------------------------------------------------------------------- */

static int64_t weight_of(int64_t t, int64_t j) { return (7 * t + 13 * j) % 31 + 1; }

static void average_chunk(sim *s, int64_t m, double beta)
{
    ref_layer *l = &s->cache.layers[0];
    int64_t og[64], slot[64];
    double gain[64] = {0}, fresh[16] = {0}, decay = 1;
    const int64_t n = sim_list(s, og, slot), first = l->seen;
    for (int64_t r = 0; r < m; r++) {
        double w = 1 - beta;
        for (int64_t k = 0; k < m - 1 - r; k++)
            w *= beta;
        int64_t total = 0;
        for (int64_t i = 0; i < n; i++)
            total += weight_of(first + r, og[i]);
        for (int64_t x = 0; x <= r; x++)
            total += weight_of(first + r, first + x);
        for (int64_t i = 0; i < n; i++)
            gain[i] += w * ((double)weight_of(first + r, og[i]) / (double)total);
        for (int64_t x = 0; x <= r; x++)
            fresh[x] += w * ((double)weight_of(first + r, first + x) / (double)total);
        decay *= beta;
    }
    for (int64_t i = l->n_sink; i < n; i++)
        l->score[slot[i]] = decay * l->score[slot[i]] + gain[i];
    sim_insert(s, m, fresh);
}

typedef struct averages {
    int64_t chunk;
    int64_t og[12];
    double score[12];
    int64_t dropped[10];
    double least_margin;
    int64_t og40[12];
    double score40[12];
} averages;

static const averages golden_averages[] = {
    {1,
     {5, 7, 8, 10, 12, 14, 17, 18, 20, 21, 22, 23},
     {0.061556906, 0.059117611, 0.059789152, 0.053530823, 0.043097661, 0.041581969, 0.034481562, 0.037202139,
      0.024460667, 0.015411379, 0.010185110, 0.014516129},
     {2, 11, 6, 13, 3, 15, 9, 16, 4, 19},
     0.0006226444681011085,
     {14, 18, 23, 26, 28, 31, 32, 34, 36, 37, 38, 39},
     {0.061610727, 0.059607295, 0.051857963, 0.050350806, 0.048245346, 0.042966520, 0.033452036, 0.034285151,
      0.029992711, 0.016811324, 0.017405041, 0.002429150}},
    {4,
     {5, 6, 9, 10, 12, 14, 16, 18, 20, 21, 22, 23},
     {0.058051611, 0.055683303, 0.057392113, 0.049225746, 0.040317656, 0.037889415, 0.035947722, 0.028870957,
      0.020608556, 0.013977617, 0.007127854, 0.009246575},
     {2, 11, 7, 13, 3, 15, 8, 17, 4, 19},
     0.0008316044740735579,
     {14, 18, 24, 26, 28, 30, 33, 34, 36, 37, 38, 39},
     {0.053402829, 0.053792319, 0.057612955, 0.043884160, 0.044936131, 0.039885486, 0.035757426, 0.028618888,
      0.026162531, 0.014123807, 0.015257762, 0.002214022}},
};

static void same_entries(const sim *s, const int64_t *want_og, const double *want_score)
{
    int64_t og[64], slot[64];
    assert_int_equal(sim_list(s, og, slot), 14);
    for (int i = 0; i < 12; i++) {
        const double got = s->cache.layers[0].score[slot[2 + i]];
        assert_int_equal(og[2 + i], want_og[i]);
        if (!(got - want_score[i] < 6e-10 && want_score[i] - got < 6e-10))
            fail_msg("entry %d: score %.9f, wanted %.9f", i, got, want_score[i]);
    }
}

static void averages_agree_with_a_simulator(void **state)
{
    (void)state;
    for (int c = 0; c < (int)(sizeof golden_averages / sizeof *golden_averages); c++) {
        const averages *g = &golden_averages[c];
        sim s;
        sim_open(&s, "cascade:sinks=2,n=3,window=4,beta=0.9");
        while (s.cache.layers[0].seen < 24)
            average_chunk(&s, g->chunk, 0.9);
        same_entries(&s, g->og, g->score);
        assert_int_equal(s.n_dropped, 10);
        for (int i = 0; i < 10; i++)
            assert_int_equal(s.dropped[i], g->dropped[i]);
        assert_true(s.least_margin - g->least_margin < 1e-9 && g->least_margin - s.least_margin < 1e-9);
        while (s.cache.layers[0].seen < 40)
            average_chunk(&s, g->chunk, 0.9);
        same_entries(&s, g->og40, g->score40);
        REF(cache_free)(&s.cache);
    }
}

/* ---- integers --------------------------------------------------------------------------------------------- */

static int64_t f1(int64_t t, int64_t j) { return weight_of(t, j); }

static int64_t f2(int64_t t, int64_t j)
{
    uint32_t x = (uint32_t)t * 2654435761u ^ ((uint32_t)j * 40503u + 1) * 2246822519u;
    x ^= x >> 15;
    x *= 2654435761u;
    x ^= x >> 13;
    return (int64_t)(x & 1023) + 1;
}

/* One query's share of entry j, after the older part has decayed. */
static double shared(double score, int64_t f, int64_t total)
{
    const int64_t s = (int64_t)score;
    return (double)(s - (s >> 7) + (f << 24) / total);
}

static void integer_chunk(sim *s, int64_t m, int64_t (*f)(int64_t, int64_t))
{
    ref_layer *l = &s->cache.layers[0];
    int64_t og[512], slot[512];
    double fresh[256] = {0};
    const int64_t n = sim_list(s, og, slot), first = l->seen;
    for (int64_t r = 0; r < m; r++) {
        int64_t total = 0;
        for (int64_t i = 0; i < n; i++)
            total += f(first + r, og[i]);
        for (int64_t x = 0; x <= r; x++)
            total += f(first + r, first + x);
        for (int64_t i = l->n_sink; i < n; i++)
            l->score[slot[i]] = shared(l->score[slot[i]], f(first + r, og[i]), total);
        for (int64_t x = 0; x <= r; x++)
            fresh[x] = shared(fresh[x], f(first + r, first + x), total);
    }
    sim_insert(s, m, fresh);
}

static uint64_t fnv(uint64_t h, int64_t v)
{
    for (int i = 0; i < 8; i++)
        h = (h ^ ((uint64_t)v >> (8 * i) & 0xff)) * UINT64_C(0x100000001b3);
    return h;
}

/* seen, sinks, count and start of each ring; then of all slots original indices, positions, scores; -1: empty. */
static uint64_t sim_digest(const sim *s)
{
    const ref_layer *l = &s->cache.layers[0];
    const kv_policy *p = &s->cache.policy;
    int64_t og[512], slot[512], field[3][512];
    const int64_t n = sim_list(s, og, slot);
    memset(field, 0xff, sizeof field);
    for (int64_t i = l->n_sink; i < n; i++) {
        const int64_t j = slot[i] - REF(cascade_slot)(p, 0);
        field[0][j] = og[i];
        field[1][j] = i;
        field[2][j] = (int64_t)l->score[slot[i]];
    }
    uint64_t h = fnv(fnv(UINT64_C(0xcbf29ce484222325), l->seen), l->n_sink);
    for (int32_t i = 0; i < p->cascade.n; i++)
        h = fnv(fnv(h, l->count[i]), l->start[i]);
    for (int f = 0; f < 3; f++)
        for (int32_t j = 0; j < p->cascade.cap; j++)
            h = fnv(h, field[f][j]);
    return h;
}

typedef struct integers {
    int law;
    const char *policy;
    int64_t chunk;
    struct {
        int64_t tokens;
        uint64_t digest;
    } at[5];
} integers;

#define S2 "cascade:sinks=2,n=3,window=4"
#define S4 "cascade:sinks=4,n=4,window=16"
#define S64 "cascade:sinks=64,n=4,window=64"

static const integers golden_integers[] = {
    {1, S2, 1, {{12, 0xefa6d82eed6d556c}, {24, 0x3298a994997624f9}}},
    {1, S2, 4, {{12, 0xefa6d82eed6d556c}, {24, 0x9666e2554446a74c}}},
    {1, S4, 1, {{24, 0x809d0a2addabe33d}, {256, 0x2ac8e26ef9ac09ca}, {512, 0xed6b9021dc28b57f}, {1024, 0xa5f1761760e10f83}}},
    {1, S4, 16, {{256, 0xb2efa6be1e8bb006}, {512, 0x9bdcc5aa9b5a3d58}, {1024, 0x34f607aa7226483f}}},
    {1, S4, 48, {{1000, 0x36bd1405a6d0b3eb}}},
    {1, S64, 128, {{256, 0x1cee87fb5c71f7d8}, {512, 0x3cbeaab603b5e76e}, {768, 0x361a93af556bfee0}, {1536, 0xfd050fc0093ac682}}},
    {2, S2, 1, {{12, 0xe62bbb3dd6c12b32}, {24, 0x89d672fc0987a954}}},
    {2, S2, 4, {{12, 0xe62bbb3dd6c12b32}, {24, 0x4b7b73471b105721}}},
    {2, S4, 1, {{256, 0x754e0c32493f56bb}, {512, 0x62e8d9d80fbff16c}, {1024, 0x810e8ed599ec54d8}}},
    {2, S4, 16, {{256, 0x72089b5fad47765c}, {512, 0x9b7656a3095a0f61}, {1024, 0x50ca148a6b53c2f1}}},
    {2, S4, 48, {{1000, 0xf22acb14c8ee6559}}},
    {2, S64, 128, {{256, 0x395c231eb67833c7}, {512, 0x16c6a2f76a134d39}, {768, 0x96bce8ffa02446d1}, {1536, 0x5e1c3e6ce1cf8f05}}},
};

static void integers_agree_with_a_simulator(void **state)
{
    (void)state;
    for (int c = 0; c < (int)(sizeof golden_integers / sizeof *golden_integers); c++) {
        const integers *g = &golden_integers[c];
        sim s;
        sim_open(&s, g->policy);
        const ref_layer *l = &s.cache.layers[0];
        for (int i = 0; i < 5 && g->at[i].tokens; i++) {
            while (l->seen < g->at[i].tokens)
                integer_chunk(&s, ref_min(g->chunk, g->at[i].tokens - l->seen), g->law == 1 ? f1 : f2);
            if (sim_digest(&s) != g->at[i].digest)
                fail_msg("law f%d, %s, chunks of %lld: digest after %lld tokens is %016llx, wanted %016llx", g->law, g->policy,
                         (long long)g->chunk, (long long)l->seen, (unsigned long long)sim_digest(&s),
                         (unsigned long long)g->at[i].digest);
        }
        REF(cache_free)(&s.cache);
    }
}

/* ---- who wins --------------------------------------------------------------------------------------------------- */

/* One sink, two rings of two; token 6 pushes token 4 out of ring 0, and ring 1, whose newest is token 3, does not
 * accept. */
static int64_t winner(const char *options, double incoming, double resident)
{
    char policy[96];
    int64_t og[8], slot[8];
    sim s;
    snprintf(policy, sizeof policy, "cascade:sinks=1,n=2,window=2,eager=1%s", options);
    sim_open(&s, policy);
    const double scores[] = {0, 0, 0, resident, incoming, 0, 0};
    for (int t = 0; t < 7; t++)
        sim_insert(&s, 1, &scores[t]);
    assert_int_equal(sim_list(&s, og, slot), 5);
    REF(cache_free)(&s.cache);
    return og[2];
}

static void duels_follow_the_rule(void **state)
{
    (void)state;
    const double nan = (double)kv_nan();
    assert_int_equal(winner("", 2, 1), 4);
    assert_int_equal(winner("", 1, 2), 3);
    assert_int_equal(winner("", 1, 1), 4); /* a tie goes to the incoming token */
    assert_int_equal(winner("", 0.0, -0.0), 4);
    assert_int_equal(winner("", -0.0, 0.0), 4); /* zeros are equal */
    assert_int_equal(winner("", nan, 1), 3);
    assert_int_equal(winner("", 1, nan), 3); /* NaN on either side: the resident stays */
    assert_int_equal(winner(",compat=strict", 1, 1), 3);
    assert_int_equal(winner(",compat=strict", 2, 1), 4);
    assert_int_equal(winner(",select=newest", 1, 2), 4);
    assert_int_equal(winner(",select=oldest", 2, 1), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(averages_agree_with_a_simulator),
        cmocka_unit_test(integers_agree_with_a_simulator),
        cmocka_unit_test(duels_follow_the_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
