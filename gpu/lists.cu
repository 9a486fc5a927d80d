/* lists.cu - device memory of ordered lists. */
#include "gpu/lists.cuh"

enum { THREADS = 128 };

/* grid (new stride / THREADS, lists): the old elements, then free rows. */
__global__ void gpu_k_lists_grow(gpu_list_view from, gpu_list_view to)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= to.stride) return;
    const int64_t src = blockIdx.y * from.stride + i, dst = blockIdx.y * to.stride + i;
    const bool old = i < from.stride;
    to.rows[dst] = old ? from.rows[src] : (int32_t)i;
    to.ogs[dst] = old ? from.ogs[src] : -1;
    to.scores[dst] = old ? from.scores[src] : 0.0f;
}

/* grid (m / THREADS, lists). */
__global__ void gpu_k_lists_append(gpu_list_view v, const int32_t *n, int64_t seen, int32_t m)
{
    const int32_t x = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (x >= m) return;
    const int64_t at = blockIdx.y * v.stride + n[blockIdx.y] + x;
    v.ogs[at] = seen + x;
    v.scores[at] = 0.0f;
}

kv_status gpu_lists::buffers::reserve(size_t n)
{
    KV_TRY(rows.reserve(n));
    KV_TRY(ogs.reserve(n));
    return scores.reserve(n);
}

kv_status gpu_lists::reserve(int64_t n)
{
    if (n <= stride_) return KV_OK;
    const int64_t wanted = n > stride_ + stride_ / 2 ? n : stride_ + stride_ / 2;
    buffers larger;
    KV_TRY(larger.reserve((size_t)(wanted * n_lists_)));
    const gpu_list_view to = {larger.rows.p, larger.ogs.p, larger.scores.p, wanted};
    KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_lists_grow, dim3(gpu_blocks(wanted, THREADS), (unsigned)n_lists_), dim3(THREADS),
                             stream_, view(), to));
    KV_TRY(gpu_stream_finish(stream_)); /* the old buffers go */
    std::swap(now_, larger);
    stride_ = wanted;
    return next_.reserve((size_t)(wanted * n_lists_));
}

kv_status gpu_lists::append(const std::vector<int32_t> &n, int64_t seen, int32_t m)
{
    KV_TRY(counts_.reserve(n.size()));
    KV_TRY(gpu_copy_up(counts_.p, n.data(), n.size() * sizeof n[0], stream_));
    return GPU_LAUNCH_NOSYNC(gpu_k_lists_append, dim3(gpu_blocks(m, THREADS), (unsigned)n_lists_), dim3(THREADS),
                             stream_, view(), counts_.p, seen, m);
}

kv_status gpu_lists::reset()
{
    const gpu_list_view none = {nullptr, nullptr, nullptr, 0};
    if (stride_ == 0) return KV_OK;
    return GPU_LAUNCH_NOSYNC(gpu_k_lists_grow, dim3(gpu_blocks(stride_, THREADS), (unsigned)n_lists_), dim3(THREADS),
                             stream_, none, view());
}

kv_status gpu_lists::read(int32_t l, int64_t n, std::vector<gpu_entry> *out) const
{
    const size_t count = (size_t)n, at = (size_t)(l * stride_);
    std::vector<int32_t> rows(count);
    std::vector<int64_t> ogs(count);
    std::vector<float> scores(count);
    KV_TRY(gpu_copy_down(rows.data(), now_.rows.p + at, count * sizeof rows[0], stream_));
    KV_TRY(gpu_copy_down(ogs.data(), now_.ogs.p + at, count * sizeof ogs[0], stream_));
    KV_TRY(gpu_copy_down(scores.data(), now_.scores.p + at, count * sizeof scores[0], stream_));
    KV_TRY(gpu_stream_finish(stream_));
    out->clear();
    for (size_t i = 0; i < count; i++) out->push_back({ogs[i], 0, rows[i], scores[i]});
    return KV_OK;
}

kv_status gpu_lists::read_all(std::vector<int64_t> *ogs, std::vector<float> *scores) const
{
    const size_t n = (size_t)(stride_ * n_lists_);
    ogs->resize(n);
    KV_TRY(gpu_copy_down(ogs->data(), now_.ogs.p, n * sizeof(int64_t), stream_));
    if (scores) {
        scores->resize(n);
        KV_TRY(gpu_copy_down(scores->data(), now_.scores.p, n * sizeof(float), stream_));
    }
    return gpu_stream_finish(stream_);
}

kv_status gpu_lists::write(int32_t l, std::vector<gpu_entry> *entries)
{
    KV_TRY(reserve((int64_t)entries->size()));
    const size_t n = entries->size(), at = (size_t)(l * stride_);
    std::vector<int32_t> rows;
    std::vector<int64_t> ogs;
    std::vector<float> scores;
    for (int64_t i = 0; i < stride_; i++) rows.push_back((int32_t)i);
    for (size_t i = 0; i < n; i++) {
        gpu_entry &e = (*entries)[i];
        e.row = rows[i];
        ogs.push_back(e.og);
        scores.push_back(e.score);
    }
    KV_TRY(gpu_copy_up(now_.rows.p + at, rows.data(), rows.size() * sizeof rows[0], stream_));
    KV_TRY(gpu_copy_up(now_.ogs.p + at, ogs.data(), n * sizeof(int64_t), stream_));
    KV_TRY(gpu_copy_up(now_.scores.p + at, scores.data(), n * sizeof(float), stream_));
    return gpu_stream_finish(stream_);
}

kv_status gpu_lists::copy_from(const gpu_lists &other)
{
    const size_t n = (size_t)(other.stride_ * n_lists_);
    KV_TRY(now_.reserve(n));
    KV_TRY(next_.reserve(n));
    stride_ = other.stride_;
    KV_TRY(gpu_copy_across(now_.rows.p, other.now_.rows.p, n * sizeof(int32_t), stream_));
    KV_TRY(gpu_copy_across(now_.ogs.p, other.now_.ogs.p, n * sizeof(int64_t), stream_));
    KV_TRY(gpu_copy_across(now_.scores.p, other.now_.scores.p, n * sizeof(float), stream_));
    return gpu_stream_finish(stream_);
}
