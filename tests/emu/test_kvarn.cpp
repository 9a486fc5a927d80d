/* Storage kvarn: rotation, coding and attention kernels against docs/policy/kvarn.md and the golden tile; the storage
 * through the door. */
#include "tests/emu/doorkit.h"
#include "tests/emu/kvarnkit.h"
#include "tests/emu/llama.h"

#include "gpu/kvarn.cuh"

#include <jansson.h>

using namespace emutest;

namespace
{
const kv_kvarn_params DEFAULTS = {128, 4, 2, 8, KV_KVARN_A, KV_TIE_LITERAL};

/* ---- kernels ---- */

/* Tiles of one layer on the device, coded from rotated rows [n * T][kv_heads * D]; half of the tokens count as those of
 * the cache, whose rows stand in the ring. */
struct coded_tiles {
    array<unsigned char> records;
    floats k, v;
    ints bad;
    gpu_kvarn_tiles tiles;

    coded_tiles(const kv_kvarn_layout &l, const kv_kvarn_params &p, int32_t kv_heads, const std::vector<float> &k_rows,
                const std::vector<float> &v_rows, const stream &on)
        : records((size_t)l.bytes * k_rows.size() / (size_t)(l.T * l.D)), k(k_rows, on), v(v_rows, on),
          bad(std::vector<int32_t>(1, 0), on), tiles{records.p(), l, p, kv_heads, INT32_MAX}
    {
        const int32_t width = kv_heads * l.D, n = (int32_t)k_rows.size() / (l.T * width), split = l.T / 2;
        const floats k_ring(std::vector<float>(k_rows.begin(), k_rows.begin() + l.T * width), on);
        const floats v_ring(std::vector<float>(v_rows.begin(), v_rows.begin() + l.T * width), on);
        const gpu_raw_rows kr = {k_ring.p(), k.p() + split * width, width, split, l.T, width};
        const gpu_raw_rows vr = {v_ring.p(), v.p() + split * width, width, split, l.T, width};
        assert_ok(gpu_kvarn_code(tiles, kr, vr, 0, n, bad.p(), on.s));
        on.finish();
    }
};

std::vector<kvarn_tile> by_definition(const kv_kvarn_layout &l, const kv_kvarn_params &p, int32_t kv_heads,
                                      const std::vector<float> &k, const std::vector<float> &v)
{
    const int64_t width = kv_heads * l.D;
    std::vector<kvarn_tile> tiles; /* [tile][head] */
    for (size_t at = 0; at < k.size(); at += (size_t)(l.T * width))
        for (int32_t h = 0; h < kv_heads; h++) tiles.emplace_back(l, p, &k[at + (size_t)(h * l.D)], &v[at + (size_t)(h * l.D)], width);
    return tiles;
}

void check_coding(const kv_kvarn_layout &l, const kv_kvarn_params &p, int32_t kv_heads, const std::vector<float> &k,
                  const std::vector<float> &v, const char *what)
{
    const std::vector<kvarn_tile> wanted = by_definition(l, p, kv_heads, k, v);
    for (const uint64_t seed : {0, 2, 5}) {
        const stream on((uint64_t)seed);
        const coded_tiles got(l, p, kv_heads, k, v, on);
        const std::vector<unsigned char> records = got.records.get(on);
        assert_int_equal(got.bad.get(on)[0], 0);
        assert_int_equal(records.size(), wanted.size() * (size_t)l.bytes);
        for (size_t i = 0; i < wanted.size(); i++)
            for (size_t b = 0; b < (size_t)l.bytes; b++)
                if (records[i * (size_t)l.bytes + b] != wanted[i].record[b])
                    fail_msg("%s, seed %d: byte %zu of record %zu is %02x, by definition %02x", what, (int)seed, b, i,
                             records[i * (size_t)l.bytes + b], wanted[i].record[b]);
    }
}

void test_rotation_has_the_bits_of_the_definition(void **)
{
    for (const int32_t D : {8, 32, 64, 128, 256})
        for (const int32_t heads : {1, 3, 9}) {
            const int32_t m = 3, width = heads * D, stride = width + 5;
            const std::vector<float> x = noise((size_t)(m * stride), 31);
            std::vector<float> wanted = x;
            for (int32_t r = 0; r < m; r++)
                for (int32_t h = 0; h < heads; h++) hadamard(&wanted[(size_t)(r * stride + h * D)], D);
            for (const uint64_t seed : SEEDS) {
                const stream on(seed);
                const floats rows(x, on);
                assert_ok(gpu_hadamard(rows.p(), m, stride, width, D, on.s));
                assert_bits(rows.get(on), wanted, "rotated rows", seed);
            }
        }
}

void test_codes_have_the_bytes_of_the_definition(void **)
{
    const struct {
        int32_t T, D, kv_heads, n, kbits, vbits, dialect, tie;
    } shapes[] = {{32, 32, 2, 2, 4, 2, KV_KVARN_A, KV_TIE_LITERAL}, {64, 32, 1, 1, 2, 3, KV_KVARN_B, KV_TIE_REL},
                  {32, 64, 2, 1, 3, 5, KV_KVARN_B, KV_TIE_LITERAL}, {32, 128, 1, 1, 6, 8, KV_KVARN_A, KV_TIE_REL},
                  {32, 256, 1, 1, 8, 6, KV_KVARN_B, KV_TIE_LITERAL}, {128, 64, 1, 1, 5, 4, KV_KVARN_A, KV_TIE_LITERAL},
                  {128, 256, 1, 1, 4, 2, KV_KVARN_A, KV_TIE_LITERAL}};
    for (const auto &s : shapes)
        for (const float scale : {3.0f, 0.01f}) { /* deviations above and below the floor of 0.74 */
            const kv_kvarn_params p = {s.T, s.kbits, s.vbits, 8, s.dialect, s.tie};
            const kv_kvarn_layout l = kv_kvarn_layout_of(&p, s.D);
            const size_t n = (size_t)(s.n * s.T * s.kv_heads * s.D);
            check_coding(l, p, s.kv_heads, noise(n, 41, scale), noise(n, 42, scale), "noise");
        }
}

void test_degenerate_tiles_have_the_bytes_of_the_definition(void **)
{
    for (const int32_t dialect : {KV_KVARN_A, KV_KVARN_B})
        for (const int32_t tie : {KV_TIE_LITERAL, KV_TIE_REL}) {
            const kv_kvarn_params p = {32, 4, 2, 3, dialect, tie};
            const kv_kvarn_layout l = kv_kvarn_layout_of(&p, 32);
            const size_t n = 32 * 32;
            std::vector<float> rows = noise(n, 43, 2.0f), columns = rows, huge = noise(n, 44, 8e37f);
            for (size_t i = 0; i < n; i++) {
                if (i / 32 % 3 == 0) rows[i] = 1.5f;    /* constant rows and columns */
                if (i % 32 % 3 == 0) columns[i] = -2.5f;
            }
            check_coding(l, p, 1, rows, columns, "constant rows and columns");
            check_coding(l, p, 1, columns, rows, "constant columns and rows");
            check_coding(l, p, 1, std::vector<float>(n, 0.0f), std::vector<float>(n, -0.0f), "all zero");
            check_coding(l, p, 1, std::vector<float>(n, 7.0f), noise(n, 45, 1e-30f), "constant and tiny");
            check_coding(l, p, 1, huge, huge, "near the largest number");
        }
}

void test_tiles_that_are_not_finite_are_reported(void **)
{
    const kv_kvarn_layout l = kv_kvarn_layout_of(&DEFAULTS, 32);
    const size_t tile = 128 * 64;
    for (const float bad : {kv_inf(), -kv_inf(), kv_nan()})
        for (const bool in_keys : {true, false}) {
            const stream on(3);
            std::vector<float> k = noise(3 * tile, 46), v = k;
            (in_keys ? k : v)[tile + 77] = bad;
            (in_keys ? k : v)[2 * tile + 5000] = bad;
            const coded_tiles got(l, DEFAULTS, 2, k, v, on);
            assert_int_equal(got.bad.get(on)[0], INT32_MAX - 128); /* the first one */
        }
}

/* ---- golden ---- */

std::vector<float> hex_floats(const json_t *list)
{
    std::vector<float> v;
    for (size_t i = 0; i < json_array_size(list); i++)
        v.push_back(kv_bits2f((int32_t)strtoul(json_string_value(json_array_get(list, i)), nullptr, 16)));
    return v;
}

void assert_halves(const std::vector<unsigned char> &record, int32_t at, const json_t *wanted, const char *what)
{
    for (size_t i = 0; i < json_array_size(wanted); i++) {
        uint16_t h;
        memcpy(&h, &record[(size_t)at + 2 * i], 2);
        const unsigned w = (unsigned)strtoul(json_string_value(json_array_get(wanted, i)), nullptr, 16);
        if (h != w) fail_msg("golden %s %zu: %04x instead of %04x", what, i, h, w);
    }
}

void assert_packed(const std::vector<unsigned char> &record, int32_t at, const json_t *wanted, const char *what)
{
    for (size_t r = 0; r < json_array_size(wanted); r++) {
        const json_t *const row = json_array_get(wanted, r);
        for (size_t i = 0; i < json_array_size(row); i++, at++)
            if (record[(size_t)at] != json_integer_value(json_array_get(row, i)))
                fail_msg("golden %s, row %zu, byte %zu: %02x", what, r, i, record[(size_t)at]);
    }
}

std::vector<float> rotated_input(const json_t *matrix, const stream &on)
{
    std::vector<float> x;
    const json_t *const rows = json_object_get(matrix, "input");
    for (size_t r = 0; r < 8; r++)
        for (size_t c = 0; c < 8; c++) x.push_back((float)json_number_value(json_array_get(json_array_get(rows, r), c)));
    const floats d(x, on);
    assert_ok(gpu_hadamard(d.p(), 8, 8, 8, 8, on.s));
    x = d.get(on);
    assert_bits(x, hex_floats(json_object_get(matrix, "rotated_f32")), "golden rotation", 0);
    return x;
}

void test_the_golden_tile_comes_out_to_the_bit(void **)
{
    json_error_t error;
    json_t *const golden = json_load_file("tests/golden/kvarn_golden.json", 0, &error);
    if (!golden) fail_msg("tests/golden/kvarn_golden.json: %s (tests run in the project root)", error.text);
    const json_t *const gk = json_object_get(golden, "K"), *const gv = json_object_get(golden, "V");
    const stream on(1);
    const std::vector<float> k = rotated_input(gk, on), v = rotated_input(gv, on);
    const kv_kvarn_layout l = kvarn_layout(8, 8, 4, 2);
    for (const int32_t dialect : {KV_KVARN_A, KV_KVARN_B}) {
        const kv_kvarn_params p = {8, 4, 2, 8, dialect, KV_TIE_LITERAL};
        const std::vector<unsigned char> r = coded_tiles(l, p, 1, k, v, on).records.get(on);
        const json_t *const ak = json_object_get(gk, dialect ? "B" : "A"), *const av = json_object_get(gv, dialect ? "B" : "A");
        assert_packed(r, l.k_codes, json_object_get(ak, "packed"), "K codes");
        assert_halves(r, l.k_scale, json_object_get(ak, "fused_scale_f16"), "K S");
        assert_halves(r, l.k_zero, json_object_get(ak, "fused_zero_f16"), "K Z");
        assert_halves(r, l.k_col, json_object_get(ak, "col_scale_f16"), "K c");
        assert_packed(r, l.v_codes, json_object_get(av, "packed"), "V codes");
        assert_halves(r, l.v_scale, json_object_get(av, "fused_scale_f16"), "V S");
        assert_halves(r, l.v_zero, json_object_get(av, "fused_zero_f16"), "V Z");
        assert_halves(r, l.v_col, json_object_get(av, "col_scale_f16"), "V c");
    }
    json_decref(golden);
}

/* ---- attention ---- */

void check_attention(const kv_kvarn_params &p, int32_t D, int32_t heads, int32_t kv_heads, int32_t n_tiles, int32_t tail,
                     int32_t m)
{
    const kv_kvarn_layout l = kv_kvarn_layout_of(&p, D);
    const int32_t T = p.tile, width = kv_heads * D, n = n_tiles * T + tail, group = heads / kv_heads;
    const float scale = 0.2f;
    const std::vector<float> k = noise((size_t)(n_tiles * T * width), 51), v = noise(k.size(), 52);
    const std::vector<float> kt = noise((size_t)(T * width), 53), vt = noise(kt.size(), 54);
    const std::vector<float> queries = noise((size_t)(m * heads * D), 55, 2.0f);
    const std::vector<kvarn_tile> tiles = by_definition(l, p, kv_heads, k, v);
    std::vector<float> wanted((size_t)(m * heads * D));
    for (int32_t x = 0; x < m; x++)
        for (int32_t h = 0; h < heads; h++) {
            std::vector<float> q;
            std::vector<kvarn_tile> own;
            std::vector<const float *> k_tail, v_tail;
            for (int32_t d = 0; d < D; d++) q.push_back(queries[(size_t)((x * heads + h) * D + d)] * scale);
            for (int32_t i = 0; i < n_tiles; i++) own.push_back(tiles[(size_t)(i * kv_heads + h / group)]);
            for (int32_t i = 0; i < tail; i++) {
                k_tail.push_back(&kt[(size_t)(i * width + h / group * D)]);
                v_tail.push_back(&vt[(size_t)(i * width + h / group * D)]);
            }
            kvarn_attend(q.data(), own, k_tail, v_tail, T, D, n - m + x + 1, &wanted[(size_t)((x * heads + h) * D)]);
        }
    for (const uint64_t seed : {0, 1, 4}) {
        const stream on((uint64_t)seed);
        const coded_tiles coded(l, p, kv_heads, k, v, on);
        const floats dk(kt, on), dv(vt, on), dq(queries, on), out(wanted.size());
        gpu_queries q = {};
        q.q = dq.p(), q.q_stride = heads * D, q.first = n - m, q.m = m;
        q.heads = heads, q.kv_heads = kv_heads, q.head_dim = D, q.scale = scale, q.out = out.p();
        const floats workspace(gpu_attention_workspace(q));
        assert_ok(gpu_kvarn_attention(q, coded.tiles, 0, n_tiles, dk.p(), dv.p(), workspace.p(), on.s));
        assert_bits(out.get(on), wanted, "attention on codes", (uint64_t)seed);
    }
}

void test_attention_on_codes_has_the_bits_of_the_definition(void **)
{
    const kv_kvarn_params small = {32, 4, 2, 4, KV_KVARN_A, KV_TIE_LITERAL}, odd = {64, 3, 5, 2, KV_KVARN_B, KV_TIE_REL};
    check_attention(small, 32, 4, 2, 1, 0, 1);
    check_attention(small, 32, 4, 2, 1, 5, 1);
    check_attention(small, 32, 2, 2, 9, 3, 1);   /* two chunks */
    check_attention(small, 32, 4, 2, 9, 31, 70); /* rows that see part of a tile, or nothing of the second chunk */
    check_attention(odd, 64, 6, 2, 2, 7, 20);
    check_attention(small, 256, 2, 1, 1, 9, 3);
    check_attention(DEFAULTS, 128, 2, 1, 2, 1, 2);
}

/* ---- the door ---- */

/* The model of llama.h with this storage, steps of one token. */
class kvarn_llama : public llama
{
public:
    kvarn_llama(const kv_model *m, const kv_kvarn_params &p)
        : llama(m), p_(p), l_(kv_kvarn_layout_of(&p, m->cfg.head_dim)), layers_((size_t)m->cfg.n_layers)
    {
    }

protected:
    std::vector<float> attend_layer(int32_t l, std::vector<float> q, std::vector<float> k, std::vector<float> v) override
    {
        const int32_t D = config().head_dim, heads = config().n_heads, kv_heads = config().n_kv_heads;
        layer &y = layers_[(size_t)l];
        for (std::vector<float> *const rows : {&q, &k, &v})
            for (size_t h = 0; h < rows->size(); h += (size_t)D) hadamard(rows->data() + h, D);
        y.k.insert(y.k.end(), k.begin(), k.end());
        y.v.insert(y.v.end(), v.begin(), v.end());
        if ((int32_t)(y.k.size() / k.size()) == p_.tile) {
            y.tiles.resize((size_t)kv_heads);
            for (int32_t h = 0; h < kv_heads; h++)
                y.tiles[(size_t)h].emplace_back(l_, p_, &y.k[(size_t)(h * D)], &y.v[(size_t)(h * D)], kv_heads * D);
            y.k.clear();
            y.v.clear();
        }
        std::vector<float> out(q.size());
        for (int32_t h = 0; h < heads; h++) {
            const size_t g = (size_t)(h / (heads / kv_heads)), at = (size_t)(h * D);
            std::vector<const float *> ks, vs;
            for (size_t i = g * (size_t)D; i < y.k.size(); i += k.size()) ks.push_back(&y.k[i]), vs.push_back(&y.v[i]);
            for (int32_t d = 0; d < D; d++) q[at + (size_t)d] = q[at + (size_t)d] * softmax_scale();
            const std::vector<kvarn_tile> none, &tiles = y.tiles.empty() ? none : y.tiles[g];
            kvarn_attend(&q[at], tiles, ks, vs, p_.tile, D, (int32_t)(tiles.size() * (size_t)p_.tile + ks.size()), &out[at]);
            hadamard(&out[at], D);
        }
        return out;
    }

private:
    struct layer {
        std::vector<std::vector<kvarn_tile>> tiles; /* [head][tile] */
        std::vector<float> k, v;                    /* rows of the tail */
    };

