/* state.cu - the cache as bytes: canonical export and import (common/state.h), snapshots. */
#include "gpu/session.cuh"

#include "common/state.h"
#include "common/tile.h"

#include <stdlib.h>
#include <string.h>

namespace
{
/* Entries whose records are on the device at once. */
enum { RECORDS_AT_ONCE = 4096 };

/* Bytes of the K or V row of one KV head, and of all. */
size_t head_bytes(const kv_session *s)
{
    return (size_t)s->model.cfg.head_dim * (size_t)kv_storage_value_bytes(s->cache.storage);
}

size_t row_bytes(const kv_session *s) { return (size_t)s->model.cfg.n_kv_heads * head_bytes(s); }

/* The same of a state that holds these runs. */
kv_state_head describe(const kv_session *s, int32_t layer, uint32_t what, const gpu_runs &runs)
{
    kv_state_head h = gpu_state_head(s, layer, what);
    for (const std::vector<gpu_entry> &run : runs)
        h.total_bytes += kv_state_run_bytes(&h, (int64_t)run.size(), 0);
    return h;
}

/* Puts the entries' rows into work.rows. */
kv_status upload_rows(kv_session *s, const std::vector<gpu_entry> &entries)
{
    std::vector<int32_t> rows;
    for (const gpu_entry &e : entries) rows.push_back(e.row);
    KV_TRY(s->work.rows.reserve(rows.size()));
    KV_TRY(gpu_copy_up(s->work.rows.p, rows.data(), rows.size() * sizeof(int32_t), s->stream.s));
    const size_t at_once = rows.size() < RECORDS_AT_ONCE ? rows.size() : (size_t)RECORDS_AT_ONCE;
    KV_TRY(s->work.records.reserve(at_once * 2 * (head_bytes(s) / sizeof(uint32_t))));
    return gpu_stream_finish(s->stream.s);
}

/* Records of one layer and head between the stores and host memory. */
kv_status copy_records(kv_session *s, int32_t layer, int32_t head, int32_t n_entries, void *to_host,
                       const void *from_host)
{
    const kv_config &c = s->model.cfg;
    const gpu_store &store = s->cache.layers[(size_t)layer];
    const gpu_values k = {store.k.p, s->cache.storage}, v = {store.v.p, s->cache.storage};
    uint32_t *const buffer = s->work.records.p;
    const size_t record = 2 * head_bytes(s);
    const int32_t words = (int32_t)(head_bytes(s) / sizeof(uint32_t));
    for (int32_t i = 0; i < n_entries; i += RECORDS_AT_ONCE) {
        const int32_t n = gpu_min(n_entries - i, RECORDS_AT_ONCE);
        const int32_t *const rows = s->work.rows.p + i;
        const size_t at = (size_t)i * record, bytes = (size_t)n * record;
        if (to_host) {
            KV_TRY(gpu_records_gather(k, v, rows, n, head, c.n_kv_heads, words, buffer, s->stream.s));
            KV_TRY(gpu_copy_down((char *)to_host + at, buffer, bytes, s->stream.s));
        } else {
            KV_TRY(gpu_copy_up(buffer, (const char *)from_host + at, bytes, s->stream.s));
            KV_TRY(gpu_records_scatter(buffer, rows, n, head, c.n_kv_heads, words, k, v, s->stream.s));
        }
    }
    return KV_OK;
}

kv_status grow_store(gpu_store *store, size_t rows, size_t used, size_t width, cudaStream_t stream)
{
    KV_TRY(store->k.grow(rows * width, used * width, stream));
    return store->v.grow(rows * width, used * width, stream);
}

/* The first n rows of one store. */
kv_status copy_rows(gpu_store *to, const gpu_store &from, size_t n, size_t width, cudaStream_t stream)
{
    KV_TRY(to->k.reserve(n * width));
    KV_TRY(to->v.reserve(n * width));
    KV_TRY(gpu_copy_across(to->k.p, from.k.p, n * width, stream));
    return KV_MUT(S05, KV_OK, gpu_copy_across(to->v.p, from.v.p, n * width, stream));
}

kv_status copy_parts(gpu_parts *to, const gpu_parts &from, cudaStream_t stream)
{
    to->resize(from.size());
    for (size_t i = 0; i < from.size(); i++) {
        KV_TRY((*to)[i].reserve(from[i].n));
        KV_TRY(gpu_copy_across((*to)[i].p, from[i].p, from[i].n, stream));
    }
    return KV_OK;
}

kv_status copy_cache(gpu_cache *to, const gpu_cache &from, size_t width, cudaStream_t stream)
{
    std::unique_ptr<gpu_policy> policy;
    KV_TRY(from.policy->clone(&policy));
    to->layers.resize(from.layers.size());
    for (size_t l = 0; l < from.layers.size(); l++)
        KV_TRY(copy_rows(&to->layers[l], from.layers[l], (size_t)from.policy->rows(), width, stream));
    to->coded.resize(from.coded.size());
    for (size_t l = 0; l < from.coded.size(); l++) KV_TRY(copy_parts(&to->coded[l], from.coded[l], stream));
    KV_TRY(to->carry.copy_from(from.carry, stream));
    KV_TRY(gpu_stream_finish(stream));
    to->policy = std::move(policy);
    to->storage = from.storage;
    to->seen = from.seen;
    return KV_OK;
}

kv_status mismatch(const char *what, long long theirs, long long ours)
{
    return kv_fail(KV_ERR_MISMATCH, "the state has %s %lld, this session %lld; export it from a session of "
                   "the same model and policy", what, theirs, ours);
}

kv_status check_head(const kv_session *s, const kv_state_head &h)
{
    const kv_state_head ours = describe(s, -1, KV_STATE_KV, {});
    if (!(h.what & KV_STATE_KV))
        return kv_fail(KV_ERR_MISMATCH, "the state lacks K and V; export it with KV_STATE_KV");
    if (s->cache.policy->has_scores() && !(h.what & KV_STATE_SCORE))
        return kv_fail(KV_ERR_MISMATCH, "the state lacks scores, which this policy needs; export it with KV_STATE_SCORE");
    if (h.key_form != ours.key_form) return mismatch("key form", h.key_form, ours.key_form);
    if (h.layer0 != 0) return mismatch("first layer", h.layer0, 0);
    if (h.n_layers != ours.n_layers) return mismatch("layers", h.n_layers, ours.n_layers);
    if (h.n_kv_heads != ours.n_kv_heads) return mismatch("KV heads", h.n_kv_heads, ours.n_kv_heads);
    if (h.head_dim != ours.head_dim) return mismatch("head size", h.head_dim, ours.head_dim);
    if (h.storage != ours.storage) return mismatch("storage", h.storage, ours.storage);
    if (h.record_bytes != ours.record_bytes) return mismatch("record bytes", h.record_bytes, ours.record_bytes);
    return KV_OK;
}

/* Where the carry of a whole blob begins. */
const char *carry_of(const kv_state_head &h, const void *blob)
{
    return static_cast<const char *>(blob) + (h.total_bytes - h.carry_bytes);
}

/* The entries of all runs of a checked blob. */
gpu_runs read_runs(const kv_state_head &h, void *blob)
{
    gpu_runs runs((size_t)h.n_layers * (size_t)h.n_kv_heads);
    size_t offset = sizeof h;
    for (std::vector<gpu_entry> &run : runs) {
        const kv_state_view v = kv_state_place(&h, blob, &offset, -1, 0);
        for (int32_t i = 0; i < v.run->n; i++)
            run.push_back({v.og[i], v.pos[i], 0, KV_MUT(S03, false, v.score != nullptr) ? v.score[i] : 0.0f});
    }
    return runs;
}

/* The entries of one layer, or of all (layer = -1). */
kv_status list_runs(const kv_session *s, int32_t layer, gpu_runs *runs)
{
    const kv_config &c = s->model.cfg;
    for (int32_t l = layer < 0 ? 0 : layer; l < (layer < 0 ? c.n_layers : layer + 1); l++)
        for (int32_t head = 0; head < c.n_kv_heads; head++) {
            runs->emplace_back();
            KV_TRY(s->cache.policy->list(l, head, &runs->back()));
        }
    return KV_OK;
}

kv_status write_run(kv_session *s, const std::vector<gpu_entry> &entries, const kv_state_view &v)
{
    for (size_t e = 0; e < entries.size(); e++) {
        v.og[e] = entries[e].og;
        v.pos[e] = entries[e].pos + KV_MUT(S07, e == 0, 0);
        if (v.score) v.score[e] = entries[e].score;
    }
    if (!v.records) return KV_OK;
    KV_TRY(upload_rows(s, entries));
    return copy_records(s, v.run->layer, v.run->head, v.run->n, v.records, nullptr);
}
} // namespace

