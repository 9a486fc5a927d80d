/* kvarn_attention.cu - attention on codes (docs/policy/kvarn.md, "Attention"): keys are widened while they pass into
 * shared memory, values in registers. */
#include "gpu/attention.cuh"
#include "gpu/kvarn.cuh"

/* Tiles and then rows of the rings, both counted from the first token of the view. */
struct gpu_kvarn_source {
    gpu_kvarn_tiles tiles;
    int64_t first_tile;
    int32_t n_coded; /* view entries that are coded */
    const float *k_ring, *v_ring;

    struct Scratch {
        float k_col[GPU_CH];                           /* scale of an entry; 1 behind the coded ones */
        float v_scale[2 * GPU_CH], v_zero[2 * GPU_CH]; /* [entry][groups] */
        int32_t n_coded;                               /* entries of the chunk that are coded */
    };

    __device__ __forceinline__ const unsigned char *record(const gpu_chunk &at, int32_t entry) const
    {
        return gpu_kvarn_record(tiles, first_tile + (at.chunk * GPU_CH + entry) / tiles.layout.T, at.kv_head);
    }

    /* Offset of an entry behind the coded ones in a ring. */
    __device__ __forceinline__ int64_t ring_row(const gpu_queries &q, const gpu_chunk &at, int32_t entry) const
    {
        const int32_t row = (at.chunk * GPU_CH + entry) % tiles.layout.T;
        return ((int64_t)row * q.kv_heads + at.kv_head) * q.head_dim;
    }

    /* Coded entries of the chunk that its rows see, whole tiles. */
    __device__ __forceinline__ int32_t coded_in(const gpu_chunk &at) const
    {
        const int32_t n = n_coded - at.chunk * GPU_CH, T = tiles.layout.T;
        return n <= 0 ? 0 : gpu_min(n, (at.n_entries + T - 1) / T * T);
    }

    template <int THREADS>
    __device__ __forceinline__ void prepare(const gpu_queries &, const gpu_chunk &at, Scratch *s) const
    {
        const kv_kvarn_layout &l = tiles.layout;
        const int32_t n = coded_in(at);
        if (threadIdx.x == 0) s->n_coded = n;
        for (int32_t i = (int32_t)threadIdx.x; i < GPU_CH; i += THREADS) {
            s->k_col[i] = i < n ? gpu_kvarn_half(record(at, i) + l.k_col, i % l.T) : 1.0f;
            if (i >= n) continue;
            for (int32_t g = 0; g < l.v_groups; g++) {
                const int32_t e = i % l.T * l.v_groups + g, to = i * l.v_groups + g;
                s->v_scale[to] = gpu_kvarn_half(record(at, i) + l.v_scale, e);
                s->v_zero[to] = gpu_kvarn_half(record(at, i) + l.v_zero, e);
            }
        }
    }

    template <int THREADS>
    __device__ __forceinline__ void load_keys(const gpu_queries &q, const gpu_chunk &at, int32_t d0, int32_t dn,
                                              float *ks) const
    {
        const kv_kvarn_layout &l = tiles.layout;
        const int32_t n = coded_in(at), bits = tiles.params.kbits;
        for (int32_t e = (int32_t)threadIdx.x; e < dn * (n / 4); e += THREADS) {
            const int32_t i = e % (n / 4) * 4, d = e / (n / 4), t = i % l.T;
            const unsigned char *const r = record(at, i), *const codes = r + l.k_codes + (d0 + d) * l.k_row;
            const float scale = gpu_kvarn_half(r + l.k_scale, d0 + d), zero = gpu_kvarn_half(r + l.k_zero, d0 + d);
            const float4 four = {gpu_kvarn_value(kv_code_get(codes, t, bits), scale, zero),
                                 gpu_kvarn_value(kv_code_get(codes, t + 1, bits), scale, zero),
                                 gpu_kvarn_value(kv_code_get(codes, t + 2, bits), scale, zero),
                                 gpu_kvarn_value(kv_code_get(codes, t + 3, bits), scale, zero)};
            gpu_store4(ks + d * GPU_KS + i, four);
        }
        for (int32_t e = (int32_t)threadIdx.x; e < dn * (at.n_entries - n); e += THREADS) {
            const int32_t d = e % dn, i = n + e / dn;
            ks[d * GPU_KS + i] = k_ring[ring_row(q, at, i) + d0 + d];
        }
    }

