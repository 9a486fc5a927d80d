/* door_cache.cu - window_append, cascade_plan, cascade_move: which token stands where. As in a session, what follows from the
 * number of tokens alone is planned on the host. */
#include "gpu/coded.cuh"
#include "gpu/door/door.cuh"
#include "gpu/policy/cascade.cuh"

#include <algorithm>

/* ---- window_append ---- */

/* A ring whose token og has row og modulo cap, as storages in codes keep their newest rows. The token that
 * comes first has the number start + count. */
static kv_status append(const kvdk_append_args &a, door &d)
{
    gpu_raw_rows k = {}, v;
    std::vector<int64_t> ring;
    KV_TRY(door_extents({a.n, a.cap, a.Hk, a.hd, a.Hk * a.hd * 2}));
    KV_TRY(d.read(a.ring, {2}, &ring));
    if (ring[0] < 0 || ring[0] >= a.cap || ring[1] < 0 || ring[1] > a.cap) return door_refuse("this is no state of a ring");
    k.fresh_stride = a.Hk * a.hd;
    k.seen = ring[0] + ring[1];
    k.R = (int32_t)a.cap;
    k.width = (int32_t)(a.Hk * a.hd);
    v = k;
    KV_TRY(d.in(a.k, {a.n, a.Hk, a.hd}, &k.fresh));
    KV_TRY(d.in(a.v, {a.n, a.Hk, a.hd}, &v.fresh));
    KV_TRY(d.inout(a.k_cache, {a.cap, a.Hk, a.hd}, &k.ring));
    KV_TRY(d.inout(a.v_cache, {a.cap, a.Hk, a.hd}, &v.ring));
    KV_TRY(gpu_keep_rows(k, v, (int32_t)a.n, d.stream));
    const int64_t over = std::max<int64_t>(0, ring[1] + a.n - a.cap);
    return d.write(a.ring, {2}, std::vector<int64_t>{(ring[0] + over) % a.cap, ring[1] + a.n - over});
}

/* ---- cascade_plan ---- */

/* Rings as the interface has them: sinks stored, then count and start of each. */
static gpu_rings rings_from(const kvdk_plan_args &a, const std::vector<int32_t> &words)
{
    gpu_rings r = {};
    r.sinks = (int32_t)a.sinks;
    r.window = (int32_t)a.W;
    r.n = (int32_t)a.levels;
    r.n_sinks = words[0];
    for (int32_t i = 0; i < r.n; i++) {
        r.count[i] = words[(size_t)(1 + 2 * i)];
        r.start[i] = words[(size_t)(2 + 2 * i)];
    }
    return r;
}

static std::vector<int32_t> words_of(const gpu_rings &r)
{
    std::vector<int32_t> words = {r.n_sinks};
    for (int32_t i = 0; i < r.n; i++) {
        words.push_back(r.count[i]);
        words.push_back(r.start[i]);
    }
    return words;
}

/* Rings fill in order, and turn when they are full. */
static bool can_be(const gpu_rings &r)
{
    bool full = r.n_sinks == r.sinks;
    if (r.n_sinks < 0 || r.n_sinks > r.sinks) return false;
    for (int32_t i = 0; i < r.n; i++) {
        const int32_t count = r.count[i], start = r.start[i];
        if (count < 0 || count > r.window || start < 0 || start >= r.window) return false;
        if ((!full && count > 0) || (count < r.window && start > 0)) return false;
        full = full && count == r.window;
    }
    return true;
}

/* The lists before the step: entries by slot, then the tokens that come. A row says where the entry was: its slot, or -1 - t. */
static kv_status make_lists(const kvdk_plan_args &a, door &d, int64_t n, gpu_list_view *lists)
{
    const int64_t S = a.sinks + a.levels * a.W, stride = S + a.T;
    std::vector<int32_t> rows((size_t)(a.G * stride), -1);
    std::vector<int64_t> ogs(rows.size(), -1), og;
    std::vector<float> scores(rows.size()), score, fresh;
    KV_TRY(d.read(a.og, {a.G, S}, &og));
    KV_TRY(d.read(a.score, {a.G, S}, &score));
    KV_TRY(d.read(a.new_score, {a.G, a.T}, &fresh));
    for (int64_t g = 0; g < a.G; g++)
        for (int64_t i = 0; i < n + a.T; i++) {
            const int64_t t = i - n, slot = g * S + i;
            const size_t at = (size_t)(g * stride + i);
            rows[at] = (int32_t)(t < 0 ? i : -1 - t);
            ogs[at] = t < 0 ? og[(size_t)slot] : a.seen + t;
            scores[at] = t < 0 ? score[(size_t)slot] : fresh[(size_t)(g * a.T + t)];
        }
    lists->stride = stride;
    KV_TRY(d.up(rows, &lists->rows));
    KV_TRY(d.up(ogs, &lists->ogs));
    return d.up(scores, &lists->scores);
}

static int32_t count_steps(const std::vector<gpu_ring_move> &moves, gpu_ring_step step)
{
    return (int32_t)std::count_if(moves.begin(), moves.end(), [&](const gpu_ring_move &m) { return m.step == step; });
}

