/* ranked.cu - one eviction per step, by score: device lists, events, replay, import. */
#include "gpu/policy/ranked.cuh"

#include <algorithm>

gpu_ranked::gpu_ranked(const char *name, const gpu_site &site, int32_t per_layer)
    : name_(name), site_(site), per_layer_(per_layer), lists_(site.n_layers * per_layer, site.stream),
      n_((size_t)site.n_layers, 0)
{
}

bool gpu_ranked::evicts(int64_t seen, int32_t m) const
{
    for (int32_t l = 0; l < site_.n_layers; l++)
        if (!budget_of(l, n_[(size_t)l] + m, seen, m).all()) return true;
    return false;
}

gpu_score_args gpu_ranked::score_args(int32_t layer, const float *sums) const
{
    gpu_score_args a = {};
    a.sums = sums;
    a.heads = site_.heads;
    a.n_lists = per_layer_;
    a.n_stored = n_[(size_t)layer];
    a.m = m_;
    a.scores = lists_.view().scores + list_of(layer, 0) * lists_.stride();
    a.list_stride = lists_.stride();
    return a;
}

/* ---- a piece ---- */

kv_status gpu_ranked::begin(int64_t seen, int32_t m, gpu_view *view, kv_events *)
{
    const int64_t n = *std::max_element(n_.begin(), n_.end()) + m;
    if (seen + m > INT32_MAX)
        return kv_fail(KV_ERR_UNSUPPORTED, "%s: token %lld is beyond the last position, 2^31 - 1", name_,
                       (long long)(seen + m - 1));
    KV_TRY(lists_.reserve(n));
    std::vector<int32_t> counts;
    for (int32_t l = 0; l < lists_.count(); l++) counts.push_back(n_[(size_t)(l / per_layer_)]);
    KV_TRY(lists_.append(counts, seen, m));
    rows_ = std::max(rows_, n);
    m_ = m;
    view->table = lists_.view().rows;
    view->head_stride = per_layer_ == 1 ? 0 : lists_.stride();
    view->pos = (int32_t)seen;
    for (int32_t l = 0; l < site_.n_layers; l++)
        view->layers.push_back({n_[(size_t)l], list_of(l, 0) * lists_.stride()});
    choose_queries(seen, m, &view->counting);
    return KV_OK;
}

kv_status gpu_ranked::finish(int64_t seen, int32_t m, kv_events *events)
{
    if (evicts(seen, m)) return evict(seen, m, events);
    for (int32_t l = 0; l < lists_.count() && events; l++)
        for (int32_t x = 0; x < m; x++)
            KV_TRY(gpu_note(events, event(l, KV_EVENT_ADMIT, seen + x, seen + x, n_[(size_t)(l / per_layer_)] + x,
                                          kv_inf())));
    for (int32_t &n : n_) n += m;
    return KV_OK;
}

kv_status gpu_ranked::evict(int64_t seen, int32_t m, kv_events *events)
{
    std::vector<gpu_selection> selections;
    for (int32_t l = 0; l < lists_.count(); l++) {
        const int64_t n = n_[(size_t)(l / per_layer_)] + m;
        const budget b = budget_of(l / per_layer_, n, seen, m);
        selections.push_back({(int32_t)n, (int32_t)b.n_open, (int32_t)b.keep});
    }
    const size_t bytes = selections.size() * sizeof selections[0];
    KV_TRY(selections_.reserve(selections.size()));
    KV_TRY(lowest_.reserve(selections.size()));
    KV_TRY(gpu_copy_up(selections_.p, selections.data(), bytes, site_.stream));
    KV_TRY(upload_given());
    KV_TRY(gpu_select(lists_.view(), lists_.spare(), lists_.count(), selections_.p,
                      given_.empty() ? nullptr : given_there_.p, lowest_.p, site_.stream));
    lists_.flip();
    given_.clear();
    for (int32_t l = 0; l < site_.n_layers; l++) {
        const gpu_selection &s = selections[(size_t)list_of(l, 0)];
        n_[(size_t)l] = s.keep + s.n - s.n_open;
    }
    if (events) KV_TRY(note_evictions(seen, m, selections, events));
    return gpu_stream_finish(site_.stream);
}

/* ---- events ---- */

kv_event gpu_ranked::event(int32_t l, kv_event_kind kind, int64_t og, int64_t token, int64_t slot, float margin) const
{
    return {og, token, l / per_layer_, per_layer_ == 1 ? -1 : l % per_layer_, kind, (int32_t)slot, margin, 0};
}

