/* kivi_attention.cu - attention over K and V of storage kivi (docs/policy/kivi.md): docs/numerics.md, section 4, on the
 * values that the codes stand for; they are widened while they are read. */
#include "gpu/attention.cuh"
#include "gpu/kivi.cuh"

/* First the entries that are codes, then rows of the ring, then those of the piece. */
struct gpu_kivi_source {
    gpu_kivi_codes codes;
    gpu_raw_rows k, v;
    int64_t first;
    int32_t k_coded, v_coded; /* view entries */

    struct Scratch {};

    template <int THREADS>
    __device__ __forceinline__ void prepare(const gpu_queries &, const gpu_chunk &, Scratch *) const
    {
    }

    __device__ __forceinline__ float key_of_code(const gpu_chunk &at, int32_t entry, int32_t d) const
    {
        const kv_kivi_layout &l = codes.layout;
        const int64_t og = first + at.chunk * GPU_CH + entry;
        const unsigned char *const record = gpu_kivi_block(codes, og / l.R, at.kv_head);
        const int32_t t = (int32_t)(og % l.R), group = d * (l.R / l.G) + KV_MUT(M25, (t / l.G) ^ 1, t / l.G);
        return gpu_kivi_value(kv_code_get(record + d * l.k_row, t, codes.bits),
                              reinterpret_cast<const float *>(record + l.k_scale)[group],
                              reinterpret_cast<const float *>(record + l.k_min)[group]);
    }

    template <int THREADS>
    __device__ __forceinline__ void load_keys(const gpu_queries &q, const gpu_chunk &at, int32_t d0, int32_t dn,
                                              float *ks) const
    {
        const int32_t left = k_coded - at.chunk * GPU_CH, n = left < 0 ? 0 : gpu_min(left, at.n_entries);
        for (int32_t e = (int32_t)threadIdx.x; e < dn * n; e += THREADS)
            ks[e / n * GPU_KS + e % n] = key_of_code(at, e % n, d0 + e / n);
        for (int32_t e = (int32_t)threadIdx.x; e < dn * (at.n_entries - n); e += THREADS) {
            const int32_t d = e % dn, i = n + e / dn;
            const float *const row = gpu_raw_row(k, first + at.chunk * GPU_CH + i);
            ks[d * GPU_KS + i] = row[at.kv_head * q.head_dim + d0 + d];
        }
    }

    __device__ __forceinline__ float4 finish(float4 acc, int32_t, const Scratch &) const { return acc; }

    __device__ __forceinline__ float4 values_of_codes(int64_t og, int32_t kv_head, int32_t d) const
    {
        const kv_kivi_layout &l = codes.layout;
        const unsigned char *const record = gpu_kivi_row(codes, og, kv_head);
        const float *const scale = reinterpret_cast<const float *>(record + l.v_scale);
        const float *const least = reinterpret_cast<const float *>(record + l.v_min);
        float x[4];
        GPU_UNROLL
        for (int j = 0; j < 4; j++) {
            const int32_t group = KV_MUT(Q07, 0, (d + j) / l.G);
            x[j] = gpu_kivi_value(kv_code_get(record, d + j, codes.bits), scale[group], least[group]);
        }
        const float4 four = {x[0], x[1], x[2], x[3]};
        return four;
    }

    __device__ __forceinline__ void weigh(const gpu_queries &q, const gpu_chunk &at, int32_t d, const Scratch &,
                                          const gpu_row_pair &rows, gpu_pair_values *o) const
    {
        const int64_t og0 = first + at.chunk * GPU_CH;
        const int32_t left = v_coded - at.chunk * GPU_CH, n = left < 0 ? 0 : gpu_min(left, GPU_CH);
        gpu_chain_pair(rows, 0, n, o, [&](int32_t e) { return values_of_codes(og0 + e, at.kv_head, d); });
        gpu_chain_pair(rows, n, GPU_CH, o, [&](int32_t e) {
            return gpu_load4(gpu_raw_row(v, og0 + e) + at.kv_head * q.head_dim + d);
        });
    }
};

kv_status gpu_kivi_attention(const gpu_queries &q, const gpu_kivi_codes &codes, const gpu_raw_rows &k,
                             const gpu_raw_rows &v, int64_t first, int32_t k_coded, int32_t v_coded, float *workspace,
                             cudaStream_t stream)
{
    const gpu_kivi_source source = {codes, k, v, first, k_coded, v_coded};
    return gpu_attend(q, source, workspace, stream);
}
