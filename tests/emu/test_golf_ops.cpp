/* Operations of the golf family: gpu/golf.cu, gains of gpu/rope.cu, scaled outputs of matrix products and norms, bit for
 * bit against scalar loops written from docs/golf.md and docs/numerics.md. */
#include "tests/emu/emutest.h"

#include "gpu/carry.cuh"

using namespace emutest;

namespace
{
/* Slots of 200 floats: norm at 2, k at 40, v at 80, conv at 120. Row x of a piece of m goes to slot x - from + 1, round;
 * slot 0 holds the token before, slot 3 the newest that is known. */
enum { SLOT = 200, SLOTS = 4, NORM_AT = 2, K_AT = 40, V_AT = 80, CONV_AT = 120 };

struct memory {
    std::vector<float> before;
    floats slots;
    gpu_carry_rows rows = {};

    memory(const stream &on, int32_t from, int32_t known, int32_t count = 7, int32_t id = 5)
        : before(noise(SLOT * SLOTS, 31)), slots((size_t)(SLOT * SLOTS))
    {
        before[0] = kv_bits2f(count);
        before[1] = kv_bits2f(id);
        assert_ok(gpu_copy_up(slots.p(), before.data(), before.size() * sizeof(float), on.s));
        on.finish();
        rows = {slots.p(), slots.p() + 3 * SLOT, slots.p(), SLOT, SLOTS, 1, from, known, NORM_AT, K_AT, V_AT, CONV_AT};
    }
    /* Row r of a matrix of d columns; row -1 is that of the token before. */
    const float *row(const std::vector<float> &x, int32_t r, int32_t d, int32_t at) const
    {
        return r < 0 ? &before[(size_t)at] : &x[(size_t)(r * d)];
    }
};

void test_bigram_rows_look_at_the_token_before(void **)
{
    const std::vector<int32_t> ids = {1, 260, 261, 1023, 1023, 0, 5};
    const std::vector<int32_t> first = {2047, 1124, 333, 1936, 977, 1757, 1429}; /* figures of the specification */
    const gpu_bigram b = {2048, 36313, 27191};
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const ints di(ids, on), hashes(ids.size());
        const memory none(on, 6, 0, 0, 0), some(on, 6, 0, 3, 260);
        assert_ok(gpu_bigram_hash(di.p(), 7, b, none.rows, hashes.p(), on.s));
        assert_true(hashes.get(on) == first);
        assert_ok(gpu_bigram_hash(di.p(), 7, b, some.rows, hashes.p(), on.s));
        std::vector<int32_t> wanted = first;
        wanted[0] = (36313 * 1 ^ 27191 * 260) % 2047;
        assert_true(hashes.get(on) == wanted);

        std::vector<int32_t> many, of_many = {2047};
        for (int32_t i = 0; i < 700; i++) many.push_back(i * 37 % 1024);
        for (size_t i = 1; i < many.size(); i++) of_many.push_back((36313 * many[i] ^ 27191 * many[i - 1]) % 2047);
        const ints dm(many, on), out(many.size());
        assert_ok(gpu_bigram_hash(dm.p(), 700, b, none.rows, out.p(), on.s));
        assert_true(out.get(on) == of_many);
    }
}

void test_kept_rows_carry_number_and_id(void **)
{
    const stream on;
    const ints ids(std::vector<int32_t>{11, 12, 13, 14}, on);
    const memory m(on, 1, 0);
    assert_ok(gpu_carry_ids(ids.p(), 4, 20, m.rows, on.s));
    const std::vector<float> slots = m.slots.get(on);
    for (int32_t x = 1; x < 4; x++) { /* row 1 goes to slot 1 */
        assert_int_equal(kv_f2bits(slots[(size_t)(x * SLOT)]), 21 + x);
        assert_int_equal(kv_f2bits(slots[(size_t)(x * SLOT + 1)]), 11 + x);
    }
    assert_int_equal(kv_f2bits(slots[0]), 7);
}