/* The lists after the selection still hold what has left, behind what stays. */
kv_status gpu_ranked::note_evictions(int64_t seen, int32_t m, const std::vector<gpu_selection> &selections,
                                     kv_events *events) const
{
    std::vector<int64_t> ogs;
    std::vector<float> scores, lowest(selections.size());
    KV_TRY(gpu_copy_down(lowest.data(), lowest_.p, lowest.size() * sizeof(float), site_.stream));
    KV_TRY(lists_.read_all(&ogs, &scores));
    for (int32_t l = 0; l < lists_.count(); l++) {
        const size_t at = (size_t)(l * lists_.stride());
        KV_TRY(note_list(l, seen, m, selections[(size_t)l], &ogs[at], &scores[at], lowest[(size_t)l], events));
    }
    return KV_OK;
}

/* Both parts of the list are in ascending order: together they number the entries as they were before. */
kv_status gpu_ranked::note_list(int32_t l, int64_t seen, int32_t m, const gpu_selection &s, const int64_t *ogs,
                                const float *scores, float lowest, kv_events *events) const
{
    const int64_t n_kept = s.keep + s.n - s.n_open, last = seen + m - 1;
    for (int64_t i = n_kept, before = 0; i < s.n; i++) {
        while (before < n_kept && ogs[before] < ogs[i]) before++;
        const float margin = s.keep == 0 ? kv_inf() : gpu_margin(lowest, scores[i]);
        KV_TRY(gpu_note(events, event(l, KV_EVENT_EVICT, ogs[i], last, i - n_kept + before, margin)));
    }
    return note_admissions(l, seen, m, ogs, n_kept, events);
}

kv_status gpu_ranked::note_admissions(int32_t l, int64_t seen, int32_t m, const int64_t *kept, int64_t n_kept,
                                      kv_events *events) const
{
    const int64_t *const end = kept + n_kept, *at = std::lower_bound(kept, end, seen);
    for (int64_t og = seen; og < seen + m; og++) {
        const bool stays = at != end && *at == og;
        KV_TRY(gpu_note(events, event(l, KV_EVENT_ADMIT, og, og, stays ? at - kept : -1, kv_inf())));
        at += stays;
    }
    return KV_OK;
}

kv_status gpu_ranked::publish(const kv_events &noted, kv_events *out) const
{
    std::vector<kv_event> sorted(noted.v, noted.v + noted.n);
    std::stable_sort(sorted.begin(), sorted.end(), [](const kv_event &a, const kv_event &b) {
        return a.layer != b.layer ? a.layer < b.layer : a.head < b.head;
    });
    for (const kv_event &e : sorted) KV_TRY(gpu_note(out, e));
    return KV_OK;
}

/* ---- replay ---- */

kv_status gpu_ranked::follow(int64_t seen, int32_t m, const kv_events &given)
{
    gpu_follower f(given);
    std::vector<std::vector<uint8_t>> stays((size_t)lists_.count());
    std::vector<int64_t> all;
    KV_TRY(lists_.read_all(&all, nullptr));
    for (int32_t l = 0; l < lists_.count(); l++) {
        const auto from = all.begin() + l * lists_.stride();
        std::vector<int64_t> ogs(from, from + n_[(size_t)(l / per_layer_)]);
        for (int32_t first = 0, n; first < m; first += n) {
            n = piece(seen, m, first);
            KV_TRY(follow_piece(&f, l, seen + first, n, &ogs, &stays[(size_t)l]));
        }
    }
    KV_TRY(f.finish());
    given_ = std::move(stays);
    return KV_OK;
}

/* ogs: what the list holds, before and afterwards. */
kv_status gpu_ranked::follow_piece(gpu_follower *f, int32_t l, int64_t seen, int32_t m, std::vector<int64_t> *ogs,
                                   std::vector<uint8_t> *stays) const
{
    for (int64_t og = seen; og < seen + m; og++) ogs->push_back(og);
    const budget b = budget_of(l / per_layer_, (int64_t)ogs->size(), seen, m);
    if (evicts(seen, m)) {
        KV_TRY(follow_evictions(f, l, b, seen + m - 1, *ogs, stays));
        std::vector<int64_t> kept;
        for (size_t i = 0; i < ogs->size(); i++)
            if (i >= stays->size() || (*stays)[i]) kept.push_back((*ogs)[i]);
        ogs->swap(kept);
    }
    kv_events admitted = {};
    kv_status st = note_admissions(l, seen, m, ogs->data(), (int64_t)ogs->size(), &admitted);
    for (size_t i = 0; i < admitted.n && st == KV_OK; i++) st = f->expect(admitted.v[i]);
    free(admitted.v);
    return st;
}

