/* The door of kernels (include/kvdiff_kernel.h) to callers who err: every tensor that is missing, of another type or
 * another size, and every number that does not fit, is refused before a kernel runs. What the operations compute is the
 * business of `kvdiff ops`. */
#include "tests/emu/emutest.h"

#include "include/kvdiff_kernel.h"

#include <cstddef>
#include <vector>

namespace
{
enum {
    T = 3,
    HQ = 4,
    HK = 2,
    HD = 32,
    D = 12,
    V = 9,
    N = 8,
    CAP = 5,
    W = 4,
    LEVELS = 2,
    SINKS = 2,
    S = SINKS + LEVELS * W,
    TILE = 32
};

/* Memory for tensors: zeros, which are fine numbers, positions, targets and sources. */
alignas(64) unsigned char memory[1 << 20];
size_t used;

void begin()
{
    memset(memory, 0, sizeof memory);
    used = 0;
}

kvdk_tensor tensor(int32_t dtype, std::initializer_list<int64_t> shape)
{
    kvdk_tensor t = {};
    size_t i = 0, n = 1;
    t.data = memory + used;
    t.dtype = dtype;
    for (int d = 0; d < 4; d++)
        t.dim[d] = t.stride[d] = 1;
    for (const int64_t s : shape)
        t.dim[i++] = s;
    for (int d = 2; d >= 0; d--)
        t.stride[d] = t.stride[d + 1] * t.dim[d + 1];
    for (const int64_t s : shape)
        n *= (size_t)s;
    used += (n * 8 + 63) / 64 * 64;
    assert_true(used <= sizeof memory);
    return t;
}

kvdk_tensor f32(std::initializer_list<int64_t> shape)
{
    return tensor(KVDK_F32, shape);
}

/* Tries a call with one thing changed. A: its arguments; what must not be absent, and numbers that nothing but these
 * values fits. */
template <class A> struct caller {
    A good;
    int (*run)(const A *, kvdk_stream);
    const char *name;

    int call(const A &a) const { return run(&a, nullptr); }
    void works() const
    {
        if (call(good) != 0) fail_msg("%s: a good call is refused: %s", name, kv_message());
    }
    void refuses(const A &a, const char *what, int which) const
    {
        if (call(a) == 0) fail_msg("%s: a call with %s %d is taken", name, what, which);
    }
    /* Tensors: missing, of another type, a row more and a row less. */
    void needs(std::initializer_list<kvdk_tensor A::*> tensors) const
    {
        int which = 0;
        for (kvdk_tensor A::*t : tensors) {
            A a = good;
            (a.*t).data = nullptr;
            refuses(a, "no tensor", which);
            a = good;
            (a.*t).dtype = (a.*t).dtype == KVDK_U8 ? KVDK_I32 : KVDK_U8;
            refuses(a, "another type of tensor", which);
            for (int d = 0; d < 4 && (good.*t).dim[d] > 1; d++)
                for (int by = -1; by <= 1; by += 2) {
                    a = good;
                    (a.*t).dim[d] += by;
                    refuses(a, "another size of tensor", which);
                }
            which++;
        }
    }
    /* Numbers that sizes of tensors follow from. */
    void fits(std::initializer_list<int64_t A::*> numbers) const
    {
        int which = 0;
        for (int64_t A::*n : numbers) {
            const int64_t all[] = {good.*n - 1, good.*n + 1, 0, -1, (int64_t)1 << 31, INT64_MIN};
            for (const int64_t value : all) {
                A a = good;
                a.*n = value;
                if (value != good.*n) refuses(a, "another number", which);
            }
            which++;
        }
    }
    void refuses_values(int64_t A::*n, std::initializer_list<int64_t> values, const char *what) const
    {
        for (const int64_t value : values) {
            A a = good;
            a.*n = value;
            refuses(a, what, (int)value);
        }
    }
    void takes_values(int64_t A::*n, std::initializer_list<int64_t> values) const
    {
        for (const int64_t value : values) {
            A a = good;
            a.*n = value;
            if (call(a) != 0) fail_msg("%s: %d is refused", name, (int)value);
        }
    }
};

#define CALLER(op, args)   \
    caller<args>           \
    {                      \
        {}, kvdk_##op, #op \
    }

void test_rows(void **)
{
    begin();
    auto norm = CALLER(rmsnorm, kvdk_rmsnorm_args);
    norm.good.T = T, norm.good.D = D, norm.good.eps = 1e-5;
    norm.good.x = f32({T, D}), norm.good.weight = f32({D}), norm.good.y = f32({T, D});
    norm.works();
    norm.needs({&kvdk_rmsnorm_args::x, &kvdk_rmsnorm_args::weight, &kvdk_rmsnorm_args::y});
    norm.fits({&kvdk_rmsnorm_args::T, &kvdk_rmsnorm_args::D});
    auto with = norm.good;
    with.residual = f32({T, D});
    norm.refuses(with, "a residual", 0);

    auto mul = CALLER(gemm, kvdk_gemm_args);
    mul.good.M = T, mul.good.N = N, mul.good.K = D, mul.good.epilogue = KVDK_STORE;
    mul.good.a = f32({T, D}), mul.good.w = f32({N, D}), mul.good.c = f32({T, N});
    mul.works();
    mul.needs({&kvdk_gemm_args::a, &kvdk_gemm_args::w, &kvdk_gemm_args::c});
    mul.fits({&kvdk_gemm_args::M, &kvdk_gemm_args::N, &kvdk_gemm_args::K});
    mul.takes_values(&kvdk_gemm_args::epilogue, {KVDK_STORE, KVDK_ADD, KVDK_RELU2});
    mul.refuses_values(&kvdk_gemm_args::epilogue, {-1, 4, KVDK_SILU_MUL}, "epilogue");
    mul.good.epilogue = KVDK_SILU_MUL, mul.good.c = f32({T, N / 2});
    mul.works();
    mul.good.N = N - 1, mul.good.w = f32({N - 1, D}), mul.good.c = f32({T, (N - 1) / 2});
    mul.refuses(mul.good, "an odd width", N - 1);
    mul.good.N = 1, mul.good.w = f32({1, D}), mul.good.c = f32({T, 1}), mul.good.epilogue = KVDK_STORE;
    mul.works();
    mul.good.bias = f32({1});
    mul.refuses(mul.good, "a bias", 0);

    auto turn = CALLER(rope, kvdk_rope_args);
    turn.good.T = T, turn.good.H = HQ, turn.good.hd = 6, turn.good.rd = 4, turn.good.P = 7,
    turn.good.pairing = KVDK_HALF;
    turn.good.x = f32({T, HQ, 6}), turn.good.pos = tensor(KVDK_I32, {T}), turn.good.cos = f32({7, 2}),
    turn.good.sin = f32({7, 2});
    turn.works();
    turn.needs({&kvdk_rope_args::x, &kvdk_rope_args::pos, &kvdk_rope_args::cos, &kvdk_rope_args::sin});
    turn.fits({&kvdk_rope_args::T, &kvdk_rope_args::H, &kvdk_rope_args::hd, &kvdk_rope_args::rd, &kvdk_rope_args::P});
    turn.takes_values(&kvdk_rope_args::pairing, {KVDK_ADJACENT, KVDK_HALF});
    turn.refuses_values(&kvdk_rope_args::pairing, {-1, 2}, "pairing");
    turn.good.rd = 6, turn.good.cos = f32({7, 3}), turn.good.sin = f32({7, 3});
    turn.works();
    turn.good.rd = 8, turn.good.cos = f32({7, 4}), turn.good.sin = f32({7, 4});
    turn.refuses(turn.good, "more rotated than there is", 8);
    turn.good.rd = 4, turn.good.hd = 5, turn.good.x = f32({T, HQ, 5}), turn.good.cos = f32({7, 2}),
    turn.good.sin = f32({7, 2});
    turn.refuses(turn.good, "an odd head", 5);
}

void test_logits(void **)
{
    begin();
    auto nll = CALLER(logits_nll, kvdk_nll_args);
    nll.good.T = T, nll.good.D = D, nll.good.V = V;
    nll.good.h = f32({T, D}), nll.good.w = f32({V, D}), nll.good.target = tensor(KVDK_I32, {T});
    nll.good.nll = f32({T}), nll.good.row_max = f32({T}), nll.good.row_sum = f32({T});
    nll.works();
    nll.needs({&kvdk_nll_args::h, &kvdk_nll_args::w, &kvdk_nll_args::target, &kvdk_nll_args::nll,
               &kvdk_nll_args::row_max, &kvdk_nll_args::row_sum});
    nll.fits({&kvdk_nll_args::T, &kvdk_nll_args::D, &kvdk_nll_args::V});
    const int64_t most = 1 << 22;
    nll.good.T = nll.good.D = 1, nll.good.V = most + 1;
    std::vector<float> wide((size_t)most + 1);
    nll.good.h = f32({1, 1}), nll.good.w = f32({1, 1}), nll.good.target = tensor(KVDK_I32, {1});
    nll.good.nll = nll.good.row_max = nll.good.row_sum = f32({1});
    nll.good.w.data = wide.data(), nll.good.w.dim[0] = most + 1;
    if (nll.call(nll.good) >= 0) fail_msg("%s", "logits_nll: a vocabulary beyond 2^22 is not refused");
    nll.good.V = nll.good.w.dim[0] = most;
    nll.works();

    auto top = CALLER(topk, kvdk_topk_args);
    top.good.R = T, top.good.V = V, top.good.k = V;
    top.good.z = f32({T, V}), top.good.index = tensor(KVDK_I32, {T, V}), top.good.value = f32({T, V});
    top.works();
    top.needs({&kvdk_topk_args::z, &kvdk_topk_args::index, &kvdk_topk_args::value});
    top.fits({&kvdk_topk_args::R, &kvdk_topk_args::V, &kvdk_topk_args::k});
    top.good.k = V + 1, top.good.index = tensor(KVDK_I32, {T, V + 1}), top.good.value = f32({T, V + 1});
    top.refuses(top.good, "more than all", V + 1);
}

/* A view of one segment of stored entries and the step's own. */
template <class A> void view_of(A *a, bool with_v)
{
    a->T = T, a->Hq = HQ, a->Hk = HK, a->hd = HD, a->n_segments = 2, a->scale = 0.25;
    a->q = f32({T, HQ, HD}), a->row_max = f32({HQ, T}), a->row_sum = f32({HQ, T});
    for (int i = 0; i < 2; i++) {
        a->segment[i].kind = i ? KVDK_SELF : KVDK_CACHE;
        a->segment[i].k = f32({i ? T : N, HK, HD});
        if (with_v) a->segment[i].v = f32({i ? T : N, HK, HD});
    }
}

/* Segments that fit nobody. */
template <class A> void bad_views(const caller<A> &c, bool with_v)
{
    A bare = c.good;
    bare.segment[0].k.data = bare.segment[0].v.data = nullptr;
    if (c.call(bare) != 0) fail_msg("%s: a segment without entries is refused: %s", c.name, kv_message());
    c.refuses_values(&A::n_segments, {-1, 0, 4}, "segments");
    for (int i = 0; i < 2; i++) {
        A a = c.good;
        a.segment[i].k.dtype = KVDK_I32;
        c.refuses(a, "whole numbers for keys in segment", i);
        a = c.good;
        a.segment[i].k.dtype = KVDK_F16;
        c.refuses(a, "two types of keys, from segment", i);
        for (int d = 1; d < 3; d++) {
            a = c.good;
            a.segment[i].k.dim[d]++;
            c.refuses(a, "another shape of keys in segment", i);
        }
        if (with_v) {
            a = c.good;
            a.segment[i].v.dim[0]--;
            c.refuses(a, "fewer values than keys in segment", i);
            a = c.good;
            a.segment[i].v.dim[2]++;
            c.refuses(a, "another shape of values in segment", i);
        }
        a = c.good;
        a.segment[i].valid = tensor(KVDK_U8, {i ? T + 1 : N + 1});
        c.refuses(a, "another number of marks in segment", i);
    }
    A a = c.good;
    a.segment[1].k.dim[0] = T - 1;
    if (with_v) a.segment[1].v.dim[0] = T - 1;
    c.refuses(a, "fewer own entries than tokens", T - 1);
    a = c.good;
    a.segment[0].kind = KVDK_SELF;
    c.refuses(a, "two segments of its own", 2);
    a = c.good;
    a.segment[1].valid = tensor(KVDK_U8, {T}); /* zeros: all dead */
    c.refuses(a, "a dead token of the step", 0);
    a = c.good;
    a.n_segments = 1;
    a.segment[0].valid = tensor(KVDK_U8, {N});
    c.refuses(a, "a view of the dead", 0);
    memset(a.segment[0].valid.data, 1, N);
    if (c.call(a) != 0) fail_msg("%s: a view without the step is refused", c.name);
}

void test_views(void **)
{
    begin();
    auto attn = CALLER(attn_prefill, kvdk_attn_args);
    view_of(&attn.good, true);
    attn.good.o = f32({T, HQ, HD});
    attn.works();
    attn.needs({&kvdk_attn_args::q, &kvdk_attn_args::o});
    attn.fits({&kvdk_attn_args::T, &kvdk_attn_args::Hq, &kvdk_attn_args::Hk, &kvdk_attn_args::hd});
    bad_views(attn, true);
    auto a = attn.good;
    a.row_max.dim[1]++;
    attn.refuses(a, "another size of maxima", T + 1);
    a = attn.good;
    a.row_sum.dim[0]++;
    attn.refuses(a, "another size of sums", HQ + 1);
    a = attn.good;
    a.row_max.data = nullptr;
    if (attn.call(a) != 0) fail_msg("maxima are optional");
    a.row_sum.data = nullptr;
    if (attn.call(a) != 0) fail_msg("sums are optional");

    a = attn.good;
    a.n_segments = 3;
    a.segment[2] = a.segment[1], a.segment[1] = a.segment[0], a.segment[0].kind = KVDK_SINK;
    if (attn.call(a) != 0) fail_msg("a view has up to three segments");

    auto sums = CALLER(attn_colsum, kvdk_colsum_args);
    view_of(&sums.good, false);
    for (int i = 0; i < HQ * T; i++)
        static_cast<float *>(sums.good.row_sum.data)[i] = 1;
    sums.good.colsum = f32({HQ, N + T});
    sums.works();
    sums.needs(
        {&kvdk_colsum_args::q, &kvdk_colsum_args::row_max, &kvdk_colsum_args::row_sum, &kvdk_colsum_args::colsum});
    sums.fits({&kvdk_colsum_args::T, &kvdk_colsum_args::Hq, &kvdk_colsum_args::Hk, &kvdk_colsum_args::hd});
    sums.good.weights = f32({T});
    sums.works();
    auto w = sums.good;
    w.weights.dim[0]++;
    sums.refuses(w, "another number of weights", T + 1);
}

void test_caches(void **)
{
    begin();
    auto append = CALLER(window_append, kvdk_append_args);
    append.good.n = T, append.good.cap = CAP, append.good.Hk = HK, append.good.hd = HD;
    append.good.k = f32({T, HK, HD}), append.good.v = f32({T, HK, HD});
    append.good.k_cache = f32({CAP, HK, HD}), append.good.v_cache = f32({CAP, HK, HD}),
    append.good.ring = tensor(KVDK_I64, {2});
    append.works();
    append.needs({&kvdk_append_args::k, &kvdk_append_args::v, &kvdk_append_args::k_cache, &kvdk_append_args::v_cache,
                  &kvdk_append_args::ring});
    append.fits({&kvdk_append_args::n, &kvdk_append_args::cap, &kvdk_append_args::Hk, &kvdk_append_args::hd});
    auto *ring = static_cast<int64_t *>(append.good.ring.data);
    const int64_t bad[][2] = {{-1, 0}, {CAP, 0}, {0, -1}, {0, CAP + 1}};
    for (int i = 0; i < 4; i++) {
        ring[0] = bad[i][0], ring[1] = bad[i][1];
        append.refuses(append.good, "no state of a ring", i);
    }
    ring[0] = CAP - 1, ring[1] = CAP;
    append.works();

    auto plan = CALLER(cascade_plan, kvdk_plan_args);
    plan.good.G = HK, plan.good.T = T, plan.good.sinks = SINKS, plan.good.W = W, plan.good.levels = LEVELS,
    plan.good.seen = 0;
    plan.good.score = f32({HK, S}), plan.good.new_score = f32({HK, T}), plan.good.og = tensor(KVDK_I64, {HK, S});
    plan.good.rings = tensor(KVDK_I32, {1 + 2 * LEVELS}), plan.good.src = tensor(KVDK_I32, {HK, S}),
    plan.good.dropped = tensor(KVDK_I64, {HK, T});
    auto *words = static_cast<int32_t *>(plan.good.rings.data);
    auto empty = [&] { memset(words, 0, (1 + 2 * LEVELS) * sizeof *words); };
    auto expect = [&](std::initializer_list<int32_t> rings, int64_t seen, bool fine) {
        std::copy(rings.begin(), rings.end(), words);
        auto a = plan.good;
        a.seen = seen;
        if ((plan.call(a) == 0) != fine)
            fail_msg("cascade_plan: rings %d %d after %d tokens", words[0], words[1], (int)seen);
    };
    plan.works();
    empty();
    plan.refuses_values(&kvdk_plan_args::seen, {-1}, "tokens seen");
    plan.fits(
        {&kvdk_plan_args::G, &kvdk_plan_args::T, &kvdk_plan_args::W, &kvdk_plan_args::levels, &kvdk_plan_args::sinks});
    kvdk_tensor kvdk_plan_args::*const all[] = {&kvdk_plan_args::score, &kvdk_plan_args::new_score,
                                                &kvdk_plan_args::og,    &kvdk_plan_args::rings,
                                                &kvdk_plan_args::src,   &kvdk_plan_args::dropped};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        auto a = plan.good;
        empty();
        (a.*all[i]).data = nullptr;
        plan.refuses(a, "no tensor", (int)i);
        a = plan.good;
        empty();
        (a.*all[i]).dim[0]++;
        plan.refuses(a, "another size of tensor", (int)i);
    }
    expect({2, 4, 3, 1, 0}, 7, true);
    expect({2, 4, 3, 1, 0}, 6, false);
    expect({1, 1, 0, 0, 0}, 9, false);
    expect({3, 0, 0, 0, 0}, 9, false);
    expect({2, 5, 0, 0, 0}, 9, false);
    expect({2, 4, 4, 0, 0}, 9, false);
    expect({2, -1, 0, 0, 0}, 9, false);
    expect({2, 4, 0, 5, 0}, 19, false);
    expect({2, 4, -1, 1, 0}, 9, false);