    kv_kvarn_params p_;
    kv_kvarn_layout l_;
    std::vector<layer> layers_;
};

void test_steps_of_one_token_follow_the_definition(void **)
{
    for (const char *policy : {"full+kvarn:tile=32", "full+kvarn:dialect=B,iters=3,kbits=3,tie=rel,tile=32,vbits=5"}) {
        kv_policy p;
        assert_ok(kv_policy_parse(policy, &p));
        session s("nano", policy, "seed=2");
        kvarn_llama by_hand(s.model, p.kvarn);
        check_by_hand(&s, &by_hand, policy);
    }
}

const char *const POLICIES[] = {"full+kvarn:tile=32", "full+kvarn:dialect=B,iters=2,kbits=6,tie=rel,tile=32,vbits=3",
                                "sliding:cap=96,pos=absolute+kvarn:tile=32", "sliding:cap=64,pos=absolute+kvarn:tile=32"};

std::string text_of(const std::vector<kv_event> &events, int32_t layer)
{
    std::string s;
    for (const kv_event &e : events) {
        if (e.layer != layer) continue;
        assert_true(e.head == -1 && e.margin == kv_inf() && e.reserved == 0);
        s += (s.empty() ? "" : " ") + std::string(1, "AEMS"[e.kind]) + std::to_string(e.og) + "/" + std::to_string(e.slot);
        if (e.kind == KV_EVENT_SEAL) s += "-" + std::to_string(e.token);
    }
    return s;
}

/* "A0/0 A1/1": a run of admissions. */
std::string admissions(int64_t og, int64_t slot, int32_t n)
{
    std::string s;
    for (int32_t i = 0; i < n; i++)
        s += (s.empty() ? "A" : " A") + std::to_string(og + i) + "/" + std::to_string(slot + i);
    return s;
}

void assert_step(session *s, int32_t n, const std::string &wanted)
{
    result r;
    step(s, n, &r);
    for (const int32_t layer : {0, s->model->cfg.n_layers - 1})
        assert_string_equal(text_of(r.events, layer).c_str(), wanted.c_str());
}

void test_tiles_are_sealed_when_they_are_complete(void **)
{
    session s("nano", "full+kvarn:tile=32");
    assert_step(&s, 31, admissions(0, 0, 31));
    assert_step(&s, 1, admissions(31, 31, 1) + " S0/0-31");
    assert_step(&s, 1, admissions(32, 32, 1));
    assert_step(&s, 95, admissions(33, 33, 95) + " S32/32-63 S64/64-95 S96/96-127"); /* several in one step */
}

void test_whole_tiles_leave_before_the_step(void **)
{
    session s("nano", "sliding:cap=64,pos=absolute+kvarn:tile=32");
    assert_step(&s, 33, admissions(0, 0, 33) + " S0/0-31");
    assert_step(&s, 31, admissions(33, 33, 31) + " S32/32-63");
    std::string evicted;
    for (int i = 0; i < 32; i++) evicted += "E" + std::to_string(i) + "/" + std::to_string(i) + " ";
    assert_step(&s, 1, evicted + admissions(64, 32, 1));
    evicted.clear();
    for (int i = 32; i < 64; i++) evicted += "E" + std::to_string(i) + "/" + std::to_string(i - 32) + " ";
    assert_step(&s, 33, evicted + admissions(65, 1, 33) + " S64/0-95"); /* 33 = cap - T + 1: fed whole */
    session whole("nano", "sliding:cap=64,pos=absolute+kvarn:tile=32"), pieces("nano", "sliding:cap=64,pos=absolute+kvarn:tile=32");
    const result a = feed(&whole, 100, 34), b = feed(&pieces, 34, 32); /* 34 are fed as 32 + 2 */
    assert_bits(std::vector<float>(a.logits.begin(), a.logits.begin() + (ptrdiff_t)b.logits.size()), b.logits, "pieces", 0);
}

/* Runs of the state: which entries, with how many bytes. */
void test_states_hold_tiles_and_rows(void **)
{
    session s("nano", "sliding:cap=64,pos=absolute+kvarn:tile=32");
    feed(&s, 103, 7);
    std::vector<uint64_t> blob = state_of(s);
    kv_state_head h;
    memcpy(&h, blob.data(), sizeof h);
    kv_policy p;
    assert_ok(kv_policy_parse("full+kvarn:tile=32", &p));
    const int32_t tile = kv_kvarn_layout_of(&p.kvarn, 32).bytes;
    assert_true(h.record_bytes == 0 && h.storage == KV_STORE_KVARN && h.key_form == KV_KEY_ROTATED && h.seen == 103);
    assert_int_equal(tile, 32 * 36);
    size_t offset = sizeof h;
    for (int32_t i = 0; i < h.n_layers * h.n_kv_heads; i++) {
        const kv_state_view v = kv_state_place(&h, blob.data(), &offset, -1, 0);
        assert_int_equal(v.run->n, 1 + 7);
        for (int32_t e = 0; e < 8; e++) {
            assert_true(v.og[e] == (e == 0 ? 64 : 95 + e) && v.pos[e] == v.og[e]);
            assert_int_equal(v.bytes[e], e == 0 ? tile : 8 * 32);
        }
    }
}

void test_seeds_and_threads_change_no_bit(void **) { check_seeds_and_threads(POLICIES[2], 50); }

void test_states_and_snapshots_go_on_like_the_original(void **)
{
    for (const char *policy : POLICIES) check_continuation(policy, 103);
    check_continuation(POLICIES[0], 64); /* nothing but codes */
}

void test_a_layer_exports_what_the_whole_export_holds_of_it(void **)
{
    session s("nano", POLICIES[0]);
    feed(&s, 70, 30);
    const std::vector<uint64_t> all = state_of(s), one = state_of(s, 1);
    const size_t head = sizeof(kv_state_head) / 8, layer = (all.size() - head) / 4;
    assert_int_equal(one.size(), head + layer);
    assert_memory_equal(&one[head], &all[head + layer], layer * 8);
}

/* Nothing is coded yet: the rotation alone separates the storage from f32. */
void test_a_tail_alone_is_full_up_to_the_rotation(void **)
{
    session plain("nano", "full"), coded("nano", "full+kvarn");
    const result a = feed(&plain, 127, 50), b = feed(&coded, 127, 50);
    float most = 0.0f;
    for (size_t i = 0; i < a.logits.size(); i++) most = fmaxf(most, fabsf(a.logits[i] - b.logits[i]));
    if (!(most < 1e-4f) || most == 0.0f) fail_msg("the largest difference is %g", (double)most);
}

void test_taps_stand_before_the_rotation(void **)
{
    session plain("nano", "full"), coded("nano", "full+kvarn:tile=32");
    std::vector<float> rows[2][3];
    for (int i = 0; i < 2; i++) {
        std::vector<kv_tap> taps;
        for (int j = 0; j < 3; j++) {
            const int32_t point = KV_TAP_Q + j;
            rows[i][j].resize((size_t)gpu_tap_width(plain.model->cfg, point));
            taps.push_back({point, 0, 39, (int32_t)rows[i][j].size(), rows[i][j].data()});
        }
        result r;
        step(i ? &coded : &plain, 40, &r, KV_ROWS_LAST, taps);
    }
    for (int j = 0; j < 3; j++) assert_bits(rows[1][j], rows[0][j], "tap", (uint64_t)j);
}

/* ---- refusals ---- */

void test_rows_that_are_not_finite_are_refused(void **)
{
    session s("nano", "full+kvarn:tile=32");
    feed(&s, 40, 40);
    std::vector<uint64_t> blob = state_of(s);
    const kv_state_view v = run_of(&blob, 2); /* layer 1, head 0 */
    const float bad = kv_nan();
    memcpy(v.records + (v.bytes[0] + 7) / 8 * 8 + 4 * 50, &bad, 4);
    assert_side(s.s, side()->import_state(s.s, blob.data(), blob.size() * 8));
    const std::vector<int32_t> tokens(24, 1);
    kv_step k = {};
    k.tokens = tokens.data();
    k.n = 24;
    assert_refusal(side()->step(s.s, &k), KV_ERR_NONFINITE, s.s, "layer 1, tile 1: K or V from token 32 on");
    assert_refusal(side()->step(s.s, &k), KV_ERR_STATE, s.s, "failed half-way");
}

void test_states_that_the_storage_cannot_have_are_refused(void **)
{
    session s("nano", "full+kvarn:tile=32"), other("nano", "full+kvarn:tile=64"), bits("nano", "full+kvarn:kbits=2,tile=32"),
        window("nano", "sliding:cap=64,pos=absolute+kvarn:tile=32"), plain("nano", "full");
    for (session *const x : {&s, &other, &bits, &window, &plain}) feed(x, 100, 20);
    const std::vector<uint64_t> mine = state_of(s);
    for (const session *const x : {&other, &bits, &window, &plain}) {
        const std::vector<uint64_t> blob = state_of(*x);
        const kv_status why = x == &other || x == &bits ? KV_ERR_FORMAT : KV_ERR_MISMATCH;
        assert_refusal(side()->import_state(s.s, blob.data(), blob.size() * 8), why, s.s, "state");
        assert_refusal(side()->import_state(x->s, mine.data(), mine.size() * 8), why, x->s, "state");
    }
    std::vector<uint64_t> later = mine;
    kv_state_head h;
    memcpy(&h, later.data(), sizeof h);
    h.seen += 5;
    memcpy(later.data(), &h, sizeof h);
    assert_refusal(side()->import_state(s.s, later.data(), later.size() * 8), KV_ERR_FORMAT, s.s, "state");
    assert_true(state_of(s) == mine);
}

void test_pairs_and_models_that_do_not_fit_are_refused(void **)
{
    kv_model *m = nullptr;
    assert_ok(kv_model_open("tiny", nullptr, &m, nullptr));
    kv_model changed = *m;
    changed.cfg.head_dim = 48;
    assert_refusal(try_open(&changed, "full+kvarn", nullptr), KV_ERR_USAGE, nullptr, "head_dim is 48");
    kv_policy p;
    assert_ok(kv_policy_parse("full+kvarn", &p));
    p.selection = KV_SEL_SINK;
    p.sink = {8, 2};
    const kv_open_args args = {m, &p, options_here(nullptr), 1, 1};
    kv_session *s = nullptr;
    assert_refusal(side()->open(&args, &s), KV_ERR_USAGE, nullptr, "does not go with storage kvarn");
    kv_model_close(m);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation_has_the_bits_of_the_definition),
        cmocka_unit_test(test_codes_have_the_bytes_of_the_definition),
        cmocka_unit_test(test_degenerate_tiles_have_the_bytes_of_the_definition),
        cmocka_unit_test(test_tiles_that_are_not_finite_are_reported),
        cmocka_unit_test(test_the_golden_tile_comes_out_to_the_bit),
        cmocka_unit_test(test_attention_on_codes_has_the_bits_of_the_definition),
        cmocka_unit_test(test_steps_of_one_token_follow_the_definition),
        cmocka_unit_test(test_tiles_are_sealed_when_they_are_complete),
        cmocka_unit_test(test_whole_tiles_leave_before_the_step),
        cmocka_unit_test(test_states_hold_tiles_and_rows),
        cmocka_unit_test(test_seeds_and_threads_change_no_bit),
        cmocka_unit_test(test_states_and_snapshots_go_on_like_the_original),
        cmocka_unit_test(test_a_layer_exports_what_the_whole_export_holds_of_it),
        cmocka_unit_test(test_a_tail_alone_is_full_up_to_the_rotation),
        cmocka_unit_test(test_taps_stand_before_the_rotation),
        cmocka_unit_test(test_rows_that_are_not_finite_are_refused),
        cmocka_unit_test(test_states_that_the_storage_cannot_have_are_refused),
        cmocka_unit_test(test_pairs_and_models_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
