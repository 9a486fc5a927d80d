/* kvarn.cu - storage kvarn (docs/policy/kvarn.md): what happens to a layer's rows in a step, and where records are.
 *
 * Parts: tiles [slots][kv_heads][record], ring of K, ring of V. */
#include "gpu/kvarn.cuh"

#include "gpu/policy.cuh"

namespace
{
class kvarn : public gpu_coded
{
public:
    kvarn(const kv_kvarn_params &params, const kv_config &cfg, int64_t cap)
        : gpu_coded(params.tile, cfg.n_kv_heads, cfg.head_dim, cap), params_(params),
          layout_(kv_kvarn_layout_of(&params, cfg.head_dim))
    {
    }

    std::vector<size_t> part_bytes(const gpu_span &span) const override
    {
        const size_t tile = (size_t)kv_heads_ * (size_t)layout_.bytes;
        return {(size_t)slots(span.end() / R_, R_) * tile, ring_bytes(), ring_bytes()};
    }

    kv_status attend(const gpu_parts &parts, const gpu_coded_step &step, cudaStream_t stream) const override
    {
        const gpu_span &span = step.span;
        const gpu_queries &q = step.q;
        const int64_t first = span.first / R_, known = span.seen / R_, end = span.end() / R_;
        const gpu_raw_rows k = raw_rows(step, parts[K_RING], false), v = raw_rows(step, parts[V_RING], true);
        const gpu_kvarn_tiles tiles = {parts[TILES].p, layout_, params_, kv_heads_, limit(R_)};
        KV_TRY(gpu_hadamard(step.qkv, q.m, q.q_stride, (q.heads + 2 * kv_heads_) * D_, D_, stream));
        KV_TRY(gpu_kvarn_code(tiles, k, v, known, (int32_t)(end - known), step.bad, stream));
        KV_TRY(gpu_keep_rows(k, v, q.m, stream));
        const int32_t n_coded = (int32_t)(KV_MUT(Q04, known, end) - first);
        KV_TRY(gpu_kvarn_attention(q, tiles, first, n_coded, k.ring, v.ring, step.workspace, stream));
        return gpu_hadamard(q.out, q.m, (int64_t)q.heads * D_, q.heads * D_, D_, stream);
    }

    int64_t bad_base(const gpu_span &span) const override { return span.seen / R_ * R_; }

    kv_status seal(const gpu_span &span, kv_events *events) const override
    {
        for (int64_t og = span.seen / R_ * R_; og + R_ <= span.end() - KV_MUT(Q03, 1, 0); og += R_)
            KV_TRY(gpu_decide(events, KV_EVENT_SEAL, og, og + R_ - 1, og - span.first));
        return KV_OK;
    }

    void list(int64_t first, int64_t seen, std::vector<gpu_record> *records) const override
    {
        const int64_t bytes = layout_.bytes;
        int64_t og = first;
        for (; og + R_ <= seen; og += R_) {
            const int64_t slot = og / R_ % limit(R_);
            records->push_back(
                {og, (int32_t)og, 1, {{TILES, layout_.bytes, slot * kv_heads_ * bytes, bytes}, {}}});
        }
        for (; og < seen; og++)
            records->push_back({og, (int32_t)og, 2, {ring_row(K_RING, og), ring_row(V_RING, og)}});
    }

private:
    enum { TILES, K_RING, V_RING };

    const kv_kvarn_params params_;
    const kv_kvarn_layout layout_;
};
} // namespace

std::unique_ptr<gpu_coded> gpu_coded_kvarn(const kv_kvarn_params &params, const kv_config &cfg, int64_t cap)
{
    return std::make_unique<kvarn>(params, cfg, cap);
}
