/* door_codes.cu - kv_quant_tile: storages kvarn (its default dialect and rule for ties) and kivi; attn_quant: kvarn. */
#include "gpu/door/door.cuh"
#include "gpu/kivi.cuh"
#include "gpu/kvarn.cuh"

/* The tiles of one layer. Refuses what docs/policy/kvarn.md does not allow. */
static kv_status open_tiles(int64_t tile, int64_t hd, int64_t kbits, int64_t vbits, int64_t iters, gpu_kvarn_tiles *tiles)
{
    kv_policy p = {};
    kv_config cfg = {};
    KV_TRY(door_extents({tile, hd, kbits, vbits, iters}));
    if (kv_policy_parse("full+kvarn", &p) != KV_OK) return KV_ERR_INTERNAL;
    p.kvarn.tile = (int32_t)tile;
    p.kvarn.kbits = (int32_t)kbits;
    p.kvarn.vbits = (int32_t)vbits;
    p.kvarn.iters = (int32_t)iters;
    cfg.n_layers = cfg.n_heads = cfg.n_kv_heads = 1;
    cfg.head_dim = (int32_t)hd;
    if (kv_policy_check(&p) != KV_OK || kv_policy_fit(&p, &cfg) != KV_OK || hd > 256) return door_refuse("kvarn has no such tile");
    tiles->layout = kv_kvarn_layout_of(&p.kvarn, cfg.head_dim);
    tiles->params = p.kvarn;
    return KV_OK;
}

/* Rows that are all fresh: token 0 is the first that comes. */
static gpu_raw_rows fresh_rows(const float *rows, int64_t tile, int64_t hd)
{
    gpu_raw_rows r = {};
    r.fresh = rows;
    r.fresh_stride = hd;
    r.R = (int32_t)tile;
    r.width = (int32_t)hd;
    return r;
}

/* A block of keys and the rows of its values. */
static kv_status quant_kivi(const kvdk_tile_args &a, door &d)
{
    kv_policy p = {};
    kv_config cfg = {};
    gpu_kivi_codes codes = {};
    const float *k, *v;
    std::vector<int32_t> bad = {0};
    int32_t *reported;
    KV_TRY(door_extents({a.tile, a.hd, a.kbits, a.group}));
    if (kv_policy_parse("full+kivi", &p) != KV_OK) return KV_ERR_INTERNAL;
    p.kivi.bits = (int32_t)a.kbits;
    p.kivi.group = (int32_t)a.group;
    p.kivi.residual = (int32_t)a.tile;
    cfg.n_layers = cfg.n_heads = cfg.n_kv_heads = 1;
    cfg.head_dim = (int32_t)a.hd;
    if (a.vbits != a.kbits || kv_policy_check(&p) != KV_OK || kv_policy_fit(&p, &cfg) != KV_OK)
        return door_refuse("kivi has no such tile");
    codes.layout = kv_kivi_layout_of(&p.kivi, cfg.head_dim);
    codes.bits = p.kivi.bits;
    codes.kv_heads = codes.k_slots = 1;
    codes.v_slots = p.kivi.residual;
    KV_TRY(d.in(a.k, {a.tile, a.hd}, &k));
    KV_TRY(d.in(a.v, {a.tile, a.hd}, &v));
    KV_TRY(d.out(a.record, {codes.layout.k_bytes + a.tile * codes.layout.v_bytes}, &codes.k_blocks));
    KV_TRY(d.up(bad, &reported));
    codes.v_rows = codes.k_blocks + codes.layout.k_bytes;
    const gpu_kivi_span all = {0, (int32_t)a.tile, 0};
    KV_TRY(gpu_kivi_code_k(codes, fresh_rows(k, a.tile, a.hd), all, reported, d.stream));
    KV_TRY(gpu_kivi_code_v(codes, fresh_rows(v, a.tile, a.hd), all, reported, d.stream));
    KV_TRY(d.down(reported, 1, &bad));
    return bad[0] ? kv_fail(KV_ERR_NONFINITE, "kivi: a tile is not finite") : KV_OK;
}

