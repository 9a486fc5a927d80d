/* coded.cuh - storages that keep K and V in codes: kvarn and kivi (docs/policy/kvarn.md, kivi.md).
 *
 * Such a storage has a granule of R tokens (the tile of kvarn, the residual of kivi): the selection lets only whole
 * granules go, so that the cache always holds tokens first .. seen - 1, first a multiple of R. What is coded
 * follows from these two numbers alone. A token's view index is its original index - first.
 *
 * A layer's device memory is a list of byte buffers, its parts, whose meaning is the storage's. Records of tiles and rows
 * go round: number i has slot i modulo the number of slots. The newest R rows of K and V stay in fp32 in two
 * rings [R][kv_heads * head_dim]; token og has row og modulo R. */
#ifndef GPU_CODED_CUH
#define GPU_CODED_CUH

#include "common/backend.h"
#include "common/tile.h"
#include "gpu/ops.cuh"

#include <memory>
#include <vector>

/* Tokens of the cache, first .. seen - 1, and of the piece under way, seen .. seen + m - 1. */
struct gpu_span {
    int64_t first, seen;
    int32_t m;

    int64_t end() const { return seen + m; }
};

typedef std::vector<gpu_buffer<unsigned char>> gpu_parts;

/* Bytes of a record inside a part: those of KV head h begin at `at` + h * head_stride. */
struct gpu_stretch {
    int32_t part, bytes;
    int64_t at, head_stride;
};

/* One entry of the exported state: its record is one stretch, or K row and V row. */
struct gpu_record {
    int64_t og;
    int32_t pos, n;
    gpu_stretch from[2];
};

/* fp32 rows that are not coded (yet): of the cache in a ring, of the piece where the projection put them. */
struct gpu_raw_rows {
    float *ring;         /* [R][width] */
    const float *fresh;  /* row of token seen; the others follow at fresh_stride */
    int64_t fresh_stride;
    int64_t seen;
    int32_t R, width;
};

GPU_DEVICE const float *gpu_raw_row(const gpu_raw_rows &rows, int64_t og)
{
    return og < rows.seen ? rows.ring + og % rows.R * rows.width : rows.fresh + (og - rows.seen) * rows.fresh_stride;
}

/* Notes that item i of a coding kernel is not finite: *bad is 0 or INT32_MAX - (lowest such item). */
GPU_DEVICE void gpu_report(int32_t *bad, int32_t i) { atomicMax(bad, INT32_MAX - i); }

/* rint of docs/policy/kvarn.md: to the nearest whole number, ties to even. */
GPU_DEVICE float gpu_rint(float y)
{
    const float two23 = 8388608.0f, a = kv_bits2f(kv_f2bits(y) & 0x7fffffff);
    if (!(a < two23)) return y;
    const float r = kv_sub(kv_add(a, two23), two23);
    return kv_bits2f(kv_f2bits(r) | (kv_f2bits(y) & INT32_MIN));
}

/* The code of a quotient: rounded and clipped to 0 .. n, in either order; NaN (of infinity by infinity) is 0. */
GPU_DEVICE uint32_t gpu_code(float y, int32_t n)
{
    const float q = KV_MUT(Q08, y > 0.0f && y < (float)n ? (float)(int32_t)y : y, gpu_rint(y));
    return !(q > 0.0f) ? 0u : q < (float)n ? (uint32_t)q : (uint32_t)n;
}

/* Writes codes of `bits` bits behind each other, lowest bits first; they must end on a whole byte. */
class gpu_code_writer
{
public:
    __device__ __forceinline__ explicit gpu_code_writer(unsigned char *to) : to_(to) {}
    __device__ __forceinline__ void put(uint32_t code, int32_t bits)
    {
        waiting_ |= code << n_;
        for (n_ += bits; n_ >= 8; n_ -= 8) {
            *to_++ = (unsigned char)waiting_;
            waiting_ >>= 8;
        }
    }

private:
    unsigned char *to_;
    uint32_t waiting_ = 0;
    int32_t n_ = 0;
};

/* A layer's share of a step. */
struct gpu_coded_step {
    gpu_span span;
    gpu_queries q;      /* q.q is the row q | k | v of token seen, after RoPE; others at q.q_stride */
    float *qkv;         /* the same rows; the storage may change them */
    int32_t *bad;       /* of the layer, see gpu_report; an item is a token counted from bad_base */
    float *workspace;   /* gpu_attention_workspace(q) floats */
};

class gpu_coded
{
public:
    gpu_coded(int32_t granule, int32_t kv_heads, int32_t head_dim, int64_t cap)
        : R_(granule), kv_heads_(kv_heads), D_(head_dim), cap_(cap)
    {
    }
    virtual ~gpu_coded() = default;

    int32_t granule() const { return R_; }

    /* Bytes of every part, for the tokens of the span. */
    virtual std::vector<size_t> part_bytes(const gpu_span &span) const = 0;

    /* From RoPE to the output projection, in one layer: attends, codes what is due, keeps the newest rows. */
    virtual kv_status attend(const gpu_parts &parts, const gpu_coded_step &step, cudaStream_t stream) const = 0;

    /* The token that item 0 of `bad` stands for. */
    virtual int64_t bad_base(const gpu_span &span) const = 0;

    /* SEAL of what becomes coded in the piece. */
    virtual kv_status seal(const gpu_span &span, kv_events *events) const = 0;

    /* Entries of the state that holds tokens first .. seen - 1, in the order of the page. */
    virtual void list(int64_t first, int64_t seen, std::vector<gpu_record> *records) const = 0;

protected:
    int32_t width() const { return kv_heads_ * D_; }
    size_t ring_bytes() const { return (size_t)R_ * (size_t)width() * sizeof(float); }

    /* Slots of things of `per` tokens: as many as the window can hold, and how many of them numbers below `end` need. */
    int32_t limit(int32_t per) const { return (int32_t)(cap_ / per < INT32_MAX ? cap_ / per : INT32_MAX); }
    int64_t slots(int64_t end, int32_t per) const { return end < limit(per) ? end : limit(per); }

    gpu_raw_rows raw_rows(const gpu_coded_step &step, const gpu_buffer<unsigned char> &ring, bool values) const;

    /* Row of token og in a ring, as part of a record. */
    gpu_stretch ring_row(int32_t part, int64_t og) const;

    const int32_t R_, kv_heads_, D_;
    const int64_t cap_; /* tokens of the window; without one INT64_MAX */
};

/* cap: tokens that the selection keeps at most, INT64_MAX for all. */
std::unique_ptr<gpu_coded> gpu_coded_kvarn(const kv_kvarn_params &params, const kv_config &cfg, int64_t cap);
std::unique_ptr<gpu_coded> gpu_coded_kivi(const kv_kivi_params &params, const kv_config &cfg, int64_t cap);

/* ---- coded.cu ---- */

/* Puts the newest R rows of K and V that the piece brings into the rings. */
kv_status gpu_keep_rows(const gpu_raw_rows &k, const gpu_raw_rows &v, int32_t m, cudaStream_t stream);

#endif
