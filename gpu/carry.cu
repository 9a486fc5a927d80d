/* carry.cu - slots of what a model remembers: which one a piece reads, which ones it fills, which ones are exported. */
#include "gpu/carry.cuh"

#include <algorithm>
#include <string.h>

kv_status gpu_carry::open(const kv_config &cfg, const gpu_memory &memory, cudaStream_t stream)
{
    layout_ = kv_carry_layout_of(&cfg);
    memory_ = memory;
    if (layout_.bytes == 0) return KV_OK;
    const size_t n = (size_t)(1 + ring()) * floats();
    KV_TRY(slots_.reserve(n));
    GPU_TRY(cudaMemsetAsync(slots_.p, 0, n * sizeof(float), stream));
    return gpu_stream_finish(stream);
}

const gpu_carry::place *gpu_carry::find(int64_t count) const
{
    for (const place &p : kept_)
        if (p.count == count) return &p;
    return nullptr;
}

kv_status gpu_carry::check(int64_t first) const
{
    if (layout_.bytes == 0 || memory_.window == 0 || first == 0 || find(first)) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "step: what the model remembers of token %lld is not there; a step can begin with token "
                   "%lld", (long long)(first - 1), (long long)(kept_.empty() ? 0 : kept_.back().count));
}

gpu_carry_rows gpu_carry::rows(int64_t seen, int64_t first, int32_t m) const
{
    gpu_carry_rows r = {};
    if (layout_.bytes == 0) return r;
    const place *const before = memory_.window == 0 ? nullptr : find(first);
    const place *const newest = memory_.window == 0 ? nullptr : find(seen);
    const int32_t used = kept_.empty() ? 0 : kept_.back().slot;
    r.before = slot(before ? before->slot : KV_MUT(S01, used, 0));
    r.newest = slot(newest ? newest->slot : 0);
    r.known = windows() ? (int32_t)(seen - first) : 0;
    r.from = windows() ? r.known : m - 1;
    r.slots = slot(1);
    r.slot_floats = (int64_t)floats();
    r.n_slots = ring();
    r.first_slot = windows() ? (int32_t)((first + r.from) % ring()) : used == 1 ? 1 : 0;
    r.norm = (int64_t)(layout_.norm / sizeof(float));
    r.k = (int64_t)(layout_.k / sizeof(float));
    r.v = (int64_t)(layout_.v / sizeof(float));
    r.conv = (int64_t)(layout_.conv / sizeof(float));
    return r;
}

/* Kept are the slots behind which a coming window begins, as far as they are there, and that of the newest token. */
void gpu_carry::advance(int64_t seen, int64_t first, int32_t m, const gpu_carry_rows &rows)
{
    if (layout_.bytes == 0) return;
    std::vector<place> now;
    const int64_t end = first + m;
    for (int64_t start = first + memory_.stride; windows() && start < end; start += memory_.stride)
        if (start > seen || find(start)) now.push_back({start, 1 + (int32_t)((start - 1) % ring())});
    now.push_back({end, 1 + (windows() ? (int32_t)((end - 1) % ring()) : rows.first_slot)});
    kept_.swap(now);
}

kv_status gpu_carry::read(void *to, cudaStream_t stream) const
{
    static const place none = {0, 0};
    char *at = static_cast<char *>(to);
    for (size_t i = 0; i < std::max<size_t>(kept_.size(), 1); i++, at += layout_.bytes) {
        const place &p = kept_.empty() ? none : kept_[i];
        KV_TRY(gpu_copy_down(at, slot(p.slot), layout_.bytes, stream));
    }
    return gpu_stream_finish(stream);
}

namespace
{
/* How a carry begins. */
struct carry_head {
    int32_t count, id;
};

carry_head head_at(const void *carries, size_t bytes, size_t i)
{
    carry_head h;
    memcpy(&h, static_cast<const char *>(carries) + i * bytes, sizeof h);
    return h;
}

bool all_zero(const char *p, size_t n) { return std::all_of(p, p + n, [](char c) { return c == 0; }); }

kv_status refuse(const char *what, const carry_head &h, int64_t seen)
{
    return kv_fail(KV_ERR_FORMAT, "the state's carry is that of token %d after %d tokens, the state that of %lld tokens: %s",
                   h.id, h.count, (long long)seen, what);
}
} // namespace

kv_status gpu_carry::check_blob(const void *from, size_t n, int64_t seen, int32_t vocab) const
{
    const size_t count = layout_.bytes ? n / layout_.bytes : 0;
    const bool any = windows() ? count >= 1 : count == 1, fits = n == count * layout_.bytes;
    if (layout_.bytes ? !any || !fits : n != 0)
        return kv_fail(KV_ERR_MISMATCH, "the state has carry bytes %zu, this session %zu; export it from a session of the "
                       "same model and policy", n, layout_.bytes);
    if (layout_.bytes == 0) return KV_OK;
    if (count == 1 && all_zero(static_cast<const char *>(from), n)) return KV_OK; /* nothing is remembered */
    for (size_t i = 0; i < count; i++) {
        const carry_head h = head_at(from, layout_.bytes, i);
        if (h.id < 0 || h.id >= vocab) return refuse("the vocabulary has no such token", h, seen);
        if (i > 0 && h.count <= head_at(from, layout_.bytes, i - 1).count) return refuse("counts must ascend", h, seen);
        if (i + 1 == count && h.count != (seen < INT32_MAX ? seen : INT32_MAX)) return refuse("they differ", h, seen);
    }
    return KV_OK;
}

/* A carry that no window can begin behind any more is left out. */
kv_status gpu_carry::write(const void *from, size_t n, int64_t seen, cudaStream_t stream)
{
    const char *at = static_cast<const char *>(from);
    reset();
    if (n == 0 || seen == 0) return KV_OK;
    if (all_zero(at, n)) {
        kept_.push_back({seen, 0});
        return KV_OK;
    }
    const size_t count = n / layout_.bytes;
    for (size_t i = 0; i < count; i++, at += layout_.bytes) {
        const int64_t tokens = i + 1 == count ? seen : head_at(from, layout_.bytes, i).count;
        if (tokens <= seen - ring()) continue;
        const int32_t to = 1 + (windows() ? (int32_t)((tokens - 1) % ring()) : 0);
        KV_TRY(gpu_copy_up(slot(to), at, layout_.bytes, stream));
        kept_.push_back({tokens, to});
    }
    return gpu_stream_finish(stream);
}

kv_status gpu_carry::copy_from(const gpu_carry &other, cudaStream_t stream)
{
    layout_ = other.layout_;
    memory_ = other.memory_;
    kept_ = other.kept_;
    KV_TRY(slots_.reserve(other.slots_.n));
    return gpu_copy_across(slots_.p, other.slots_.p, other.slots_.n * sizeof(float), stream);
}
