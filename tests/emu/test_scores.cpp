/* Kernels behind the policies that decide by scores: gpu/column_sums.cu, scores.cu, select.cu, lists.cu. */
#include "tests/emu/probekit.h"

#include "gpu/lists.cuh"

using namespace emutest;

namespace
{
/* ---- column sums ---- */

struct problem {
    int32_t first, m, heads, kv_heads, head_dim, row0, block;
    bool weighted, reversed;
    int32_t storage;
};

struct inputs {
    int32_t n_view, n_rows;
    std::vector<int32_t> slot; /* [kv_heads][n_view] */
    std::vector<float> k, q, w; /* k as stored and widened again; dead rows are NaN */
};

float rounded(float x, int32_t storage) { return storage == KV_STORE_F16 ? kv_f162f(kv_f2f16(x)) : x; }

inputs make_inputs(const problem &p)
{
    const int32_t width = p.kv_heads * p.head_dim;
    inputs in;
    in.n_view = p.first + p.m;
    in.n_rows = 2 * in.n_view + 1;
    in.k.assign((size_t)(in.n_rows * width), kv_nan());
    const std::vector<float> k = noise((size_t)(in.n_view * width), 30, 2.0f);
    for (int32_t h = 0; h < p.kv_heads; h++)
        for (int32_t i = 0; i < in.n_view; i++) {
            in.slot.push_back((i + h) % in.n_view * 2 + 1);
            for (int32_t d = h * p.head_dim; d < (h + 1) * p.head_dim; d++)
                in.k[(size_t)(in.slot.back() * width + d)] = rounded(k[(size_t)(i * width + d)], p.storage);
        }
    in.q = noise((size_t)(p.m * p.heads * p.head_dim), 31, 2.0f);
    for (int32_t r = 0; r < p.m; r++) in.w.push_back(0.1f / (float)(p.m - r));
    return in;
}

/* Probabilities of one query head: p[r][j]. */
attention_rows look(const problem &p, const inputs &in, int32_t head)
{
    const int32_t kv_head = head / (p.heads / p.kv_heads), width = p.kv_heads * p.head_dim;
    attention_rows rows;
    for (int32_t r = 0; r < p.m; r++) {
        std::vector<float> s;
        for (int32_t j = 0; j <= p.first + r; j++) {
            const float *const k = &in.k[(size_t)(in.slot[(size_t)(kv_head * in.n_view + j)] * width + kv_head * p.head_dim)];
            const float *const q = &in.q[(size_t)((r * p.heads + head) * p.head_dim)];
            float acc = 0.0f;
            for (int32_t d = 0; d < p.head_dim; d++) acc = kv_fma(q[d] * 0.25f, k[d], acc);
            s.push_back(acc);
        }
        rows.push_back(probabilities(s));
    }
    return rows;
}

std::vector<float> sums_by_definition(const problem &p, const inputs &in)
{
    std::vector<float> sums;
    for (int32_t h = 0; h < p.heads; h++) {
        const attention_rows rows = look(p, in, h);
        for (int32_t j = 0; j < in.n_view; j++) {
            float total = 0.0f;
            for (int32_t b = p.row0; b < p.m; b += gpu_min(p.block, p.m)) {
                float acc = 0.0f;
                for (int32_t r = b; r < p.m && r - b < p.block; r++) {
                    if (j > p.first + r) continue;
                    const int32_t x = j - p.first;
                    const float w = in.w[(size_t)(p.reversed && x >= 0 ? p.m - 1 - (r - x) : r)];
                    acc = p.weighted ? kv_fma(w, rows[(size_t)r][(size_t)j], acc) : acc + rows[(size_t)r][(size_t)j];
                }
                total = total + acc;
            }
            sums.push_back(total);
        }
    }
    return sums;
}

void check_sums(const problem &p)
{
    const inputs in = make_inputs(p);
    const std::vector<float> wanted = sums_by_definition(p, in);
    std::vector<uint16_t> half;
    for (const float x : in.k) half.push_back(kv_f2f16(x));
    for (const uint64_t seed : {0, 1, 2}) {
        const stream on((uint64_t)seed);
        const floats q(in.q, on), k(in.k, on), w(in.w, on), v((size_t)in.n_rows * (size_t)(p.kv_heads * p.head_dim)),
            out((size_t)(p.m * p.heads * p.head_dim)), stats((size_t)(p.m * p.heads * 2)), sums(wanted.size());
        const ints slot(in.slot, on);
        const array<uint16_t> narrow(half, on);
        gpu_attention_args a = {};
        a.q = q.p();
        a.q_stride = p.heads * p.head_dim;
        a.k = {p.storage == KV_STORE_F32 ? (void *)k.p() : (void *)narrow.p(), p.storage};
        a.v = {k.p(), KV_STORE_F32};
        a.k_slot = a.v_slot = slot.p();
        a.slot_stride = in.n_view;
        a.first = p.first;
        a.m = p.m;
        a.heads = p.heads;
        a.kv_heads = p.kv_heads;
        a.head_dim = p.head_dim;
        a.scale = 0.25f;
        a.at_once = p.m > 20 ? 17 : 0; /* rows of M and L come in parts */
        a.out = out.p();
        a.stats = stats.p();
        const floats workspace(gpu_attention_workspace(a));
        assert_ok(gpu_attention(a, workspace.p(), on.s));
        assert_ok(gpu_column_sums({a, p.row0, p.block, p.weighted ? w.p() : nullptr, p.reversed, sums.p()}, on.s));
        assert_bits(sums.get(on), wanted, "column sums", (uint64_t)seed);
    }
}

void test_column_sums_have_the_bits_of_the_definition(void **)
{
    check_sums({0, 1, 1, 1, 4, 0, 256, true, false, KV_STORE_F32});
    check_sums({300, 1, 4, 2, 32, 0, 256, true, false, KV_STORE_F32});
    check_sums({250, 20, 4, 2, 36, 0, 256, true, false, KV_STORE_F32});
    check_sums({250, 20, 4, 2, 36, 0, 256, true, true, KV_STORE_F32});
    check_sums({5, 21, 3, 3, 64, 20, 256, false, false, KV_STORE_F32});
    check_sums({0, 40, 2, 1, 8, 13, INT32_MAX, false, false, KV_STORE_F32});
    check_sums({20, 33, 2, 1, 32, 0, 256, false, false, KV_STORE_F16});
}

void test_long_steps_are_summed_in_blocks_of_queries(void **)
{
    check_sums({3, 520, 2, 1, 8, 0, 256, true, false, KV_STORE_F32});
    check_sums({0, 300, 2, 2, 8, 0, 256, false, true, KV_STORE_F32});
    check_sums({0, 300, 1, 1, 8, 20, INT32_MAX, false, false, KV_STORE_F32}); /* one chain, longer than a block */
}

/* ---- scores ---- */

float reduced(gpu_reduction how, std::vector<float> v)
{
    float sum = v[0];
    for (size_t i = 1; i < v.size(); i++) sum = sum + v[i];
    for (const float x : v)
        if (x != x) return sum;
    if (how == GPU_SUM) return sum;
    if (how == GPU_MEAN) return sum / (float)v.size();
    std::sort(v.begin(), v.end(), [](float a, float b) { return kv_max_key(a) < kv_max_key(b); });
    return how == GPU_MAX ? v.back() : v[(v.size() - 1) / 2];
}

void check_scores(int32_t heads, int32_t lists, gpu_reduction how, bool carried, bool half, int32_t n_sinks, int32_t shift)
{
    const int32_t n = 150, m = 7, view = n + m, per_list = heads / lists, stride = view + 3;
    std::vector<float> sums = noise((size_t)(heads * view), 40), old = noise((size_t)(lists * stride), 41), wanted = old;
    std::vector<int32_t> view_of;
    for (int32_t i = 0; i < n; i++) view_of.push_back(i < n_sinks ? i : n - 1 - i + n_sinks);
    for (int32_t l = 0; l < lists; l++)
        for (int32_t i = 0; i < view; i++) {
            std::vector<float> v;
            const int32_t at = i >= n ? i : i < n_sinks ? i : view_of[(size_t)(i - shift)];
            for (int32_t h = 0; h < per_list; h++) v.push_back(sums[(size_t)((l * per_list + h) * view + at)]);
            float &s = wanted[(size_t)(l * stride + i)];
            const float red = reduced(how, v);
            s = i < n && carried ? kv_fma(0.75f, s, red) : red;
            if (half) s = kv_f162f(kv_f2f16(s));
            if (i < n_sinks) s = 0.0f;
        }
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        const floats given(sums, on), scores(old, on);
        const ints order(view_of, on);
        assert_ok(gpu_scores({given.p(), heads, lists, n, m, how, carried, 0.75f, half, order.p(), n_sinks, shift, scores.p(),
                              stride}, on.s));
        assert_bits(scores.get(on), wanted, "scores", seed);
    }
}

