/* carry.cu - slots of what a model remembers: which one a piece reads, and which ones it fills. */
#include "gpu/carry.cuh"

#include <string.h>

kv_status gpu_carry::open(const kv_config &cfg, int32_t depth, cudaStream_t stream)
{
    layout_ = kv_carry_layout_of(&cfg);
    depth_ = depth;
    if (layout_.bytes == 0) return KV_OK;
    const size_t n = (size_t)(1 + ring()) * floats();
    KV_TRY(slots_.reserve(n));
    GPU_TRY(cudaMemsetAsync(slots_.p, 0, n * sizeof(float), stream));
    return gpu_stream_finish(stream);
}

const float *gpu_carry::slot(int64_t back) const
{
    if (back < 0 || back >= valid_) return slots_.p;
    return slots_.p + (size_t)(1 + (written_ - 1 - back) % ring()) * floats();
}

kv_status gpu_carry::check(int64_t seen, int64_t first) const
{
    if (layout_.bytes == 0 || depth_ == 0 || first == 0 || (first <= seen && seen - first < valid_)) return KV_OK;
    return kv_fail(KV_ERR_USAGE, "step: what the model remembers of token %lld is not there; after %lld tokens a step can begin "
                   "behind the newest %d", (long long)(first - 1), (long long)seen, valid_);
}

gpu_carry_rows gpu_carry::rows(int64_t seen, int64_t first, int32_t m) const
{
    gpu_carry_rows r = {};
    if (layout_.bytes == 0) return r;
    r.known = first < seen ? (int32_t)(seen - first) : 0;
    r.from = depth_ > 1 ? r.known : m - 1;
    r.before = depth_ == 0 || first == 0 ? slots_.p : slot(seen - first);
    r.newest = first > seen ? slots_.p : slot(0);
    r.slots = slots_.p + floats();
    r.slot_floats = (int64_t)floats();
    r.n_slots = ring();
    r.first_slot = (int32_t)(written_ % ring());
    r.norm = (int64_t)(layout_.norm / sizeof(float));
    r.k = (int64_t)(layout_.k / sizeof(float));
    r.v = (int64_t)(layout_.v / sizeof(float));
    r.conv = (int64_t)(layout_.conv / sizeof(float));
    return r;
}

void gpu_carry::advance(const gpu_carry_rows &rows, int32_t m)
{
    const int32_t most = depth_ > 1 ? ring() : 1;
    written_ += m - rows.from;
    valid_ = gpu_min(valid_ + m - rows.from, most);
}

kv_status gpu_carry::read(void *to, cudaStream_t stream) const
{
    KV_TRY(gpu_copy_down(to, slot(0), layout_.bytes, stream));
    return gpu_stream_finish(stream);
}

kv_status gpu_carry::check_blob(const void *from, int64_t seen, int32_t vocab)
{
    int32_t head[2];
    memcpy(head, from, sizeof head);
    const int32_t count = seen < INT32_MAX ? (int32_t)seen : INT32_MAX;
    if (head[0] == count && head[1] >= 0 && head[1] < vocab && (count > 0 || head[1] == 0)) return KV_OK;
    return kv_fail(KV_ERR_MISMATCH, "the state's carry is that of token %d after %d tokens; the state holds %lld tokens of a "
                   "vocabulary of %d", head[1], head[0], (long long)seen, vocab);
}

kv_status gpu_carry::write(const void *from, int64_t seen, cudaStream_t stream)
{
    reset();
    if (seen == 0) return KV_OK;
    KV_TRY(gpu_copy_up(slots_.p + floats(), from, layout_.bytes, stream));
    written_ = valid_ = 1;
    return KV_OK;
}

kv_status gpu_carry::copy_from(const gpu_carry &other, cudaStream_t stream)
{
    layout_ = other.layout_;
    depth_ = other.depth_;
    written_ = other.written_;
    valid_ = other.valid_;
    KV_TRY(slots_.reserve(other.slots_.n));
    return gpu_copy_across(slots_.p, other.slots_.p, other.slots_.n * sizeof(float), stream);
}
