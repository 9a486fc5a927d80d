/* States of caches: what a list of decisions says about the phase of its policy. The lists are made by hand from the
 * worked examples and rules of docs/policy. */
#include "tests/unit/kvtest.h"

#include "common/tile.h"
#include "difftest/coverage.h"

#include <math.h>

static const float inf = INFINITY;
static kv_policy policy;
static dt_coverage c;
static kv_events events;

static void begin(const char *spec)
{
    assert_ok(kv_policy_parse(spec, &policy));
    dt_coverage_begin(&c, &policy, 4);
    dt_coverage_reset(&c);
    events.n = 0;
}

static void add(int32_t layer, int32_t head, int kind, int64_t og, int64_t token, int32_t slot, float margin)
{
    assert_ok(kv_events_push(&events, (kv_event){.og = og, .token = token, .layer = layer, .head = head, .kind = kind,
                                                 .slot = slot, .margin = margin}));
}

static void admit(int64_t from, int64_t to)
{
    for (; from < to; from++)
        add(0, -1, KV_EVENT_ADMIT, from, from, (int32_t)from, inf);
}

static void evict(int64_t from, int64_t to, int64_t token, float margin)
{
    for (; from < to; from++)
        add(0, -1, KV_EVENT_EVICT, from, token, 0, margin);
}

static void step(int32_t n)
{
    const kv_step s = {.n = n};
    dt_coverage_step(&c, &s, &events);
    events.n = 0;
}

/* The visited cells of the counter, as "name:n name:n"; they are forgotten. */
static const char *visited(void)
{
    static char text[2000];
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < DT_CELL_COUNT; i++) {
        if (c.n[i] == 0) continue;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s:%lld", n ? " " : "", dt_cell_name(i), (long long)c.n[i]);
        c.n[i] = 0;
    }
    return text;
}

#define assert_visited(wanted) assert_string_equal(visited(), (wanted))

static void cells_have_names_of_their_own(void **state)
{
    (void)state;
    for (int i = 0; i < DT_CELL_COUNT; i++) {
        assert_true(strchr(dt_cell_name(i), '.') != NULL && strlen(dt_cell_about(i)) > 7);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(dt_cell_name(i), dt_cell_name(j));
    }
}

static void full_has_edges_of_chunks(void **state)
{
    (void)state;
    begin("full");
    admit(0, 200);
    step(200);
    assert_visited("full.within:1");
    admit(200, 256);
    step(56);
    assert_visited("full.edge:1");
    admit(256, 600);
    step(344);
    assert_visited("full.across:1");
    admit(600, 768);
    step(168);
    assert_visited("full.edge:1");
}

/* The worked example of docs/policy/sliding.md: cap=4, steps of 3, 1, 2, 1 and 5, and one of 4. */
static void sliding_fills_slides_and_is_fed_in_pieces(void **state)
{
    (void)state;
    static const char *const names[] = {"rerotate", "absolute", "saturate"};
    for (int i = 0; i < 3; i++) {
        char spec[60], wanted[400];
        snprintf(spec, sizeof spec, "sliding:cap=4,pos=%s", names[i]);
        begin(spec);
        admit(0, 3);
        step(3);
        admit(3, 4);
        step(1);
        evict(0, 2, 4, inf);
        admit(4, 6);
        step(2);
        evict(2, 3, 6, inf);
        admit(6, 7);
        step(1);
        evict(3, 5, 7, inf);
        admit(7, 9);
        evict(5, 7, 9, inf);
        admit(9, 11);
        evict(7, 8, 11, inf);
        admit(11, 12);
        step(5);
        evict(8, 12, 12, inf);
        admit(12, 16);
        step(4);
        snprintf(wanted, sizeof wanted, "sliding.%s.filling:2 sliding.%s.first:1 sliding.%s.sliding:3 sliding.%s.whole:1 "
                                        "sliding.%s.pieces:1", names[i], names[i], names[i], names[i], names[i]);
        assert_visited(wanted);
    }
}

