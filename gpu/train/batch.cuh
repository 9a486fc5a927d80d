/* batch.cuh - the tokens of a batch as the kernels want them, and how they get there beside the work on the batch before. */
#ifndef GPU_TRAIN_BATCH_CUH
#define GPU_TRAIN_BATCH_CUH

#include "common/train.h"
#include "gpu/kvdev.cuh"

#include <vector>

/* The rows of a table that a batch uses: tokens of row r are list[start[r]] .. list[start[r + 1] - 1]. In device memory. */
struct gpu_uses {
    const int32_t *start, *list;
};

/* One batch, on the host and on the device: two blocks of the same layout, so that one copy brings all of it. */
class gpu_batch
{
public:
    /* Memory for a whole batch; the config outlives the batch. */
    kv_status open(const kv_train_config &config);

    /* The part of the host, from windows of seq + 1 tokens; no copy from it may be under way. ERR_USAGE, ERR_FORMAT: it
     * holds no windows then. */
    kv_status fill(const uint16_t *windows, int64_t n);
    kv_status upload(cudaStream_t stream);

    bool holds(const uint16_t *windows, int64_t n) const;
    int32_t tokens() const { return tokens_; }

    /* On the device: [tokens]; hashes and bigram_uses for models with a bigram table. */
    const int32_t *ids() const { return device_.p; }
    const int32_t *targets() const { return device_.p + room_; }
    const int32_t *hashes() const { return device_.p + 2 * room_; }
    gpu_uses token_uses() const { return {device_.p + token_starts(), device_.p + 3 * room_}; }
    gpu_uses bigram_uses() const { return {device_.p + bigram_starts(), device_.p + 4 * room_}; }

private:
    int64_t token_starts() const { return 5 * room_; }
    int64_t bigram_starts() const { return token_starts() + model_->vocab_size + 1; }
    kv_status fill_window(const uint16_t *window, int64_t row);
    void list_uses(const int32_t *rows, int32_t n_rows, int32_t *start, int32_t *list);

    const kv_config *model_ = nullptr;
    int64_t seq_ = 0, room_ = 0; /* tokens of a sequence; most tokens of a batch */
    int32_t tokens_ = 0;
    std::vector<uint16_t> windows_; /* as they came */
    gpu_pinned<int32_t> host_;
    gpu_buffer<int32_t> device_;
};

/* Two batches: while the kernels read one, the next is copied into the other on a stream of its own. A batch waits from
 * prefetch until take brings the same windows. */
class gpu_batches
{
public:
    /* work: the stream of the kernels. */
    gpu_batches(const kv_train_config &config, cudaStream_t work) : config_(config), work_(work) {}
    gpu_batches(const gpu_batches &) = delete;
    gpu_batches &operator=(const gpu_batches &) = delete;
    ~gpu_batches();

    kv_status open();

    /* Windows that take would refuse are let be. */
    kv_status prefetch(const uint16_t *windows, int64_t n);

    /* The batch of these windows, for work issued on the stream from now on; valid until take or prefetch is called.
     * Copied now when it does not wait. ERR_USAGE, ERR_FORMAT. */
    kv_status take(const uint16_t *windows, int64_t n, const gpu_batch **out);

    int64_t found() const { return found_; } /* calls of take whose batch waited */

private:
    int free_slot() const;

    const kv_train_config &config_;
    cudaStream_t work_;
    gpu_stream copies_;
    gpu_event worked_; /* behind the kernels that were issued before the last prefetch */
    struct {
        gpu_batch batch;
        gpu_event copied;
        bool waiting = false;
    } slots_[2];
    int last_ = 1; /* slot that was filled last */
    int64_t found_ = 0;
};

#endif
