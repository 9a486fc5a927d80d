/* cascade.cu - docs/policy/cascade.md: scores from attention, insertion as a tournament, events, replay, import. */
#include "gpu/policy/cascade.cuh"

#include <algorithm>

gpu_cascade::gpu_cascade(const kv_cascade_params &params, const gpu_site &site)
    : params_(params), site_(site),
      per_layer_(params.homog || params.select != KV_SELECT_EMA ? 1 : site.kv_heads),
      lists_(site.n_layers * per_layer_, site.stream), plan_(params)
{
}

gpu_duel_rule gpu_cascade::rule() const
{
    if (!given_.empty()) return GPU_DUEL_GIVEN;
    if (!by_score()) return params_.select == KV_SELECT_NEWEST ? GPU_DUEL_COMES : GPU_DUEL_STAYS;
    return params_.compat == KV_COMPAT_STRICT ? GPU_DUEL_STRICT : GPU_DUEL_SCORE;
}

/* w_r = fp32((1 - beta) b_(m-1-r)), decay = fp32(b_m); powers by repeated multiplication in double. */
kv_status gpu_cascade::make_weights(int32_t m)
{
    if (KV_MUT(G47, weights_for_ > 0, m == weights_for_)) return KV_OK;
    std::vector<float> w((size_t)m);
    const double share = kv_dsub(1.0, params_.beta);
    double b = 1.0;
    for (int32_t r = m - 1; r >= 0; r--) {
        w[(size_t)r] = kv_d2f(kv_dmul(share, b));
        b = kv_dmul(b, params_.beta);
    }
    decay_ = kv_d2f(b);
    KV_TRY(weights_.reserve(w.size()));
    KV_TRY(gpu_copy_up(weights_.p, w.data(), w.size() * sizeof w[0], site_.stream));
    KV_TRY(gpu_stream_finish(site_.stream));
    weights_for_ = m;
    return KV_OK;
}

/* ---- a step ---- */

kv_status gpu_cascade::begin(int64_t seen, int32_t m, gpu_view *view, kv_events *)
{
    const int64_t n = gpu_rings_entries(plan_.rings()), n_view = n + m;
    if (n_view > INT32_MAX)
        return kv_fail(KV_ERR_UNSUPPORTED, "cascade: a step of %d tokens beside %lld entries is beyond the last position, "
                       "2^31 - 1; use shorter steps", m, (long long)n);
    KV_TRY(lists_.reserve(n_view));
    KV_TRY(lists_.append(std::vector<int32_t>((size_t)lists_.count(), (int32_t)n), seen, m));
    KV_TRY(view_rows_.reserve((size_t)(n_view * lists_.count())));
    KV_TRY(view_of_.reserve((size_t)n_view));
    KV_TRY(gpu_rings_view(plan_.rings(), lists_.view(), lists_.count(), m, view_rows_.p, view_of_.p, site_.stream));
    rows_ = std::max(rows_, n_view);
    m_ = m;
    view->table = view_rows_.p;
    view->head_stride = per_layer_ == 1 ? 0 : n_view;
    view->pos = (int32_t)n;
    for (int32_t l = 0; l < site_.n_layers; l++) view->layers.push_back({n, list_of(l, 0) * n_view});
    if (!by_score()) return KV_OK;
    KV_TRY(make_weights(m));
    view->counting.wanted = true;
    view->counting.weights = weights_.p;
    view->counting.reversed = params_.compat == KV_COMPAT_REVERSED;
    return KV_OK;
}

kv_status gpu_cascade::count(int32_t layer, const float *sums)
{
    gpu_score_args a = {};
    a.sums = sums;
    a.heads = site_.heads;
    a.n_lists = per_layer_;
    a.n_stored = gpu_rings_entries(plan_.rings());
    a.m = m_;
    a.reduction = params_.reduce == KV_REDUCE_MAX    ? GPU_MAX
                  : params_.reduce == KV_REDUCE_MEAN ? GPU_MEAN
                                                     : GPU_MEDIAN;
    a.carried = true;
    a.decay = KV_MUT(G44, (float)params_.beta, decay_);
    a.half = params_.score == KV_SCORE_F16;
    a.view_of = view_of_.p;
    a.n_sinks = params_.sinks;
    a.shift = params_.compat == KV_COMPAT_SHIFTED && m_ > 1 ? params_.sinks : 0;
    a.scores = lists_.view().scores + list_of(layer, 0) * lists_.stride();
    a.list_stride = lists_.stride();
    return gpu_scores(a, site_.stream);
}