kv_status gpu_ranked::follow_evictions(gpu_follower *f, int32_t l, const budget &b, int64_t token,
                                       const std::vector<int64_t> &ogs, std::vector<uint8_t> *stays) const
{
    stays->assign((size_t)b.n_open, 1);
    int64_t i = -1;
    for (int64_t k = 0; k < b.n_open - b.keep; k++) {
        const kv_event *const e = f->next();
        if (!e || e->kind != KV_EVENT_EVICT) return f->refuse("more entries have to leave before it");
        for (i++; i < b.n_open && ogs[(size_t)i] != e->og;) i++;
        if (i >= b.n_open) return f->refuse("no such entry may leave here");
        KV_TRY(f->expect(event(l, KV_EVENT_EVICT, e->og, token, i, kv_inf())));
        (*stays)[(size_t)KV_MUT(P19, i > 0 ? i - 1 : i, i)] = 0;
    }
    return KV_OK;
}

kv_status gpu_ranked::upload_given()
{
    if (given_.empty()) return KV_OK;
    std::vector<uint8_t> flat((size_t)(lists_.count() * lists_.stride()), 0);
    for (size_t l = 0; l < given_.size(); l++)
        std::copy(given_[l].begin(), given_[l].end(), flat.begin() + (ptrdiff_t)l * lists_.stride());
    KV_TRY(given_there_.reserve(flat.size()));
    KV_TRY(gpu_copy_up(given_there_.p, flat.data(), flat.size(), site_.stream));
    return gpu_stream_finish(site_.stream);
}

/* ---- state ---- */

kv_status gpu_ranked::reset()
{
    std::fill(n_.begin(), n_.end(), 0);
    given_.clear();
    rows_ = 0;
    return lists_.reset();
}

kv_status gpu_ranked::list(int32_t layer, int32_t head, std::vector<gpu_entry> *entries) const
{
    KV_TRY(lists_.read(list_of(layer, head), n_[(size_t)layer], entries));
    for (gpu_entry &e : *entries) {
        e.pos = (int32_t)e.og;
        if (!has_scores()) e.score = 0.0f;
    }
    return KV_OK;
}

kv_status gpu_ranked::check_run(int64_t seen, int32_t layer, const std::vector<gpu_entry> &run) const
{
    int64_t tail = 0;
    const int64_t wanted = entries_after(layer, seen, &tail), n = (int64_t)run.size();
    if (n != wanted)
        return kv_fail(KV_ERR_MISMATCH, "%s: the state holds %lld entries in layer %d; after %lld tokens there are %lld",
                       name_, (long long)n, layer, (long long)seen, (long long)wanted);
    for (int64_t i = 0; i < n; i++) {
        const gpu_entry &e = run[(size_t)i];
        const bool ascends = i == 0 ? e.og >= 0 : e.og > run[(size_t)i - 1].og;
        if (!ascends || e.og >= seen || e.pos != e.og || (i >= n - tail && e.og != seen - n + i))
            return kv_fail(KV_ERR_MISMATCH, "%s: entry %lld of layer %d is token %lld at position %d; tokens ascend, keep "
                           "their own positions, and the newest %lld are all there", name_, (long long)i, layer,
                           (long long)e.og, e.pos, (long long)tail);
    }
    return KV_OK;
}

kv_status gpu_ranked::adopt(int64_t seen, gpu_runs *runs)
{
    for (size_t r = 0; r < runs->size(); r++) {
        const std::vector<gpu_entry> &run = (*runs)[r];
        const size_t first = r / (size_t)site_.kv_heads * (size_t)site_.kv_heads;
        KV_TRY(check_run(seen, (int32_t)(first / (size_t)site_.kv_heads), run));
        for (size_t i = 0; i < run.size() && per_layer_ == 1; i++)
            if (run[i].og != (*runs)[first][i].og)
                return kv_fail(KV_ERR_MISMATCH, "%s: heads of layer %zu hold different tokens; with this policy they agree",
                               name_, first / (size_t)site_.kv_heads);
    }
    KV_TRY(reset());
    for (size_t r = 0; r < runs->size(); r++) {
        const int32_t layer = (int32_t)r / site_.kv_heads, head = (int32_t)r % site_.kv_heads;
        KV_TRY(lists_.write(list_of(layer, head), &(*runs)[r]));
        n_[(size_t)layer] = (int32_t)(*runs)[r].size();
        rows_ = std::max(rows_, (int64_t)(*runs)[r].size());
    }
    return KV_OK;
}

kv_status gpu_ranked::copy_to(gpu_ranked *other) const
{
    other->n_ = n_;
    other->rows_ = rows_;
    return other->lists_.copy_from(lists_);
}
