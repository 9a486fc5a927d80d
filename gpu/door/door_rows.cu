/* door_rows.cu - operations on rows: rmsnorm, gemm, rope, logits_nll, topk. */
#include "gpu/door/door.cuh"
#include "gpu/lists.cuh"

#include <numeric>

static kv_status rmsnorm(const kvdk_rmsnorm_args &a, door &d)
{
    const float *x, *w;
    float *y;
    KV_TRY(door_extents({a.T, a.D}));
    if (a.residual.data) return door_refuse("a residual is added by another kernel than the norm");
    KV_TRY(d.in(a.x, {a.T, a.D}, &x));
    KV_TRY(d.in(a.weight, {a.D}, &w));
    KV_TRY(d.out(a.y, {a.T, a.D}, &y));
    return gpu_rmsnorm(x, w, (int32_t)a.T, (int32_t)a.D, (float)a.eps, 1.0f, y, d.stream);
}

/* Weights as a session keeps them. */
static kv_status open_weights(door &d, const kvdk_tensor &w, int64_t n, int64_t k, gpu_weights *out)
{
    const int64_t ld = gpu_blocks(n, GPU_LD) * (int64_t)GPU_LD;
    const float *src;
    float *dst;
    KV_TRY(d.in(w, {n, k}, &src));
    KV_TRY(d.memory((size_t)(k * ld), &dst));
    GPU_TRY(cudaMemsetAsync(dst, 0, (size_t)(k * ld) * sizeof(float), d.stream));
    KV_TRY(gpu_transpose(src, (int32_t)n, (int32_t)k, dst, ld, 0, d.stream));
    *out = {dst, (int32_t)n, (int32_t)k, (int32_t)ld};
    return KV_OK;
}

static kv_status multiply(door &d, const float *x, int64_t m, const gpu_weights &w, gpu_epilogue epilogue, float *y)
{
    float *partials;
    KV_TRY(d.memory(gpu_matmul_partials(w, (int32_t)m), &partials));
    return gpu_matmul(x, (int32_t)m, w, epilogue, y, partials, d.stream);
}

static kv_status gemm(const kvdk_gemm_args &a, door &d)
{
    const bool inner = a.epilogue == KVDK_SILU_MUL || a.epilogue == KVDK_RELU2, adds = a.epilogue == KVDK_ADD;
    const int64_t width = a.epilogue == KVDK_SILU_MUL ? a.N / 2 : a.N;
    const float *x;
    float *c, *product;
    gpu_weights w;
    KV_TRY(door_extents({a.M, a.N, a.K, width}));
    if (a.bias.data) return door_refuse("its models have no biases");
    if (a.epilogue < KVDK_STORE || a.epilogue > KVDK_RELU2) return door_refuse("it does not know this epilogue");
    if (a.epilogue == KVDK_SILU_MUL && a.N % 2) return door_refuse("gates and values are equally many");
    KV_TRY(d.in(a.a, {a.M, a.K}, &x));
    KV_TRY(open_weights(d, a.w, a.N, a.K, &w));
    KV_TRY(adds ? d.inout(a.c, {a.M, width}, &c) : d.out(a.c, {a.M, width}, &c));
    if (!inner) return multiply(d, x, a.M, w, adds ? GPU_ADD : GPU_STORE, c);
    KV_TRY(d.memory((size_t)(a.M * a.N), &product));
    KV_TRY(multiply(d, x, a.M, w, GPU_STORE, product));
    if (a.epilogue == KVDK_SILU_MUL) return gpu_swiglu(product, (int32_t)a.M, (int32_t)width, c, d.stream);
    return gpu_squared_relu(product, (int32_t)a.M, (int32_t)width, 0.0f, c, d.stream);
}

/* out[t] = row pos[t] of a table. */
static kv_status gather(door &d, const kvdk_tensor &table, int64_t P, int64_t width, const int32_t *pos, int64_t T,
                        const float **out)
{
    const float *rows;
    float *to;
    KV_TRY(d.in(table, {P, width}, &rows));
    KV_TRY(d.memory((size_t)(T * width), &to));
    *out = to;
    return gpu_embed(pos, (int32_t)T, (int32_t)width, rows, width, 1, to, d.stream);
}

/* The heads are queries: rows q | k | v without k and v. */
static kv_status rope(const kvdk_rope_args &a, door &d)
{
    const int32_t *pos;
    float *x;
    gpu_rope r = {};
    KV_TRY(door_extents({a.T, a.H, a.hd, a.rd, a.P}));
    if (a.rd % 2 || a.hd % 2 || a.rd > a.hd) return door_refuse("heads and their rotated parts are pairs");
    if (a.pairing != KVDK_ADJACENT && a.pairing != KVDK_HALF) return door_refuse("it does not know this pairing");
    KV_TRY(d.in(a.pos, {a.T}, &pos));
    KV_TRY(gather(d, a.cos, a.P, a.rd / 2, pos, a.T, &r.cos));
    KV_TRY(gather(d, a.sin, a.P, a.rd / 2, pos, a.T, &r.sin));
    KV_TRY(d.inout(a.x, {a.T, a.H, a.hd}, &x));
    r.dims = (int32_t)a.rd;
    r.half = a.pairing == KVDK_HALF;
    return gpu_rope_store(x, (int32_t)a.T, {(int32_t)a.H, 0, (int32_t)a.hd}, r, {false, true}, {}, {}, {}, d.stream);
}

