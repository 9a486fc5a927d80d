/* kvarn_code.cu - balances and codes tiles (docs/policy/kvarn.md, "Coding a tile").
 *
 * A block takes the K or the V matrix of one tile and KV head. The balanced matrix `cur` stands in shared memory; X is
 * read again from the rows whenever the scales change, because both at once would not fit for D = 256. Sums of a
 * column or a row are sequential by definition, so a thread owns one column and one row. */
#include "gpu/kvarn.cuh"

namespace
{
enum { THREADS = 256 };

/* The matrix X of a block: rows are channels and columns tokens for K, the other way round for V. */
struct coding {
    gpu_raw_rows rows;
    int64_t og;              /* first token of the tile */
    int32_t column0;         /* of the KV head in a row of `rows` */
    int32_t n_tokens, n_dims;
    bool keys;

    float *cur;              /* [R][ld], ld = C + 1: neither rows nor columns meet in one bank */
    float *log_c, *log_r, *exp_c, *exp_r, *best_c, *best_r, *std_c, *std_r; /* [C], [R] */

    __device__ __forceinline__ int32_t R() const { return keys ? n_dims : n_tokens; }
    __device__ __forceinline__ int32_t C() const { return keys ? n_tokens : n_dims; }
    __device__ __forceinline__ int32_t ld() const { return C() + 1; }
};

GPU_DEVICE float clamp(float x, float lo, float hi) { return !(x > lo) ? lo : x > hi ? hi : x; }

GPU_DEVICE float exp_of(float x) { return kv_d2f(kv_exp_core((double)x)); }

/* What a logarithm of a scale becomes when the standard deviation is std. */
GPU_DEVICE float next_log(float log_scale, float std)
{
    const float l = kv_d2f(kv_log_core((double)clamp(std, 1e-3f, 1e3f)));
    return clamp(kv_add(log_scale, l), -0.3f, 10.0f);
}

/* Standard deviation of n values. */
GPU_DEVICE float std_of(const float *v, int32_t n, int32_t stride)
{
    float sum = 0.0f, squares = 0.0f;
    for (int32_t i = 0; i < n; i++) sum = kv_add(sum, v[i * stride]);
    const float mean = kv_div(sum, (float)n);
    for (int32_t i = 0; i < n; i++) {
        const float d = kv_sub(v[i * stride], mean);
        squares = kv_add(squares, kv_mul(d, d));
    }
    return kv_sqrt(kv_div(squares, (float)(n - 1)));
}

GPU_DEVICE float ratio_of(const float *std, int32_t n)
{
    float most = std[0], least = std[0];
    for (int32_t i = 1; i < n; i++) {
        if (std[i] > most) most = std[i];
        if (std[i] < least) least = std[i];
    }
    const bool above = kv_max_key(least) > kv_max_key(1e-8f); /* by keys, or nvcc makes it a maximum of floats */
    return kv_div(most, above ? least : 1e-8f);
}

GPU_DEVICE float imbalance(const coding &m)
{
    return kv_add(ratio_of(m.std_c, m.C()), ratio_of(m.std_r, m.R()));
}

/* cur = (X / c) / r for scales of columns and rows. Returns whether this thread met something that is not finite. */
GPU_DEVICE bool divide(const coding &m, const float *scale_c, const float *scale_r)
{
    bool bad = false;
    for (int32_t e = (int32_t)threadIdx.x; e < m.n_tokens * m.n_dims; e += THREADS) {
        const int32_t t = e / m.n_dims, d = e % m.n_dims, r = m.keys ? d : t, c = m.keys ? t : d;
        const float x = gpu_raw_row(m.rows, m.og + t)[m.column0 + d];
        bad = bad || !kv_is_finite(x);
        m.cur[r * m.ld() + c] = kv_div(kv_div(x, scale_c[c]), scale_r[r]);
    }
    return bad;
}

GPU_DEVICE void columns(const coding &m)
{
    const int32_t c = (int32_t)threadIdx.x;
    if (c < m.C()) m.std_c[c] = std_of(m.cur + c, m.R(), m.ld());
}

GPU_DEVICE void rows(const coding &m)
{
    const int32_t r = (int32_t)threadIdx.x;
    if (r < m.R()) m.std_r[r] = std_of(m.cur + r * m.ld(), m.C(), 1);
}

/* Thread 0 judges the newest scales; all threads hear whether they are the best so far. */
GPU_DEVICE bool judge(const coding &m, bool relative, float *best)
{
    int better = 0;
    if (threadIdx.x == 0) {
        const float i = imbalance(m), limit = relative ? kv_mul(*best, 1.00001f) : *best;
        better = i <= limit;
        if (better) *best = i;
    }
    return __syncthreads_or(better) != 0;
}

/* Finds best_c and best_r. cur and the standard deviations are those of X. */
GPU_DEVICE void balance(const coding &m, int32_t iters, bool relative, float *best)
{
    const int32_t i = (int32_t)threadIdx.x;
    if (i == 0) *best = imbalance(m);
    for (int32_t round = 0; round < iters - KV_MUT(Q10, 1, 0); round++) {
        __syncthreads(); /* std_c is complete, and nobody reads the scales */
        if (i < m.C()) {
            m.log_c[i] = next_log(m.log_c[i], m.std_c[i]);
            m.exp_c[i] = exp_of(m.log_c[i]);
        }
        __syncthreads(); /* scales of columns are complete */
        divide(m, m.exp_c, m.exp_r);
        __syncthreads(); /* cur is complete */
        rows(m);
        __syncthreads(); /* nobody reads cur any more */
        if (i < m.R()) {
            m.log_r[i] = next_log(m.log_r[i], m.std_r[i]);
            m.exp_r[i] = exp_of(m.log_r[i]);
        }
        __syncthreads(); /* scales of rows are complete */
        divide(m, m.exp_c, m.exp_r);
        KV_MUT(R05, (void)0, __syncthreads()); /* cur is complete */
        columns(m);
        rows(m);
        __syncthreads(); /* standard deviations are complete */
        if (!judge(m, relative, best)) continue;
        if (i < m.C()) m.best_c[i] = m.exp_c[i];
        if (i < m.R()) m.best_r[i] = m.exp_r[i];
    }
}

/* Scale and zero of a group that lies between lo and hi, codes 0 .. n. */
GPU_DEVICE void affine(float lo, float hi, int32_t n, int32_t dialect, float *scale, float *zero)
{
    const float step = kv_div(kv_sub(hi, lo), (float)n), least = dialect == KV_KVARN_A ? 1e-10f : 1e-7f;
    float s = step > least ? step : least;
    *scale = s;
    *zero = lo;
    if (dialect == KV_KVARN_A) return;
    const bool low = kv_bits2f(kv_f2bits(lo) & INT32_MAX) > kv_bits2f(kv_f2bits(hi) & INT32_MAX);
    const float edge = low ? lo : hi;
    if (!low) s = -s;
    const float q0 = gpu_rint(kv_div(edge, s));
    *scale = q0 != 0.0f ? kv_div(edge, q0) : s;
    *zero = q0 != 0.0f ? edge : 0.0f;
}

GPU_DEVICE void put_half(unsigned char *array, int32_t i, float x)
{
    reinterpret_cast<uint16_t *>(array)[i] = kv_f2f16(clamp(x, -65504.0f, 65504.0f));
}

/* Codes n values of a row of the balanced matrix; scale and zero are those of the group before folding. */
GPU_DEVICE void code_group(const float *x, int32_t n, int32_t bits, int32_t dialect, unsigned char *to, float *scale,
                           float *zero)
{
    int32_t low = INT32_MAX, high = INT32_MIN, last = (1 << bits) - 1;
    for (int32_t i = 0; i < n; i++) {
        const int32_t key = kv_max_key(x[i]);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    affine(kv_max_unkey(low), kv_max_unkey(high), last, dialect, scale, zero);
    gpu_code_writer codes(to);
    for (int32_t i = 0; i < n; i++) codes.put(gpu_code(kv_div(kv_sub(x[i], *zero), *scale), last), bits);
}

/* The balanced matrix, in cur, goes into the record. */
GPU_DEVICE void write_record(const coding &m, const kv_kvarn_layout &l, const kv_kvarn_params &p, unsigned char *record)
{
    const int32_t groups = m.keys ? 1 : l.v_groups, n = m.C() / groups, bits = m.keys ? p.kbits : p.vbits;
    unsigned char *const codes = record + (m.keys ? l.k_codes : l.v_codes);
    for (int32_t e = (int32_t)threadIdx.x; e < m.R() * groups; e += THREADS) {
        const int32_t r = e / groups, g = e % groups;
        float scale, zero;
        code_group(m.cur + r * m.ld() + g * n, n, bits, p.dialect,
                   codes + r * (m.keys ? l.k_row : l.v_row) + g * n * bits / 8, &scale, &zero);
        put_half(record + (m.keys ? l.k_scale : l.v_scale), e, KV_MUT(Q01, scale, kv_mul(scale, m.best_r[r])));
        put_half(record + (m.keys ? l.k_zero : l.v_zero), e, KV_MUT(Q02, zero, kv_mul(zero, m.best_r[r])));
    }
    for (int32_t c = (int32_t)threadIdx.x; c < m.C(); c += THREADS)
        put_half(record + (m.keys ? l.k_col : l.v_col), c, m.best_c[c]);
}

/* Shares shared memory out and starts with scales of one. */
GPU_DEVICE void lay_out(coding *m, float *shared)
{
    float **const per_column[] = {&m->log_c, &m->exp_c, &m->best_c, &m->std_c};
    float **const per_row[] = {&m->log_r, &m->exp_r, &m->best_r, &m->std_r};
    m->cur = shared;
    shared += m->R() * m->ld();
    for (float **const p : per_column) *p = shared, shared += m->C();
    for (float **const p : per_row) *p = shared, shared += m->R();
    const int32_t i = (int32_t)threadIdx.x;
    if (i < m->C()) m->log_c[i] = 0.0f, m->exp_c[i] = m->best_c[i] = 1.0f;
    if (i < m->R()) m->log_r[i] = 0.0f, m->exp_r[i] = m->best_r[i] = 1.0f;
}
} // namespace

/* grid (tiles, kv_heads, 2): K, then V. */
__global__ void __launch_bounds__(THREADS)
    gpu_k_kvarn_code(gpu_kvarn_tiles tiles, gpu_raw_rows k, gpu_raw_rows v, int64_t tile, int32_t *bad)
{
    GPU_SHARED_DYNAMIC(float, shared);
    GPU_SHARED(float, best, 1);
    const kv_kvarn_layout &l = tiles.layout;
    coding m;
    m.keys = blockIdx.z == 0;
    m.rows = m.keys ? k : v;
    m.og = (tile + blockIdx.x) * l.T;
    m.column0 = (int32_t)blockIdx.y * l.D;
    m.n_tokens = l.T;
    m.n_dims = l.D;
    lay_out(&m, shared);
    __syncthreads(); /* scales are one */
    if (__syncthreads_or(divide(m, m.exp_c, m.exp_r))) {
        if (threadIdx.x == 0) gpu_report(bad, (int32_t)blockIdx.x * l.T);
        return;
    }
    columns(m);
    rows(m);
    __syncthreads(); /* standard deviations of X are complete */
    balance(m, tiles.params.iters, tiles.params.tie == KV_TIE_REL, best);
    __syncthreads(); /* the best scales are complete, and nobody reads cur */
    divide(m, m.best_c, m.best_r);
    __syncthreads(); /* the balanced matrix is complete */
    write_record(m, l, tiles.params, gpu_kvarn_record(tiles, tile + blockIdx.x, (int32_t)blockIdx.y));
}

kv_status gpu_kvarn_code(const gpu_kvarn_tiles &tiles, const gpu_raw_rows &k, const gpu_raw_rows &v, int64_t tile,
                         int32_t n, int32_t *bad, cudaStream_t stream)
{
    const int32_t T = tiles.layout.T, D = tiles.layout.D;
    const size_t floats = (size_t)T * (size_t)D + (size_t)(T > D ? T : D) + 4 * (size_t)(T + D);
    if (n == 0) return KV_OK;
    GPU_TRY(cudaFuncSetAttribute(gpu_k_kvarn_code, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)(floats * sizeof(float))));
    return GPU_LAUNCH(gpu_k_kvarn_code, dim3((unsigned)n, (unsigned)tiles.kv_heads, 2), dim3(THREADS),
                      floats * sizeof(float), stream, tiles, k, v, tile, bad);
}
