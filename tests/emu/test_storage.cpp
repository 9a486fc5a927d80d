/* Storages f16 and bf16 (docs/policy/storage.md) through the door. */
#include "tests/emu/doorkit.h"
#include "tests/emu/llama.h"

using namespace emutest;

namespace
{
struct narrow {
    const char *name;
    int32_t storage;
};
const narrow STORAGES[] = {{"f16", KV_STORE_F16}, {"bf16", KV_STORE_BF16}};

const char *const SELECTIONS[] = {"full", "sliding:cap=9", "sliding:cap=9,pos=absolute",
                                  "sliding:cap=9,pos=saturate", "sink:cap=6,sinks=3"};

std::string spell(const char *selection, const narrow &n) { return std::string(selection) + "+" + n.name; }

/* Every selection keeps everything here; the last two keep keys before RoPE. */
void test_rows_are_rounded_on_arrival_in_the_form_that_the_selection_keeps(void **)
{
    for (const narrow &n : STORAGES)
        for (const char *selection : {"full", "sliding:cap=40,pos=absolute", "sliding:cap=40,pos=saturate",
                                      "sliding:cap=40", "sink:cap=38,sinks=2"}) {
            const std::string policy = spell(selection, n);
            session s("tiny", policy.c_str(), "seed=3");
            const bool raw = s.s->cache.policy->raw_keys();
            llama by_hand(s.model, n.storage, raw);
            std::vector<float> wanted;
            for (int32_t i = 0; i < 24; i++) {
                const std::vector<float> row = by_hand.feed(token(s, i));
                wanted.insert(wanted.end(), row.begin(), row.end());
            }
            assert_bits(feed(&s, 24, 7).logits, wanted, policy.c_str(), 0);
            assert_int_equal(raw, strncmp(selection, "sink", 4) == 0 || strcmp(selection, "sliding:cap=40") == 0);
        }
}

/* Taps of K and V show what attention reads. */
void test_taps_show_the_rounded_rows(void **)
{
    for (const narrow &n : STORAGES)
        for (const char *selection : {"full", "sink:cap=38,sinks=2"}) {
            session s("tiny", spell(selection, n).c_str());
            llama by_hand(s.model, n.storage, s.s->cache.policy->raw_keys());
            for (int32_t i = 0; i < 5; i++) by_hand.feed(token(s, i));
            std::vector<float> k((size_t)gpu_tap_width(s.model->cfg, KV_TAP_K)), v = k;
            const int32_t width = (int32_t)k.size();
            result r;
            step(&s, 5, &r, KV_ROWS_LAST, {{KV_TAP_K, 1, 4, width, k.data()}, {KV_TAP_V, 1, 4, width, v.data()}});
            assert_bits(k, by_hand.tap[KV_TAP_K][1], selection, 0);
            assert_bits(v, by_hand.tap[KV_TAP_V][1], selection, 1);
        }
}

/* A record is the K row and the V row, two bytes a number. */
void test_records_hold_the_rounded_rows(void **)
{
    for (const narrow &n : STORAGES) {
        session s("tiny", spell("full", n).c_str());
        llama by_hand(s.model, n.storage);
        for (int32_t i = 0; i < 5; i++) by_hand.feed(token(s, i));
        feed(&s, 5, 5);
        std::vector<uint64_t> blob = state_of(s);
        kv_state_head h;
        memcpy(&h, blob.data(), sizeof h);
        const size_t dim = (size_t)h.head_dim, heads = (size_t)h.n_kv_heads;
        assert_true(h.storage == n.storage && h.record_bytes == 4 * h.head_dim);
        size_t offset = sizeof h;
        for (size_t i = 0; i < (size_t)h.n_layers * heads; i++) {
            const kv_state_view v = kv_state_place(&h, blob.data(), &offset, -1, 0);
            std::vector<uint16_t> record(2 * dim), wanted;
            memcpy(record.data(), v.records + 4 * (size_t)h.record_bytes, record.size() * 2);
            for (const int32_t point : {KV_TAP_K, KV_TAP_V})
                for (size_t d = 0; d < dim; d++) {
                    const float x = by_hand.tap[point][i / heads][i % heads * dim + d];
                    wanted.push_back(n.storage == KV_STORE_F16 ? kv_f2f16(x) : kv_f2bf16(x));
                }
            assert_true(record == wanted);
        }
    }
}

void test_stores_take_two_bytes_a_number(void **)
{
    session wide("tiny", "sliding:cap=9"), half("tiny", "sliding:cap=9+f16");
    feed(&wide, 30, 4);
    feed(&half, 30, 4);
    for (size_t l = 0; l < 2; l++) {
        assert_int_equal(wide.s->cache.layers[l].k.n, 2 * half.s->cache.layers[l].k.n);
        assert_int_equal(wide.s->cache.layers[l].v.n, 2 * half.s->cache.layers[l].v.n);
    }
}

void test_states_and_snapshots_go_on_like_the_original(void **)
{
    for (const narrow &n : STORAGES)
        for (const char *selection : SELECTIONS) {
            const std::string policy = spell(selection, n);
            session a("tiny", policy.c_str()), b("tiny", policy.c_str(), "seed=5");
            feed(&a, 13, 2);
            feed(&b, 12, 5); /* something else was there before */
            const std::vector<uint64_t> blob = state_of(a);
            assert_side(b.s, side()->import_state(b.s, blob.data(), blob.size() * 8));
            b.seen = 13;
            assert_true(state_of(b) == blob);
            void *snap = nullptr;
            assert_side(a.s, side()->snapshot(a.s, &snap));
            const result wanted = feed(&a, 14, 4);
            assert_same(feed(&b, 14, 4), wanted, policy.c_str());
            assert_true(state_of(b) == state_of(a));
            assert_side(a.s, side()->restore(a.s, snap));
            a.seen = 13;
            assert_true(state_of(a) == blob);
            assert_same(feed(&a, 14, 4), wanted, policy.c_str());
            side()->snapshot_free(a.s, snap);
        }
}

void test_a_state_of_another_storage_is_refused(void **)
{
    session wide("tiny", "full"), half("tiny", "full+f16"), brain("tiny", "full+bf16");
    for (session *const s : {&wide, &half, &brain}) feed(s, 5, 5);
    for (session *const from : {&wide, &half, &brain})
        for (session *const to : {&wide, &half, &brain}) {
            if (from == to) continue;
            const std::vector<uint64_t> blob = state_of(*from);
            assert_refusal(side()->import_state(to->s, blob.data(), blob.size() * 8), KV_ERR_MISMATCH, to->s,
                           "storage");
        }
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_rounded_on_arrival_in_the_form_that_the_selection_keeps),
        cmocka_unit_test(test_taps_show_the_rounded_rows),
        cmocka_unit_test(test_records_hold_the_rounded_rows),
        cmocka_unit_test(test_stores_take_two_bytes_a_number),
        cmocka_unit_test(test_states_and_snapshots_go_on_like_the_original),
        cmocka_unit_test(test_a_state_of_another_storage_is_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
