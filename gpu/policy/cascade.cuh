/* cascade.cuh - docs/policy/cascade.md: rings behind rings. The plan of a step, and the policy. */
#ifndef GPU_POLICY_CASCADE_CUH
#define GPU_POLICY_CASCADE_CUH

#include "gpu/ops.cuh"
#include "gpu/tournament.cuh"

/* Where tokens go, without knowing who wins: from the number of tokens and the parameters alone. */
class gpu_cascade_plan
{
public:
    explicit gpu_cascade_plan(const kv_cascade_params &params);
    gpu_cascade_plan(const kv_cascade_params &params, const gpu_rings &rings); /* goes on from there */

    const gpu_rings &rings() const { return rings_; }

    /* Inserts token t, the next one; appends its moves. */
    void insert(int64_t t, std::vector<gpu_ring_move> *moves);

private:
    kv_cascade_params params_;
    int64_t period_[KV_CASCADE_MAX]; /* a_i */
    gpu_rings rings_;
};

class gpu_cascade : public gpu_policy
{
public:
    gpu_cascade(const kv_cascade_params &params, const gpu_site &site);

    bool raw_keys() const override { return true; }
    bool has_scores() const override { return true; }
    kv_status follow(int64_t seen, int32_t m, const kv_events &given) override;
    kv_status begin(int64_t seen, int32_t m, gpu_view *view, kv_events *events) override;
    kv_status count(int32_t layer, const float *sums) override;
    kv_status finish(int64_t seen, int32_t m, kv_events *events) override;
    kv_status publish(const kv_events &noted, kv_events *out) const override;
    int64_t rows() const override { return rows_; }
    kv_status reset() override;
    kv_status list(int32_t layer, int32_t head, std::vector<gpu_entry> *entries) const override;
    kv_status adopt(int64_t seen, gpu_runs *runs) override;
    kv_status clone(std::unique_ptr<gpu_policy> *out) const override;

    /* Between begin and finish: scores of list l by slot, then of the piece's tokens, from element `first` on. For
     * traces, where scores do not come from attention. */
    kv_status impose(int32_t l, int32_t first, const std::vector<float> &scores);

private:
    bool by_score() const { return params_.select == KV_SELECT_EMA; }
    int32_t list_of(int32_t layer, int32_t head) const { return layer * per_layer_ + (per_layer_ == 1 ? 0 : head); }
    kv_status make_weights(int32_t m);
    gpu_duel_rule rule() const;
    kv_status run_tournament(const std::vector<gpu_ring_move> &moves, int32_t m, int32_t n_after);
    kv_status note_all(const std::vector<gpu_ring_move> &moves, int64_t seen, kv_events *events);
    kv_status check_run(int64_t seen, const gpu_rings &rings, int32_t layer, const std::vector<gpu_entry> &run) const;

    kv_cascade_params params_;
    gpu_site site_;
    int32_t per_layer_; /* lists of a layer */
    gpu_lists lists_;
    gpu_cascade_plan plan_;
    int64_t rows_ = 0;
    int32_t m_ = 0;                /* tokens of the piece under way */
    std::vector<uint8_t> given_;   /* outcomes of its duels, when a list is followed: [list][duel] */

    int32_t weights_for_ = 0;      /* the m that weights_ and decay_ were made for */
    float decay_ = 0.0f;           /* fp32(b_m) */
    gpu_buffer<float> weights_;    /* [m] */
    gpu_buffer<int32_t> view_rows_, view_of_, source_;
    gpu_buffer<gpu_ring_move> moves_;
    gpu_buffer<uint8_t> won_;
    gpu_buffer<float> margin_;
};

#endif