static kv_status logits_nll(const kvdk_nll_args &a, door &d)
{
    const float *h;
    const int32_t *target;
    float *z, *stats, *nll;
    gpu_weights w;
    KV_TRY(door_extents({a.T, a.D, a.V}));
    if (a.V > 1 << 22) return door_refuse("a vocabulary has at most 2^22 tokens");
    KV_TRY(d.in(a.h, {a.T, a.D}, &h));
    KV_TRY(d.in(a.target, {a.T}, &target));
    KV_TRY(open_weights(d, a.w, a.V, a.D, &w));
    KV_TRY(d.memory((size_t)(a.T * a.V), &z));
    KV_TRY(d.memory((size_t)(2 * a.T), &stats));
    KV_TRY(d.out(a.nll, {a.T}, &nll));
    KV_TRY(multiply(d, h, a.T, w, GPU_STORE, z));
    if (a.softcap != 0) KV_TRY(gpu_softcap(z, a.T * a.V, (float)a.softcap, d.stream));
    KV_TRY(gpu_nll(z, target, (int32_t)a.T, (int32_t)a.V, nll, stats, d.stream));
    KV_TRY(door_expect(a.row_max, KVDK_F32, {a.T}));
    KV_TRY(door_expect(a.row_sum, KVDK_F32, {a.T}));
    KV_TRY(d.copy(a.row_max, door_tensor(stats, KVDK_F32, {a.T}, {2})));
    return d.copy(a.row_sum, door_tensor(stats + 1, KVDK_F32, {a.T}, {2}));
}

/* Every row is a list of V entries of which the k with the highest scores stay, in order. */
static kv_status topk(const kvdk_topk_args &a, door &d)
{
    const size_t n = (size_t)(a.R * a.V);
    const float *z;
    KV_TRY(door_extents({a.R, a.V, a.k}));
    if (a.k > a.V) return door_refuse("more than all cannot stay");
    std::vector<int32_t> rows(n);
    for (size_t r = 0; r < (size_t)a.R; r++)
        std::iota(rows.begin() + (int64_t)r * a.V, rows.begin() + (int64_t)(r + 1) * a.V, 0);
    const int32_t V = (int32_t)a.V;
    const std::vector<gpu_selection> selections((size_t)a.R, {V, V, (int32_t)a.k});
    gpu_list_view from = {nullptr, nullptr, nullptr, a.V}, to = from;
    gpu_selection *chosen;
    float *lowest;
    KV_TRY(d.in(a.z, {a.R, a.V}, &z));
    KV_TRY(d.up(rows, &from.rows));
    KV_TRY(d.memory(n, &from.ogs));
    KV_TRY(d.memory(n, &from.scores));
    KV_TRY(d.copy(door_packed(from.scores, KVDK_F32, {a.R, a.V}), door_packed(z, KVDK_F32, {a.R, a.V})));
    KV_TRY(d.memory(n, &to.rows));
    KV_TRY(d.memory(n, &to.ogs));
    KV_TRY(d.memory(n, &to.scores));
    KV_TRY(d.up(selections, &chosen));
    KV_TRY(d.memory((size_t)a.R, &lowest));
    KV_TRY(gpu_select(from, to, (int32_t)a.R, chosen, nullptr, lowest, d.stream));
    KV_TRY(door_expect(a.index, KVDK_I32, {a.R, a.k}));
    KV_TRY(door_expect(a.value, KVDK_F32, {a.R, a.k}));
    KV_TRY(d.copy(a.index, door_tensor(to.rows, KVDK_I32, {a.R, a.k}, {a.V, 1})));
    return d.copy(a.value, door_tensor(to.scores, KVDK_F32, {a.R, a.k}, {a.V, 1}));
}

int kvdk_rmsnorm(const kvdk_rmsnorm_args *a, kvdk_stream stream) { return door_run(a, stream, rmsnorm); }
int kvdk_gemm(const kvdk_gemm_args *a, kvdk_stream stream) { return door_run(a, stream, gemm); }
int kvdk_rope(const kvdk_rope_args *a, kvdk_stream stream) { return door_run(a, stream, rope); }
int kvdk_logits_nll(const kvdk_nll_args *a, kvdk_stream stream) { return door_run(a, stream, logits_nll); }
int kvdk_topk(const kvdk_topk_args *a, kvdk_stream stream) { return door_run(a, stream, topk); }
