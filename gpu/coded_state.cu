/* coded_state.cu - device memory, export, import and errors of storages in codes (coded.cuh). */
#include "gpu/session.cuh"

#include <string.h>

namespace
{
/* One layer's parts in host memory. */
typedef std::vector<std::vector<unsigned char>> image;

int64_t stride_of(int64_t bytes) { return (bytes + 7) / 8 * 8; }

int32_t bytes_of(const gpu_record &r) { return r.from[0].bytes + (r.n > 1 ? r.from[1].bytes : 0); }

int64_t total_of(const std::vector<gpu_record> &records)
{
    int64_t total = 0;
    for (const gpu_record &r : records) total += stride_of(bytes_of(r));
    return total;
}

/* What the session's cache holds. */
kv_status list_records(const kv_session *s, std::vector<gpu_record> *records)
{
    std::vector<gpu_entry> entries;
    KV_TRY(s->cache.policy->list(0, 0, &entries));
    s->coded->list(s->cache.seen - (int64_t)entries.size(), s->cache.seen, records);
    return KV_OK;
}

kv_status download(const gpu_parts &parts, image *to, cudaStream_t stream)
{
    to->resize(parts.size());
    for (size_t i = 0; i < parts.size(); i++) {
        (*to)[i].resize(parts[i].n);
        KV_TRY(gpu_copy_down((*to)[i].data(), parts[i].p, parts[i].n, stream));
    }
    return gpu_stream_finish(stream);
}

/* A record between an image and a run: from the image when to_run is set. */
void move_record(const gpu_record &r, int32_t head, image *parts, uint8_t *in_run, bool to_run)
{
    for (int32_t i = 0; i < r.n; i++) {
        const gpu_stretch &from = r.from[i];
        unsigned char *const p = &(*parts)[(size_t)from.part][(size_t)(from.at + head * from.head_stride)];
        memcpy(to_run ? in_run : p, to_run ? p : in_run, (size_t)from.bytes);
        in_run += from.bytes;
    }
}

void write_run(const std::vector<gpu_record> &records, image *parts, const kv_state_view &v)
{
    uint8_t *at = v.records;
    for (size_t i = 0; i < records.size(); i++) {
        v.og[i] = records[i].og;
        v.pos[i] = records[i].pos;
        if (!v.records) continue;
        v.bytes[i] = bytes_of(records[i]);
        move_record(records[i], v.run->head, parts, at, true);
        at += stride_of(v.bytes[i]);
    }
}

/* The first token that a blob's runs hold; ERR_FORMAT when that cannot be. */
kv_status first_token(const kv_session *s, const kv_state_head &h, void *blob, int64_t *first)
{
    size_t offset = sizeof h;
    const kv_state_view v = kv_state_place(&h, blob, &offset, -1, 0);
    *first = v.run->n ? v.og[0] & ~KV_KIVI_V : h.seen;
    const int64_t R = s->coded->granule(), n = h.seen - *first;
    if (*first >= 0 && *first % R == 0 && n >= 0 && n <= v.run->n * R && n < INT32_MAX) return KV_OK;
    return kv_fail(KV_ERR_FORMAT, "the state begins at token %lld of %lld; with this storage it begins at a multiple "
                   "of %lld", (long long)*first, (long long)h.seen, (long long)R);
}

/* Every run must be made of exactly these records. */
kv_status check_runs(const kv_state_head &h, void *blob, const std::vector<gpu_record> &records)
{
    size_t offset = sizeof h;
    for (int32_t i = 0; i < h.n_layers * h.n_kv_heads; i++) {
        const kv_state_view v = kv_state_place(&h, blob, &offset, -1, 0);
        bool same = v.run->n == (int32_t)records.size();
        for (size_t e = 0; e < records.size() && same; e++)
            same = v.og[e] == records[e].og && v.pos[e] == records[e].pos && v.bytes[e] == bytes_of(records[e]);
        if (!same)
            return kv_fail(KV_ERR_FORMAT, "the state of layer %d, head %d is not made of the tiles and rows that this "
                           "storage has after %lld tokens", v.run->layer, v.run->head, (long long)h.seen);
    }
    return KV_OK;
}

kv_status not_finite(const kv_session *s, int32_t layer, int64_t token)
{
    return kv_fail(KV_ERR_NONFINITE, "%s: layer %d, tile %lld: K or V from token %lld on holds NaN or infinity, which no "
                   "code can stand for; look for its cause with storage f32", kv_storage_name(s->cache.storage), layer,
                   (long long)(token / s->coded->granule()), (long long)token);
}

kv_status adopt(kv_session *s, const kv_state_head &h, int64_t first)
{
    std::vector<gpu_entry> tokens;
    for (int64_t og = first; og < h.seen; og++) tokens.push_back({og, (int32_t)og, 0});
    gpu_runs runs((size_t)h.n_layers * (size_t)h.n_kv_heads, tokens);
    return s->cache.policy->adopt(h.seen, &runs);
}
} // namespace

