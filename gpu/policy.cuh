/* policy.cuh - what a cache policy of this side is: decisions on the host, rows in device stores.
 *
 * A policy decides which tokens stay, in which view order and at which positions, from docs/policy/ and
 * nothing else. It never touches K or V: it hands out rows of the stores ([row][kv_heads * head_dim], one
 * pair of stores per layer, the same rows in every layer) and takes them back. All three policies decide
 * alike for all layers and heads.
 *
 * The order of calls for one piece of a step: begin, the forward pass, finish. */
#ifndef GPU_POLICY_CUH
#define GPU_POLICY_CUH

#include "common/backend.h"
#include "common/status.h"

#include <memory>
#include <stdint.h>
#include <vector>

/* One entry of the cache. */
struct gpu_entry {
    int64_t og;  /* original index of the token */
    int32_t pos; /* position as exported */
    int32_t row; /* of the stores */
};

/* How a piece of m tokens sees the cache. */
struct gpu_view {
    std::vector<int32_t> rows; /* stored entries in view order, then the m new tokens; empty: row i
                                * is view entry i */
    int64_t n_stored;          /* view index of the first new token */
    int32_t pos;               /* of the first new token; the others follow */
};

class gpu_policy
{
public:
    virtual ~gpu_policy() = default;

    /* Keys are stored before RoPE; view entry i is read at position i. */
    virtual bool raw_keys() const = 0;

    /* Tokens of a step of m that are fed together. */
    virtual int32_t piece(int32_t m) const { return m; }

    /* Before the forward pass of tokens seen .. seen + m - 1: evicts, places, describes the view.
     * Decisions are appended to events (layer 0), or nowhere when that is NULL. */
    virtual kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *events) = 0;

    /* After it: takes the tokens in. */
    virtual kv_status finish(int64_t seen, int32_t m, kv_events *events) = 0;

    /* Rows that the stores must have for what has been placed so far. */
    virtual int64_t rows() const = 0;

    virtual void reset() = 0;
    virtual void list(std::vector<gpu_entry> *entries) const = 0; /* in view order */

    /* Replaces everything by entries in view order with positions, after `seen` tokens; assigns rows.
     * ERR_MISMATCH when this policy cannot have such a state. */
    virtual kv_status adopt(int64_t seen, std::vector<gpu_entry> *entries) = 0;

    virtual std::unique_ptr<gpu_policy> clone() const = 0;
};

/* One per policy: gpu/policy/<name>.cu. */
std::unique_ptr<gpu_policy> gpu_policy_full();
std::unique_ptr<gpu_policy> gpu_policy_sliding(const kv_sliding_params &params);
std::unique_ptr<gpu_policy> gpu_policy_sink(const kv_sink_params &params);

/* Appends a decision without a score that holds for all heads. */
kv_status gpu_decide(kv_events *events, kv_event_kind kind, int64_t og, int64_t token, int64_t slot);

/* Rows of the stores: returned ones are handed out again before new ones. */
class gpu_rows
{
public:
    int32_t take();
    void give_back(int32_t row) { free_.push_back(row); }
    int32_t count() const { return n_; } /* rows that were ever in use */
    void reset();

private:
    std::vector<int32_t> free_;
    int32_t n_ = 0;
};

#endif
