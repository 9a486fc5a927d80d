/* Rotary positions and cache rows: gpu/rope.cu, gpu/records.cu. */
#include "tests/emu/emutest.h"

using namespace emutest;

namespace
{
std::vector<float> frequencies(int32_t half)
{
    std::vector<float> f;
    for (int32_t j = 0; j < half; j++) f.push_back(1.0f / kv_d2f(kv_exp_core(2.0 * j / (2.0 * half) * kv_log_core(10000.0))));
    return f;
}

/* Table rows of positions first .. first + n - 1, from the definition. */
void tables(int32_t first, int32_t n, int32_t half, int32_t sign, std::vector<float> *c, std::vector<float> *s)
{
    const std::vector<float> f = frequencies(half);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < half; j++) {
            float sine, cosine;
            kv_sincos((float)(first + i) * f[(size_t)j], &sine, &cosine);
            c->push_back(cosine);
            s->push_back(sign < 0 ? -sine : sine);
        }
}

void test_tables_have_the_bits_of_the_definition(void **)
{
    for (const int32_t first : {0, 77, 16777217})
        for (const int32_t sign : {1, -1}) {
            const int32_t n = 9, half = 20;
            std::vector<float> c, s;
            tables(first, n, half, sign, &c, &s);
            const stream on(3);
            const floats f(frequencies(half), on), dc(c.size()), ds(s.size());
            assert_ok(gpu_rope_table(first, n, f.p(), half, sign, dc.p(), ds.p(), on.s));
            assert_bits(dc.get(on), c, "cosines", 3);
            assert_bits(ds.get(on), s, "sines", 3);
        }
}

struct layout {
    int32_t heads, kv_heads, head_dim, dims;
    bool half, raw;
};

/* A step's rows: what becomes of q, k and v, and what the stores receive. */
void check_store(const layout &g)
{
    const int32_t m = 5, n_rows = 9, kv = g.kv_heads * g.head_dim, q = g.heads * g.head_dim, width = q + 2 * kv;
    const std::vector<int32_t> rows_of = {7, 2, 3, 8, 0};
    std::vector<int32_t> slot; /* of each KV head another order */
    for (int32_t h = 0; h < g.kv_heads; h++)
        for (int32_t x = 0; x < m; x++) slot.push_back(rows_of[(size_t)((x + h) % m)]);
    const std::vector<float> qkv = noise((size_t)(m * width), 9);
    std::vector<float> c, s, wanted = qkv;
    tables(100, m, g.dims / 2, 1, &c, &s);
    std::vector<float> k_store((size_t)(n_rows * kv), 5.0f), v_store = k_store;
    const std::vector<float> empty = k_store;
    for (int32_t x = 0; x < m; x++) {
        const size_t t = (size_t)(x * g.dims / 2);
        float *const row = &wanted[(size_t)(x * width)];
        for (int32_t h = 0; h < g.heads + g.kv_heads; h++)
            rope(row + h * g.head_dim, g.dims, g.half, &c[t], &s[t]);
        const float *const stored = (g.raw ? &qkv[(size_t)(x * width)] : row) + q;
        for (int32_t h = 0; h < g.kv_heads; h++) {
            const int32_t at = slot[(size_t)(h * m + x)] * kv + h * g.head_dim;
            memcpy(&k_store[(size_t)at], stored + h * g.head_dim, (size_t)g.head_dim * 4);
            memcpy(&v_store[(size_t)at], row + q + kv + h * g.head_dim, (size_t)g.head_dim * 4);
        }
    }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dc(c, on), ds(s, on), dx(qkv, on), dk(empty, on), dv(empty, on);
        const ints rows(slot, on);
        const gpu_rope r = {dc.p(), ds.p(), g.dims, g.half};
        assert_ok(gpu_rope_store(dx.p(), m, {g.heads, g.kv_heads, g.head_dim}, r, {g.raw, false}, {rows.p(), m},
                                 {dk.p(), KV_STORE_F32}, {dv.p(), KV_STORE_F32}, on.s));
        assert_bits(dx.get(on), wanted, "rotated rows", seed);
        assert_bits(dk.get(on), k_store, "stored keys", seed);
        assert_bits(dv.get(on), v_store, "stored values", seed);
    }
}

const layout LAYOUTS[] = {
    {4, 2, 32, 32, false, false}, {4, 2, 32, 32, true, true}, {3, 3, 20, 8, false, true},
    {6, 1, 64, 16, true, false},  {1, 1, 4, 2, true, false},
};