    auto move = CALLER(cascade_move, kvdk_move_args);
    move.good.G = HK, move.good.S = S, move.good.T = T, move.good.hd = HD;
    move.good.src = tensor(KVDK_I32, {HK, S}), move.good.k = f32({T, HK, HD}), move.good.v = f32({T, HK, HD});
    move.good.k_cache = f32({S, HK, HD}), move.good.v_cache = f32({S, HK, HD});
    move.works();
    move.needs({&kvdk_move_args::src, &kvdk_move_args::k, &kvdk_move_args::v, &kvdk_move_args::k_cache,
                &kvdk_move_args::v_cache});
    move.fits({&kvdk_move_args::G, &kvdk_move_args::S, &kvdk_move_args::T, &kvdk_move_args::hd});
}

void test_codes(void **)
{
    begin();
    kv_policy p;
    assert_ok(kv_policy_parse("full+kvarn:tile=32", &p));
    const int64_t bytes = kv_kvarn_layout_of(&p.kvarn, HD).bytes;
    auto code = CALLER(kv_quant_tile, kvdk_tile_args);
    code.good.tile = TILE, code.good.hd = HD, code.good.kbits = p.kvarn.kbits, code.good.vbits = p.kvarn.vbits,
    code.good.iters = 2;
    code.good.k = f32({TILE, HD}), code.good.v = f32({TILE, HD}), code.good.record = tensor(KVDK_U8, {bytes});
    code.works();
    code.fits({&kvdk_tile_args::tile, &kvdk_tile_args::hd, &kvdk_tile_args::kbits, &kvdk_tile_args::vbits});
    code.refuses_values(&kvdk_tile_args::iters, {-1, 0, 65}, "rounds");
    code.takes_values(&kvdk_tile_args::iters, {1, 64});
    code.refuses_values(&kvdk_tile_args::format, {-1, 2}, "format");
    code.needs({&kvdk_tile_args::k, &kvdk_tile_args::v, &kvdk_tile_args::record});
    static_cast<float *>(code.good.v.data)[TILE * HD - 1] = kv_inf();
    code.refuses(code.good, "an infinite value", 0);
    static_cast<float *>(code.good.v.data)[TILE * HD - 1] = 0;
    static_cast<float *>(code.good.k.data)[0] = kv_inf();
    code.refuses(code.good, "an infinite key", 0);

    auto attn = CALLER(attn_quant, kvdk_attn_quant_args);
    attn.good.Hq = HQ, attn.good.Hk = HK, attn.good.hd = HD, attn.good.tiles = 2, attn.good.tail = T,
    attn.good.tile = TILE;
    attn.good.kbits = p.kvarn.kbits, attn.good.vbits = p.kvarn.vbits, attn.good.scale = 0.25;
    attn.good.q = f32({HQ, HD}), attn.good.records = tensor(KVDK_U8, {2, HK, bytes});
    attn.good.tail_k = f32({T, HK, HD}), attn.good.tail_v = f32({T, HK, HD}), attn.good.o = f32({HQ, HD});
    attn.works();
    attn.needs({&kvdk_attn_quant_args::q, &kvdk_attn_quant_args::records, &kvdk_attn_quant_args::tail_k,
                &kvdk_attn_quant_args::tail_v, &kvdk_attn_quant_args::o});
    attn.fits({&kvdk_attn_quant_args::Hq, &kvdk_attn_quant_args::Hk, &kvdk_attn_quant_args::hd,
               &kvdk_attn_quant_args::tile, &kvdk_attn_quant_args::kbits, &kvdk_attn_quant_args::vbits});
    attn.refuses_values(&kvdk_attn_quant_args::tiles, {-1, 1, 3}, "tiles");
    attn.refuses_values(&kvdk_attn_quant_args::tail, {-1, T - 1, T + 1}, "rows of the tail");
    auto a = attn.good;
    a.tiles = 0, a.tail = 0;
    attn.refuses(a, "nothing to see", 0);
    a.tail = T, a.records.data = nullptr;
    if (attn.call(a) != 0) fail_msg("attn_quant: a tail alone is refused");
    a = attn.good, a.tail = TILE, a.tail_k = f32({TILE, HK, HD}), a.tail_v = f32({TILE, HK, HD});
    if (attn.call(a) != 0) fail_msg("attn_quant: a whole tile of tail is refused");
    a.tail = TILE + 1, a.tail_k = f32({TILE + 1, HK, HD}), a.tail_v = f32({TILE + 1, HK, HD});
    attn.refuses(a, "a tail longer than a tile", TILE + 1);
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_logits),
                                cmocka_unit_test(test_views), cmocka_unit_test(test_caches),
                                cmocka_unit_test(test_codes)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