void test_heads_are_reduced_in_order(void **)
{
    for (const gpu_reduction how : {GPU_SUM, GPU_MAX, GPU_MEAN, GPU_MEDIAN}) {
        check_scores(4, 2, how, true, false, 4, 0);
        check_scores(9, 1, how, true, false, 0, 0);
        check_scores(6, 3, how, false, false, 0, 0);
        check_scores(3, 3, how, true, true, 5, 0);
        check_scores(4, 2, how, true, false, 4, 4);
    }
}

void test_one_head_without_a_number_makes_the_score_none(void **)
{
    for (const gpu_reduction how : {GPU_SUM, GPU_MAX, GPU_MEAN, GPU_MEDIAN})
        for (const float nan : {kv_nan(), -kv_nan()}) {
            const stream on;
            const floats sums({1.0f, nan, 2.0f}, on), scores(1);
            assert_ok(gpu_scores({sums.p(), 3, 1, 0, 1, how, false, 0.0f, false, nullptr, 0, 0, scores.p(), 1}, on.s));
            assert_true(scores.get(on)[0] != scores.get(on)[0]);
        }
}

void test_pools_divide_by_the_kernel_at_the_edges_too(void **)
{
    const int32_t heads = 3, n = 20, stride = 24, w = 7;
    const std::vector<float> sums = noise((size_t)(heads * stride), 50);
    for (const int32_t kernel : {1, 5, 9, 51}) {
        std::vector<float> wanted;
        for (int32_t h = 0; h < heads; h++)
            for (int32_t j = 0; j < stride; j++) {
                float s = 0.0f;
                for (int32_t i = 0; i < n; i++)
                    if (abs(i - j) <= kernel / 2) s = s + sums[(size_t)(h * stride + i)] / (float)w;
                wanted.push_back(j < n ? s / (float)kernel : 9.0f);
            }
        for (const uint64_t seed : SEEDS) {
            const stream on(seed);
            const floats given(sums, on), out(std::vector<float>(sums.size(), 9.0f), on);
            assert_ok(gpu_pool(given.p(), heads, n, stride, w, kernel, out.p(), on.s));
            assert_bits(out.get(on), wanted, "pool", seed);
        }
    }
}

