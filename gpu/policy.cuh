/* policy.cuh - what a cache policy of this side is: who stays, in which view order, at which positions.
 *
 * A policy decides from docs/policy/ and nothing else. It never touches K or V: it hands out rows of the stores and
 * takes them back. A store is [row][kv_heads * head_dim], one pair per layer; a row belongs to each layer and KV head
 * separately, so that heads may keep different tokens in the same row.
 *
 * The order of calls for one piece of a step: begin, the forward pass, finish. */
#ifndef GPU_POLICY_CUH
#define GPU_POLICY_CUH

#include "common/backend.h"
#include "common/status.h"

#include <memory>
#include <stdint.h>
#include <vector>

/* One entry of the cache, of one layer and KV head. */
struct gpu_entry {
    int64_t og;  /* original index of the token */
    int32_t pos; /* position as exported */
    int32_t row; /* of the stores */
};

/* Entries in view order, by layer and KV head: run [layer * kv_heads + head]. */
typedef std::vector<std::vector<gpu_entry>> gpu_runs;

/* How one layer sees the cache. */
struct gpu_layer_view {
    int64_t n_stored;  /* entries; view index of the first new token */
    int64_t rows_at;   /* where its rows begin in the table: n_stored of entries in view order, then the new tokens' */
    int32_t first_pos; /* un-rotated keys: view entry i is read at position first_pos + i */
};

/* How a piece of m tokens sees the cache. The table of rows is `rows`, or `table` in device memory; with neither row i
 * is view entry i. */
struct gpu_view {
    std::vector<int32_t> rows;
    const int32_t *table = nullptr;
    int64_t head_stride = 0; /* from one KV head's rows to the next one's in the table; 0: heads share them */
    int32_t pos = 0;         /* of the first new token; the others follow */
    std::vector<gpu_layer_view> layers; /* of each layer, or one for all */

    bool identity() const { return !table && rows.empty(); }
    const gpu_layer_view &layer(int32_t l) const { return layers[layers.size() == 1 ? 0 : (size_t)l]; }
};

class gpu_policy
{
public:
    virtual ~gpu_policy() = default;

    /* Keys are stored before RoPE and rotated in every step. */
    virtual bool raw_keys() const = 0;

    /* Tokens of a step of m that are fed together when `first` of them are done; seen: tokens before the step. */
    virtual int32_t piece(int64_t seen, int32_t m, int32_t first) const
    {
        (void)seen;
        return m - first;
    }

    /* Before the forward pass of tokens seen .. seen + m - 1: evicts, places, describes the view in a fresh *view.
     * Decisions are appended to events, or nowhere when that is NULL. */
    virtual kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *events) = 0;

    /* After it: takes the tokens in. */
    virtual kv_status finish(int64_t seen, int32_t m, kv_events *events) = 0;

    /* Rows that the stores must have for what has been placed so far. */
    virtual int64_t rows() const = 0;

    virtual kv_status reset() = 0;

    /* Entries of one layer and KV head in view order. */
    virtual kv_status list(int32_t layer, int32_t head, std::vector<gpu_entry> *entries) const = 0;

    /* Replaces everything by runs in view order with positions, after `seen` tokens; assigns rows.
     * ERR_MISMATCH when this policy cannot have such a state. */
    virtual kv_status adopt(int64_t seen, gpu_runs *runs) = 0;

    virtual kv_status clone(std::unique_ptr<gpu_policy> *out) const = 0;
};

/* A policy that decides without scores, once for all layers and heads: on the host. Its events carry layer 0, head -1
 * and stand for every layer. */
class gpu_shared_policy : public gpu_policy
{
public:
    kv_status reset() override
    {
        clear();
        return KV_OK;
    }
    kv_status list(int32_t, int32_t, std::vector<gpu_entry> *entries) const override
    {
        list_all(entries);
        return KV_OK;
    }
    kv_status adopt(int64_t seen, gpu_runs *runs) override;

protected:
    virtual void clear() = 0;
    virtual void list_all(std::vector<gpu_entry> *entries) const = 0;
    virtual kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) = 0;
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