void test_smear_has_the_bits_of_the_definition(void **)
{
    const int32_t m = 3, d = 37;
    const std::vector<float> n = noise((size_t)(m * d), 1), gate = noise((size_t)d, 2, 8.0f);
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dn(n, on), dg(gate, on), x(n.size());
        const memory mem(on, 2, 0);
        std::vector<float> wanted;
        for (int32_t r = 0; r < m; r++)
            for (int32_t i = 0; i < d; i++) {
                const float g = 1.0f / (1.0f + kv_exp(-gate[(size_t)i]));
                const float a = (1.0f - g) * mem.row(n, r, d, 0)[i], b = g * mem.row(n, r - 1, d, NORM_AT)[i];
                wanted.push_back(a + b);
            }
        assert_ok(gpu_smear(dn.p(), dg.p(), m, d, mem.rows, x.p(), on.s));
        assert_bits(x.get(on), wanted, "smear", seed);
        const std::vector<float> slots = mem.slots.get(on);
        const auto kept = slots.begin() + SLOT + NORM_AT;
        assert_bits({kept, kept + d}, {n.end() - d, n.end()}, "kept row", seed);
    }
}

void test_streams_are_mixed_as_defined(void **)
{
    const int32_t m = 2, d = 70;
    const size_t n = (size_t)(m * d);
    const std::vector<float> x = noise(n, 1), skip = noise(n, 2), w = noise((size_t)d, 3), mix = noise((size_t)(2 * d), 4),
                             x0 = noise(n, 5);
    for (const uint64_t seed : SEEDS)
        for (int which = 1; which < 4; which++) {
            const stream on(seed);
            const floats dx(x, on), ds(skip, on), dw(w, on), dm(mix, on), d0(x0, on);
            gpu_mix g = {};
            if (which & 1) g.skip = ds.p(), g.skip_weight = dw.p();
            if (which & 2) g.mix = dm.p(), g.x0 = d0.p();
            std::vector<float> wanted;
            for (size_t e = 0; e < n; e++) {
                const size_t i = e % (size_t)d;
                const float s = w[i] * skip[e], v = which & 1 ? x[e] + s : x[e];
                const float a = mix[i] * v, b = mix[(size_t)d + i] * x0[e];
                wanted.push_back(which & 2 ? a + b : v);
            }
            assert_ok(gpu_mix_streams(dx.p(), m, d, g, on.s));
            assert_bits(dx.get(on), wanted, "mix", seed);
        }
}

/* R64 of a[i] * b[i]. */
float r64(const float *a, const float *b, int32_t n)
{
    float lane[64] = {0};
    for (int32_t i = 0; i < n; i++) lane[i % 64] = kv_fma(a[i], b[i], lane[i % 64]);
    return tree64(lane);
}

void check_heads(int32_t dim, bool k_shift, bool v_shift, bool norm)
{
    const int32_t m = 3, q = 2, kv = 1, heads = q + 2 * kv;
    const std::vector<float> raw = noise((size_t)(m * heads * dim), 7, 2.0f), mix = {0.3f, -0.7f};
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dr(raw, on), dmix(mix, on), out(raw.size()), own((size_t)(m * kv * dim));
        const memory mem(on, 2, 0);
        std::vector<float> wanted(raw.size()), wanted_v;
        for (int32_t r = 0; r < m; r++)
            for (int32_t h = 0; h < heads; h++) {
                const size_t at = (size_t)((r * heads + h) * dim);
                const bool is_v = h == q + 1, shifts = h >= q && (is_v ? v_shift : k_shift);
                const float *const previous = r > 0 ? &raw[at - (size_t)(heads * dim)] : &mem.before[is_v ? V_AT : K_AT];
                std::vector<float> row;
                for (int32_t i = 0; i < dim; i++) {
                    const float shifted = mix[is_v] * (shifts ? previous[i] : 0.0f);
                    row.push_back(shifts ? raw[at + (size_t)i] + shifted : raw[at + (size_t)i]);
                }
                if (is_v) wanted_v.insert(wanted_v.end(), row.begin(), row.end());
                if (norm && !is_v) rmsnorm(row.data(), nullptr, dim, 0x1p-23f, row.data());
                std::copy(row.begin(), row.end(), wanted.begin() + (ptrdiff_t)at);
            }
        gpu_heads g = {};
        g.raw = dr.p();
        g.shape = {q, kv, dim};
        g.k_shift = k_shift ? dmix.p() : nullptr;
        g.v_shift = v_shift ? dmix.p() + 1 : nullptr;
        g.norm = norm;
        g.eps = 0x1p-23f;
        g.qkv = out.p();
        g.own_v = own.p();
        assert_ok(gpu_prepare_heads(g, m, mem.rows, on.s));
        assert_bits(out.get(on), wanted, "heads", seed);
        assert_bits(own.get(on), wanted_v, "own values", seed);
        const std::vector<float> slots = mem.slots.get(on);
        for (int v = 0; v < 2; v++) {
            const auto last = raw.end() - (2 - v) * dim, kept = slots.begin() + SLOT + (v ? V_AT : K_AT);
            if (v ? v_shift : k_shift) assert_bits({kept, kept + dim}, {last, last + dim}, "kept raw row", seed);
        }
    }
}