    __device__ __forceinline__ float4 finish(float4 acc, int32_t i, const Scratch &s) const
    {
        const float4 c = gpu_load4(s.k_col + i);
        const float4 scaled = {kv_mul(acc.x, c.x), kv_mul(acc.y, c.y), kv_mul(acc.z, c.z), kv_mul(acc.w, c.w)};
        return scaled;
    }

    /* A tile: the chain of its tokens, then one fma with the channel's scale. */
    __device__ __forceinline__ void weigh_tile(const gpu_chunk &at, int32_t i, int32_t d, const Scratch &s,
                                               const gpu_row_pair &rows, gpu_pair_values *o) const
    {
        const kv_kvarn_layout &l = tiles.layout;
        const unsigned char *const r = record(at, i);
        const int32_t g = d / l.v_group, bits = tiles.params.vbits;
        gpu_pair_values a = {};
        gpu_chain_pair(rows, i, i + l.T, &a, [&](int32_t e) {
            const unsigned char *const codes = r + l.v_codes + (e - i) * l.v_row;
            const float scale = s.v_scale[e * l.v_groups + g], zero = s.v_zero[e * l.v_groups + g];
            const float4 four = {gpu_kvarn_value(kv_code_get(codes, d, bits), scale, zero),
                                 gpu_kvarn_value(kv_code_get(codes, d + 1, bits), scale, zero),
                                 gpu_kvarn_value(kv_code_get(codes, d + 2, bits), scale, zero),
                                 gpu_kvarn_value(kv_code_get(codes, d + 3, bits), scale, zero)};
            return four;
        });
        GPU_UNROLL
        for (int k = 0; k < 4; k++) {
            const float c = gpu_kvarn_half(r + l.v_col, d + k);
            GPU_UNROLL
            for (int j = 0; j < 2; j++)
                if (rows.n[j] > i) o->v[j][k] = kv_fma(a.v[j][k], c, o->v[j][k]);
        }
    }

    __device__ __forceinline__ void weigh(const gpu_queries &q, const gpu_chunk &at, int32_t d, const Scratch &s,
                                          const gpu_row_pair &rows, gpu_pair_values *o) const
    {
        const int32_t n = rows.n[0] < rows.n[1] ? rows.n[1] : rows.n[0];
        int32_t i = 0;
        for (; i < s.n_coded && i < n; i += tiles.layout.T) weigh_tile(at, i, d, s, rows, o);
        if (i >= n) return;
        gpu_pair_values a = {};
        gpu_chain_pair(rows, i, GPU_CH, &a,
                       [&](int32_t e) { return gpu_load4(v_ring + ring_row(q, at, e) + d); });
        GPU_UNROLL
        for (int j = 0; j < 2; j++) {
            GPU_UNROLL
            for (int k = 0; k < 4; k++)
                if (rows.n[j] > i) o->v[j][k] = KV_MUT(Q15, a.v[j][k], kv_add(o->v[j][k], a.v[j][k]));
        }
    }
};

kv_status gpu_kvarn_attention(const gpu_queries &q, const gpu_kvarn_tiles &tiles, int64_t first_tile, int32_t n_tiles,
                              const float *k_ring, const float *v_ring, float *workspace, cudaStream_t stream)
{
    const gpu_kvarn_source source = {tiles, first_tile, n_tiles * tiles.layout.T, k_ring, v_ring};
    return gpu_attend(q, source, workspace, stream);
}