kv_status gpu_cascade::finish(int64_t seen, int32_t m, kv_events *events)
{
    gpu_cascade_plan next = plan_;
    std::vector<gpu_ring_move> moves;
    for (int32_t x = 0; x < m; x++) next.insert(seen + x, &moves);
    KV_TRY(run_tournament(moves, m, gpu_rings_entries(next.rings())));
    if (events) KV_TRY(note_all(moves, seen, events));
    KV_TRY(gpu_stream_finish(site_.stream));
    lists_.flip();
    plan_ = next;
    given_.clear();
    return KV_OK;
}

static int32_t count_duels(const std::vector<gpu_ring_move> &moves)
{
    int32_t n = 0;
    for (const gpu_ring_move &move : moves) n += move.step == GPU_RING_DUEL;
    return n;
}

kv_status gpu_cascade::run_tournament(const std::vector<gpu_ring_move> &moves, int32_t m, int32_t n_after)
{
    gpu_tournament t = {};
    t.n_duels = count_duels(moves);
    const size_t outcomes = (size_t)t.n_duels * (size_t)lists_.count();
    KV_TRY(moves_.reserve(moves.size()));
    KV_TRY(gpu_copy_up(moves_.p, moves.data(), moves.size() * sizeof moves[0], site_.stream));
    KV_TRY(source_.reserve((size_t)(lists_.stride() * lists_.count())));
    KV_TRY(won_.reserve(outcomes));
    KV_TRY(margin_.reserve(outcomes));
    if (!given_.empty()) KV_TRY(gpu_copy_up(won_.p, given_.data(), outcomes, site_.stream));
    t.from = lists_.view();
    t.to = lists_.spare();
    t.n_lists = lists_.count();
    t.n = gpu_rings_entries(plan_.rings());
    t.m = m;
    t.n_after = n_after;
    t.moves = moves_.p;
    t.n_moves = (int32_t)moves.size();
    t.rule = rule();
    t.source = source_.p;
    t.won = won_.p;
    t.margin = margin_.p;
    return gpu_tournament_run(t, site_.stream);
}

/* ---- events ---- */

namespace
{
/* Goes through a plan once more, for one list, with original indices: says what happened. */
class narrator
{
public:
    /* slots: original indices of the n entries by slot. */
    narrator(const std::vector<gpu_ring_move> &moves, int32_t layer, int32_t head, std::vector<int64_t> slots)
        : moves_(moves), layer_(layer), head_(head), slots_(std::move(slots))
    {
    }

    /* duel(comes, &wins, &margin) says whether the token that comes wins; emit takes an event. */
    template <class Duel, class Emit> kv_status run(int64_t first_token, Duel duel, Emit emit)
    {
        int64_t token = first_token, comes = token;
        int32_t from = -1; /* slot that `comes` held before */
        for (const gpu_ring_move &move : moves_) {
            if (move.step == GPU_RING_DROP) {
                KV_TRY(emit(event(KV_EVENT_EVICT, comes, token, from, kv_inf())));
            } else if (move.step == GPU_RING_DUEL) {
                int64_t &stays = slots_[(size_t)move.slot];
                float margin = kv_inf();
                bool wins = false;
                KV_TRY(duel(comes, &wins, &margin));
                if (wins) KV_TRY(emit(event(KV_EVENT_MOVE, comes, token, move.slot, kv_inf())));
                KV_TRY(emit(event(KV_EVENT_EVICT, wins ? stays : comes, token, wins ? move.slot : from, margin)));
                if (wins) stays = comes;
            } else {
                KV_TRY(emit(event(comes == token ? KV_EVENT_ADMIT : KV_EVENT_MOVE, comes, token, move.slot, kv_inf())));
                if ((size_t)move.slot >= slots_.size()) slots_.resize((size_t)move.slot + 1, -1);
                std::swap(slots_[(size_t)move.slot], comes);
                from = move.slot;
                if (move.step == GPU_RING_SWAP) continue;
            }
            comes = ++token;
            from = -1;
        }
        return KV_OK;
    }

private:
    kv_event event(kv_event_kind kind, int64_t og, int64_t token, int32_t slot, float margin) const
    {
        return {og, token, layer_, head_, kind, slot, margin, 0};
    }