kv_status gpu_coded_make_room(kv_session *s, const gpu_span &span)
{
    const std::vector<size_t> bytes = s->coded->part_bytes(span);
    for (gpu_parts &parts : s->cache.coded) {
        parts.resize(bytes.size());
        for (size_t i = 0; i < bytes.size(); i++) KV_TRY(parts[i].grow(bytes[i], parts[i].n, s->stream.s));
    }
    return KV_OK;
}

kv_status gpu_coded_export(kv_session *s, kv_state_head h, void *dst, size_t cap, size_t *need)
{
    std::vector<gpu_record> records;
    KV_TRY(list_records(s, &records));
    const bool with_kv = (h.what & KV_STATE_KV) != 0;
    const int64_t n = (int64_t)records.size(), total = with_kv ? total_of(records) : 0;
    const uint64_t runs = (uint64_t)h.n_layers * (uint64_t)h.n_kv_heads;
    if (total > INT32_MAX)
        return kv_fail(KV_ERR_UNSUPPORTED, "export_state: the records of a run fill %lld bytes, more than a state can "
                       "describe", (long long)total);
    h.total_bytes += runs * kv_state_run_bytes(&h, n, total);
    bool wanted;
    KV_TRY(gpu_state_begin(h, dst, cap, need, &wanted));
    if (!wanted) return KV_OK;
    size_t offset = sizeof h;
    image parts;
    for (int32_t i = 0; i < (int32_t)runs; i++) {
        kv_state_view v = kv_state_place(&h, dst, &offset, n, total);
        v.run->layer = h.layer0 + i / h.n_kv_heads;
        v.run->head = i % h.n_kv_heads;
        if (v.run->head == 0 && with_kv)
            KV_TRY(download(s->cache.coded[(size_t)v.run->layer], &parts, s->stream.s));
        write_run(records, &parts, v);
    }
    return gpu_state_put_carry(s, h, dst);
}

kv_status gpu_coded_import(kv_session *s, const kv_state_head &h, void *blob)
{
    int64_t first;
    std::vector<gpu_record> records;
    KV_TRY(first_token(s, h, blob, &first));
    s->coded->list(first, h.seen, &records);
    KV_TRY(check_runs(h, blob, records));
    KV_TRY(adopt(s, h, first));
    s->cache.seen = h.seen;
    s->broken = true; /* until all of it is there */
    KV_TRY(gpu_coded_make_room(s, {first, h.seen, 0}));
    size_t offset = sizeof h;
    for (const gpu_parts &parts : s->cache.coded) {
        image filled;
        for (const gpu_buffer<unsigned char> &part : parts) filled.emplace_back(part.n);
        for (int32_t head = 0; head < h.n_kv_heads; head++) {
            const kv_state_view v = kv_state_place(&h, blob, &offset, -1, 0);
            uint8_t *at = v.records;
            for (const gpu_record &r : records) {
                move_record(r, head, &filled, at, false);
                at += stride_of(bytes_of(r));
            }
        }
        for (size_t i = 0; i < parts.size(); i++)
            KV_TRY(gpu_copy_up(parts[i].p, filled[i].data(), parts[i].n, s->stream.s));
        KV_TRY(gpu_stream_finish(s->stream.s));
    }
    KV_TRY(gpu_state_take_carry(s, h, blob));
    KV_TRY(gpu_stream_finish(s->stream.s));
    s->broken = false;
    return KV_OK;
}

kv_status gpu_coded_check(kv_session *s, const gpu_span &span)
{
    std::vector<int32_t> bad(s->cache.coded.size());
    KV_TRY(gpu_copy_down(bad.data(), s->work.bad.p, bad.size() * sizeof(int32_t), s->stream.s));
    KV_TRY(gpu_stream_finish(s->stream.s));
    for (size_t l = 0; l < bad.size(); l++)
        if (bad[l])
            return not_finite(s, (int32_t)l, s->coded->bad_base(span) + INT32_MAX - bad[l]);
    return KV_OK;
}