void test_store_rotates_and_places_rows(void **)
{
    for (const layout &g : LAYOUTS) check_store(g);
}

void test_view_rotates_stored_keys_and_leaves_them(void **)
{
    for (const layout &g : LAYOUTS) {
        const int32_t n = 6, n_rows = 8, kv = g.kv_heads * g.head_dim;
        const std::vector<int32_t> rows_of = {5, 5, 0, 7, 1, 2};
        std::vector<int32_t> slot; /* of each KV head another order */
        for (int32_t h = 0; h < g.kv_heads; h++)
            for (int32_t i = 0; i < n; i++) slot.push_back(rows_of[(size_t)((i + h) % n)]);
        const std::vector<float> store = noise((size_t)(n_rows * kv), 10);
        std::vector<float> c, s, wanted;
        tables(0, n, g.dims / 2, -1, &c, &s);
        for (int32_t i = 0; i < n; i++) {
            std::vector<float> row((size_t)kv);
            for (int32_t h = 0; h < g.kv_heads; h++) {
                memcpy(&row[(size_t)(h * g.head_dim)], &store[(size_t)(slot[(size_t)(h * n + i)] * kv + h * g.head_dim)],
                       (size_t)g.head_dim * 4);
                rope(&row[(size_t)(h * g.head_dim)], g.dims, g.half, &c[(size_t)(i * g.dims / 2)], &s[(size_t)(i * g.dims / 2)]);
            }
            wanted.insert(wanted.end(), row.begin(), row.end());
        }
        for (const uint64_t seed : SEEDS) {
            const stream on(seed);
            const floats dc(c, on), ds(s, on), dk(store, on), out(wanted.size());
            const ints rows(slot, on);
            assert_ok(gpu_rope_view({dk.p(), KV_STORE_F32}, {rows.p(), n}, n, g.kv_heads, g.head_dim,
                                    {dc.p(), ds.p(), g.dims, g.half}, out.p(), on.s));
            assert_bits(out.get(on), wanted, "view", seed);
            assert_bits(dk.get(on), store, "store", seed);
        }
    }
}

void test_records_go_out_and_come_back(void **)
{
    const int32_t n_rows = 6, kv_heads = 3, head_dim = 20, n = 4, head = 1, kv = kv_heads * head_dim;
    const std::vector<int32_t> slot = {5, 0, 3, 2};
    const std::vector<float> k = noise((size_t)(n_rows * kv), 11), v = noise((size_t)(n_rows * kv), 12);
    std::vector<float> records, k_back((size_t)(n_rows * kv), 1.0f), v_back = k_back;
    const std::vector<float> blank = k_back;
    for (const int32_t r : slot)
        for (const std::vector<float> *const from : {&k, &v})
            records.insert(records.end(), from->begin() + r * kv + head * head_dim,
                           from->begin() + r * kv + (head + 1) * head_dim);
    for (const int32_t r : slot)
        for (int32_t d = head * head_dim; d < (head + 1) * head_dim; d++) {
            k_back[(size_t)(r * kv + d)] = k[(size_t)(r * kv + d)];
            v_back[(size_t)(r * kv + d)] = v[(size_t)(r * kv + d)];
        }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dk(k, on), dv(v, on), dr(records.size()), bk(blank, on), bv(blank, on);
        const ints rows(slot, on);
        uint32_t *const words = reinterpret_cast<uint32_t *>(dr.p());
        assert_ok(gpu_records_gather({dk.p(), KV_STORE_F32}, {dv.p(), KV_STORE_F32}, rows.p(), n, head, kv_heads,
                                     head_dim, words, on.s));
        assert_bits(dr.get(on), records, "records", seed);
        assert_ok(gpu_records_scatter(words, rows.p(), n, head, kv_heads, head_dim, {bk.p(), KV_STORE_F32},
                                      {bv.p(), KV_STORE_F32}, on.s));
        assert_bits(bk.get(on), k_back, "keys", seed);
        assert_bits(bv.get(on), v_back, "values", seed);
    }
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_have_the_bits_of_the_definition),
        cmocka_unit_test(test_store_rotates_and_places_rows),
        cmocka_unit_test(test_view_rotates_stored_keys_and_leaves_them),
        cmocka_unit_test(test_records_go_out_and_come_back),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
