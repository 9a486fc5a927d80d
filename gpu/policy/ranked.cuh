/* ranked.cuh - policies that evict once per step what has the lowest scores: h2o, tova, snapkv, pyramid.
 *
 * Entries are lists in device memory, oldest to newest, one per KV head or one per layer. What differs between the four:
 * which queries count, how sums become scores, and how many of which entries stay. */
#ifndef GPU_POLICY_RANKED_CUH
#define GPU_POLICY_RANKED_CUH

#include "gpu/lists.cuh"
#include "gpu/ops.cuh"

class gpu_ranked : public gpu_policy
{
public:
    /* per_layer: lists of a layer, site.kv_heads or 1. */
    gpu_ranked(const char *name, const gpu_site &site, int32_t per_layer);

    bool raw_keys() const override { return false; }
    kv_status follow(int64_t seen, int32_t m, const kv_events &given) override;
    kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *events) override;
    kv_status finish(int64_t seen, int32_t m, kv_events *events) override;
    kv_status publish(const kv_events &noted, kv_events *out) const override;
    int64_t rows() const override { return rows_; }
    kv_status reset() override;
    kv_status list(int32_t layer, int32_t head, std::vector<gpu_entry> *entries) const override;
    kv_status adopt(int64_t seen, gpu_runs *runs) override;

protected:
    /* What a layer keeps when a piece ends: of the first n_open of its n entries the `keep` best, and all behind. */
    struct budget {
        int64_t n_open, keep;
        bool all() const { return n_open == keep; }
    };

    /* Of a piece of m tokens after `seen`, with n entries, the new ones included. */
    virtual budget budget_of(int32_t layer, int64_t n, int64_t seen, int32_t m) const = 0;

    /* Which queries count in that piece; counting->wanted stays false when no score is needed. */
    virtual void choose_queries(int64_t seen, int32_t m, gpu_counting *counting) const = 0;

    /* Entries that a layer holds after `seen` tokens, the newest of which `tail` are there in any case. */
    virtual int64_t entries_after(int32_t layer, int64_t seen, int64_t *tail) const = 0;

    bool evicts(int64_t seen, int32_t m) const;
    int32_t list_of(int32_t layer, int32_t head) const { return layer * per_layer_ + (per_layer_ == 1 ? 0 : head); }
    kv_status copy_to(gpu_ranked *other) const;

    /* For count: entries and lists of this layer; the rest is the caller's. */
    gpu_score_args score_args(int32_t layer, const float *sums) const;

    const char *name_;
    gpu_site site_;
    int32_t per_layer_;
    gpu_lists lists_;
    std::vector<int32_t> n_; /* entries, of each layer */
    int32_t m_ = 0;          /* tokens of the piece under way */

private:
    kv_status evict(int64_t seen, int32_t m, kv_events *events);
    kv_status note_evictions(int64_t seen, int32_t m, const std::vector<gpu_selection> &selections,
                             kv_events *events) const;
    kv_status note_list(int32_t l, int64_t seen, int32_t m, const gpu_selection &s, const int64_t *ogs,
                        const float *scores, float lowest, kv_events *events) const;
    kv_status note_admissions(int32_t l, int64_t seen, int32_t m, const int64_t *kept, int64_t n_kept,
                              kv_events *events) const;
    kv_status follow_piece(gpu_follower *f, int32_t l, int64_t seen, int32_t m, std::vector<int64_t> *ogs,
                           std::vector<uint8_t> *stays) const;
    kv_status follow_evictions(gpu_follower *f, int32_t l, const budget &b, int64_t token,
                               const std::vector<int64_t> &ogs, std::vector<uint8_t> *stays) const;
    kv_status upload_given();
    kv_status check_run(int64_t seen, int32_t layer, const std::vector<gpu_entry> &run) const;
    kv_event event(int32_t l, kv_event_kind kind, int64_t og, int64_t token, int64_t slot, float margin) const;

    int64_t rows_ = 0;
    std::vector<std::vector<uint8_t>> given_; /* of each list: 1 for what stays, when decisions are followed */
    gpu_buffer<gpu_selection> selections_;
    gpu_buffer<float> lowest_;
    gpu_buffer<uint8_t> given_there_;
};

#endif
