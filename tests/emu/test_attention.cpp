/* Attention: gpu/attention.cu against docs/numerics.md, section 4. */
#include "tests/emu/emutest.h"

using namespace emutest;

namespace
{
struct problem {
    int32_t first, m, heads, kv_heads, head_dim;
    bool slots; /* rows of the stores in another order than the view, for each KV head another one */
};

/* Unused rows of the stores hold NaN, as dead rows of a cache may. */
struct stores {
    int32_t n_view, n_rows;
    std::vector<int32_t> slot; /* [kv_heads][n_view] */
    std::vector<float> k, v, q;
};

stores make_stores(const problem &p)
{
    const int32_t width = p.kv_heads * p.head_dim, dim = p.head_dim;
    stores s;
    s.n_view = p.first + p.m;
    s.n_rows = p.slots ? 2 * s.n_view + 1 : s.n_view;
    s.k.assign((size_t)s.n_rows * (size_t)width, kv_nan());
    s.v = s.k;
    const std::vector<float> k = noise((size_t)(s.n_view * width), 20, 2.0f), v = noise((size_t)(s.n_view * width), 21);
    for (int32_t h = 0; h < p.kv_heads; h++)
        for (int32_t i = 0; i < s.n_view; i++) {
            const int32_t row = p.slots ? (i + h) % s.n_view * 2 + 1 : i; /* odd rows, each once */
            s.slot.push_back(row);
            memcpy(&s.k[(size_t)(row * width + h * dim)], &k[(size_t)(i * width + h * dim)], (size_t)dim * 4);
            memcpy(&s.v[(size_t)(row * width + h * dim)], &v[(size_t)(i * width + h * dim)], (size_t)dim * 4);
        }
    s.q = noise((size_t)(p.m * (p.heads * p.head_dim + 8)), 22, 2.0f); /* rows are longer than the heads */
    return s;
}

std::vector<float> by_definition(const problem &p, const stores &s, float scale)
{
    const int32_t width = p.kv_heads * p.head_dim, stride = p.heads * p.head_dim + 8;
    std::vector<float> out((size_t)(p.m * p.heads * p.head_dim));
    for (int32_t x = 0; x < p.m; x++)
        for (int32_t h = 0; h < p.heads; h++) {
            std::vector<float> q;
            for (int32_t d = 0; d < p.head_dim; d++)
                q.push_back(s.q[(size_t)(x * stride + h * p.head_dim + d)] * scale);
            std::vector<const float *> keys, values;
            for (int32_t i = 0; i <= p.first + x; i++) {
                const int32_t kv_head = h / (p.heads / p.kv_heads);
                const size_t at = (size_t)(s.slot[(size_t)(kv_head * s.n_view + i)] * width + kv_head * p.head_dim);
                keys.push_back(&s.k[at]);
                values.push_back(&s.v[at]);
            }
            attend(q.data(), keys, values, p.head_dim, &out[(size_t)((x * p.heads + h) * p.head_dim)]);
        }
    return out;
}

/* All that does not point to device memory. */
gpu_attention_args arguments(const problem &p, const stores &s, float scale)
{
    gpu_attention_args a = {};
    a.q_stride = p.heads * p.head_dim + 8;
    a.slot_stride = s.n_view;
    a.first = p.first;
    a.m = p.m;
    a.heads = p.heads;
    a.kv_heads = p.kv_heads;
    a.head_dim = p.head_dim;
    a.scale = scale;
    return a;
}

void check(const problem &p, int32_t at_once = 0)
{
    const float scale = 0.1767767f;
    const stores s = make_stores(p);
    const std::vector<float> wanted = by_definition(p, s, scale);
    char what[96];
    snprintf(what, sizeof what, "first %d, m %d, heads %d/%d of %d", p.first, p.m, p.heads, p.kv_heads, p.head_dim);
    for (const uint64_t seed : {0, 1, 2, 3}) {
        const stream on((uint64_t)seed);
        const floats q(s.q, on), k(s.k, on), v(s.v, on), out(wanted.size());
        const ints slot(s.slot, on);
        gpu_attention_args a = arguments(p, s, scale);
        a.q = q.p();
        a.k = {k.p(), KV_STORE_F32};
        a.v = {v.p(), KV_STORE_F32};
        a.k_slot = a.v_slot = p.slots ? slot.p() : nullptr;
        a.at_once = at_once;
        a.out = out.p();
        const floats workspace(gpu_attention_workspace(a));
        assert_ok(gpu_attention(a, workspace.p(), on.s));
        assert_bits(out.get(on), wanted, what, (uint64_t)seed);
    }
}

/* Rows of two bytes: the bits of attention over the same rows widened. */
void test_rows_of_two_bytes_are_read_as_their_values(void **)
{
    for (const int32_t storage : {KV_STORE_F16, KV_STORE_BF16})
        for (const problem &p : {problem{300, 1, 4, 2, 32, true}, {250, 20, 4, 4, 36, false}}) {
            stores s = make_stores(p);
            std::vector<uint16_t> k16, v16;
            for (std::vector<float> *const rows : {&s.k, &s.v})
                for (float &x : *rows) {
                    const uint16_t h = storage == KV_STORE_F16 ? kv_f2f16(x) : kv_f2bf16(x);
                    (rows == &s.k ? k16 : v16).push_back(h);
                    x = storage == KV_STORE_F16 ? kv_f162f(h) : kv_bf162f(h);
                }
            const float scale = 0.1767767f;
            const std::vector<float> wanted = by_definition(p, s, scale);
            for (const bool wide_keys : {false, true}) { /* keys that are rotated in every step are read as fp32 */
                const stream on(5);
                const floats q(s.q, on), k(s.k, on), out(wanted.size());
                const array<uint16_t> dk(k16, on), dv(v16, on);
                const ints slot(s.slot, on);
                gpu_attention_args a = arguments(p, s, scale);
                a.q = q.p();
                a.k = wide_keys ? gpu_values{k.p(), KV_STORE_F32} : gpu_values{dk.p(), storage};
                a.v = {dv.p(), storage};
                a.k_slot = a.v_slot = p.slots ? slot.p() : nullptr;
                a.out = out.p();
                const floats workspace(gpu_attention_workspace(a));
                assert_ok(gpu_attention(a, workspace.p(), on.s));
                assert_bits(out.get(on), wanted, "two-byte rows", (uint64_t)storage);
            }
        }
}

void test_decode_has_the_bits_of_the_definition(void **)
{
    for (const int32_t first : {0, 1, 254, 255, 256, 600}) {
        check({first, 1, 4, 2, 32, false});
        check({first, 1, 2, 2, 64, true});
        check({first, 1, 9, 3, 64, true});
    }
}

void test_prefill_has_the_bits_of_the_definition(void **)
{
    for (const problem &p : {problem{0, 1, 1, 1, 4, false}, {0, 5, 2, 1, 36, false}, {0, 40, 4, 2, 32, true},
                             {250, 20, 4, 4, 32, true}, {300, 33, 6, 2, 20, false}, {0, 300, 2, 1, 32, true}})
        check(p);
}

void test_wide_heads_pass_in_slices(void **)
{
    check({260, 3, 2, 1, 128, true});
    check({10, 9, 2, 2, 256, false});
    check({10, 9, 1, 1, 100, true});
}

void test_many_heads_of_one_group_span_tiles(void **) { check({20, 7, 24, 1, 16, false}); }

void test_tokens_worked_on_in_parts_give_the_same_bits(void **)
{
    for (const int32_t at_once : {1, 7, 8, 60}) check({250, 20, 4, 2, 32, true}, at_once);
}

/* One key: the output is its value, whatever the score. */
void test_a_single_entry_returns_its_value(void **)
{
    const stream on;
    const floats q({1.0f, 2.0f, 3.0f, 4.0f}, on), k({100.0f, -3.0f, 0.5f, 9.0f}, on),
        v({-0.0f, 2.5f, -7.0f, 0x1p-140f}, on), out(4);
    gpu_attention_args a = {};
    a.q = q.p();
    a.q_stride = 4;
    a.k = {k.p(), KV_STORE_F32};
    a.v = {v.p(), KV_STORE_F32};
    a.m = a.heads = a.kv_heads = 1;
    a.head_dim = 4;
    a.scale = 0.5f;
    a.out = out.p();
    const floats workspace(gpu_attention_workspace(a));
    assert_ok(gpu_attention(a, workspace.p(), on.s));
    assert_bits(out.get(on), {0.0f, 2.5f, -7.0f, 0x1p-140f}, "one entry", 0);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_has_the_bits_of_the_definition),
        cmocka_unit_test(test_prefill_has_the_bits_of_the_definition),
        cmocka_unit_test(test_wide_heads_pass_in_slices),
        cmocka_unit_test(test_rows_of_two_bytes_are_read_as_their_values),
        cmocka_unit_test(test_many_heads_of_one_group_span_tiles),
        cmocka_unit_test(test_tokens_worked_on_in_parts_give_the_same_bits),
        cmocka_unit_test(test_a_single_entry_returns_its_value),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