/* ---- selection ---- */

struct listed {
    std::vector<int64_t> ogs;
    std::vector<float> scores;
};

/* Three lists of n elements and two free rows. */
void check_select(const std::vector<float> &scores, int32_t n_open, int32_t keep, bool given)
{
    const int32_t n = (int32_t)scores.size() / 3;
    for (const uint64_t seed : SEEDS) {
        const stream on(seed);
        gpu_lists lists(3, on.s);
        std::vector<uint8_t> flags;
        std::vector<gpu_selection> selections(3, {n, n_open, keep});
        assert_ok(lists.reserve(n + 2));
        assert_ok(lists.append({0, 0, 0}, 100, n));
        std::vector<std::vector<int64_t>> wanted;
        std::vector<float> lowest;
        for (int32_t l = 0; l < 3; l++) {
            const float *const s = &scores[(size_t)(l * n)];
            assert_ok(gpu_copy_up(lists.view().scores + l * lists.stride(), s, (size_t)n * sizeof(float), on.s));
            std::vector<int64_t> stay, leave;
            float least = kv_inf();
            for (int32_t i = 0; i < n; i++) {
                int32_t better = 0;
                for (int32_t j = 0; j < n_open; j++)
                    better += (s[j] == s[j] && s[i] != s[i]) || s[j] > s[i] ||
                              ((s[j] == s[i] || (s[j] != s[j] && s[i] != s[i])) && j < i);
                const bool stays = given ? (i + l) % 3 != 0 && i < n_open : better < keep;
                flags.push_back(stays);
                if (i < n_open && stays && !given && better == keep - 1) least = s[i];
                (stays || i >= n_open ? stay : leave).push_back(100 + i);
            }
            if (given) selections[(size_t)l].keep = (int32_t)stay.size() - (n - n_open);
            flags.resize((size_t)((l + 1) * lists.stride()));
            stay.insert(stay.end(), leave.begin(), leave.end());
            wanted.push_back(stay);
            lowest.push_back(least);
        }
        const array<uint8_t> there(flags, on);
        const array<gpu_selection> plan(selections, on);
        const floats low(3);
        assert_ok(gpu_select(lists.view(), lists.spare(), 3, plan.p(), given ? there.p() : nullptr, low.p(), on.s));
        lists.flip();
        for (int32_t l = 0; l < 3; l++) {
            std::vector<gpu_entry> got;
            assert_ok(lists.read(l, lists.stride(), &got));
            for (int32_t i = 0; i < n; i++) {
                const gpu_entry &e = got[(size_t)i];
                assert_int_equal(e.og, wanted[(size_t)l][(size_t)i]);
                assert_int_equal(e.row, e.og - 100);
                assert_int_equal(kv_f2bits(e.score), kv_f2bits(scores[(size_t)(l * n) + (size_t)e.row]));
            }
            for (int32_t i = n; i < lists.stride(); i++) assert_int_equal(got[(size_t)i].row, i);
            const float x = low.get(on)[(size_t)l], y = lowest[(size_t)l];
            if (!given && keep > 0) assert_true(x == y || (x != x && y != y));
        }
    }
}