    const std::vector<gpu_ring_move> &moves_;
    int32_t layer_, head_;
    std::vector<int64_t> slots_;
};
} // namespace

kv_status gpu_cascade::note_all(const std::vector<gpu_ring_move> &moves, int64_t seen, kv_events *events)
{
    const size_t n_duels = (size_t)count_duels(moves), outcomes = n_duels * (size_t)lists_.count();
    std::vector<int64_t> ogs;
    std::vector<uint8_t> won(outcomes);
    std::vector<float> margins(outcomes);
    KV_TRY(gpu_copy_down(won.data(), won_.p, outcomes, site_.stream));
    KV_TRY(gpu_copy_down(margins.data(), margin_.p, outcomes * sizeof(float), site_.stream));
    KV_TRY(lists_.read_all(&ogs, nullptr)); /* as they were before the step */
    for (int32_t l = 0; l < lists_.count(); l++) {
        const auto slots = ogs.begin() + l * lists_.stride();
        narrator story(moves, l / per_layer_, per_layer_ == 1 ? -1 : l % per_layer_,
                       std::vector<int64_t>(slots, slots + gpu_rings_entries(plan_.rings())));
        size_t at = (size_t)l * n_duels;
        KV_TRY(story.run(
            seen,
            [&](int64_t, bool *wins, float *margin) {
                *wins = won[at] != 0;
                if (by_score()) *margin = margins[at];
                at++;
                return KV_OK;
            },
            [&](const kv_event &e) { return gpu_note(events, e); }));
    }
    return KV_OK;
}

kv_status gpu_cascade::publish(const kv_events &noted, kv_events *out) const
{
    for (size_t i = 0; i < noted.n; i++) KV_TRY(gpu_note(out, noted.v[i]));
    return KV_OK;
}

/* The list says who wins; everything else has to be as planned. */
kv_status gpu_cascade::follow(int64_t seen, int32_t m, const kv_events &given)
{
    gpu_cascade_plan next = plan_;
    std::vector<gpu_ring_move> moves;
    std::vector<int64_t> ogs;
    std::vector<uint8_t> outcomes;
    gpu_follower f(given);
    for (int32_t x = 0; x < m; x++) next.insert(seen + x, &moves);
    KV_TRY(lists_.read_all(&ogs, nullptr));
    for (int32_t l = 0; l < lists_.count(); l++) {
        const auto slots = ogs.begin() + l * lists_.stride();
        narrator story(moves, l / per_layer_, per_layer_ == 1 ? -1 : l % per_layer_,
                       std::vector<int64_t>(slots, slots + gpu_rings_entries(plan_.rings())));
        KV_TRY(story.run(
            seen,
            [&](int64_t comes, bool *wins, float *) {
                *wins = f.next() && f.next()->kind == KV_EVENT_MOVE && f.next()->og == comes;
                outcomes.push_back(*wins);
                return KV_OK;
            },
            [&](const kv_event &e) { return f.expect(e); }));
    }
    KV_TRY(f.finish());
    given_ = std::move(outcomes);
    return KV_OK;
}

/* ---- state ---- */

kv_status gpu_cascade::reset()
{
    plan_ = gpu_cascade_plan(params_);
    given_.clear();
    rows_ = 0;
    return lists_.reset();
}

kv_status gpu_cascade::list(int32_t layer, int32_t head, std::vector<gpu_entry> *entries) const
{
    const gpu_rings &r = plan_.rings();
    std::vector<gpu_entry> by_slot;
    KV_TRY(lists_.read(list_of(layer, head), gpu_rings_entries(r), &by_slot));
    entries->resize(by_slot.size());
    for (size_t slot = 0; slot < by_slot.size(); slot++) {
        const int32_t view = gpu_rings_view_of(r, (int32_t)slot);
        by_slot[slot].pos = view;
        (*entries)[(size_t)view] = by_slot[slot];
    }
    return KV_OK;
}

