/* policy.cuh - what a cache policy of this side is: who stays, in which view order, at which positions.
 *
 * A policy decides from docs/policy/ and nothing else, on the host where no score decides, else in device memory. It never touches K or V: it hands out rows of the stores and
 * takes them back. A store is [row][kv_heads * head_dim], one pair per layer; a row belongs to each layer and KV head
 * separately, so that heads may keep different tokens in the same row.
 *
 * The order of calls for a step: check, follow when decisions are given; then for each piece begin, the forward pass
 * (which calls count once per layer when begin has asked for it), finish; at the end publish. */
#ifndef GPU_POLICY_CUH
#define GPU_POLICY_CUH

#include "common/backend.h"
#include "common/status.h"
#include "gpu/kvdev.cuh"

#include <memory>
#include <stdint.h>
#include <vector>

/* One entry of the cache, of one layer and KV head. */
struct gpu_entry {
    int64_t og;  /* original index of the token */
    int32_t pos; /* position as exported */
    int32_t row; /* of the stores */
    float score = 0.0f; /* where the policy has scores */
};

/* Entries in view order, by layer and KV head: run [layer * kv_heads + head]. */
typedef std::vector<std::vector<gpu_entry>> gpu_runs;

/* How one layer sees the cache. */
struct gpu_layer_view {
    int64_t n_stored; /* entries; view index of the first new token. Raw keys: entry i is read at position i */
    int64_t rows_at;  /* where its rows begin in the table: n_stored of entries in view order, then the new tokens' */
};

/* Which queries of a piece a policy counts for each entry (gpu_column_args in ops.cuh). */
struct gpu_counting {
    bool wanted = false;
    int32_t row0 = 0;               /* first query */
    int32_t block = 256;            /* queries per chain */
    const float *weights = nullptr; /* device memory */
    bool reversed = false;
};

/* How a piece of m tokens sees the cache. The table of rows is `rows`, or `table` in device memory; with neither row i
 * is view entry i. */
struct gpu_view {
    std::vector<int32_t> rows;
    const int32_t *table = nullptr;
    int64_t head_stride = 0; /* from one KV head's rows to the next one's in the table; 0: heads share them */
    int32_t pos = 0;         /* of the first new token; the others follow */
    bool own_exact = false;  /* the new tokens' rows are read as computed, not as stored */
    std::vector<gpu_layer_view> layers; /* of each layer, or one for all */
    gpu_counting counting;

    bool identity() const { return !table && rows.empty(); }
    const gpu_layer_view &layer(int32_t l) const { return layers[layers.size() == 1 ? 0 : (size_t)l]; }
};

/* The model and the stream that a policy decides on. */
struct gpu_site {
    int32_t n_layers, heads, kv_heads;
    cudaStream_t stream;
};

/* What a model remembers of earlier tokens (gpu/carry.cuh) under a policy: steps of at most `window` tokens, each `stride`
 * behind the one before. Window 1: steps go on behind the newest token, whatever their length; 0: every step begins as if
 * nothing came before. */
struct gpu_memory {
    int32_t window, stride;
};

class gpu_coded; /* gpu/coded.cuh */

class gpu_policy
{
public:
    virtual ~gpu_policy() = default;

    /* Keys are stored before RoPE and rotated in every step. */
    virtual bool raw_keys() const = 0;

    /* Entries have scores, which belong to the state. */
    virtual bool has_scores() const { return false; }

    virtual gpu_memory memory() const { return {1, 1}; }

    /* Whether a step can be taken, `seen` tokens after the beginning. A refusal changes nothing. */
    virtual kv_status check(int64_t seen, const kv_step &step) const;

    /* The decisions of the next step, of m tokens, are these: they are replayed instead of deciding. ERR_USAGE when they
     * cannot be obeyed; nothing has changed then. */
    virtual kv_status follow(int64_t seen, int32_t m, const kv_events &given) = 0;

    /* Tokens of a step of m that are fed together when `first` of them are done; seen: tokens before the step. */
    virtual int32_t piece(int64_t seen, int32_t m, int32_t first) const
    {
        (void)seen;
        return m - first;
    }

    /* Before the forward pass of tokens seen .. seen + m - 1: evicts, places, describes the view in a fresh *view.
     * Decisions are appended to events, or nowhere when that is NULL. */
    virtual kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *events) = 0;

    /* During the forward pass, when begin has asked for it: the sums [heads][n_view] of one layer, in device memory. */
    virtual kv_status count(int32_t layer, const float *sums)
    {
        (void)layer, (void)sums;
        return KV_OK;
    }

    /* After it: takes the tokens in. */
    virtual kv_status finish(int64_t seen, int32_t m, kv_events *events) = 0;

    /* Appends what begin and finish have noted during a step in the order of docs/backend.md. */
    virtual kv_status publish(const kv_events &noted, kv_events *out) const = 0;

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

