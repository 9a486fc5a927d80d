/* carry.cuh - what a model of the golf family remembers of the newest tokens, in device memory (common/state.h: the
 * carry).
 *
 * One slot holds what follows one token. Slot 0 is zero for ever and stands for "no token"; the others are a ring. Most
 * policies need the newest token's slot only, and write the other one meanwhile. Windows that begin again behind an
 * older token (docs/golf.md, pred=carry) have a slot for every token of a window, at its index modulo their number. */
#ifndef GPU_CARRY_CUH
#define GPU_CARRY_CUH

#include "common/config.h"
#include "common/state.h"
#include "gpu/ops.cuh"
#include "gpu/policy.cuh"

#include <vector>

class gpu_carry
{
public:
    kv_status open(const kv_config &cfg, const gpu_memory &memory, cudaStream_t stream);

    /* Bytes of what is exported; 0: the model remembers nothing. */
    size_t bytes() const { return layout_.bytes * (kept_.empty() ? 1 : kept_.size()); }

    void reset() { kept_.clear(); }

    /* ERR_USAGE when a piece that begins with token `first` needs what is not there. */
    kv_status check(int64_t first) const;

    /* For a piece of tokens first .. first + m - 1, of which those from `seen` on are new. */
    gpu_carry_rows rows(int64_t seen, int64_t first, int32_t m) const;

    /* The piece is done. */
    void advance(int64_t seen, int64_t first, int32_t m, const gpu_carry_rows &rows);

    /* To and from host memory: bytes(), or n that check_blob has found right. */
    kv_status read(void *to, cudaStream_t stream) const;
    kv_status check_blob(const void *from, size_t n, int64_t seen, int32_t vocab) const;
    kv_status write(const void *from, size_t n, int64_t seen, cudaStream_t stream);

    kv_status copy_from(const gpu_carry &other, cudaStream_t stream);

private:
    /* What follows `count` tokens of the stream. */
    struct place {
        int64_t count;
        int32_t slot;
    };

    bool windows() const { return memory_.window > 1; }
    int32_t ring() const { return windows() ? memory_.window + 1 : 2; }
    size_t floats() const { return layout_.bytes / sizeof(float); }
    float *slot(int32_t i) const { return slots_.p + (size_t)i * floats(); }
    const place *find(int64_t count) const; /* NULL: not there */

    kv_carry_layout layout_ = {};
    gpu_memory memory_ = {1, 1};
    gpu_buffer<float> slots_;
    std::vector<place> kept_; /* ascending; the newest token's last */
};

#endif