/* Sinks and the newest ring follow from the number of tokens; the others hold older tokens, in order. */
kv_status gpu_cascade::check_run(int64_t seen, const gpu_rings &rings, int32_t layer,
                                 const std::vector<gpu_entry> &run) const
{
    const int64_t n = (int64_t)run.size();
    if (n != gpu_rings_entries(rings))
        return kv_fail(KV_ERR_MISMATCH, "cascade: the state holds %lld entries in layer %d; after %lld tokens there are %d",
                       (long long)n, layer, (long long)seen, gpu_rings_entries(rings));
    for (int64_t i = 0; i < n; i++) {
        const int64_t og = run[(size_t)i].og;
        const bool fixed = i < rings.n_sinks || i >= n - rings.count[0];
        const int64_t wanted = i < rings.n_sinks ? i : seen - n + i;
        const bool ascends = i == 0 || og > run[(size_t)i - 1].og;
        if (!ascends || og < 0 || og >= seen || (fixed && og != wanted) || run[(size_t)i].pos != i)
            return kv_fail(KV_ERR_MISMATCH, "cascade: entry %lld of layer %d is token %lld at position %d; sinks come first, "
                           "then older before newer tokens, and the newest are all there", (long long)i, layer,
                           (long long)og, run[(size_t)i].pos);
    }
    return KV_OK;
}

kv_status gpu_cascade::adopt(int64_t seen, gpu_runs *runs)
{
    gpu_cascade_plan plan(params_);
    std::vector<gpu_ring_move> moves;
    for (int64_t t = 0; t < seen; t++) {
        moves.clear();
        plan.insert(t, &moves);
    }
    const gpu_rings &r = plan.rings();
    for (size_t i = 0; i < runs->size(); i++) {
        const std::vector<gpu_entry> &run = (*runs)[i], &first = (*runs)[i / (size_t)site_.kv_heads * (size_t)site_.kv_heads];
        const int32_t layer = (int32_t)i / site_.kv_heads;
        KV_TRY(check_run(seen, r, layer, run));
        for (size_t e = 0; e < run.size() && per_layer_ == 1; e++)
            if (run[e].og != first[e].og || kv_f2bits(run[e].score) != kv_f2bits(first[e].score))
                return kv_fail(KV_ERR_MISMATCH, "cascade: heads of layer %d hold different tokens or scores; with these "
                               "parameters they agree", layer);
    }
    KV_TRY(reset());
    for (size_t i = 0; i < runs->size(); i++) {
        std::vector<gpu_entry> &run = (*runs)[i], by_slot(run.size());
        for (size_t slot = 0; slot < run.size(); slot++) by_slot[slot] = run[(size_t)gpu_rings_view_of(r, (int32_t)slot)];
        KV_TRY(lists_.write(list_of((int32_t)i / site_.kv_heads, (int32_t)i % site_.kv_heads), &by_slot));
        for (size_t slot = 0; slot < run.size(); slot++)
            run[(size_t)gpu_rings_view_of(r, (int32_t)slot)].row = by_slot[slot].row;
        rows_ = std::max(rows_, (int64_t)run.size());
    }
    plan_ = plan;
    return KV_OK;
}

kv_status gpu_cascade::clone(std::unique_ptr<gpu_policy> *out) const
{
    std::unique_ptr<gpu_cascade> copy = std::make_unique<gpu_cascade>(params_, site_);
    copy->plan_ = plan_;
    copy->rows_ = rows_;
    KV_TRY(copy->lists_.copy_from(lists_));
    *out = std::move(copy);
    return KV_OK;
}

kv_status gpu_cascade::impose(int32_t l, int32_t first, const std::vector<float> &scores)
{
    float *const to = lists_.view().scores + l * lists_.stride() + first;
    KV_TRY(gpu_copy_up(to, scores.data(), scores.size() * sizeof(float), site_.stream));
    return gpu_stream_finish(site_.stream);
}

std::unique_ptr<gpu_policy> gpu_policy_cascade(const kv_cascade_params &params, const gpu_site &site)
{
    return std::make_unique<gpu_cascade>(params, site);
}