void test_heads_have_the_bits_of_the_definition(void **)
{
    for (const int32_t dim : {4, 16, 32, 36}) {
        check_heads(dim, true, true, true);
        check_heads(dim, true, false, false);
        check_heads(dim, false, true, true);
        check_heads(dim, false, false, true);
    }
    check_heads(100, false, false, true);
}

void check_own_values(int32_t dim)
{
    const gpu_qkv_shape shape = {4, 2, dim};
    const int32_t m = 3;
    const std::vector<float> y = noise((size_t)(m * 4 * dim), 8), mix = noise(4, 10);
    std::vector<float> v = noise((size_t)(m * 2 * dim), 9), local, without;
    for (int32_t i = 0; i < dim; i++) v[(size_t)i] = 0.0f; /* no direction to take out */
    for (int32_t r = 0; r < m; r++)
        for (int32_t h = 0; h < 4; h++) {
            const float *const in = &y[(size_t)((r * 4 + h) * dim)], *const own = &v[(size_t)((r * 2 + h / 2) * dim)];
            const float length = kv_sqrt(r64(own, own, dim)), norm = length > 1e-12f ? length : 1e-12f;
            std::vector<float> unit;
            for (int32_t i = 0; i < dim; i++) unit.push_back(own[i] / norm);
            const float along = r64(in, unit.data(), dim);
            for (int32_t i = 0; i < dim; i++) {
                const float add = mix[(size_t)h] * own[i], take = along * unit[(size_t)i];
                local.push_back(in[i] + add);
                without.push_back(in[i] - take);
            }
        }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats a(y, on), b(y, on), dv(v, on), dm(mix, on);
        assert_ok(gpu_local_v(a.p(), dv.p(), dm.p(), m, shape, on.s));
        assert_bits(a.get(on), local, "local values", seed);
        assert_ok(gpu_exclude_own(b.p(), dv.p(), m, shape, on.s));
        assert_bits(b.get(on), without, "own value taken out", seed);
    }
}

void test_own_values_have_the_bits_of_the_definition(void **)
{
    for (const int32_t dim : {4, 16, 64, 100}) check_own_values(dim);
}

