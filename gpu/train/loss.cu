/* loss.cu - from logits to their gradient. */
#include "gpu/train/each.cuh"
#include "gpu/train/ops.cuh"

namespace
{
struct logits_back {
    gpu_logit_rows r;

    __device__ void operator()(int64_t e) const
    {
        const int64_t row = e / r.vocab;
        const float p = kv_div(kv_exp(kv_sub(r.l[e], r.stats[row * 2])), r.stats[row * 2 + 1]);
        const float off = e % r.vocab == r.targets[row] ? kv_sub(p, 1.0f) : p;
        float d = kv_mul(off, r.share);
        if (r.cap != 0.0f) {
            const float t = kv_tanh(kv_div(r.z[e], r.cap));
            d = kv_mul(d, kv_sub(1.0f, kv_mul(t, t)));
        }
        r.z[e] = d;
    }
};
} // namespace

kv_status gpu_logits_back(const gpu_logit_rows &r, cudaStream_t stream)
{
    return gpu_each(r.rows * r.vocab, logits_back{r}, stream);
}