/* A policy that decides without scores, once for all layers and heads: on the host. Its events are noted once, with
 * layer 0 and head -1, and published for every layer that takes part. */
class gpu_shared_policy : public gpu_policy
{
public:
    explicit gpu_shared_policy(int32_t n_layers, const gpu_coded *coded = nullptr) : n_layers_(n_layers), coded_(coded) {}

    kv_status follow(int64_t seen, int32_t m, const kv_events &given) override;
    kv_status publish(const kv_events &noted, kv_events *out) const override;
    kv_status reset() override
    {
        clear();
        return KV_OK;
    }
    kv_status list(int32_t layer, int32_t, std::vector<gpu_entry> *entries) const override
    {
        entries->clear();
        if (layer >= first_layer()) list_all(entries);
        return KV_OK;
    }
    kv_status adopt(int64_t seen, gpu_runs *runs) override;

protected:
    virtual void clear() = 0;
    virtual void list_all(std::vector<gpu_entry> *entries) const = 0;
    virtual kv_status adopt_all(int64_t seen, std::vector<gpu_entry> *entries) = 0;

    /* Layers before it have no entries. */
    virtual int32_t first_layer() const { return 0; }

    /* Tokens that only leave together. */
    int32_t granule() const;

    /* What becomes coded when tokens seen .. seen + m - 1 have come to first .. seen - 1. */
    kv_status seal(int64_t first, int64_t seen, int32_t m, kv_events *events) const;

    int32_t n_layers_;
    const gpu_coded *coded_; /* the storage, if it keeps codes; outlives the policy */
};

/* One per policy: gpu/policy/<name>.cu. */
std::unique_ptr<gpu_policy> gpu_policy_full(int32_t n_layers, const gpu_coded *coded = nullptr);
std::unique_ptr<gpu_policy> gpu_policy_sliding(const kv_sliding_params &params, int32_t n_layers,
                                               const gpu_coded *coded = nullptr);
std::unique_ptr<gpu_policy> gpu_policy_sink(const kv_sink_params &params, int32_t n_layers);
std::unique_ptr<gpu_policy> gpu_policy_xwindow(const kv_xwindow_params &params, int32_t n_layers);
std::unique_ptr<gpu_policy> gpu_policy_dilated(const kv_dilated_params &params, int32_t n_layers);
std::unique_ptr<gpu_policy> gpu_policy_h2o(const kv_h2o_params &params, const gpu_site &site);
std::unique_ptr<gpu_policy> gpu_policy_tova(const kv_tova_params &params, const gpu_site &site);
std::unique_ptr<gpu_policy> gpu_policy_snapkv(const kv_snapkv_params &params, const gpu_site &site);
std::unique_ptr<gpu_policy> gpu_policy_cascade(const kv_cascade_params &params, const gpu_site &site);
std::unique_ptr<gpu_policy> gpu_policy_pyramid(const kv_snapkv_params &params, const gpu_site &site);

/* Appends an event, unless events is NULL. */
kv_status gpu_note(kv_events *events, const kv_event &e);

/* Appends a decision without a score that holds for all heads. */
kv_status gpu_decide(kv_events *events, kv_event_kind kind, int64_t og, int64_t token, int64_t slot);

/* The margin winner - loser: NaN as 0x7fc00000, zero as +0. */
KV_HD float gpu_margin(float winner, float loser)
{
    const float m = kv_sub(winner, loser);
    if (m != m) return kv_bits2f(0x7fc00000);
    return m == 0.0f ? 0.0f : m;
}

/* Reads a list of decisions that is followed: each must be the one that is expected, margins aside. */
class gpu_follower
{
public:
    explicit gpu_follower(const kv_events &given) : given_(given) {}

    bool at_end() const { return at_ == given_.n; }
    const kv_event *next() const { return at_end() ? nullptr : &given_.v[at_]; }
    kv_status expect(const kv_event &e); /* ERR_USAGE says where the list differs; else goes on to the next one */
    kv_status refuse(const char *why) const;
    kv_status finish() const; /* ERR_USAGE when something is left */

private:
    const kv_events &given_;
    size_t at_ = 0;
};

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