kv_state_head gpu_state_head(const kv_session *s, int32_t layer, uint32_t what)
{
    const kv_config &cfg = s->model.cfg;
    kv_state_head h = {};
    h.magic = KV_STATE_MAGIC;
    h.version = KV_STATE_VERSION;
    h.what = what & (KV_STATE_KV | (s->cache.policy->has_scores() ? (uint32_t)KV_STATE_SCORE : 0u));
    h.key_form = s->cache.policy->raw_keys() ? KV_KEY_RAW : KV_KEY_ROTATED;
    h.layer0 = layer < 0 ? 0 : layer;
    h.n_layers = layer < 0 ? cfg.n_layers : 1;
    h.n_kv_heads = cfg.n_kv_heads;
    h.head_dim = cfg.head_dim;
    h.record_bytes = s->coded ? 0 : 2 * (int32_t)head_bytes(s);
    h.storage = s->cache.storage;
    h.seen = s->cache.seen;
    h.carry_bytes = layer < 0 ? s->cache.carry.bytes() : 0;
    h.total_bytes = sizeof h + h.carry_bytes;
    return h;
}

kv_status gpu_state_put_carry(const kv_session *s, const kv_state_head &h, void *blob)
{
    return h.carry_bytes ? s->cache.carry.read(const_cast<char *>(carry_of(h, blob)), s->stream.s) : KV_OK;
}