/* The worked example of docs/policy/sink.md: cap=3,sinks=2. */
static void a_sink_cache_wraps(void **state)
{
    (void)state;
    begin("sink:cap=3,sinks=2");
    admit(0, 1);
    step(1);
    assert_visited("sink.sinks:1 sink.filling:1");
    admit(1, 4);
    step(3);
    assert_visited("sink.sinks:1 sink.filling:1");
    admit(4, 6);
    evict(2, 3, 5, inf);
    step(2);
    assert_visited("sink.first:1");
    admit(6, 7);
    evict(3, 4, 6, inf);
    step(1);
    admit(7, 11); /* 4 5 6 and 7 leave */
    evict(4, 8, 10, inf);
    step(4);
    assert_visited("sink.wrapped:1 sink.own:1");
    dt_coverage_reset(&c);
    admit(0, 1);
    step(1);
    assert_visited("sink.sinks:1 sink.filling:1");
}

static void the_highest_stay(void **state)
{
    (void)state;
    begin("h2o:cap=4");
    admit(0, 3);
    step(3);
    assert_visited("h2o.filling:1");
    admit(3, 4);
    step(1);
    assert_visited("h2o.at:1");
    evict(1, 2, 4, 0.5f);
    admit(4, 5);
    step(1);
    assert_visited("h2o.first:1 h2o.one:1");
    evict(2, 3, 6, 0);
    evict(5, 6, 6, 0.5f);
    admit(5, 7);
    step(2);
    assert_visited("h2o.later:1 h2o.own:1 h2o.tie:1 h2o.many:1");
    begin("tova:cap=2");
    admit(0, 3);
    evict(2, 3, 2, 0);
    step(3);
    assert_visited("tova.first:1 tova.own:1 tova.newest:1 tova.tie:1 tova.many:1");
}

static void every_so_manieth_is_kept_for_ever(void **state)
{
    (void)state;
    begin("dilated:every=3,sinks=1,window=2");
    admit(0, 3);
    step(3);
    assert_visited("dilated.filling:1");
    evict(2, 4, 5, INFINITY);
    admit(3, 6);
    step(3);
    assert_visited("dilated.first:1 dilated.own:1");
    admit(6, 7);
    step(1);
    assert_visited("dilated.kept:1");
    evict(5, 7, 8, INFINITY);
    admit(7, 9);
    step(2);
    assert_visited("dilated.later:1");
}

static void prompts_are_compressed(void **state)
{
    (void)state;
    begin("snapkv:cap=4,window=2,prompt=3");
    admit(0, 3);
    step(3);
    admit(3, 4);
    step(1);
    assert_visited("snapkv.short:1");
    begin("snapkv:cap=4,window=2,prompt=6");
    evict(0, 2, 5, 0);
    admit(0, 6);
    step(6);
    admit(6, 7);
    step(1);
    assert_visited("snapkv.compress:1 snapkv.tie:1 snapkv.later:1");
    begin("pyramid:cap=4,window=2,prompt=6");
    evict(0, 2, 5, 0.5f);
    admit(0, 6);
    for (int i = 0; i < 4; i++)
        add(1, 0, KV_EVENT_EVICT, i, 5, i, inf);
    step(6);
    admit(6, 7);
    step(1);
    assert_visited("pyramid.shrink:1 pyramid.none:1 pyramid.later:1");
}

static void window_step(int64_t pos0, int32_t n, int evicts, int admits)
{
    const kv_step s = {.n = n, .flags = KV_STEP_RECOMPUTE, .pos0 = pos0};
    for (int i = 0; i < evicts; i++)
        add(2, -1, KV_EVENT_EVICT, i, 0, 0, inf);
    for (int i = 0; i < admits; i++)
        add(2, -1, KV_EVENT_ADMIT, i, 0, 0, inf);
    dt_coverage_step(&c, &s, &events);
    events.n = 0;
}