/* known: rows of the piece that an earlier window has recorded. */
void check_sidecar(int32_t m, int32_t from, int32_t known)
{
    const int32_t hidden = 5, site = 1;
    const std::vector<float> rows = noise((size_t)(m * 2 * hidden), 11, 3.0f), gate = noise((size_t)(2 * hidden), 12),
                             conv = noise((size_t)(3 * hidden), 13);
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dr(rows, on), dg(gate, on), dc(conv, on), out((size_t)(m * hidden));
        const memory mem(on, from, known);
        const int32_t in_slot = CONV_AT + site * 2 * hidden;
        const auto value = [&](int32_t r, int32_t i) { /* row -1 is the newer one in the slot */
            return r < 0 ? mem.before[(size_t)(in_slot + (2 + r) * hidden + i)] : rows[(size_t)(r * 2 * hidden + hidden + i)];
        };
        std::vector<float> wanted;
        for (int32_t r = 0; r < m; r++)
            for (int32_t i = 0; i < hidden; i++) {
                const float *const w = &conv[(size_t)(3 * i)];
                const float a = w[0] * value(r - 2, i), b = w[1] * value(r - 1, i), c = w[2] * value(r, i);
                const float z = rows[(size_t)(r * 2 * hidden + i)] + gate[(size_t)(site * hidden + i)];
                wanted.push_back(z / (1.0f + kv_exp(-z)) * ((a + b) + c));
            }
        assert_ok(gpu_sidecar_gate({dr.p(), dg.p(), dc.p(), hidden, site}, m, mem.rows, out.p(), on.s));
        assert_bits(out.get(on), wanted, "sidecar", seed);
        const std::vector<float> slots = mem.slots.get(on);
        for (int32_t r = from; r < m; r++)
            for (int32_t i = 0; i < hidden; i++) {
                const float *const kept = &slots[(size_t)((1 + r - from) % SLOTS * SLOT + in_slot)];
                const float older = r > known ? value(r - 1, i) : mem.before[(size_t)(3 * SLOT + in_slot + hidden + i)];
                assert_int_equal(kv_f2bits(kept[i]), kv_f2bits(older));
                assert_int_equal(kv_f2bits(kept[hidden + i]), kv_f2bits(value(r, i)));
            }
    }
}

void test_sidecar_has_the_bits_of_the_definition(void **)
{
    check_sidecar(1, 0, 0);
    check_sidecar(2, 1, 0);
    check_sidecar(5, 4, 0);
    check_sidecar(5, 3, 3);
    check_sidecar(5, 4, 4);
}

void test_softcap_and_squares_have_the_bits_of_the_definition(void **)
{
    const std::vector<float> x = noise(300, 14, 60.0f);
    std::vector<float> capped, squared, leaky;
    for (const float f : x) {
        capped.push_back(30.0f * kv_tanh(f / 30.0f));
        const float a = f > 0.0f ? f : 0.0f, b = f < 0.0f ? 0.5f * f : f;
        squared.push_back(a * a);
        leaky.push_back(b * b);
    }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), out(x.size());
        assert_ok(gpu_squared_relu(dx.p(), 3, 100, 0.0f, out.p(), on.s));
        assert_bits(out.get(on), squared, "squared relu", seed);
        assert_ok(gpu_squared_relu(dx.p(), 3, 100, 0.5f, out.p(), on.s));
        assert_bits(out.get(on), leaky, "squared leaky relu", seed);
        assert_ok(gpu_softcap(dx.p(), 300, 30.0f, on.s));
        assert_bits(dx.get(on), capped, "softcap", seed);
    }
}

/* ---- what the family adds to other operations ---- */

void check_scaled_product(int32_t m, int32_t k)
{
    const int32_t n = 70, ld = 128;
    const std::vector<float> x = noise((size_t)(m * k), 15), w = noise((size_t)(n * k), 16), scale = noise((size_t)n, 17),
                             y = noise((size_t)(m * n), 18);
    std::vector<float> by_columns((size_t)(k * ld)), wanted;
    for (int32_t c = 0; c < n; c++)
        for (int32_t i = 0; i < k; i++) by_columns[(size_t)(i * ld + c)] = w[(size_t)(c * k + i)];
    for (int32_t r = 0; r < m; r++)
        for (int32_t c = 0; c < n; c++) {
            const float p = scale[(size_t)c] * product(&x[(size_t)(r * k)], &w[(size_t)(c * k)], k);
            wanted.push_back(y[(size_t)(r * n + c)] + p);
        }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), dw(by_columns, on), ds(scale, on), dy(y, on);
        const gpu_weights g = {dw.p(), n, k, ld, ds.p()};
        const floats partials(gpu_matmul_partials(g, m) + 1);
        assert_ok(gpu_matmul(dx.p(), m, g, GPU_ADD, dy.p(), partials.p(), on.s));
        assert_bits(dy.get(on), wanted, "scaled product", seed);
    }
}