void test_the_highest_scores_stay_in_order(void **)
{
    check_select(noise(3 * 700, 60), 700, 300, false);
    check_select(noise(3 * 300, 61), 290, 17, false);
    check_select(noise(3 * 40, 62), 40, 39, false);
    check_select(noise(3 * 40, 63), 30, 0, false);
    check_select(noise(3 * 5, 64), 5, 5, false);
    check_select(noise(3 * 300, 65), 280, 0, true);
}

void test_ties_zeros_and_what_is_no_number(void **)
{
    std::vector<float> ties, odd;
    for (int32_t i = 0; i < 3 * 300; i++) ties.push_back((float)(i * 7 % 5));
    check_select(ties, 300, 100, false);
    check_select(std::vector<float>(3 * 50, 0.5f), 50, 20, false);
    const float values[] = {0.0f, -0.0f, kv_nan(), -kv_nan(), 1.0f, -1.0f, kv_inf(), -kv_inf(), 1e-42f, -1e-42f};
    for (int32_t i = 0; i < 3 * 60; i++) odd.push_back(values[(i * 7 + i / 10) % 10]);
    for (const int32_t keep : {1, 5, 6, 12, 18, 20, 30, 48, 50, 54, 59}) check_select(odd, 60, keep, false);
}

void test_lists_keep_their_entries_when_they_grow(void **)
{
    const stream on;
    gpu_lists lists(2, on.s);
    assert_ok(lists.reserve(3));
    assert_ok(lists.append({0, 0}, 0, 3));
    std::vector<gpu_entry> two = {{7, 0, 0, 1.5f}, {9, 0, 0, 2.5f}}, got;
    assert_ok(lists.write(1, &two));
    assert_ok(lists.reserve(20));
    assert_ok(lists.append({3, 2}, 50, 4));
    assert_ok(lists.read(0, lists.stride(), &got));
    for (int32_t i = 0; i < lists.stride(); i++) assert_int_equal(got[(size_t)i].row, i);
    assert_ok(lists.read(1, 6, &got));
    assert_true(got[0].og == 7 && got[1].og == 9 && got[2].og == 50 && got[5].og == 53);
    assert_true(got[0].score == 1.5f && got[1].score == 2.5f && got[2].score == 0.0f);
    gpu_lists copy(2, on.s);
    assert_ok(copy.copy_from(lists));
    assert_ok(lists.reset());
    assert_ok(copy.read(1, 2, &got));
    assert_true(got[0].og == 7 && got[1].og == 9);
}
} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_column_sums_have_the_bits_of_the_definition),
        cmocka_unit_test(test_long_steps_are_summed_in_blocks_of_queries),
        cmocka_unit_test(test_heads_are_reduced_in_order),
        cmocka_unit_test(test_one_head_without_a_number_makes_the_score_none),
        cmocka_unit_test(test_pools_divide_by_the_kernel_at_the_edges_too),
        cmocka_unit_test(test_the_highest_scores_stay_in_order),
        cmocka_unit_test(test_ties_zeros_and_what_is_no_number),
        cmocka_unit_test(test_lists_keep_their_entries_when_they_grow),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