static void windows_see_a_cache_that_fills(void **state)
{
    (void)state;
    begin("xwindow:window=8,stride=4,cache=8,layers=2"); /* of 4 layers: 2 and 3 */
    window_step(0, 8, 0, 8);
    assert_visited("xwindow.first:1 xwindow.empty:1");
    window_step(4, 8, 0, 4);
    assert_visited("xwindow.regular:1 xwindow.filling:1 xwindow.some:1");
    window_step(8, 8, 4, 4);
    window_step(12, 6, 4, 2);
    assert_visited("xwindow.regular:1 xwindow.clipped:1 xwindow.full:2 xwindow.some:2");
    begin("xwindow:window=8,stride=4,cache=0");
    window_step(0, 8, 0, 0);
    window_step(4, 8, 0, 0);
    assert_visited("xwindow.first:1 xwindow.regular:1 xwindow.plain:1");
    begin("xwindow:window=8,stride=4,cache=8,ver=published");
    window_step(0, 8, 0, 0);
    window_step(4, 8, 0, 0);
    assert_visited("xwindow.first:1 xwindow.regular:1 xwindow.empty:2 xwindow.published:1");
}

/* docs/policy/cascade.md with two rings of two, no sinks: slots 0 1 are ring 0, 2 3 ring 1. */
static void walks_through_rings_are_told_apart(void **state)
{
    (void)state;
    begin("cascade:cap=4,n=2,sinks=1");
    add(0, 0, KV_EVENT_ADMIT, 0, 0, 0, inf);
    add(0, 0, KV_EVENT_ADMIT, 1, 1, 1, inf);
    add(0, 0, KV_EVENT_ADMIT, 2, 2, 2, inf);
    step(3);
    assert_visited("cascade.sinks:1 cascade.filling:1 cascade.apart:1");
    add(0, 0, KV_EVENT_ADMIT, 3, 3, 1, inf); /* 1 goes on into the empty ring 1 */
    add(0, 0, KV_EVENT_MOVE, 1, 3, 3, inf);
    step(1);
    assert_visited("cascade.enter1:1 cascade.rotate0:1 cascade.apart:1");
    add(0, 0, KV_EVENT_ADMIT, 4, 4, 2, inf);
    add(0, 0, KV_EVENT_MOVE, 2, 4, 4, inf);
    step(1);
    assert_visited("cascade.enter1:1 cascade.rotate0:1 cascade.apart:1");
    add(0, 0, KV_EVENT_ADMIT, 5, 5, 1, inf); /* 3 duels with 2, the newest of ring 1, and wins */
    add(0, 0, KV_EVENT_MOVE, 3, 5, 4, inf);
    add(0, 0, KV_EVENT_EVICT, 2, 5, 4, 0.5f);
    step(1);
    assert_visited("cascade.enter1:1 cascade.rotate0:1 cascade.won:1 cascade.lap:1 cascade.one:1 cascade.apart:1");
    add(0, 0, KV_EVENT_ADMIT, 6, 6, 2, inf); /* 4 duels with 3 and loses by nothing */
    add(0, 0, KV_EVENT_EVICT, 4, 6, 2, 0);
    add(0, 1, KV_EVENT_ADMIT, 6, 6, 2, inf);
    step(1);
    assert_visited("cascade.rotate0:1 cascade.lost:1 cascade.tie:1 cascade.lap:1 cascade.one:1 cascade.apart:2");
    add(0, -1, KV_EVENT_ADMIT, 7, 7, 1, inf); /* 5 is accepted and rotates 1 out of the last ring */
    add(0, -1, KV_EVENT_MOVE, 5, 7, 3, inf);
    add(0, -1, KV_EVENT_EVICT, 1, 7, 3, inf);
    add(0, -1, KV_EVENT_ADMIT, 8, 8, 2, inf); /* 6 is refused, and 7, of this step, loses nothing yet */
    add(0, -1, KV_EVENT_EVICT, 7, 8, 2, 0.5f);
    step(2);
    assert_visited("cascade.enter1:1 cascade.rotate0:2 cascade.rotate1:1 cascade.drop:1 cascade.lost:1 cascade.lap:2 "
                   "cascade.own:1 cascade.many:1 cascade.together:1");
    begin("cascade:cap=4,n=2,sinks=0,select=newest");
    c.seen = 7;
    add(0, -1, KV_EVENT_MOVE, 5, 7, 3, inf);
    add(0, -1, KV_EVENT_EVICT, 1, 7, 3, inf);
    step(1);
    assert_visited("cascade.enter1:1 cascade.rotate1:1 cascade.together:1 cascade.newest:1");
}

