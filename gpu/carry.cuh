/* carry.cuh - what a model of the golf family remembers of the newest tokens, in device memory (common/state.h: the carry).
 *
 * One slot holds all that follows one token. Slot 0 is zero for ever and stands for "no token"; the others are a ring. Most
 * policies need the newest token's slot only, and write the other one meanwhile. Windows that begin again after an older
 * token (docs/policy/xwindow.md, pred=carry) need as many as a window has tokens. */
#ifndef GPU_CARRY_CUH
#define GPU_CARRY_CUH

#include "common/config.h"
#include "common/state.h"
#include "gpu/ops.cuh"

class gpu_carry
{
public:
    /* depth: tokens behind which a piece may begin, the newest of those that were seen; 0: pieces begin as if nothing came
     * before. */
    kv_status open(const kv_config &cfg, int32_t depth, cudaStream_t stream);

    size_t bytes() const { return layout_.bytes; } /* of the newest slot; 0: the model remembers nothing */

    void reset() { written_ = valid_ = 0; }

    /* ERR_USAGE when a piece that begins with token `first`, `seen` being known, needs what is not there. */
    kv_status check(int64_t seen, int64_t first) const;

    /* For a piece of tokens first .. first + m - 1, of which those from `seen` on are new. */
    gpu_carry_rows rows(int64_t seen, int64_t first, int32_t m) const;

    /* The piece is done. */
    void advance(const gpu_carry_rows &rows, int32_t m);

    /* The newest slot, to and from host memory; `seen` and vocab: what it must agree with. */
    kv_status read(void *to, cudaStream_t stream) const;
    static kv_status check_blob(const void *from, int64_t seen, int32_t vocab);
    kv_status write(const void *from, int64_t seen, cudaStream_t stream);

    kv_status copy_from(const gpu_carry &other, cudaStream_t stream);

private:
    int32_t ring() const { return depth_ > 1 ? depth_ + 1 : 2; }
    const float *slot(int64_t back) const; /* of the token `back` before the newest; slot 0 when there is none */
    size_t floats() const { return layout_.bytes / sizeof(float); }

    kv_carry_layout layout_ = {};
    int32_t depth_ = 1;
    gpu_buffer<float> slots_;
    int64_t written_ = 0; /* slots, ever */
    int32_t valid_ = 0;   /* newest slots of successive tokens */
};

#endif
