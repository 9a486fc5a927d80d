/* The side as a whole, through its door: gpu/backend.cu, gpu/forward.cu, gpu/state.cu, gpu/weights.cu. */
#include "tests/emu/doorkit.h"
#include "tests/emu/llama.h"

using namespace emutest;

namespace
{
/* ---- numbers ---- */

void check_against_definition(const char *name, int32_t n, int32_t per_step, const char *options)
{
    session s(name, "full", options);
    llama by_hand(s.model);
    std::vector<float> logits, nlls;
    for (int32_t i = 0; i < n; i++) {
        const std::vector<float> row = by_hand.feed(token(s, i));
        logits.insert(logits.end(), row.begin(), row.end());
        nlls.push_back(nll(row.data(), (int32_t)row.size(), token(s, i + 1)));
    }
    const result r = feed(&s, n, per_step);
    assert_bits(r.logits, logits, name, 0);
    assert_bits(r.nll, nlls, name, 0);
}

void test_logits_and_nll_have_the_bits_of_the_definition(void **)
{
    check_against_definition("tiny", 20, 1, nullptr);
    check_against_definition("tiny", 30, 13, "seed=4");
    check_against_definition("nano", 12, 12, "seed=9");
}

/* Variants of the Llama family that no catalogue model has: the config is changed, the weights stay. */
void test_pairing_sign_scale_and_plain_norms_follow_the_definition(void **)
{
    for (int variant = 0; variant < 5; variant++) {
        kv_model *m = nullptr;
        assert_ok(kv_model_open("tiny", nullptr, &m, nullptr));
        kv_model changed = *m;
        kv_config &c = changed.cfg;
        if (variant == 0) c.rope_pairing = KV_ROPE_HALF;
        if (variant == 1) c.rope_sign = -1;
        if (variant == 2) c.softmax_scale = 0.25f;
        if (variant == 3) c.norm_weight = 0;
        if (variant == 4) c.rope_dims = 12;
        llama by_hand(&changed);
        kv_policy p;
        assert_ok(kv_policy_parse("full", &p));
        const kv_open_args args = {&changed, &p, nullptr, 1, 8};
        kv_session *s = nullptr;
        assert_side(nullptr, side()->open(&args, &s));
        const int32_t tokens[6] = {5, 9, 63, 0, 9, 33};
        std::vector<float> wanted, got(6 * 64);
        for (const int32_t t : tokens) {
            const std::vector<float> row = by_hand.feed(t);
            wanted.insert(wanted.end(), row.begin(), row.end());
        }
        kv_step k = {};
        k.tokens = tokens;
        k.n = 6;
        k.rows = KV_ROWS_ALL;
        k.logits = got.data();
        assert_side(s, side()->step(s, &k));
        assert_bits(got, wanted, "variant", (uint64_t)variant);
        side()->close(s);
        kv_model_close(m);
    }
}

void test_taps_show_every_point_of_the_definition(void **)
{
    session s("tiny", "full");
    llama by_hand(s.model);
    const int32_t n = 7, row = 4;
    for (int32_t i = 0; i <= row; i++) by_hand.feed(token(s, i));
    std::vector<std::vector<float>> got;
    std::vector<kv_tap> taps;
    for (int32_t point = 0; point < KV_TAP_COUNT; point++)
        for (int32_t l = 0; l < s.model->cfg.n_layers; l++)
            got.push_back(std::vector<float>((size_t)gpu_tap_width(s.model->cfg, point), kv_nan()));
    for (size_t i = 0; i < got.size(); i++)
        taps.push_back({(int32_t)i / 2, (int32_t)i % 2, row, (int32_t)got[i].size(), got[i].data()});
    result r;
    step(&s, n, &r, KV_ROWS_LAST, taps);
    for (size_t i = 0; i < got.size(); i++) {
        const bool whole_model = i / 2 == KV_TAP_EMBED || i / 2 == KV_TAP_FINAL_NORM;
        assert_bits(got[i], by_hand.tap[i / 2][whole_model ? 0 : i % 2], "tap", i);
    }
}

void test_rows_last_is_the_last_of_all_rows(void **)
{
    for (const char *policy : {"full", "sliding:cap=8"}) {
        session a("tiny", policy), b("tiny", policy);
        result all, last, none;
        step(&a, 11, &all);
        step(&b, 11, &last, KV_ROWS_LAST);
        const std::vector<float> tail(all.logits.end() - (ptrdiff_t)a.vocab(), all.logits.end());
        assert_bits(last.logits, tail, policy, 0);
        assert_bits(last.nll, {all.nll.back()}, policy, 0);
        step(&b, 3, &none, KV_ROWS_NONE);
        assert_int_equal(none.logits.size(), 0);
    }
}

void test_tables_are_those_of_the_definition(void **)
{
    session s("nano", "full");
    const int32_t half = s.model->cfg.rope_dims / 2;
    for (const int64_t first : {0, 5, 1000000}) {
        std::vector<float> cosines(3 * (size_t)half), sines = cosines, c, n;
        assert_side(s.s, side()->table(s.s, KV_TABLE_ROPE_COS, first, 3, cosines.data()));
        assert_side(s.s, side()->table(s.s, KV_TABLE_ROPE_SIN, first, 3, sines.data()));
        for (int64_t p = first; p < first + 3; p++)
            for (int32_t i = 0; i < half; i++) {
                const float f = 1.0f / kv_d2f(kv_exp_core(2.0 * i / (2.0 * half) * kv_log_core(10000.0)));
                float sine, cosine;
                kv_sincos((float)p * f, &sine, &cosine);
                c.push_back(cosine);
                n.push_back(sine);
            }
        assert_bits(cosines, c, "cosines", 0);
        assert_bits(sines, n, "sines", 0);
    }
}

/* ---- laws ---- */

const char *const POLICIES[] = {"full", "sliding:cap=9", "sliding:cap=9,pos=absolute",
                                "sliding:cap=9,pos=saturate", "sink:cap=6,sinks=3"};

void test_full_does_not_depend_on_the_steps(void **)
{
    session a("nano", "full"), b("nano", "full");
    const result one = feed(&a, 270, 1), many = feed(&b, 270, 37);
    assert_bits(one.logits, many.logits, "full, steps of 1 and 37", 0);
    assert_true(state_of(a) == state_of(b));
}

void test_seeds_and_threads_change_no_bit(void **)
{
    for (const char *policy : POLICIES) {
        session first("tiny", policy, "seed=0", 1);
        const result wanted = feed(&first, 60, 7);
        for (const char *options : {"seed=1", "seed=2", "seed=77"})
            for (const int32_t threads : {1, 2}) {
                session s("tiny", policy, options, threads);
                assert_same(feed(&s, 60, 7), wanted, policy);
                assert_true(state_of(s) == state_of(first));
            }
    }
}

/* With room for everything a bounded policy is full: same bits, whichever way keys are kept. */
void test_bounded_policies_with_room_equal_full(void **)
{
    session full("tiny", "full");
    const result wanted = feed(&full, 40, 5);
    for (const char *policy : {"sliding:cap=40", "sliding:cap=40,pos=absolute", "sliding:cap=40,pos=saturate",
                               "sink:cap=38,sinks=2", "sink:cap=40,sinks=0"}) {
        session s("tiny", policy);
        assert_bits(feed(&s, 40, 5).logits, wanted.logits, policy, 0);
    }
}

/* A step longer than cap is the same as its pieces fed one by one. */
void test_a_long_step_of_sliding_equals_its_pieces(void **)
{
    session whole("tiny", "sliding:cap=9"), pieces("tiny", "sliding:cap=9");
    const result a = feed(&whole, 23, 23), b = feed(&pieces, 23, 4);
    assert_bits(a.logits, b.logits, "pieces", 0);
    assert_true(state_of(whole) == state_of(pieces));
    std::vector<kv_event> by_layer; /* pieces follow each other inside each layer's list */
    for (int32_t l = 0; l < 2; l++)
        for (const kv_event &e : b.events)
            if (e.layer == l) by_layer.push_back(e);
    assert_true(same_events(a.events, by_layer));
}

void test_events_list_layers_ascending(void **)
{
    session s("tiny", "sink:cap=6,sinks=3");
    const result r = feed(&s, 12, 12);
    const size_t per_layer = r.events.size() / 2;
    assert_int_equal(r.events.size(), 2 * (12 + 3));
    for (size_t i = 0; i < r.events.size(); i++) {
        assert_int_equal(r.events[i].layer, i / per_layer);
        kv_event e = r.events[i];
        e.layer = 0;
        assert_memory_equal(&e, &r.events[i % per_layer], sizeof e);
    }
}

void test_reset_returns_to_the_beginning(void **)
{
    for (const char *policy : POLICIES) check_reset(policy, 30, 4);
}

void test_snapshots_come_back_any_number_of_times(void **)
{
    for (const char *policy : POLICIES) check_snapshots(policy, 20, 3);
}

void test_an_imported_state_goes_on_like_the_original(void **)
{
    for (const char *policy : POLICIES)
        for (const int32_t n : {1, 5, 9, 10, 27}) check_import(policy, n, 14, 4);
}

void test_a_layer_exports_what_the_whole_export_holds_of_it(void **)
{
    session s("tiny", "sink:cap=6,sinks=3");
    feed(&s, 20, 3);
    const std::vector<uint64_t> all = state_of(s), one = state_of(s, 1);
    const size_t head = sizeof(kv_state_head) / 8, layer = (all.size() - head) / 2;
    assert_int_equal(one.size(), head + layer);
    assert_memory_equal(&one[head], &all[head + layer], layer * 8);
    kv_state_head h;
    memcpy(&h, one.data(), sizeof h);
    assert_true(h.layer0 == 1 && h.n_layers == 1 && h.seen == 20 && h.key_form == KV_KEY_RAW);
}

/* ---- memory ---- */

/* Bytes of device memory of a session that does not grow any more. */
void test_bounded_policies_keep_their_memory(void **)
{
    for (const char *policy : {"sliding:cap=9", "sliding:cap=9,pos=saturate", "sink:cap=6,sinks=3"}) {
        session s("tiny", policy);
        feed(&s, 40, 8);
        std::vector<size_t> before, after;
        for (const gpu_store &l : s.s->cache.layers) before.push_back(l.k.n + l.v.n);
        before.push_back(s.s->table.cos.n);
        before.push_back(s.s->work.attention.n);
        before.push_back(s.s->work.view_keys.n);
        feed(&s, 400, 8);
        for (const gpu_store &l : s.s->cache.layers) after.push_back(l.k.n + l.v.n);
        after.push_back(s.s->table.cos.n);
        after.push_back(s.s->work.attention.n);
        after.push_back(s.s->work.view_keys.n);
        assert_true(before == after);
    }
}

void test_close_gives_all_device_memory_back(void **)
{
    const size_t before = simt::device_buffers();
    {
        session s("tiny", "full");
        feed(&s, 10, 3);
        assert_true(simt::device_buffers() > before);
    }
    assert_int_equal(simt::device_buffers(), before);
}

/* ---- refusals ---- */

void test_unusable_steps_are_refused_and_the_session_goes_on(void **)
{
    session s("tiny", "full"), untouched("tiny", "full");
    const int32_t good[2] = {1, 2}, bad[2] = {1, 64};
    float x[128], nlls[2];
    kv_events none = {};
    const kv_tap narrow = {KV_TAP_Q, 0, 0, 7, x}, high = {KV_TAP_Q, 2, 0, 128, x}, late = {KV_TAP_EMBED, 0, 2, 64, x};
    const kv_tap below = {-1, 0, 0, 64, x}, beyond = {KV_TAP_COUNT, 0, 0, 64, x};
    kv_step ok = {};
    ok.tokens = good;
    ok.n = 2;
    ok.rows = KV_ROWS_ALL;
    struct {
        kv_step step;
        kv_status status;
        const char *words;
    } cases[13];
    for (auto &c : cases) c = {ok, KV_ERR_USAGE, ""};
    cases[0].step.n = 0, cases[0].words = "no tokens";
    cases[1].step.tokens = bad, cases[1].words = "token 1 is 64; the vocabulary goes from 0 to 63";
    cases[2].step.rows = 3, cases[2].words = "rows is 3";
    cases[3].step.nll = nlls, cases[3].words = "without targets";
    cases[4].step.nll = nlls, cases[4].step.targets = bad, cases[4].words = "target 1 is 64; the vocabulary goes from 0 to 63";
    cases[5].step.taps = &narrow, cases[5].step.n_taps = 1, cases[5].words = "7 floats; that point has 128";
    cases[6].step.taps = &high, cases[6].step.n_taps = 1, cases[6].words = "layer 2";
    cases[7].step.taps = &late, cases[7].step.n_taps = 1, cases[7].words = "row 2";
    cases[8].step.flags = KV_STEP_RECOMPUTE, cases[8].words = "xwindow", cases[8].status = KV_ERR_UNSUPPORTED;
    cases[9].step.follow = &none, cases[9].words = "cannot be obeyed";
    cases[10].step.taps = &below, cases[10].step.n_taps = 1, cases[10].words = "point -1 with 64 floats; that point has 0";
    cases[11].step.taps = &beyond, cases[11].step.n_taps = 1, cases[11].words = "that point has 0";
    cases[12].step.nll = nlls, cases[12].step.rows = KV_ROWS_LAST, cases[12].step.targets = bad + 1, cases[12].words = "target 0 is 64";
    for (const auto &c : cases)
        assert_refusal(side()->step(s.s, &c.step), c.status, s.s, c.words);
    assert_same(feed(&s, 9, 4), feed(&untouched, 9, 4), "after refusals");
}

void test_positions_without_a_sine_are_refused_by_number(void **)
{
    session s("tiny", "full");
    int64_t at = 0;
    assert_ok(gpu_table_cover(s.s, (1 << 28) - 5, 5, s.s->rope_length, &at));
    assert_text(gpu_table_cover(s.s, (1 << 28) - 4, 7, s.s->rope_length, &at), KV_ERR_UNSUPPORTED, kv_message(), "position 268435458:");
}

void test_models_beyond_both_families_are_refused_by_name(void **)
{
    kv_model *m = nullptr;
    assert_ok(kv_model_open("tiny", nullptr, &m, nullptr));
    kv_model changed = *m;
    changed.cfg.embed_scale = 30.0f;
    assert_refusal(try_open(&changed, "full", nullptr), KV_ERR_UNSUPPORTED, nullptr, "embed_scale");
    changed = *m;
    changed.cfg.attn_window = 16;
    assert_refusal(try_open(&changed, "full", nullptr), KV_ERR_UNSUPPORTED, nullptr, "attn_window");
    assert_int_equal(try_open(m, "full", nullptr), KV_OK);
    kv_model_close(m);
}

void test_unknown_options_are_refused(void **)
{
    kv_model *m = nullptr;
    assert_ok(kv_model_open("tiny", nullptr, &m, nullptr));
    for (const char *options : {"exact", "seed=", "seed=x", "seed=3x", "seed=-1", "seed=1,what", ",", "seed"}) {
        char why[200] = "";
        assert_refusal(try_open(m, "full", options), KV_ERR_USAGE, nullptr, "seed=N");
        const kv_status st = side()->available(options, why, sizeof why);
        assert_text(st, KV_ERR_USAGE, why, "seed=N");
    }
    assert_int_equal(try_open(m, "full", "seed=18446744073709551615"), KV_OK);
    assert_int_equal(try_open(m, "full", ""), KV_OK);
    kv_model_close(m);
}

void test_states_of_other_sessions_are_refused(void **)
{
    session full("tiny", "full"), sink("tiny", "sink:cap=6,sinks=3"), nano("nano", "full");
    feed(&full, 20, 4);
    feed(&sink, 20, 4);
    feed(&nano, 20, 4);
    std::vector<uint64_t> blob = state_of(full);
    const struct {
        const session *to;
        std::vector<uint64_t> blob;
        kv_status status;
    } cases[] = {{&sink, state_of(full), KV_ERR_MISMATCH}, {&full, state_of(sink), KV_ERR_MISMATCH},
                 {&full, state_of(nano), KV_ERR_MISMATCH}, {&full, state_of(full, 0), KV_ERR_MISMATCH}};
    for (const auto &c : cases)
        assert_refusal(side()->import_state(c.to->s, c.blob.data(), c.blob.size() * 8), c.status,
                       c.to->s, "");
    assert_refusal(side()->import_state(full.s, blob.data(), 40), KV_ERR_FORMAT, full.s, "");
    assert_true(state_of(full) == blob); /* a refused import changes nothing */
    size_t need;
    char small[8];
    assert_refusal(side()->export_state(full.s, 2, 0, nullptr, 0, &need), KV_ERR_USAGE, full.s,
                   "layer 2");
    assert_refusal(side()->export_state(full.s, -1, 0, small, 8, &need), KV_ERR_USAGE, full.s,
                   "8 bytes given");
}

void test_the_entry_speaks_one_abi(void **)
{
    assert_null(kv_side_entry(KV_BACKEND_ABI + 1));
    assert_string_equal(side()->name, "emu");
    assert_int_equal(side()->contract, KV_CONTRACT_BITEXACT);
    side()->close(nullptr);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_and_nll_have_the_bits_of_the_definition),
        cmocka_unit_test(test_pairing_sign_scale_and_plain_norms_follow_the_definition),
        cmocka_unit_test(test_taps_show_every_point_of_the_definition),
        cmocka_unit_test(test_rows_last_is_the_last_of_all_rows),
        cmocka_unit_test(test_tables_are_those_of_the_definition),
        cmocka_unit_test(test_full_does_not_depend_on_the_steps),
        cmocka_unit_test(test_seeds_and_threads_change_no_bit),
        cmocka_unit_test(test_bounded_policies_with_room_equal_full),
        cmocka_unit_test(test_a_long_step_of_sliding_equals_its_pieces),
        cmocka_unit_test(test_events_list_layers_ascending),
        cmocka_unit_test(test_reset_returns_to_the_beginning),
        cmocka_unit_test(test_snapshots_come_back_any_number_of_times),
        cmocka_unit_test(test_an_imported_state_goes_on_like_the_original),
        cmocka_unit_test(test_a_layer_exports_what_the_whole_export_holds_of_it),
        cmocka_unit_test(test_bounded_policies_keep_their_memory),
        cmocka_unit_test(test_close_gives_all_device_memory_back),
        cmocka_unit_test(test_unusable_steps_are_refused_and_the_session_goes_on),
        cmocka_unit_test(test_positions_without_a_sine_are_refused_by_number),
        cmocka_unit_test(test_models_beyond_both_families_are_refused_by_name),
        cmocka_unit_test(test_unknown_options_are_refused),
        cmocka_unit_test(test_states_of_other_sessions_are_refused),
        cmocka_unit_test(test_the_entry_speaks_one_abi),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