/* Three rings of two: a token that ring 1 passes on loses to ring 2, in the slot that ring 1 has just filled. */
static void a_loser_of_the_next_ring_is_no_loser_of_this_one(void **state)
{
    (void)state;
    begin("cascade:cap=6,n=3,sinks=0");
    add(0, 0, KV_EVENT_MOVE, 1, 9, 2, inf); /* ring 1: 1 in slot 2, 2 in slot 3 */
    add(0, 0, KV_EVENT_MOVE, 2, 10, 3, inf);
    step(2);
    visited();
    add(0, 0, KV_EVENT_ADMIT, 11, 11, 0, inf);
    add(0, 0, KV_EVENT_MOVE, 3, 11, 2, inf); /* accepted: takes the place of 1, the oldest, */
    add(0, 0, KV_EVENT_EVICT, 1, 11, 2, 0.5f); /* which loses to the newest of ring 2 */
    step(1);
    assert_visited("cascade.enter1:1 cascade.rotate0:1 cascade.rotate1:1 cascade.lost:1 cascade.lap:1 cascade.one:1 "
                   "cascade.apart:1");
}

static void tiles_have_edges(void **state)
{
    (void)state;
    begin("full+kvarn:tile=32");
    admit(0, 31);
    step(31);
    assert_visited("full.within:1 kvarn.tail:1 kvarn.before:1");
    admit(31, 32);
    add(0, -1, KV_EVENT_SEAL, 0, 31, 0, inf);
    step(1);
    assert_visited("full.within:1 kvarn.tile:1 kvarn.edge:1");
    admit(32, 97);
    add(0, -1, KV_EVENT_SEAL, 32, 63, 32, inf);
    add(0, -1, KV_EVENT_SEAL, 64, 95, 64, inf);
    step(65);
    assert_visited("full.within:1 kvarn.tiles:1 kvarn.after:1");
    begin("sliding:cap=64,pos=absolute+kvarn:tile=32");
    evict(0, 32, 70, inf);
    step(34);
    assert_visited("sliding.absolute.first:1 kvarn.tail:1 kvarn.drop:1 kvarn.pieces:1");
    begin("full+kivi:residual=32");
    admit(0, 33);
    add(0, -1, KV_EVENT_SEAL, 0, 31, 0, inf);
    add(0, -1, KV_EVENT_SEAL, KV_KIVI_V, 0, 0, inf);
    step(33);
    admit(33, 34);
    add(0, -1, KV_EVENT_SEAL, KV_KIVI_V + 1, 1, 1, inf);
    step(1);
    assert_visited("full.within:2 kivi.tail:1 kivi.block:1 kivi.values:1 kivi.after:1");
}

static void half_precision_comes_in_two_key_forms(void **state)
{
    (void)state;
    static const char *const tries[][2] = {
        {"full+f16", "full.within:1 f16.rotated:1"}, {"sink:cap=4+bf16", "sink.sinks:1 sink.filling:1 bf16.raw:1"},
        {"tova:cap=4+bf16", "tova.filling:1 bf16.rotated:1"},
        {"sliding:cap=4+f16", "sliding.rerotate.filling:1 f16.raw:1"},
        {"sliding:cap=4,pos=absolute+f16", "sliding.absolute.filling:1 f16.rotated:1"}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        begin(tries[i][0]);
        step(1);
        assert_visited(tries[i][1]);
    }
}

static int free_events(void **state)
{
    (void)state;
    free(events.v);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_have_names_of_their_own),
        cmocka_unit_test(full_has_edges_of_chunks),
        cmocka_unit_test(sliding_fills_slides_and_is_fed_in_pieces),
        cmocka_unit_test(a_sink_cache_wraps),
        cmocka_unit_test(the_highest_stay),
        cmocka_unit_test(every_so_manieth_is_kept_for_ever),
        cmocka_unit_test(prompts_are_compressed),
        cmocka_unit_test(windows_see_a_cache_that_fills),
        cmocka_unit_test(walks_through_rings_are_told_apart),
        cmocka_unit_test(a_loser_of_the_next_ring_is_no_loser_of_this_one),
        cmocka_unit_test(tiles_have_edges),
        cmocka_unit_test(half_precision_comes_in_two_key_forms),
    };
    return cmocka_run_group_tests(tests, NULL, free_events);
}
