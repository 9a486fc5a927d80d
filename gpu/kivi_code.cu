/* kivi_code.cu - codes keys per channel and values per token (docs/policy/kivi.md); a thread takes a group. */
#include "gpu/kivi.cuh"

enum { THREADS = 128 };

/* Values of one group: of successive tokens from og on in one column, or of successive columns of token og. */
struct gpu_kivi_group {
    const gpu_raw_rows &rows;
    int64_t og;
    int32_t column;
    bool along_tokens;

    __device__ __forceinline__ float at(int32_t i) const
    {
        return along_tokens ? gpu_raw_row(rows, og + i)[column] : gpu_raw_row(rows, og)[column + i];
    }
};

/* Codes a group of n values; returns whether they are finite. */
GPU_DEVICE bool code_group(const gpu_kivi_group &group, int32_t n, int32_t bits, gpu_code_writer *codes, float *scale,
                           float *least)
{
    const int32_t last = (1 << bits) - 1;
    int32_t low = INT32_MAX, high = INT32_MIN;
    bool finite = true;
    for (int32_t i = 0; i < n; i++) {
        const float x = group.at(i);
        const int32_t key = kv_max_key(x);
        finite = finite && kv_is_finite(x);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *least = kv_max_unkey(low);
    *scale = kv_div(kv_sub(kv_max_unkey(high), *least), (float)(last + KV_MUT(Q06, 1, 0)));
    for (int32_t i = 0; i < n; i++) {
        const float y = *scale == 0.0f ? 0.0f : kv_div(kv_sub(group.at(i), *least), *scale);
        codes->put(gpu_code(y, last), bits);
    }
    return finite;
}

/* grid (kv_heads * D / THREADS, blocks): a thread per channel; its groups follow each other in its row of codes. */
__global__ void gpu_k_kivi_code_k(gpu_kivi_codes codes, gpu_raw_rows k, gpu_kivi_span span, int32_t *bad)
{
    const kv_kivi_layout &l = codes.layout;
    const int32_t e = (int32_t)(blockIdx.x * THREADS + threadIdx.x), d = e % l.D, groups = l.R / l.G;
    if (e >= codes.kv_heads * l.D) return;
    const int64_t og = span.from + (int64_t)blockIdx.y * l.R;
    unsigned char *const record = gpu_kivi_block(codes, og / l.R, e / l.D);
    float *const scale = reinterpret_cast<float *>(record + l.k_scale) + d * groups;
    float *const least = reinterpret_cast<float *>(record + l.k_min) + d * groups;
    gpu_code_writer row(record + d * l.k_row);
    bool finite = true;
    for (int32_t g = 0; g < groups; g++)
        finite = code_group({k, og + g * l.G, e, true}, l.G, codes.bits, &row, scale + g, least + g) && finite;
    for (int32_t i = l.D * l.k_row; d == 0 && i < l.k_scale; i++) record[i] = 0;
    if (!finite) gpu_report(bad, (int32_t)(og - span.bad_base));
}

/* A thread per row of a KV head, because groups may share a byte. */
__global__ void gpu_k_kivi_code_v(gpu_kivi_codes codes, gpu_raw_rows v, gpu_kivi_span span, int32_t *bad)
{
    const kv_kivi_layout &l = codes.layout;
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, og = span.from + e / codes.kv_heads;
    const int32_t head = (int32_t)(e % codes.kv_heads);
    if (og >= span.from + span.n) return;
    unsigned char *const record = gpu_kivi_row(codes, og, head);
    float *const scale = reinterpret_cast<float *>(record + l.v_scale);
    float *const least = reinterpret_cast<float *>(record + l.v_min);
    gpu_code_writer row(record);
    bool finite = true;
    for (int32_t g = 0; g < l.D / l.G; g++)
        finite = code_group({v, og, head * l.D + g * l.G, false}, l.G, codes.bits, &row, scale + g, least + g) && finite;
    for (int32_t i = l.D * codes.bits / 8; i < l.v_scale; i++) record[i] = 0;
    if (!finite) gpu_report(bad, (int32_t)(og - span.bad_base));
}

kv_status gpu_kivi_code_k(const gpu_kivi_codes &codes, const gpu_raw_rows &k, const gpu_kivi_span &span, int32_t *bad,
                          cudaStream_t stream)
{
    const int32_t R = codes.layout.R;
    for (int32_t i = 0; i < span.n / R; i += GPU_GRID_ROWS) {
        const gpu_kivi_span part = {span.from + (int64_t)i * R, span.n - i * R, span.bad_base};
        const dim3 grid(gpu_blocks(codes.kv_heads * codes.layout.D, THREADS),
                        (unsigned)gpu_min(span.n / R - i, GPU_GRID_ROWS));
        KV_TRY(GPU_LAUNCH_NOSYNC(gpu_k_kivi_code_k, grid, dim3(THREADS), stream, codes, k, part, bad));
    }
    return KV_OK;
}

kv_status gpu_kivi_code_v(const gpu_kivi_codes &codes, const gpu_raw_rows &v, const gpu_kivi_span &span, int32_t *bad,
                          cudaStream_t stream)
{
    if (span.n == 0) return KV_OK;
    const dim3 grid(gpu_blocks((int64_t)span.n * codes.kv_heads, THREADS));
    return GPU_LAUNCH_NOSYNC(gpu_k_kivi_code_v, grid, dim3(THREADS), stream, codes, v, span, bad);
}
