/* batch.cu - batches for the trainer: the host's part, and the copies beside the kernels. */
#include "gpu/train/batch.cuh"

#include <algorithm>
#include <string.h>

/* ---- one batch ---- */

kv_status gpu_batch::open(const kv_train_config &config)
{
    model_ = &config.model;
    seq_ = config.seq;
    room_ = config.batch_tokens;
    windows_.reserve((size_t)(room_ / seq_ * (seq_ + 1)));
    const size_t n = (size_t)(bigram_starts() + model_->bigram_rows + 1);
    KV_TRY(host_.open(n));
    std::fill(host_.p, host_.p + n, 0); /* all of it is copied */
    return device_.reserve(n);
}

kv_status gpu_batch::fill_window(const uint16_t *window, int64_t row)
{
    int32_t *const ids = host_.p + row, *const targets = ids + room_, *const hashes = targets + room_;
    for (int64_t i = 0; i <= seq_; i++) {
        const int32_t token = window[i], before = i > 0 ? window[i - 1] : 0;
        if (token >= model_->vocab_size)
            return kv_fail(KV_ERR_FORMAT, "training: token %d in the data; the model has %d", token, model_->vocab_size);
        if (i > 0) targets[i - 1] = token;
        if (i == seq_) continue;
        ids[i] = token;
        if (!model_->bigram_rows) continue;
        const int32_t mixed = model_->bigram_mul_cur * token ^ model_->bigram_mul_prev * before;
        hashes[i] = i == 0 ? model_->bigram_rows - 1 : mixed % (model_->bigram_rows - 1);
    }
    return KV_OK;
}

/* Who uses a row of a table follows from the tokens alone: lists in the order of tokens. */
void gpu_batch::list_uses(const int32_t *rows, int32_t n_rows, int32_t *start, int32_t *list)
{
    std::fill(start, start + n_rows + 1, 0);
    for (int32_t t = 0; t < tokens_; t++) start[rows[t] + 1]++;
    for (int32_t r = 0; r < n_rows; r++) start[r + 1] += start[r];
    std::vector<int32_t> next(start, start + n_rows);
    for (int32_t t = 0; t < tokens_; t++) list[next[(size_t)rows[t]]++] = t;
}

kv_status gpu_batch::fill(const uint16_t *windows, int64_t n)
{
    windows_.clear();
    if (n < 1 || n > room_ / seq_)
        return kv_fail(KV_ERR_USAGE, "training: %lld windows; a batch has 1 to %lld", (long long)n, (long long)(room_ / seq_));
    for (int64_t w = 0; w < n; w++) KV_TRY(fill_window(windows + w * (seq_ + 1), w * seq_));
    tokens_ = (int32_t)(n * seq_);
    int32_t *const h = host_.p;
    list_uses(h, model_->vocab_size, h + token_starts(), h + 3 * room_);
    if (model_->bigram_rows) list_uses(h + 2 * room_, model_->bigram_rows, h + bigram_starts(), h + 4 * room_);
    windows_.assign(windows, windows + n * (seq_ + 1));
    return KV_OK;
}

kv_status gpu_batch::upload(cudaStream_t stream) { return gpu_copy_up(device_.p, host_.p, host_.n * sizeof(int32_t), stream); }

bool gpu_batch::holds(const uint16_t *windows, int64_t n) const
{
    return !windows_.empty() && n == tokens_ / seq_ &&
           memcmp(windows_.data(), windows, windows_.size() * sizeof *windows) == 0;
}

/* ---- two of them ---- */

gpu_batches::~gpu_batches()
{
    if (copies_.s) (void)gpu_stream_finish(copies_.s); /* copies read memory that goes now */
}

kv_status gpu_batches::open()
{
    KV_TRY(gpu_stream_open(&copies_.s, 0, 1));
    KV_TRY(worked_.open());
    for (auto &s : slots_) {
        KV_TRY(s.copied.open());
        KV_TRY(s.batch.open(config_));
    }
    return KV_OK;
}

/* One that nobody waits for; else the older one. */
int gpu_batches::free_slot() const { return slots_[1 - last_].waiting && !slots_[last_].waiting ? last_ : 1 - last_; }

kv_status gpu_batches::prefetch(const uint16_t *windows, int64_t n)
{
    for (const auto &s : slots_)
        if (s.waiting && s.batch.holds(windows, n)) return KV_OK;
    const int i = free_slot();
    auto &s = slots_[i];
    KV_TRY(gpu_stream_finish(copies_.s)); /* the last copies: a step ago */
    s.waiting = false;
    const kv_status st = s.batch.fill(windows, n);
    if (st == KV_ERR_USAGE || st == KV_ERR_FORMAT) return KV_OK;
    KV_TRY(st);
    KV_TRY(worked_.mark(work_)); /* the kernels that still read this slot */
    KV_TRY(worked_.hold(copies_.s));
    KV_TRY(s.batch.upload(copies_.s));
    KV_TRY(s.copied.mark(copies_.s));
    s.waiting = true;
    last_ = i;
    return KV_OK;
}

kv_status gpu_batches::take(const uint16_t *windows, int64_t n, const gpu_batch **out)
{
    for (const int i : {1 - last_, last_}) {
        auto &s = slots_[i];
        if (!s.waiting || !s.batch.holds(windows, n)) continue;
        s.waiting = false;
        found_++;
        *out = &s.batch;
        return s.copied.hold(work_);
    }
    const int i = free_slot();
    auto &s = slots_[i];
    KV_TRY(gpu_stream_finish(copies_.s));
    s.waiting = false;
    last_ = i;
    KV_TRY(s.batch.fill(windows, n));
    KV_TRY(s.batch.upload(work_));
    *out = &s.batch;
    return gpu_stream_finish(work_);
}