void test_outputs_of_products_are_scaled(void **)
{
    for (const int32_t m : {1, 8, 9})
        for (const int32_t k : {8, 300}) check_scaled_product(m, k);
}

void test_outputs_of_norms_are_scaled(void **)
{
    const std::vector<float> x = noise(200, 19), w = noise(100, 20);
    std::vector<float> wanted(200);
    for (int32_t r = 0; r < 2; r++) rmsnorm(&x[(size_t)(100 * r)], w.data(), 100, 1e-5f, &wanted[(size_t)(100 * r)]);
    for (float &v : wanted) v = v * 0.577f;
    const stream on;
    const floats dx(x, on), dw(w, on), dy(200);
    assert_ok(gpu_rmsnorm(dx.p(), dw.p(), 2, 100, 1e-5f, 0.577f, dy.p(), on.s));
    assert_bits(dy.get(on), wanted, "scaled norm", 0);
}

/* Rows q | k | v of 2, 1 and 1 heads of 8 dims, 4 of them rotated. */
void check_gains(bool raw)
{
    const int32_t m = 3, dim = 8, dims = 4;
    const std::vector<float> x = noise((size_t)(m * 4 * dim), 21), c = noise((size_t)(m * dims / 2), 22),
                             s = noise((size_t)(m * dims / 2), 23), gains = {1.25f, -0.3f, 0.7f};
    std::vector<float> wanted = x, stored;
    for (int32_t r = 0; r < m; r++)
        for (int32_t h = 0; h < 3; h++) {
            float *const head = &wanted[(size_t)((r * 4 + h) * dim)];
            if (raw && h == 2) stored.insert(stored.end(), head, head + dim);
            rope(head, dims, true, &c[(size_t)(r * dims / 2)], &s[(size_t)(r * dims / 2)]);
            for (int32_t i = 0; i < dim; i++) head[i] = head[i] * gains[(size_t)h];
            if (!raw && h == 2) stored.insert(stored.end(), head, head + dim);
        }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats dx(x, on), dc(c, on), ds(s, on), dg(gains, on);
        const floats k((size_t)(m * dim)), v((size_t)(m * dim)), view((size_t)(m * dim));
        const ints slots(std::vector<int32_t>{0, 1, 2}, on);
        const gpu_rope g = {dc.p(), ds.p(), dims, 1, dg.p(), dg.p() + 2};
        const gpu_values ks = {k.p(), KV_STORE_F32}, vs = {v.p(), KV_STORE_F32};
        assert_ok(gpu_rope_store(dx.p(), m, {2, 1, dim}, g, {raw, false}, {slots.p(), 0}, ks, vs, on.s));
        assert_bits(dx.get(on), wanted, "rows with gains", seed);
        assert_bits(k.get(on), stored, "stored keys", seed);
        if (!raw) continue;
        std::vector<float> keys;
        for (int32_t r = 0; r < m; r++) {
            const auto at = wanted.begin() + (r * 4 + 2) * dim;
            keys.insert(keys.end(), at, at + dim);
        }
        assert_ok(gpu_rope_view(ks, {slots.p(), 0}, m, 1, dim, g, view.p(), on.s));
        assert_bits(view.get(on), keys, "viewed keys", seed);
    }
}

void test_gains_follow_the_rotation(void **)
{
    check_gains(false);
    check_gains(true);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bigram_rows_look_at_the_token_before),
        cmocka_unit_test(test_kept_rows_carry_number_and_id),
        cmocka_unit_test(test_smear_has_the_bits_of_the_definition),
        cmocka_unit_test(test_streams_are_mixed_as_defined),
        cmocka_unit_test(test_heads_have_the_bits_of_the_definition),
        cmocka_unit_test(test_own_values_have_the_bits_of_the_definition),
        cmocka_unit_test(test_sidecar_has_the_bits_of_the_definition),
        cmocka_unit_test(test_softcap_and_squares_have_the_bits_of_the_definition),
        cmocka_unit_test(test_outputs_of_products_are_scaled),
        cmocka_unit_test(test_outputs_of_norms_are_scaled),
        cmocka_unit_test(test_gains_follow_the_rotation),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