/* Behind the entries the lists hold what has left, in order: at most one for each token, at its last move. */
static kv_status give_plan(const kvdk_plan_args &a, door &d, const std::vector<gpu_ring_move> &moves, int64_t n_after,
                           const gpu_list_view &lists)
{
    const int64_t S = a.sinks + a.levels * a.W;
    std::vector<int32_t> rows, src((size_t)(a.G * S));
    std::vector<int64_t> ogs, dropped((size_t)(a.G * a.T), -1);
    KV_TRY(d.down(lists.rows, (size_t)(a.G * lists.stride), &rows));
    KV_TRY(d.down(lists.ogs, (size_t)(a.G * lists.stride), &ogs));
    for (int64_t g = 0; g < a.G; g++) {
        int64_t left = g * lists.stride + n_after, t = g * a.T;
        for (int64_t s = 0; s < S; s++)
            src[(size_t)(g * S + s)] = s < n_after ? rows[(size_t)(g * lists.stride + s)] : (int32_t)s;
        for (const gpu_ring_move &move : moves) {
            if (move.step == GPU_RING_SWAP) continue;
            if (move.step != GPU_RING_PUT) dropped[(size_t)t] = ogs[(size_t)left++];
            t++;
        }
    }
    KV_TRY(d.write(a.src, {a.G, S}, src));
    return d.write(a.dropped, {a.G, a.T}, dropped);
}

static kv_status duel(const kvdk_plan_args &a, door &d, const std::vector<gpu_ring_move> &moves, int64_t n, int64_t n_after)
{
    gpu_tournament t = {};
    KV_TRY(make_lists(a, d, n, &t.from));
    const size_t elements = (size_t)(a.G * t.from.stride);
    t.to.stride = t.from.stride;
    KV_TRY(d.memory(elements, &t.to.rows));
    KV_TRY(d.memory(elements, &t.to.ogs));
    KV_TRY(d.memory(elements, &t.to.scores));
    gpu_ring_move *planned;
    KV_TRY(d.up(moves, &planned));
    t.n_lists = (int32_t)a.G;
    t.n = (int32_t)n;
    t.m = (int32_t)a.T;
    t.n_after = (int32_t)n_after;
    t.moves = planned;
    t.n_moves = (int32_t)moves.size();
    t.n_duels = count_steps(moves, GPU_RING_DUEL);
    t.rule = GPU_DUEL_SCORE;
    KV_TRY(d.memory(elements, &t.source));
    KV_TRY(d.memory((size_t)(a.G * t.n_duels), &t.won));
    KV_TRY(d.memory((size_t)(a.G * t.n_duels), &t.margin));
    KV_TRY(gpu_tournament_run(t, d.stream));
    return give_plan(a, d, moves, n_after, t.to);
}

static kv_status plan(const kvdk_plan_args &a, door &d)
{
    kv_cascade_params p = {};
    std::vector<int32_t> words;
    std::vector<gpu_ring_move> moves;
    KV_TRY(door_extents({a.G, a.T, a.W, a.levels, a.sinks + 1, a.levels * a.W, a.sinks + a.levels * a.W + a.T}));
    if (a.levels > KV_CASCADE_MAX) return door_refuse("a cascade has at most 8 rings");
    KV_TRY(d.read(a.rings, {1 + 2 * a.levels}, &words));
    const gpu_rings before = rings_from(a, words);
    if (!can_be(before) || a.seen < gpu_rings_entries(before)) return door_refuse("rings fill in order: this is no state of them");
    p.sinks = (int32_t)a.sinks;
    p.window = (int32_t)a.W;
    p.n = (int32_t)a.levels;
    p.cap = p.n * p.window;
    p.eager = a.eager != 0;
    gpu_cascade_plan next(p, before);
    for (int64_t t = 0; t < a.T; t++) next.insert(a.seen + t, &moves);
    KV_TRY(duel(a, d, moves, gpu_rings_entries(before), gpu_rings_entries(next.rings())));
    return d.write(a.rings, {1 + 2 * a.levels}, words_of(next.rings()));
}

/* ---- cascade_move ---- */

/* A session moves rows of a table and reads K and V through it. So here: the table is src, and what is read goes back to the
 * slots. New token t stands before the first row of the cache, in row -1 - t. */
static kv_status move_rows(const kvdk_move_args &a, door &d, const kvdk_tensor &fresh, const kvdk_tensor &cache, const int32_t *src)
{
    const int64_t width = a.G * a.hd;
    float *rows, *moved;
    KV_TRY(door_expect(fresh, KVDK_F32, {a.T, a.G, a.hd}));
    KV_TRY(door_expect(cache, KVDK_F32, {a.S, a.G, a.hd}));
    KV_TRY(d.memory((size_t)((a.T + a.S) * width), &rows));
    KV_TRY(d.memory((size_t)(a.S * width), &moved));
    float *const slot0 = rows + a.T * width;
    KV_TRY(d.copy(door_tensor(slot0 - width, KVDK_F32, {a.T, a.G, a.hd}, {-width, a.hd, 1}), fresh));
    KV_TRY(d.copy(door_packed(slot0, KVDK_F32, {a.S, a.G, a.hd}), cache));
    KV_TRY(gpu_rope_view({slot0, KV_STORE_F32}, {src, a.S}, (int32_t)a.S, (int32_t)a.G, (int32_t)a.hd, {}, moved, d.stream));
    return d.copy(cache, door_packed(moved, KVDK_F32, {a.S, a.G, a.hd}));
}

static kv_status move(const kvdk_move_args &a, door &d)
{
    const int32_t *src;
    KV_TRY(door_extents({a.G, a.S, a.T, a.hd, a.G * a.hd}));
    if (a.hd % 2) return door_refuse("heads are pairs");
    KV_TRY(d.in(a.src, {a.G, a.S}, &src));
    KV_TRY(move_rows(a, d, a.k, a.k_cache, src));
    return move_rows(a, d, a.v, a.v_cache, src);
}

int kvdk_window_append(const kvdk_append_args *a, kvdk_stream stream) { return door_run(a, stream, append); }
int kvdk_cascade_plan(const kvdk_plan_args *a, kvdk_stream stream) { return door_run(a, stream, plan); }
int kvdk_cascade_move(const kvdk_move_args *a, kvdk_stream stream) { return door_run(a, stream, move); }