static kv_status quant_tile(const kvdk_tile_args &a, door &d)
{
    if (a.format == KVDK_KIVI) return quant_kivi(a, d);
    if (a.format != KVDK_KVARN) return door_refuse("kvarn and kivi are its formats");
    gpu_kvarn_tiles tiles = {};
    const float *k, *v;
    std::vector<int32_t> bad = {0};
    int32_t *reported;
    KV_TRY(open_tiles(a.tile, a.hd, a.kbits, a.vbits, a.iters, &tiles));
    tiles.kv_heads = tiles.slots = 1;
    KV_TRY(d.in(a.k, {a.tile, a.hd}, &k));
    KV_TRY(d.in(a.v, {a.tile, a.hd}, &v));
    KV_TRY(d.out(a.record, {tiles.layout.bytes}, &tiles.records));
    KV_TRY(d.up(bad, &reported));
    KV_TRY(gpu_kvarn_code(tiles, fresh_rows(k, a.tile, a.hd), fresh_rows(v, a.tile, a.hd), 0, 1, reported, d.stream));
    KV_TRY(d.down(reported, 1, &bad));
    return bad[0] ? kv_fail(KV_ERR_NONFINITE, "kvarn: a tile is not finite") : KV_OK;
}

static kv_status attend_codes(const kvdk_attn_quant_args &a, door &d)
{
    const int64_t width = a.Hq * a.hd, n = a.tiles * a.tile + a.tail;
    gpu_kvarn_tiles tiles = {};
    gpu_queries q = {};
    const uint8_t *records;
    const float *rows, *tail_k = nullptr, *tail_v = nullptr;
    float *turned, *workspace;
    KV_TRY(open_tiles(a.tile, a.hd, a.kbits, a.vbits, 1, &tiles));
    KV_TRY(door_heads(a.Hq, a.Hk, a.hd));
    KV_TRY(door_extents({a.tiles + 1, a.tail + 1, n + 1}));
    if (n == 0) return door_refuse("a view has an entry: a step sees its own token");
    if (a.tail > a.tile) return door_refuse("a tail is no longer than a tile");
    if (a.tiles) {
        KV_TRY(d.in(a.records, {a.tiles, a.Hk, tiles.layout.bytes}, &records));
        tiles.records = const_cast<uint8_t *>(records);
    }
    tiles.kv_heads = (int32_t)a.Hk;
    tiles.slots = (int32_t)(a.tiles ? a.tiles : 1);
    if (a.tail) {
        KV_TRY(d.in(a.tail_k, {a.tail, a.Hk, a.hd}, &tail_k));
        KV_TRY(d.in(a.tail_v, {a.tail, a.Hk, a.hd}, &tail_v));
    }
    KV_TRY(d.in(a.q, {a.Hq, a.hd}, &rows));
    KV_TRY(d.memory((size_t)width, &turned));
    KV_TRY(d.copy(door_packed(turned, KVDK_F32, {width}), door_packed(rows, KVDK_F32, {width})));
    KV_TRY(gpu_hadamard(turned, 1, width, (int32_t)width, (int32_t)a.hd, d.stream));
    q.q = turned;
    q.q_stride = width;
    q.first = n - 1;
    q.m = 1;
    q.heads = (int32_t)a.Hq;
    q.kv_heads = (int32_t)a.Hk;
    q.head_dim = (int32_t)a.hd;
    q.scale = (float)a.scale;
    KV_TRY(d.out(a.o, {a.Hq, a.hd}, &q.out));
    KV_TRY(d.memory(gpu_attention_workspace(q), &workspace));
    KV_TRY(gpu_kvarn_attention(q, tiles, 0, (int32_t)a.tiles, tail_k, tail_v, workspace, d.stream));
    return gpu_hadamard(q.out, 1, width, (int32_t)width, (int32_t)a.hd, d.stream);
}

int kvdk_kv_quant_tile(const kvdk_tile_args *a, kvdk_stream stream) { return door_run(a, stream, quant_tile); }
int kvdk_attn_quant(const kvdk_attn_quant_args *a, kvdk_stream stream) { return door_run(a, stream, attend_codes); }