kv_status gpu_state_take_carry(kv_session *s, const kv_state_head &h, const void *blob)
{
    return s->cache.carry.write(carry_of(h, blob), (size_t)h.carry_bytes, h.seen, s->stream.s);
}

kv_status gpu_state_begin(const kv_state_head &h, void *dst, size_t cap, size_t *need, bool *wanted)
{
    *need = (size_t)h.total_bytes;
    *wanted = dst != nullptr;
    if (!dst) return KV_OK;
    if (cap < *need)
        return kv_fail(KV_ERR_USAGE, "export_state: %zu bytes given, %zu needed; ask with dst = NULL first",
                       cap, *need);
    memset(dst, 0, *need); /* padding is compared too */
    memcpy(dst, &h, sizeof h);
    return KV_OK;
}

kv_status gpu_cache_make_room(kv_session *s)
{
    const size_t rows = (size_t)s->cache.policy->rows(), width = row_bytes(s);
    for (gpu_store &store : s->cache.layers) {
        const size_t used = store.v.n / width; /* any of its rows may be in use */
        if (rows > used) KV_TRY(grow_store(&store, rows, used, width, s->stream.s));
    }
    return KV_OK;
}

kv_status gpu_cache_reset(gpu_cache *cache)
{
    KV_TRY(cache->policy->reset());
    KV_MUT(S01, (void)0, cache->carry.reset());
    cache->seen = KV_MUT(S02, cache->seen > 0, 0);
    return KV_OK;
}

kv_status gpu_state_export(kv_session *s, int32_t layer, uint32_t what, void *dst, size_t cap, size_t *need)
{
    const kv_config &c = s->model.cfg;
    if (layer < -1 || layer >= c.n_layers || (what & ~(uint32_t)(KV_STATE_SCORE | KV_STATE_KV)))
        return kv_fail(KV_ERR_USAGE, "export_state: layer %d, what %#x; layers go from 0 to %d, or -1 for "
                       "all", layer, what, c.n_layers - 1);
    if (s->coded) return gpu_coded_export(s, gpu_state_head(s, layer, what), dst, cap, need);
    gpu_runs runs;
    KV_TRY(list_runs(s, layer, &runs));
    const kv_state_head h = describe(s, layer, what, runs);
    bool wanted;
    KV_TRY(gpu_state_begin(h, dst, cap, need, &wanted));
    if (!wanted) return KV_OK;
    size_t offset = sizeof h;
    for (int32_t i = 0; i < h.n_layers * h.n_kv_heads; i++) {
        const std::vector<gpu_entry> &entries = runs[(size_t)i];
        kv_state_view v = kv_state_place(&h, dst, &offset, (int64_t)entries.size(), 0);
        v.run->layer = h.layer0 + i / h.n_kv_heads;
        v.run->head = i % h.n_kv_heads;
        v.run->n = (int32_t)entries.size();
        KV_TRY(write_run(s, entries, v));
    }
    KV_TRY(gpu_state_put_carry(s, h, dst));
    return gpu_stream_finish(s->stream.s);
}

kv_status gpu_state_import(kv_session *s, const void *src, size_t size)
{
    KV_TRY(kv_state_check(src, size));
    void *const blob = const_cast<void *>(src); /* kv_state_place serves writers too */
    kv_state_head h;
    memcpy(&h, src, sizeof h);
    KV_TRY(check_head(s, h));
    KV_TRY(s->cache.carry.check_blob(carry_of(h, src), (size_t)h.carry_bytes, h.seen, s->model.cfg.vocab_size));
    if (s->coded) return gpu_coded_import(s, h, blob);
    gpu_runs runs = read_runs(h, blob);
    KV_TRY(s->cache.policy->adopt(h.seen, &runs));
    s->cache.seen = h.seen;
    s->broken = true; /* until all of it is there */
    KV_TRY(gpu_cache_make_room(s));
    size_t offset = sizeof h;
    for (const std::vector<gpu_entry> &run : runs) {
        const kv_state_view v = kv_state_place(&h, blob, &offset, -1, 0);
        KV_TRY(upload_rows(s, run));
        KV_TRY(copy_records(s, v.run->layer, v.run->head, v.run->n - KV_MUT(S06, 1, 0), nullptr, v.records));
    }
    KV_TRY(gpu_state_take_carry(s, h, src));
    KV_TRY(gpu_stream_finish(s->stream.s));
    s->broken = false;
    return KV_OK;
}

kv_status gpu_cache_save(kv_session *s, gpu_cache *to)
{
    return copy_cache(to, s->cache, row_bytes(s), s->stream.s);
}

kv_status gpu_cache_load(kv_session *s, const gpu_cache &from)
{
    s->broken = true;
    KV_TRY(copy_cache(&s->cache, from, row_bytes(s), s->stream.s));
    s->broken = false;
    return KV_OK;
}
