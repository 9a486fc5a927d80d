/* kivi.cu - storage kivi (docs/policy/kivi.md): what happens to a layer's rows in a step, and where records are.
 *
 * Parts: K blocks [slots][kv_heads][record], V rows [slots][kv_heads][record], ring of K, ring of V. */
#include "gpu/kivi.cuh"

#include "gpu/policy.cuh"

#include <algorithm>

namespace
{
class kivi : public gpu_coded
{
public:
    kivi(const kv_kivi_params &params, const kv_config &cfg, int64_t cap)
        : gpu_coded(params.residual, cfg.n_kv_heads, cfg.head_dim, cap), bits_(params.bits),
          layout_(kv_kivi_layout_of(&params, cfg.head_dim))
    {
    }

    std::vector<size_t> part_bytes(const gpu_span &span) const override
    {
        const size_t heads = (size_t)kv_heads_;
        return {(size_t)slots(k_end(span.end()), R_) * heads * (size_t)layout_.k_bytes,
                (size_t)slots(v_end(span.first, span.end()), 1) * heads * (size_t)layout_.v_bytes, ring_bytes(),
                ring_bytes()};
    }

    kv_status attend(const gpu_parts &parts, const gpu_coded_step &step, cudaStream_t stream) const override
    {
        const gpu_span &s = step.span;
        const gpu_raw_rows k = raw_rows(step, parts[K_RING], false), v = raw_rows(step, parts[V_RING], true);
        const int64_t k_done = k_end(s.seen) * R_, v_done = v_end(s.first, s.seen), base = bad_base(s);
        const gpu_kivi_codes codes = {parts[K_BLOCKS].p, parts[V_ROWS].p, layout_, bits_, kv_heads_, limit(R_), limit(1)};
        KV_TRY(gpu_kivi_attention(step.q, codes, k, v, s.first, (int32_t)(k_done - s.first), (int32_t)(v_done - s.first),
                                  step.workspace, stream));
        const gpu_kivi_span due_k = {k_done, (int32_t)(k_end(s.end()) * R_ - k_done), base};
        const gpu_kivi_span due_v = {v_done, (int32_t)(v_end(s.first, s.end()) - v_done), base};
        KV_TRY(gpu_kivi_code_k(codes, k, due_k, step.bad, stream));
        KV_TRY(gpu_kivi_code_v(codes, v, due_v, step.bad, stream));
        return gpu_keep_rows(k, v, step.q.m, stream);
    }

    int64_t bad_base(const gpu_span &span) const override { return std::max(span.first, span.seen - R_); }

    kv_status seal(const gpu_span &span, kv_events *events) const override
    {
        for (int64_t block = k_end(span.seen); block < k_end(span.end()); block++) {
            const int64_t og = block * R_;
            KV_TRY(gpu_decide(events, KV_EVENT_SEAL, og, og + R_ - 1, og - span.first));
        }
        for (int64_t og = v_end(span.first, span.seen); og < v_end(span.first, span.end()); og++)
            KV_TRY(gpu_decide(events, KV_EVENT_SEAL, og + KV_KIVI_V, og, og - span.first));
        return KV_OK;
    }

    void list(int64_t first, int64_t seen, std::vector<gpu_record> *records) const override
    {
        const int64_t k_bytes = layout_.k_bytes, v_bytes = layout_.v_bytes, k_done = k_end(seen) * R_;
        const int64_t v_done = v_end(first, seen);
        for (int64_t og = first; og < k_done; og += R_)
            records->push_back({og, (int32_t)og, 1,
                                {{K_BLOCKS, layout_.k_bytes, og / R_ % limit(R_) * kv_heads_ * k_bytes, k_bytes}, {}}});
        for (int64_t og = k_done; og < seen; og++)
            records->push_back({og, (int32_t)og, 1, {ring_row(K_RING, og), {}}});
        for (int64_t og = first; og < v_done; og++)
            records->push_back({og + KV_KIVI_V, (int32_t)og, 1,
                                {{V_ROWS, layout_.v_bytes, og % limit(1) * kv_heads_ * v_bytes, v_bytes}, {}}});
        for (int64_t og = v_done; og < seen; og++)
            records->push_back({og + KV_KIVI_V, (int32_t)og, 1, {ring_row(V_RING, og), {}}});
    }

private:
    enum { K_BLOCKS, V_ROWS, K_RING, V_RING };

    /* Number of the first block, and the first token, whose K or V is not coded after `seen` tokens. */
    int64_t k_end(int64_t seen) const { return seen / R_; }
    int64_t v_end(int64_t first, int64_t seen) const { return std::max(first, seen - R_ + KV_MUT(Q05, 1, 0)); }

    const int32_t bits_;
    const kv_kivi_layout layout_;
};
} // namespace

std::unique_ptr<gpu_coded> gpu_coded_kivi(const kv_kivi_params &params, const kv_config &cfg, int64_t cap)
{
    return std::make_unique<kivi>(params, cfg, cap);
}
